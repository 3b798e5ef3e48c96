//! What the demo needs of this machine, tried before anything is made.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with},
};

/// Something this machine lacks.
#[derive(Debug, PartialEq)]
pub(super) struct Missing {
    pub(super) what: String,
    /// The command, or else the deed, that helps.
    pub(super) help: String,
}

/// What was found.
#[derive(Debug, Default)]
struct Facts {
    root: bool,
    /// Why an overlay could not be mounted in the data folder.
    overlay: Option<String>,
    namespaces: bool,
    cgroups: bool,
    /// Why packet rules cannot be made.
    nftables: Option<String>,
    /// Programs that are not in the search path, with the Debian package of each.
    absent: Vec<(&'static str, &'static str)>,
    /// The install command of this machine's package manager.
    install: Option<&'static str>,
}

/// Programs the story uses, with the package that has each.
const PROGRAMS: [(&str, &str); 3] = [("git", "git"), ("python3", "python3"), ("sh", "dash")];
const MANAGERS: [(&str, &str); 5] = [
    ("apt-get", "apt-get install -y"),
    ("dnf", "dnf install -y"),
    ("zypper", "zypper install -y"),
    ("pacman", "pacman -S --noconfirm"),
    ("apk", "apk add"),
];

/// Tries everything; `folder` is there and may be written to. Without root only that is said: nothing else can be tried.
pub(super) fn machine(folder: &Path) -> Vec<Missing> {
    missing(&Facts {
        root: true,
        overlay: overlay(folder).err().map(|error| error.to_string()),
        namespaces: ["net", "pid", "mnt", "uts", "ipc"]
            .iter()
            .all(|kind| Path::new("/proc/self/ns").join(kind).exists()),
        cgroups: ["cgroup.controllers", "memory", "unified"]
            .iter()
            .any(|entry| Path::new("/sys/fs/cgroup").join(entry).exists()),
        nftables: nftables().err().map(|error| error.to_string()),
        absent: PROGRAMS.into_iter().filter(|(program, _)| find(program).is_none()).collect(),
        install: MANAGERS
            .into_iter()
            .find(|(program, _)| find(program).is_some())
            .map(|(_, install)| install),
    })
}

/// Whether it is run by somebody who may make cgroups, and how it would be.
pub(super) fn root(command: &str) -> Option<Missing> {
    let root = rustix::process::geteuid().is_root() && wharf_runtime::has_cgroups();
    missing(&Facts { root, namespaces: true, cgroups: true, ..Facts::default() })
        .pop()
        .map(|missing| Missing { help: format!("sudo {command}"), ..missing })
}

fn missing(facts: &Facts) -> Vec<Missing> {
    let mut all = Vec::new();
    let mut say = |what: String, help: String| all.push(Missing { what, help });
    if !facts.root {
        let what = "root: the sample limits its containers, which takes cgroups that only root may make here";
        say(what.into(), "run it with sudo".into());
        return all;
    }
    if let Some(why) = &facts.overlay {
        let help = "modprobe overlay; or choose a folder on ext4, xfs or tmpfs with --data DIR";
        say(format!("overlay file systems: {why}"), help.into());
    }
    if !facts.namespaces {
        let what = "namespaces: this kernel lacks some of network, pid, mount, uts and ipc namespaces";
        say(what.into(), "use a kernel with CONFIG_NAMESPACES and CONFIG_NET_NS".into());
    }
    if !facts.cgroups {
        let what = "cgroups: nothing is mounted on /sys/fs/cgroup";
        say(what.into(), "mount -t cgroup2 none /sys/fs/cgroup".into());
    }
    if let Some(why) = &facts.nftables {
        say(format!("packet rules (nftables): {why}"), "modprobe nf_tables".into());
    }
    for (program, package) in &facts.absent {
        let help = match facts.install {
            Some(install) => format!("{install} {package}"),
            None => format!("install {package}"),
        };
        say(format!("the program {program}"), help);
    }
    all
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Mounts an overlay in the folder, and takes it away again.
fn overlay(folder: &Path) -> io::Result<()> {
    let trial = folder.join("trial");
    let result = (|| {
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir_all(trial.join(name))?;
        }
        let place = trial.display();
        let options = format!("lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work\0");
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).map_err(io::Error::other)?;
        let merged = trial.join("merged");
        mount("overlay", &merged, "overlay", MountFlags::empty(), options)?;
        unmount(&merged, UnmountFlags::empty())?;
        Ok(())
    })();
    std::fs::remove_dir_all(&trial).ok();
    result
}

const NETLINK_ERROR: u16 = 2;

/// Asks nftables for its generation.
fn nftables() -> io::Result<()> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER))?;
    send(&socket, &generation_request(), SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    accepted(answer.get(..length).unwrap_or_default())
}

/// nlmsghdr and nfgenmsg of NFT_MSG_GETGEN.
fn generation_request() -> Vec<u8> {
    const SUBSYSTEM: u16 = 10;
    const GET_GENERATION: u16 = 16;
    const REQUEST: u16 = 1;
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(20u32.to_ne_bytes());
    bytes.extend((SUBSYSTEM << 8 | GET_GENERATION).to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes
}

/// Whether a netlink answer is no error.
fn accepted(answer: &[u8]) -> io::Result<()> {
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel's answer is too short");
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(short)?;
    if kind != NETLINK_ERROR {
        return Ok(());
    }
    let error =
        answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes).ok_or_else(short)?;
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-error)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            root: true,
            namespaces: true,
            cgroups: true,
            install: Some("apt-get install -y"),
            ..Facts::default()
        }
    }

    #[test]
    fn a_good_machine_lacks_nothing() {
        assert_eq!(missing(&good()), []);
    }

    #[test]
    fn without_root_only_that_is_said() {
        let facts = Facts { root: false, absent: vec![("git", "git")], ..good() };
        let all = missing(&facts);
        assert_eq!(all.len(), 1);
        assert!(all[0].what.starts_with("root"));
    }

    #[test]
    fn each_missing_thing_has_its_help() {
        let facts = Facts {
            overlay: Some("no such device".into()),
            nftables: Some("not supported".into()),
            absent: vec![("git", "git"), ("python3", "python3")],
            ..good()
        };
        let all = missing(&facts);
        let help: Vec<&str> = all.iter().map(|m| m.help.split(';').next().unwrap()).collect();
        assert_eq!(
            help,
            [
                "modprobe overlay",
                "modprobe nf_tables",
                "apt-get install -y git",
                "apt-get install -y python3"
            ]
        );
    }

    #[test]
    fn netlink_errors_are_understood() {
        let answer = |kind: u16, error: i32| {
            let mut bytes = vec![0; 20];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[16..20].copy_from_slice(&error.to_ne_bytes());
            bytes
        };
        assert!(accepted(&answer(2575, 1)).is_ok());
        assert!(accepted(&answer(NETLINK_ERROR, 0)).is_ok());
        assert_eq!(accepted(&answer(NETLINK_ERROR, -22)).unwrap_err().raw_os_error(), Some(22));
        assert!(accepted(&[]).is_err());
    }
}
