//! Servers of a test's own: files over HTTP, and git repositories.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use wharf_base::Hinted;
use wharf_build::{FetchRequest, FetchResponse};

/// Path, status and the authorization given.
pub(crate) type Asked = (String, u16, Option<String>);

/// Files by path, with a tag by their content, and what was asked for.
pub(crate) struct WebServer {
    pub(crate) address: String,
    pub(crate) files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl WebServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { address, files: Arc::default(), asked: Arc::default() };
        let (files, asked) = (server.files.clone(), server.asked.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                serve(client, &files.lock().unwrap(), &mut asked.lock().unwrap());
            }
        });
        server
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) {
        self.files.lock().unwrap().insert(path.into(), content.to_vec());
    }

    /// Statuses of what was asked since the last time.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.asked.lock().unwrap().drain(..).map(|(_, status, _)| status).collect()
    }
}

fn serve(client: TcpStream, files: &BTreeMap<String, Vec<u8>>, asked: &mut Vec<Asked>) {
    let mut lines = BufReader::new(&client).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": ").map(|(n, v)| (n.to_ascii_lowercase(), v.to_owned())))
        .collect();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let content = files.get(path.split('?').next().unwrap());
    let tag = content.map(|bytes| format!("\"{}\"", wharf_base::Digest::of(bytes).short()));
    let status = match (&tag, headers.get("if-none-match")) {
        (None, _) => 404,
        (Some(tag), Some(known)) if known == tag => 304,
        _ => 200,
    };
    asked.push((path, status, headers.get("authorization").cloned()));
    let body = content.filter(|_| status == 200).map(Vec::as_slice).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\netag: {}\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
         connection: close\r\n\r\n",
        body.len(),
        tag.unwrap_or_default()
    );
    let _ = (&client).write_all(head.as_bytes()).and_then(|()| (&client).write_all(body));
}

/// A client just good enough for [`WebServer`].
pub(crate) fn fetch(request: &FetchRequest) -> Result<FetchResponse, Hinted> {
    let failed = |error: std::io::Error| Hinted::new(error, "start it");
    let rest = request.url.strip_prefix("http://").ok_or_else(|| Hinted::new("only http", "use http"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(host).map_err(failed)?;
    let headers: String = request.headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    write!(stream, "GET /{path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n").map_err(failed)?;
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).map_err(failed)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let status = head[0].split(' ').nth(1).unwrap().parse().unwrap();
    let headers: BTreeMap<_, _> =
        head.iter().filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.into(), v.into())).collect();
    let size: u64 = headers.get("content-length").map_or(0, |size: &String| size.parse().unwrap());
    Ok(FetchResponse { status, headers, body: Box::new(reader.take(size)) })
}

/// `git daemon` over a folder of repositories.
pub(crate) struct GitServer {
    pub(crate) address: String,
    child: Child,
}

impl GitServer {
    pub(crate) fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={}", folder.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "git daemon does not listen");
            std::thread::yield_now();
        }
        Self { address: format!("git://127.0.0.1:{port}"), child }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        // The daemon's children end with their connections; the daemon itself is asked to end.
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Runs git in a repository.
pub(crate) fn git(folder: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", "-C"])
        .arg(folder)
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
