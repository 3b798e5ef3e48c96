//! CronJobs: see `wharf_control::cronjob`.

use std::sync::Arc;

use wharf_client::{
    Result,
    action::{CRON_JOBS, JOBS},
};
use wharf_control::{
    Step,
    cronjob::{CronJob, View, step},
    job::Job,
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct CronJobs {
    cron_jobs: Arc<Typed<CronJob>>,
    jobs: Arc<Typed<Job>>,
}

impl CronJobs {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { cron_jobs: shared.informers.typed(CRON_JOBS), jobs: shared.informers.typed(JOBS) }
    }
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.cron_jobs.informer, |_, change| keys::own(change)),
            Watch::new(&self.jobs.informer, |_, change| keys::controllers(change, "CronJob")),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(cron_job) = self.cron_jobs.get(key) else { return Ok(Step::idle()) };
        let mut jobs = self.jobs.in_namespace(keys::namespace(key));
        jobs.retain(|job| job.metadata.controlled_by(&cron_job.metadata.uid));
        Ok(step(&View { cron_job: &cron_job, jobs: &refs(&jobs) }, seen.now))
    }
}
