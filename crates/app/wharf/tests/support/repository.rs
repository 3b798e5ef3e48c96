//! A working copy whose pushes start pipelines.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{Platform, output_of};

/// A working copy with one commit.
pub struct Repository {
    pub folder: PathBuf,
    home: PathBuf,
}

impl Repository {
    pub fn new(data: &Path, workflow: &str) -> Self {
        let repository = Self { folder: data.join("work"), home: data.to_owned() };
        fs::create_dir_all(repository.folder.join(".github/workflows")).unwrap();
        output_of(&mut repository.git(&["init", "-q", "-b", "main"]));
        fs::write(repository.folder.join(".github/workflows/ci.yml"), workflow).unwrap();
        repository
    }

    pub fn git(&self, words: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=Dev", "-c", "user.email=dev@example.com", "-c", "pack.compression=0"]);
        command.args(words).current_dir(&self.folder).env("HOME", &self.home).stdin(Stdio::null());
        command
    }

    pub fn commit(&self, why: &str) {
        output_of(&mut self.git(&["add", "-A"]));
        output_of(&mut self.git(&["commit", "-q", "-m", why]));
    }

    /// A terminal that pushes; it shows the pipeline until that ends.
    pub fn push(&self, platform: &Platform) -> Child {
        let to = format!("http://{}/git/shop.git", platform.address("console"));
        self.git(&["push", &to, "main"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}
