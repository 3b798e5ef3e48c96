//! Results of steps by their keys, and digests of files by what `stat` says of them.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};
use wharf_base::{Digest, Hasher};
use wharf_image::{Descriptor, Layer, Store};

use crate::{
    error::{IoContext, Result},
    workspace::replace_file,
};

/// What a step made. A record may also say that it changed nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The blob and the digest of its content.
    layer: Option<(Descriptor, Digest)>,
    /// The key that stands for the file system after the step.
    pub(crate) key: Digest,
    /// When it was made, RFC 3339.
    pub(crate) created: String,
}

impl Record {
    pub(crate) fn new(layer: Option<&Layer>, key: Digest, created: String) -> Self {
        Self { layer: layer.map(|layer| (layer.descriptor.clone(), layer.diff_id)), key, created }
    }

    pub(crate) fn layer(&self) -> Option<Layer> {
        let (descriptor, diff_id) = self.layer.clone()?;
        Some(Layer { descriptor, diff_id })
    }
}

/// The records on disk, one file each, named by key.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The record of a key whose layer is still in the store.
    pub(crate) fn get(&self, key: &Digest, images: &Store) -> Option<Record> {
        let path = self.dir.join(key.hex());
        let record: Record = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        if let Some((descriptor, _)) = &record.layer
            && !images.blobs().touch(&descriptor.digest)
        {
            return None;
        }
        // Its age says when it was last of use.
        let _ = fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(record)
    }

    pub(crate) fn put(&self, key: &Digest, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).at("write", &self.dir)?;
        replace_file(&self.dir.join(key.hex()), &bytes)
    }

    /// Blobs and contents that records point at, for garbage collection.
    pub(crate) fn kept(&self) -> Result<Vec<Digest>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)?.flatten() {
            let record = fs::read(entry.path()).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
            kept.extend(record.and_then(|r| r.layer).into_iter().flat_map(|(d, id)| [d.digest, id]));
        }
        Ok(kept)
    }

    /// Removes records not used for `age`; how many.
    pub(crate) fn prune(&self, age: Duration) -> Result<usize> {
        let mut removed = 0;
        let now = SystemTime::now();
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)?.flatten() {
            let used = entry.metadata().and_then(|meta| meta.modified()).ok();
            let is_old = used.and_then(|at| now.duration_since(at).ok()).is_some_and(|unused| unused >= age);
            if is_old && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// What must be the same for a file's digest to be known still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: u64,
    mtime: i64,
    ctime: i64,
    digest: Digest,
}

/// Digests of files by device and inode, as git's index keeps them.
#[derive(Debug)]
pub(crate) struct FileDigests {
    path: PathBuf,
    known: Mutex<Known>,
}

/// What is known, and whether some of it is new.
type Known = (HashMap<(u64, u64), Seen>, bool);

const MAGIC: &[u8; 16] = b"wharf-files-1\n\0\0";
const ROW: usize = 72;
const MAX_ROWS: usize = 1_000_000;
/// A file changed this recently could change again without another time stamp.
const UNSETTLED: i64 = 2_000_000_000;

impl FileDigests {
    /// Reads what is known; a damaged file is as none.
    pub(crate) fn open(path: PathBuf) -> Self {
        let bytes = fs::read(&path).unwrap_or_default();
        let rows = bytes.strip_prefix(MAGIC.as_slice()).unwrap_or_default();
        let known = rows.chunks_exact(ROW).take(MAX_ROWS).filter_map(row).collect();
        Self { path, known: Mutex::new((known, false)) }
    }

    pub(crate) fn get(&self, stat: &Stat) -> Option<Digest> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = known.0.get(&(stat.st_dev, stat.st_ino))?;
        let same = seen.size == stat.st_size as u64
            && seen.mtime == nanos(stat.st_mtime, stat.st_mtime_nsec)
            && seen.ctime == nanos(stat.st_ctime, stat.st_ctime_nsec);
        same.then_some(seen.digest)
    }

    pub(crate) fn put(&self, stat: &Stat, digest: Digest) {
        let (mtime, ctime) =
            (nanos(stat.st_mtime, stat.st_mtime_nsec), nanos(stat.st_ctime, stat.st_ctime_nsec));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if ctime.max(mtime) > now.as_nanos() as i64 - UNSETTLED {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0.len() < MAX_ROWS {
            let seen = Seen { size: stat.st_size as u64, mtime, ctime, digest };
            known.0.insert((stat.st_dev, stat.st_ino), seen);
            known.1 = true;
        }
    }

    /// Writes what is new. When two builds end at once, one's news is lost and found again later.
    pub(crate) fn save(&self) -> Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut known.1) {
            return Ok(());
        }
        let mut bytes = MAGIC.to_vec();
        for ((device, inode), seen) in &known.0 {
            for number in [*device, *inode, seen.size, seen.mtime as u64, seen.ctime as u64] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            bytes.extend_from_slice(&raw(&seen.digest));
        }
        replace_file(&self.path, &bytes)
    }
}

fn nanos(seconds: i64, nanos: impl TryInto<i64>) -> i64 {
    seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos.try_into().unwrap_or(0))
}

fn row(bytes: &[u8]) -> Option<((u64, u64), Seen)> {
    let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at * 8..at * 8 + 8)?.try_into().ok()?));
    let digest = Digest::from_raw(bytes.get(40..72)?.try_into().ok()?);
    let seen = Seen { size: number(2)?, mtime: number(3)? as i64, ctime: number(4)? as i64, digest };
    Some(((number(0)?, number(1)?), seen))
}

fn raw(digest: &Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    let hex = digest.hex();
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0);
    }
    bytes
}

/// Makes keys: every part is preceded by its length, so that no two lists of parts look alike.
pub(crate) struct KeyMaker(Hasher);

impl KeyMaker {
    pub(crate) fn new(purpose: &str) -> Self {
        let mut maker = Self(Hasher::new());
        maker.text(purpose);
        maker
    }

    pub(crate) fn bytes(&mut self, part: &[u8]) -> &mut Self {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn text(&mut self, part: &str) -> &mut Self {
        self.bytes(part.as_bytes())
    }

    pub(crate) fn texts<'a>(&mut self, parts: impl IntoIterator<Item = &'a str>) -> &mut Self {
        let parts: Vec<&str> = parts.into_iter().collect();
        self.number(parts.len() as u64);
        for part in parts {
            self.text(part);
        }
        self
    }

    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    pub(crate) fn digest(&mut self, digest: &Digest) -> &mut Self {
        let text = digest.hex();
        self.text(&text)
    }

    pub(crate) fn key(self) -> Digest {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_digests_survive_and_follow_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "one").unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        fs::File::options().write(true).open(&file).unwrap().set_modified(old).unwrap();
        let mut stat = rustix::fs::stat(&file).unwrap();
        let store = dir.path().join("files");
        let digests = FileDigests::open(store.clone());
        digests.put(&stat, Digest::of("one"));
        assert_eq!(digests.get(&stat), None, "it was changed a moment ago");
        stat.st_ctime -= 60;
        digests.put(&stat, Digest::of("one"));
        digests.save().unwrap();
        let digests = FileDigests::open(store.clone());
        assert_eq!(digests.get(&stat), Some(Digest::of("one")));
        stat.st_size += 1;
        assert_eq!(digests.get(&stat), None);
        fs::write(&store, "rubbish").unwrap();
        assert!(FileDigests::open(store).known.lock().unwrap().0.is_empty());
    }

    #[test]
    fn keys_tell_where_parts_end() {
        let key = |parts: &[&str]| {
            let mut maker = KeyMaker::new("t");
            maker.texts(parts.iter().copied());
            maker.key()
        };
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
    }
}
