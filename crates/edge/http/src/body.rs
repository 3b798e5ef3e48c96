//! One body type for requests and responses.

use std::{io, pin::Pin};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};

/// What bodies fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any length, whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without bytes.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that ends when `chunks` does.
pub fn stream(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    let frames = chunks.map(|chunk| chunk.map(Frame::data).map_err(|e| Box::new(e) as BoxError));
    StreamBody::new(Box::pin(frames) as Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, BoxError>> + Send>>)
        .boxed_unsync()
}

/// A body larger than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// Bytes allowed.
    pub limit: usize,
}

/// All bytes of a body of at most `limit`.
///
/// # Errors
/// [`BodyTooLarge`], or what the connection failed with.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut first: Option<Bytes> = None;
    let mut more = BytesMut::new();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        len += data.len();
        if len > limit {
            return Err(Box::new(BodyTooLarge { limit }));
        }
        match &first {
            None => first = Some(data),
            Some(head) => {
                if more.is_empty() {
                    more.extend_from_slice(head);
                }
                more.extend_from_slice(&data);
            }
        }
    }
    Ok(if more.is_empty() { first.unwrap_or_default() } else { more.freeze() })
}
