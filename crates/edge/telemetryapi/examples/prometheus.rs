//! Serves the Prometheus API over a store: `prometheus DIR ADDRESS`. For trying clients and for benches.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;

use wharf_http::{Body, Handler, Listener};
use wharf_telemetry::metrics::{Metrics, Options};
use wharf_telemetryapi::prometheus::{Limits, Prometheus};

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap_or_else(|| panic!("usage: prometheus DIR ADDRESS"));
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let metrics = Metrics::open(dir, Options::default()).unwrap();
    println!("replayed: {:?} {:?}", metrics.replay_report(), metrics.stats());
    let api = Prometheus::new(metrics, Limits::default(), None);
    let handler: Handler = Arc::new(move |request: http::Request<Body>| {
        let api = api.clone();
        Box::pin(async move {
            let path = request.uri().path().to_string();
            api.handle(path.strip_prefix("/prometheus").unwrap_or(&path), request).await
        })
    });
    let listener = Listener::tcp(address.parse().unwrap(), None).await.unwrap();
    println!("http://{}/prometheus", listener.address().unwrap());
    let (_keep, stop) = tokio::sync::watch::channel(false);
    listener.serve(handler, stop).await;
}
