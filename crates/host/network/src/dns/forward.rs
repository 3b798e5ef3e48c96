//! Names of others: asked at the host's own name servers, and kept for a while.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, timeout},
};

/// The resolver's own limit (resolv.conf(5)).
const MAX_SERVERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ENTRIES: usize = 4096;
const MAX_TTL: u32 = 300;
/// How long "no" is kept when the answer does not say.
const NEGATIVE_TTL: u32 = 5;
const MAX_ASKED: usize = 512;
/// What fits everywhere without fragments (DNS flag day 2020).
pub(super) const UDP_PAYLOAD: u16 = 1232;

/// Who is asked for names outside of the cluster.
#[derive(Debug, Clone)]
pub enum Forwarding {
    /// The name servers of a file like `/etc/resolv.conf`, read again when it changes.
    File(PathBuf),
    /// These.
    Servers(Vec<SocketAddr>),
}

type Key = (Name, RecordType);

/// Asks others.
pub(super) struct Forwarder {
    forwarding: Forwarding,
    /// Our own addresses: asking them would go in circles.
    own: Vec<IpAddr>,
    cache: Mutex<HashMap<Key, (Instant, Instant, Message)>>,
    asked: Semaphore,
}

impl Forwarder {
    pub(super) fn new(forwarding: Forwarding, own: Vec<IpAddr>) -> Self {
        let (cache, asked) = (Mutex::new(HashMap::new()), Semaphore::new(MAX_ASKED));
        Self { forwarding, own, cache, asked }
    }

    /// The answer of others; `None` when nobody gives one.
    pub(super) async fn ask(&self, query: &Query) -> Option<Message> {
        let key = (query.name().to_lowercase(), query.query_type());
        if let Some(kept) = self.kept(&key) {
            return Some(kept);
        }
        let _place = self.asked.try_acquire().ok()?;
        for server in self.servers() {
            match exchange(server, query).await {
                Ok(answer) if answer.metadata.response_code != ResponseCode::ServFail => {
                    self.keep(key, &answer);
                    return Some(answer);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%server, name = %query.name(), %error, "no answer"),
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let servers = match &self.forwarding {
            Forwarding::Servers(servers) => servers.clone(),
            Forwarding::File(path) => {
                std::fs::read_to_string(path).map(|text| name_servers(&text)).unwrap_or_default()
            }
        };
        servers.into_iter().filter(|server| !self.own.contains(&server.ip())).take(MAX_SERVERS).collect()
    }

    fn kept(&self, key: &Key) -> Option<Message> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, until, answer) = cache.get(key)?;
        let now = Instant::now();
        if now >= *until {
            return None;
        }
        let age = u32::try_from((now - *since).as_secs()).unwrap_or(u32::MAX);
        let mut answer = answer.clone();
        let (answers, authorities) = (answer.answers.iter_mut(), answer.authorities.iter_mut());
        for record in answers.chain(authorities).chain(answer.additionals.iter_mut()) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn keep(&self, key: Key, answer: &Message) {
        let seconds = lifetime(answer);
        if seconds == 0 || answer.metadata.truncation {
            return;
        }
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= MAX_ENTRIES {
            cache.retain(|_, (_, until, _)| *until > now);
        }
        if cache.len() >= MAX_ENTRIES {
            cache.clear();
        }
        cache.insert(key, (now, now + Duration::from_secs(seconds.into()), answer.clone()));
    }
}

/// How long an answer may be kept: as long as its shortest record, or as its SOA says when it is a "no".
fn lifetime(answer: &Message) -> u32 {
    let negative = |record: &Record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    };
    match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => {
            answer.answers.iter().map(|record| record.ttl).min().unwrap_or(0).min(MAX_TTL)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            answer.authorities.iter().find_map(negative).unwrap_or(NEGATIVE_TTL).min(MAX_TTL)
        }
        _ => 0,
    }
}

/// The name servers a resolv.conf names.
pub(super) fn name_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        Some(SocketAddr::new(words.next()?.parse().ok()?, 53))
    };
    text.lines().filter_map(server).collect()
}

async fn exchange(server: SocketAddr, query: &Query) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    message.set_edns(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let answer = timeout(PATIENCE, over_udp(server, &message, &bytes)).await??;
    match answer.metadata.truncation {
        true => timeout(PATIENCE, over_tcp(server, &message, &bytes)).await?,
        false => Ok(answer),
    }
}

async fn over_udp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; 4096];
    loop {
        let size = socket.recv(&mut buffer).await?;
        // What is not the answer may be forged: go on waiting for the right one.
        if let Some(answer) = buffer.get(..size).and_then(|bytes| answer_to(query, bytes)) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    answer_to(query, &buffer).ok_or_else(|| io::Error::other("an answer to something else"))
}

fn answer_to(query: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == query.metadata.id
        && answer.metadata.message_type == hickory_proto::op::MessageType::Response
        && answer.queries == query.queries;
    same.then_some(answer)
}
