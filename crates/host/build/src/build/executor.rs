//! Runs a plan: every stage in a thread of its own, which waits where it needs another's files.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use wharf_base::{Clock, Digest, SystemClock, Timestamp, random_hex};
use wharf_image::Platform;

use super::{
    capture::Captured,
    check::{findings, told},
    contexts::Prepared,
    finish::{Invocation, assemble},
    image::{image_state, pull_image},
    inputs::{Ready, prepare_context, read_dockerfile, read_ignore},
    plan::{Plan, PlannedStage, Step, Wishes, plan},
    request::{BuildRequest, BuildResult, Builder, StepReport},
    settings::PROXY_ARGS,
    stage::StageRun,
    state::State,
    transfer::{CachePlace, Imported},
};
use crate::{
    attest::Material,
    cache::{KeyMaker, Record},
    copy::Tree,
    dockerfile::Dockerfile,
    error::{Error, ErrorKind, Result},
    ignore::Ignore,
    progress::{Listener, Progress},
    workspace::Temp,
};

/// Build arguments that are for the builder.
const OWN_ARGS: [&str; 2] = ["BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_DOCKERFILE_CHECK"];

/// What the builds for all platforms have in common.
pub(crate) struct Shared<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) request: &'a BuildRequest,
    pub(crate) file: &'a Dockerfile,
    pub(crate) temp: &'a Temp,
    pub(crate) context: Tree,
    /// Where the context came from, when that is not this machine.
    pub(crate) origin: Option<&'a Material>,
    pub(crate) listener: Listener<'a>,
    pub(super) imports: Vec<Imported>,
    slots: Slots,
    notes: Mutex<Notes>,
}

/// A build for one platform that runs.
pub(crate) struct Build<'a> {
    shared: &'a Shared<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) platform: &'a Platform,
    pub(crate) contexts: Mutex<BTreeMap<(String, String), Prepared>>,
    pub(crate) captured: Mutex<Captured>,
    done: Mutex<Done>,
    changed: Condvar,
}

impl<'a> std::ops::Deref for Build<'a> {
    type Target = Shared<'a>;

    fn deref(&self) -> &Self::Target {
        self.shared
    }
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
    let context = prepare_context(builder, &mut request, &temp)?;
    let (name, text) = read_dockerfile(&request.dockerfile, &context.folder)?;
    let result = build_text(builder, &request, listener, &temp, context, (&name, &text));
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
    context: Ready,
    (name, text): (&str, &str),
) -> Result<BuildResult> {
    let invocation = Invocation {
        id: random_hex(16),
        started: SystemClock.now().to_nano(),
        dockerfile: (name.to_owned(), text.to_owned()),
    };
    let file = Dockerfile::parse(text)?;
    let ignore = Arc::new(read_ignore(&request.dockerfile, &context.folder)?);
    let mut warnings = checked(builder, request, listener, &file, name, &ignore)?;
    let platforms = platforms(request);
    let plans = plans(builder, request, listener, &file, &platforms)?;
    listener(Progress::Planned { steps: plans.last().map_or(0, |plan| plan.steps) });
    let shared = Shared {
        builder,
        request,
        file: &file,
        temp,
        context: Tree::context(&context.folder, ignore, "the build context".into())?,
        origin: context.origin.as_ref(),
        listener,
        imports: imports(builder, request, listener),
        slots: Slots::new(request.workers),
        notes: Mutex::default(),
    };
    let mut built = Vec::new();
    let mut layers: Vec<Digest> = Vec::new();
    for (plan, platform) in plans.iter().zip(&platforms) {
        let build = Build::new(&shared, plan, platform);
        let state = build.run()?;
        built.push(build.image(&state, &invocation)?);
        layers.extend(state.layers.iter().map(|layer| layer.descriptor.digest));
    }
    request.cache_to.iter().try_for_each(|target| shared.export_cache(target, &layers))?;
    let (manifest, id, images) = assemble(builder, request, &built)?;
    let unused = shared.unused_args(&plans);
    unused.iter().for_each(|text| warn(listener, text));
    warnings.extend(unused);
    let notes = shared.notes.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(BuildResult { id, manifest, images, steps: notes.steps.into_values().collect(), warnings })
}

/// The platforms to build for, each once.
pub(super) fn platforms(request: &BuildRequest) -> Vec<Platform> {
    let mut platforms: Vec<Platform> = Vec::new();
    for platform in &request.platforms {
        if !platforms.contains(platform) {
            platforms.push(platform.clone());
        }
    }
    match platforms.is_empty() {
        true => vec![Platform::host()],
        false => platforms,
    }
}

/// Plans for all platforms, so that what is missing is told before anything is run.
fn plans(
    builder: &Builder,
    request: &BuildRequest,
    listener: Listener<'_>,
    file: &Dockerfile,
    platforms: &[Platform],
) -> Result<Vec<Plan>> {
    let image =
        |name: &str, platform: &Platform| image_state(builder, name, platform, request.pull, listener);
    let mut plans: Vec<Plan> = Vec::new();
    for platform in platforms {
        let wishes = Wishes {
            target: request.target.as_deref(),
            args: &request.args,
            contexts: &request.contexts,
            platform,
            several: platforms.len() > 1,
            before: plans.last().map_or(0, |plan| plan.steps),
            image: &image,
        };
        plans.push(plan(file, &wishes)?);
    }
    Ok(plans)
}

/// What is odd about the Dockerfile; an error where that is to fail the build.
fn checked(
    builder: &Builder,
    request: &BuildRequest,
    listener: Listener<'_>,
    file: &Dockerfile,
    name: &str,
    ignore: &Ignore,
) -> Result<Vec<String>> {
    let (checks, found) = findings(builder, request, file, ignore)?;
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
    Ok(warnings)
}

fn imports(builder: &Builder, request: &BuildRequest, listener: Listener<'_>) -> Vec<Imported> {
    let read = |place: &CachePlace| match place {
        CachePlace::Folder(folder) => Imported::open(folder),
        CachePlace::Image(name) => {
            let pulled = builder
                .pull
                .as_ref()
                .map(|pull| pull_image(pull, &name.to_string(), &Platform::host(), listener));
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

pub(super) fn warn(listener: Listener<'_>, text: &str) {
    listener(Progress::Note { text: format!("warning: {text}") });
}

impl<'a> Build<'a> {
    fn new(shared: &'a Shared<'a>, plan: &'a Plan, platform: &'a Platform) -> Self {
        Self {
            shared,
            plan,
            platform,
            contexts: Mutex::default(),
            captured: Mutex::default(),
            done: Mutex::default(),
            changed: Condvar::new(),
        }
    }
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

    fn note(&self, report: StepReport) {
        lock(&self.notes).steps.insert(report.step, report);
    }
}

impl Shared<'_> {
    fn unused_args(&self, plans: &[Plan]) -> Vec<String> {
        let notes = lock(&self.notes);
        let is_used = |name: &String| {
            notes.used_args.contains(name)
                || plans.iter().any(|plan| plan.used_args.contains(name))
                || PROXY_ARGS.contains(&name.as_str())
                || name == "SOURCE_DATE_EPOCH"
                || OWN_ARGS.contains(&name.as_str())
        };
        let tell =
            |name| format!("the build argument {name} is not used: no stage that was built declares it");
        self.request.args.keys().filter(|name| !is_used(name)).map(tell).collect()
    }

    pub(crate) fn results_so_far(&self) -> Vec<(Digest, Record)> {
        lock(&self.notes).results.values().cloned().collect()
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
