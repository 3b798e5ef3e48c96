//! What the container commands share: the containers of a data folder, images, streams.

pub(crate) mod bridge;
mod image;
mod names;
mod relay;
mod terminal;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use wharf_base::{ContainerId, Hinted, closest};
use wharf_build::Builder;
use wharf_runtime::{ErrorKind, Phase, PodDir, Runtime, Sandbox, SandboxConfig, ShimRuntime, Status};

pub(crate) use image::{Image, from_directory, from_store, leaseholder};
pub(crate) use relay::{Relay, Remote, exit_code as relay_end};
pub(crate) use terminal::{Terminal, is_terminal};

use super::Globals;

/// The name of the only container of a pod that `wharf run` makes.
pub(crate) const MAIN: &str = "main";

/// Labels under which a container's own facts are kept in its pod's description.
/// The control group that those of containers are made in.
pub(crate) const GROUP: &str = "wharf";
pub(crate) const NAME: &str = "wharf.name";
pub(crate) const IMAGE: &str = "wharf.image";
pub(crate) const NETWORK: &str = "wharf.network";
pub(crate) const PORTS: &str = "wharf.ports";
pub(crate) const STOP_SIGNAL: &str = "wharf.stop-signal";

/// Prints an error as people see it.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = wharf_base::render_error(error.as_ref());
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    if causes.any(wharf_image::is_full) && !text.contains("\n  hint: ") {
        text.push_str(&format!("\n  hint: {}", wharf_image::FREE_SPACE));
    }
    eprintln!("{text}");
}

/// The containers of a data folder.
pub(crate) struct Containers {
    root: PathBuf,
    pub(crate) runtime: ShimRuntime,
}

/// One container of a data folder.
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) dir: PodDir,
    pub(crate) config: SandboxConfig,
    pub(crate) status: Status,
}

impl Containers {
    pub(crate) fn open(globals: &Globals) -> anyhow::Result<Self> {
        Ok(Self { root: globals.data_dir()?.join("containers"), runtime: ShimRuntime::default() })
    }

    /// Takes back what ended containers had of the network, and ends what killed builds left running.
    pub(crate) fn tidy(&self) {
        if let Err(error) = bridge::release_ended(self.data()) {
            eprintln!("warning: an ended container keeps its address: {error:#}");
        }
        if let Err(error) = Builder::sweep(self.data().join("build-cache"), &self.runtime) {
            eprintln!("warning: a killed build is not put in order: {error}");
        }
    }

    /// The folder of a container.
    pub(crate) fn folder(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Takes `name`, or one nobody has, for a container whose folder this makes.
    pub(crate) fn reserve(&self, id: &ContainerId, name: Option<&str>) -> anyhow::Result<String> {
        let folder = self.folder(id);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        names::reserve(&self.root, id, name)
    }

    /// Removes what is on disk of a container that does not run.
    pub(crate) fn forget(&self, id: &ContainerId, name: &str) -> anyhow::Result<()> {
        let folder = self.folder(id);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", folder.display()));
            }
            _ => {}
        }
        names::release(&self.root, id, name)?;
        image::release(self.data(), id)
    }

    /// Ends leases of containers that are gone: those that remove themselves leave theirs.
    pub(crate) fn sweep_leases(&self, images: &wharf_image::Store) -> anyhow::Result<()> {
        for lease in images.leases()? {
            // Its folder is made before its lease.
            if leaseholder(&lease).is_some_and(|id| !self.folder(&id).exists()) {
                images.release(&lease)?;
            }
        }
        Ok(())
    }

    pub(crate) fn data(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
    }

    /// All containers, the newest first. Those whose shim was killed are put in order on the way.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<Container>> {
        let mut all: Vec<Container> = self.ids()?.iter().filter_map(|id| self.load(id).ok()).collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.status.created_at));
        Ok(all)
    }

    /// The ids of all there are.
    pub(crate) fn ids(&self) -> anyhow::Result<Vec<ContainerId>> {
        match fs::read_dir(&self.root) {
            Ok(entries) => {
                Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.root.display())),
        }
    }

    fn load(&self, id: &ContainerId) -> anyhow::Result<Container> {
        let dir = PodDir::at(self.folder(id));
        let mut status = dir.status(MAIN)?;
        if status.phase != Phase::Exited && !dir.has_shim() {
            self.runtime.clean_up(dir.path())?;
            status = dir.status(MAIN)?;
        }
        Ok(Container { id: id.clone(), config: dir.config()?, status, dir })
    }

    /// The container a person means by its name, its id, or the beginning of its id.
    pub(crate) fn find(&self, wanted: &str) -> anyhow::Result<Container> {
        if let Some(id) = names::look_up(&self.root, wanted) {
            return self.load(&id);
        }
        let ids = self.ids()?;
        let mut matching = ids.iter().filter(|id| !wanted.is_empty() && id.as_str().starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(id), None) => self.load(id),
            (Some(_), Some(_)) => Err(Hinted::new(
                format!("'{wanted}' is the beginning of several container ids"),
                "give more of the id, or the name",
            )
            .into()),
            (None, _) => Err(self.unknown(wanted)),
        }
    }

    fn unknown(&self, wanted: &str) -> anyhow::Error {
        let error = format!("no such container: {wanted}");
        let known = names::all(&self.root);
        match closest(wanted, known.iter().map(String::as_str)) {
            Some(name) => Hinted::new(error, format!("did you mean '{name}'?")).into(),
            None => Hinted::new(error, "'wharf ps -a' lists all containers").into(),
        }
    }
}

impl Container {
    pub(crate) fn name(&self) -> &str {
        self.config.labels.get(NAME).map_or("", String::as_str)
    }

    pub(crate) fn image(&self) -> &str {
        self.config.labels.get(IMAGE).map_or("", String::as_str)
    }

    /// Ports of this machine that lead to it while it runs.
    pub(crate) fn ports(&self) -> Vec<bridge::Publish> {
        let ports = self.config.labels.get(PORTS).map_or("", String::as_str);
        ports.split_whitespace().filter_map(|port| port.parse().ok()).collect()
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.status.phase, Phase::Running | Phase::Paused)
    }

    /// Its log file.
    pub(crate) fn log(&self) -> PathBuf {
        log_of(self.dir.path())
    }

    /// Talks to it. Says so when it does not run.
    pub(crate) fn connect(&self, runtime: &ShimRuntime) -> anyhow::Result<Box<dyn Sandbox>> {
        let not_running = || format!("container {} is not running", self.name());
        if !self.is_running() {
            return Err(Hinted::new(
                not_running(),
                format!("'wharf logs {}' shows what it said", self.name()),
            )
            .into());
        }
        runtime.open(self.dir.path()).map_err(|error| match error.kind {
            ErrorKind::ShimGone => anyhow::anyhow!(not_running()),
            _ => error.into(),
        })
    }
}

/// NAMESPACE/NAME of a pod of the platform, which its node keeps as the only label.
pub(crate) fn name_of_pod(config: SandboxConfig) -> String {
    config.labels.into_values().next().unwrap_or(config.id)
}

/// The log file of the container in `folder`.
pub(crate) fn log_of(folder: &Path) -> PathBuf {
    folder.join("log")
}

/// Applies `act` to every container named, goes on after failures, and tells whether there were any.
pub(crate) fn for_each(
    wanted: &[String],
    mut act: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<std::process::ExitCode> {
    let mut code = std::process::ExitCode::SUCCESS;
    for name in wanted {
        match act(name) {
            Ok(()) => println!("{name}"),
            Err(error) => {
                complain(&error);
                code = std::process::ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Refuses a flag that stands where the first of `words` belongs, in docker's words.
pub(crate) fn refuse_flag<A: clap::Args>(command: &str, words: &[String]) -> Result<(), Hinted> {
    let Some(word) = words.first().filter(|word| word.len() > 1 && word.starts_with('-')) else {
        return Ok(());
    };
    let known = A::augment_args(clap::Command::new("wharf"));
    let flag = word.split('=').next().unwrap_or(word);
    let longs: Vec<String> =
        known.get_arguments().filter_map(|a| Some(format!("--{}", a.get_long()?))).collect();
    let error = match flag.strip_prefix("--") {
        Some(_) => format!("unknown flag: {flag}"),
        None => {
            let is_known = |c: &char| known.get_arguments().any(|a| a.get_short() == Some(*c));
            let unknown = flag.chars().skip(1).find(|c| !is_known(c)).unwrap_or('-');
            format!("unknown shorthand flag: '{unknown}' in {flag}")
        }
    };
    let hint = match closest(flag, longs.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!(
            "'wharf {command} --help' lists all; flags of the container's own program stand after the image"
        ),
    };
    Err(Hinted::new(error, hint))
}

/// Removes the control group that those of containers are made in, unless there are some.
pub(crate) fn remove_empty_group() {
    let hierarchies = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(hierarchies).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in below.chain([hierarchies.to_owned()]) {
        // One with groups in it is not removed by the kernel.
        let _ = fs::remove_dir(hierarchy.join(GROUP));
    }
}

/// A signal by number or name, with or without `SIG`.
pub(crate) fn signal_number(text: &str) -> anyhow::Result<i32> {
    if let Some(number) = wharf_image::signal_number(text) {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let hint = closest(name, wharf_image::SIGNAL_NAMES)
        .map_or("names are like TERM or SIGTERM".to_owned(), |n| format!("did you mean '{n}'?"));
    Err(Hinted::new(format!("no such signal: {text}"), hint).into())
}
