//! What makes a pod the one with its ordinal: name, labels, host name, claims.

use serde_json::{Map, Value, json};

use super::{Plan, StatefulSet, claims};
use crate::{
    action::{Action, Event, PODS},
    claim::pod_from_template,
    deployment::insert,
    history::REVISION_LABEL,
    pod::Pod,
};

/// The label with a pod's own name, for Services of one pod.
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// The label with a pod's ordinal.
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in the name of a pod of `set`: `web-3` is the fourth of `web`.
pub fn ordinal(set: &str, pod: &str) -> Option<i64> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let ordinal = digits.parse::<i32>().ok().filter(|_| plain)?;
    // `web-03` has the name of no ordinal.
    (ordinal.to_string() == digits).then_some(ordinal.into())
}

/// The name of the pod with an ordinal.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i64) -> String {
    format!("{}-{ordinal}", set.metadata.name)
}

/// The labels that are a pod's own.
fn labels(set: &StatefulSet, ordinal: i64) -> [(&'static str, String); 2] {
    [(NAME_LABEL, pod_name(set, ordinal)), (INDEX_LABEL, ordinal.to_string())]
}

/// The write that gives a pod the label with its name, where that is missing.
pub(super) fn repair(set: &StatefulSet, ordinal: i64, pod: &Pod) -> Option<Action> {
    if pod.metadata.labels.get(NAME_LABEL) == Some(&pod.metadata.name) {
        return None;
    }
    let labels: Map<String, Value> =
        labels(set, ordinal).into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
    Some(pod.metadata.locked_patch(PODS, json!({"metadata": {"labels": labels}})))
}

impl Plan<'_> {
    /// The version a missing pod is made of: behind the partition the present one, before it the old one.
    fn version_of(&self, ordinal: i64) -> &str {
        let partition = self.set.spec.update_strategy.rolling_update.partition;
        match self.set.rolls() && ordinal - self.set.first() < partition {
            true => &self.current,
            false => &self.versions.name,
        }
    }

    /// The template of a version.
    fn template(&self, version: &str) -> Value {
        let known = self.versions.known.iter().find(|r| r.metadata.name == version);
        match known.filter(|_| version != self.versions.name) {
            Some(revision) => revision.template(),
            None => self.set.spec.template.clone(),
        }
    }

    /// Creates the pod with an ordinal.
    pub(super) fn create(&self, ordinal: i64) -> Action {
        let set = self.set;
        let name = pod_name(set, ordinal);
        let version = self.version_of(ordinal);
        let owner = set.metadata.controller_ref("apps/v1", "StatefulSet");
        let mut pod = pod_from_template(&set.metadata, &owner, &self.template(version), "");
        if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("generateName");
            metadata.insert("name".to_owned(), json!(name));
        }
        for (key, value) in labels(set, ordinal) {
            insert(&mut pod, &["metadata", "labels"], key, &value);
        }
        insert(&mut pod, &["metadata", "labels"], REVISION_LABEL, version);
        insert(&mut pod, &["spec"], "hostname", &name);
        if !set.spec.service_name.is_empty() {
            insert(&mut pod, &["spec"], "subdomain", &set.spec.service_name);
        }
        if let Some(spec) = pod.get_mut("spec") {
            mount(set, ordinal, spec);
        }
        let message = format!("Create Pod {name} in StatefulSet {} successful", set.metadata.name);
        let event = Event::normal(set.object_ref(), "SuccessfulCreate", message);
        Action::Create {
            resource: PODS,
            namespace: set.metadata.namespace.clone(),
            object: pod,
            announce: Some(Box::new(event)),
        }
    }

    /// Deletes a pod.
    pub(super) fn delete(&self, pod: &Pod) -> Action {
        let (set, name) = (self.set, &pod.metadata.name);
        let message = format!("Delete Pod {name} in StatefulSet {} successful", set.metadata.name);
        pod.metadata.delete(PODS, Some(Event::normal(set.object_ref(), "SuccessfulDelete", message)))
    }
}

/// A volume for each claim, in place of those of its name.
fn mount(set: &StatefulSet, ordinal: i64, spec: &mut Value) {
    let claims: Vec<(&str, String)> = claims::names(set, ordinal).collect();
    let Some(fields) = spec.as_object_mut().filter(|_| !claims.is_empty()) else { return };
    let mut volumes: Vec<Value> = claims
        .iter()
        .map(|(volume, claim)| json!({"name": volume, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let others = fields.get("volumes").and_then(Value::as_array).into_iter().flatten();
    let named = |volume: &Value, name: &str| volume.get("name").and_then(Value::as_str) == Some(name);
    volumes.extend(others.filter(|v| !claims.iter().any(|(name, _)| named(v, name))).cloned());
    fields.insert("volumes".to_owned(), Value::Array(volumes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_ordinals() {
        for (pod, expect) in [
            ("web-0", Some(0)),
            ("web-12", Some(12)),
            ("web-x", None),
            ("web-01", None),
            ("web-", None),
            ("web--1", None),
            ("web-a-0", None),
            ("webb-0", None),
            ("web-99999999999", None),
        ] {
            assert_eq!(ordinal("web", pod), expect, "{pod}");
        }
    }
}
