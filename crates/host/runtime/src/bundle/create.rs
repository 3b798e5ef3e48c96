//! `create` and `run`: from a bundle to a container.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Process, Spec};
use wharf_base::{Clock, SystemClock};

use super::{
    Context as Cli,
    args::{Args, Flag, switch, value},
    record::{Folder, Record},
    relay,
};
use crate::{
    cgroup::Cgroup,
    config::{ContainerConfig, RootFs, Seccomp, Size, Stdin},
    error::{Context, Error, Result},
    launch::{self, Agent, Into, Launch, Launched, Namespaces, Owner, Plan, TerminalPlan, When},
    pod_dir::read_json,
    prepare::{self, Shares},
    processes::began,
};

const FLAGS: [Flag; 9] = [
    Flag("bundle", "b", true),
    value("console-socket"),
    value("pid-file"),
    value("preserve-fds"),
    switch("no-pivot"),
    switch("no-new-keyring"),
    switch("no-subreaper"),
    switch("keep"),
    Flag("detach", "d", false),
];

/// `create`.
pub(super) fn create(cli: &Cli, args: &[String]) -> Result<i32> {
    let args = Args::parse("create", args, &FLAGS)?;
    Making::of(cli, &args, args.id("create")?)?.make(true).map(|_| 0)
}

/// `run`: `create`, `start`, and the wait for the end, unless it is to go on alone.
pub(super) fn run(cli: &Cli, args: &[String]) -> Result<i32> {
    let args = Args::parse("run", args, &FLAGS)?;
    let making = Making::of(cli, &args, args.id("run")?)?;
    let detached = args.is_set("detach");
    let signals = (!detached).then(relay::Signals::take).transpose()?;
    let mut launched = making.make(false)?;
    let (folder, record) = (&making.folder, making.folder.record()?);
    let spec = folder.spec()?;
    let bundle = record.bundle.to_string_lossy();
    let started = launched
        .go(&Agent::of(&spec, record.told(&spec, &bundle), record.pid))
        .and_then(|()| record.told(&spec, &bundle).run(When::Poststart, "running", Some(record.pid)));
    if let Err(error) = started {
        launched.abandon();
        super::life::remove(cli, folder, &record)?;
        return Err(error);
    }
    let Some(signals) = signals else { return Ok(0) };
    let code = relay::follow(launched, &signals)?;
    if !args.is_set("keep") {
        super::life::remove(cli, folder, &record)?;
    }
    Ok(code)
}

/// A container on its way.
struct Making<'a> {
    cli: &'a Cli,
    args: &'a Args,
    id: String,
    folder: Folder,
    bundle: PathBuf,
    spec: Spec,
}

impl<'a> Making<'a> {
    fn of(cli: &'a Cli, args: &'a Args, id: &str) -> Result<Self> {
        let folder = Folder::of(&cli.root, id)?;
        let bundle = PathBuf::from(args.get("bundle").unwrap_or("."));
        let bundle = bundle.canonicalize().step("open the bundle", bundle.display())?;
        let mut spec: Spec = read_json(&bundle.join("config.json"))?;
        super::check_version(&spec)?;
        settle_root(&mut spec, &bundle)?;
        settle_cgroup(&mut spec, id)?;
        Ok(Self { cli, args, id: id.to_owned(), folder, bundle, spec })
    }

    /// Makes the container, and leaves nothing behind when that fails.
    fn make(&self, waits: bool) -> Result<Launched> {
        let process = prepare::check(&self.id, &self.spec, Owner::Spec, Shares::of_spec(&self.spec))?;
        check_process(&process)?;
        self.told().check()?;
        let filter = prepare::filter(&self.spec, Seccomp::Unconfined, &mut None)?;
        let namespaces = Namespaces::of(&self.spec, Owner::Spec)?;
        let cgroup = prepare::cgroup(&self.spec)?;
        self.folder.make(&self.id)?;
        let made =
            self.folder.save_spec(&self.spec).and_then(|()| cgroup.create(&prepare::resources(&self.spec)));
        let made = made.and_then(|()| {
            let launched = self.launch(process, filter.as_deref(), &namespaces, &cgroup, waits)?;
            self.write_down(&launched).inspect_err(|_| launched.abandon())?;
            Ok(launched)
        });
        if made.is_err() {
            cgroup.remove_quietly();
            let _ = std::fs::remove_dir_all(&self.folder.0);
            self.told()
                .run_all(When::Poststop, "stopped", None)
                .iter()
                .for_each(|error| self.cli.log.warn(&error.to_string()));
        }
        made
    }

    fn told(&self) -> launch::Told<'_> {
        launch::Told {
            hooks: self.spec.hooks().as_ref(),
            id: &self.id,
            bundle: self.bundle.to_str().unwrap_or_default(),
            annotations: self.spec.annotations().as_ref(),
        }
    }

    fn launch(
        &self,
        process: Process,
        filter: Option<&crate::seccomp::Filter>,
        namespaces: &Namespaces,
        cgroup: &Cgroup,
        waits: bool,
    ) -> Result<Launched> {
        let terminal = terminal_of(&process);
        let console = super::console(self.args, terminal.is_some(), waits || self.args.is_set("detach"))?;
        let start = if waits { Some(self.listen()?) } else { None };
        let config = ContainerConfig {
            name: self.id.clone(),
            spec: self.spec.clone(),
            root: RootFs::default(),
            user: None,
            groups: Vec::new(),
            seccomp: Seccomp::Unconfined,
            stdin: Stdin::Null,
            log: None,
            labels: Default::default(),
        };
        let mut launched = launch::launch(Launch {
            config: &config,
            process: Plan { process, user: None, terminal },
            into: Into::New { folder: &self.folder.0 },
            doors: &cgroup.doors()?,
            stdio: super::own_stdio()?,
            keep: self.cli.kept(self.args)?,
            start,
            seccomp: filter,
            namespaces,
            told: Some(self.told()),
        })?;
        launched.warnings.iter().for_each(|text| self.cli.log.warn(text));
        if let (Some(console), Some(terminal)) = (console, launched.terminal.as_ref()) {
            super::hand_over(&console, terminal.as_fd()).inspect_err(|_| launched.abandon())?;
            launched.terminal = None;
        }
        Ok(launched)
    }

    fn listen(&self) -> Result<OwnedFd> {
        let socket = self.folder.with_socket(|path| UnixListener::bind(path));
        socket.map(OwnedFd::from).step("listen in", self.folder.0.display())
    }

    fn write_down(&self, launched: &Launched) -> Result<()> {
        let pid = launched.pid.as_raw_nonzero().get();
        self.folder.save(&Record {
            id: self.id.clone(),
            pid,
            began: began(pid)
                .ok_or_else(|| Error::state("create the container", &self.id, "its process has ended"))?,
            bundle: self.bundle.clone(),
            cgroup: prepare::cgroup(&self.spec)?.path().to_owned(),
            created: SystemClock.now(),
        })?;
        super::write_pid(self.args, pid)
    }
}

/// The root as an absolute path: the program goes elsewhere before it is used.
fn settle_root(spec: &mut Spec, bundle: &Path) -> Result<()> {
    let given = spec.root().clone();
    let Some(mut root) = given else {
        return Err(Error::invalid("use the bundle", bundle.display(), "its specification names no root"));
    };
    let path = bundle.join(root.path());
    let path = path.canonicalize().step("open the root file system", path.display())?;
    if !path.is_dir() {
        return Err(Error::invalid("use the root file system", path.display(), "it is not a folder"));
    }
    root.set_path(path);
    spec.set_root(Some(root));
    Ok(())
}

/// A container without a named cgroup has one of its id.
fn settle_cgroup(spec: &mut Spec, id: &str) -> Result<()> {
    let Some(linux) = spec.linux_mut() else {
        return Err(Error::invalid("use the specification", id, "it has no 'linux' section"));
    };
    let path = linux.cgroups_path().clone().unwrap_or_default();
    if path.to_string_lossy().contains(':') {
        return Err(Error::invalid(
            "use the cgroup",
            path.display(),
            "cgroups made by systemd are not supported",
        ));
    }
    if path.as_os_str().is_empty() {
        linux.set_cgroups_path(Some(format!("/wharf-oci-{id}").into()));
    }
    Ok(())
}

/// What the specification demands of a process before anything is made.
pub(super) fn check_process(process: &Process) -> Result<()> {
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::invalid("use the specification", "process.args", "it must name a program"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(
            "use the working directory",
            process.cwd().display(),
            "it must be an absolute path",
        ));
    }
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        if limits[..index].iter().any(|before| before.typ() == limit.typ()) {
            return Err(Error::invalid("set the limit", limit.typ(), "it is given twice"));
        }
    }
    Ok(())
}

pub(super) fn terminal_of(process: &Process) -> Option<TerminalPlan> {
    process.terminal().unwrap_or(false).then(|| TerminalPlan {
        size: process.console_size().map(|size| Size {
            rows: size.height().min(9999) as u16,
            columns: size.width().min(9999) as u16,
        }),
    })
}
