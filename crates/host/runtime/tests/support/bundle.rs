//! Bundles for the OCI command line, deleted with the value.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use wharf_runtime::SpecOptions;

use super::busybox_root;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A bundle, and the container made of it.
pub struct Bundle {
    pub folder: tempfile::TempDir,
    pub id: String,
    pub spec: Value,
}

impl Bundle {
    /// One that runs `script` by a shell.
    pub fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("rootfs");
        fs::create_dir(&root).unwrap();
        busybox_root(&root);
        let id = format!("oci-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = SpecOptions {
            args: vec!["/bin/sh".into(), "-c".into(), script.into()],
            env: vec!["PATH=/bin".into()],
            cgroup: format!("/wharf-test/{id}"),
            ..SpecOptions::default()
        };
        let spec = serde_json::to_value(options.build().unwrap()).unwrap();
        Self { folder, id, spec }
    }

    /// Changes the specification: `/linux/seccomp` becomes `value`.
    pub fn set(mut self, path: &str, value: Value) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = self.spec.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}"));
        match parent {
            Value::Array(all) if name == "-" => all.push(value),
            parent => parent[name] = value,
        }
        self
    }

    /// Adds a mount.
    pub fn mount(self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.set("/mounts/-", mount)
    }

    /// Takes out the namespace of one kind.
    pub fn without_namespace(mut self, kind: &str) -> Self {
        self.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != kind);
        self
    }

    /// Replaces the namespace of one kind by the one at `path`.
    pub fn join(self, kind: &str, path: &str) -> Self {
        self.without_namespace(kind).set("/linux/namespaces/-", json!({"type": kind, "path": path}))
    }

    /// Gives it a user namespace of its own.
    pub fn map_users(self) -> Self {
        let mappings = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        let root = self.root();
        for entry in walk(&root) {
            std::os::unix::fs::lchown(&entry, Some(100_000), Some(100_000)).unwrap();
        }
        self.set("/linux/namespaces/-", json!({"type": "user"}))
            .set("/linux/uidMappings", mappings.clone())
            .set("/linux/gidMappings", mappings)
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    /// A command of the command line; the specification is written down before.
    pub fn command(&self, args: &[&str]) -> Command {
        fs::write(self.folder.path().join("config.json"), self.spec.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf-oci"));
        command.arg("--root").arg(self.folder.path().join("state")).args(args).stdin(Stdio::null());
        command
    }

    fn with_id(&self, args: &[&str]) -> Output {
        let mut command = self.command(&args[..1]);
        if matches!(args[0], "create" | "run") {
            command.arg("--bundle").arg(self.folder.path());
        }
        let (flags, words): (Vec<&str>, Vec<&str>) =
            args[1..].iter().partition(|word| word.starts_with("--"));
        command.args(flags).arg(&self.id).args(words).output().unwrap()
    }

    /// Runs a command that must succeed. Gives what it said.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.with_id(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must fail. Gives why it did.
    pub fn error(&self, args: &[&str]) -> String {
        let output = self.with_id(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Runs it to its end: exit code, output.
    pub fn run(&self) -> (i32, String) {
        let output = self.with_id(&["run"]);
        let both = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&both).into_owned())
    }

    /// Creates it with its output in a file, and gives the file.
    pub fn create(&self) -> PathBuf {
        let path = self.folder.path().join("output");
        let file = fs::File::create(&path).unwrap();
        let mut command = self.command(&["create", "--bundle"]);
        command.arg(self.folder.path()).arg(&self.id).stdout(file.try_clone().unwrap()).stderr(file);
        let status = command.status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&path).unwrap());
        path
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state"])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn until_stopped(&self) {
        super::until("it has stopped", || self.status() == "stopped");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
    }
}

fn walk(path: &std::path::Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            all.extend(walk(&entry.unwrap().path()));
        }
    }
    all
}
