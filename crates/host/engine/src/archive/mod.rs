//! Files in and out of containers: a tar stream from one tree to the other.

mod place;
mod source;
mod still;

use std::{
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use wharf_image::{UnpackOptions, Unpacked, unpack_into};

use crate::error::{Error, IoContext as _, Result};

pub use place::{Folder, There, landing};
pub use source::{Kind, Source, Stat};

/// Fills an empty folder with what an image has at `place`: content, and owner and mode of the place itself. Nothing
/// happens where the image has no folder.
pub(crate) fn fill(folder: &Path, lower_dirs: &[PathBuf], place: &str) -> Result<()> {
    match Source::of_image(lower_dirs, place)? {
        Some(source) => pour(&source, b".", folder, None).map(drop),
        None => Ok(()),
    }
}

/// Copies into the folder `target`, under `name`; owners are the source's where none is given.
///
/// # Errors
/// When either side fails.
pub fn pour(source: &Source, name: &[u8], target: &Path, owner: Option<(u32, u32)>) -> Result<Unpacked> {
    let options = UnpackOptions { whiteouts: false, owner, ..UnpackOptions::default() };
    let (reader, writer) = io::pipe().at("make", "a pipe")?;
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let mut out = BufWriter::with_capacity(128 << 10, writer);
            source.write(name, &mut out)?;
            out.flush().at("pass on", "the files")
        });
        let unpacked = unpack_into(reader, target, &options).map_err(Error::from);
        let written = written.join().unwrap_or_else(|_| Err(Error::host("the files could not be read")));
        match (unpacked, written) {
            (Ok(done), Ok(())) => Ok(done),
            // What was not read fails the other side too, and the other way round: the cause is the one to tell.
            (Err(error), Err(follows)) if is_broken_pipe(&follows) => Err(error),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    })
}

fn is_broken_pipe(error: &Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        if cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        next = cause.source();
    }
    false
}
