//! `/images`.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_base::{Digest, Timestamp};
use wharf_engine::Engine;
use wharf_image::{
    Compression, Decoder, GcOptions, ImageConfig, Index, RefEntry, Reference, Store, UnpackOptions,
    media_type, unpack_into,
};

use crate::client::{Client, DockerConfig, Progress, Step};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, json_of, streaming},
    archive::reader_of,
    blocking,
    containers::{before as before_time, body_of},
    describe::unix,
};

/// How often the progress of one layer is told.
const EVERY: Duration = Duration::from_millis(100);

impl Docker {
    pub(super) async fn images(&self, method: &Method, rest: &[&str], call: Call) -> Reply {
        match (method.as_str(), rest) {
            ("GET", ["json"]) => self.list_images(call).await,
            ("POST", ["create"]) => self.pull(call).await,
            ("POST", ["load"]) => self.load(call).await,
            ("POST", ["prune"]) => self.prune_images(call).await,
            ("GET", ["get"]) => {
                let names: Vec<String> = call.query.all("names").into_iter().map(str::to_owned).collect();
                self.save(names.iter().flat_map(|names| names.split(',')).map(str::to_owned).collect()).await
            }
            ("GET", [name @ .., "json"]) => self.inspect_image(name.join("/")).await,
            ("GET", [name @ .., "history"]) => self.history(name.join("/")).await,
            ("GET", [name @ .., "get"]) => self.save(vec![name.join("/")]).await,
            ("POST", [name @ .., "tag"]) => self.tag(name.join("/"), call).await,
            ("POST", [name @ .., "push"]) => self.push(name.join("/"), call).await,
            ("DELETE", name) => self.remove_image(name.join("/"), call).await,
            ("GET", ["search"]) => Err(Failure::not_supported("registries cannot be searched")),
            _ => Err(Failure::not_found(format!("page not found: {method} {}", call.head.uri.path()))),
        }
    }

    async fn list_images(&self, call: Call) -> Reply {
        let filters = call.query.filters()?;
        filters.check(&["reference", "label", "label!", "dangling", "before", "since", "until"])?;
        let (images, engine) = (Arc::clone(&self.images), self.engine.clone());
        blocking(move || {
            let made = |name: &str| -> Result<Vec<i64>, Failure> {
                let of = |other: &String| created(&images, other);
                filters.values(name).iter().map(of).collect()
            };
            let (since, before) = (made("since")?, made("before")?);
            let until = filters.values("until").iter().map(|text| before_time(text));
            let until = until.collect::<Result<Vec<_>, _>>()?;
            let mut rows = rows(&images)?;
            for row in &mut rows {
                // Only the names that were asked for are shown.
                if filters.has("reference") {
                    row.tags.retain(|tag| filters.fits("reference", |pattern| names(pattern, tag)));
                    let of_name = |digest: &String| {
                        let repository = digest.split('@').next().unwrap_or_default();
                        row.tags
                            .iter()
                            .any(|tag| tag.rsplit_once(':').is_some_and(|(name, _)| name == repository))
                    };
                    row.digests.retain(of_name);
                }
            }
            let rows = rows.into_iter().filter(|row| {
                filters.labels(&row.labels)
                    && filters
                        .fits("dangling", |wanted| (wanted == "true" || wanted == "1") == row.tags.is_empty())
                    && (!filters.has("reference") || !row.tags.is_empty())
                    && since.iter().all(|then| row.created > *then)
                    && before.iter().all(|then| row.created < *then)
                    && until.iter().all(|then| row.created < unix(*then))
            });
            Ok(json_of(&described(&engine, rows)?))
        })
        .await
    }

    async fn inspect_image(&self, name: String) -> Reply {
        let images = Arc::clone(&self.images);
        blocking(move || {
            let (_, target) = images.find(&name)?;
            let (_, manifest) = images.manifest(&target)?;
            let config = ImageConfig::parse(&images.document(&manifest.config.digest)?)?;
            let size = images.layer_contents(&manifest, &config).iter().sum();
            let mut row = Row::new(&manifest, &config, None, size);
            for entry in images.references()?.iter().filter(|entry| entry.target.digest == target.digest) {
                row.name(entry);
            }
            // What was said of it last; steps of builds say what they are.
            let mut said = config.history.iter().rev().filter_map(|step| step.comment.as_deref());
            let comment = said.find(|text| !text.is_empty() && !text.starts_with("buildkit")).unwrap_or_default();
            let mut own = json!(config.config);
            if let Value::Object(fields) = &mut own {
                let empty = [("Env", json!([])), ("Cmd", Value::Null), ("Entrypoint", Value::Null), ("Labels", Value::Null), ("Volumes", Value::Null), ("OnBuild", Value::Null), ("WorkingDir", json!("")), ("User", json!(""))];
                for (name, value) in empty {
                    fields.entry(name).or_insert(value);
                }
            }
            Ok(json_of(&json!({
                "Id": manifest.config.digest, "RepoTags": row.tags, "RepoDigests": row.digests, "Parent": "",
                "Comment": comment, "Created": config.created, "DockerVersion": "", "Author": config.author.clone().unwrap_or_default(),
                "Config": own, "Architecture": config.architecture, "Os": config.os, "Size": size,
                "GraphDriver": { "Name": "overlay2", "Data": {} },
                "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
                "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" },
            })))
        })
        .await
    }

    async fn history(&self, name: String) -> Reply {
        let images = Arc::clone(&self.images);
        blocking(move || {
            let (_, target) = images.find(&name)?;
            let (_, manifest) = images.manifest(&target)?;
            let config = ImageConfig::parse(&images.document(&manifest.config.digest)?)?;
            let mut sizes = images.layer_contents(&manifest, &config).into_iter();
            let mut rows: Vec<Value> = Vec::new();
            for step in &config.history {
                let size = if step.empty_layer { 0 } else { sizes.next().unwrap_or_default() };
                let created = step.created.as_ref().and_then(|time| time.parse::<Timestamp>().ok()).map_or(0, unix);
                rows.push(json!({
                    "Id": "<missing>", "Created": created, "CreatedBy": step.created_by.clone().unwrap_or_default(), "Tags": null,
                    "Size": size, "Comment": step.comment.clone().unwrap_or_default(),
                }));
            }
            if let Some(last) = rows.last_mut() {
                last["Id"] = json!(manifest.config.digest);
            }
            rows.reverse();
            Ok(json_of(&Value::Array(rows)))
        })
        .await
    }

    async fn tag(&self, name: String, call: Call) -> Reply {
        let repository = call.query.get("repo").ok_or_else(|| Failure::bad("no repository is named"))?;
        let tag = call.query.get("tag").unwrap_or("latest");
        let reference: Reference = format!("{repository}:{tag}").parse()?;
        let (images, keeper) = (Arc::clone(&self.images), Arc::clone(&self.keeper));
        blocking(move || {
            let (_, target) = images.find(&name)?;
            let told = [("name", reference.familiar())];
            images.tag(&[reference], &target)?;
            let id = images.manifest(&target)?.1.config.digest.to_string();
            keeper.tell_about("image", "tag", &id, &told);
            Ok(())
        })
        .await?;
        Ok(answer::status(StatusCode::CREATED))
    }

    async fn remove_image(&self, name: String, call: Call) -> Reply {
        let force = call.query.flag("force");
        let (images, engine) = (Arc::clone(&self.images), self.engine.clone());
        let keeper = Arc::clone(&self.keeper);
        let removed = blocking(move || {
            let (by_name, target) = images.find(&name)?;
            let (_, manifest) = images.manifest(&target)?;
            let id = manifest.config.digest;
            let by_id = by_name.is_none();
            let entries: Vec<RefEntry> =
                images.references()?.into_iter().filter(|entry| entry.target.digest == target.digest).collect();
            let names: Vec<Reference> = match by_name {
                Some(name) if name.digest().is_none() => vec![images.local_name(&name)?],
                _ => entries.iter().map(|entry| entry.reference.clone()).collect(),
            };
            let tags = names.iter().filter(|name| name.tag().is_some()).count();
            if tags > 1 && !force {
                return Err(Failure::conflict(format!(
                    "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
                    id.short()
                )));
            }
            let last = entries.iter().all(|entry| names.contains(&entry.reference));
            if last && !force {
                engine.sweep_leases(&images)?;
                let users = images.holders(&target).unwrap_or_default();
                if let (Some(user), true) = (users.first(), by_id) {
                    let running = wharf_engine::leaseholder(user)
                        .and_then(|id| engine.load(&id).ok())
                        .is_some_and(|container| container.is_running());
                    let user = wharf_engine::leaseholder(user).map_or(user.clone(), |id| id.short().to_owned());
                    let (forced, using) = if running { ("cannot be forced", "running ") } else { ("must be forced", "stopped ") };
                    return Err(Failure::conflict(format!(
                        "conflict: unable to delete {} ({forced}) - image is being used by {using}container {user}",
                        id.short()
                    )));
                }
                if let Some(user) = users.first() {
                    let user = wharf_engine::leaseholder(user).map_or(user.clone(), |id| id.short().to_owned());
                    return Err(Failure::conflict(format!(
                        "conflict: unable to remove repository reference \"{name}\" (must force) - container {user} is using its \
                         referenced image {}",
                        id.short()
                    )));
                }
            }
            let mut removed = Vec::new();
            for name in names {
                images.untag(&name)?;
                keeper.tell_about("image", "untag", &id.to_string(), &[("name", name.familiar())]);
                removed.push(json!({ "Untagged": name.familiar() }));
            }
            if last {
                keeper.tell_about("image", "delete", &id.to_string(), &[]);
                removed.push(json!({ "Deleted": id }));
            }
            images.gc(&GcOptions::default())?;
            Ok(removed)
        })
        .await?;
        Ok(json_of(&Value::Array(removed)))
    }

    async fn prune_images(&self, call: Call) -> Reply {
        let filters = call.query.filters()?;
        filters.check(&["dangling", "label", "label!", "until"])?;
        if filters.has("until") || filters.has("label") || filters.has("label!") {
            return Err(Failure::not_supported("images are pruned without the filters until and label"));
        }
        let all =
            filters.has("dangling") && !filters.fits("dangling", |value| value == "true" || value == "1");
        let (images, engine) = (Arc::clone(&self.images), self.engine.clone());
        blocking(move || {
            engine.sweep_leases(&images)?;
            let entries = images.references()?;
            let parts = parts_of_indexes(&images, &entries);
            let mut removed = Vec::new();
            for entry in entries {
                let dangling = entry.reference.tag().is_none() && !parts.contains(&entry.target.digest);
                let unused = || images.holders(&entry.target).is_ok_and(|holders| holders.is_empty());
                if (all || dangling) && unused() {
                    images.untag(&entry.reference)?;
                    removed.push(json!({ "Untagged": entry.reference.familiar() }));
                }
            }
            let done = images.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() })?;
            Ok(json_of(&json!({ "ImagesDeleted": removed, "SpaceReclaimed": done.bytes })))
        })
        .await
    }

    async fn load(&self, call: Call) -> Reply {
        let (images, keeper) = (Arc::clone(&self.images), Arc::clone(&self.keeper));
        let input = reader_of(call.body);
        let lines = blocking(move || {
            let mut lines = String::new();
            for image in images.load(input)? {
                let id = images.manifest(&image.target)?.1.config.digest.to_string();
                keeper.tell_about("image", "load", &id, &[("name", id.clone())]);
                let said = match image.names.as_slice() {
                    [] => {
                        let name = format!("loaded@{}", image.target.digest).parse()?;
                        images.tag(&[name], &image.target)?;
                        vec![format!(
                            "Loaded image ID: {}\n",
                            images.manifest(&image.target)?.1.config.digest
                        )]
                    }
                    names => {
                        names.iter().map(|name| format!("Loaded image: {}\n", name.familiar())).collect()
                    }
                };
                for line in said {
                    lines.push_str(&format!("{}\n", json!({ "stream": line })));
                }
            }
            Ok(lines)
        })
        .await?;
        Ok(streaming(wharf_http::full(lines), "application/json"))
    }

    async fn pull(&self, call: Call) -> Reply {
        if let Some(source) = call.query.get("fromSrc").map(str::to_owned) {
            return self.import(&source, call).await;
        }
        let name = call.query.get("fromImage").ok_or_else(|| Failure::bad("no image is named"))?;
        let reference = named(name, call.query.get("tag"))?;
        let credentials = credentials(&call, reference.domain())?;
        let (out, receiver) = mpsc::channel(64);
        let (images, keeper) = (Arc::clone(&self.images), Arc::clone(&self.keeper));
        tokio::spawn(async move {
            let lines = Lines::new(out, Way::In);
            let tag = reference.selector();
            lines.say(json!({ "status": format!("Pulling from {}", reference.path()), "id": tag })).await;
            let before = images.lookup(&reference).ok().map(|target| target.digest);
            match Client::with_credentials(credentials).pull(&images, &reference, &lines).await {
                Ok(target) => {
                    let newer = match before == Some(target.digest) {
                        true => "Image is up to date for",
                        false => "Downloaded newer image for",
                    };
                    lines.say(json!({ "status": format!("Digest: {}", target.digest) })).await;
                    lines.say(json!({ "status": format!("Status: {newer} {}", reference.familiar()) })).await;
                    let name = reference.familiar();
                    keeper.tell_about("image", "pull", &name, &[("name", name.clone())]);
                }
                Err(error) => lines.fail(&Failure::from(error)).await,
            }
        });
        Ok(streaming(body_of(async { receiver }), "application/json"))
    }

    /// An image of one layer, of a tar stream.
    async fn import(&self, source: &str, call: Call) -> Reply {
        if source != "-" {
            return Err(Failure::not_supported(format!(
                "'{source}' is not fetched: fetch it, and send it along (docker import -)"
            )));
        }
        let change = self.change(&call.query, "imported")?;
        let comment = call.query.get("message").unwrap_or("Imported from -").to_owned();
        let (images, keeper, input) =
            (Arc::clone(&self.images), Arc::clone(&self.keeper), reader_of(call.body));
        let id = blocking(move || {
            let scratch = images.scratch()?;
            let options = UnpackOptions { whiteouts: false, ..UnpackOptions::default() };
            unpack_into(Decoder::new(input)?, &scratch.upper(), &options)?;
            let layer = images.commit_scratch(scratch, Compression::Gzip, None)?;
            let layers: Vec<_> = layer.into_iter().collect();
            let mut config = ImageConfig::for_host();
            config.created = Some(wharf_base::Clock::now(&wharf_base::SystemClock).to_nano());
            config.history.push(wharf_image::History {
                created: config.created.clone(),
                comment: Some(comment),
                empty_layer: layers.is_empty(),
                ..wharf_image::History::default()
            });
            let made = change.finish(&images, images.put_image(config, &layers)?)?;
            let id = images.manifest(&made)?.1.config.digest.to_string();
            keeper.tell_about("image", "import", &id, &[("name", id.clone())]);
            Ok(id)
        })
        .await?;
        let line = format!("{}\n", json!({ "status": id }));
        Ok(streaming(wharf_http::full(line), "application/json"))
    }

    async fn push(&self, name: String, call: Call) -> Reply {
        let reference = named(&name, call.query.get("tag"))?;
        let credentials = credentials(&call, reference.domain())?;
        let images = Arc::clone(&self.images);
        let (check, wanted) = (Arc::clone(&images), reference.clone());
        blocking(move || Ok(check.lookup(&wanted)?)).await?;
        let (out, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let lines = Lines::new(out, Way::Out);
            lines.say(
                json!({ "status": format!("The push refers to repository [{}]", reference.repository()) }),
            ).await;
            match Client::with_credentials(credentials).push(&images, &reference, &lines).await {
                Ok(pushed) => {
                    let tag = reference.tag().unwrap_or("latest");
                    lines.say(json!({ "status": format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size) })).await;
                    lines.say(json!({
                        "progressDetail": {}, "aux": { "Tag": tag, "Digest": pushed.digest, "Size": pushed.size },
                    })).await;
                }
                Err(error) => lines.fail(&Failure::from(error)).await,
            }
        });
        Ok(streaming(body_of(async { receiver }), "application/json"))
    }
}

/// When an image was made, in seconds since 1970.
fn created(images: &Store, name: &str) -> Result<i64, Failure> {
    let (_, target) = images.find(name)?;
    let entry = images.references()?.into_iter().find(|entry| entry.target.digest == target.digest);
    let entry = entry.ok_or_else(|| Failure::not_found(format!("No such image: {name}")))?;
    Ok(Row::of(images, &entry)?.created)
}

/// What is listed of an image.
struct Row {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    created: i64,
    size: u64,
    labels: BTreeMap<String, String>,
}

impl Row {
    fn new(manifest: &wharf_image::Manifest, config: &ImageConfig, named: Option<&str>, size: u64) -> Self {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        let created = config.created.as_deref().and_then(time).filter(|at| *at > Timestamp::from_unix(0, 0));
        // Where a digest must not depend on the time, that of the name is all there is.
        let created = created.or_else(|| named.and_then(time)).map_or(0, unix);
        Self {
            id: manifest.config.digest.to_string(),
            tags: Vec::new(),
            digests: Vec::new(),
            created,
            size,
            labels: config.config.labels.clone(),
        }
    }

    fn of(images: &Store, entry: &RefEntry) -> Result<Self, Failure> {
        let (_, manifest) = images.manifest(&entry.target)?;
        let config = ImageConfig::parse(&images.document(&manifest.config.digest)?)?;
        let size = images.layer_contents(&manifest, &config).iter().sum();
        Ok(Self::new(&manifest, &config, entry.created(), size))
    }

    fn name(&mut self, entry: &RefEntry) {
        let familiar = entry.reference.familiar();
        let repository = familiar.split('@').next().unwrap_or_default();
        let repository = match entry.reference.tag() {
            Some(tag) => repository.strip_suffix(&format!(":{tag}")).unwrap_or(repository),
            None => repository,
        };
        let digest = format!("{repository}@{}", entry.target.digest);
        if entry.reference.tag().is_some() && !self.tags.contains(&familiar) {
            self.tags.push(familiar.clone());
        }
        if !self.digests.contains(&digest) {
            self.digests.push(digest);
        }
    }
}

/// All images, the newest first.
fn rows(images: &Store) -> Result<Vec<Row>, Failure> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let entries = images.references()?;
    let parts = parts_of_indexes(images, &entries);
    for entry in entries {
        if entry.reference.tag().is_none() && parts.contains(&entry.target.digest) {
            continue;
        }
        // What is no image of this machine, such as a signature, is not listed.
        let Ok(row) = Row::of(images, &entry) else { continue };
        rows.entry(row.id.clone()).or_insert(row).name(&entry);
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.created));
    Ok(rows)
}

/// Images as they are listed, with how many containers each has.
fn described(engine: &Engine, rows: impl Iterator<Item = Row>) -> Result<Value, Failure> {
    let mut users: BTreeMap<String, i64> = BTreeMap::new();
    for container in engine.all()? {
        *users.entry(container.record.image_id).or_default() += 1;
    }
    let rows = rows.map(|row| {
        let containers = users.get(&row.id).copied().unwrap_or_default();
        json!({
            "Id": row.id, "ParentId": "", "RepoTags": row.tags, "RepoDigests": row.digests,
            "Created": row.created, "Size": row.size, "SharedSize": -1, "Labels": row.labels, "Containers": containers,
        })
    });
    Ok(rows.collect())
}

/// All images as they are listed.
pub(super) fn list(engine: &Engine, images: &Store) -> Result<Value, Failure> {
    described(engine, rows(images)?.into_iter())
}

/// Manifests that an image for several platforms consists of.
fn parts_of_indexes(images: &Store, entries: &[RefEntry]) -> HashSet<Digest> {
    let indexes = entries.iter().filter(|entry| media_type::is_index(&entry.target.media_type));
    indexes
        .filter_map(|entry| Index::parse(&images.document(&entry.target.digest).ok()?).ok())
        .flat_map(|index| index.manifests.into_iter().map(|part| part.digest))
        .collect()
}

/// Whether a pattern of names fits a name: with a tag or without, with `*`.
fn names(pattern: &str, tag: &str) -> bool {
    let repository = tag.rsplit_once(':').map_or(tag, |(repository, _)| repository);
    [tag, repository].iter().any(|name| wharf_image::glob_match(pattern.as_bytes(), name.as_bytes()))
}

/// `fromImage` and `tag`, which may be a digest.
fn named(name: &str, tag: Option<&str>) -> Result<Reference, Failure> {
    Ok(match tag {
        Some(digest) if digest.contains(':') => format!("{name}@{digest}").parse()?,
        Some(tag) => format!("{name}:{tag}").parse()?,
        None => name.parse()?,
    })
}

/// What the client sends along for a registry; without it, this machine's own.
fn credentials(call: &Call, domain: &str) -> Result<DockerConfig, Failure> {
    let given = call.head.headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
    let decoded = given.and_then(|text| {
        let engines =
            [&general_purpose::URL_SAFE, &general_purpose::URL_SAFE_NO_PAD, &general_purpose::STANDARD];
        engines.iter().find_map(|engine| engine.decode(text).ok())
    });
    let value: Value = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    match self::given(&value, domain) {
        Some(config) => config.map_err(|error| Failure::bad(error.to_string())),
        None => DockerConfig::load().map_err(Failure::internal),
    }
}

/// What a client's `AuthConfig` says for a registry; nothing when it says nothing.
pub(super) fn given(value: &Value, domain: &str) -> Option<Result<DockerConfig, serde_json::Error>> {
    let text = |name: &str| value[name].as_str().filter(|text| !text.is_empty());
    let entry = match (text("username"), text("password"), text("identitytoken")) {
        (_, _, Some(token)) => json!({ "identitytoken": token }),
        (Some(user), Some(password), _) => {
            json!({ "auth": general_purpose::STANDARD.encode(format!("{user}:{password}")) })
        }
        _ => return None,
    };
    let server = text("serveraddress").unwrap_or(domain);
    let mut config = json!({ "auths": {} });
    for name in [server, domain] {
        config["auths"][name] = entry.clone();
    }
    Some(DockerConfig::parse(config.to_string().as_bytes()))
}

/// Which way an image goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// Progress as lines of JSON.
struct Lines {
    out: mpsc::Sender<Bytes>,
    way: Way,
    told: Mutex<BTreeMap<String, Instant>>,
}

impl Lines {
    fn new(out: mpsc::Sender<Bytes>, way: Way) -> Self {
        Self { out, way, told: Mutex::default() }
    }

    /// Waits for the reader.
    async fn say(&self, line: Value) {
        // Who went away is told nothing.
        let _ = self.out.send(Bytes::from(format!("{line}\n"))).await;
    }

    async fn fail(&self, failure: &Failure) {
        let message = failure.message();
        self.say(json!({ "errorDetail": { "message": message }, "error": message })).await;
    }
}

impl Progress for Lines {
    fn step(&self, digest: &Digest, step: Step) {
        let id = digest.short();
        let id = id.trim_start_matches("sha256:");
        let (status, detail) = match (step, self.way) {
            (Step::Exists, Way::In) => ("Already exists", None),
            (Step::Exists, Way::Out) => ("Layer already exists", None),
            (Step::Mounted, _) => ("Mounted", None),
            (Step::Retry, _) => ("Retrying", None),
            (Step::Unpack, _) => ("Extracting", None),
            (Step::Done, Way::In) => ("Pull complete", None),
            (Step::Done, Way::Out) => ("Pushed", None),
            (Step::Transfer { done, total }, way) => {
                let word = if way == Way::In { "Downloading" } else { "Pushing" };
                (word, Some((done, total)))
            }
        };
        if detail.is_some() {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            if told.get(id).is_some_and(|last| now.duration_since(*last) < EVERY) {
                return;
            }
            told.insert(id.to_owned(), now);
        }
        let detail = detail.map_or(json!({}), |(done, total)| json!({ "current": done, "total": total }));
        let line = json!({ "status": status, "progressDetail": detail, "id": id });
        // Progress that a slow reader misses is told by the next.
        let _ = self.out.try_send(Bytes::from(format!("{line}\n")));
    }
}
