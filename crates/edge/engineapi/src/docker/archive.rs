//! Files in and out of containers as tar streams: `archive`, `export`, `changes`.

use std::{
    io::Write as _,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::mpsc;
use wharf_engine::{
    MAIN,
    archive::{Folder, Source, There},
};
use wharf_image::{Archived, UnpackOptions, unpack_into};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, created, json_of, streaming},
    blocking,
    containers::body_of,
};

/// Files of a container that are not its own.
const MOUNTED: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
/// Bytes that are passed on at once.
const CHUNK: usize = 64 << 10;

impl Docker {
    pub(super) async fn archive(&self, method: &Method, id: &str, call: Call) -> Reply {
        let path = call.query.get("path").ok_or_else(|| Failure::bad("path cannot be empty"))?.to_owned();
        let (engine, container) = self.found(id).await?;
        if method == Method::PUT {
            let owners = call.query.flag("copyUIDGID");
            let input = reader_of(call.body);
            return blocking(move || {
                let (folder, There::Folder) = Folder::of(&engine, &container)?.look(&path)? else {
                    return Err(Failure::bad(format!("extraction point is not a directory: {path}")));
                };
                let owner = (!owners).then_some((0, 0));
                let options = UnpackOptions { whiteouts: false, owner, ..UnpackOptions::default() };
                unpack_into(input, &folder.path(), &options)?;
                Ok(answer::status(StatusCode::OK))
            })
            .await;
        }
        let head = *method == Method::HEAD;
        let (stat, source) = blocking(move || {
            let source = Source::of(engine.data(), &container, &path, false)?;
            Ok((source.stat(), source))
        })
        .await?;
        let stat = json!({
            "name": stat.name, "size": stat.size, "mode": stat.mode, "mtime": stat.modified.to_nano(),
            "linkTarget": stat.link,
        });
        let stat = HeaderValue::from_str(&STANDARD.encode(stat.to_string()))
            .map_err(|error| Failure::internal(error.to_string()))?;
        let mut response = match head {
            true => answer::status(StatusCode::OK),
            false => streaming(
                body_of(async {
                    written(move |out| source.write(source.name().as_bytes(), out).map_err(Into::into))
                }),
                "application/x-tar",
            ),
        };
        response.headers_mut().insert("x-docker-container-path-stat", stat);
        Ok(response)
    }

    /// All files of a container.
    pub(super) async fn export(&self, id: &str) -> Reply {
        let (engine, container) = self.found(id).await?;
        let source = blocking(move || Ok(Source::of(engine.data(), &container, "/", false)?)).await?;
        let receiver = written(move |out| source.write(b"", out).map_err(Into::into));
        Ok(streaming(body_of(async { receiver }), "application/x-tar"))
    }

    /// What a container has changed of its image's files.
    pub(super) async fn changes(&self, id: &str) -> Reply {
        let (engine, container) = self.found(id).await?;
        blocking(move || {
            let upper = container.dir.container(MAIN).join("upper");
            let image = engine.images()?.resolve(&container.record.image_id).ok();
            let lower = image.map(|image| image.lower_dirs).unwrap_or_default();
            let (mut changes, mut folders) = (Vec::new(), Vec::new());
            let mut open = vec![std::path::PathBuf::new()];
            while let Some(folder) = open.pop() {
                for entry in std::fs::read_dir(upper.join(&folder)).into_iter().flatten().flatten() {
                    let path = folder.join(entry.file_name());
                    let Ok(found) = entry.metadata() else { continue };
                    let shown = format!("/{}", path.display());
                    // Files that tell the container its own name are mounted there.
                    if MOUNTED.contains(&shown.as_str()) {
                        continue;
                    }
                    // A character device 0:0 stands for what is deleted.
                    let deleted = found.file_type().is_char_device() && found.rdev() == 0;
                    let known = lower.iter().any(|layer| layer.join(&path).symlink_metadata().is_ok());
                    let kind = if deleted { 2 } else { i32::from(!known) };
                    match found.is_dir() {
                        true if known => folders.push(shown),
                        _ => changes.push((shown, kind)),
                    }
                    if found.is_dir() {
                        open.push(path);
                    }
                }
            }
            // A folder has changed when something in it has.
            let changed =
                |folder: &String| changes.iter().any(|(path, _)| path.starts_with(&format!("{folder}/")));
            let folders: Vec<_> = folders.into_iter().filter(changed).map(|folder| (folder, 0)).collect();
            changes.extend(folders);
            changes.sort();
            let changes = changes.into_iter().map(|(path, kind)| json!({ "Path": path, "Kind": kind }));
            Ok(json_of(&changes.collect()))
        })
        .await
    }

    /// An image of what a container has become.
    pub(super) async fn commit(&self, call: Call) -> Reply {
        let id = call.query.get("container").ok_or_else(|| Failure::bad("no container is named"))?.to_owned();
        if let Some(change) = call.query.get("changes") {
            return Err(Failure::not_supported(format!(
                "changes of the image while committing ('{change}') are not supported yet"
            )));
        }
        let name = match (call.query.get("repo"), call.query.get("tag")) {
            (None, _) => None,
            (Some(repository), None) => Some(repository.parse::<wharf_image::Reference>()?),
            (Some(repository), Some(tag)) => Some(format!("{repository}:{tag}").parse()?),
        };
        let (comment, author) =
            (call.query.get("comment").map(str::to_owned), call.query.get("author").map(str::to_owned));
        let pause = call.query.get("pause").is_none() || call.query.flag("pause");
        let (engine, container) = self.found(&id).await?;
        let images = std::sync::Arc::clone(&self.images);
        blocking(move || {
            let running = container.is_running().then(|| container.connect(&engine)).transpose()?;
            let held = running.filter(|_| pause);
            if let Some(sandbox) = &held {
                sandbox.pause(MAIN)?;
            }
            let upper = container.dir.container(MAIN).join("upper");
            let base = images.resolve(&container.record.image_id);
            let made = base.and_then(|base| {
                let layer = images.add_layer_from(&upper, wharf_image::Compression::None, None)?;
                let mut config = base.config.clone();
                config.created = Some(wharf_base::Clock::now(&wharf_base::SystemClock).to_nano());
                config.author = author.or(config.author);
                config.history.push(wharf_image::History {
                    created: config.created.clone(),
                    comment,
                    ..wharf_image::History::default()
                });
                let layers: Vec<_> = base.layers.into_iter().chain([layer]).collect();
                images.put_image(config, &layers)
            });
            if let Some(sandbox) = &held {
                sandbox.unpause(MAIN)?;
            }
            let made = made?;
            let names = match name {
                Some(name) => vec![name],
                // Without a name it would go with the next collection.
                None => vec![format!("committed@{}", made.digest).parse()?],
            };
            images.tag(&names, &made)?;
            let id = images.manifest(&made)?.1.config.digest;
            Ok(created(&json!({ "Id": id })))
        })
        .await
    }

    /// Images as a docker archive.
    pub(super) async fn save(&self, names: Vec<String>) -> Reply {
        let images = std::sync::Arc::clone(&self.images);
        let found = blocking(move || {
            let mut found: Vec<Archived> = Vec::new();
            for wanted in &names {
                let (name, target) = images.find(wanted)?;
                let name = name.filter(|name| name.tag().is_some());
                match found.iter_mut().find(|image| image.target.digest == target.digest) {
                    Some(image) => image.names.extend(name),
                    None => found.push(Archived { names: name.into_iter().collect(), target }),
                }
            }
            Ok(found)
        })
        .await?;
        let images = std::sync::Arc::clone(&self.images);
        let receiver = written(move |out| images.save(&found, out).map_err(Into::into));
        Ok(streaming(body_of(async { receiver }), "application/x-tar"))
    }
}

/// What `write` writes, as chunks.
pub(super) fn written(
    write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), Failure> + Send + 'static,
) -> mpsc::Receiver<Bytes> {
    let (out, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut out = std::io::BufWriter::with_capacity(CHUNK, Chunks(out));
        // A client that went away has had enough.
        match write(&mut out) {
            Ok(()) => drop(out.flush()),
            Err(failure) => tracing::debug!(error = failure.message(), "a stream of files ends early"),
        }
    });
    receiver
}

struct Chunks(mpsc::Sender<Bytes>);

impl std::io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let gone = || std::io::ErrorKind::BrokenPipe;
        self.0.blocking_send(Bytes::copy_from_slice(bytes)).map_err(|_| gone())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A request's body for those who read blockingly.
pub(super) fn reader_of(mut body: wharf_http::Body) -> impl std::io::Read + Send + 'static {
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(4);
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            let bytes = match frame {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => Ok(data),
                    Err(_) => continue,
                },
                Err(error) => Err(std::io::Error::other(error.to_string())),
            };
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    });
    Received { receiver, rest: Bytes::new() }
}

struct Received {
    receiver: mpsc::Receiver<std::io::Result<Bytes>>,
    rest: Bytes,
}

impl std::io::Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.rest = bytes?,
                None => return Ok(0),
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}
