//! The power goes at every operation of the disk; operations fail; the disk is full; the file is damaged.

mod disk;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;

use super::Embedded;
use crate::{
    Error, Expect, KeyValue, Revision, Store as _, Write,
    testsuite::{Random, Seen, delete, put, snapshot},
};
use disk::{Disk, Faults};

type Keys = BTreeMap<Bytes, (Bytes, Revision)>;

fn keys_of(keys: Vec<KeyValue>) -> Keys {
    keys.into_iter().map(|kv| (kv.key, (kv.value, kv.revision))).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn content(store: &Embedded) -> (Revision, Keys) {
    let (revision, keys) = block_on(snapshot(store)).unwrap();
    (revision, keys_of(keys))
}

/// Transactions that go through one after the other: small and large values, deletions, several keys.
fn workload() -> Vec<Vec<Write>> {
    let mut random = Random(11);
    let mut all = Vec::new();
    for number in 0..24 {
        let key = |n: usize| format!("key-{n}");
        let mut writes = vec![put(&key(random.below(5)), &"x".repeat(1 + random.below(9000)), Expect::Any)];
        if number % 3 == 1 {
            writes.push(put(&format!("other-{number}"), "small", Expect::Absent));
        }
        if number % 4 == 3 {
            writes.push(delete(&format!("other-{}", number / 3 * 3 - 2), Expect::Any));
        }
        all.push(writes);
    }
    all
}

/// What there is after the first so many transactions of the workload.
fn model(workload: &[Vec<Write>]) -> (Revision, Keys) {
    let mut keys = Keys::new();
    for (revision, writes) in (1..).zip(workload) {
        for write in writes {
            match &write.value {
                Some(value) => drop(keys.insert(write.key.clone(), (value.clone(), revision))),
                None => drop(keys.remove(&write.key)),
            }
        }
    }
    (workload.len() as Revision, keys)
}

/// Asks for all of the workload at once; how many were acknowledged before the first that was not.
fn work(store: &Embedded, workload: &[Vec<Write>]) -> usize {
    let asked: Vec<_> = workload.iter().map(|writes| store.commit(writes.clone())).collect();
    let mut acknowledged = 0;
    block_on(async {
        for (index, one) in asked.into_iter().enumerate() {
            match one.await {
                Ok(revision) => {
                    assert_eq!((acknowledged, revision), (index, 1 + index as u64));
                    acknowledged += 1;
                }
                Err(error) => assert!(!matches!(error, Error::Conflict { .. }), "{error}"),
            }
        }
    });
    acknowledged
}

/// Asks for it piece by piece, so that there are groups of all sizes.
fn work_in_groups(store: &Embedded, workload: &[Vec<Write>]) -> (usize, usize) {
    let (mut acknowledged, mut size) = (0, 1);
    while acknowledged < workload.len() {
        let group = &workload[acknowledged..(acknowledged + size).min(workload.len())];
        let asked: Vec<_> = group.iter().map(|writes| store.commit(writes.clone())).collect();
        let done = block_on(async {
            let mut done = 0;
            for one in asked {
                done += usize::from(one.await.is_ok());
            }
            done
        });
        if done < group.len() {
            return (acknowledged + done, acknowledged + group.len());
        }
        (acknowledged, size) = (acknowledged + done, size % 4 + 1);
    }
    (acknowledged, acknowledged)
}

/// A new file, as it gets its name.
fn empty() -> Vec<u8> {
    let disk = Disk::default();
    drop(Embedded::on(disk.file()).unwrap());
    disk.bytes()
}

#[test]
fn the_power_goes_at_every_write_and_every_flush() {
    let (workload, empty) = (workload(), empty());
    let disk = Disk::of(empty.clone());
    let store = Embedded::on(disk.file()).unwrap();
    assert_eq!(work_in_groups(&store, &workload).0, workload.len());
    assert_eq!(content(&store), model(&workload));
    drop(store);
    let operations = disk.operations();
    assert!(operations > 100, "{operations}");
    for at in 1..=operations {
        let disk = Disk::of(empty.clone());
        disk.set(Faults { cut_at: Some(at), ..Faults::default() });
        let (acknowledged, asked) =
            Embedded::on(disk.file()).map_or((0, 0), |store| work_in_groups(&store, &workload));
        for seed in 1..=3 {
            let mut random = Random(at as u64 * 31 + seed);
            let after = disk.cut(&mut random);
            let store = Embedded::on(after.file())
                .unwrap_or_else(|error| panic!("power cut at {at}, seed {seed}: {error}"));
            let found = content(&store);
            let whole = (acknowledged..=asked).any(|count| found == model(&workload[..count]));
            assert!(
                whole,
                "power cut at {at}, seed {seed}: {acknowledged} of {asked} acknowledged: {found:?}"
            );
            // It goes on from there, with revisions nobody has seen.
            let next = block_on(store.commit(vec![put("after", "1", Expect::Absent)])).unwrap();
            assert_eq!(next, found.0 + 1);
        }
    }
}

#[test]
fn an_operation_that_fails_loses_nothing_and_the_store_works_again() {
    let (workload, empty) = (workload(), empty());
    let disk = Disk::of(empty.clone());
    let store = Embedded::on(disk.file()).unwrap();
    let opened = disk.operations();
    work_in_groups(&store, &workload);
    let operations = disk.operations();
    drop(store);
    let (mut failed, mut unknown) = (0, 0);
    for at in opened + 1..=operations {
        let disk = Disk::of(empty.clone());
        let store = Embedded::on(disk.file()).unwrap();
        let seen = Seen::default();
        block_on(store.subscribe(Box::new(seen.clone()))).unwrap();
        disk.set(Faults { fail_at: Some(at), ..Faults::default() });
        let mut written = Vec::new();
        for writes in &workload {
            match block_on(store.commit(writes.clone())) {
                Ok(revision) => written.push((revision, writes)),
                Err(Error::Storage { reason, .. }) => {
                    assert!(reason.contains("Input/output error"), "{reason}");
                    failed += 1;
                }
                Err(Error::Unknown { .. }) => unknown += 1,
                Err(error) => panic!("operation {at}: {error}"),
            }
        }
        assert!(written.len() + 1 >= workload.len(), "operation {at}: it did not work again");
        let (revision, keys) = content(&store);
        let given = seen.get();
        assert_eq!(given.revision(), revision, "operation {at}");
        let mut replayed = Keys::new();
        for change in &given.changes {
            match &change.value {
                Some(value) => drop(replayed.insert(change.key.clone(), (value.clone(), change.revision))),
                None => drop(replayed.remove(&change.key)),
            }
        }
        assert_eq!(replayed, keys, "operation {at}");
        for (revision, writes) in written {
            let told = given.changes.iter().filter(|change| change.revision == revision).count();
            assert!(told > 0 && told <= writes.len(), "operation {at}: {revision}");
        }
        drop(given);
        drop(store);
        let again = Embedded::on(disk.file()).unwrap();
        assert_eq!(content(&again), (revision, keys), "operation {at}");
    }
    assert!(failed > 20 && unknown > 0, "{failed} were refused, of {unknown} nobody knows");
}

#[test]
fn a_full_disk_refuses_and_takes_again_once_there_is_room() {
    let disk = Disk::default();
    let store = Embedded::on(disk.file()).unwrap();
    let size = disk.bytes().len() + (1 << 20);
    disk.set(Faults { size: Some(size), ..Faults::default() });
    let value = "x".repeat(50_000);
    let mut stored = 0;
    let mut commit = |store: &Embedded| {
        let done = block_on(store.commit(vec![put(&format!("key-{stored}"), &value, Expect::Absent)]));
        stored += usize::from(done.is_ok());
        done
    };
    let error = (0..10_000).find_map(|_| commit(&store).err()).unwrap();
    assert!(matches!(&error, Error::Storage { reason, .. } if reason.contains("No space left")), "{error}");
    assert!(commit(&store).is_err(), "there is still no room");
    disk.set(Faults::default());
    assert!(commit(&store).is_ok());
    let (revision, keys) = content(&store);
    assert_eq!((revision, keys.len()), (stored as Revision, stored));
}

/// A file, and what may be found in it.
type Candidate = (Vec<u8>, Vec<(Revision, Keys)>);

/// A file with the workload in it, as it is closed and as a crash leaves it.
fn files() -> [Candidate; 2] {
    let workload = workload();
    let disk = Disk::default();
    let store = Embedded::on(disk.file()).unwrap();
    for writes in &workload {
        block_on(store.commit(writes.clone())).unwrap();
    }
    let (open, full) = (disk.bytes(), model(&workload));
    drop(store);
    // What was written last of an open file, a damage cannot be told from a loss of power.
    let before = model(&workload[..workload.len() - 1]);
    [(disk.bytes(), vec![full.clone()]), (open, vec![full, before])]
}

#[test]
fn a_damaged_file_is_refused_or_right() {
    for (file, right) in files() {
        let (mut refused, mut random) = (0, Random(3));
        for round in 0..600 {
            let mut bytes = file.clone();
            // Where the file is not used, a damage would go unseen; half of them hit its beginning.
            let reach = if round % 2 == 0 { bytes.len() } else { 64 << 10 };
            match round % 6 {
                5 => bytes.truncate(random.below(file.len())),
                4 => {
                    let from = random.below(reach);
                    let to = (from + 1 + random.below(8192)).min(bytes.len());
                    bytes[from..to].fill(0);
                }
                _ => {
                    for _ in 0..=random.below(3) {
                        let at = if round % 5 == 0 { random.below(320) } else { random.below(reach) };
                        bytes[at] ^= 1 << random.below(8);
                    }
                }
            }
            let opened = catch_unwind(AssertUnwindSafe(|| match Embedded::on(Disk::of(bytes).file()) {
                Ok(store) => block_on(snapshot(&store)).map(|(revision, keys)| (revision, keys_of(keys))),
                Err(error) => Err(error),
            }));
            match opened.unwrap_or_else(|_| panic!("round {round}: it panicked")) {
                Ok(found) => {
                    // An empty file is a new one.
                    assert!(right.contains(&found), "round {round}: {} keys at {}", found.1.len(), found.0);
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error, Error::Damaged { .. } | Error::Storage { .. }), "{error}");
                }
            }
        }
        assert!(refused > 100, "{refused} were noticed");
    }
}

#[test]
fn all_at_once_is_one_after_the_other() {
    let workload = workload();
    let store = Embedded::on(Disk::default().file()).unwrap();
    assert_eq!(work(&store, &workload), workload.len());
    assert_eq!(content(&store), model(&workload));
}
