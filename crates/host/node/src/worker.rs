//! One pod's worker: hears of changes, asks the decision what to do, and sees to it that it is done.

pub(crate) mod exec;
mod handle;
pub(crate) mod ops;
mod publish;
pub(crate) mod recover;

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep},
};
use wharf_base::{Clock, SystemClock, Timestamp};
use wharf_client::{Informer, Object};
use wharf_runtime::{Event, Sandbox, Status};

use crate::{
    agent::{Mode, Shared},
    config::Failure,
    events::Level,
    model::Pod,
    probe::{self, Answer, Kind},
    spec::run_name,
    step::{
        Action, Condemned, ContainerState, Ending, PodState, Reason, Retry, Run, Running,
        Sandbox as SandboxState, Termination, decide,
    },
    volumes::{Tokens, Volumes},
};
pub(crate) use handle::{ContainerView, PodHandle, View};
use ops::{End, Place, Ready, Started, Unstarted};
use publish::Publisher;
use recover::{Found, Notes};

/// What a worker hears.
pub(crate) enum Message {
    /// The pod as it is in the API now.
    Pod(Object),
    /// The pod is gone from the API.
    Gone,
    Found(Result<Found, wharf_runtime::Error>),
    Ready(Box<Result<Ready, Reason>>),
    Started {
        container: String,
        attempt: u32,
        result: Result<Started, Unstarted>,
    },
    Condemn {
        container: String,
        attempt: u32,
        why: String,
    },
    Stopped {
        container: String,
    },
    Answer {
        container: String,
        attempt: u32,
        answer: Answer,
    },
    Runtime(Event),
    /// The shim with this process id is gone.
    ShimGone(i32),
    Removed(Result<(), Failure>),
    /// An object a volume shows has changed, or a token is old.
    Refresh,
}

pub(crate) type Sender = mpsc::UnboundedSender<Message>;

/// What belongs to one run of a container.
struct Life {
    over: watch::Sender<bool>,
    deadline: watch::Sender<Instant>,
    probes: JoinSet<()>,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    folder: PathBuf,
    state: PodState,
    sandbox: Option<Arc<dyn Sandbox>>,
    volumes: Volumes,
    tokens: Tokens,
    watches: Vec<(Arc<Informer>, AbortHandle)>,
    refresh_at: Option<Timestamp>,
    refreshing: bool,
    refresh_wanted: bool,
    lives: HashMap<String, Life>,
    /// Starts under way, to be broken off when the pod ends.
    starts: HashMap<String, AbortHandle>,
    /// Ends heard of before the start was.
    early: HashMap<String, Status>,
    setup_failures: u32,
    notes: Notes,
    publisher: Publisher,
    handle: Arc<PodHandle>,
    sender: Sender,
    tasks: JoinSet<()>,
}

/// What a worker leaves when it ends.
enum Next {
    Go,
    End,
}

impl Worker {
    /// Begins with a pod.
    pub(crate) fn start(
        shared: Arc<Shared>,
        object: &Object,
        pod: Pod,
    ) -> (Arc<PodHandle>, impl Future<Output = ()> + use<>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let handle = Arc::new(PodHandle::new(&pod, sender.clone()));
        let folder = shared.pod_folder(&pod.metadata.uid);
        let publisher = Publisher::start(Arc::clone(&shared), &pod, object);
        let worker = Self {
            folder,
            pod: Arc::new(pod),
            state: PodState { busy: true, ..PodState::default() },
            sandbox: None,
            volumes: Volumes::default(),
            tokens: Tokens::default(),
            watches: Vec::new(),
            refresh_at: None,
            refreshing: false,
            refresh_wanted: false,
            lives: HashMap::new(),
            starts: HashMap::new(),
            early: HashMap::new(),
            setup_failures: 0,
            notes: Notes::default(),
            publisher,
            handle: Arc::clone(&handle),
            sender,
            tasks: JoinSet::new(),
            shared,
        };
        (handle, worker.run(receiver))
    }

    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        let mut mode = self.shared.mode.subscribe();
        self.begin();
        loop {
            let wake = match self.advance().await {
                (Next::End, _) => return,
                (Next::Go, wake) => wake,
            };
            let pause = wake.map_or(Duration::from_secs(3600), |at| at.since(SystemClock.now()));
            tokio::select! {
                message = messages.recv() => {
                    let Some(message) = message else { return };
                    self.hear(message);
                    // Whatever else has come is taken together.
                    while let Ok(message) = messages.try_recv() {
                        self.hear(message);
                    }
                }
                changed = mode.changed() => {
                    if changed.is_err() || *mode.borrow() == Mode::Stop {
                        return;
                    }
                    self.drain();
                }
                // A deadline in the middle of a millisecond must not be looked at just before it.
                () = sleep(pause + Duration::from_millis(1)), if wake.is_some() => {}
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Looks at what is there: nothing, a living pod, or the rest of one.
    fn begin(&mut self) {
        let ended = matches!(self.pod.status.phase.as_str(), "Succeeded" | "Failed");
        if !self.folder.exists() {
            self.state.busy = false;
            self.state.started = Some(SystemClock.now());
            // Ended long ago, and its folder is gone: nothing to run, nothing to say.
            self.state.removed = ended;
            self.publisher.mute(ended);
        } else {
            let (runtime, pod, folder, sender) = (
                Arc::clone(&self.shared.config.runtime),
                Arc::clone(&self.pod),
                self.folder.clone(),
                self.sender.clone(),
            );
            self.tasks.spawn(async move {
                let found = spawn_blocking(move || recover::find(&*runtime, &pod, &folder)).await;
                if let Ok(found) = found {
                    let _ = sender.send(Message::Found(found));
                }
            });
        }
        self.consider_deletion();
    }

    /// Decides, and starts what was decided.
    async fn advance(&mut self) -> (Next, Option<Timestamp>) {
        let now = SystemClock.now();
        let mut decision = decide(&self.pod, &self.state, now);
        if let [Action::Fail(reason)] = decision.actions.as_slice() {
            self.note(None, Level::Normal, &reason.reason, reason.message.clone());
            self.state.failed = Some(reason.clone());
            decision = decide(&self.pod, &self.state, now);
        }
        for action in decision.actions {
            match action {
                Action::Setup => self.set_up(),
                Action::Start { container, attempt } => self.start_container(&container, attempt, now),
                Action::Stop { container, grace, why } => self.stop_container(&container, grace, why),
                Action::Remove => self.remove(),
                Action::Fail(reason) => self.state.failed = Some(reason),
                Action::Delete => {
                    self.finish().await;
                    return (Next::End, None);
                }
            }
        }
        if self.state.removed && self.state.ending.as_ref().is_some_and(|ending| !ending.delete) {
            self.clear_folder().await;
            return (Next::End, None);
        }
        self.show(now);
        let refresh = self.refresh_at.filter(|_| self.state.sandbox == SandboxState::Ready);
        if refresh.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.refresh();
        }
        (Next::Go, decision.wake.into_iter().chain(self.refresh_at).min())
    }

    /// Tells the API, those who stream, and the folder how the pod is.
    fn show(&mut self, now: Timestamp) {
        self.handle.show(&self.pod, &self.state, self.sandbox.as_ref());
        let recovering = self.state.sandbox == SandboxState::Absent && self.sandbox.is_some();
        if self.state.started.is_some() && !recovering {
            self.publisher.publish(&self.pod, &self.state, now);
        }
        let notes = Notes::of(&self.state);
        if notes != self.notes && self.folder.exists() {
            match notes.save(&self.folder) {
                Ok(()) => self.notes = notes,
                Err(error) => tracing::warn!(%error, folder = %self.folder.display(), "notes cannot be kept"),
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Pod(object) => self.changed(&object),
            Message::Gone => self.gone(),
            Message::Found(found) => self.found(found),
            Message::Ready(ready) => self.ready(*ready),
            Message::Started { container, attempt, result } => self.started(&container, attempt, result),
            Message::Condemn { container, attempt, why } => self.condemn(&container, attempt, None, why),
            Message::Stopped { container } => {
                if let Some(known) = self.state.containers.get_mut(&container) {
                    known.busy = false;
                    known.condemned = None;
                }
            }
            Message::Answer { container, attempt, answer } => self.answered(&container, attempt, answer),
            Message::Runtime(Event::Started { .. }) => {}
            Message::Runtime(Event::Exited { name, .. }) => self.exited(&name),
            Message::ShimGone(pid) => self.shim_gone(pid),
            Message::Removed(result) => self.removed(result),
            Message::Refresh => self.refresh(),
        }
    }

    fn changed(&mut self, object: &Object) {
        match Pod::read(object) {
            Ok(pod) => {
                let relabelled = pod.metadata.labels != self.pod.metadata.labels
                    || pod.metadata.annotations != self.pod.metadata.annotations;
                self.pod = Arc::new(pod);
                if relabelled {
                    self.refresh();
                }
                self.consider_deletion();
            }
            Err(error) => {
                tracing::warn!(%error, pod = %self.pod.metadata.name, "a change of the pod cannot be read")
            }
        }
    }

    fn consider_deletion(&mut self) {
        if self.pod.metadata.deleting() {
            self.end(self.pod.grace(), "the pod is deleted", true);
        }
    }

    fn gone(&mut self) {
        let grace = self.pod.grace();
        self.publisher.mute(true);
        self.end(grace, "the pod is gone from the API", false);
        if let Some(ending) = &mut self.state.ending {
            ending.delete = false;
        }
    }

    fn drain(&mut self) {
        self.publisher.mute(true);
        self.end(self.pod.grace().min(10), "the node is drained", false);
        if let Some(ending) = &mut self.state.ending {
            ending.delete = false;
        }
    }

    /// The pod is to end, in so many seconds; a second word may only shorten that.
    fn end(&mut self, grace: i64, why: &'static str, delete: bool) {
        let now = SystemClock.now();
        match &mut self.state.ending {
            Some(ending) if grace >= ending.grace => return,
            Some(ending) => ending.grace = grace,
            None => self.state.ending = Some(Ending { since: now, grace, why, delete }),
        }
        let since = self.state.ending.as_ref().map_or(now, |ending| ending.since);
        let due = since.plus(Duration::from_secs(grace.unsigned_abs())).since(now);
        for life in self.lives.values() {
            life.deadline.send_if_modified(|deadline| {
                let new = Instant::now() + due;
                let shorter = new < *deadline;
                *deadline = if shorter { new } else { *deadline };
                shorter
            });
        }
        // A pull may take for ever. A start that is past it is waited for.
        for (container, start) in self.starts.drain() {
            start.abort();
            let _ = self.sender.send(Message::Started {
                container,
                attempt: u32::MAX,
                result: Err(Unstarted::Retry(Reason::new("ContainerCreating", "the pod ends"))),
            });
        }
    }

    fn found(&mut self, found: Result<Found, wharf_runtime::Error>) {
        match found {
            Ok(found) => {
                let ending = self.state.ending.take();
                self.state = PodState { ending, ..found.state };
                self.state.started.get_or_insert_with(|| SystemClock.now());
                for run in &found.lost {
                    self.note(None, Level::Warning, "ContainerLost", format!("{run} was lost with its shim"));
                }
                self.trust_api();
                if let Some(sandbox) = found.sandbox {
                    // Its network and volumes are looked at again before anything is started in it.
                    self.adopt(&sandbox);
                    self.state.sandbox = SandboxState::Absent;
                }
            }
            Err(error) => {
                self.state.busy = false;
                self.state.started.get_or_insert_with(|| SystemClock.now());
                self.setup_failed(Reason::new("FailedCreatePodSandBox", error.to_string()));
            }
        }
    }

    /// What the API says of probes passed stands until they are asked again: a restart of the agent takes no pod out of service.
    fn trust_api(&mut self) {
        let seen = &self.pod.status;
        for status in seen.container_statuses.iter().chain(&seen.init_container_statuses) {
            let known = status["name"].as_str().and_then(|name| self.state.containers.get_mut(name));
            let Some(known) = known.filter(|known| status["restartCount"] == known.attempt) else { continue };
            if let Run::Running(running) = &mut known.run {
                running.started |= status["started"] == true;
                running.ready |= status["ready"] == true;
            }
        }
    }

    fn set_up(&mut self) {
        let living = self.sandbox.clone();
        self.state.busy = true;
        let (shared, pod, folder) = (Arc::clone(&self.shared), Arc::clone(&self.pod), self.folder.clone());
        let (tokens, sender) = (std::mem::take(&mut self.tokens), self.sender.clone());
        self.tasks.spawn(async move {
            let ready = ops::set_up(shared, pod, folder, living, tokens).await;
            let _ = sender.send(Message::Ready(Box::new(ready)));
        });
    }

    fn ready(&mut self, ready: Result<Ready, Reason>) {
        let was_refresh = std::mem::take(&mut self.refreshing);
        if !was_refresh {
            self.state.busy = false;
        }
        match ready {
            Ok(_) if was_refresh && self.state.sandbox == SandboxState::Absent => {}
            Ok(ready) => {
                if self.sandbox.is_none() {
                    self.adopt(&ready.sandbox);
                }
                self.setup_failures = 0;
                self.state.setup_failure = None;
                self.state.sandbox = SandboxState::Ready;
                self.state.ip = ready.ip;
                self.volumes = ready.volumes;
                self.tokens = ready.tokens;
                self.refresh_at = ready.upkeep.renew;
                self.watch_objects(&ready.upkeep.objects);
                self.resume();
            }
            Err(reason) if was_refresh => {
                self.note(None, Level::Warning, &reason.reason, reason.message);
                self.refresh_at = Some(SystemClock.now().plus(REFRESH_AGAIN));
            }
            Err(reason) => self.setup_failed(reason),
        }
        if std::mem::take(&mut self.refresh_wanted) {
            self.refresh();
        }
    }

    fn setup_failed(&mut self, why: Reason) {
        let (level, now) = (Level::Warning, SystemClock.now());
        self.note(None, level, &why.reason, why.message.clone());
        // The kubelet's pace for volumes: half a second, doubling to about two minutes.
        let pause = Duration::from_millis(500) * 2u32.pow(self.setup_failures.min(8));
        self.setup_failures += 1;
        self.state.setup_failure = Some(Retry { why, failed: now, at: now.plus(pause) });
    }

    /// Listens to a sandbox from now on.
    fn adopt(&mut self, sandbox: &Arc<dyn Sandbox>) {
        self.sandbox = Some(Arc::clone(sandbox));
        let (sandbox, sender) = (Arc::clone(sandbox), self.sender.clone());
        let name = format!("pod-{}", self.pod.metadata.name);
        let listen = move || {
            let pid = sandbox.pid();
            if let Ok(mut events) = sandbox.events() {
                // What ended before the connection stood is asked for.
                for status in sandbox.list().unwrap_or_default() {
                    if let Some(exit) = status.exit {
                        let _ = sender.send(Message::Runtime(Event::Exited { name: status.name, exit }));
                    }
                }
                drop(sandbox);
                while let Ok(Some(event)) = events.wait() {
                    if sender.send(Message::Runtime(event)).is_err() {
                        return;
                    }
                }
            }
            let _ = sender.send(Message::ShimGone(pid));
        };
        if let Err(error) = std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(listen) {
            tracing::error!(%error, "a pod cannot be listened to");
        }
    }

    /// Takes up probes of containers that run since before.
    fn resume(&mut self) {
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

    fn note(&self, container: Option<&str>, level: Level, reason: &str, message: impl Into<String>) {
        self.shared.events.pod(&self.pod.metadata, container, level, reason, message);
    }

    fn place(&self) -> Option<Place> {
        Some(Place {
            shared: Arc::clone(&self.shared),
            pod: Arc::clone(&self.pod),
            folder: self.folder.clone(),
            sandbox: Arc::clone(self.sandbox.as_ref()?),
            ip: self.state.ip,
        })
    }

    fn start_container(&mut self, name: &str, attempt: u32, now: Timestamp) {
        let (Some(place), Some(container)) = (self.place(), self.pod.container(name).cloned()) else {
            return;
        };
        let known = self.state.containers.entry(name.to_owned()).or_default();
        if let Run::Ended(ended) = std::mem::take(&mut known.run) {
            known.last = Some(ended);
            known.restart.count(now);
        }
        known.attempt = attempt;
        known.busy = true;
        self.forget_old_runs(name, attempt);
        let (volumes, sender, name) = (self.volumes.clone(), self.sender.clone(), name.to_owned());
        let start = self.tasks.spawn({
            let name = name.clone();
            async move {
                let result = place.start(&container, attempt, &volumes).await;
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

    /// Removes the run before the last one.
    fn forget_old_runs(&self, name: &str, attempt: u32) {
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

    fn started(&mut self, name: &str, attempt: u32, result: Result<Started, Unstarted>) {
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
                known.run = Run::Ended(ended);
            }
            Err(Unstarted::Retry(why)) => {
                let is_pull = matches!(why.reason.as_str(), "ErrImagePull" | "ErrImageNeverPull");
                let at = match is_pull {
                    true => {
                        known.pull.count(now);
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

    fn start_probes(&mut self, name: &str, attempt: u32) {
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

    fn answered(&mut self, name: &str, attempt: u32, answer: Answer) {
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

    fn condemn(&mut self, name: &str, attempt: u32, grace: Option<i64>, why: String) {
        let grace = grace.or(self.pod.spec.termination_grace_period_seconds).unwrap_or(30);
        let known = self.state.containers.get_mut(name).filter(|known| known.attempt == attempt);
        if let Some(known) = known.filter(|known| known.condemned.is_none()) {
            known.condemned = Some(Condemned { grace, why });
        }
    }

    fn stop_container(&mut self, name: &str, grace: i64, why: String) {
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
    fn exited(&mut self, run: &str) {
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

    fn over(&mut self, name: &str, ended: Termination) {
        let Some(known) = self.state.containers.get_mut(name) else { return };
        let goes_on = self.state.ending.is_none();
        let until = known.restart.until(ended.finished);
        if goes_on && until > ended.finished && ended.code != 0 {
            let message =
                format!("Back-off restarting failed container {name} in pod {}", self.pod.metadata.name);
            self.shared.events.pod(&self.pod.metadata, Some(name), Level::Warning, "BackOff", message);
        }
        known.run = Run::Ended(ended);
        known.condemned = None;
        if let Some(life) = self.lives.remove(name) {
            life.over.send_replace(true);
        }
    }

    fn shim_gone(&mut self, pid: i32) {
        if self.sandbox.as_ref().is_none_or(|sandbox| sandbox.pid() != pid) || self.state.removed {
            return;
        }
        if self.state.busy && self.state.ending.is_some() {
            return;
        }
        self.note(
            None,
            Level::Warning,
            "SandboxChanged",
            "the pod's shim has died; its containers ended with it",
        );
        self.sandbox = None;
        for (_, life) in self.lives.drain() {
            life.over.send_replace(true);
        }
        self.state.busy = true;
        let (shared, pod, folder, sender) =
            (Arc::clone(&self.shared), Arc::clone(&self.pod), self.folder.clone(), self.sender.clone());
        let notes = Notes::of(&self.state);
        self.tasks.spawn(async move {
            let found = spawn_blocking(move || {
                let _ = notes.save(&folder);
                let found = recover::find(&*shared.config.runtime, &pod, &folder);
                // The address went with the namespace.
                if let Err(failure) = shared.config.network.detach(&pod.metadata.uid) {
                    tracing::warn!(%failure, pod = %pod.metadata.name, "a pod's network is not taken back");
                }
                found
            });
            if let Ok(found) = found.await {
                let _ = sender.send(Message::Found(found));
            }
        });
    }

    fn remove(&mut self) {
        self.state.busy = true;
        self.watches.drain(..).for_each(|(_, task)| task.abort());
        self.refresh_at = None;
        let (shared, uid, folder) =
            (Arc::clone(&self.shared), self.pod.metadata.uid.clone(), self.folder.clone());
        let (sandbox, sender) = (self.sandbox.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let released =
                spawn_blocking(move || ops::release(&shared, &uid, &folder, sandbox.as_deref())).await;
            let released = released.unwrap_or_else(|_| Err(Failure("the work was broken off".to_owned())));
            let _ = sender.send(Message::Removed(released));
        });
    }

    fn removed(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.state.busy = false;
                self.state.removed = true;
                self.state.sandbox = SandboxState::Absent;
                self.sandbox = None;
            }
            Err(failure) => {
                self.note(None, Level::Warning, "FailedKillPod", format!("error killing pod: {failure}"));
                let sender = self.sender.clone();
                // `busy` holds everything else back meanwhile.
                let (shared, uid, folder) =
                    (Arc::clone(&self.shared), self.pod.metadata.uid.clone(), self.folder.clone());
                self.tasks.spawn(async move {
                    sleep(RETRY).await;
                    let released = spawn_blocking(move || ops::release(&shared, &uid, &folder, None)).await;
                    let released =
                        released.unwrap_or_else(|_| Err(Failure("the work was broken off".to_owned())));
                    let _ = sender.send(Message::Removed(released));
                });
            }
        }
    }

    async fn clear_folder(&mut self) {
        ops::release_images(&self.shared, &self.pod);
        let folder = self.folder.clone();
        if let Ok(Err(error)) = spawn_blocking(move || ops::remove_files(&folder)).await {
            tracing::error!(%error, pod = %self.pod.metadata.name, "a pod's folder cannot be removed");
        }
    }

    /// Nothing is left here: says so and deletes the object.
    async fn finish(&mut self) {
        self.clear_folder().await;
        self.publisher.last_word(&self.pod, &self.state).await;
        publish::delete(&self.shared, &self.pod).await;
    }

    fn watch_objects(&mut self, objects: &[crate::watches::ObjectName]) {
        if !self.watches.is_empty() {
            return;
        }
        for object in objects {
            let watch = self.shared.objects.watch(object);
            let (mut changes, sender) = (watch.subscribe(), self.sender.clone());
            let task = self.tasks.spawn(async move {
                // The content was read just before: what is there already is no change, but looking twice is cheap.
                while changes.recv().await.is_some() {
                    if sender.send(Message::Refresh).is_err() {
                        return;
                    }
                }
            });
            self.watches.push((watch, task));
        }
    }

    /// Brings the files of volumes up to date.
    fn refresh(&mut self) {
        let (true, Some(place), false) =
            (self.state.sandbox == SandboxState::Ready && !self.state.busy, self.place(), self.refreshing)
        else {
            self.refresh_wanted = self.refreshing || self.state.busy;
            return;
        };
        if self.pod.spec.volumes.is_empty() || self.state.ending.is_some() {
            return;
        }
        self.refreshing = true;
        let (tokens, sender) = (self.tokens.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let ready = ops::refresh(place, tokens).await;
            let _ = sender.send(Message::Ready(Box::new(ready)));
        });
    }
}

/// How long a container that could not be described or made waits.
const RETRY: Duration = Duration::from_secs(5);
/// How long a volume's content that could not be brought up to date waits.
const REFRESH_AGAIN: Duration = Duration::from_secs(10);

impl Life {
    fn new() -> Self {
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        Self { over: watch::Sender::new(false), deadline: watch::Sender::new(far), probes: JoinSet::new() }
    }
}
