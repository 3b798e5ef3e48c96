//! The cases of the suite.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Runtime;

use super::{Fresh, Random, Recorder, Seen, Workload, check, delete, put, snapshot};
use crate::{Error, Expect, KeyValue, Revision, Store, Write};

/// Seeds of histories.
const SEEDS: u64 = 6;
/// How long a store may take to bring what it promised.
const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn texts(keys: &[KeyValue]) -> Vec<(String, String, Revision)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    keys.iter().map(|kv| (text(&kv.key), text(&kv.value), kv.revision)).collect()
}

async fn contents(store: &dyn Store) -> Vec<(String, String, Revision)> {
    texts(&snapshot(store).await.unwrap().1)
}

/// Compare-and-swap.
pub fn expectations_guard_writes(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let store = instance.store();
        let first = store.commit(vec![put("a", "1", Expect::Absent)]).await.unwrap();
        let refused = store.commit(vec![put("a", "2", Expect::Absent)]).await;
        assert!(
            matches!(refused, Err(Error::Conflict { write: 0, current }) if current == Some(first)),
            "{refused:?}"
        );
        let second = store.commit(vec![put("a", "2", Expect::At(first))]).await.unwrap();
        assert!(second > first);
        let late = store.commit(vec![delete("a", Expect::At(first))]).await;
        assert!(
            matches!(late, Err(Error::Conflict { write: 0, current }) if current == Some(second)),
            "{late:?}"
        );
        assert_eq!(contents(&*store).await, [("a".into(), "2".into(), second)]);
        let third = store.commit(vec![delete("a", Expect::At(second))]).await.unwrap();
        assert!(third > second && contents(&*store).await.is_empty());
        let gone = store.commit(vec![put("a", "3", Expect::At(second))]).await;
        assert!(matches!(gone, Err(Error::Conflict { write: 0, current: None })), "{gone:?}");
    });
}

/// All writes of a transaction have one revision; one that fails leaves nothing.
pub fn a_transaction_is_whole_or_nothing(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let (store, seen) = (instance.store(), Seen::default());
        store.subscribe(Box::new(seen.clone())).await.unwrap();
        let writes = vec![put("a", "1", Expect::Absent), put("b", "1", Expect::Any)];
        let revision = store.commit(writes).await.unwrap();
        let both = [("a".to_owned(), "1".to_owned(), revision), ("b".to_owned(), "1".to_owned(), revision)];
        assert_eq!(contents(&*store).await, both);
        let writes =
            vec![put("c", "1", Expect::Any), delete("b", Expect::Any), put("a", "2", Expect::Absent)];
        let refused = store.commit(writes).await;
        assert!(
            matches!(refused, Err(Error::Conflict { write: 2, current }) if current == Some(revision)),
            "{refused:?}"
        );
        assert_eq!(contents(&*store).await, both);
        assert_eq!(seen.get().changes.len(), 2);
    });
}

/// Neither text nor size matters.
pub fn keys_are_any_bytes_in_order(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let store = instance.store();
        let large = Bytes::from(vec![7; 1 << 20]);
        let keys: [(&[u8], Bytes); 5] = [
            (b"\xff\x00", Bytes::from_static(b"\x00\xff")),
            (b"a/b", large),
            (b"a", Bytes::new()),
            (b"\x00", Bytes::from_static(b"zero")),
            (b"a0", Bytes::from_static(b"x")),
        ];
        for (key, value) in &keys {
            let write = Write {
                key: Bytes::copy_from_slice(key),
                value: Some(value.clone()),
                expect: Expect::Absent,
            };
            store.commit(vec![write]).await.unwrap();
        }
        let mut expected: Vec<_> =
            keys.iter().map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())).collect();
        expected.sort();
        let found: Vec<_> =
            snapshot(&*store).await.unwrap().1.into_iter().map(|kv| (kv.key, kv.value)).collect();
        assert!(found == expected, "{:?}", found.iter().map(|(key, _)| key).collect::<Vec<_>>());
    });
}

/// There is no change without one.
pub fn what_changes_nothing_is_no_change(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let (store, seen) = (instance.store(), Seen::default());
        store.subscribe(Box::new(seen.clone())).await.unwrap();
        let first = store.commit(vec![put("a", "1", Expect::Any)]).await.unwrap();
        let nothing = vec![delete("b", Expect::Any), delete("c", Expect::Absent)];
        assert!(store.commit(nothing).await.unwrap() >= first);
        assert!(store.commit(Vec::new()).await.unwrap() >= first);
        let half = vec![delete("b", Expect::Any), put("a", "2", Expect::Any)];
        let second = store.commit(half).await.unwrap();
        assert_eq!(contents(&*store).await, [("a".into(), "2".into(), second)]);
        let told: Vec<_> = seen.get().changes.iter().map(|change| change.revision).collect();
        assert_eq!(told, [first, second]);
    });
}

/// Which of two writes would win nobody could say.
pub fn a_key_occurs_once(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let store = instance.store();
        let refused = store.commit(vec![put("a", "1", Expect::Any), delete("a", Expect::Any)]).await;
        assert!(
            matches!(&refused, Err(Error::Refused { reason }) if reason.contains("the key a occurs twice")),
            "{refused:?}"
        );
        assert!(contents(&*store).await.is_empty());
    });
}

/// Durability, and that revisions go on.
pub fn everything_acknowledged_is_there_after_reopening(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    let (before, last) = runtime.block_on(async {
        let store = instance.store();
        let mut last = 0;
        for i in 0..50 {
            last = store.commit(vec![put(&format!("k{i:02}"), "v", Expect::Absent)]).await.unwrap();
        }
        last = store.commit(vec![delete("k07", Expect::Any)]).await.unwrap().max(last);
        (contents(&*store).await, last)
    });
    assert_eq!(before.len(), 49);
    let instance = instance.reopen();
    runtime.block_on(async {
        let store = instance.store();
        assert_eq!(contents(&*store).await, before);
        let seen = Seen::default();
        store.subscribe(Box::new(seen.clone())).await.unwrap();
        assert_eq!(texts(&seen.get().loaded), before);
        assert!(seen.get().at >= Some(last));
        let next = store.commit(vec![put("x", "v", Expect::Absent)]).await.unwrap();
        assert!(next > last);
    });
}

/// Load and changes meet without a gap and without an overlap.
pub fn a_subscriber_that_comes_late_misses_nothing(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let store = instance.store();
        let recorder = Recorder::start(instance.store()).await;
        let writers = {
            let recorder = recorder.clone();
            tokio::spawn(async move {
                recorder.work(Workload { clients: 6, calls: 40, seed: 5 }).await;
            })
        };
        let mut late = Vec::new();
        while !writers.is_finished() {
            let seen = Seen::default();
            store.subscribe(Box::new(seen.clone())).await.unwrap();
            late.push(seen);
        }
        writers.await.unwrap();
        let full = recorder.finish(&*store).await;
        for seen in late {
            let given = seen.get();
            let at = given.at.unwrap();
            let history = super::History {
                start: (at, given.loaded.clone()),
                calls: Vec::new(),
                feed: given.changes.clone(),
                end: full.end.clone(),
            };
            let rest: Vec<_> = full.feed.iter().filter(|change| change.revision > at).cloned().collect();
            assert_eq!(history.feed, rest, "from {at}");
            assert_eq!(texts(&full.end.1), texts(&replayed(&history)), "from {at}");
        }
    });
}

fn replayed(history: &super::History) -> Vec<KeyValue> {
    let mut keys: std::collections::BTreeMap<_, _> =
        history.start.1.iter().map(|kv| (kv.key.clone(), kv.clone())).collect();
    for change in &history.feed {
        match &change.value {
            None => drop(keys.remove(&change.key)),
            Some(value) => {
                let kv =
                    KeyValue { key: change.key.clone(), value: value.clone(), revision: change.revision };
                keys.insert(change.key.clone(), kv);
            }
        }
    }
    keys.into_values().collect()
}

/// Reading sees no half transaction.
pub fn a_snapshot_is_of_one_moment(fresh: Fresh<'_>) {
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let store = instance.store();
        let writer = {
            let store = instance.store();
            tokio::spawn(async move {
                for i in 0..60 {
                    let value = i.to_string();
                    let pair = ["a", "z"].map(|key| put(key, &value, Expect::Any));
                    store.commit(pair.to_vec()).await.unwrap();
                }
            })
        };
        while !writer.is_finished() {
            let keys = contents(&*store).await;
            if let [(_, a, first), (_, z, second)] = &keys[..] {
                assert_eq!((a, first), (z, second));
            } else {
                assert!(keys.is_empty(), "{keys:?}");
            }
        }
        writer.await.unwrap();
    });
}

/// More than fits into one answer of anything.
pub fn many_keys_are_loaded_and_read_whole(fresh: Fresh<'_>) {
    const KEYS: usize = 12_000;
    let runtime = runtime();
    let instance = fresh(&runtime);
    runtime.block_on(async {
        let store = instance.store();
        let names: Vec<String> = (0..KEYS).map(|i| format!("k{i:06}")).collect();
        for part in names.chunks(100) {
            let writes = part.iter().map(|name| put(name, &format!("value of {name}"), Expect::Absent));
            store.commit(writes.collect()).await.unwrap();
        }
        let seen = Seen::default();
        store.subscribe(Box::new(seen.clone())).await.unwrap();
        let (_, read) = snapshot(&*store).await.unwrap();
        for keys in [&read, &seen.get().loaded] {
            assert!(keys.iter().map(|kv| &kv.key[..]).eq(names.iter().map(String::as_bytes)));
            assert!(keys.iter().all(|kv| kv.value.starts_with(b"value of k")));
        }
    });
}

/// Clients at once, with all that may happen between them.
pub fn histories_are_linearizable(fresh: Fresh<'_>) {
    for seed in 1..=SEEDS {
        let runtime = runtime();
        let instance = fresh(&runtime);
        runtime.block_on(async {
            let recorder = Recorder::start(instance.store()).await;
            let clients = 1 + Random(seed).below(9) as u64;
            let began = Instant::now();
            recorder.work(Workload { clients, calls: 240 / clients as usize, seed }).await;
            assert!(began.elapsed() < PATIENCE);
            let history = recorder.finish(&*instance.store()).await;
            assert!(recorder.acknowledged() > 30, "hardly anything went through");
            check(&history).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        });
    }
}
