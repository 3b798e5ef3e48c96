//! Calls of etcd: gRPC over HTTP/2, to the first of several endpoints that takes it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Request, header};
use http_body_util::BodyExt as _;
use prost::Message;
use wharf_http::{
    Body, Issued,
    client::{Client, ClientConfig, Failure as Sent, Protocol, Target, Trust},
};

use crate::{Config, Endpoint};

/// The compression flag and the length before each message.
const PREFIX: usize = 5;
/// Bytes of a message from etcd at the most.
const MAX_MESSAGE: usize = 64 << 20;
/// How long a connection may take, and how long a call.
const CONNECT: Duration = Duration::from_secs(3);
const CALL: Duration = Duration::from_secs(10);

/// gRPC's numbers of how calls end, as far as they are told apart here.
pub mod code {
    /// The request is wrong.
    pub const INVALID_ARGUMENT: u32 = 3;
    /// May not.
    pub const PERMISSION_DENIED: u32 = 7;
    /// More than is allowed.
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    /// Not in this state.
    pub const FAILED_PRECONDITION: u32 = 9;
    /// What is asked for is gone, or not there yet.
    pub const OUT_OF_RANGE: u32 = 11;
    /// There is no such call.
    pub const UNIMPLEMENTED: u32 = 12;
    /// The data is damaged.
    pub const DATA_LOSS: u32 = 15;
    /// Nobody is known.
    pub const UNAUTHENTICATED: u32 = 16;
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What etcd says, by gRPC's numbers.
    pub code: Option<u32>,
    /// Nothing of the call reached etcd.
    pub unsent: bool,
    /// For people.
    pub message: String,
}

impl Failure {
    fn broken(message: impl std::fmt::Display) -> Self {
        Self { code: None, unsent: false, message: message.to_string() }
    }

    /// Whether what was asked for has been compacted away.
    pub fn is_compacted(&self) -> bool {
        self.code == Some(code::OUT_OF_RANGE) && self.message.contains("compacted")
    }
}

/// Connections to etcd's endpoints.
pub(crate) struct Grpc {
    client: Client,
    endpoints: Vec<Endpoint>,
    tls: bool,
    /// The one that worked last.
    preferred: AtomicUsize,
    call: Duration,
}

impl Grpc {
    pub(crate) fn new(config: &Config) -> Arc<Self> {
        let (trust, identity) = match &config.tls {
            None => (Trust::System, None),
            Some(tls) => {
                let identity = tls.identity.as_ref();
                let trust = tls.authority.clone().map_or(Trust::System, Trust::Authority);
                let issued = |(certificate, key): &(String, String)| Issued {
                    certificate: certificate.clone(),
                    key: key.clone(),
                };
                (trust, identity.map(issued))
            }
        };
        let client = ClientConfig {
            connect_timeout: CONNECT,
            response_timeout: CALL,
            trust,
            identity,
            ..ClientConfig::default()
        };
        Arc::new(Self {
            client: Client::new(client),
            endpoints: config.endpoints.clone(),
            tls: config.tls.is_some(),
            preferred: AtomicUsize::new(0),
            call: CALL,
        })
    }

    /// The endpoints for messages.
    pub(crate) fn place(&self) -> String {
        let names: Vec<String> = self.endpoints.iter().map(Endpoint::to_string).collect();
        format!("etcd at {}", names.join(","))
    }

    /// One message for another.
    pub(crate) async fn unary<M: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<M, Failure> {
        let call = async {
            let mut answer = self.open(path, encode(message), false).await?;
            let message = answer.next().await?.ok_or_else(|| Failure::broken("it answered nothing"))?;
            answer.next::<M>().await.and_then(|more| match more {
                None => Ok(message),
                Some(_) => Err(Failure::broken("it answered twice")),
            })
        };
        let late = || Failure::broken(format!("no answer within {} s", self.call.as_secs()));
        tokio::time::timeout(self.call, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// Begins a call with one message, to which messages come; with `open` etcd is not told that no more is asked.
    pub(crate) async fn open(&self, path: &str, message: Bytes, open: bool) -> Result<Answer, Failure> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failed = Failure { code: None, unsent: true, message: "there is no endpoint".to_owned() };
        for turn in 0..self.endpoints.len() {
            let index = (first + turn) % self.endpoints.len();
            let Some(endpoint) = self.endpoints.get(index) else { continue };
            match self.send(endpoint, path, &message, open).await {
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) if error.unsent => failed = error,
                Err(error) => {
                    // The next call tries another one.
                    self.preferred.store((index + 1) % self.endpoints.len(), Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Err(failed)
    }

    async fn send(
        &self,
        endpoint: &Endpoint,
        path: &str,
        message: &Bytes,
        open: bool,
    ) -> Result<Answer, Failure> {
        let mut failed = Failure { code: None, unsent: true, message: format!("{endpoint} has no address") };
        let unknown =
            |error: io::Error| Failure { message: format!("{endpoint}: {error}"), ..failed.clone() };
        let found = tokio::net::lookup_host((&*endpoint.host, endpoint.port)).await.map_err(unknown)?;
        let protocol = match self.tls {
            true => Protocol::Tls(endpoint.host.clone()),
            false => Protocol::H2c,
        };
        for address in found {
            let target = Target { address, protocol: protocol.clone() };
            let request = request(&endpoint.to_string(), path, message.clone(), open)?;
            match Box::pin(self.client.send(&target, request)).await {
                Ok(response) => return Answer::of(response),
                Err(error) => {
                    let unsent = error.request.is_some() || matches!(error.failure, Sent::Unusable);
                    failed = Failure { code: None, unsent, message: chain(&error) };
                    if !unsent {
                        return Err(failed);
                    }
                }
            }
        }
        Err(failed)
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

fn request(authority: &str, path: &str, message: Bytes, open: bool) -> Result<Request<Body>, Failure> {
    let body = match open {
        false => wharf_http::full(message),
        true => wharf_http::stream(stream::iter([Ok(message)]).chain(stream::pending())),
    };
    // A server that has lost the others must end a watch instead of keeping silent.
    let alone = if open { "true" } else { "false" };
    Request::post(path)
        .header("hasleader", alone)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("wharf/", env!("CARGO_PKG_VERSION")))
        .body(body)
        .map_err(|error| Failure { code: None, unsent: true, message: error.to_string() })
}

/// A message with its prefix.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut data = BytesMut::with_capacity(length + PREFIX);
    data.put_u8(0);
    data.put_u32(length as u32);
    data.extend_from_slice(&message.encode_to_vec());
    data.freeze()
}

/// The messages etcd answers with.
pub(crate) struct Answer {
    body: Body,
    frames: Frames,
    ended: bool,
}

impl Answer {
    fn of(response: http::Response<Body>) -> Result<Self, Failure> {
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(Failure::broken(format!("it answered with HTTP status {}", head.status.as_u16())));
        }
        // A response of trailers only.
        status(&head.headers).unwrap_or(Ok(()))?;
        Ok(Self { body, frames: Frames::default(), ended: false })
    }

    /// The next message; nothing when the call ended well.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Failure> {
        loop {
            if let Some(message) = self.frames.take()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let frame = self.body.frame().await.ok_or_else(|| Failure::broken("the connection closed"))?;
            let frame = frame.map_err(|error| Failure::broken(chain(&*error)))?;
            match frame.into_data() {
                Ok(data) => self.frames.push(&data),
                Err(other) => {
                    let trailers = other.into_trailers().unwrap_or_default();
                    status(&trailers)
                        .ok_or_else(|| Failure::broken("it did not say how the call ended"))??;
                    self.ended = true;
                }
            }
        }
    }
}

/// How a call ended, if it has.
fn status(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(2);
    let message = unescaped(text("grpc-message").unwrap_or("it gave no reason"));
    Some(if code == 0 { Ok(()) } else { Err(Failure { code: Some(code), unsent: false, message }) })
}

/// Undoes gRPC's percent-encoding.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().filter(|_| *first == b'%');
        let code = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = after.get(if code.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Pieces of a body, out of which messages come.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Adds a piece.
    pub fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// When it is too large, packed, or none.
    pub fn take<M: Message + Default>(&mut self) -> Result<Option<M>, Failure> {
        let Some([flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>().copied() else { return Ok(None) };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_MESSAGE {
            let message = format!("its message of {length} bytes is larger than {MAX_MESSAGE}");
            return Err(Failure { code: Some(code::RESOURCE_EXHAUSTED), unsent: false, message });
        }
        if flag != 0 {
            return Err(Failure::broken("its message is packed, which was not asked for"));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = self.buffer.split_to(length).freeze();
        M::decode(message)
            .map(Some)
            .map_err(|error| Failure::broken(format!("its message is malformed: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v3::StatusResponse;

    #[test]
    fn messages_come_out_of_pieces() {
        let status = StatusResponse { header: None, version: "3.4.0".to_owned() };
        let bytes = [encode(&status), encode(&status)].concat();
        let mut frames = Frames::default();
        let mut found = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            found.extend(frames.take::<StatusResponse>().unwrap());
        }
        assert_eq!(found, [status.clone(), status]);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bad in [&b"\x01\0\0\0\x01x"[..], b"\0\xff\xff\xff\xff", b"\0\0\0\0\x02\xff\xff"] {
            let mut frames = Frames::default();
            frames.push(bad);
            frames.take::<StatusResponse>().unwrap_err();
        }
    }

    #[test]
    fn reasons_are_readable() {
        assert_eq!(unescaped("50 %25: %C3%BC%0A%"), "50 %: ü\n%");
    }
}
