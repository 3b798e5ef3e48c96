//! What happens to containers, whoever made them: told as it happens, in docker's words.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use wharf_base::{Clock as _, ContainerId, SystemClock, Timestamp};
use wharf_runtime::{Event, Exit, Phase, PodDir, Runtime as _, ShimRuntime};

use crate::{MAIN, containers::Engine, spec::Record};

/// Between two tries to reach the shim of a container that is being made, and how long it is waited for.
const RETRY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// News that wait for whoever reads them.
const WAITING: usize = 1024;

/// Something that happened to a container.
#[derive(Debug, Clone)]
pub struct News {
    /// When.
    pub at: Timestamp,
    /// Whom.
    pub id: ContainerId,
    /// `create`, `start`, `oom`, `die`, `destroy`.
    pub action: &'static str,
    /// Its name.
    pub name: String,
    /// Its image, as it was named.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How it ended.
    pub exit_code: Option<i32>,
}

/// Tells what happens from now on, until the receiver is dropped. New containers are looked for every `tick`.
pub fn watch(engine: Engine, tick: Duration) -> Receiver<News> {
    let (tell, news) = sync_channel(WAITING);
    std::thread::spawn(move || {
        let mut known = BTreeMap::new();
        let mut first = true;
        let closed = Arc::new(AtomicBool::new(false));
        while !closed.load(Ordering::Relaxed) {
            // What happened before is not told.
            let teller = Teller { tell: tell.clone(), closed: Arc::clone(&closed) };
            look(&engine, &mut known, &teller, std::mem::take(&mut first));
            std::thread::sleep(tick);
        }
    });
    news
}

/// Who tells.
#[derive(Clone)]
struct Teller {
    tell: SyncSender<News>,
    /// Nobody listens any more.
    closed: Arc<AtomicBool>,
}

impl Teller {
    fn tell(&self, news: News) {
        if self.tell.send(news).is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }
}

/// What is known of a container.
#[derive(Default)]
struct Known {
    about: Option<About>,
    /// Somebody follows it.
    followed: Arc<AtomicBool>,
    /// The start that was told last, which its follower writes down: it may begin and end between two looks.
    started: Arc<Mutex<Option<Timestamp>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows containers that are new or run again, and tells of those that are gone.
fn look(engine: &Engine, known: &mut BTreeMap<ContainerId, Known>, teller: &Teller, first: bool) {
    let there: BTreeSet<ContainerId> = engine.ids().unwrap_or_default().into_iter().collect();
    for id in &there {
        let new = !known.contains_key(id);
        let entry = known.entry(id.clone()).or_default();
        let dir = PodDir::at(engine.folder(id));
        if entry.about.is_none() {
            entry.about = engine.record(id).ok().map(|record| About::of(&record));
        }
        // Its follower tells of its start.
        if entry.followed.load(Ordering::Acquire) {
            continue;
        }
        let started = dir.status(MAIN).ok().and_then(|status| status.started_at);
        let before = match first {
            true => started,
            false => *locked(&entry.started),
        };
        *locked(&entry.started) = before;
        let runs = dir.has_shim() && !dir.status(MAIN).is_ok_and(|status| status.phase == Phase::Exited);
        let again = started.is_some() && started != before;
        if (new && !first) || runs || again {
            entry.followed.store(true, Ordering::Relaxed);
            let told = Told {
                create: !new || first,
                // One that ran before is told of from its end on.
                start: before.is_some() && started == before,
                started: Arc::clone(&entry.started),
            };
            let follower = Follower { engine: engine.clone(), id: id.clone(), told, teller: teller.clone() };
            let followed = Arc::clone(&entry.followed);
            std::thread::spawn(move || {
                follower.run();
                followed.store(false, Ordering::Release);
            });
        }
    }
    let gone: Vec<ContainerId> = known.keys().filter(|id| !there.contains(id)).cloned().collect();
    for id in gone {
        if let Some(about) = known.remove(&id).and_then(|known| known.about) {
            about.tell(teller, "destroy", SystemClock.now(), None);
        }
    }
}

/// Who a container is.
#[derive(Clone)]
struct About {
    id: ContainerId,
    name: String,
    image: String,
    labels: BTreeMap<String, String>,
    created_at: Timestamp,
}

impl About {
    fn of(record: &Record) -> Self {
        let image = match &record.spec.rootfs {
            Some(folder) => folder.display().to_string(),
            None => record.spec.image.clone(),
        };
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            image,
            labels: record.spec.labels.clone(),
            created_at: record.created_at,
        }
    }

    fn tell(&self, teller: &Teller, action: &'static str, at: Timestamp, exit_code: Option<i32>) {
        let Self { id, name, image, labels, .. } = self.clone();
        teller.tell(News { at, id, action, name, image, labels, exit_code });
    }

    fn tell_end(&self, teller: &Teller, exit: &Exit) {
        if exit.oom_killed {
            self.tell(teller, "oom", exit.finished_at, None);
        }
        self.tell(teller, "die", exit.finished_at, Some(exit.code));
    }
}

/// What has been told of a container.
struct Told {
    create: bool,
    start: bool,
    /// The start that was told last.
    started: Arc<Mutex<Option<Timestamp>>>,
}

/// Follows a container that is being made or started, to its end.
struct Follower {
    engine: Engine,
    id: ContainerId,
    told: Told,
    teller: Teller,
}

impl Follower {
    fn run(mut self) {
        let dir = PodDir::at(self.engine.folder(&self.id));
        let deadline = Instant::now() + PATIENCE;
        let mut about = None;
        while dir.path().exists() && Instant::now() < deadline {
            about = about.or_else(|| self.engine.record(&self.id).ok().map(|record| About::of(&record)));
            if let Some(about) = &about {
                if !std::mem::replace(&mut self.told.create, true) {
                    about.tell(&self.teller, "create", about.created_at, None);
                }
                let made = dir.has_shim() || dir.status(MAIN).is_ok();
                if made && follow(&dir, about, &self.told, &self.teller) {
                    return;
                }
            }
            std::thread::sleep(RETRY);
        }
    }
}

/// Tells of a container until it ends; false when its shim cannot be reached yet.
fn follow(dir: &PodDir, about: &About, told: &Told, teller: &Teller) -> bool {
    let mut started = told.start;
    let start = |started: &mut bool, at: Option<Timestamp>| {
        let at = at.or_else(|| dir.status(MAIN).ok()?.started_at);
        if at.is_some() {
            *locked(&told.started) = at;
        }
        if !std::mem::replace(started, true) {
            about.tell(teller, "start", at.unwrap_or_else(|| SystemClock.now()), None);
        }
    };
    // The shim goes when nobody is connected: only the events stay so.
    let events = ShimRuntime::default().open(dir.path()).and_then(|sandbox| sandbox.events());
    let Ok(mut events) = events else {
        let Ok(status) = dir.status(MAIN) else { return false };
        let Some(exit) = status.exit.filter(|_| status.phase == Phase::Exited) else { return false };
        start(&mut started, status.started_at);
        about.tell_end(teller, &exit);
        return true;
    };
    let mut told_of_memory = false;
    // It may have been started, and have ended, before.
    if let Ok(status) = dir.status(MAIN)
        && status.started_at.is_some()
    {
        start(&mut started, status.started_at);
        if let Some(exit) = status.exit {
            about.tell_end(teller, &exit);
            return true;
        }
        if status.oom_kills > 0 {
            told_of_memory = true;
            about.tell(teller, "oom", SystemClock.now(), None);
        }
    }
    while let Ok(Some(event)) = events.wait() {
        match event {
            Event::Started { .. } => start(&mut started, None),
            // Whichever of its processes was killed.
            Event::OutOfMemory { kills, .. } if kills > 0 => {
                told_of_memory = true;
                about.tell(teller, "oom", SystemClock.now(), None);
            }
            Event::OutOfMemory { .. } | Event::ForkRefused { .. } => {}
            Event::Exited { exit, .. } => {
                start(&mut started, None);
                about.tell_end(teller, &Exit { oom_killed: exit.oom_killed && !told_of_memory, ..exit });
                break;
            }
        }
    }
    true
}
