//! Workloads: selectors that match their templates, strategies, and what may not change.

use serde_json::Value;

use super::field::{Errors, Field};
use super::{names, pod, values};
use crate::table::tree;

const NO_MATCH: &str = "`selector` does not match template `labels`";

/// A Deployment.
pub(super) fn deployment(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let counts = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    values::nonnegative(&spec, &counts, errors);
    selected_template(&spec, "deployment", "ReplicaSet", errors);
    deployment_strategy(&spec.child("strategy"), errors);
    let deadline = spec.child("progressDeadlineSeconds");
    if deadline.value().as_i64().is_some_and(|seconds| seconds <= spec.int_at("/minReadySeconds")) {
        errors.push(deadline.invalid("must be greater than minReadySeconds"));
    }
}

fn deployment_strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.text_at("/type") {
        "Recreate" => {
            if rolling.is_set() {
                errors.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
            }
        }
        "RollingUpdate" => deployment_rolling(&rolling, errors),
        _ => errors.push(strategy.not_supported(&["Recreate", "RollingUpdate"])),
    }
}

fn deployment_rolling(rolling: &Field<'_>, errors: &mut Errors) {
    if !rolling.is_set() {
        errors.push(rolling.required("this should be defaulted and never be nil"));
        return;
    }
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    values::int_or_percent(&unavailable, errors);
    values::int_or_percent(&surge, errors);
    if values::amount(unavailable.value()) == 0 && values::amount(surge.value()) == 0 {
        errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
    }
    values::at_most_all(&unavailable, errors);
}

/// A ReplicaSet.
pub(super) fn replica_set(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::nonnegative(&spec, &["replicas", "minReadySeconds"], errors);
    // Upstream's text says "deployment" here too.
    selected_template(&spec, "deployment", "ReplicaSet", errors);
}

/// A ReplicationController, whose selector is plain labels.
pub(super) fn replication_controller(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::nonnegative(&spec, &["replicas", "minReadySeconds"], errors);
    let (selector, template) = (spec.child("selector"), spec.child("template"));
    if selector.is_empty() {
        errors.push(selector.required(""));
    }
    if !template.is_set() {
        errors.push(template.required(""));
        return;
    }
    let labels = template.at("/metadata/labels");
    let is_matched = tree::entries(selector.value(), "").all(|(key, value)| labels.get(key) == Some(value));
    if !is_matched {
        errors.push(labels_field_error(&template));
    }
    pod::template(&template, errors);
    restarts_always(&template, "ReplicationController", errors);
}

/// A PodTemplate.
pub(super) fn pod_template(root: &Field<'_>, errors: &mut Errors) {
    pod::template(&root.child("template"), errors);
}

/// A StatefulSet.
pub(super) fn stateful_set(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::nonnegative(&spec, &["replicas", "minReadySeconds", "revisionHistoryLimit"], errors);
    values::nonnegative(&spec.child("ordinals"), &["start"], errors);
    stateful_policies(&spec, errors);
    selector_of(&spec, "statefulset", errors);
    let template = spec.child("template");
    if !selects(&spec) {
        errors.push(labels_field_error(&template));
    }
    let with_claims = with_claim_volumes(&spec);
    let owner = Field::root(&with_claims);
    let owner = owner.child("spec");
    pod::template(&owner.child("template"), errors);
    restarts_always(&template, "StatefulSet", errors);
}

/// The spec with a volume for every claim template, as its pods will have it.
fn with_claim_volumes(spec: &Field<'_>) -> Value {
    let mut copy = spec.value().clone();
    let claims: Vec<Value> = spec
        .list_at("/volumeClaimTemplates")
        .iter()
        .map(|claim| {
            let name = tree::text(claim, "/metadata/name");
            serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
        })
        .collect();
    if !claims.is_empty()
        && let Some(pod_spec) = copy.pointer_mut("/template/spec")
    {
        tree::set_missing(pod_spec, "volumes", Value::Array(Vec::new()));
        if let Some(volumes) = pod_spec.get_mut("volumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !claims.iter().any(|claim| claim.get("name") == volume.get("name")));
            volumes.extend(claims);
        }
    }
    serde_json::json!({"spec": copy})
}

fn stateful_policies(spec: &Field<'_>, errors: &mut Errors) {
    let management = spec.child("podManagementPolicy");
    match management.text() {
        "" => errors.push(management.required("")),
        "OrderedReady" | "Parallel" => {}
        _ => errors.push(management.invalid("must be 'OrderedReady' or 'Parallel'")),
    }
    let strategy = spec.child("updateStrategy");
    let rolling = strategy.child("rollingUpdate");
    match strategy.text_at("/type") {
        "" => errors.push(strategy.required("")),
        "OnDelete" if rolling.is_set() => {
            errors.push(rolling.invalid("only allowed for updateStrategy 'RollingUpdate'"));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            values::nonnegative(&rolling, &["partition"], errors);
            values::int_or_percent(&rolling.child("maxUnavailable"), errors);
            values::at_most_all(&rolling.child("maxUnavailable"), errors);
        }
        _ => errors.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
    }
    let retention = spec.child("persistentVolumeClaimRetentionPolicy");
    for key in ["whenDeleted", "whenScaled"] {
        values::optionally_one_of(&retention.child(key), &["Retain", "Delete"], errors);
    }
}

/// A new StatefulSet.
pub(super) fn create_stateful_set(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::optionally_named(&spec.child("serviceName"), names::dns_label, errors);
}

/// Only a few fields of a StatefulSet may change.
pub(super) fn update_stateful_set(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    const MAY_CHANGE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let (new, old) = (new.child("spec"), old.child("spec"));
    let fixed = |spec: &Field<'_>| {
        let mut copy = spec.value().clone();
        for key in MAY_CHANGE {
            tree::remove(&mut copy, key);
        }
        copy
    };
    if fixed(&new) != fixed(&old) {
        errors.push(new.forbidden(
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

/// A DaemonSet.
pub(super) fn daemon_set(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::nonnegative(&spec, &["minReadySeconds", "revisionHistoryLimit"], errors);
    selected_template(&spec, "daemonset", "DaemonSet", errors);
    let strategy = spec.child("updateStrategy");
    match strategy.text_at("/type") {
        "OnDelete" => {}
        "RollingUpdate" => daemon_rolling(&strategy.child("rollingUpdate"), errors),
        _ => errors.push(strategy.not_supported(&["RollingUpdate", "OnDelete"])),
    }
}

fn daemon_rolling(rolling: &Field<'_>, errors: &mut Errors) {
    if !rolling.is_set() {
        errors.push(rolling.required(""));
        return;
    }
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    for bound in [&unavailable, &surge] {
        values::int_or_percent(bound, errors);
        values::at_most_all(bound, errors);
    }
    match (values::amount(unavailable.value()) != 0, values::amount(surge.value()) != 0) {
        (true, true) => errors.push(surge.invalid("may not be set when maxUnavailable is non-zero")),
        (false, false) => errors.push(unavailable.required("cannot be 0 when maxSurge is 0")),
        _ => {}
    }
}

/// The selector of a workload stays what it was.
pub(super) fn selector_is_immutable(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    values::immutable(&new.child("selector"), &old.child("selector"), errors);
}

/// A ControllerRevision.
pub(super) fn revision(root: &Field<'_>, errors: &mut Errors) {
    values::nonnegative(root, &["revision"], errors);
    let data = root.child("data");
    if !data.is_set() {
        errors.push(data.required("data is mandatory"));
    }
}

/// The data of a ControllerRevision stays what it was.
pub(super) fn update_revision(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    values::immutable(&new.child("data"), &old.child("data"), errors);
}

/// Selector and template, which must match, of pods that run for ever.
fn selected_template(spec: &Field<'_>, word: &str, kind: &str, errors: &mut Errors) {
    selector_of(spec, word, errors);
    let template = spec.child("template");
    if !selects(spec) {
        errors.push(labels_field_error(&template));
    }
    pod::template(&template, errors);
    restarts_always(&template, kind, errors);
}

fn selector_of(spec: &Field<'_>, word: &str, errors: &mut Errors) {
    let selector = spec.child("selector");
    if !selector.is_set() {
        errors.push(selector.required(""));
        return;
    }
    values::selector(&selector, errors);
    if tree::count(selector.value(), "/matchLabels") + selector.list_at("/matchExpressions").len() == 0 {
        errors.push(selector.invalid(format!("empty selector is invalid for {word}")));
    }
}

/// Whether the selector of a spec holds for the labels of its template.
pub(super) fn selects(spec: &Field<'_>) -> bool {
    values::selects(spec.at("/selector"), spec.at("/template/metadata/labels"))
}

/// The labels of a template are not selected.
pub(super) fn labels_field_error(template: &Field<'_>) -> super::FieldError {
    let metadata = template.child("metadata");
    let labels = metadata.child("labels");
    if labels.is_set() { labels.invalid(NO_MATCH) } else { labels.invalid_as(Value::Null, NO_MATCH) }
}

fn restarts_always(template: &Field<'_>, kind: &str, errors: &mut Errors) {
    let spec = template.child("spec");
    let policy = spec.child("restartPolicy");
    if policy.text() != "Always" {
        errors.push(policy.not_supported(&["Always"]));
    }
    let deadline = spec.child("activeDeadlineSeconds");
    if deadline.is_set() {
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}
