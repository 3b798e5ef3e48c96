//! Writes the tree below a folder as a layer, in an order that depends on the names only.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat},
    io::Errno,
};

use super::{
    OPAQUE, OVERLAY_XATTRS, WHITEOUT, opaque_xattr,
    read::{TarEntry, TarKind},
    rootdir::{read_xattr, read_xattrs},
    write::TarWriter,
};
use crate::error::{Error, IoContext, Result};

/// Writes the tree below `root` to `out`. Marks of overlayfs (0/0 devices, opaque folders) become
/// whiteouts; times are whole seconds and, with `not_after`, clamped to it.
pub fn pack_directory<W: Write>(root: &Path, out: W, not_after: Option<i64>) -> Result<W> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(rustix::fs::CWD, root, flags, Mode::empty()).at("open folder", root)?;
    let mut packer = Packer { tar: TarWriter::new(out), not_after, links: HashMap::new() };
    packer.folder(&fd, &mut Vec::new())?;
    packer.tar.finish().at("write layer of", root)
}

struct Packer<W: Write> {
    tar: TarWriter<W>,
    not_after: Option<i64>,
    /// The first path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<W> {
    fn folder(&mut self, dir: &OwnedFd, path: &mut Vec<u8>) -> Result<()> {
        for name in sorted_names(dir).map_err(|e| fail(path, "listed", e))? {
            let bytes = name.to_bytes();
            let before = path.len();
            path.extend_from_slice(bytes);
            self.item(dir.as_fd(), bytes, path)?;
            path.truncate(before);
        }
        Ok(())
    }

    fn item(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &mut Vec<u8>) -> Result<()> {
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(path, "read", e))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.directory(dir, name, path, &stat),
            FileType::CharacterDevice if stat.st_rdev == 0 => self.whiteout(path),
            // A socket is alive only while its program runs; no layer format holds one.
            FileType::Socket => Ok(()),
            kind => self.leaf(dir, name, path, &stat, kind),
        }
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, name: &[u8], path: &mut Vec<u8>, stat: &Stat) -> Result<()> {
        path.push(b'/');
        let mut entry = self.entry(path, TarKind::Dir, stat);
        entry.xattrs = layer_xattrs(dir, name).map_err(|e| fail(path, "read", e))?;
        self.append(&entry, io::empty())?;
        if read_xattr(dir, name, opaque_xattr()).map_err(|e| fail(path, "read", e))?.as_deref() == Some(b"y")
        {
            self.mark([path.as_slice(), OPAQUE].concat())?;
        }
        for redirect in ["trusted.overlay.redirect", "trusted.overlay.metacopy"] {
            if read_xattr(dir, name, redirect).map_err(|e| fail(path, "read", e))?.is_some() {
                let problem = format!("has {redirect}: mount overlays with redirect_dir=off,metacopy=off");
                return Err(Error::Entry { entry: String::from_utf8_lossy(path).into(), problem });
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = openat(dir, name, flags, Mode::empty()).map_err(|e| fail(path, "opened", e))?;
        self.folder(&below, path)
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        self.mark([&path[..cut], WHITEOUT, &path[cut..]].concat())
    }

    /// A whiteout has a name and nothing else: no owner and no time, which would only make layers differ.
    fn mark(&mut self, path: Vec<u8>) -> Result<()> {
        self.append(&TarEntry::new(path, TarKind::File, 0o644), io::empty())
    }

    fn leaf(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        kind: FileType,
    ) -> Result<()> {
        let mut entry = self.entry(path, TarKind::File, stat);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                (entry.kind, entry.link, entry.size) = (TarKind::HardLink, first.clone(), 0);
                return self.append(&entry, io::empty());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        entry.xattrs = layer_xattrs(dir, name).map_err(|e| fail(path, "read", e))?;
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(dir, name, flags, Mode::empty()).map_err(|e| fail(path, "opened", e))?;
                entry.size = stat.st_size as u64;
                return self.append(&entry, File::from(file));
            }
            FileType::Symlink => {
                entry.kind = TarKind::Symlink;
                entry.link =
                    readlinkat(dir, name, Vec::new()).map_err(|e| fail(path, "read", e))?.into_bytes();
            }
            FileType::CharacterDevice => entry.kind = TarKind::CharDevice,
            FileType::BlockDevice => entry.kind = TarKind::BlockDevice,
            FileType::Fifo => entry.kind = TarKind::Fifo,
            _ => return Err(fail(path, "packed", Errno::INVAL)),
        }
        self.append(&entry, io::empty())
    }

    fn entry(&self, path: &[u8], kind: TarKind, stat: &Stat) -> TarEntry {
        let seconds = stat.st_mtime;
        TarEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (self.not_after.map_or(seconds, |limit| seconds.min(limit)), 0),
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            ..TarEntry::new(path, kind, stat.st_mode & 0o7777)
        }
    }

    fn append(&mut self, entry: &TarEntry, content: impl io::Read) -> Result<()> {
        self.tar.append(entry, content).map_err(|e| entry.refused("cannot be written to the layer", e))
    }
}

fn layer_xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Errno> {
    let mut found = read_xattrs(dir, name)?;
    found.retain(|(key, _)| {
        // SELinux labels are the host's business.
        key != "security.selinux" && !OVERLAY_XATTRS.iter().any(|p| key.as_bytes().starts_with(p))
    });
    Ok(found)
}

fn sorted_names(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for item in rustix::fs::Dir::read_from(dir)? {
        let item = item?;
        if !matches!(item.file_name().to_bytes(), b"." | b"..") {
            names.push(item.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn fail(path: &[u8], what: &str, errno: Errno) -> Error {
    Error::Entry {
        entry: String::from_utf8_lossy(path).into(),
        problem: format!("cannot be {what}: {errno}"),
    }
}
