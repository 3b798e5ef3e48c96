//! HorizontalPodAutoscalers (`autoscaling/v2`), with upstream's arithmetic.

mod matchers;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wharf_base::{Quantity, Timestamp};
use wharf_control::{
    Action, Event, LabelSelector, Meta,
    condition::{self, Condition},
    meta::{null_default, to_value},
};

pub use matchers::matchers;

use crate::{
    HORIZONTAL_POD_AUTOSCALERS,
    behavior::{Behavior, History, bound},
    pods::{ScaledPod, Usage, group},
};

/// Relative difference that is ignored, unless the behavior names another.
const TOLERANCE: f64 = 0.1;

/// `autoscaling/v2.HorizontalPodAutoscaler`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Autoscaler {
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
    /// What is scaled.
    pub scale_target_ref: TargetRef,
    /// 1 when absent.
    pub min_replicas: Option<i64>,
    /// At the most.
    pub max_replicas: i64,
    /// What is looked at; 80 % of the requested processor time when empty.
    #[serde(deserialize_with = "null_default")]
    pub metrics: Vec<MetricSpec>,
    /// How fast.
    #[serde(deserialize_with = "null_default")]
    pub behavior: Behavior,
}

/// `CrossVersionObjectReference`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// `apiVersion`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

impl TargetRef {
    /// Group and kind, a Deployment unless something else is said (as KEDA).
    pub fn group_kind(&self) -> (&str, &str) {
        match (self.api_version.split_once('/'), self.kind.as_str()) {
            (Some((group, _)), kind) => (group, kind),
            (None, "") => ("apps", "Deployment"),
            (None, kind @ ("Deployment" | "ReplicaSet" | "StatefulSet")) => ("apps", kind),
            (None, kind) => ("", kind),
        }
    }

    /// Whether both name one object of a namespace.
    pub fn same(&self, other: &Self) -> bool {
        self.name == other.name && self.group_kind() == other.group_kind()
    }
}

/// `MetricSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricSpec {
    /// `Resource`, `ContainerResource`, `Pods`, `Object` or `External`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `cpu` or `memory` of the pods.
    pub resource: Option<ResourceMetric>,
    /// `cpu` or `memory` of one container of the pods.
    pub container_resource: Option<ResourceMetric>,
    /// A number per pod.
    pub pods: Option<NamedMetric>,
    /// A number of an object.
    pub object: Option<NamedMetric>,
    /// A number from anywhere.
    pub external: Option<NamedMetric>,
}

/// `ResourceMetricSource` and `ContainerResourceMetricSource`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ResourceMetric {
    /// Resource.
    pub name: String,
    /// Container, for one container's.
    pub container: Option<String>,
    /// Target.
    pub target: Target,
}

/// The other sources.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamedMetric {
    /// Which.
    pub metric: MetricIdentifier,
    /// Target.
    pub target: Target,
    /// The object of an object metric.
    pub described_object: Option<TargetRef>,
}

/// `MetricIdentifier`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct MetricIdentifier {
    /// Name.
    pub name: String,
    /// Which series.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// `MetricTarget`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Target {
    /// `Utilization`, `Value` or `AverageValue`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Per cent of the request.
    pub average_utilization: Option<i64>,
    /// Per pod.
    pub average_value: Option<Quantity>,
    /// In all.
    pub value: Option<Quantity>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Generation this speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When it last changed the size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scale_time: Option<Timestamp>,
    /// Size.
    pub current_replicas: i64,
    /// Size wanted.
    pub desired_replicas: i64,
    /// What was measured.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub current_metrics: Vec<Value>,
    /// `AbleToScale`, `ScalingActive`, `ScalingLimited`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What the runner found for one metric of the spec.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// What the pods use, by pod.
    Usage(BTreeMap<String, Usage>),
    /// One number, in thousandths.
    Number(i64),
    /// Nothing, and why.
    Unknown(String),
}

/// What a decision about one autoscaler sees.
#[derive(Debug)]
pub struct View<'a> {
    /// The autoscaler.
    pub autoscaler: &'a Autoscaler,
    /// Size asked for and size there is, from the target's scale; or why it cannot be read.
    pub scale: Result<(i64, i64), String>,
    /// The target's pods.
    pub pods: &'a [ScaledPod],
    /// One for each metric of [`Spec::effective_metrics`].
    pub measured: &'a [Measured],
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The size to ask for, when it changes.
    pub replicas: Option<i64>,
    /// Status write and Events.
    pub actions: Vec<Action>,
}

impl Spec {
    /// The metrics looked at.
    pub fn effective_metrics(&self) -> Vec<MetricSpec> {
        if !self.metrics.is_empty() {
            return self.metrics.clone();
        }
        let target =
            Target { kind: "Utilization".into(), average_utilization: Some(80), ..Target::default() };
        let cpu = ResourceMetric { name: "cpu".into(), container: None, target };
        vec![MetricSpec { kind: "Resource".into(), resource: Some(cpu), ..MetricSpec::default() }]
    }
}

/// Decides about one autoscaler.
pub fn step(view: &View<'_>, history: &mut History, now: Timestamp) -> Decision {
    let hpa = view.autoscaler;
    let mut status = hpa.status.clone();
    status.observed_generation = Some(hpa.metadata.generation);
    let mut decision = Decision::default();
    match &view.scale {
        Err(problem) => {
            set(&mut status, "AbleToScale", false, "FailedGetScale", problem, now);
            warn(&mut decision, hpa, "FailedGetScale", problem);
        }
        Ok((asked, there)) => {
            set(&mut status, "AbleToScale", true, "SucceededGetScale", "the target's scale was read", now);
            status.current_replicas = *there;
            decide(view, history, (*asked, *there), &mut status, &mut decision, now);
        }
    }
    let write = hpa.metadata.status_update(HORIZONTAL_POD_AUTOSCALERS, &hpa.status, &status);
    decision.actions.extend(write);
    decision
}

fn decide(
    view: &View<'_>,
    history: &mut History,
    (asked, there): (i64, i64),
    status: &mut Status,
    decision: &mut Decision,
    now: Timestamp,
) {
    let hpa = view.autoscaler;
    let (min, max) = (hpa.spec.min_replicas.unwrap_or(1), hpa.spec.max_replicas);
    if asked == 0 && min != 0 {
        status.desired_replicas = 0;
        let text = "scaling is disabled since the replica count of the target is zero";
        return set(status, "ScalingActive", false, "ScalingDisabled", text, now);
    }
    let (wanted, reason) = if asked > max {
        (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
    } else if asked < min {
        (min, "Current number of replicas below Spec.MinReplicas".to_owned())
    } else {
        let (proposed, reason, metrics) = match propose(view, there, now) {
            Ok(proposal) => proposal,
            Err((reason, problem)) => {
                set(status, "ScalingActive", false, reason, &problem, now);
                warn(decision, hpa, reason, &problem);
                status.desired_replicas = asked;
                return;
            }
        };
        status.current_metrics = metrics;
        set(status, "ScalingActive", true, "ValidMetricFound", "a size could be computed", now);
        let bounded = bound(&hpa.spec.behavior, history, asked, proposed, (min, max), now);
        match bounded.limited {
            Some(limit) => {
                set(status, "ScalingLimited", true, limit, "the wanted size is out of bounds", now)
            }
            None => set(
                status,
                "ScalingLimited",
                false,
                "DesiredWithinRange",
                "the wanted size is in bounds",
                now,
            ),
        }
        if let Some(stabilized) = bounded.stabilized {
            set(status, "AbleToScale", true, stabilized, "recent recommendations hold the size", now);
        } else {
            set(
                status,
                "AbleToScale",
                true,
                "ReadyForNewScale",
                "recommended size matches current size",
                now,
            );
        }
        (bounded.replicas, reason)
    };
    status.desired_replicas = wanted;
    if wanted == asked {
        return;
    }
    history.changed(asked, wanted, now);
    decision.replicas = Some(wanted);
    status.last_scale_time = Some(now.truncated());
    set(status, "AbleToScale", true, "SucceededRescale", &format!("the size was set to {wanted}"), now);
    let involved = hpa.metadata.object_ref("autoscaling/v2", "HorizontalPodAutoscaler");
    let message = format!("New size: {wanted}; reason: {reason}");
    decision.actions.push(Action::Event(Event::normal(involved, "SuccessfulRescale", message)));
}

fn set(status: &mut Status, kind: &str, holds: bool, reason: &str, message: &str, now: Timestamp) {
    let text = if holds { "True" } else { "False" };
    condition::set(&mut status.conditions, Condition::new(kind, text, reason, message, now));
}

fn warn(decision: &mut Decision, hpa: &Autoscaler, reason: &'static str, message: &str) {
    let known =
        condition::find(&hpa.status.conditions, "ScalingActive").is_some_and(|c| c.message == message);
    if !known {
        let involved = hpa.metadata.object_ref("autoscaling/v2", "HorizontalPodAutoscaler");
        decision.actions.push(Action::Event(Event::warning(involved, reason, message)));
    }
}

type Proposal = (i64, String, Vec<Value>);

/// The biggest size any metric asks for. One that cannot be told keeps the size from going down.
fn propose(view: &View<'_>, there: i64, now: Timestamp) -> Result<Proposal, (&'static str, String)> {
    let specs = view.autoscaler.spec.effective_metrics();
    let (mut best, mut problem, mut metrics) = (None::<(i64, String)>, None, Vec::new());
    for (spec, measured) in specs.iter().zip(view.measured) {
        match (Calculation { spec, view, there, now }).run(measured) {
            Ok((replicas, name, status)) => {
                metrics.push(status);
                if best.as_ref().is_none_or(|(most, _)| replicas > *most) {
                    let direction = if replicas > there { "above" } else { "below" };
                    best = Some((replicas, format!("{name} {direction} target")));
                }
            }
            Err(error) => problem = problem.or(Some(error)),
        }
    }
    match (best, problem) {
        (None, Some(problem)) => Err(problem),
        (None, None) => Err(("InvalidMetricSourceType", "no metric to look at".to_owned())),
        (Some((replicas, _)), Some(problem)) if replicas < there => Err(problem),
        (Some((replicas, reason)), _) => Ok((replicas, reason, metrics)),
    }
}

struct Calculation<'a> {
    spec: &'a MetricSpec,
    view: &'a View<'a>,
    there: i64,
    now: Timestamp,
}

type Calculated = Result<(i64, String, Value), (&'static str, String)>;

impl Calculation<'_> {
    fn run(&self, measured: &Measured) -> Calculated {
        let (reason, source) = match self.spec.kind.as_str() {
            "Resource" => ("FailedGetResourceMetric", self.spec.resource.as_ref()),
            "ContainerResource" => {
                ("FailedGetContainerResourceMetric", self.spec.container_resource.as_ref())
            }
            kind => return self.named(kind, measured),
        };
        let source = source.ok_or((reason, format!("the metric names no {}", self.spec.kind)))?;
        let usage = match measured {
            Measured::Usage(usage) => usage,
            Measured::Unknown(why) => return Err((reason, why.clone())),
            Measured::Number(_) => return Err((reason, "one number for all pods".to_owned())),
        };
        self.resource(source, usage).map_err(|problem| (reason, problem))
    }

    fn resource(
        &self,
        source: &ResourceMetric,
        usage: &BTreeMap<String, Usage>,
    ) -> Result<(i64, String, Value), String> {
        let container = source.container.as_deref();
        let groups = group(self.view.pods, &source.name, usage, container, self.now);
        if groups.ready.is_empty() {
            return Err(format!("no metrics for {} of any ready pod", source.name));
        }
        let label = match container {
            Some(container) => format!("{} of container {container}", source.name),
            None => source.name.clone(),
        };
        let total: i64 = groups.ready.iter().map(|(_, used)| used).sum();
        let average = total / groups.ready.len() as i64;
        let mut current = json!({"averageValue": quantity(&source.name, average)});
        let (replicas, name) = match (source.target.average_utilization, source.target.average_value) {
            (Some(percent), _) => {
                let request = |scaled: &ScaledPod| scaled.requested(&source.name, container);
                let mut requested = 0;
                for (pod, _) in &groups.ready {
                    requested += request(pod)?;
                }
                if requested == 0 {
                    return Err(format!("no request for {label}"));
                }
                current["averageUtilization"] = json!(total * 100 / requested);
                let ratio = |used: f64, of: f64| used * 100.0 / of / percent.max(1) as f64;
                let fallback = |pod: &ScaledPod, high: bool| -> Result<(f64, f64), String> {
                    let of = request(pod)? as f64;
                    Ok((if high { of * (percent.max(100) as f64) / 100.0 } else { 0.0 }, of))
                };
                let first = (total as f64, requested as f64);
                (
                    self.scaled(&groups, first, ratio, fallback)?,
                    format!("{label} resource utilization (percentage of request)"),
                )
            }
            (None, Some(target)) => {
                let target = target.milli().max(1) as f64;
                let ratio = |used: f64, pods: f64| used / pods / target;
                let fallback = |_: &ScaledPod, high: bool| Ok((if high { target } else { 0.0 }, 1.0));
                let first = (total as f64, groups.ready.len() as f64);
                (self.scaled(&groups, first, ratio, fallback)?, format!("{label} resource"))
            }
            (None, None) => {
                return Err(format!("the target of {label} names neither a utilization nor a value"));
            }
        };
        let mut inner = json!({"name": source.name, "current": current});
        let field = match container {
            Some(container) => {
                inner["container"] = json!(container);
                "containerResource"
            }
            None => "resource",
        };
        Ok((replicas, name, json!({"type": self.spec.kind, field: inner})))
    }

    /// The size a ratio of use to target asks for; pods without a number or not ready yet are given the one that moves
    /// the size least.
    fn scaled(
        &self,
        groups: &crate::pods::Groups<'_>,
        (used, base): (f64, f64),
        ratio: impl Fn(f64, f64) -> f64,
        fallback: impl Fn(&ScaledPod, bool) -> Result<(f64, f64), String>,
    ) -> Result<i64, String> {
        let first = ratio(used, base);
        let unready_counts = first > 1.0 && !groups.unready.is_empty();
        if groups.missing.is_empty() && !unready_counts {
            let ready = groups.ready.len() as f64;
            return Ok(if self.tolerated(first) { self.there } else { (first * ready).ceil() as i64 });
        }
        let (mut used, mut base, mut count) = (used, base, groups.ready.len());
        for pod in &groups.missing {
            let (more, of) = fallback(pod, first < 1.0)?;
            (used, base, count) = (used + more, base + of, count + 1);
        }
        if unready_counts {
            for pod in &groups.unready {
                let (more, of) = fallback(pod, false)?;
                (used, base, count) = (used + more, base + of, count + 1);
            }
        }
        let second = ratio(used, base);
        if self.tolerated(second) || (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0) {
            return Ok(self.there);
        }
        let replicas = (second * count as f64).ceil() as i64;
        let turned = (second < 1.0 && replicas > self.there) || (second > 1.0 && replicas < self.there);
        Ok(if turned { self.there } else { replicas })
    }

    fn tolerated(&self, ratio: f64) -> bool {
        let behavior = &self.view.autoscaler.spec.behavior;
        let rules = if ratio > 1.0 { &behavior.scale_up } else { &behavior.scale_down };
        let tolerance = rules.as_ref().and_then(|r| r.tolerance).map_or(TOLERANCE, |q| q.as_f64());
        (1.0 - ratio).abs() <= tolerance
    }

    fn named(&self, kind: &str, measured: &Measured) -> Calculated {
        let (reason, source, field) = match kind {
            "Pods" => ("FailedGetPodsMetric", self.spec.pods.as_ref(), "pods"),
            "Object" => ("FailedGetObjectMetric", self.spec.object.as_ref(), "object"),
            "External" => ("FailedGetExternalMetric", self.spec.external.as_ref(), "external"),
            other => return Err(("InvalidMetricSourceType", format!("there is no metric type {other:?}"))),
        };
        let source = source.ok_or((reason, format!("the metric names no {kind}")))?;
        let name = &source.metric.name;
        let (replicas, current) = match measured {
            Measured::Unknown(why) => return Err((reason, why.clone())),
            Measured::Usage(usage) => {
                let groups = group(self.view.pods, "", usage, None, self.now);
                if groups.ready.is_empty() {
                    return Err((reason, format!("no pod has a number for {name}")));
                }
                let target = source.target.average_value.map_or(1, |q| q.milli()).max(1) as f64;
                let total: i64 = groups.ready.iter().map(|(_, used)| used).sum();
                let count = groups.ready.len() as f64;
                let ratio = |used: f64, pods: f64| used / pods / target;
                let fallback = |_: &ScaledPod, high: bool| Ok((if high { target } else { 0.0 }, 1.0));
                let replicas =
                    self.scaled(&groups, (total as f64, count), ratio, fallback).map_err(|e| (reason, e))?;
                (replicas, json!({"averageValue": quantity("", total / groups.ready.len() as i64)}))
            }
            Measured::Number(number) => {
                let (number, ready) = (*number as f64, self.ready_pods());
                match (source.target.value, source.target.average_value) {
                    (Some(target), _) => {
                        let ratio = number / target.milli().max(1) as f64;
                        let replicas = if self.tolerated(ratio) {
                            self.there
                        } else if self.there == 0 {
                            ratio.ceil() as i64
                        } else {
                            (ratio * ready as f64).ceil() as i64
                        };
                        (replicas, json!({"value": quantity("", number as i64)}))
                    }
                    (None, Some(target)) => {
                        let wanted = number / target.milli().max(1) as f64;
                        let ratio = wanted / self.there.max(1) as f64;
                        let replicas = if self.there > 0 && self.tolerated(ratio) {
                            self.there
                        } else {
                            wanted.ceil() as i64
                        };
                        let average = number / self.there.max(1) as f64;
                        (replicas, json!({"averageValue": quantity("", average as i64)}))
                    }
                    (None, None) => return Err((reason, format!("the target of {name} names no value"))),
                }
            }
        };
        let mut inner = json!({"metric": to_value(&source.metric), "current": current});
        if let Some(object) = &source.described_object {
            inner["describedObject"] =
                json!({"apiVersion": object.api_version, "kind": object.kind, "name": object.name});
        }
        Ok((replicas, format!("{kind} metric {name}"), json!({"type": kind, field: inner})))
    }

    fn ready_pods(&self) -> i64 {
        self.view.pods.iter().filter(|p| p.pod.active() && p.pod.ready()).count() as i64
    }
}

/// Thousandths as the API writes them.
fn quantity(resource: &str, milli: i64) -> Value {
    let quantity = match resource {
        "memory" => Quantity::from_bytes(milli / 1000),
        _ => Quantity::from_milli(milli),
    };
    to_value(&quantity)
}

#[cfg(test)]
mod tests;
