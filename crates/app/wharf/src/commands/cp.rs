//! `wharf cp`: files and folders between a container and this machine, as a tar stream from one tree to the other.

mod place;
mod source;

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use rustix::process::{getegid, geteuid};
use wharf_base::Hinted;
use wharf_image::{UnpackOptions, Unpacked, unpack_into};

use super::{Globals, containers::Containers, image::hinted};
use place::{End, Folder, There, landing};
use source::Source;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep the numbers of user and group, instead of root in the container and yourself on this machine
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that SOURCE is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Do not tell what was copied
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path on this machine, or '-' for a tar stream on standard input
    source: String,
    /// CONTAINER:PATH, a path on this machine, or '-' for a tar stream on standard output
    target: String,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let containers = Containers::open(globals)?;
        let copied = match (End::parse(&self.source), End::parse(&self.target)) {
            (End::Container { name, path }, End::Stream) => {
                return self.give(&Source::of(&containers.find(name)?, path, self.follow_link)?);
            }
            (End::Stream, End::Container { name, path }) => {
                self.take(&Folder::of(&containers, &containers.find(name)?)?, path)?
            }
            (End::Container { name, path }, End::Local(target)) => {
                let source = Source::of(&containers.find(name)?, path, self.follow_link)?;
                let owner = (geteuid().as_raw(), getegid().as_raw());
                self.copy(&source, &Folder::machine()?, target, owner)?
            }
            (End::Local(source), End::Container { name, path }) => {
                let target = Folder::of(&containers, &containers.find(name)?)?;
                self.copy(&Source::local(source, self.follow_link)?, &target, path, (0, 0))?
            }
            (End::Container { .. }, End::Container { .. }) => {
                let hint = "copy to this machine first, or pipe: wharf cp A:PATH - | wharf cp - B:PATH";
                bail!(Hinted::new("copying between containers is not supported", hint));
            }
            _ => bail!(Hinted::new("no container is named", "write one side as CONTAINER:PATH")),
        };
        if !self.quiet {
            eprintln!("Successfully copied {} to {}", super::image::human(copied.bytes), self.target);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// To standard output.
    fn give(&self, source: &Source) -> anyhow::Result<ExitCode> {
        if io::stdout().is_terminal() {
            bail!(Hinted::new("an archive is not for a terminal", "redirect the output, or name a path"));
        }
        let mut out = BufWriter::with_capacity(128 << 10, io::stdout().lock());
        source.write(source.name().as_bytes(), &mut out)?;
        out.flush().context("cannot write the archive")?;
        Ok(ExitCode::SUCCESS)
    }

    /// From standard input, owners as the stream has them.
    fn take(&self, target: &Folder, path: &str) -> anyhow::Result<Unpacked> {
        let (folder, There::Folder) = target.look(path)? else {
            let hint = "an archive is unpacked into a folder that exists";
            bail!(Hinted::new(format!("the target '{}' is no folder", self.target), hint));
        };
        let options = UnpackOptions { whiteouts: false, ..UnpackOptions::default() };
        unpack_into(io::stdin().lock(), &folder.path(), &options).map_err(hinted)
    }

    fn copy(
        &self,
        source: &Source,
        target: &Folder,
        path: &str,
        owner: (u32, u32),
    ) -> anyhow::Result<Unpacked> {
        let (found, there) = target.look(path)?;
        let name = landing(source.kind(), &source.name(), path, there, &self.target)?;
        let owner = (!self.archive).then_some(owner);
        pour(source, name.as_bytes(), &found.path(), owner)
    }
}

/// Fills an empty folder with what an image has at `place`: content, and owner and mode of the place itself. Nothing
/// happens where the image has no folder.
pub(super) fn fill(folder: &Path, lower_dirs: &[PathBuf], place: &str) -> anyhow::Result<()> {
    match Source::of_image(lower_dirs, place)? {
        Some(source) => pour(&source, b".", folder, None).map(drop),
        None => Ok(()),
    }
}

/// Copies into the folder `target`, under `name`; owners are the source's where none is given.
fn pour(source: &Source, name: &[u8], target: &Path, owner: Option<(u32, u32)>) -> anyhow::Result<Unpacked> {
    let options = UnpackOptions { whiteouts: false, owner, ..UnpackOptions::default() };
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    std::thread::scope(|scope| {
        let written = scope.spawn(|| {
            let mut out = BufWriter::with_capacity(128 << 10, writer);
            source.write(name, &mut out)?;
            out.flush().context("cannot pass the files on")
        });
        let unpacked = unpack_into(reader, target, &options).map_err(hinted);
        let written = written.join().unwrap_or_else(|_| bail!("the files could not be read"));
        match (unpacked, written) {
            (Ok(done), Ok(())) => Ok(done),
            // What was not read fails the other side too, and the other way round: the cause is the one to tell.
            (Err(error), Err(follows)) if is_broken_pipe(&follows) => Err(error),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kinds = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    kinds.map(io::Error::kind).any(|kind| kind == io::ErrorKind::BrokenPipe)
}
