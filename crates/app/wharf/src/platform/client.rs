//! The platform's own clients of its API: by function call, as a part of the system.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use wharf_apiserver::{ApiServer, Identity};
use wharf_client::Client;
use wharf_http::full;

/// A client for a part of the platform. The part's name becomes the field manager of what it writes.
pub(crate) fn in_process(server: &Arc<ApiServer>, part: &'static str) -> Client {
    let server = Arc::clone(server);
    Client::in_process(Arc::new(move |request: Request<Bytes>| {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Identity::system());
        parts.headers.insert(header::USER_AGENT, HeaderValue::from_static(part));
        Box::pin(Arc::clone(&server).handle(Request::from_parts(parts, full(body))))
    }))
}
