//! The body of `create`: what of it is done, what is warned about, what is refused.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::Deserialize;
use serde_json::Value;
use wharf_engine::{InputMode, MountPoint, MountSource, Publish, Resources, Restart, Spec};
use wharf_image::Healthcheck;

use super::answer::Failure;

/// The body of `POST /containers/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Body {
    hostname: String,
    domainname: String,
    user: String,
    #[serde(deserialize_with = "nothing_is_default")]
    exposed_ports: BTreeMap<String, Value>,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    #[serde(deserialize_with = "nothing_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "words")]
    cmd: Option<Vec<String>>,
    image: String,
    #[serde(deserialize_with = "nothing_is_default")]
    volumes: BTreeMap<String, Value>,
    working_dir: String,
    #[serde(deserialize_with = "words")]
    entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "nothing_is_default")]
    labels: BTreeMap<String, String>,
    stop_signal: String,
    stop_timeout: Option<i64>,
    healthcheck: Option<Healthcheck>,
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct NetworkingConfig {
    #[serde(deserialize_with = "nothing_is_default")]
    endpoints_config: BTreeMap<String, Option<Endpoint>>,
}

/// How a container stands in a network.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Endpoint {
    #[serde(deserialize_with = "nothing_is_default")]
    pub(super) aliases: Vec<String>,
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<Value>,
    #[serde(deserialize_with = "nothing_is_default")]
    links: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct HostConfig {
    #[serde(deserialize_with = "nothing_is_default")]
    binds: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    mounts: Vec<Mount>,
    #[serde(deserialize_with = "nothing_is_default")]
    tmpfs: BTreeMap<String, String>,
    network_mode: String,
    #[serde(deserialize_with = "nothing_is_default")]
    port_bindings: BTreeMap<String, Option<Vec<Binding>>>,
    publish_all_ports: bool,
    restart_policy: RestartPolicy,
    auto_remove: bool,
    #[serde(deserialize_with = "nothing_is_default")]
    cap_add: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    cap_drop: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    dns: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    dns_search: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    dns_options: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    extra_hosts: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    group_add: Vec<String>,
    ipc_mode: String,
    pid_mode: String,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: String,
    privileged: bool,
    readonly_rootfs: bool,
    #[serde(deserialize_with = "nothing_is_default")]
    security_opt: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    sysctls: BTreeMap<String, String>,
    shm_size: i64,
    oom_score_adj: i32,
    #[serde(deserialize_with = "nothing_is_default")]
    ulimits: Vec<Ulimit>,
    memory: i64,
    memory_reservation: i64,
    memory_swap: i64,
    nano_cpus: i64,
    cpu_shares: i64,
    cpu_period: i64,
    cpu_quota: i64,
    cpuset_cpus: String,
    cpuset_mems: String,
    pids_limit: Option<i64>,
    init: Option<bool>,
    runtime: String,
    #[serde(deserialize_with = "nothing_is_default")]
    volumes_from: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    links: Vec<String>,
    #[serde(deserialize_with = "nothing_is_default")]
    devices: Vec<Value>,
    #[serde(deserialize_with = "nothing_is_default")]
    device_requests: Vec<Value>,
    log_config: LogConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LogConfig {
    #[serde(rename = "Type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    bind_options: Option<BindOptions>,
    tmpfs_options: Option<TmpfsOptions>,
    volume_options: Option<VolumeOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct BindOptions {
    propagation: String,
    create_mountpoint: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct TmpfsOptions {
    size_bytes: u64,
    mode: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct VolumeOptions {
    no_copy: bool,
    subpath: String,
    driver_config: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Binding {
    host_ip: String,
    host_port: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RestartPolicy {
    name: String,
    maximum_retry_count: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ulimit {
    name: String,
    soft: i64,
    hard: i64,
}

fn nothing_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of words, or one text.
fn words<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

/// What a body asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) spec: Spec,
    /// What is not done.
    pub(super) warnings: Vec<String>,
    /// Further networks, with the names there.
    pub(super) networks: Vec<(String, Vec<String>)>,
    /// All ports the image or the body names are to be published.
    pub(super) publish_all: bool,
    pub(super) exposed: Vec<String>,
}

/// Reads the body of `create`.
pub(super) fn read(body: &Value) -> Result<Wanted, Failure> {
    let body: Body = Body::deserialize(body)
        .map_err(|error| Failure::bad(format!("the description of the container cannot be read: {error}")))?;
    if body.image.is_empty() {
        return Err(Failure::bad("no image is named"));
    }
    let mut warnings = Vec::new();
    let host = &body.host_config;
    refuse(host)?;
    warn(&body, &mut warnings);
    let network = match host.network_mode.as_str() {
        "" | "default" => "bridge".to_owned(),
        mode if mode.starts_with("container:") => {
            return Err(Failure::not_supported(
                "sharing the network of another container is not supported yet",
            ));
        }
        mode => mode.to_owned(),
    };
    let mut networks = Vec::new();
    let mut aliases = Vec::new();
    for (name, endpoint) in body.networking_config.endpoints_config {
        let endpoint = endpoint.unwrap_or_default();
        if !endpoint.links.is_empty() {
            warnings.push(
                "Links of networks are not made: containers of one network know each other by name.".into(),
            );
        }
        if endpoint
            .ipam_config
            .is_some_and(|config| config != Value::Object(Default::default()) && !config.is_null())
        {
            warnings.push(format!(
                "The address asked for in network {name} is not given: addresses are assigned."
            ));
        }
        match name == network || (name == "default" && network == "bridge") {
            true => aliases = endpoint.aliases,
            false => networks.push((name, endpoint.aliases)),
        }
    }
    let (no_new_privileges, seccomp_unconfined) = security(&host.security_opt, &mut warnings)?;
    let spec = Spec {
        image: body.image,
        rootfs: None,
        entrypoint: body.entrypoint.map(|words| if words == [""] { Vec::new() } else { words }),
        command: body.cmd.unwrap_or_default(),
        env: body.env,
        workdir: some(body.working_dir),
        user: some(body.user),
        groups: groups(&host.group_add)?,
        hostname: some(body.hostname),
        tty: body.tty,
        stdin: match (body.open_stdin, body.stdin_once) {
            (false, _) => InputMode::Null,
            (true, true) => InputMode::Once,
            (true, false) => InputMode::Open,
        },
        labels: body.labels,
        stop_signal: some(body.stop_signal),
        stop_timeout: body.stop_timeout.and_then(|seconds| u64::try_from(seconds).ok()),
        network,
        aliases,
        publish: publish(&host.port_bindings)?,
        extra_hosts: extra_hosts(&host.extra_hosts)?,
        dns: host.dns.clone(),
        dns_search: host.dns_search.clone(),
        mounts: mounts(host, body.volumes.into_keys())?,
        resources: resources(host)?,
        read_only: host.readonly_rootfs,
        privileged: host.privileged,
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        no_new_privileges,
        seccomp_unconfined,
        sysctls: host.sysctls.clone(),
        ulimits: host.ulimits.iter().map(ulimit).collect(),
        shm_size: u64::try_from(host.shm_size).ok().filter(|size| *size > 0),
        oom_score_adj: Some(host.oom_score_adj).filter(|adjustment| *adjustment != 0),
        host_pids: host.pid_mode == "host",
        host_ipc: host.ipc_mode == "host",
        auto_remove: host.auto_remove,
        restart: restart(&host.restart_policy, host.auto_remove)?,
        healthcheck: body.healthcheck,
    };
    let exposed = body.exposed_ports.into_keys().collect();
    Ok(Wanted { spec, warnings, networks, publish_all: body.host_config.publish_all_ports, exposed })
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// What would change what the container is, and cannot be done.
fn refuse(host: &HostConfig) -> Result<(), Failure> {
    let given = [
        (!host.volumes_from.is_empty(), "VolumesFrom"),
        (!host.devices.is_empty(), "Devices"),
        (!host.device_requests.is_empty(), "DeviceRequests"),
        (host.pid_mode.starts_with("container:"), "PidMode of another container"),
        (host.ipc_mode.starts_with("container:"), "IpcMode of another container"),
        (!matches!(host.userns_mode.as_str(), "" | "host"), "UsernsMode"),
        (!matches!(host.log_config.kind.as_str(), "" | "json-file" | "local" | "journald"), "LogConfig.Type"),
        (!matches!(host.runtime.as_str(), "" | "wharf" | "runc"), "Runtime"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        Some((_, name)) => Err(Failure::not_supported(format!("HostConfig.{name} is not supported"))),
        None => Ok(()),
    }
}

fn warn(body: &Body, warnings: &mut Vec<String>) {
    let host = &body.host_config;
    let given = [
        (
            host.init == Some(true),
            "HostConfig.Init has no effect: no init process is put before the program.",
        ),
        (
            !host.links.is_empty(),
            "HostConfig.Links has no effect: containers of one network know each other by name.",
        ),
        (!host.dns_options.is_empty(), "HostConfig.DnsOptions has no effect."),
        (!body.domainname.is_empty(), "Domainname has no effect."),
        (host.uts_mode == "host", "HostConfig.UTSMode has no effect: the host name is the container's own."),
    ];
    warnings.extend(given.into_iter().filter(|(given, _)| *given).map(|(_, text)| text.to_owned()));
    if body.healthcheck.as_ref().is_some_and(wharf_engine::checks) {
        warnings.push("Healthcheck is kept and not run yet: the container has no health.".to_owned());
    }
}

fn security(options: &[String], warnings: &mut Vec<String>) -> Result<(bool, bool), Failure> {
    let (mut no_new_privileges, mut unconfined) = (false, false);
    for option in options {
        match option.replace('=', ":").as_str() {
            "no-new-privileges" | "no-new-privileges:true" => no_new_privileges = true,
            "no-new-privileges:false" | "seccomp:builtin" => {}
            "seccomp:unconfined" => unconfined = true,
            other if other.starts_with("label:") || other.starts_with("apparmor:") => {
                warnings.push(format!("The security option {option} has no effect."));
            }
            _ => return Err(Failure::bad(format!("the security option '{option}' is not supported"))),
        }
    }
    Ok((no_new_privileges, unconfined))
}

fn groups(names: &[String]) -> Result<Vec<u32>, Failure> {
    let number = |name: &String| {
        name.parse().map_err(|_| {
            Failure::bad(format!("the group '{name}' is not a number: groups are added by number (GroupAdd)"))
        })
    };
    names.iter().map(number).collect()
}

fn publish(bindings: &BTreeMap<String, Option<Vec<Binding>>>) -> Result<Vec<Publish>, Failure> {
    let mut ports = Vec::new();
    for (inside, outside) in bindings {
        let default = vec![Binding::default()];
        for binding in outside.as_ref().filter(|all| !all.is_empty()).unwrap_or(&default) {
            let mut port: Publish = match binding.host_port.as_str() {
                "" => inside.parse()?,
                host => format!("{host}:{inside}").parse()?,
            };
            port.host_ip = match binding.host_ip.as_str() {
                "" | "0.0.0.0" | "::" => None,
                ip => Some(ip.parse::<Ipv4Addr>().map_err(|_| {
                    Failure::bad(format!("invalid port binding: '{ip}' is no IPv4 address of this machine"))
                })?),
            };
            ports.push(port);
        }
    }
    Ok(ports)
}

fn extra_hosts(lines: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let read = |line: &String| {
        let (name, address) = line
            .split_once([':', '='])
            .ok_or_else(|| Failure::bad(format!("bad format for add-host: '{line}': write NAME:ADDRESS")))?;
        Ok((name.to_owned(), address.to_owned()))
    };
    lines.iter().map(read).collect()
}

fn mounts(host: &HostConfig, volumes: impl Iterator<Item = String>) -> Result<Vec<MountPoint>, Failure> {
    let mut mounts = host.binds.iter().map(|bind| bind_of(bind)).collect::<Result<Vec<_>, _>>()?;
    mounts.extend(host.mounts.iter().map(mount_of).collect::<Result<Vec<_>, _>>()?);
    for (target, options) in &host.tmpfs {
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        mounts.push(MountPoint { source: MountSource::Tmpfs, target: target.clone(), options });
    }
    for target in volumes.collect::<Vec<_>>() {
        if !mounts.iter().any(|mount| mount.target == target) {
            mounts.push(MountPoint { source: anonymous(), target, options: Vec::new() });
        }
    }
    if let Some(bad) = mounts.iter().find(|mount| !mount.target.starts_with('/')) {
        return Err(Failure::bad(format!(
            "invalid mount config: invalid mount path: '{}' mount path must be absolute",
            bad.target
        )));
    }
    Ok(mounts)
}

/// A volume nobody has named.
fn anonymous() -> MountSource {
    MountSource::Volume(wharf_base::random_hex(32))
}

/// `SOURCE:TARGET[:OPTIONS]`, or a target alone.
fn bind_of(text: &str) -> Result<MountPoint, Failure> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (anonymous(), target, ""),
        [source, target] => (source_of(source), target, ""),
        [source, target, options] => (source_of(source), target, options),
        _ => return Err(Failure::bad(format!("invalid volume specification: '{text}'"))),
    };
    let known =
        |option: &&str| !matches!(*option, "" | "z" | "Z" | "rw" | "consistent" | "cached" | "delegated");
    let options = options.split(',').filter(known).map(str::to_owned).collect();
    Ok(MountPoint { source, target: target.to_owned(), options })
}

fn source_of(text: &str) -> MountSource {
    match text.starts_with('/') {
        true => MountSource::Path { path: text.into(), make: true },
        false => MountSource::Volume(text.to_owned()),
    }
}

fn mount_of(mount: &Mount) -> Result<MountPoint, Failure> {
    let mut options: Vec<String> = mount.read_only.then(|| "ro".to_owned()).into_iter().collect();
    let source = match mount.kind.as_str() {
        "bind" => {
            let bind = mount.bind_options.as_ref();
            options.extend(
                bind.map(|bind| bind.propagation.clone()).filter(|propagation| !propagation.is_empty()),
            );
            let make = bind.is_some_and(|bind| bind.create_mountpoint);
            if !mount.source.starts_with('/') {
                return Err(Failure::bad(
                    "invalid mount config for type \"bind\": the source must be an absolute path",
                ));
            }
            let path: std::path::PathBuf = mount.source.clone().into();
            if !make && !path.exists() {
                return Err(Failure::bad(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                )));
            }
            MountSource::Path { path, make }
        }
        "volume" => {
            let wanted = mount.volume_options.as_ref();
            if wanted.is_some_and(|wanted| !wanted.subpath.is_empty()) {
                return Err(Failure::not_supported("a part of a volume (Subpath) cannot be mounted yet"));
            }
            if let Some(driver) = wanted.and_then(|wanted| wanted.driver_config.as_ref())
                && driver["Name"].as_str().is_some_and(|name| !matches!(name, "" | "local"))
            {
                return Err(Failure::not_supported(
                    "volumes of other drivers than 'local' are not supported",
                ));
            }
            options.extend(wanted.filter(|wanted| wanted.no_copy).map(|_| "nocopy".to_owned()));
            match mount.source.as_str() {
                "" => anonymous(),
                name => MountSource::Volume(name.to_owned()),
            }
        }
        "tmpfs" => {
            let wanted = mount.tmpfs_options.as_ref();
            options.extend(wanted.filter(|w| w.size_bytes > 0).map(|w| format!("size={}", w.size_bytes)));
            options.extend(wanted.filter(|w| w.mode > 0).map(|w| format!("mode={:o}", w.mode)));
            MountSource::Tmpfs
        }
        other => {
            return Err(Failure::not_supported(format!("mounts of the type '{other}' are not supported")));
        }
    };
    Ok(MountPoint { source, target: mount.target.clone(), options })
}

fn resources(host: &HostConfig) -> Result<Resources, Failure> {
    let positive = |value: i64| Some(value).filter(|value| *value > 0);
    if (1..6_291_456).contains(&host.memory) {
        return Err(Failure::bad("Minimum memory limit allowed is 6MB"));
    }
    let (quota, period) = match host.nano_cpus {
        0 => (positive(host.cpu_quota), positive(host.cpu_period)),
        nano if nano < 0 => return Err(Failure::bad("NanoCpus must not be negative")),
        nano => (Some((nano / 10_000).max(1000)), Some(100_000)),
    };
    Ok(Resources {
        memory: positive(host.memory),
        memory_reservation: positive(host.memory_reservation),
        memory_swap: Some(host.memory_swap).filter(|swap| *swap != 0),
        cpu_quota: quota,
        cpu_period: period.and_then(|period| u64::try_from(period).ok()),
        cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|shares| *shares > 0),
        cpuset_cpus: some(host.cpuset_cpus.clone()),
        cpuset_mems: some(host.cpuset_mems.clone()),
        pids: host.pids_limit.filter(|limit| *limit > 0),
    })
}

fn ulimit(limit: &Ulimit) -> (String, u64, u64) {
    // -1 is no limit.
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    (limit.name.clone(), number(limit.soft), number(limit.hard))
}

/// `RestartPolicy`, of `create` and of `update`.
pub(super) fn restart(policy: &RestartPolicy, auto_remove: bool) -> Result<Restart, Failure> {
    let restart = match policy.name.as_str() {
        "" | "no" => Restart::No,
        "always" => Restart::Always,
        "unless-stopped" => Restart::UnlessStopped,
        "on-failure" => Restart::OnFailure(policy.maximum_retry_count),
        other => return Err(Failure::bad(format!("invalid restart policy '{other}'"))),
    };
    if auto_remove && restart != Restart::No {
        return Err(Failure::bad("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(restart)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(body: Value) -> Result<Wanted, String> {
        read(&body).map_err(|failure| failure.message().to_owned())
    }

    #[test]
    fn a_body_of_the_cli_is_understood() {
        let wanted = wanted(json!({
            "Image": "web", "Cmd": ["a"], "Entrypoint": null, "Env": null, "Tty": true, "OpenStdin": true,
            "HostConfig": {
                "Binds": ["/a:/b:ro", "data:/c"], "NetworkMode": "shop", "Memory": 67_108_864, "NanoCpus": 1_500_000_000,
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "PidsLimit": 0, "Init": true,
            },
            "NetworkingConfig": {"EndpointsConfig": {"shop": {"Aliases": ["www"]}, "other": {}}},
        }))
        .unwrap();
        let spec = &wanted.spec;
        let ports: Vec<String> = spec.publish.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["127.0.0.1:0:53/udp", "8080:80/tcp"]);
        assert_eq!((spec.resources.cpu_quota, spec.resources.pids), (Some(150_000), None));
        assert_eq!((spec.aliases.as_slice(), wanted.networks.len()), (&["www".to_owned()][..], 1));
        assert_eq!((spec.restart, spec.stdin), (Restart::OnFailure(3), InputMode::Open));
        assert_eq!(spec.mounts[0].options, ["ro"]);
        assert_eq!(spec.mounts[1].source, MountSource::Volume("data".into()));
        assert!(wanted.warnings[0].contains("Init"));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (host, part) in [
            (json!({"Devices": [{}]}), "Devices"),
            (json!({"Memory": 1000}), "6MB"),
            (json!({"SecurityOpt": ["seccomp={}"]}), "seccomp={}"),
            (json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}), "AutoRemove"),
            (json!({"Binds": ["/a:b"]}), "absolute"),
            (json!({"PortBindings": {"x": null}}), "ports are numbers"),
            (json!({"NetworkMode": "container:x"}), "another container"),
        ] {
            let refused = wanted(json!({"Image": "web", "HostConfig": host})).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
        assert!(wanted(json!({"Image": 3})).is_err() && wanted(json!({})).is_err());
    }
}
