//! The power goes while images and commits are pushed, images pulled and built, and containers made: what was acknowledged is there
//! afterwards, and nothing has another content than its digest says.

mod disk;

use std::{collections::BTreeSet, fs, path::Path, process::Command, sync::Mutex};

use serde_json::{Value, json};
use wharf_base::Digest;

use crate::support::{IMAGE, Platform, lossy, output_of};
use disk::{Disk, Random};

/// Power cuts in one record.
const CUTS: u64 = 12;
/// Those of them while the platform starts for the first time.
const EARLY_CUTS: u64 = 2;
/// How often each of the clients does what it does.
const ROUNDS: usize = 6;

/// What a client was told.
#[derive(Debug, Clone)]
enum Told {
    /// The registry has a manifest under this name and digest, with all it needs.
    Pushed {
        name: String,
        digest: String,
    },
    /// There is an image of the name.
    Image(String),
    /// There is a container of the name.
    Container(String),
    Volume(String),
    Network(String),
    /// The API has a ConfigMap.
    Object(String),
    /// The git server has a commit as a branch of a repository.
    Commit {
        repository: String,
        branch: String,
        commit: String,
    },
}

/// Everything clients were told, with the position of the disk at that moment.
struct Notes<'a> {
    disk: &'a Disk,
    told: Mutex<Vec<(usize, Told)>>,
}

impl Notes<'_> {
    fn note(&self, told: Told) {
        let position = self.disk.position();
        self.told.lock().unwrap().push((position, told));
    }
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", Digest::of(bytes).hex())
}

fn docker(platform: &Platform, words: &[&str]) -> bool {
    let socket = format!("unix://{}", platform.data().join("docker.sock").display());
    let mut command = Command::new("docker");
    succeeded(command.args(words).env("DOCKER_HOST", socket).env("DOCKER_CONFIG", "/nonexistent"))
}

fn succeeded(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// curl, failing with the server's mistakes.
fn curl(words: &[&str], body: Option<&Path>) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "--max-time", "60"]).args(words);
    if let Some(body) = body {
        command.arg("--data-binary").arg(format!("@{}", body.display()));
    }
    let output = command.output().ok()?;
    output.status.success().then(|| lossy(&output.stdout))
}

/// A blob into a repository; its digest once the registry has it.
fn push_blob(registry: &str, repository: &str, bytes: &[u8], folder: &Path) -> Option<String> {
    let (digest, file) = (sha256(bytes), folder.join("blob"));
    fs::write(&file, bytes).unwrap();
    let begin = format!("http://{registry}/v2/{repository}/blobs/uploads/");
    let headers = curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &begin], None)?;
    let location = headers
        .lines()
        .find_map(|line| line.to_lowercase().starts_with("location:").then(|| line[9..].trim().to_owned()))?;
    let place = if location.starts_with('/') { format!("http://{registry}{location}") } else { location };
    let separator = if place.contains('?') { '&' } else { '?' };
    let to = format!("{place}{separator}digest={digest}");
    curl(&["-X", "PUT", "-H", "Content-Type: application/octet-stream", &to], Some(&file))?;
    Some(digest)
}

fn push(registry: &str, name: &str, layer: &[u8], folder: &Path) -> Option<String> {
    let config = json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}});
    let config = config.to_string().into_bytes();
    let layer_digest = push_blob(registry, name, layer, folder)?;
    let config_digest = push_blob(registry, name, &config, folder)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.example.data", "digest": layer_digest, "size": layer.len()}],
    });
    let (bytes, file) = (manifest.to_string().into_bytes(), folder.join("manifest"));
    fs::write(&file, &bytes).unwrap();
    let to = format!("http://{registry}/v2/{name}/manifests/latest");
    curl(&["-X", "PUT", "-H", "Content-Type: application/vnd.oci.image.manifest.v1+json", &to], Some(&file))?;
    Some(sha256(&bytes))
}

/// Git in a folder, without the settings of the machine.
fn git(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=Dev", "-c", "user.email=dev@example.com"]).args(words);
    command.current_dir(folder).env("HOME", folder);
    command
}

/// A new commit as a branch of its own, in one of two repositories, which the first push makes.
fn push_commit(platform: &Platform, folder: &Path, round: usize) -> Option<Told> {
    fs::write(folder.join("f"), format!("commit of round {round}")).unwrap();
    output_of(&mut git(folder, &["add", "f"]));
    output_of(&mut git(folder, &["commit", "-q", "-m", "round"]));
    let commit = output_of(&mut git(folder, &["rev-parse", "HEAD"])).trim().to_owned();
    let (repository, branch) = (format!("repo-{}", round % 2), format!("b-{round}"));
    let to = address_of(platform, &repository);
    let pushed = succeeded(&mut git(folder, &["push", "-q", &to, &format!("HEAD:refs/heads/{branch}")]));
    pushed.then_some(Told::Commit { repository, branch, commit })
}

fn address_of(platform: &Platform, repository: &str) -> String {
    format!("http://{}/git/{repository}.git", platform.address("console"))
}

/// Whether a branch can be cloned, and is the commit.
fn is_cloned(platform: &Platform, repository: &str, branch: &str, commit: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let from = address_of(platform, repository);
    succeeded(&mut git(
        folder.path(),
        &["clone", "-q", "--bare", "--single-branch", "-b", branch, &from, "c"],
    )) && output_of(&mut git(&folder.path().join("c"), &["rev-parse", "HEAD"])).trim() == commit
}

/// Clients that work at once until each has done its rounds.
fn work(platform: &Platform, source: &Platform, notes: &Notes<'_>) {
    let rounds = |each: &dyn Fn(usize)| (0..ROUNDS).for_each(each);
    let (registry, from) = (platform.address("registry"), source.address("registry"));
    let scratch = |name: &str| tempfile::Builder::new().prefix(name).tempdir().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let folder = scratch("push");
            let mut random = Random(7);
            for round in 0..ROUNDS * 2 {
                let layer: Vec<u8> = (0..100_000).map(|_| random.next() as u8).collect();
                let name = format!("pushed-{round}");
                if let Some(digest) = push(&registry, &name, &layer, folder.path()) {
                    notes.note(Told::Pushed { name, digest });
                }
            }
        });
        scope.spawn(|| {
            rounds(&|round| {
                let name = format!("{from}/source-{round}:1");
                if succeeded(platform.wharf().args(["image", "pull", &name])) {
                    notes.note(Told::Image(name));
                }
            });
        });
        scope.spawn(|| {
            let folder = scratch("build");
            rounds(&|round| {
                fs::write(folder.path().join("f"), format!("round {round}")).unwrap();
                let text = format!("FROM {IMAGE}\nCOPY f /f\nRUN cat /f > /g\n");
                fs::write(folder.path().join("Dockerfile"), text).unwrap();
                let name = format!("built-{round}");
                if succeeded(platform.wharf().args(["build", "-t", &name]).arg(folder.path())) {
                    notes.note(Told::Image(name));
                }
            });
        });
        scope.spawn(|| {
            rounds(&|round| {
                let name = format!("ran-{round}");
                if succeeded(platform.wharf().args([
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--network",
                    "none",
                    IMAGE,
                    "sleep",
                    "1000",
                ])) {
                    notes.note(Told::Container(name));
                }
                let name = format!("made-{round}");
                if docker(platform, &["create", "--name", &name, IMAGE, "true"]) {
                    notes.note(Told::Container(name));
                }
                let name = format!("kept-{round}");
                if docker(platform, &["volume", "create", &name]) {
                    notes.note(Told::Volume(name));
                }
                let name = format!("net-{round}");
                if docker(platform, &["network", "create", &name]) {
                    notes.note(Told::Network(name));
                }
            });
        });
        scope.spawn(|| {
            let folder = scratch("git");
            output_of(&mut git(folder.path(), &["init", "-q", "-b", "main"]));
            for round in 0..ROUNDS {
                if let Some(told) = push_commit(platform, folder.path(), round) {
                    notes.note(told);
                }
            }
        });
        scope.spawn(|| {
            let kubectl = platform.kubectl();
            rounds(&|round| {
                let name = format!("object-{round}");
                if kubectl.end(&["create", "configmap", &name, "--from-literal=a=b"], "").status.success() {
                    notes.note(Told::Object(name));
                }
            });
        });
    });
}

/// Whether what was told is so.
fn holds(platform: &Platform, told: &Told, images: &str, containers: &str) -> bool {
    let line =
        |text: &str, word: &str| text.lines().any(|line| line.split_whitespace().any(|one| one == word));
    match told {
        Told::Pushed { name, digest } => is_served_whole(&platform.address("registry"), name, digest),
        Told::Image(name) => {
            images.contains(name.rsplit('/').next().unwrap_or(name).split(':').next().unwrap_or(name))
        }
        Told::Container(name) => line(containers, name),
        Told::Volume(name) => docker(platform, &["volume", "inspect", name]),
        Told::Network(name) => docker(platform, &["network", "inspect", name]),
        Told::Commit { repository, branch, commit } => is_cloned(platform, repository, branch, commit),
        Told::Object(name) => platform.kubectl().end(&["get", "configmap", name], "").status.success(),
    }
}

/// Every byte of a pushed image, as the registry gives it, is what its digest says.
fn is_served_whole(registry: &str, name: &str, digest: &str) -> bool {
    let get = |path: String| {
        let output =
            Command::new("curl").args(["-sS", "-f", &format!("http://{registry}/v2/{name}/{path}")]).output();
        output.ok().filter(|output| output.status.success()).map(|output| output.stdout)
    };
    let Some(manifest) = get("manifests/latest".to_owned()) else { return false };
    if sha256(&manifest) != digest {
        return false;
    }
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let blobs = [&manifest["config"], &manifest["layers"][0]];
    blobs.iter().all(|blob| {
        let digest = blob["digest"].as_str().unwrap();
        get(format!("blobs/{digest}")).is_some_and(|bytes| sha256(&bytes) == digest)
    })
}

/// Blobs of a store whose content is not what their names say.
fn wrong_blobs(store: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(store.join("blobs/sha256")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.len() == 64 && sha256(&fs::read(entry.path()).unwrap()) != format!("sha256:{name}") {
            wrong.push(name);
        }
    }
    wrong
}

/// Cuts the power at moments all over the record.
pub(crate) fn cuts() {
    let disk = Disk::new();
    let source = Platform::start();
    for round in 0..ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f"), format!("of round {round}")).unwrap();
        fs::write(folder.path().join("Dockerfile"), format!("FROM {IMAGE}\nCOPY f /f\n")).unwrap();
        let name = format!("source-{round}:1");
        output_of(source.wharf().args(["build", "-t", &name]).arg(folder.path()));
    }
    let mut platform = Platform::on_device(&disk.device);
    platform.pack(&["sh", "busybox"]);
    let packed = disk.position();
    platform.restart();
    let began = disk.position();
    let notes = Notes { disk: &disk, told: Mutex::default() };
    work(&platform, &source, &notes);
    let ended = disk.position();
    let told = notes.told.lock().unwrap().clone();
    let kinds: BTreeSet<_> =
        told.iter().map(|(_, told)| std::mem::discriminant(told)).map(|kind| format!("{kind:?}")).collect();
    assert_eq!(kinds.len(), 7, "not all of it was done: {told:?}");
    output_of(platform.wharf().args(["rm", "-f"]).args((0..ROUNDS).map(|round| format!("ran-{round}"))));
    platform.drain();
    source.drain();
    for seed in 1..=CUTS {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (from, to) = if seed <= EARLY_CUTS { (packed, began) } else { (began, ended) };
        let position = from + (random.next() as usize) % (to - from);
        check(&disk, position, seed, &told);
    }
}

fn check(disk: &Disk, position: usize, seed: u64, told: &[(usize, Told)]) {
    let cut = disk.cut(position, seed);
    let mut platform = Platform::on_device(&cut.device);
    eprintln!(
        "power cut {seed} at {position}: {} things were told before",
        told.iter().filter(|(at, _)| *at <= position).count()
    );
    let wrong = wrong_blobs(&platform.data().join("images"));
    assert_eq!(wrong, [""; 0], "blobs have other contents after cut {seed} at {position}");
    platform.restart();
    let images = output_of(platform.wharf().args(["image", "ls"]));
    let containers = output_of(platform.wharf().args(["ps", "-a"]));
    let before = told.iter().filter(|(at, _)| *at <= position).map(|(_, told)| told);
    let lost: Vec<&Told> = before.filter(|told| !holds(&platform, told, &images, &containers)).collect();
    assert!(lost.is_empty(), "lost by cut {seed} at {position}: {lost:?}\n{images}{containers}");
    // What is in the images, as containers have it: layers are unpacked beside the blobs.
    let told_images = told.iter().filter(|(at, _)| *at <= position).filter_map(|(_, told)| match told {
        Told::Image(name) => Some((name.as_str(), content_of(name))),
        _ => None,
    });
    for (image, content) in told_images.chain([(IMAGE, "well".to_owned())]) {
        let script = "if [ -e /f ]; then cat /f; else echo well; fi";
        let mut run = platform.wharf();
        run.args(["run", "--rm", "--network", "none", image, "sh", "-c", script]);
        assert_eq!(output_of(&mut run).trim(), content, "{image} after cut {seed} at {position}");
    }
    platform.drain();
}

/// What `/f` of an image says.
fn content_of(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    let round = name.split(':').next().and_then(|name| name.split('-').nth(1)).unwrap_or_default();
    let kind = if name.starts_with("source") { "of round" } else { "round" };
    format!("{kind} {round}")
}
