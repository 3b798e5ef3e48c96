//! Files a job's container can write to, opened so that no link in them leads out of the folder.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

use crate::wrong::Wrong;

/// Names of a folder that are looked at.
const MAX_NAMES: usize = 10_000;

/// A folder shared with a container.
#[derive(Debug)]
pub(crate) struct Shared {
    fd: OwnedFd,
}

impl Shared {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    fn open_inside(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // A rename elsewhere on the machine raced with a `..`.
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::XDEV) => {
                    return Err(io::Error::other("a link leads out of the workspace"));
                }
                other => return Ok(other?),
            }
        }
    }

    /// A regular file. Nothing else is opened, not even for a moment.
    pub(crate) fn open_file(&self, path: &Path) -> io::Result<File> {
        let fd = self.open_inside(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(fd.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    /// A text of at most `limit` bytes; empty when the file is not there.
    pub(crate) fn read_text(&self, path: &Path, limit: u64) -> io::Result<String> {
        let file = match self.open_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a folder with its parents and gives it as a path that stays right whatever is renamed.
    pub(crate) fn make_dirs(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            if !matches!(part, Component::Normal(_)) {
                continue;
            }
            let parent = self.open_inside(
                so_far.parent().unwrap_or(Path::new("")),
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            )?;
            match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.open_inside(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// Makes or replaces a file.
    pub(crate) fn create_file(&self, path: &Path, executable: bool) -> io::Result<File> {
        if let Some(parent) = path.parent() {
            self.make_dirs(parent)?;
        }
        let mode = Mode::from_raw_mode(if executable { 0o755 } else { 0o644 });
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        Ok(self.open_inside(path, flags, mode)?.into())
    }

    /// Where a path in the folder really is, if it stays inside. Nobody may be writing there meanwhile.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let fd = self.open_inside(path, OFlags::PATH, Mode::empty())?;
        std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))
    }

    /// The names in a folder.
    pub(crate) fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let fd = self.open_inside(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd)?.take(MAX_NAMES) {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// All regular files below a path, relative to it, sorted. Links are not followed.
    pub(crate) fn walk(&self, path: &Path, limit: usize) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let mut open = vec![PathBuf::new()];
        while let Some(folder) = open.pop() {
            let fd =
                self.open_inside(&path.join(&folder), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            for entry in rustix::fs::Dir::read_from(&fd)? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == "." || name == ".." {
                    continue;
                }
                match entry.file_type() {
                    FileType::Directory => open.push(folder.join(name)),
                    FileType::RegularFile => files.push(folder.join(name)),
                    _ => {}
                }
                if files.len() + open.len() > limit {
                    return Err(io::Error::other(format!("there are more than {limit} files")));
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

/// A path inside the workspace as written in a workflow: relative, or absolute below the workspace's place in the
/// container. Nothing when it leads elsewhere.
pub(crate) fn inside_workspace(text: &str) -> Option<PathBuf> {
    let path = Path::new(text.trim());
    let path = path.strip_prefix(crate::sandbox::WORKSPACE).unwrap_or(path);
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

/// The path inside the workspace that an input names.
///
/// # Errors
/// When it leads out of it.
pub(crate) fn within(name: &str, text: &str) -> Result<PathBuf, Wrong> {
    inside_workspace(text).ok_or_else(|| {
        let hint = "write it as seen from the root of the repository, without '..'";
        Wrong::hinted(format!("'{name}: {text}' leads out of the workspace"), hint)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_do_not_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir_all(inside.join("a")).unwrap();
        std::fs::write(folder.path().join("secret"), "s").unwrap();
        std::fs::write(inside.join("a/file"), "f").unwrap();
        symlink("../secret", inside.join("out")).unwrap();
        symlink("/etc", inside.join("etc")).unwrap();
        symlink("a/file", inside.join("in")).unwrap();
        let shared = Shared::open(&inside).unwrap();
        assert!(shared.read_text(Path::new("out"), 10).is_err());
        assert!(shared.read_text(Path::new("etc/passwd"), 1 << 20).is_err());
        assert_eq!(shared.read_text(Path::new("in"), 10).unwrap(), "f");
        assert_eq!(shared.read_text(Path::new("none"), 10).unwrap(), "");
        assert!(shared.create_file(Path::new("out"), false).is_err());
        assert!(shared.create_file(Path::new("etc/x"), false).is_err());
        assert!(shared.make_dirs(Path::new("etc/x")).is_err());
        assert_eq!(shared.walk(Path::new(""), 10).unwrap(), [PathBuf::from("a/file")]);
        assert!(shared.create_file(Path::new("b/c/d"), false).is_ok());
    }

    #[test]
    fn paths_stay_in_the_workspace() {
        for (text, expected) in [
            ("dist", Some("dist")),
            ("./dist/", Some("dist")),
            (".", Some("")),
            ("a/../b", Some("b")),
            ("/github/workspace/x", Some("x")),
            ("..", None),
            ("a/../../b", None),
            ("/etc", None),
        ] {
            assert_eq!(inside_workspace(text), expected.map(PathBuf::from), "{text}");
            match within("path", text) {
                Ok(path) => assert_eq!(Some(path), expected.map(PathBuf::from)),
                Err(wrong) => assert_eq!(
                    wrong.to_string(),
                    format!(
                        "'path: {text}' leads out of the workspace\n  hint: write it as seen from the root of the \
                         repository, without '..'"
                    )
                ),
            }
        }
    }
}
