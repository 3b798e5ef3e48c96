//! Trees to copy from: a build context, a stage, an image.

use std::{
    ffi::OsStr,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::fs::FileType;
use wharf_base::{Digest, Hasher};
use wharf_image::{Dir, Node, View, glob_match};

use crate::{
    cache::{FileDigests, KeyMaker},
    error::{Error, IoContext, Result},
    ignore::{Ignore, clean},
};

const MAX_ENTRIES: usize = 2_000_000;
const MAX_DEPTH: usize = 200;

/// A tree files are copied from.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    view: View,
    ignore: Arc<Ignore>,
    /// Files of a build context belong to root in the image, whoever owns them here.
    is_context: bool,
    /// How messages call it.
    name: String,
}

/// One thing a `COPY` source names.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Where it lies in the tree, symbolic links followed.
    pub(crate) path: PathBuf,
    /// The name it was found by, which is the one it is copied to.
    pub(crate) name: PathBuf,
    /// What `--parents` keeps of the name: all, or what follows a `/./` in the source.
    pub(crate) kept: PathBuf,
    pub(crate) node: Node,
}

impl Item {
    pub(crate) fn is_dir(&self) -> bool {
        self.node.dir.is_some()
    }
}

/// What a walk comes by.
pub(crate) type Visit<'a> = dyn FnMut(&Path, &Node) -> Result<()> + 'a;

impl Tree {
    pub(crate) fn context(folder: &Path, ignore: Arc<Ignore>, name: String) -> Result<Self> {
        let view = View::plain(folder)?;
        Ok(Self { view, ignore, is_context: true, name })
    }

    /// Files that were fetched: they belong to root, as those of a context do.
    pub(crate) fn fetched(folder: &Path, name: String) -> Result<Self> {
        Ok(Self { view: View::plain(folder)?, ignore: Arc::default(), is_context: true, name })
    }

    pub(crate) fn layers(top_first: &[PathBuf], name: String) -> Result<Self> {
        Ok(Self { view: View::overlay(top_first)?, ignore: Arc::default(), is_context: false, name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Owner and group a file gets where nothing else is asked for.
    pub(crate) fn owner(&self, node: &Node) -> (u32, u32) {
        if self.is_context { (0, 0) } else { (node.stat.st_uid, node.stat.st_gid) }
    }

    /// What is at a path, links followed.
    pub(crate) fn node(&self, path: &Path) -> Result<Option<Node>> {
        Ok(self.view.find(path, true)?.node)
    }

    /// What `pattern` means, in sorted order. A plain path must be there; a pattern may mean nothing, as Docker has it.
    /// With `deep`, `**` means any number of folders.
    pub(crate) fn find(&self, pattern: &str, deep: bool) -> Result<Vec<Item>> {
        let cleaned = clean(&format!("/{pattern}"));
        let cleaned = cleaned.trim_start_matches('/');
        let mut names = vec![PathBuf::new()];
        for part in cleaned.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for base in names {
                if deep && part == "**" {
                    self.folders_below(&base, 0, &mut next)?;
                } else if part.contains(['*', '?', '[', '\\']) {
                    self.matching(&base, part, &mut next)?;
                } else {
                    next.push(base.join(part));
                }
            }
            names = next;
        }
        let before = pattern.split_once("/./").map_or("", |(before, _)| before);
        let depth =
            Path::new(before).components().filter(|part| matches!(part, Component::Normal(_))).count();
        let mut items = Vec::new();
        for name in names {
            let found = self.view.find(&name, true)?;
            let Some(node) = found.node else { continue };
            let hidden = self.ignore.is_ignored(&name) && !self.ignore.may_want_below(&name);
            let is_left_out = hidden || (self.ignore.is_ignored(&found.path) && node.dir.is_none());
            if !is_left_out {
                let kept = name.components().skip(depth).collect();
                items.push(Item { path: found.path, name, kept, node });
            }
        }
        if items.is_empty() && !is_pattern(cleaned) { Err(self.missing(pattern)) } else { Ok(items) }
    }

    /// A folder and all below it.
    fn folders_below(&self, base: &Path, depth: usize, out: &mut Vec<PathBuf>) -> Result<()> {
        if depth > MAX_DEPTH || out.len() > MAX_ENTRIES {
            return Err(Error::invalid(format!("'**' means too many folders of {}", self.name))
                .hint("name the folders"));
        }
        let found = self.view.find(base, false)?;
        let Some(Node { dir: Some(dir), .. }) = found.node else { return Ok(()) };
        out.push(base.to_owned());
        for name in self.view.list(&dir)? {
            self.folders_below(&base.join(name), depth + 1, out)?;
        }
        Ok(())
    }

    fn matching(&self, base: &Path, part: &str, out: &mut Vec<PathBuf>) -> Result<()> {
        let Some(Node { dir: Some(dir), .. }) = self.view.find(base, true)?.node else { return Ok(()) };
        let names = self.view.list(&dir)?;
        let fitting = names.iter().filter(|name| glob_match(part.as_bytes(), name.as_bytes()));
        out.extend(fitting.map(|name| base.join(name)));
        Ok(())
    }

    fn missing(&self, pattern: &str) -> Error {
        let error = Error::invalid(format!("'{pattern}' is not in {}", self.name));
        let path = Path::new(pattern.trim_start_matches('/'));
        let on_disk = self.view.find(path, true).is_ok_and(|found| found.node.is_some());
        if on_disk && self.ignore.is_ignored(path) {
            return error.hint("a pattern of .dockerignore leaves it out");
        }
        match self.similar(path) {
            Some(name) => error.hint(format!("did you mean '{name}'?")),
            None if self.is_context => error.hint(format!(
                "a source is a path below the folder that is given to the build as its context: {}",
                self.there(path)
            )),
            None => error.hint(format!("choose what is there: {}", self.there(path))),
        }
    }

    /// What is in the innermost folder on the way to `path` that is there.
    fn there(&self, path: &Path) -> String {
        for folder in path.ancestors().skip(1) {
            let Some(dir) = self.view.find(folder, true).ok().and_then(|found| found.node?.dir) else {
                continue;
            };
            let Ok(names) = self.view.list(&dir) else { break };
            let names = names.iter().filter(|name| !self.ignore.is_ignored(&folder.join(name)));
            let root = if self.is_context { "it" } else { "'/'" };
            let shown = folder.display().to_string();
            let place = if shown.is_empty() { root.to_owned() } else { format!("'{shown}'") };
            return match wharf_base::some_of(names.map(|name| name.to_string_lossy())) {
                None => format!("{place} is empty"),
                Some(names) => format!("{place} has {names}"),
            };
        }
        "there is nothing".into()
    }

    fn similar(&self, path: &Path) -> Option<String> {
        let parent = path.parent()?;
        let dir = self.view.find(parent, true).ok()?.node?.dir?;
        let names: Vec<String> =
            self.view.list(&dir).ok()?.into_iter().filter_map(|name| name.into_string().ok()).collect();
        let near = wharf_base::closest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
        Some(parent.join(near).display().to_string())
    }

    /// Visits everything below a folder, parents first, in sorted order. Paths are relative to it. What is left out by
    /// `.dockerignore` or by `exclude` is not visited; a folder left out is, when something below it is not.
    pub(crate) fn walk(&self, item: &Item, exclude: &Ignore, visit: &mut Visit<'_>) -> Result<()> {
        let Some(dir) = &item.node.dir else { return Ok(()) };
        let mut walk = Walk { tree: self, exclude, visit, entries: 0 };
        walk.folder(dir, &item.path, Path::new(""), &mut Vec::new(), 0)
    }

    /// A digest of what copying `item` brings: names, kinds, modes, owners, links and contents, but not times.
    pub(crate) fn digest(&self, item: &Item, exclude: &Ignore, files: &FileDigests) -> Result<Digest> {
        let mut key = KeyMaker::new("tree-1");
        self.add(&mut key, Path::new(""), &item.node, files)?;
        self.walk(item, exclude, &mut |path, node| self.add(&mut key, path, node, files))?;
        Ok(key.key())
    }

    fn add(&self, key: &mut KeyMaker, path: &Path, node: &Node, files: &FileDigests) -> Result<()> {
        let owner = self.owner(node);
        key.bytes(path.as_os_str().as_bytes());
        key.number(u64::from(node.stat.st_mode)).number(u64::from(owner.0)).number(u64::from(owner.1));
        match node.kind() {
            FileType::RegularFile => drop(key.digest(&file_digest(node, files)?)),
            FileType::Symlink => drop(key.bytes(&node.link_target()?)),
            FileType::CharacterDevice | FileType::BlockDevice => drop(key.number(node.stat.st_rdev)),
            _ => {}
        }
        Ok(())
    }
}

struct Walk<'a, 'v> {
    tree: &'a Tree,
    exclude: &'a Ignore,
    visit: &'a mut Visit<'v>,
    entries: usize,
}

impl Walk<'_, '_> {
    fn folder(
        &mut self,
        dir: &Dir,
        in_tree: &Path,
        below: &Path,
        waiting: &mut Vec<(PathBuf, Node)>,
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            let what =
                format!("{} has folders more than {MAX_DEPTH} deep: {}", self.tree.name, in_tree.display());
            return Err(Error::invalid(what).hint("leave it out with a .dockerignore"));
        }
        for name in self.tree.view.list(dir)? {
            let (path, relative) = (in_tree.join(&name), below.join(&name));
            let is_out = self.tree.ignore.is_ignored(&path) || self.exclude.is_ignored(&relative);
            let may_hold = self.tree.ignore.may_want_below(&path) || self.exclude.may_want_below(&relative);
            if is_out && !may_hold {
                continue;
            }
            let Some(node) = self.tree.view.child(dir, &name)? else { continue };
            match (&node.dir, is_out) {
                (None, true) => continue,
                (Some(_), true) => waiting.push((relative.clone(), node.clone())),
                (_, false) => {
                    self.release(waiting)?;
                    self.one(&relative, &name, &node)?;
                }
            }
            if let Some(dir) = &node.dir {
                self.folder(dir, &path, &relative, waiting, depth + 1)?;
                // A folder that is left out and turned out to hold nothing wanted.
                waiting.retain(|(folder, _)| *folder != relative);
            }
        }
        Ok(())
    }

    /// Visits the folders on the way to something wanted.
    fn release(&mut self, waiting: &mut Vec<(PathBuf, Node)>) -> Result<()> {
        for (path, node) in waiting.drain(..) {
            let name = path.file_name().unwrap_or_default().to_owned();
            self.one(&path, &name, &node)?;
        }
        Ok(())
    }

    fn one(&mut self, path: &Path, name: &OsStr, node: &Node) -> Result<()> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Error::invalid(format!("{} has more than {MAX_ENTRIES} files", self.tree.name))
                .hint("leave what the image does not need out with a .dockerignore"));
        }
        if name.as_bytes().starts_with(b".wh.") {
            return Err(Error::invalid(format!(
                "'{}' in {} cannot be copied: a name that begins with '.wh.' removes files in an image",
                path.display(),
                self.tree.name
            ))
            .hint("rename it, or leave it out with a .dockerignore"));
        }
        match node.kind() {
            // A socket lives with its program only.
            FileType::Socket => Ok(()),
            _ => (self.visit)(path, node),
        }
    }
}

/// Whether a source has a wildcard.
pub(crate) fn is_pattern(source: &str) -> bool {
    source.contains(['*', '?', '['])
}

/// The digest of a file's content and extended attributes.
fn file_digest(node: &Node, files: &FileDigests) -> Result<Digest> {
    if let Some(known) = files.get(&node.stat) {
        return Ok(known);
    }
    let mut hasher = Hasher::new();
    let mut file = node.open()?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer).at("read", "a file to copy")? {
            0 => break,
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    for (name, value) in node.xattrs()? {
        hasher.update(format!("\0{name}={}:", value.len()).as_bytes());
        hasher.update(&value);
    }
    let digest = hasher.finish();
    files.put(&node.stat, digest);
    Ok(digest)
}
