//! `exec`: one more process in a container.

use std::{collections::HashSet, os::fd::AsFd};

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::{
    Context as Cli,
    args::{Args, Flag, switch, value},
    create::{check_process, terminal_of},
    record::{Folder, Phase},
    relay,
};
use crate::{
    config::{ContainerConfig, RootFs, Seccomp, Stdin},
    error::{Error, Result},
    launch::{self, Agent, Into, Launch, Namespaces, Owner, Plan},
    pod_dir::read_json,
    prepare,
};

const FLAGS: [Flag; 14] = [
    value("console-socket"),
    value("cwd"),
    Flag("env", "e", true),
    Flag("tty", "t", false),
    Flag("user", "u", true),
    Flag("additional-gids", "g", true),
    Flag("process", "p", true),
    Flag("detach", "d", false),
    value("pid-file"),
    switch("no-new-privs"),
    Flag("cap", "c", true),
    value("preserve-fds"),
    switch("ignore-paused"),
    switch("no-subreaper"),
];

/// `exec`.
pub(super) fn exec(cli: &Cli, args: &[String]) -> Result<i32> {
    let args = Args::parse("exec", args, &FLAGS)?;
    let id = args.id("exec")?;
    let folder = Folder::of(&cli.root, id)?;
    let record = folder.record()?;
    match folder.phase(&record) {
        Phase::Stopped => return Err(Error::state("run a command in", id, "container not running")),
        Phase::Paused if !args.is_set("ignore-paused") => {
            return Err(Error::state("run a command in", id, "the container is paused"));
        }
        _ => {}
    }
    let init =
        record.process().ok_or_else(|| Error::state("run a command in", id, "container not running"))?;
    let spec = folder.spec()?;
    let process = process(&args, &spec)?;
    check_process(&process)?;
    let terminal = terminal_of(&process);
    let detached = args.is_set("detach");
    let console = super::console(&args, terminal.is_some(), detached)?;
    let filter = prepare::filter(&spec, Seccomp::Unconfined, &mut None)?;
    let signals = (!detached).then(relay::Signals::take).transpose()?;
    let namespaces = Namespaces::named(&spec, Owner::Spec);
    let config = ContainerConfig {
        name: id.to_owned(),
        spec,
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
        process: Plan { process, user: args.get("user").map(str::to_owned), terminal },
        into: Into::Running { init: init.as_fd() },
        doors: &record.cgroup()?.doors()?,
        stdio: super::own_stdio()?,
        keep: cli.kept(&args)?,
        start: None,
        seccomp: filter.as_deref(),
        namespaces: &namespaces,
        told: None,
    })?;
    launched.warnings.iter().for_each(|text| cli.log.warn(text));
    let ready = match (console, launched.terminal.as_ref()) {
        (Some(console), Some(terminal)) => {
            super::hand_over(&console, terminal.as_fd()).map(|()| launched.terminal = None)
        }
        _ => Ok(()),
    };
    let pid = launched.pid.as_raw_nonzero().get();
    let bundle = record.bundle.to_string_lossy();
    let agent = Agent::of(&config.spec, record.told(&config.spec, &bundle), pid);
    let started = ready.and_then(|()| super::write_pid(&args, pid)).and_then(|()| launched.go(&agent));
    if let Err(error) = started {
        launched.abandon();
        return Err(error);
    }
    signals.map_or(Ok(0), |signals| relay::follow(launched, &signals))
}

/// The process asked for: from a file, or the container's own with what the options change.
fn process(args: &Args, spec: &Spec) -> Result<Process> {
    if let Some(path) = args.get("process") {
        return read_json(path.as_ref());
    }
    let mut process = spec.process().clone().unwrap_or_default();
    process.set_args(Some(args.words.iter().skip(1).cloned().collect()));
    process.set_terminal(Some(args.is_set("tty")));
    process.set_oom_score_adj(None);
    if let Some(cwd) = args.get("cwd") {
        process.set_cwd(cwd.into());
    }
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(args.all("env").map(str::to_owned));
    process.set_env(Some(env));
    if args.is_set("no-new-privs") {
        process.set_no_new_privileges(Some(true));
    }
    let groups: Result<Vec<u32>> = args
        .all("additional-gids")
        .map(|gid| gid.parse().map_err(|_| Error::invalid("use the group", gid, "expected a number")))
        .collect();
    let mut user = process.user().clone();
    let groups: Vec<u32> = user.additional_gids().iter().flatten().copied().chain(groups?).collect();
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    add_capabilities(&mut process, args)?;
    Ok(process)
}

fn add_capabilities(process: &mut Process, args: &Args) -> Result<()> {
    let more: Result<HashSet<Capability>> = args
        .all("cap")
        .map(|name| {
            let known = name.strip_prefix("CAP_").unwrap_or(name).parse();
            known.map_err(|_| Error::invalid("use the capability", name, "there is none of this name"))
        })
        .collect();
    let more = more?;
    if more.is_empty() {
        return Ok(());
    }
    let mut sets: LinuxCapabilities = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<HashSet<Capability>>| Some(set.iter().flatten().chain(&more).copied().collect());
    let (bounding, permitted, effective) =
        (with(sets.bounding()), with(sets.permitted()), with(sets.effective()));
    sets.set_bounding(bounding).set_permitted(permitted).set_effective(effective);
    process.set_capabilities(Some(sets));
    Ok(())
}
