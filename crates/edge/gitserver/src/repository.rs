//! Bare repositories in one folder, and what is asked of them.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::process::Command;

/// Bytes of one answer of git at the most.
const MAX_ANSWER: usize = 64 << 20;
/// A file in each repository: the references as they were told of last.
const TOLD: &str = "wharf-told";
/// The tree without files, which git knows everywhere.
const EMPTY_TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// Why git did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The name cannot be a repository's.
    #[error("'{0}' cannot be the name of a repository: use lower-case letters, digits, '-' and '.'")]
    Name(String),
    /// There is no such repository.
    #[error("there is no repository '{0}'")]
    NotFound(String),
    /// There is one already.
    #[error("the repository '{0}' exists already")]
    Exists(String),
    /// Git cannot be started, or files cannot be written.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Git refused.
    #[error("git {command}: {message}")]
    Refused {
        /// The subcommand.
        command: String,
        /// Git's words.
        message: String,
    },
}

type Result<T, E = GitError> = std::result::Result<T, E>;

/// Whether a text can be the name of a repository, and thereby of a folder and of an API object.
///
/// # Errors
/// When it cannot.
pub fn check_name(name: &str) -> Result<()> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let good = name.len() <= 63
        && name.bytes().all(inner)
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && !name.contains("..")
        && !name.ends_with(".git")
        && !name.ends_with(".lock");
    if good { Ok(()) } else { Err(GitError::Name(name.chars().take(80).collect())) }
}

/// All repositories: folders `NAME.git`.
#[derive(Debug, Clone)]
pub struct Repositories {
    root: PathBuf,
}

/// One repository.
#[derive(Debug, Clone)]
pub struct Repository {
    name: String,
    dir: PathBuf,
}

/// Who wrote a commit, and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// Its id.
    pub sha: String,
    /// The author's name.
    pub author: String,
    /// The author's address.
    pub email: String,
    /// When it was committed, RFC 3339.
    pub time: String,
    /// The whole message.
    pub message: String,
}

/// What to check out.
#[derive(Debug, Clone, Default)]
pub struct Checkout {
    /// The commit.
    pub sha: String,
    /// The reference it was pushed to; the branch checked out is called after it.
    pub reference: String,
    /// How many commits of history; all when 0.
    pub depth: u32,
}

/// Git without the settings of the machine or its users, and with no way to ask a person.
pub(crate) fn git() -> Command {
    let mut command = Command::new("git");
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    command.env_clear().env("PATH", path).env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0");
    let settings = [
        // Folders may have been made by another user of this machine: who may enter them is decided by their mode.
        ("safe.directory", "*"),
        ("core.hooksPath", "/dev/null"),
        ("gc.auto", "0"),
        // A push that was acknowledged outlives a loss of power; by itself git flushes neither references nor loose objects.
        ("core.fsync", "all"),
        ("core.fsyncMethod", "batch"),
        ("uploadpack.allowAnySHA1InWant", "true"),
    ];
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), key).env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    command.kill_on_drop(true);
    command
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> GitError {
    let what = what.into();
    move |source| GitError::Io { what, source }
}

async fn run(mut command: Command, name: &str) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.output().await.map_err(failed("start git (is it installed?)"))?;
    if output.stdout.len() > MAX_ANSWER {
        return Err(GitError::Refused { command: name.into(), message: "the answer is too large".into() });
    }
    Ok(output)
}

async fn succeed(command: Command, name: &str) -> Result<Vec<u8>> {
    let output = run(command, name).await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(GitError::Refused { command: name.into(), message })
}

/// References and what they point at, sorted.
pub(crate) type References = Vec<(String, String)>;

/// Work on files, off the asynchronous threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Writes a file, or which files a folder has, to the disk.
fn flush(path: &Path) -> io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// Writes a folder with all it holds to the disk.
fn flush_tree(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => flush_tree(&entry.path())?,
            kind if kind.is_file() => flush(&entry.path())?,
            _ => {}
        }
    }
    flush(folder)
}

/// Lines of an object and a reference.
fn references(text: &str) -> References {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let mut references: Vec<_> = lines.map(|(object, name)| (name.to_owned(), object.to_owned())).collect();
    references.sort();
    references
}

impl Repositories {
    /// Those in `root`, which is made when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let root = root.into();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(failed(format!("make the folder {}", root.display())))?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The names of all, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".git").map(str::to_owned))
            .filter(|name| check_name(name).is_ok())
            .collect();
        names.sort();
        names
    }

    /// One by name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<Repository> {
        check_name(name)?;
        let dir = self.root.join(format!("{name}.git"));
        if !dir.join("HEAD").is_file() {
            return Err(GitError::NotFound(name.to_owned()));
        }
        Ok(Repository { name: name.to_owned(), dir })
    }

    /// Makes one.
    ///
    /// # Errors
    /// When there is one of this name, or it cannot be made.
    pub async fn create(&self, name: &str) -> Result<Repository> {
        check_name(name)?;
        let dir = self.root.join(format!("{name}.git"));
        if dir.exists() {
            return Err(GitError::Exists(name.to_owned()));
        }
        // Made aside and renamed, so that nobody sees half of one.
        let draft = self.root.join(format!(".{name}.{}", wharf_base::random_hex(4)));
        let mut command = git();
        command.args(["init", "--quiet", "--bare", "--initial-branch=main", "--template="]).arg(&draft);
        succeed(command, "init").await?;
        Repository { name: name.to_owned(), dir: draft.clone() }.set_told(&[]).await?;
        // A repository whose files are empty would take no push any more.
        let (all, root) = (draft.clone(), self.root.clone());
        blocking(move || flush_tree(&all)).await.map_err(failed(format!("flush {}", draft.display())))?;
        if let Err(error) = std::fs::rename(&draft, &dir) {
            let _ = std::fs::remove_dir_all(&draft);
            return match dir.exists() {
                true => Err(GitError::Exists(name.to_owned())),
                false => Err(failed(format!("make {}", dir.display()))(error)),
            };
        }
        blocking(move || flush(&root)).await.map_err(failed(format!("flush {}", dir.display())))?;
        Ok(Repository { name: name.to_owned(), dir })
    }

    /// Removes one with all it holds.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<()> {
        let repository = self.get(name)?;
        let aside = self.root.join(format!(".{name}.{}", wharf_base::random_hex(4)));
        std::fs::rename(&repository.dir, &aside)
            .and_then(|()| std::fs::remove_dir_all(&aside))
            .map_err(failed(format!("remove {}", repository.dir.display())))
    }
}

impl Repository {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn git(&self, arguments: &[&str]) -> Command {
        let mut command = git();
        command.arg("--git-dir").arg(&self.dir).args(arguments);
        command
    }

    /// All references with what they point at, sorted.
    ///
    /// # Errors
    /// When git fails.
    pub async fn references(&self) -> Result<Vec<(String, String)>> {
        let command = self.git(&["for-each-ref", "--format=%(objectname) %(refname)"]);
        let text = String::from_utf8_lossy(&succeed(command, "for-each-ref").await?).into_owned();
        Ok(references(&text))
    }

    /// The references of the last push that was dealt with; those of now when nothing was kept yet.
    pub(crate) async fn told(&self) -> Result<References> {
        let path = self.dir.join(TOLD);
        match blocking(move || std::fs::read_to_string(path)).await {
            Ok(text) => Ok(references(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let now = self.references().await?;
                self.set_told(&now).await?;
                Ok(now)
            }
            Err(error) => Err(failed(format!("read {TOLD} of repository {}", self.name))(error)),
        }
    }

    /// Keeps the references of a push that was dealt with, also over a power cut.
    pub(crate) async fn set_told(&self, references: &[(String, String)]) -> Result<()> {
        let text: String = references.iter().map(|(name, object)| format!("{object} {name}\n")).collect();
        let (path, draft) = (self.dir.join(TOLD), self.dir.join(format!("{TOLD}.new")));
        let write = move || {
            let mut file = std::fs::File::create(&draft)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&draft, path)
        };
        blocking(write).await.map_err(failed(format!("write {TOLD} of repository {}", self.name)))
    }

    /// Flushes the folders that changed with the references: git flushes what is in its files, not where they are.
    pub(crate) async fn keep(&self, before: &References, after: &References) -> Result<()> {
        let changed = before.iter().filter(|one| !after.contains(one));
        let changed = changed.chain(after.iter().filter(|one| !before.contains(one)));
        let mut folders = BTreeSet::from([self.dir.join("objects"), self.dir.join("objects/pack")]);
        for (name, _) in changed {
            let place = self.dir.join(name);
            folders.extend(
                place.ancestors().skip(1).take_while(|at| at.starts_with(&self.dir)).map(Path::to_owned),
            );
        }
        let flush_all =
            move || folders.iter().filter(|folder| folder.is_dir()).try_for_each(|folder| flush(folder));
        blocking(flush_all).await.map_err(failed(format!("flush repository {}", self.name)))
    }

    /// The commit a branch, tag, reference or abbreviated id stands for; nothing when there is none.
    ///
    /// # Errors
    /// When git cannot be started.
    pub async fn resolve(&self, revision: &str) -> Result<Option<String>> {
        let commit = format!("{revision}^{{commit}}");
        let command = self.git(&["rev-parse", "--quiet", "--verify", "--end-of-options", &commit]);
        let output = run(command, "rev-parse").await?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok((output.status.success() && !text.is_empty()).then_some(text))
    }

    /// A file of a commit; nothing when it has none there.
    ///
    /// # Errors
    /// When git cannot be started.
    pub async fn read_file(&self, sha: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let output = run(self.git(&["cat-file", "blob", &format!("{sha}:{path}")]), "cat-file").await?;
        Ok(output.status.success().then_some(output.stdout))
    }

    /// The names in a folder of a commit, folders left out; none when it has no such folder.
    ///
    /// # Errors
    /// When git fails.
    pub async fn list(&self, sha: &str, folder: &str) -> Result<Vec<String>> {
        let command = self.git(&["ls-tree", "-z", sha, "--", &format!("{folder}/")]);
        let text = String::from_utf8_lossy(&succeed(command, "ls-tree").await?).into_owned();
        let blob = |entry: &str| {
            let (kind, path) = entry.split_once('\t')?;
            kind.contains(" blob ").then(|| path.rsplit('/').next().unwrap_or(path).to_owned())
        };
        Ok(text.split('\0').filter_map(blob).collect())
    }

    /// The paths that differ between two commits. Without one before: since the parent of the first commit that no
    /// reference has but the `new` ones, or what the commit itself changed when others have it.
    ///
    /// # Errors
    /// When git fails.
    pub async fn changed(&self, before: &str, after: &str, new: &[&str]) -> Result<Vec<String>> {
        let before = match before {
            NO_COMMIT => self.base_of_new(after, new).await?,
            known => known.to_owned(),
        };
        let command = self.git(&["diff-tree", "-r", "-z", "--name-only", "--no-renames", &before, after]);
        let text = String::from_utf8_lossy(&succeed(command, "diff-tree").await?).into_owned();
        Ok(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
    }

    async fn base_of_new(&self, after: &str, new: &[&str]) -> Result<String> {
        let mut command = self.git(&["rev-list", "--topo-order", "--reverse", after, "--not"]);
        command.args(new.iter().map(|reference| format!("--exclude={reference}"))).arg("--all");
        let own = String::from_utf8_lossy(&succeed(command, "rev-list").await?).into_owned();
        let first = own.lines().next().unwrap_or(after);
        Ok(self.resolve(&format!("{first}^")).await?.unwrap_or_else(|| EMPTY_TREE.to_owned()))
    }

    /// Who wrote a commit, and what it says.
    ///
    /// # Errors
    /// When there is no such commit.
    pub async fn commit(&self, sha: &str) -> Result<Commit> {
        let command = self.git(&["show", "--no-patch", "--format=%H%x00%an%x00%ae%x00%cI%x00%B", sha, "--"]);
        let text = String::from_utf8_lossy(&succeed(command, "show").await?).into_owned();
        let mut parts = text.splitn(5, '\0').map(|part| part.trim_end_matches('\n').to_owned());
        let mut next = || parts.next().unwrap_or_default();
        Ok(Commit { sha: next(), author: next(), email: next(), time: next(), message: next() })
    }

    /// Points `HEAD` at a branch that exists, when it points at none and `branches` names some.
    pub(crate) async fn settle_head(&self, branches: &[&str]) -> Result<()> {
        if self.resolve("HEAD").await?.is_some() {
            return Ok(());
        }
        let Some(branch) = branches.first() else { return Ok(()) };
        succeed(self.git(&["symbolic-ref", "HEAD", branch]), "symbolic-ref").await.map(drop)
    }

    /// Makes a working copy with its own `.git` in `folder`, which must not exist and which nobody else may write to
    /// meanwhile.
    ///
    /// # Errors
    /// When there is no such commit, or files cannot be written.
    pub async fn checkout(&self, what: &Checkout, folder: &Path) -> Result<()> {
        let source = std::path::absolute(&self.dir).map_err(failed("find the repository"))?;
        let inside = |arguments: &[&str]| {
            let mut command = git();
            command.arg("-C").arg(folder).args(arguments);
            command
        };
        let mut init = git();
        init.args(["init", "--quiet", "--template="]).arg(folder);
        succeed(init, "init").await?;
        let depth = format!("--depth={}", what.depth);
        let mut fetch = inside(&["fetch", "--quiet", "--no-tags", "--no-auto-gc"]);
        if what.depth > 0 {
            fetch.arg(&depth);
        }
        fetch.arg(format!("file://{}", source.display())).arg(&what.sha);
        succeed(fetch, "fetch").await?;
        let branch = what.reference.strip_prefix("refs/heads/");
        let checkout = match branch {
            Some(branch) => inside(&["checkout", "--quiet", "-B", branch, &what.sha]),
            None => inside(&["checkout", "--quiet", "--detach", &what.sha]),
        };
        succeed(checkout, "checkout").await.map(drop)
    }
}
