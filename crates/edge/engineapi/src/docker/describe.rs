//! Containers in docker's words.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf_base::Timestamp;
use wharf_engine::{
    Container, Engine, INIT_PATH, InputMode, MAIN, MountPoint, MountSource, Place, Place6, Publish, Restart,
    by_port, networks, volumes, words,
};
use wharf_image::{ImageConfig, Store};
use wharf_runtime::Phase;

use super::answer::{Failure, merged};

/// A time that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The code it ended with, or could not be started with.
fn exit_code(container: &Container) -> i32 {
    match (&container.status.exit, &container.record.error) {
        (Some(exit), _) if !container.is_running() => exit.code,
        (None, Some(error)) => error.code,
        _ => 0,
    }
}

/// The program and its arguments: as it was started, or as it will be.
pub(super) fn command(engine: &Engine, container: &Container) -> Vec<String> {
    let started = container.dir.container_config(MAIN).ok();
    if let Some(words) = started.and_then(|config| config.spec.process().as_ref()?.args().clone()) {
        // What was put before it is no part of it.
        return match words.as_slice() {
            [init, dashes, rest @ ..] if init == INIT_PATH && dashes == "--" => rest.to_vec(),
            _ => words,
        };
    }
    let spec = &container.record.spec;
    let image = config_of(engine, &container.record.image_id);
    let entrypoint = match (&spec.entrypoint, &image) {
        (Some(words), _) => words.clone(),
        (None, Some(image)) => image.config.entrypoint.clone().unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    let command = match (spec.command.is_empty() && spec.entrypoint.is_none(), image) {
        (true, Some(image)) => image.config.cmd.unwrap_or_default(),
        _ => spec.command.clone(),
    };
    [entrypoint, command].concat()
}

fn config_of(engine: &Engine, image_id: &str) -> Option<ImageConfig> {
    let store: Store = engine.images().ok()?;
    Some(store.resolve(image_id).ok()?.config)
}

fn port_rows(ports: &[Publish], exposed: &[String]) -> Vec<Value> {
    let mut rows: Vec<Value> = ports
        .iter()
        .map(|port| {
            json!({
                "IP": port.host_ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string()), "PrivatePort": port.container_port,
                "PublicPort": port.host_port, "Type": port.protocol.lower(),
            })
        })
        .collect();
    for text in exposed.iter().filter(|text| !ports.iter().any(|port| port.inside() == **text)) {
        if let Some((number, kind)) = text.split_once('/')
            && let Ok(number) = number.parse::<u16>()
        {
            rows.push(json!({ "PrivatePort": number, "Type": kind }));
        }
    }
    rows
}

/// A row of `GET /containers/json`.
pub(super) fn row(engine: &Engine, container: &Container, with_size: bool) -> Value {
    let spec = &container.record.spec;
    let ports = container.ports();
    let exposed = exposed(engine, container);
    let exposed = if container.is_running() { exposed } else { Vec::new() };
    let mut row = json!({
        "Id": container.id,
        "Names": [format!("/{}", container.name())],
        "Image": container.image(),
        "ImageID": container.record.image_id,
        "Command": command(engine, container).iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        "Created": unix(container.record.created_at),
        "Ports": port_rows(&ports, &exposed),
        "Labels": labels(engine, container),
        "State": state(container),
        "Status": status(container),
        "HostConfig": { "NetworkMode": spec.network },
        "NetworkSettings": { "Networks": endpoints(engine, container) },
        "Mounts": mounts(engine, container),
    });
    if with_size && let Value::Object(fields) = &mut row {
        add_sizes(engine, container, fields);
    }
    row
}

/// A word of a command, in quotes where it needs them.
fn quoted(word: &str) -> String {
    let plain = |c: char| {
        !c.is_whitespace() && !matches!(c, '\'' | '"' | '\\' | '$' | '`' | ';' | '&' | '|' | '<' | '>')
    };
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\"'\"'")),
    }
}

/// Bytes a container has written to its root file system.
pub(super) fn written(container: &Container) -> u64 {
    super::volumes::size(&container.dir.container(MAIN).join("upper"))
}

fn add_sizes(engine: &Engine, container: &Container, fields: &mut serde_json::Map<String, Value>) {
    let own = written(container);
    let layers = engine.images().ok().and_then(|store| store.resolve(&container.record.image_id).ok());
    let image: u64 =
        layers.iter().flat_map(|image| &image.lower_dirs).map(|layer| super::volumes::size(layer)).sum();
    fields.insert("SizeRw".into(), json!(own));
    fields.insert("SizeRootFs".into(), json!(own + image));
}

pub(super) fn unix(time: Timestamp) -> i64 {
    let begin = Timestamp::from_unix(0, 0);
    i64::try_from(time.since(begin).as_secs()).unwrap_or_default()
}

/// The image's labels and the container's own.
pub(super) fn labels(engine: &Engine, container: &Container) -> BTreeMap<String, String> {
    let mut labels =
        config_of(engine, &container.record.image_id).map(|image| image.config.labels).unwrap_or_default();
    labels.extend(container.record.spec.labels.clone());
    labels
}

pub(super) fn exposed(engine: &Engine, container: &Container) -> Vec<String> {
    let image = config_of(engine, &container.record.image_id);
    let mut ports: Vec<String> =
        image.map(|image| image.config.exposed_ports.into_keys().collect()).unwrap_or_default();
    let asked = container.record.docker.as_ref().and_then(|body| body["ExposedPorts"].as_object());
    ports.extend(asked.into_iter().flat_map(|ports| ports.keys().cloned()));
    ports.extend(container.record.spec.publish.iter().map(Publish::inside));
    ports.sort();
    ports.dedup();
    ports
}

/// Where a container is, by its networks' names; nowhere while it does not run.
fn places(engine: &Engine, container: &Container) -> BTreeMap<String, Place> {
    engine.places(container).unwrap_or_default()
}

/// The networks of a container with its place there.
fn endpoints(engine: &Engine, container: &Container) -> Value {
    let (spec, places) = (&container.record.spec, places(engine, container));
    let mut found = serde_json::Map::new();
    if matches!(spec.network.as_str(), networks::HOST | networks::NONE) {
        let id = super::networks::id_of(&spec.network);
        found.insert(spec.network.clone(), endpoint(container, &id, &[], None));
    }
    for (name, asked) in &spec.endpoints {
        let id = match name.as_str() {
            networks::BRIDGE => super::networks::id_of(name),
            name => networks::find(engine.data(), name).map(|found| found.bridge.id).unwrap_or_default(),
        };
        let mut described = endpoint(container, &id, &asked.aliases, places.get(name));
        if let Some(address) = asked.wish.address {
            described["IPAMConfig"]["IPv4Address"] = json!(address);
        }
        if !asked.links.is_empty() {
            described["Links"] = json!(asked.links);
        }
        if let Some(address) = asked.wish.ipv6 {
            described["IPAMConfig"]["IPv6Address"] = json!(address);
        }
        found.insert(name.clone(), described);
    }
    Value::Object(found)
}

fn endpoint(container: &Container, network: &str, aliases: &[String], place: Option<&Place>) -> Value {
    let mut names: Vec<&str> = aliases.iter().map(String::as_str).collect();
    names.push(container.id.short());
    let given = !aliases.is_empty();
    let known: Vec<&str> = std::iter::once(container.name()).chain(names.iter().copied()).collect();
    let text = |tell: fn(&Place) -> String| place.map(tell).unwrap_or_default();
    let id =
        if container.is_running() { super::networks::endpoint_id(container, network) } else { String::new() };
    let over_ipv6 = |tell: fn(&Place6) -> String| {
        place.and_then(|place| place.ipv6.as_ref()).map(tell).unwrap_or_default()
    };
    json!({
        "IPAMConfig": null, "Links": null, "Aliases": if given { json!(names) } else { Value::Null },
        "MacAddress": text(|place| super::networks::hardware(place.hardware)), "DriverOpts": null, "NetworkID": network,
        "EndpointID": id, "Gateway": text(|place| place.gateway.to_string()),
        "IPAddress": text(|place| place.address.to_string()), "IPPrefixLen": place.map_or(0, |place| place.prefix),
        "IPv6Gateway": over_ipv6(|over| over.gateway.to_string()),
        "GlobalIPv6Address": over_ipv6(|over| over.address.to_string()),
        "GlobalIPv6PrefixLen": place.and_then(|place| place.ipv6).map_or(0, |over| over.prefix), "DNSNames": known,
    })
}

fn mounts(engine: &Engine, container: &Container) -> Value {
    let describe = |mount: &MountPoint| {
        let writable = !mount.options.iter().any(|option| option == "ro");
        match &mount.source {
            MountSource::Path { path, .. } => json!({
                "Type": "bind", "Source": path, "Destination": mount.target, "Mode": mount.options.join(","),
                "RW": writable, "Propagation": "rprivate",
            }),
            MountSource::Volume(name) => json!({
                "Type": "volume", "Name": name, "Source": volumes::files(engine.data(), name), "Destination": mount.target,
                "Driver": "local", "Mode": "z", "RW": writable, "Propagation": "",
            }),
            MountSource::Tmpfs => json!({
                "Type": "tmpfs", "Source": "", "Destination": mount.target, "Mode": "", "RW": writable, "Propagation": "",
            }),
        }
    };
    // Those of `--tmpfs` stand in the host's part.
    let asked = container.record.docker.as_ref().and_then(|body| body["HostConfig"]["Tmpfs"].as_object());
    let elsewhere = |mount: &MountPoint| {
        mount.source == MountSource::Tmpfs && asked.is_some_and(|asked| asked.contains_key(&mount.target))
    };
    container.record.spec.mounts.iter().filter(|mount| !elsewhere(mount)).map(describe).collect()
}

fn restart_policy(restart: Restart) -> Value {
    let (name, most) = match restart {
        Restart::No => ("no", 0),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
        Restart::OnFailure(most) => ("on-failure", most),
    };
    json!({ "Name": name, "MaximumRetryCount": most })
}

/// Docker's word for how a container is. One that is started again in a moment restarts.
pub(super) fn state(container: &Container) -> &'static str {
    let ended = container.status.exit.as_ref().filter(|_| container.status.phase == Phase::Exited);
    match ended.is_some_and(|exit| super::keeper::wants_restart(&container.record, exit.code)) {
        true => "restarting",
        false => words::state(container),
    }
}

pub(super) fn status(container: &Container) -> String {
    let text = words::status(container);
    match state(container) {
        "restarting" => text.replacen("Exited", "Restarting", 1),
        _ => text,
    }
}

fn state_object(container: &Container) -> Value {
    let exit = container.status.exit.as_ref();
    let time = |time: Option<Timestamp>| time.map_or(NEVER.to_owned(), Timestamp::to_nano);
    let error = container.record.error.as_ref().map(|error| error.message.clone());
    let mut state = json!({
        "Status": state(container),
        "Running": container.is_running(),
        "Paused": container.status.phase == Phase::Paused,
        "Restarting": state(container) == "restarting",
        "OOMKilled": exit.is_some_and(|exit| exit.oom_killed),
        "Dead": false,
        "Pid": container.status.pid.unwrap_or(0),
        "ExitCode": exit_code(container),
        "Error": error.or_else(|| exit.and_then(|exit| exit.reason.clone())).unwrap_or_default(),
        "StartedAt": time(container.status.started_at),
        "FinishedAt": time(exit.filter(|_| !container.is_running()).map(|exit| exit.finished_at)),
    });
    if let (Ok(Some(health)), Value::Object(fields)) = (container.health(), &mut state) {
        fields.insert("Health".into(), json!(health));
    }
    state
}

/// What was asked for in `HostConfig`, with docker's defaults where nothing was.
fn host_config(container: &Container) -> Value {
    let spec = &container.record.spec;
    let limits = &spec.resources;
    let mut config = merged([
        json!({
        "Binds": null, "ContainerIDFile": "", "LogConfig": { "Type": "json-file", "Config": {} },
        "NetworkMode": spec.network, "PortBindings": by_port(&spec.publish, ""),
        "RestartPolicy": restart_policy(spec.restart), "AutoRemove": spec.auto_remove, "VolumeDriver": "", "VolumesFrom": null,
        "ConsoleSize": [0, 0], "CapAdd": null, "CapDrop": null, "CgroupnsMode": "private", "Dns": [], "DnsOptions": [],
        "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null }),
        json!({ "IpcMode": "private", "Cgroup": "", "Links": null,
            "OomScoreAdj": 0, "PidMode": "", "Privileged": spec.privileged, "PublishAllPorts": false,
            "ReadonlyRootfs": spec.read_only, "SecurityOpt": null, "UTSMode": "", "UsernsMode": "",
            "ShmSize": spec.shm_size.unwrap_or(64 << 20), "Runtime": "wharf", "Isolation": "", "CpuShares": limits.cpu_shares.unwrap_or(0),
            "Memory": limits.memory.unwrap_or(0), "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": limits.block_weight.unwrap_or(0),
            "CpuPeriod": 0, "CpuQuota": 0, "CpusetCpus": limits.cpuset_cpus.clone().unwrap_or_default(),
            "CpusetMems": limits.cpuset_mems.clone().unwrap_or_default(), "Devices": [], "DeviceCgroupRules": null,
            "DeviceRequests": null, "MemoryReservation": limits.memory_reservation.unwrap_or(0),
            "MemorySwap": limits.memory_swap.unwrap_or(0), "MemorySwappiness": null, "OomKillDisable": null,
            "PidsLimit": limits.pids, "Ulimits": null, "MaskedPaths": null, "ReadonlyPaths": null,
        }),
    ]);
    match container.record.docker.as_ref().and_then(|body| body["HostConfig"].as_object()) {
        Some(asked) => {
            if let Value::Object(fields) = &mut config {
                let told = ["NetworkMode", "RestartPolicy", "Runtime", "CgroupnsMode"];
                // What says nothing leaves the default.
                let nothing = [Value::Null, json!(0), json!(""), json!(-1)];
                let asked = asked
                    .iter()
                    .filter(|(name, value)| !told.contains(&name.as_str()) && !nothing.contains(value))
                    .filter(|(name, value)| *name != "LogConfig" || value["Type"] != "");
                fields.extend(asked.map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        None => {
            if let (Some(quota), Some(period)) = (limits.cpu_quota, limits.cpu_period) {
                config["NanoCpus"] =
                    json!(quota.saturating_mul(1_000_000_000) / i64::try_from(period.max(1)).unwrap_or(1));
            }
        }
    }
    config
}

/// `GET /containers/ID/json`.
pub(super) fn inspect(engine: &Engine, container: &Container, with_size: bool) -> Result<Value, Failure> {
    let spec = &container.record.spec;
    let words = command(engine, container);
    let image = config_of(engine, &container.record.image_id);
    let (entrypoint, cmd) = match &spec.entrypoint {
        Some(words) => (Some(words.clone()), Some(spec.command.clone())),
        None => {
            let config = image.as_ref().map(|image| image.config.clone()).unwrap_or_default();
            let cmd = if spec.command.is_empty() { config.cmd } else { Some(spec.command.clone()) };
            (config.entrypoint, cmd)
        }
    };
    let image_config = image.as_ref().map(|image| image.config.clone()).unwrap_or_default();
    let name = |setting: &str| setting.split('=').next().unwrap_or_default().to_owned();
    let own: Vec<String> = spec.env.iter().filter(|setting| setting.contains('=')).cloned().collect();
    let of_image =
        image_config.env.iter().filter(|known| !spec.env.iter().any(|own| name(own) == name(known)));
    let env = [own, of_image.cloned().collect()].concat();
    let endpoints = endpoints(engine, container);
    // Beside its networks, only what it is on the one that is always there.
    let on_bridge = match endpoints.get(networks::BRIDGE) {
        Some(endpoint) => endpoint.clone(),
        None => endpoint(container, "", &[], None),
    };
    let mut ports: serde_json::Map<String, Value> = by_port(&container.ports(), "0.0.0.0")
        .into_iter()
        .map(|(port, bindings)| (port, json!(bindings)))
        .collect();
    if container.is_running() {
        for port in exposed(engine, container) {
            ports.entry(port).or_insert(Value::Null);
        }
    }
    let exposed: serde_json::Map<String, Value> =
        exposed(engine, container).into_iter().map(|port| (port, json!({}))).collect();
    let volumes: serde_json::Map<String, Value> =
        image_config.volumes.keys().map(|place| (place.clone(), json!({}))).collect();
    let folder = container.dir.path();
    let mut described = merged([
        json!({
        "Id": container.id,
        "Created": container.record.created_at.to_nano(),
        "Path": words.first().cloned().unwrap_or_default(),
        "Args": words.get(1..).unwrap_or_default(),
        "State": state_object(container),
        "Image": container.record.image_id,
        "ResolvConfPath": folder.join("etc/resolv.conf"),
        "HostnamePath": folder.join("etc/hostname"),
        "HostsPath": folder.join("etc/hosts"),
        "LogPath": container.log(),
        "Name": format!("/{}", container.name()),
        "RestartCount": container.record.restarts,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": null,
        "HostConfig": host_config(container),
        "GraphDriver": { "Name": "overlay2", "Data": { "UpperDir": container.dir.container(MAIN).join("upper") } },
        "Mounts": mounts(engine, container),
        }),
        json!({
            "Config": {
                "Hostname": spec.hostname.clone().unwrap_or_else(|| container.id.short().to_owned()),
                "Domainname": spec.domainname.clone().unwrap_or_default(),
                "User": spec.user.clone().unwrap_or_else(|| image_config.user.clone()),
                "AttachStdin": asked(container, "AttachStdin"), "AttachStdout": asked(container, "AttachStdout"),
                "AttachStderr": asked(container, "AttachStderr"),
                "Tty": spec.tty,
                "OpenStdin": spec.stdin != InputMode::Null,
                "StdinOnce": spec.stdin == InputMode::Once,
                "Env": env,
                "Cmd": cmd,
                "Image": container.image(),
                "Volumes": if volumes.is_empty() { Value::Null } else { Value::Object(volumes) },
                "WorkingDir": spec.workdir.clone().unwrap_or_else(|| image_config.working_dir.clone()),
                "Entrypoint": entrypoint,
                "OnBuild": null,
                "Labels": labels(engine, container),
            },
            "NetworkSettings": {
                "Bridge": "", "SandboxID": if container.is_running() { container.id.as_str() } else { "" },
                "SandboxKey": container.status.pid.map_or(String::new(), |pid| format!("/proc/{pid}/ns/net")),
                "Ports": ports, "IPAddress": on_bridge["IPAddress"], "IPPrefixLen": on_bridge["IPPrefixLen"],
                "Gateway": on_bridge["Gateway"], "MacAddress": on_bridge["MacAddress"], "EndpointID": on_bridge["EndpointID"],
                "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPv6Gateway": "", "LinkLocalIPv6Address": "", "HairpinMode": false,
                "Networks": endpoints,
            },
        }),
    ]);
    let exposed = Value::Object(exposed);
    let some = [
        ("ExposedPorts", if exposed == json!({}) { Value::Null } else { exposed }),
        ("StopSignal", json!(spec.stop_signal.clone().or(image_config.stop_signal))),
        ("StopTimeout", json!(spec.stop_timeout)),
        ("Healthcheck", json!(spec.healthcheck.clone().or(image_config.healthcheck))),
    ];
    for (name, value) in some.into_iter().filter(|(_, value)| !value.is_null()) {
        described["Config"][name] = value;
    }
    if with_size && let Value::Object(fields) = &mut described {
        add_sizes(engine, container, fields);
    }
    Ok(described)
}

fn asked(container: &Container, name: &str) -> bool {
    container.record.docker.as_ref().and_then(|body| body[name].as_bool()).unwrap_or(false)
}
