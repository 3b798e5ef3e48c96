//! Runs a plan: every stage in a thread of its own, which waits where it needs another's files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use wharf_base::{Clock, Digest, SystemClock, Timestamp};
use wharf_image::{Descriptor, ImageConfig, UnpackOptions, unpack_into};

use super::{
    contexts::{Prepared, named},
    plan::{Plan, PlannedStage, Step, Wishes, plan},
    remote_step::Remotes,
    request::{BuildRequest, BuildResult, Builder, Context, DockerfileSource, Pull, StepReport},
    settings::PROXY_ARGS,
    stage::StageRun,
    state::{State, parts_of},
    transfer::Imported,
};
use crate::{
    cache::{KeyMaker, Record},
    copy::Tree,
    dockerfile::{Checks, Dockerfile, Facts, Warning, lint, wanted},
    error::{Error, ErrorKind, IoContext, Place, Result},
    ignore::Ignore,
    progress::{Listener, Progress},
    remote::{Remote, archive, decoded, without_password},
    workspace::Temp,
};

const MAX_DOCKERFILE: u64 = 1 << 20;

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
    let imports = imports(request, listener);
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

/// What checking a Dockerfile found.
#[derive(Debug, Clone)]
pub struct CheckReport {
    /// The Dockerfile's name.
    pub file: String,
    /// Its text.
    pub text: String,
    /// What was found, in the order of the file.
    pub warnings: Vec<Warning>,
}

/// Reads and checks the Dockerfile; nothing is built.
pub(crate) fn check(builder: &Builder, mut request: BuildRequest) -> Result<CheckReport> {
    let temp = builder.workspace.temp()?;
    let context_dir = prepare_context(builder, &mut request, &temp)?;
    let (name, text) = read_dockerfile(&request.dockerfile, &context_dir)?;
    let found = Dockerfile::parse(&text).and_then(|file| {
        let ignore = read_ignore(&request.dockerfile, &context_dir)?;
        findings(builder, &request, &file, &ignore)
    });
    let (_, warnings) = found.map_err(|error| error.of(&name))?;
    Ok(CheckReport { file: name, text, warnings })
}

/// The checks that are wanted, and what they found.
fn findings(
    builder: &Builder,
    request: &BuildRequest,
    file: &Dockerfile,
    ignore: &Ignore,
) -> Result<(Checks, Vec<Warning>)> {
    let checks = match request.args.get("BUILDKIT_DOCKERFILE_CHECK") {
        Some(text) => Checks::parse(text)?,
        None => file.checks()?,
    };
    let names = |name: &str| {
        let (_, target) = builder.images.find(name).ok()?;
        let image = builder.images.resolve_descriptor(&target).ok()?;
        let of = |setting: &String| setting.split_once('=').map(|(name, _)| name.to_owned());
        Some(image.config.config.env.iter().filter_map(of).collect())
    };
    let contexts = |name: &str| named(&request.contexts, name).is_some();
    let mut found = wanted(&file.warnings, &checks);
    if let Some(what) = checks.unknown() {
        found.push(Warning { place: Place { line: 1, end: 1 }, rule: None, what });
    }
    found.extend(lint(file, &checks, &Facts { base: &names, ignore, contexts: &contexts }));
    found.sort_by_key(|warning| warning.place.line);
    Ok((checks, found))
}

fn told(name: &str, warning: &Warning) -> String {
    let rule = warning.rule.map_or(String::new(), |rule| format!("{rule}: "));
    format!("{name}:{}: {rule}{}", warning.place.line, warning.what)
}

fn imports(request: &BuildRequest, listener: Listener<'_>) -> Vec<Imported> {
    let open = |folder: &PathBuf| match Imported::open(folder) {
        Ok(imported) => Some(imported),
        // A cache is a help, not a need.
        Err(error) => {
            warn(listener, &format!("no cache is taken from '{}': {error}", folder.display()));
            None
        }
    };
    request.cache_from.iter().filter_map(open).collect()
}

fn warn(listener: Listener<'_>, text: &str) {
    listener(Progress::Note { text: format!("warning: {text}") });
}

/// The folder the context lies in; a stream is unpacked first.
fn prepare_context(builder: &Builder, request: &mut BuildRequest, temp: &Temp) -> Result<PathBuf> {
    let unpacked = temp.path().join("context");
    match std::mem::replace(&mut request.context, Context::Empty) {
        Context::Folder(folder) => {
            let hint = "name the folder that holds the files to copy, such as '.'";
            let folder = fs::canonicalize(&folder).map_err(|error| {
                let what = format!("cannot open the build context '{}'", folder.display());
                Error::invalid(what).caused_by(error).hint(hint)
            })?;
            if folder.is_dir() {
                return Ok(folder);
            }
            let what = format!("the build context '{}' is not a folder", folder.display());
            Err(Error::invalid(what).hint(hint))
        }
        Context::Tar(stream) => {
            fs::create_dir(&unpacked).at("create folder", &unpacked)?;
            let stream = stream.into_inner().unwrap_or_else(PoisonError::into_inner);
            let decoder = decoded(stream).at("read", "the stream of the build context")?;
            let options = UnpackOptions { whiteouts: false, owner: Some((0, 0)), ..UnpackOptions::default() };
            unpack_into(decoder, &unpacked, &options)?;
            Ok(unpacked)
        }
        Context::Remote(url) => remote_context(builder, request, temp, &url, unpacked),
        Context::Empty => {
            fs::create_dir(&unpacked).at("create folder", &unpacked)?;
            Ok(unpacked)
        }
    }
}

/// A repository, an archive, or a Dockerfile without a context, by its address.
fn remote_context(
    builder: &Builder,
    request: &mut BuildRequest,
    temp: &Temp,
    url: &str,
    unpacked: PathBuf,
) -> Result<PathBuf> {
    let remotes = Remotes { builder, request, temp };
    match Remote::parse(url)? {
        Some(Remote::Git(url)) => {
            let keep_git =
                request.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|value| value == "1");
            let commit = remotes.git().resolve(&url)?;
            remotes.files_of(&url, &commit, keep_git)
        }
        Some(Remote::Http(url)) => {
            let mut download = remotes.download(&url)?;
            fs::create_dir(&unpacked).at("create folder", &unpacked)?;
            let shown = without_password(&url);
            if let Some(content) = archive(|| download.reopened()).at("read", &shown)? {
                let options =
                    UnpackOptions { whiteouts: false, owner: Some((0, 0)), ..UnpackOptions::default() };
                unpack_into(content, &unpacked, &options)?;
                return Ok(unpacked);
            }
            let mut text = String::new();
            download.content = download.reopened().at("read", &shown)?;
            download.content.take(MAX_DOCKERFILE).read_to_string(&mut text).map_err(|error| {
                Error::invalid(format!("'{shown}' is neither an archive nor a Dockerfile")).caused_by(error)
            })?;
            request.dockerfile = DockerfileSource::Text(text);
            Ok(unpacked)
        }
        None => {
            Err(Error::invalid(format!("'{url}' is no address of a repository, an archive or a Dockerfile")))
        }
    }
}

/// The Dockerfile's name and text.
fn read_dockerfile(source: &DockerfileSource, context: &Path) -> Result<(String, String)> {
    let (name, path) = match source {
        DockerfileSource::Text(text) => return Ok(("Dockerfile".into(), text.clone())),
        DockerfileSource::File(path) => (path.display().to_string(), path.clone()),
        DockerfileSource::InContext(name) => {
            let view = wharf_image::View::plain(context)?;
            let mut inside = view.find(Path::new(name), true)?;
            if inside.node.is_none() && name == "Dockerfile" {
                let lower = view.find(Path::new("dockerfile"), true)?;
                inside = if lower.node.is_some() { lower } else { inside };
            }
            (name.clone(), context.join(inside.path))
        }
    };
    let size = fs::metadata(&path).map_err(|error| {
        let hint = "name the Dockerfile with -f, or the folder it is in as build context";
        Error::invalid(format!("cannot read the Dockerfile '{}'", path.display())).caused_by(error).hint(hint)
    })?;
    if size.len() > MAX_DOCKERFILE || !size.is_file() {
        let what = format!("the Dockerfile '{name}' is no file of at most {MAX_DOCKERFILE} bytes");
        return Err(Error::invalid(what).hint("name the Dockerfile with -f"));
    }
    let bytes = fs::read(&path).at("read", &path)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::invalid("this is not UTF-8 text")
            .hint("save the Dockerfile in UTF-8")
            .at(Place { line, end: line })
            .of(&name)
    })?;
    Ok((name, text))
}

/// `.dockerignore` of a folder.
pub(crate) fn read_ignore_of(folder: &Path) -> Result<Ignore> {
    read_ignore(&DockerfileSource::Text(String::new()), folder)
}

/// `NAME.dockerignore` beside the Dockerfile, or `.dockerignore` of the context.
fn read_ignore(source: &DockerfileSource, context: &Path) -> Result<Ignore> {
    let own = match source {
        DockerfileSource::Text(_) => None,
        DockerfileSource::File(path) => Some(path.clone()),
        DockerfileSource::InContext(name) => Some(context.join(name)),
    };
    let own = own.map(|path| {
        let mut name = path.into_os_string();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([context.join(".dockerignore")]) {
        let is_file = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() < 1 << 20);
        if is_file {
            let text = fs::read(&path).at("read", &path)?;
            let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ignore::parse(&String::from_utf8_lossy(&text)).map_err(|error| error.of(&shown));
        }
    }
    Ok(Ignore::default())
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
        if !self.request.cache_to.is_empty() {
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
                || name.starts_with("BUILDKIT_")
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
