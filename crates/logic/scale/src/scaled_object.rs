//! KEDA's ScaledObjects (`keda.sh/v1alpha1`): triggers to a size, with scale to zero.
//!
//! The biggest size any trigger asks for counts. While no trigger is active the target goes to `minReplicaCount` (or
//! `idleReplicaCount`) after `cooldownPeriod`; the first active one brings it back at once.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::Timestamp;
use wharf_control::{
    Action, Event, Meta,
    condition::{self, Condition},
    cronjob::schedule::Schedule,
    meta::null_default,
};

use crate::{
    SCALED_OBJECTS,
    behavior::{Behavior, History, bound},
    hpa::{Autoscaler, TargetRef},
};

/// Seconds without activity before the target goes down to its idle size.
const COOLDOWN: i64 = 300;
/// Size at the most when nothing else is said.
const MAX_REPLICAS: i64 = 100;

/// `keda.sh/v1alpha1.ScaledObject`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaledObject {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: Spec,
    /// What is.
    #[serde(deserialize_with = "null_default")]
    pub status: Status,
}

/// Its spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// What is scaled; a Deployment when no kind is named.
    pub scale_target_ref: TargetRef,
    /// Seconds between looks at triggers that cannot be watched; 30 when absent.
    pub polling_interval: Option<i64>,
    /// Seconds without activity before it goes down; 300 when absent.
    pub cooldown_period: Option<i64>,
    /// Size without activity, below `minReplicaCount`.
    pub idle_replica_count: Option<i64>,
    /// 0 when absent.
    pub min_replica_count: Option<i64>,
    /// 100 when absent.
    pub max_replica_count: Option<i64>,
    /// What is done when triggers cannot be read.
    pub fallback: Option<Fallback>,
    /// Further settings.
    #[serde(deserialize_with = "null_default")]
    pub advanced: Advanced,
    /// Triggers.
    #[serde(deserialize_with = "null_default")]
    pub triggers: Vec<Trigger>,
    /// Fields not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What is done when triggers cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fallback {
    /// After so many failures in a row.
    pub failure_threshold: i64,
    /// This size.
    pub replicas: i64,
}

/// Further settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Advanced {
    /// Settings of the autoscaler.
    #[serde(deserialize_with = "null_default")]
    pub horizontal_pod_autoscaler_config: AutoscalerConfig,
    /// The size before is restored when the ScaledObject goes. Not supported.
    pub restore_to_original_replica_count: Option<bool>,
}

/// Settings of the autoscaler.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoscalerConfig {
    /// How fast.
    #[serde(deserialize_with = "null_default")]
    pub behavior: Behavior,
}

/// One trigger.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Trigger {
    /// `cron`, `prometheus`, `redis`, `cpu` or `memory`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name for people.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Settings, all of them texts.
    #[serde(deserialize_with = "null_default")]
    pub metadata: BTreeMap<String, String>,
    /// Where secrets come from.
    pub authentication_ref: Option<Value>,
    /// `AverageValue` (when absent), `Value` or `Utilization`.
    pub metric_type: Option<String>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// When a trigger was last active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_time: Option<Timestamp>,
    /// `Ready`, `Active`, `Fallback`, `Paused`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Names of the triggers' numbers.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub external_metric_names: Vec<String>,
    /// Failures by trigger.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub health: BTreeMap<String, Health>,
}

/// Failures of one trigger.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// Failures in a row.
    pub number_of_failures: i64,
    /// `Happy` or `Failing`.
    pub status: String,
}

/// What a trigger measured.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// A number.
    Number(f64),
    /// Nothing is there to be measured; only for triggers decided without a measurement.
    None,
    /// Nothing, and why.
    Unknown(String),
}

/// What a decision about one ScaledObject sees.
#[derive(Debug)]
pub struct View<'a> {
    /// The ScaledObject.
    pub object: &'a ScaledObject,
    /// Size asked for, from the target's scale; or why it cannot be read.
    pub replicas: Result<i64, String>,
    /// Why somebody else scales the target, see [`ScaledObject::conflict`].
    pub conflict: Option<String>,
    /// One for each trigger.
    pub measured: &'a [Measured],
    /// Time zones by name, those the triggers name that are known.
    pub zones: &'a BTreeMap<String, jiff::tz::TimeZone>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The size to ask for, when it changes.
    pub replicas: Option<i64>,
    /// Status write and Events.
    pub actions: Vec<Action>,
    /// When to decide again even if no number changes.
    pub requeue_after: Option<Duration>,
}

/// The annotation that holds the size, or only stops.
const PAUSED: &str = "autoscaling.keda.sh/paused";
const PAUSED_REPLICAS: &str = "autoscaling.keda.sh/paused-replicas";

impl ScaledObject {
    /// What makes it unusable, with the field.
    pub fn problem(&self) -> Option<String> {
        if self.spec.scale_target_ref.name.is_empty() {
            return Some("spec.scaleTargetRef.name is required".into());
        }
        if let Some(name) = self.spec.other.keys().find(|n| !matches!(n.as_str(), "initialCooldownPeriod")) {
            return Some(format!("spec.{name} is not supported"));
        }
        if self.spec.triggers.is_empty() {
            return Some("spec.triggers: at least one trigger is required".into());
        }
        let (min, max) = self.bounds();
        if max < 1 || min > max {
            return Some(format!(
                "spec.minReplicaCount {min} and spec.maxReplicaCount {max} do not fit together"
            ));
        }
        self.spec.triggers.iter().enumerate().find_map(|(index, trigger)| {
            trigger.problem().map(|problem| format!("spec.triggers[{index}]: {problem}"))
        })
    }

    /// Who else scales the target: a ScaledObject made earlier (by name within one second), or an autoscaler. Two at
    /// one workload would undo each other's work.
    pub fn conflict<'a>(
        &self,
        objects: impl IntoIterator<Item = &'a Self>,
        autoscalers: impl IntoIterator<Item = &'a Autoscaler>,
    ) -> Option<String> {
        let own = &self.metadata;
        let target = &self.spec.scale_target_ref;
        let earlier =
            |meta: &Meta| (meta.creation_timestamp, &meta.name) < (own.creation_timestamp, &own.name);
        let objects = objects.into_iter().filter(|object| {
            object.metadata.namespace == own.namespace
                && object.spec.scale_target_ref.same(target)
                && earlier(&object.metadata)
        });
        let first =
            objects.map(|object| &object.metadata).min_by_key(|meta| (meta.creation_timestamp, &meta.name));
        let mut autoscalers = autoscalers.into_iter().filter(|autoscaler| {
            autoscaler.metadata.namespace == own.namespace
                && autoscaler.spec.scale_target_ref.same(target)
                && !autoscaler.metadata.controlled_by(&own.uid)
        });
        let other = match first {
            Some(meta) => format!("ScaledObject {}", meta.name),
            None => format!("HorizontalPodAutoscaler {}", autoscalers.next()?.metadata.name),
        };
        let (_, kind) = target.group_kind();
        Some(format!("{kind} {} is already managed by {other}", target.name))
    }

    fn bounds(&self) -> (i64, i64) {
        (self.spec.min_replica_count.unwrap_or(0).max(0), self.spec.max_replica_count.unwrap_or(MAX_REPLICAS))
    }
}

impl Trigger {
    fn problem(&self) -> Option<String> {
        let missing = |names: &[&str]| {
            names
                .iter()
                .find(|n| !self.metadata.contains_key(**n))
                .map(|n| format!("metadata.{n} is required"))
        };
        let number = |name: &str| {
            let text = self.metadata.get(name)?;
            text.parse::<f64>().is_err().then(|| format!("metadata.{name}: {text:?} is not a number"))
        };
        match self.kind.as_str() {
            "cron" => missing(&["timezone", "start", "end", "desiredReplicas"])
                .or_else(|| number("desiredReplicas"))
                .or_else(|| {
                    ["start", "end"].iter().find_map(|name| {
                        let text = self.metadata.get(*name)?;
                        Schedule::parse(text)
                            .is_none()
                            .then(|| format!("metadata.{name}: {text:?} is no cron schedule"))
                    })
                }),
            "prometheus" => missing(&["query", "threshold"])
                .or_else(|| number("threshold"))
                .or_else(|| number("activationThreshold")),
            "redis" => missing(&["listName"]).or_else(|| number("listLength")).or_else(|| {
                let named = ["address", "host"].iter().any(|n| self.metadata.contains_key(*n));
                (!named).then(|| "metadata.address is required".to_owned())
            }),
            "cpu" | "memory" => Some(format!(
                "the trigger type {:?} is not supported; use a HorizontalPodAutoscaler for it",
                self.kind
            )),
            other => {
                Some(format!("the trigger type {other:?} is not supported; cron, prometheus and redis are"))
            }
        }
    }

    fn setting(&self, name: &str, usual: f64) -> f64 {
        self.metadata.get(name).and_then(|text| text.parse().ok()).unwrap_or(usual)
    }

    /// The number per replica, and the number above which the trigger is active.
    fn thresholds(&self) -> (f64, f64) {
        match self.kind.as_str() {
            "redis" => (self.setting("listLength", 5.0), self.setting("activationListLength", 0.0)),
            _ => (self.setting("threshold", 1.0), self.setting("activationThreshold", 0.0)),
        }
    }

    fn name(&self, index: usize) -> String {
        let what = if self.name.is_empty() { &self.kind } else { &self.name };
        format!("s{index}-{what}")
    }
}

/// What one trigger asks for.
enum Ask {
    Replicas { wanted: i64, active: bool },
    Unknown(String),
}

/// Decides about one ScaledObject.
pub fn step(view: &View<'_>, history: &mut History, now: Timestamp) -> Decision {
    let object = view.object;
    let mut status = object.status.clone();
    let mut decision = Decision::default();
    match (object.problem().or_else(|| view.conflict.clone()), &view.replicas) {
        (Some(problem), _) => {
            refuse(&mut decision, object, &mut status, "ScaledObjectCheckFailed", &problem, now)
        }
        (None, Err(problem)) => {
            refuse(&mut decision, object, &mut status, "ScaleTargetNotFound", problem, now)
        }
        (None, Ok(replicas)) => decide(view, history, *replicas, &mut status, &mut decision, now),
    }
    decision.actions.extend(object.metadata.status_update(SCALED_OBJECTS, &object.status, &status));
    decision
}

fn refuse(
    decision: &mut Decision,
    object: &ScaledObject,
    status: &mut Status,
    reason: &'static str,
    problem: &str,
    now: Timestamp,
) {
    let known = condition::find(&status.conditions, "Ready").is_some_and(|c| c.message == problem);
    if !known {
        let involved = object.metadata.object_ref("keda.sh/v1alpha1", "ScaledObject");
        decision.actions.push(Action::Event(Event::warning(involved, reason, problem)));
        condition::replace(&mut status.conditions, Condition::new("Ready", "False", reason, problem, now));
    }
    set(status, "Active", false, "ScalerNotActive", now);
}

fn set(status: &mut Status, kind: &str, holds: bool, reason: &str, now: Timestamp) {
    let text = if holds { "True" } else { "False" };
    condition::set(&mut status.conditions, Condition::new(kind, text, reason, "", now));
}

fn decide(
    view: &View<'_>,
    history: &mut History,
    current: i64,
    status: &mut Status,
    decision: &mut Decision,
    now: Timestamp,
) {
    let object = view.object;
    set(status, "Ready", true, "ScaledObjectReady", now);
    let (min, max) = object.bounds();
    let annotation = |name: &str| object.metadata.annotations.get(name);
    let held = annotation(PAUSED_REPLICAS).and_then(|text| text.parse::<i64>().ok());
    let paused = held.is_some() || annotation(PAUSED).is_some_and(|v| v == "true");
    set(status, "Paused", paused, if paused { "ScaledObjectPaused" } else { "ScaledObjectUnpaused" }, now);
    if paused {
        return to(decision, object, history, current, held.unwrap_or(current), "paused", now);
    }
    let (mut wanted, mut reason, mut active, mut failing) = (0, String::new(), false, None);
    status.external_metric_names.clear();
    for (index, (trigger, measured)) in object.spec.triggers.iter().zip(view.measured).enumerate() {
        let name = trigger.name(index);
        status.external_metric_names.push(name.clone());
        let health = status.health.entry(name.clone()).or_default();
        match ask(trigger, measured, view, decision, now) {
            Ask::Replicas { wanted: replicas, active: is_active } => {
                *health = Health { number_of_failures: 0, status: "Happy".into() };
                active |= is_active;
                if is_active && replicas > wanted {
                    (wanted, reason) = (replicas, format!("trigger {name}"));
                }
            }
            Ask::Unknown(why) => {
                *health =
                    Health { number_of_failures: health.number_of_failures + 1, status: "Failing".into() };
                failing = Some((name, why, health.number_of_failures));
            }
        }
    }
    if let Some((name, why, failures)) = &failing {
        let text = format!("trigger {name}: {why}");
        condition::set(
            &mut status.conditions,
            Condition::new("Ready", "False", "TriggerError", text.as_str(), now),
        );
        if *failures == 1 {
            let involved = object.metadata.object_ref("keda.sh/v1alpha1", "ScaledObject");
            decision.actions.push(Action::Event(Event::warning(involved, "KEDAScalerFailed", text)));
        }
        let fallback = object.spec.fallback.as_ref().filter(|f| *failures >= f.failure_threshold);
        set(
            status,
            "Fallback",
            fallback.is_some(),
            if fallback.is_some() { "FallbackExists" } else { "NoFallbackFound" },
            now,
        );
        match fallback {
            Some(fallback) => {
                (wanted, active, reason) = (wanted.max(fallback.replicas), true, "fallback".to_owned())
            }
            // What cannot be told keeps the size from going down.
            None if !active || wanted < current => return,
            None => {}
        }
    } else {
        set(status, "Fallback", false, "NoFallbackFound", now);
    }
    set(status, "Active", active, if active { "ScalerActive" } else { "ScalerNotActive" }, now);
    if active {
        status.last_active_time = Some(now.truncated());
        let wanted = wanted.max(min).max(1);
        if current == 0 {
            // From nothing at once; policies bound a change of what is there.
            return to(decision, object, history, current, wanted.min(max), &reason, now);
        }
        let behavior = &object.spec.advanced.horizontal_pod_autoscaler_config.behavior;
        let bounded = bound(behavior, history, current, wanted, (min.max(1), max), now);
        return to(decision, object, history, current, bounded.replicas, &reason, now);
    }
    let idle = object.spec.idle_replica_count.unwrap_or(min).min(max);
    if current <= idle {
        return to(decision, object, history, current, idle, "no trigger is active", now);
    }
    let cooldown = Duration::from_secs(object.spec.cooldown_period.unwrap_or(COOLDOWN).max(0) as u64);
    let since = status.last_active_time.or(object.metadata.creation_timestamp).unwrap_or(now);
    let end = since.plus(cooldown);
    if now >= end {
        to(decision, object, history, current, idle, "no trigger is active", now);
    } else {
        requeue(decision, end.since(now));
        // Until then at the size that is wanted with activity.
        let behavior = &object.spec.advanced.horizontal_pod_autoscaler_config.behavior;
        let bounded = bound(behavior, history, current, min.max(1), (min.max(1), max), now);
        to(decision, object, history, current, bounded.replicas, "no trigger is active", now);
    }
}

fn to(
    decision: &mut Decision,
    object: &ScaledObject,
    history: &mut History,
    from: i64,
    replicas: i64,
    reason: &str,
    now: Timestamp,
) {
    if from == replicas {
        return;
    }
    // The way up from nothing is no change of what is there.
    if from > 0 {
        history.changed(from, replicas, now);
    }
    decision.replicas = Some(replicas);
    let target = &object.spec.scale_target_ref;
    let kind = if target.kind.is_empty() { "Deployment" } else { &target.kind };
    let word = match (from, replicas) {
        (0, _) => "KEDAScaleTargetActivated",
        (_, 0) => "KEDAScaleTargetDeactivated",
        _ => "KEDAScaleTargetScaled",
    };
    let message = format!("Scaled {kind} {} from {from} to {replicas}: {reason}", target.name);
    let involved = object.metadata.object_ref("keda.sh/v1alpha1", "ScaledObject");
    decision.actions.push(Action::Event(Event::normal(involved, word, message)));
}

fn requeue(decision: &mut Decision, delay: Duration) {
    decision.requeue_after = Some(decision.requeue_after.map_or(delay, |present| present.min(delay)));
}

fn ask(
    trigger: &Trigger,
    measured: &Measured,
    view: &View<'_>,
    decision: &mut Decision,
    now: Timestamp,
) -> Ask {
    if trigger.kind == "cron" {
        return cron(trigger, view, decision, now);
    }
    let number = match measured {
        Measured::Number(number) if number.is_finite() => *number,
        Measured::Number(number) => return Ask::Unknown(format!("the result is {number}")),
        Measured::None => return Ask::Unknown("nothing was measured".into()),
        Measured::Unknown(why) => return Ask::Unknown(why.clone()),
    };
    let (per_replica, activation) = trigger.thresholds();
    if per_replica <= 0.0 {
        return Ask::Unknown("the threshold is not above zero".into());
    }
    let wanted = match (trigger.metric_type.as_deref(), &view.replicas) {
        (Some("Value"), Ok(current)) => (number / per_replica * (*current).max(1) as f64).ceil(),
        _ => (number / per_replica).ceil(),
    };
    Ask::Replicas { wanted: wanted as i64, active: number > activation }
}

/// A cron trigger is active from a time of `start` to the next one of `end`.
fn cron(trigger: &Trigger, view: &View<'_>, decision: &mut Decision, now: Timestamp) -> Ask {
    let text = |name: &str| trigger.metadata.get(name).map(String::as_str).unwrap_or_default();
    let Some(zone) = view.zones.get(text("timezone")) else {
        return Ask::Unknown(format!("metadata.timezone: there is no time zone {:?}", text("timezone")));
    };
    // Schedules are walked in wall time, as if it were UTC.
    let utc = jiff::Timestamp::new(now.as_second(), 0).unwrap_or_default();
    let offset = i64::from(zone.to_offset(utc).seconds());
    let wall = Timestamp::from_unix(now.as_second() + offset, 0);
    let next = |name: &str| Schedule::parse(text(name)).and_then(|schedule| schedule.next(wall));
    let (Some(start), Some(end)) = (next("start"), next("end")) else {
        return Ask::Unknown("start and end never come".into());
    };
    requeue(decision, start.min(end).since(wall));
    let wanted = trigger.setting("desiredReplicas", 1.0) as i64;
    Ask::Replicas { wanted, active: end <= start }
}

/// Where a redis trigger's server is.
pub fn redis_address(trigger: &Trigger) -> String {
    let text = |name: &str| trigger.metadata.get(name).cloned();
    text("address").unwrap_or_else(|| {
        format!("{}:{}", text("host").unwrap_or_default(), text("port").unwrap_or_else(|| "6379".into()))
    })
}

#[cfg(test)]
mod tests;
