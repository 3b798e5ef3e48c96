//! Looks into stacked layers without mounting them: the same answer overlayfs would give.
//!
//! Nothing ever leaves the layers: symbolic links are resolved here, against the stack, and every
//! folder is opened name by name without following links.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CString, OsStr, OsString},
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat},
    io::Errno,
};

use crate::{
    error::{Error, IoContext, Result},
    layer::opaque_xattr,
};

const MAX_LINKS: usize = 40;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A stack of folders seen as one tree.
#[derive(Debug, Clone)]
pub struct View {
    root: Dir,
    overlay: bool,
}

/// A folder of the tree: the layers' folders it is merged from, the top first.
#[derive(Debug, Clone)]
pub struct Dir {
    parts: Arc<Vec<OwnedFd>>,
}

/// Something in the tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// The folder that holds it, in the layer it comes from.
    holder: Arc<Vec<OwnedFd>>,
    part: usize,
    name: CString,
    /// Its metadata.
    pub stat: Stat,
    /// The folder, if it is one.
    pub dir: Option<Dir>,
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub struct Found {
    /// The path without symbolic links, relative to the root.
    pub path: PathBuf,
    /// What is there; `None` when nothing is, and `path` says where it would be.
    pub node: Option<Node>,
}

impl Node {
    /// What kind of file this is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Opens a regular file's content.
    pub fn open(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        openat(&self.holder[self.part], &self.name, flags, Mode::empty())
            .map(File::from)
            .at("open", self.shown())
    }

    /// The target of a symbolic link.
    pub fn link_target(&self) -> Result<Vec<u8>> {
        readlinkat(&self.holder[self.part], &self.name, Vec::new())
            .map(CString::into_bytes)
            .at("read link", self.shown())
    }

    /// Its extended attributes, without those of overlayfs.
    pub fn xattrs(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = crate::layer::read_xattrs(self.holder[self.part].as_fd(), self.name.to_bytes())
            .at("read extended attributes of", self.shown())?;
        found.retain(|(key, _)| {
            key != "security.selinux"
                && !crate::layer::OVERLAY_XATTRS.iter().any(|p| key.as_bytes().starts_with(p))
        });
        Ok(found)
    }

    fn shown(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.name.to_bytes()))
    }
}

impl View {
    /// The tree of stacked layer folders, the top first, with overlayfs' marks honoured.
    pub fn overlay<P: AsRef<Path>>(top_first: &[P]) -> Result<Self> {
        Self::open(top_first, true)
    }

    /// One plain folder seen as a root of its own.
    pub fn plain(folder: &Path) -> Result<Self> {
        Self::open(&[folder], false)
    }

    fn open<P: AsRef<Path>>(folders: &[P], overlay: bool) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parts = folders
            .iter()
            .map(|path| {
                openat(rustix::fs::CWD, path.as_ref(), flags, Mode::empty()).at("open folder", path.as_ref())
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { root: Dir { parts: Arc::new(parts) }, overlay })
    }

    /// The root folder.
    pub fn root(&self) -> Dir {
        self.root.clone()
    }

    /// The child `name` of `dir`, without following it.
    pub fn child(&self, dir: &Dir, name: &OsStr) -> Result<Option<Node>> {
        let c_name =
            CString::new(name.as_bytes()).map_err(|_| Error::document("path", "has a zero byte in it"))?;
        let mut found: Option<Node> = None;
        let mut merged = Vec::new();
        for (part, holder) in dir.parts.iter().enumerate() {
            let stat = match statat(holder, &c_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e).at("read", Path::new(name)),
            };
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if self.is_whiteout(&stat) || (found.is_some() && !is_dir) {
                break;
            }
            let node = Node { holder: dir.parts.clone(), part, name: c_name.clone(), stat, dir: None };
            if !is_dir {
                return Ok(Some(node));
            }
            found.get_or_insert(node);
            merged.push(openat(holder, &c_name, FOLDER, Mode::empty()).at("open folder", Path::new(name))?);
            if self.overlay && self.is_opaque(holder, &c_name)? {
                break;
            }
        }
        Ok(found.map(|node| Node { dir: Some(Dir { parts: Arc::new(merged) }), ..node }))
    }

    fn is_whiteout(&self, stat: &Stat) -> bool {
        self.overlay
            && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == 0
    }

    fn is_opaque(&self, holder: &OwnedFd, name: &CString) -> Result<bool> {
        let value = crate::layer::read_xattr(holder.as_fd(), name.to_bytes(), opaque_xattr())
            .at("read", Path::new(OsStr::from_bytes(name.to_bytes())))?;
        Ok(value.as_deref() == Some(b"y"))
    }

    /// The names in `dir`, sorted.
    pub fn list(&self, dir: &Dir) -> Result<Vec<OsString>> {
        let mut names: BTreeMap<OsString, bool> = BTreeMap::new();
        for part in dir.parts.iter() {
            let mut here = BTreeSet::new();
            for item in rustix::fs::Dir::read_from(part).at("list", Path::new("."))? {
                let item = item.at("list", Path::new("."))?;
                let name = item.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    here.insert(OsString::from_vec(name.to_owned()));
                }
            }
            for name in here {
                if let std::collections::btree_map::Entry::Vacant(slot) = names.entry(name) {
                    let visible = !self.overlay
                        || statat(part, slot.key().as_bytes(), AtFlags::SYMLINK_NOFOLLOW)
                            .is_ok_and(|stat| !self.is_whiteout(&stat));
                    slot.insert(visible);
                }
            }
        }
        Ok(names.into_iter().filter_map(|(name, visible)| visible.then_some(name)).collect())
    }

    /// Follows `path` from the root, symbolic links included; the last one only with `follow_last`.
    /// `..` stops at the root.
    pub fn find(&self, path: &Path, follow_last: bool) -> Result<Found> {
        let mut todo: Vec<OsString> = parts_of(path.as_os_str().as_bytes());
        todo.reverse();
        let mut at: Vec<(OsString, Node)> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let dir = match at.last() {
                None => self.root.clone(),
                Some((_, node)) => match &node.dir {
                    Some(dir) => dir.clone(),
                    None => return Ok(missing(&at, name, todo)),
                },
            };
            let Some(node) = self.child(&dir, &name)? else { return Ok(missing(&at, name, todo)) };
            if node.kind() != FileType::Symlink || (todo.is_empty() && !follow_last) {
                at.push((name, node));
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::document(
                    format!("path '{}'", path.display()),
                    "has too many symbolic links",
                ));
            }
            let target = node.link_target()?;
            if target.starts_with(b"/") {
                at.clear();
            }
            todo.extend(parts_of(&target).into_iter().rev());
        }
        let path = at.iter().map(|(name, _)| name).collect();
        let node = match at.pop() {
            Some((_, node)) => node,
            None => self.root_node()?,
        };
        Ok(Found { path, node: Some(node) })
    }

    fn root_node(&self) -> Result<Node> {
        let name = c".".to_owned();
        let stat = match self.root.parts.first() {
            Some(top) => statat(top, &name, AtFlags::empty()).at("read", Path::new("/"))?,
            None => return Err(Error::document("file tree", "has no layers")),
        };
        Ok(Node { holder: self.root.parts.clone(), part: 0, name, stat, dir: Some(self.root.clone()) })
    }

    /// The content of a regular file of at most `limit` bytes, or `None` when there is none.
    pub fn read_file(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        if self.root.parts.is_empty() {
            return Ok(None);
        }
        let Some(node) = self.find(path, true)?.node else { return Ok(None) };
        if node.kind() != FileType::RegularFile {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        node.open()?.take(limit + 1).read_to_end(&mut bytes).at("read", path)?;
        if bytes.len() as u64 > limit {
            return Err(Error::document(
                format!("file '{}'", path.display()),
                format!("is larger than {limit} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    /// Everything that matches a pattern of `*`, `?`, `[…]` per name, in sorted order.
    pub fn glob(&self, pattern: &Path) -> Result<Vec<Found>> {
        let parts = parts_of(pattern.as_os_str().as_bytes());
        let mut paths = vec![PathBuf::new()];
        for part in &parts {
            let mut next = Vec::new();
            for base in paths {
                if !part.as_bytes().iter().any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\')) {
                    next.push(base.join(part));
                    continue;
                }
                if let Some(Node { dir: Some(dir), .. }) = self.find(&base, true)?.node {
                    let names = self.list(&dir)?;
                    next.extend(
                        names
                            .iter()
                            .filter(|n| glob_match(part.as_bytes(), n.as_bytes()))
                            .map(|n| base.join(n)),
                    );
                }
            }
            paths = next;
        }
        paths
            .iter()
            .map(|path| self.find(path, true))
            .filter(|f| f.as_ref().map_or(true, |f| f.node.is_some()))
            .collect()
    }
}

fn parts_of(path: &[u8]) -> Vec<OsString> {
    path.split(|b| *b == b'/')
        .filter(|part| !matches!(*part, b"" | b"."))
        .map(|part| OsString::from_vec(part.to_owned()))
        .collect()
}

fn missing(at: &[(OsString, Node)], name: OsString, rest: Vec<OsString>) -> Found {
    let mut path: PathBuf = at.iter().map(|(name, _)| name).collect();
    path.push(name);
    for part in rest.into_iter().rev() {
        if part == ".." {
            path.pop();
        } else {
            path.push(part);
        }
    }
    Found { path, node: None }
}

/// Whether `name` matches a pattern of `*`, `?`, `[…]` and `\` (Go's `filepath.Match` for one name).
pub fn glob_match(pattern: &[u8], name: &[u8]) -> bool {
    // The last star seen, and how much of the name it covers; linear-space backtracking.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
            continue;
        }
        match match_one(&pattern[p..], name[n]) {
            Some(used) if used > 0 => {
                p += used;
                n += 1;
            }
            _ => match &mut star {
                Some((at, covered)) => {
                    *covered += 1;
                    (p, n) = (*at + 1, *covered);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// How much of the pattern matches one byte.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'\\' => (pattern.get(1)? == &byte).then_some(2),
        b'[' => match_class(pattern, byte),
        literal => (*literal == byte).then_some(1),
    }
}

fn match_class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'^' | b'!'));
    let mut at = 1 + usize::from(negated);
    let mut matched = false;
    loop {
        let mut low = *pattern.get(at)?;
        if low == b'\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        at += 1;
        let mut high = low;
        if pattern.get(at) == Some(&b'-') && pattern.get(at + 1).is_some_and(|b| *b != b']') {
            high = pattern[at + 1];
            at += 2;
        }
        matched |= (low..=high).contains(&byte);
        if *pattern.get(at)? == b']' {
            return (matched != negated).then_some(at + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_go_does() {
        for (pattern, name, expect) in [
            ("*", "", true),
            ("*.c", "a.c", true),
            ("*.c", "a.cc", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[]", "a", false),
            ("[", "a", false),
            ("", "", true),
            ("**", "abc", true),
            ("*a*a*a*a*a*b", &"a".repeat(200), false),
        ] {
            assert_eq!(glob_match(pattern.as_bytes(), name.as_bytes()), expect, "{pattern} on {name}");
        }
    }
}
