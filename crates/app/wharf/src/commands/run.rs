//! `wharf run`: a pod of one container, and the terminal joined to it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use wharf_base::{ContainerId, Hinted, Quantity};
use wharf_runtime::{
    ContainerConfig, Error, ErrorKind, LogConfig, Network, Phase, RootFs, Runtime, Sandbox, SandboxConfig,
    Seccomp, Share, SignalTo, Size, SpecOptions, Stdin, WhenIdle,
    oci::{LinuxCpuBuilder, LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, Mount},
};

use super::{
    Globals,
    containers::{
        Containers, GROUP, IMAGE, Image, MAIN, NAME, NETWORK, PORTS, Relay, Remote, STOP_SIGNAL, Terminal,
        bridge, complain, from_directory, from_store, is_terminal, log_of, refuse_flag, relay_end,
    },
    cp, ended,
};

/// Names every container knows.
const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// Docker's code for "the engine, not the program, failed".
const ENGINE_FAILED: u8 = 125;

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
    publish: Vec<bridge::Publish>,
    /// Mount a folder or file of this machine: HOST:CONTAINER[:ro]
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
    /// Network of the container: bridge, host, none
    #[arg(long, default_value = "bridge")]
    network: String,
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
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "IMAGE [CMD")]
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
        let containers = Containers::open(globals)?;
        let id = ContainerId::random();
        let name = match containers.reserve(&id, self.name.as_deref()) {
            Ok(name) => name,
            Err(error) => {
                containers.forget(&id, "")?;
                return Err(error);
            }
        };
        // The folder is there first: a lease without one is nobody's.
        let (image, command) = match self.image(globals, &id) {
            Ok(found) => found,
            Err(error) => {
                containers.forget(&id, &name)?;
                return Err(error);
            }
        };
        let (folder, data) = (containers.folder(&id), globals.data_dir()?);
        let new = New { args: self, id: &id, name: &name, image: &image, command, folder, data };
        let started = new.start(&containers);
        if started.is_err() {
            containers.forget(&id, &name)?;
            containers.tidy();
        }
        let (sandbox, attached) = started?;
        let Some((mut relay, mut ending)) = attached else {
            println!("{id}");
            return Ok(ExitCode::SUCCESS);
        };
        let raw = if self.tty { Some(Terminal::raw()?) } else { None };
        let outcome = relay.run(&Program(&*sandbox), &mut ending);
        drop(raw);
        let code = relay_end(outcome?);
        if self.rm && sandbox.status(MAIN).is_ok_and(|status| status.phase == Phase::Exited) {
            sandbox.shutdown()?;
            containers.forget(&id, &name)?;
        }
        if self.network == "bridge" {
            ended::start(&globals.data_dir()?, &id, &name);
        }
        Ok(code)
    }

    /// Says what is not available, before anything is made.
    fn check(&self) -> anyhow::Result<()> {
        refuse_flag::<Self>("run", &self.words)?;
        bridge::check(&self.network, &self.publish)?;
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

    fn image(&self, globals: &Globals, id: &ContainerId) -> anyhow::Result<(Image, Vec<String>)> {
        if let Some(folder) = &self.rootfs {
            return Ok((from_directory(folder)?, self.words.clone()));
        }
        let Some((name, command)) = self.words.split_first() else {
            return Err(
                Hinted::new("no image is named", "write 'wharf run [OPTIONS] IMAGE [COMMAND]'").into()
            );
        };
        Ok((from_store(&globals.data_dir()?, name, id)?, command.to_vec()))
    }

    fn resources(&self) -> anyhow::Result<LinuxResources> {
        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        if let Some(text) = &self.memory {
            resources.set_memory(Some(LinuxMemoryBuilder::default().limit(bytes(text)?).build()?));
        }
        if let Some(cpus) = self.cpus {
            if !(0.01..=4096.0).contains(&cpus) {
                bail!("--cpus {cpus} is not between 0.01 and 4096");
            }
            resources.set_cpu(Some(
                LinuxCpuBuilder::default().quota((cpus * 100_000.0) as i64).period(100_000u64).build()?,
            ));
        }
        if let Some(limit) = self.pids_limit {
            resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build()?));
        }
        Ok(resources)
    }
}

/// Docker's exit code for an error: the program is not there, cannot run, or the engine failed.
fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>().map(|error| error.kind) {
        Some(ErrorKind::NoProgram) => 127,
        Some(ErrorKind::NotExecutable) => 126,
        _ => ENGINE_FAILED,
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

/// A container about to be made.
struct New<'a> {
    args: &'a Args,
    id: &'a ContainerId,
    name: &'a str,
    image: &'a Image,
    command: Vec<String>,
    folder: PathBuf,
    data: PathBuf,
}

type Started = (Box<dyn Sandbox>, Option<(Relay, wharf_runtime::Ending)>);

impl New<'_> {
    /// Makes the container, joins the terminal where asked, and starts it. Leaves nothing running behind on failure.
    fn start(&self, containers: &Containers) -> anyhow::Result<Started> {
        let config = self.container()?;
        if self.image.has_healthcheck {
            let name = &self.image.name;
            eprintln!("warning: the HEALTHCHECK of the image {name} is not run: wharf run checks no health");
        }
        let mut relay = if self.args.detach { None } else { Some(Relay::new()?) };
        let sandbox = containers.runtime.create(&self.folder, &self.sandbox())?;
        let joined = (|| {
            self.connect(&*sandbox)?;
            let status = sandbox.create_container(&config)?;
            for warning in &status.warnings {
                eprintln!("warning: {warning}");
            }
            let ending = match &mut relay {
                Some(relay) => {
                    let mut streams = sandbox.attach(MAIN)?;
                    if !self.args.interactive {
                        streams[0] = None;
                    }
                    relay.join(streams, self.args.tty)?;
                    Some(sandbox.watch(MAIN)?)
                }
                None => None,
            };
            sandbox.start(MAIN)?;
            anyhow::Ok(ending)
        })();
        match joined {
            Ok(ending) => Ok((sandbox, relay.zip(ending))),
            Err(error) => {
                sandbox.shutdown()?;
                Err(error)
            }
        }
    }

    /// Joins the bridge network, and tells the container its address.
    fn connect(&self, sandbox: &dyn Sandbox) -> anyhow::Result<()> {
        if self.args.network != "bridge" {
            return Ok(());
        }
        let namespace = sandbox.network_namespace();
        let address = bridge::attach(&self.data, self.id, &namespace, &self.args.publish)?;
        let hosts = self.folder.join("etc/hosts");
        let text = format!("{LOCAL_HOSTS}{address}\t{}\n", self.hostname());
        fs::write(&hosts, text).with_context(|| format!("cannot write {}", hosts.display()))
    }

    fn sandbox(&self) -> SandboxConfig {
        let host = self.args.network == "host";
        let mut labels = BTreeMap::from([
            (NAME.to_owned(), self.name.to_owned()),
            (IMAGE.to_owned(), self.image.name.clone()),
            (NETWORK.to_owned(), self.args.network.clone()),
        ]);
        if !self.args.publish.is_empty() {
            let ports: Vec<String> = self.args.publish.iter().map(ToString::to_string).collect();
            labels.insert(PORTS.to_owned(), ports.join(" "));
        }
        labels.extend(self.image.stop_signal.clone().map(|signal| (STOP_SIGNAL.to_owned(), signal)));
        SandboxConfig {
            id: self.id.to_string(),
            hostname: (!host || self.args.hostname.is_some()).then(|| self.hostname()),
            network: if host { Network::Host } else { Network::New },
            ipc: Share::Own,
            uts: if host && self.args.hostname.is_none() { Share::Host } else { Share::Own },
            cgroup: None,
            sysctls: BTreeMap::new(),
            when_idle: if self.args.rm { WhenIdle::Remove } else { WhenIdle::Exit },
            // Who waits for its end takes back what it had.
            at_end: if self.args.detach {
                ended::command(&self.data, self.id, self.name, self.args.network == "bridge")
            } else {
                Vec::new()
            },
            labels,
        }
    }

    fn hostname(&self) -> String {
        self.args.hostname.clone().unwrap_or_else(|| self.id.short().to_owned())
    }

    fn container(&self) -> anyhow::Result<ContainerConfig> {
        let args = self.args;
        let mut no_new_privileges = false;
        let mut seccomp = if args.privileged { Seccomp::Unconfined } else { Seccomp::Default };
        for option in &args.security_opt {
            match option.as_str() {
                "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true" => {
                    no_new_privileges = true
                }
                "seccomp=unconfined" | "seccomp:unconfined" => seccomp = Seccomp::Unconfined,
                other => {
                    let hint = "supported are no-new-privileges and seccomp=unconfined";
                    return Err(
                        Hinted::new(format!("the security option '{other}' is not supported"), hint).into()
                    );
                }
            }
        }
        let spec = SpecOptions {
            args: self.program()?,
            env: self.environment(),
            cwd: args.workdir.clone().unwrap_or_else(|| self.image.workdir.clone()),
            terminal: args.tty,
            readonly_root: args.read_only,
            privileged: args.privileged,
            add_capabilities: args.cap_add.clone(),
            drop_capabilities: args.cap_drop.clone(),
            no_new_privileges,
            mounts: self.mounts()?,
            cgroup: format!("{GROUP}/{}", self.id),
            resources: args.resources()?,
            ..SpecOptions::default()
        };
        let mut spec = spec.build()?;
        if let (Some(process), Some(size)) = (spec.process_mut(), Terminal::size().filter(|_| args.tty)) {
            let size =
                wharf_runtime::oci::BoxBuilder::default().height(size.rows).width(size.columns).build()?;
            process.set_console_size(Some(size));
        }
        Ok(ContainerConfig {
            name: MAIN.to_owned(),
            spec,
            root: RootFs { lower: self.image.lower_dirs.clone(), volatile: args.rm },
            user: args.user.clone().or_else(|| Some(self.image.user.clone())),
            seccomp,
            stdin: match (args.interactive, args.detach) {
                (false, _) => Stdin::Null,
                (true, true) => Stdin::Open,
                (true, false) => Stdin::Once,
            },
            log: Some(LogConfig::new(log_of(&self.folder))),
            labels: labels(&args.label),
        })
    }

    fn program(&self) -> anyhow::Result<Vec<String>> {
        let (entrypoint, mut default) = match &self.args.entrypoint {
            Some(program) if program.is_empty() => (Vec::new(), Vec::new()),
            Some(program) => (vec![program.clone()], Vec::new()),
            None => (self.image.entrypoint.clone(), self.image.cmd.clone()),
        };
        if !self.command.is_empty() {
            default = self.command.clone();
        }
        let program = [entrypoint, default].concat();
        if program.is_empty() {
            let error = format!("the image {} names no program", self.image.name);
            return Err(Hinted::new(error, "write the command after the image").into());
        }
        Ok(program)
    }

    fn environment(&self) -> Vec<String> {
        let mut all = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        all.push(format!("HOSTNAME={}", self.hostname()));
        all.extend(self.args.tty.then(|| "TERM=xterm".to_owned()));
        all.extend(self.image.env.iter().cloned());
        all.extend(self.args.env.iter().filter_map(|setting| match setting.contains('=') {
            true => Some(setting.clone()),
            false => std::env::var(setting).ok().map(|value| format!("{setting}={value}")),
        }));
        unique(all)
    }

    /// The files that tell the container its own name, then the volumes.
    fn mounts(&self) -> anyhow::Result<Vec<Mount>> {
        let etc = self.folder.join("etc");
        fs::create_dir_all(&etc).with_context(|| format!("cannot make {}", etc.display()))?;
        let hostname = self.hostname();
        let host = self.args.network == "host";
        let of_machine = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let hosts =
            if host { of_machine("/etc/hosts") } else { format!("{LOCAL_HOSTS}127.0.1.1\t{hostname}\n") };
        let resolver = match self.args.network.as_str() {
            "host" => of_machine("/etc/resolv.conf"),
            "bridge" => bridge::resolver(&of_machine("/etc/resolv.conf")),
            _ => String::new(),
        };
        let mut mounts = Vec::new();
        for (name, text) in
            [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", resolver)]
        {
            let file = etc.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            mounts.push(bind(&file, &format!("/etc/{name}"), &[])?);
        }
        mounts.extend(self.image_volumes()?);
        for volume in &self.args.volume {
            mounts.push(volume_mount(volume)?);
        }
        Ok(mounts)
    }

    /// A folder of the container's own for every place its image declares as data, filled with what the image has there.
    fn image_volumes(&self) -> anyhow::Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        for (index, place) in self.image.volumes.iter().enumerate() {
            let given = |volume: &String| volume.split(':').nth(1).map(Path::new) == Some(Path::new(place));
            if self.args.volume.iter().any(given) {
                continue;
            }
            let folder = self.folder.join("volumes").join(index.to_string());
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            cp::fill(&folder, &self.image.lower_dirs, place)
                .with_context(|| format!("cannot fill the volume {place}"))?;
            mounts.push(bind(&folder, place, &[])?);
        }
        Ok(mounts)
    }
}

/// Settings with each name once: the place of the first, the value of the last.
fn unique(all: Vec<String>) -> Vec<String> {
    let name = |setting: &str| setting.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::new();
    for setting in all {
        match env.iter_mut().find(|known| name(known) == name(&setting)) {
            Some(known) => *known = setting,
            None => env.push(setting),
        }
    }
    env
}

fn labels(given: &[String]) -> BTreeMap<String, String> {
    given
        .iter()
        .map(|label| label.split_once('=').unwrap_or((label, "")))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> anyhow::Result<Mount> {
    let options = [&["rbind", "rprivate"], options].concat();
    Ok(wharf_runtime::mount(destination, "bind", &source.to_string_lossy(), &options)?)
}

fn volume_mount(volume: &str) -> anyhow::Result<Mount> {
    let bad = |why: &str| {
        Hinted::new(
            format!("-v {volume}: {why}"),
            "write HOST:CONTAINER or HOST:CONTAINER:ro, both absolute paths",
        )
    };
    let mut parts = volume.split(':');
    let (Some(host), Some(inside), options, None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("it needs a path on this machine and one in the container").into());
    };
    if !host.starts_with('/') {
        return Err(bad("named volumes and relative paths are not available yet").into());
    }
    if !inside.starts_with('/') {
        return Err(bad("the path in the container must be absolute").into());
    }
    let options: Vec<&str> = options.into_iter().flat_map(|options| options.split(',')).collect();
    if let Some(unknown) = options
        .iter()
        .find(|option| !["ro", "rw", "rslave", "rshared", "rprivate", "z", "Z"].contains(option))
    {
        return Err(bad(&format!("unknown option '{unknown}'")).into());
    }
    // SELinux labels mean nothing here.
    let options: Vec<&str> = options.into_iter().filter(|option| !matches!(*option, "z" | "Z")).collect();
    if !Path::new(host).exists() {
        fs::create_dir_all(host).with_context(|| format!("cannot make the folder {host}"))?;
    }
    bind(Path::new(host), inside, &options)
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_last_of_equal_names_counts() {
        let all = ["PATH=/a", "X=1", "PATH=/b=c", "Y", "X="].map(str::to_owned).to_vec();
        assert_eq!(unique(all), ["PATH=/b=c", "X=", "Y"]);
    }

    #[test]
    fn volumes_are_two_absolute_paths() {
        assert!(volume_mount("/tmp:/data:ro").is_ok());
        for bad in ["/tmp", "data:/data", "/tmp:data", "/tmp:/data:rx", "/tmp:/data:ro:x"] {
            assert!(volume_mount(bad).is_err(), "{bad}");
        }
    }
}
