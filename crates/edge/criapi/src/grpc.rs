//! gRPC over HTTP/2: one message in, one or many out, and how a call ended in the trailers.

use std::{fmt, pin::Pin};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message;
use wharf_http::{Body, BoxError};

/// Bytes of a request's message at the most: what the kubelet's own client allows.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// The compression flag and the length before each message.
pub(crate) const PREFIX: usize = 5;

/// How a call ends, by gRPC's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Nothing else fits.
    Unknown = 2,
    /// The request is wrong.
    InvalidArgument = 3,
    /// It took longer than asked for.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// There is one already.
    AlreadyExists = 6,
    /// More than is allowed.
    ResourceExhausted = 8,
    /// Not in this state.
    FailedPrecondition = 9,
    /// There is no such method.
    Unimplemented = 12,
    /// The machine refused.
    Internal = 13,
    /// To be tried again.
    Unavailable = 14,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The class of failure.
    pub code: Code,
    /// For people.
    pub message: String,
}

/// A result of this room.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    pub(crate) fn invalid(message: impl fmt::Display) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(Code::NotFound, format_args!("there is no {what} '{id}'"))
    }

    pub(crate) fn internal(error: impl fmt::Display) -> Self {
        Self::new(Code::Internal, error)
    }

    pub(crate) fn state(message: impl fmt::Display) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<wharf_runtime::Error> for Failure {
    fn from(error: wharf_runtime::Error) -> Self {
        use wharf_runtime::ErrorKind;
        let code = match error.kind {
            ErrorKind::Invalid | ErrorKind::NoProgram | ErrorKind::NotExecutable => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Exists => Code::AlreadyExists,
            ErrorKind::State => Code::FailedPrecondition,
            ErrorKind::ShimGone => Code::Unavailable,
            ErrorKind::Failed => Code::Internal,
        };
        Self::new(code, error)
    }
}

impl From<wharf_image::Error> for Failure {
    fn from(error: wharf_image::Error) -> Self {
        let code = match error {
            wharf_image::Error::NoImage { .. } => Code::NotFound,
            wharf_image::Error::Reference { .. } => Code::InvalidArgument,
            _ => Code::Internal,
        };
        Self::new(code, wharf_node::Failure::of(&error))
    }
}

/// Reads the one message of a request's body.
pub(crate) fn decode<M: Message + Default>(body: &Bytes) -> Result<M> {
    let malformed = || Failure::invalid("the request is not one gRPC message");
    let [flag, a, b, c, d] = *body.first_chunk::<PREFIX>().ok_or_else(malformed)?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    let message = body.get(PREFIX..).filter(|rest| rest.len() == length).ok_or_else(malformed)?;
    if flag != 0 {
        return Err(Failure::new(Code::Unimplemented, "compressed requests are not supported"));
    }
    M::decode(message).map_err(|error| Failure::invalid(format_args!("the request is malformed: {error}")))
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

/// Messages as they come; a failure ends the call.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

fn trailers(ended: Result<()>) -> HeaderMap {
    let (code, message) = match ended {
        Ok(()) => (0, String::new()),
        Err(failure) => (failure.code as u16, failure.message),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if let Ok(value) = HeaderValue::from_str(&escaped(&message))
        && !message.is_empty()
    {
        trailers.insert("grpc-message", value);
    }
    trailers
}

/// Percent-encoded where gRPC asks for it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn grpc(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The answer of a call with one message.
pub(crate) fn unary(outcome: Result<Bytes>) -> Response<Body> {
    match outcome {
        Ok(message) => streaming(Box::pin(futures_util::stream::iter([Ok(message)]))),
        Err(failure) => {
            // A response of trailers only.
            let mut response = grpc(wharf_http::empty());
            response.headers_mut().extend(trailers(Err(failure)));
            response
        }
    }
}

/// The answer of a call with many messages.
pub(crate) fn streaming(messages: Messages) -> Response<Body> {
    let frames = futures_util::stream::unfold(Some(messages), |messages| async move {
        let mut messages = messages?;
        Some(match messages.next().await {
            Some(Ok(message)) => (Frame::data(message), Some(messages)),
            Some(Err(failure)) => (Frame::trailers(trailers(Err(failure))), None),
            None => (Frame::trailers(trailers(Ok(()))), None),
        })
    });
    grpc(StreamBody::new(frames.map(Ok::<_, BoxError>)).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::VersionRequest;

    #[test]
    fn reads_one_message_and_refuses_what_is_none() {
        let request = VersionRequest { version: "v1".to_owned() };
        let bytes = encode(&request);
        assert_eq!(decode::<VersionRequest>(&bytes), Ok(request));
        let compressed: Bytes = [&[1], &bytes[1..]].concat().into();
        assert_eq!(decode::<VersionRequest>(&compressed).unwrap_err().code, Code::Unimplemented);
        for bad in [&bytes[..4], &bytes[..6], &[&bytes[..], &[0]].concat(), b"\0\0\0\0\x02\xff\xff"] {
            let failed = decode::<VersionRequest>(&Bytes::copy_from_slice(bad)).unwrap_err();
            assert_eq!(failed.code, Code::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn messages_are_escaped() {
        assert_eq!(escaped("50 %: ü\n"), "50 %25: %C3%BC%0A");
    }
}
