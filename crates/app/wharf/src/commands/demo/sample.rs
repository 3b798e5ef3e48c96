//! The sample application as a repository on this machine.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

/// `examples/shop`, packed by the build script.
const ARCHIVE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.tar"));

/// A working copy.
pub(super) struct Sample {
    folder: PathBuf,
}

impl Sample {
    /// Unpacks the sample and commits it.
    pub(super) async fn create(folder: PathBuf) -> Result<Self> {
        let place = folder.clone();
        tokio::task::spawn_blocking(move || unpack(&place)).await??;
        let sample = Self { folder };
        sample.git(["init", "--quiet", "--initial-branch=main"]).await?;
        sample.git(["add", "--all"]).await?;
        sample.git(["commit", "--quiet", "--message=A small shop"]).await?;
        Ok(sample)
    }

    /// Makes the change of a patch of the sample's own, and commits it.
    pub(super) async fn change(&self, patch: &str, message: &str) -> Result<()> {
        self.git(["apply", patch]).await?;
        self.git(["commit", "--quiet", "--all", "--message", message]).await?;
        Ok(())
    }

    /// The commit that is checked out.
    pub(super) async fn head(&self) -> Result<String> {
        Ok(self.git(["rev-parse", "HEAD"]).await?.trim().to_owned())
    }

    /// The number of files in the commit.
    pub(super) async fn files(&self) -> Result<usize> {
        Ok(self.git(["ls-files"]).await?.lines().count())
    }

    /// `git push URL main`, still to be run.
    pub(super) fn push(&self, url: &str) -> Command {
        let mut command = self.command();
        command.args(["push", url, "main"]);
        command
    }

    async fn git<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let mut command = self.command();
        command.args(arguments);
        let output = command.output().await.context("git cannot be run")?;
        if !output.status.success() {
            let line = format!("{:?}", command.as_std());
            bail!("{line}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// git without this machine's settings: no signing, no hooks, no proxy, no questions.
    fn command(&self) -> Command {
        let mut command = Command::new("git");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_"))
        {
            command.env_remove(name);
        }
        command
            .current_dir(&self.folder)
            .envs([
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_CEILING_DIRECTORIES", "/"),
                ("NO_PROXY", "*"),
                ("no_proxy", "*"),
                ("LC_ALL", "C"),
            ])
            .args(["-c", "user.name=Shop Keeper", "-c", "user.email=keeper@shop.localhost"])
            .args(["-c", "safe.directory=*"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

fn unpack(folder: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(ARCHIVE);
    archive.set_preserve_mtime(false);
    std::fs::create_dir_all(folder)
        .and_then(|()| archive.unpack(folder))
        .with_context(|| format!("cannot unpack the sample into {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_sample_and_its_bad_version_come_with_the_program() {
        let place = tempfile::tempdir().unwrap();
        let sample = Sample::create(place.path().join("shop")).await.unwrap();
        let good = sample.head().await.unwrap();
        assert!(place.path().join("shop/.github/workflows/ci.yml").is_file());
        assert!(sample.files().await.unwrap() > 50);
        sample.change("faults/errors.patch", "Price books by category").await.unwrap();
        assert_ne!(sample.head().await.unwrap(), good);
    }
}
