//! Runs a plan: every stage in a thread of its own, which waits where it needs another's files.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use wharf_base::{Clock, Digest, SystemClock, Timestamp};
use wharf_image::{Descriptor, ImageConfig};

use super::{
    check::{findings, told},
    contexts::Prepared,
    inputs::{prepare_context, read_dockerfile, read_ignore},
    plan::{Plan, PlannedStage, Step, Wishes, plan},
    request::{BuildRequest, BuildResult, Builder, Pull, StepReport},
    settings::PROXY_ARGS,
    stage::StageRun,
    state::{State, parts_of},
    transfer::{CachePlace, FIELD, Imported},
};
use crate::{
    cache::{KeyMaker, Record},
    copy::Tree,
    dockerfile::Dockerfile,
    error::{Error, ErrorKind, IoContext, Result},
    progress::{Listener, Progress},
    workspace::Temp,
};

/// Build arguments that are for the builder.
const OWN_ARGS: [&str; 2] = ["BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_DOCKERFILE_CHECK"];

/// A build that runs.
pub(crate) struct Build<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) request: &'a BuildRequest,
    pub(crate) plan: &'a Plan,
    pub(crate) file: &'a Dockerfile,
    pub(crate) temp: &'a Temp,
    pub(crate) context: Option<Tree>,
    pub(crate) contexts: Mutex<BTreeMap<String, Prepared>>,
    pub(crate) listener: Listener<'a>,
    pub(super) imports: Vec<Imported>,
    slots: Slots,
    done: Mutex<Done>,
    changed: Condvar,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Done {
    stages: BTreeMap<usize, Arc<State>>,
    failure: Option<Error>,
}

#[derive(Default)]
struct Notes {
    steps: BTreeMap<usize, StepReport>,
    results: BTreeMap<String, (Digest, Record)>,
    used_args: BTreeSet<String>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn build(
    builder: &Builder,
    mut request: BuildRequest,
    listener: Listener<'_>,
) -> Result<BuildResult> {
    let temp = builder.workspace.temp()?;
    let context_dir = prepare_context(builder, &mut request, &temp)?;
    let (name, text) = read_dockerfile(&request.dockerfile, &context_dir)?;
    let result = build_text(builder, &request, listener, &temp, context_dir, (&name, &text));
    let saved = builder.files.save();
    let built = result.map_err(|error| match error.place.is_some() || error.kind == ErrorKind::Invalid {
        true => error.of(&name),
        false => error,
    })?;
    // The failure of the build itself is the one to tell.
    saved.map(|()| built)
}

fn build_text(
    builder: &Builder,
    request: &BuildRequest,
    listener: Listener<'_>,
    temp: &Temp,
    context_dir: PathBuf,
    (name, text): (&str, &str),
) -> Result<BuildResult> {
    let file = Dockerfile::parse(text)?;
    let ignore = Arc::new(read_ignore(&request.dockerfile, &context_dir)?);
    let (checks, found) = findings(builder, request, &file, &ignore)?;
    let mut warnings: Vec<String> = found.iter().map(|warning| told(name, warning)).collect();
    let stages = |name: &&String| file.stage(name, file.stages.len()).is_none();
    let unknown = request.no_cache_stages.iter().filter(stages);
    warnings.extend(unknown.map(|name| format!("there is no stage '{name}' to run without the cache")));
    // Before anything is run: what they tell of may be why the build fails.
    warnings.iter().for_each(|text| warn(listener, text));
    if checks.error
        && let Some(first) = found.iter().find(|warning| warning.rule.is_some())
    {
        let rules: BTreeSet<&str> = found.iter().filter_map(|warning| warning.rule).collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        return Err(Error::invalid(format!(
            "checks that found something fail this build: {}",
            rules.join(", ")
        ))
        .hint("repair what the warnings say, or leave '# check=error=true' out")
        .at(first.place));
    }
    let image = |name: &str| image_state(builder, name, request.pull, listener);
    let wishes = Wishes {
        target: request.target.as_deref(),
        args: &request.args,
        contexts: &request.contexts,
        image: &image,
    };
    let plan = plan(&file, &wishes)?;
    listener(Progress::Planned { steps: plan.steps });
    let imports = imports(builder, request, listener);
    let build = Build {
        builder,
        request,
        plan: &plan,
        file: &file,
        temp,
        context: Some(Tree::context(&context_dir, ignore, "the build context".into())?),
        contexts: Mutex::default(),
        listener,
        imports,
        slots: Slots::new(request.workers),
        done: Mutex::default(),
        changed: Condvar::new(),
        notes: Mutex::default(),
    };
    let state = build.run()?;
    let manifest = build.finish(&state)?;
    let image: Vec<Digest> = state.layers.iter().map(|layer| layer.descriptor.digest).collect();
    request.cache_to.iter().try_for_each(|target| build.export_cache(target, &image))?;
    let unused = build.unused_args();
    unused.iter().for_each(|text| warn(listener, text));
    warnings.extend(unused);
    build.result(manifest, warnings)
}

fn imports(builder: &Builder, request: &BuildRequest, listener: Listener<'_>) -> Vec<Imported> {
    let read = |place: &CachePlace| match place {
        CachePlace::Folder(folder) => Imported::open(folder),
        CachePlace::Image(name) => {
            let pulled = builder.pull.as_ref().map(|pull| pull_image(pull, &name.to_string(), listener));
            // What is here already may do when there is nothing newer.
            Imported::of_image(&builder.images, name).map_err(|error| match pulled {
                Some(Err(refused)) => Error::host(refused.to_string()),
                _ => error,
            })
        }
    };
    let open = |place: &CachePlace| match read(place) {
        Ok(imported) => Some(imported),
        // A cache is a help, not a need.
        Err(error) => {
            warn(listener, &format!("no cache is taken from '{place}': {error}"));
            None
        }
    };
    request.cache_from.iter().filter_map(open).collect()
}

fn warn(listener: Listener<'_>, text: &str) {
    listener(Progress::Note { text: format!("warning: {text}") });
}

/// The start of a stage on the image `name`.
pub(crate) fn image_state(
    builder: &Builder,
    name: &str,
    pull_always: bool,
    listener: Listener<'_>,
) -> Result<State> {
    let found = match (builder.images.find(name), &builder.pull) {
        (Err(error @ wharf_image::Error::NoImage { .. }), Some(pull)) => {
            pull_image(pull, name, listener).map_err(|refused| {
                // Most of the time the name is wrong, and the store knows what may be meant.
                let hint = error.hint().unwrap_or_else(|| refused.hint().to_owned());
                Error::host(format!("{error}, and it cannot be pulled: {refused}")).hint(hint)
            })?;
            builder.images.find(name)
        }
        (Ok(_), Some(pull)) if pull_always => {
            pull_image(pull, name, listener)
                .map_err(|e| Error::host(format!("cannot pull '{name}': {e}")).hint(e.hint().to_owned()))?;
            builder.images.find(name)
        }
        (found, _) => found,
    };
    let (_, target) = found?;
    let (layers, config) = parts_of(builder.images.resolve_descriptor(&target)?);
    Ok(State::of(layers, config))
}

fn pull_image(pull: &Pull, name: &str, listener: Listener<'_>) -> Result<(), wharf_base::Hinted> {
    listener(Progress::Note { text: format!("pulling {name}") });
    let reference: wharf_image::Reference = name
        .parse()
        .map_err(|error: wharf_image::Error| wharf_base::Hinted::new(error, "correct the name"))?;
    pull(&reference)
}

impl Build<'_> {
    pub(crate) fn escape(&self) -> char {
        self.file.escape
    }

    /// The value a caller gave for a build argument.
    pub(crate) fn arg(&self, name: &str) -> Option<String> {
        lock(&self.notes).used_args.insert(name.to_owned());
        self.request.args.get(name).cloned()
    }

    /// What keys of all steps have in common.
    pub(crate) fn key(&self, purpose: &str) -> KeyMaker {
        let mut key = KeyMaker::new(purpose);
        key.number(self.request.source_date_epoch.map_or(u64::MAX, |epoch| epoch as u64));
        key
    }

    /// The time a step's result bears.
    pub(crate) fn now(&self) -> String {
        self.request
            .source_date_epoch
            .map_or_else(|| SystemClock.now(), |epoch| Timestamp::from_unix(epoch, 0))
            .to_string()
    }

    fn run(&self) -> Result<Arc<State>> {
        std::thread::scope(|scope| {
            for stage in &self.plan.stages {
                scope.spawn(|| {
                    // A defect must fail the build, not leave the stages that wait for this one waiting.
                    let result = catch_unwind(AssertUnwindSafe(|| self.stage(stage)))
                        .unwrap_or_else(|_| Err(Error::host("a stage ended by a defect of the builder")));
                    let mut done = lock(&self.done);
                    match result {
                        Ok(state) => drop(done.stages.insert(stage.number, Arc::new(state))),
                        // The first failure is the cause; what follows from it is not told.
                        Err(error) => drop(done.failure.get_or_insert(error)),
                    }
                    self.changed.notify_all();
                });
            }
        });
        let mut done = lock(&self.done);
        if let Some(error) = done.failure.take() {
            return Err(error);
        }
        self.request.cancel.check()?;
        done.stages.remove(&self.plan.target).ok_or_else(|| Error::host("the stage to build was not built"))
    }

    fn stage(&self, planned: &PlannedStage) -> Result<State> {
        StageRun::start(self, planned)
            .and_then(|mut stage| {
                for (instruction, step) in planned.instructions.iter().zip(&planned.steps) {
                    self.check()?;
                    stage.apply(instruction, step.as_ref()).map_err(|error| error.at(instruction.place))?;
                }
                Ok(stage.state)
            })
            .map_err(|error| error.at(planned.place))
    }

    /// Fails when the build is over for another reason.
    pub(crate) fn check(&self) -> Result<()> {
        self.request.cancel.check()?;
        if lock(&self.done).failure.is_some() { Err(Error::cancelled()) } else { Ok(()) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.check().is_err()
    }

    /// Another stage's result, once it is there.
    pub(crate) fn wait_for(&self, number: usize) -> Result<Arc<State>> {
        let mut done = lock(&self.done);
        loop {
            if done.failure.is_some() {
                return Err(Error::cancelled());
            }
            if let Some(state) = done.stages.get(&number) {
                return Ok(state.clone());
            }
            done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The right to work, of which there are as many as workers.
    pub(crate) fn slot(&self) -> Slot<'_> {
        self.slots.take()
    }

    /// Tells how a step goes: started, then cached, done or failed.
    pub(crate) fn report(&self, step: &Step, act: impl FnOnce() -> Result<bool>) -> Result<()> {
        (self.listener)(Progress::Started { step: step.id, name: step.name.clone() });
        let start = Instant::now();
        let result = act();
        let elapsed = start.elapsed();
        match &result {
            Ok(true) => (self.listener)(Progress::Cached { step: step.id }),
            Ok(false) => (self.listener)(Progress::Done { step: step.id, elapsed }),
            Err(error) if error.kind == ErrorKind::Cancelled => {}
            Err(error) => (self.listener)(Progress::Failed { step: step.id, error: error.what.clone() }),
        }
        let cached = result?;
        self.note(StepReport { step: step.id, name: step.name.clone(), cached, elapsed });
        Ok(())
    }

    /// Notes a result that was used, for the caches this build writes.
    pub(crate) fn note_result(&self, key: Digest, record: &Record) {
        if !self.request.cache_to.is_empty() || self.request.cache_inline {
            lock(&self.notes).results.insert(key.hex(), (key, record.clone()));
        }
    }

    pub(crate) fn results_so_far(&self) -> Vec<(Digest, Record)> {
        lock(&self.notes).results.values().cloned().collect()
    }

    fn note(&self, report: StepReport) {
        lock(&self.notes).steps.insert(report.step, report);
    }

    fn finish(&self, state: &State) -> Result<Descriptor> {
        let mut config = ImageConfig::for_host();
        config.config = state.config.clone();
        config.config.labels.extend(self.request.labels.clone());
        config.history = state.history.clone();
        config.author = state.author.clone();
        config.created = match self.request.source_date_epoch {
            Some(_) => Some(self.now()),
            None => state.created.clone(),
        };
        if self.request.cache_inline {
            let image: Vec<Digest> = state.layers.iter().map(|layer| layer.descriptor.digest).collect();
            let results = serde_json::to_value(&self.results_of(false, &image).0);
            config.other.insert(FIELD.into(), results.at("write the results of", "the image")?);
        }
        let images = &self.builder.images;
        let manifest = self.annotated(images.put_image(config, &state.layers)?)?;
        if !self.request.tags.is_empty() {
            images.tag(&self.request.tags, &manifest)?;
        }
        Ok(manifest)
    }

    /// The manifest with the annotations the caller wants.
    fn annotated(&self, manifest: Descriptor) -> Result<Descriptor> {
        if self.request.annotations.is_empty() {
            return Ok(manifest);
        }
        let images = &self.builder.images;
        let mut document = images.manifest(&manifest)?.1;
        let annotations = serde_json::to_value(&self.request.annotations).at("write", "the annotations")?;
        document.other.insert("annotations".into(), annotations);
        let bytes = serde_json::to_vec(&document).at("write", "the manifest")?;
        let digest = images.blobs().put(&bytes)?;
        Ok(Descriptor::new(manifest.media_type, digest, bytes.len() as u64))
    }

    fn unused_args(&self) -> Vec<String> {
        let notes = lock(&self.notes);
        let is_used = |name: &String| {
            notes.used_args.contains(name)
                || self.plan.used_args.contains(name)
                || PROXY_ARGS.contains(&name.as_str())
                || name == "SOURCE_DATE_EPOCH"
                || OWN_ARGS.contains(&name.as_str())
        };
        let tell =
            |name| format!("the build argument {name} is not used: no stage that was built declares it");
        self.request.args.keys().filter(|name| !is_used(name)).map(tell).collect()
    }

    fn result(self, manifest: Descriptor, warnings: Vec<String>) -> Result<BuildResult> {
        let id = self.builder.images.manifest(&manifest)?.1.config.digest;
        let notes = self.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(BuildResult { id, manifest, steps: notes.steps.into_values().collect(), warnings })
    }
}

/// Counts who works.
struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A right to work, given back when dropped.
pub(crate) struct Slot<'a>(&'a Slots);

impl Slots {
    fn new(workers: usize) -> Self {
        let processors = || std::thread::available_parallelism().map_or(2, usize::from);
        Self { free: Mutex::new(if workers == 0 { processors() } else { workers }), freed: Condvar::new() }
    }

    fn take(&self) -> Slot<'_> {
        let mut free = lock(&self.free);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Slot(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

/// A file system key after a step that does not depend on what was before.
pub(crate) fn joined(purpose: &str, parts: &[&Digest]) -> Digest {
    let mut key = KeyMaker::new(purpose);
    for part in parts {
        key.digest(part);
    }
    key.key()
}
