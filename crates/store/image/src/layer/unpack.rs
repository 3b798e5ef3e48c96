//! Unpacks a layer into a folder that becomes an overlay lower directory.
//!
//! A layer is hostile input: every path is resolved inside the folder by the kernel (openat2 with
//! RESOLVE_IN_ROOT), and counts, sizes and path lengths are bounded.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, XattrFlags, makedev, mkdirat, mknodat, openat, symlinkat},
    io::Errno,
};

use super::{
    OPAQUE, OVERLAY_XATTRS, WHITEOUT, in_user_namespace, opaque_xattr,
    read::{TarEntry, TarKind, TarReader},
    rootdir::{self, RootDir},
};
use crate::error::{Error, Result};

/// Bounds on what one layer may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries in the stream.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Depth of folders.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 4_000_000, bytes: 128 << 30, depth: 200 }
    }
}

/// How a stream is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// Its bounds.
    pub limits: Limits,
    /// Whether `.wh.` names remove what lies below (a layer), or are plain files (an archive).
    pub whiteouts: bool,
    /// Give every entry this owner instead of its own.
    pub owner: Option<(u32, u32)>,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), whiteouts: true, owner: None }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries in the stream.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
}

/// Unpacks the tar stream `input` (not compressed) into the folder `target`.
pub fn unpack_into(input: impl Read, target: &Path, options: &UnpackOptions) -> Result<Unpacked> {
    let mut unpacker = Unpacker {
        root: RootDir::open(target)?,
        options: *options,
        done: Unpacked::default(),
        dir_times: Vec::new(),
        buffer: vec![0; 128 << 10],
    };
    let mut stream = TarReader::new(input);
    while let Some(entry) = stream.next_entry()? {
        unpacker.entry(entry, &mut stream).map_err(|error| error.full_in(target))?;
    }
    unpacker.set_dir_times()?;
    let done = unpacker.done;
    // What follows the end of the archive belongs to the stream, whose digest covers it.
    io::copy(&mut stream.into_inner(), &mut io::sink())
        .map_err(|e| Error::Layer(format!("cannot be read to its end: {e}")))?;
    Ok(done)
}

struct Unpacker {
    root: RootDir,
    options: UnpackOptions,
    done: Unpacked,
    /// A folder's time is set last, since filling it changes the time.
    dir_times: Vec<(Vec<u8>, (i64, u32))>,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn entry(&mut self, mut entry: TarEntry, content: &mut impl Read) -> Result<()> {
        self.count(&entry)?;
        if let Some((uid, gid)) = self.options.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        refuse_overlay_xattrs(&entry)?;
        let path = clean_path(&entry, &entry.path, self.options.limits.depth)?;
        if path.is_empty() {
            return self.root_itself(&entry);
        }
        let (parent, name) = split(&path);
        if self.options.whiteouts && name.starts_with(WHITEOUT) {
            return self.whiteout(&entry, parent, name);
        }
        match entry.kind {
            TarKind::Dir => self.dir(&entry, &path, parent, name),
            TarKind::HardLink => self.hard_link(&entry, parent, name),
            // As docker has it: whoever cannot make devices cannot use them either, and an image's are seldom needed.
            TarKind::CharDevice | TarKind::BlockDevice if in_user_namespace() => Ok(()),
            _ => {
                self.make_room(&entry, parent, name)?;
                let dir = self.root.parent(&entry, parent)?;
                make_node(dir, name, &entry, content, &mut self.buffer)?;
                rootdir::set_metadata(dir, name, &entry, entry.kind == TarKind::Symlink)
            }
        }
    }

    fn count(&mut self, entry: &TarEntry) -> Result<()> {
        let Limits { entries, bytes, .. } = self.options.limits;
        self.done.entries += 1;
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        if self.done.entries > entries {
            return Err(Error::Layer(format!("has more than {entries} entries")));
        }
        if self.done.bytes > bytes {
            return Err(entry.error(format!("makes the layer larger than {bytes} bytes")));
        }
        Ok(())
    }

    fn root_itself(&mut self, entry: &TarEntry) -> Result<()> {
        if entry.kind != TarKind::Dir {
            return Err(entry.error("names the root itself but is no folder"));
        }
        rootdir::set_metadata(self.root.root(), b".", entry, false)?;
        self.dir_times.push((b".".to_vec(), entry.mtime));
        Ok(())
    }

    fn dir(&mut self, entry: &TarEntry, path: &[u8], parent: &[u8], name: &[u8]) -> Result<()> {
        let dir = self.root.parent(entry, parent)?;
        let there = rootdir::kind_of(dir, name).map_err(|e| (entry, "made", e))?;
        if there.is_some_and(|kind| kind != FileType::Directory) {
            self.make_room(entry, parent, name)?;
        }
        let dir = self.root.parent(entry, parent)?;
        match mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err((entry, "made", e).into()),
        }
        rootdir::set_metadata(dir, name, entry, false)?;
        self.dir_times.push((path.to_owned(), entry.mtime));
        Ok(())
    }

    /// Removes what stands where a new entry goes: the later of two entries wins.
    fn make_room(&mut self, entry: &TarEntry, parent: &[u8], name: &[u8]) -> Result<()> {
        let dir = self.root.parent(entry, parent)?;
        let Some(kind) = rootdir::kind_of(dir, name).map_err(|e| (entry, "made", e))? else { return Ok(()) };
        rootdir::remove_tree(dir, name).map_err(|e| (entry, "replaced", e))?;
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            self.root.forget();
        }
        Ok(())
    }

    fn hard_link(&mut self, entry: &TarEntry, parent: &[u8], name: &[u8]) -> Result<()> {
        let target = clean_path(entry, &entry.link, self.options.limits.depth)?;
        let (target_parent, target_name) = split(&target);
        let holder = self.root.open_inside(target_parent, OFlags::PATH | OFlags::DIRECTORY).map_err(|e| {
            entry.error(format!("is a hard link to '{}', which is not there: {e}", show(&entry.link)))
        })?;
        if (parent, name) == (target_parent, target_name) {
            return Err(entry.error("is a hard link to itself"));
        }
        self.make_room(entry, parent, name)?;
        let dir = self.root.parent(entry, parent)?;
        rustix::fs::linkat(&holder, target_name, dir, name, AtFlags::empty()).map_err(|e| {
            entry.error(format!(
                "cannot be made a hard link to '{}' in the same layer: {e}",
                show(&entry.link)
            ))
        })
    }

    fn whiteout(&mut self, entry: &TarEntry, parent: &[u8], name: &[u8]) -> Result<()> {
        if name == OPAQUE {
            let dir = self.root.parent(entry, parent)?;
            let path = format!("/proc/self/fd/{}/.", std::os::fd::AsRawFd::as_raw_fd(&dir));
            return rustix::fs::setxattr(path, opaque_xattr(), b"y", XattrFlags::empty())
                .map_err(|e| entry.refused("cannot mark its folder as opaque", e));
        }
        let hidden = &name[WHITEOUT.len()..];
        if hidden.is_empty() || matches!(hidden, b"." | b"..") || hidden.starts_with(WHITEOUT) {
            return Err(entry.error("is not a whiteout of a file"));
        }
        self.make_room(entry, parent, hidden)?;
        let dir = self.root.parent(entry, parent)?;
        mknodat(dir, hidden, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))
            .map_err(|e| (entry, "made a whiteout", e).into())
    }

    fn set_dir_times(&mut self) -> Result<()> {
        for (path, mtime) in self.dir_times.drain(..).rev() {
            // A later entry may have replaced the folder.
            if let Ok(dir) = self.root.open_inside(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
            {
                rootdir::set_time(dir.as_fd(), b".", mtime).map_err(|e| Error::Entry {
                    entry: show(&path),
                    problem: format!("cannot get its time: {e}"),
                })?;
            }
        }
        Ok(())
    }
}

fn make_node(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &TarEntry,
    content: &mut impl Read,
    buffer: &mut [u8],
) -> Result<()> {
    let device = |kind| {
        mknodat(dir, name, kind, Mode::from_raw_mode(0o600), makedev(entry.device.0, entry.device.1))
            .map_err(|e| (entry, "made", e).into())
    };
    match entry.kind {
        TarKind::File => write_file(dir, name, entry, content, buffer),
        TarKind::Symlink => {
            let target = rootdir::c_path(entry, &entry.link)?;
            symlinkat(target.as_c_str(), dir, name).map_err(|e| (entry, "made", e).into())
        }
        TarKind::CharDevice => device(FileType::CharacterDevice),
        TarKind::BlockDevice => device(FileType::BlockDevice),
        TarKind::Fifo => device(FileType::Fifo),
        TarKind::Dir | TarKind::HardLink => Err(entry.error("is of an unexpected kind")),
    }
}

fn write_file(
    dir: BorrowedFd<'_>,
    name: &[u8],
    entry: &TarEntry,
    content: &mut impl Read,
    buffer: &mut [u8],
) -> Result<()> {
    use std::io::Write;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| (entry, "made", e))?;
    let mut file = File::from(fd);
    loop {
        let n = content.read(buffer).map_err(|e| entry.error(format!("cannot be read: {e}")))?;
        if n == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..n]).map_err(|e| entry.refused("cannot be written", e))?;
    }
}

fn refuse_overlay_xattrs(entry: &TarEntry) -> Result<()> {
    match entry.xattrs.iter().find(|(key, _)| OVERLAY_XATTRS.iter().any(|p| key.as_bytes().starts_with(p))) {
        Some((key, _)) => Err(entry.error(format!("sets {key}, which would change other layers"))),
        None => Ok(()),
    }
}

/// The path without `.`, doubled and leading slashes; parent steps are refused.
fn clean_path(entry: &TarEntry, path: &[u8], max_depth: usize) -> Result<Vec<u8>> {
    if path.contains(&0) {
        return Err(entry.error("has a zero byte in its path"));
    }
    let mut clean = Vec::with_capacity(path.len());
    let mut depth = 0;
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(entry.error("steps out of the root with '..'")),
            _ if part.len() > 255 => return Err(entry.error("has a name longer than 255 bytes")),
            _ => {}
        }
        if !clean.is_empty() {
            clean.push(b'/');
        }
        clean.extend_from_slice(part);
        depth += 1;
    }
    if depth > max_depth {
        return Err(entry.error(format!("lies more than {max_depth} folders deep")));
    }
    Ok(clean)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(cut) => (&path[..cut], &path[cut + 1..]),
        None => (&path[..0], path),
    }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}
