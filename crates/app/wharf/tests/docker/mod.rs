//! The docker CLI, and longer stories about it.

pub(crate) mod clients;
pub(crate) mod networks;
pub(crate) mod parity;
pub(crate) mod registries;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::support::{Platform, lossy};

/// The docker CLI against a platform.
pub(crate) struct Docker(pub(crate) String);

impl Docker {
    pub(crate) fn of(platform: &Platform) -> Self {
        Self(format!("unix://{}", platform.data().join("docker.sock").display()))
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(words)
            .env("DOCKER_HOST", &self.0)
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", "/nonexistent");
        command
    }

    /// Exit code, standard output and standard error.
    pub(crate) fn end(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), lossy(&output.stdout), lossy(&output.stderr))
    }

    /// What it says, when all is well.
    pub(crate) fn said(&self, words: &[&str]) -> String {
        let (code, out, errors) = self.end(words, "");
        assert_eq!(code, 0, "docker {words:?}: {out}{errors}");
        out.trim().to_owned()
    }

    /// What it says when it fails, with its code.
    pub(crate) fn refused(&self, words: &[&str]) -> (i32, String) {
        let (code, out, errors) = self.end(words, "");
        assert_ne!(code, 0, "docker {words:?}: {out}");
        (code, errors)
    }
}
