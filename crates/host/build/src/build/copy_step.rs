//! `COPY` and `ADD`.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use wharf_base::Digest;
use wharf_image::{UnpackOptions, View, unpack_into};

use super::{UNSET, executor::joined, remote_step::Fetched, stage::StageRun};
use crate::{
    attest::Op,
    copy::{Changes, Item, Mode, Placer, Tree},
    dockerfile::{Copy, Expander, Heredoc},
    error::{Error, IoContext, Result},
    ignore::Ignore,
    remote::{Remote, archive, without_password},
};

/// A `COPY` with everything put in.
pub(super) struct Job {
    pub(super) copy: Copy,
    /// Sources of `ADD` that lie elsewhere.
    pub(super) remotes: Vec<Remote>,
    /// Absolute, without its trailing slash.
    target: String,
    pub(super) target_is_folder: bool,
    exclude: Ignore,
    mode: Option<Mode>,
}

/// A tree and what of it is copied.
pub(super) struct Found {
    pub(super) tree: Tree,
    pub(super) items: Vec<Item>,
}

impl StageRun<'_> {
    /// Runs the step; true when its result was there.
    pub(crate) fn copy(&mut self, copy: &Copy, text: &str) -> Result<bool> {
        let job = self.job(copy)?;
        let source = self.source(job.copy.from.as_deref())?;
        let created_by = text.to_owned();
        let described = self.describe(&job);
        // What another stage holds is known by its key, and what has a checksum by that: nothing of it need be read.
        let quick = match (&source.key, &job.copy.checksum) {
            (Some(key), _) => Some(joined("copy-from-1", &[&described, key])),
            (None, Some(sum)) if job.copy.sources.is_empty() => {
                Some(joined("copy-sum-1", &[&described, &Digest::of(sum.as_bytes())]))
            }
            _ => None,
        };
        let shown = |copy: &Copy| Op::Copy { sources: copy.sources.clone(), target: copy.target.clone() };
        self.doing.borrow_mut().op = Some(shown(&job.copy));
        if let Some(record) = quick.and_then(|key| self.cached(&key)) {
            self.note_by_checksum(&job);
            self.take_copy(&job, &record, created_by);
            return Ok(true);
        }
        let fetched = self.fetch_all(&job)?;
        let items = self.items(&job, &source.tree)?;
        let found = Found { tree: source.tree, items };
        let key = self.content_key(&job, &described, &found, &fetched)?;
        if let Some(record) = self.cached(&key) {
            if let Some(quick) = quick {
                self.build.builder.records.put(&quick, &record)?;
            }
            self.take_copy(&job, &record, created_by);
            return Ok(true);
        }
        let turn = self.turn(&key)?;
        if turn.waited
            && let Some(record) = self.cached(&key)
        {
            self.take_copy(&job, &record, created_by);
            return Ok(true);
        }
        let _slot = self.build.slot();
        self.build.check()?;
        let scratch = self.build.builder.images.scratch()?;
        let placed = self.place(&job, &found, fetched, &scratch.upper());
        placed.map_err(|error| error.full_in(&scratch.upper()))?;
        let layer = self.commit(scratch)?;
        let keys: Vec<Digest> = std::iter::once(key).chain(quick).collect();
        let before = self.state.key;
        self.keep(&keys, layer.as_ref(), key, created_by)?;
        if job.copy.link {
            // The record tells of the layer alone; the file system is what was before and it.
            self.state.key = joined("link-1", &[&before, &self.state.key]);
        }
        Ok(false)
    }

    fn take_copy(&mut self, job: &Job, record: &crate::cache::Record, created_by: String) {
        let before = self.state.key;
        self.state.take(record, created_by);
        if job.copy.link {
            self.state.key = joined("link-1", &[&before, &record.key]);
        }
    }

    fn job(&self, copy: &Copy) -> Result<Job> {
        let name = if copy.add { "ADD" } else { "COPY" };
        let mut copy = copy.clone();
        let mut remotes = Vec::new();
        for source in std::mem::take(&mut copy.sources) {
            let source = self.expand(&source)?;
            match Remote::parse(&source)? {
                Some(_) if !copy.add => return Err(copy_cannot_fetch(&source)),
                Some(remote) => remotes.push(remote),
                None => copy.sources.push(source),
            }
        }
        copy.checksum = copy.checksum.map(|sum| self.expand(&sum)).transpose()?;
        if copy.checksum.is_some() && (remotes.len() != 1 || !copy.sources.is_empty()) {
            return Err(Error::invalid("ADD --checksum is for one remote source")
                .hint("write a line of its own for each source with a checksum"));
        }
        for heredoc in &mut copy.heredocs {
            self.fill(heredoc)?;
        }
        copy.chown = copy.chown.map(|owner| self.expand(&owner)).transpose()?;
        let mode = copy.chmod.as_deref().map(|text| self.mode(name, text)).transpose()?;
        let exclude = copy.exclude.iter().map(|p| self.expand(p)).collect::<Result<Vec<_>>>()?;
        let exclude = Ignore::of(exclude.iter().map(String::as_str))?;
        let given = self.expand(&copy.target)?;
        if given.is_empty() {
            return Err(
                Error::invalid(format!("{name} has no target once its variables are put in")).hint(UNSET)
            );
        }
        let mut ends_as_folder =
            given.ends_with('/') || given == "." || given.ends_with("/.") || copy.parents;
        let target = self.absolute(&given);
        ends_as_folder |= target == "/";
        if copy.sources.len() + copy.heredocs.len() + remotes.len() > 1 && !ends_as_folder {
            return Err(Error::invalid(format!(
                "{name} has several sources, and the target '{given}' is no folder"
            ))
            .hint(format!("end the target with '/': {given}/")));
        }
        Ok(Job { copy, remotes, target, target_is_folder: ends_as_folder, exclude, mode })
    }

    fn mode(&self, name: &str, text: &str) -> Result<Mode> {
        let text = self.expand(text)?;
        Mode::parse(&text).ok_or_else(|| {
            Error::invalid(format!("{name} --chmod={text} is no mode")).hint("write 644 or u=rwX,go=rX")
        })
    }

    fn fill(&self, heredoc: &mut Heredoc) -> Result<()> {
        if heredoc.expand {
            let expander = Expander::for_heredoc(self.build.escape());
            heredoc.content = expander.text(&heredoc.content, &|name| self.state.value(name))?;
        }
        Ok(())
    }

    /// A key of all that is not in the files.
    fn describe(&self, job: &Job) -> Digest {
        let copy = &job.copy;
        let mut key = self.build.key("copy-2");
        let by_name =
            copy.chown.as_deref().is_some_and(|o| o.contains(|c: char| !c.is_ascii_digit() && c != ':'));
        if copy.link && !by_name {
            key.text("link");
        } else {
            key.digest(&self.state.key);
        }
        key.text(&job.target).texts(copy.sources.iter().map(String::as_str));
        key.texts(copy.chown.as_deref()).texts(copy.exclude.iter().map(String::as_str));
        key.text(&format!("{:?}", job.mode));
        for flag in [copy.add, copy.parents, copy.link, job.target_is_folder, copy.unpack == Some(false)] {
            key.number(u64::from(flag));
        }
        for heredoc in &copy.heredocs {
            key.text(&heredoc.name).text(&heredoc.content);
        }
        for remote in &job.remotes {
            key.text(&format!("{remote:?} {:?} {}", copy.unpack, copy.keep_git_dir));
        }
        key.key()
    }

    fn content_key(
        &self,
        job: &Job,
        described: &Digest,
        found: &Found,
        fetched: &[Fetched],
    ) -> Result<Digest> {
        let mut key = self.build.key("copy-content-2");
        key.digest(described);
        for item in &found.items {
            key.text(&item.name.to_string_lossy())
                .text(&item.kept.to_string_lossy())
                .number(u64::from(item.is_dir()));
            key.digest(&found.tree.digest(item, &job.exclude, &self.build.builder.files)?);
        }
        for source in fetched {
            source.add_to(&mut key);
        }
        Ok(key.key())
    }

    fn items(&self, job: &Job, tree: &Tree) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for source in &job.copy.sources {
            let found = tree.find(source, job.copy.parents)?;
            items.extend(found.into_iter().filter(|item| !job.exclude.is_ignored(&item.name)));
        }
        if items.len() > 1 && !job.target_is_folder {
            let what = format!(
                "the source means {} files, and the target '{}' is no folder",
                items.len(),
                job.target
            );
            return Err(Error::invalid(what).hint(format!("end the target with '/': {}/", job.target)));
        }
        Ok(items)
    }

    fn place(&self, job: &Job, found: &Found, fetched: Vec<Fetched>, upper: &Path) -> Result<()> {
        let view = self.view()?;
        let owner =
            job.copy.chown.as_deref().map(|owner| self.state.owner(owner, Some(&view))).transpose()?;
        let changes = Changes { owner, mode: job.mode.clone() };
        let below: Option<&View> = Some(&view).filter(|_| !job.copy.link);
        let placer = Placer::new(upper, below, &changes)?;
        let (target, is_there) = placer.resolve(Path::new(&job.target))?;
        let into_folder = job.target_is_folder || is_there;
        let put = Put { placer, job, upper, target, into_folder, owner };
        for item in &found.items {
            put.item(&found.tree, item)?;
        }
        for source in fetched {
            self.put_fetched(source, &put)?;
        }
        for heredoc in &job.copy.heredocs {
            put.placer.file(&put.file(&heredoc.name), heredoc.content.as_bytes(), 0o644)?;
        }
        put.placer.finish()
    }
}

/// Where the files of one step go.
pub(super) struct Put<'a> {
    pub(super) placer: Placer<'a>,
    pub(super) job: &'a Job,
    upper: &'a Path,
    target: PathBuf,
    into_folder: bool,
    owner: Option<(u32, u32)>,
}

impl Put<'_> {
    /// The place of a file of this name.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        if self.into_folder { self.target.join(name) } else { self.target.clone() }
    }

    pub(super) fn item(&self, tree: &Tree, item: &Item) -> Result<()> {
        let place = match self.job.copy.parents {
            true => self.target.join(&item.kept),
            false if item.is_dir() || !self.into_folder => self.target.clone(),
            false => self.target.join(item.name.file_name().unwrap_or_default()),
        };
        let unpacks = self.job.copy.add && self.job.copy.unpack != Some(false);
        if unpacks && item.node.kind() == FileType::RegularFile {
            let open = || item.node.open().map_err(std::io::Error::other);
            if let Some(content) = archive(open).at("read", &item.name)? {
                return self.unpack(content);
            }
        }
        if self.job.copy.parents {
            self.parents(tree, item)?;
        }
        self.placer.copy(tree, item, &place, &self.job.exclude)
    }

    /// Folders that `--parents` keeps are as their sources.
    fn parents(&self, tree: &Tree, item: &Item) -> Result<()> {
        let skipped = item.name.components().count().saturating_sub(item.kept.components().count());
        let mut kept = PathBuf::new();
        for part in item.kept.components() {
            kept.push(part);
            let source: PathBuf = item.name.components().take(skipped).collect::<PathBuf>().join(&kept);
            if kept == item.kept {
                break;
            }
            if let Some(node) = tree.node(&source)?.filter(|node| node.dir.is_some()) {
                self.placer.folder_like(tree, &self.target.join(&kept), &node)?;
            }
        }
        Ok(())
    }

    /// A tree that is not looked into for archives.
    pub(super) fn item_as_is(&self, tree: &Tree, item: &Item) -> Result<()> {
        self.placer.copy(tree, item, &self.target, &self.job.exclude)
    }

    pub(super) fn is_into_folder(&self) -> bool {
        self.into_folder
    }

    /// Unpacks an archive into the target.
    pub(super) fn unpack(&self, content: impl std::io::Read) -> Result<()> {
        self.placer.folder(&self.target)?;
        let options = UnpackOptions { whiteouts: false, owner: self.owner, ..UnpackOptions::default() };
        unpack_into(content, &self.upper.join(&self.target), &options)?;
        Ok(())
    }
}

fn copy_cannot_fetch(source: &str) -> Error {
    Error::invalid(format!("COPY cannot fetch '{}'", without_password(source)))
        .hint("ADD fetches remote sources")
}
