//! Cluster DNS: the names of Services and pods, and those of others by forwarding.

mod forward;
mod zone;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use wharf_client::Client;

pub use forward::Forwarding;
pub use zone::Zone;

use crate::{
    Ipv4Net,
    error::{Error, Result},
    services::Watch,
};
use forward::{Forwarder, UDP_PAYLOAD};

/// The largest query taken.
const MAX_QUERY: usize = 4096;
const MAX_CONNECTIONS: usize = 256;
/// Queries that wait for others at a time.
const MAX_WAITING: usize = 1024;
/// An idle connection is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Seconds for which an answer only some get is good: containers come and go.
const PRIVATE_TTL: u32 = 1;
/// Names an answer may lead through.
const MAX_ALIASES: usize = 8;

/// What the DNS server needs to know.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Where it listens, over UDP and TCP: the pod network's gateway, port 53.
    pub address: SocketAddrV4,
    /// The cluster's domain: `cluster.local`.
    pub domain: String,
    /// The addresses whose reverse names are the cluster's: pods and services.
    pub networks: Vec<Ipv4Net>,
    /// The address pods know the server by; never asked.
    pub service_address: Ipv4Addr,
    /// Who knows other names.
    pub forwarding: Forwarding,
    /// Names that only some know: containers of one network know each other.
    pub private: Option<Private>,
}

/// What names are to those who ask. May wait for the disk.
#[derive(Clone)]
pub struct Private(pub Arc<LookUp>);

/// Gives what a name is to whoever asks from an address.
pub type LookUp = dyn Fn(Ipv4Addr, &str) -> Known + Send + Sync;

/// What a name is to whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Its addresses; none of a name it does not know.
    pub addresses: Vec<Ipv4Addr>,
    /// Its addresses of IPv6.
    pub ipv6: Vec<Ipv6Addr>,
    /// Nothing leads out of where it is: names of the world are not looked up for it.
    pub alone: bool,
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Private")
    }
}

/// Serves until it is dropped.
pub struct DnsServer {
    address: SocketAddrV4,
    _tasks: JoinSet<()>,
}

struct Server {
    zone: Arc<RwLock<Zone>>,
    forwarder: Forwarder,
    private: Option<Private>,
    waiting: Arc<Semaphore>,
}

impl DnsServer {
    /// Starts to serve the Services an API server knows. Names are there once the API answered.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(client: Client, config: DnsConfig) -> Result<Self> {
        let zone = Arc::new(RwLock::new(Zone::new(&config.domain, config.networks.clone())?));
        let mut server = Self::serve(config, Arc::clone(&zone)).await?;
        server._tasks.spawn(follow(client, zone));
        Ok(server)
    }

    /// Starts to serve a zone that somebody else fills.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn serve(config: DnsConfig, zone: Arc<RwLock<Zone>>) -> Result<Self> {
        let listen = |source| Error::Listen { address: config.address, source };
        let tcp = TcpListener::bind(config.address).await.map_err(listen)?;
        let address = match tcp.local_addr().map_err(listen)? {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => config.address,
        };
        let udp = UdpSocket::bind(address).await.map_err(listen)?;
        let own = vec![IpAddr::V4(*config.address.ip()), IpAddr::V4(config.service_address)];
        let forwarder = Forwarder::new(config.forwarding, own);
        let (private, waiting) = (config.private, Arc::new(Semaphore::new(MAX_WAITING)));
        let server = Arc::new(Server { zone, forwarder, private, waiting });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&server).datagrams(Arc::new(udp)));
        tasks.spawn(server.connections(tcp));
        Ok(Self { address, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

/// Keeps the zone as the API has it.
async fn follow(client: Client, zone: Arc<RwLock<Zone>>) {
    let mut watch = Watch::start(client);
    loop {
        for key in watch.next().await {
            let (service, slices) = (watch.service(&key), watch.slices(&key));
            zone.write().unwrap_or_else(PoisonError::into_inner).set(&key, service.as_ref(), &slices);
        }
    }
}

impl Server {
    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = [0; MAX_QUERY];
        loop {
            let (size, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier answer; the socket is as good as before.
                Err(error) => {
                    tracing::debug!(%error, "DNS datagram");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            let Some(request) = buffer.get(..size).and_then(Request::read) else { continue };
            // Without a place the client's own repetition is the queue.
            let Ok(place) = Arc::clone(&self.waiting).try_acquire_owned() else { continue };
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                let limit = request.limit;
                let answer = server.respond(request, from.ip()).await;
                if let Some(bytes) = encode(&answer, limit) {
                    let _ = socket.send_to(&bytes, from).await; // the client is gone: nothing to do
                }
                drop(place);
            });
        }
    }

    async fn connections(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        // A connection that breaks or idles just ends.
                        let _ = server.connection(stream, peer.ip()).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "DNS connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream, peer: IpAddr) -> io::Result<()> {
        loop {
            let length = usize::from(timeout(IDLE, stream.read_u16()).await??);
            if length > MAX_QUERY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut bytes = vec![0; length];
            timeout(IDLE, stream.read_exact(&mut bytes)).await??;
            let Some(request) = Request::read(&bytes) else { return Err(io::ErrorKind::InvalidData.into()) };
            let Some(answer) = encode(&self.respond(request, peer).await, u16::MAX) else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes();
            timeout(IDLE, stream.write_all(&[&length, answer.as_slice()].concat())).await??;
        }
    }

    async fn respond(&self, request: Request, peer: IpAddr) -> Message {
        let mut response = request.response;
        let Some(query) = request.query else { return response };
        let known = self.known(&query, peer).await;
        if !known.addresses.is_empty() {
            response.answers = private(&query, &known);
            return response;
        }
        let mut query = query;
        for _ in 0..MAX_ALIASES {
            let local = {
                let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
                zone.answer(query.name(), query.query_type())
            };
            let Some(answer) = local else {
                response.metadata.authoritative = false;
                match known.alone {
                    true => response.metadata.response_code = ResponseCode::ServFail,
                    false => self.add_foreign(&mut response, &query).await,
                }
                return response;
            };
            response.metadata.authoritative = true;
            response.metadata.response_code = answer.code;
            response.answers.extend(answer.answers);
            response.authorities.extend(answer.authorities);
            response.additionals.extend(answer.additionals);
            match answer.alias {
                Some(alias) => query.set_name(alias),
                None => return response,
            };
        }
        response
    }

    /// What a name is to whoever asks, where not all know it.
    async fn known(&self, query: &Query, peer: IpAddr) -> Known {
        let (Some(Private(known)), IpAddr::V4(peer)) = (self.private.clone(), peer) else {
            return Known::default();
        };
        let name = query.name().to_ascii();
        let name = name.trim_end_matches('.').to_owned();
        // Names of the world have dots; those of containers may, and are few.
        tokio::task::spawn_blocking(move || known(peer, &name)).await.unwrap_or_default()
    }

    async fn add_foreign(&self, response: &mut Message, query: &Query) {
        match self.forwarder.ask(query).await {
            Some(foreign) => {
                response.metadata.response_code = foreign.metadata.response_code;
                response.answers.extend(foreign.answers);
                response.authorities.extend(foreign.authorities);
                response.additionals.extend(foreign.additionals);
            }
            None => response.metadata.response_code = ResponseCode::ServFail,
        }
    }
}

/// The answers to a name that only some know. It has no addresses of another kind.
fn private(query: &Query, known: &Known) -> Vec<Record> {
    let answers: Vec<RData> = match query.query_type() {
        RecordType::A => known.addresses.iter().map(|address| RData::A((*address).into())).collect(),
        RecordType::AAAA => known.ipv6.iter().map(|address| RData::AAAA((*address).into())).collect(),
        _ => Vec::new(),
    };
    let record = |data| Record::from_rdata(query.name().clone(), PRIVATE_TTL, data);
    answers.into_iter().map(record).collect()
}

/// A query as far as it was understood, and the answer to it as far as that is known.
struct Request {
    query: Option<Query>,
    response: Message,
    /// The largest answer over UDP.
    limit: u16,
}

impl Request {
    /// Reads a query; `None` for what deserves no answer.
    fn read(bytes: &[u8]) -> Option<Self> {
        let message = match Message::from_vec(bytes) {
            Ok(message) => message,
            Err(_) => return Self::damaged(bytes),
        };
        if message.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut response = Message::response(message.metadata.id, message.metadata.op_code);
        response.metadata.recursion_desired = message.metadata.recursion_desired;
        response.metadata.recursion_available = true;
        response.queries.clone_from(&message.queries);
        let limit = message.max_payload().clamp(512, UDP_PAYLOAD);
        let mut refusal = None;
        if let Some(edns) = &message.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(UDP_PAYLOAD);
            response.set_edns(ours);
            refusal = (edns.version() > 0).then_some(ResponseCode::BADVERS);
        }
        if message.metadata.op_code != OpCode::Query {
            refusal = Some(ResponseCode::NotImp);
        }
        let query = match message.queries.as_slice() {
            [query] => Some(query.clone()),
            _ => {
                refusal = Some(ResponseCode::FormErr);
                None
            }
        };
        if let Some(code) = refusal {
            response.metadata.response_code = code;
            return Some(Self { query: None, response, limit });
        }
        Some(Self { query, response, limit })
    }

    /// A query that cannot be read is told so, when it at least is one.
    fn damaged(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 12] = bytes.first_chunk()?;
        let is_query = header[2] & 0x80 == 0;
        let response = Message::error_msg(
            u16::from_be_bytes([header[0], header[1]]),
            OpCode::Query,
            ResponseCode::FormErr,
        );
        is_query.then_some(Self { query: None, response, limit: 512 })
    }
}

/// The message in bytes, without records and marked as truncated when it is too long.
fn encode(message: &Message, limit: u16) -> Option<Vec<u8>> {
    match message.to_vec() {
        Ok(bytes) if bytes.len() <= usize::from(limit) => Some(bytes),
        Ok(_) => message.truncate().to_vec().ok(),
        Err(error) => {
            tracing::debug!(%error, "a DNS answer cannot be encoded");
            None
        }
    }
}

/// Everything this room does with the bytes of one query, for fuzzing.
#[doc(hidden)]
pub fn fuzz_query(zone: &Zone, bytes: &[u8]) {
    if let Some(request) = Request::read(bytes) {
        let mut response = request.response;
        if let Some(query) = request.query
            && let Some(answer) = zone.answer(query.name(), query.query_type())
        {
            response.answers.extend(answer.answers);
            response.authorities.extend(answer.authorities);
        }
        let _ = encode(&response, request.limit);
    }
    let _ = std::str::from_utf8(bytes).map(forward::name_servers);
}

#[cfg(test)]
mod tests;
