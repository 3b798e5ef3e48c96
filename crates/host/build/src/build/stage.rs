//! One stage on its way through its instructions.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use wharf_base::Digest;
use wharf_image::{Compression, Layer, Platform, Scratch, View};

use super::{
    UNSET,
    contexts::Prepared,
    executor::Build,
    image::image_state,
    plan::{Base, PlannedStage, Step, one_line},
    state::State,
};
use crate::{
    attest::{Op, Traced},
    cache::Record,
    copy::{Changes, Placer, Tree},
    dockerfile::{Instruction, Kind},
    error::{Error, Place, Result},
    ignore::clean,
    progress::StepId,
};

/// A stage being built.
pub(crate) struct StageRun<'a> {
    pub(crate) build: &'a Build<'a>,
    pub(crate) number: usize,
    pub(crate) state: State,
    /// Whether the stage itself has a `CMD`.
    pub(crate) has_cmd: bool,
    /// What the step under way did and which steps it took files from, for the provenance.
    pub(crate) doing: RefCell<Doing>,
}

/// Notes on a step under way.
#[derive(Default)]
pub(crate) struct Doing {
    pub(crate) op: Option<Op>,
    inputs: Vec<StepId>,
}

/// Where files come from.
pub(crate) struct Source {
    pub(crate) tree: Tree,
    /// Stands for all its files; a build context has none, since its files are looked at one by one.
    pub(crate) key: Option<Digest>,
}

impl<'a> StageRun<'a> {
    pub(crate) fn start(build: &'a Build<'a>, planned: &'a PlannedStage) -> Result<Self> {
        let mut doing = Doing::default();
        let state = match &planned.base {
            Base::Stage(number) => {
                let state = build.wait_for(*number)?;
                doing = Doing { op: Some(Op::Same), inputs: state.last_step.into_iter().collect() };
                state.child()
            }
            Base::Start(state) => (**state).clone(),
            Base::Context(name) => {
                build.context_state(name, &planned.platform).map_err(|error| error.at(planned.place))?
            }
        };
        if !matches!(planned.base, Base::Stage(_)) {
            build.note_image(state.image.as_ref(), &state.platform);
            doing.op = state.image.as_ref().map(|image| Op::Source(image.identifier()));
        }
        build.report(&planned.from_step, || Ok(true))?;
        let doing = RefCell::new(doing);
        let mut stage = Self { build, number: planned.number, state, has_cmd: false, doing };
        stage.trace(planned.from_step.id, planned.place, None);
        Ok(stage)
    }

    /// Notes what a step was.
    fn trace(&mut self, step: StepId, place: Place, before: Option<StepId>) {
        let Doing { op, inputs } = self.doing.take();
        // An empty start is no step.
        let Some(op) = op else { return };
        self.state.last_step = Some(step);
        let traced = Traced {
            op,
            inputs: before.into_iter().chain(inputs).collect(),
            place,
            platform: self.state.platform.to_string(),
            layers: self.state.layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        };
        self.build.capture(|captured| drop(captured.steps.insert(step, traced)));
    }

    /// The platform of images a step takes files from.
    pub(crate) fn platform(&self) -> &Platform {
        &self.state.platform
    }

    pub(crate) fn apply(&mut self, instruction: &Instruction, step: Option<&Step>) -> Result<()> {
        let Some(step) = step else { return self.set(&instruction.kind) };
        let build = self.build;
        let before = self.state.last_step;
        build.report(step, || match &instruction.kind {
            Kind::Run(run) => self.run(run, step.id),
            Kind::Copy(copy) => self.copy(copy, &one_line(&instruction.text)),
            Kind::Workdir(path) => self.workdir(path),
            _ => Err(Error::host("a setting was taken for a step")),
        })?;
        self.trace(step.id, instruction.place, before);
        Ok(())
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
            self.build.note_local("context");
            let tree = self.build.context.clone();
            return Ok(Source { tree, key: None });
        };
        let (state, name) =
            match (self.build.context_of(from, self.platform())?, self.build.file.stage(from, self.number)) {
                (Some(Prepared::Files(tree)), _) => return Ok(Source { tree, key: None }),
                (Some(Prepared::Image(state)), _) => (*state, format!("the context '{from}'")),
                (None, Some(number)) => {
                    let state = (*self.build.wait_for(number)?).clone();
                    self.doing.borrow_mut().inputs.extend(state.last_step);
                    (state, format!("the stage '{from}'"))
                }
                (None, None) if from == "scratch" => {
                    (State::scratch(self.platform()), "the empty image".into())
                }
                (None, None) => {
                    let build = self.build;
                    let state = image_state(build.builder, from, self.platform(), false, build.listener)?;
                    build.note_image(state.image.as_ref(), &state.platform);
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
            return Err(Error::invalid("WORKDIR has no path once its variables are put in").hint(UNSET));
        }
        let path = self.absolute(&path);
        self.state.config.working_dir = path.clone();
        self.doing.borrow_mut().op = Some(Op::Folder(path.clone()));
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
