//! A container in the runtime's words: program, user, rights, limits. What cannot be honoured is refused by name.

use std::path::PathBuf;

use wharf_image::ContainerConfig as ImageDefaults;
use wharf_runtime::{
    ContainerConfig, LogConfig, Network, PodCgroup, RootFs, SandboxConfig, Seccomp, Share, SpecOptions,
    Stdin, WhenIdle, has_cgroups,
    oci::{LinuxNamespaceType, LinuxResources, Mount},
};

use crate::{
    env::{Env, config_error, expand},
    model::{Container, Handler, Pod, Profile},
    resources::{container_limits, oom_score, pod_cgroup, pod_limits, without_weights},
    step::Reason,
};

/// Label of a container with its id.
pub(crate) const ID: &str = "wharf.dev/id";
/// Label of a container with the digest of its image.
pub(crate) const IMAGE_ID: &str = "wharf.dev/image-id";
/// Label of a container with its image's signal to stop.
pub(crate) const STOP_SIGNAL: &str = "wharf.dev/stop-signal";
/// Label of a pod with its namespace and name.
pub(crate) const POD: &str = "wharf.dev/pod";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Limits as this machine can have them: without cgroups nobody is promised a part of the processors, and only limits are refused.
pub(crate) fn in_force(limits: LinuxResources) -> LinuxResources {
    if has_cgroups() { limits } else { without_weights(limits) }
}

/// The runtime's name of one run of a container. Kubernetes allows no dot in a container's name.
pub(crate) fn run_name(container: &str, attempt: u32) -> String {
    format!("{container}.{attempt}")
}

/// Container and attempt of a run's name.
pub(crate) fn parse_run(name: &str) -> Option<(&str, u32)> {
    let (container, attempt) = name.rsplit_once('.')?;
    Some((container, attempt.parse().ok()?))
}

/// The sandbox of a pod.
pub(crate) fn sandbox(pod: &Pod, instance: &str, domain: &str) -> SandboxConfig {
    let spec = &pod.spec;
    let hostname = match pod.fqdn(domain).filter(|_| spec.set_hostname_as_fqdn) {
        Some(fqdn) => fqdn,
        None => pod.hostname(),
    };
    let cgroup = PodCgroup { path: pod_cgroup(instance, pod), resources: in_force(pod_limits(pod)) };
    let label = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
    SandboxConfig {
        id: pod.metadata.uid.clone(),
        hostname: (!spec.host_network).then_some(hostname),
        network: if spec.host_network { Network::Host } else { Network::New },
        ipc: if spec.host_ipc { Share::Host } else { Share::Own },
        uts: if spec.host_network { Share::Host } else { Share::Own },
        users: None,
        cgroup: Some(cgroup),
        sysctls: spec.security_context.sysctls.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        when_idle: WhenIdle::Stay,
        at_end: Vec::new(),
        labels: [(POD.to_owned(), label)].into(),
    }
}

/// Fields of a pod that are not honoured; its containers are not started.
pub(crate) fn unsupported(pod: &Pod) -> Option<Reason> {
    let spec = &pod.spec;
    let refuse = |what: &str| Some(config_error(format!("{what} is not supported by this node")));
    if spec.share_process_namespace {
        return refuse("spec.shareProcessNamespace");
    }
    if spec.host_users == Some(false) {
        return refuse("spec.hostUsers: false");
    }
    if spec.resources.is_some() {
        return refuse("spec.resources (of the pod as a whole)");
    }
    if !spec.runtime_class_name.is_empty() {
        return refuse("spec.runtimeClassName");
    }
    if spec.security_context.se_linux_options.is_some() {
        return refuse("spec.securityContext.seLinuxOptions");
    }
    profile(spec.security_context.app_armor_profile.as_ref(), "spec.securityContext.appArmorProfile").err()
}

fn profile(profile: Option<&Profile>, field: &str) -> Result<(), Reason> {
    match profile.map(|profile| profile.kind.as_str()) {
        None | Some("RuntimeDefault" | "Unconfined") => Ok(()),
        Some(kind) => Err(config_error(format!("{field} of type {kind} is not supported by this node"))),
    }
}

/// What one run of a container is made from.
pub(crate) struct Run<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) id: String,
    pub(crate) image_id: String,
    pub(crate) image: &'a ImageDefaults,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) env: Env,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) log: PathBuf,
    pub(crate) cgroup: String,
    pub(crate) machine_memory: i64,
    /// The host name it sees.
    pub(crate) hostname: String,
    /// The process ids it shares with another container, by the path of their namespace.
    pub(crate) pids: Option<PathBuf>,
}

impl Run<'_> {
    /// The container in the runtime's words.
    pub(crate) fn config(self) -> Result<ContainerConfig, Reason> {
        let (container, security) = (self.container, &self.container.security_context);
        let pod_security = &self.pod.spec.security_context;
        self.check()?;
        let groups = pod_security.supplemental_groups.iter().copied().chain(pod_security.fs_group);
        let groups = groups.map(|group| id_number(group, "group")).collect::<Result<Vec<u32>, Reason>>()?;
        let spec = SpecOptions {
            args: self.program()?,
            env: self.environment(),
            cwd: match container.working_dir.as_str() {
                "" => self.image.working_dir.clone(),
                own => own.to_owned(),
            },
            groups,
            terminal: container.tty,
            readonly_root: security.read_only_root_filesystem,
            privileged: security.privileged,
            add_capabilities: security.capabilities.add.clone(),
            drop_capabilities: security.capabilities.drop.clone(),
            no_new_privileges: security.allow_privilege_escalation == Some(false),
            mounts: self.mounts.clone(),
            cgroup: format!("{}/{}", self.cgroup, run_name(&container.name, self.attempt)),
            resources: in_force(container_limits(container)),
            host_pids: self.pod.spec.host_pid,
            oom_score_adj: Some(oom_score(self.pod, container, self.machine_memory)),
            ..SpecOptions::default()
        };
        let propagates = container
            .volume_mounts
            .iter()
            .any(|mount| matches!(mount.mount_propagation.as_str(), "HostToContainer" | "Bidirectional"));
        let mut spec = spec.build().map_err(|error| config_error(error.to_string()))?;
        if let (true, Some(linux)) = (propagates, spec.linux_mut()) {
            linux.set_rootfs_propagation(Some("rslave".to_owned()));
        }
        if let (Some(path), Some(linux)) = (&self.pids, spec.linux_mut()) {
            wharf_runtime::join(linux, LinuxNamespaceType::Pid, path);
        }
        let seccomp = self.seccomp()?;
        let signal = match container.lifecycle.stop_signal.as_str() {
            "" => self.image.stop_signal.clone().unwrap_or_default(),
            own => own.to_owned(),
        };
        Ok(ContainerConfig {
            name: run_name(&container.name, self.attempt),
            spec,
            root: RootFs { lower: self.layers.clone(), volatile: true },
            user: Some(self.user()?),
            groups: Vec::new(),
            seccomp,
            stdin: match (container.stdin, container.stdin_once) {
                (false, _) => Stdin::Null,
                (true, true) => Stdin::Once,
                (true, false) => Stdin::Open,
            },
            log: Some(LogConfig::new(&self.log)),
            labels: [(ID, self.id), (IMAGE_ID, self.image_id), (STOP_SIGNAL, signal)]
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
        })
    }

    fn check(&self) -> Result<(), Reason> {
        let (name, security) = (&self.container.name, &self.container.security_context);
        let refuse =
            |what: &str| Err(config_error(format!("container {name}: {what} is not supported by this node")));
        if !self.container.volume_devices.is_empty() {
            return refuse("volumeDevices");
        }
        if !self.container.restart_policy_rules.is_empty() {
            return refuse("restartPolicyRules");
        }
        if security.se_linux_options.is_some() {
            return refuse("securityContext.seLinuxOptions");
        }
        // A liveness probe that can only fail would kill the container again and again.
        for (field, handler) in handlers(self.container) {
            if handler.grpc.is_some() {
                return refuse(&format!("{field}.grpc"));
            }
        }
        if !matches!(security.proc_mount.as_str(), "" | "Default") {
            return refuse("securityContext.procMount");
        }
        profile(security.app_armor_profile.as_ref(), "securityContext.appArmorProfile")
    }

    fn seccomp(&self) -> Result<Seccomp, Reason> {
        let own = self.container.security_context.seccomp_profile.as_ref();
        let wanted = own.or(self.pod.spec.security_context.seccomp_profile.as_ref());
        profile(wanted, "securityContext.seccompProfile")?;
        let unconfined = wanted.is_some_and(|profile| profile.kind == "Unconfined");
        // Where nothing is said, the platform's own profile applies: the safer of the two.
        let off = unconfined || self.container.security_context.privileged;
        Ok(if off { Seccomp::Unconfined } else { Seccomp::Default })
    }

    fn program(&self) -> Result<Vec<String>, Reason> {
        let expanded = |list: &[String]| list.iter().map(|text| expand(text, &self.env)).collect::<Vec<_>>();
        let (command, args) = (expanded(&self.container.command), expanded(&self.container.args));
        let entrypoint = self.image.entrypoint.clone().unwrap_or_default();
        let cmd = self.image.cmd.clone().unwrap_or_default();
        let program = match (command.is_empty(), args.is_empty()) {
            (false, _) => [command, args].concat(),
            (true, false) => [entrypoint, args].concat(),
            (true, true) => [entrypoint, cmd].concat(),
        };
        if program.is_empty() {
            let message = format!("image {:?} names no program: set 'command'", self.container.image);
            return Err(Reason::new("CreateContainerError", message));
        }
        Ok(program)
    }

    fn environment(&self) -> Vec<String> {
        let mut env = vec![PATH.to_owned(), format!("HOSTNAME={}", self.hostname)];
        env.extend(self.container.tty.then(|| "TERM=xterm".to_owned()));
        env.extend(self.image.env.iter().cloned());
        env.extend(self.env.clone().into_settings());
        env
    }

    /// The user as the runtime looks it up: `user[:group]`.
    fn user(&self) -> Result<String, Reason> {
        let (own, pod) = (&self.container.security_context, &self.pod.spec.security_context);
        let user = own.run_as_user.or(pod.run_as_user).map(|user| id_number(user, "user")).transpose()?;
        let group =
            own.run_as_group.or(pod.run_as_group).map(|group| id_number(group, "group")).transpose()?;
        let must_not_be_root = own.run_as_non_root.or(pod.run_as_non_root) == Some(true);
        let image_user = self.image.user.split(':').next().unwrap_or_default();
        if must_not_be_root {
            match user {
                Some(0) => return Err(config_error("container's runAsUser breaks non-root policy")),
                Some(_) => {}
                None => match image_user.parse::<u32>() {
                    Ok(1..) => {}
                    _ if matches!(image_user, "" | "0" | "root") => {
                        return Err(config_error("container has runAsNonRoot and image will run as root"));
                    }
                    _ => {
                        return Err(config_error(format!(
                            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root"
                        )));
                    }
                },
            }
        }
        Ok(match (user, group) {
            (Some(user), Some(group)) => format!("{user}:{group}"),
            (Some(user), None) => user.to_string(),
            (None, Some(group)) if image_user.is_empty() => format!("0:{group}"),
            (None, Some(group)) => format!("{image_user}:{group}"),
            (None, None) => self.image.user.clone(),
        })
    }
}

/// All probes and hooks of a container.
fn handlers(container: &Container) -> impl Iterator<Item = (&'static str, &Handler)> {
    let probes = [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ];
    let hooks = [
        ("lifecycle.postStart", &container.lifecycle.post_start),
        ("lifecycle.preStop", &container.lifecycle.pre_stop),
    ];
    let probes = probes.into_iter().filter_map(|(field, probe)| Some((field, &probe.as_ref()?.handler)));
    probes.chain(hooks.into_iter().filter_map(|(field, hook)| Some((field, hook.as_ref()?))))
}

fn id_number(id: i64, what: &str) -> Result<u32, Reason> {
    u32::try_from(id).map_err(|_| config_error(format!("{what} id {id} is out of range")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn user_of(pod_security: Value, security: Value, image_user: &str) -> Result<String, String> {
        let pod = json!({"metadata": {"uid": "u", "name": "p"}, "spec": {"securityContext": pod_security,
            "containers": [{"name": "a", "command": ["x"], "securityContext": security}]}});
        let pod = Pod::read(&pod).unwrap();
        let image = ImageDefaults { user: image_user.into(), ..ImageDefaults::default() };
        let run = Run {
            pod: &pod,
            container: &pod.spec.containers[0],
            attempt: 3,
            id: "i".into(),
            image_id: "d".into(),
            image: &image,
            layers: Vec::new(),
            env: Env::default(),
            mounts: Vec::new(),
            log: "/l".into(),
            cgroup: "c".into(),
            machine_memory: 1,
            hostname: "p".into(),
            pids: None,
        };
        run.config().map(|config| config.user.unwrap_or_default()).map_err(|reason| reason.message)
    }

    #[test]
    fn users() {
        for (pod, own, image, expected) in [
            (json!({}), json!({}), "", Ok("")),
            (json!({}), json!({}), "app:staff", Ok("app:staff")),
            (json!({"runAsUser": 5}), json!({}), "app", Ok("5")),
            (json!({"runAsUser": 5, "runAsGroup": 6}), json!({"runAsUser": 7}), "app", Ok("7:6")),
            (json!({"runAsGroup": 6}), json!({}), "app:staff", Ok("app:6")),
            (json!({"runAsNonRoot": true}), json!({}), "1000", Ok("1000")),
            (json!({"runAsNonRoot": true}), json!({}), "", Err("will run as root")),
            (json!({"runAsNonRoot": true}), json!({}), "app", Err("non-numeric user (app)")),
            (json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), "", Err("breaks non-root policy")),
            (json!({}), json!({"seccompProfile": {"type": "Localhost"}}), "", Err("of type Localhost")),
            (json!({"runAsUser": -1}), json!({}), "", Err("out of range")),
        ] {
            match (user_of(pod, own, image), expected) {
                (Ok(user), Ok(expected)) => assert_eq!(user, expected),
                (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
                (got, expected) => panic!("{got:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn runs_have_names_of_their_own() {
        assert_eq!(parse_run(&run_name("web-1", 12)), Some(("web-1", 12)));
        assert_eq!(parse_run("web"), None);
    }
}
