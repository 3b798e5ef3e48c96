//! One request on its way: what it is counted under, from its head to the end of its response.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc;
use wharf_http::{Body, BoxError};

use crate::{
    backend::Endpoint,
    metrics::{Registry, ServiceState, Trouble},
    trace::{Context, RequestSpan},
};

/// Status counted for a client that left before the response.
const CLIENT_LEFT: u16 = 499;
/// Bytes of a path kept in a span.
const MAX_PATH: usize = 1024;

/// Counts its request when dropped.
pub(crate) struct Flight {
    pub(crate) registry: Arc<Registry>,
    pub(crate) spans: Option<mpsc::Sender<RequestSpan>>,
    pub(crate) context: Context,
    pub(crate) status: u16,
    service: Arc<ServiceState>,
    endpoint: Option<Arc<Endpoint>>,
    method: &'static str,
    path: String,
    started: Instant,
    start: SystemTime,
    latency: Latency,
}

enum Latency {
    ToTheEnd,
    ToTheHead(Duration),
    None,
}

impl Flight {
    pub(crate) fn begin(
        registry: &Arc<Registry>,
        spans: Option<mpsc::Sender<RequestSpan>>,
        service: &Arc<ServiceState>,
        request: &http::Request<Body>,
    ) -> Self {
        service.in_flight.fetch_add(1, Ordering::Relaxed);
        registry.open.fetch_add(1, Ordering::Relaxed);
        let context = Context::of(request.headers());
        let spans = spans.filter(|_| context.sampled());
        let path = match spans {
            Some(_) => request.uri().path().chars().take(MAX_PATH).collect(),
            None => String::new(),
        };
        Self {
            registry: Arc::clone(registry),
            spans,
            context,
            status: CLIENT_LEFT,
            service: Arc::clone(service),
            endpoint: None,
            method: crate::metrics::method_label(request.method()),
            path,
            started: Instant::now(),
            start: SystemTime::now(),
            latency: Latency::ToTheEnd,
        }
    }

    /// The request goes to this endpoint, and no longer to the one before.
    pub(crate) fn goes_to(&mut self, endpoint: &Arc<Endpoint>) {
        endpoint.gate.enter();
        if let Some(before) = self.endpoint.replace(Arc::clone(endpoint)) {
            before.gate.leave();
            self.service.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A response that is open until somebody leaves says nothing by its length.
    pub(crate) fn is_endless(&mut self) {
        self.latency = Latency::ToTheHead(self.started.elapsed());
    }

    /// Counts without a latency: the connection is now a tunnel.
    pub(crate) fn is_tunnel(&mut self) {
        self.latency = Latency::None;
    }

    /// Notes a failure of the endpoint.
    pub(crate) fn trouble(&self, trouble: Trouble) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.series.trouble(trouble);
        }
    }

    /// Binds the flight to the body of its response.
    pub(crate) fn over(self, body: Body) -> Measured {
        let flight = if body.is_end_stream() { None } else { Some(self) };
        Measured { body, flight }
    }

    fn send_span(&mut self, duration: Duration) {
        let Some(spans) = self.spans.take() else { return };
        let none = || Arc::from("");
        let endpoint = self.endpoint.as_ref();
        let span = RequestSpan {
            trace_id: self.context.trace_id,
            span_id: self.context.span_id,
            parent: self.context.parent,
            start: self.start,
            duration,
            namespace: Arc::clone(&self.service.namespace),
            service: Arc::clone(&self.service.service),
            pod: endpoint.map_or_else(none, |endpoint| Arc::clone(&endpoint.pod)),
            version: endpoint.map_or_else(none, |endpoint| Arc::clone(&endpoint.version)),
            method: self.method,
            path: std::mem::take(&mut self.path),
            status: self.status,
        };
        if spans.try_send(span).is_err() {
            self.registry.spans_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        let latency = match self.latency {
            Latency::ToTheEnd => Some(elapsed),
            Latency::ToTheHead(latency) => Some(latency),
            Latency::None => None,
        };
        let series = self.endpoint.as_ref().map_or(&self.service.unanswered, |endpoint| &endpoint.series);
        series.record(self.method, self.status, latency);
        self.service.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.registry.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(endpoint) = &self.endpoint {
            endpoint.gate.leave();
        }
        self.send_span(elapsed);
    }
}

/// A response's body; the request ends with it.
pub(crate) struct Measured {
    body: Body,
    flight: Option<Flight>,
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None) => self.flight = None,
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.flight = None,
            Poll::Ready(Some(Err(_))) => {
                if let Some(mut flight) = self.flight.take() {
                    // The status is sent already, but half a response is a failure to whoever counts.
                    flight.status = 502;
                    flight.trouble(Trouble::Body);
                }
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
