//! A decision under way: what it sees, what it has decided so far, and the writes that come of it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};
use wharf_base::Timestamp;
use wharf_control::{
    Action, Event, Propagation, Step,
    action::{REPLICA_SETS, SERVICES},
    condition::{self, Condition},
    deployment::{insert, template_hash},
    hash::Fnv,
    meta::to_value,
    replicaset::ReplicaSet,
};

use super::{
    AUTOMATIC_ANALYSIS, AnalysisStep, HASH_LABEL, REVISION, Rollout, RolloutStatus, RunStatus, View,
    template_key, version::known_hash,
};
use crate::{
    ANALYSIS_RUNS, API_VERSION, ROLLOUTS,
    analysis::{AnalysisRun, Phase, template::run_spec},
    sequential::{Finding, Verdict},
};

/// When a ReplicaSet that is no longer needed goes (RFC 3339), as Argo Rollouts writes it.
const SCALE_DOWN_DEADLINE: &str = "scale-down-deadline";
/// Seconds an old version stays.
pub(super) const SCALE_DOWN_DELAY: i64 = 30;
/// Seconds without progress before a rollout counts as stuck.
const PROGRESS_DEADLINE: i64 = 600;
const HISTORY_LIMIT: i64 = 10;

/// Changes to one ReplicaSet, sent as one patch.
#[derive(Default)]
struct Edit {
    replicas: Option<i64>,
    annotations: BTreeMap<&'static str, Option<String>>,
}

/// How an analysis of the plan stands.
pub(super) enum Judged {
    Pending,
    Passed,
    Failed(String),
    Inconclusive,
}

pub(super) struct Plan<'a> {
    pub(super) view: &'a View<'a>,
    pub(super) rollout: &'a Rollout,
    pub(super) now: Timestamp,
    /// Hash of the version in the spec.
    pub(super) hash: String,
    /// Its ReplicaSet.
    pub(super) new: Option<&'a ReplicaSet>,
    /// The ReplicaSet of the version known to be good, when it is another.
    pub(super) stable: Option<&'a ReplicaSet>,
    owned: Vec<&'a ReplicaSet>,
    pub(super) status: RolloutStatus,
    edits: BTreeMap<&'a str, Edit>,
    actions: Vec<Action>,
    requeue: Option<Duration>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(view: &'a View<'a>, now: Timestamp) -> Self {
        let rollout = view.rollout;
        let mut owned: Vec<&ReplicaSet> = view
            .replica_sets
            .iter()
            .copied()
            .filter(|set| set.metadata.controlled_by(&rollout.metadata.uid) && !set.metadata.deleting())
            .collect();
        owned.sort_by_key(|set| (set.metadata.creation_timestamp, set.metadata.name.as_str()));
        let hash = known_hash(&rollout.spec.template, &owned)
            .unwrap_or_else(|| template_hash(&rollout.spec.template, rollout.status.collision_count));
        let of = |hash: &str| {
            owned.iter().copied().find(|set| set.metadata.labels.get(HASH_LABEL).is_some_and(|h| h == hash))
        };
        let new = of(&hash);
        let stable = of(&rollout.status.stable_rs).filter(|_| rollout.status.stable_rs != hash);
        let status = rollout.status.clone();
        Self {
            view,
            rollout,
            now,
            hash,
            new,
            stable,
            owned,
            status,
            edits: BTreeMap::new(),
            actions: Vec::new(),
            requeue: None,
        }
    }

    pub(super) fn run(mut self) -> Step {
        self.note_change();
        self.note_progress();
        condition::remove(&mut self.status.conditions, "InvalidSpec");
        if self.new.is_none() {
            self.create_new();
        }
        self.judge();
        let strategy = &self.rollout.spec.strategy;
        if let Some(canary) = &strategy.canary {
            self.canary(canary);
        } else if let Some(blue_green) = &strategy.blue_green {
            self.blue_green(blue_green);
        }
        self.check_deadline();
        self.retire();
        self.clean_up();
        self.report();
        self.finish()
    }

    // What changed.

    /// A new template, new steps or a retry begin anew.
    fn note_change(&mut self) {
        let steps = self.rollout.spec.strategy.canary.as_ref().map_or(&[][..], |c| &c.steps);
        let mut step_hash = Fnv::new();
        step_hash.value(&to_value(&steps));
        let step_hash = step_hash.name();
        let changed = self.status.current_pod_hash != self.hash;
        let retried = !self.status.abort && self.status.aborted_at.is_some();
        let restepped = self.status.current_step_hash != step_hash && self.status.stable_rs != self.hash;
        if changed || retried || restepped {
            self.status.current_step_index = Some(0);
            self.status.pause_conditions.clear();
            self.status.controller_pause = false;
            self.status.canary.current_step_analysis_run_status = None;
            self.status.canary.current_background_analysis_run_status = None;
            self.status.blue_green.pre_promotion_analysis_run_status = None;
            self.status.blue_green.post_promotion_analysis_run_status = None;
            self.status.last_progress = Some(self.now.truncated());
        }
        if changed {
            self.status.promote_full = false;
            self.status.abort = false;
        }
        if changed || retried {
            self.status.aborted_at = None;
            self.status.abort_reason.clear();
        }
        self.status.current_pod_hash.clone_from(&self.hash);
        self.status.current_step_hash = step_hash;
        if self.status.abort && self.status.aborted_at.is_none() {
            self.abort("by request".to_owned());
        }
    }

    /// Pods that came up since the last look are progress.
    fn note_progress(&mut self) {
        let before = &self.rollout.status;
        let updated = self.new.map_or(0, |new| new.status.replicas);
        let ready: i64 = self.owned.iter().map(|set| set.status.available_replicas).sum();
        if updated > before.updated_replicas || ready > before.available_replicas {
            self.progressed();
        }
        if self.status.last_progress.is_none() {
            self.progressed();
        }
    }

    pub(super) fn progressed(&mut self) {
        self.status.last_progress = Some(self.now.truncated());
    }

    /// In the middle of bringing a new version in.
    pub(super) fn in_progress(&self) -> bool {
        self.stable.is_some() && !self.status.abort
    }

    fn judge(&mut self) {
        let off = self
            .rollout
            .metadata
            .annotations
            .get(AUTOMATIC_ANALYSIS)
            .is_some_and(|v| v.eq_ignore_ascii_case("off"));
        if let (true, false, Some(Verdict::Worse(finding))) = (self.in_progress(), off, self.view.verdict) {
            self.abort(describe(finding));
        }
    }

    /// Takes the new version back.
    pub(super) fn abort(&mut self, reason: String) {
        if self.status.abort && self.status.aborted_at.is_some() {
            return;
        }
        self.warn("RolloutAborted", format!("the new version {} is taken back: {reason}", self.hash));
        self.status.abort = true;
        self.status.aborted_at = Some(self.now.truncated());
        self.status.abort_reason = reason;
        self.status.current_step_index = Some(0);
        self.status.pause_conditions.clear();
        self.status.controller_pause = false;
    }

    fn check_deadline(&mut self) {
        let waiting = self.status.abort || self.paused() || self.complete();
        let limit = self.rollout.spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE).max(1) as u64;
        let Some(last) = self.status.last_progress.filter(|_| !waiting) else { return };
        let deadline = last.plus(Duration::from_secs(limit));
        if self.now < deadline {
            return self.requeue(deadline.since(self.now));
        }
        if self.rollout.spec.progress_deadline_abort && self.stable.is_some() {
            self.abort(format!("no progress for {limit} seconds"));
            // What the abort means for weights and sizes is decided in the next step.
            self.requeue(Duration::ZERO);
        }
    }

    fn stuck(&self) -> bool {
        let limit = self.rollout.spec.progress_deadline_seconds.unwrap_or(PROGRESS_DEADLINE).max(1) as u64;
        self.status.last_progress.is_some_and(|last| self.now >= last.plus(Duration::from_secs(limit)))
    }

    pub(super) fn paused(&self) -> bool {
        self.rollout.spec.paused || !self.status.pause_conditions.is_empty()
    }

    /// The version in the spec is the good one and has all its pods.
    fn complete(&self) -> bool {
        self.status.stable_rs == self.hash
            && self.new.is_some_and(|new| available(new) >= self.rollout.replicas())
    }

    pub(super) fn requeue(&mut self, delay: Duration) {
        self.requeue = Some(self.requeue.map_or(delay, |present| present.min(delay)));
    }

    // Sizes.

    pub(super) fn scale(&mut self, set: &'a ReplicaSet, replicas: i64) {
        if set.metadata.annotations.contains_key(SCALE_DOWN_DEADLINE) {
            self.edit(set).annotations.insert(SCALE_DOWN_DEADLINE, None);
        }
        if set.replicas() != replicas {
            self.edit(set).replicas = Some(replicas);
        }
    }

    fn edit(&mut self, set: &'a ReplicaSet) -> &mut Edit {
        self.edits.entry(set.metadata.name.as_str()).or_default()
    }

    /// The old version goes after a while, when it has nothing to do any more.
    pub(super) fn retire_after(&mut self, set: &'a ReplicaSet, seconds: i64) {
        let deadline = self.now.plus(Duration::from_secs(seconds.max(0) as u64));
        self.edit(set).annotations.insert(SCALE_DOWN_DEADLINE, Some(deadline.to_string()));
    }

    /// ReplicaSets that are neither the new nor the good version end, those with a deadline when it has passed.
    fn retire(&mut self) {
        let keep = [self.new, self.stable].map(|set| set.map(|s| s.metadata.uid.as_str()));
        let old: Vec<&ReplicaSet> = self
            .owned
            .iter()
            .copied()
            .filter(|set| !keep.contains(&Some(set.metadata.uid.as_str())) && set.replicas() > 0)
            .collect();
        for set in old {
            // The deadline may have been set in this very step.
            let pending = self
                .edits
                .get(set.metadata.name.as_str())
                .and_then(|e| e.annotations.get(SCALE_DOWN_DEADLINE));
            let text = pending
                .cloned()
                .unwrap_or_else(|| set.metadata.annotations.get(SCALE_DOWN_DEADLINE).cloned());
            let deadline: Option<Timestamp> = text.and_then(|text| text.parse().ok());
            match deadline {
                Some(deadline) if deadline > self.now => self.requeue(deadline.since(self.now)),
                _ => self.scale(set, 0),
            }
        }
    }

    fn clean_up(&mut self) {
        let limit = self.rollout.spec.revision_history_limit.unwrap_or(HISTORY_LIMIT).max(0) as usize;
        let keep = [self.new, self.stable].map(|set| set.map(|s| s.metadata.uid.as_str()));
        let mut old: Vec<&ReplicaSet> = self
            .owned
            .iter()
            .copied()
            .filter(|set| !keep.contains(&Some(set.metadata.uid.as_str())))
            .collect();
        old.sort_by_key(|set| revision_of(set));
        let surplus = old.len().saturating_sub(limit);
        let idle =
            old.into_iter().take(surplus).filter(|set| set.replicas() == 0 && set.status.replicas == 0);
        self.actions.extend(idle.map(|set| Action::Delete {
            resource: REPLICA_SETS,
            namespace: set.metadata.namespace.clone(),
            name: set.metadata.name.clone(),
            uid: Some(set.metadata.uid.clone()),
            resource_version: Some(set.metadata.resource_version.clone()),
            propagation: Some(Propagation::Background),
            grace: None,
            announce: None,
        }));
    }

    /// Creates the ReplicaSet of the template; a taken name is answered with another hash in the next step.
    fn create_new(&mut self) {
        let rollout = self.rollout;
        let name = format!("{}-{}", rollout.metadata.name, self.hash);
        if self.view.replica_sets.iter().any(|set| set.metadata.name == name) {
            self.status.collision_count = Some(self.status.collision_count.unwrap_or(0) + 1);
            return self.requeue(Duration::ZERO);
        }
        let mut template = rollout.spec.template.clone();
        insert(&mut template, &["metadata", "labels"], HASH_LABEL, &self.hash);
        let mut selector = to_value(&rollout.spec.selector);
        insert(&mut selector, &["matchLabels"], HASH_LABEL, &self.hash);
        // The first version has nothing to be compared with.
        let replicas = if self.status.stable_rs.is_empty() { rollout.replicas() } else { 0 };
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": rollout.metadata.namespace,
                "labels": template["metadata"]["labels"],
                "annotations": {REVISION: (self.newest_revision() + 1).to_string()},
                "ownerReferences": [rollout.metadata.controller_ref(API_VERSION, "Rollout")],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": rollout.spec.min_ready_seconds,
                "selector": selector,
                "template": template,
            },
        });
        let message = format!("Created ReplicaSet {name}");
        self.progressed();
        self.actions.push(Action::Create {
            resource: REPLICA_SETS,
            namespace: rollout.metadata.namespace.clone(),
            object,
            announce: Some(Box::new(Event::normal(self.involved(), "NewReplicaSetCreated", message))),
        });
    }

    fn newest_revision(&self) -> i64 {
        self.owned.iter().map(|set| revision_of(set)).max().unwrap_or(0)
    }

    // Services and analyses.

    /// Narrows the selector of a Service to one version.
    pub(super) fn point(&mut self, service: &str, hash: &str) {
        let Some(selector) = self.view.services.get(service) else { return };
        if hash.is_empty() || selector.get(HASH_LABEL).is_some_and(|present| present == hash) {
            return;
        }
        self.note("SwitchService", format!("Service {service} now selects version {hash}"));
        self.actions.push(Action::Patch {
            resource: SERVICES,
            namespace: self.rollout.metadata.namespace.clone(),
            name: service.to_owned(),
            kind: wharf_control::PatchKind::Merge,
            body: json!({"spec": {"selector": {HASH_LABEL: hash}}}),
        });
    }

    /// Starts an analysis unless it runs, and tells how it stands.
    pub(super) fn analyse(
        &mut self,
        kind: &str,
        suffix: &str,
        analysis: &AnalysisStep,
        known: Option<RunStatus>,
    ) -> (RunStatus, Judged) {
        let name = known.map_or_else(|| self.unused_name(suffix), |known| known.name);
        let Some(run) = self.view.analysis_runs.iter().find(|run| run.metadata.name == name) else {
            let status = RunStatus { name: name.clone(), status: Phase::Pending, message: String::new() };
            return match self.create_run(&name, kind, analysis) {
                Ok(()) => (status, Judged::Pending),
                Err(problem) => (status, Judged::Failed(problem)),
            };
        };
        let status = RunStatus { name, status: run.status.phase, message: run.status.message.clone() };
        let judged = match run.status.phase {
            Phase::Pending | Phase::Running => Judged::Pending,
            Phase::Successful => Judged::Passed,
            Phase::Inconclusive => Judged::Inconclusive,
            Phase::Failed | Phase::Error => Judged::Failed(format!("analysis: {}", run.status.message)),
        };
        (status, judged)
    }

    fn unused_name(&self, suffix: &str) -> String {
        let revision = self.new.map_or_else(|| self.newest_revision() + 1, revision_of);
        let base = format!("{}-{}-{revision}{suffix}", self.rollout.metadata.name, self.hash);
        let taken = |name: &String| self.view.analysis_runs.iter().any(|run| run.metadata.name == *name);
        let mut name = base.clone();
        let mut attempt = 1;
        while taken(&name) {
            name = format!("{base}.{attempt}");
            attempt += 1;
        }
        name
    }

    fn create_run(&mut self, name: &str, kind: &str, analysis: &AnalysisStep) -> Result<(), String> {
        let mut templates = Vec::new();
        for reference in &analysis.templates {
            let key = template_key(reference);
            let template = self.view.templates.get(&key).ok_or_else(|| format!("no template {key:?}"))?;
            templates.push((reference.template_name.clone(), template.clone()));
        }
        let mut given = BTreeMap::new();
        for argument in &analysis.args {
            given.insert(argument.name.clone(), self.argument(argument)?);
        }
        let spec = run_spec(&templates, &given)?;
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": "AnalysisRun",
            "metadata": {
                "name": name,
                "namespace": self.rollout.metadata.namespace,
                "labels": {HASH_LABEL: self.hash, "rollout-type": kind},
                "ownerReferences": [self.rollout.metadata.controller_ref(API_VERSION, "Rollout")],
            },
            "spec": spec,
        });
        let message = format!("Created AnalysisRun {name}");
        self.actions.push(Action::Create {
            resource: ANALYSIS_RUNS,
            namespace: self.rollout.metadata.namespace.clone(),
            object,
            announce: Some(Box::new(Event::normal(self.involved(), "AnalysisRunCreated", message))),
        });
        Ok(())
    }

    fn argument(&self, argument: &super::RolloutArgument) -> Result<String, String> {
        let unknown = || format!("argument {:?} has no value that can be found", argument.name);
        if let Some(value) = &argument.value {
            return Ok(value.clone());
        }
        let source = argument.value_from.as_ref().ok_or_else(unknown)?;
        match (source.pod_template_hash_value.as_deref(), &source.field_ref) {
            (Some("Latest"), None) => Ok(self.hash.clone()),
            (Some("Stable"), None) => Ok(self.status.stable_rs.clone()),
            (None, Some(field)) => {
                let meta = &self.rollout.metadata;
                let member = |prefix: &str| {
                    let inner = field.field_path.strip_prefix(prefix)?.strip_suffix("']")?;
                    inner.strip_prefix("['")
                };
                match field.field_path.as_str() {
                    "metadata.name" => Some(meta.name.clone()),
                    "metadata.namespace" => Some(meta.namespace.clone()),
                    "metadata.uid" => Some(meta.uid.clone()),
                    _ => member("metadata.labels")
                        .and_then(|key| meta.labels.get(key))
                        .or_else(|| member("metadata.annotations").and_then(|key| meta.annotations.get(key)))
                        .cloned(),
                }
                .ok_or_else(unknown)
            }
            _ => Err(unknown()),
        }
    }

    /// Ends an analysis that is no longer asked for.
    pub(super) fn terminate(&mut self, status: &Option<RunStatus>) {
        let Some(name) = status.as_ref().map(|s| &s.name) else { return };
        let running = |run: &&&AnalysisRun| {
            run.metadata.name == *name && !run.status.phase.ended() && !run.spec.terminate
        };
        if let Some(run) = self.view.analysis_runs.iter().find(running) {
            self.actions.push(Action::Patch {
                resource: ANALYSIS_RUNS,
                namespace: run.metadata.namespace.clone(),
                name: run.metadata.name.clone(),
                kind: wharf_control::PatchKind::Merge,
                body: json!({"spec": {"terminate": true}}),
            });
        }
    }

    // What is said.

    fn involved(&self) -> wharf_control::ObjectRef {
        self.rollout.metadata.object_ref(API_VERSION, "Rollout")
    }

    pub(super) fn note(&mut self, reason: &'static str, message: String) {
        self.actions.push(Action::Event(Event::normal(self.involved(), reason, message)));
    }

    pub(super) fn warn(&mut self, reason: &'static str, message: String) {
        self.actions.push(Action::Event(Event::warning(self.involved(), reason, message)));
    }

    fn report(&mut self) {
        let sum = |count: fn(&ReplicaSet) -> i64| self.owned.iter().map(|set| count(set)).sum::<i64>();
        let (replicas, ready) = (sum(|s| s.status.replicas), sum(|s| s.status.ready_replicas));
        let available_replicas = sum(|s| s.status.available_replicas);
        let serving = self.stable.or(self.new);
        let status = &mut self.status;
        status.replicas = replicas;
        status.ready_replicas = ready;
        status.available_replicas = available_replicas;
        status.updated_replicas = self.new.map_or(0, |set| set.status.replicas);
        status.hpa_replicas = serving.map_or(0, |set| set.status.replicas);
        status.observed_generation = self.rollout.metadata.generation.to_string();
        status.selector = selector_text(self.rollout);
        let (phase, message) = self.phase();
        let conditions = [
            ("Available", available_replicas >= self.rollout.replicas(), "AvailableReason"),
            (
                "Progressing",
                phase != "Degraded",
                if phase == "Degraded" { "RolloutAborted" } else { "ReplicaSetUpdated" },
            ),
            ("Paused", phase == "Paused", "RolloutPaused"),
            ("Healthy", phase == "Healthy", "RolloutHealthy"),
            ("Completed", self.complete(), "RolloutCompleted"),
        ];
        for (kind, holds, reason) in conditions {
            let text = if kind == "Progressing" { message.as_str() } else { "" };
            let status = if holds { "True" } else { "False" };
            condition::set(&mut self.status.conditions, Condition::new(kind, status, reason, text, self.now));
        }
        phase.clone_into(&mut self.status.phase);
        self.status.message = message;
    }

    fn phase(&self) -> (&'static str, String) {
        if self.status.abort {
            return ("Degraded", format!("RolloutAborted: {}", self.status.abort_reason));
        }
        if let Some(pause) = self.status.pause_conditions.first() {
            return ("Paused", pause.reason.clone());
        }
        if self.rollout.spec.paused {
            return ("Paused", "manually paused".to_owned());
        }
        if self.complete() {
            return ("Healthy", String::new());
        }
        if self.stuck() {
            let name = format!("{}-{}", self.rollout.metadata.name, self.hash);
            return (
                "Degraded",
                format!("ProgressDeadlineExceeded: ReplicaSet {name:?} has timed out progressing."),
            );
        }
        let message = match self.new {
            None => "waiting for the new ReplicaSet".to_owned(),
            Some(new) if available(new) < new.replicas() => {
                format!("updated replicas: {} of {} available", available(new), new.replicas())
            }
            Some(_) if self.in_progress() => "the new version is being brought in".to_owned(),
            Some(_) => "waiting for all pods to be available".to_owned(),
        };
        ("Progressing", message)
    }

    /// The status goes first: the router acts on it.
    fn finish(mut self) -> Step {
        let rollout = self.rollout;
        let mut ordered: Vec<Action> =
            rollout.metadata.status_update(ROLLOUTS, &rollout.status, &self.status).into_iter().collect();
        if let Some(revision) = self.new.map(revision_of)
            && rollout.metadata.annotations.get(REVISION) != Some(&revision.to_string())
        {
            ordered.push(Action::Patch {
                resource: ROLLOUTS,
                namespace: rollout.metadata.namespace.clone(),
                name: rollout.metadata.name.clone(),
                kind: wharf_control::PatchKind::Merge,
                body: json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}),
            });
        }
        // A version that comes back is the newest again.
        if let Some(new) = self.new {
            let newest = self.newest_revision();
            if revision_of(new) < newest && self.status.stable_rs != self.hash {
                self.edit(new).annotations.insert(REVISION, Some((newest + 1).to_string()));
            }
        }
        ordered.append(&mut self.actions);
        for set in &self.owned {
            if let Some(edit) = self.edits.get(set.metadata.name.as_str()) {
                ordered.extend(patch(rollout, set, edit));
            }
        }
        Step { actions: ordered, requeue_after: self.requeue }
    }
}

fn patch(rollout: &Rollout, set: &ReplicaSet, edit: &Edit) -> Vec<Action> {
    let mut body = Map::new();
    if !edit.annotations.is_empty() {
        body.insert("metadata".into(), json!({"annotations": edit.annotations}));
    }
    if let Some(replicas) = edit.replicas {
        body.insert("spec".into(), json!({"replicas": replicas}));
    }
    if body.is_empty() {
        return Vec::new();
    }
    let mut actions = vec![set.metadata.locked_patch(REPLICA_SETS, Value::Object(body))];
    if let Some(replicas) = edit.replicas {
        let direction = if replicas > set.replicas() { "up" } else { "down" };
        let message = format!(
            "Scaled {direction} ReplicaSet {} from {} to {replicas}",
            set.metadata.name,
            set.replicas()
        );
        let involved = rollout.metadata.object_ref(API_VERSION, "Rollout");
        actions.push(Action::Event(Event::normal(involved, "ScalingReplicaSet", message)));
    }
    actions
}

/// Pods that have been ready for long enough, as far as the status speaks of the present size.
pub(super) fn available(set: &ReplicaSet) -> i64 {
    if set.status.observed_generation < set.metadata.generation {
        return set.status.available_replicas.min(set.replicas());
    }
    set.status.available_replicas
}

fn revision_of(set: &ReplicaSet) -> i64 {
    set.metadata.annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn selector_text(rollout: &Rollout) -> String {
    let Some(selector) = &rollout.spec.selector else { return String::new() };
    let labels = to_value(selector);
    let mut parts: Vec<String> = labels["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for requirement in labels["matchExpressions"].as_array().into_iter().flatten() {
        let key = requirement["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            requirement["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match requirement["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

fn describe(finding: &Finding) -> String {
    let per_cent = |rate: f64| format!("{:.1} %", rate * 100.0);
    let what = match finding.threshold {
        None => "requests fail",
        Some(_) => "requests are slow",
    };
    format!(
        "{} of its {what}, {} of the old version's ({} requests, evidence {:.0} to 1)",
        per_cent(finding.canary_rate),
        per_cent(finding.stable_rate),
        finding.requests,
        finding.evidence.min(1e9)
    )
}
