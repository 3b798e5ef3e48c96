//! `blobs/ALGORITHM/<hex>`: content under its own digest, written once, never changed.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use wharf_base::{Algorithm, Digest, Hasher};

use crate::{
    error::{Error, IoContext, Result},
    fsx::{self, Temp},
};

/// The blobs of one data folder.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
    ingest: PathBuf,
    partials: PathBuf,
}

impl Blobs {
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let blobs = Self {
            dir: data_dir.join("blobs"),
            ingest: data_dir.join("blobs/ingest"),
            partials: data_dir.join("blobs/partial"),
        };
        for dir in blobs.dirs().iter().chain([&blobs.ingest, &blobs.partials]) {
            fsx::create_private_dir(dir)?;
        }
        fsx::sweep_temps(&blobs.ingest)?;
        Ok(blobs)
    }

    /// Where the blob of this digest lies, if it is there.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir_of(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where blobs lie by how their digests are made.
    pub(crate) fn dir_of(&self, algorithm: Algorithm) -> PathBuf {
        self.dir.join(algorithm.name())
    }

    /// All folders blobs lie in.
    pub(crate) fn dirs(&self) -> [PathBuf; 2] {
        Algorithm::ALL.map(|algorithm| self.dir_of(algorithm))
    }

    pub(crate) fn partials(&self) -> &Path {
        &self.partials
    }

    /// The blob's size, or `None` when it is not in the store.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NoBlob(*digest)),
            other => other.at("open blob", &path),
        }
    }

    /// The whole of a small blob (manifest, index, configuration), its digest verified.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        self.open_blob(digest)?.take(limit + 1).read_to_end(&mut bytes).at("read blob", self.path(digest))?;
        if bytes.len() as u64 > limit {
            return Err(Error::document(
                format!("document {digest}"),
                format!("is larger than {limit} bytes"),
            ));
        }
        let actual = Digest::by(digest.algorithm(), &bytes);
        if actual != *digest {
            return Err(Error::mismatch("stored blob".into(), *digest, actual));
        }
        Ok(bytes)
    }

    /// Starts a new blob whose digest is computed as it is written.
    pub fn writer(&self) -> Result<BlobWriter> {
        self.writer_by(Algorithm::default())
    }

    /// Starts a new blob whose digest is made by an algorithm.
    pub fn writer_by(&self, algorithm: Algorithm) -> Result<BlobWriter> {
        Ok(BlobWriter {
            temp: Temp::file(&self.ingest)?,
            hasher: Hasher::by(algorithm),
            size: 0,
            blobs: self.clone(),
        })
    }

    /// Stores `bytes` and returns their digest.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        self.put_by(Algorithm::default(), bytes)
    }

    /// Stores `bytes` under a digest made by an algorithm.
    pub fn put_by(&self, algorithm: Algorithm, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::by(algorithm, bytes);
        if self.touch(&digest) {
            return Ok(digest);
        }
        let mut writer = self.writer_by(algorithm)?;
        writer.write_all(bytes).at("write blob", self.path(&digest))?;
        writer.commit(Some(&digest)).map(|(digest, _)| digest)
    }

    /// Marks a blob as wanted now, so that garbage collection spares it for its grace period.
    /// False when the blob is not in the store.
    pub fn touch(&self, digest: &Digest) -> bool {
        File::open(self.path(digest)).and_then(|f| f.set_modified(SystemTime::now())).is_ok()
    }
}

/// A blob on its way into the store. Dropped before [`BlobWriter::commit`], it leaves nothing.
pub struct BlobWriter {
    temp: Temp,
    hasher: Hasher,
    size: u64,
    blobs: Blobs,
}

impl BlobWriter {
    /// How many bytes were written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the blob: checks its digest, makes it durable and gives it its name. Returns digest and size.
    pub fn commit(self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let digest = self.hasher.finish();
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(Error::mismatch("content received".into(), *expected, digest));
        }
        if !self.blobs.touch(&digest) {
            self.temp.file.sync_data().at("flush blob", &self.temp.path)?;
            self.temp.rename_into(&self.blobs.path(&digest))?;
            fsx::sync_dir(&self.blobs.dir_of(digest.algorithm()))?;
        }
        Ok((digest, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.temp.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temp.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        (dir, blobs)
    }

    #[test]
    fn keeps_content_under_its_digest_only() {
        let (_dir, blobs) = open();
        let digest = blobs.put(b"hello").unwrap();
        assert_eq!(blobs.read(&digest, 100).unwrap(), b"hello");
        assert_eq!(blobs.size(&digest), Some(5));
        assert!(matches!(blobs.read(&Digest::of("other"), 9), Err(Error::NoBlob(_))));
        assert!(matches!(blobs.read(&digest, 4), Err(Error::Document { .. })));

        let mut wrong = blobs.writer().unwrap();
        wrong.write_all(b"forged").unwrap();
        assert!(matches!(wrong.commit(Some(&digest)), Err(Error::Mismatch { .. })));
        assert_eq!(fs::read_dir(&blobs.ingest).unwrap().count(), 0);
    }

    #[test]
    fn notices_a_blob_that_changed_on_disk() {
        let (_dir, blobs) = open();
        let digest = blobs.put(b"hello").unwrap();
        fs::write(blobs.path(&digest), b"hullo").unwrap();
        assert!(matches!(blobs.read(&digest, 100), Err(Error::Mismatch { .. })));
    }

    #[test]
    fn sweeps_what_a_killed_writer_left_and_spares_a_living_one() {
        let (dir, blobs) = open();
        fs::write(blobs.ingest.join("left"), b"half").unwrap();
        let mut living = blobs.writer().unwrap();
        living.write_all(b"still going").unwrap();
        let again = Blobs::open(dir.path()).unwrap();
        assert!(!again.ingest.join("left").exists());
        let (digest, size) = living.commit(None).unwrap();
        assert_eq!((again.size(&digest), size), (Some(11), 11));
    }
}
