//! `wharf cp`: files and folders between a container and this machine, as a tar stream from one tree to the other.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use rustix::process::{getegid, geteuid};
use wharf_base::Hinted;
use wharf_engine::archive::{Folder, Source, There, landing, pour};
use wharf_image::{UnpackOptions, Unpacked, unpack_into};

use super::{
    Globals,
    containers::{self, hinted},
};

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
        let engine = containers::open(globals)?;
        let find = |name: &str| engine.find(name).map_err(hinted);
        let source_of = |name: &str, path: &str| {
            Source::of(engine.data(), &find(name)?, path, self.follow_link).map_err(hinted)
        };
        let target_of = |name: &str| Folder::of(&engine, &find(name)?).map_err(hinted);
        let copied = match (End::parse(&self.source), End::parse(&self.target)) {
            (End::Container { name, path }, End::Stream) => {
                return self.give(&source_of(name, path)?);
            }
            (End::Stream, End::Container { name, path }) => self.take(&target_of(name)?, path)?,
            (End::Container { name, path }, End::Local(target)) => {
                let source = source_of(name, path)?;
                let owner = (geteuid().as_raw(), getegid().as_raw());
                self.copy(&source, &Folder::machine().map_err(hinted)?, target, owner)?
            }
            (End::Local(source), End::Container { name, path }) => {
                let source = Source::local(source, self.follow_link).map_err(hinted)?;
                self.copy(&source, &target_of(name)?, path, (0, 0))?
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
        source.write(source.name().as_bytes(), &mut out).map_err(hinted)?;
        out.flush().context("cannot write the archive")?;
        Ok(ExitCode::SUCCESS)
    }

    /// From standard input, owners as the stream has them.
    fn take(&self, target: &Folder, path: &str) -> anyhow::Result<Unpacked> {
        let (folder, There::Folder) = target.look(path).map_err(hinted)? else {
            let hint = "an archive is unpacked into a folder that exists";
            bail!(Hinted::new(format!("the target '{}' is no folder", self.target), hint));
        };
        let options = UnpackOptions { whiteouts: false, ..UnpackOptions::default() };
        unpack_into(io::stdin().lock(), &folder.path(), &options).map_err(super::image::hinted)
    }

    fn copy(
        &self,
        source: &Source,
        target: &Folder,
        path: &str,
        owner: (u32, u32),
    ) -> anyhow::Result<Unpacked> {
        let (found, there) = target.look(path).map_err(hinted)?;
        let name = landing(source.kind(), &source.name(), path, there, &self.target).map_err(hinted)?;
        let owner = (!self.archive).then_some(owner);
        pour(source, name.as_bytes(), &found.path(), owner).map_err(hinted)
    }
}

/// One side of a copy, as written.
#[derive(Debug, PartialEq, Eq)]
enum End<'a> {
    /// `CONTAINER:PATH`.
    Container { name: &'a str, path: &'a str },
    /// A path of this machine.
    Local(&'a str),
    /// `-`.
    Stream,
}

impl<'a> End<'a> {
    /// As docker: a path that begins with '/' or '.' is this machine's, whatever colons it has.
    fn parse(text: &'a str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() && !name.starts_with(['/', '.']) => {
                Self::Container { name, path }
            }
            _ => Self::Local(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_read_as_dockers() {
        let container = |name, path| End::Container { name, path };
        for (text, expected) in [
            ("-", End::Stream),
            ("web:/etc", container("web", "/etc")),
            ("web:", container("web", "")),
            ("web:a:b", container("web", "a:b")),
            ("./web:x", End::Local("./web:x")),
            ("/a:b", End::Local("/a:b")),
            ("a", End::Local("a")),
            (":a", End::Local(":a")),
        ] {
            assert_eq!(End::parse(text), expected, "{text}");
        }
    }
}
