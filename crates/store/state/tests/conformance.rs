//! What every store must do, run on each implementation.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use proptest::prelude::*;
use wharf_state::{Change, Embedded, Error, Expect, Options, Store, Write};

struct Fixture {
    dir: tempfile::TempDir,
    store: Embedded,
}

fn fresh(options: Options) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("state.redb"), options).unwrap();
    Fixture { dir, store }
}

fn put(key: &str, value: &str, expect: Expect) -> Write {
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        expect,
    }
}

fn delete(key: &str, expect: Expect) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_bytes()), value: None, expect }
}

fn commit(store: &impl Store, writes: Vec<Write>) -> Result<u64, Error> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.commit(writes))
}

fn contents(store: &impl Store) -> Vec<(String, String, u64)> {
    let text = |b: &Bytes| String::from_utf8(b.to_vec()).unwrap();
    store.load(b"").unwrap().1.iter().map(|kv| (text(&kv.key), text(&kv.value), kv.revision)).collect()
}

#[test]
fn expectations_guard_writes() {
    let Fixture { store, dir: _dir } = fresh(Options::default());
    assert_eq!(commit(&store, vec![put("a", "1", Expect::Absent)]).unwrap(), 1);
    assert!(matches!(
        commit(&store, vec![put("b", "1", Expect::Any), put("a", "2", Expect::Absent)]),
        Err(Error::Conflict { write: 1, current: Some(1) })
    ));
    assert_eq!(commit(&store, vec![put("a", "2", Expect::At(1))]).unwrap(), 2);
    assert!(commit(&store, vec![delete("a", Expect::At(1))]).is_err());
    assert_eq!(contents(&store), [("a".into(), "2".into(), 2)]);
    assert_eq!(commit(&store, vec![delete("a", Expect::At(2))]).unwrap(), 3);
    assert!(contents(&store).is_empty());
}

#[test]
fn everything_acknowledged_is_there_after_reopening() {
    let Fixture { store, dir } = fresh(Options::default());
    for i in 0..50 {
        commit(&store, vec![put(&format!("k{i:02}"), "v", Expect::Absent)]).unwrap();
    }
    let before = contents(&store);
    drop(store);
    let store = Embedded::open(&dir.path().join("state.redb"), Options::default()).unwrap();
    assert_eq!(contents(&store), before);
    assert_eq!(store.changes(45).unwrap().len(), 5);
    assert_eq!(commit(&store, vec![put("x", "v", Expect::Absent)]).unwrap(), 51);
}

#[test]
fn a_second_process_is_refused() {
    let Fixture { store: _store, dir } = fresh(Options::default());
    let Err(error) = Embedded::open(&dir.path().join("state.redb"), Options::default()) else {
        panic!("opened twice")
    };
    assert!(error.to_string().contains("state.redb"), "{error}");
}

#[test]
fn a_broken_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    std::fs::write(&path, b"not a database, surely").unwrap();
    assert!(Embedded::open(&path, Options::default()).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"not a database, surely");
}

#[test]
fn the_log_is_bounded_and_says_what_is_gone() {
    let Fixture { store, dir: _dir } = fresh(Options { log_entries: 10, ..Options::default() });
    for i in 0..30 {
        commit(&store, vec![put("k", &i.to_string(), Expect::Any)]).unwrap();
    }
    assert_eq!(store.changes(20).unwrap().len(), 10);
    assert!(matches!(store.changes(10), Err(Error::Compacted { asked: 10, oldest: 21 })));
}

#[test]
fn subscribers_see_every_change_before_the_writer_is_told() {
    let Fixture { store, dir: _dir } = fresh(Options::default());
    let seen = Arc::new(Mutex::new(Vec::<Change>::new()));
    let sink = Arc::clone(&seen);
    store.subscribe(Box::new(move |changes| sink.lock().unwrap().extend_from_slice(changes)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let store = Arc::new(store);
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for task in 0..8 {
            let (store, seen) = (Arc::clone(&store), Arc::clone(&seen));
            tasks.push(tokio::spawn(async move {
                for i in 0..20 {
                    let revision =
                        store.commit(vec![put(&format!("{task}/{i}"), "v", Expect::Absent)]).await.unwrap();
                    assert!(seen.lock().unwrap().iter().any(|c| c.revision == revision));
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let revisions: Vec<u64> = seen.lock().unwrap().iter().map(|c| c.revision).collect();
    assert_eq!(revisions, (1..=160).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The store behaves as an ordered map with revisions, and its log replays to the same contents.
    #[test]
    fn store_equals_model(steps in proptest::collection::vec((0u8..6, any::<bool>(), 0u8..3), 1..40)) {
        let Fixture { store, dir: _dir } = fresh(Options::default());
        let mut model = BTreeMap::<String, (String, u64)>::new();
        let mut revision = 0;
        for (step, (key, is_put, expectation)) in steps.into_iter().enumerate() {
            let key = format!("k{key}");
            let current = model.get(&key).map(|(_, r)| *r);
            let expect = match expectation {
                0 => Expect::Any,
                1 => Expect::Absent,
                _ => Expect::At(current.unwrap_or(99)),
            };
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::At(r) => current == Some(r),
            };
            let value = step.to_string();
            let write = if is_put { put(&key, &value, expect) } else { delete(&key, expect) };
            prop_assert_eq!(commit(&store, vec![write]).is_ok(), holds);
            if holds {
                revision += 1;
                if is_put {
                    model.insert(key, (value, revision));
                } else {
                    model.remove(&key);
                }
            }
        }
        let expected: Vec<_> = model.iter().map(|(k, (v, r))| (k.clone(), v.clone(), *r)).collect();
        prop_assert_eq!(&contents(&store), &expected);
        let mut replayed = BTreeMap::new();
        for change in store.changes(0).unwrap() {
            let key = String::from_utf8(change.key.to_vec()).unwrap();
            match change.value {
                Some(value) => replayed.insert(key, (String::from_utf8(value.to_vec()).unwrap(), change.revision)),
                None => replayed.remove(&key),
            };
        }
        let replayed: Vec<_> = replayed.into_iter().map(|(k, (v, r))| (k, v, r)).collect();
        prop_assert_eq!(replayed, expected);
    }
}
