//! Rollouts: see `wharf_deliver::rollout`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use wharf_base::Timestamp;
use wharf_client::{
    Change, Informer, Result,
    action::{REPLICA_SETS, SERVICES},
};
use wharf_control::{Step, replicaset::ReplicaSet};
use wharf_deliver::{
    ANALYSIS_RUNS, ANALYSIS_TEMPLATES, CLUSTER_ANALYSIS_TEMPLATES, ROLLOUTS,
    analysis::{AnalysisRun, template::TemplateSpec},
    rollout::{Rollout, View, step},
    sequential::{Settings, Verdict, judge},
};

use super::{
    cache::{Typed, refs},
    evidence::Evidence,
    keys,
    measure::{Measure, ask},
    runner::{Controller, Seen, Shared, Watch},
};

/// A new version is judged this often.
const EVERY: Duration = Duration::from_millis(500);

pub(crate) struct Rollouts {
    rollouts: Arc<Typed<Rollout>>,
    replica_sets: Arc<Typed<ReplicaSet>>,
    runs: Arc<Typed<AnalysisRun>>,
    templates: Arc<Typed<Template>>,
    cluster_templates: Arc<Typed<Template>>,
    services: Informer,
    measure: Arc<dyn Measure>,
    /// Since when each version is on trial.
    trials: Mutex<HashMap<String, (String, Timestamp)>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: wharf_control::Meta,
    spec: TemplateSpec,
}

impl Rollouts {
    pub(crate) fn new(shared: &Shared, measure: &Arc<dyn Measure>) -> Self {
        Self {
            rollouts: shared.informers.typed(ROLLOUTS),
            replica_sets: shared.informers.typed(REPLICA_SETS),
            runs: shared.informers.typed(ANALYSIS_RUNS),
            templates: shared.informers.typed(ANALYSIS_TEMPLATES),
            cluster_templates: shared.informers.typed(CLUSTER_ANALYSIS_TEMPLATES),
            services: shared.informers.of(&SERVICES),
            measure: Arc::clone(measure),
            trials: Mutex::default(),
        }
    }

    fn all_in_namespace(&self, change: &Change) -> Vec<String> {
        let namespace = keys::namespace(&change.key);
        let all =
            if namespace.is_empty() { self.rollouts.all() } else { self.rollouts.in_namespace(namespace) };
        all.iter().map(|r| format!("{}/{}", r.metadata.namespace, r.metadata.name)).collect()
    }

    /// A Rollout that comes, goes or names other Services concerns those that name them too.
    fn own_or_all(&self, change: &Change) -> Vec<String> {
        let mut keys = keys::own(change);
        if keys::differs(change, &["/spec/strategy"]) {
            keys.extend(self.all_in_namespace(change).into_iter().filter(|key| *key != change.key));
        }
        keys
    }

    fn templates(&self, namespace: &str) -> BTreeMap<String, TemplateSpec> {
        let own = self.templates.in_namespace(namespace);
        let own = own.iter().map(|t| (t.metadata.name.clone(), t.spec.clone()));
        let cluster = self.cluster_templates.all();
        let cluster = cluster.iter().map(|t| (format!("/{}", t.metadata.name), t.spec.clone()));
        own.chain(cluster).collect()
    }

    fn services(&self, namespace: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let services = self.services.in_namespace(namespace);
        let selector = |service: &serde_json::Value| {
            service.pointer("/spec/selector").and_then(|s| wharf_control::read(s).ok()).unwrap_or_default()
        };
        services.iter().map(|s| (keys::text(s, "/metadata/name").to_owned(), selector(s))).collect()
    }

    /// Since when the new version is on trial; nothing when none is.
    fn trial(&self, key: &str, rollout: &Rollout, now: Timestamp) -> Option<Timestamp> {
        let mut trials = self.trials.lock().unwrap_or_else(PoisonError::into_inner);
        let status = &rollout.status;
        let on_trial = !status.abort
            && !status.stable_rs.is_empty()
            && !status.current_pod_hash.is_empty()
            && status.stable_rs != status.current_pod_hash
            && status.canary.weights.as_ref().is_some_and(|w| w.canary.weight > 0);
        if !on_trial {
            trials.remove(key);
            return None;
        }
        let trial = trials.entry(key.to_owned()).or_insert_with(|| (status.current_pod_hash.clone(), now));
        if trial.0 != status.current_pod_hash {
            *trial = (status.current_pod_hash.clone(), now);
        }
        Some(trial.1)
    }

    async fn verdict(&self, key: &str, rollout: &Rollout, now: Timestamp) -> Option<Verdict> {
        let since = self.trial(key, rollout, now)?;
        let namespace = rollout.metadata.namespace.clone();
        let (canary, stable) = (rollout.status.current_pod_hash.clone(), rollout.status.stable_rs.clone());
        let evidence = ask(&self.measure, move |measure| {
            Evidence { namespace: &namespace, canary: &canary, stable: &stable, since }.slices(measure)
        });
        match evidence.await {
            Ok(slices) => Some(judge(&slices, &Settings::default())),
            Err(error) => {
                tracing::warn!(%key, %error, "a new version cannot be judged");
                None
            }
        }
    }
}

impl Controller for Rollouts {
    const NAME: &'static str = "rollouts-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.rollouts.informer, Self::own_or_all),
            Watch::new(&self.replica_sets.informer, |_, change| keys::controllers(change, "Rollout")),
            Watch::new(&self.runs.informer, |_, change| keys::controllers(change, "Rollout")),
            Watch::new(&self.templates.informer, Self::all_in_namespace),
            Watch::new(&self.cluster_templates.informer, Self::all_in_namespace),
            Watch::new(&self.services, Self::all_in_namespace),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(rollout) = self.rollouts.get(key) else {
            self.trials.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Step::idle());
        };
        let namespace = keys::namespace(key);
        let verdict = self.verdict(key, &rollout, seen.now).await;
        let rollouts = self.rollouts.in_namespace(namespace);
        let sets = self.replica_sets.in_namespace(namespace);
        let runs = self.runs.in_namespace(namespace);
        let own_runs: Vec<&AnalysisRun> = runs
            .iter()
            .map(Arc::as_ref)
            .filter(|run| run.metadata.controlled_by(&rollout.metadata.uid))
            .collect();
        let view = View {
            rollout: &rollout,
            rollouts: &refs(&rollouts),
            replica_sets: &refs(&sets),
            analysis_runs: &own_runs,
            templates: &self.templates(namespace),
            services: &self.services(namespace),
            verdict: verdict.as_ref(),
            failure: seen.failure,
        };
        let mut step = step(&view, seen.now);
        if verdict.is_some() {
            step.requeue(EVERY);
        }
        Ok(step)
    }
}
