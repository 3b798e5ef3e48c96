//! The body of `create`: what of it is done, what is warned about, what is refused.

mod endpoint;
mod limits;
mod mounts;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use serde::Deserialize;
use serde_json::Value;
use wharf_engine::{Device, InputMode, Publish, Restart, Spec, Whose};
use wharf_image::Healthcheck;
use wharf_runtime::{SpecOptions, oci::LinuxSeccomp};

use super::{answer::Failure, route::without_nothing, seccomp};
pub(super) use endpoint::Endpoint;
pub(super) use limits::limits;
use limits::{resources, ulimit};
pub(super) use mounts::anonymous;
use mounts::mounts;

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
    mac_address: String,
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
    cgroupns_mode: String,
    #[serde(deserialize_with = "nothing_is_default")]
    storage_opt: BTreeMap<String, String>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    memory_swappiness: Option<i64>,
    oom_kill_disable: bool,
    blkio_weight: u16,
    cgroup_parent: String,
    volume_driver: String,
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
    devices: Vec<DeviceMapping>,
    #[serde(deserialize_with = "nothing_is_default")]
    device_requests: Vec<Value>,
    #[serde(deserialize_with = "nothing_is_default")]
    device_cgroup_rules: Vec<String>,
    log_config: LogConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct LogConfig {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(deserialize_with = "nothing_is_default")]
    config: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DeviceMapping {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
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
    non_recursive: bool,
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
    #[serde(deserialize_with = "nothing_is_default")]
    labels: BTreeMap<String, String>,
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
    /// All ports the image or the body names are to be published.
    pub(super) publish_all: bool,
    pub(super) exposed: Vec<String>,
    /// Containers whose volumes it gets, and whether only to read.
    pub(super) volumes_from: Vec<(String, bool)>,
    /// Labels of volumes that are made for it.
    pub(super) volume_labels: BTreeMap<String, BTreeMap<String, String>>,
}

/// Reads the body of `create`.
pub(super) fn read(body: &Value) -> Result<Wanted, Failure> {
    let body: Body = Body::deserialize(without_nothing(body))
        .map_err(|error| Failure::bad(format!("the description of the container cannot be read: {error}")))?;
    if body.image.is_empty() {
        return Err(Failure::bad("no image is named"));
    }
    let mut warnings = Vec::new();
    let host = &body.host_config;
    refuse(host)?;
    check(&body)?;
    warn(&body, &mut warnings);
    let network = match host.network_mode.as_str() {
        "" | "default" => "bridge".to_owned(),
        mode => mode.to_owned(),
    };
    let mut endpoints = BTreeMap::new();
    for (name, endpoint) in body.networking_config.endpoints_config {
        let endpoint = endpoint.unwrap_or_default();
        let name = if name == "default" { "bridge".to_owned() } else { name };
        let endpoint = endpoint.read(&name)?;
        endpoints.insert(name, endpoint);
    }
    if let Some(address) = some(body.mac_address) {
        let own = endpoints.entry(network.clone()).or_default();
        own.wish.hardware = Some(endpoint::hardware(&address)?);
    }
    let security = security(host, &mut warnings)?;
    let (ipc, no_shm) = ipc(&host.ipc_mode)?;
    let spec = Spec {
        image: body.image,
        rootfs: None,
        entrypoint: body.entrypoint.map(|words| if words == [""] { Vec::new() } else { words }),
        command: body.cmd.unwrap_or_default(),
        env: body.env,
        workdir: some(body.working_dir),
        user: some(body.user),
        groups: host.group_add.clone(),
        hostname: some(body.hostname),
        domainname: some(body.domainname),
        init: host.init == Some(true),
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
        endpoints,
        publish: publish(&host.port_bindings)?,
        extra_hosts: extra_hosts(&host.extra_hosts)?,
        dns: host.dns.clone(),
        dns_search: host.dns_search.clone(),
        dns_options: host.dns_options.clone(),
        volumes: Vec::new(),
        mounts: mounts(host, body.volumes.into_keys())?,
        resources: resources(host)?,
        read_only: host.readonly_rootfs,
        privileged: host.privileged,
        cap_add: host.cap_add.clone(),
        cap_drop: host.cap_drop.clone(),
        no_new_privileges: security.no_new_privileges,
        seccomp_unconfined: security.unconfined,
        seccomp: security.filter,
        devices: host.devices.iter().map(device).collect::<Result<_, _>>()?,
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        sysctls: host.sysctls.clone(),
        ulimits: host.ulimits.iter().map(ulimit).collect(),
        shm_size: u64::try_from(host.shm_size).ok().filter(|size| *size > 0),
        oom_score_adj: Some(host.oom_score_adj).filter(|adjustment| *adjustment != 0),
        pids: whose(&host.pid_mode)
            .ok_or_else(|| Failure::bad(format!("Invalid PID mode: {}", host.pid_mode)))?,
        ipc,
        no_shm,
        host_uts: host.uts_mode == "host",
        no_log: host.log_config.kind == "none",
        log_bytes: host.log_config.config.get("max-size").map(|text| log_size(text)).transpose()?.flatten(),
        log_files: host.log_config.config.get("max-file").map(|text| log_files(text)).transpose()?,
        auto_remove: host.auto_remove,
        restart: restart(&host.restart_policy, host.auto_remove)?,
        healthcheck: body.healthcheck,
    };
    let exposed = body.exposed_ports.into_keys().collect();
    let host = body.host_config;
    let volume_labels = host.mounts.into_iter().filter_map(|mount| {
        let labels = mount.volume_options.map(|options| options.labels).unwrap_or_default();
        (!labels.is_empty() && !mount.source.is_empty()).then_some((mount.source, labels))
    });
    let volumes_from = host.volumes_from.iter().map(|text| match text.rsplit_once(':') {
        Some((id, "ro")) => Ok((id.to_owned(), true)),
        Some((id, "rw" | "z" | "Z")) => Ok((id.to_owned(), false)),
        None => Ok((text.clone(), false)),
        Some((_, mode)) => Err(Failure::bad(format!("invalid mode for volumes-from: {mode}"))),
    });
    Ok(Wanted {
        spec,
        warnings,
        publish_all: host.publish_all_ports,
        exposed,
        volumes_from: volumes_from.collect::<Result<_, _>>()?,
        volume_labels: volume_labels.collect(),
    })
}

/// Whose namespace a mode names.
fn whose(mode: &str) -> Option<Whose> {
    match mode {
        "" | "private" | "shareable" => Some(Whose::Own),
        "host" => Some(Whose::Host),
        mode => {
            Some(Whose::Container(mode.strip_prefix("container:").filter(|id| !id.is_empty())?.to_owned()))
        }
    }
}

fn ipc(mode: &str) -> Result<(Whose, bool), Failure> {
    match mode {
        "none" => Ok((Whose::Own, true)),
        mode => {
            let whose = whose(mode).ok_or_else(|| Failure::bad(format!("Invalid IPC mode: {mode}")))?;
            Ok((whose, false))
        }
    }
}

fn device(mapping: &DeviceMapping) -> Result<Device, Failure> {
    let inside = match mapping.path_in_container.as_str() {
        "" => &mapping.path_on_host,
        inside => inside,
    };
    let access = match mapping.cgroup_permissions.as_str() {
        "" => "rwm",
        access => access,
    };
    if !inside.starts_with('/') || !access.chars().all(|c| matches!(c, 'r' | 'w' | 'm')) {
        return Err(Failure::bad(format!(
            "bad device '{}:{inside}:{access}': paths are absolute, and what is allowed is of r, w and m",
            mapping.path_on_host
        )));
    }
    Ok(Device { path: mapping.path_on_host.clone().into(), inside: inside.into(), access: access.to_owned() })
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// What would change what the container is, and cannot be done.
fn refuse(host: &HostConfig) -> Result<(), Failure> {
    let given = [
        (!host.device_requests.is_empty(), "DeviceRequests"),
        (!host.device_cgroup_rules.is_empty(), "DeviceCgroupRules"),
        (!matches!(host.userns_mode.as_str(), "" | "host"), "UsernsMode"),
        (
            !matches!(host.log_config.kind.as_str(), "" | "json-file" | "local" | "journald" | "none"),
            "LogConfig.Type",
        ),
        (!host.storage_opt.is_empty(), "StorageOpt"),
        (!host.cgroup_parent.is_empty(), "CgroupParent"),
        (!matches!(host.volume_driver.as_str(), "" | "local"), "VolumeDriver"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        Some((_, name)) => Err(Failure::not_supported(format!("HostConfig.{name} is not supported"))),
        None => Ok(()),
    }
}

/// Mistakes, in the words clients know from docker.
fn check(body: &Body) -> Result<(), Failure> {
    let host = &body.host_config;
    let bad = |message: String| Err(Failure::bad(message));
    if !matches!(host.runtime.as_str(), "" | "wharf" | "runc") {
        return bad(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    if body.image.chars().any(|c| c.is_ascii_uppercase()) {
        let repository = body.image.split('@').next().unwrap_or_default();
        let tag = repository.rfind(':').filter(|at| !repository[*at..].contains('/'));
        let repository = &repository[..tag.unwrap_or(repository.len())];
        // A registry's name may be written so, before the first slash; an id has no other letters.
        let path = match repository.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => rest,
            _ => repository,
        };
        if path.chars().any(|c| c.is_ascii_uppercase()) {
            return bad("invalid reference format: repository name must be lowercase".to_owned());
        }
    }
    if !body.working_dir.is_empty() && !body.working_dir.starts_with('/') {
        let place = &body.working_dir;
        return bad(format!("the working directory '{place}' is invalid, it needs to be an absolute path"));
    }
    if let Some(check) = &body.healthcheck {
        let times = [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ];
        if let Some((name, _)) = times.iter().find(|(_, nanos)| *nanos != 0 && *nanos < LEAST_TIME) {
            return bad(format!("{name} in Healthcheck cannot be less than 1ms"));
        }
        if check.retries < 0 {
            return bad("Retries in Healthcheck cannot be negative".to_owned());
        }
    }
    if !body.stop_signal.is_empty() && wharf_engine::signal_number(&body.stop_signal).is_err() {
        return bad(format!("Invalid signal: {}", body.stop_signal));
    }
    if host.network_mode.starts_with("container:") {
        let conflict = [
            (!host.port_bindings.is_empty() || host.publish_all_ports, "port publishing"),
            (!body.hostname.is_empty(), "hostname"),
            (!host.dns.is_empty(), "dns"),
            (!host.extra_hosts.is_empty(), "custom host-to-IP mapping"),
        ];
        if let Some((_, what)) = conflict.iter().find(|(given, _)| *given) {
            return bad(format!("conflicting options: {what} and the container type network mode"));
        }
    }
    if host.uts_mode == "host" && !body.hostname.is_empty() {
        return bad("conflicting options: hostname and the UTS mode".to_owned());
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        let score = host.oom_score_adj;
        return bad(format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"));
    }
    if host.memory_swappiness.is_some_and(|value| !(-1..=100).contains(&value)) {
        let value = host.memory_swappiness.unwrap_or_default();
        return bad(format!("Invalid value: {value}, valid memory swappiness range is 0-100"));
    }
    if let Some(option) = host.log_config.config.keys().find(|name| !LOG_OPTIONS.contains(&name.as_str())) {
        return bad(format!("unknown log opt '{option}' for json-file log driver"));
    }
    for (list, name) in [(&host.cap_add, "CapAdd"), (&host.cap_drop, "CapDrop")] {
        if let Some(unknown) = list.iter().find(|name| !is_capability(name)) {
            let unknown = unknown.to_ascii_uppercase();
            let unknown = unknown.strip_prefix("CAP_").unwrap_or(&unknown);
            return bad(format!("invalid {name}: unknown capability: \"CAP_{unknown}\""));
        }
    }
    Ok(())
}

/// Bytes of a log file, as docker writes them: `10m`; without a limit for -1.
fn log_size(text: &str) -> Result<Option<u64>, Failure> {
    if text == "-1" {
        return Ok(Some(u64::MAX));
    }
    let lower = text.to_ascii_lowercase();
    let plain = lower.trim_end_matches('b');
    let (number, unit) = match plain.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (number, plain.as_bytes().last().copied().unwrap_or_default()),
        None => (plain, 0),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    let bytes = number.parse::<u64>().ok().filter(|number| *number > 0 && *number < 1 << 32);
    let bytes = bytes.ok_or_else(|| Failure::bad(format!("invalid size: '{text}' (max-size of the log)")))?;
    Ok(Some(bytes << shift))
}

fn log_files(text: &str) -> Result<u32, Failure> {
    let files = text.parse().ok().filter(|files| (1..=1000).contains(files));
    files.ok_or_else(|| Failure::bad(format!("max-file of the log is a number from 1 to 1000, not '{text}'")))
}

/// Nanoseconds between two health checks at the least.
const LEAST_TIME: i64 = 1_000_000;

/// What the log driver of docker's knows; sizes are wharf's own.
const LOG_OPTIONS: [&str; 7] = ["max-size", "max-file", "compress", "labels", "labels-regex", "env", "tag"];

fn is_capability(name: &str) -> bool {
    name.eq_ignore_ascii_case("all") || capabilities(&[name.to_owned()], &[], false).is_some()
}

/// The capabilities a container gets.
fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Option<BTreeSet<String>> {
    let options = SpecOptions {
        add_capabilities: add.to_vec(),
        drop_capabilities: drop.to_vec(),
        privileged,
        ..SpecOptions::default()
    };
    let spec = options.build().ok()?;
    let sets = spec.process().as_ref()?.capabilities().as_ref()?;
    Some(sets.bounding().iter().flatten().map(|capability| format!("CAP_{capability}")).collect())
}

fn warn(body: &Body, warnings: &mut Vec<String>) {
    let host = &body.host_config;
    let given = [
        (
            !host.links.is_empty() && matches!(host.network_mode.as_str(), "" | "default" | "bridge"),
            "HostConfig.Links has no effect on the default network: make one, whose containers know each other by name.",
        ),
        (
            host.cgroupns_mode == "host",
            "HostConfig.CgroupnsMode has no effect: the container sees its own control groups only.",
        ),
        (
            host.ipc_mode.starts_with("container:"),
            "HostConfig.IpcMode shares queues and System V memory; files in /dev/shm are the container's own.",
        ),
        (
            host.network_mode == "host" && !host.port_bindings.is_empty(),
            "Published ports are discarded when using host network mode",
        ),
        (
            host.log_config.config.keys().any(|name| !matches!(name.as_str(), "max-size" | "max-file")),
            "Of HostConfig.LogConfig.Config, options other than max-size and max-file have no effect.",
        ),
    ];
    warnings.extend(given.into_iter().filter(|(given, _)| *given).map(|(_, text)| text.to_owned()));
}

/// What `SecurityOpt` says.
#[derive(Debug, Default)]
struct Security {
    no_new_privileges: bool,
    unconfined: bool,
    filter: Option<Box<LinuxSeccomp>>,
}

fn security(host: &HostConfig, warnings: &mut Vec<String>) -> Result<Security, Failure> {
    let mut security = Security::default();
    for option in &host.security_opt {
        let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (name, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") | ("seccomp", "builtin") => {}
            ("seccomp", "unconfined") => security.unconfined = true,
            ("seccomp", text) if text.trim_start().starts_with('{') => {
                let kernel = seccomp::version(&rustix::system::uname().release().to_string_lossy());
                let caps = capabilities(&host.cap_add, &host.cap_drop, host.privileged).unwrap_or_default();
                let about = seccomp::About { has: &|name| caps.contains(name), kernel };
                security.filter = Some(Box::new(seccomp::read(text, &about)?));
            }
            // It is so.
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("label" | "apparmor", _) => {
                warnings.push(format!("The security option {option} has no effect."));
            }
            _ => return Err(Failure::bad(format!("the security option '{option}' is not supported"))),
        }
    }
    Ok(security)
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

/// `--add-host`: names and addresses.
pub(super) fn extra_hosts(lines: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let read = |line: &String| {
        let (name, address) = line
            .split_once([':', '='])
            .ok_or_else(|| Failure::bad(format!("bad format for add-host: '{line}': write NAME:ADDRESS")))?;
        Ok((name.to_owned(), address.to_owned()))
    };
    lines.iter().map(read).collect()
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
    if policy.maximum_retry_count > 0 && !matches!(restart, Restart::OnFailure(_)) {
        let name = if policy.name.is_empty() { "no" } else { &policy.name };
        return Err(Failure::bad(format!("maximum retry count cannot be used with restart policy '{name}'")));
    }
    if auto_remove && restart != Restart::No {
        return Err(Failure::bad("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(restart)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_engine::MountSource;

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
        assert_eq!(
            (spec.endpoints["shop"].aliases.as_slice(), spec.endpoints.len()),
            (&["www".to_owned()][..], 2)
        );
        assert_eq!((spec.restart, spec.stdin), (Restart::OnFailure(3), InputMode::Open));
        assert_eq!(spec.mounts[0].options, ["ro"]);
        assert_eq!(spec.mounts[1].source, MountSource::Volume("data".into()));
        assert!(wanted.spec.init);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (host, part) in [
            (json!({"Devices": [{"PathOnHost": "dev"}]}), "absolute"),
            (json!({"DeviceRequests": [{}]}), "DeviceRequests"),
            (json!({"CapAdd": ["NOPE"]}), "CAP_NOPE"),
            (json!({"NanoCpus": 100_000_000_000_000_i64}), "Range of CPUs"),
            (json!({"CpusetCpus": "0,4000"}), "not available"),
            (json!({"IpcMode": "nope"}), "IPC mode"),
            (json!({"Tmpfs": {"/t": "nope"}}), "tmpfs option"),
            (json!({"Binds": ["/a:/"]}), "destination can't be '/'"),
            (json!({"Binds": ["/a:/b:nope"]}), "invalid mode"),
            (json!({"Binds": ["a/b:/c"]}), "use absolute path"),
            (json!({"LogConfig": {"Type": "", "Config": {"nope": "1"}}}), "nope"),
            (json!({"Memory": 67_108_864, "MemorySwap": 33_554_432}), "memoryswap"),
            (json!({"Memory": 1000}), "6MB"),
            (json!({"SecurityOpt": ["seccomp={}"]}), "seccomp profile"),
            (json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}), "AutoRemove"),
            (json!({"Binds": ["/a:b"]}), "absolute"),
            (json!({"PortBindings": {"x": null}}), "ports are numbers"),
            (json!({"NetworkMode": "container:x", "PortBindings": {"80/tcp": null}}), "port publishing"),
        ] {
            let refused = wanted(json!({"Image": "web", "HostConfig": host})).unwrap_err();
            assert!(refused.contains(part), "{refused}");
        }
        assert!(wanted(json!({"Image": 3})).is_err() && wanted(json!({})).is_err());
        let busy = json!({"Image": "web", "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000}});
        assert!(wanted(busy).unwrap_err().contains("less than 1ms"));
        assert!(wanted(json!({"Image": "Upper/case"})).unwrap_err().contains("lowercase"));
        assert!(wanted(json!({"Image": "Reg.example/case:V1"})).is_ok());
    }

    #[test]
    fn what_is_null_is_not_there() {
        let body = json!({"Image": "web", "Tty": null, "StopTimeout": null, "HostConfig": {"Memory": null, "Init": null,
            "Privileged": null, "PortBindings": {"80/tcp": null}, "RestartPolicy": null},
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": null, "Retries": null}});
        let spec = wanted(body).unwrap().spec;
        assert_eq!((spec.publish.len(), spec.healthcheck.unwrap().retries), (1, 0));
    }
}
