//! Failures of each index on its own (`backoffLimitPerIndex`). How often an index has failed is an
//! annotation of its pod; the next pod of the index takes it over from the one that failed, which
//! therefore stays until then.

use super::{Job, Pod, policy::Verdict};

/// How often the index failed before this pod was made.
pub(super) const COUNTED: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed in ways that do not count.
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Failures of one index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) counted: i64,
    pub(super) ignored: i64,
}

impl Failures {
    /// Those before this pod was made; what is not understood is none.
    pub(super) fn before(pod: &Pod) -> Self {
        let number = |key: &str| {
            let number = pod.metadata.annotations.get(key).and_then(|text| text.parse::<i32>().ok());
            i64::from(number.unwrap_or(0).max(0))
        };
        Self { counted: number(COUNTED), ignored: number(IGNORED) }
    }

    /// Those up to and including this pod, which has failed.
    pub(super) fn after(job: &Job, pod: &Pod) -> Self {
        let mut failures = Self::before(pod);
        match job.verdict(pod) {
            Verdict::Ignore => failures.ignored += 1,
            _ => failures.counted += 1,
        }
        failures
    }

    pub(super) fn total(self) -> i64 {
        self.counted + self.ignored
    }
}

/// Whether an index has failed for good with this pod, which has failed.
pub(super) fn fails_index(job: &Job, pod: &Pod) -> bool {
    let Some(limit) = job.spec.backoff_limit_per_index else { return false };
    match job.verdict(pod) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::FailJob(_) => Failures::before(pod).counted >= limit,
    }
}
