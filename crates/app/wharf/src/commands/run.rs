//! `wharf run`: a pod of one container, and the terminal joined to it.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::bail;
use wharf_base::{Hinted, Quantity};
use wharf_engine::{
    Engine, ErrorKind, InputMode, MAIN, MountPoint, MountSource, Publish, Record, Resources, Restart, Spec,
    networks,
};
use wharf_runtime::{Phase, Sandbox, SignalTo, Size};

use super::{
    Globals, completion,
    containers::{
        self, Relay, Remote, Terminal, complain, hinted, is_terminal, refuse_flag, relay_end, tidy,
    },
    ended,
};

/// Docker's code for "the engine, not the program, failed".
pub(super) const ENGINE_FAILED: u8 = 125;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Remove the container when it exits
    #[arg(long)]
    rm: bool,
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// Name of the container
    #[arg(long)]
    name: Option<String>,
    /// Publish a port: [ADDRESS:]HOST:CONTAINER[/udp]
    #[arg(short, long, value_name = "H:C")]
    publish: Vec<Publish>,
    /// Mount a folder or file of this machine, or a volume: HOST:CONTAINER[:ro]; CONTAINER alone for data of its own
    #[arg(short, long, value_name = "H:C[:ro]")]
    volume: Vec<String>,
    /// Set an environment variable: KEY=VALUE, or KEY to pass this one's on
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Memory limit, such as 512m or 1g
    #[arg(short, long)]
    memory: Option<String>,
    /// CPU limit in processors, such as 1.5
    #[arg(long)]
    cpus: Option<f64>,
    /// Limit of processes and threads
    #[arg(long, value_name = "N")]
    pids_limit: Option<i64>,
    /// Folder the program starts in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group by name or number: USER[:GROUP]
    #[arg(short, long)]
    user: Option<String>,
    /// Program to run instead of the image's own
    #[arg(long)]
    entrypoint: Option<String>,
    /// Host name in the container
    #[arg(long)]
    hostname: Option<String>,
    /// Network of the container: bridge, host, none, or one made for it
    #[arg(long, default_value = "bridge")]
    network: String,
    /// Put a process before the program that passes signals on and takes the exit status of orphans
    #[arg(long)]
    init: bool,
    /// What happens at its end: no, always, unless-stopped, on-failure[:N]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Mount memory: DIR[:OPTIONS]
    #[arg(long, value_name = "DIR")]
    tmpfs: Vec<String>,
    /// Mount the root file system read-only
    #[arg(long)]
    read_only: bool,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// All capabilities, all devices, no system call filter
    #[arg(long)]
    privileged: bool,
    /// Security options: no-new-privileges, seccomp=unconfined
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Set a label: KEY=VALUE
    #[arg(short, long, value_name = "K=V")]
    label: Vec<String>,
    /// Run in this folder instead of an image
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// The image (without --rootfs), then the command and its arguments
    #[arg(
        trailing_var_arg = true, allow_hyphen_values = true, value_name = "IMAGE [CMD",
        add = completion::image_first()
    )]
    words: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        Ok(self.run_container(globals).unwrap_or_else(|error| {
            complain(&error);
            ExitCode::from(code_of(&error))
        }))
    }

    fn run_container(&self, globals: &Globals) -> anyhow::Result<ExitCode> {
        self.check()?;
        let engine = containers::open(globals)?;
        let (record, image) = engine.create(self.spec()?, self.name.as_deref(), None).map_err(hinted)?;
        if image.healthcheck.is_some() && !containers::platform_runs(&engine) {
            let name = &image.name;
            eprintln!(
                "warning: the HEALTHCHECK of the image {name} is not run: 'wharf up' runs it, and is not there"
            );
        }
        if record.spec.restart != Restart::No && !containers::platform_runs(&engine) {
            eprintln!("warning: the container is not restarted: 'wharf up' does that, and is not there");
        }
        let started = engine.start(&record, Some(image), Terminal::size(), |sandbox| self.join(sandbox));
        let started = match started {
            Ok(started) => started,
            Err(error) => {
                engine.forget(&record.id, &record.name).map_err(hinted)?;
                tidy(&engine);
                return Err(hinted(error));
            }
        };
        for warning in &started.warnings {
            eprintln!("warning: {warning}");
        }
        match started.joined {
            Some(joined) => self.follow(&engine, &record, &*started.sandbox, joined),
            None => {
                println!("{}", record.id);
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    /// Joins the terminal, unless the container is on its own.
    fn join(&self, sandbox: &dyn Sandbox) -> wharf_engine::Result<Option<(Relay, wharf_runtime::Ending)>> {
        if self.detach {
            return Ok(None);
        }
        let host = |error: anyhow::Error| wharf_engine::Error::host(error.to_string());
        let mut relay = Relay::new().map_err(host)?;
        let mut streams = sandbox.attach(MAIN)?;
        if !self.interactive {
            streams[0] = None;
        }
        relay.join(streams, self.tty).map_err(host)?;
        Ok(Some((relay, sandbox.watch(MAIN)?)))
    }

    fn follow(
        &self,
        engine: &Engine,
        record: &Record,
        sandbox: &dyn Sandbox,
        (mut relay, mut ending): (Relay, wharf_runtime::Ending),
    ) -> anyhow::Result<ExitCode> {
        let raw = if self.tty { Some(Terminal::raw()?) } else { None };
        let outcome = relay.run(&Program(sandbox), &mut ending);
        drop(raw);
        let code = relay_end(outcome?);
        if self.rm && sandbox.status(MAIN).is_ok_and(|status| status.phase == Phase::Exited) {
            sandbox.shutdown()?;
            engine.forget(&record.id, &record.name).map_err(hinted)?;
        }
        if !matches!(self.network.as_str(), networks::HOST | networks::NONE) {
            ended::start(engine, record);
        }
        Ok(code)
    }

    /// Says what is not available, before anything is made.
    fn check(&self) -> anyhow::Result<()> {
        if self.rm && self.restart.as_deref().is_some_and(|policy| policy != "no") {
            let hint = "leave one of them out";
            return Err(Hinted::new("--rm and --restart cannot be used together", hint).into());
        }
        refuse_flag::<Self>("run", &self.words)?;
        if matches!(self.network.as_str(), networks::HOST | networks::NONE) && !self.publish.is_empty() {
            let error = format!("ports (-p) cannot be published with --network {}", self.network);
            return Err(Hinted::new(error, "leave --network out, or -p").into());
        }
        if let Some(setting) = self.env.iter().find(|setting| setting.is_empty() || setting.starts_with('='))
        {
            let hint = "write -e NAME=VALUE, or -e NAME to pass this machine's value on";
            return Err(Hinted::new(format!("-e {setting}: the variable has no name"), hint).into());
        }
        self.memory.as_deref().map(bytes).transpose()?;
        if self.tty && !self.detach && !is_terminal() {
            bail!("the input device is not a terminal: leave -t out");
        }
        Ok(())
    }

    /// The container as the engine knows it.
    fn mounts(&self) -> anyhow::Result<Vec<MountPoint>> {
        let named = self.volume.iter().filter(|volume| !is_place(volume));
        let mut mounts: Vec<MountPoint> =
            named.map(|volume| volume_mount(volume)).collect::<Result<_, _>>()?;
        for text in &self.tmpfs {
            let (target, options) = text.split_once(':').unwrap_or((text, ""));
            if !target.starts_with('/') {
                let hint = "write an absolute path: --tmpfs /tmp:size=64m";
                return Err(
                    Hinted::new(format!("--tmpfs {text}: '{target}' is no absolute path"), hint).into()
                );
            }
            let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
            mounts.push(MountPoint { source: MountSource::Tmpfs, target: target.to_owned(), options });
        }
        Ok(mounts)
    }

    fn spec(&self) -> anyhow::Result<Spec> {
        let (image, command) = match (&self.rootfs, self.words.split_first()) {
            (Some(_), _) => (String::new(), self.words.clone()),
            (None, Some((image, command))) => (image.clone(), command.to_vec()),
            (None, None) => {
                let hint = "write 'wharf run [OPTIONS] IMAGE [COMMAND]'";
                return Err(Hinted::new("no image is named", hint).into());
            }
        };
        let mut spec = Spec {
            image,
            rootfs: self.rootfs.clone(),
            command,
            entrypoint: self.entrypoint.as_ref().map(|program| match program.is_empty() {
                true => Vec::new(),
                false => vec![program.clone()],
            }),
            env: self.env.iter().filter_map(|setting| passed_on(setting)).collect(),
            workdir: self.workdir.clone(),
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            init: self.init,
            restart: self.restart.as_deref().map(restart).transpose()?.unwrap_or_default(),
            tty: self.tty,
            stdin: match (self.interactive, self.detach) {
                (false, _) => InputMode::Null,
                (true, true) => InputMode::Open,
                (true, false) => InputMode::Once,
            },
            labels: labels(&self.label),
            network: self.network.clone(),
            publish: self.publish.clone(),
            mounts: self.mounts()?,
            volumes: self.volume.iter().filter(|volume| is_place(volume)).cloned().collect(),
            resources: self.resources()?,
            read_only: self.read_only,
            privileged: self.privileged,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            auto_remove: self.rm,
            ..Spec::default()
        };
        for option in &self.security_opt {
            match option.as_str() {
                "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true" => {
                    spec.no_new_privileges = true
                }
                "seccomp=unconfined" | "seccomp:unconfined" => spec.seccomp_unconfined = true,
                other => {
                    let hint = "supported are no-new-privileges and seccomp=unconfined";
                    let error = format!("the security option '{other}' is not supported");
                    return Err(Hinted::new(error, hint).into());
                }
            }
        }
        Ok(spec)
    }

    fn resources(&self) -> anyhow::Result<Resources> {
        let mut resources = Resources {
            memory: self.memory.as_deref().map(bytes).transpose()?,
            pids: self.pids_limit,
            ..Resources::default()
        };
        if let Some(cpus) = self.cpus {
            check_cpus(cpus)?;
            (resources.cpu_quota, resources.cpu_period) = (Some((cpus * 100_000.0) as i64), Some(100_000));
        }
        Ok(resources)
    }
}

/// Docker's exit code for an error: the program is not there, cannot run, or the engine failed.
fn code_of(error: &anyhow::Error) -> u8 {
    let own = error.downcast_ref::<wharf_engine::Error>();
    let own = own.or_else(|| error.downcast_ref::<Hinted>()?.inner().downcast_ref());
    match own.map(|error| error.kind) {
        Some(ErrorKind::NoProgram) => 127,
        Some(ErrorKind::NotExecutable) => 126,
        _ => ENGINE_FAILED,
    }
}

/// `--restart`, as docker writes it.
fn restart(text: &str) -> anyhow::Result<Restart> {
    let bad = || {
        let hint = "known are no, always, unless-stopped, on-failure and on-failure:N";
        Hinted::new(format!("--restart {text}: there is no such policy"), hint)
    };
    Ok(match text.split_once(':') {
        None if text == "no" => Restart::No,
        None if text == "always" => Restart::Always,
        None if text == "unless-stopped" => Restart::UnlessStopped,
        None if text == "on-failure" => Restart::OnFailure(0),
        Some(("on-failure", most)) => Restart::OnFailure(most.parse().map_err(|_| bad())?),
        _ => return Err(bad().into()),
    })
}

/// `-e NAME=VALUE`, or `-e NAME` with this machine's value, if it has one.
fn passed_on(setting: &str) -> Option<String> {
    match setting.contains('=') {
        true => Some(setting.to_owned()),
        false => std::env::var(setting).ok().map(|value| format!("{setting}={value}")),
    }
}

/// Bytes with docker's suffixes (`k`, `m`, `g`, powers of 1024) or Kubernetes' (`Mi`, `Gi`).
fn bytes(text: &str) -> anyhow::Result<i64> {
    let bad = |why: &str| Hinted::new(format!("-m {text}: {why}"), "write a size such as 512m, 1g or 512Mi");
    let unreadable = || bad("this is no memory size");
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_suffix('b').unwrap_or(&lower);
    let docker = match plain.as_bytes().last() {
        Some(b'k' | b'm' | b'g' | b't') => {
            let (number, unit) = plain.split_at(plain.len() - 1);
            Quantity::from_bytes(0).plus(
                format!("{number}{}i", if unit == "k" { "K".into() } else { unit.to_uppercase() })
                    .parse()
                    .map_err(|_| unreadable())?,
            )
        }
        _ => text.trim_end_matches(['b', 'B']).parse().map_err(|_| unreadable())?,
    };
    match docker.units() {
        found @ 6_291_456.. => Ok(found),
        _ => Err(bad("the least possible is 6 MiB").into()),
    }
}

fn labels(given: &[String]) -> BTreeMap<String, String> {
    given
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// Whether `-v` names only a place in the container, for data of its own.
fn is_place(volume: &str) -> bool {
    volume.starts_with('/') && !volume.contains(':')
}

fn volume_mount(volume: &str) -> Result<MountPoint, Hinted> {
    let bad = |why: &str| {
        Hinted::new(
            format!("-v {volume}: {why}"),
            "write HOST:CONTAINER or VOLUME:CONTAINER, with :ro behind it for reading only",
        )
    };
    let mut parts = volume.split(':');
    let (Some(source), Some(inside), options, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("it needs a path or volume of this machine and a path in the container"));
    };
    if !inside.starts_with('/') {
        return Err(bad("the path in the container must be absolute"));
    }
    let options: Vec<&str> = options.into_iter().flat_map(|options| options.split(',')).collect();
    let known = ["ro", "rw", "rslave", "rshared", "rprivate", "z", "Z", "nocopy"];
    if let Some(unknown) = options.iter().find(|option| !known.contains(option)) {
        return Err(bad(&format!("unknown option '{unknown}'")));
    }
    let source = match source {
        path if path.starts_with('/') => MountSource::Path { path: path.into(), make: true },
        path if path.starts_with('.') || path.contains('/') => {
            return Err(bad("relative paths are not available: write the absolute path"));
        }
        "" => return Err(bad("the volume has no name")),
        name => MountSource::Volume(name.to_owned()),
    };
    // SELinux labels mean nothing here.
    let options = options.into_iter().filter(|option| !matches!(*option, "z" | "Z")).map(str::to_owned);
    Ok(MountPoint { source, target: inside.to_owned(), options: options.collect() })
}

/// The container's program as the relay sees it.
pub(crate) struct Program<'a>(pub(crate) &'a dyn Sandbox);

impl Remote for Program<'_> {
    fn signal(&self, signal: i32) {
        // It may have ended meanwhile.
        let _ = self.0.kill(MAIN, signal, SignalTo::First);
    }

    fn resize(&self, size: Size) {
        let _ = self.0.resize(MAIN, size);
    }
}

/// A share of processors the kernel can keep to.
fn check_cpus(cpus: f64) -> Result<(), Hinted> {
    let hint = "write how many processors it may use, such as 0.5 or 2, or leave it out for all";
    match (0.01..=4096.0).contains(&cpus) {
        true => Ok(()),
        false => Err(Hinted::new(format!("--cpus {cpus} is not between 0.01 and 4096"), hint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_some_of_those_there_are() {
        assert!(check_cpus(0.5).is_ok());
        for cpus in [-1.0, 0.0, f64::NAN, 1e6] {
            assert!(check_cpus(cpus).unwrap_err().hint().contains("such as 0.5 or 2"), "{cpus}");
        }
    }

    #[test]
    fn memory_is_read_as_dockers() {
        for (text, expected) in [
            ("64m", Some(64 << 20)),
            ("1g", Some(1 << 30)),
            ("1.5G", Some(3 << 29)),
            ("512MB", Some(512 << 20)),
            ("16777216", Some(16 << 20)),
            ("16Mi", Some(16 << 20)),
            ("1m", None),
            ("lots", None),
            ("", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn volumes_are_a_place_here_and_one_there() {
        assert!(volume_mount("/tmp:/data:ro").is_ok() && volume_mount("data:/data").is_ok());
        for bad in ["/tmp", "./data:/data", ":/data", "/tmp:data", "/tmp:/data:rx", "/tmp:/data:ro:x"] {
            assert!(volume_mount(bad).is_err(), "{bad}");
        }
    }
}
