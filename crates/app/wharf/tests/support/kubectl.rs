//! kubectl, run as people run it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use super::{lossy, output_of, text, until};

/// A kubectl program connected to a platform.
pub struct Kubectl {
    program: PathBuf,
    data: PathBuf,
}

/// Where kubectl of a version is: named by the environment, or beside the kubectl of PATH.
pub fn program_of(version: &str) -> PathBuf {
    let variable = format!("WHARF_KUBECTL_{}", version.replace('.', "_"));
    if let Some(program) = std::env::var_os(&variable) {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let kubectl =
        std::env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|path| path.exists());
    let real = kubectl.and_then(|path| path.canonicalize().ok());
    let found =
        real.map(|path| path.with_file_name(format!("kubectl.{version}"))).filter(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!(
            "this test needs kubectl {version}: name it by {variable}, or put it as kubectl.{version} beside the \
             kubectl of PATH"
        )
    })
}

impl Kubectl {
    pub fn new(program: PathBuf, data: &Path) -> Self {
        Self { program, data: data.to_owned() }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(self.data.join("kubeconfig")).args(args).stdin(Stdio::null());
        command.env("HOME", &self.data);
        command
    }

    /// The words of a shell that runs it.
    pub fn words(&self, args: &str) -> String {
        format!("{} --kubeconfig {} {args}", self.program.display(), self.data.join("kubeconfig").display())
    }

    /// What it prints; it must succeed.
    pub fn run(&self, args: &[&str]) -> String {
        output_of(&mut self.command(args))
    }

    /// How it ended, with what it printed.
    pub fn end(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("these tests need kubectl in PATH, or named by KUBECTL: {error}"));
        // A kubectl that does not read its input may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Applies a document, or several.
    pub fn apply(&self, documents: &str) -> String {
        let output = self.end(&["apply", "-f", "-"], documents);
        assert!(output.status.success(), "kubectl apply of {documents}: {}", lossy(&output.stderr));
        lossy(&output.stdout)
    }

    pub fn apply_object(&self, object: &Value) -> String {
        self.apply(&object.to_string())
    }

    pub fn get(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["get", "-o", "json"], args].concat())).unwrap()
    }

    /// Address and port of a Service.
    pub fn cluster_address(&self, service: &str) -> String {
        let spec = &self.get(&["service", service])["spec"];
        format!("{}:{}", text(spec, "/clusterIP"), spec["ports"][0]["port"])
    }

    pub fn list(&self, args: &[&str]) -> Vec<Value> {
        self.get(args)["items"].as_array().unwrap().clone()
    }

    /// Asks for a list until it is as wanted.
    pub fn list_until(&self, what: &str, args: &[&str], wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until(what, || {
            let items = self.list(args);
            if wanted(&items) { Ok(items) } else { Err(Value::from(items).to_string()) }
        })
    }
}
