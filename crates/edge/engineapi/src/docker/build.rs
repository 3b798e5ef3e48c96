//! `POST /build`: the classic build, a tar of the context in and lines of JSON out.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_build::{BuildRequest, Cancel, CancelOnDrop, Context, DockerfileSource, Progress};
use wharf_image::Reference;

use super::{
    Call, Docker,
    answer::{Failure, Reply, json_of, streaming},
    archive::reader_of,
    blocking,
    create::extra_hosts,
    route::Query,
};

impl Docker {
    pub(super) async fn build(&self, call: Call) -> Reply {
        let Some(builder) = self.builder.clone() else {
            return Err(Failure::not_supported("this platform has no builder"));
        };
        let query = &call.query;
        refuse(query)?;
        let mut request = BuildRequest::new(Context::Empty);
        request.dockerfile =
            DockerfileSource::InContext(query.get("dockerfile").unwrap_or("Dockerfile").to_owned());
        request.args =
            map(query, "buildargs")?.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        request.labels =
            map(query, "labels")?.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect();
        request.target = query.get("target").map(str::to_owned);
        request.no_cache = query.flag("nocache");
        let tags = query.all("t").into_iter().filter(|tag| !tag.is_empty());
        request.tags = tags.map(str::parse::<Reference>).collect::<Result<_, _>>()?;
        if query.get("networkmode") == Some("host") {
            request.network = wharf_build::dockerfile::Network::Host;
        }
        let hosts: Vec<String> = query.all("extrahosts").into_iter().map(str::to_owned).collect();
        request.hosts = extra_hosts(&hosts)?.into_iter().map(addressed).collect::<Result<_, _>>()?;
        if let Some(size) = query.get("shmsize").filter(|size| !matches!(*size, "" | "0")) {
            let size = size.parse().map_err(|_| Failure::bad(format!("shmsize '{size}' is no number")))?;
            request.shm_bytes = Some(size);
        }
        request.context = Context::tar(reader_of(call.body));
        let cancel = Cancel::default();
        request.cancel = cancel.clone();
        let quiet = query.flag("q");
        let (out, receiver) = mpsc::channel(64);
        let (images, names) = (Arc::clone(&self.images), request.tags.clone());
        std::thread::spawn(move || {
            let lines = Lines { out, quiet, names: Mutex::default() };
            match builder.build(request, |progress| lines.take(progress)) {
                Ok(result) => {
                    let id = images
                        .manifest(&result.manifest)
                        .map_or(result.id, |(_, manifest)| manifest.config.digest);
                    // Without a name it would go with the next collection.
                    if names.is_empty()
                        && let Ok(name) = format!("built@{}", result.manifest.digest).parse::<Reference>()
                        && let Err(error) = images.tag(&[name], &result.manifest)
                    {
                        tracing::warn!(%error, "an image without a name cannot be kept");
                    }
                    lines.say(&json!({ "aux": { "ID": id } }));
                    for warning in result.warnings {
                        lines.stream(&format!("[Warning] {warning}\n"));
                    }
                    if quiet {
                        lines.say(&json!({ "stream": format!("{id}\n") }));
                    }
                    lines.stream(&format!(
                        "Successfully built {}\n",
                        id.short().trim_start_matches("sha256:")
                    ));
                    for name in names {
                        lines.stream(&format!("Successfully tagged {}\n", name.familiar()));
                    }
                }
                Err(error) => {
                    let hint = error.hint.as_ref().map_or(String::new(), |hint| format!(" (hint: {hint})"));
                    let message = format!("{error}{hint}");
                    let mut detail = json!({ "message": message });
                    if let Some(code) = exit_code(&error) {
                        detail["code"] = json!(code);
                    }
                    lines.say(&json!({ "errorDetail": detail, "error": message }));
                }
            }
        });
        let guard = CancelOnDrop(cancel);
        let lines = futures_util::stream::unfold((receiver, guard), |(mut receiver, guard)| async move {
            let line = receiver.recv().await?;
            Some((Ok::<_, std::io::Error>(line), (receiver, guard)))
        });
        Ok(streaming(wharf_http::stream(lines), "application/json"))
    }

    /// Forgets the results of steps that no build under way needs.
    pub(super) async fn prune_builds(&self) -> Reply {
        let builder = self.builder.clone();
        let removed = blocking(move || {
            let removed = builder.map_or(Ok(0), |builder| builder.prune(Duration::ZERO));
            removed.map_err(|error| Failure::internal(error.to_string()))
        })
        .await?;
        tracing::info!(removed, "results of builds were forgotten");
        // Their layers go with the next collection of images.
        Ok(json_of(&json!({ "CachesDeleted": [], "SpaceReclaimed": 0 })))
    }
}

/// `[stage 2/4] COPY a b` as the classic builder has it: `2/4 : COPY a b`.
fn numbered(name: &str) -> String {
    let parts = name.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    match parts {
        Some((place, what)) => format!("{} : {what}", place.rsplit(' ').next().unwrap_or(place)),
        None => name.to_owned(),
    }
}

/// How the step that failed ended.
fn exit_code(error: &wharf_build::Error) -> Option<i32> {
    match error.kind {
        wharf_build::ErrorKind::Failed { code } => Some(code),
        _ => None,
    }
}

/// A further host of a build, which knows no `host-gateway`.
fn addressed((name, address): (String, String)) -> Result<(String, String), Failure> {
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<std::net::IpAddr>() {
        Ok(address) if !name.is_empty() => Ok((name, address.to_string())),
        _ => Err(Failure::bad(format!("bad format for add-host: '{name}:{address}': write NAME:ADDRESS"))),
    }
}

/// Parameters that would change what is built and cannot be done.
fn refuse(query: &Query) -> Result<(), Failure> {
    if query.get("version") == Some("2") {
        return Err(Failure::not_supported(
            "BuildKit sessions are not supported: set DOCKER_BUILDKIT=0, or use 'wharf build'",
        ));
    }
    for name in ["remote", "squash", "isolation", "outputs", "memory", "memswap", "cpushares", "cpuperiod"]
        .into_iter()
        .chain(["cpuquota", "cpusetcpus", "cpusetmems", "cgroupparent", "ulimits", "securityopt"])
    {
        let given = |value: &str| !matches!(value, "0" | "false" | "null" | "[]" | "{}" | "default");
        if query.get(name).is_some_and(given) {
            return Err(Failure::not_supported(format!(
                "'{name}' is not supported for builds over this API"
            )));
        }
    }
    let own = wharf_image::Platform::host();
    match query.get("platform") {
        None | Some("linux") => Ok(()),
        Some(platform) if platform == format!("{}/{}", own.os, own.architecture) => Ok(()),
        Some(other) => {
            Err(Failure::not_supported(format!("images for the platform '{other}' cannot be built here")))
        }
    }
}

/// A parameter of names with texts.
fn map(query: &Query, name: &str) -> Result<std::collections::BTreeMap<String, Option<String>>, Failure> {
    let Some(text) = query.get(name) else { return Ok(Default::default()) };
    serde_json::from_str(text).map_err(|error| Failure::bad(format!("{name}: {error}")))
}

/// Progress as docker's classic builder tells it.
struct Lines {
    out: mpsc::Sender<Bytes>,
    quiet: bool,
    names: Mutex<std::collections::HashMap<usize, String>>,
}

impl Lines {
    fn say(&self, line: &Value) {
        // Who went away cancels the build.
        let _ = self.out.blocking_send(Bytes::from(format!("{line}\n")));
    }

    fn stream(&self, text: &str) {
        if !self.quiet {
            self.say(&json!({ "stream": text }));
        }
    }

    fn take(&self, progress: Progress) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Started { step, name } => {
                self.stream(&format!("Step {}\n", numbered(&name)));
                names.insert(step, name);
            }
            Progress::Cached { step } => {
                let name = names.get(&step).cloned().unwrap_or_default();
                // A base image is there, which says nothing of the cache.
                if !name.contains("FROM ") {
                    self.stream(" ---> Using cache\n");
                }
            }
            Progress::Output { line, .. } => self.stream(&format!("{line}\n")),
            Progress::Note { text } => self.stream(&format!("[Warning] {text}\n")),
            Progress::Planned { .. } | Progress::Done { .. } | Progress::Failed { .. } => {}
        }
    }
}
