//! Connections kept for the next request.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};

use super::{ClientConfig, ClientError, Target, connect, connect::Tls};
use crate::{Body, BoxError};

/// Locks the targets are spread over.
const SHARDS: usize = 16;

pub(super) type Http1 = http1::SendRequest<Body>;
pub(super) type Http2 = http2::SendRequest<Body>;

/// A connection that takes a request now.
pub(super) enum Link {
    Http1(Http1),
    Http2(Http2),
}

pub(super) struct Pool {
    pub(super) config: ClientConfig,
    pub(super) tls: Tls,
    shards: [Mutex<HashMap<Target, Kept>>; SHARDS],
    swept: AtomicBool,
}

#[derive(Default)]
struct Kept {
    idle: Vec<(Http1, Instant)>,
    shared: Option<Http2>,
}

impl Kept {
    /// The connection used last, since the others are the likelier to be closed soon.
    fn take(&mut self, idle_timeout: Duration) -> Option<Link> {
        if let Some(shared) = self.shared.as_ref().filter(|shared| !shared.is_closed()) {
            return Some(Link::Http2(shared.clone()));
        }
        self.shared = None;
        while let Some((sender, since)) = self.idle.pop() {
            if sender.is_ready() && since.elapsed() < idle_timeout {
                return Some(Link::Http1(sender));
            }
        }
        None
    }

    fn sweep(&mut self, idle_timeout: Duration) -> bool {
        self.idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < idle_timeout);
        self.shared.take_if(|shared| shared.is_closed());
        !self.idle.is_empty() || self.shared.is_some()
    }
}

impl Pool {
    pub(super) fn new(config: ClientConfig) -> Self {
        let tls = Tls::new(config.trust.clone(), config.identity.clone());
        Self { config, tls, shards: Default::default(), swept: AtomicBool::new(false) }
    }

    fn kept(&self, target: &Target) -> MutexGuard<'_, HashMap<Target, Kept>> {
        let mut hasher = DefaultHasher::new();
        target.hash(&mut hasher);
        let shard = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or(0);
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a target: one that waits, or a new one. For an upgrade always a new one, in HTTP/1.1.
    pub(super) async fn link(this: &Arc<Self>, target: &Target, upgrade: bool) -> Result<Link, ClientError> {
        if !upgrade {
            let waiting = this.kept(target).get_mut(target).and_then(|k| k.take(this.config.idle_timeout));
            if let Some(link) = waiting {
                return Ok(link);
            }
        }
        let link = connect::connect(this, target, upgrade).await?;
        if !this.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(this), this.config.idle_timeout));
        }
        if let Link::Http2(shared) = &link {
            this.kept(target).entry(target.clone()).or_default().shared = Some(shared.clone());
        }
        Ok(link)
    }

    fn give_back(&self, target: Target, sender: Http1) {
        let mut kept = self.kept(&target);
        let idle = &mut kept.entry(target).or_default().idle;
        if idle.len() < self.config.idle_per_target {
            idle.push((sender, Instant::now()));
        }
    }

    /// Binds a connection to the response it carries, to be given back when that has ended.
    pub(super) fn lease(
        self: &Arc<Self>,
        target: &Target,
        sender: Http1,
        response: Response<Incoming>,
    ) -> Response<Body> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        response.map(|body| {
            let lease = (!switched).then(|| Lease { pool: Arc::clone(self), target: target.clone(), sender });
            let mut leased = Leased { body, lease };
            if http_body::Body::is_end_stream(&leased.body) {
                leased.ended();
            }
            leased.boxed_unsync()
        })
    }
}

/// Closes what has waited too long. Ends with the pool.
async fn sweep(pool: Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout.max(Duration::from_millis(100)) / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        for shard in &pool.shards {
            let mut kept = shard.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|_, kept| kept.sweep(idle_timeout));
        }
    }
}

struct Lease {
    pool: Arc<Pool>,
    target: Target,
    sender: Http1,
}

/// A response's body. A connection whose response was not read to its end is closed.
struct Leased {
    body: Incoming,
    lease: Option<Lease>,
}

impl Leased {
    fn ended(&mut self) {
        let Some(Lease { pool, target, mut sender }) = self.lease.take() else { return };
        if sender.is_ready() {
            pool.give_back(target, sender);
        } else if !sender.is_closed() {
            // The connection's own task has not noticed yet, or the request's body is still on its way.
            tokio::spawn(async move {
                let limit = pool.config.response_timeout;
                if matches!(tokio::time::timeout(limit, sender.ready()).await, Ok(Ok(()))) {
                    pool.give_back(target, sender);
                }
            });
        }
    }
}

impl http_body::Body for Leased {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.ended(),
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.ended(),
            Poll::Ready(Some(Err(_))) => self.lease = None,
            _ => {}
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
