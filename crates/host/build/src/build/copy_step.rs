//! `COPY` and `ADD`.

use std::{io::Read, path::Path};

use rustix::fs::FileType;
use wharf_base::Digest;
use wharf_image::{Decoder, UnpackOptions, View, unpack_into};

use super::{executor::joined, stage::StageRun};
use crate::{
    copy::{Changes, Item, Mode, Placer, Tree},
    dockerfile::{Copy, Expander, Heredoc},
    error::{Error, IoContext, Result},
    ignore::Ignore,
};

/// A `COPY` with everything put in.
struct Job {
    copy: Copy,
    /// Absolute, without its trailing slash.
    target: String,
    target_is_folder: bool,
    exclude: Ignore,
    mode: Option<Mode>,
}

impl StageRun<'_> {
    /// Runs the step; true when its result was there.
    pub(crate) fn copy(&mut self, copy: &Copy, text: &str) -> Result<bool> {
        let job = self.job(copy)?;
        let source = self.source(job.copy.from.as_deref())?;
        let created_by = text.to_owned();
        let described = self.describe(&job);
        // What another stage holds is known by its key: nothing of it need be read.
        let quick = source.key.map(|key| joined("copy-from-1", &[&described, &key]));
        if let Some(record) = quick.and_then(|key| self.cached(&key)) {
            self.take_copy(&job, &record, created_by);
            return Ok(true);
        }
        let items = self.items(&job, &source.tree)?;
        let key = self.content_key(&job, &described, &source.tree, &items)?;
        if let Some(record) = self.cached(&key) {
            if let Some(quick) = quick {
                self.build.builder.records.put(&quick, &record)?;
            }
            self.take_copy(&job, &record, created_by);
            return Ok(true);
        }
        let _slot = self.build.slot();
        self.build.check()?;
        let scratch = self.build.builder.images.scratch()?;
        let placed = self.place(&job, &source.tree, &items, &scratch.upper());
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
        for source in &mut copy.sources {
            *source = self.expand(source)?;
            refuse_remote(name, source)?;
        }
        if copy.checksum.is_some() {
            return Err(Error::invalid("ADD --checksum is for remote sources, which are not supported"));
        }
        for heredoc in &mut copy.heredocs {
            self.fill(heredoc)?;
        }
        copy.chown = copy.chown.map(|owner| self.expand(&owner)).transpose()?;
        let mode = match &copy.chmod {
            Some(text) => {
                let text = self.expand(text)?;
                let mode = Mode::parse(&text);
                Some(mode.ok_or_else(|| {
                    Error::invalid(format!("{name} --chmod={text} is no mode"))
                        .hint("write 644 or u=rwX,go=rX")
                })?)
            }
            None => None,
        };
        let exclude = copy.exclude.iter().map(|p| self.expand(p)).collect::<Result<Vec<_>>>()?;
        let exclude = Ignore::of(exclude.iter().map(String::as_str))?;
        let given = self.expand(&copy.target)?;
        if given.is_empty() {
            return Err(Error::invalid(format!("{name} has no target once its variables are put in")));
        }
        let mut ends_as_folder =
            given.ends_with('/') || given == "." || given.ends_with("/.") || copy.parents;
        let target = self.absolute(&given);
        ends_as_folder |= target == "/";
        if copy.sources.len() + copy.heredocs.len() > 1 && !ends_as_folder {
            return Err(Error::invalid(format!(
                "{name} has several sources, and the target '{given}' is no folder"
            ))
            .hint(format!("end the target with '/': {given}/")));
        }
        Ok(Job { copy, target, target_is_folder: ends_as_folder, exclude, mode })
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
        let mut key = self.build.key("copy-1");
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
        key.key()
    }

    fn content_key(&self, job: &Job, described: &Digest, tree: &Tree, items: &[Item]) -> Result<Digest> {
        let mut key = self.build.key("copy-content-1");
        key.digest(described);
        for item in items {
            key.text(&item.name.to_string_lossy())
                .text(&item.kept.to_string_lossy())
                .number(u64::from(item.is_dir()));
            key.digest(&tree.digest(item, &job.exclude, &self.build.builder.files)?);
        }
        Ok(key.key())
    }

    fn items(&self, job: &Job, tree: &Tree) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for source in &job.copy.sources {
            let found = tree.find(source)?;
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

    fn place(&self, job: &Job, tree: &Tree, items: &[Item], upper: &Path) -> Result<()> {
        let view = self.view()?;
        let owner =
            job.copy.chown.as_deref().map(|owner| self.state.owner(owner, Some(&view))).transpose()?;
        let changes = Changes { owner, mode: job.mode.clone() };
        let below: Option<&View> = Some(&view).filter(|_| !job.copy.link);
        let placer = Placer::new(upper, below, &changes)?;
        let (target, is_there) = placer.resolve(Path::new(&job.target))?;
        let into_folder = job.target_is_folder || is_there;
        for item in items {
            let place = match job.copy.parents {
                true => target.join(&item.kept),
                false if item.is_dir() || !into_folder => target.clone(),
                false => target.join(item.name.file_name().unwrap_or_default()),
            };
            if let Some(reader) = self.archive(job, tree, item)? {
                placer.folder(&target)?;
                unpack(reader, &upper.join(&target), owner)?;
            } else {
                placer.copy(tree, item, &place, &job.exclude)?;
            }
        }
        for heredoc in &job.copy.heredocs {
            let place = if into_folder { target.join(&heredoc.name) } else { target.clone() };
            placer.file(&place, heredoc.content.as_bytes(), 0o644)?;
        }
        placer.finish()
    }

    /// The decoded content of a source that `ADD` unpacks.
    fn archive(&self, job: &Job, tree: &Tree, item: &Item) -> Result<Option<impl Read + use<>>> {
        if !job.copy.add || job.copy.unpack == Some(false) || item.node.kind() != FileType::RegularFile {
            return Ok(None);
        }
        let shown = item.name.display();
        let mut head = Vec::new();
        item.node.open()?.take(6).read_to_end(&mut head).at("read", &item.name)?;
        if head.starts_with(b"BZh") || head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            let what =
                format!("ADD cannot unpack '{shown}' of {}: bzip2 and xz are not supported", tree.name());
            return Err(
                Error::invalid(what).hint("compress it with gzip or zstd, or COPY it and unpack it in RUN")
            );
        }
        let mut block = Vec::new();
        let decoder = Decoder::new(item.node.open()?).at("read", &item.name)?;
        // A compressed file that is no archive, or a broken one, is copied as it is.
        if decoder.take(512).read_to_end(&mut block).is_err() {
            return Ok(None);
        }
        let is_tar = block.get(257..262) == Some(b"ustar".as_slice());
        is_tar.then(|| Decoder::new(item.node.open()?).at("read", &item.name)).transpose()
    }
}

fn unpack(reader: impl Read, target: &Path, owner: Option<(u32, u32)>) -> Result<()> {
    let options = UnpackOptions { whiteouts: false, owner, ..UnpackOptions::default() };
    unpack_into(reader, target, &options)?;
    Ok(())
}

fn refuse_remote(name: &str, source: &str) -> Result<()> {
    let is_remote = source.starts_with("http://")
        || source.starts_with("https://")
        || source.starts_with("git@")
        || source.starts_with("git://")
        || source.starts_with("ssh://");
    if !is_remote {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} cannot fetch '{source}': remote sources are not supported"))
        .hint("download it into the build context first, or in a RUN --network=host step"))
}
