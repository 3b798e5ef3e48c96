//! What both strategies wait for: a time, somebody, an analysis, the end of a version that was taken back.

use std::time::Duration;

use super::{
    PauseCondition,
    plan::{Judged, Plan, SCALE_DOWN_DELAY},
};

/// The pause of an analysis that could not tell.
pub(super) const INCONCLUSIVE: &str = "InconclusiveAnalysisRun";

impl Plan<'_> {
    /// Whether an analysis lets the rollout go on.
    pub(super) fn accept(&mut self, judged: Judged) -> bool {
        match judged {
            Judged::Passed => true,
            Judged::Pending => false,
            Judged::Failed(why) => {
                self.abort(why);
                false
            }
            // Somebody must decide: whoever clears the pause accepts it.
            Judged::Inconclusive => self.hold(INCONCLUSIVE, None),
        }
    }

    /// Waits for a time or for somebody; true when it is over.
    pub(super) fn hold(&mut self, reason: &str, length: Option<Duration>) -> bool {
        let since = self.status.pause_conditions.iter().find(|p| p.reason == reason).map(|p| p.start_time);
        let over = match (since, length) {
            (None, _) if self.status.controller_pause => true,
            (None, _) => {
                let condition =
                    PauseCondition { reason: reason.to_owned(), start_time: self.now.truncated() };
                self.status.pause_conditions.push(condition);
                self.status.controller_pause = true;
                self.note("RolloutPaused", format!("paused: {reason}"));
                if let Some(length) = length {
                    self.requeue(length);
                }
                false
            }
            (Some(_), None) => false,
            (Some(since), Some(length)) => {
                let end = since.plus(length);
                if self.now < end {
                    self.requeue(end.since(self.now));
                }
                self.now >= end
            }
        };
        if over {
            self.status.pause_conditions.retain(|p| p.reason != reason);
            self.status.controller_pause = false;
        }
        over
    }

    /// Ends a version that was taken back, after a while; 0 seconds keep it.
    pub(super) fn dismiss(&mut self, seconds: Option<i64>) {
        let delay = seconds.unwrap_or(SCALE_DOWN_DELAY);
        let Some(new) = self.new.filter(|new| new.replicas() > 0 && delay > 0) else { return };
        let deadline = self.status.aborted_at.unwrap_or(self.now).plus(Duration::from_secs(delay as u64));
        if self.now >= deadline {
            self.scale(new, 0);
        } else {
            self.requeue(deadline.since(self.now));
        }
    }
}
