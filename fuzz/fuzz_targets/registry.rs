#![no_main]
//! Requests from strangers to the registry: method, path, headers and body are the fuzzer's.

use std::sync::{Arc, OnceLock};

use http::Request;
use libfuzzer_sys::fuzz_target;
use wharf_engineapi::registry::Registry;

static SERVER: OnceLock<(tokio::runtime::Runtime, Registry)> = OnceLock::new();

fn server() -> &'static (tokio::runtime::Runtime, Registry) {
    SERVER.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("wharf-fuzz-registry-{}", std::process::id()));
        let store = wharf_image::Store::open(dir).expect("a writable temporary folder");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        (runtime, Registry::new(Arc::new(store)))
    })
}

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(5, |b| *b == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (method, path, range, kind, body) = (next(), next(), next(), next(), next());
    let request = Request::builder()
        .method(method)
        .uri([b"/v2/", path].concat().as_slice())
        .header("content-range", range)
        .header("range", range)
        .header("content-type", kind)
        .header("accept", kind);
    let Ok(request) = request.body(wharf_http::full(body.to_vec())) else { return };
    let (runtime, registry) = server();
    let response = runtime.block_on(registry.handle(request));
    assert!(response.status().as_u16() != 500, "{response:?}");
});
