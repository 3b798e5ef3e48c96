//! The thread that does everything with the file, one thing after the other.

use std::sync::mpsc::Receiver;

use redb::{Database, ReadableDatabase};
use tokio::sync::{mpsc, oneshot};

use super::file::{self, Failure, File, Outcome};
use crate::{Change, Error, Revision, Snapshot, Subscriber, Write};

/// Transactions per fsync at the most.
const GROUP: usize = 256;
/// Pieces of a snapshot read ahead.
const AHEAD: usize = 2;

type Done<T> = oneshot::Sender<Result<T, Error>>;

pub(super) struct Transaction {
    pub writes: Vec<Write>,
    pub done: Done<Revision>,
}

/// What is asked of the thread.
pub(super) enum Request {
    Commit(Transaction),
    Subscribe(Box<dyn Subscriber>, Done<()>),
    Snapshot(Done<Snapshot>),
}

pub(super) struct Committer {
    file: File,
    /// Nothing after a failure, until it can be opened again.
    database: Option<Database>,
    /// What subscribers have seen.
    revision: Revision,
    /// What failed so that only the file can tell whether it was written.
    unresolved: Option<Outcome>,
    subscribers: Vec<Box<dyn Subscriber>>,
}

impl Committer {
    pub(super) fn open(file: File) -> Result<Self, Error> {
        let database = file.open()?;
        let revision = file.read(&database, file::revision)?;
        Ok(Self { file, database: Some(database), revision, unresolved: None, subscribers: Vec::new() })
    }

    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let mut next = requests.recv().ok();
        while let Some(request) = next.take() {
            match request {
                Request::Commit(first) => {
                    let (group, other) = group(first, requests);
                    self.commit(group);
                    next = other;
                }
                // Who asked and went away does not want to know.
                Request::Subscribe(subscriber, done) => drop(done.send(self.subscribe(subscriber))),
                Request::Snapshot(done) => drop(done.send(self.snapshot())),
            }
            next = next.or_else(|| requests.recv().ok());
        }
    }

    fn commit(&mut self, group: Vec<Transaction>) {
        let writes: Vec<&[Write]> = group.iter().map(|transaction| &transaction.writes[..]).collect();
        let revision = self.revision;
        let written = match self.database() {
            Ok(database) => file::write(database, revision, &writes),
            Err(error) => return refuse(group, &error),
        };
        let results = match written {
            Ok(outcome) => {
                self.tell(outcome.revision, &outcome.changes);
                outcome.results
            }
            Err(failure) => match self.resolve(*failure) {
                Ok(results) => results,
                Err(error) => return refuse(group, &error),
            },
        };
        for (transaction, result) in group.into_iter().zip(results) {
            // A writer that went away does not want to know.
            drop(transaction.done.send(result));
        }
    }

    fn tell(&mut self, revision: Revision, changes: &[Change]) {
        self.revision = revision;
        if !changes.is_empty() {
            self.subscribers.iter_mut().for_each(|subscriber| subscriber.apply(changes));
        }
    }

    /// After a failure the engine refuses all further work, so the file is opened anew, which also
    /// tells whether the group is in it. Gives what its transactions came to, or why all failed.
    fn resolve(&mut self, failure: Failure) -> Result<Vec<Result<Revision, Error>>, Error> {
        file::close(self.database.take());
        let (error, outcome) = match failure {
            Failure::Before(error) => return Err(self.file.failed("write", &error)),
            Failure::During(error, outcome) => (error, outcome),
        };
        let (revision, results) = (outcome.revision, outcome.results.clone());
        self.unresolved = Some(outcome);
        let unknown = Error::Unknown { place: self.file.place(), reason: error.to_string() };
        match self.database().map(drop) {
            Ok(()) if self.revision != revision => Err(self.file.failed("write", &error)),
            // It was written, but whether it outlives a loss of power only a flush could have told.
            Ok(()) => Ok(results.into_iter().map(|result| result.and(Err(unknown.clone()))).collect()),
            Err(_) => Err(unknown),
        }
    }

    /// The open file; opened again if need be.
    fn database(&mut self) -> Result<&Database, Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        Ok(self.database.insert(database))
    }

    fn reopen(&mut self) -> Result<Database, Error> {
        self.file.drop_cached();
        let database = self.file.open()?;
        let revision = self.file.read(&database, file::revision)?;
        match self.unresolved.take() {
            Some(outcome) if outcome.revision == revision => self.tell(revision, &outcome.changes),
            _ if revision == self.revision => {}
            unresolved => {
                self.unresolved = unresolved;
                let reason = format!(
                    "it is at revision {revision} and was at {} before it was opened again",
                    self.revision
                );
                return Err(Error::Damaged { place: self.file.place(), reason });
            }
        }
        Ok(database)
    }

    fn subscribe(&mut self, mut subscriber: Box<dyn Subscriber>) -> Result<(), Error> {
        self.database()?;
        if let Some(database) = &self.database {
            self.file.read(database, |transaction| {
                file::each_piece(transaction, |piece| {
                    subscriber.load(piece);
                    true
                })
            })?;
        }
        subscriber.loaded(self.revision);
        self.subscribers.push(subscriber);
        Ok(())
    }

    /// Reads all keys on a thread of their own, as they are now, whatever is written meanwhile.
    fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let began = self.database()?.begin_read();
        let place = self.file.place();
        let failed = move |reason: String| Error::Storage { doing: "read", place: place.clone(), reason };
        let transaction = began.map_err(|error| failed(error.to_string()))?;
        let (sender, keys) = mpsc::channel(AHEAD);
        let read = {
            let failed = failed.clone();
            move || {
                let read =
                    file::each_piece(&transaction, |piece| sender.blocking_send(Ok(Some(piece))).is_ok());
                // Whoever asked may have gone.
                drop(sender.blocking_send(read.map(|()| None).map_err(|error| failed(error.to_string()))));
            }
        };
        std::thread::Builder::new()
            .name("state-snapshot".into())
            .spawn(read)
            .map_err(|error| failed(error.to_string()))?;
        Ok(Snapshot::new(self.revision, keys))
    }
}

/// The transactions that wait, to be committed together, and what comes after them.
fn group(first: Transaction, requests: &Receiver<Request>) -> (Vec<Transaction>, Option<Request>) {
    let mut group = vec![first];
    while group.len() < GROUP {
        match requests.try_recv() {
            Ok(Request::Commit(next)) => group.push(next),
            Ok(other) => return (group, Some(other)),
            Err(_) => break,
        }
    }
    (group, None)
}

fn refuse(group: Vec<Transaction>, error: &Error) {
    for transaction in group {
        drop(transaction.done.send(Err(error.clone())));
    }
}
