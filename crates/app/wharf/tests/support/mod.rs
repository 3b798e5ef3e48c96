//! A platform as people run it: the `wharf` program, a data folder, kubectl.

// Each test binary uses a part of it, and a panic is how a test fails.
#![allow(dead_code, unreachable_pub, unused_imports, clippy::unwrap_used)]

mod browser;
pub mod cri;
mod kernel;
mod kubectl;
mod repository;
mod traffic;

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

pub use browser::Browser;
pub use kernel::Traces;
pub use kubectl::Kubectl;
pub use repository::Repository;
pub use traffic::{Load, Tally, get};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The image the tests' pods run.
pub const IMAGE: &str = "base/test";

/// Seconds since 1970, for the order of what is printed.
pub fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:.3}", since.as_secs_f64())
}

/// Tries until there is something, or fails with what `why` says.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < deadline, "{what}: still {why}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A text in an object; empty when there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// Standard output of a command that must succeed.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}{}", lossy(&output.stdout), lossy(&output.stderr));
    lossy(&output.stdout)
}

pub fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A running `wharf up` with its folder; both go with this value, also when a test panics.
pub struct Platform {
    dir: TempDir,
    role: &'static str,
    child: Option<Child>,
    /// The folder is a disk of its own.
    mounted: bool,
    /// More options of `wharf up`.
    options: Vec<String>,
}

impl Platform {
    /// The whole platform, with an image named [`IMAGE`] that has sh, busybox's programs, python3 and tar.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// One with more options of `wharf up`.
    pub fn start_with(options: &[&str]) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make real containers: run them as root");
        let mut platform = Self::at(TempDir::new().unwrap(), "all", false);
        platform.options = options.iter().map(|option| (*option).to_owned()).collect();
        platform.pack(&["sh", "busybox", "python3", "tar"]);
        platform.restart();
        platform
    }

    /// Makes [`IMAGE`] of programs of this machine.
    pub fn pack(&self, programs: &[&str]) {
        output_of(self.wharf().args(["image", "pack", IMAGE, "--applets"]).args(programs));
    }

    /// A platform without a node.
    pub fn control_plane() -> Self {
        Self::control_plane_with(&[])
    }

    /// One with more options of `wharf up`.
    pub fn control_plane_with(options: &[&str]) -> Self {
        let mut platform = Self::at(TempDir::new().unwrap(), "control-plane", false);
        platform.options = options.iter().map(|option| (*option).to_owned()).collect();
        platform.restart();
        platform
    }

    /// One without a node, whose disk has so many megabytes.
    pub fn on_a_small_disk(megabytes: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let size = format!("size={megabytes}m");
        output_of(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir.path()));
        let mut platform = Self::at(dir, "control-plane", true);
        platform.restart();
        platform
    }

    /// One whose folder is the file system on a device; it does not run yet.
    pub fn on_device(device: &Path) -> Self {
        let dir = TempDir::new().unwrap();
        output_of(Command::new("mount").args(["-t", "ext4"]).arg(device).arg(dir.path()));
        Self::at(dir, "all", true)
    }

    fn at(dir: TempDir, role: &'static str, mounted: bool) -> Self {
        Self { dir, role, child: None, mounted, options: Vec::new() }
    }

    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    /// A `wharf` command for this platform.
    pub fn wharf(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--data").arg(self.data()).env("HOME", self.data());
        command.env("WHARF_CERTS_D", self.data().join("certs.d"));
        command
    }

    /// Starts `wharf up` and waits until it is ready. It drains when it is asked to end.
    pub fn restart(&mut self) {
        let mut command = self.wharf();
        command.args(["up", "--ports", "auto", "--drain", "--role", self.role]).args(&self.options);
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let ready = self.said("kubeconfig");
        eprintln!("{} start", now());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        until("wharf up is ready", || match self.said("kubeconfig") > ready {
            true => Ok(()),
            false => match self.child.as_mut().unwrap().try_wait().unwrap() {
                None => Err("starting".to_owned()),
                Some(status) => panic!("wharf up ended before it was ready: {status}: {}", self.logged()),
            },
        });
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        eprintln!("{} kill", now());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and what must be true afterwards: nothing is left of it.
    pub fn drain(mut self) {
        let traces = self.traces();
        let status = self.terminate();
        assert!(status.is_ok_and(|status| status.success()), "wharf up did not end well: {}", self.logged());
        assert_eq!(traces.found(), [""; 0], "left behind; {}", self.logged());
        let pods = fs::read_dir(self.data().join("pods")).into_iter().flatten().count();
        assert_eq!(pods, 0, "pod folders are left");
    }

    /// What this platform has in the kernel.
    pub fn traces(&self) -> Traces {
        Traces::of(self.data())
    }

    /// Prints what there is, for who reads why a test failed.
    fn describe(&self) {
        if self.child.is_none() {
            return;
        }
        let kubectl = self.kubectl();
        for what in [
            &["get", "deployments,pods,services,endpointslices", "-A", "-o", "wide"][..],
            &["get", "endpointslices", "-o", "yaml", "--show-managed-fields"],
            &["get", "events", "-A"],
            &["describe", "pods"],
        ] {
            let output = kubectl.end(what, "");
            eprintln!("kubectl {}:\n{}{}", what.join(" "), lossy(&output.stdout), lossy(&output.stderr));
        }
    }

    /// SIGTERM.
    pub fn terminate(&mut self) -> Result<std::process::ExitStatus, String> {
        let Some(mut child) = self.child.take() else { return Err("it does not run".to_owned()) };
        let _ = kill_process(Pid::from_child(&child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("it did not end: {}", self.logged()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("up.log")
    }

    /// What `wharf up` printed since the first start.
    pub fn logged(&self) -> String {
        lossy(&fs::read(self.log()).unwrap_or_default())
    }

    fn said(&self, word: &str) -> usize {
        self.logged().matches(word).count()
    }

    /// An address of endpoints.json, without its scheme.
    pub fn address(&self, name: &str) -> String {
        let file = fs::read(self.data().join("endpoints.json")).unwrap();
        let endpoints: Value = serde_json::from_slice(&file).unwrap();
        endpoints[name].as_str().unwrap().split("://").nth(1).unwrap().to_owned()
    }

    /// kubectl as it stands in PATH, or as KUBECTL names it.
    pub fn kubectl(&self) -> Kubectl {
        let program = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
        Kubectl::new(program.into(), self.data())
    }

    /// kubectl of a version: `1.29`.
    pub fn kubectl_of(&self, version: &str) -> Kubectl {
        Kubectl::new(kubectl::program_of(version), self.data())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("wharf up said:\n{}", self.logged());
            self.describe();
            // Containers of `wharf run` outlive the platform.
            if let Ok(listed) = self.wharf().args(["ps", "-a", "-q"]).output() {
                let ids = lossy(&listed.stdout);
                let _ = self.wharf().args(["rm", "-f"]).args(ids.split_whitespace()).output();
            }
        }
        if self.role == "all" && self.child.is_none() && !self.traces().found().is_empty() {
            // Killed by the test, or stuck: the next start puts in order what the last one left.
            let mut command = self.wharf();
            command.args(["up", "--ports", "auto", "--drain"]).stdin(Stdio::null()).stdout(Stdio::piped());
            self.child = command.spawn().ok();
            let mut line = String::new();
            if let Some(out) = self.child.as_mut().and_then(|child| child.stdout.take()) {
                let _ = std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line);
            }
        }
        let _ = self.terminate();
        self.traces().end();
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(self.data()).status();
        }
    }
}
