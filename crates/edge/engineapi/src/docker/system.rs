//! What is asked of the engine as a whole: version, info, events, disk usage; processes and figures.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tokio::sync::{broadcast::error::RecvError, mpsc};
use wharf_base::Timestamp;
use wharf_engine::volumes;
use wharf_http::Body;

use crate::client::Client;

use super::{
    API_VERSION, Call, Docker, MIN_API_VERSION,
    answer::{Failure, Reply, json_of, merged, streaming},
    blocking,
    containers::{body_of, time},
    describe, images,
    keeper::Happened,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn ping() -> Response<Body> {
    let mut response = Response::new(wharf_http::full("OK"));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    // Builds are the classic builder's: a tar of the context, no session.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    response
}

fn architecture() -> String {
    wharf_image::Platform::host().architecture
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

pub(super) fn version() -> Response<Body> {
    let details = json!({
        "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION, "Os": "linux", "Arch": architecture(),
        "KernelVersion": kernel(), "Experimental": "false", "GoVersion": "", "GitCommit": "", "BuildTime": "",
    });
    json_of(&json!({
        "Platform": { "Name": "wharf" }, "Version": VERSION, "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "", "GoVersion": "", "Os": "linux", "Arch": architecture(), "KernelVersion": kernel(), "BuildTime": "",
        "Components": [{ "Name": "Engine", "Version": VERSION, "Details": details }],
    }))
}

impl Docker {
    pub(super) async fn info(&self) -> Reply {
        let (engine, images) = (self.engine.clone(), Arc::clone(&self.images));
        blocking(move || {
            let all = engine.all()?;
            let count = |state: &str| all.iter().filter(|container| wharf_engine::words::state(container) == state).count();
            let machine = rustix::system::sysinfo();
            let memory = (machine.totalram as u64).saturating_mul(machine.mem_unit.into());
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
            let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
            let system = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
            let limits = wharf_runtime::has_cgroups();
            let mut security = vec!["name=seccomp,profile=builtin", "name=cgroupns"];
            if wharf_runtime::in_user_namespace() {
                security.push("name=rootless");
            }
            let first = json!({
                "ID": "wharf", "Containers": all.len(), "ContainersRunning": count("running"),
                "ContainersPaused": count("paused"), "ContainersStopped": count("exited") + count("created"),
                "Images": images.references()?.len(), "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "overlayfs"]],
                "Plugins": { "Volume": ["local"], "Network": ["bridge", "host", "null"], "Authorization": null, "Log": ["json-file"] },
                "MemoryLimit": limits, "SwapLimit": limits, "CpuCfsPeriod": limits, "CpuCfsQuota": limits, "CPUShares": limits,
                "CPUSet": limits, "PidsLimit": limits, "IPv4Forwarding": true, "Debug": false, "NFd": 0, "OomKillDisable": false, "NGoroutines": 0,
            });
            let second = json!({
                "SystemTime": wharf_base::Clock::now(&wharf_base::SystemClock).to_nano(), "LoggingDriver": "json-file",
                "CgroupDriver": if limits { "cgroupfs" } else { "none" }, "CgroupVersion": if unified { "2" } else { "1" }, "NEventsListener": 0,
                "KernelVersion": kernel(), "OperatingSystem": system.trim_matches('"'), "OSVersion": "", "OSType": "linux",
                "Architecture": std::env::consts::ARCH, "IndexServerAddress": "https://index.docker.io/v1/",
                "RegistryConfig": { "InsecureRegistryCIDRs": ["127.0.0.0/8"], "IndexConfigs": {}, "Mirrors": [] },
                "NCPU": std::thread::available_parallelism().map_or(1, usize::from), "MemTotal": memory,
                "GenericResources": null, "DockerRootDir": engine.data(), "HttpProxy": "", "HttpsProxy": "", "NoProxy": "",
                "Name": name, "Labels": [], "ExperimentalBuild": false, "ServerVersion": VERSION,
                "Runtimes": { "wharf": { "path": "wharf" } }, "DefaultRuntime": "wharf",
                "Swarm": { "NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null },
                "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "", "SecurityOptions": security,
                "Warnings": [],
            });
            Ok(json_of(&merged([first, second])))
        })
        .await
    }

    /// Tries credentials; the client keeps them.
    pub(super) async fn auth(&self, mut call: Call) -> Reply {
        let given: Value = call.json().await?;
        let text = |name: &str| given[name].as_str().unwrap_or_default();
        let server = text("serveraddress").trim_start_matches("https://").trim_start_matches("http://");
        let host = server.split('/').next().unwrap_or_default();
        let domain =
            if matches!(host, "" | "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
        let credentials = images::given(&given, domain)
            .ok_or_else(|| Failure::bad("no user and password are given"))?
            .map_err(|error| Failure::bad(error.to_string()))?;
        let client = Client::with_credentials(credentials);
        client.log_in(domain).await.map_err(|error| Failure::unauthorized(error.to_string()))?;
        Ok(json_of(&json!({ "Status": "Login Succeeded", "IdentityToken": "" })))
    }

    pub(super) async fn disk_usage(&self) -> Reply {
        let (engine, store, data) = (self.engine.clone(), Arc::clone(&self.images), self.data());
        blocking(move || {
            let usage = store.disk_usage()?;
            let all = engine.all()?;
            let containers: Vec<Value> = all.iter().map(|container| describe::row(&engine, container, true)).collect();
            let mut volumes_found = Vec::new();
            for volume in volumes::all(&data) {
                let files = volumes::files(&data, &volume.name);
                let users = engine.users_of_volume(&volume.name)?.len();
                volumes_found.push(json!({
                    "Name": volume.name, "Driver": "local", "Mountpoint": files, "Labels": volume.labels, "Scope": "local",
                    "Options": null, "CreatedAt": volume.created_at.to_nano(),
                    "UsageData": { "Size": super::volumes::size(&files), "RefCount": users },
                }));
            }
            Ok(json_of(&json!({
                "LayersSize": usage.blob_bytes, "Images": images::list(&engine, &store)?, "Containers": containers, "Volumes": volumes_found, "BuildCache": [],
            })))
        })
        .await
    }

    pub(super) fn events(&self, call: &Call) -> Reply {
        let filters = call.query.filters()?;
        filters.check(&[
            "container",
            "event",
            "image",
            "label",
            "type",
            "scope",
            "network",
            "volume",
            "daemon",
        ])?;
        let (since, until) = (time(&call.query, "since")?, time(&call.query, "until")?);
        let mut news = self.keeper.subscribe();
        let past = if since.is_some() { self.keeper.past() } else { Vec::new() };
        let (out, receiver) = mpsc::channel(64);
        let wanted = move |happened: &Happened| {
            let text = |name: &str| happened.attributes.get(name).and_then(Value::as_str).unwrap_or_default();
            let labels = happened
                .attributes
                .iter()
                .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                .collect();
            since.is_none_or(|since| happened.at >= since)
                && until.is_none_or(|until| happened.at < until)
                && filters
                    .fits("container", |wanted| happened.id.starts_with(wanted) || text("name") == wanted)
                && filters.fits("event", |wanted| {
                    happened.action == wanted || happened.action.split(':').next() == Some(wanted)
                })
                && filters.fits("image", |wanted| text("image") == wanted)
                && filters.fits("type", |wanted| happened.kind == wanted)
                && filters.fits("scope", |wanted| wanted == "local")
                && filters.labels(&labels)
        };
        tokio::spawn(async move {
            for happened in past {
                if wanted(&happened) && out.send(line(&happened)).await.is_err() {
                    return;
                }
            }
            let end = async {
                match until {
                    Some(until) => {
                        let now = wharf_base::Clock::now(&wharf_base::SystemClock);
                        tokio::time::sleep(until.since(now)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let mut end = std::pin::pin!(end);
            loop {
                tokio::select! {
                    () = &mut end => return,
                    () = out.closed() => return,
                    heard = news.recv() => match heard {
                        Ok(happened) if wanted(&happened) => {
                            if out.send(line(&happened)).await.is_err() {
                                return;
                            }
                        }
                        Ok(_) | Err(RecvError::Lagged(_)) => {}
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        });
        Ok(streaming(body_of(async { receiver }), "application/json"))
    }
}

fn line(happened: &Happened) -> Bytes {
    let from = happened.attributes.get("image").cloned().unwrap_or_default();
    let nanoseconds = happened.at.since(Timestamp::from_unix(0, 0)).as_nanos();
    let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
    let text = json!({
        "status": happened.action, "id": happened.id, "from": from, "Type": happened.kind, "Action": happened.action,
        "Actor": { "ID": happened.id, "Attributes": happened.attributes }, "scope": "local",
        "time": nanoseconds / 1_000_000_000, "timeNano": nanoseconds,
    });
    Bytes::from(format!("{text}\n"))
}

/// Processes as this machine's `ps` shows them with these words: titles and rows.
pub(super) fn listed(pids: &[i32], args: &str) -> Result<(Vec<String>, Vec<Vec<String>>), Failure> {
    let output = std::process::Command::new("ps").args(args.split_ascii_whitespace()).output();
    let output = output.map_err(|error| {
        Failure::internal(format!(
            "ps {args} cannot be run: {error}; without words processes are listed by wharf"
        ))
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::bad(format!("Error running ps: {}", said.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let Some(column) = titles.iter().position(|title| title == "PID") else {
        return Err(Failure::internal("Couldn't find PID field in ps output"));
    };
    // The last column is a command with its words.
    let last_column = titles.len().saturating_sub(1);
    let rows = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (first, last) = words.split_at_checked(last_column)?;
        let mine = words.get(column).is_some_and(|pid| pid.parse().is_ok_and(|pid| pids.contains(&pid)));
        let row = first.iter().map(|word| (*word).to_owned()).chain([last.join(" ")]);
        mine.then(|| row.collect())
    });
    let rows = rows.collect();
    Ok((titles, rows))
}

/// Processes, as `ps -ef` shows them.
pub(super) fn processes(pids: &[i32]) -> Vec<[String; 8]> {
    pids.iter().filter_map(|pid| process(*pid)).collect()
}

fn process(pid: i32) -> Option<[String; 8]> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    // The name of the program stands in parentheses and may hold any.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(').map_or("", |(_, name)| name);
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number =
        |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let seconds = (number(11) + number(12)) / ticks;
    let words = read("cmdline")?;
    let words: Vec<String> = words
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().next());
    let user = match user.unwrap_or("0") {
        "0" => "root",
        other => other,
    };
    let started = uptime().saturating_sub(number(19) / ticks);
    let started =
        wharf_base::Clock::now(&wharf_base::SystemClock).minus(std::time::Duration::from_secs(started));
    let started = started.to_nano().get(11..16).unwrap_or("?").to_owned();
    let command = if words.is_empty() { format!("[{name}]") } else { words.join(" ") };
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some([
        user.to_owned(),
        pid.to_string(),
        number(1).to_string(),
        "0".into(),
        started,
        "?".into(),
        time,
        command,
    ])
}

fn uptime() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}
