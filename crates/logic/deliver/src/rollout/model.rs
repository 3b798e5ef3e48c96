//! Rollouts as JSON (`argoproj.io/v1alpha1`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::Timestamp;
use wharf_control::{LabelSelector, Meta, condition::Condition, meta::null_default};

use crate::analysis::Phase as AnalysisPhase;

/// `argoproj.io/v1alpha1.Rollout`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: RolloutSpec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: RolloutStatus,
}

/// Its spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutSpec {
    /// Pods wanted; 1 when absent.
    pub replicas: Option<i64>,
    /// Which pods it manages.
    pub selector: Option<LabelSelector>,
    /// What the pods are made from.
    pub template: Value,
    /// Seconds a pod must be ready before it counts as available.
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    /// How a new version comes in.
    #[serde(deserialize_with = "null_default")]
    pub strategy: Strategy,
    /// Old ReplicaSets kept; 10 when absent.
    pub revision_history_limit: Option<i64>,
    /// Nothing moves on.
    #[serde(deserialize_with = "null_default")]
    pub paused: bool,
    /// Seconds without progress before it counts as stuck; 600 when absent.
    pub progress_deadline_seconds: Option<i64>,
    /// Whether a stuck rollout is taken back.
    #[serde(deserialize_with = "null_default")]
    pub progress_deadline_abort: bool,
    /// Fields not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How a new version comes in: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// Step by step.
    pub canary: Option<Canary>,
    /// All at once.
    pub blue_green: Option<BlueGreen>,
}

impl Strategy {
    /// The Services whose selectors it narrows.
    pub fn services(&self) -> impl Iterator<Item = &String> {
        let canary = self.canary.iter().flat_map(|c| [&c.canary_service, &c.stable_service]);
        let blue_green = self.blue_green.iter().flat_map(|b| [&b.active_service, &b.preview_service]);
        canary.chain(blue_green).filter(|name| !name.is_empty())
    }
}

/// A share of the requests at a time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Canary {
    /// Service whose selector is narrowed to the new version.
    #[serde(deserialize_with = "null_default")]
    pub canary_service: String,
    /// Service whose selector is narrowed to the old version.
    #[serde(deserialize_with = "null_default")]
    pub stable_service: String,
    /// Steps.
    #[serde(deserialize_with = "null_default")]
    pub steps: Vec<CanaryStep>,
    /// Analysis beside the steps.
    pub analysis: Option<BackgroundAnalysis>,
    /// Who splits the traffic. The platform's router does, whatever is named here.
    pub traffic_routing: Option<Value>,
    /// Seconds the old version stays after the new one has taken over; 30 when absent.
    pub scale_down_delay_seconds: Option<i64>,
    /// Seconds a version that was taken back stays; 30 when absent, 0 keeps it.
    pub abort_scale_down_delay_seconds: Option<i64>,
    /// Accepted: requests are split exactly, so neither bounds the numbers of pods.
    pub max_surge: Option<Value>,
    /// As `maxSurge`.
    pub max_unavailable: Option<Value>,
    /// Fields not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One step; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStep {
    /// The new version's share of the requests in per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_weight: Option<i64>,
    /// Waits: for a time, or for somebody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Waits for the outcome of an analysis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisStep>,
    /// How many pods the new version gets from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_canary_scale: Option<CanaryScale>,
    /// Kinds of steps not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A wait.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Pause {
    /// Seconds, or a text such as `10s`, `5m`; until somebody promotes when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Value>,
}

impl Pause {
    /// How long; nothing when it has no end, an error when the text is no duration.
    pub(super) fn length(&self) -> Result<Option<Duration>, String> {
        let text = match &self.duration {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        match crate::analysis::duration(&text) {
            Some(length) => Ok(Some(length)),
            None => Err(format!("pause: {text:?} is not a duration such as 10, 10s or 5m")),
        }
    }
}

/// How many pods the new version gets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryScale {
    /// So many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i64>,
    /// This share of `spec.replicas` in per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// As many as its share of the requests asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_traffic_weight: Option<bool>,
}

/// Which templates are run with which arguments.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnalysisStep {
    /// Templates.
    #[serde(deserialize_with = "null_default")]
    pub templates: Vec<TemplateRef>,
    /// Arguments.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<RolloutArgument>,
}

/// Analysis beside the steps.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackgroundAnalysis {
    /// What is run.
    #[serde(flatten)]
    pub analysis: AnalysisStep,
    /// Index of the step it begins at.
    #[serde(deserialize_with = "null_default")]
    pub starting_step: i64,
}

/// A template by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateRef {
    /// Name.
    pub template_name: String,
    /// A ClusterAnalysisTemplate.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub cluster_scope: bool,
}

/// An argument with the places a Rollout may take its value from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutArgument {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value is taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ArgumentSource>,
}

/// Where a value is taken from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArgumentSource {
    /// The hash of the new (`Latest`) or the old (`Stable`) version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_template_hash_value: Option<String>,
    /// A field of the Rollout: `metadata.name`, `metadata.labels['x']`, ….
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field_ref: Option<FieldRef>,
}

/// A field by its path.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FieldRef {
    /// Path.
    pub field_path: String,
}

/// All at once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlueGreen {
    /// Service that users reach.
    #[serde(deserialize_with = "null_default")]
    pub active_service: String,
    /// Service that shows the new version before users do.
    #[serde(deserialize_with = "null_default")]
    pub preview_service: String,
    /// Pods of the new version before it takes over; all when absent.
    pub preview_replica_count: Option<i64>,
    /// Whether the new version takes over by itself; yes when absent.
    pub auto_promotion_enabled: Option<bool>,
    /// Takes over by itself after so many seconds.
    pub auto_promotion_seconds: Option<i64>,
    /// Must succeed before the switch.
    pub pre_promotion_analysis: Option<AnalysisStep>,
    /// Must succeed after it, or the switch is taken back.
    pub post_promotion_analysis: Option<AnalysisStep>,
    /// Seconds the old version stays after the switch; 30 when absent.
    pub scale_down_delay_seconds: Option<i64>,
    /// Seconds a version that was taken back stays; 30 when absent, 0 keeps it.
    pub abort_scale_down_delay_seconds: Option<i64>,
    /// Fields not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RolloutStatus {
    /// `Progressing`, `Paused`, `Healthy` or `Degraded`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Why.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Somebody, or the controller, takes the new version back.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub abort: bool,
    /// When it was taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aborted_at: Option<Timestamp>,
    /// Why it was taken back.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub abort_reason: String,
    /// Skips everything that is left.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub promote_full: bool,
    /// Why it waits.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub pause_conditions: Vec<PauseCondition>,
    /// The controller, not a person, began the wait.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub controller_pause: bool,
    /// Hash of the version in the spec.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub current_pod_hash: String,
    /// Hash of the steps, to see when they change.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub current_step_hash: String,
    /// The step that is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step_index: Option<i64>,
    /// Hash of the version known to be good.
    #[serde(
        rename = "stableRS",
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stable_rs: String,
    /// Pods of all versions.
    pub replicas: i64,
    /// Of the version in the spec.
    pub updated_replicas: i64,
    /// Ready ones.
    pub ready_replicas: i64,
    /// Ready for long enough.
    pub available_replicas: i64,
    /// For the autoscaler.
    #[serde(rename = "HPAReplicas")]
    pub hpa_replicas: i64,
    /// For the autoscaler.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Generation of the spec this speaks of, as text.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub observed_generation: String,
    /// Counts names that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
    /// Canary only.
    #[serde(deserialize_with = "null_default")]
    pub canary: CanaryStatus,
    /// Blue-green only.
    #[serde(deserialize_with = "null_default")]
    pub blue_green: BlueGreenStatus,
    /// `Available`, `Progressing`, `Paused`, `Healthy`, `Completed`, `InvalidSpec`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When something last moved on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_progress: Option<Timestamp>,
}

/// A reason to wait.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PauseCondition {
    /// `CanaryPauseStep`, `BlueGreenPause` or `InconclusiveAnalysisRun`.
    pub reason: String,
    /// Since when.
    pub start_time: Timestamp,
}

/// Canary only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CanaryStatus {
    /// How the requests are split. The router reads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<Weights>,
    /// The analysis of the step that is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step_analysis_run_status: Option<RunStatus>,
    /// The analysis beside the steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_background_analysis_run_status: Option<RunStatus>,
}

/// How the requests are split.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Weights {
    /// The new version.
    pub canary: Weight,
    /// The old version.
    pub stable: Weight,
}

/// One version's share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Weight {
    /// Per cent.
    pub weight: i64,
    /// The version.
    pub pod_template_hash: String,
    /// Its Service.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub service_name: String,
}

/// Blue-green only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlueGreenStatus {
    /// Hash of the version users reach.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub active_selector: String,
    /// Hash of the version in preview.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub preview_selector: String,
    /// The analysis before the switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_promotion_analysis_run_status: Option<RunStatus>,
    /// The analysis after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_promotion_analysis_run_status: Option<RunStatus>,
}

/// An AnalysisRun in short.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct RunStatus {
    /// Name.
    pub name: String,
    /// How it stands.
    pub status: AnalysisPhase,
    /// Why.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Rollout {
    /// Pods wanted.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    /// What makes the spec unusable, with the field.
    pub fn problem(&self) -> Option<String> {
        let spec = &self.spec;
        if spec.other.contains_key("workloadRef") {
            return Some(
                "spec.workloadRef is not supported; write the pods' template in spec.template".into(),
            );
        }
        match spec.selector.as_ref() {
            None => return Some("spec.selector is required".into()),
            Some(selector) if selector.is_empty() => return Some("spec.selector must not be empty".into()),
            Some(selector) => {
                let labels = wharf_control::read(&spec.template["metadata"]["labels"]).unwrap_or_default();
                if !selector.matches(&labels) {
                    return Some("spec.template.metadata.labels do not match spec.selector".into());
                }
            }
        }
        if let (Some(deadline), ready) = (spec.progress_deadline_seconds, spec.min_ready_seconds)
            && deadline <= ready
        {
            return Some(format!(
                "spec.progressDeadlineSeconds {deadline} must be greater than spec.minReadySeconds {ready}"
            ));
        }
        match (&spec.strategy.canary, &spec.strategy.blue_green) {
            (Some(_), Some(_)) => Some("spec.strategy: canary and blueGreen exclude each other".into()),
            (None, None) => Some("spec.strategy: canary or blueGreen is required".into()),
            (Some(canary), None) => canary.problem(),
            (None, Some(blue_green)) => blue_green.problem(),
        }
    }
}

impl Canary {
    fn problem(&self) -> Option<String> {
        if self.canary_service.is_empty() != self.stable_service.is_empty() {
            return Some("spec.strategy.canary: canaryService and stableService go together".into());
        }
        if !self.canary_service.is_empty() && self.canary_service == self.stable_service {
            return Some("spec.strategy.canary: canaryService and stableService must differ".into());
        }
        if self.other.contains_key("pingPong") {
            return Some(
                "spec.strategy.canary.pingPong is not supported; use canaryService and stableService".into(),
            );
        }
        self.steps.iter().enumerate().find_map(|(index, step)| {
            step.problem().map(|problem| format!("spec.strategy.canary.steps[{index}]: {problem}"))
        })
    }
}

impl CanaryStep {
    fn problem(&self) -> Option<String> {
        // A bound on the pods waited for beside `setWeight`; a step waits for all.
        let beside = |name: &&String| *name != "replicaProgressThreshold";
        if let Some(name) = self.other.keys().find(beside) {
            return Some(format!("the step {name:?} is not supported"));
        }
        let set = [
            self.set_weight.is_some(),
            self.pause.is_some(),
            self.analysis.is_some(),
            self.set_canary_scale.is_some(),
        ];
        if set.iter().filter(|set| **set).count() != 1 {
            return Some("exactly one of setWeight, pause, analysis, setCanaryScale is required".into());
        }
        match self {
            Self { set_weight: Some(weight), .. } if !(0..=100).contains(weight) => {
                Some(format!("setWeight: {weight} is not between 0 and 100"))
            }
            Self { pause: Some(pause), .. } => pause.length().err(),
            Self { analysis: Some(analysis), .. } if analysis.templates.is_empty() => {
                Some("analysis.templates is required".into())
            }
            _ => None,
        }
    }
}

impl BlueGreen {
    fn problem(&self) -> Option<String> {
        if self.active_service.is_empty() {
            return Some("spec.strategy.blueGreen.activeService is required".into());
        }
        if self.active_service == self.preview_service {
            return Some("spec.strategy.blueGreen: activeService and previewService must differ".into());
        }
        None
    }
}
