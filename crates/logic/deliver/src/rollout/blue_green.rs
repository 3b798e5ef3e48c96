//! Blue-green: the new version stands beside the old one, then takes over at once.

use std::time::Duration;

use super::{
    BlueGreen,
    plan::{Plan, SCALE_DOWN_DELAY, available},
};

const PAUSE: &str = "BlueGreenPause";

impl<'a> Plan<'a> {
    pub(super) fn blue_green(&mut self, blue_green: &'a BlueGreen) {
        let wanted = self.rollout.replicas();
        let Some(stable) = self.stable else {
            let Some(new) = self.new else { return };
            self.scale(new, wanted);
            if self.status.stable_rs.is_empty() && available(new) < wanted {
                return;
            }
            self.status.stable_rs.clone_from(&self.hash);
            self.status.abort = false;
            self.status.pause_conditions.clear();
            return self.switch(blue_green);
        };
        self.scale(stable, wanted);
        if self.status.abort {
            return self.go_back(blue_green);
        }
        let Some(new) = self.new else { return };
        let switched = self.status.blue_green.active_selector == self.hash;
        if !switched && !self.ready_to_switch(blue_green) {
            if self.status.abort {
                self.go_back(blue_green);
            }
            return;
        }
        self.scale(new, wanted);
        if !switched && available(new) < wanted {
            return;
        }
        self.switch(blue_green);
        if self.confirmed(blue_green) {
            self.retire_after(stable, blue_green.scale_down_delay_seconds.unwrap_or(SCALE_DOWN_DELAY));
            self.status.stable_rs.clone_from(&self.hash);
            self.status.promote_full = false;
            self.stable = None;
            self.progressed();
            self.note("RolloutCompleted", format!("version {} has taken over", self.hash));
        } else if self.status.abort {
            self.go_back(blue_green);
        }
    }

    /// Users reach the version in the spec.
    fn switch(&mut self, blue_green: &BlueGreen) {
        let hash = self.hash.clone();
        self.point(&blue_green.active_service, &hash);
        self.point(&blue_green.preview_service, &hash);
        if self.status.blue_green.active_selector != hash {
            self.progressed();
        }
        self.status.blue_green.active_selector.clone_from(&hash);
        self.status.blue_green.preview_selector = hash;
    }

    /// Brings the preview up and waits for whatever must come before the switch.
    fn ready_to_switch(&mut self, blue_green: &BlueGreen) -> bool {
        let Some(new) = self.new else { return false };
        let wanted = self.rollout.replicas();
        let preview = match self.status.promote_full {
            true => wanted,
            false => blue_green.preview_replica_count.unwrap_or(wanted).clamp(0, wanted),
        };
        if new.replicas() < preview
            || self.status.pause_conditions.is_empty() && !self.status.controller_pause
        {
            self.scale(new, preview.max(new.replicas()));
        }
        let hash = self.hash.clone();
        self.point(&blue_green.preview_service, &hash);
        self.status.blue_green.preview_selector = hash;
        if available(new) < preview || self.rollout.spec.paused {
            return false;
        }
        if self.status.promote_full {
            return true;
        }
        if let Some(analysis) = &blue_green.pre_promotion_analysis {
            let known = self.status.blue_green.pre_promotion_analysis_run_status.clone();
            let (status, judged) = self.analyse("PrePromotion", "-pre", analysis, known);
            self.status.blue_green.pre_promotion_analysis_run_status = Some(status);
            if !self.accept(judged) {
                return false;
            }
        }
        if blue_green.auto_promotion_enabled.unwrap_or(true) && blue_green.auto_promotion_seconds.is_none() {
            return true;
        }
        let promoted = self.status.current_step_index == Some(1);
        let length = blue_green.auto_promotion_seconds.map(|s| Duration::from_secs(s.max(0) as u64));
        if !promoted && self.hold(PAUSE, length) {
            // Remembered: pods of a smaller preview still have to come up.
            self.status.current_step_index = Some(1);
            return true;
        }
        promoted
    }

    /// The analysis after the switch has nothing against it.
    fn confirmed(&mut self, blue_green: &BlueGreen) -> bool {
        let Some(analysis) =
            blue_green.post_promotion_analysis.as_ref().filter(|_| !self.status.promote_full)
        else {
            return true;
        };
        let known = self.status.blue_green.post_promotion_analysis_run_status.clone();
        let (status, judged) = self.analyse("PostPromotion", "-post", analysis, known);
        self.status.blue_green.post_promotion_analysis_run_status = Some(status);
        self.accept(judged)
    }

    fn go_back(&mut self, blue_green: &BlueGreen) {
        let stable = self.status.stable_rs.clone();
        self.point(&blue_green.active_service, &stable);
        self.point(&blue_green.preview_service, &stable);
        self.status.blue_green.active_selector.clone_from(&stable);
        self.status.blue_green.preview_selector = stable;
        for status in [
            self.status.blue_green.pre_promotion_analysis_run_status.clone(),
            self.status.blue_green.post_promotion_analysis_run_status.clone(),
        ] {
            self.terminate(&status);
        }
        self.dismiss(blue_green.abort_scale_down_delay_seconds);
    }
}
