//! `wharf backup`: all objects and keys of the platform in one file.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes};
use http::Request;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use wharf_apiserver::BACKUP_PATH;
use wharf_base::{Clock as _, HintExt as _, Hinted, SystemClock, random_hex};
use wharf_client::Client;
use wharf_state::{
    Embedded, Options, Store as _,
    backup::{Head, Reader, Record, Writer},
};

use super::{
    Globals,
    platform::{client_of, run, say},
    restore,
};
use crate::platform::lock;

/// Bytes of an answer that says why there is no backup.
const MAX_REFUSAL: usize = 64 << 10;

/// Save all objects and the keys of the platform to a file
#[derive(clap::Args)]
#[command(
    after_help = "All objects are saved as of one moment, whether the platform runs or not, with the keys and \
                  certificates that kubeconfigs and tokens depend on. The file is as secret as those; only its owner may \
                  read it. Not in it: images, volumes, git repositories, logs of pipelines, telemetry. 'wharf restore' \
                  puts it back."
)]
pub(crate) struct Args {
    /// The file to write; one that is there is replaced once the new one is whole
    file: PathBuf,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> Result<ExitCode> {
        let data = globals.data_dir()?;
        let draft = Draft::new(&self.file)?;
        // Held while a platform that does not run is read.
        let saved = match lock(&data) {
            Ok(lock) => at_rest(&data, &draft).map(|saved| (saved, drop(lock)).0),
            Err(_) => running(&data, &draft),
        }?;
        draft.finish()?;
        say(&format!(
            "{}: {} objects as of revision {}, and the platform's keys: keep it as secret as those\n",
            self.file.display(),
            saved.keys,
            saved.revision
        ));
        Ok(ExitCode::SUCCESS)
    }
}

/// What a backup holds.
#[derive(Debug, Clone, Copy)]
struct Saved {
    keys: u64,
    revision: u64,
}

/// A file that gets its name once it is whole, and else goes.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
    file: File,
}

impl Draft {
    fn new(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.with_context(|| format!("{} names no file", path.display()))?;
        let draft = path.with_file_name(format!(".{name}.{}.part", random_hex(8)));
        // Nobody else has it: neither a file nor a link that was there before.
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&draft);
        Ok(Self { path: path.to_owned(), file: file.with_context(failed)?, draft })
    }

    /// Puts the file in its place, to stay there whatever happens.
    fn finish(self) -> Result<()> {
        let put = || {
            self.file.sync_all()?;
            std::fs::rename(&self.draft, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        put().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is not there any more when all went well.
        let _ = std::fs::remove_file(&self.draft);
    }
}

/// Saves a platform that does not run, whose lock the caller has.
fn at_rest(data: &Path, draft: &Draft) -> Result<Saved> {
    restore::finish(data)?;
    if data.join(crate::platform::CLAIM).exists() {
        let error = format!("the state of the platform in {} is in an etcd", data.display());
        let hint = "start it with 'wharf up --store …': only a running platform can be saved from there";
        return Err(Hinted::new(error, hint).into());
    }
    let state = data.join("state.redb");
    if !state.exists() {
        let error = format!("there is no state in {}", data.display());
        let hint = "choose the platform's folder with --data; one that keeps its state in etcd has to run for a backup";
        return Err(Hinted::new(error, hint).into());
    }
    let store = Embedded::open(&state, Options::default()).map_err(damaged)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut snapshot = runtime.block_on(store.snapshot())?;
    let taken = u64::try_from(SystemClock.now().as_millis()).unwrap_or(0);
    let mut writer = start(draft, Head { revision: snapshot.revision, taken })?;
    let mut keys = 0;
    while let Some(piece) = snapshot.blocking_next()? {
        for key in piece {
            writer.key(&key)?;
            keys += 1;
        }
    }
    end(writer, data)?;
    Ok(Saved { keys, revision: snapshot.revision })
}

/// An error of the store, with the way out of a damage.
pub(crate) fn damaged(error: wharf_state::Error) -> anyhow::Error {
    match error {
        wharf_state::Error::Damaged { .. } => {
            let hint =
                "put a backup in its place with 'wharf restore --force FILE', which keeps the damaged file";
            Hinted::new(error, hint).into()
        }
        other => other.into(),
    }
}

/// Saves a platform that runs: it gives its objects, and its keys are read beside it.
fn running(data: &Path, draft: &Draft) -> Result<Saved> {
    run_to_end(async {
        let client = client_of(data).await?;
        let (sender, received) = mpsc::channel(8);
        let (data, file) = (data.to_owned(), draft.file.try_clone()?);
        let written =
            tokio::task::spawn_blocking(move || copy(Pipe { received, rest: Bytes::new() }, file, &data));
        let told = receive(&client, sender).await;
        let written = written.await?;
        told.and(written)
    })
}

fn run_to_end<T>(act: impl Future<Output = Result<T>>) -> Result<T> {
    let mut result = None;
    run(async {
        result = Some(act.await);
        Ok(ExitCode::SUCCESS)
    })?;
    result.context("the run time ended early")?
}

/// Passes what the platform sends on, until it ends.
async fn receive(client: &Client, to: mpsc::Sender<io::Result<Bytes>>) -> Result<()> {
    let request = Request::get(BACKUP_PATH).body(Vec::new().into())?;
    let (head, mut body) =
        client.kube().send(request).await.context("the platform gives no backup")?.into_parts();
    if !head.status.is_success() {
        let mut said = Vec::new();
        while let Some(Ok(frame)) = body.frame().await.filter(|_| said.len() < MAX_REFUSAL) {
            said.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        let status: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
        let why = status["message"].as_str().unwrap_or("it is of another version");
        anyhow::bail!("the platform gives no backup: {why} ({})", head.status.as_u16());
    }
    while let Some(frame) = body.frame().await {
        let piece = match frame {
            Ok(frame) => frame.into_data().map_or(Ok(Bytes::new()), Ok),
            Err(error) => Err(io::Error::other(error)),
        };
        if to.send(piece).await.is_err() {
            // Whoever reads has found something wrong, and tells.
            break;
        }
    }
    Ok(())
}

/// What comes through a channel, for those who read and wait.
struct Pipe {
    received: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.received.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.rest = piece?,
            }
        }
        let length = to.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut to[..length]);
        Ok(length)
    }
}

/// Checks what the platform sends, and writes it with its keys.
fn copy(from: Pipe, file: File, data: &Path) -> Result<Saved> {
    let mut reader = Reader::new(from).context("the platform's backup cannot be read")?;
    let head = reader.head();
    let mut writer = Writer::new(BufWriter::new(file), head)?;
    let mut keys = 0;
    while let Some(record) = reader.next_record().context("the platform's backup cannot be read")? {
        if let Record::Key(key) = record {
            writer.key(&key)?;
            keys += 1;
        }
    }
    end(writer, data)?;
    Ok(Saved { keys, revision: head.revision })
}

fn start(draft: &Draft, head: Head) -> Result<Writer<BufWriter<File>>> {
    Ok(Writer::new(BufWriter::new(draft.file.try_clone()?), head)?)
}

/// Adds the platform's keys and certificates.
fn end(mut writer: Writer<BufWriter<File>>, data: &Path) -> Result<()> {
    let folder = data.join("pki");
    let mut files = Vec::new();
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
        }
    }
    files.sort();
    let services = data.join(restore::SERVICE_NETWORK_PATH);
    if services.exists() {
        files.push((restore::SERVICE_NETWORK.to_owned(), services));
    }
    for (name, path) in files {
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        writer.file(&name, &content).hint(|| format!("remove {} if it is not wharf's", path.display()))?;
    }
    writer.finish()?;
    Ok(())
}
