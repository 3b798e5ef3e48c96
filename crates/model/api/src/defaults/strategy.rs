//! What create and update do to an object before it is validated and stored.
//!
//! Create makes a fresh status and the first generation. An update of the object keeps the status, an update of
//! the status keeps everything else, and the generation counts the changes of what the user asks for.

use serde_json::{Value, json};

use super::{extend, qos};
use crate::table::tree;

mod job;
mod pod;
mod secret;
mod service;

/// What happens to the status.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    /// There is none, or it is an ordinary field.
    Plain,
    /// Its own subresource; a create starts without one.
    Separate,
    /// Its own subresource; a create may bring one along.
    Given,
}

/// How one kind is created and updated.
struct Strategy {
    group: &'static str,
    kind: &'static str,
    status: Status,
    generation: bool,
}

const fn both(group: &'static str, kind: &'static str) -> Strategy {
    Strategy { group, kind, status: Status::Separate, generation: true }
}

const fn status_only(group: &'static str, kind: &'static str) -> Strategy {
    Strategy { group, kind, status: Status::Separate, generation: false }
}

const fn generation_only(group: &'static str, kind: &'static str) -> Strategy {
    Strategy { group, kind, status: Status::Plain, generation: true }
}

const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";

/// Kinds with a status subresource or a generation; other built-in kinds have neither.
static STRATEGIES: &[Strategy] = &[
    both("", "Pod"),
    both("", "ReplicationController"),
    generation_only("", "PodTemplate"),
    status_only("", "Service"),
    status_only("", "Namespace"),
    status_only("", "PersistentVolume"),
    status_only("", "PersistentVolumeClaim"),
    status_only("", "ResourceQuota"),
    Strategy { group: "", kind: "Node", status: Status::Given, generation: false },
    both("apps", "Deployment"),
    both("apps", "ReplicaSet"),
    both("apps", "StatefulSet"),
    both("apps", "DaemonSet"),
    both("batch", "Job"),
    both("batch", "CronJob"),
    status_only("autoscaling", "HorizontalPodAutoscaler"),
    both("policy", "PodDisruptionBudget"),
    both("networking.k8s.io", "Ingress"),
    generation_only("networking.k8s.io", "IngressClass"),
    generation_only("networking.k8s.io", "NetworkPolicy"),
    status_only("networking.k8s.io", "ServiceCIDR"),
    generation_only("discovery.k8s.io", "EndpointSlice"),
    status_only("certificates.k8s.io", "CertificateSigningRequest"),
    status_only("storage.k8s.io", "VolumeAttachment"),
    generation_only("storage.k8s.io", "CSIDriver"),
    generation_only("scheduling.k8s.io", "PriorityClass"),
    generation_only(ADMISSION, "ValidatingWebhookConfiguration"),
    generation_only(ADMISSION, "MutatingWebhookConfiguration"),
    both(ADMISSION, "ValidatingAdmissionPolicy"),
    generation_only(ADMISSION, "ValidatingAdmissionPolicyBinding"),
    generation_only(ADMISSION, "MutatingAdmissionPolicy"),
    generation_only(ADMISSION, "MutatingAdmissionPolicyBinding"),
    both("apiextensions.k8s.io", "CustomResourceDefinition"),
    status_only("apiregistration.k8s.io", "APIService"),
    both(FLOW_CONTROL, "FlowSchema"),
    both(FLOW_CONTROL, "PriorityLevelConfiguration"),
    generation_only("resource.k8s.io", "DeviceClass"),
    generation_only("resource.k8s.io", "ResourceSlice"),
    status_only("resource.k8s.io", "ResourceClaim"),
];

/// Kinds not in the table.
static PLAIN: Strategy = Strategy { group: "", kind: "", status: Status::Plain, generation: false };
/// Custom resources, with and without a status subresource.
static CUSTOM_WITH_STATUS: Strategy = both("", "");
static CUSTOM: Strategy = generation_only("", "");

fn strategy(group: &str, kind: &str) -> &'static Strategy {
    STRATEGIES.iter().find(|entry| entry.kind == kind && entry.group == group).unwrap_or(&PLAIN)
}

fn custom(has_status: bool) -> &'static Strategy {
    if has_status { &CUSTOM_WITH_STATUS } else { &CUSTOM }
}

/// Prepares an object of a built-in kind that is created. Name, namespace and uid must be set already.
pub fn prepare_for_create(group: &str, _version: &str, kind: &str, object: &mut Value) {
    create(strategy(group, kind), object);
    match (group, kind) {
        ("", "Pod") => pod_status(object),
        ("", "Namespace") => namespace_finalizer(object),
        ("", "Secret") => secret::merge_string_data(object),
        ("", "PersistentVolume") => tree::set(object, "status", json!({"phase": "Pending"})),
        ("", "Service") => tree::set(object, "status", json!({"loadBalancer": {}})),
        ("networking.k8s.io", "Ingress") => tree::set(object, "status", json!({"loadBalancer": {}})),
        ("batch", "Job") => job::generate_selector(object),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extend::add_stored_version(object),
        _ => {}
    }
}

/// Prepares the new form of an object of a built-in kind that is updated, given its stored form.
pub fn prepare_for_update(group: &str, _version: &str, kind: &str, new: &mut Value, old: &Value) {
    match (group, kind) {
        ("", "Namespace") => copy_within(new, old, "spec", "finalizers"),
        ("", "Secret") => secret::update(new, old),
        ("", "Service") => service::keep_allocated(new, old),
        ("certificates.k8s.io", "CertificateSigningRequest") => copy(new, old, "spec"),
        _ => {}
    }
    update(strategy(group, kind), new, old);
    match (group, kind) {
        ("apps", "Deployment") if differs(new, old, "/metadata/annotations") => bump_generation(new, old),
        ("discovery.k8s.io", "EndpointSlice") if differs(new, old, "/metadata/labels") => {
            bump_generation(new, old);
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => extend::add_stored_version(new),
        _ => {}
    }
}

/// Prepares the new form of an object of a built-in kind of which a subresource changes one part: all else is kept.
pub fn prepare_for_part_update(subresource: &str, group: &str, kind: &str, new: &mut Value, old: &Value) {
    if (group, kind) == ("", "Pod") {
        pod::keep_all_but(subresource, new, old);
    }
    update(strategy(group, kind), new, old);
}

/// Prepares the new form of an object of a built-in kind whose status is updated: all else is kept.
pub fn prepare_for_status_update(group: &str, _version: &str, kind: &str, new: &mut Value, old: &Value) {
    update_status(new, old);
    match (group, kind) {
        ("", "Pod") => {
            copy_within(new, old, "metadata", "ownerReferences");
            keep_if_missing(new, old, "status", "qosClass");
        }
        ("apps", "Deployment") => copy_within(new, old, "metadata", "labels"),
        _ => {}
    }
}

/// Decisions about a request for a certificate are made through `approval`, which may set every condition and nothing
/// else; `status` sets everything but decisions.
pub fn prepare_certificate_request(subresource: &str, now: &str, new: &mut Value, old: &Value) {
    let is_decision = |condition: &Value| matches!(tree::text(condition, "/type"), "Approved" | "Denied");
    let approves = subresource == "approval";
    let part = |object: &Value, wanted: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        tree::list(object, "/status/conditions").iter().filter(|c| wanted(c)).cloned().collect()
    };
    let mut conditions = if approves { part(new, &|_| true) } else { part(old, &is_decision) };
    if !approves {
        conditions.extend(part(new, &|condition| !is_decision(condition)));
    }
    for condition in &mut conditions {
        tree::set_empty(condition, "lastUpdateTime", json!(now));
        tree::set_empty(condition, "lastTransitionTime", json!(now));
    }
    tree::set_missing(new, "status", json!({}));
    let Some(status) = new.get_mut("status") else { return };
    if approves {
        copy(status, old.get("status").unwrap_or(&Value::Null), "certificate");
    }
    match conditions.is_empty() {
        true => {
            tree::remove(status, "conditions");
        }
        false => tree::set(status, "conditions", json!(conditions)),
    }
}

/// Prepares a custom resource that is created.
pub fn prepare_custom_for_create(has_status: bool, object: &mut Value) {
    create(custom(has_status), object);
    if has_status {
        tree::remove(object, "status");
    }
}

/// Prepares the new form of a custom resource that is updated.
pub fn prepare_custom_for_update(has_status: bool, new: &mut Value, old: &Value) {
    update(custom(has_status), new, old);
}

/// Prepares the new form of a custom resource whose status is updated: all else, labels included, is kept.
pub fn prepare_custom_for_status_update(new: &mut Value, old: &Value) {
    update_status(new, old);
    keep_metadata(new, old);
}

/// All metadata are the old ones, but for who owns what.
fn keep_metadata(new: &mut Value, old: &Value) {
    let managed_fields = tree::at(new, "/metadata/managedFields").clone();
    copy(new, old, "metadata");
    if let Some(metadata) = new.get_mut("metadata")
        && !managed_fields.is_null()
    {
        tree::set(metadata, "managedFields", managed_fields);
    }
}

fn create(strategy: &Strategy, object: &mut Value) {
    if strategy.status == Status::Separate {
        tree::set(object, "status", json!({}));
    }
    tree::set_missing(object, "metadata", json!({}));
    if let Some(metadata) = object.get_mut("metadata") {
        for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
            tree::remove(metadata, key);
        }
        if strategy.generation {
            tree::set(metadata, "generation", json!(1));
        }
    }
}

fn update(strategy: &Strategy, new: &mut Value, old: &Value) {
    keep_system_metadata(new, old);
    if strategy.status != Status::Plain {
        copy(new, old, "status");
    }
    if strategy.generation && asks_differently(new, old) {
        bump_generation(new, old);
    }
}

fn update_status(new: &mut Value, old: &Value) {
    keep_system_metadata(new, old);
    let mut keys: Vec<String> = Vec::new();
    for object in [&*new, old] {
        keys.extend(tree::entries(object, "").map(|(key, _)| key.to_owned()));
    }
    for key in keys {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status") {
            copy(new, old, &key);
        }
    }
}

/// Whether anything but metadata and status changed.
fn asks_differently(new: &Value, old: &Value) -> bool {
    let asked = |object| {
        tree::entries(object, "")
            .filter(|(key, value)| {
                !matches!(*key, "apiVersion" | "kind" | "metadata" | "status") && !value.is_null()
            })
            .collect::<Vec<_>>()
    };
    asked(new) != asked(old)
}

fn differs(new: &Value, old: &Value, pointer: &str) -> bool {
    tree::at(new, pointer) != tree::at(old, pointer)
}

fn bump_generation(new: &mut Value, old: &Value) {
    let next = tree::int(old, "/metadata/generation").saturating_add(1);
    if let Some(metadata) = new.get_mut("metadata") {
        tree::set(metadata, "generation", json!(next));
    }
}

/// What the server wrote stays: the generation always, the rest where the client left it out. A client that
/// sends another value is refused by validation.
fn keep_system_metadata(new: &mut Value, old: &Value) {
    tree::set_missing(new, "metadata", json!({}));
    copy_within(new, old, "metadata", "generation");
    for key in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        keep_if_missing(new, old, "metadata", key);
    }
}

/// Makes `key` of the new object that of the old.
fn copy(new: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => tree::set(new, key, value.clone()),
        None => {
            tree::remove(new, key);
        }
    }
}

/// Makes `key` within an object of the new object that of the old.
fn copy_within(new: &mut Value, old: &Value, parent: &str, key: &str) {
    tree::set_missing(new, parent, json!({}));
    if let Some(child) = new.get_mut(parent) {
        copy(child, old.get(parent).unwrap_or(&Value::Null), key);
    }
}

/// Takes over what the new object leaves out.
fn keep_if_missing(new: &mut Value, old: &Value, parent: &str, key: &str) {
    let kept = old.get(parent).and_then(|parent| parent.get(key)).filter(|value| !value.is_null());
    if let Some(kept) = kept
        && let Some(child) = new.get_mut(parent)
    {
        tree::set_empty(child, key, kept.clone());
    }
}

/// A new pod is pending; gates hold it back from the scheduler.
fn pod_status(pod: &mut Value) {
    let mut status = json!({"phase": "Pending", "qosClass": qos::class(pod)});
    if !tree::list(pod, "/spec/schedulingGates").is_empty() {
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        });
        tree::set(&mut status, "conditions", json!([condition]));
    }
    tree::set(pod, "status", status);
}

/// A namespace is removed only after everything in it.
fn namespace_finalizer(namespace: &mut Value) {
    tree::set(namespace, "status", json!({"phase": "Active"}));
    tree::set_missing(namespace, "spec", json!({}));
    let Some(spec) = namespace.get_mut("spec") else { return };
    tree::set_missing(spec, "finalizers", json!([]));
    if let Some(finalizers) = spec.get_mut("finalizers").and_then(Value::as_array_mut)
        && !finalizers.contains(&json!("kubernetes"))
    {
        finalizers.push(json!("kubernetes"));
    }
}
