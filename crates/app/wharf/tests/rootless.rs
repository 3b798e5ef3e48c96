//! wharf as somebody who is not root: with namespaces of their own, subordinate ids, and pasta or slirp4netns as the way out.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

use support::{lossy, output_of, until};

/// Who it is, and the first of the ids they may use.
const PERSON: u32 = 4242;
const SUBORDINATE: u32 = 500_000;

/// Whether a process is pasta, whatever processor it is for.
fn is_pasta(name: &str) -> bool {
    name.starts_with("passt")
}

/// A machine of mounts, processes and network of its own, on which a person lives. It ends, with all that runs on it, with this value.
struct Machine {
    dir: TempDir,
    child: Child,
    /// Its first process.
    pid: String,
}

/// What somebody on the machine has said.
struct Said {
    code: i32,
    out: String,
    errors: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let code = output.status.code().unwrap_or(-1);
        Self { code, out: lossy(&output.stdout), errors: lossy(&output.stderr) }
    }
}

impl Said {
    /// Its standard output, if it went well.
    fn well(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.errors);
        self.out.trim().to_owned()
    }
}

/// The server outside is at an address that is not copied into the namespaces, as pasta does with that of the default route.
const SET_UP: &str = r#"
mount --make-rprivate /
cd "$1"
mkdir etc work
mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" overlay /etc
echo "person:x:4242:4242::$1/home:/bin/sh" >> /etc/passwd
echo "person:x:4242:" >> /etc/group
echo "person:500000:65536" | tee -a /etc/subuid >> /etc/subgid
[ -z "$2" ] || mount --bind /dev/null "$(command -v "$2")"
mknod -m 666 tun c 10 200
mount --bind tun /dev/net/tun
touch wharf
mount --bind "$3" wharf
ip link set lo up
ip address add 198.51.100.1/32 dev lo
ip link add machine type veth peer name elsewhere
ip address add 192.0.2.1/24 dev machine
ip link set machine up
ip link set elsewhere up
ip route add default via 192.0.2.2
mkdir web
echo "from outside" > web/index.html
busybox httpd -p 198.51.100.1:8000 -h "$1/web"
echo ready
while sleep 1; do :; done
"#;

impl Machine {
    /// One on which the program `without` cannot be run.
    fn start(without: Option<&str>) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes a machine: run it as root");
        let dir = TempDir::new().unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(dir.path(), 0o755);
        for name in ["home", "run"] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            std::os::unix::fs::chown(&folder, Some(PERSON), Some(PERSON)).unwrap();
            mode(&folder, 0o700);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child"]);
        command.args(["bash", "-e", "-c", SET_UP, "bash"]).arg(dir.path()).arg(without.unwrap_or_default());
        command.arg(env!("CARGO_BIN_EXE_wharf")).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let pid = fs::read_to_string(children).unwrap().trim().to_owned();
        Self { dir, child, pid }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command on the machine.
    fn root(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid, "--mount", "--net", "--pid", "--", program]).stdin(Stdio::null());
        command
    }

    /// A command of the person.
    fn person(&self, program: &str) -> Command {
        let mut command = self.root("setpriv");
        let home = self.path("home");
        command.args(["--reuid=4242", "--regid=4242", "--clear-groups", "env", "-i"]);
        command.arg(format!("--chdir={}", home.display())).arg(format!("HOME={}", home.display()));
        command.arg(format!("XDG_RUNTIME_DIR={}", self.path("run").display()));
        command.args(["PATH=/usr/bin:/bin:/usr/sbin:/sbin", "RUST_BACKTRACE=0", program]);
        command
    }

    fn wharf(&self, words: &[&str]) -> Said {
        let program = self.path("wharf");
        self.person(program.to_str().unwrap()).args(words).output().unwrap().into()
    }

    /// What a container of the base image says.
    fn run(&self, words: &[&str]) -> String {
        self.wharf(&[&["run", "--rm", "base"], words].concat()).well()
    }

    /// What the machine gets from a port of its own.
    fn get(&self, port: &str) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{port}/");
        let said: Said = self.root("curl").args(["-sS", "-m", "5", &url]).output().unwrap().into();
        if said.code == 0 { Ok(said.out) } else { Err(said.errors) }
    }

    /// Names of the person's processes, with their ids as this test sees them, but for those of containers.
    fn processes(&self) -> Vec<(u32, String)> {
        let same = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid")).ok();
        let machine = same(&self.pid);
        self.all().into_iter().filter(|(pid, _)| same(&pid.to_string()) == machine).collect()
    }

    fn all(&self) -> Vec<(u32, String)> {
        let id = |entry: fs::DirEntry| -> Option<(u32, String)> {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let owner = entry.metadata().ok()?.uid();
            let ours = owner == PERSON || (SUBORDINATE..SUBORDINATE + 65_536).contains(&owner);
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            ours.then(|| (pid, name.trim().to_owned()))
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(id).collect()
    }

    /// The holder's number on the machine.
    fn holder(&self) -> String {
        let text = fs::read(self.path("run/wharf/holder.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["pid"].to_string()
    }

    fn one(&self, is: impl Fn(&str) -> bool) -> u32 {
        let found = self.processes();
        found.iter().find(|(_, name)| is(name)).unwrap_or_else(|| panic!("not in {found:?}")).0
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let folder = self.path("run/wharf");
            for name in ["holder.log", "pasta.log", "slirp4netns.log"] {
                eprintln!("{name}: {}", lossy(&fs::read(folder.join(name)).unwrap_or_default()));
            }
            eprintln!("wharf up: {}", lossy(&fs::read(self.path("home/up.log")).unwrap_or_default()));
            eprintln!("{:?}", self.processes());
        }
        // Its first process goes with it, and all others with that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files belong to the person, or to the ids the person has.
fn owners(machine: &Machine) {
    assert_eq!(machine.run(&["id", "-u"]), "0");
    fs::create_dir(machine.path("home/shared")).unwrap();
    std::os::unix::fs::chown(machine.path("home/shared"), Some(PERSON), Some(PERSON)).unwrap();
    let volume = format!("{}:/shared", machine.path("home/shared").display());
    let make = "echo mine > /shared/root; echo theirs > /shared/other; chown 1000:1000 /shared/other";
    machine.wharf(&["run", "--rm", "-v", &volume, "base", "sh", "-c", make]).well();
    let owner = |name: &str| fs::metadata(machine.path("home/shared").join(name)).unwrap().uid();
    assert_eq!((owner("root"), owner("other")), (PERSON, SUBORDINATE + 999));
    // Nothing of the machine's.
    let said =
        machine.wharf(&["run", "--rm", "-v", "/:/machine", "base", "sh", "-c", "echo x > /machine/etc/x"]);
    assert!(said.errors.contains("/machine/etc/x: Permission denied"), "{} {}", said.code, said.errors);
    let said = machine.wharf(&["run", "--rm", "base", "mknod", "/device", "c", "1", "3"]);
    assert_eq!(said.code, 1, "{}", said.errors);
}

fn build_with_a_way_out(machine: &Machine) {
    fs::write(
        machine.path("home/Dockerfile"),
        "FROM base
RUN wget -qO /fetched http://198.51.100.1:8000/ && chown 1000:1000 /fetched
RUN --mount=type=cache,target=/cache rm /bin/yes && echo kept > /cache/file
RUN --network=none ! timeout 5 wget -qO - http://198.51.100.1:8000/
USER 1000
CMD [\"cat\", \"/fetched\"]
",
    )
    .unwrap();
    machine.wharf(&["build", "-q", "-t", "built", "."]).well();
    assert_eq!(machine.wharf(&["run", "--rm", "built"]).well(), "from outside");
    assert_eq!(machine.wharf(&["run", "--rm", "built", "sh", "-c", "ls /bin/yes || id -u"]).well(), "1000");
}

/// Published ports, further processes, files, and an end.
fn a_service(machine: &Machine) {
    let serve = "mkdir /www; echo inside > /www/index.html; exec httpd -f -p 80 -h /www";
    machine
        .wharf(&["run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "base", "sh", "-c", serve])
        .well();
    assert_eq!(until("the port leads in", || machine.get("8080")), "inside\n");
    let taken = machine.wharf(&["run", "--rm", "-p", "8080:80", "base", "true"]);
    assert_eq!(taken.code, 125, "{}", taken.errors);
    let low = machine.wharf(&["run", "--rm", "-p", "80:80", "base", "true"]);
    assert!(low.errors.contains("ports from 1024 on"), "{}", low.errors);

    assert_eq!(machine.wharf(&["exec", "web", "cat", "/proc/1/comm"]).well(), "httpd");
    assert_eq!(machine.wharf(&["exec", "-u", "1000", "web", "id", "-u"]).well(), "1000");
    assert_eq!(machine.wharf(&["exec", "web", "sh", "-c", "exit 7"]).code, 7);
    machine.wharf(&["cp", "Dockerfile", "web:/www/copied"]).well();
    assert!(machine.wharf(&["exec", "web", "cat", "/www/copied"]).well().starts_with("FROM base"));

    let limited = machine.wharf(&["run", "--rm", "--memory", "64m", "base", "true"]);
    assert_eq!(limited.code, 125);
    assert!(limited.errors.contains("this takes cgroups"), "{}", limited.errors);

    machine.wharf(&["rm", "-f", "web"]).well();
    assert!(machine.get("8080").is_err());
    assert_eq!(machine.wharf(&["ps", "-a", "-q"]).well(), "");
}

/// One that has changed its user does not end with its shim, which its parent's death does to others; nobody finds it running.
fn a_killed_shim(machine: &Machine) {
    let become_other = "import os; os.setresuid(1000, 1000, 1000); os.execvp('sleep', ['sleep', '1000'])";
    machine.wharf(&["run", "-d", "--name", "other", "base", "python3", "-c", become_other]).well();
    let sleeps = || machine.all().into_iter().find(|(_, name)| name == "sleep");
    let (pid, _) = until("it is somebody else", || {
        let found = sleeps().filter(|(pid, _)| fs::metadata(format!("/proc/{pid}")).unwrap().uid() != PERSON);
        found.ok_or_else(|| format!("{:?}", machine.all()))
    });
    let containers = machine.path("home/.local/share/wharf/containers");
    let written = fs::read_dir(containers).unwrap().flatten().map(|entry| entry.path().join("shim.json"));
    let file = written.filter(|path| path.exists()).map(|path| fs::read(path).unwrap()).next().unwrap();
    let shim: serde_json::Value = serde_json::from_slice(&file).unwrap();
    output_of(machine.root("kill").args(["-9", &shim["pid"].to_string()]));
    until("it is told as ended", || {
        let said = machine.wharf(&["ps", "-a"]).well();
        if said.contains("Exited (255)") { Ok(()) } else { Err(said) }
    });
    assert!(!Path::new("/proc").join(pid.to_string()).exists(), "it still runs");
    machine.wharf(&["rm", "other"]).well();
}

/// Killed together with its guard, the next command puts another in its place.
fn a_killed_holder(machine: &Machine) {
    let serve = "mkdir /www; echo still > /www/index.html; exec httpd -f -p 80 -h /www";
    machine.wharf(&["run", "-d", "--name", "web", "-p", "8080:80", "base", "sh", "-c", serve]).well();
    assert_eq!(until("the port leads in", || machine.get("8080")), "still\n");
    let before = machine.holder();
    let guard = output_of(machine.root("ps").args(["-o", "ppid=", "-p", &before]));
    output_of(machine.root("kill").args(["-9", guard.trim(), &before]));
    until("nobody holds the port", || machine.get("8080").err().ok_or("it leads in".to_owned()));
    machine.wharf(&["exec", "web", "true"]).well();
    assert_eq!(until("the port leads in again", || machine.get("8080")), "still\n");
    assert_ne!(machine.holder(), before);
    assert_eq!(machine.run(&["wget", "-qO", "-", "http://198.51.100.1:8000"]), "from outside");
    machine.wharf(&["rm", "-f", "web"]).well();
}

/// The whole platform: pods, Services, the Docker Engine API, and ports of the machine that lead to it.
fn a_platform(machine: &Machine) {
    let log = File::create(machine.path("home/up.log")).unwrap();
    let mut command = machine.person(machine.path("wharf").to_str().unwrap());
    command.args(["up", "--drain"]).stdout(log.try_clone().unwrap()).stderr(log);
    let mut platform = command.spawn().unwrap();
    let said = || fs::read_to_string(machine.path("home/up.log")).unwrap();
    until("wharf up is ready", || if said().contains("kubeconfig") { Ok(()) } else { Err(said()) });
    let data = machine.path("home/.local/share/wharf");

    let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
    let config = format!("--kubeconfig={}", data.join("kubeconfig").display());
    let ask =
        |words: &[&str]| -> Said { machine.root(&kubectl).arg(&config).args(words).output().unwrap().into() };
    let pod = r#"{"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "resources": {"requests": {"cpu": "10m"}}}]}}"#;
    let serve = "mkdir /www; echo pod > /www/index.html; exec httpd -f -p 80 -h /www";
    let run = [
        "run",
        "web",
        "--image=base",
        "--image-pull-policy=Never",
        "--override-type=strategic",
        "--overrides",
        pod,
    ];
    ask(&[&run[..], &["--port=80", "--expose", "--command", "--", "sh", "-c", serve]].concat()).well();
    ask(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]).well();
    assert_eq!(ask(&["exec", "web", "--", "wget", "-qO", "-", "http://web.default"]).well(), "pod");
    assert_eq!(
        ask(&["exec", "web", "--", "wget", "-qO", "-", "http://198.51.100.1:8000"]).well(),
        "from outside"
    );

    let host = format!("--host=unix://{}", data.join("docker.sock").display());
    let docker =
        |words: &[&str]| -> Said { machine.root("docker").arg(&host).args(words).output().unwrap().into() };
    assert!(docker(&["info", "--format", "{{.SecurityOptions}}"]).well().contains("name=rootless"));
    docker(&["network", "create", "own"]).well();
    let serve = "mkdir /www; echo docker > /www/index.html; exec httpd -f -p 80 -h /www";
    docker(&["run", "-d", "--name", "web", "--network", "own", "-p", "8081:80", "base", "sh", "-c", serve])
        .well();
    assert_eq!(until("the port leads in", || machine.get("8081")), "docker\n");
    assert_eq!(
        docker(&["run", "--rm", "--network", "own", "base", "wget", "-qO", "-", "http://web"]).well(),
        "docker"
    );
    assert!(docker(&["top", "web"]).well().contains("httpd -f -p 80"));
    let format = "{{.PIDs}} {{.MemUsage}} {{.NetIO}}";
    let used = docker(&["stats", "--no-stream", "--format", format, "web"]).well();
    assert!(used.starts_with("1 ") && !used.contains(" 0B /"), "{used}");
    docker(&["commit", "web", "committed"]).well();

    // What there is only of the machine's is shown as it is: its processes and its queues.
    let counted = |words: &[&str]| -> usize {
        let count = ["base", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"];
        docker(&[&["run", "--rm"], words, &count].concat()).well().parse().unwrap()
    };
    let (own, all) = (counted(&[]), counted(&["--pid", "host", "--ipc", "host"]));
    assert!(all > own + 3, "{own} of {all}");
    let unknown = docker(&["run", "--rm", "-u", "70000", "base", "true"]);
    assert!(unknown.errors.contains("up to 65536; /etc/subuid"), "{}", unknown.errors);

    // Another takes the place of a holder that is killed, without anybody's doing.
    let before = machine.holder();
    output_of(machine.root("kill").args(["-9", &before]));
    assert_eq!(until("the port leads in again", || machine.get("8081")), "docker\n");
    until("so do those of the platform", || machine.get("7070"));
    assert_ne!(machine.holder(), before);
    ask(&["exec", "web", "--", "wget", "-qO", "-", "http://198.51.100.1:8000"]).well();
    docker(&["rm", "-f", "web"]).well();
    docker(&["network", "rm", "own"]).well();
    assert!(machine.get("8081").is_err());

    // Its signals reach it through the programs it was started by.
    machine.root("kill").arg(platform_id(machine)).status().unwrap();
    let ended = until("wharf up ends", || platform.try_wait().unwrap().ok_or_else(said));
    assert!(ended.success(), "{}", said());
    assert!(machine.get("7070").is_err(), "the ports of the platform are still held");
}

/// The id on the machine of the process of `wharf up`.
fn platform_id(machine: &Machine) -> String {
    let pid = machine.one(|name| name == "wharf");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    ids.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn people_who_are_not_root_run_containers_with_pasta() {
    let machine = Machine::start(None);
    machine.wharf(&["image", "pack", "--applets", "base", "sh", "busybox", "python3"]).well();
    machine.one(is_pasta);
    owners(&machine);
    build_with_a_way_out(&machine);
    a_service(&machine);
    a_killed_shim(&machine);
    a_killed_holder(&machine);
    a_platform(&machine);
    // The way out is there again when it has been ended.
    output_of(Command::new("kill").args(["-9", &machine.one(is_pasta).to_string()]));
    until("there is a way out again", || {
        let fetch = ["timeout", "2", "wget", "-qO", "-", "http://198.51.100.1:8000/"];
        let said = machine.wharf(&[&["run", "--rm", "base"][..], &fetch].concat());
        if said.code == 0 { Ok(()) } else { Err(format!("{} {}", said.code, said.errors)) }
    });
    // Nothing stays.
    until("the namespaces go", || match machine.processes() {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    assert!(!machine.path("run/wharf/holder.json").exists());
}

#[test]
fn people_who_are_not_root_run_containers_with_slirp4netns() {
    let machine = Machine::start(Some("pasta"));
    machine.wharf(&["image", "pack", "--applets", "base", "sh", "busybox"]).well();
    build_with_a_way_out(&machine);
    machine.one(|name| name == "slirp4netns");
    a_service(&machine);
}
