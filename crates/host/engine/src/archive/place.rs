//! Where in a folder tree a copy lands.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2},
    io::Errno,
};

use super::source::Kind;
use crate::{
    containers::{Container, Engine},
    error::{Error, IoContext as _, Result},
    spec::{MountPoint, MountSource},
    volumes,
};

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Nothing,
    /// Something that is no folder.
    Other,
    /// A folder.
    Folder,
}

/// The name the copy gets in the folder [`Folder::look`] found; none when the content goes into that folder itself.
/// The rules are those of `docker cp`.
///
/// # Errors
/// When it cannot land there.
pub fn landing(kind: Kind, source: &str, path: &str, there: There, shown: &str) -> Result<String> {
    let last = || {
        let path = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        path.ok_or_else(|| {
            Error::invalid(format!("the target '{shown}' has no name")).hint("name a file or folder")
        })
    };
    match (kind, there) {
        (Kind::File, There::Nothing) if path.ends_with('/') => {
            Err(Error::not_found(format!("the folder '{shown}' does not exist"))
                .hint("make it first, or leave the '/' at its end out"))
        }
        (Kind::File, There::Other) if path.ends_with('/') => {
            Err(Error::invalid(format!("the target '{shown}' is no folder"))
                .hint("leave the '/' at its end out"))
        }
        (Kind::Folder | Kind::Content, There::Other) => {
            Err(Error::invalid(format!("a folder cannot be copied onto '{shown}', which is no folder"))
                .hint("name a folder, or something that does not exist yet"))
        }
        (_, There::Nothing | There::Other) => last(),
        (Kind::File | Kind::Folder, There::Folder) => Ok(source.to_owned()),
        (Kind::Content, There::Folder) => Ok(String::new()),
    }
}

fn is_folder(fd: &OwnedFd) -> bool {
    fstat(fd).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// A folder to unpack into, and the root no path from it may leave.
pub struct Folder {
    fd: OwnedFd,
    /// How messages call the tree it is in.
    tree: String,
    /// Where relative paths begin.
    base: PathBuf,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Folder {
    /// This machine's files.
    ///
    /// # Errors
    /// When the current folder is gone.
    pub fn machine() -> Result<Self> {
        let base = std::env::current_dir().at("find", "the folder this command runs in")?;
        Ok(Self { fd: open("/", FOLDER, Mode::empty()).at("open", "/")?, tree: "this machine".into(), base })
    }

    /// The files of a container: of one that runs with what is mounted into it.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn of(engine: &Engine, container: &Container) -> Result<Self> {
        let made = |fd| Self { fd, tree: format!("container {}", container.name()), base: "/".into() };
        if !container.is_running() {
            return Ok(made(super::still::root(engine, container)?));
        }
        let root = root_of(container)?;
        let fd = open(&root, FOLDER, Mode::empty()).at("open", &root)?;
        // The process whose root this is may have ended, and its number be another's.
        container.connect(engine)?;
        Ok(made(fd))
    }

    /// The files at `path` of a container, and the path below them: also of one that does not run, whose volumes are looked
    /// for where they are.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn at(engine: &Engine, container: &Container, path: &str) -> Result<(Self, String)> {
        let mounted = match container.is_running() {
            true => None,
            false => mounted(engine.data(), container, Path::new(path)),
        };
        match mounted {
            Some((root, rest)) if root.is_dir() => {
                let fd = open(&root, FOLDER, Mode::empty()).at("open", &root)?;
                let tree = format!("container {}", container.name());
                Ok((Self { fd, tree, base: "/".into() }, format!("/{}", rest.display())))
            }
            _ => Ok((Self::of(engine, container)?, path.to_owned())),
        }
    }

    /// The folder `path` is, or else the one it is in, and what is at `path`. Links lead nowhere out of the root.
    ///
    /// # Errors
    /// When neither is there.
    pub fn look(&self, path: &str) -> Result<(Self, There)> {
        let absolute = self.base.join(path);
        let at = |fd| Self { fd, tree: self.tree.clone(), base: absolute.clone() };
        let there = match self.open(&absolute, OFlags::PATH) {
            Ok(fd) if is_folder(&fd) => {
                return Ok((at(fd), There::Folder));
            }
            Ok(_) => There::Other,
            Err(Errno::NOENT) => There::Nothing,
            Err(error) => {
                return Err(error).at("open", format!("'{path}' in {}", self.tree));
            }
        };
        let parent = absolute.parent().unwrap_or(&absolute);
        match self.open(parent, FOLDER) {
            Ok(fd) => Ok((at(fd), there)),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let error = format!("there is no folder '{}' in {}", parent.display(), self.tree);
                Err(Error::not_found(error).hint("make it first"))
            }
            Err(error) => Err(error).at("open", parent),
        }
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// A path by which this process reaches the folder.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }
}

/// What is mounted at `path` or above it when the container runs: the files on this machine, and the path below.
pub(super) fn mounted(data: &Path, container: &Container, path: &Path) -> Option<(PathBuf, PathBuf)> {
    let path = lexical(path);
    for name in ["hosts", "hostname", "resolv.conf"] {
        let file = container.dir.path().join("etc").join(name);
        if path == Path::new("/etc").join(name) && file.exists() {
            return Some((file, PathBuf::new()));
        }
    }
    let of = |mount: &MountPoint| {
        let rest = path.strip_prefix(lexical(Path::new(&mount.target))).ok()?.to_owned();
        match &mount.source {
            MountSource::Path { path, .. } => Some((path.clone(), rest)),
            MountSource::Volume(name) => match volumes::get(data, name).ok()?.files(data) {
                volumes::Files::Folder(folder, _) => Some((folder, rest)),
                volumes::Files::Mounted(..) => None,
            },
            MountSource::Tmpfs => None,
        }
    };
    // The innermost.
    let found = container.record.spec.mounts.iter().filter_map(of);
    found.min_by_key(|(_, rest)| rest.components().count())
}

/// A path from the root without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// The root of a container that runs, as its first process sees it.
pub(super) fn root_of(container: &Container) -> Result<PathBuf> {
    let pid = container
        .status
        .pid
        .ok_or_else(|| Error::conflict(format!("container {} has no process", container.name())))?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")))
}

#[cfg(test)]
mod tests {
    use super::*;

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
