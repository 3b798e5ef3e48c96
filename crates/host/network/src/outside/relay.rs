//! The side that has the machine's network.

use std::{
    collections::HashMap,
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket, UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};

use super::{Answer, LINE, Request};
use crate::{
    PortMapping, Protocol,
    error::{Error, Result},
    rules::HostPort,
};

/// Connections that are carried at a time.
const CONNECTIONS: usize = 16_384;
/// Senders of datagrams one port has at a time, and how long one of them may be silent: as conntrack's for answered UDP.
const SENDERS: usize = 1024;
const SILENT: Duration = Duration::from_secs(120);
/// What is carried at once.
const BUFFER: usize = 64 << 10;
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
    held: Mutex<HashMap<String, Vec<Held>>>,
    room: Arc<Semaphore>,
}

/// A relay and the maker of its sockets, for two network namespaces.
pub fn inside_sockets() -> (OutsideRelay, InsideSockets) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let relay = OutsideRelay {
        sockets: Sockets(sender),
        held: Mutex::default(),
        room: Arc::new(Semaphore::new(CONNECTIONS)),
    };
    (relay, InsideSockets(receiver))
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
    task: AbortHandle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OutsideRelay {
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
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => match self.publish(&request.id, request.ports).await {
                Ok(()) => Answer::Done,
                Err(Error::PortTaken { port, by }) => Answer::Taken { port, by },
                Err(error) => Answer::Failed(error.to_string()),
            },
            Err(error) => Answer::Failed(format!("not a request for ports: {error}")),
        };
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        // Whoever asked may have gone.
        let _ = connection.write_all(&line).await;
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(&self, id: &str, ports: Vec<PortMapping>) -> Result<()> {
        let mut before = self.held().remove(id).unwrap_or_default();
        let mut new = Vec::new();
        let mut refused = Ok(());
        for mapping in ports.iter().filter(|mapping| !before.iter().any(|held| held.mapping == **mapping)) {
            match self.hold(mapping).await {
                Ok(held) => new.push(held),
                Err(error) => {
                    refused = Err(error);
                    break;
                }
            }
        }
        match &refused {
            Ok(()) => {
                before.retain(|held| ports.contains(&held.mapping));
                before.append(&mut new);
            }
            // What was held before stays; what is new is given back.
            Err(_) => new.clear(),
        }
        if !before.is_empty() {
            self.held().insert(id.to_owned(), before);
        }
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
                tokio::spawn(receive(Arc::new(socket), to, self.sockets.clone()))
            }
            Protocol::Sctp => {
                let why = format!("SCTP is not carried to containers of people who are not root: {port}");
                return Err(Error::Input(why));
            }
        };
        Ok(Held { mapping: mapping.clone(), task: task.abort_handle() })
    }
}

fn taken(port: HostPort, error: &io::Error) -> Error {
    let by = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            let first = first.as_deref().map_or("1024", str::trim);
            format!("the machine, which gives people who are not root ports from {first} on")
        }
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
    outer.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    tokio::io::copy_bidirectional_with_sizes(&mut outer, &mut inner, BUFFER, BUFFER).await.map(drop)
}

async fn receive(outer: Arc<UdpSocket>, to: SocketAddrV4, sockets: Sockets) {
    let mut senders: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        while let Some(silent) = answers.try_join_next() {
            if let Ok(sender) = silent {
                senders.remove(&sender);
            }
        }
        let Ok((length, sender)) = outer.recv_from(&mut buffer).await else {
            // What was sent before may have found nobody; the kernel tells it here.
            tokio::task::yield_now().await;
            continue;
        };
        let inner = match senders.get(&sender) {
            Some(inner) => Arc::clone(inner),
            None if senders.len() >= SENDERS => continue,
            None => {
                let Ok(inner) = connected(to, &sockets).await else { continue };
                senders.insert(sender, Arc::clone(&inner));
                answers.spawn(give_back(Arc::clone(&inner), Arc::clone(&outer), sender));
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

/// Carries answers to a sender until there are none for a while.
async fn give_back(inner: Arc<UdpSocket>, outer: Arc<UdpSocket>, sender: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; BUFFER];
    while let Ok(received) = tokio::time::timeout(SILENT, inner.recv(&mut buffer)).await {
        match received {
            Ok(length) => drop(outer.send_to(&buffer[..length], sender).await),
            // Nobody listens there, for now.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    sender
}
