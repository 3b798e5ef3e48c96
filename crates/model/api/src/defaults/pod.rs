//! Defaults of pod specs, alone and in templates.

use serde_json::Value;

use super::row::{self, Fixed, Row};
use super::{image, kinds, storage};
use crate::table::tree;
use Fixed::{Int, NonZero, Object, Text, Truth};

/// Rows of every pod spec.
const SPEC: &[Row] = &[
    Row("dnsPolicy", Text("ClusterFirst")),
    Row("restartPolicy", Text("Always")),
    Row("securityContext", Object),
    Row("terminationGracePeriodSeconds", Int(30)),
    Row("schedulerName", Text("default-scheduler")),
];

/// Rows of every container, whichever list it is in.
const CONTAINER: &[Row] = &[
    Row("resources", Object),
    Row("terminationMessagePath", Text("/dev/termination-log")),
    Row("terminationMessagePolicy", Text("File")),
    Row("ports[].protocol", Text("TCP")),
    Row("env[].valueFrom.fieldRef.apiVersion", Text("v1")),
    Row("env[].valueFrom.fileKeyRef.optional", Truth(false)),
    Row("lifecycle.postStart.httpGet.path", Text("/")),
    Row("lifecycle.postStart.httpGet.scheme", Text("HTTP")),
    Row("lifecycle.preStop.httpGet.path", Text("/")),
    Row("lifecycle.preStop.httpGet.scheme", Text("HTTP")),
];

/// Rows of every probe.
const PROBE: &[Row] = &[
    Row("timeoutSeconds", NonZero(1)),
    Row("periodSeconds", NonZero(10)),
    Row("successThreshold", NonZero(1)),
    Row("failureThreshold", NonZero(3)),
    Row("httpGet.path", Text("/")),
    Row("httpGet.scheme", Text("HTTP")),
    Row("grpc.service", Text("")),
];

/// The lists of containers of a pod spec.
const CONTAINER_LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// Where a pod spec holds quantities.
const QUANTITIES: &[&str] = &[
    "overhead",
    "resources.limits",
    "resources.requests",
    "volumes[].emptyDir.sizeLimit",
    "volumes[].ephemeral.volumeClaimTemplate.spec.resources.requests",
];

/// Fills in a pod spec.
pub(super) fn spec(spec: &mut Value) {
    row::apply(SPEC, spec);
    for path in QUANTITIES {
        row::canonical_quantities(spec, path);
    }
    mirror_service_account(spec);
    for list in CONTAINER_LISTS {
        elements_mut(spec, list).for_each(container);
    }
    elements_mut(spec, "volumes").for_each(storage::volume);
}

/// Fills in what only pods get, and templates do not.
pub(super) fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let host_network = tree::flag(spec, "/hostNetwork");
    for list in ["containers", "initContainers"] {
        for container in elements_mut(spec, list) {
            if let Some(resources) = container.get_mut("resources") {
                kinds::fill_from(resources, "requests", "limits");
            }
            if host_network {
                elements_mut(container, "ports").for_each(host_port);
            }
        }
    }
}

/// The elements of the list at `key`.
fn elements_mut<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    value.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

fn container(container: &mut Value) {
    row::apply(CONTAINER, container);
    row::canonical_quantities(container, "resources.limits");
    row::canonical_quantities(container, "resources.requests");
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            row::apply(PROBE, probe);
        }
    }
    let policy = image::pull_policy(tree::text(container, "/image"));
    tree::set_empty(container, "imagePullPolicy", policy);
}

/// On the host's network a container's port is the host's.
fn host_port(port: &mut Value) {
    let number = tree::at(port, "/containerPort").clone();
    if tree::int(port, "/hostPort") == 0 && !number.is_null() {
        tree::set(port, "hostPort", number);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are kept, the new one wins.
fn mirror_service_account(spec: &mut Value) {
    let name = match tree::text(spec, "/serviceAccountName") {
        "" => tree::text(spec, "/serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        let name = Value::from(name);
        tree::set(spec, "serviceAccount", name.clone());
        tree::set(spec, "serviceAccountName", name);
    }
}
