//! Keeps an eye on containers: tells of what happens to them, knows how they ended, joins those who attach before the
//! start, checks their health, and starts those again that are to be restarted.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::Interest,
    sync::{broadcast, oneshot, watch},
    task::AbortHandle,
};
use wharf_base::{Clock as _, ContainerId, SystemClock, Timestamp};
use wharf_engine::{
    Check, Container, Engine, Error, MAIN, Record, Restart,
    watch::{News, watch},
};
use wharf_runtime::{Ending, Exit, Phase};

use super::{answer::Failure, containers::remove_anonymous, streams::polled};

/// How often containers others made are looked for.
const TICK: Duration = Duration::from_millis(250);
/// Events that are kept for those who ask for the past, and that wait for slow readers.
const KEPT: usize = 1024;
/// The first pause before a restart, doubled from one to the next up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// One that ran so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(10);

/// The shim of a container that removes itself has so long, and is looked at so often.
const REMOVAL: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(2);

/// The streams of a container: its input, output and error.
pub(super) type Streams = [Option<OwnedFd>; 3];

/// How often a container ended, and how the last time.
#[derive(Debug, Clone, Default)]
pub(super) struct Ends {
    pub(super) count: u64,
    pub(super) code: i32,
    pub(super) removed: bool,
}

/// What is kept of one container while the platform runs.
pub(super) struct Live {
    /// Those who want to be attached when it starts.
    waiting: Mutex<Vec<oneshot::Sender<Streams>>>,
    pub(super) ends: watch::Sender<Ends>,
    /// Restarts since it last ran for a while.
    failures: Mutex<u32>,
    /// Held by what decides whether it is started again.
    restarting: Mutex<()>,
    /// What checks its health, until it ends.
    health: Mutex<Option<AbortHandle>>,
    /// That this run wanted for memory has been told.
    out_of_memory: AtomicBool,
}

impl Live {
    fn end_checks(&self) {
        if let Some(checks) = locked(&self.health).take() {
            checks.abort();
        }
    }
}

/// Something that happened, in docker's words.
#[derive(Debug, Clone)]
pub(super) struct Happened {
    pub(super) at: Timestamp,
    pub(super) kind: &'static str,
    pub(super) action: String,
    pub(super) id: String,
    pub(super) attributes: serde_json::Map<String, Value>,
}

/// Keeps an eye on containers.
pub(super) struct Keeper {
    engine: Engine,
    live: Mutex<HashMap<ContainerId, Arc<Live>>>,
    /// Containers made or started here, whose news are told here.
    owned: Mutex<HashSet<ContainerId>>,
    told: broadcast::Sender<Arc<Happened>>,
    past: Mutex<VecDeque<Arc<Happened>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    pub(super) fn start(engine: Engine) -> Arc<Self> {
        let keeper = Arc::new(Self {
            engine: engine.clone(),
            live: Mutex::default(),
            owned: Mutex::default(),
            told: broadcast::Sender::new(KEPT),
            past: Mutex::default(),
        });
        // Ends with the keeper: nobody else has the other side.
        let weak = Arc::downgrade(&keeper);
        let handle = tokio::runtime::Handle::current();
        std::thread::spawn(move || {
            for news in watch(engine, TICK) {
                let Some(keeper) = weak.upgrade() else { return };
                let _inside = handle.enter();
                keeper.hear(news);
            }
        });
        let again = Arc::clone(&keeper);
        tokio::task::spawn_blocking(move || again.restart_all());
        keeper
    }

    /// What happens from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Happened>> {
        self.told.subscribe()
    }

    /// What happened, as far as it is kept.
    pub(super) fn past(&self) -> Vec<Arc<Happened>> {
        locked(&self.past).iter().cloned().collect()
    }

    /// Tells of something.
    pub(super) fn tell(&self, happened: Happened) {
        let happened = Arc::new(happened);
        let mut past = locked(&self.past);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(Arc::clone(&happened));
        // Nobody may listen.
        let _ = self.told.send(happened);
    }

    /// Tells of something that happened to an image, a volume or a network.
    pub(super) fn tell_about(&self, kind: &'static str, action: &str, id: &str, more: &[(&str, String)]) {
        let attributes = more.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.tell(Happened {
            at: SystemClock.now(),
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
        });
    }

    /// Tells of something that happened to a container.
    pub(super) fn tell_of(&self, record: &Record, action: &str, more: &[(&str, String)]) {
        let mut attributes: serde_json::Map<String, Value> =
            record.spec.labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        attributes.insert("image".into(), json!(record.spec.image));
        attributes.insert("name".into(), json!(record.name));
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), json!(value))));
        let (at, id) = (SystemClock.now(), record.id.to_string());
        self.tell(Happened { at, kind: "container", action: action.to_owned(), id, attributes });
    }

    pub(super) fn live(&self, id: &ContainerId) -> Arc<Live> {
        let mut live = locked(&self.live);
        let new = || {
            Arc::new(Live {
                waiting: Mutex::default(),
                ends: watch::Sender::new(Ends::default()),
                failures: Mutex::new(0),
                restarting: Mutex::default(),
                health: Mutex::default(),
                out_of_memory: AtomicBool::new(false),
            })
        };
        Arc::clone(live.entry(id.clone()).or_insert_with(new))
    }

    /// News of containers others started; one's own are told by those who started them.
    fn hear(self: &Arc<Self>, news: News) {
        let own = match news.action {
            "destroy" => locked(&self.owned).remove(&news.id),
            // Only who listens to the runtime hears of it before the end.
            "oom" => self.live(&news.id).out_of_memory.swap(true, Ordering::Relaxed),
            _ => locked(&self.owned).contains(&news.id),
        };
        if own {
            return;
        }
        let live = self.live(&news.id);
        let mut attributes: serde_json::Map<String, Value> =
            news.labels.into_iter().map(|(key, value)| (key, json!(value))).collect();
        attributes.insert("image".into(), json!(news.image));
        attributes.insert("name".into(), json!(news.name));
        if let Some(code) = news.exit_code {
            attributes.insert("exitCode".into(), json!(code.to_string()));
        }
        let action = news.action.to_owned();
        self.tell(Happened { at: news.at, kind: "container", action, id: news.id.to_string(), attributes });
        match (news.action, news.exit_code) {
            ("start", _) => self.watch_health(&news.id, true),
            ("die", Some(code)) => {
                live.end_checks();
                live.ends.send_modify(|ends| (ends.count, ends.code) = (ends.count + 1, code));
                self.restart_later(&news.id, code, None);
            }
            ("destroy", _) => self.gone(&news.id),
            _ => {}
        }
    }

    /// Tells that a container was made here.
    pub(super) fn made(&self, record: &Record) {
        locked(&self.owned).insert(record.id.clone());
        self.tell_of(record, "create", &[]);
    }

    /// A container is removed.
    fn gone(&self, id: &ContainerId) {
        if let Some(live) = locked(&self.live).remove(id) {
            live.end_checks();
            live.ends.send_modify(|ends| ends.removed = true);
        }
    }

    /// Will be attached when the container starts.
    pub(super) fn attach_at_start(&self, id: &ContainerId) -> oneshot::Receiver<Streams> {
        let (sender, receiver) = oneshot::channel();
        let live = self.live(id);
        let mut waiting = locked(&live.waiting);
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        receiver
    }

    /// From here on a container is not started again by itself. Gives it as it is now: it may just have been.
    pub(super) fn stay_stopped(&self, id: &ContainerId) -> Result<Container, Failure> {
        let live = self.live(id);
        let _decided = locked(&live.restarting);
        self.engine.change(id, |record| record.stopped = true)?;
        Ok(self.engine.load(id)?)
    }

    /// Starts a container, joins those who wait for it, and waits for its end in the background. Blocks.
    pub(super) fn start_container(self: &Arc<Self>, record: &Record) -> Result<Vec<String>, Failure> {
        let live = self.live(&record.id);
        live.out_of_memory.store(false, Ordering::Relaxed);
        // From here on its news are told here.
        locked(&self.owned).insert(record.id.clone());
        self.engine.change(&record.id, |record| record.stopped = false)?;
        let started = self.engine.start(record, None, None, |sandbox| {
            let waiting = std::mem::take(&mut *locked(&live.waiting));
            for sender in waiting {
                // It may have gone away.
                let _ = sender.send(sandbox.attach(MAIN)?);
            }
            Ok(sandbox.watch(MAIN)?)
        });
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                locked(&live.waiting).clear();
                if record.spec.auto_remove {
                    self.engine.forget(&record.id, &record.name)?;
                    self.destroyed(record);
                }
                return Err(error.into());
            }
        };
        self.tell_of(record, "start", &[]);
        self.watch_health(&record.id, true);
        let (keeper, record, ending) = (Arc::clone(self), record.clone(), started.joined);
        tokio::runtime::Handle::current().spawn(async move { keeper.follow(record, ending).await });
        Ok(started.warnings)
    }

    async fn follow(self: Arc<Self>, record: Record, ending: Ending) {
        let began = std::time::Instant::now();
        let exit = match end_of(ending).await {
            Ok(exit) => exit,
            Err(_) => {
                let (engine, id) = (self.engine.clone(), record.id.clone());
                let told = tokio::task::spawn_blocking(move || end_without_word(&engine, &id)).await;
                match told.ok().flatten() {
                    Some(exit) => exit,
                    None if record.spec.auto_remove || !self.engine.folder(&record.id).exists() => {
                        return self.removed_by_itself(&record).await;
                    }
                    None => {
                        tracing::error!(container = record.name, "how a container ended is not known");
                        return;
                    }
                }
            }
        };
        if exit.oom_killed && !self.live(&record.id).out_of_memory.swap(true, Ordering::Relaxed) {
            self.tell_of(&record, "oom", &[]);
        }
        self.tell_of(&record, "die", &[("exitCode", exit.code.to_string())]);
        let live = self.live(&record.id);
        live.end_checks();
        live.ends.send_modify(|ends| (ends.count, ends.code) = (ends.count + 1, exit.code));
        if record.spec.auto_remove {
            return self.removed_by_itself(&record).await;
        }
        let (keeper, code, ran) = (Arc::clone(&self), exit.code, began.elapsed());
        let asked = tokio::task::spawn_blocking(move || keeper.restart_later(&record.id, code, Some(ran)));
        if let Err(error) = asked.await {
            tracing::error!(%error, "whether a container is to be restarted is not known");
        }
    }

    /// Its shim removes the folder of a container that removes itself; the rest is done here.
    async fn removed_by_itself(&self, record: &Record) {
        let (engine, record) = (self.engine.clone(), record.clone());
        let done = tokio::task::spawn_blocking(move || {
            let dir = wharf_runtime::PodDir::at(engine.folder(&record.id));
            let deadline = std::time::Instant::now() + REMOVAL;
            while dir.path().exists() && dir.has_shim() && std::time::Instant::now() < deadline {
                std::thread::sleep(GLANCE);
            }
            // Never one that is to stay.
            if record.spec.auto_remove
                && let Ok(container) = engine.load(&record.id)
                && let Err(error) = engine.remove(&container, true)
                && dir.path().exists()
            {
                return Err(error);
            }
            engine.forget(&record.id, &record.name)?;
            remove_anonymous(&engine, &record);
            Ok::<_, Error>(record)
        });
        match done.await {
            Ok(Ok(record)) => self.destroyed(&record),
            Ok(Err(error)) => tracing::warn!(%error, "a container cannot remove itself"),
            Err(error) => tracing::error!(%error, "a container cannot remove itself"),
        }
    }

    /// Tells that a container is removed.
    pub(super) fn destroyed(&self, record: &Record) {
        self.tell_of(record, "destroy", &[]);
        self.gone(&record.id);
    }

    /// Starts a container again after a pause, if it is to be. Blocks for a moment.
    fn restart_later(self: &Arc<Self>, id: &ContainerId, code: i32, ran: Option<Duration>) {
        let Ok(container) = self.engine.load(id) else { return };
        if !wants_restart(&container.record, code) {
            return;
        }
        let live = self.live(id);
        let failures = {
            let mut failures = locked(&live.failures);
            *failures = if ran.is_some_and(|ran| ran >= STEADY) { 0 } else { *failures + 1 };
            *failures
        };
        let pause = BACKOFF.0.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF.1);
        let (keeper, id) = (Arc::clone(self), id.clone());
        tokio::runtime::Handle::current().spawn(async move {
            tokio::time::sleep(pause).await;
            let restarted = tokio::task::spawn_blocking(move || {
                let live = keeper.live(&id);
                let _decided = locked(&live.restarting);
                // It may have been stopped, removed or started meanwhile.
                let Ok(container) = keeper.engine.load(&id) else { return Ok(()) };
                if container.is_running() || !wants_restart(&container.record, code) {
                    return Ok(());
                }
                let started = keeper.start_container(&container.record).map(drop);
                // Counted when it is done: the last one counted before would show a container that is given up.
                keeper.engine.change(&id, |record| record.restarts += 1)?;
                started
            });
            if let Ok(Err(failure)) = restarted.await {
                tracing::warn!(error = failure.message(), "a container cannot be restarted");
            }
        });
    }

    /// Checks the health of a container that runs, where it is to be checked, until it ends. Blocks for a moment.
    fn watch_health(self: &Arc<Self>, id: &ContainerId, anew: bool) {
        let Ok(container) = self.engine.load(id) else { return };
        let check = container.is_running().then(|| self.engine.check_of(&container)).flatten();
        let Some(check) = check else { return };
        if anew && let Err(error) = self.engine.reset_health(&container) {
            tracing::warn!(container = container.name(), %error, "the health of a container is not kept");
        }
        let keeper = Arc::clone(self);
        let checks = async move { keeper.check_health(container, check).await };
        let checks = tokio::runtime::Handle::current().spawn(checks).abort_handle();
        if let Some(before) = locked(&self.live(id).health).replace(checks) {
            before.abort();
        }
    }

    async fn check_health(self: Arc<Self>, container: Container, check: Check) {
        let begun = container.status.started_at;
        let id = container.id;
        loop {
            let (engine, at) = (self.engine.clone(), id.clone());
            let now = tokio::task::spawn_blocking(move || engine.load(&at)).await;
            // It may have ended, and run again: then somebody else checks it.
            let Some(now) = now.ok().and_then(Result::ok).filter(|now| now.status.started_at == begun) else {
                return;
            };
            let running = begun.map(|begun| SystemClock.now().since(begun)).unwrap_or_default();
            let health = now.health().ok().flatten().unwrap_or_default();
            tokio::time::sleep(check.pause(&health, running)).await;
            let (engine, at, check) = (self.engine.clone(), id.clone(), check.clone());
            let checked = tokio::task::spawn_blocking(move || {
                let container = engine.load(&at)?;
                match container.status.phase {
                    Phase::Paused => Ok(None),
                    _ => engine.check_health(&container, &check),
                }
            });
            match checked.await {
                Ok(Ok(Some(status))) => {
                    self.tell_of(&now.record, &format!("health_status: {}", status.word()), &[]);
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a container's health is not checked any more");
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// At the start of the platform: those that ran when the machine or the platform went down.
    fn restart_all(self: &Arc<Self>) {
        for container in self.engine.all().unwrap_or_default() {
            if container.is_running() {
                self.watch_health(&container.id, false);
            }
            let record = &container.record;
            let ended = container.status.exit.as_ref().map(|exit| exit.code);
            let wants = match record.spec.restart {
                // As docker: also one that a person stopped.
                Restart::Always => true,
                Restart::UnlessStopped => !record.stopped,
                Restart::OnFailure(_) => ended.is_some_and(|code| wants_restart(record, code)),
                Restart::No => false,
            };
            if ended.is_none() || !wants || container.is_running() {
                continue;
            }
            if let Err(failure) = self.start_container(record) {
                tracing::warn!(
                    container = record.name,
                    error = failure.message(),
                    "a container cannot be restarted"
                );
            }
        }
    }

    /// How a container ends from now on, and how often it has.
    pub(super) fn ends(&self, container: &Container) -> (watch::Receiver<Ends>, Ends) {
        let receiver = self.live(&container.id).ends.subscribe();
        let now = receiver.borrow().clone();
        (receiver, now)
    }
}

/// How a container ended whose shim was killed. What that could not write is put in order by whoever looks first, which takes a moment:
/// its connection closes before all of it is gone. Nothing for a container that is gone, or does not come in order. Blocks.
fn end_without_word(engine: &Engine, id: &ContainerId) -> Option<Exit> {
    let deadline = std::time::Instant::now() + REMOVAL;
    while engine.folder(id).exists() && std::time::Instant::now() < deadline {
        if let Some(exit) = engine.load(id).ok().and_then(|container| container.status.exit) {
            return Some(exit);
        }
        std::thread::sleep(GLANCE);
    }
    None
}

/// Whether a container that ended so is started again by itself.
pub(super) fn wants_restart(record: &Record, code: i32) -> bool {
    !record.stopped
        && match record.spec.restart {
            Restart::No => false,
            Restart::Always | Restart::UnlessStopped => true,
            Restart::OnFailure(0) => code != 0,
            Restart::OnFailure(most) => code != 0 && record.restarts < most,
        }
}

/// A descriptor that is waited for.
struct Waited(Ending);

impl AsRawFd for Waited {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for an end without holding a thread.
pub(super) async fn end_of(ending: Ending) -> Result<Exit, Failure> {
    let waited = polled(Waited(ending), Interest::READABLE)?;
    waited.readable().await?.retain_ready();
    let mut ending = waited.into_inner().0;
    super::blocking(move || Ok(ending.wait()?)).await
}
