//! `wharf restore`: a backup becomes the state of a platform.
//!
//! All of it is written beside the present state first, in DIR/restore. A file `complete` there, which says where the
//! present state goes, decides: with it what is begun is finished by whoever comes next, without it it is as if nothing
//! had been.

use std::{
    fs::{self, File},
    io::{BufReader, ErrorKind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use wharf_base::{Clock as _, Hinted, SystemClock, Timestamp};
use wharf_state::{
    Error, KeyValue, Revision,
    backup::{Head, Reader, Record},
    content_of, write_file,
};

use super::{Globals, platform::say};
use crate::platform::{CLAIM, lock, make_data_folder, write_private};

/// The parts of a platform's folder that a backup replaces, and where they are.
const PARTS: [(&str, &str); 3] =
    [("state.redb", "state.redb"), ("pki", "pki"), (SERVICE_NETWORK, SERVICE_NETWORK_PATH)];
/// The network that addresses of Services are in, where one was chosen: by the name it has in a backup, and where it is.
pub(crate) const SERVICE_NETWORK: &str = "service-network";
pub(crate) const SERVICE_NETWORK_PATH: &str = "network/services";
/// Where the new parts wait.
const STAGE: &str = "restore";
/// The file in it that decides.
const COMPLETE: &str = "complete";
/// How far revisions jump, so that no client has seen one that comes: more than were written since the backup.
const JUMP: Revision = 1_000_000_000;
/// Keys written at once.
const PIECE: usize = 1000;

/// Put a backup in the place of a platform's state
#[derive(clap::Args)]
#[command(
    after_help = "The platform must not run. Objects, keys and certificates become those of the backup; images, volumes, \
                  git repositories and telemetry stay as they are. Revisions go on far above those of the backup and of \
                  the present state, so that clients that watch list everything again."
)]
pub(crate) struct Args {
    /// A file of 'wharf backup'
    file: PathBuf,
    /// Also replace a state that is there or damaged; it is kept in a folder beside
    #[arg(long)]
    force: bool,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> Result<ExitCode> {
        let data = globals.data_dir()?;
        make_data_folder(&data)?;
        let _lock = lock(&data)?;
        finish(&data)?;
        refuse_etcd(&data)?;
        let found = check(&self.file)?;
        let present = present(&data, self.force)?;
        let revision = found.head.revision.max(present).checked_add(JUMP);
        // Clients keep revisions in signed numbers.
        let revision = revision.filter(|revision| i64::try_from(*revision).is_ok());
        let revision =
            revision.with_context(|| format!("the revision {} leaves no room", found.head.revision))?;
        stage(&data, &self.file, revision).inspect_err(|_| forget(&data.join(STAGE)))?;
        let aside = finish(&data)?;
        say(&told(&self.file, &found, revision, aside.as_deref()));
        Ok(ExitCode::SUCCESS)
    }
}

/// A restoration would change the keys of such a platform, and none of its objects.
fn refuse_etcd(data: &Path) -> Result<()> {
    if !data.join(CLAIM).exists() {
        return Ok(());
    }
    let error = format!("the state of the platform in {} is in an etcd", data.display());
    let hint = "restore into another data folder with --data, or restore the etcd itself by its own means";
    Err(Hinted::new(error, hint).into())
}

/// Removes what was staged, first of all that it is complete: a part of it must never be taken for the whole.
fn forget(stage: &Path) {
    let complete = stage.join(COMPLETE);
    let undone = fs::remove_file(&complete).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    });
    let undone = undone.and_then(|()| File::open(stage)?.sync_all());
    // Else all of it stays, and is carried out as a whole.
    if undone.is_ok() {
        let _ = fs::remove_dir_all(stage);
    }
}

/// What is in a backup.
struct Found {
    head: Head,
    keys: u64,
}

fn told(file: &Path, found: &Found, revision: Revision, aside: Option<&Path>) -> String {
    let taken = i64::try_from(found.head.taken).unwrap_or(0);
    let taken = Timestamp::from_unix(taken / 1000, 0);
    let mut text = format!(
        "{}: {} objects as of revision {}, taken {taken}; the state is now at revision {revision}\n",
        file.display(),
        found.keys,
        found.head.revision
    );
    if let Some(aside) = aside {
        text += &format!("what was there before is in {}\n", aside.display());
    }
    text
}

fn open(file: &Path) -> Result<Reader<BufReader<File>>> {
    let opened = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    unusable(file, Reader::new(BufReader::new(opened)))
}

fn unusable<T>(file: &Path, result: Result<T, wharf_state::backup::BackupError>) -> Result<T> {
    result.map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot restore {}", file.display()));
        Hinted::new(error, "use another backup; nothing was changed").into()
    })
}

/// Reads a backup to its end, which shows whether it is whole.
fn check(file: &Path) -> Result<Found> {
    let mut reader = open(file)?;
    let mut found = Found { head: reader.head(), keys: 0 };
    while let Some(record) = unusable(file, reader.next_record())? {
        found.keys += u64::from(matches!(record, Record::Key(_)));
    }
    Ok(found)
}

/// The revision of the state that is there, if it may be replaced.
fn present(data: &Path, force: bool) -> Result<Revision> {
    let is_there = ["state.redb", "pki"].iter().any(|part| data.join(part).exists());
    if is_there && !force {
        let error = format!("there is a platform's state in {} already", data.display());
        let hint = "replace it with --force, which keeps it in a folder beside, or choose another folder with --data";
        return Err(Hinted::new(error, hint).into());
    }
    match content_of(&data.join("state.redb")) {
        Ok(content) => Ok(content.map_or(0, |content| content.revision)),
        // Nobody can say how far it was; the jump is meant for that.
        Err(Error::Damaged { .. }) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Writes all of a backup beside the present state.
fn stage(data: &Path, file: &Path, revision: Revision) -> Result<()> {
    let stage = data.join(STAGE);
    let failed = || format!("cannot write to {}", stage.display());
    let pki = stage.join("pki");
    fs::create_dir_all(&pki).with_context(failed)?;
    let mut reader = open(file)?;
    let mut files = Vec::new();
    let written = write_file(&stage.join("state.redb"), revision, || {
        next_keys(&mut reader, &mut files).map_err(|error| Error::Storage {
            doing: "restore",
            place: file.display().to_string(),
            reason: format!("{error:#}"),
        })
    });
    written.with_context(failed)?;
    for (name, content) in files {
        let folder = if name == SERVICE_NETWORK { &stage } else { &pki };
        write_private(&folder.join(name), &content)?;
    }
    for folder in [&pki, &stage] {
        File::open(folder).and_then(|folder| folder.sync_all()).with_context(failed)?;
    }
    let aside = format!("replaced-{}", SystemClock.now().as_millis());
    write_private(&stage.join(COMPLETE), aside.as_bytes())
}

/// The next keys of a backup. The files, which are few and come last, are put aside.
fn next_keys(
    reader: &mut Reader<BufReader<File>>,
    files: &mut Vec<(String, bytes::Bytes)>,
) -> Result<Option<Vec<KeyValue>>> {
    let mut keys = Vec::new();
    while keys.len() < PIECE {
        match reader.next_record()? {
            Some(Record::Key(key)) => keys.push(key),
            Some(Record::File { name, content }) => files.push((name, content)),
            None => break,
        }
    }
    Ok((!keys.is_empty()).then_some(keys))
}

/// Finishes a restoration that was begun, if one was; where the former state is then. To be called by whoever has the
/// folder's lock, before the state is looked at.
///
/// # Errors
/// When files cannot be moved.
pub(crate) fn finish(data: &Path) -> Result<Option<PathBuf>> {
    let stage = data.join(STAGE);
    let failed = || format!("cannot finish the restoration in {}", stage.display());
    let aside = match fs::read_to_string(stage.join(COMPLETE)) {
        Ok(name) => data.join(name),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match fs::remove_dir_all(&stage) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(failed),
                _ => {}
            }
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(failed),
    };
    let mut kept = aside.exists();
    for (part, place) in PARTS {
        kept |= switch(&stage.join(part), &data.join(place), &aside).with_context(failed)?;
    }
    File::open(data).and_then(|folder| folder.sync_all()).with_context(failed)?;
    fs::remove_dir_all(&stage).with_context(failed)?;
    Ok(kept.then_some(aside))
}

/// Puts a new part in its place and the old one aside; whether there was an old one. What was done already is not done
/// again.
fn switch(new: &Path, place: &Path, aside: &Path) -> std::io::Result<bool> {
    if !new.exists() {
        return Ok(false);
    }
    let old = place.exists();
    if old {
        fs::create_dir_all(aside)?;
        fs::rename(place, aside.join(place.file_name().unwrap_or_default()))?;
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::rename(new, place)?;
    Ok(old)
}
