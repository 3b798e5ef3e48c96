//! Rollouts: a new version comes in by canary or blue-green, and goes back by itself when it is worse.
//!
//! ```text
//!            template changes                 steps done, or switched
//! Healthy ───────────────────▶ Progressing ───────────────────────▶ Healthy
//!                                │   ▲
//!                pause, preview  ▼   │ time, promote
//!                               Paused
//!    abort, analysis failed, verdict worse, deadline │ (from both)
//!                                                    ▼
//!                               Degraded: all requests go to the old version
//! ```
//!
//! Requests are split by the platform's router (`status.canary.weights`), so the old version keeps all its pods until the
//! new one has taken over, and going back is one status write.

mod blue_green;
mod canary;
mod model;
mod plan;
mod version;
mod wait;

use std::collections::BTreeMap;

use wharf_base::Timestamp;
use wharf_control::{
    Action, Event, Step, WriteFailure,
    condition::{self, Condition},
    meta::Labels,
    replicaset::ReplicaSet,
};

pub use model::*;
use plan::Plan;

use crate::{
    API_VERSION, ROLLOUTS,
    analysis::{AnalysisRun, template::TemplateSpec},
    sequential::Verdict,
};

/// The label that tells the pods of one version from those of another.
pub const HASH_LABEL: &str = "rollouts-pod-template-hash";
/// The revision of a ReplicaSet, and of the Rollout.
pub const REVISION: &str = "rollout.argoproj.io/revision";
/// `Off` leaves the judgement to the Rollout's own analysis.
pub const AUTOMATIC_ANALYSIS: &str = "wharf.dev/automatic-analysis";

/// What a decision about one Rollout sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The Rollout.
    pub rollout: &'a Rollout,
    /// Every Rollout of its namespace.
    pub rollouts: &'a [&'a Rollout],
    /// Every ReplicaSet of its namespace.
    pub replica_sets: &'a [&'a ReplicaSet],
    /// The AnalysisRuns it manages.
    pub analysis_runs: &'a [&'a AnalysisRun],
    /// Templates by name; cluster-scoped ones behind a slash.
    pub templates: &'a BTreeMap<String, TemplateSpec>,
    /// Selectors of the namespace's Services by name.
    pub services: &'a BTreeMap<String, BTreeMap<String, String>>,
    /// What the requests so far say of the new version; nothing when they were not looked at.
    pub verdict: Option<&'a Verdict>,
    /// Why the writes of the last step failed, if they did.
    pub failure: Option<&'a WriteFailure>,
}

/// Decides about one Rollout.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let rollout = view.rollout;
    if rollout.metadata.deleting() {
        return Step::idle();
    }
    match rollout.problem().or_else(|| missing(view)).or_else(|| taken(view)).or_else(|| unmatched(view)) {
        Some(problem) => refuse(rollout, problem, now),
        None => Plan::new(view, now).run(),
    }
}

/// A Service or template that is named and not there.
fn missing(view: &View<'_>) -> Option<String> {
    let strategy = &view.rollout.spec.strategy;
    let service = strategy.services().find(|name| !view.services.contains_key(*name));
    if let Some(name) = service {
        return Some(format!("spec.strategy: there is no Service {name:?} in the namespace"));
    }
    let steps = strategy.canary.iter().flat_map(|c| &c.steps).filter_map(|s| s.analysis.as_ref());
    let beside = strategy.canary.iter().filter_map(|c| c.analysis.as_ref()).map(|b| &b.analysis);
    let around = strategy
        .blue_green
        .iter()
        .flat_map(|b| [b.pre_promotion_analysis.as_ref(), b.post_promotion_analysis.as_ref()])
        .flatten();
    let template = steps.chain(beside).chain(around).flat_map(|a| &a.templates);
    let template = template.map(template_key).find(|key| !view.templates.contains_key(key));
    template.map(|key| match key.strip_prefix('/') {
        Some(name) => format!("spec.strategy: there is no ClusterAnalysisTemplate {name:?}"),
        None => format!("spec.strategy: there is no AnalysisTemplate {key:?} in the namespace"),
    })
}

/// A Service that a Rollout made earlier (by name within one second) manages: two would switch it to and fro.
fn taken(view: &View<'_>) -> Option<String> {
    let order = |rollout: &Rollout| (rollout.metadata.creation_timestamp, rollout.metadata.name.clone());
    let own = order(view.rollout);
    view.rollout.spec.strategy.services().find_map(|service| {
        let uses = |rollout: &&&Rollout| {
            order(rollout) < own && rollout.spec.strategy.services().any(|other| other == service)
        };
        let first = view.rollouts.iter().filter(uses).min_by_key(|rollout| order(rollout))?;
        Some(format!("spec.strategy: Service {service:?} is managed by Rollout {:?}", first.metadata.name))
    })
}

/// A Service that would select none of the pods.
fn unmatched(view: &View<'_>) -> Option<String> {
    let spec = &view.rollout.spec;
    let labels: Labels = wharf_control::read(&spec.template["metadata"]["labels"]).unwrap_or_default();
    spec.strategy.services().find_map(|service| {
        let selector = view.services.get(service)?;
        let (key, value) =
            selector.iter().find(|(key, value)| *key != HASH_LABEL && labels.get(*key) != Some(*value))?;
        Some(format!(
            "spec.strategy: Service {service:?} has the selector {key}={value}, which does not match the pods' labels"
        ))
    })
}

/// The name of a template in [`View::templates`].
pub fn template_key(reference: &TemplateRef) -> String {
    let slash = if reference.cluster_scope { "/" } else { "" };
    format!("{slash}{}", reference.template_name)
}

/// What cannot be followed is said, and everything stays as it is.
fn refuse(rollout: &Rollout, problem: String, now: Timestamp) -> Step {
    let mut status = rollout.status.clone();
    let known = condition::find(&status.conditions, "InvalidSpec").is_some_and(|c| c.message == problem);
    let mut actions = Vec::new();
    if !known {
        let involved = rollout.metadata.object_ref(API_VERSION, "Rollout");
        actions.push(Action::Event(Event::warning(involved, "InvalidSpec", problem.clone())));
        condition::replace(
            &mut status.conditions,
            Condition::new("InvalidSpec", "True", "InvalidSpec", problem.as_str(), now),
        );
    }
    status.observed_generation = rollout.metadata.generation.to_string();
    "Degraded".clone_into(&mut status.phase);
    status.message = format!("InvalidSpec: {problem}");
    actions.extend(rollout.metadata.status_update(ROLLOUTS, &rollout.status, &status));
    Step::of(actions)
}

#[cfg(test)]
mod tests;
