//! Routing by tables, and the data path over real connections.

mod api;
mod path;
mod routing;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use wharf_http::{Body, Handler, Listener, client::Client};

use crate::{Dirty, Kind, Limits, RequestSpan, World, forward::Gateway, metrics::Registry, table::update};

/// A gateway whose objects a test sets by hand.
struct Bench {
    gateway: Arc<Gateway>,
    world: World,
    _stop: watch::Sender<bool>,
    spans: mpsc::Receiver<RequestSpan>,
    held: Arc<Mutex<Vec<usize>>>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let (stop, stopping) = watch::channel(false);
        let (sender, spans) = mpsc::channel(64);
        let held = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&held);
        let gateway = Gateway::new(
            Client::default(),
            Arc::<Registry>::default(),
            limits,
            Some(sender),
            Some(Arc::new(move |_, _, held| noted.lock().unwrap().push(held))),
            stopping,
        );
        Self { gateway: Arc::new(gateway), world: World::default(), _stop: stop, spans, held }
    }

    /// With an Ingress that sends everything to port 80 of Service `shop/web`.
    fn with_service() -> Self {
        let mut bench = Self::new(Limits::default());
        bench.set(Kind::Service, &service("web"));
        bench.set(Kind::Ingress, &ingress("all", json!({"defaultBackend": backend_of("web", 80)})));
        bench
    }

    fn set(&mut self, kind: Kind, object: &Value) {
        self.change(kind, &wharf_client::object_key(object), Some(object));
    }

    fn change(&mut self, kind: Kind, key: &str, object: Option<&Value>) {
        let mut dirty = Dirty::default();
        if self.world.set(kind, key, object) {
            dirty.note(kind, key);
        }
        let (table, _) = update(&self.gateway.table(), &self.world, &dirty, &self.gateway.registry);
        self.gateway.swap(table);
    }

    /// A ready pod of version `hash` at an address, with a slice of its own.
    fn pod(&mut self, name: &str, hash: &str, address: SocketAddr) {
        self.set(Kind::Pod, &pod(name, hash));
        self.set(Kind::Slice, &slice("web", name, address));
    }

    async fn get(&self, path: &str) -> Response<Body> {
        let request = Request::get(path).header("host", "shop.test").body(wharf_http::empty()).unwrap();
        Arc::clone(&self.gateway).handle(false, request).await
    }

    /// A listener of the gateway's own; gives its address.
    async fn listen(&self) -> SocketAddr {
        let gateway = Arc::clone(&self.gateway);
        serve(Arc::new(move |request| Box::pin(Arc::clone(&gateway).handle(false, request)))).await
    }
}

async fn serve(handler: Handler) -> SocketAddr {
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
    let address = listener.address().unwrap();
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        let _open = stop;
        listener.serve(handler, stopping).await;
    });
    address
}

/// A server that answers with its name.
async fn named(name: &'static str) -> SocketAddr {
    serve(Arc::new(move |_| Box::pin(async move { Response::new(wharf_http::full(name)) }))).await
}

/// An address nobody listens on.
async fn dead() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = wharf_http::collect(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ingress(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn backend_of(service: &str, port: u16) -> Value {
    json!({"service": {"name": service, "port": {"number": port}}})
}

fn service(name: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}], "selector": {"app": name}}})
}

fn pod(name: &str, hash: &str) -> Value {
    json!({"metadata": {"namespace": "shop", "name": name,
        "labels": {"app": "web", "rollouts-pod-template-hash": hash}}})
}

fn slice(service: &str, pod: &str, address: SocketAddr) -> Value {
    json!({"metadata": {"namespace": "shop", "name": format!("{service}-{pod}"),
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": address.port(), "protocol": "TCP"}],
        "endpoints": [{"addresses": [address.ip().to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod}}]})
}

fn rollout(canary: u32, abort: bool) -> Value {
    json!({"metadata": {"namespace": "shop", "name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}},
        "status": {"abort": abort, "stableRS": "old", "canary": {"weights": {
            "canary": {"weight": canary, "podTemplateHash": "new"},
            "stable": {"weight": 100 - canary, "podTemplateHash": "old"}}}}})
}
