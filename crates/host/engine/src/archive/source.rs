//! Where a copy comes from: a tree that is looked at name by name, so that no link leads out of it.

use std::{
    collections::HashMap,
    io::{self, Read as _, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FileType, major, minor};
use wharf_base::Timestamp;
use wharf_image::{Node, TarEntry, TarKind, TarWriter, View};

use super::place::{mounted, root_of};
use crate::{
    MAIN,
    containers::Container,
    error::{Error, IoContext as _, Result},
    image,
};

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// What a folder has in it: the path ends with `/.`.
    Content,
}

/// What messages call a tree, and what to tell who does not find something there.
struct Tree {
    shown: String,
    hint: String,
}

/// What is known of something without its content.
#[derive(Debug, Clone)]
pub struct Stat {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Permissions and kind in the bits of Go's `fs.FileMode`.
    pub mode: u32,
    /// When it was changed.
    pub modified: Timestamp,
    /// Where a symbolic link leads.
    pub link: String,
}

/// Something in a tree.
pub struct Source {
    view: View,
    node: Node,
    path: PathBuf,
    kind: Kind,
}

impl Source {
    /// In a container, which need not run.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(data: &Path, container: &Container, path: &str, follow: bool) -> Result<Self> {
        let tree = Tree {
            shown: format!("container {}", container.name()),
            hint: "paths in a container begin at its root".into(),
        };
        if container.is_running() {
            return Self::find(View::plain(&root_of(container)?)?, Path::new(path), path, follow, &tree);
        }
        match mounted(data, container, Path::new(path)) {
            Some((root, rest)) if root.is_dir() => {
                Self::find(View::plain(&root)?, &rest, path, follow, &tree)
            }
            Some((file, _)) if file.exists() => {
                let folder = file.parent().unwrap_or(Path::new("/"));
                let name = file.file_name().unwrap_or_default();
                Self::find(View::plain(folder)?, Path::new(name), path, follow, &tree)
            }
            _ => Self::find(layers(data, container)?, Path::new(path), path, follow, &tree),
        }
    }

    /// All that is in a container, also while it runs, but what is mounted into it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn unmounted(data: &Path, container: &Container) -> Result<Self> {
        let tree = Tree { shown: format!("container {}", container.name()), hint: String::new() };
        Self::find(layers(data, container)?, Path::new("/"), "/", false, &tree)
    }

    /// On this machine.
    ///
    /// # Errors
    /// When it is not there.
    pub fn local(path: &str, follow: bool) -> Result<Self> {
        let absolute = std::path::absolute(path).at("find", path)?;
        let tree =
            Tree { shown: "this machine".into(), hint: format!("looked for as '{}'", absolute.display()) };
        Self::find(View::plain(Path::new("/"))?, &absolute, path, follow, &tree)
    }

    /// The folder an image has at `place`, if it has one. Links are followed inside the image.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn of_image(lower_dirs: &[PathBuf], place: &str) -> Result<Option<Self>> {
        let view = View::overlay(lower_dirs)?;
        let found = view.find(Path::new(place), true)?;
        let node = found.node.filter(|node| node.dir.is_some());
        Ok(node.map(|node| Self { view, node, path: PathBuf::new(), kind: Kind::Content }))
    }

    fn find(view: View, path: &Path, text: &str, follow: bool, tree: &Tree) -> Result<Self> {
        let content = text.ends_with("/.") || matches!(text, "." | "");
        let found = view.find(path, follow || text.ends_with('/') || content)?;
        let Some(node) = found.node else {
            let error = format!("could not find '{text}' in {}", tree.shown);
            return Err(Error::not_found(error).hint(&tree.hint));
        };
        let kind = match (&node.dir, content || found.path.as_os_str().is_empty()) {
            (Some(_), true) => Kind::Content,
            (Some(_), false) => Kind::Folder,
            (None, _) if text.ends_with('/') => {
                return Err(Error::invalid(format!("'{text}' in {} is no folder", tree.shown)));
            }
            (None, _) => Kind::File,
        };
        // A link that is followed keeps its own name.
        let named = Path::new(text).file_name().map(PathBuf::from);
        let path = if kind == Kind::Content { PathBuf::new() } else { named.unwrap_or(found.path) };
        Ok(Self { view, node, path, kind })
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its own name; none for what a folder has in it.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// What is known of it without its content.
    pub fn stat(&self) -> Stat {
        let stat = &self.node.stat;
        let kind = self.node.kind();
        // Go's bits for what a file is, which docker tells.
        let special = match kind {
            FileType::Directory => 1 << 31,
            FileType::Symlink => 1 << 27,
            FileType::Fifo => 1 << 25,
            FileType::Socket => 1 << 24,
            FileType::BlockDevice => 1 << 26,
            FileType::CharacterDevice => (1 << 26) | (1 << 21),
            FileType::RegularFile | FileType::Unknown => 0,
        };
        let bits = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
        let bits: u32 = bits.iter().filter(|(unix, _)| stat.st_mode & unix != 0).map(|(_, go)| go).sum();
        let link = self.node.link_target().ok().filter(|_| kind == FileType::Symlink);
        Stat {
            name: self.name(),
            size: stat.st_size,
            mode: (stat.st_mode & 0o777) | bits | special,
            modified: Timestamp::from_unix(
                stat.st_mtime,
                i32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
            link: link.map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default(),
        }
    }

    /// The beginning of a file, as text.
    pub(super) fn text(&self, most: u64) -> Result<String> {
        let mut bytes = Vec::new();
        self.node.open()?.take(most).read_to_end(&mut bytes).at("read", self.name())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes it as a tar stream, under `name`.
    ///
    /// # Errors
    /// When it cannot be read, or the stream not written.
    pub fn write(&self, name: &[u8], out: impl Write) -> Result<()> {
        let mut packer = Packer { view: &self.view, tar: TarWriter::new(out), links: HashMap::new() };
        packer.add(&self.node, &mut name.to_vec())?;
        packer.tar.finish().at("end", "the stream of files")?;
        Ok(())
    }
}

/// A container's own files over those of its image.
fn layers(data: &Path, container: &Container) -> Result<View> {
    let upper = container.dir.container(MAIN).join("upper");
    let lower = match &container.record.spec.rootfs {
        Some(folder) => vec![folder.clone()],
        None => image::resolve(data, &container.record.image_id)?.lower_dirs,
    };
    let upper = upper.exists().then_some(upper);
    Ok(View::overlay(&upper.into_iter().chain(lower).collect::<Vec<_>>())?)
}

struct Packer<'a, W: Write> {
    view: &'a View,
    tar: TarWriter<W>,
    /// The first path of each file with several names.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<'_, W> {
    fn add(&mut self, node: &Node, path: &mut Vec<u8>) -> Result<()> {
        let Some(kind) = kind_of(node) else { return Ok(()) };
        let stat = &node.stat;
        let mut entry = TarEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, 0),
            device: (major(stat.st_rdev), minor(stat.st_rdev)),
            ..TarEntry::new(path.clone(), kind, stat.st_mode & 0o7777)
        };
        if let Some(dir) = &node.dir {
            // The folder whose content is copied is the target's own.
            if !path.is_empty() {
                path.push(b'/');
                entry.path.push(b'/');
                entry.xattrs = node.xattrs()?;
                self.append(&entry, io::empty())?;
            }
            for name in self.view.list(dir)? {
                // It may go while the program in the container works.
                let Some(child) = self.view.child(dir, &name)? else { continue };
                let before = path.len();
                path.extend_from_slice(name.as_encoded_bytes());
                self.add(&child, path)?;
                path.truncate(before);
            }
            return Ok(());
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                (entry.kind, entry.link) = (TarKind::HardLink, first.clone());
                return self.append(&entry, io::empty());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.clone());
        }
        entry.xattrs = node.xattrs()?;
        match kind {
            TarKind::File => {
                entry.size = u64::try_from(stat.st_size).unwrap_or_default();
                self.append(&entry, node.open()?)
            }
            TarKind::Symlink => {
                entry.link = node.link_target()?;
                self.append(&entry, io::empty())
            }
            _ => self.append(&entry, io::empty()),
        }
    }

    fn append(&mut self, entry: &TarEntry, content: impl io::Read) -> Result<()> {
        self.tar.append(entry, content).at("copy", entry.name())
    }
}

/// `None` for a socket, which lives with its program only.
fn kind_of(node: &Node) -> Option<TarKind> {
    Some(match node.kind() {
        FileType::RegularFile => TarKind::File,
        FileType::Directory => TarKind::Dir,
        FileType::Symlink => TarKind::Symlink,
        FileType::CharacterDevice => TarKind::CharDevice,
        FileType::BlockDevice => TarKind::BlockDevice,
        FileType::Fifo => TarKind::Fifo,
        FileType::Socket | FileType::Unknown => return None,
    })
}
