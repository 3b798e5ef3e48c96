//! Real git over HTTP.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use tokio::sync::{mpsc, watch};
use wharf_gitserver::{Checkout, Config, Follow, GitServer, Push, PushHook, Repositories, Terminal};
use wharf_http::Listener;

struct Served {
    folder: tempfile::TempDir,
    url: String,
    repositories: Repositories,
    pushes: Arc<Mutex<Vec<Push>>>,
    server: Arc<GitServer>,
    _stop: watch::Sender<bool>,
}

/// Notes pushes, and shows lines that are sent to it at the terminal.
struct Hook {
    pushes: Arc<Mutex<Vec<Push>>>,
    lines: Arc<tokio::sync::Mutex<Option<mpsc::Receiver<String>>>>,
}

impl PushHook for Hook {
    fn pushed(&self, push: Push, terminal: Terminal) -> Pin<Box<dyn Future<Output = Option<Follow>> + Send>> {
        self.pushes.lock().unwrap().push(push);
        let lines = Arc::clone(&self.lines);
        let follow = async move {
            if let Some(mut lines) = lines.lock().await.take() {
                while let Some(line) = lines.recv().await {
                    terminal.line(&line).await;
                }
            }
        };
        Box::pin(async move { Some(Box::pin(follow) as Follow) })
    }
}

async fn serve(lines: Option<mpsc::Receiver<String>>, create_on_push: bool) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let repositories = Repositories::open(folder.path().join("git")).unwrap();
    let pushes = Arc::new(Mutex::new(Vec::new()));
    let server = GitServer::new(Config {
        repositories: repositories.clone(),
        prefix: "/git/".into(),
        create_on_push,
        max_push: 64 << 20,
        hook: Arc::new(Hook { pushes: Arc::clone(&pushes), lines: Arc::new(tokio::sync::Mutex::new(lines)) }),
    });
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let url = format!("http://{}/git", listener.address().unwrap());
    let (stop, stopping) = watch::channel(false);
    let answering = Arc::clone(&server);
    tokio::spawn(
        listener.serve(Arc::new(move |request| Box::pin(Arc::clone(&answering).handle(request))), stopping),
    );
    Served { folder, url, repositories, pushes, server, _stop: stop }
}

async fn git(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    command.current_dir(folder).args([
        "-c",
        "user.name=A",
        "-c",
        "user.email=a@x",
        "-c",
        "protocol.version=2",
    ]);
    command.args(arguments).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

async fn good(folder: &Path, arguments: &[&str]) -> String {
    let output = git(folder, arguments).await;
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "git {arguments:?}: {text}");
    text
}

async fn repository(folder: &Path) -> std::path::PathBuf {
    let work = folder.join("work");
    std::fs::create_dir(&work).unwrap();
    good(&work, &["init", "-q", "-b", "main"]).await;
    std::fs::create_dir(work.join("src")).unwrap();
    std::fs::write(work.join("src/a.txt"), "one\n").unwrap();
    good(&work, &["add", "."]).await;
    good(&work, &["commit", "-qm", "first\n\nmore"]).await;
    work
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_git_took_while_nobody_listened_is_told_once() {
    let served = serve(None, true).await;
    let work = repository(served.folder.path()).await;
    let url = format!("{}/shop.git", served.url);
    good(&work, &["push", &url, "main"]).await;
    assert!(!served.pushes.lock().unwrap().pop().unwrap().again);
    let aside = served.folder.path().join("git/shop.git");
    for found in ["by a new start", "by the next push"] {
        good(&work, &["commit", "-q", "--allow-empty", "-m", found]).await;
        good(&work, &["push", aside.to_str().unwrap(), "main"]).await;
        match found {
            "by a new start" => served.server.recover().await,
            _ => assert!(good(&work, &["push", &url, "main"]).await.contains("up-to-date")),
        }
        let told = std::mem::take(&mut *served.pushes.lock().unwrap());
        let sha = good(&work, &["rev-parse", "main"]).await;
        let [push] = told.as_slice() else { panic!("{found}: {told:?}") };
        assert!(push.again, "{found}");
        assert_eq!(push.changes[0].after, sha.trim(), "{found}");
    }
    served.server.recover().await;
    assert_eq!(*served.pushes.lock().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_clone_fetch_and_ask() {
    let served = serve(None, true).await;
    let work = repository(served.folder.path()).await;
    let url = format!("{}/shop.git", served.url);
    good(&work, &["push", &url, "main"]).await;
    let push = served.pushes.lock().unwrap().pop().unwrap();
    assert_eq!((push.repository.as_str(), push.changes.len()), ("shop", 1));
    let first = push.changes[0].clone();
    assert_eq!(
        (first.reference.as_str(), first.before.as_str()),
        ("refs/heads/main", "0".repeat(40).as_str())
    );

    // A large file makes git send the request in chunks.
    let noise: Vec<u8> = (0u32..3 << 19).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(work.join("noise"), noise).unwrap();
    std::fs::write(work.join("src/b.txt"), "two\n").unwrap();
    good(&work, &["add", "."]).await;
    good(&work, &["commit", "-qm", "second"]).await;
    good(&work, &["tag", "v1"]).await;
    good(&work, &["push", &url, "main", "v1"]).await;
    let push = served.pushes.lock().unwrap().pop().unwrap();
    let references: Vec<&str> = push.changes.iter().map(|change| change.reference.as_str()).collect();
    assert_eq!(references, ["refs/heads/main", "refs/tags/v1"]);
    assert_eq!(push.changes[0].before, first.after);
    good(&work, &["push", &url, "main"]).await;
    assert!(served.pushes.lock().unwrap().is_empty(), "nothing changed");

    good(served.folder.path(), &["clone", "-q", &url, "copy"]).await;
    assert_eq!(std::fs::read_to_string(served.folder.path().join("copy/src/b.txt")).unwrap(), "two\n");
    good(&served.folder.path().join("copy"), &["fetch", "-q", "--depth=1", "origin"]).await;

    let repository = served.repositories.get("shop").unwrap();
    let sha = repository.resolve("main").await.unwrap().unwrap();
    assert_eq!(sha, push.changes[0].after);
    assert_eq!(repository.resolve("--help").await.unwrap(), None);
    assert_eq!(repository.list(&sha, "src").await.unwrap(), ["a.txt", "b.txt"]);
    assert_eq!(repository.list(&sha, "nothing").await.unwrap(), [""; 0]);
    assert_eq!(repository.read_file(&sha, "src/a.txt").await.unwrap().unwrap(), b"one\n");
    assert_eq!(repository.read_file(&sha, "src/c.txt").await.unwrap(), None);
    assert_eq!(repository.changed(&first.after, &sha, &[]).await.unwrap(), ["noise", "src/b.txt"]);
    // A new reference others have all commits of: its own commit.
    assert_eq!(
        repository.changed(&first.before, &sha, &["refs/tags/v1"]).await.unwrap(),
        ["noise", "src/b.txt"]
    );
    assert_eq!(repository.changed(&first.before, &first.after, &[]).await.unwrap(), ["src/a.txt"]);
    for name in ["c", "d"] {
        std::fs::write(work.join("src").join(name), name).unwrap();
        good(&work, &["add", "."]).await;
        good(&work, &["commit", "-qm", name]).await;
    }
    good(&work, &["push", &url, "HEAD:topic"]).await;
    let push = served.pushes.lock().unwrap().pop().unwrap();
    let topic = &push.changes[0];
    let changed = repository.changed(&topic.before, &topic.after, &[&topic.reference]).await.unwrap();
    assert_eq!(changed, ["src/c", "src/d"], "both commits nobody had");
    let commit = repository.commit(&first.after).await.unwrap();
    assert_eq!((commit.author.as_str(), commit.message.as_str()), ("A", "first\n\nmore"));
    let copy = served.folder.path().join("checkout");
    let what = Checkout { sha, reference: "refs/heads/main".into(), depth: 1 };
    repository.checkout(&what, &copy).await.unwrap();
    assert!(good(&copy, &["log", "--oneline", "-5"]).await.lines().count() == 1);
    assert_eq!(good(&copy, &["status", "-sb"]).await.trim(), "## main");

    served.repositories.remove("shop").unwrap();
    assert_eq!(served.repositories.names(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_reach_the_terminal_before_the_push_ends() {
    let (sender, receiver) = mpsc::channel(1);
    let served = serve(Some(receiver), true).await;
    let work = repository(served.folder.path()).await;
    let url = format!("{}/shop.git", served.url);
    let mut push = tokio::process::Command::new("git")
        .current_dir(&work)
        .args(["push", &url, "main"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = tokio::io::BufReader::new(push.stderr.take().unwrap());
    let mut seen = String::new();
    for number in 0..3 {
        sender.send(format!("line {number} \x07{}\nmore", "x".repeat(1500))).await.unwrap();
        // The next line is sent only when this one has been shown.
        let wanted = format!("line {number}");
        let read = async {
            while !seen.contains(&wanted) {
                let mut byte = [0];
                tokio::io::AsyncReadExt::read_exact(&mut stderr, &mut byte).await.unwrap();
                seen.push(byte[0] as char);
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), read).await.expect("the line is shown");
        assert!(push.try_wait().unwrap().is_none(), "the push has not ended");
    }
    drop(sender);
    assert!(push.wait().await.unwrap().success());
    assert!(
        seen.contains("remote: line 0") && seen.contains("remote: more") && !seen.contains('\x07'),
        "{seen}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused() {
    let served = serve(None, false).await;
    let work = repository(served.folder.path()).await;
    let refused = async |url: String| {
        let output = git(&work, &["push", &url, "main"]).await;
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(format!("{}/shop.git", served.url)).await.contains("not found"));
    assert!(refused(format!("{}/..%2fshop.git", served.url)).await.contains("400"));
    assert!(refused(format!("{}/Shop.git", served.url)).await.contains("400"));
    let address = served.url.trim_start_matches("http://").trim_end_matches("/git").to_owned();
    let status = async |request: &str| {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[9..]).into_owned()
    };
    let get = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    served.repositories.create("shop").await.unwrap();
    let refs = "/git/shop.git/info/refs?service=git-upload-pack";
    assert_eq!(status(&get(refs, "localhost:80")).await, "200");
    assert_eq!(status(&get(refs, "[::1]:80")).await, "200");
    assert_eq!(status(&get(refs, "evil.example")).await, "403");
    assert_eq!(status(&get("/git/shop.git/info/refs", "localhost")).await, "403");
    assert_eq!(status(&get("/git/shop.git/config", "localhost")).await, "404");
    assert_eq!(status(&get("/git/../shop.git/HEAD", "localhost")).await, "404");
}
