//! The store on a real etcd: the suite of every store, kills, lost connections, compactions, limits, TLS.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};
use support::{PATIENCE, Server, Way, open};
use tokio::runtime::Runtime;
use wharf_etcd::{Config, Etcd, Tls};
use wharf_http::{Authority, Usage};
use wharf_state::{
    Error, Expect, Store, Write,
    testsuite::{Instance, Recorder, Seen, Workload, check, delete, put, snapshot},
};

/// A store with a prefix of its own on the server all cases share.
struct Shared {
    store: Arc<Etcd>,
    config: Config,
    runtime: tokio::runtime::Handle,
    _server: Arc<Server>,
}

impl Shared {
    fn open(server: Arc<Server>, config: Config, runtime: tokio::runtime::Handle) -> Self {
        let store = runtime.block_on(open(&config));
        Self { store, config, runtime, _server: server }
    }
}

impl Instance for Shared {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn reopen(self: Box<Self>) -> Box<dyn Instance> {
        let Self { store, config, runtime, _server } = *self;
        drop(store);
        Box::new(Self::open(_server, config, runtime))
    }
}

/// The server lives as long as a case uses it.
fn shared() -> Arc<Server> {
    static SERVER: LazyLock<Mutex<std::sync::Weak<Server>>> = LazyLock::new(Mutex::default);
    let mut known = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    known.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start());
        *known = Arc::downgrade(&server);
        server
    })
}

fn fresh(runtime: &Runtime) -> Box<dyn Instance> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let server = shared();
    let config = server.config(&format!("case-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    Box::new(Shared::open(server, config, runtime.handle().clone()))
}

wharf_state::conformance!(fresh);

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not yet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn kills_of_etcd_lose_nothing_that_was_acknowledged() {
    const KILLS: usize = 4;
    let mut server = Server::start();
    block_on(async {
        let store = open(&server.config("kills")).await;
        let recorder = Recorder::start(Arc::clone(&store) as Arc<dyn Store>).await;
        let clients = {
            let recorder = recorder.clone();
            tokio::spawn(async move {
                recorder.work(Workload { clients: 6, calls: usize::MAX, seed: 21 }).await;
            })
        };
        for _ in 0..KILLS {
            let before = recorder.acknowledged();
            until("clients write", async || recorder.acknowledged() > before + 60).await;
            server.kill();
            server.restart();
        }
        let before = recorder.acknowledged();
        until("clients write again", async || recorder.acknowledged() > before + 20).await;
        recorder.stop();
        clients.await.unwrap();
        // Everything that came before it is seen once this is.
        let before = recorder.acknowledged();
        until("the end is written", async || {
            recorder.commit(vec![put("end", "1", Expect::Any)]).await;
            recorder.acknowledged() > before
        })
        .await;
        let history = recorder.finish(&*store).await;
        let unknown =
            history.calls.iter().filter(|c| matches!(c.outcome, wharf_state::testsuite::Outcome::Unknown));
        eprintln!("{} calls, of {} nobody knows", history.calls.len(), unknown.count());
        check(&history).unwrap();
    });
}

#[test]
fn what_was_compacted_behind_a_lost_connection_is_made_good() {
    let server = Server::start();
    block_on(async {
        let way = Way::to(server.address()).await;
        let far: Config = format!("etcd://{}/cut", way.address).parse().unwrap();
        let compaction = Duration::from_millis(100);
        let near = open(&Config { compaction, ..server.config("cut") }).await;
        let far = open(&far).await;
        for key in ["stays", "changes", "goes"] {
            near.commit(vec![put(key, "1", Expect::Absent)]).await.unwrap();
        }
        let seen = Seen::default();
        far.subscribe(Box::new(seen.clone())).await.unwrap();
        way.set_open(false);
        let error = far.commit(vec![put("x", "1", Expect::Any)]).await.unwrap_err();
        assert!(matches!(error, Error::Storage { .. } | Error::Unknown { .. }), "{error}");
        near.commit(vec![put("changes", "2", Expect::Any)]).await.unwrap();
        near.commit(vec![put("comes", "1", Expect::Absent)]).await.unwrap();
        let gone = near.commit(vec![delete("goes", Expect::Any)]).await.unwrap();
        // What was written here is compacted by then.
        let mut writes = 0;
        until("the history is compacted", async || {
            writes += 1;
            near.commit(vec![put("filler", &writes.to_string(), Expect::Any)]).await.unwrap();
            is_compacted(&server, gone).await
        })
        .await;
        way.set_open(true);
        let (at, keys) = snapshot(&*near).await.unwrap();
        until("all is seen", async || seen.get().revision() >= at).await;
        let mut replayed: BTreeMap<Bytes, (Bytes, u64)> = BTreeMap::new();
        {
            let given = seen.get();
            replayed.extend(given.loaded.iter().map(|kv| (kv.key.clone(), (kv.value.clone(), kv.revision))));
            for change in &given.changes {
                match &change.value {
                    Some(value) => {
                        drop(replayed.insert(change.key.clone(), (value.clone(), change.revision)))
                    }
                    None => drop(replayed.remove(&change.key)),
                }
            }
        }
        let end = keys.into_iter().map(|kv| (kv.key, (kv.value, kv.revision))).collect();
        assert_eq!(replayed, end);
        // The feed goes on from there.
        let next = far.commit(vec![put("stays", "2", Expect::Any)]).await.unwrap();
        assert_eq!(seen.get().revision(), next);
    });
}

/// What etcd's JSON gateway answers.
async fn ask(server: &Server, path: &str, body: &str) -> Value {
    let url = format!("http://{}/v3/{path}", server.address());
    let request = http::Request::post(url).body(wharf_http::full(body.to_owned())).unwrap();
    let response = wharf_http::client::Client::default().fetch(request).await.unwrap();
    let bytes = wharf_http::collect(response.into_body(), 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Whether a revision cannot be read any more.
async fn is_compacted(server: &Server, revision: u64) -> bool {
    let body = format!(r#"{{"key":"YQ==","revision":"{revision}"}}"#);
    ask(server, "kv/range", &body).await.to_string().contains("compacted")
}

#[test]
fn several_stores_compact_in_turn_and_go_on() {
    let server = Server::start();
    block_on(async {
        let config = Config { compaction: Duration::from_millis(100), ..server.config("turns") };
        let stores = [open(&config).await, open(&config).await, open(&config).await];
        let seen = Seen::default();
        stores[2].subscribe(Box::new(seen.clone())).await.unwrap();
        let mut last = 0;
        let first = stores[0].commit(vec![put("k", "0", Expect::Absent)]).await.unwrap();
        until("the history is compacted", async || {
            let store = &stores[usize::try_from(last % 2).unwrap()];
            last = store.commit(vec![put("k", &last.to_string(), Expect::Any)]).await.unwrap();
            is_compacted(&server, first).await
        })
        .await;
        assert!(!is_compacted(&server, last).await, "the present was compacted");
        until("all is seen", async || seen.get().revision() >= last).await;
        assert_eq!(seen.get().changes.first().unwrap().revision, first);
    });
}

#[test]
fn what_etcd_does_not_take_is_refused_with_its_limit() {
    let server = Server::start();
    block_on(async {
        let store = open(&server.config("limits")).await;
        let many = (0..200).map(|i| put(&format!("k{i}"), "v", Expect::Any)).collect();
        let error = store.commit(many).await.unwrap_err();
        assert!(
            matches!(&error, Error::Refused { reason } if reason.contains("too many operations")),
            "{error}"
        );
        for size in [(3 << 19) + 10, 3 << 20] {
            let large = Write {
                key: Bytes::from_static(b"large"),
                value: Some(vec![0; size].into()),
                expect: Expect::Any,
            };
            let error = store.commit(vec![large]).await.unwrap_err();
            assert!(matches!(&error, Error::Refused { .. }), "{error}");
        }
        assert!(snapshot(&*store).await.unwrap().1.is_empty());
    });
}

#[test]
fn a_full_database_is_told_with_the_way_out() {
    let server = Server::start_with(&["--quota-backend-bytes", "1000000"]);
    block_on(async {
        let store = open(&server.config("full")).await;
        let value = "x".repeat(100_000);
        let mut stored = 0;
        let error = loop {
            match store.commit(vec![put(&format!("k{stored}"), &value, Expect::Absent)]).await {
                Ok(_) => stored += 1,
                Err(error) => break error,
            }
            assert!(stored < 100);
        };
        assert!(
            matches!(&error, Error::Storage { reason, .. } if reason.contains("its database is full")),
            "{error}"
        );
        assert_eq!(snapshot(&*store).await.unwrap().1.len(), stored);
    });
}

#[test]
fn nobody_there_is_an_error_that_names_the_place() {
    let mut server = Server::start();
    let config = server.config("gone");
    block_on(async {
        let store = open(&config).await;
        server.kill();
        let error = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap_err();
        assert!(error.to_string().contains(&server.address().to_string()), "{error}");
        let refused = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Storage { doing: "write", .. })
                && refused.to_string().contains("refused"),
            "{refused}"
        );
        let error = Etcd::open(&config).await.err().unwrap();
        assert!(error.to_string().starts_with("cannot open the state in etcd at 127.0.0.1:"), "{error}");
    });
}

#[test]
fn the_second_endpoint_serves_when_the_first_does_not() {
    let server = Server::start();
    block_on(async {
        // Nobody listens on port 1.
        let config: Config = format!("etcd://127.0.0.1:1,{}/two", server.address()).parse().unwrap();
        let store = open(&config).await;
        let seen = Seen::default();
        store.subscribe(Box::new(seen.clone())).await.unwrap();
        let revision = store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
        assert_eq!(seen.get().revision(), revision);
    });
}

#[test]
fn a_prefix_has_one_owner_and_who_was_replaced_writes_no_more() {
    let server = Server::start();
    block_on(async {
        let of = |name: &str| Config { owner: Some(name.to_owned()), ..server.config("owned") };
        let first = open(&of("first")).await;
        let revision = first.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
        let conflict = first.commit(vec![put("b", "1", Expect::Any), put("a", "2", Expect::Absent)]).await;
        assert!(
            matches!(conflict, Err(Error::Conflict { write: 1, current }) if current == Some(revision)),
            "{conflict:?}"
        );
        let error = Etcd::open(&of("second")).await.err().unwrap().to_string();
        assert!(error.contains("first keeps its state there under /owned/"), "{error}");
        // Started again, it is the same platform; what is left of the one before writes no more.
        let again = open(&of("first")).await;
        again.commit(vec![put("a", "2", Expect::At(revision))]).await.unwrap();
        let error = first.commit(vec![put("a", "3", Expect::Any)]).await.unwrap_err();
        assert!(
            matches!(&error, Error::Storage { reason, .. } if reason.contains("taken it over")),
            "{error}"
        );
        assert_eq!(snapshot(&*again).await.unwrap().1[0].value, "2");
        // Who is silent for long is replaced.
        drop((first, again));
        let second = open(&of("second")).await;
        second.commit(vec![put("a", "4", Expect::Any)]).await.unwrap();
    });
}

#[test]
fn an_owner_stays_as_long_as_it_lives() {
    let server = Server::start();
    block_on(async {
        let of = |name: &str| Config { owner: Some(name.to_owned()), ..server.config("kept") };
        let store = open(&of("first")).await;
        let leases = ask(&server, "lease/leases", "{}").await;
        let lease = json!({"ID": leases["leases"][0]["ID"]}).to_string();
        let mut lowest = u64::MAX;
        until("the lease is renewed", async || {
            let left = ask(&server, "lease/timetolive", &lease).await;
            let left = left["TTL"].as_str().unwrap().parse::<u64>().unwrap();
            lowest = lowest.min(left);
            left > lowest
        })
        .await;
        // One that went is taken again, as long as nobody came between.
        ask(&server, "lease/revoke", &lease).await;
        until("there is another lease", async || {
            let leases = ask(&server, "lease/leases", "{}").await;
            leases["leases"].as_array().is_some_and(|leases| !leases.is_empty())
        })
        .await;
        until("it is the owner again", async || Etcd::open(&of("second")).await.is_err()).await;
        store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
    });
}

#[test]
fn connections_are_secured_both_ways() {
    let folder = tempfile::TempDir::new().unwrap();
    let authority = Authority::create("etcd-ca").unwrap();
    let server = authority.issue("etcd", &[], Usage::Server, &["127.0.0.1".to_owned()]).unwrap();
    let client = authority.issue("wharf", &[], Usage::Client, &[]).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, certificate, key) = (
        file("ca.crt", authority.certificate()),
        file("server.crt", &server.certificate),
        file("server.key", &server.key),
    );
    let server = Server::start_with(&[
        &format!("--cert-file={certificate}"),
        &format!("--key-file={key}"),
        &format!("--trusted-ca-file={ca}"),
        "--client-cert-auth",
    ]);
    block_on(async {
        let tls = Tls {
            authority: Some(authority.certificate().to_owned()),
            identity: Some((client.certificate.clone(), client.key.clone())),
        };
        let config = Config { tls: Some(tls.clone()), ..server.config("tls") };
        let store = open(&config).await;
        let revision = store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
        assert_eq!(snapshot(&*store).await.unwrap().1[0].revision, revision);
        let others = Authority::create("another").unwrap();
        let strangers = [
            None,
            Some(Tls { identity: None, ..tls.clone() }),
            Some(Tls { authority: Some(others.certificate().to_owned()), ..tls }),
        ];
        for tls in strangers {
            let error = Etcd::open(&Config { tls, ..config.clone() }).await.err().unwrap();
            assert!(error.to_string().starts_with("cannot open the state in etcd at"), "{error}");
        }
    });
}
