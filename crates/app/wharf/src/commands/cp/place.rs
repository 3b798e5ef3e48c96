//! The two ends of a copy: how they are written, and where in a folder tree the copy lands.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2},
    io::Errno,
};
use wharf_base::Hinted;

use super::source::Kind;
use crate::commands::containers::{Container, Containers};

/// One side of a copy, as written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// `CONTAINER:PATH`.
    Container { name: &'a str, path: &'a str },
    /// A path of this machine.
    Local(&'a str),
    /// `-`.
    Stream,
}

impl<'a> End<'a> {
    /// As docker: a path that begins with '/' or '.' is this machine's, whatever colons it has.
    pub(super) fn parse(text: &'a str) -> Self {
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

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Other,
    Folder,
}

/// The name the copy gets in the folder [`Folder::look`] found; none when the content goes into that folder itself.
/// The rules are those of `docker cp`.
pub(super) fn landing(
    kind: Kind,
    source: &str,
    path: &str,
    there: There,
    shown: &str,
) -> Result<String, Hinted> {
    let last = || {
        let path = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        path.ok_or_else(|| Hinted::new(format!("the target '{shown}' has no name"), "name a file or folder"))
    };
    match (kind, there) {
        (Kind::File, There::Nothing) if path.ends_with('/') => Err(Hinted::new(
            format!("the folder '{shown}' does not exist"),
            "make it first, or leave the '/' at its end out",
        )),
        (Kind::File, There::Other) if path.ends_with('/') => {
            Err(Hinted::new(format!("the target '{shown}' is no folder"), "leave the '/' at its end out"))
        }
        (Kind::Folder | Kind::Content, There::Other) => Err(Hinted::new(
            format!("a folder cannot be copied onto '{shown}', which is no folder"),
            "name a folder, or something that does not exist yet",
        )),
        (_, There::Nothing | There::Other) => last(),
        (Kind::File | Kind::Folder, There::Folder) => Ok(source.to_owned()),
        (Kind::Content, There::Folder) => Ok(String::new()),
    }
}

/// A folder to unpack into, and the root no path from it may leave.
pub(super) struct Folder {
    fd: OwnedFd,
    /// How messages call the tree it is in.
    tree: String,
    /// Where relative paths begin.
    base: PathBuf,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    /// This machine's files.
    pub(super) fn machine() -> anyhow::Result<Self> {
        let base = std::env::current_dir().context("the folder this command runs in is gone")?;
        Ok(Self { fd: open("/", FOLDER, Mode::empty())?, tree: "this machine".into(), base })
    }

    /// The files of a container that runs, with what is mounted into it.
    pub(super) fn of(containers: &Containers, container: &Container) -> anyhow::Result<Self> {
        container.connect(&containers.runtime)?;
        let root = root_of(container)?;
        let fd =
            open(&root, FOLDER, Mode::empty()).with_context(|| format!("cannot open {}", root.display()))?;
        // The process whose root this is may have ended, and its number be another's.
        container.connect(&containers.runtime)?;
        Ok(Self { fd, tree: format!("container {}", container.name()), base: "/".into() })
    }

    /// The folder `path` is, or else the one it is in, and what is at `path`. Links lead nowhere out of the root.
    pub(super) fn look(&self, path: &str) -> anyhow::Result<(Self, There)> {
        let absolute = self.base.join(path);
        let at = |fd| Self { fd, tree: self.tree.clone(), base: absolute.clone() };
        let there = match self.open(&absolute, OFlags::PATH) {
            Ok(fd) if FileType::from_raw_mode(fstat(&fd)?.st_mode) == FileType::Directory => {
                return Ok((at(fd), There::Folder));
            }
            Ok(_) => There::Other,
            Err(Errno::NOENT) => There::Nothing,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open '{path}' in {}", self.tree));
            }
        };
        let parent = absolute.parent().unwrap_or(&absolute);
        match self.open(parent, FOLDER) {
            Ok(fd) => Ok((at(fd), there)),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let error = format!("there is no folder '{}' in {}", parent.display(), self.tree);
                bail!(Hinted::new(error, "make it first"))
            }
            Err(error) => Err(error).with_context(|| format!("cannot open '{}'", parent.display())),
        }
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// A path by which this process reaches the folder.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

/// The root of a container that runs, as its first process sees it.
pub(super) fn root_of(container: &Container) -> anyhow::Result<PathBuf> {
    let pid =
        container.status.pid.with_context(|| format!("container {} has no process", container.name()))?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
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

    #[test]
    fn copies_land_where_dockers_do() {
        let land = |kind, path, there| landing(kind, "src", path, there, path).ok();
        for (kind, path, there, expected) in [
            (Kind::File, "/a/b", There::Nothing, Some("b")),
            (Kind::File, "/a/b/", There::Nothing, None),
            (Kind::File, "/a/b", There::Other, Some("b")),
            (Kind::File, "/a/b/", There::Other, None),
            (Kind::File, "/a/b", There::Folder, Some("src")),
            (Kind::Folder, "/a/b", There::Nothing, Some("b")),
            (Kind::Folder, "/a/b/", There::Nothing, Some("b")),
            (Kind::Folder, "/a/b", There::Other, None),
            (Kind::Folder, "/a/b", There::Folder, Some("src")),
            (Kind::Content, "/a/b", There::Nothing, Some("b")),
            (Kind::Content, "/a/b", There::Folder, Some("")),
            (Kind::File, "/", There::Folder, Some("src")),
        ] {
            assert_eq!(land(kind, path, there).as_deref(), expected, "{kind:?} {path} {there:?}");
        }
    }
}
