//! Jobs: see `wharf_control::job`.

use std::sync::Arc;

use serde_json::Value;
use wharf_client::{
    Change, Object, Result,
    action::{JOBS, PODS},
};
use wharf_control::{
    Step,
    job::{Job, TRACKING, View, orphaned, release, step},
    pod::Pod,
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

/// Begins the name in the key of a pod nobody manages; no Job has such a name.
const ORPHAN: char = ':';

pub(crate) struct Jobs {
    jobs: Arc<Typed<Job>>,
    pods: Arc<Typed<Pod>>,
}

impl Jobs {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { jobs: shared.informers.typed(JOBS), pods: shared.informers.typed(PODS) }
    }

    /// Its Job, or those that may adopt it, and itself when it waits for a Job to count it.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, "Job");
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            if tracked(object) {
                concerned.push(format!(
                    "{}/{ORPHAN}{}",
                    keys::namespace(&change.key),
                    keys::name(&change.key)
                ));
            }
            let labels = keys::labels(object);
            for job in self.jobs.in_namespace(keys::namespace(&change.key)) {
                if job.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(format!("{}/{}", job.metadata.namespace, job.metadata.name));
                }
            }
        }
        concerned
    }

    /// Lets go of a pod that nobody manages.
    fn orphan(&self, namespace: &str, name: &str) -> Step {
        let Some(pod) = self.pods.get(&format!("{namespace}/{name}")) else { return Step::idle() };
        orphaned(&pod, &refs(&self.jobs.in_namespace(namespace)))
    }

    /// Lets go of the pods of Jobs of this name that no longer exist.
    fn release_lost(&self, key: &str, present: Option<&str>, pods: &[Arc<Pod>]) -> Step {
        let lost = |pod: &&Pod| {
            pod.metadata.controller().is_some_and(|owner| {
                owner.kind == "Job" && owner.name == keys::name(key) && Some(owner.uid.as_str()) != present
            })
        };
        let over = |pod: &&Pod| pod.ended() || pod.metadata.deleting();
        let lost: Vec<&Pod> = pods.iter().map(Arc::as_ref).filter(lost).filter(over).collect();
        release(&lost)
    }
}

fn tracked(pod: &Object) -> bool {
    let finalizers = pod.pointer("/metadata/finalizers").and_then(Value::as_array);
    finalizers.is_some_and(|all| all.iter().any(|finalizer| finalizer == TRACKING))
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.jobs.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, Self::of_pod),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        if let Some(pod) = keys::name(key).strip_prefix(ORPHAN) {
            return Ok(self.orphan(keys::namespace(key), pod));
        }
        let pods = self.pods.in_namespace(keys::namespace(key));
        let job = self.jobs.get(key);
        let mut lost = self.release_lost(key, job.as_ref().map(|job| job.metadata.uid.as_str()), &pods);
        let Some(job) = job else { return Ok(lost) };
        let mine = |pod: &&Pod| pod.metadata.controller().is_none_or(|owner| owner.uid == job.metadata.uid);
        let own: Vec<&Pod> = pods.iter().map(Arc::as_ref).filter(mine).collect();
        let mut decided = step(&View { job: &job, pods: &own }, seen.now);
        lost.actions.append(&mut decided.actions);
        Ok(Step { actions: lost.actions, requeue_after: decided.requeue_after })
    }
}
