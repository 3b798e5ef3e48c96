//! `/containers`.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_base::Timestamp;
use wharf_engine::{
    Container, Engine, LogQuery, LogReader, MAIN, MountPoint, MountSource, Publish, Record, Spec, Whose,
    networks, volumes,
};
use wharf_http::Body;
use wharf_runtime::{Phase, Size, Stats, Stream};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, Upgrade, content_type, created, json_of, no_content, streaming},
    blocking, create, describe,
    keeper::Ends,
    route::Query,
    stats::Figures,
    streams::{frame, outputs, pump},
};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Between two figures of `stats`.
const SECOND: Duration = Duration::from_secs(1);

impl Docker {
    pub(super) async fn containers(&self, method: &Method, rest: &[&str], call: Call) -> Reply {
        match (method.as_str(), rest) {
            ("GET", ["json"]) => self.list(call).await,
            ("POST", ["create"]) => self.create(call).await,
            ("POST", ["prune"]) => self.prune_containers(call).await,
            ("GET", [id, "json"]) => {
                let size = call.query.flag("size");
                let (engine, container) = self.found(id).await?;
                blocking(move || Ok(json_of(&describe::inspect(&engine, &container, size)?))).await
            }
            ("POST", [id, "start"]) => self.start_one(id).await,
            ("POST", [id, "stop"]) => self.stop_one(id, &call.query).await,
            ("POST", [id, "restart"]) => {
                self.stop_one(id, &call.query).await?;
                let started = self.start_one(id).await?;
                self.keeper.tell_of(&self.found(id).await?.1.record, "restart", &[]);
                Ok(started)
            }
            ("POST", [id, "kill"]) => self.kill_one(id, &call.query).await,
            ("POST", [id, "pause"]) => self.freeze(id, true).await,
            ("POST", [id, "unpause"]) => self.freeze(id, false).await,
            ("POST", [id, "rename"]) => self.rename(id, &call.query).await,
            ("POST", [id, "update"]) => self.update(id, call).await,
            ("POST", [id, "wait"]) => self.wait(id, &call.query).await,
            ("POST", [id, "resize"]) => self.resize(id, &call.query).await,
            ("POST", [id, "attach"]) => self.attach(id, call).await,
            ("POST", [id, "exec"]) => self.create_exec(id, call).await,
            ("GET", [id, "logs"]) => self.logs(id, &call.query).await,
            ("GET", [id, "top"]) => self.top(id, &call.query).await,
            ("GET", [id, "stats"]) => self.stats(id, &call.query).await,
            ("GET", [id, "changes"]) => self.changes(id).await,
            ("GET" | "HEAD" | "PUT", [id, "archive"]) => self.archive(method, id, call).await,
            ("GET", [id, "export"]) => self.export(id).await,
            ("DELETE", [id]) => self.remove(id, &call.query).await,
            _ => Err(Failure::not_found(format!("page not found: {method} {}", call.head.uri.path()))),
        }
    }

    /// A container by what a person calls it.
    pub(super) async fn found(&self, id: &str) -> Result<(Engine, Container), Failure> {
        let (engine, id) = (self.engine.clone(), id.to_owned());
        blocking(move || {
            let container = engine.find(&id)?;
            Ok((engine, container))
        })
        .await
    }

    async fn list(&self, call: Call) -> Reply {
        let filters = call.query.filters()?;
        filters.check(&[
            "id", "name", "label", "label!", "status", "ancestor", "network", "volume", "exited", "publish",
            "expose", "health", "before", "since", "is-task",
        ])?;
        filters.check_values(
            "status",
            &["created", "restarting", "running", "removing", "paused", "exited", "dead"],
        )?;
        if let Some(code) = filters.values("exited").iter().find(|code| code.parse::<i32>().is_err()) {
            return Err(Failure::bad(format!("invalid filter 'exited={code}': it is no number")));
        }
        filters.check_values("health", &["starting", "healthy", "unhealthy", "none"])?;
        let all = call.query.flag("all") || filters.has("status") || filters.has("exited");
        // All since then or before, whatever they do.
        let all = all || filters.has("since") || filters.has("before");
        let (size, limit) =
            (call.query.flag("size"), call.query.get("limit").and_then(|l| l.parse::<i64>().ok()));
        let engine = self.engine.clone();
        blocking(move || {
            let mut rows = Vec::new();
            let made = |name: &str| -> Result<Vec<Timestamp>, Failure> {
                let others =
                    filters.values(name).iter().map(|other| Ok(engine.find(other)?.record.created_at));
                others.collect()
            };
            let (since, before) = (made("since")?, made("before")?);
            for container in engine.all()? {
                let created = container.record.created_at;
                if since.iter().any(|then| created <= *then) || before.iter().any(|then| created >= *then) {
                    continue;
                }
                if !(all || container.is_running() || limit.is_some_and(|limit| limit > 0)) {
                    continue;
                }
                let fits = filters.fits("id", |id| container.id.as_str().starts_with(id))
                    && filters.fits("name", |name| named(name, container.name()))
                    && filters.fits("health", |health| {
                        let own = container.health().ok().flatten();
                        own.map_or("none", |own| own.status.word()) == health
                    })
                    && filters.fits("expose", |port| {
                        let port = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                        describe::exposed(&engine, &container).contains(&port)
                    })
                    && filters.fits("status", |status| describe::state(&container) == status)
                    && filters.fits("exited", |code| {
                        let exit = container.status.exit.as_ref().filter(|_| !container.is_running());
                        exit.is_some_and(|exit| exit.code.to_string() == code)
                    })
                    && filters.fits("ancestor", |image| {
                        container.image() == image
                            || container.image() == format!("{image}:latest")
                            || container
                                .record
                                .image_id
                                .trim_start_matches("sha256:")
                                .starts_with(image.trim_start_matches("sha256:"))
                    })
                    && filters.fits("volume", |volume| {
                        container.record.spec.mounts.iter().any(|mount| match &mount.source {
                            MountSource::Volume(name) => name == volume || mount.target == volume,
                            _ => mount.target == volume,
                        })
                    })
                    && filters.fits("publish", |port| {
                        container.ports().iter().any(|own| {
                            own.host_port.to_string() == port.split('/').next().unwrap_or_default()
                        })
                    })
                    && filters.labels(&describe::labels(&engine, &container));
                if !fits {
                    continue;
                }
                let row = describe::row(&engine, &container, size);
                let on = |network: &str| {
                    let networks = row["NetworkSettings"]["Networks"].as_object();
                    networks.is_some_and(|all| {
                        all.iter().any(|(name, end)| name == network || end["NetworkID"] == network)
                    })
                };
                if filters.fits("network", on) {
                    rows.push(row);
                }
            }
            if let Some(limit) =
                limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0)
            {
                rows.truncate(limit);
            }
            Ok(json_of(&Value::Array(rows)))
        })
        .await
    }

    async fn create(&self, mut call: Call) -> Reply {
        let body: Value = call.json().await?;
        let name = call.query.get("name").map(|name| name.trim_start_matches('/').to_owned());
        let mut wanted = create::read(&body)?;
        let (engine, keeper) = (self.engine.clone(), std::sync::Arc::clone(&self.keeper));
        let platform = call.query.get("platform").map(str::to_owned);
        blocking(move || {
            complete(&engine, &mut wanted, platform.as_deref())?;
            let (record, _) = engine.create(wanted.spec, name.as_deref(), Some(body))?;
            keeper.made(&record);
            Ok(created(&json!({ "Id": record.id, "Warnings": wanted.warnings })))
        })
        .await
    }

    async fn start_one(&self, id: &str) -> Reply {
        let (engine, container) = self.found(id).await?;
        if container.is_running() {
            return Ok(answer::status(StatusCode::NOT_MODIFIED));
        }
        let keeper = std::sync::Arc::clone(&self.keeper);
        blocking(move || {
            for warning in keeper.start_container(&engine.load(&container.id)?.record)? {
                tracing::warn!(
                    container = container.name(),
                    warning,
                    "a container is started otherwise than asked for"
                );
            }
            Ok(no_content())
        })
        .await
    }

    async fn stop_one(&self, id: &str, query: &Query) -> Reply {
        let (engine, container) = self.found(id).await?;
        let was_running = container.is_running();
        let signal = query.get("signal").map(str::to_owned);
        let grace = query.get("t").and_then(|t| t.parse::<i64>().ok());
        let grace = grace.map(|seconds| u64::try_from(seconds).ok().map(Duration::from_secs));
        let (mut ends, before) = self.keeper.ends(&container);
        let (record, keeper) = (container.record.clone(), std::sync::Arc::clone(&self.keeper));
        let stopped = blocking(move || {
            let container = keeper.stay_stopped(&container.id)?;
            Ok(engine.stop(&container, signal.as_deref(), grace)?.is_some())
        });
        if !stopped.await? && !was_running {
            return Ok(answer::status(StatusCode::NOT_MODIFIED));
        }
        // The answer comes when everybody knows.
        let told = ends.wait_for(|now| now.count > before.count || now.removed);
        let _ = tokio::time::timeout(SECOND, told).await;
        self.keeper.tell_of(&record, "stop", &[]);
        Ok(no_content())
    }

    async fn kill_one(&self, id: &str, query: &Query) -> Reply {
        let refused = |failure: Failure| failure.about(&format!("Cannot kill container: {id}"));
        let (engine, container) = self.found(id).await.map_err(refused)?;
        let signal = query.get("signal").unwrap_or("KILL").to_owned();
        let Ok(number) = wharf_engine::signal_number(&signal) else {
            return Err(Failure::bad(format!("Invalid signal: {signal}")));
        };
        if !container.is_running() {
            let message = format!("Container {} is not running", container.id);
            return Err(refused(Failure::conflict(message)));
        }
        // Told first: the end that may follow is told by somebody else.
        self.keeper.tell_of(&container.record, "kill", &[("signal", number.to_string())]);
        let keeper = std::sync::Arc::clone(&self.keeper);
        blocking(move || {
            if number == 9 {
                keeper.stay_stopped(&container.id)?;
            }
            Ok(engine.kill(&container, &signal)?)
        })
        .await?;
        Ok(no_content())
    }

    async fn freeze(&self, id: &str, frozen: bool) -> Reply {
        let (engine, container) = self.found(id).await?;
        let record = container.record.clone();
        let container_id = &container.id;
        match (container.status.phase, frozen) {
            (Phase::Paused, true) => {
                return Err(Failure::conflict(format!("Container {container_id} is already paused")));
            }
            (Phase::Running, false) => {
                return Err(Failure::conflict(format!("Container {container_id} is not paused")));
            }
            (Phase::Running | Phase::Paused, _) => {}
            _ => return Err(Failure::conflict(format!("Container {container_id} is not running"))),
        }
        blocking(move || {
            let sandbox = container.connect(&engine)?;
            let done = if frozen { sandbox.pause(MAIN) } else { sandbox.unpause(MAIN) };
            Ok(done?)
        })
        .await?;
        self.keeper.tell_of(&record, if frozen { "pause" } else { "unpause" }, &[]);
        Ok(no_content())
    }

    async fn rename(&self, id: &str, query: &Query) -> Reply {
        let (engine, container) = self.found(id).await?;
        let name = query.get("name").unwrap_or_default().trim_start_matches('/').to_owned();
        if name == container.name() {
            return Err(Failure::bad("Renaming a container with the same name as its current name"));
        }
        let record = blocking(move || {
            let renamed = engine.rename(&container, &name).map_err(Failure::from);
            renamed.map_err(|failure| failure.about("Error when allocating new name"))?;
            Ok(engine.load(&container.id)?.record)
        })
        .await?;
        self.keeper.tell_of(&record, "rename", &[]);
        Ok(no_content())
    }

    async fn wait(&self, id: &str, query: &Query) -> Reply {
        let (_, container) = self.found(id).await?;
        let condition = query.get("condition").unwrap_or("not-running").to_owned();
        let (mut ends, before) = self.keeper.ends(&container);
        let exit = container.status.exit.clone().filter(|_| !container.is_running());
        let code = exit.map(|exit| exit.code);
        let fits: fn(&Ends, &Ends) -> bool = match condition.as_str() {
            "not-running" => |now, before| now.count > before.count || now.removed,
            "next-exit" => |now, before| now.count > before.count || now.removed,
            "removed" => |now, _| now.removed,
            other => return Err(Failure::bad(format!("invalid condition: '{other}'"))),
        };
        let done = condition == "not-running" && !container.is_running();
        // The head is sent at once: clients start the container when they have it.
        let body = stream::once(async move {
            let code = match (done, code) {
                (true, code) => code.unwrap_or(0),
                (false, _) => match ends.wait_for(|now| fits(now, &before)).await {
                    Ok(now) => now.code,
                    Err(_) => 0,
                },
            };
            Ok::<_, std::io::Error>(Bytes::from(json!({ "StatusCode": code }).to_string()))
        });
        Ok(streaming(wharf_http::stream(body), "application/json"))
    }

    async fn resize(&self, id: &str, query: &Query) -> Reply {
        let (engine, container) = self.found(id).await?;
        let size = size(query)?;
        blocking(move || Ok(container.connect(&engine)?.resize(MAIN, size)?)).await?;
        Ok(answer::status(StatusCode::OK))
    }

    async fn attach(&self, id: &str, call: Call) -> Reply {
        let (engine, container) = self.found(id).await?;
        let terminal = container.record.spec.tty;
        let query = &call.query;
        let wants = [query.flag("stdin"), query.flag("stdout"), query.flag("stderr")];
        let before = match query.flag("logs") {
            true => self.said_so_far(&container, wants, terminal).await?,
            false => Vec::new(),
        };
        let streams = match container.is_running() {
            true => {
                let streams = blocking(move || Ok(container.connect(&engine)?.attach(MAIN)?)).await?;
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let _ = sender.send(streams);
                receiver
            }
            false => self.keeper.attach_at_start(&container.id),
        };
        let chosen = move |streams: super::keeper::Streams| {
            let mut index = 0;
            streams.map(|stream| {
                index += 1;
                // A terminal has one stream for both.
                stream.filter(|_| wants[index - 1] || (terminal && index == 2 && wants[2]))
            })
        };
        if !query.flag("stream") {
            let body = stream::iter(before.into_iter().map(Ok::<_, std::io::Error>));
            return Ok(streaming(wharf_http::stream(body), content_type(terminal)));
        }
        match call.upgrade {
            Some(upgrade) => {
                tokio::spawn(async move {
                    let Ok(connection) = upgrade.connection().await else { return };
                    if let Ok(streams) = streams.await
                        && let Err(error) =
                            pump(connection, chosen(streams), terminal, before, std::future::ready(())).await
                    {
                        tracing::debug!(%error, "an attached client is gone");
                    }
                });
                Ok(Upgrade::response(terminal))
            }
            // Those that stay in HTTP see what is said, and say nothing.
            None => {
                let said = async move {
                    let [_, output, error] = chosen(streams.await.unwrap_or_default());
                    outputs([output, error], terminal)
                };
                Ok(streaming(body_of(said), content_type(terminal)))
            }
        }
    }

    async fn said_so_far(
        &self,
        container: &Container,
        wants: [bool; 3],
        terminal: bool,
    ) -> Result<Vec<Bytes>, Failure> {
        let path = container.log();
        blocking(move || {
            let mut reader = LogReader::open(&path, LogQuery::default())?;
            let mut said = Vec::new();
            while let Some(entry) = reader.next_entry()? {
                let index = if entry.stream == Stream::Stdout { 1 } else { 2 };
                if wants[index] {
                    said.push(if terminal { entry.text.into() } else { frame(index as u8, &entry.text) });
                }
            }
            Ok(said)
        })
        .await
    }

    async fn logs(&self, id: &str, query: &Query) -> Reply {
        let (engine, container) = self.found(id).await?;
        let wants = [query.flag("stdout"), query.flag("stderr")];
        if wants == [false, false] {
            return Err(Failure::bad("Bad parameters: you must choose at least one stream"));
        }
        let tail = match query.get("tail") {
            None => None,
            // As docker: whatever is no number is all.
            Some(text) => text.parse().ok(),
        };
        // Every line has its attributes before it, of which there are none.
        let details = query.flag("details");
        let wanted =
            LogQuery { since: time(query, "since")?, until: time(query, "until")?, tail, grep: None };
        if container.record.spec.no_log {
            return Err(Failure::not_supported("configured logging driver does not support reading"));
        }
        let (follow, timestamps) = (query.flag("follow"), query.flag("timestamps"));
        let terminal = container.record.spec.tty;
        let (out, receiver) = mpsc::channel(64);
        std::thread::spawn(move || {
            let read = || -> wharf_engine::Result<()> {
                let mut reader = LogReader::open(&container.log(), wanted)?;
                loop {
                    // Asked before reading: what was written before the end is then read after it.
                    let runs =
                        engine.load(&container.id).is_ok_and(|now| now.is_running() || now.dir.has_shim());
                    while let Some(entry) = reader.next_entry()? {
                        let index = usize::from(entry.stream == Stream::Stderr);
                        if !wants[index] {
                            continue;
                        }
                        let mut text = match timestamps {
                            true => format!("{} ", entry.time.to_nano()).into_bytes(),
                            false => Vec::new(),
                        };
                        text.extend(details.then_some(b' '));
                        text.extend_from_slice(&entry.text);
                        let bytes = if terminal { text.into() } else { frame(index as u8 + 1, &text) };
                        if out.blocking_send(bytes).is_err() {
                            return Ok(());
                        }
                    }
                    if !follow || !runs || out.is_closed() {
                        return Ok(());
                    }
                    std::thread::sleep(LOOK);
                }
            };
            if let Err(error) = read() {
                tracing::warn!(%error, "the log of a container cannot be read");
            }
        });
        Ok(streaming(body_of(async { receiver }), content_type(terminal)))
    }

    async fn top(&self, id: &str, query: &Query) -> Reply {
        let args = query.get("ps_args").filter(|args| *args != "-ef").map(str::to_owned);
        let (engine, container) = self.found(id).await?;
        if !container.is_running() {
            return Err(Failure::conflict(format!("Container {} is not running", container.id)));
        }
        blocking(move || {
            container.connect(&engine)?;
            let pids = wharf_runtime::processes(&container.status)?;
            if let Some(args) = args {
                let (titles, rows) = super::system::listed(&pids, &args)?;
                return Ok(json_of(&json!({ "Titles": titles, "Processes": rows })));
            }
            let processes = super::system::processes(&pids);
            Ok(json_of(&json!({
                "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": processes,
            })))
        })
        .await
    }

    async fn stats(&self, id: &str, query: &Query) -> Reply {
        let (engine, container) = self.found(id).await?;
        let once = query.get("stream").is_some() && !query.flag("stream");
        let one_shot = query.flag("one-shot");
        let (out, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut before: Option<(Stats, Timestamp)> = None;
            loop {
                let (engine, container) = (engine.clone(), container.clone());
                let measured = blocking(move || {
                    let container = engine.load(&container.id)?;
                    let stats = match container.is_running() {
                        true => Some(container.connect(&engine)?.stats(MAIN)?),
                        false => None,
                    };
                    let figures = stats.map(|stats| Figures::of(&container, stats));
                    Ok((container, figures))
                });
                let Ok((container, figures)) = measured.await else { return };
                let now = wharf_base::Clock::now(&wharf_base::SystemClock);
                // The first figures need something to be compared with.
                let first = before.is_none() && figures.is_some();
                if !first || one_shot || !once {
                    let text = super::stats::stats(&container, figures.as_ref(), now, before.as_ref());
                    if out.send(Bytes::from(format!("{text}\n"))).await.is_err() || once {
                        return;
                    }
                }
                before = figures.map(|figures| (figures.stats, now));
                tokio::time::sleep(SECOND).await;
            }
        });
        Ok(streaming(body_of(async { receiver }), "application/json"))
    }

    async fn remove(&self, id: &str, query: &Query) -> Reply {
        let (engine, container) = self.found(id).await?;
        let (force, volumes) = (query.flag("force"), query.flag("v"));
        let record = container.record.clone();
        if container.is_running() && !force {
            return Err(Failure::conflict(format!(
                "You cannot remove a running container {}. Stop the container before attempting removal or force remove",
                container.id
            )));
        }
        let running = container.is_running();
        let (mut ends, before) = self.keeper.ends(&container);
        blocking(move || {
            engine.remove(&container, force)?;
            if volumes {
                remove_anonymous(&engine, &container.record);
            }
            Ok(())
        })
        .await?;
        if running {
            // Its end is told first.
            let told = ends.wait_for(|now| now.count > before.count || now.removed);
            let _ = tokio::time::timeout(SECOND, told).await;
        }
        self.keeper.destroyed(&record);
        Ok(no_content())
    }

    async fn prune_containers(&self, call: Call) -> Reply {
        let filters = call.query.filters()?;
        filters.check(&["label", "label!", "until"])?;
        let until = filters.values("until").iter().map(|text| before(text)).collect::<Result<Vec<_>, _>>()?;
        let (engine, keeper) = (self.engine.clone(), std::sync::Arc::clone(&self.keeper));
        blocking(move || {
            let (mut removed, mut bytes) = (Vec::new(), 0);
            for container in engine.all()?.into_iter().filter(|container| !container.is_running()) {
                if until.iter().any(|until| container.record.created_at >= *until) {
                    continue;
                }
                if !filters.labels(&container.record.spec.labels) {
                    continue;
                }
                let written = describe::written(&container);
                if engine.remove(&container, false).is_ok() {
                    bytes += written;
                    removed.push(container.id.to_string());
                    keeper.destroyed(&container.record);
                }
            }
            Ok(json_of(&json!({ "ContainersDeleted": removed, "SpaceReclaimed": bytes })))
        })
        .await
    }
}

/// Whether a name, with or without the slash before it, fits a regular expression.
fn named(pattern: &str, name: &str) -> bool {
    match regex_lite::Regex::new(pattern) {
        Ok(pattern) => pattern.is_match(name) || pattern.is_match(&format!("/{name}")),
        Err(_) => name.contains(pattern),
    }
}

/// Removes the volumes nobody has named, once no container has them.
pub(super) fn remove_anonymous(engine: &Engine, record: &Record) {
    for mount in &record.spec.mounts {
        if let MountSource::Volume(name) = &mount.source
            && name.len() == 64
            && name.bytes().all(|byte| byte.is_ascii_hexdigit())
            && let Err(error) = engine.remove_volume(name)
        {
            tracing::debug!(%error, "a volume stays");
        }
    }
}

/// Adds what is to be known of the image and of other containers.
fn complete(engine: &Engine, wanted: &mut create::Wanted, platform: Option<&str>) -> Result<(), Failure> {
    let image = engine.images()?.resolve(&wanted.spec.image)?;
    let of_image = (image.config.os.as_str(), image.config.architecture.as_str());
    if let Some(platform) = platform {
        let mut parts = platform.split('/');
        let asked = (parts.next().unwrap_or_default(), parts.next().unwrap_or(of_image.1));
        if asked != of_image {
            let name = &wanted.spec.image;
            return Err(Failure::not_found(format!(
                "No such image: {name} of the platform {platform}: the one here is {}/{}",
                of_image.0, of_image.1
            )));
        }
    }
    publish_all(&image.config.config, wanted)?;
    // With "not found" clients would look for the image.
    let other_one =
        |id: &str| engine.find(id).map_err(|error| Failure::bad(Failure::from(error).message().to_owned()));
    let network = &wanted.spec.network;
    if let Some(other) = networks::of_container(network) {
        wanted.spec.network = format!("container:{}", other_one(other)?.id);
    } else if !networks::is_predefined(network) && networks::find(engine.data(), network).is_err() {
        return Err(Failure::bad(format!("network {network} not found")));
    }
    for whose in [&mut wanted.spec.pids, &mut wanted.spec.ipc] {
        if let Whose::Container(other) = whose {
            *other = other_one(other)?.id.to_string();
        }
    }
    let has = |spec: &Spec, target: &str| spec.mounts.iter().any(|mount| mount.target == target);
    for (other, read_only) in &wanted.volumes_from {
        for mount in other_one(other)?.record.spec.mounts {
            if has(&wanted.spec, &mount.target) || mount.source == MountSource::Tmpfs {
                continue;
            }
            let mut options = mount.options;
            if *read_only && !options.iter().any(|option| option == "ro") {
                options.push("ro".to_owned());
            }
            wanted.spec.mounts.push(MountPoint { options, ..mount });
        }
    }
    // Places of data get volumes that outlive the container, unless they go with it.
    for target in image.config.config.volumes.keys() {
        if !has(&wanted.spec, target) {
            let mount =
                MountPoint { source: create::anonymous(), target: target.clone(), options: Vec::new() };
            wanted.spec.mounts.push(mount);
        }
    }
    for (name, labels) in &wanted.volume_labels {
        volumes::create(engine.data(), name, labels.clone(), BTreeMap::new())?;
    }
    Ok(())
}

/// Every port the image or the request names gets one of this machine, where that is asked for.
fn publish_all(image: &wharf_image::ContainerConfig, wanted: &mut create::Wanted) -> Result<(), Failure> {
    if !wanted.publish_all {
        return Ok(());
    }
    for port in image.exposed_ports.keys().chain(&wanted.exposed) {
        let port: Publish = port.parse()?;
        let known =
            |own: &Publish| (own.container_port, own.protocol) == (port.container_port, port.protocol);
        if !wanted.spec.publish.iter().any(known) {
            wanted.spec.publish.push(port);
        }
    }
    Ok(())
}

/// `h` and `w`.
pub(super) fn size(query: &Query) -> Result<Size, Failure> {
    let number = |name: &str| {
        query
            .get(name)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Failure::bad(format!("invalid resize {name}")))
    };
    Ok(Size { rows: number("h")?, columns: number("w")? })
}

/// A time, or how long ago it was: `10m`, `1h30m`.
pub(super) fn before(text: &str) -> Result<Timestamp, Failure> {
    let bad = || Failure::bad(format!("until: '{text}' is neither a time nor a span such as 10m"));
    let query = Query::of("until", text);
    if let Ok(Some(time)) = time(&query, "until") {
        return Ok(time);
    }
    let (mut span, mut digits) = (Duration::ZERO, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(bad()),
        };
        let count: u64 = std::mem::take(&mut digits).parse().map_err(|_| bad())?;
        span = span.saturating_add(Duration::from_secs(count.saturating_mul(unit)));
    }
    match digits.is_empty() && !text.is_empty() {
        true => Ok(wharf_base::Clock::now(&wharf_base::SystemClock).minus(span)),
        false => Err(bad()),
    }
}

/// Seconds since 1970 with a fraction, or a time.
pub(super) fn time(query: &Query, name: &str) -> Result<Option<Timestamp>, Failure> {
    let Some(text) = query.get(name).filter(|text| *text != "0") else { return Ok(None) };
    let bad = || Failure::bad(format!("{name}: '{text}' is not a time"));
    if let Ok(time) = text.parse() {
        return Ok(Some(time));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanoseconds = format!("{fraction:0<9}");
    let nanoseconds = nanoseconds.get(..9).and_then(|text| text.parse().ok()).ok_or_else(bad)?;
    Ok(Some(Timestamp::from_unix(seconds.parse().map_err(|_| bad())?, nanoseconds)))
}

/// A body of what a channel gives, once it is there.
pub(super) fn body_of(channel: impl Future<Output = mpsc::Receiver<Bytes>> + Send + 'static) -> Body {
    let chunks = stream::once(channel);
    let chunks = futures_util::StreamExt::flat_map(chunks, |receiver| {
        stream::unfold(receiver, |mut receiver| async move {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(bytes), receiver))
        })
    });
    wharf_http::stream(chunks)
}
