//! Commands of people who are not root: they go on in namespaces of the person's own, which a process in the background holds.

mod outside;

use std::{
    fs,
    os::unix::{net::UnixListener, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::mpsc,
    time::Duration,
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
const LOOKS: Duration = Duration::from_secs(30);
const SOCKET: &str = "ports.sock";

/// Set for a process that began without being root.
const ENTERED: &str = "WHARF_ROOTLESS";

#[derive(clap::Args)]
pub(crate) struct Args {
    folder: PathBuf,
}

/// The way of people who are not root is not whole yet: it is taken only by who asks for it.
const UNFINISHED: &str = "WHARF_UNFINISHED_ROOTLESS";

/// Has this process, which must have one thread, go on as root of the person's own namespaces, unless it is root already.
pub(crate) fn enter() -> Result<()> {
    if rustix::process::geteuid().is_root() || std::env::var_os(UNFINISHED).is_none() {
        return Ok(());
    }
    let entered = rootless::folder()
        .and_then(|folder| rootless::enter(&folder, Command::new("/proc/self/exe").arg(NAME).arg(&folder)));
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
    again.arg0(words.next().unwrap_or_default()).args(words).env(ENTERED, "1");
    Err(again.exec()).context("cannot go on in your namespaces")
}

/// Whether the person is root of this machine.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root() && std::env::var_os(ENTERED).is_none()
}

/// Where the relay listens that has the machine's ports, in namespaces of somebody who is not root.
pub(crate) fn relay() -> Option<PathBuf> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    if wharf_base::is_of_machine(&map) {
        return None;
    }
    rootless::folder().ok().map(|folder| folder.join(SOCKET)).filter(|socket| socket.exists())
}

impl Args {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let hold = Hold::begin(&self.folder)?;
        let (relay, sockets) = inside_sockets();
        let socket = self.folder.join(SOCKET);
        // One of a holder that was killed.
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).with_context(|| socket.display().to_string())?;
        let (ask, asked) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let folder = self.folder.clone();
        // This thread and those it starts stay in the machine's network.
        std::thread::spawn(move || of_machine(&folder, relay, listener, &asked, &tell));
        hold.make_network()?;
        std::thread::spawn(move || InsideSockets::run(sockets));
        ask.send(std::process::id())?;
        let outside: Result<Outside> = told.recv()?;
        let mut outside = match outside {
            Ok(outside) => Some(outside),
            Err(error) => {
                println!("containers reach nothing outside of this machine: {error:#}");
                None
            }
        };
        if let Some(outside) = &outside
            && let Err(error) = show_resolver(&self.folder, outside)
        {
            println!("containers may not resolve names: {error:#}");
        }
        hold.tell()?;
        println!("ready");
        let null = fs::File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stdin(&null)?;
        loop {
            std::thread::sleep(LOOKS);
            let helper: Vec<u32> = outside.iter().map(Outside::pid).collect();
            if let Some(_alone) = hold.can_end(&helper)? {
                if let Some(outside) = &mut outside {
                    outside.end();
                }
                let _ = fs::remove_file(&socket);
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// What is done in the machine's network: a way out for the network of the process `asked` for, and ports.
fn of_machine(
    folder: &Path,
    relay: OutsideRelay,
    listener: UnixListener,
    asked: &mpsc::Receiver<u32>,
    tell: &mpsc::Sender<Result<Outside>>,
) {
    let Ok(pid) = asked.recv() else { return };
    if tell.send(Outside::begin(folder, pid)).is_err() {
        return;
    }
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(relay.serve(listener)));
    if let Err(error) = served {
        eprintln!("ports are not carried: {error}");
    }
}

/// Shows everybody in these namespaces the server of names that is reached from here.
fn show_resolver(folder: &Path, outside: &Outside) -> Result<()> {
    let path = Path::new("/etc/resolv.conf");
    let of_machine = fs::read_to_string(path).unwrap_or_default();
    let others = of_machine.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
    let text: String = others.map(|line| format!("{line}\n")).collect();
    let own = folder.join("resolv.conf");
    fs::write(&own, format!("{text}nameserver {}\n", outside.resolver()))?;
    mount_bind(&own, path).context("cannot show /etc/resolv.conf")?;
    mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, c"")
        .context("cannot protect /etc/resolv.conf")
}
