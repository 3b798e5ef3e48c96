//! The containers of a pod: started, asked, ended, and what their ends come to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::Instant};
use wharf_base::{Clock, SystemClock, Timestamp};

use super::{
    Life, Message, RETRY, Worker,
    ops::{End, Started, Unstarted},
    recover,
};
use crate::{
    config::Failure,
    events::Level,
    model::{Container, Pod, Resources},
    probe::{self, Answer, Kind},
    spec::run_name,
    step::{
        Condemned, ContainerState, Retry, Run, Running, Sandbox as SandboxState, Termination,
        resize::{self, Held, Room},
    },
};

impl Worker {
    /// Takes up probes of containers that run since before.
    pub(super) fn resume(&mut self) {
        let running: Vec<(String, u32)> = self
            .state
            .containers
            .iter()
            .filter(|(name, known)| known.running().is_some() && !self.lives.contains_key(*name))
            .map(|(name, known)| (name.clone(), known.attempt))
            .collect();
        for (name, attempt) in running {
            self.lives.insert(name.clone(), Life::new());
            self.start_probes(&name, attempt);
        }
    }

    pub(super) fn start_container(&mut self, name: &str, attempt: u32, now: Timestamp) {
        let (Some(place), Some(mut container)) = (self.place(), self.pod.container(name).cloned()) else {
            return;
        };
        container.resources = resize::of_next_run(&container, &self.state);
        let known = self.state.containers.entry(name.to_owned()).or_default();
        if let Run::Ended(ended) = std::mem::take(&mut known.run) {
            known.last = Some(ended);
            if !std::mem::take(&mut known.again) {
                known.restart.count(now);
            }
        }
        known.attempt = attempt;
        known.busy = true;
        known.resources = Some(container.resources.clone());
        let target = self.target_run(&container);
        self.forget_old_runs(name, attempt);
        let (volumes, sender, name) = (self.volumes.clone(), self.sender.clone(), name.to_owned());
        let start = self.tasks.spawn({
            let name = name.clone();
            async move {
                let result = place.start(&container, attempt, &volumes, target.as_deref()).await;
                let started = result.is_ok();
                let container_name = name.clone();
                let _ = sender.send(Message::Started { container: name, attempt, result });
                if started && let Err(why) = place.post_start(&container, attempt).await {
                    let why = format!("its postStart hook failed: {why}");
                    let _ = sender.send(Message::Condemn { container: container_name, attempt, why });
                }
            }
        });
        self.starts.insert(name, start);
    }

    /// The run whose processes a container is to see.
    fn target_run(&self, container: &Container) -> Option<String> {
        let target = container.target_container_name.as_str();
        let known = self.state.container(target)?;
        Some(run_name(target, known.attempt))
    }

    /// Removes the run before the last one.
    pub(super) fn forget_old_runs(&self, name: &str, attempt: u32) {
        let (Some(old), Some(sandbox)) = (attempt.checked_sub(2), self.sandbox.clone()) else { return };
        let (run, log) = (run_name(name, old), recover::log_path(&self.folder, name, old));
        spawn_blocking(move || {
            if sandbox.delete(&run).is_err() {
                // It belonged to an earlier shim: only its files are left.
                let _ = std::fs::remove_dir_all(sandbox.dir().container(&run));
            }
            for file in wharf_runtime::log_files(&log) {
                let _ = std::fs::remove_file(file);
            }
        });
    }

    pub(super) fn started(&mut self, name: &str, attempt: u32, result: Result<Started, Unstarted>) {
        let broken_off = attempt == u32::MAX;
        if !broken_off {
            self.starts.remove(name);
        }
        let now = SystemClock.now();
        let Some(container) = self.pod.container(name).cloned() else { return };
        let Some(known) = self.state.containers.get_mut(name) else { return };
        if broken_off && known.running().is_some() {
            return;
        }
        known.busy = false;
        match result {
            Ok(started) => {
                known.failure = None;
                known.pull = Default::default();
                known.image_id = started.image_id;
                known.run = Run::Running(Running {
                    id: started.id,
                    since: started.since,
                    started: container.startup_probe.is_none(),
                    ready: container.readiness_probe.is_none(),
                });
                self.lives.insert(name.to_owned(), Life::new());
                self.start_probes(name, attempt);
                if self.early.remove(&run_name(name, attempt)).is_some() {
                    self.exited(&run_name(name, attempt));
                }
            }
            Err(Unstarted::Ended(ended)) => {
                known.failure = None;
                known.run = Run::Ended(*ended);
            }
            Err(Unstarted::Retry(why)) => {
                let is_pull = matches!(why.reason.as_str(), "ErrImagePull" | "ErrImageNeverPull");
                let at = match is_pull {
                    true => {
                        known.pull.count(now);
                        let message = format!("Back-off pulling image {:?}", container.image);
                        self.shared.events.pod(
                            &self.pod.metadata,
                            Some(name),
                            Level::Normal,
                            "BackOff",
                            message,
                        );
                        known.pull.until(now)
                    }
                    false => now.plus(RETRY),
                };
                if !broken_off && !is_pull {
                    self.shared.events.pod(
                        &self.pod.metadata,
                        Some(name),
                        Level::Warning,
                        "Failed",
                        format!("Error: {}", why.message),
                    );
                }
                known.failure = Some(Retry { why, failed: now, at });
            }
        }
    }

    pub(super) fn start_probes(&mut self, name: &str, attempt: u32) {
        let Some(known) = self.state.container(name).and_then(ContainerState::running) else { return };
        let kinds: &[Kind] = match known.started {
            true => &[Kind::Readiness, Kind::Liveness],
            false => &[Kind::Startup],
        };
        let (Some(place), Some(container)) = (self.place(), self.pod.container(name).cloned()) else {
            return;
        };
        let Some(life) = self.lives.get_mut(name) else { return };
        for kind in kinds.iter().filter(|kind| kind.of(&container).is_some()) {
            let (sender, name) = (self.sender.clone(), name.to_owned());
            let report = move |answer| {
                sender.send(Message::Answer { container: name.clone(), attempt, answer }).is_ok()
            };
            life.probes.spawn(probe::watch(place.target(&container, attempt), *kind, report));
        }
    }

    pub(super) fn answered(&mut self, name: &str, attempt: u32, answer: Answer) {
        let Some(known) = self.state.containers.get_mut(name).filter(|known| known.attempt == attempt) else {
            return;
        };
        let Run::Running(running) = &mut known.run else { return };
        let kind = answer.kind;
        if kind == Kind::Readiness
            && let Some(verdict) = answer.verdict
        {
            running.ready = verdict;
        }
        let begins = kind == Kind::Startup && answer.verdict == Some(true);
        running.started |= begins;
        if let Some(why) = answer.failure {
            let message = format!("{} probe failed: {why}", kind.word());
            self.note(Some(name), Level::Warning, "Unhealthy", message);
        }
        if begins {
            self.start_probes(name, attempt);
        }
        if kind != Kind::Readiness && answer.verdict == Some(false) {
            let why = format!("it failed its {} probe and will be restarted", kind.word().to_lowercase());
            let own = self.pod.container(name).and_then(|c| kind.of(c)?.termination_grace_period_seconds);
            self.condemn(name, attempt, own, why);
        }
    }

    pub(super) fn condemn(&mut self, name: &str, attempt: u32, grace: Option<i64>, why: String) {
        self.condemn_to(false, name, attempt, grace, why);
    }

    /// Ends a run; `again` says that another follows whatever the policy says.
    fn condemn_to(&mut self, again: bool, name: &str, attempt: u32, grace: Option<i64>, why: String) {
        let grace = grace.or(self.pod.spec.termination_grace_period_seconds).unwrap_or(30);
        let known = self.state.containers.get_mut(name).filter(|known| known.attempt == attempt);
        if let Some(known) = known.filter(|known| known.condemned.is_none() && known.running().is_some()) {
            known.condemned = Some(Condemned { grace, why, again });
        }
    }

    /// A container whose image was changed is started again with the new one.
    pub(super) fn condemn_changed(&mut self, before: &Pod) {
        let pod = Arc::clone(&self.pod);
        for container in pod.all_containers() {
            let changed = before.container(&container.name).is_some_and(|old| old.image != container.image);
            let attempt = self.state.container(&container.name).map(|known| known.attempt);
            if let (true, Some(attempt)) = (changed, attempt) {
                let why = "its definition has changed and it will be restarted".to_owned();
                self.condemn_to(true, &container.name, attempt, None, why);
            }
        }
    }

    /// Judges what the pod asks for: whether the node has it, and who has to be started again for it.
    pub(super) fn consider_size(&mut self) {
        if self.state.sandbox != SandboxState::Ready || self.state.ending.is_some() {
            return;
        }
        let held = match resize::changed(&self.pod, &self.state).next() {
            None => None,
            Some(_) => {
                let machine = &self.shared.machine;
                let node = Room { milli: machine.cpus.saturating_mul(1000), bytes: machine.memory };
                let uid = &self.pod.metadata.uid;
                let handles = self.shared.handles();
                let others = handles.iter().filter(|handle| handle.uid != *uid);
                let others = others.map(|handle| handle.asks()).fold(Room::default(), Room::plus);
                resize::judge(&self.pod, &self.state, node, others)
            }
        };
        if held != self.state.held {
            match &held {
                Some(Held::Infeasible(why)) => {
                    self.note(None, Level::Warning, "ResizeInfeasible", why.clone());
                }
                Some(Held::Deferred(why)) => self.note(None, Level::Warning, "ResizeDeferred", why.clone()),
                None => {}
            }
            self.state.held = held;
        }
        if self.state.held.is_none() {
            let pod = Arc::clone(&self.pod);
            let restarted: Vec<(String, u32)> = resize::to_restart(&pod, &self.state)
                .map(|(container, attempt)| (container.name.clone(), attempt))
                .collect();
            for (name, attempt) in restarted {
                let why = "its resources have changed and it will be restarted".to_owned();
                self.condemn_to(true, &name, attempt, None, why);
            }
        }
    }

    /// Gives running containers, and the pod as a whole, what their specification asks for.
    pub(super) fn resize(&mut self, names: &[String]) {
        let Some(place) = self.place() else { return };
        self.state.size.busy = true;
        let containers: Vec<(Container, u32)> = names
            .iter()
            .filter_map(|name| Some((self.pod.container(name)?.clone(), self.state.container(name)?.attempt)))
            .collect();
        let (wanted, sender) = (resize::wanted(&self.pod), self.sender.clone());
        self.tasks.spawn(async move {
            let result = place.resize(&containers).await;
            let _ = sender.send(Message::Resized { containers, wanted, result });
        });
    }

    pub(super) fn resized(
        &mut self,
        containers: Vec<(Container, u32)>,
        wanted: BTreeMap<String, Resources>,
        result: Result<(), Failure>,
    ) {
        self.state.size.busy = false;
        if let Err(failure) = result {
            let message = failure.to_string();
            let again = self.state.size.failure.as_ref().is_some_and(|(before, _)| *before == message);
            if !again {
                self.note(None, Level::Warning, "ResizeError", message.clone());
            }
            self.state.size.failure = Some((message, SystemClock.now()));
            return;
        }
        self.state.size.failure = None;
        self.state.size.pod = Some(wanted);
        for (container, attempt) in containers {
            let known = self.state.containers.get_mut(&container.name);
            if let Some(known) = known.filter(|known| known.attempt == attempt) {
                known.resources = Some(container.resources);
            }
        }
    }

    pub(super) fn stop_container(&mut self, name: &str, grace: i64, why: String) {
        let (Some(place), Some(container)) = (self.place(), self.pod.container(name).cloned()) else {
            return;
        };
        let Some(known) = self.state.containers.get_mut(name) else { return };
        known.busy = true;
        let attempt = known.attempt;
        let life = self.lives.entry(name.to_owned()).or_insert_with(Life::new);
        // A container on its way out is not asked any more whether it is alive.
        life.probes.abort_all();
        life.deadline.send_replace(Instant::now() + Duration::from_secs(grace.unsigned_abs()));
        let end = End { over: life.over.subscribe(), deadline: life.deadline.subscribe() };
        let (sender, name) = (self.sender.clone(), name.to_owned());
        self.tasks.spawn(async move {
            place.stop(&container, attempt, &why, end).await;
            let _ = sender.send(Message::Stopped { container: name });
        });
    }

    /// A run has ended: reads how, and what it said last.
    pub(super) fn exited(&mut self, run: &str) {
        let Some((name, attempt)) = crate::spec::parse_run(run) else { return };
        let (Some(sandbox), Some(container)) = (&self.sandbox, self.pod.container(name)) else { return };
        let Ok(status) = sandbox.dir().status(run) else { return };
        let Some(known) = self.state.containers.get_mut(name).filter(|known| known.attempt == attempt) else {
            return;
        };
        if known.running().is_none() {
            if known.busy {
                self.early.insert(run.to_owned(), status);
            }
            return;
        }
        if let Some(ended) = recover::ended(sandbox.dir(), container, attempt, &status) {
            self.over(name, ended);
        }
    }

    pub(super) fn over(&mut self, name: &str, ended: Termination) {
        let Some(known) = self.state.containers.get_mut(name) else { return };
        let goes_on = self.state.ending.is_none();
        let until = known.restart.until(ended.finished);
        if goes_on && until > ended.finished && ended.code != 0 {
            let message =
                format!("Back-off restarting failed container {name} in pod {}", self.pod.metadata.name);
            self.shared.events.pod(&self.pod.metadata, Some(name), Level::Warning, "BackOff", message);
        }
        known.run = Run::Ended(ended);
        known.again = known.condemned.take().is_some_and(|condemned| condemned.again);
        if let Some(life) = self.lives.remove(name) {
            life.over.send_replace(true);
        }
    }
}
