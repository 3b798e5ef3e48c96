//! Connections that leave HTTP: WebSocket and SPDY.

use std::{future::Future, io};

use http::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::Body;

/// The raw connection after a `101 Switching Protocols`.
pub type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// The connection of `request`, once the response has been sent. Take it before answering.
pub fn upgrade(request: &mut Request<Body>) -> impl Future<Output = io::Result<Upgraded>> + Send + use<> {
    let pending = hyper::upgrade::on(request);
    async move { pending.await.map(TokioIo::new).map_err(io::Error::other) }
}

/// The connection a client's `response` with status 101 leaves behind.
pub fn upgraded(response: &mut Response<Body>) -> impl Future<Output = io::Result<Upgraded>> + Send + use<> {
    let pending = hyper::upgrade::on(response);
    async move { pending.await.map(TokioIo::new).map_err(io::Error::other) }
}
