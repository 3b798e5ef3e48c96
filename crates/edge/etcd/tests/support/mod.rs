//! An etcd of a test's own, and a way to it that can be cut.

// Each test binary uses a part of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::copy_bidirectional,
    net::TcpStream,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use wharf_etcd::{Config, Etcd};

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running etcd; it goes with this value.
pub(crate) struct Server {
    folder: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    options: Vec<String>,
    child: Option<Child>,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One with more options.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        let mut server = Self {
            folder: TempDir::new().unwrap(),
            client: free_address(),
            peer: free_address(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            child: None,
        };
        server.restart();
        while !server.came_up() {
            // Somebody else has taken an address since it was found free.
            (server.client, server.peer) = (free_address(), free_address());
            server.restart();
        }
        server
    }

    /// Waits until it listens; not so when it ended.
    fn came_up(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.client).is_err() {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Who answers may be somebody else.
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.client
    }

    /// How a store finds it; `name` keeps stores apart.
    pub(crate) fn config(&self, name: &str) -> Config {
        format!("etcd://{}/{name}", self.client).parse().unwrap()
    }

    pub(crate) fn restart(&mut self) {
        let program = std::env::var_os("WHARF_ETCD").map_or_else(|| PathBuf::from("etcd"), PathBuf::from);
        let scheme = if self.options.iter().any(|o| o.starts_with("--cert-file")) { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://{}", self.client), format!("http://{}", self.peer));
        let mut command = Command::new(&program);
        command.args(["--data-dir", self.folder.path().join("data").to_str().unwrap()]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"]);
        command.args(&self.options).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("these tests need etcd (Debian's etcd-server) in PATH, or named by WHARF_ETCD: {error}")
        });
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until it answers.
pub(crate) fn ready(server: &Server) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { drop(open(&server.config("probe")).await) });
}

/// A store on it, once it answers.
pub(crate) async fn open(config: &Config) -> Arc<Etcd> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Etcd::open(config).await {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < deadline, "etcd does not answer: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A way to a server that can be cut, and opened again.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Way {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, cut) = watch::channel(true);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((mut from, _)) = listener.accept().await else { return };
                let mut cut = cut.clone();
                connections.spawn(async move {
                    if !*cut.borrow() {
                        return;
                    }
                    let Ok(mut to) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = cut.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { address, open, task }
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}
