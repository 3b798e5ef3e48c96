//! Requests: which repository, who may, and what a push changed.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    io,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin},
    sync::{Semaphore, mpsc},
};
use wharf_http::{Body, PeerAddress};

use crate::{
    cgi::{self, Head, plain},
    repository::{GitError, References, Repositories, Repository},
    sideband::{self, Answer},
};

/// Requests of git served at once.
const MAX_REQUESTS: usize = 32;
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";
/// A connection on which nothing is said is thought dead by proxies after a while.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How repositories are served.
pub struct Config {
    /// Where they are.
    pub repositories: Repositories,
    /// What precedes `NAME.git` in a path, such as `/git/`.
    pub prefix: String,
    /// Whether a push to a name that is not there makes the repository.
    pub create_on_push: bool,
    /// Bytes of a push at the most.
    pub max_push: u64,
    /// Told of every push.
    pub hook: Arc<dyn PushHook>,
}

/// Shows on the terminal what comes of a push. The push ends there when this does.
pub type Follow = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is told of a push.
pub trait PushHook: Send + Sync {
    /// References changed. The push counts as dealt with once the future gives something; until then it is told again,
    /// by the next push or after a restart.
    fn pushed(&self, push: Push, terminal: Terminal) -> Pin<Box<dyn Future<Output = Option<Follow>> + Send>>;
}

/// A push that has gone through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    /// The repository's name.
    pub repository: String,
    /// Who pushed.
    pub pusher: String,
    /// What it changed.
    pub changes: Vec<RefChange>,
    /// A former run of the platform took it, and may have begun to deal with it.
    pub again: bool,
}

/// A reference a push changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefChange {
    /// The reference, `refs/…`.
    pub reference: String,
    /// What it pointed at; zeros when it is new.
    pub before: String,
    /// What it points at; zeros when it is gone.
    pub after: String,
}

/// The terminal of the person who pushed.
#[derive(Clone)]
pub struct Terminal {
    lines: Option<mpsc::Sender<Bytes>>,
}

impl Terminal {
    /// A terminal nobody sees.
    pub fn none() -> Self {
        Self { lines: None }
    }

    /// Whether anybody reads.
    pub fn is_open(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| !lines.is_closed())
    }

    /// Shows a line, or several. False when nobody reads any more.
    pub async fn line(&self, line: &str) -> bool {
        let Some(lines) = &self.lines else { return false };
        // Control characters would let a log drive the person's terminal.
        let kept = |c: &char| !c.is_control() || matches!(*c, '\n' | '\t' | '\x1b');
        let clean: String = line.chars().filter(kept).collect();
        lines.send(sideband::text(&(clean + "\n"))).await.is_ok()
    }
}

/// Serves repositories.
pub struct GitServer {
    config: Config,
    slots: Arc<Semaphore>,
    /// One push at a time per repository, so that what it changed can be told.
    pushes: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The service a request is for.
#[derive(Clone, Copy, PartialEq)]
enum Service {
    Fetch,
    Push,
}

struct Target<'a> {
    name: &'a str,
    rest: &'a str,
    service: Service,
}

impl GitServer {
    /// A server.
    pub fn new(config: Config) -> Arc<Self> {
        Arc::new(Self { config, slots: Arc::new(Semaphore::new(MAX_REQUESTS)), pushes: Mutex::default() })
    }

    /// Answers a request whose path begins with the prefix.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        match self.serve(parts, body).await {
            Ok(response) | Err(response) => response,
        }
    }

    async fn serve(self: Arc<Self>, parts: Parts, body: Body) -> Result<Response<Body>, Response<Body>> {
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let target = self.target(&parts.method, &path, &query)?;
        let user = trusted(&parts).ok_or_else(|| {
            plain(StatusCode::FORBIDDEN, "git is served to programs on this machine only: use 127.0.0.1")
        })?;
        let repository = self.repository(&target).await?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok();
        let lock = (target.service == Service::Push && target.rest == "/git-receive-pack")
            .then(|| self.lock(target.name));
        let guard = match lock {
            Some(lock) => Some(lock.lock_owned().await),
            None => None,
        };
        let before = match &guard {
            Some(_) => Some(repository.told().await.map_err(refused)?),
            None => None,
        };
        if target.service == Service::Push && target.rest == "/info/refs" {
            // What git finished after a kill would look up to date to the client, and never be told.
            self.catch_up(&repository).await;
        }
        let mut command = cgi::Request {
            root: self.config.repositories.root(),
            path: &format!("/{}.git{}", target.name, target.rest),
            query: &query,
            method: parts.method.as_str(),
            headers: &parts.headers,
            user: (target.service == Service::Push).then_some(user.as_str()),
            address: parts
                .extensions
                .get::<PeerAddress>()
                .map_or_else(String::new, |peer| peer.0.ip().to_string()),
            max_bytes: self.config.max_push,
        }
        .command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            plain(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot start git (is it installed?): {e}"))
        })?;
        if let Some(stdin) = child.stdin.take() {
            tokio::spawn(feed(body, stdin, self.config.max_push));
        }
        let (response, answered) = tokio::sync::oneshot::channel();
        let exchange = Exchange { server: Arc::clone(&self), repository, before, user };
        // A task of its own: a push that has gone through is told of even when the client has left.
        tokio::spawn(async move {
            exchange.run(child, response, Held { guard, slot }).await;
        });
        answered.await.map_err(|_| plain(StatusCode::BAD_GATEWAY, "git http-backend gave no answer"))
    }

    #[allow(clippy::result_large_err, reason = "the error is the answer, made once per request")]
    fn target<'a>(&self, method: &Method, path: &'a str, query: &str) -> Result<Target<'a>, Response<Body>> {
        let not_found = || plain(StatusCode::NOT_FOUND, "no repository is here: addresses end in NAME.git");
        let inside = path.strip_prefix(self.config.prefix.as_str()).ok_or_else(not_found)?;
        let (name, rest) = inside.split_once(".git/").ok_or_else(not_found)?;
        let rest = &inside[inside.len() - rest.len() - 1..];
        let service = match (method, rest, query) {
            (&Method::GET, "/info/refs", "service=git-upload-pack") => Service::Fetch,
            (&Method::GET, "/info/refs", "service=git-receive-pack") => Service::Push,
            (&Method::POST, "/git-upload-pack", _) => Service::Fetch,
            (&Method::POST, "/git-receive-pack", _) => Service::Push,
            (_, "/info/refs", _) => {
                return Err(plain(
                    StatusCode::FORBIDDEN,
                    "only the smart protocol is served: use git 1.6.6 or newer",
                ));
            }
            _ => return Err(not_found()),
        };
        Ok(Target { name, rest, service })
    }

    async fn repository(&self, target: &Target<'_>) -> Result<Repository, Response<Body>> {
        match self.config.repositories.get(target.name) {
            Err(GitError::NotFound(_)) if target.service == Service::Push && self.config.create_on_push => {
                match self.config.repositories.create(target.name).await {
                    // Somebody else was faster.
                    Err(GitError::Exists(_)) => self.config.repositories.get(target.name).map_err(refused),
                    made => made.map_err(refused),
                }
            }
            found => found.map_err(refused),
        }
    }

    /// Tells of pushes that a former run of the platform took and did not deal with.
    pub async fn recover(&self) {
        for name in self.config.repositories.names() {
            if let Ok(repository) = self.config.repositories.get(&name) {
                self.catch_up(&repository).await;
            }
        }
    }

    async fn catch_up(&self, repository: &Repository) {
        // Whoever pushes just now tells of everything.
        let Ok(_guard) = self.lock(repository.name()).try_lock_owned() else { return };
        let name = repository.name();
        let found = async { Ok::<_, GitError>((repository.told().await?, repository.references().await?)) };
        match found.await {
            Err(error) => tracing::error!(repository = name, %error, "cannot tell what was pushed"),
            Ok((before, after)) if before == after => {}
            Ok((before, after)) => {
                tracing::info!(repository = name, "a push was not dealt with when the platform stopped");
                let push = push_of(repository, "local", &before, &after);
                self.tell(repository, Push { again: true, ..push }, &after, Terminal::none()).await;
            }
        }
    }

    /// Tells of a push, and keeps that it was dealt with.
    async fn tell(
        &self,
        repository: &Repository,
        push: Push,
        after: &[(String, String)],
        terminal: Terminal,
    ) -> Option<Follow> {
        let follow = self.config.hook.pushed(push, terminal).await?;
        if let Err(error) = repository.set_told(after).await {
            tracing::error!(repository = repository.name(), %error, "a push will be told of again");
        }
        Some(follow)
    }

    fn lock(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pushes = self.pushes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pushes.entry(name.to_owned()).or_default())
    }
}

fn refused(error: GitError) -> Response<Body> {
    let status = match error {
        GitError::NotFound(_) => StatusCode::NOT_FOUND,
        GitError::Name(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    plain(status, error.to_string())
}

/// Who asks. Programs of this machine are trusted, unless a web page of elsewhere made the browser ask.
fn trusted(parts: &Parts) -> Option<String> {
    let local =
        parts.extensions.get::<PeerAddress>().is_none_or(|peer| peer.0.ip().to_canonical().is_loopback());
    let host = parts
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))
        .unwrap_or("localhost");
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let named_here =
        name == "localhost" || name.ends_with(".localhost") || name.parse::<std::net::IpAddr>().is_ok();
    (local && named_here && !parts.headers.contains_key(header::ORIGIN)).then(|| user_of(parts))
}

/// The name given with the request, which nobody has checked: on this machine it is a courtesy.
fn user_of(parts: &Parts) -> String {
    let header = parts.headers.get("x-wharf-user").and_then(|value| value.to_str().ok());
    let clean = |name: &str| {
        name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    header.filter(|name| clean(name)).unwrap_or("local").to_owned()
}

async fn feed(mut body: Body, mut stdin: ChildStdin, limit: u64) {
    let mut sent = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        sent += data.len() as u64;
        // Ending early makes git refuse the rest.
        if sent > limit.saturating_add(1 << 20) || stdin.write_all(&data).await.is_err() {
            return;
        }
    }
}

/// One request on its way through `git http-backend`.
struct Exchange {
    server: Arc<GitServer>,
    repository: Repository,
    /// All references before a push.
    before: Option<References>,
    user: String,
}

/// What a request keeps from others while git works on it.
struct Held {
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
    slot: Option<tokio::sync::OwnedSemaphorePermit>,
}

type Sender = mpsc::Sender<Bytes>;

impl Exchange {
    async fn run(self, mut child: Child, response: tokio::sync::oneshot::Sender<Response<Body>>, held: Held) {
        let said = child.stderr.take().map(|mut stderr| {
            tokio::spawn(async move {
                let mut text = Vec::new();
                // Whatever it says beyond is not worth keeping.
                let _ = (&mut stderr).take(8 << 10).read_to_end(&mut text).await;
                let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
                String::from_utf8_lossy(&text).trim().to_owned()
            })
        });
        let (sender, receiver) = mpsc::channel(64);
        let answer = self.pass(&mut child, response, &sender, receiver).await;
        let ended = child.wait().await;
        drop(held.slot);
        if let Some(said) = said.filter(|_| !ended.is_ok_and(|status| status.success()))
            && let Ok(said) = said.await
        {
            tracing::warn!(repository = self.repository.name(), %said, "git http-backend failed");
        }
        let Some(answer) = answer else { return };
        if let Some((before, after)) = self.changes().await {
            if let Err(error) = self.repository.keep(&before, &after).await {
                tracing::error!(%error, "a loss of power may take a push");
            }
            let terminal = Terminal { lines: answer.takes_text().then(|| sender.clone()) };
            let push = push_of(&self.repository, &self.user, &before, &after);
            let told = self.server.tell(&self.repository, push, &after, terminal.clone()).await;
            drop(held.guard);
            if let Some(follow) = told {
                show(follow, &terminal, &sender).await;
            }
        }
        let _ = sender.send(answer.end()).await;
    }

    /// Passes the program's answer on; gives what was held back of it.
    async fn pass(
        &self,
        child: &mut Child,
        response: tokio::sync::oneshot::Sender<Response<Body>>,
        sender: &Sender,
        receiver: mpsc::Receiver<Bytes>,
    ) -> Option<Answer> {
        let mut stdout = child.stdout.take()?;
        let (mut head, mut waiting) = (Head::default(), Some((response, receiver)));
        let mut answer = Answer::default();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = stdout.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return waiting.is_none().then_some(answer);
            }
            let mut bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if let Some((response, receiver)) = waiting.take() {
                match head.push(&bytes) {
                    Ok(None) => {
                        waiting = Some((response, receiver));
                        continue;
                    }
                    Ok(Some((builder, rest))) => {
                        bytes = rest;
                        let made = builder.body(body_of(receiver));
                        let bad = |_| plain(StatusCode::BAD_GATEWAY, "git http-backend gave no valid answer");
                        let _ = response.send(made.unwrap_or_else(bad));
                    }
                    Err(message) => {
                        let _ = response.send(plain(StatusCode::BAD_GATEWAY, message));
                        return None;
                    }
                }
            }
            let passed = match self.before {
                Some(_) => answer.push(&bytes),
                None => bytes.into(),
            };
            // A client that has left does not stop a push halfway.
            if !passed.is_empty() && sender.send(passed).await.is_err() && self.before.is_none() {
                return None;
            }
        }
    }

    /// All references as they were told of last and as they are now, when they differ.
    async fn changes(&self) -> Option<(References, References)> {
        let before = self.before.clone()?;
        let after = match self.repository.references().await {
            Ok(after) => after,
            Err(error) => {
                tracing::error!(repository = self.repository.name(), %error, "cannot tell what a push changed");
                return None;
            }
        };
        let branches: Vec<&str> = after
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| name.starts_with("refs/heads/"))
            .collect();
        if let Err(error) = self.repository.settle_head(&branches).await {
            tracing::warn!(repository = self.repository.name(), %error, "cannot choose the default branch");
        }
        (before != after).then_some((before, after))
    }
}

async fn show(mut follow: Follow, terminal: &Terminal, sender: &Sender) {
    let mut pulse = tokio::time::interval(KEEP_ALIVE);
    pulse.tick().await;
    loop {
        tokio::select! {
            () = &mut follow => return,
            _ = pulse.tick(), if terminal.is_open() => {
                let _ = sender.try_send(sideband::keep_alive());
            }
        }
    }
}

fn body_of(receiver: mpsc::Receiver<Bytes>) -> Body {
    wharf_http::stream(futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (io::Result::Ok(bytes), receiver))
    }))
}

fn push_of(
    repository: &Repository,
    pusher: &str,
    before: &[(String, String)],
    after: &[(String, String)],
) -> Push {
    let (repository, pusher) = (repository.name().to_owned(), pusher.to_owned());
    Push { repository, pusher, changes: differences(before, after), again: false }
}

fn differences(before: &[(String, String)], after: &[(String, String)]) -> Vec<RefChange> {
    let old: BTreeMap<&String, &String> = before.iter().map(|(name, object)| (name, object)).collect();
    let new: BTreeMap<&String, &String> = after.iter().map(|(name, object)| (name, object)).collect();
    let value =
        |map: &BTreeMap<&String, &String>, name| map.get(name).map_or(NO_COMMIT, |o| o.as_str()).to_owned();
    let names: std::collections::BTreeSet<&&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .map(|name| RefChange {
            reference: (*name).clone(),
            before: value(&old, name),
            after: value(&new, name),
        })
        .filter(|change| change.before != change.after)
        .collect()
}
