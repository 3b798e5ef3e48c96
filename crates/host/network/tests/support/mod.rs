//! A host and pods, each in a network namespace of its own: nothing here touches the machine's network.

// Each test binary uses a part of it, and a panic is how a test fails.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    fs::File,
    future::Future,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nlink::netlink::namespace;
use wharf_network::{NetworkConfig, PodNetwork, Protocol, ServicePortRule};

const PATIENCE: Duration = Duration::from_secs(5);

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A network namespace that goes with its value.
pub struct Space {
    name: String,
}

impl Space {
    pub fn new() -> Self {
        let name = format!("wharf-test-{}-{}", std::process::id(), NAMES.fetch_add(1, Ordering::Relaxed));
        namespace::create(&name).expect("network namespaces need root");
        Self { name }
    }

    pub fn file(&self) -> File {
        File::open(PathBuf::from("/var/run/netns").join(&self.name)).unwrap()
    }

    /// Runs `work` on a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let _guard = namespace::enter(&self.name).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `serve` on a thread inside once `open` has run there; the thread ends with the test.
    pub fn serve<S: Send + 'static>(
        &self,
        open: impl FnOnce() -> S + Send,
        serve: impl FnOnce(S) + Send + 'static,
    ) {
        let socket = self.run(open);
        thread::spawn(move || serve(socket));
    }

    /// Answers every connection to `port` with `name`, then repeats what it gets.
    pub fn echo(&self, name: &str, address: SocketAddrV4) {
        let name = name.to_owned();
        self.serve(
            move || TcpListener::bind(address).unwrap(),
            move |listener| {
                for stream in listener.incoming().flatten() {
                    let name = name.clone();
                    thread::spawn(move || echo(stream, &name));
                }
            },
        );
    }

    /// Answers every connection to `port` over IPv6 with `name`.
    pub fn echo6(&self, name: &str, port: u16) {
        let name = name.to_owned();
        self.serve(
            move || TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port)).unwrap(),
            move |listener| {
                for stream in listener.incoming().flatten() {
                    echo(stream, &name);
                }
            },
        );
    }

    /// Answers each datagram with `name`.
    pub fn echo_udp(&self, name: &str, address: SocketAddrV4) {
        let name = name.to_owned();
        self.serve(
            move || UdpSocket::bind(address).unwrap(),
            move |socket| {
                let mut buffer = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            },
        );
    }

    /// Who answers at `to`.
    pub fn ask(&self, to: &str) -> io::Result<String> {
        self.run(|| ask(to))
    }

    pub fn connect(&self, to: &str) -> TcpStream {
        self.run(|| connect(to).unwrap())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = namespace::delete(&self.name);
    }
}

fn echo(mut stream: TcpStream, name: &str) {
    let _ = stream.write_all(format!("{name}\n").as_bytes());
    let mut buffer = [0; 64];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

fn connect(to: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

pub fn line(stream: &mut TcpStream) -> io::Result<String> {
    let mut text = String::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        match byte[0] {
            b'\n' => return Ok(text),
            other => text.push(other as char),
        }
    }
}

pub fn ask(to: &str) -> io::Result<String> {
    line(&mut connect(to)?)
}

/// A folder that goes with its value.
pub struct World {
    pub host: Space,
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn config(&self, instance: &str) -> NetworkConfig {
        NetworkConfig {
            instance: instance.to_owned(),
            data: self.folder.path().join(instance),
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/16".parse().unwrap(),
            outside: None,
        }
    }
}

/// Runs a test whose whole thread is in the host's namespace.
pub fn test<F: Future<Output = ()>>(body: impl FnOnce(World) -> F + Send) {
    let host = Space::new();
    let name = host.name.clone();
    let inside = move || {
        let _guard = namespace::enter(&name).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let route = nlink::Connection::<nlink::Route>::new().unwrap();
            route.set_link_up("lo").await.unwrap();
            body(World { host, folder: tempfile::tempdir().unwrap() }).await;
        });
    };
    thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// A pod on the network with a server on port 8080 that says its name.
pub async fn pod(network: &PodNetwork, name: &str) -> (Space, Ipv4Addr) {
    let space = Space::new();
    let address = network.attach(name, space.file()).await.unwrap();
    space.echo(name, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080));
    (space, address)
}

pub fn rule(name: &str, address: &str, backends: &[(Ipv4Addr, u32)]) -> ServicePortRule {
    ServicePortRule {
        name: format!("{name}/http"),
        cluster_ips: vec![address.parse().unwrap()],
        port: 80,
        protocol: Protocol::Tcp,
        node_port: None,
        external_ips: Vec::new(),
        session_affinity: None,
        backends: backends.iter().map(|(ip, weight)| (SocketAddrV4::new(*ip, 8080), *weight)).collect(),
    }
}

/// The rules as `nft` shows them; it must understand all of them.
pub fn ruleset() -> String {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The names of the links there are.
pub async fn links() -> Vec<String> {
    let route = nlink::Connection::<nlink::Route>::new().unwrap();
    let links = route.get_links().await.unwrap();
    links.iter().filter_map(|link| link.name().map(str::to_owned)).collect()
}
