//! Files that are whole whenever they are read, and, where it was acknowledged, there after a loss of power.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
};

use serde::Serialize;

use crate::error::{Error, IoContext as _, Result};

/// Writes `value` so that a reader sees the old file or the new one. A loss of power may take it.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    put(path, value, false)
}

/// Writes `value` so that it is there from now on, whatever happens: before this returns, the file and its place in the
/// folder are on the disk.
pub(crate) fn keep_json(path: &Path, value: &impl Serialize) -> Result<()> {
    put(path, value, true)?;
    path.parent().map_or(Ok(()), keep_folder)
}

fn put(path: &Path, value: &impl Serialize, flush: bool) -> Result<()> {
    let draft = path.with_extension("new");
    let bytes = serde_json::to_vec(value).map_err(|error| Error::host(error.to_string()))?;
    let written = File::create(&draft).and_then(|mut file| {
        file.write_all(&bytes)?;
        if flush { file.sync_all() } else { Ok(()) }
    });
    written.and_then(|()| fs::rename(&draft, path)).at("write", path)
}

/// What is in a folder by now is there from now on, not the contents of its files.
pub(crate) fn keep_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).at("flush", folder)
}
