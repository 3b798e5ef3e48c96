//! Git repositories as sources, through the system's `git`.
//!
//! What an address says is never an option of a command, local files are no repositories, and neither hooks nor the
//! user's settings have a say. Access to private repositories is the environment's: its agent, its credential helper.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use wharf_base::random_hex;

use super::without_password;
use crate::{
    error::{Error, IoContext, Result},
    ignore::clean,
    progress::Cancel,
};

/// A repository, what of it, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GitUrl {
    pub(crate) remote: String,
    /// Branch, tag, full reference or commit; the default branch where empty.
    pub(crate) reference: String,
    /// A folder of the repository.
    pub(crate) folder: String,
}

impl GitUrl {
    /// Reads `URL[#REF[:FOLDER]]`. What is no repository's address is none.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>> {
        let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
        let is_git = match remote.split_once("://") {
            Some(("git" | "ssh", _)) => true,
            Some(("http" | "https", rest)) => {
                rest.split('?').next().is_some_and(|path| path.trim_end_matches('/').ends_with(".git"))
            }
            Some(_) => false,
            None => is_scp_like(remote),
        };
        if !is_git {
            return Ok(None);
        }
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let bad = |what: &str| {
            Err(Error::invalid(format!("'{}' {what}", without_password(text)))
                .hint("write URL#REF or URL#REF:FOLDER"))
        };
        // A host or reference that begins with '-' would be an option of ssh or git.
        if reference.starts_with('-')
            || reference.contains(|c: char| c.is_control() || " ~^:?*[\\".contains(c))
        {
            return bad("has a reference that git does not allow");
        }
        let host = remote.split_once("://").map_or(remote, |(_, rest)| rest);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.starts_with('-') || remote.contains(char::is_control) {
            return bad("is not the address of a repository");
        }
        let folder = clean(&format!("/{folder}"));
        Ok(Some(Self {
            remote: remote.to_owned(),
            reference: reference.to_owned(),
            folder: folder.trim_start_matches('/').to_owned(),
        }))
    }
}

/// `user@host:path`
fn is_scp_like(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, rest)| {
        let named =
            !user.is_empty() && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        named && rest.split_once(':').is_some_and(|(host, path)| !host.is_empty() && !path.is_empty())
    })
}

/// A repository's files.
pub(crate) struct Checkout {
    pub(crate) folder: PathBuf,
}

/// Runs git for one build.
pub(crate) struct Git<'a> {
    /// A folder of the build's.
    pub(crate) temp: &'a Path,
    /// The socket of an ssh agent.
    pub(crate) agent: Option<&'a Path>,
    pub(crate) cancel: &'a Cancel,
}

impl Git<'_> {
    /// The commit an address means now.
    pub(crate) fn resolve(&self, url: &GitUrl) -> Result<String> {
        let wanted = url.reference.as_str();
        if is_commit(wanted) {
            return Ok(wanted.to_owned());
        }
        let listed =
            self.run(None, &["ls-remote", "--", &url.remote]).map_err(|error| self.failed(url, error))?;
        let find = |name: &str| {
            listed
                .lines()
                .find_map(|line| line.split_once('\t').filter(|(_, n)| *n == name))
                .map(|(id, _)| id)
        };
        let names: Vec<String> = match wanted {
            "" => vec!["HEAD".into()],
            full if full.starts_with("refs/") => vec![format!("{full}^{{}}"), full.into()],
            // Of a tag and a branch of one name, the tag is meant; of a tag with a message, its commit.
            short => vec![
                format!("refs/tags/{short}^{{}}"),
                format!("refs/tags/{short}"),
                format!("refs/heads/{short}"),
            ],
        };
        if let Some(commit) = names.iter().find_map(|name| find(name)).filter(|id| is_commit(id)) {
            return Ok(commit.to_owned());
        }
        // The beginning of a commit that some reference points at.
        let short = wanted.len() >= 4 && wanted.bytes().all(|b| b.is_ascii_hexdigit());
        let fits = listed
            .lines()
            .filter_map(|line| line.split('\t').next())
            .find(|id| short && id.starts_with(wanted));
        fits.map(str::to_owned).ok_or_else(|| {
            let what = format!("'{}' has no branch, tag or commit '{wanted}'", without_password(&url.remote));
            Error::invalid(what).hint("write the name of a branch or tag, or all 40 digits of a commit")
        })
    }

    /// Brings the files of `commit`, without those of git itself unless `keep_git` says so.
    pub(crate) fn checkout(&self, url: &GitUrl, commit: &str, keep_git: bool) -> Result<Checkout> {
        let folder = self.temp.join(format!("git-{}", random_hex(4)));
        fs::create_dir(&folder).at("create folder", &folder)?;
        let at = Some(folder.as_path());
        let work = || -> Result<()> {
            self.run(at, &["init", "-q"])?;
            self.run(at, &["remote", "add", "--", "origin", &url.remote])?;
            // Servers that hand out single commits are asked for one; of others everything is taken.
            let one = self.run(at, &["fetch", "-q", "--depth", "1", "origin", commit]);
            if one.is_err() {
                self.cancel.check()?;
                self.run(at, &["fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"])?;
            }
            self.run(at, &["checkout", "-q", "--detach", commit])?;
            self.run(at, &["submodule", "-q", "update", "--init", "--recursive", "--depth=1"])?;
            Ok(())
        };
        work().map_err(|error| self.failed(url, error))?;
        if !keep_git {
            let git = folder.join(".git");
            fs::remove_dir_all(&git).at("remove", &git)?;
        }
        Ok(Checkout { folder })
    }

    fn failed(&self, url: &GitUrl, error: Error) -> Error {
        if error.kind == crate::ErrorKind::Cancelled {
            return error;
        }
        let needs_key = error.what.contains("Permission denied") || error.what.contains("publickey");
        Error::host(format!("cannot read the repository '{}': {}", without_password(&url.remote), error.what))
            .hint(match needs_key {
                true => "give the build an ssh agent that has the key: --ssh default",
                false => "check the address, and whether `git ls-remote` reads it from here",
            })
    }

    fn run(&self, folder: Option<&Path>, args: &[&str]) -> Result<String> {
        let output = self.temp.join(format!("git-out-{}", random_hex(4)));
        let errors = output.with_extension("err");
        let result = self.finish(folder, args, &output, &errors);
        let (told, text) = (fs::read(&errors).unwrap_or_default(), fs::read(&output).unwrap_or_default());
        for path in [&output, &errors] {
            let _ = fs::remove_file(path);
        }
        match result? {
            true => Ok(String::from_utf8_lossy(&text).into_owned()),
            false => {
                let told = String::from_utf8_lossy(&told);
                let line = told.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("git failed");
                let line: String = without_secrets(line).chars().take(300).collect();
                Err(Error::host(line))
            }
        }
    }

    fn finish(&self, folder: Option<&Path>, args: &[&str], out: &Path, err: &Path) -> Result<bool> {
        let mut command = Command::new("sh");
        // Files are to have the modes 644 and 755, whatever this process's mask is.
        command.args(["-c", "umask 022; exec git \"$@\"", "git"]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
            .args(args)
            .current_dir(folder.unwrap_or(self.temp))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .stdin(Stdio::null())
            .stdout(File::create(out).at("create", out)?)
            .stderr(File::create(err).at("create", err)?);
        if let Some(agent) = self.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        let mut child = command.spawn().map_err(|error| Error::host("cannot run git").caused_by(error))?;
        loop {
            if let Some(status) = child.try_wait().at("wait for", "git")? {
                return match status.code() {
                    Some(127) => Err(Error::host("git is not installed").hint("install git on this machine")),
                    code => Ok(code == Some(0)),
                };
            }
            if let Err(cancelled) = self.cancel.check() {
                let _ = child.kill();
                let _ = child.wait();
                return Err(cancelled);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// No hooks, no files of this machine, and links are links.
const SETTINGS: [&str; 6] = [
    "core.hooksPath=/dev/null",
    "protocol.file.allow=never",
    "protocol.ext.allow=never",
    "core.symlinks=true",
    "core.autocrlf=false",
    "advice.detachedHead=false",
];

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A message of git's, with passwords of addresses taken out.
fn without_secrets(line: &str) -> String {
    let quoted = |word: &str| {
        let bare = word.trim_matches(|c: char| "'\":".contains(c));
        word.replace(bare, &without_password(bare))
    };
    line.split(' ').map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let read = |text: &str| {
            GitUrl::parse(text).unwrap().map(|url| format!("{} {} {}", url.remote, url.reference, url.folder))
        };
        for (text, expect) in [
            ("https://a/b.git", Some("https://a/b.git  ")),
            ("https://a/b.git#v1:docs", Some("https://a/b.git v1 docs")),
            ("https://a/b.git#:../../etc/./x", Some("https://a/b.git  etc/x")),
            ("git@a.b:c/d.git#main", Some("git@a.b:c/d.git main ")),
            ("git@a.b:c/d", Some("git@a.b:c/d  ")),
            ("ssh://git@a/b", Some("ssh://git@a/b  ")),
            ("git://a/b", Some("git://a/b  ")),
            ("https://a/b.tar.gz", None),
            ("file:///a/b.git", None),
            ("a/b.git", None),
            ("x@y", None),
            ("dir/x@y:z", None),
        ] {
            assert_eq!(read(text).as_deref(), expect, "{text}");
        }
        for bad in
            ["https://a/b.git#--upload-pack=x", "ssh://-oProxyCommand=x/b", "git@-x:y", "git://a/b#a b"]
        {
            assert!(GitUrl::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            without_secrets("unable to access 'https://u:p@h/x/': 403"),
            "unable to access 'https://h/x/': 403"
        );
    }
}
