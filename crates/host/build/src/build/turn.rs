//! Who works at a step: of builds that want the same result at once, one makes it and the others wait for it.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use wharf_base::Digest;

use super::stage::StageRun;
use crate::error::{IoContext, Result};

/// The right to make one result, given back when dropped.
pub(crate) struct Turn {
    /// Whether another had it before: the result may be there now.
    pub(crate) waited: bool,
    held: Option<(File, PathBuf)>,
}

impl StageRun<'_> {
    /// Waits until nobody else makes the result of this key.
    pub(crate) fn turn(&self, key: &Digest) -> Result<Turn> {
        if self.ignores_cache() {
            return Ok(Turn { waited: false, held: None });
        }
        let path = self.build.builder.workspace.turns().join(key.hex());
        let mut waited = false;
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .at("open lock", &path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // Whoever had it removed the file: one with the same name is another lock.
                Ok(()) if !is_still(&file, &path) => waited = true,
                Ok(()) => return Ok(Turn { waited, held: Some((file, path)) }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    waited = true;
                    self.build.check()?;
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error).at("lock", &path),
            }
        }
    }
}

fn is_still(file: &File, path: &PathBuf) -> bool {
    let (Ok(held), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (there.dev(), there.ino())
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((_lock, path)) = &self.held {
            let _ = fs::remove_file(path);
        }
    }
}
