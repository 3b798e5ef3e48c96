//! The kinds with defaults: their rows, where their pod spec is, and their conditional defaults.

use serde_json::{Map, Value};

use super::row::{self, Fixed, Row};
use super::{apps, batch, extend, network, pod, storage};
use crate::table::tree;
use Fixed::{Int, NonZero, Object, Text, Truth};

/// The defaults of one kind.
pub(super) struct Kind {
    group: &'static str,
    /// One version, or empty for all.
    version: &'static str,
    kind: &'static str,
    rows: &'static [Row],
    /// Where quantities are, to be written in canonical form.
    quantities: &'static [&'static str],
    /// JSON pointer to the pod spec, if the kind has one.
    pub(super) pod_spec: Option<&'static str>,
    /// What depends on other fields; runs after the rows.
    code: fn(&mut Value),
}

impl Kind {
    pub(super) fn apply(&self, object: &mut Value) {
        row::apply(self.rows, object);
        for path in self.quantities {
            row::canonical_quantities(object, path);
        }
        if let Some(spec) = self.pod_spec.and_then(|pointer| object.pointer_mut(pointer)) {
            pod::spec(spec);
        }
        (self.code)(object);
    }
}

/// The entries for a kind.
pub(super) fn of(group: &str, version: &str, kind: &str) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |entry| {
        entry.kind == kind && entry.group == group && (entry.version.is_empty() || entry.version == version)
    })
}

/// No defaults: what the fields of an entry are filled up with.
const NONE: Kind =
    Kind { group: "", version: "", kind: "", rows: &[], quantities: &[], pod_spec: None, code: nothing };

fn nothing(_: &mut Value) {}

const TEMPLATE: Option<&str> = Some("/spec/template/spec");
const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";

static KINDS: &[Kind] = &[
    // Core.
    Kind { kind: "Pod", rows: POD, pod_spec: Some("/spec"), code: pod::pod, ..NONE },
    Kind { kind: "PodTemplate", pod_spec: Some("/template/spec"), ..NONE },
    Kind {
        kind: "ReplicationController",
        rows: &[Row("spec.replicas", Int(1))],
        pod_spec: TEMPLATE,
        code: apps::replication_controller,
        ..NONE
    },
    Kind { kind: "Service", rows: SERVICE, code: network::service, ..NONE },
    Kind { kind: "Endpoints", rows: &[Row("subsets[].ports[].protocol", Text("TCP"))], ..NONE },
    Kind { kind: "Secret", rows: &[Row("type", Text("Opaque"))], ..NONE },
    Kind {
        kind: "Namespace",
        rows: &[Row("spec", Object), Row("status+.phase", Text("Active"))],
        code: namespace,
        ..NONE
    },
    Kind {
        kind: "Node",
        quantities: &["status.capacity", "status.allocatable"],
        rows: &[Row("spec", Object)],
        code: node,
        ..NONE
    },
    Kind {
        kind: "PersistentVolume",
        rows: PERSISTENT_VOLUME,
        quantities: &["spec.capacity"],
        code: storage::volume_source_of_persistent_volume,
        ..NONE
    },
    Kind {
        kind: "PersistentVolumeClaim",
        rows: &[
            Row("spec+.volumeMode", Text("Filesystem")),
            Row("spec.resources", Object),
            Row("status+.phase", Text("Pending")),
        ],
        quantities: &["spec.resources.requests", "spec.resources.limits", "status.capacity"],
        ..NONE
    },
    Kind {
        kind: "ResourceQuota",
        rows: &[Row("spec", Object)],
        quantities: &["spec.hard", "status.hard", "status.used"],
        ..NONE
    },
    Kind {
        kind: "LimitRange",
        quantities: &[
            "spec.limits[].max",
            "spec.limits[].min",
            "spec.limits[].default",
            "spec.limits[].defaultRequest",
            "spec.limits[].maxLimitRequestRatio",
        ],
        code: limit_range,
        ..NONE
    },
    // Workloads.
    Kind {
        group: APPS,
        kind: "Deployment",
        rows: &[
            Row("spec.replicas", Int(1)),
            Row("spec.strategy+.type", Text("RollingUpdate")),
            Row("spec.revisionHistoryLimit", Int(10)),
            Row("spec.progressDeadlineSeconds", Int(600)),
        ],
        pod_spec: TEMPLATE,
        code: apps::deployment,
        ..NONE
    },
    Kind {
        group: APPS,
        kind: "ReplicaSet",
        rows: &[Row("spec.replicas", Int(1))],
        pod_spec: TEMPLATE,
        ..NONE
    },
    Kind {
        group: APPS,
        kind: "StatefulSet",
        rows: &[
            Row("spec.replicas", Int(1)),
            Row("spec.podManagementPolicy", Text("OrderedReady")),
            Row("spec.revisionHistoryLimit", Int(10)),
            Row("spec.persistentVolumeClaimRetentionPolicy+.whenDeleted", Text("Retain")),
            Row("spec.persistentVolumeClaimRetentionPolicy+.whenScaled", Text("Retain")),
            Row("spec.volumeClaimTemplates[].spec+.volumeMode", Text("Filesystem")),
            Row("spec.volumeClaimTemplates[].spec.resources", Object),
            Row("spec.volumeClaimTemplates[].status+.phase", Text("Pending")),
        ],
        quantities: &["spec.volumeClaimTemplates[].spec.resources.requests"],
        pod_spec: TEMPLATE,
        code: apps::stateful_set,
        ..NONE
    },
    Kind {
        group: APPS,
        kind: "DaemonSet",
        rows: &[
            Row("spec.updateStrategy+.type", Text("RollingUpdate")),
            Row("spec.revisionHistoryLimit", Int(10)),
        ],
        pod_spec: TEMPLATE,
        code: apps::daemon_set,
        ..NONE
    },
    Kind {
        group: "batch",
        kind: "Job",
        rows: batch::JOB,
        pod_spec: TEMPLATE,
        code: batch::job_object,
        ..NONE
    },
    Kind {
        group: "batch",
        kind: "CronJob",
        rows: &[
            Row("spec.concurrencyPolicy", Text("Allow")),
            Row("spec.suspend", Truth(false)),
            Row("spec.successfulJobsHistoryLimit", Int(3)),
            Row("spec.failedJobsHistoryLimit", Int(1)),
        ],
        pod_spec: Some("/spec/jobTemplate/spec/template/spec"),
        code: batch::cron_job,
        ..NONE
    },
    Kind {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        rows: &[Row("spec.minReplicas", Int(1))],
        ..NONE
    },
    Kind {
        group: "autoscaling",
        version: "v2",
        kind: "HorizontalPodAutoscaler",
        quantities: AUTOSCALER_QUANTITIES,
        code: apps::autoscaler_v2,
        ..NONE
    },
    // Networking.
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        rows: &[Row("ports[].name", Text("")), Row("ports[].protocol", Text("TCP"))],
        ..NONE
    },
    Kind { group: NETWORKING, kind: "Ingress", rows: &[Row("status+.loadBalancer", Object)], ..NONE },
    Kind {
        group: NETWORKING,
        kind: "IngressClass",
        rows: &[Row("spec.parameters.scope", Text("Cluster"))],
        ..NONE
    },
    Kind {
        group: NETWORKING,
        kind: "NetworkPolicy",
        rows: &[
            Row("spec+.podSelector", Object),
            Row("spec.ingress[].ports[].protocol", Text("TCP")),
            Row("spec.egress[].ports[].protocol", Text("TCP")),
        ],
        code: network::network_policy,
        ..NONE
    },
    // Access.
    Kind {
        group: RBAC,
        kind: "RoleBinding",
        rows: &[Row("roleRef.apiGroup", Text(RBAC))],
        code: extend::subjects,
        ..NONE
    },
    Kind {
        group: RBAC,
        kind: "ClusterRoleBinding",
        rows: &[Row("roleRef.apiGroup", Text(RBAC))],
        code: extend::subjects,
        ..NONE
    },
    Kind {
        group: "authentication.k8s.io",
        kind: "TokenRequest",
        rows: &[Row("spec+.expirationSeconds", Int(3600))],
        ..NONE
    },
    // Storage and scheduling.
    Kind {
        group: "storage.k8s.io",
        kind: "StorageClass",
        rows: &[Row("reclaimPolicy", Text("Delete")), Row("volumeBindingMode", Text("Immediate"))],
        ..NONE
    },
    Kind { group: "storage.k8s.io", kind: "CSIDriver", rows: CSI_DRIVER, code: storage::csi_driver, ..NONE },
    Kind { group: "storage.k8s.io", kind: "CSIStorageCapacity", quantities: &["capacity"], ..NONE },
    Kind {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        rows: &[Row("preemptionPolicy", Text("PreemptLowerPriority"))],
        ..NONE
    },
    // Extension.
    Kind { group: ADMISSION, kind: "ValidatingWebhookConfiguration", rows: WEBHOOKS, ..NONE },
    Kind {
        group: ADMISSION,
        kind: "MutatingWebhookConfiguration",
        rows: WEBHOOKS,
        code: extend::mutating,
        ..NONE
    },
    Kind { group: ADMISSION, kind: "ValidatingAdmissionPolicy", rows: POLICY, ..NONE },
    Kind { group: ADMISSION, kind: "MutatingAdmissionPolicy", rows: POLICY, ..NONE },
    Kind { group: ADMISSION, kind: "ValidatingAdmissionPolicyBinding", rows: POLICY_BINDING, ..NONE },
    Kind { group: ADMISSION, kind: "MutatingAdmissionPolicyBinding", rows: POLICY_BINDING, ..NONE },
    Kind {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        rows: &[
            Row("spec.conversion+.strategy", Text("None")),
            Row("spec.conversion.webhook.clientConfig.service.port", Int(443)),
        ],
        code: extend::resource_definition,
        ..NONE
    },
    Kind {
        group: "apiregistration.k8s.io",
        kind: "APIService",
        rows: &[Row("spec.service.port", Int(443))],
        ..NONE
    },
    Kind {
        group: FLOW_CONTROL,
        kind: "FlowSchema",
        rows: &[Row("spec.matchingPrecedence", NonZero(1000))],
        ..NONE
    },
    Kind { group: FLOW_CONTROL, kind: "PriorityLevelConfiguration", rows: PRIORITY_LEVEL, ..NONE },
];

const POD: &[Row] = &[Row("spec.enableServiceLinks", Truth(true))];

const SERVICE: &[Row] = &[
    Row("spec+.sessionAffinity", Text("None")),
    Row("spec.type", Text("ClusterIP")),
    Row("spec.ports[].protocol", Text("TCP")),
    Row("status+.loadBalancer", Object),
];

const PERSISTENT_VOLUME: &[Row] = &[
    Row("spec+.persistentVolumeReclaimPolicy", Text("Retain")),
    Row("spec.volumeMode", Text("Filesystem")),
    Row("status+.phase", Text("Pending")),
];

const CSI_DRIVER: &[Row] = &[
    Row("spec+.attachRequired", Truth(true)),
    Row("spec.podInfoOnMount", Truth(false)),
    Row("spec.storageCapacity", Truth(false)),
    Row("spec.fsGroupPolicy", Text("ReadWriteOnceWithFSType")),
    Row("spec.requiresRepublish", Truth(false)),
    Row("spec.seLinuxMount", Truth(false)),
];

const WEBHOOKS: &[Row] = &[
    Row("webhooks[].failurePolicy", Text("Fail")),
    Row("webhooks[].matchPolicy", Text("Equivalent")),
    Row("webhooks[].namespaceSelector", Object),
    Row("webhooks[].objectSelector", Object),
    Row("webhooks[].timeoutSeconds", Int(10)),
    Row("webhooks[].rules[].scope", Text("*")),
    Row("webhooks[].clientConfig.service.port", Int(443)),
];

const POLICY: &[Row] = &[
    Row("spec.failurePolicy", Text("Fail")),
    Row("spec.matchConstraints.matchPolicy", Text("Equivalent")),
    Row("spec.matchConstraints.namespaceSelector", Object),
    Row("spec.matchConstraints.objectSelector", Object),
    Row("spec.matchConstraints.resourceRules[].scope", Text("*")),
    Row("spec.matchConstraints.excludeResourceRules[].scope", Text("*")),
];

const POLICY_BINDING: &[Row] = &[
    Row("spec.matchResources.matchPolicy", Text("Equivalent")),
    Row("spec.matchResources.namespaceSelector", Object),
    Row("spec.matchResources.objectSelector", Object),
    Row("spec.matchResources.resourceRules[].scope", Text("*")),
    Row("spec.matchResources.excludeResourceRules[].scope", Text("*")),
];

const PRIORITY_LEVEL: &[Row] = &[
    Row("spec.exempt.nominalConcurrencyShares", Int(0)),
    Row("spec.exempt.lendablePercent", Int(0)),
    Row("spec.limited.nominalConcurrencyShares", Int(30)),
    Row("spec.limited.lendablePercent", Int(0)),
    Row("spec.limited.limitResponse.queuing.handSize", NonZero(8)),
    Row("spec.limited.limitResponse.queuing.queues", NonZero(64)),
    Row("spec.limited.limitResponse.queuing.queueLengthLimit", NonZero(50)),
];

const AUTOSCALER_QUANTITIES: &[&str] = &[
    "spec.metrics[].resource.target.averageValue",
    "spec.metrics[].containerResource.target.averageValue",
    "spec.metrics[].pods.target.averageValue",
    "spec.metrics[].object.target.averageValue",
    "spec.metrics[].object.target.value",
    "spec.metrics[].external.target.averageValue",
    "spec.metrics[].external.target.value",
];

/// A namespace carries its own name as a label, so that selectors can name it.
fn namespace(object: &mut Value) {
    let name = tree::text(object, "/metadata/name").to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(metadata) = object.get_mut("metadata")
        && let Some(labels) = tree::child_mut(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), Value::String(name));
    }
}

/// What may be allocated is the whole capacity, unless the node says otherwise.
fn node(object: &mut Value) {
    let capacity = tree::at(object, "/status/capacity").clone();
    if let Some(status) = object.get_mut("status")
        && !capacity.is_null()
    {
        tree::set_missing(status, "allocatable", capacity);
    }
}

/// Defaults of containers come from the maximum, requests from the defaults and then the minimum.
fn limit_range(object: &mut Value) {
    let limits = object.pointer_mut("/spec/limits").and_then(Value::as_array_mut);
    for limit in limits.into_iter().flatten() {
        if tree::text(limit, "/type") == "Container" {
            fill_from(limit, "default", "max");
            fill_from(limit, "defaultRequest", "default");
            fill_from(limit, "defaultRequest", "min");
        }
    }
}

/// Copies the entries of the object `from` that the object `to` lacks.
pub(super) fn fill_from(value: &mut Value, to: &str, from: &str) {
    let source: Map<String, Value> = value.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
    if source.is_empty() {
        return;
    }
    if let Some(target) = tree::child_mut(value, to) {
        for (key, entry) in source {
            target.entry(key).or_insert(entry);
        }
    }
}
