//! What Kubernetes' clients speak for exec, attach and port-forward once their connection is upgraded, over WebSocket or SPDY/3.1.
//!
//! The API server and the container runtime interface both serve it; neither the one's objects nor the other's are known here.

pub mod command;
pub mod forward;
pub mod reader;

use std::{future::Future, pin::Pin};

use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Body, empty, websocket};

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A running command's ends.
pub struct Session {
    /// Where standard input goes.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes new sizes of the terminal.
    pub resize: Option<tokio::sync::mpsc::Sender<TerminalSize>>,
    /// Exit code, once the command has ended, or why there is none.
    pub exit: Pin<Box<dyn Future<Output = Result<i32, String>> + Send>>,
}

/// A byte stream to a port.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// What a connection speaks after its upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1.
    Spdy,
    /// WebSocket with this subprotocol.
    WebSocket(&'static str),
}

/// Why a request is not upgraded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The client speaks other protocols.
    #[error("{0}")]
    Protocol(String),
    /// It is no request for an upgrade.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Chooses among what the client offers and what is spoken here, each in its order, and accepts.
///
/// # Errors
/// When they have nothing in common, or no upgrade is asked for.
pub fn handshake(
    request: &Request<Body>,
    websocket: &[&'static str],
    spdy: &[&'static str],
) -> Result<(Response<Body>, Protocol), Refused> {
    let headers = request.headers();
    let none = |offered: &[&str], spoken: &[&str]| {
        Refused::Protocol(format!("none of the protocols {offered:?} is spoken here, only {spoken:?}"))
    };
    if websocket::is_websocket(headers) {
        let offered = websocket::offered(headers);
        let chosen =
            *websocket.iter().find(|p| offered.contains(*p)).ok_or_else(|| none(&offered, websocket))?;
        let response = websocket::accept(request, Some(chosen));
        let response = response.ok_or(Refused::Malformed("the request has no Sec-WebSocket-Key"))?;
        return Ok((response, Protocol::WebSocket(chosen)));
    }
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("spdy/3.1") {
        return Err(Refused::Malformed("unable to upgrade: this needs a WebSocket or SPDY/3.1 connection"));
    }
    let values = headers.get_all("x-stream-protocol-version").iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).collect();
    let chosen = spdy.iter().find(|p| offered.contains(*p)).ok_or_else(|| none(&offered, spdy))?;
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(chosen));
    Ok((response, Protocol::Spdy))
}
