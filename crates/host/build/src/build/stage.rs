//! One stage on its way through its instructions.

use std::path::{Path, PathBuf};

use wharf_base::Digest;
use wharf_image::{Compression, Layer, Scratch, View};

use super::{
    contexts::Prepared,
    executor::Build,
    plan::{Base, PlannedStage, Step, one_line},
    state::State,
};
use crate::{
    cache::Record,
    copy::{Changes, Placer, Tree},
    dockerfile::{Instruction, Kind},
    error::{Error, Result},
    ignore::clean,
};

/// A stage being built.
pub(crate) struct StageRun<'a> {
    pub(crate) build: &'a Build<'a>,
    pub(crate) number: usize,
    pub(crate) state: State,
    /// Whether the stage itself has a `CMD`.
    pub(crate) has_cmd: bool,
}

/// Where files come from.
pub(crate) struct Source {
    pub(crate) tree: Tree,
    /// Stands for all its files; a build context has none, since its files are looked at one by one.
    pub(crate) key: Option<Digest>,
}

impl<'a> StageRun<'a> {
    pub(crate) fn start(build: &'a Build<'a>, planned: &'a PlannedStage) -> Result<Self> {
        let state = match &planned.base {
            Base::Stage(number) => build.wait_for(*number)?.child(),
            Base::Start(state) => (**state).clone(),
            Base::Context(name) => build.context_state(name).map_err(|error| error.at(planned.place))?,
        };
        build.report(&planned.from_step, || Ok(true))?;
        Ok(Self { build, number: planned.number, state, has_cmd: false })
    }

    pub(crate) fn apply(&mut self, instruction: &Instruction, step: Option<&Step>) -> Result<()> {
        let Some(step) = step else { return self.set(&instruction.kind) };
        let build = self.build;
        build.report(step, || match &instruction.kind {
            Kind::Run(run) => self.run(run, step.id),
            Kind::Copy(copy) => self.copy(copy, &one_line(&instruction.text)),
            Kind::Workdir(path) => self.workdir(path),
            _ => Err(Error::host("a setting was taken for a step")),
        })
    }

    /// Whether the caller wants this stage's steps run.
    pub(crate) fn ignores_cache(&self) -> bool {
        let request = &self.build.request;
        let name = self.build.file.stages.get(self.number).and_then(|stage| stage.from.name.as_deref());
        let is_this = |wanted: &String| {
            name.is_some_and(|name| name.eq_ignore_ascii_case(wanted)) || *wanted == self.number.to_string()
        };
        request.no_cache || request.no_cache_stages.iter().any(is_this)
    }

    /// A result that is there already.
    pub(crate) fn cached(&self, key: &Digest) -> Option<Record> {
        if self.ignores_cache() {
            return None;
        }
        let build = self.build;
        let record = build.builder.records.get(key, &build.builder.images).or_else(|| build.imported(key))?;
        build.note_result(*key, &record);
        Some(record)
    }

    /// Keeps and takes a new result.
    pub(crate) fn keep(
        &mut self,
        keys: &[Digest],
        layer: Option<&Layer>,
        fs_key: Digest,
        created_by: String,
    ) -> Result<()> {
        // A step that changed nothing leaves the file system's key as it was, so that what follows need not run again.
        let fs_key = if layer.is_some() { fs_key } else { self.state.key };
        let record = Record::new(layer, fs_key, self.build.now());
        for key in keys {
            self.build.builder.records.put(key, &record)?;
            self.build.note_result(*key, &record);
        }
        self.state.take(&record, created_by);
        Ok(())
    }

    pub(crate) fn commit(&self, scratch: Scratch) -> Result<Option<Layer>> {
        let epoch = self.build.request.source_date_epoch;
        Ok(self.build.builder.images.commit_scratch(scratch, Compression::Gzip, epoch)?)
    }

    pub(crate) fn folders_of(&self, state: &State) -> Result<Vec<PathBuf>> {
        state.folders(&self.build.builder.images, &self.build.temp.path().join("empty"))
    }

    pub(crate) fn view(&self) -> Result<View> {
        Ok(View::overlay(&self.folders_of(&self.state)?)?)
    }

    /// The tree a stage, an image or the context is.
    pub(crate) fn source(&self, from: Option<&str>) -> Result<Source> {
        let Some(from) = from else {
            let tree =
                self.build.context.clone().ok_or_else(|| Error::invalid("there is no build context"))?;
            return Ok(Source { tree, key: None });
        };
        let (state, name) = match (self.build.context_of(from)?, self.build.file.stage(from, self.number)) {
            (Some(Prepared::Files(tree)), _) => return Ok(Source { tree, key: None }),
            (Some(Prepared::Image(state)), _) => (*state, format!("the context '{from}'")),
            (None, Some(number)) => ((*self.build.wait_for(number)?).clone(), format!("the stage '{from}'")),
            (None, None) if from == "scratch" => (State::scratch(), "the empty image".into()),
            (None, None) => {
                let state =
                    super::executor::image_state(self.build.builder, from, false, self.build.listener)?;
                (state, format!("the image '{from}'"))
            }
        };
        let tree = Tree::layers(&self.folders_of(&state)?, name)?;
        Ok(Source { tree, key: Some(state.key) })
    }

    /// A path of the image, from the working folder where it is relative.
    pub(crate) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            clean(path)
        } else {
            clean(&format!("{}/{path}", self.state.config.working_dir))
        }
    }

    fn workdir(&mut self, path: &str) -> Result<bool> {
        let path = self.expand(path)?;
        if path.is_empty() {
            return Err(Error::invalid("WORKDIR has no path once its variables are put in"));
        }
        let path = self.absolute(&path);
        self.state.config.working_dir = path.clone();
        let created_by = format!("WORKDIR {path}");
        let mut key = self.build.key("workdir-2");
        key.digest(&self.state.key).text(&path).text(&self.state.config.user);
        let key = key.key();
        if let Some(record) = self.cached(&key) {
            self.state.take(&record, created_by);
            return Ok(true);
        }
        let _slot = self.build.slot();
        let view = self.view()?;
        let found = view.find(Path::new(&path), true)?;
        let layer = match found.node {
            Some(node) if node.dir.is_some() => None,
            Some(_) => return Err(Error::invalid(format!("'{path}' is in the image and is not a folder"))),
            None => {
                let scratch = self.build.builder.images.scratch()?;
                let changes = Changes { owner: Some(self.state.user(&view)?), mode: None };
                let placer = Placer::new(&scratch.upper(), Some(&view), &changes)?;
                placer.folder(&found.path)?;
                placer.finish()?;
                self.commit(scratch)?
            }
        };
        self.keep(&[key], layer.as_ref(), key, created_by)?;
        Ok(false)
    }
}
