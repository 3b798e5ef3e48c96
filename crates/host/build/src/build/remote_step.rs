//! Remote sources of `ADD`, and of contexts: what they are now, and how their files are put down.

use std::{
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
};

use base64::Engine as _;

use super::{
    capture::git_uri,
    copy_step::{Job, Put},
    executor::Build,
    request::{BuildRequest, Builder, Secret},
    stage::StageRun,
};
use crate::{
    attest::Material,
    cache::KeyMaker,
    copy::Tree,
    error::{Error, IoContext, Result},
    remote::{
        Checkout, Download, Git, GitUrl, Remote, archive, file_name, percent_decoded, split_user,
        without_password,
    },
    workspace::Temp,
};

/// A remote source as it is now.
pub(super) enum Fetched {
    /// A file, with the name it is put down by.
    File { download: Download, name: String, shown: String },
    /// A repository at a commit. Its files are brought only when they are needed.
    Commit { url: GitUrl, commit: String },
}

impl Fetched {
    pub(super) fn add_to(&self, key: &mut KeyMaker) {
        match self {
            Self::File { download, name, .. } => drop(key.text(name).digest(&download.digest)),
            Self::Commit { url, commit } => drop(key.text(commit).text(&url.folder)),
        }
    }
}

/// Fetches for one build.
pub(crate) struct Remotes<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) request: &'a BuildRequest,
    pub(crate) temp: &'a Temp,
}

impl Build<'_> {
    pub(crate) fn remotes(&self) -> Remotes<'_> {
        Remotes { builder: self.builder, request: self.request, temp: self.temp }
    }
}

impl Remotes<'_> {
    pub(crate) fn git(&self) -> Git<'_> {
        let agent = self.request.ssh.get("default").map(|path| path.as_path());
        Git { temp: self.temp.path(), agent, cancel: &self.request.cancel }
    }

    /// The file at an address.
    pub(crate) fn download(&self, url: &str) -> Result<Download> {
        let Some(fetch) = &self.builder.fetch else {
            return Err(Error::host(format!("cannot fetch '{}' here", without_password(url)))
                .hint("download it into the build context and COPY it"));
        };
        self.builder.downloads.get(
            fetch,
            &without_password(url),
            self.authorization(url)?,
            &self.request.cancel,
        )
    }

    /// What the secrets of an address's host say.
    fn authorization(&self, url: &str) -> Result<Option<String>> {
        let (bare, user) = split_user(url);
        let host =
            bare.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next()).unwrap_or("");
        for (name, prefix) in [("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")] {
            let Some(secret) = self.request.secrets.get(&format!("{name}{host}")) else { continue };
            let bytes = match secret {
                Secret::Value(bytes) => bytes.clone(),
                Secret::File(path) => std::fs::read(path).at("read the secret in", path)?,
            };
            let text = String::from_utf8(bytes).ok().filter(|text| !text.trim().contains(char::is_control));
            let text =
                text.ok_or_else(|| Error::invalid(format!("the secret '{name}{host}' is no header")))?;
            return Ok(Some(format!("{prefix}{}", text.trim())));
        }
        let basic = |user: &str| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(percent_decoded(user)))
        };
        Ok(user.map(basic))
    }

    /// The files of a repository's folder at a commit.
    pub(crate) fn repository(&self, url: &GitUrl, commit: &str, keep_git: bool) -> Result<Tree> {
        let name = format!("the repository '{}'", without_password(&url.remote));
        Tree::fetched(&self.files_of(url, commit, keep_git)?, name)
    }

    /// Where the files of a repository's folder at a commit lie.
    pub(crate) fn files_of(&self, url: &GitUrl, commit: &str, keep_git: bool) -> Result<PathBuf> {
        let Checkout { folder } = self.git().checkout(url, commit, keep_git)?;
        let inside = wharf_image::View::plain(&folder)?.find(Path::new(&url.folder), true)?;
        if inside.node.is_none_or(|node| node.dir.is_none()) {
            let what = format!("'{}' is no folder of '{}'", url.folder, without_password(&url.remote));
            return Err(Error::invalid(what));
        }
        Ok(folder.join(inside.path))
    }
}

impl StageRun<'_> {
    /// Looks at every remote source of a step.
    pub(super) fn fetch_all(&self, job: &Job) -> Result<Vec<Fetched>> {
        job.remotes.iter().map(|remote| self.fetch_one(job, remote)).collect()
    }

    fn fetch_one(&self, job: &Job, remote: &Remote) -> Result<Fetched> {
        let sum = job.copy.checksum.as_deref();
        match remote {
            Remote::Git(url) => {
                let commit = self.build.remotes().git().resolve(url)?;
                if let Some(sum) = sum.filter(|sum| sum.is_empty() || !commit.starts_with(*sum)) {
                    return Err(differs(&url.remote, sum, &commit));
                }
                self.build.note_material(Material::of_commit(git_uri(url), &commit));
                Ok(Fetched::Commit { url: url.clone(), commit })
            }
            Remote::Http(url) => {
                let expected =
                    sum.map(|sum| sum.parse::<wharf_base::Digest>().map_err(|_| bad_sum(sum))).transpose()?;
                let download = self.build.remotes().download(url)?;
                if let Some(expected) = expected.filter(|expected| *expected != download.digest) {
                    return Err(differs(url, &expected.to_string(), &download.digest.to_string()));
                }
                let shown = without_password(url);
                self.build.note_material(Material::of_digest(shown.clone(), &download.digest));
                let name = download.name.clone().or_else(|| file_name(url));
                let name = match name {
                    Some(name) => name,
                    None if job.copy.unpack == Some(true) || !job.target_is_folder => String::new(),
                    None => {
                        return Err(Error::invalid(format!("'{shown}' has no file name"))
                            .hint("end the target with the name the file is to have"));
                    }
                };
                Ok(Fetched::File { download, name, shown })
            }
        }
    }

    /// Sources that are known by their checksum alone.
    pub(super) fn note_by_checksum(&self, job: &Job) {
        let sum = job.copy.checksum.as_deref().unwrap_or_default();
        for remote in &job.remotes {
            match (remote, sum.parse::<wharf_base::Digest>()) {
                (Remote::Http(url), Ok(digest)) => {
                    self.build.note_material(Material::of_digest(without_password(url), &digest));
                }
                (Remote::Git(url), _) if matches!(sum.len(), 40 | 64) => {
                    self.build.note_material(Material::of_commit(git_uri(url), sum));
                }
                // The beginning of a commit's id is no digest.
                _ => self.build.capture(|captured| captured.incomplete = true),
            }
        }
    }

    pub(super) fn put_fetched(&self, source: Fetched, put: &Put<'_>) -> Result<()> {
        match source {
            Fetched::Commit { url, commit } => {
                let tree = self.build.remotes().repository(&url, &commit, put.job.copy.keep_git_dir)?;
                tree.find("/", false)?.iter().try_for_each(|item| put.item_as_is(&tree, item))
            }
            Fetched::File { mut download, name, shown } => {
                if put.job.copy.unpack == Some(true) {
                    if let Some(content) = archive(|| download.reopened()).at("read", &shown)? {
                        return put.unpack(content);
                    }
                    download.content.seek(SeekFrom::Start(0)).at("read", &shown)?;
                }
                if name.is_empty() && put.is_into_folder() {
                    return Err(Error::invalid(format!("'{shown}' has no file name"))
                        .hint("end the target with the name the file is to have"));
                }
                put.placer.stream(&put.file(&name), &mut download.content, 0o600, download.modified)
            }
        }
    }
}

fn bad_sum(sum: &str) -> Error {
    Error::invalid(format!("ADD --checksum={sum} is no checksum"))
        .hint("write sha256: and 64 hexadecimal digits")
}

fn differs(url: &str, expected: &str, actual: &str) -> Error {
    let what =
        format!("'{}' is not what --checksum says: it is {actual}, not {expected}", without_password(url));
    Error::invalid(what).hint("do not use it, or correct the checksum if the change is meant")
}
