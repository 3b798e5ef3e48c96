//! The runner's promises, on a real API server without sockets.

mod certificates;
mod controllers;

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use wharf_apiserver::{ApiServer, Config, Ranges, SigningKey};
use wharf_base::{Clock, SystemClock, Timestamp};
use wharf_client::{Change, Informer, Result, action::CONFIG_MAPS};
use wharf_control::{Action, Step};
use wharf_state::{Embedded, Options};

use super::{
    cache::Informers,
    node_lifecycle::NodeLifecycle,
    recorder::Recorder,
    runner::{Controller, Seen, Shared, Watch, run},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// What the loops stand on, with a server of its own.
async fn shared(clock: Arc<dyn Clock>) -> (Shared, JoinSet<()>, TempDir) {
    let dir = TempDir::new().unwrap();
    let store = Embedded::open(&dir.path().join("state"), Options::default()).unwrap();
    let server = ApiServer::open(Config {
        store: Arc::new(store),
        clock: Arc::new(SystemClock),
        signing_key: SigningKey::open(&SigningKey::generate().unwrap()).unwrap(),
        ranges: Ranges::new(Ipv4Addr::new(10, 96, 0, 0), 16, 30000..=32767),
        authority: String::new(),
        front_proxy: None,
    })
    .await
    .unwrap();
    let client = crate::platform::client::in_process(&server, "test");
    let (recorder, recording) = Recorder::new(client.clone(), Arc::clone(&clock));
    let mut tasks = JoinSet::new();
    tasks.spawn(recording);
    (Shared { informers: Informers::new(client.clone()), client, clock, recorder }, tasks, dir)
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": name, "labels": {"made": "yes"}}})
}

fn create(object: Value) -> Action {
    Action::Create { resource: CONFIG_MAPS, namespace: "default".into(), object, announce: None }
}

/// Wants twenty maps and makes one at each step, by what the cache shows.
struct Twenty {
    maps: Informer,
    made: Arc<AtomicUsize>,
}

impl Controller for Twenty {
    const NAME: &'static str = "twenty";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.maps, |_, _: &Change| vec!["all".to_owned()])]
    }

    fn first_keys(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    async fn step(&self, _: &str, _: Seen<'_>) -> Result<Step> {
        let maps = self.maps.list();
        let present = maps.iter().filter(|map| map.pointer("/metadata/labels/made").is_some()).count();
        if present >= 20 {
            return Ok(Step::idle());
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(Step { actions: vec![create(map("m-"))], requeue_after: Some(Duration::ZERO) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_shows_the_loops_own_writes() {
    let (shared, mut tasks, _dir) = shared(Arc::new(SystemClock)).await;
    let maps = shared.informers.of(&CONFIG_MAPS);
    let made = Arc::new(AtomicUsize::new(0));
    tasks.spawn(run(Twenty { maps: maps.clone(), made: Arc::clone(&made) }, shared, 4));
    let all = |maps: &Informer| {
        let maps = maps.list();
        maps.iter().filter(|map| map.pointer("/metadata/labels/made").is_some()).count() >= 20
    };
    timeout(PATIENCE, maps.until(all)).await.unwrap();
    assert_eq!(made.load(Ordering::Relaxed), 20);
}

/// Asks for an object the server refuses, until it is told why.
struct Stubborn {
    told: tokio::sync::mpsc::UnboundedSender<(bool, String)>,
}

impl Controller for Stubborn {
    const NAME: &'static str = "stubborn";

    fn watches(&self) -> Vec<Watch<Self>> {
        Vec::new()
    }

    fn first_keys(&self) -> Vec<String> {
        vec!["it".to_owned()]
    }

    async fn step(&self, _: &str, seen: Seen<'_>) -> Result<Step> {
        if let Some(failure) = seen.failure {
            let _ = self.told.send((failure.creating, failure.message.clone()));
            return Ok(Step::idle());
        }
        let wrong = create(map("NOT-A-NAME-"));
        Ok(Step::of(vec![wrong.clone(), wrong]))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_write_is_fed_back() {
    let (shared, mut tasks, _dir) = shared(Arc::new(SystemClock)).await;
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    tasks.spawn(run(Stubborn { told }, shared, 1));
    let (creating, message) = timeout(PATIENCE, hear.recv()).await.unwrap().unwrap();
    assert!(creating && message.contains("metadata.generateName"), "{message}");
}

/// A clock moved by hand.
struct Hand(Mutex<Timestamp>);

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

#[tokio::test]
async fn a_node_is_heard_by_its_heartbeats_and_leases_only() {
    let at = |seconds| Timestamp::from_unix(seconds, 0);
    let clock = Arc::new(Hand(Mutex::new(at(0))));
    let (shared, _tasks, _dir) = shared(Arc::clone(&clock) as Arc<dyn Clock>).await;
    let watcher = NodeLifecycle::new(&shared);
    let node = |beat: &str, status: &str| {
        Some(Arc::new(json!({"metadata": {"name": "n"},
            "status": {"conditions": [{"type": "Ready", "status": status, "lastHeartbeatTime": beat}]}})))
    };
    let check = |now: i64, change: &Change, heard: i64| {
        *clock.0.lock().unwrap() = at(now);
        match change.key.as_str() {
            "/n" => assert_eq!(watcher.of_node(change), ["/n"]),
            _ => assert!(watcher.of_lease(change).is_empty()),
        }
        assert_eq!(watcher.heard_of("n"), Some(at(heard)), "at {now}");
    };
    let change = |old, new| Change { key: "/n".into(), old, new };
    check(1, &change(None, node("a", "True")), 1);
    check(50, &change(node("a", "True"), node("a", "Unknown")), 1);
    check(60, &change(node("a", "Unknown"), node("b", "True")), 60);
    let lease = |namespace: &str, time: &str| Change {
        key: format!("{namespace}/n"),
        old: None,
        new: Some(Arc::new(json!({"spec": {"renewTime": time}}))),
    };
    check(70, &lease("kube-node-lease", "x"), 70);
    check(80, &lease("elsewhere", "x"), 70);
}
