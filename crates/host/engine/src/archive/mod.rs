//! Files in and out of containers: a tar stream from one tree to the other.

mod place;
mod source;
mod still;

use std::{
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use wharf_image::{UnpackOptions, Unpacked, unpack_into};

use crate::{
    containers::{Container, Engine},
    error::{Error, IoContext as _, Result},
    image,
};

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

/// Users' files of more than this are not read.
const MAX_USERS: u64 = 4 << 20;

/// User and group a container runs as, as its own files know them; nothing where none is named.
///
/// # Errors
/// When they do not know it.
pub fn owner_of(engine: &Engine, container: &Container) -> Result<Option<(u32, u32)>> {
    let record = &container.record;
    let of_image =
        || image::resolve(engine.data(), &record.image_id).map(|image| image.user).unwrap_or_default();
    let wanted = record.spec.user.clone().unwrap_or_else(of_image);
    if wanted.is_empty() {
        return Ok(None);
    }
    let (user, group) =
        wanted.split_once(':').map_or((wanted.as_str(), None), |(user, group)| (user, Some(group)));
    let read = |file: &str| -> String {
        let source = Source::of(engine.data(), container, file, true);
        source.and_then(|source| source.text(MAX_USERS)).unwrap_or_default()
    };
    let field = |line: &str, at: usize| line.split(':').nth(at).unwrap_or_default().to_owned();
    let unknown = |what: &str, name: &str| {
        Error::invalid(format!(
            "unable to find {what} {name}: no matching entries in its file of container {}",
            container.name()
        ))
    };
    let users = read("/etc/passwd");
    let entry = users.lines().find(|line| field(line, 0) == user || field(line, 2) == user);
    let number = entry.map_or(user.to_owned(), |line| field(line, 2));
    let uid = number.parse().map_err(|_| unknown("user", user))?;
    let gid = match group {
        None => entry.and_then(|line| field(line, 3).parse().ok()).unwrap_or(0),
        Some(group) => {
            let groups = read("/etc/group");
            let entry = groups.lines().find(|line| field(line, 0) == group);
            let number = entry.map_or(group.to_owned(), |line| field(line, 2));
            number.parse().map_err(|_| unknown("group", group))?
        }
    };
    Ok(Some((uid, gid)))
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
