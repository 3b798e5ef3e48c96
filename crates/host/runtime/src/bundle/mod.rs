//! The OCI runtime command line: containers from bundles, for callers that are made for runc or crun.
//!
//! Those callers bring a process of their own for each container (conmon, containerd's shim) that must be its parent to hear of its end.
//! So there is no shim here: `create` launches the container as a shim would and ends; its process waits on a socket in the container's
//! folder for `start`. Everything else is read from that folder and from the kernel.

mod args;
mod create;
mod exec;
mod features;
mod life;
mod log;
mod record;
mod relay;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::PathBuf,
    process::Command,
};

use oci_spec::runtime::Spec;

use crate::{
    error::{Context as _, Error, Result},
    pod_dir::write_text,
    program,
};
use args::{Args, Flag, switch, value};

/// The version of the specification that is spoken.
pub(crate) const OCI_VERSION: &str = "1.2.1";

/// The name under which this program runs from a copy nothing in a container can write to.
const SEALED: &str = "wharf-oci-sealed";

const GLOBAL: [Flag; 9] = [
    value("root"),
    value("log"),
    value("log-format"),
    value("log-level"),
    value("rootless"),
    value("cgroup-manager"),
    switch("debug"),
    switch("systemd-cgroup"),
    Flag("version", "v", false),
];

const USAGE: &str = "\
Usage: wharf-oci [--root DIR] [--log FILE] [--log-format text|json] COMMAND …

  create --bundle DIR [--pid-file FILE] [--console-socket SOCKET] [--preserve-fds N] ID
  start ID                          run  as create, with [--detach] [--keep]
  state ID                          kill [--all] ID [SIGNAL]
  delete [--force] ID               exec [--process FILE | options] ID COMMAND …
  pause ID      resume ID           update [--resources FILE|- | limits] ID
  list [--format json]              ps [--format json] ID
  spec [--bundle DIR]               features";

/// What every command needs.
struct Context {
    root: PathBuf,
    log: log::Log,
    /// How many descriptors from 3 on the caller has open.
    inherited: u32,
}

/// The whole of the program `wharf-oci`. Gives its exit code.
pub fn main() -> i32 {
    // As every program of the standard library: whoever reads no further is an error, not an end.
    crate::sys::ignore_broken_pipes();
    let inherited = (3..).take_while(|fd| crate::sys::is_open(*fd)).count() as u32;
    let mut context = Context { root: default_root(), log: log::Log::default(), inherited };
    let mut words = std::env::args();
    let sealed = words.next().is_some_and(|name| name == SEALED);
    let args: Vec<String> = words.collect();
    match run(&mut context, &args, sealed) {
        Ok(code) => code,
        Err(error) => {
            context.log.error(&error);
            1
        }
    }
}

fn run(context: &mut Context, args: &[String], sealed: bool) -> Result<i32> {
    let global = Args::parse("read the command line", args, &GLOBAL)?;
    if global.is_set("version") {
        return print(&format!("wharf-oci version {}\nspec: {OCI_VERSION}", env!("CARGO_PKG_VERSION")));
    }
    if let Some(root) = global.get("root") {
        context.root = std::path::absolute(root).step("use the folder", root)?;
    }
    context.log.path = global.get("log").map(PathBuf::from);
    context.log.json = global.get("log-format") == Some("json");
    if global.is_set("systemd-cgroup") || global.get("cgroup-manager").is_some_and(|name| name == "systemd") {
        return Err(Error::invalid("make cgroups by", "systemd", "only the cgroup file system is supported"));
    }
    let Some((command, rest)) = global.words.split_first() else {
        return print(USAGE).map(|_| 2);
    };
    if matches!(command.as_str(), "create" | "run" | "exec") && !sealed {
        return Err(seal(args));
    }
    dispatch(context, command, rest)
}

fn dispatch(context: &Context, command: &str, rest: &[String]) -> Result<i32> {
    match command {
        "create" => create::create(context, rest),
        "run" => create::run(context, rest),
        "exec" => exec::exec(context, rest),
        "start" => life::start(context, rest),
        "state" => life::state(context, rest),
        "kill" => life::kill(context, rest),
        "delete" => life::delete(context, rest),
        "pause" => life::freeze(context, rest, true),
        "resume" => life::freeze(context, rest, false),
        "update" => life::update(context, rest),
        "list" => life::list(context, rest),
        "ps" => life::ps(context, rest),
        "features" => features::features(),
        "spec" => features::spec(rest),
        "help" => print(USAGE),
        other => {
            Err(Error::invalid("run the command", other, "there is none of this name; see 'wharf-oci help'"))
        }
    }
}

/// Becomes the same program from a copy nothing in a container can write to. Gives why not.
fn seal(args: &[String]) -> Error {
    let sealed = match program::sealed(program::OWN.as_ref()) {
        Ok(sealed) => sealed,
        Err(error) => return error,
    };
    let error = Command::new(program::path_of(&sealed)).arg0(SEALED).args(args).exec();
    Err::<(), _>(error).step("run", "the sealed program").err().unwrap_or_else(|| Error::gone("wharf-oci"))
}

fn default_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !rustix::process::geteuid().is_root()) {
        Some(folder) => PathBuf::from(folder).join("wharf-oci"),
        None => PathBuf::from("/run/wharf-oci"),
    }
}

fn print(text: &str) -> Result<i32> {
    life::write_line(text).map(|()| 0)
}

/// Refuses specifications of another major version.
fn check_version(spec: &Spec) -> Result<()> {
    let version = spec.version();
    let mut numbers = version.split(['.', '-', '+']);
    let known =
        numbers.next() == Some("1") && numbers.next().is_some_and(|minor| minor.parse::<u32>().is_ok());
    if known {
        Ok(())
    } else {
        Err(Error::invalid("use the specification's version", version, "versions 1.x are supported"))
    }
}

/// The caller's own standard streams, for the container.
fn own_stdio() -> Result<[Option<OwnedFd>; 3]> {
    let copy = |fd: BorrowedFd<'_>| {
        rustix::io::fcntl_dupfd_cloexec(fd, 3).step("copy", "a standard stream").map(Some)
    };
    Ok([copy(io::stdin().as_fd())?, copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?])
}

/// Where a terminal is to be handed over. One that nobody would hold is refused.
fn console(args: &Args, terminal: bool, detached: bool) -> Result<Option<UnixStream>> {
    match (args.get("console-socket"), terminal) {
        (Some(path), true) => UnixStream::connect(path).map(Some).step("connect to the console socket", path),
        (None, true) if detached => {
            Err(Error::invalid("open", "the terminal", "a container nobody waits for needs --console-socket"))
        }
        (Some(path), false) => Err(Error::invalid(
            "use the console socket",
            path,
            "the process has no terminal ('process.terminal' is false)",
        )),
        (None, _) => Ok(None),
    }
}

/// Sends the outer side of a terminal, with its name.
fn hand_over(socket: &UnixStream, terminal: BorrowedFd<'_>) -> Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [terminal];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let iov = [io::IoSlice::new(b"/dev/ptmx")];
    sendmsg(socket, &iov, &mut ancillary, SendFlags::NOSIGNAL).map(drop).step("hand over", "the terminal")
}

fn write_pid(args: &Args, pid: i32) -> Result<()> {
    args.get("pid-file").map_or(Ok(()), |path| write_text(path.as_ref(), &pid.to_string()))
}

impl Context {
    /// How many descriptors from 3 on the program gets. Those must be the caller's, not this program's own.
    fn kept(&self, args: &Args) -> Result<u32> {
        let wanted = args.number("preserve-fds")?.unwrap_or(0);
        if wanted > self.inherited {
            return Err(Error::invalid("pass on descriptors", wanted, "not that many are open"));
        }
        Ok(wanted)
    }
}
