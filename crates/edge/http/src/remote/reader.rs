//! A body sent as the messages of a WebSocket, for clients that cannot read a response as it comes: browsers mostly.
//!
//! Logs and watches are read so (`k8s.io/streaming/pkg/httpstream/wsstream`, the reader protocols).

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Request, Response};
use http_body_util::BodyExt as _;

use super::Refused;
use crate::{
    Body, Upgraded,
    websocket::{self, Message},
};

/// What the client's token travels in; never what is spoken.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
/// The longest line that is kept together, in bytes.
const MAX_LINE: usize = 16 << 20;

/// How a body becomes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Binary messages, as the pieces come.
    Binary,
    /// Text messages of base64, as the pieces come.
    Base64,
    /// A text message for each line.
    Lines,
}

/// Accepts a request for the bytes of a body; `None` when it asks for no WebSocket.
///
/// # Errors
/// When the client offers only protocols that are not spoken here.
pub fn bytes(request: &Request<Body>) -> Result<Option<(Response<Body>, Framing)>, Refused> {
    if !websocket::is_websocket(request.headers()) {
        return Ok(None);
    }
    let offered: Vec<&str> =
        websocket::offered(request.headers()).into_iter().filter(|name| !name.starts_with(BEARER)).collect();
    let spoken = [("binary.k8s.io", Framing::Binary), ("base64.binary.k8s.io", Framing::Base64)];
    let (protocol, framing) = match offered.as_slice() {
        [] => (None, Framing::Binary),
        names => {
            let found = spoken.iter().find(|(name, _)| names.contains(name));
            let (name, framing) = found.ok_or_else(|| {
                Refused::Protocol(format!(
                    "none of the protocols {names:?} is spoken here, only {:?}",
                    spoken.map(|(name, _)| name)
                ))
            })?;
            (Some(*name), *framing)
        }
    };
    Ok(Some((accepted(request, protocol)?, framing)))
}

/// Accepts a request for the lines of a body, whatever protocol it offers; `None` when it asks for no WebSocket.
///
/// # Errors
/// When the handshake is not complete.
pub fn lines(request: &Request<Body>) -> Result<Option<(Response<Body>, Framing)>, Refused> {
    if !websocket::is_websocket(request.headers()) {
        return Ok(None);
    }
    let offered = websocket::offered(request.headers());
    let protocol = offered.into_iter().find(|name| !name.starts_with(BEARER));
    Ok(Some((accepted(request, protocol)?, Framing::Lines)))
}

fn accepted(request: &Request<Body>, protocol: Option<&str>) -> Result<Response<Body>, Refused> {
    websocket::accept(request, protocol)
        .ok_or(Refused::Malformed("the request has no Sec-WebSocket-Key, or a protocol that is no header"))
}

/// Sends a body to its end, or until the client goes.
///
/// # Errors
/// When the connection or the body breaks.
pub async fn serve(connection: Upgraded, mut body: Body, framing: Framing) -> io::Result<()> {
    let (mut sink, mut messages) = websocket::server(connection).await.split();
    let mut line = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            said = messages.next() => match said {
                // What a client says besides is nothing to a reader; pings are answered below this.
                Some(Ok(message)) if !matches!(message, Message::Close(_)) => continue,
                _ => return Ok(()),
            },
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        match framing {
            Framing::Binary => sink.send(Message::Binary(data)).await.map_err(io::Error::other)?,
            Framing::Base64 => {
                sink.send(Message::Text(STANDARD.encode(&data).into())).await.map_err(io::Error::other)?;
            }
            Framing::Lines => {
                for part in data.split_inclusive(|byte| *byte == b'\n') {
                    line.extend_from_slice(part);
                    if part.ends_with(b"\n") {
                        let text = text_of(line.split().freeze())?;
                        sink.send(text).await.map_err(io::Error::other)?;
                    } else if line.len() > MAX_LINE {
                        return Err(io::Error::other("a line is too long for a message"));
                    }
                }
            }
        }
    }
    if !line.is_empty() {
        let text = text_of(line.freeze())?;
        sink.send(text).await.map_err(io::Error::other)?;
    }
    sink.send(websocket::close()).await.map_err(io::Error::other)
}

fn text_of(line: Bytes) -> io::Result<Message> {
    let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
    Ok(Message::Text(text.into()))
}
