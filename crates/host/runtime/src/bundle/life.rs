//! What is asked of a container that exists: `start`, `state`, `kill`, `delete`, `pause`, `resume`, `update`, `list`, `ps`.

use std::{
    fs,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use oci_spec::runtime::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources};

use super::{
    Context as Cli,
    args::{Args, Flag, switch, value},
    record::{Folder, Phase, Record},
};
use crate::{
    error::{Context, Error, ErrorKind, Result},
    launch::{self, Agent, When},
    pod_dir::read_json,
    prepare,
};

fn open(cli: &Cli, command: &str, args: &[String], flags: &[Flag]) -> Result<(Args, Folder, Record)> {
    let args = Args::parse(command, args, flags)?;
    let folder = Folder::of(&cli.root, args.id(command)?)?;
    let record = folder.record()?;
    Ok((args, folder, record))
}

/// `start`.
pub(super) fn start(cli: &Cli, args: &[String]) -> Result<i32> {
    let (_, folder, record) = open(cli, "start", args, &[])?;
    let phase = folder.phase(&record);
    if phase != Phase::Created {
        return Err(Error::state("start", &record.id, format_args!("the container is {}", phase.name())));
    }
    let line: OwnedFd =
        folder.with_socket(|path| UnixStream::connect(path)).step("reach the process of", &record.id)?.into();
    // It can be told only once.
    fs::remove_file(folder.start_socket()).step("remove", folder.start_socket().display())?;
    let spec = folder.spec()?;
    let bundle = record.bundle.to_string_lossy();
    let agent = Agent::of(&spec, record.told(&spec, &bundle), record.pid);
    // Hooks may take their time; each has its own bound.
    launch::go(&line, &agent, None).inspect_err(|_| drop(record.signal(libc::SIGKILL)))?;
    let started = record.told(&spec, &bundle).run(When::Poststart, "running", Some(record.pid));
    if let Err(error) = started {
        remove(cli, &folder, &record)?;
        return Err(error);
    }
    Ok(0)
}

/// `state`.
pub(super) fn state(cli: &Cli, args: &[String]) -> Result<i32> {
    let (_, folder, record) = open(cli, "state", args, &[])?;
    super::print(&describe(&folder, &record)?.to_string())
}

fn describe(folder: &Folder, record: &Record) -> Result<serde_json::Value> {
    let phase = folder.phase(record);
    let spec = folder.spec()?;
    let mut state = serde_json::json!({
        "ociVersion": super::OCI_VERSION,
        "id": record.id,
        "pid": if phase == Phase::Stopped { 0 } else { record.pid },
        "status": phase.name(),
        "bundle": record.bundle,
        "rootfs": spec.root().as_ref().map(|root| root.path().clone()),
        "created": record.created.to_nano(),
        "owner": "",
    });
    if let Some(annotations) = spec.annotations().as_ref().filter(|all| !all.is_empty()) {
        state["annotations"] = serde_json::json!(annotations);
    }
    Ok(state)
}

/// `list`.
pub(super) fn list(cli: &Cli, args: &[String]) -> Result<i32> {
    let args = Args::parse("list", args, &[Flag("format", "f", true), Flag("quiet", "q", false)])?;
    let mut names: Vec<String> = fs::read_dir(&cli.root)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut all = Vec::new();
    for name in names {
        // One that goes meanwhile is no failure.
        let folder = Folder(cli.root.join(name));
        if let Some(state) = folder.record().ok().and_then(|record| describe(&folder, &record).ok()) {
            all.push(state);
        }
    }
    let word = |state: &serde_json::Value, key: &str| match &state[key] {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let lines: Vec<String> = match args.get("format") {
        Some("json") => vec![serde_json::Value::from(all).to_string()],
        None | Some("table") if args.is_set("quiet") => all.iter().map(|state| word(state, "id")).collect(),
        None | Some("table") => std::iter::once("ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER".to_owned())
            .chain(all.iter().map(|state| {
                ["id", "pid", "status", "bundle", "created", "owner"].map(|key| word(state, key)).join("\t")
            }))
            .collect(),
        Some(other) => return Err(Error::invalid("list as", other, "expected 'table' or 'json'")),
    };
    super::print(&lines.join("\n"))
}

/// `kill`.
pub(super) fn kill(cli: &Cli, args: &[String]) -> Result<i32> {
    let (args, folder, record) =
        open(cli, "kill", args, &[Flag("all", "a", false), Flag("signal", "s", true)])?;
    let name = args.get("signal").or(args.words.get(1).map(String::as_str)).unwrap_or("TERM");
    let signal = signal(name)?;
    if args.is_set("all") {
        // Also after the first process has ended: others may be left.
        record.cgroup()?.signal_all(signal);
        return Ok(0);
    }
    record.signal(signal)?;
    if signal == libc::SIGKILL && folder.phase(&record) == Phase::Paused {
        // A frozen process dies only once it thaws.
        record.cgroup()?.freeze(false)?;
    }
    Ok(0)
}

fn signal(name: &str) -> Result<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
        "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == bare) {
        return Ok(index as i32 + 1);
    }
    let real_time = |rest: &str, base: i32| -> Option<i32> {
        if rest.is_empty() { Some(base) } else { rest.parse::<i32>().ok().map(|offset| base + offset) }
    };
    let number = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(rest), _) => real_time(rest, 34),
        (_, Some(rest)) => real_time(rest, 64),
        _ => bare.parse().ok(),
    };
    number
        .filter(|number| (0..=64).contains(number))
        .ok_or_else(|| Error::invalid("send the signal", name, "there is none of this name or number"))
}

/// `delete`.
pub(super) fn delete(cli: &Cli, args: &[String]) -> Result<i32> {
    let parsed = Args::parse("delete", args, &[Flag("force", "f", false)])?;
    let force = parsed.is_set("force");
    let (folder, record) = match open(cli, "delete", args, &[Flag("force", "f", false)]) {
        Ok((_, folder, record)) => (folder, record),
        Err(error) if force && error.kind == ErrorKind::NotFound => {
            return remove_half_made(&Folder::of(&cli.root, parsed.id("delete")?)?).map(|()| 0);
        }
        Err(error) => return Err(error),
    };
    let phase = folder.phase(&record);
    if !force && phase != Phase::Stopped {
        let why = format!("the container is {}: stop it first, or use --force", phase.name());
        return Err(Error::state("delete", &record.id, why));
    }
    remove(cli, &folder, &record).map(|()| 0)
}

/// Removes what a killed `create` has left: its process is in the cgroup, if it has one.
fn remove_half_made(folder: &Folder) -> Result<()> {
    if let Ok(spec) = folder.spec() {
        prepare::cgroup(&spec)?.remove()?;
    }
    match fs::remove_dir_all(&folder.0) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).step("remove", folder.0.display())
        }
        _ => Ok(()),
    }
}

/// Ends what is left of a container and removes it. Its last hooks run whatever happens to each.
pub(super) fn remove(cli: &Cli, folder: &Folder, record: &Record) -> Result<()> {
    record.end()?;
    record.cgroup()?.remove()?;
    let spec = folder.spec();
    fs::remove_dir_all(&folder.0).step("remove", folder.0.display())?;
    let spec = spec?;
    let bundle = record.bundle.to_string_lossy();
    for error in record.told(&spec, &bundle).run_all(When::Poststop, "stopped", None) {
        cli.log.warn(&error.to_string());
    }
    Ok(())
}

/// `pause`, or `resume`.
pub(super) fn freeze(cli: &Cli, args: &[String], frozen: bool) -> Result<i32> {
    let command = if frozen { "pause" } else { "resume" };
    let (_, folder, record) = open(cli, command, args, &[])?;
    let phase = folder.phase(&record);
    let fits = if frozen { matches!(phase, Phase::Running | Phase::Created) } else { phase == Phase::Paused };
    if !fits {
        return Err(Error::state(command, &record.id, format_args!("the container is {}", phase.name())));
    }
    record.cgroup()?.freeze(frozen).map(|()| 0)
}

/// `ps`.
pub(super) fn ps(cli: &Cli, args: &[String]) -> Result<i32> {
    let (args, _, record) = open(cli, "ps", args, &[Flag("format", "f", true)])?;
    let pids = record.cgroup()?.processes();
    let text = match args.get("format") {
        Some("json") => serde_json::Value::from(pids).to_string(),
        None | Some("table") => {
            let lines = pids.iter().map(|pid| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!("{pid}\t{}", name.trim())
            });
            std::iter::once("PID\tCMD".to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
        }
        Some(other) => return Err(Error::invalid("list as", other, "expected 'table' or 'json'")),
    };
    super::print(&text)
}

const LIMITS: [Flag; 12] = [
    Flag("resources", "r", true),
    value("memory"),
    value("memory-swap"),
    value("memory-reservation"),
    value("cpu-shares"),
    value("cpu-quota"),
    value("cpu-period"),
    value("cpu-burst"),
    value("cpuset-cpus"),
    value("cpuset-mems"),
    value("pids-limit"),
    switch("help"),
];

/// `update`.
pub(super) fn update(cli: &Cli, args: &[String]) -> Result<i32> {
    let (args, _, record) = open(cli, "update", args, &LIMITS)?;
    let resources = match args.get("resources") {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().take(1 << 20).read_to_string(&mut text).step("read", "standard input")?;
            serde_json::from_str(&text).map_err(|error| Error::invalid("read", "the resources", error))?
        }
        Some(path) => read_json(path.as_ref())?,
        None => limits(&args)?,
    };
    record.cgroup()?.update(&resources).map(|()| 0)
}

fn limits(args: &Args) -> Result<LinuxResources> {
    let bad = |error| Error::invalid("change", "the limits", error);
    let mut resources = LinuxResources::default();
    let mut memory = LinuxMemoryBuilder::default().build().map_err(bad)?;
    memory.set_limit(args.number("memory")?);
    memory.set_swap(args.number("memory-swap")?);
    memory.set_reservation(args.number("memory-reservation")?);
    resources.set_memory(Some(memory));
    let mut cpu = LinuxCpuBuilder::default().build().map_err(bad)?;
    cpu.set_shares(args.number("cpu-shares")?);
    cpu.set_quota(args.number("cpu-quota")?);
    cpu.set_period(args.number("cpu-period")?);
    cpu.set_burst(args.number("cpu-burst")?);
    cpu.set_cpus(args.get("cpuset-cpus").map(str::to_owned));
    cpu.set_mems(args.get("cpuset-mems").map(str::to_owned));
    resources.set_cpu(Some(cpu));
    if let Some(limit) = args.number::<i64>("pids-limit")? {
        resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build().map_err(bad)?));
    }
    Ok(resources)
}

/// Writes a line to standard output.
pub(super) fn write_line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").step("write to", "standard output")
}
