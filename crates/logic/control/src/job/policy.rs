//! What a Job says of its failed pods and of its end: `podFailurePolicy` and `successPolicy`.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Pod, index};
use crate::{condition::Condition, meta::null_default, pod::ContainerStatus};

/// `batch/v1.PodFailurePolicy`: the first rule that fits a failed pod decides.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PodFailurePolicy {
    /// Rules.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<FailureRule>,
}

/// `batch/v1.PodFailurePolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRule {
    /// `FailJob`, `Ignore`, `Count` or `FailIndex`.
    pub action: String,
    /// By exit code.
    pub on_exit_codes: Option<OnExitCodes>,
    /// By a condition of the pod; one is enough.
    #[serde(deserialize_with = "null_default")]
    pub on_pod_conditions: Vec<OnPodCondition>,
}

/// `batch/v1.PodFailurePolicyOnExitCodesRequirement`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OnExitCodes {
    /// Of this container; of any when absent.
    pub container_name: Option<String>,
    /// `In` or `NotIn`.
    pub operator: String,
    /// Codes.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<i64>,
}

/// `batch/v1.PodFailurePolicyOnPodConditionsPattern`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OnPodCondition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True` when absent.
    #[serde(deserialize_with = "null_default")]
    pub status: String,
}

/// What is to be made of a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One more failure.
    Count,
    /// As if it had never been.
    Ignore,
    /// One more failure, and the last of its index.
    FailIndex,
    /// The Job fails, for this reason.
    FailJob(String),
}

impl PodFailurePolicy {
    pub(super) fn judge(&self, pod: &Pod) -> Verdict {
        for (number, rule) in self.rules.iter().enumerate() {
            let Some(what) = rule.fits(pod) else { continue };
            return match rule.action.as_str() {
                "Ignore" => Verdict::Ignore,
                "FailIndex" => Verdict::FailIndex,
                "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {number}")),
                _ => Verdict::Count,
            };
        }
        Verdict::Count
    }
}

impl FailureRule {
    /// What of the pod it fits.
    fn fits(&self, pod: &Pod) -> Option<String> {
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        if let Some(wanted) = &self.on_exit_codes {
            let status = &pod.status;
            let mut all = status.container_statuses.iter().chain(&status.init_container_statuses);
            let failed = all.find(|container| wanted.fits(container))?;
            let code = failed.exit_code()?;
            let container = &failed.name;
            return Some(format!(
                "Container {container} for pod {namespace}/{name} failed with exit code {code}"
            ));
        }
        let wanted = |condition: &&Condition| self.on_pod_conditions.iter().any(|c| c.fits(condition));
        let kind = &pod.status.conditions.iter().find(wanted)?.kind;
        Some(format!("Pod {namespace}/{name} has condition {kind}"))
    }
}

impl OnPodCondition {
    fn fits(&self, condition: &Condition) -> bool {
        let status = if self.status.is_empty() { "True" } else { &self.status };
        condition.kind == self.kind && condition.status == status
    }
}

impl OnExitCodes {
    fn fits(&self, container: &ContainerStatus) -> bool {
        // A container that ended well is no failure.
        let Some(code) = container.exit_code().filter(|code| *code != 0) else { return false };
        let named = self.container_name.as_ref().is_none_or(|name| *name == container.name);
        named
            && match self.operator.as_str() {
                "In" => self.values.contains(&code),
                "NotIn" => !self.values.contains(&code),
                _ => false,
            }
    }
}

/// `batch/v1.SuccessPolicy` of an indexed Job: the first rule that is met ends it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SuccessPolicy {
    /// Rules.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<SuccessRule>,
}

/// `batch/v1.SuccessPolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// These must succeed, as `0-2,5`; any when absent.
    pub succeeded_indexes: Option<String>,
    /// So many must; all of them when absent.
    pub succeeded_count: Option<i64>,
}

impl SuccessPolicy {
    /// The rule that is met by the indexes that succeeded.
    pub(super) fn met(&self, done: &BTreeSet<i64>, completions: i64) -> Option<usize> {
        self.rules.iter().position(|rule| {
            let wanted = rule.succeeded_indexes.as_deref().map(|text| index::parse(text, completions));
            let have = wanted.as_ref().map_or(done.len(), |wanted| wanted.intersection(done).count());
            let all = wanted.map_or(completions, |wanted| wanted.len() as i64);
            all > 0 && !done.is_empty() && have as i64 >= rule.succeeded_count.unwrap_or(all)
        })
    }
}
