//! A container in the words of the runtime, out of what the kubelet asks for. No I/O: what has to be looked at comes as [`Given`].

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use wharf_image::ResolvedImage;
use wharf_runtime::{
    ContainerConfig as RuntimeConfig, LogConfig, RootFs, Seccomp, SpecOptions, Stdin, Users, mount,
    oci::{
        Capability, LinuxDevice, LinuxDeviceCgroup, LinuxIdMapping, LinuxIdMappingBuilder,
        LinuxNamespaceType, LinuxResources, LinuxSeccomp, Mount, Spec,
    },
};

use crate::{
    grpc::{Failure, Result},
    v1::{
        ContainerConfig, IDMapping, LinuxContainerSecurityContext, LinuxContainerUser, MountPropagation,
        NamespaceMode, ProfileType, SELinuxOption, SecurityProfile, UserNamespace,
    },
};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What was looked up for a container.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) id: String,
    pub(crate) image: ResolvedImage,
    pub(crate) user: LinuxContainerUser,
    /// The cgroup of the pod, below the root of the hierarchy.
    pub(crate) cgroup: String,
    /// The pod's own folder.
    pub(crate) folder: PathBuf,
    /// The memory its containers share by name.
    pub(crate) shm: PathBuf,
    /// The host name of the pod.
    pub(crate) hostname: String,
    /// The process ids of another container, by path, when they are shared.
    pub(crate) pids: Option<PathBuf>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) devices: Vec<LinuxDevice>,
    pub(crate) rules: Vec<LinuxDeviceCgroup>,
    pub(crate) resources: LinuxResources,
    pub(crate) seccomp: Filter,
    pub(crate) log: Option<PathBuf>,
}

/// The system call filter of a container.
#[derive(Debug, Clone)]
pub(crate) enum Filter {
    /// The platform's own.
    Default,
    /// None.
    Unconfined,
    /// One from a file.
    Own(Box<LinuxSeccomp>),
}

/// Where the filter of a container is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Profile {
    Default,
    Unconfined,
    File(String),
}

/// The filter asked for. Without a word there is none, as the interface has it; the kubelet always says one.
pub(crate) fn profile(security: &LinuxContainerSecurityContext) -> Result<Profile> {
    if security.privileged {
        return Ok(Profile::Unconfined);
    }
    if let Some(asked) = &security.seccomp {
        return Ok(match asked.profile_type() {
            ProfileType::RuntimeDefault => Profile::Default,
            ProfileType::Unconfined => Profile::Unconfined,
            ProfileType::Localhost => Profile::File(asked.localhost_ref.clone()),
        });
    }
    match security.seccomp_profile_path.as_str() {
        "" | "unconfined" => Ok(Profile::Unconfined),
        "runtime/default" | "docker/default" => Ok(Profile::Default),
        other => match other.strip_prefix("localhost/") {
            Some(path) => Ok(Profile::File(format!("/{}", path.trim_start_matches('/')))),
            None => Err(Failure::invalid(format_args!("there is no seccomp profile '{other}'"))),
        },
    }
}

/// Refuses security labels: this platform has none.
pub(crate) fn check_labels(
    selinux: Option<&SELinuxOption>,
    apparmor: Option<&SecurityProfile>,
    apparmor_name: &str,
) -> Result<()> {
    let labelled = |options: &SELinuxOption| {
        [&options.user, &options.role, &options.r#type, &options.level].iter().any(|text| !text.is_empty())
    };
    if selinux.is_some_and(labelled) {
        return Err(Failure::invalid("selinux_options are not supported"));
    }
    let own = apparmor.is_some_and(|profile| profile.profile_type() == ProfileType::Localhost);
    if own || !matches!(apparmor_name, "" | "runtime/default" | "unconfined") {
        return Err(Failure::invalid("AppArmor profiles of one's own are not supported"));
    }
    Ok(())
}

/// Refuses what would have no effect.
pub(crate) fn check(config: &ContainerConfig) -> Result<()> {
    if !config.cdi_devices.is_empty() {
        return Err(Failure::invalid("CDI_devices are not supported"));
    }
    let Some(security) = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()) else {
        return Ok(());
    };
    check_labels(security.selinux_options.as_ref(), security.apparmor.as_ref(), &security.apparmor_profile)
}

/// The user namespace a pod asks for.
pub(crate) fn users(asked: Option<&UserNamespace>) -> Result<Option<Users>> {
    let Some(asked) = asked else { return Ok(None) };
    let (uids, gids) = (
        mappings("uids of the user namespace", &asked.uids)?,
        mappings("gids of the user namespace", &asked.gids)?,
    );
    match asked.mode() {
        NamespaceMode::Node if uids.is_empty() && gids.is_empty() => Ok(None),
        NamespaceMode::Node => Err(Failure::invalid("userns_options has mappings, but the mode NODE")),
        NamespaceMode::Pod if uids.is_empty() || gids.is_empty() => {
            Err(Failure::invalid("userns_options has the mode POD, but not both uids and gids"))
        }
        NamespaceMode::Pod => Ok(Some(Users { uids, gids })),
        mode => Err(Failure::invalid(format_args!("the user namespace cannot be of mode {mode:?}"))),
    }
}

/// Mappings as the runtime takes them: of one range, as Kubernetes gives them, with the pod's root in it.
pub(crate) fn mappings(name: &str, asked: &[IDMapping]) -> Result<Vec<LinuxIdMapping>> {
    let bad = |what: &str| Err(Failure::invalid(format_args!("the {name}: {what}")));
    match asked {
        [] => Ok(Vec::new()),
        [one] if one.length == 0 => bad("the range has no ids"),
        [one] if one.host_id.checked_add(one.length).is_none() => bad("the range is beyond the last id"),
        [one] if one.container_id != 0 => bad("the range does not begin with the container's 0"),
        [one] => {
            let range = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(one.host_id);
            Ok(vec![range.size(one.length).build().map_err(Failure::invalid)?])
        }
        _ => bad("it is more than one range"),
    }
}

/// The container in the runtime's words.
pub(crate) fn build(config: &ContainerConfig, given: Given) -> Result<RuntimeConfig> {
    let security = security(config);
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let (uid, gid) = (id(given.user.uid)?, id(given.user.gid)?);
    let groups = given.user.supplemental_groups.iter().map(|group| id(*group)).collect::<Result<_>>()?;
    let score = config.linux.as_ref().and_then(|linux| linux.resources.as_ref()).map(|r| r.oom_score_adj);
    let image = &given.image.config.config;
    let mut resources = given.resources.clone();
    resources.set_devices(Some(given.rules.clone()).filter(|rules| !rules.is_empty()));
    let options = SpecOptions {
        args: program(config, image.entrypoint.as_deref(), image.cmd.as_deref())?,
        env: environment(config, &given)?,
        cwd: if config.working_dir.is_empty() {
            image.working_dir.clone()
        } else {
            config.working_dir.clone()
        },
        user: (uid, gid),
        groups,
        terminal: config.tty,
        readonly_root: security.readonly_rootfs,
        privileged: security.privileged,
        add_capabilities: capabilities.add_capabilities.clone(),
        drop_capabilities: capabilities.drop_capabilities.clone(),
        no_new_privileges: security.no_new_privs,
        mounts: all_mounts(config, &given, security.readonly_rootfs)?,
        devices: given.devices.clone(),
        cgroup: format!("{}/{}", given.cgroup, given.id),
        resources,
        host_pids: namespaces.pid() == NamespaceMode::Node,
        oom_score_adj: score.and_then(|score| i32::try_from(score).ok()),
        ..SpecOptions::default()
    };
    let mut spec = options.build()?;
    add_ambient(&mut spec, &capabilities.add_ambient_capabilities)?;
    adjust(&mut spec, config, &security, &given);
    let (seccomp, own) = match given.seccomp {
        Filter::Default => (Seccomp::Default, None),
        Filter::Unconfined => (Seccomp::Unconfined, None),
        Filter::Own(own) => (Seccomp::Default, Some(*own)),
    };
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(own);
    }
    Ok(RuntimeConfig {
        name: given.id,
        spec,
        root: RootFs { lower: given.image.lower_dirs, volatile: true },
        user: None,
        groups: Vec::new(),
        seccomp,
        stdin: match (config.stdin, config.stdin_once) {
            (false, _) => Stdin::Null,
            (true, true) => Stdin::Once,
            (true, false) => Stdin::Open,
        },
        // The kubelet says when a new file is to be begun.
        log: given.log.map(|path| LogConfig { max_bytes: u64::MAX, ..LogConfig::new(path) }),
        labels: BTreeMap::new(),
    })
}

/// The security context, or the default one.
pub(crate) fn security(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

fn id(number: i64) -> Result<u32> {
    u32::try_from(number).map_err(|_| Failure::invalid(format_args!("the id {number} is out of range")))
}

fn program(
    config: &ContainerConfig,
    entrypoint: Option<&[String]>,
    cmd: Option<&[String]>,
) -> Result<Vec<String>> {
    let (entrypoint, cmd) = (entrypoint.unwrap_or_default(), cmd.unwrap_or_default());
    let program = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => [config.command.as_slice(), config.args.as_slice()].concat(),
        (true, false) => [entrypoint, config.args.as_slice()].concat(),
        (true, true) => [entrypoint, cmd].concat(),
    };
    match program.is_empty() {
        true => Err(Failure::invalid("neither the container nor its image names a program")),
        false => Ok(program),
    }
}

fn environment(config: &ContainerConfig, given: &Given) -> Result<Vec<String>> {
    let mut env = vec![PATH.to_owned()];
    if !given.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", given.hostname));
    }
    env.extend(config.tty.then(|| "TERM=xterm".to_owned()));
    env.extend(given.image.config.config.env.iter().cloned());
    for pair in &config.envs {
        let value = std::str::from_utf8(&pair.value).map_err(|_| {
            Failure::invalid(format_args!("the value of the variable {} is no UTF-8", pair.key))
        })?;
        env.push(format!("{}={value}", pair.key));
    }
    // The last word on a variable counts.
    let mut seen = HashSet::new();
    let mut last: Vec<String> = Vec::with_capacity(env.len());
    for pair in env.into_iter().rev() {
        if seen.insert(pair.split('=').next().unwrap_or_default().to_owned()) {
            last.push(pair);
        }
    }
    last.reverse();
    Ok(last)
}

/// The pod's own files, then what is asked for, parents before what is in them.
fn all_mounts(config: &ContainerConfig, given: &Given, readonly: bool) -> Result<Vec<Mount>> {
    let asked =
        |path: &str| config.mounts.iter().any(|mount| Path::new(&mount.container_path) == Path::new(path));
    let access = if readonly { "ro" } else { "rw" };
    let mut mounts = Vec::new();
    for name in ["hosts", "hostname", "resolv.conf"] {
        let path = format!("/etc/{name}");
        if !asked(&path) {
            let source = given.folder.join("etc").join(name);
            mounts.push(mount(&path, "bind", &source.to_string_lossy(), &["rbind", "rprivate", access])?);
        }
    }
    if !asked("/dev/shm") {
        mounts.push(mount("/dev/shm", "bind", &given.shm.to_string_lossy(), &["rbind", "rprivate", "rw"])?);
    }
    let mut own = given.mounts.clone();
    own.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(own);
    Ok(mounts)
}

/// Capabilities that a program keeps though it is not root's.
fn add_ambient(spec: &mut Spec, names: &[String]) -> Result<()> {
    let Some(process) = spec.process_mut().as_mut() else { return Ok(()) };
    let Some(mut capabilities) = process.capabilities().clone() else { return Ok(()) };
    for name in names {
        let upper = name.to_ascii_uppercase();
        let capability: Capability = upper
            .strip_prefix("CAP_")
            .unwrap_or(&upper)
            .parse()
            .map_err(|_| Failure::invalid(format_args!("there is no capability '{name}'")))?;
        let with = |set: &Option<HashSet<Capability>>| {
            let mut set = set.clone().unwrap_or_default();
            set.insert(capability);
            Some(set)
        };
        let all = with(capabilities.bounding());
        capabilities.set_bounding(all);
        let all = with(capabilities.effective());
        capabilities.set_effective(all);
        let all = with(capabilities.permitted());
        capabilities.set_permitted(all);
        let all = with(capabilities.inheritable());
        capabilities.set_inheritable(all);
        let all = with(capabilities.ambient());
        capabilities.set_ambient(all);
    }
    process.set_capabilities(Some(capabilities));
    Ok(())
}

fn adjust(
    spec: &mut Spec,
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    given: &Given,
) {
    let Some(linux) = spec.linux_mut() else { return };
    if !security.privileged {
        if !security.masked_paths.is_empty() {
            linux.set_masked_paths(Some(security.masked_paths.clone()));
        }
        if !security.readonly_paths.is_empty() {
            linux.set_readonly_paths(Some(security.readonly_paths.clone()));
        }
    }
    let propagation = config.mounts.iter().map(|mount| mount.propagation()).max();
    linux.set_rootfs_propagation(match propagation {
        Some(MountPropagation::Bidirectional) => Some("rshared".to_owned()),
        Some(MountPropagation::HostToContainer) => Some("rslave".to_owned()),
        _ => None,
    });
    if let Some(path) = &given.pids {
        wharf_runtime::join(linux, LinuxNamespaceType::Pid, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::KeyValue;

    fn given() -> Given {
        let mut config = wharf_image::ImageConfig::for_host();
        config.config.entrypoint = Some(vec!["/entry".to_owned()]);
        config.config.cmd = Some(vec!["cmd".to_owned()]);
        config.config.env = vec!["A=image".to_owned(), "B=image".to_owned()];
        let digest = wharf_base::Digest::of("x");
        Given {
            id: "c".to_owned(),
            image: ResolvedImage {
                reference: None,
                manifest: digest,
                id: digest,
                config,
                layers: Vec::new(),
                lower_dirs: Vec::new(),
            },
            user: LinuxContainerUser::default(),
            cgroup: "pod".to_owned(),
            folder: PathBuf::from("/f"),
            shm: PathBuf::from("/f/shm"),
            hostname: "h".to_owned(),
            pids: None,
            mounts: Vec::new(),
            devices: Vec::new(),
            rules: Vec::new(),
            resources: LinuxResources::default(),
            seccomp: Filter::Default,
            log: None,
        }
    }

    fn built(config: &ContainerConfig) -> Spec {
        build(config, given()).unwrap().spec
    }

    #[test]
    fn programs_and_variables() {
        let args =
            |config: &ContainerConfig| built(config).process().as_ref().unwrap().args().clone().unwrap();
        assert_eq!(args(&ContainerConfig::default()), ["/entry", "cmd"]);
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(args(&ContainerConfig { args: list(&["a"]), ..Default::default() }), ["/entry", "a"]);
        assert_eq!(args(&ContainerConfig { command: list(&["c"]), ..Default::default() }), ["c"]);
        let envs = vec![KeyValue { key: "A".to_owned(), value: b"own".to_vec() }];
        let spec = built(&ContainerConfig { envs, ..Default::default() });
        let env = spec.process().as_ref().unwrap().env().clone().unwrap();
        assert_eq!(env, [PATH, "HOSTNAME=h", "B=image", "A=own"]);
    }

    #[test]
    fn profiles_by_both_ways_to_name_them() {
        let own = |profile_type: ProfileType| LinuxContainerSecurityContext {
            seccomp: Some(SecurityProfile {
                profile_type: profile_type as i32,
                localhost_ref: "/p".to_owned(),
            }),
            ..Default::default()
        };
        assert_eq!(profile(&own(ProfileType::RuntimeDefault)), Ok(Profile::Default));
        assert_eq!(profile(&own(ProfileType::Localhost)), Ok(Profile::File("/p".to_owned())));
        let old = |path: &str| {
            profile(&LinuxContainerSecurityContext {
                seccomp_profile_path: path.to_owned(),
                ..Default::default()
            })
        };
        assert_eq!(old(""), Ok(Profile::Unconfined));
        assert_eq!(old("localhost/a/b"), Ok(Profile::File("/a/b".to_owned())));
        assert!(old("x").is_err());
    }
}
