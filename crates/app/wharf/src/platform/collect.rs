//! Brings the logs of containers in: follows the files their shims write.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use wharf_base::Timestamp;
use wharf_client::{Informer, Object};
use wharf_telemetry::{
    logs::{Entry, Logs},
    metrics::Labels,
};

/// Files are looked at this often.
const EVERY: Duration = Duration::from_millis(250);
/// Bytes taken from one file at once.
const CHUNK: u64 = 1 << 20;

/// How far a file has been read.
struct Position {
    inode: u64,
    offset: u64,
    /// Lines up to this time are in the store already, from before a restart.
    known: i64,
    /// A line the shim has cut into pieces.
    partial: String,
}

/// Follows the logs of this machine's pods.
pub(crate) async fn run(logs: Arc<Logs>, pods: Informer, folder: PathBuf, node: String) {
    let mut positions: HashMap<PathBuf, Position> = HashMap::new();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (logs, folder, node) = (Arc::clone(&logs), folder.clone(), node.clone());
        let listed = pods.list();
        let looked = tokio::task::spawn_blocking(move || {
            let mut round = Round { logs: &logs, node: &node, positions: &mut positions, seen: Vec::new() };
            for pod in &listed {
                round.pod(&folder, pod);
            }
            let seen = round.seen;
            positions.retain(|path, _| seen.contains(path));
            positions
        });
        match looked.await {
            Ok(back) => positions = back,
            Err(error) => return tracing::error!(%error, "the logs of containers are no longer collected"),
        }
    }
}

struct Round<'a> {
    logs: &'a Logs,
    node: &'a str,
    positions: &'a mut HashMap<PathBuf, Position>,
    seen: Vec<PathBuf>,
}

impl Round<'_> {
    fn pod(&mut self, folder: &Path, pod: &Object) {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        if text("/spec/nodeName") != self.node {
            return;
        }
        let logs = folder.join(text("/metadata/uid")).join("logs");
        let Ok(containers) = std::fs::read_dir(&logs) else { return };
        for container in containers.flatten() {
            let Ok(files) = std::fs::read_dir(container.path()) else { continue };
            let name = container.file_name();
            let labels = labels(pod, &name.to_string_lossy(), self.node);
            let mut paths: Vec<PathBuf> = files
                .flatten()
                .map(|f| f.path())
                .filter(|p| p.extension().is_some_and(|e| e == "log"))
                .collect();
            paths.sort();
            // Asked once for all files of the container: what one of them brings must not hide lines of another.
            let unseen = paths.iter().any(|path| !self.positions.contains_key(path));
            let known = if unseen { self.logs.newest(&labels) } else { None };
            for path in paths {
                if let Err(error) = self.file(&path, &labels, known.unwrap_or(i64::MIN)) {
                    tracing::debug!(path = %path.display(), %error, "a log could not be read");
                }
                self.seen.push(path);
            }
        }
    }

    fn file(&mut self, path: &Path, labels: &Labels, known: i64) -> std::io::Result<()> {
        let metadata = std::fs::metadata(path)?;
        let position = self.positions.entry(path.to_owned()).or_insert_with(|| Position {
            inode: metadata.ino(),
            offset: 0,
            known,
            partial: String::new(),
        });
        if position.inode != metadata.ino() || metadata.len() < position.offset {
            // A new file was begun. What stood in the old one after the last look is in `FILE.1`.
            let rotated = PathBuf::from(format!("{}.1", path.display()));
            if std::fs::metadata(&rotated).is_ok_and(|m| m.ino() == position.inode) {
                take(&rotated, position, self.logs, labels)?;
            }
            (position.inode, position.offset) = (metadata.ino(), 0);
        }
        if metadata.len() > position.offset {
            take(path, position, self.logs, labels)?;
        }
        Ok(())
    }
}

/// Takes whole lines from where reading stopped.
fn take(path: &Path, position: &mut Position, logs: &Logs, labels: &Labels) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(position.offset))?;
    let mut bytes = Vec::new();
    file.take(CHUNK).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|b| *b == b'\n') else {
        // A line longer than a chunk is no line of a shim: it is passed over.
        position.offset += if bytes.len() as u64 == CHUNK { CHUNK } else { 0 };
        return Ok(());
    };
    let whole = bytes.get(..=end).unwrap_or_default();
    let mut entries = Vec::new();
    for line in String::from_utf8_lossy(whole).lines() {
        let Some((at, last, text)) = cri(line) else { continue };
        position.partial.push_str(text);
        if !last {
            continue;
        }
        let line = std::mem::take(&mut position.partial);
        if at > position.known {
            entries.push(Entry::new(at, line));
        }
    }
    logs.append(labels, &entries).map_err(std::io::Error::other)?;
    position.offset += whole.len() as u64;
    Ok(())
}

/// `TIME stdout|stderr F|P TEXT` (the Container Runtime Interface's log format).
fn cri(line: &str) -> Option<(i64, bool, &str)> {
    let mut parts = line.splitn(4, ' ');
    let time: Timestamp = parts.next()?.parse().ok()?;
    let (_stream, tag) = (parts.next()?, parts.next()?);
    let at = time.as_second().saturating_mul(1_000_000_000).saturating_add(i64::from(time.subsec_nanos()));
    Some((at, tag != "P", parts.next().unwrap_or("")))
}

fn labels(pod: &Value, container: &str, node: &str) -> Labels {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let label = |names: &[&str]| {
        let labels = pod.pointer("/metadata/labels");
        names.iter().find_map(|n| labels?.get(*n)?.as_str()).unwrap_or_default()
    };
    Labels::from_pairs([
        ("namespace", text("/metadata/namespace")),
        ("pod", text("/metadata/name")),
        ("container", container),
        ("node", node),
        ("service", label(&["app.kubernetes.io/name", "app", "k8s-app"])),
        ("version", label(&["rollouts-pod-template-hash", "pod-template-hash"])),
    ])
}

#[cfg(test)]
mod tests {
    use wharf_telemetry::logs::{Options, Query};

    use super::*;

    fn lines(logs: &Logs) -> Vec<String> {
        let query = Query {
            to: i64::MAX,
            limit: 100,
            direction: wharf_telemetry::logs::Direction::Forward,
            ..Query::default()
        };
        let streams = logs.query(&query).expect("lines");
        streams.iter().flat_map(|s| s.entries.iter().map(|e| e.line.to_string())).collect()
    }

    /// Lines are taken once: through rotation, and again after a restart.
    #[test]
    fn lines_are_taken_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let logs = Logs::open(dir.path().join("store"), Options::default()).expect("a store");
        let log = dir.path().join("pods/u/logs/c/0.log");
        std::fs::create_dir_all(log.parent().expect("a folder")).expect("made");
        let line = |n: u32| format!("2026-01-02T03:04:{n:02}.000000001Z stdout F line {n}\n");
        let pod: Object =
            Arc::new(serde_json::json!({"metadata": {"uid": "u", "name": "p", "namespace": "n"},
            "spec": {"nodeName": "here"}}));
        let look = |positions: &mut HashMap<PathBuf, Position>| {
            let mut round = Round { logs: &logs, node: "here", positions, seen: Vec::new() };
            round.pod(&dir.path().join("pods"), &pod);
        };
        let mut positions = HashMap::new();
        std::fs::write(&log, line(1) + "2026-01-02T03:04:02Z stdout P half, ").expect("written");
        look(&mut positions);
        assert_eq!(lines(&logs), ["line 1"]);
        let more = line(1)
            + "2026-01-02T03:04:02Z stdout P half, \n2026-01-02T03:04:02Z stderr F whole\n"
            + &line(3);
        std::fs::write(&log, more).expect("written");
        look(&mut positions);
        assert_eq!(lines(&logs), ["line 1", "half, whole", "line 3"]);
        std::fs::rename(&log, dir.path().join("pods/u/logs/c/0.log.1")).expect("rotated");
        std::fs::write(&log, line(4)).expect("written");
        look(&mut positions);
        assert_eq!(lines(&logs).len(), 4);
        std::fs::write(&log, line(4) + &line(5)).expect("written");
        look(&mut HashMap::new());
        assert_eq!(lines(&logs), ["line 1", "half, whole", "line 3", "line 4", "line 5"]);
    }
}
