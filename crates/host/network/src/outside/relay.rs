//! The side that has the machine's network.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket, UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use super::{Answer, LINE, Request};
use crate::{
    PortMapping, Protocol,
    error::{Error, Result},
    rules::HostPort,
    saved::at,
};

/// Senders of datagrams one port has at a time.
const SENDERS: usize = 1024;
/// How long one of them may be silent: as conntrack's for UDP, after one answer and after several.
const ASKED: Duration = Duration::from_secs(30);
const SILENT: Duration = Duration::from_secs(120);
/// The largest datagram.
const BUFFER: usize = 64 << 10;
/// What is carried of a stream at once.
const STREAM: usize = 16 << 10;
/// Descriptors that are left for ports, requests and what else there is.
const SPARE: u64 = 128;
/// After an accept that failed, as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

enum Wish {
    Tcp(oneshot::Sender<io::Result<TcpSocket>>),
    Udp(oneshot::Sender<io::Result<std::net::UdpSocket>>),
}

/// Sockets of another network namespace.
#[derive(Clone)]
struct Sockets(mpsc::UnboundedSender<Wish>);

/// Makes sockets on the thread it runs on.
pub struct InsideSockets(mpsc::UnboundedReceiver<Wish>);

/// Holds ports of the network of the threads it runs on, and carries what comes in through sockets of another.
pub struct OutsideRelay {
    sockets: Sockets,
    held: Mutex<HashMap<String, Holding>>,
    /// Tells those who held under one name one after another.
    turns: AtomicU64,
    room: Arc<Semaphore>,
    /// Where stands what is held, for a relay that takes the place of this one when it is killed.
    saved: Option<PathBuf>,
}

/// What somebody has.
#[derive(Default)]
struct Holding {
    turn: u64,
    leased: bool,
    ports: Vec<Held>,
}

/// A relay and the maker of its sockets, for two network namespaces.
pub fn inside_sockets() -> (OutsideRelay, InsideSockets) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let relay = OutsideRelay {
        sockets: Sockets(sender),
        held: Mutex::default(),
        turns: AtomicU64::default(),
        room: Arc::new(Semaphore::new(room())),
        saved: None,
    };
    (relay, InsideSockets(receiver))
}

/// How many connections and senders of datagrams are carried at a time: a stream has two sockets, a sender one.
fn room() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // As many as may be. Where that is refused it stays as it is.
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum },
    );
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let left = now.unwrap_or(1 << 16).min(1 << 16).saturating_sub(SPARE);
    usize::try_from(left / 2).unwrap_or(1).max(1)
}

impl InsideSockets {
    /// Makes sockets for as long as the relay lives.
    pub fn run(mut self) {
        while let Some(wish) = self.0.blocking_recv() {
            // Whoever asked may have gone.
            match wish {
                Wish::Tcp(to) => drop(to.send(TcpSocket::new_v4())),
                Wish::Udp(to) => {
                    let made = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
                    drop(to.send(made.and_then(|socket| socket.set_nonblocking(true).map(|()| socket))));
                }
            }
        }
    }
}

impl Sockets {
    async fn ask<T>(&self, wish: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Wish) -> io::Result<T> {
        let gone = || io::Error::other("nobody makes sockets any more");
        let (to, made) = oneshot::channel();
        self.0.send(wish(to)).map_err(|_| gone())?;
        made.await.map_err(|_| gone())?
    }
}

/// A port that is held; given back when this is dropped.
struct Held {
    mapping: PortMapping,
    task: JoinHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Held {
    /// Returns once others can have the port.
    async fn give_back(mut self) {
        self.task.abort();
        // Ended by that.
        let _ = (&mut self.task).await;
    }
}

impl OutsideRelay {
    /// Has it write down what it holds, but for leases, which whoever has them sees end.
    #[must_use]
    pub fn saved_at(mut self, path: PathBuf) -> Self {
        self.saved = Some(path);
        self
    }

    /// Holds what a relay before it has written down. Gives what it cannot have any more.
    ///
    /// # Errors
    /// When what was written down cannot be read.
    pub async fn restore(&self) -> Result<Vec<String>> {
        let Some(path) = &self.saved else { return Ok(Vec::new()) };
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(at(path))?,
        };
        let saved: BTreeMap<String, Vec<PortMapping>> =
            serde_json::from_slice(&text).map_err(|error| at(path)(error.into()))?;
        let mut lost = Vec::new();
        for (id, ports) in saved {
            let mut had = Vec::new();
            for mapping in ports {
                match self.hold(&mapping).await {
                    Ok(port) => had.push(port),
                    Err(error) => lost.push(error.to_string()),
                }
            }
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            self.held().insert(id, Holding { turn, leased: false, ports: had });
        }
        Ok(lost)
    }

    /// Writes down what it holds.
    fn save(&self) {
        let Some(path) = &self.saved else { return };
        let held = self.held();
        let lasting = held.iter().filter(|(_, holding)| !holding.leased);
        let all: BTreeMap<&String, Vec<&PortMapping>> = lasting
            .map(|(id, holding)| (id, holding.ports.iter().map(|port| &port.mapping).collect()))
            .collect();
        let new = path.with_extension("new");
        let text = serde_json::to_vec(&all).unwrap_or_default();
        // Where that fails, the next relay knows fewer ports: nothing is wrong with those of this one.
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    }

    /// Answers requests that come to `listener`.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub async fn serve(self, listener: std::os::unix::net::UnixListener) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let relay = Arc::new(self);
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    let relay = Arc::clone(&relay);
                    tokio::spawn(async move { relay.answer(connection).await });
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn answer(&self, mut connection: UnixStream) {
        let mut line = Vec::new();
        let mut reader = BufReader::new((&mut connection).take(LINE));
        if reader.read_until(b'\n', &mut line).await.is_err() {
            return;
        }
        let mut lease = None;
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => match self.publish(&request.id, &request.ports, request.leased).await {
                Ok(turn) => {
                    lease = request.leased.then_some((request.id, turn));
                    Answer::Done
                }
                Err(Error::PortTaken { port, by }) => Answer::Taken { port, by },
                Err(error) => Answer::Failed(error.to_string()),
            },
            Err(error) => Answer::Failed(format!("not a request for ports: {error}")),
        };
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        // Whoever asked may have gone.
        let _ = connection.write_all(&line).await;
        let Some((id, turn)) = lease else { return };
        // Nothing more is said: this is the end, however it comes.
        let _ = connection.read(&mut [0]).await;
        let mut held = self.held();
        if held.get(&id).is_some_and(|holding| holding.turn == turn) {
            held.remove(&id);
        }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<String, Holding>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the turn of who holds them now.
    async fn publish(&self, id: &str, ports: &[PortMapping], leased: bool) -> Result<u64> {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let before = self.held().remove(id).unwrap_or_default();
        let (mut held, old): (Vec<_>, Vec<_>) =
            before.ports.into_iter().partition(|held| ports.contains(&held.mapping));
        // First: a port may lead elsewhere, or be of fewer addresses, from now on.
        let mut gone = Vec::new();
        for port in old {
            gone.push(port.mapping.clone());
            port.give_back().await;
        }
        let kept = held.len();
        let mut refused = Ok(turn);
        for mapping in ports {
            if held.iter().any(|held| held.mapping == *mapping) {
                continue;
            }
            match self.hold(mapping).await {
                Ok(port) => held.push(port),
                Err(error) => {
                    refused = Err(error);
                    break;
                }
            }
        }
        if refused.is_err() {
            // All is as it was before.
            for port in held.split_off(kept) {
                port.give_back().await;
            }
            for mapping in gone {
                // Somebody else may have been as quick.
                held.extend(self.hold(&mapping).await);
            }
        }
        if !held.is_empty() {
            // Who is refused has what they had, as they had it.
            let (turn, leased) = match refused {
                Ok(turn) => (turn, leased),
                Err(_) => (before.turn, before.leased),
            };
            self.held().insert(id.to_owned(), Holding { turn, leased, ports: held });
        }
        self.save();
        refused
    }

    async fn hold(&self, mapping: &PortMapping) -> Result<Held> {
        let (port, to) = mapping.rule();
        let address = SocketAddrV4::new(port.address.unwrap_or(Ipv4Addr::UNSPECIFIED), port.port);
        let task = match port.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(address).await.map_err(|error| taken(port, &error))?;
                let (sockets, room) = (self.sockets.clone(), Arc::clone(&self.room));
                tokio::spawn(accept(listener, to, sockets, room))
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(address).await.map_err(|error| taken(port, &error))?;
                let room = Arc::clone(&self.room);
                tokio::spawn(receive(Arc::new(socket), to, self.sockets.clone(), room))
            }
            Protocol::Sctp => {
                let why = format!("SCTP is not carried to containers of people who are not root: {port}");
                return Err(Error::Input(why));
            }
        };
        Ok(Held { mapping: mapping.clone(), task })
    }
}

fn taken(port: HostPort, error: &io::Error) -> Error {
    let by = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            let first = first.as_deref().map_or("1024", str::trim);
            format!("the machine, which gives people who are not root ports from {first} on")
        }
        io::ErrorKind::AddrNotAvailable => "nobody, for the machine does not have this address".to_owned(),
        _ => format!("a program of the host ({error})"),
    };
    Error::PortTaken { port: port.to_string(), by }
}

async fn accept(listener: TcpListener, to: SocketAddrV4, sockets: Sockets, room: Arc<Semaphore>) {
    // Ends with the port.
    let mut carried = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((outer, _)) => {
                let sockets = sockets.clone();
                carried.spawn(async move {
                    // An end of either side, or nobody there: both are closed.
                    let _ = carry(outer, to, &sockets).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        while carried.try_join_next().is_some() {}
    }
}

async fn carry(mut outer: TcpStream, to: SocketAddrV4, sockets: &Sockets) -> io::Result<()> {
    let mut inner = sockets.ask(Wish::Tcp).await?.connect(SocketAddr::V4(to)).await?;
    for side in [&outer, &inner] {
        side.set_nodelay(true)?;
        // Somebody who has vanished is not waited for.
        sockopt::set_socket_keepalive(side, true)?;
    }
    let carried = tokio::io::copy_bidirectional_with_sizes(&mut outer, &mut inner, STREAM, STREAM).await;
    if carried.is_err() {
        // What broke on one side must not look whole on the other.
        for side in [&outer, &inner] {
            sockopt::set_socket_linger(side, Some(Duration::ZERO))?;
        }
    }
    carried.map(drop)
}

async fn receive(outer: Arc<UdpSocket>, to: SocketAddrV4, sockets: Sockets, room: Arc<Semaphore>) {
    let mut senders: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let received = tokio::select! {
            biased;
            Some(silent) = answers.join_next() => {
                if let Ok(sender) = silent {
                    senders.remove(&sender);
                }
                continue;
            }
            received = outer.recv_from(&mut buffer) => received,
        };
        let Ok((length, sender)) = received else {
            // What was sent before may have found nobody; the kernel tells it here.
            tokio::task::yield_now().await;
            continue;
        };
        let inner = match senders.get(&sender) {
            Some(inner) => Arc::clone(inner),
            None if senders.len() >= SENDERS => continue,
            None => {
                let Ok(place) = Arc::clone(&room).try_acquire_owned() else { continue };
                let Ok(inner) = connected(to, &sockets).await else { continue };
                senders.insert(sender, Arc::clone(&inner));
                let (back, out) = (Arc::clone(&inner), Arc::clone(&outer));
                answers.spawn(async move {
                    let silent = give_back(back, out, sender).await;
                    drop(place);
                    silent
                });
                inner
            }
        };
        // Datagrams may be lost.
        let _ = inner.send(&buffer[..length]).await;
    }
}

async fn connected(to: SocketAddrV4, sockets: &Sockets) -> io::Result<Arc<UdpSocket>> {
    let socket = UdpSocket::from_std(sockets.ask(Wish::Udp).await?)?;
    socket.connect(to).await?;
    Ok(Arc::new(socket))
}

/// Carries answers to a sender until there are none for a while: a short one as long as there has been only one.
async fn give_back(inner: Arc<UdpSocket>, outer: Arc<UdpSocket>, sender: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; BUFFER];
    let mut answers = 0_u32;
    loop {
        let silent = if answers < 2 { ASKED } else { SILENT };
        let Ok(received) = tokio::time::timeout(silent, inner.recv(&mut buffer)).await else { break };
        match received {
            Ok(length) => {
                answers = answers.saturating_add(1);
                // Datagrams may be lost.
                drop(outer.send_to(&buffer[..length], sender).await);
            }
            // Nobody listens there, for now.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    sender
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outside::{lease, publish};

    /// A relay between two networks that are one. It ends with the test.
    fn relay(folder: &tempfile::TempDir) -> PathBuf {
        let socket = folder.path().join("ports.sock");
        let (relay, sockets) = inside_sockets();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(|| InsideSockets::run(sockets));
        tokio::spawn(relay.serve(listener));
        socket
    }

    /// A server of TCP and UDP that sends back what it gets, after its name.
    async fn server(name: &'static str) -> u16 {
        let (listener, datagrams) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(datagrams) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, datagrams);
            }
        };
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut text = name.as_bytes().to_vec();
                connection.read_to_end(&mut text).await.unwrap();
                connection.write_all(&text).await.unwrap();
            }
        });
        tokio::spawn(async move {
            let mut buffer = [0; 100];
            while let Ok((length, sender)) = datagrams.recv_from(&mut buffer).await {
                let text = [name.as_bytes(), &buffer[..length]].concat();
                datagrams.send_to(&text, sender).await.unwrap();
            }
        });
        port
    }

    fn mapping(host_ip: Option<Ipv4Addr>, host_port: u16, to: u16, protocol: Protocol) -> PortMapping {
        PortMapping {
            host_ip,
            host_port,
            container_ip: Ipv4Addr::LOCALHOST,
            container_ip6: None,
            container_port: to,
            protocol,
        }
    }

    async fn free() -> u16 {
        TcpListener::bind("0.0.0.0:0").await.unwrap().local_addr().unwrap().port()
    }

    async fn ask(port: u16) -> io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
        connection.write_all(b" hears").await?;
        connection.shutdown().await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn streams_and_datagrams_are_carried_and_ports_move() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, port) = (relay(&folder), free().await);
        let (first, second) = (server("first").await, server("second").await);
        let both = |to| [mapping(None, port, to, Protocol::Tcp), mapping(None, port, to, Protocol::Udp)];
        publish(&socket, "a", &both(first)).await.unwrap();
        assert_eq!(ask(port).await.unwrap(), "first hears");
        for _ in 0..2 {
            // Each sender has its own answers.
            let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            sender.send_to(b" hears", ("127.0.0.1", port)).await.unwrap();
            let mut buffer = [0; 100];
            let length = sender.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"first hears");
        }
        // To another server, then to one address only, which the machine has already given for all.
        publish(&socket, "a", &both(second)).await.unwrap();
        assert_eq!(ask(port).await.unwrap(), "second hears");
        let local = [mapping(Some(Ipv4Addr::LOCALHOST), port, first, Protocol::Tcp)];
        publish(&socket, "a", &local).await.unwrap();
        assert_eq!(ask(port).await.unwrap(), "first hears");
        publish(&socket, "a", &[]).await.unwrap();
        assert!(ask(port).await.is_err());
    }

    #[tokio::test]
    async fn what_is_refused_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, port, next) = (relay(&folder), free().await, free().await);
        let (first, second) = (server("first").await, server("second").await);
        let tcp = |port, to| mapping(None, port, to, Protocol::Tcp);
        publish(&socket, "a", &[tcp(port, first)]).await.unwrap();
        let refused = publish(&socket, "b", &[tcp(next, second), tcp(port, second)]).await.unwrap_err();
        assert!(matches!(&refused, Error::PortTaken { .. }), "{refused}");
        assert!(ask(next).await.is_err());
        // One port is moved, the other is somebody's.
        let taken = TcpListener::bind("0.0.0.0:0").await.unwrap().local_addr().unwrap().port();
        let holder = TcpListener::bind(("0.0.0.0", taken)).await.unwrap();
        publish(&socket, "a", &[tcp(port, second), tcp(taken, second)]).await.unwrap_err();
        assert_eq!(ask(port).await.unwrap(), "first hears");
        drop(holder);
        publish(&socket, "a", &[tcp(port, second), tcp(taken, second)]).await.unwrap();
        assert_eq!(ask(taken).await.unwrap(), "second hears");
    }

    #[tokio::test]
    async fn the_next_relay_holds_what_one_that_was_killed_has() {
        let folder = tempfile::tempdir().unwrap();
        let (port, next) = (free().await, free().await);
        let relay = || {
            let (relay, sockets) = inside_sockets();
            std::thread::spawn(|| InsideSockets::run(sockets));
            relay.saved_at(folder.path().join("ports.json"))
        };
        let server = server("first").await;
        let first = relay();
        let ports = [port, next].map(|port| mapping(None, port, server, Protocol::Tcp));
        first.publish("a", &ports, false).await.unwrap();
        first.publish("b", &[mapping(None, free().await, server, Protocol::Tcp)], true).await.unwrap();
        for (_, holding) in first.held().drain() {
            drop(holding);
        }
        drop(first);
        let other = loop {
            // Given back by a task.
            match TcpListener::bind(("0.0.0.0", next)).await {
                Ok(other) => break other,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let second = relay();
        let lost = second.restore().await.unwrap();
        assert!(lost.len() == 1 && lost[0].contains(&next.to_string()), "{lost:?}");
        assert_eq!(ask(port).await.unwrap(), "first hears");
        assert_eq!(second.held().keys().collect::<Vec<_>>(), ["a"]);
        drop(other);
        assert_eq!(relay().restore().await.unwrap().len(), 1);
        fs::write(folder.path().join("ports.json"), "{").unwrap();
        assert!(relay().restore().await.is_err());
    }

    #[tokio::test]
    async fn a_lease_ends_with_who_has_it_and_not_with_who_had_it() {
        let folder = tempfile::tempdir().unwrap();
        let socket = relay(&folder);
        // The relay has the machine's side of one network: another address of it.
        let inner = server("inner").await;
        let outer = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), inner);
        let first = lease(&socket, "platform", &[outer]).await.unwrap();
        let held = || async { TcpListener::bind(outer).await.is_err() };
        assert!(held().await);
        let second = lease(&socket, "platform", &[outer]).await.unwrap();
        drop(first);
        publish(&socket, "other", &[]).await.unwrap();
        assert!(held().await);
        drop(second);
        tokio::time::timeout(Duration::from_secs(10), async {
            while held().await {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}
