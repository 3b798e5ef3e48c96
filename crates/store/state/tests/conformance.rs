//! The embedded store runs the suite of every store, and what only a file has.

#![allow(clippy::unwrap_used)] // a test

use std::sync::Arc;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use wharf_state::{
    Embedded, Error, Expect, Options, Store,
    testsuite::{Instance, put},
};

struct OnDisk {
    store: Arc<Embedded>,
    folder: TempDir,
}

impl OnDisk {
    fn open(folder: TempDir) -> Self {
        let store = Embedded::open(&folder.path().join("state.redb"), Options::default()).unwrap();
        Self { store: Arc::new(store), folder }
    }
}

impl Instance for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    fn reopen(self: Box<Self>) -> Box<dyn Instance> {
        let Self { store, folder } = *self;
        assert!(Arc::into_inner(store).is_some(), "somebody still uses the store");
        Box::new(Self::open(folder))
    }
}

fn fresh(_: &Runtime) -> Box<dyn Instance> {
    Box::new(OnDisk::open(TempDir::new().unwrap()))
}

wharf_state::conformance!(fresh);

#[test]
fn a_second_process_is_refused() {
    let disk = OnDisk::open(TempDir::new().unwrap());
    let Err(error) = Embedded::open(&disk.folder.path().join("state.redb"), Options::default()) else {
        panic!("opened twice")
    };
    assert!(error.to_string().contains("state.redb"), "{error}");
}

#[test]
fn a_file_of_something_else_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("state.redb");
    for content in [&b"not a database, surely"[..], &[0; 100_000], &[b'r'; 9000]] {
        std::fs::write(&path, content).unwrap();
        let Err(error) = Embedded::open(&path, Options::default()) else { panic!("opened") };
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("state.redb is damaged"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[test]
fn only_the_owner_reads_the_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let disk = OnDisk::open(TempDir::new().unwrap());
    let mode = disk.folder.path().join("state.redb").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_store_that_is_closed_has_done_what_was_asked() {
    let mut disk = OnDisk::open(TempDir::new().unwrap());
    let pending: Vec<_> =
        (0..100).map(|i| disk.store.commit(vec![put(&format!("k{i}"), "v", Expect::Absent)])).collect();
    disk = OnDisk::open({
        drop(disk.store);
        disk.folder
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (i, one) in pending.into_iter().enumerate() {
            assert_eq!(one.await.unwrap(), 1 + i as u64);
        }
        let (revision, keys) = wharf_state::testsuite::snapshot(&*disk.store).await.unwrap();
        assert_eq!((revision, keys.len()), (100, 100));
    });
}
