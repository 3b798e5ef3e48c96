//! Puts files down in a step's layer, beside which the layers below are seen but not touched.
//!
//! Nothing ever leaves the layer's folder: every name is opened without following links.

use std::{
    cell::RefCell,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode as FileMode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
        XattrFlags, chownat, fchmod, fsetxattr, mkdirat, mknodat, openat, openat2, statat, symlinkat,
        utimensat,
    },
    io::Errno,
};
use wharf_image::{Node, View};

use super::{Changes, Item, Tree};
use crate::{
    error::{Error, IoContext, Result},
    ignore::Ignore,
};

/// Writes into one layer.
pub(crate) struct Placer<'a> {
    upper: OwnedFd,
    /// The layers below, where there are any and the step may look at them.
    below: Option<&'a View>,
    changes: &'a Changes,
    /// Times of folders, set when everything is in them.
    times: RefCell<Vec<(PathBuf, Stat)>>,
}

impl<'a> Placer<'a> {
    pub(crate) fn new(upper: &Path, below: Option<&'a View>, changes: &'a Changes) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let upper = openat(rustix::fs::CWD, upper, flags, FileMode::empty()).at("open folder", upper)?;
        Ok(Self { upper, below, changes, times: RefCell::default() })
    }

    /// Sets what can be set only once everything is in place.
    pub(crate) fn finish(&self) -> Result<()> {
        for (path, stat) in self.times.take().iter().rev() {
            let (parent, name) = self.parent_of(path)?;
            set_times(&parent, &name, stat).at("set the time of", path)?;
        }
        Ok(())
    }

    /// Where `target` leads, links of the layers below followed, and whether a folder is there.
    pub(crate) fn resolve(&self, target: &Path) -> Result<(PathBuf, bool)> {
        let plain: PathBuf =
            target.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let Some(below) = self.below else { return Ok((plain, false)) };
        let found = below.find(target, true)?;
        Ok((found.path, found.node.is_some_and(|node| node.dir.is_some())))
    }

    /// Copies `item` to `target`, a path without links: a folder's content into it, a file as it. As BuildKit has it, the
    /// target itself is a folder like any other that is made; those in it are as their sources, were they there or not.
    pub(crate) fn copy(&self, tree: &Tree, item: &Item, target: &Path, exclude: &Ignore) -> Result<()> {
        if !item.is_dir() {
            self.folder(target.parent().unwrap_or(Path::new("")))?;
            return self.leaf(tree, target, &item.node);
        }
        self.folder(target)?;
        self.content(tree, item, target, exclude)
    }

    /// As [`Placer::copy`], and a folder that is the target is as its source.
    pub(crate) fn mirror(&self, tree: &Tree, item: &Item, target: &Path) -> Result<()> {
        if item.is_dir() {
            self.folder_like(tree, target, &item.node)?;
        }
        self.copy(tree, item, target, &Ignore::default())
    }

    fn content(&self, tree: &Tree, item: &Item, target: &Path, exclude: &Ignore) -> Result<()> {
        tree.walk(item, exclude, &mut |path, node| match &node.dir {
            Some(_) => self.folder_like(tree, &target.join(path), node),
            None => self.leaf(tree, &target.join(path), node),
        })
    }

    /// Writes a file of these bytes.
    pub(crate) fn file(&self, target: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.folder(target.parent().unwrap_or(Path::new("")))?;
        let (parent, name) = self.parent_of(target)?;
        self.refuse_folder(target)?;
        let mut file = self.create(&parent, &name, target)?;
        io::Write::write_all(&mut file, content).at("write", target)?;
        let mode = self.changes.mode.as_ref().map_or(mode, |change| change.apply(mode, false));
        self.own(&parent, &name, self.changes.owner.unwrap_or((0, 0)), target)?;
        fchmod(&file, FileMode::from_raw_mode(mode)).at("set the mode of", target)
    }

    /// Writes a file of what `content` gives, changed at `modified` (seconds since 1970).
    pub(crate) fn stream(
        &self,
        target: &Path,
        content: &mut dyn io::Read,
        mode: u32,
        modified: Option<i64>,
    ) -> Result<()> {
        self.folder(target.parent().unwrap_or(Path::new("")))?;
        let (parent, name) = self.parent_of(target)?;
        self.refuse_folder(target)?;
        let mut file = self.create(&parent, &name, target)?;
        io::copy(content, &mut file).at("write", target)?;
        let mode = self.changes.mode.as_ref().map_or(mode, |change| change.apply(mode, false));
        self.own(&parent, &name, self.changes.owner.unwrap_or((0, 0)), target)?;
        fchmod(&file, FileMode::from_raw_mode(mode)).at("set the mode of", target)?;
        let Some(seconds) = modified else { return Ok(()) };
        let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(&parent, name.as_slice(), &times, AtFlags::SYMLINK_NOFOLLOW).at("set the time of", target)
    }

    /// Makes a folder and those it is in, where they are not there yet. Those of the layers below keep what they are.
    pub(crate) fn folder(&self, path: &Path) -> Result<()> {
        let mut current = PathBuf::new();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let parent = self.open(&current)?;
            current.push(name);
            let there = lstat(&parent, name.as_bytes()).at("look at", &current)?;
            match there.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                Some(FileType::Directory) => continue,
                Some(_) => return Err(not_a_folder(&current)),
                None => {}
            }
            mkdirat(&parent, name, FileMode::from_raw_mode(0o755)).at("create folder", &current)?;
            match self.node_below(&current)? {
                Some(node) if node.dir.is_some() => {
                    self.imitate(&parent, name.as_bytes(), &node, &current)?
                }
                Some(_) => return Err(not_a_folder(&current)),
                None => {
                    let dir = self.open(&current)?;
                    fchmod_path(&dir, self.changes.new_folder()).at("set the mode of", &current)?;
                    if let Some(owner) = self.changes.owner {
                        self.own(&parent, name.as_bytes(), owner, &current)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn node_below(&self, path: &Path) -> Result<Option<Node>> {
        match self.below {
            Some(below) => Ok(below.find(path, false)?.node),
            None => Ok(None),
        }
    }

    /// Gives the folder `name` the metadata of one in the layers below.
    fn imitate(&self, parent: &OwnedFd, name: &[u8], node: &Node, path: &Path) -> Result<()> {
        let dir = self.open(path)?;
        self.own(parent, name, (node.stat.st_uid, node.stat.st_gid), path)?;
        set_xattrs(&dir, node).at("set extended attributes of", path)?;
        fchmod_path(&dir, node.stat.st_mode & 0o7777).at("set the mode of", path)?;
        self.times.borrow_mut().push((path.to_owned(), node.stat));
        Ok(())
    }

    pub(crate) fn folder_like(&self, tree: &Tree, target: &Path, node: &Node) -> Result<()> {
        if target.as_os_str().is_empty() {
            return Ok(());
        }
        self.folder(target)?;
        let (parent, name) = self.parent_of(target)?;
        let dir = self.open(target)?;
        self.own(&parent, &name, self.changes.owner.unwrap_or_else(|| tree.owner(node)), target)?;
        set_xattrs(&dir, node).at("set extended attributes of", target)?;
        let mode = node.stat.st_mode & 0o7777;
        let mode = self.changes.mode.as_ref().map_or(mode, |change| change.apply(mode, true));
        fchmod_path(&dir, mode).at("set the mode of", target)?;
        self.times.borrow_mut().push((target.to_owned(), node.stat));
        Ok(())
    }

    fn leaf(&self, tree: &Tree, target: &Path, node: &Node) -> Result<()> {
        let (parent, name) = self.parent_of(target)?;
        self.refuse_folder(target)?;
        let owner = self.changes.owner.unwrap_or_else(|| tree.owner(node));
        match node.kind() {
            FileType::RegularFile => {
                let mut file = self.create(&parent, &name, target)?;
                io::copy(&mut node.open()?, &mut file).at("copy", target)?;
                self.own(&parent, &name, owner, target)?;
                set_xattrs(&file, node).at("set extended attributes of", target)?;
                let mode = node.stat.st_mode & 0o7777;
                let mode = self.changes.mode.as_ref().map_or(mode, |change| change.apply(mode, false));
                // After the owner: a change of owner takes set-user-id away.
                fchmod(&file, FileMode::from_raw_mode(mode)).at("set the mode of", target)?;
            }
            FileType::Symlink => {
                self.make_room(&parent, &name, target)?;
                symlinkat(node.link_target()?.as_slice(), &parent, name.as_slice())
                    .at("create link", target)?;
                self.own(&parent, &name, owner, target)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
                self.make_room(&parent, &name, target)?;
                let mode = FileMode::from_raw_mode(node.stat.st_mode & 0o7777);
                mknodat(&parent, name.as_slice(), kind, mode, node.stat.st_rdev).at("create", target)?;
                self.own(&parent, &name, owner, target)?;
            }
            _ => return Ok(()),
        }
        set_times(&parent, &name, &node.stat).at("set the time of", target)
    }

    fn create(&self, parent: &OwnedFd, name: &[u8], target: &Path) -> Result<File> {
        self.make_room(parent, name, target)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(parent, name, flags, FileMode::from_raw_mode(0o600)).map(File::from).at("create", target)
    }

    /// Of two sources of one name, the later wins.
    fn make_room(&self, parent: &OwnedFd, name: &[u8], target: &Path) -> Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).at("replace", target),
        }
    }

    fn refuse_folder(&self, target: &Path) -> Result<()> {
        let (parent, name) = self.parent_of(target)?;
        let here = lstat(&parent, &name).at("look at", target)?;
        let is_folder = match here {
            Some(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            None => self.node_below(target)?.is_some_and(|node| node.dir.is_some()),
        };
        if is_folder {
            let what = format!("cannot replace the folder '/{}' with a file", target.display());
            return Err(Error::invalid(what).hint("end the target with '/' to copy into the folder"));
        }
        Ok(())
    }

    fn parent_of(&self, target: &Path) -> Result<(OwnedFd, Vec<u8>)> {
        let name = target
            .file_name()
            .ok_or_else(|| Error::invalid(format!("'/{}' cannot be the name of a file", target.display())))?;
        Ok((self.open(target.parent().unwrap_or(Path::new("")))?, name.as_bytes().to_owned()))
    }

    /// Opens a folder of the layer.
    fn open(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.upper, path, flags, FileMode::empty(), resolve) {
            Err(Errno::LOOP | Errno::NOTDIR) => Err(not_a_folder(path)),
            other => other.at("open folder", path),
        }
    }

    fn own(&self, parent: &OwnedFd, name: &[u8], owner: (u32, u32), path: &Path) -> Result<()> {
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        let set = chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
        match set {
            Err(Errno::INVAL) if let Some(why) = wharf_image::unknown_owner(owner.0, owner.1) => {
                let owner = format!("{}:{}", owner.0, owner.1);
                Err(Error::invalid(format!("'{}' cannot belong to {owner}: {why}", path.display())))
            }
            set => set.at("set the owner of", path),
        }
    }
}

fn not_a_folder(path: &Path) -> Error {
    Error::invalid(format!("'/{}' in the image is not a folder", path.display()))
        .hint("copy to another place, or remove it in a RUN step before")
}

fn lstat(parent: &OwnedFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn fchmod_path(dir: &OwnedFd, mode: u32) -> Result<(), Errno> {
    fchmod(dir, FileMode::from_raw_mode(mode))
}

fn set_xattrs(file: impl AsFd, node: &Node) -> io::Result<()> {
    for (name, value) in node.xattrs().map_err(io::Error::other)? {
        match fsetxattr(&file, name.as_str(), &value, XattrFlags::empty()) {
            // The file system of the images may have no such attributes.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn set_times(parent: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
