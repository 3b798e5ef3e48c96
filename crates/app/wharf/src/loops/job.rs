//! Jobs: see `wharf_control::job`.

use std::sync::Arc;

use wharf_client::{
    Change, Result,
    action::{JOBS, PODS},
};
use wharf_control::{
    Step,
    job::{Job, View, release, step},
    pod::Pod,
};

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct Jobs {
    jobs: Arc<Typed<Job>>,
    pods: Arc<Typed<Pod>>,
}

impl Jobs {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { jobs: shared.informers.typed(JOBS), pods: shared.informers.typed(PODS) }
    }

    /// Its Job, or those that may adopt it.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, "Job");
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            let labels = keys::labels(object);
            for job in self.jobs.in_namespace(keys::namespace(&change.key)) {
                if job.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(format!("{}/{}", job.metadata.namespace, job.metadata.name));
                }
            }
        }
        concerned
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

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.jobs.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, Self::of_pod),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
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
