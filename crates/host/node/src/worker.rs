//! One pod's worker: hears of changes, asks the decision what to do, and sees to it that it is done.

mod containers;
pub(crate) mod exec;
mod handle;
pub(crate) mod ops;
mod publish;
pub(crate) mod recover;
mod sandbox;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

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
    model::{Container, Pod, Resources},
    probe::Answer,
    step::{Action, Ending, PodState, Reason, Sandbox as SandboxState, decide},
    volumes::{Tokens, Volumes},
};
pub(crate) use handle::{ContainerView, PodHandle, View};
use ops::{Place, Ready, Started, Unstarted};
use publish::Publisher;
use recover::{Found, Notes};

/// What a worker hears.
pub(crate) enum Message {
    /// The pod as it is in the API now.
    Pod(Object),
    /// The pod is gone from the API.
    Gone,
    Found(Box<Result<Found, wharf_runtime::Error>>),
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
    /// Containers, with the numbers of their runs, have the resources they were to have; the pod is sized by these.
    Resized {
        containers: Vec<(Container, u32)>,
        wanted: BTreeMap<String, Resources>,
        result: Result<(), Failure>,
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
    /// Its sandbox is being ended: the shim's end is no accident.
    removing: bool,
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
            removing: false,
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
                    let _ = sender.send(Message::Found(Box::new(found)));
                }
            });
        }
        self.consider_deletion();
    }

    /// Decides, and starts what was decided.
    async fn advance(&mut self) -> (Next, Option<Timestamp>) {
        let now = SystemClock.now();
        self.consider_size();
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
                Action::Resize { containers } => self.resize(&containers),
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
            Message::Found(found) => self.found(*found),
            Message::Ready(ready) => self.ready(*ready),
            Message::Started { container, attempt, result } => self.started(&container, attempt, result),
            Message::Condemn { container, attempt, why } => self.condemn(&container, attempt, None, why),
            Message::Stopped { container } => {
                if let Some(known) = self.state.containers.get_mut(&container) {
                    known.busy = false;
                    known.condemned = None;
                }
            }
            Message::Resized { containers, wanted, result } => self.resized(containers, wanted, result),
            Message::Answer { container, attempt, answer } => self.answered(&container, attempt, answer),
            Message::Runtime(
                Event::Started { .. } | Event::OutOfMemory { .. } | Event::ForkRefused { .. },
            ) => {}
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
                let before = std::mem::replace(&mut self.pod, Arc::new(pod));
                self.condemn_changed(&before);
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
}

/// How long what could not be made or taken away waits.
const RETRY: Duration = Duration::from_secs(5);

impl Life {
    fn new() -> Self {
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        Self { over: watch::Sender::new(false), deadline: watch::Sender::new(far), probes: JoinSet::new() }
    }
}
