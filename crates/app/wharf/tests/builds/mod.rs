//! Builds as people run them: from the cache, wrong ones, killed ones, and on a full disk.

mod attest;
mod front;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    said,
    support::{IMAGE, Platform, lossy, output_of, until},
    wharf,
};

const DOCKERFILE: &str = r#"
FROM base/test AS tools
RUN echo tool > /tool
FROM base/test AS parts
COPY part /part
RUN tr a-z A-Z < /part > /loud
FROM base/test
COPY --from=tools /tool /tool
COPY --from=parts /loud /loud
COPY last /last
CMD ["sh", "-c", "cat /tool /loud /last"]
"#;

fn build(platform: &Platform, context: &Path) -> Vec<String> {
    let (code, _, told) = wharf(platform, &["build", "-t", "shop/three", context.to_str().unwrap()]);
    assert_eq!(code, 0, "{told}");
    // Steps that were not taken from the cache: "#3 [stage 2/4] COPY …" without "#3 CACHED".
    let cached = |line: &str| {
        let number = line.split(' ').next().unwrap_or_default();
        told.lines().any(|line| line == format!("{number} CACHED"))
    };
    let steps = told.lines().filter(|line| line.contains("] RUN ") || line.contains("] COPY "));
    steps.filter(|line| !cached(line)).map(str::to_owned).collect()
}

pub(super) fn three_stages_build_once(platform: &Platform) {
    let context = platform.data().join("context");
    fs::create_dir(&context).unwrap();
    for (name, text) in [("Dockerfile", DOCKERFILE), ("part", "part\n"), ("last", "one\n")] {
        fs::write(context.join(name), text).unwrap();
    }
    let built = || said(platform, &["run", "--rm", "shop/three"]);
    assert!(!build(platform, &context).is_empty());
    assert_eq!(built(), "tool\nPART\none");
    assert_eq!(build(platform, &context), [""; 0]);
    fs::write(context.join("last"), "two\n").unwrap();
    let again = build(platform, &context);
    assert!(!again.is_empty() && again.iter().all(|line| line.contains("COPY last /last")), "{again:?}");
    assert_eq!(built(), "tool\nPART\ntwo");
    // What only the cache has outlives the removal of an image.
    said(platform, &["image", "tag", "shop/three", "shop/other"]);
    grow_old(&platform.data().join("images"));
    said(platform, &["image", "rm", "shop/other"]);
    assert_eq!(build(platform, &context), [""; 0]);
}

/// Makes blobs and layers old enough to be collected.
fn grow_old(images: &Path) {
    let names = |folder: &str| fs::read_dir(images.join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let layers = names("layers").map(|layer| layer.join("boot")).filter(|mark| mark.exists());
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    for path in names("blobs/sha256").chain(layers) {
        File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
}

/// Each with where and what is told, and what to do about it.
const MISTAKES: [(&str, &str, &str); 24] = [
    ("", "Dockerfile: the file has no instructions", "begin it with FROM"),
    ("# only a note\n", "Dockerfile: the file has no instructions", "begin it with FROM"),
    ("RUN true", "Dockerfile:1: there is no FROM before this instruction", "only ARG"),
    ("FROM base/tset", "Dockerfile:1: no image 'base/tset", "did you mean 'base/test:latest'?"),
    ("FROM base/test AS 1x", "Dockerfile:1: '1x' cannot be the name of a stage", "begin with a letter"),
    ("FROM base/test\nRNU true", "Dockerfile:2: unknown instruction 'RNU'", "did you mean RUN?"),
    ("FROM base/test\n\nthere", "Dockerfile:3: unknown instruction 'THERE'", "continues the one before"),
    ("FROM base/test\nCOPY --form=a b /", "Dockerfile:2: COPY does not know the flag '--form'", "--from?"),
    ("FROM base/test\nUSER --x a", "Dockerfile:2: USER does not know the flag '--x'", "takes no flags"),
    ("FROM base/test\nCOPY a", "Dockerfile:2: COPY requires a source and a target", "COPY SOURCE"),
    ("FROM base/test\nCOPY fiel /", "Dockerfile:2: 'fiel' is not in the build context", "mean 'file'?"),
    ("FROM base/test\nCOPY no/such /", "Dockerfile:2: 'no/such' is not in the build context", "a path below"),
    (
        "FROM base/test AS a\nFROM base/test\nCOPY --from=nostage x /",
        "Dockerfile:3: 'nostage' is no stage",
        "are: a",
    ),
    (
        "FROM base/test AS tools\nFROM base/test\nCOPY --from=tolos x /",
        "Dockerfile:3: 'tolos' is no",
        "'tools'?",
    ),
    (
        "FROM base/test AS a\nRUN touch /was-run\nCOPY --from=b x /\nFROM base/test AS b\nFROM a",
        "Dockerfile:3: the stage 'b' begins only at line 4",
        "move it before",
    ),
    ("FROM base/test\nRUN --mount=type=bnid,target=/a b", "Dockerfile:2: RUN --mount", "did you mean bind?"),
    ("FROM base/test\nRUN <<EOF\ntrue", "Dockerfile:2: the heredoc '<<EOF' does not end", "only 'EOF'"),
    ("FROM base/test\nENV x", "Dockerfile:2: ENV x has no value", "NAME=value"),
    ("FROM base/test\nEXPOSE http", "Dockerfile:2: 'http' is not a port", "FIRST-LAST"),
    ("FROM base/test\nARG S=NOPE\nSTOPSIGNAL $S", "Dockerfile:3: 'NOPE' is not a signal", "SIGTERM"),
    ("FROM base/test\nRUN echo ${x", "", ""),
    (
        "FROM base/test\nRUN echo last words; exit 3",
        "Dockerfile:2: '/bin/sh -c echo last words; exit 3' ended with exit code 3",
        "",
    ),
    ("FROM base/test\nRUN no-such-program", "ended with exit code 127", "not in the image"),
    (
        "FROM base/test\nCMD [\"a\", b]\nRUN false",
        "Dockerfile:3: '/bin/sh -c false' ended with exit code 1",
        "",
    ),
];

/// Exit code 1, one error with its hint, and no image.
fn refused(platform: &Platform, words: &[&str], expect: &str, hint: &str) -> String {
    let before = said(platform, &["image", "ls", "-q"]);
    let (code, _, told) = wharf(platform, words);
    assert_eq!(code, 1, "{words:?}: {told}");
    let errors: Vec<_> = told.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(expect), "{words:?}: {expect}: {told}");
    let hinted = hint.is_empty() || told.lines().any(|line| line.contains("hint: ") && line.contains(hint));
    assert!(hinted, "{words:?}: {hint}: {told}");
    assert_eq!(said(platform, &["image", "ls", "-q"]), before);
    told
}

pub(super) fn mistakes_are_told_once(platform: &Platform) {
    let context = platform.data().join("mistakes");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), "").unwrap();
    let folder = context.to_str().unwrap();
    let write = |text: &str| fs::write(context.join("Dockerfile"), text).unwrap();
    let build = ["build", "--progress", "plain", "-t", "mistake", folder];
    for (dockerfile, expect, hint) in MISTAKES {
        write(dockerfile);
        let told = refused(platform, &build, expect, hint);
        assert!(!told.contains("] RUN touch /was-run"), "a step ran before the file was understood: {told}");
        if dockerfile.contains("last words") {
            assert!(told.contains(" last words\n") && told.contains("   2 | >>> RUN echo last"), "{told}");
        }
        if dockerfile.contains("CMD") {
            assert!(told.contains("warning: Dockerfile:2: CMD is no valid JSON array"), "{told}");
        }
    }
    write("FROM base/test AS tools\nFROM base/test AS app\n");
    let target = |name| [&build[..], &["--target", name]].concat();
    refused(platform, &target("nope"), "Dockerfile: there is no stage 'nope' to build", "are: tools, app");
    refused(platform, &target("tool"), "there is no stage 'tool'", "did you mean 'tools'?");
    write("FROM base/test");
    refused(platform, &target("nope"), "there is no stage 'nope'", "from 0 to 0");
    fs::write(context.join("Dockerfile"), b"FROM base/test\nRUN \xff").unwrap();
    refused(platform, &build, "Dockerfile:2: this is not UTF-8 text", "UTF-8");
    refused(platform, &["build", "/no/such/folder"], "the build context '/no/such/folder'", "such as '.'");
    fs::remove_file(context.join("Dockerfile")).unwrap();
    refused(platform, &build, "cannot read the Dockerfile", "with -f");
}

/// Two steps that take long to keep, and one that runs until it is ended.
const SLOW: &str = r#"
FROM base/test
RUN echo first > /first
COPY big /big
RUN head -c 24000000 /dev/urandom > /made; echo is-made
RUN echo waits; sleep 1000
"#;

/// Bytes that no compression makes fewer.
fn random_file(path: &Path, size: u64) {
    let mut source = std::io::Read::take(File::open("/dev/urandom").unwrap(), size);
    std::io::copy(&mut source, &mut File::create(path).unwrap()).unwrap();
}

struct Builds<'a> {
    platform: &'a Platform,
    context: PathBuf,
}

impl Builds<'_> {
    fn log(&self) -> String {
        lossy(&fs::read(self.context.join("log")).unwrap_or_default())
    }

    fn names(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.platform.data().join(folder)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Starts a build and kills it once `moment` has come; what its steps had then.
    fn kill_when(&self, what: &str, moment: impl Fn(&str) -> bool) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut command = self.platform.wharf();
        command.args(["build", "--progress", "plain", "-t", "slow"]).arg(&self.context).stdin(Stdio::null());
        let log = File::create(self.context.join("log")).unwrap();
        let mut child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        until(what, || match (moment(&self.log()), child.try_wait().unwrap()) {
            (true, None) => Ok(()),
            (_, Some(status)) => panic!("{what}: the build ended: {status}: {}", self.log()),
            (false, None) => Err(self.log()),
        });
        let steps = self.steps();
        child.kill().unwrap();
        child.wait().unwrap();
        steps
    }

    /// Cgroups and network namespaces of the steps that run.
    fn steps(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let pods: Vec<PathBuf> = self.names("build-cache/tmp").iter().map(|temp| temp.join("pod")).collect();
        let fact = |pod: &PathBuf, file: &str| -> Option<serde_json::Value> {
            serde_json::from_slice(&fs::read(pod.join(file)).ok()?).ok()
        };
        let ids = pods.iter().filter_map(|pod| Some(fact(pod, "pod.json")?["id"].as_str()?.to_owned()));
        let hierarchies: Vec<PathBuf> =
            fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()).collect();
        let of =
            |id: String| hierarchies.iter().map(move |path| path.join("wharf").join(&id)).collect::<Vec<_>>();
        let groups = ids.flat_map(of).filter(|path| path.exists()).collect();
        let shims = pods.iter().filter_map(|pod| fact(pod, "shim.json")?["pid"].as_i64());
        let networks = shims.filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok()).collect();
        (groups, networks)
    }

    fn check_nothing_is_left(&self, (groups, networks): &(Vec<PathBuf>, Vec<PathBuf>)) {
        for folder in ["build-cache/tmp", "images/blobs/ingest", "images/layers/tmp"] {
            assert_eq!(self.names(folder), [""; 0].map(PathBuf::from), "left in {folder}");
        }
        assert!(!groups.is_empty() && !networks.is_empty(), "{groups:?} {networks:?}");
        until("the steps have ended", || {
            let processes = fs::read_dir("/proc").unwrap().flatten();
            let used: Vec<PathBuf> =
                processes.filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok()).collect();
            let groups: Vec<_> = groups.iter().filter(|group| group.exists()).collect();
            let networks: Vec<_> = networks.iter().filter(|network| used.contains(network)).collect();
            if groups.is_empty() && networks.is_empty() {
                Ok(())
            } else {
                Err(format!("{groups:?} {networks:?}"))
            }
        });
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let cache = self.platform.data().join("build-cache");
        assert!(!mounts.contains(cache.to_str().unwrap()), "{mounts}");
    }
}

pub(super) fn killed_builds_leave_nothing(platform: &mut Platform) {
    let context = platform.data().join("slow");
    fs::create_dir(&context).unwrap();
    random_file(&context.join("big"), 24_000_000);
    fs::write(context.join("Dockerfile"), SLOW).unwrap();
    let builds = Builds { platform, context: context.clone() };
    let is_kept = || !builds.names("images/blobs/ingest").is_empty();
    builds.kill_when("a COPY is kept", |log| log.contains("COPY big") && is_kept());
    builds.kill_when("a RUN is kept", |log| log.contains(" is-made") && is_kept());
    let left = builds.kill_when("a RUN runs", |log| log.contains(" waits\n"));
    // The steps end with their build, and the next one sweeps what they left.
    fs::write(context.join("Dockerfile"), SLOW.replace("sleep 1000", "true")).unwrap();
    let (code, _, told) =
        wharf(platform, &["build", "--progress", "plain", "-t", "slow", context.to_str().unwrap()]);
    assert_eq!((code, told.matches(" CACHED").count()), (0, 4), "{told}");
    builds.check_nothing_is_left(&left);
    assert_eq!(said(platform, &["run", "--rm", "slow", "cat", "/first"]), "first");
    // So does a command on containers, and the platform when it starts.
    fs::write(context.join("Dockerfile"), SLOW).unwrap();
    let left = builds.kill_when("a RUN runs", |log| log.contains(" waits\n"));
    said(platform, &["ps"]);
    builds.check_nothing_is_left(&left);
    let left = builds.kill_when("a RUN runs", |log| log.contains(" waits\n"));
    platform.kill();
    platform.restart();
    let builds = Builds { platform, context };
    builds.check_nothing_is_left(&left);
}

/// A data folder on a disk of its own, which only programs in its mount namespace see.
struct SmallDisk {
    folder: tempfile::TempDir,
    holder: Child,
    /// `wharf up` of this folder, while it runs.
    platform: Option<Child>,
}

impl SmallDisk {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs -o size=$1 small \"$2\" && echo ready && exec cat";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", size])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { folder, holder, platform: None }
    }

    /// A program in its mount namespace.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg(program).stdin(Stdio::null());
        command
    }

    fn wharf(&self, words: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--data").arg(self.folder.path()).args(words);
        command
    }

    /// Names and what they are of; when they were set does not matter.
    fn tags(&self) -> Vec<[serde_json::Value; 3]> {
        let text = output_of(&mut self.wharf(&["image", "ls", "-o", "json"]));
        let images: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        images.iter().map(|image| ["repository", "tag", "id"].map(|fact| image[fact].clone())).collect()
    }

    fn grow(&self, size: &str) {
        output_of(
            self.command("mount").arg("-o").arg(format!("remount,size={size}")).arg(self.folder.path()),
        );
    }

    /// Something in the data folder, as this process reaches it.
    fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.folder.path().strip_prefix("/").unwrap()).join(name)
    }

    /// How many names a folder of the data folder has.
    fn names(&self, folder: &str) -> usize {
        fs::read_dir(self.path(folder)).into_iter().flatten().count()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The disk goes with the last program that sees it.
        for child in self.platform.iter_mut().chain([&mut self.holder]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(super) fn full_disks_are_told(platform: &Platform) {
    let mut disk = SmallDisk::new("16m");
    output_of(&mut disk.wharf(&["image", "pack", IMAGE, "--applets", "sh", "busybox"]));
    let folder = |name: &str| platform.data().join(name);
    for (name, dockerfile) in [
        ("full-copy", format!("FROM {IMAGE}\nCOPY big /big\n")),
        ("full-run", format!("FROM {IMAGE}\nRUN head -c 14000000 /dev/zero > /zeros\n")),
        ("full-commit", format!("FROM {IMAGE}\nRUN head -c 6000000 /dev/urandom > /made\n")),
    ] {
        fs::create_dir(folder(name)).unwrap();
        fs::write(folder(name).join("Dockerfile"), dockerfile).unwrap();
    }
    random_file(&folder("full-copy").join("big"), 9_000_000);
    let path = |name: &str| folder(name).to_str().unwrap().to_owned();
    // What the other platform has is too large, too.
    said(platform, &["build", "-q", "-t", "full", &path("full-copy")]);
    let archive = path("full.tar");
    said(platform, &["image", "save", "-o", &archive, "full"]);
    let pulled = format!("{}/full", platform.address("registry"));
    let commands: [&[&str]; 6] = [
        &["build", "-t", "copied", &path("full-copy")],
        &["build", "-t", "ran", &path("full-run")],
        &["build", "-t", "committed", &path("full-commit")],
        &["image", "load", "-i", &archive],
        &["image", "pull", &pulled],
        &["image", "pack", "python", "python3"],
    ];
    let before = disk.tags();
    for words in commands {
        let output = disk.wharf(words).output().unwrap();
        let told = lossy(&output.stderr);
        let errors: Vec<_> = told.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(output.status.code() == Some(1) && errors.len() == 1, "{words:?}: {told}");
        let what = told.to_lowercase();
        let named = what.contains("no space left on device") || what.contains("no space is left on the disk");
        assert!(named && told.contains(disk.folder.path().to_str().unwrap()), "{words:?}: {told}");
        assert!(
            told.contains("hint: ") && told.contains("`wharf image prune --grace 0`"),
            "{words:?}: {told}"
        );
        // What is whole and has no name yet is collected; half of something is not there.
        output_of(&mut disk.wharf(&["image", "prune", "--grace", "0"]));
        assert_eq!(disk.tags(), before, "{words:?}");
        for folder in ["build-cache/tmp", "images/blobs/ingest", "images/blobs/partial", "images/layers/tmp"]
        {
            assert_eq!(disk.names(folder), 0, "{words:?}: left in {folder}");
        }
        assert_eq!(disk.names("images/blobs/sha256"), 3, "{words:?}");
    }
    // A registry on such a disk says so to who pushes.
    let mut up = disk.wharf(&["up", "--ports", "auto", "--role", "control-plane"]);
    disk.platform = Some(up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let endpoints = until("the registry is there", || {
        let text = fs::read(disk.path("endpoints.json")).map_err(|error| error.to_string())?;
        serde_json::from_slice::<serde_json::Value>(&text).map_err(|error| error.to_string())
    });
    let pushed = format!("{}/full", endpoints["registry"].as_str().unwrap().trim_start_matches("http://"));
    said(platform, &["image", "tag", "full", &pushed]);
    let (code, _, told) = wharf(platform, &["image", "push", &pushed]);
    let mut up = disk.platform.take().unwrap();
    kill_process(Pid::from_child(&up), Signal::TERM).unwrap();
    assert!(up.wait().unwrap().success());
    assert!(
        code == 1 && told.contains("507 Insufficient Storage: the disk of the registry is full"),
        "{told}"
    );
    // An upload beside it may have been broken off: it could go on, until it is collected.
    output_of(&mut disk.wharf(&["image", "prune", "--grace", "0"]));
    assert_eq!((disk.names("images/blobs/partial"), disk.tags() == before), (0, true), "{told}");
    // With nothing left at all, an image can still be removed, and no name be given.
    let filler = disk.path("filler");
    let filled = std::io::copy(&mut std::io::repeat(1), &mut File::create(&filler).unwrap());
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(!disk.wharf(&["image", "tag", IMAGE, "other"]).output().unwrap().status.success());
    output_of(&mut disk.wharf(&["image", "rm", IMAGE]));
    fs::remove_file(&filler).unwrap();
    output_of(&mut disk.wharf(&["image", "pack", IMAGE, "--applets", "sh", "busybox"]));
    assert_eq!(disk.tags(), before);
    disk.grow("400m");
    for words in commands {
        output_of(&mut disk.wharf(words));
    }
    assert_eq!(output_of(&mut disk.wharf(&["run", "--rm", "copied", "wc", "-c", "/big"])), "9000000 /big\n");
}
