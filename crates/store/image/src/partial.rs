//! `blobs/partial/<name>`: content that arrives in several pieces, perhaps over several lives of the program.
//!
//! Pushes and pulls grow their blobs here. Unlike [`crate::BlobWriter`]'s temporaries these files outlive
//! their process, so that what was received counts after a restart; [`Blobs::sweep_partials`] removes those
//! nobody came back for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};
use wharf_base::{Digest, Hasher};

use crate::{
    blob::Blobs,
    error::{Error, IoContext, Result},
    fsx,
};

/// A blob received piece by piece. Dropped, it keeps what it has; see [`Partial::discard`].
pub struct Partial {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
    blobs: Blobs,
    growth: Arc<Growth>,
}

/// How far a [`Partial`] is, for those who read along.
#[derive(Default)]
struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    size: u64,
    /// Beginnings anew: who read before them read something else.
    rewinds: u64,
    ended: Option<Ended>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// It has the digest that was wanted.
    Whole,
    GivenUp,
}

impl Growth {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// Reads what a [`Partial`] receives while it does, from its beginning. The end is told only of content whose digest
/// was right; anything else ends with an error.
pub struct Follower {
    file: File,
    at: u64,
    rewinds: u64,
    growth: Arc<Growth>,
}

impl io::Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = {
            let mut state = self.growth.state.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if state.rewinds != self.rewinds || state.ended == Some(Ended::GivenUp) {
                    return Err(cut_short());
                }
                match state.size.saturating_sub(self.at) {
                    0 if state.ended == Some(Ended::Whole) => return Ok(0),
                    0 => state = self.growth.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                    left => break left,
                }
            }
        };
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.at)?;
        if n == 0 && wanted > 0 {
            // Shortened since it was looked at: no end.
            return Err(cut_short());
        }
        self.at += n as u64;
        Ok(n)
    }
}

fn cut_short() -> io::Error {
    io::Error::other("the content did not come to its end")
}

/// A point a [`Partial`] can return to.
#[derive(Clone)]
pub struct Mark {
    hasher: Hasher,
    size: u64,
}

impl Blobs {
    /// Opens what was received under `name`, or starts it. `None` while someone else writes it.
    pub fn partial(&self, name: &str) -> Result<Option<Partial>> {
        self.claim_partial(name, true)
    }

    /// Opens what was received under `name`; `None` when there is nothing or someone else writes it.
    pub fn existing_partial(&self, name: &str) -> Result<Option<Partial>> {
        self.claim_partial(name, false)
    }

    fn partial_path(&self, name: &str) -> Result<PathBuf> {
        let fine =
            (1..=100).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if fine {
            Ok(self.partials().join(name))
        } else {
            Err(Error::document("upload name", "is not made of letters, digits and '-'"))
        }
    }

    fn claim_partial(&self, name: &str, create: bool) -> Result<Option<Partial>> {
        let path = self.partial_path(name)?;
        let mut file = match OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(&path)
        {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.at("open upload", &path)?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            other => other.at("lock upload", &path)?,
        }
        // Its last holder may have finished or removed it between the opening and the lock.
        let named = fs::metadata(&path).map(|m| m.ino()).ok();
        if named != Some(file.metadata().at("read", &path)?.ino()) {
            return Ok(None);
        }
        let mut hasher = Hasher::new();
        let size = io::copy(&mut file, &mut hasher).at("read upload", &path)?;
        let growth = Arc::<Growth>::default();
        growth.change(|state| state.size = size);
        Ok(Some(Partial { path, file, hasher, size, blobs: self.clone(), growth }))
    }

    /// Removes partial content that nobody holds and nobody added to for `age`; how many.
    pub fn sweep_partials(&self, age: Duration) -> Result<usize> {
        let now = SystemTime::now();
        let mut swept = 0;
        for entry in fs::read_dir(self.partials()).at("list", self.partials())? {
            let path = entry.at("list", self.partials())?.path();
            let Ok(file) = File::open(&path) else { continue };
            let old = file
                .metadata()
                .and_then(|m| m.modified())
                .is_ok_and(|at| now.duration_since(at).is_ok_and(|passed| passed >= age));
            if old && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fsx::remove_any(&path).at("remove left-over", &path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Partial {
    /// How many bytes were received so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file it grows in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody who reads along.
    pub fn follow(&self) -> Result<Follower> {
        let file = self.file.try_clone().at("open", &self.path)?;
        let rewinds = self.growth.state.lock().unwrap_or_else(PoisonError::into_inner).rewinds;
        Ok(Follower { file, at: 0, rewinds, growth: Arc::clone(&self.growth) })
    }

    /// Where the content stands now.
    pub fn mark(&self) -> Mark {
        Mark { hasher: self.hasher.clone(), size: self.size }
    }

    /// Takes back everything after `mark`.
    pub fn rewind(&mut self, mark: Mark) -> Result<()> {
        self.file.set_len(mark.size).at("shorten", &self.path)?;
        self.file.seek(SeekFrom::Start(mark.size)).at("shorten", &self.path)?;
        if self.size > mark.size {
            self.growth.change(|state| (state.size, state.rewinds) = (mark.size, state.rewinds + 1));
        }
        (self.hasher, self.size) = (mark.hasher, mark.size);
        Ok(())
    }

    /// Forgets everything received.
    pub fn restart(&mut self) -> Result<()> {
        self.rewind(Mark { hasher: Hasher::new(), size: 0 })
    }

    /// Ends the blob: checks its digest, makes it durable and gives it its name. Returns digest and size.
    /// What has another digest is removed.
    pub fn commit(mut self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let digest = match expected.map(Digest::algorithm).filter(|wanted| *wanted != self.hasher.algorithm())
        {
            None => self.hasher.clone().finish(),
            // Which one is wanted is told at the end only.
            Some(algorithm) => {
                let mut hasher = Hasher::by(algorithm);
                self.file.rewind().at("read upload", &self.path)?;
                io::copy(&mut self.file, &mut hasher).at("read upload", &self.path)?;
                hasher.finish()
            }
        };
        if let Some(expected) = expected
            && *expected != digest
        {
            self.discard()?;
            return Err(Error::mismatch("content received".into(), *expected, digest));
        }
        self.growth.change(|state| state.ended = Some(Ended::Whole));
        if self.blobs.touch(&digest) {
            self.discard_file()?;
        } else {
            self.file.sync_data().at("flush blob", &self.path)?;
            fs::rename(&self.path, self.blobs.path(&digest)).at("rename into place", &self.path)?;
            fsx::sync_dir(&self.blobs.dir_of(digest.algorithm()))?;
            self.blobs.touch(&digest);
        }
        Ok((digest, self.size))
    }

    /// Removes what was received.
    pub fn discard(self) -> Result<()> {
        self.discard_file()
    }

    fn discard_file(&self) -> Result<()> {
        fsx::remove_any(&self.path).at("remove upload", &self.path)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.growth.change(|state| state.ended = state.ended.or(Some(Ended::GivenUp)));
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..n).unwrap_or_default());
        self.size += n as u64;
        self.growth.change(|state| state.size = self.size);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_where_the_last_life_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let store = crate::Store::open(dir.path()).unwrap();
        let mut first = store.blobs().partial("up-1").unwrap().unwrap();
        first.write_all(b"hello ").unwrap();
        assert!(store.blobs().partial("up-1").unwrap().is_none(), "one writer at a time");
        drop(first);

        let store = crate::Store::open(dir.path()).unwrap();
        let mut second = store.blobs().existing_partial("up-1").unwrap().unwrap();
        assert_eq!(second.size(), 6);
        let mark = second.mark();
        second.write_all(b"wrong").unwrap();
        second.rewind(mark).unwrap();
        second.write_all(b"world").unwrap();
        let digest = Digest::of("hello world");
        assert_eq!(second.commit(Some(&digest)).unwrap(), (digest, 11));
        assert_eq!(store.blobs().read(&digest, 99).unwrap(), b"hello world");
        assert!(store.blobs().existing_partial("up-1").unwrap().is_none());
    }

    #[test]
    fn who_reads_along_gets_what_comes_and_no_end_but_a_right_one() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = crate::Store::open(dir.path()).unwrap().blobs().clone();
        let digest = Digest::of("hello world");
        let mut part = blobs.partial("a").unwrap().unwrap();
        part.write_all(b"hello").unwrap();
        let mut follower = part.follow().unwrap();
        let mut five = [0; 5];
        io::Read::read_exact(&mut follower, &mut five).unwrap();
        assert_eq!(&five, b"hello");
        let rest = std::thread::spawn(move || io::read_to_string(follower));
        part.write_all(b" world").unwrap();
        part.commit(Some(&digest)).unwrap();
        assert_eq!(rest.join().unwrap().unwrap(), " world");
        // Forged, begun anew, given up.
        for end in [0, 1, 2] {
            let mut part = blobs.partial("b").unwrap().unwrap();
            part.write_all(b"hello worlt").unwrap();
            let follower = part.follow().unwrap();
            let read = std::thread::spawn(move || io::read_to_string(follower));
            match end {
                0 => assert!(part.commit(Some(&digest)).is_err()),
                1 => {
                    part.restart().unwrap();
                    part.write_all(b"hello world").unwrap();
                    part.commit(None).unwrap();
                }
                _ => part.discard().unwrap(),
            }
            assert!(read.join().unwrap().is_err(), "{end}");
        }
    }

    #[test]
    fn forged_content_and_abandoned_content_go() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = crate::Store::open(dir.path()).unwrap().blobs().clone();
        let mut forged = blobs.partial("a").unwrap().unwrap();
        forged.write_all(b"x").unwrap();
        assert!(matches!(forged.commit(Some(&Digest::of("y"))), Err(Error::Mismatch { .. })));
        let held = blobs.partial("held").unwrap().unwrap();
        drop(blobs.partial("left").unwrap());
        assert_eq!(blobs.sweep_partials(Duration::ZERO).unwrap(), 1);
        drop(held);
        assert_eq!(blobs.sweep_partials(Duration::from_secs(60)).unwrap(), 0);
        assert!(blobs.partial("../x").is_err());
    }
}
