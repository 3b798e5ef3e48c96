//! Server-sent events: that something changed, and lines of logs.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use wharf_client::Informer;
use wharf_http::Body;

use crate::{Inner, LogTarget, guarded, pages::LOG_LINES, text};

/// Changes within this time are told as one.
const PACE: Duration = Duration::from_millis(300);
/// Silence after which a sign of life is sent.
const SILENT_TICKS: u32 = 50;

/// Tells whenever one of the kinds named in `?kinds=a,b` changed.
pub(crate) fn events(console: &Arc<Inner>, query: &str) -> Response<Body> {
    let kinds = query.split('&').find_map(|pair| pair.strip_prefix("kinds=")).unwrap_or("");
    let watched: Vec<Informer> =
        kinds.split(',').filter_map(|kind| console.informers.get(kind)).cloned().collect();
    if watched.is_empty() {
        return text(StatusCode::BAD_REQUEST, "text/plain", "name kinds, as in /events?kinds=pods,nodes\n");
    }
    let seen = |watched: &[Informer]| watched.iter().map(Informer::revision).collect::<Vec<_>>();
    let start = seen(&watched);
    let next = move |(watched, before): (Vec<Informer>, Vec<u64>)| async move {
        for _ in 0..SILENT_TICKS {
            tokio::time::sleep(PACE).await;
            let now = seen(&watched);
            if now != before {
                return Some((Ok(Bytes::from_static(b"data: changed\n\n")), (watched, now)));
            }
        }
        Some((Ok(Bytes::from_static(b": alive\n\n")), (watched, before)))
    };
    let hello = stream::iter([Ok(Bytes::from_static(b": hello\n\n"))]);
    let changes = stream::unfold((watched, start), next);
    guarded(StatusCode::OK, "text/event-stream", wharf_http::stream(hello.chain(changes)))
}

/// The last lines of a log, then those that follow.
pub(crate) async fn log(console: &Inner, target: LogTarget) -> Response<Body> {
    match console.logs.follow(target, LOG_LINES).await {
        Ok(lines) => {
            let lines = lines.map(|line| Ok(line_event(&line)));
            let end = stream::iter([Ok(Bytes::from_static(b"event: end\ndata: end\n\n"))]);
            guarded(StatusCode::OK, "text/event-stream", wharf_http::stream(lines.chain(end)))
        }
        Err(why) => text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", why + "\n"),
    }
}

fn line_event(line: &str) -> Bytes {
    let clean = line.replace(['\r', '\n'], " ");
    format!("data: {clean}\n\n").into()
}
