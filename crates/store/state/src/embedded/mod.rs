//! The store in one redb file, written by one thread that commits transactions in groups.

mod commit;
mod disk;
mod file;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use crate::{Error, KeyValue, Pending, Revision, Snapshot, Store, Subscriber, Write};
use commit::{Committer, Request, Transaction};
use file::File;

/// How the embedded store works.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Page cache of the engine, in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { cache_bytes: 8 << 20 }
    }
}

/// The embedded store. Dropping it finishes what was asked of it and closes the file.
pub struct Embedded {
    queue: Option<Sender<Request>>,
    committer: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Opens or makes the store at `path`.
    ///
    /// Every page of the file is checked; what a crash cut off is undone as far as nobody was told
    /// of it.
    ///
    /// # Errors
    /// When the file cannot be opened, is held by another process, is damaged, or is of a later
    /// format. It is left as it is.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        Self::on(File::new(path, options.cache_bytes))
    }

    fn on(file: File) -> Result<Self, Error> {
        let place = file.place();
        let (queue, requests) = channel();
        let committer = Committer::open(file)?;
        let thread = std::thread::Builder::new()
            .name("state-commit".into())
            .spawn(move || committer.run(&requests))
            .map_err(|error| Error::Storage { doing: "serve", place, reason: error.to_string() })?;
        Ok(Self { queue: Some(queue), committer: Some(thread) })
    }

    /// Has the committer do something; its answer.
    fn ask<T: Send + 'static>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Pending<T> {
        let (done, result) = oneshot::channel();
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(request(done)).is_ok());
        Box::pin(
            async move { if sent { result.await.unwrap_or(Err(Error::Closed)) } else { Err(Error::Closed) } },
        )
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

impl Store for Embedded {
    fn subscribe(&self, subscriber: Box<dyn Subscriber>) -> Pending<()> {
        self.ask(|done| Request::Subscribe(subscriber, done))
    }

    fn commit(&self, writes: Vec<Write>) -> Pending<Revision> {
        match Write::check(&writes) {
            Ok(()) => self.ask(|done| Request::Commit(Transaction { writes, done })),
            Err(refused) => Box::pin(std::future::ready(Err(refused))),
        }
    }

    fn snapshot(&self) -> Pending<Snapshot> {
        self.ask(Request::Snapshot)
    }
}

/// What is in the file of a store that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// The revision it is at.
    pub revision: Revision,
    /// Whether there is no key.
    pub is_empty: bool,
}

/// Looks into the file of a store that does not run; nothing when there is none.
///
/// # Errors
/// As [`Embedded::open`].
pub fn content_of(path: &Path) -> Result<Option<Content>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let file = File::new(path, Options::default().cache_bytes);
    let database = file.open()?;
    file.read(&database, |transaction| {
        let mut is_empty = true;
        file::each_piece(transaction, |_| {
            is_empty = false;
            false
        })?;
        Ok(Some(Content { revision: file::revision(transaction)?, is_empty }))
    })
}

/// Makes a file at `path` of keys from elsewhere, each with the revision it has; the whole is at
/// `revision`. Nothing may be at `path` yet. All of it is on the disk when this returns.
///
/// # Errors
/// When the file cannot be written, and what `next` fails with.
pub fn write_file(
    path: &Path,
    revision: Revision,
    next: impl FnMut() -> Result<Option<Vec<KeyValue>>, Error>,
) -> Result<(), Error> {
    if path.exists() {
        let reason = "there is a file already".to_owned();
        return Err(Error::Storage { doing: "write", place: path.display().to_string(), reason });
    }
    let file = File::new(path, Options::default().cache_bytes);
    let database = file.open()?;
    file::fill(&database, next, revision, |error| file.failed("write", error))
}
