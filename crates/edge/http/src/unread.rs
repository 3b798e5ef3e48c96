//! What a handler leaves unread of a request.
//!
//! A client of HTTP/1.1 that still sends when the connection is closed sees a broken pipe instead of the answer. So a
//! little of what is left is read on before an answer goes out, as Go's server does.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::{Body, BoxError};

/// As much as Go's server reads on.
const MOST: usize = 256 << 10;
/// For so long at the most.
const PATIENCE: Duration = Duration::from_secs(2);

/// A body that is given back when nobody wants it any more before its end.
struct Given {
    body: Option<Incoming>,
    /// A client that waits to be asked for its body need not send it.
    wanted: bool,
    back: Option<oneshot::Sender<Incoming>>,
}

impl http_body::Body for Given {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.wanted = true;
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        Pin::new(body).poll_frame(context).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let (Some(body), Some(back), true) = (self.body.take(), self.back.take(), self.wanted)
            && !body.is_end_stream()
        {
            // Nobody waits for it once the answer is out.
            let _ = back.send(body);
        }
    }
}

/// What comes back of a request's body.
pub(crate) struct Unread(oneshot::Receiver<Incoming>);

/// The request for a handler, and what it leaves of the body.
pub(crate) fn given(request: Request<Incoming>) -> (Request<Body>, Unread) {
    let (back, rest) = oneshot::channel();
    // Streams of HTTP/2 end one by one.
    let back = (request.version() <= Version::HTTP_11).then_some(back);
    let wanted = !request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| Given { body: Some(body), wanted, back }.boxed_unsync());
    (request, Unread(rest))
}

impl Unread {
    /// Reads on, when the handler is done with the body.
    pub(crate) async fn read_on(mut self) {
        if let Ok(body) = self.0.try_recv() {
            read_on(body).await;
        }
    }
}

/// Reads a little of what is left of a request's body, for a client that still sends what nobody wants any more. Who
/// keeps the body beyond the end of its handler calls this; for the others the listener does.
pub async fn read_on(mut body: impl http_body::Body<Data = Bytes> + Unpin) {
    let read = async move {
        let mut left = MOST;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // A client that sends no more in time has to live with the close.
    let _ = tokio::time::timeout(PATIENCE, read).await;
}
