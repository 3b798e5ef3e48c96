//! The data path: a request comes in, an endpoint answers it, the answer streams back.

use std::{
    sync::{Arc, PoisonError, RwLock, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use wharf_http::{
    Body, PeerAddress, Upgraded,
    client::{Client, ClientError, Failure},
};

use crate::{
    HeldSink, Limits,
    backend::{Backend, Endpoint},
    flight::Flight,
    headers::{self, Origin},
    metrics::{Registry, ServiceState, Trouble},
    table::RouteTable,
    trace::RequestSpan,
};

/// Endpoints tried for one request.
const MAX_ATTEMPTS: usize = 3;
/// Kept connections that turned out closed before the request was sent; the request is none the worse for it.
const MAX_UNSENT: usize = 8;
/// When every endpoint has refused: this long until they are asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Everything a request needs.
pub(crate) struct Gateway {
    table: RwLock<Arc<RouteTable>>,
    changed: watch::Sender<u64>,
    client: Client,
    pub(crate) registry: Arc<Registry>,
    limits: Limits,
    spans: Option<mpsc::Sender<RequestSpan>>,
    held: Option<HeldSink>,
    stopping: watch::Receiver<bool>,
}

/// Why a request is answered by the proxy itself.
struct Refusal {
    status: StatusCode,
    message: String,
}

fn refusal(status: StatusCode, message: impl Into<String>) -> Refusal {
    Refusal { status, message: message.into() }
}

impl Refusal {
    fn response(self) -> Response<Body> {
        let mut response = Response::new(wharf_http::full(self.message + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A request as often as it may be needed. Only its head: what has a body is sent once.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn of(request: &Request<Body>) -> Option<Self> {
        let again = headers::idempotent(request.method()) && request.body().is_end_stream();
        again.then(|| Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        })
    }

    fn again(&self) -> Request<Body> {
        let mut request = Request::new(wharf_http::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

impl Gateway {
    pub(crate) fn new(
        client: Client,
        registry: Arc<Registry>,
        limits: Limits,
        spans: Option<mpsc::Sender<RequestSpan>>,
        held: Option<HeldSink>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let changed = watch::Sender::new(0);
        Self { table: RwLock::default(), changed, client, registry, limits, spans, held, stopping }
    }

    pub(crate) fn table(&self) -> Arc<RouteTable> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Routes by another table from the next request on.
    pub(crate) fn swap(&self, table: RouteTable) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.changed.send_modify(|changes| *changes += 1);
    }

    pub(crate) async fn handle(self: Arc<Self>, secure: bool, request: Request<Body>) -> Response<Body> {
        let (host, path, backend) = match self.admit(&request) {
            Ok(admitted) => admitted,
            Err((reason, refusal)) => {
                self.registry.refuse(reason);
                return refusal.response();
            }
        };
        let mut flight = Flight::begin(&self.registry, self.spans.clone(), &backend.state, &request);
        let request = self.outgoing(secure, &host, request, &flight);
        let place = Place { host: headers::bare_host(&host), path };
        match self.exchange(&place, backend, request, &mut flight).await {
            Ok((response, tunnel)) => self.respond(response, tunnel, flight),
            Err(refusal) => {
                flight.status = refusal.status.as_u16();
                refusal.response()
            }
        }
    }

    /// The host, the path and the Service of a request, or why it has none.
    fn admit(
        &self,
        request: &Request<Body>,
    ) -> Result<(String, String, Arc<Backend>), (&'static str, Refusal)> {
        let bad = |why: &str| ("bad_request", refusal(StatusCode::BAD_REQUEST, why));
        if request.method() == Method::CONNECT {
            return Err(bad("CONNECT is not supported here"));
        }
        let host = headers::host_of(request).ok_or_else(|| bad("the request needs exactly one Host"))?;
        let path = request.uri().path().to_owned();
        if headers::climbs(&path) {
            return Err(bad("the path has an element '.' or '..'; send it resolved"));
        }
        let table = self.table();
        let Some(backend) = table.route(&headers::bare_host(&host), &path) else {
            let hint = format!(
                "no Ingress has a rule for host '{host}' and path '{path}'; see: kubectl get ingress -A"
            );
            return Err(("no_route", refusal(StatusCode::NOT_FOUND, hint)));
        };
        Ok((host, path, Arc::clone(backend)))
    }

    fn outgoing(
        &self,
        secure: bool,
        host: &str,
        mut request: Request<Body>,
        flight: &Flight,
    ) -> Request<Body> {
        let upgrade = headers::wanted_upgrade(&request);
        let peer = request.extensions().get::<PeerAddress>().map(|peer| peer.0.ip());
        let origin = Origin { peer, host, secure, trusted: self.limits.trust_forwarded };
        headers::forward(request.headers_mut(), &origin, upgrade.as_ref());
        flight.context.write(request.headers_mut());
        if request.uri().authority().is_some() {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        }
        request
    }

    /// Gets a response from an endpoint, from another one when the first cannot be reached.
    async fn exchange(
        &self,
        place: &Place,
        mut backend: Arc<Backend>,
        mut request: Request<Body>,
        flight: &mut Flight,
    ) -> Result<(Response<Body>, Option<Tunnel>), Refusal> {
        let tunnel = request.headers().contains_key(header::UPGRADE);
        let tunnel = tunnel.then(|| Tunnel(Box::pin(wharf_http::upgrade(&mut request))));
        let head = Head::of(&request);
        let (mut tried, mut attempts, mut unsent) = (Vec::new(), 0, 0);
        loop {
            let Some(endpoint) = backend.pick(&tried) else {
                if !tried.is_empty() {
                    tried.clear();
                    tokio::time::sleep(PAUSE).await;
                    backend = self.again(place)?;
                    continue;
                }
                backend = self.hold(place, &backend).await?;
                continue;
            };
            flight.goes_to(&endpoint);
            let error = match self.client.send(&endpoint.target, request).await {
                Ok(response) => {
                    endpoint.gate.answered();
                    return Ok((response, tunnel));
                }
                Err(error) => error,
            };
            let kind = note(&error, &endpoint, flight);
            tracing::debug!(%error, pod = %endpoint.pod, "no response from an endpoint");
            let again = error.request.map(|request| *request);
            let again =
                again.or_else(|| (error.failure == Failure::Broken).then_some(head.as_ref()?.again()));
            (request, attempts, unsent) = match (again, error.failure) {
                (Some(request), Failure::NotSent) => (request, attempts, unsent + 1),
                (Some(request), _) => (request, attempts + 1, unsent),
                (None, _) => return Err(kind),
            };
            if attempts == MAX_ATTEMPTS || unsent == MAX_UNSENT {
                return Err(kind);
            }
            if error.failure != Failure::NotSent {
                tried.push(endpoint.target.address);
            }
            backend = self.again(place)?;
        }
    }

    /// The Service of a request by the table as it is now.
    fn again(&self, place: &Place) -> Result<Arc<Backend>, Refusal> {
        let table = self.table();
        let gone =
            || refusal(StatusCode::NOT_FOUND, format!("the Ingress for host '{}' is gone", place.host));
        table.route(&place.host, &place.path).cloned().ok_or_else(gone)
    }

    /// Waits until a Service without endpoints has one.
    async fn hold(&self, place: &Place, backend: &Backend) -> Result<Arc<Backend>, Refusal> {
        let unavailable = |why: String| refusal(StatusCode::SERVICE_UNAVAILABLE, why);
        if let Some(problem) = &backend.problem {
            return Err(unavailable(problem.clone()));
        }
        let name = format!("service {}/{}", backend.state.namespace, backend.state.service);
        let most = self.limits.most_held;
        let Some(_held) = Held::enter(&backend.state, most, self.held.as_ref()) else {
            return Err(unavailable(format!(
                "{name} has no ready endpoint, and {most} requests wait already"
            )));
        };
        let deadline = Instant::now() + self.limits.longest_hold;
        let (mut changed, mut stopping) = (self.changed.subscribe(), self.stopping.clone());
        loop {
            let now = self.again(place)?;
            if now.is_ready() {
                return Ok(now);
            }
            if let Some(problem) = &now.problem {
                return Err(unavailable(problem.clone()));
            }
            let waited = tokio::select! {
                changed = timeout_at(deadline, changed.changed()) => changed.is_ok(),
                _ = stopping.wait_for(|stopping| *stopping) => false,
            };
            if !waited {
                let limit = self.limits.longest_hold.as_secs_f32();
                return Err(unavailable(format!("{name} had no ready endpoint for {limit} s")));
            }
        }
    }

    fn respond(
        self: &Arc<Self>,
        mut response: Response<Body>,
        tunnel: Option<Tunnel>,
        mut flight: Flight,
    ) -> Response<Body> {
        flight.status = response.status().as_u16();
        // The version of this hop is the listener's business.
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(tunnel) = tunnel else {
                flight.status = StatusCode::BAD_GATEWAY.as_u16();
                let why = "the endpoint switched protocols without being asked to";
                return refusal(StatusCode::BAD_GATEWAY, why).response();
            };
            flight.is_tunnel();
            let server = wharf_http::upgraded(&mut response);
            tokio::spawn(run_tunnel(tunnel, server, flight, self.stopping.clone()));
            return response;
        }
        headers::strip(response.headers_mut());
        let kind = response.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
            flight.is_endless();
        }
        response.map(|body| flight.over(body).boxed_unsync())
    }
}

/// What a request is routed by.
struct Place {
    host: String,
    path: String,
}

/// Notes an endpoint's failure; gives the answer should it be the last one.
fn note(error: &ClientError, endpoint: &Endpoint, flight: &Flight) -> Refusal {
    let bad = |why: String| refusal(StatusCode::BAD_GATEWAY, why);
    let trouble = match error.failure {
        Failure::Connect => {
            endpoint.gate.refused();
            Trouble::Connect
        }
        Failure::NotSent | Failure::Broken => Trouble::Closed,
        Failure::Timeout => {
            flight.trouble(Trouble::Timeout);
            return refusal(StatusCode::GATEWAY_TIMEOUT, error.to_string());
        }
        Failure::Unusable => return bad(error.to_string()),
    };
    if error.failure != Failure::NotSent {
        flight.trouble(trouble);
    }
    bad(error.to_string())
}

/// A request that waits, counted.
struct Held<'a> {
    state: &'a ServiceState,
    sink: Option<&'a HeldSink>,
}

impl<'a> Held<'a> {
    fn enter(state: &'a ServiceState, most: usize, sink: Option<&'a HeldSink>) -> Option<Self> {
        let add = |held: usize| (held < most).then_some(held + 1);
        let before = state.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        if let Some(sink) = sink {
            sink(&state.namespace, &state.service, before + 1);
        }
        Some(Self { state, sink })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let before = self.state.held.fetch_sub(1, Ordering::Relaxed);
        if let Some(sink) = self.sink {
            sink(&self.state.namespace, &self.state.service, before.saturating_sub(1));
        }
    }
}

/// The client's side of a connection that leaves HTTP.
struct Tunnel(std::pin::Pin<Box<dyn Future<Output = std::io::Result<Upgraded>> + Send>>);

/// Copies both ways until one side ends or the proxy stops.
async fn run_tunnel(
    client: Tunnel,
    server: impl Future<Output = std::io::Result<Upgraded>>,
    flight: Flight,
    mut stopping: watch::Receiver<bool>,
) {
    flight.registry.tunnels.fetch_add(1, Ordering::Relaxed);
    let copy = async {
        let (mut client, mut server) = tokio::try_join!(client.0, server)?;
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        copied = copy => if let Err(error) = copied {
            tracing::debug!(%error, "tunnel ended");
        },
        _ = stopping.wait_for(|stopping| *stopping) => {}
    }
    flight.registry.tunnels.fetch_sub(1, Ordering::Relaxed);
}
