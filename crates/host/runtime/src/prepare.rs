//! What a container's description comes to before anything is made: what is refused, its filter, its cgroup.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use oci_spec::runtime::{
    Capability, LinuxNamespace, LinuxNamespaceType as Kind, LinuxResources, Process, Spec,
};

use crate::{
    cgroup::Cgroup,
    config::{Network, SandboxConfig, Seccomp, Share, Users},
    error::{Error, ErrorKind, Result},
    launch::Owner,
    seccomp::{self, Filter},
};

/// What of the machine a container shares: settings of it are not the container's to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) network: bool,
    pub(crate) queues: bool,
    pub(crate) names: bool,
}

impl Shares {
    /// Of the containers of a pod, unless they name namespaces of their own.
    pub(crate) fn of_pod(pod: &SandboxConfig) -> Self {
        Self {
            network: pod.network == Network::Host,
            queues: pod.ipc == Share::Host,
            names: pod.uts == Share::Host,
        }
    }

    /// Of a container that has what its specification says.
    pub(crate) fn of_spec(spec: &Spec) -> Self {
        Self {
            network: !names(spec, Kind::Network),
            queues: !names(spec, Kind::Ipc),
            names: !names(spec, Kind::Uts),
        }
    }
}

fn names(spec: &Spec, kind: Kind) -> bool {
    let linux = spec.linux().as_ref();
    linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten().any(|one| one.typ() == kind)
}

/// Has a container be in its pod's user namespace, which `path` leads to.
pub(crate) fn join_users(name: &str, spec: &mut Spec, users: &Users, path: PathBuf) -> Result<()> {
    if names(spec, Kind::User) {
        return Err(Error::invalid("create the container", name, "its pod has a user namespace already"));
    }
    let mut joined = LinuxNamespace::default();
    joined.set_typ(Kind::User).set_path(Some(path));
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_uid_mappings(Some(users.uids.clone())).set_gid_mappings(Some(users.gids.clone()));
    linux.namespaces_mut().get_or_insert_default().push(joined);
    spec.set_linux(Some(linux));
    Ok(())
}

/// Refuses what would not take effect, and gives the process to start.
pub(crate) fn check(name: &str, spec: &Spec, owner: Owner, shares: Shares) -> Result<Process> {
    let refuse = |what: &str| {
        Err(Error::invalid("create the container", name, format_args!("{what} is not supported")))
    };
    let process = spec
        .process()
        .clone()
        .ok_or_else(|| Error::invalid("create the container", name, "its specification names no process"))?;
    if given(process.apparmor_profile()) || given(process.selinux_label()) {
        return refuse("a security label ('apparmorProfile', 'selinuxLabel')");
    }
    if spec.uid_mappings().is_some() || spec.gid_mappings().is_some() {
        return refuse("an id-mapped root");
    }
    if spec.vm().is_some() {
        return refuse("'vm'");
    }
    let named = given(spec.hostname()) || given(spec.domainname());
    if owner == Owner::Spec && named && shares.names {
        return Err(Error::invalid(
            "set the host name",
            spec.hostname().as_deref().unwrap_or_default(),
            "the container shares the machine's: name a 'uts' namespace",
        ));
    }
    let Some(linux) = spec.linux() else { return Ok(process) };
    if given(linux.mount_label()) {
        return refuse("a security label ('mountLabel')");
    }
    for (key, asked) in [
        ("intelRdt", linux.intel_rdt().is_some()),
        ("memoryPolicy", linux.memory_policy().is_some()),
        ("netDevices", linux.net_devices().as_ref().is_some_and(|all| !all.is_empty())),
    ] {
        if asked {
            return refuse(&format!("'linux.{key}'"));
        }
    }
    check_settings(linux.sysctl().iter().flatten().map(|(name, _)| name.as_str()), shares)?;
    Ok(process)
}

fn given(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty())
}

fn check_settings<'a>(mut settings: impl Iterator<Item = &'a str>, shares: Shares) -> Result<()> {
    let of_machine = |name: &str| {
        (shares.network && name.starts_with("net."))
            || (shares.names && name == "kernel.domainname")
            || (shares.queues
                && (name.starts_with("fs.mqueue.")
                    || name.starts_with("kernel.") && name != "kernel.domainname"))
    };
    match settings.find(|name| of_machine(name)) {
        Some(name) => Err(Error::invalid(
            "set the kernel setting",
            name,
            "the container shares that namespace with the machine",
        )),
        None => Ok(()),
    }
}

/// The default filter of the last container, and for which capabilities it is.
pub(crate) type Kept = Option<(HashSet<Capability>, Rc<Filter>)>;

/// The filter of a container: its specification's own, or else the default one, kept if that fits.
pub(crate) fn filter(spec: &Spec, wanted: Seccomp, kept: &mut Kept) -> Result<Option<Rc<Filter>>> {
    let compiled = |made: io::Result<Filter>| {
        made.map(Rc::new)
            .map_err(|error| Error::new(ErrorKind::Invalid, "compile the system call filter", "", error))
    };
    if let Some(own) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        return compiled(seccomp::from_spec(own)).map(Some);
    }
    if wanted == Seccomp::Unconfined {
        return Ok(None);
    }
    let grants = seccomp::grants(spec);
    match kept {
        Some((same, filter)) if *same == grants => Ok(Some(filter.clone())),
        _ => {
            let filter = compiled(seccomp::default_profile(&grants))?;
            *kept = Some((grants, filter.clone()));
            Ok(Some(filter))
        }
    }
}

/// The cgroup of a specification.
pub(crate) fn cgroup(spec: &Spec) -> Result<Cgroup> {
    let path =
        spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref()).unwrap_or(Path::new(""));
    Cgroup::at(&path.to_string_lossy())
}

/// The limits of a specification.
pub(crate) fn resources(spec: &Spec) -> LinuxResources {
    spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default()
}
