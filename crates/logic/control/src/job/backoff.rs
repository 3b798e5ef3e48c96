//! How long a Job waits after failures, and when a pod failed.

use std::time::Duration;

use wharf_base::Timestamp;

use super::{Pod, condition};
use crate::pod::ContainerStatus;

/// Wait after the first failure in a row; doubled with each further one.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait.
const LAST: Duration = Duration::from_secs(600);

/// How long to wait still, after so many failures in a row of which the last was at `last`.
pub(super) fn remaining(failures: i64, last: Timestamp, now: Timestamp) -> Duration {
    if failures < 1 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
    let wait = (FIRST * 2u32.pow(doublings)).min(LAST);
    last.plus(wait).since(now)
}

/// When a pod ended: with its last container; when it was no longer ready; at its
/// deletion; or, of a pod of which nothing is known, when it was made.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    containers_ended(pod)
        .or_else(|| not_ready_since(pod))
        .or_else(|| deleted_at(pod))
        .or(pod.metadata.creation_timestamp)
}

/// When the last container ended, once all have.
fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let ends: Option<Vec<_>> =
        pod.status.container_statuses.iter().map(ContainerStatus::finished_at).collect();
    ends?.into_iter().max()
}

fn not_ready_since(pod: &Pod) -> Option<Timestamp> {
    condition::find(&pod.status.conditions, "Ready").filter(|c| c.status == "False")?.last_transition_time
}

/// When deletion was asked for: the time of deletion is that by which the pod must be gone.
fn deleted_at(pod: &Pod) -> Option<Timestamp> {
    let grace = pod.metadata.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    Some(pod.metadata.deletion_timestamp?.minus(Duration::from_secs(grace)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::meta::read;

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let at = |s| Timestamp::from_unix(s, 0);
        for (failures, now, expect) in [
            (0, 0, 0),
            (1, 0, 10),
            (1, 4, 6),
            (1, 11, 0),
            (2, 0, 20),
            (6, 0, 320),
            (7, 0, 600),
            (i64::MAX, 0, 600),
        ] {
            assert_eq!(remaining(failures, at(0), at(now)), Duration::from_secs(expect), "{failures} {now}");
        }
    }

    fn check(pod: Value, expect: i64) {
        let pod: Pod = read(&pod).unwrap();
        assert_eq!(ended_at(&pod), Some(Timestamp::from_unix(expect, 0)), "{pod:?}");
    }

    #[test]
    fn the_time_of_a_failure_is_found() {
        let at = |s| Timestamp::from_unix(s, 0);
        let made = json!({"creationTimestamp": at(1)});
        let ended = |s| json!({"state": {"terminated": {"finishedAt": at(s)}}});
        let ready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": at(7)}]);
        let deleted = json!({"creationTimestamp": at(1), "deletionTimestamp": at(40), "deletionGracePeriodSeconds": 30});
        check(json!({"metadata": made, "status": {"containerStatuses": [ended(3), ended(5)]}}), 5);
        check(
            json!({"metadata": made, "status": {"containerStatuses": [ended(3), {}], "conditions": ready}}),
            7,
        );
        check(json!({"metadata": deleted}), 10);
        check(json!({"metadata": made}), 1);
    }
}
