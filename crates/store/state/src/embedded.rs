//! The store in one redb file, written by one thread that commits transactions in groups.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use crate::{Change, Error, Expect, KeyValue, Pending, Revision, Store, Subscriber, Write};

/// Key to eight bytes of revision and the value.
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
/// Revision and index of the write within it to `[put?][key length][key][value]`.
const LOG: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("log");
/// Single numbers: the revision.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

/// Transactions per fsync at the most.
const GROUP: usize = 256;

/// Bounds of the embedded store.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Changes kept for [`Store::changes`].
    pub log_entries: usize,
    /// Bytes of changes kept.
    pub log_bytes: usize,
    /// Page cache of the engine, in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_entries: 10_000, log_bytes: 32 << 20, cache_bytes: 8 << 20 }
    }
}

/// The embedded store. Dropping it finishes what was asked of it and closes the file.
pub struct Embedded {
    path: PathBuf,
    database: Arc<Mutex<Arc<Database>>>,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    queue: Option<Sender<Transaction>>,
    committer: Option<JoinHandle<()>>,
}

struct Transaction {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<Revision, Error>>,
}

impl Embedded {
    /// Opens or makes the store at `path`.
    ///
    /// # Errors
    /// When the file cannot be opened, is held by another process, is broken, or is of a later format.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let failed = |doing| {
            let path = path.to_owned();
            move |reason: String| Error::Storage { doing, path, reason }
        };
        let database = open(path, options).map_err(failed("open"))?;
        let state = State::load(&database).map_err(failed("read"))?;
        let database = Arc::new(Mutex::new(Arc::new(database)));
        let subscribers = Arc::<Mutex<Vec<Subscriber>>>::default();
        let (queue, requests) = channel();
        let committer = Committer {
            path: path.to_owned(),
            options,
            database: Arc::clone(&database),
            subscribers: Arc::clone(&subscribers),
            state,
        };
        let thread = std::thread::Builder::new()
            .name("state-commit".into())
            .spawn(move || committer.run(&requests))
            .map_err(|e| failed("serve")(e.to_string()))?;
        Ok(Self { path: path.to_owned(), database, subscribers, queue: Some(queue), committer: Some(thread) })
    }

    fn read<T>(&self, read: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, Error> {
        let database = Arc::clone(&lock(&self.database));
        read(&database).map_err(|e| Error::Storage {
            doing: "read",
            path: self.path.clone(),
            reason: e.to_string(),
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.queue.take();
        if let Some(thread) = self.committer.take() {
            // The thread only ends by itself; a panic in it was already told by the panic hook.
            drop(thread.join());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn open(path: &Path, options: Options) -> Result<Database, String> {
    let database =
        Database::builder().set_cache_size(options.cache_bytes).create(path).map_err(|e| e.to_string())?;
    let prepare = || -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let format = {
            transaction.open_table(KEYS)?;
            transaction.open_table(LOG)?;
            let mut meta = transaction.open_table(META)?;
            let format = meta.get(FORMAT)?.map(|v| v.value());
            if format.is_none() {
                meta.insert(FORMAT, FORMAT_VERSION)?;
                meta.insert(REVISION, 0)?;
            }
            format.unwrap_or(FORMAT_VERSION)
        };
        transaction.commit()?;
        Ok(format)
    };
    match prepare().map_err(|e| e.to_string())? {
        FORMAT_VERSION => Ok(database),
        newer => Err(format!("it has format {newer}, this program knows format {FORMAT_VERSION}")),
    }
}

/// What the committer keeps in memory about the file.
struct State {
    revision: Revision,
    /// Sizes of the kept log entries, oldest first.
    log: VecDeque<((u64, u32), usize)>,
    log_bytes: usize,
}

impl State {
    fn load(database: &Database) -> Result<Self, String> {
        let read = || -> Result<Self, redb::Error> {
            let transaction = database.begin_read()?;
            let revision = transaction.open_table(META)?.get(REVISION)?.map_or(0, |v| v.value());
            let mut log = VecDeque::new();
            for entry in transaction.open_table(LOG)?.iter()? {
                let (key, value) = entry?;
                log.push_back((key.value(), value.value().len()));
            }
            let log_bytes = log.iter().map(|(_, len)| len).sum();
            Ok(Self { revision, log, log_bytes })
        };
        read().map_err(|e| e.to_string())
    }
}

struct Committer {
    path: PathBuf,
    options: Options,
    database: Arc<Mutex<Arc<Database>>>,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    state: State,
}

impl Committer {
    fn run(mut self, requests: &Receiver<Transaction>) {
        while let Ok(first) = requests.recv() {
            let mut group = vec![first];
            while group.len() < GROUP {
                match requests.try_recv() {
                    Ok(next) => group.push(next),
                    Err(_) => break,
                }
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Transaction>) {
        let database = Arc::clone(&lock(&self.database));
        let before = (self.state.revision, self.state.log.len(), self.state.log_bytes);
        match self.write(&database, &group) {
            Ok((changes, results)) => {
                if !changes.is_empty() {
                    lock(&self.subscribers).iter_mut().for_each(|s| s(&changes));
                }
                for (transaction, result) in group.into_iter().zip(results) {
                    // A writer that went away does not want to know.
                    drop(transaction.done.send(result));
                }
            }
            Err(reason) => {
                drop(database);
                self.roll_back(before);
                let error = Error::Storage { doing: "write", path: self.path.clone(), reason };
                for transaction in group {
                    drop(transaction.done.send(Err(error.clone())));
                }
            }
        }
    }

    /// After a failed write the engine refuses all further work, so the file is opened anew.
    fn roll_back(&mut self, (revision, log_len, log_bytes): (Revision, usize, usize)) {
        self.state.revision = revision;
        self.state.log.truncate(log_len);
        self.state.log_bytes = log_bytes;
        let mut current = lock(&self.database);
        // The old handle must be gone before the file's lock can be taken again.
        let Ok(stand_in) = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new())
        else {
            return;
        };
        *current = Arc::new(stand_in);
        match open(&self.path, self.options) {
            Ok(database) => {
                if let Ok(state) = State::load(&database) {
                    self.state = state;
                }
                *current = Arc::new(database);
            }
            Err(reason) => {
                tracing::error!(path = %self.path.display(), reason, "cannot reopen the state file")
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn write(
        &mut self,
        database: &Database,
        group: &[Transaction],
    ) -> Result<(Vec<Change>, Vec<Result<Revision, Error>>), String> {
        let mut run = || -> Result<_, redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
            let (mut changes, mut results) = (Vec::new(), Vec::new());
            {
                let mut keys = transaction.open_table(KEYS)?;
                for one in group {
                    let revision = self.state.revision + 1;
                    let result = apply(&mut keys, &one.writes, revision)?;
                    if result.is_ok() {
                        self.state.revision = revision;
                        changes.extend(one.writes.iter().map(|w| Change {
                            key: w.key.clone(),
                            value: w.value.clone(),
                            revision,
                        }));
                    }
                    results.push(result);
                }
            }
            if changes.is_empty() {
                transaction.abort()?;
            } else {
                self.log(&transaction, &changes)?;
                transaction.open_table(META)?.insert(REVISION, self.state.revision)?;
                transaction.commit()?;
            }
            Ok((changes, results))
        };
        run().map_err(|e| e.to_string())
    }

    /// Appends the changes to the log and drops the oldest beyond the bounds.
    fn log(&mut self, transaction: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
        let mut table = transaction.open_table(LOG)?;
        let mut index = 0;
        let mut last = 0;
        for change in changes {
            index = if change.revision == last { index + 1 } else { 0 };
            last = change.revision;
            let entry = log_entry(change);
            table.insert((change.revision, index), entry.as_slice())?;
            self.state.log.push_back(((change.revision, index), entry.len()));
            self.state.log_bytes += entry.len();
        }
        while self.state.log.len() > self.options.log_entries || self.state.log_bytes > self.options.log_bytes
        {
            let Some((key, len)) = self.state.log.pop_front() else { break };
            self.state.log_bytes -= len;
            table.remove(key)?;
        }
        Ok(())
    }
}

/// Checks every expectation, then writes; nothing is written when one fails.
fn apply(
    keys: &mut Table<'_, &'static [u8], &'static [u8]>,
    writes: &[Write],
    revision: Revision,
) -> Result<Result<Revision, Error>, redb::Error> {
    for (index, write) in writes.iter().enumerate() {
        let current = keys.get(&write.key[..])?.map(|v| revision_of(v.value()));
        let holds = match write.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::At(revision) => current == Some(revision),
        };
        if !holds {
            return Ok(Err(Error::Conflict { write: index, current }));
        }
    }
    for write in writes {
        match &write.value {
            Some(value) => {
                let mut stored = Vec::with_capacity(8 + value.len());
                stored.extend_from_slice(&revision.to_be_bytes());
                stored.extend_from_slice(value);
                keys.insert(&write.key[..], stored.as_slice())?;
            }
            None => {
                keys.remove(&write.key[..])?;
            }
        }
    }
    Ok(Ok(revision))
}

fn revision_of(stored: &[u8]) -> Revision {
    stored.first_chunk().map_or(0, |first| Revision::from_be_bytes(*first))
}

fn log_entry(change: &Change) -> Vec<u8> {
    let mut entry = vec![u8::from(change.value.is_some())];
    entry.extend_from_slice(&(change.key.len() as u32).to_be_bytes());
    entry.extend_from_slice(&change.key);
    entry.extend_from_slice(change.value.as_deref().unwrap_or_default());
    entry
}

fn read_log_entry(revision: Revision, entry: &[u8]) -> Option<Change> {
    let (put, rest) = entry.split_first()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let value = (*put == 1).then(|| Bytes::copy_from_slice(value));
    Some(Change { key: Bytes::copy_from_slice(key), value, revision })
}

impl Store for Embedded {
    fn load(&self, prefix: &[u8]) -> Result<(Revision, Vec<KeyValue>), Error> {
        self.read(|database| {
            let transaction = database.begin_read()?;
            let revision = transaction.open_table(META)?.get(REVISION)?.map_or(0, |v| v.value());
            let mut found = Vec::new();
            for entry in transaction.open_table(KEYS)?.range(prefix..)? {
                let (key, stored) = entry?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                let stored = stored.value();
                found.push(KeyValue {
                    key: Bytes::copy_from_slice(key.value()),
                    value: Bytes::copy_from_slice(stored.get(8..).unwrap_or_default()),
                    revision: revision_of(stored),
                });
            }
            Ok((revision, found))
        })
    }

    fn changes(&self, since: Revision) -> Result<Vec<Change>, Error> {
        let (revision, oldest, changes) = self.read(|database| {
            let transaction = database.begin_read()?;
            let revision = transaction.open_table(META)?.get(REVISION)?.map_or(0, |v| v.value());
            let log = transaction.open_table(LOG)?;
            let oldest = log.first()?.map(|(key, _)| key.value().0);
            let mut changes = Vec::new();
            for entry in log.range((since + 1, 0)..)? {
                let (key, value) = entry?;
                changes.extend(read_log_entry(key.value().0, value.value()));
            }
            Ok((revision, oldest, changes))
        })?;
        let oldest = oldest.unwrap_or(revision + 1);
        if since + 1 < oldest {
            return Err(Error::Compacted { asked: since, oldest });
        }
        Ok(changes)
    }

    fn commit(&self, writes: Vec<Write>) -> Pending<Revision> {
        let (done, result) = oneshot::channel();
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(Transaction { writes, done }).is_ok());
        Box::pin(
            async move { if sent { result.await.unwrap_or(Err(Error::Closed)) } else { Err(Error::Closed) } },
        )
    }

    fn subscribe(&self, subscriber: Subscriber) {
        lock(&self.subscribers).push(subscriber);
    }
}
