//! What makes an object of a built-in kind valid, beyond its schema, and the texts that say what is wrong.
//!
//! Objects come here with their defaults filled in and prepared for create or update. Each kind is a row of
//! [`KINDS`]: the form of its names, what always holds, what holds for a new object, and what may not change.
//! A kind without a row has its metadata checked. Paths and texts are those of kube-apiserver 1.36, since people,
//! scripts and the conformance tests read them.

mod admission;
mod apps;
mod autoscaler;
mod cluster;
mod config;
mod cron;
mod definition;
mod error;
mod field;
mod flow;
mod ingress;
mod job;
mod meta;
mod names;
mod pod;
mod policy;
mod rbac;
mod schema;
mod service;
mod storage;
mod values;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use error::{FieldError, Reason};
use field::{Errors, Field};
use names::Rule;
pub use pod::MIRROR;

/// What is wrong with an object that is to be created.
pub fn create(group: &str, _version: &str, kind: &str, object: &Value) -> Vec<FieldError> {
    let (rules, root, mut errors) = (rules(group, kind), Field::root(object), Errors::new());
    meta::create(&root, rules.name, &mut errors);
    (rules.always)(&root, &mut errors);
    (rules.create)(&root, &mut errors);
    errors
}

/// What is wrong with the new form of an object, given the old one.
pub fn update(group: &str, _version: &str, kind: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let (rules, mut errors) = (rules(group, kind), Errors::new());
    let (new, old) = (Field::root(new), Field::root(old));
    meta::update(&new, &old, &mut errors);
    (rules.always)(&new, &mut errors);
    (rules.update)(&new, &old, &mut errors);
    errors
}

/// What is wrong with a pod of which a subresource (`ephemeralcontainers`, `resize`) changes its part.
pub fn pod_part(subresource: &str, new: &Value, old: &Value) -> Vec<FieldError> {
    let (new, old, mut errors) = (Field::root(new), Field::root(old), Errors::new());
    meta::update(&new, &old, &mut errors);
    pod::always(&new, &mut errors);
    match subresource {
        "ephemeralcontainers" => pod::update_ephemeral(&new, &old, &mut errors),
        "resize" => pod::resize(&new, &old, &mut errors),
        _ => {}
    }
    errors
}

/// What is valid in the spec of a pod, at this JSON pointer, and doubtful all the same.
pub fn pod_warnings(object: &Value, pointer: &str) -> Vec<String> {
    fn walk(at: &Field<'_>, rest: &str) -> Vec<String> {
        match rest.split_once('/') {
            None if rest.is_empty() => pod::warnings(at),
            None => pod::warnings(&at.child(rest)),
            Some((name, rest)) => walk(&at.child(name), rest),
        }
    }
    walk(&Field::root(object), pointer.trim_start_matches('/'))
}

/// The rules of one kind.
struct Rules {
    group: &'static str,
    kind: &'static str,
    name: Rule,
    always: fn(&Field<'_>, &mut Errors),
    create: fn(&Field<'_>, &mut Errors),
    update: fn(&Field<'_>, &Field<'_>, &mut Errors),
}

fn rules(group: &str, kind: &str) -> &'static Rules {
    KINDS.iter().find(|rules| rules.kind == kind && rules.group == group).unwrap_or(&PLAIN)
}

fn nothing(_: &Field<'_>, _: &mut Errors) {}

fn nothing_changes(_: &Field<'_>, _: &Field<'_>, _: &mut Errors) {}

/// A kind with only metadata to check; the fields other entries leave out are its.
const NONE: Rules = Rules {
    group: "",
    kind: "",
    name: names::dns_subdomain,
    always: nothing,
    create: nothing,
    update: nothing_changes,
};

static PLAIN: Rules = NONE;

const ADMISSION: &str = "admissionregistration.k8s.io";
const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";

static KINDS: &[Rules] = &[
    Rules { kind: "Pod", always: pod::always, create: pod::create, update: pod::update, ..NONE },
    Rules { kind: "PodTemplate", always: apps::pod_template, ..NONE },
    Rules { kind: "ReplicationController", always: apps::replication_controller, ..NONE },
    Rules {
        kind: "Service",
        name: names::dns_1035_label,
        always: service::service,
        update: service::update,
        ..NONE
    },
    Rules { kind: "Endpoints", always: service::endpoints, ..NONE },
    Rules { kind: "ConfigMap", always: config::config_map, update: config::update_config_map, ..NONE },
    Rules { kind: "Secret", always: config::secret, update: config::update_secret, ..NONE },
    Rules { kind: "Namespace", name: names::dns_label, always: cluster::namespace, ..NONE },
    Rules { kind: "Node", always: cluster::node, update: cluster::update_node, ..NONE },
    Rules { kind: "ResourceQuota", always: policy::quota, update: policy::update_quota, ..NONE },
    Rules { kind: "LimitRange", always: policy::limit_range, ..NONE },
    Rules { kind: "PersistentVolume", always: storage::volume, update: storage::update_volume, ..NONE },
    Rules { kind: "PersistentVolumeClaim", always: storage::claim, update: storage::update_claim, ..NONE },
    Rules {
        group: APPS,
        kind: "Deployment",
        always: apps::deployment,
        update: apps::selector_is_immutable,
        ..NONE
    },
    Rules {
        group: APPS,
        kind: "ReplicaSet",
        always: apps::replica_set,
        update: apps::selector_is_immutable,
        ..NONE
    },
    Rules {
        group: APPS,
        kind: "StatefulSet",
        name: names::dns_label,
        always: apps::stateful_set,
        create: apps::create_stateful_set,
        update: apps::update_stateful_set,
    },
    Rules {
        group: APPS,
        kind: "DaemonSet",
        always: apps::daemon_set,
        update: apps::selector_is_immutable,
        ..NONE
    },
    Rules {
        group: APPS,
        kind: "ControllerRevision",
        always: apps::revision,
        update: apps::update_revision,
        ..NONE
    },
    Rules { group: "batch", kind: "Job", always: job::job, create: job::create, update: job::update, ..NONE },
    Rules {
        group: "batch",
        kind: "CronJob",
        always: job::cron_job,
        create: job::create_cron_job,
        update: job::update_cron_job,
        ..NONE
    },
    Rules {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        always: autoscaler::autoscaler,
        create: autoscaler::create,
        update: autoscaler::update,
        ..NONE
    },
    Rules { group: "policy", kind: "PodDisruptionBudget", always: policy::budget, ..NONE },
    Rules { group: NETWORKING, kind: "Ingress", always: ingress::ingress, create: ingress::create, ..NONE },
    Rules {
        group: NETWORKING,
        kind: "IngressClass",
        always: ingress::class,
        update: ingress::update_class,
        ..NONE
    },
    Rules { group: NETWORKING, kind: "IPAddress", name: names::address, ..NONE },
    Rules { group: NETWORKING, kind: "NetworkPolicy", always: ingress::network_policy, ..NONE },
    Rules {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        always: service::endpoint_slice,
        update: service::update_endpoint_slice,
        ..NONE
    },
    Rules { group: RBAC, kind: "Role", name: names::path_segment, always: rbac::role, ..NONE },
    Rules { group: RBAC, kind: "ClusterRole", name: names::path_segment, always: rbac::cluster_role, ..NONE },
    Rules {
        group: RBAC,
        kind: "RoleBinding",
        name: names::path_segment,
        always: rbac::role_binding,
        update: rbac::update_binding,
        ..NONE
    },
    Rules {
        group: RBAC,
        kind: "ClusterRoleBinding",
        name: names::path_segment,
        always: rbac::cluster_role_binding,
        update: rbac::update_binding,
        ..NONE
    },
    Rules { group: "coordination.k8s.io", kind: "Lease", always: cluster::lease, ..NONE },
    Rules {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        always: policy::priority_class,
        update: policy::update_priority_class,
        ..NONE
    },
    Rules {
        group: "storage.k8s.io",
        kind: "StorageClass",
        always: storage::class,
        update: storage::update_class,
        ..NONE
    },
    Rules {
        group: "apiextensions.k8s.io",
        kind: "CustomResourceDefinition",
        always: definition::definition,
        create: definition::create,
        update: definition::update,
        ..NONE
    },
    Rules { group: ADMISSION, kind: "ValidatingWebhookConfiguration", always: admission::webhooks, ..NONE },
    Rules { group: ADMISSION, kind: "MutatingWebhookConfiguration", always: admission::webhooks, ..NONE },
    Rules { group: ADMISSION, kind: "ValidatingAdmissionPolicy", always: admission::validating, ..NONE },
    Rules {
        group: ADMISSION,
        kind: "ValidatingAdmissionPolicyBinding",
        always: admission::validating_binding,
        ..NONE
    },
    Rules { group: ADMISSION, kind: "MutatingAdmissionPolicy", always: admission::mutating, ..NONE },
    Rules { group: ADMISSION, kind: "MutatingAdmissionPolicyBinding", always: admission::binding, ..NONE },
    Rules { group: FLOW_CONTROL, kind: "PriorityLevelConfiguration", always: flow::level, ..NONE },
    Rules { group: FLOW_CONTROL, kind: "FlowSchema", always: flow::schema, ..NONE },
    Rules { group: "apiregistration.k8s.io", kind: "APIService", create: definition::api_service, ..NONE },
];
