//! Canary: a share of the requests at a time.

use super::{
    Canary, CanaryStep, Weight, Weights,
    plan::{Judged, Plan, SCALE_DOWN_DELAY, available},
    wait::INCONCLUSIVE,
};

const PAUSE_STEP: &str = "CanaryPauseStep";

impl<'a> Plan<'a> {
    pub(super) fn canary(&mut self, canary: &'a Canary) {
        let wanted = self.rollout.replicas();
        if let Some(stable) = self.stable {
            self.scale(stable, wanted);
            match self.status.abort {
                true => self.take_back(canary),
                false => self.bring_in(canary),
            }
            return;
        }
        // The first version, the good one, or one whose predecessor is gone: nothing to compare with.
        self.status.current_step_index = Some(canary.steps.len() as i64);
        self.status.pause_conditions.clear();
        self.status.controller_pause = false;
        let Some(new) = self.new else { return };
        self.scale(new, wanted);
        if self.status.stable_rs != self.hash && available(new) >= wanted {
            self.status.stable_rs.clone_from(&self.hash);
            self.note("RolloutCompleted", format!("version {} is in", self.hash));
        }
        if self.status.stable_rs == self.hash {
            self.status.abort = false;
            self.status.promote_full = false;
            self.settle(canary);
        }
    }

    /// All requests and both Services go to the version in the spec.
    fn settle(&mut self, canary: &Canary) {
        let hash = self.hash.clone();
        self.weigh(canary, 0, &hash, &hash);
        self.point(&canary.stable_service, &hash);
        self.point(&canary.canary_service, &hash);
        self.end_analyses();
    }

    fn end_analyses(&mut self) {
        for status in [
            self.status.canary.current_step_analysis_run_status.clone(),
            self.status.canary.current_background_analysis_run_status.clone(),
        ] {
            self.terminate(&status);
        }
    }

    fn take_back(&mut self, canary: &Canary) {
        let (stable, hash) = (self.status.stable_rs.clone(), self.hash.clone());
        self.weigh(canary, 0, &hash, &stable);
        self.point(&canary.canary_service, &stable);
        self.point(&canary.stable_service, &stable);
        self.end_analyses();
        self.dismiss(canary.abort_scale_down_delay_seconds);
    }

    fn bring_in(&mut self, canary: &'a Canary) {
        let steps = &canary.steps;
        let Some(new) = self.new else { return };
        if self.status.promote_full {
            self.status.current_step_index = Some(steps.len() as i64);
            self.status.pause_conditions.clear();
        }
        let mut index =
            usize::try_from(self.status.current_step_index.unwrap_or(0)).unwrap_or(0).min(steps.len());
        self.leave_skipped(index);
        while let Some(step) = steps.get(index)
            && !self.rollout.spec.paused
            && !self.status.abort
            && self.step_done(canary, index, step)
        {
            index += 1;
            self.status.current_step_index = Some(index as i64);
            self.status.canary.current_step_analysis_run_status = None;
            self.progressed();
        }
        self.watch_over(canary, index);
        if self.status.abort {
            return self.take_back(canary);
        }
        let size = self.canary_size(canary, index);
        self.scale(new, size);
        if available(new) > 0 {
            let hash = self.hash.clone();
            self.point(&canary.canary_service, &hash);
        }
        let stable = self.status.stable_rs.clone();
        self.point(&canary.stable_service, &stable);
        if index < steps.len() {
            let reached = weight_before(steps, index);
            let hash = self.hash.clone();
            self.weigh(canary, reached, &hash, &stable);
        } else if !self.paused() && available(new) >= self.rollout.replicas() && new.replicas() >= size {
            self.promote(canary);
        }
    }

    /// Somebody who skips a step leaves its analysis behind.
    fn leave_skipped(&mut self, index: usize) {
        let known = self.status.canary.current_step_analysis_run_status.clone();
        // Names end with the index of their step, and with the attempt when it is not the first.
        let step = known.as_ref().and_then(|run| run.name.rsplit('-').next()?.split('.').next());
        if step.is_some_and(|step| step != index.to_string()) {
            self.terminate(&known);
            self.status.canary.current_step_analysis_run_status = None;
        }
    }

    fn promote(&mut self, canary: &Canary) {
        if let Some(old) = self.stable {
            let delay = canary.scale_down_delay_seconds.unwrap_or(SCALE_DOWN_DELAY);
            self.retire_after(old, delay);
        }
        self.status.stable_rs.clone_from(&self.hash);
        self.status.promote_full = false;
        self.stable = None;
        self.progressed();
        self.note("RolloutCompleted", format!("version {} has taken over", self.hash));
        self.settle(canary);
    }

    fn step_done(&mut self, canary: &Canary, index: usize, step: &CanaryStep) -> bool {
        if let Some(weight) = step.set_weight {
            let size = self.canary_size(canary, index);
            let ready = self.new.is_some_and(|new| available(new) >= size);
            if ready {
                self.note(
                    "TrafficWeightUpdated",
                    format!("version {} gets {weight} % of the requests", self.hash),
                );
            }
            return ready;
        }
        if step.set_canary_scale.is_some() {
            let size = self.canary_size(canary, index);
            return self.new.is_some_and(|new| available(new) >= size);
        }
        if let Some(analysis) = &step.analysis {
            let known = self.status.canary.current_step_analysis_run_status.clone();
            let (status, judged) = self.analyse("Step", &format!("-{index}"), analysis, known);
            self.status.canary.current_step_analysis_run_status = Some(status);
            return self.accept(judged);
        }
        self.waited(step)
    }

    fn waited(&mut self, step: &CanaryStep) -> bool {
        let length = step.pause.as_ref().and_then(|pause| pause.length().ok()).flatten();
        self.hold(PAUSE_STEP, length)
    }

    /// The analysis beside the steps.
    fn watch_over(&mut self, canary: &Canary, index: usize) {
        let Some(background) = &canary.analysis else { return };
        if self.status.abort || (index as i64) < background.starting_step {
            return;
        }
        let known = self.status.canary.current_background_analysis_run_status.clone();
        let (status, judged) = self.analyse("Background", "", &background.analysis, known);
        self.status.canary.current_background_analysis_run_status = Some(status);
        match judged {
            Judged::Failed(why) => self.abort(why),
            // Whoever clears the pause has it analysed anew.
            Judged::Inconclusive => {
                if self.hold(INCONCLUSIVE, None) {
                    self.status.canary.current_background_analysis_run_status = None;
                }
            }
            Judged::Pending | Judged::Passed => {}
        }
    }

    /// Pods of the new version while the step `index` is due.
    fn canary_size(&self, canary: &Canary, index: usize) -> i64 {
        let wanted = self.rollout.replicas();
        let share = |weight: i64| (weight * wanted + 99).div_euclid(100);
        if index >= canary.steps.len() {
            return wanted;
        }
        let so_far = canary.steps.get(..=index).unwrap_or_default();
        let chosen = so_far.iter().rev().find_map(|step| step.set_canary_scale.as_ref());
        match chosen.filter(|scale| scale.match_traffic_weight != Some(true)) {
            Some(scale) => {
                scale.replicas.unwrap_or_else(|| share(scale.weight.unwrap_or(0))).clamp(0, wanted.max(1))
            }
            None => share(weight_before(&canary.steps, index + 1)),
        }
    }

    fn weigh(&mut self, canary: &Canary, weight: i64, hash: &str, stable: &str) {
        let service = |name: &String| name.clone();
        let weights = Weights {
            canary: Weight {
                weight,
                pod_template_hash: hash.to_owned(),
                service_name: service(&canary.canary_service),
            },
            stable: Weight {
                weight: 100 - weight,
                pod_template_hash: stable.to_owned(),
                service_name: service(&canary.stable_service),
            },
        };
        if self.status.canary.weights.as_ref() != Some(&weights) {
            self.progressed();
            self.status.canary.weights = Some(weights);
        }
    }
}

/// The weight reached when the first `count` steps are done.
fn weight_before(steps: &[CanaryStep], count: usize) -> i64 {
    let done = steps.get(..count).unwrap_or(steps);
    done.iter().rev().find_map(|step| step.set_weight).unwrap_or(0)
}
