//! Commands of people who are not root: they go on in namespaces of the person's own, which a process in the background holds.

mod outside;

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use wharf_base::HintExt as _;
use wharf_network::{InsideSockets, OutsideRelay, inside_sockets};
use wharf_runtime::rootless::{self, Hold};

use outside::Outside;

/// Hidden from people.
pub(crate) const NAME: &str = "rootless-holder";
/// How often the holder looks whether anything is left to hold namespaces for.
const LOOKS: Duration = Duration::from_secs(10);
const SOCKET: &str = "ports.sock";
/// Between two ways out, of which the first has ended.
const PAUSE: Duration = Duration::from_secs(1);
const RESOLVER: &str = "/etc/resolv.conf";

#[derive(clap::Args)]
pub(crate) struct Args {
    folder: PathBuf,
    /// Which of the processes in the background it is.
    #[arg(long, value_enum, default_value_t)]
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Part {
    /// Begins the holder, and another in the place of one that is killed. It stays outside of the namespaces.
    #[default]
    Guard,
    /// Holds namespaces for whoever began the guard.
    First,
    /// Holds those of one that was killed.
    Next,
}

/// Has this process, which must have one thread, go on as root of the person's own namespaces, unless it is root already.
pub(crate) fn enter() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let folder = rootless::folder()?;
    let entered = rootless::enter(&folder, Command::new("/proc/self/exe").arg(NAME).arg(&folder));
    let warnings = entered.hint(|| {
        "people who are not root need user namespaces (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); or run it with sudo"
            .to_owned()
    })?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    // The program once more: as it is, its file is one of mounts it has left.
    let program = fs::read_link("/proc/self/exe").context("cannot find the own program")?;
    let mut words = std::env::args_os();
    let mut again = Command::new(program);
    again.arg0(words.next().unwrap_or_default()).args(words).env(rootless::FOLDER, folder);
    Err(again.exec()).context("cannot go on in your namespaces")
}

/// Whether the person is root of this machine.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root() && std::env::var_os(rootless::FOLDER).is_none()
}

/// Where the relay listens that has the machine's ports, in namespaces of somebody who is not root.
pub(crate) fn relay() -> Option<PathBuf> {
    // Somebody else's namespaces may have a network the machine routes to.
    let folder = std::env::var_os(rootless::FOLDER).filter(|_| wharf_runtime::in_user_namespace())?;
    // One that is gone is told to who publishes.
    Some(Path::new(&folder).join(SOCKET))
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.part {
            Part::Guard => self.guard(),
            Part::First => self.hold(Hold::begin(&self.folder)?),
            Part::Next => match Hold::again(&self.folder)? {
                Some(hold) => self.hold(hold),
                None => Ok(ExitCode::SUCCESS),
            },
        }
    }

    fn guard(&self) -> Result<ExitCode> {
        rootless::become_background()?;
        let begin = |part: &str| {
            let mut command = Command::new("/proc/self/exe");
            command.arg(NAME).arg(&self.folder).args(["--part", part]);
            command.spawn().context("cannot start the holder of your namespaces")
        };
        let mut holder = begin("first")?;
        be_silent()?;
        loop {
            let ended = holder.wait()?;
            if let Some(code) = ended.code() {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            eprintln!("the holder of your namespaces was killed ({ended}); another takes its place");
            // One that is killed at once is not to keep the machine busy.
            std::thread::sleep(PAUSE);
            holder = begin("next")?;
        }
    }

    fn hold(&self, hold: Hold) -> Result<ExitCode> {
        let (relay, sockets) = inside_sockets();
        let (socket, ports) = (self.folder.join(SOCKET), self.folder.join("ports.json"));
        let taken_over = hold.is_taken_over();
        if !taken_over && ports.exists() {
            // Those of namespaces that are gone.
            fs::remove_file(&ports).with_context(|| ports.display().to_string())?;
        }
        let relay = relay.saved_at(ports);
        // One of a holder that was killed.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let (ask, asked) = mpsc::channel::<PathBuf>();
        let (tell, told) = mpsc::channel();
        let folder = self.folder.clone();
        // These threads and those they start stay in the machine's network.
        std::thread::spawn(move || carry(relay, listener, taken_over));
        std::thread::spawn(move || {
            while let Ok(network) = asked.recv() {
                if tell.send(Outside::begin(&folder, &network)).is_err() {
                    return;
                }
            }
        });
        hold.make_network()?;
        let network = show_network(&self.folder)?;
        std::thread::spawn(move || InsideSockets::run(sockets));
        let begin = || -> Result<Outside> {
            ask.send(network.clone())?;
            told.recv()?
        };
        let mut outside = match begin() {
            Ok(outside) => Some(outside),
            Err(error) => {
                println!("containers reach nothing outside of this machine: {error:#}");
                None
            }
        };
        if let Some(outside) = &outside
            && let Err(error) =
                write_resolver(&self.folder, outside).and_then(|_| keep_resolver(&self.folder, outside))
        {
            println!("containers may not resolve names: {error:#}");
        }
        hold.tell()?;
        println!("ready");
        be_silent()?;
        let mut log = Log::default();
        let mut looked = Instant::now();
        loop {
            let rest = LOOKS.saturating_sub(looked.elapsed());
            let ended = match &mut outside {
                Some(way) => way.wait(rest),
                None => {
                    std::thread::sleep(rest);
                    false
                }
            };
            if ended {
                // One that ends at once is not to keep the machine busy.
                std::thread::sleep(PAUSE);
                outside = self.again(&begin, &mut log);
            }
            if looked.elapsed() < LOOKS {
                continue;
            }
            looked = Instant::now();
            if outside.is_none() {
                outside = self.again(&begin, &mut log);
            }
            if let Some(outside) = &outside
                && let Err(error) = keep_resolver(&self.folder, outside)
            {
                log.tell(format!("containers may not resolve names: {error:#}"));
            }
            let helper: Vec<u32> = outside.iter().map(Outside::pid).collect();
            let told = hold.is_told();
            match hold.can_end(&helper) {
                Ok(false) => {}
                Ok(true) => {
                    if let Some(outside) = &mut outside {
                        outside.end();
                    }
                    if told {
                        let _ = fs::remove_file(&socket);
                        let _ = fs::remove_file(self.folder.join("ports.json"));
                    }
                    return Ok(ExitCode::SUCCESS);
                }
                Err(error) => log.tell(error.to_string()),
            }
        }
    }

    /// A way out in the place of one that has ended, or could not be made.
    fn again(&self, begin: &impl Fn() -> Result<Outside>, log: &mut Log) -> Option<Outside> {
        let begun = begin();
        let way = begun
            .inspect_err(|error| log.tell(format!("containers reach nothing outside: {error:#}")))
            .ok()?;
        if let Err(error) = write_resolver(&self.folder, &way) {
            log.tell(format!("containers may not resolve names: {error:#}"));
        }
        Some(way)
    }
}

/// Lets whoever hears this process know that there is no more to hear.
fn be_silent() -> Result<()> {
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

/// What a holder that lives for weeks writes down: the same thing once.
#[derive(Default)]
struct Log(String);

impl Log {
    fn tell(&mut self, text: String) {
        if self.0 != text {
            eprintln!("{text}");
            self.0 = text;
        }
    }
}

/// Carries ports of the machine's network, in which this thread is.
fn carry(relay: OutsideRelay, listener: UnixListener, taken_over: bool) {
    let served = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            if taken_over {
                match relay.restore().await {
                    Ok(lost) => lost.iter().for_each(|why| eprintln!("{why}")),
                    Err(error) => eprintln!("{error}"),
                }
            }
            relay.serve(listener).await
        })
    });
    if let Err(error) = served {
        eprintln!("ports are not carried: {error}");
    }
}

/// Mounts the network of this thread where a program finds it that may not look into this process, as one that has given capabilities
/// away.
fn show_network(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("network");
    if is_same(&path, Path::new("/proc/thread-self/ns/net")) {
        // By the holder before.
        return Ok(path);
    }
    fs::File::create(&path)
        .and_then(|_| Ok(mount_bind("/proc/thread-self/ns/net", &path)?))
        .with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Shows everybody in these namespaces the server of names that is reached from here.
fn show_resolver(folder: &Path, outside: &Outside) -> Result<()> {
    let path = Path::new(RESOLVER);
    let own = write_resolver(folder, outside)?;
    mount_bind(&own, path).context("cannot show /etc/resolv.conf")?;
    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")
        .context("cannot protect /etc/resolv.conf")
}

/// Shows it again where the machine has a new file by now, which takes the place of the one that was covered.
fn keep_resolver(folder: &Path, outside: &Outside) -> Result<()> {
    match is_same(Path::new(RESOLVER), &folder.join("resolv.conf")) {
        true => Ok(()),
        false => show_resolver(folder, outside),
    }
}

/// Whether both paths lead to one file that is there.
fn is_same(one: &Path, other: &Path) -> bool {
    let number = |path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    number(one).is_some_and(|found| Some(found) == number(other))
}

/// Writes the file that is shown, in its place.
fn write_resolver(folder: &Path, outside: &Outside) -> Result<PathBuf> {
    let before = fs::read_to_string(RESOLVER).unwrap_or_default();
    let others = before.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let text: String = others.map(|line| format!("{line}\n")).collect();
    let own = folder.join("resolv.conf");
    let text = format!("{text}nameserver {}\n", outside.resolver());
    fs::write(&own, text).with_context(|| own.display().to_string())?;
    Ok(own)
}
