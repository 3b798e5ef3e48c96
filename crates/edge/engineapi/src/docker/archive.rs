//! Files in and out of containers as tar streams: `archive`, `export`, `changes`.

use std::{
    io::{self, Read, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::sync::mpsc;
use wharf_engine::{
    Container, Engine, MAIN, Record,
    archive::{Folder, Kind, Source, There, owner_of},
};
use wharf_http::Body;
use wharf_image::{Archived, ContainerConfig, Reference, UnpackOptions, unpack_into};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, created, json_of, streaming},
    blocking,
};

/// Files of a container that are not its own.
const MOUNTED: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
/// Bytes that are passed on at once.
const CHUNK: usize = 64 << 10;

/// Unpacks an archive below `path`; with `owners`, what is in it becomes the container's user's.
fn put(engine: &Engine, container: &Container, path: &str, owners: bool, input: &mut dyn Read) -> Reply {
    let spec = &container.record.spec;
    let below = |target: &str| std::path::Path::new(path).starts_with(target);
    if spec.read_only && !spec.mounts.iter().any(|mount| below(&mount.target)) {
        return Err(Failure::bad("container rootfs is marked read-only"));
    }
    let found = Folder::at(engine, container, path).and_then(|(folder, path)| folder.look(&path));
    let found = found.map_err(Failure::from).map_err(|failure| not_there(failure, path, container));
    let (folder, there) = found?;
    match there {
        There::Folder => {}
        There::Nothing => return Err(not_there(Failure::not_found(""), path, container)),
        There::Other => {
            return Err(Failure::bad(format!("extraction point is not a directory: {path}")));
        }
    }
    let owner = if owners { owner_of(engine, container)? } else { None };
    let options = UnpackOptions { whiteouts: false, owner, ..UnpackOptions::default() };
    unpack_into(input, &folder.path(), &options)?;
    Ok(answer::status(StatusCode::OK))
}

impl Docker {
    pub(super) async fn archive(&self, method: &Method, id: &str, call: Call) -> Reply {
        let path = call.query.get("path").ok_or_else(|| Failure::bad("path cannot be empty"))?.to_owned();
        let (engine, container) = self.found(id).await?;
        if method == Method::PUT {
            let owners = call.query.flag("copyUIDGID");
            let mut input = reader_of(call.body);
            return blocking(move || put(&engine, &container, &path, owners, &mut input)).await;
        }
        let head = *method == Method::HEAD;
        let (stat, source) = blocking(move || {
            let source = Source::of(engine.data(), &container, &path, false);
            let source =
                source.map_err(Failure::from).map_err(|failure| not_there(failure, &path, &container))?;
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
                written(move |out| {
                    // Clients put the name of the target in the place of this one.
                    let name = if source.kind() == Kind::Content { ".".to_owned() } else { source.name() };
                    source.write(name.as_bytes(), out).map_err(Into::into)
                }),
                "application/x-tar",
            ),
        };
        response.headers_mut().insert("x-docker-container-path-stat", stat);
        Ok(response)
    }

    /// All files of a container but those of mounts.
    pub(super) async fn export(&self, id: &str) -> Reply {
        let (engine, container) = self.found(id).await?;
        let source = blocking(move || Ok(Source::unmounted(engine.data(), &container)?)).await?;
        let body = written(move |out| source.write(b"", out).map_err(Into::into));
        Ok(streaming(body, "application/x-tar"))
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
    pub(super) async fn commit(&self, mut call: Call) -> Reply {
        let id = call.query.get("container").ok_or_else(|| Failure::bad("no container is named"))?.to_owned();
        let given: Option<ContainerConfig> = call.json().await?;
        let change = self.change(&call.query, "committed")?;
        let (comment, author) =
            (call.query.get("comment").map(str::to_owned), call.query.get("author").map(str::to_owned));
        let pause = call.query.get("pause").is_none() || call.query.flag("pause");
        let (engine, container) = self.found(&id).await?;
        let images = std::sync::Arc::clone(&self.images);
        blocking(move || {
            let running = container.is_running().then(|| container.connect(&engine)).transpose()?;
            // Without cgroups nothing can be paused, and the client asks for it unless told otherwise.
            let held = running.filter(|_| pause && wharf_runtime::has_cgroups());
            if let Some(sandbox) = &held {
                sandbox.pause(MAIN)?;
            }
            let upper = container.dir.container(MAIN).join("upper");
            let base = images.resolve(&container.record.image_id);
            let made = base.and_then(|base| {
                // One that was never started has changed nothing.
                let layer = upper
                    .exists()
                    .then(|| images.add_layer_from(&upper, wharf_image::Compression::None, None))
                    .transpose()?;
                let mut config = base.config.clone();
                let own = committed(&container.record, config.config);
                config.config = given.map_or(own.clone(), |given| completed(given, own));
                config.created = Some(wharf_base::Clock::now(&wharf_base::SystemClock).to_nano());
                config.author = author.or(config.author);
                config.history.push(wharf_image::History {
                    created: config.created.clone(),
                    comment,
                    empty_layer: layer.is_none(),
                    ..wharf_image::History::default()
                });
                let layers: Vec<_> = base.layers.into_iter().chain(layer).collect();
                images.put_image(config, &layers)
            });
            if let Some(sandbox) = &held {
                sandbox.unpause(MAIN)?;
            }
            let made = change.finish(&images, made?)?;
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
                // A name without a tag stands for all of its tags.
                let parsed = wanted.parse::<Reference>().ok().map(|name| name.familiar());
                let bare = parsed.filter(|name| *name == format!("{wanted}:latest"));
                if bare.is_some() {
                    let all = images.references()?.into_iter().filter(|entry| {
                        let familiar = entry.reference.familiar();
                        let tag = entry.reference.tag().unwrap_or_default();
                        familiar.strip_suffix(&format!(":{tag}")) == Some(wanted)
                    });
                    let all: Vec<_> = all.collect();
                    for entry in &all {
                        let same = |image: &&mut Archived| image.target.digest == entry.target.digest;
                        match found.iter_mut().find(same) {
                            Some(image) => image.names.push(entry.reference.clone()),
                            None => found.push(Archived {
                                names: vec![entry.reference.clone()],
                                target: entry.target.clone(),
                            }),
                        }
                    }
                    if !all.is_empty() {
                        continue;
                    }
                }
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
        let body = written(move |out| images.save(&found, out).map_err(Into::into));
        Ok(streaming(body, "application/x-tar"))
    }
}

/// What is not there, in docker's words.
fn not_there(failure: Failure, path: &str, container: &Container) -> Failure {
    match failure.is_not_found() {
        true => {
            Failure::not_found(format!("Could not find the file {path} in container {}", container.name()))
        }
        false => failure,
    }
}

/// How containers run of an image that this one became.
fn committed(record: &Record, image: ContainerConfig) -> ContainerConfig {
    let spec = &record.spec;
    let mut config = ContainerConfig {
        user: spec.user.clone().unwrap_or(image.user),
        working_dir: spec.workdir.clone().unwrap_or(image.working_dir),
        stop_signal: spec.stop_signal.clone().or(image.stop_signal),
        healthcheck: spec.healthcheck.clone().or(image.healthcheck),
        ..image
    };
    if let Some(words) = &spec.entrypoint {
        (config.entrypoint, config.cmd) = (Some(words.clone()).filter(|words| !words.is_empty()), None);
    }
    if !spec.command.is_empty() {
        config.cmd = Some(spec.command.clone());
    }
    for setting in &spec.env {
        let name = setting.split('=').next().unwrap_or_default();
        config.env.retain(|known| known.split('=').next() != Some(name));
        config.env.extend(setting.contains('=').then(|| setting.clone()));
    }
    config.labels.extend(spec.labels.clone());
    let asked = record.docker.as_ref();
    let keys = |name: &str| {
        let names = asked.and_then(|body| body[name].as_object()).into_iter().flatten();
        names.map(|(key, _)| (key.clone(), Default::default())).collect::<Vec<_>>()
    };
    config.exposed_ports.extend(keys("ExposedPorts"));
    config.volumes.extend(keys("Volumes"));
    config
}

/// What is given, and where nothing is, the container's own.
fn completed(given: ContainerConfig, own: ContainerConfig) -> ContainerConfig {
    fn or<T: Default + PartialEq>(given: T, own: T) -> T {
        if given == T::default() { own } else { given }
    }
    ContainerConfig {
        user: or(given.user, own.user),
        exposed_ports: or(given.exposed_ports, own.exposed_ports),
        env: or(given.env, own.env),
        entrypoint: given.entrypoint.or(own.entrypoint),
        cmd: given.cmd.or(own.cmd),
        volumes: or(given.volumes, own.volumes),
        working_dir: or(given.working_dir, own.working_dir),
        labels: or(given.labels, own.labels),
        stop_signal: given.stop_signal.or(own.stop_signal),
        healthcheck: given.healthcheck.or(own.healthcheck),
        shell: given.shell.or(own.shell),
        on_build: or(given.on_build, own.on_build),
        other: own.other,
    }
}

/// What `write` writes, as a body. When it fails the connection breaks, lest a part be taken for the whole.
pub(super) fn written(
    write: impl FnOnce(&mut dyn io::Write) -> Result<(), Failure> + Send + 'static,
) -> Body {
    let (chunks, mut receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut out = io::BufWriter::with_capacity(CHUNK, Chunks(chunks.clone()));
        let done = write(&mut out).and_then(|()| Ok(out.flush()?));
        if let Err(failure) = done
            && !chunks.is_closed()
        {
            tracing::warn!(error = failure.message(), "a stream of files ends early");
            // A client that goes away now has no use for it.
            let _ = chunks.blocking_send(Err(io::Error::other(failure.message().to_owned())));
        }
    });
    wharf_http::stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)))
}

struct Chunks(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = || io::ErrorKind::BrokenPipe;
        self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))).map_err(|_| gone())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request's body for those who read blockingly.
pub(super) fn reader_of(mut body: Body) -> impl Read + Send + 'static {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    tokio::spawn(async move {
        pass_on(&mut body, sender).await;
        // The listener cannot do this: the body outlives its handler here.
        wharf_http::read_on(body).await;
    });
    Received { receiver, rest: Bytes::new() }
}

/// Gives a body's bytes to a reader until either ends.
async fn pass_on(body: &mut Body, sender: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => return,
        };
        let bytes = match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
            None => return,
            Some(Ok(Ok(data))) => Ok(data),
            // Trailers.
            Some(Ok(Err(_))) => continue,
            Some(Err(error)) => Err(io::Error::other(error.to_string())),
        };
        if sender.send(bytes).await.is_err() {
            return;
        }
    }
}

struct Received {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::watch,
    };
    use wharf_http::Listener;

    use super::*;

    /// A server that looks at the begin of an archive and refuses it.
    async fn refusing() -> (std::net::SocketAddr, watch::Sender<bool>) {
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let address = listener.address().unwrap();
        let handler: wharf_http::Handler = Arc::new(|request| {
            Box::pin(async move {
                let mut input = reader_of(request.into_body());
                let refused = tokio::task::spawn_blocking(move || input.read(&mut [0; 512]));
                assert_eq!(refused.await.unwrap().unwrap(), 512);
                answer::status(StatusCode::BAD_REQUEST)
            })
        });
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(listener.serve(handler, stopping));
        (address, stop)
    }

    #[tokio::test]
    async fn a_client_that_still_sends_a_refused_archive_reads_the_answer() {
        let (address, _stop) = refusing().await;
        for (pieces, bytes, pause) in [(20, 4 << 10, 10), (25, 8 << 10, 2)] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let length = pieces * bytes;
            let head = format!("PUT /archive HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            for piece in 0..pieces {
                let written = client.write_all(&vec![0; bytes]).await;
                written.unwrap_or_else(|error| panic!("piece {piece} of {pieces}: {error}"));
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 400");
        }
    }

    #[tokio::test]
    async fn a_client_that_sends_without_end_is_not_read_for_ever() {
        let (address, _stop) = refusing().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client
            .write_all(b"PUT /archive HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
            .await
            .unwrap();
        let endless = async { while client.write_all(&[0; 64 << 10]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(30), endless).await.expect("the connection is closed");
    }
}
