//! Requests over real connections.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_http::{Body, client};

use super::{Bench, backend_of, dead, ingress, named, pod, rollout, serve, service, slice, text, until};
use crate::{Kind, Limits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_per_cent_is_one_per_cent() {
    let mut bench = Bench::with_service();
    for (name, hash) in [("old-1", "old"), ("old-2", "old"), ("new-1", "new"), ("gone-1", "gone")] {
        let address = named(hash).await;
        bench.pod(name, hash, address);
    }
    bench.set(Kind::Rollout, &rollout(1, false));
    let bench = Arc::new(bench);
    let worker = |bench: Arc<Bench>| async move {
        let mut new = 0;
        for _ in 0..2_500 {
            match text(bench.get("/").await).await {
                (200, name) if name == "new" => new += 1,
                (200, name) if name == "old" => {}
                other => panic!("{other:?}"),
            }
        }
        new
    };
    let workers = (0..8).map(|_| tokio::spawn(worker(Arc::clone(&bench))));
    let mut new = 0;
    for counted in futures_util::future::join_all(workers).await {
        new += counted.unwrap();
    }
    assert!((195..=205).contains(&new), "{new} of 20000 requests went to the canary, not 200");
    let table = bench.gateway.table();
    let stable = table.route("shop.test", "/").unwrap().groups.last().unwrap().endpoints.clone();
    let counts: Vec<_> = stable.iter().map(|endpoint| endpoint.series.requests()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 20_000 - new);
    assert!(counts[0].abs_diff(counts[1]) < 2_000, "not shared equally: {counts:?}");
}

#[tokio::test]
async fn the_next_request_follows_the_weights() {
    let mut bench = Bench::with_service();
    bench.pod("old-1", "old", named("old").await);
    bench.pod("new-1", "new", named("new").await);
    let seen = async |bench: &Bench| {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            seen.insert(text(bench.get("/").await).await.1);
        }
        seen.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(seen(&bench).await, "new old", "without weights all are equal");
    bench.set(Kind::Rollout, &rollout(100, false));
    assert_eq!(seen(&bench).await, "new");
    bench.set(Kind::Rollout, &rollout(50, true));
    assert_eq!(seen(&bench).await, "old", "an abort does not wait for the weights");
    bench.set(Kind::Rollout, &rollout(0, false));
    assert_eq!(seen(&bench).await, "old");
    // The stable version's last endpoint goes: the Service itself must still answer.
    bench.change(Kind::Slice, "shop/web-old-1", None);
    assert_eq!(seen(&bench).await, "new");
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request() {
    let mut bench = Bench::with_service();
    bench.pod("a", "v", dead().await);
    bench.pod("b", "v", named("alive").await);
    for _ in 0..20 {
        assert_eq!(text(bench.get("/").await).await, (200, "alive".to_owned()));
    }
    let metrics = bench.gateway.registry.expose();
    let line = "wharf_http_upstream_failures_total{namespace=\"shop\",service=\"web\",pod=\"a\",version=\"v\",reason=\"connect\"} 1\n";
    assert!(metrics.contains(line), "asked once, then left alone for a while:\n{metrics}");
    assert!(metrics.contains("wharf_http_requests_total{namespace=\"shop\",service=\"web\",pod=\"b\",version=\"v\",method=\"GET\",code=\"200\"} 20\n"), "{metrics}");
    assert!(
        metrics.contains("wharf_http_requests_in_flight{namespace=\"shop\",service=\"web\"} 0\n"),
        "{metrics}"
    );

    bench.change(Kind::Slice, "shop/web-b", None);
    let (status, why) = text(bench.get("/").await).await;
    assert_eq!(status, 502);
    assert!(why.contains("cannot connect to 127.0.0.1:"), "{why}");
}

#[tokio::test]
async fn a_connection_closed_before_the_answer_is_tried_elsewhere() {
    let mut bench = Bench::with_service();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.pod("a", "v", listener.local_addr().unwrap());
    let rude = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    bench.pod("b", "v", named("alive").await);
    for _ in 0..4 {
        assert_eq!(text(bench.get("/").await).await, (200, "alive".to_owned()));
    }
    // What may have changed something is not sent twice.
    let mut failed = 0;
    for _ in 0..4 {
        let request = Request::post("/").header("host", "a").body(wharf_http::full("x")).unwrap();
        let response = Arc::clone(&bench.gateway).handle(false, request).await;
        failed += u32::from(response.status() == 502);
    }
    assert_eq!(failed, 2);
    rude.abort();
}

#[tokio::test]
async fn a_leaving_pod_gets_nothing_new_and_finishes() {
    let mut bench = Bench::with_service();
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = serve(Arc::new(move |_| {
        let mut released = released.clone();
        Box::pin(async move {
            let _ = released.wait_for(|released| *released).await;
            Response::new(wharf_http::full("leaving"))
        })
    }))
    .await;
    bench.pod("a", "v", slow);
    let gateway = Arc::clone(&bench.gateway);
    let request = Request::get("/").header("host", "a").body(wharf_http::empty()).unwrap();
    let open = tokio::spawn(gateway.handle(false, request));
    let registry = Arc::clone(&bench.gateway.registry);
    until("request under way", || registry.open() == 1).await;
    bench.pod("b", "v", named("staying").await);
    let mut leaving = pod("a", "v");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    bench.set(Kind::Pod, &leaving);
    for _ in 0..10 {
        assert_eq!(text(bench.get("/").await).await.1, "staying");
    }
    release.send_replace(true);
    assert_eq!(text(open.await.unwrap()).await, (200, "leaving".to_owned()));
}

#[tokio::test]
async fn requests_wait_for_the_first_endpoint() {
    let limits = Limits { most_held: 1, ..Limits::default() };
    let mut bench = Bench::new(limits);
    bench.set(Kind::Service, &service("web"));
    bench.set(Kind::Ingress, &ingress("all", json!({"defaultBackend": backend_of("web", 80)})));
    let request = Request::get("/").header("host", "a").body(wharf_http::empty()).unwrap();
    let waiting = tokio::spawn(Arc::clone(&bench.gateway).handle(false, request));
    let held = Arc::clone(&bench.held);
    until("request held", || !held.lock().unwrap().is_empty()).await;
    let gauge = "wharf_http_requests_held{namespace=\"shop\",service=\"web\"} 1\n";
    assert!(bench.gateway.registry.expose().contains(gauge));
    let (status, why) = text(bench.get("/").await).await;
    assert_eq!((status, why.contains("1 requests wait already")), (503, true), "{why}");
    bench.pod("a", "v", named("awake").await);
    assert_eq!(text(waiting.await.unwrap()).await, (200, "awake".to_owned()));
    assert_eq!(*bench.held.lock().unwrap(), [1, 0]);
}

#[tokio::test]
async fn a_wait_ends() {
    let limits = Limits { longest_hold: Duration::from_millis(30), ..Limits::default() };
    let mut bench = Bench::new(limits);
    bench.set(Kind::Ingress, &ingress("all", json!({"defaultBackend": backend_of("web", 80)})));
    assert_eq!(text(bench.get("/").await).await, (503, "service shop/web does not exist\n".to_owned()));
    bench.set(Kind::Service, &service("web"));
    let expected = "service shop/web had no ready endpoint for 0.03 s\n";
    assert_eq!(text(bench.get("/").await).await, (503, expected.to_owned()));
}

#[tokio::test]
async fn refusals_say_why() {
    let bench = Bench::new(Limits::default());
    let (status, why) = text(bench.get("/x?q=1").await).await;
    assert_eq!(status, 404);
    assert_eq!(
        why,
        "no Ingress has a rule for host 'shop.test' and path '/x'; see: kubectl get ingress -A\n"
    );
    for path in ["/a/../b", "/a/%2e%2E/b", "/.", "/a/.%2e"] {
        assert_eq!(bench.get(path).await.status(), 400, "{path}");
    }
    for path in ["/a/..b", "/a/...", "/.well-known/x", "/a%2fb"] {
        assert_eq!(bench.get(path).await.status(), 404, "{path}");
    }
    let request = Request::get("/").body(wharf_http::empty()).unwrap();
    assert_eq!(Arc::clone(&bench.gateway).handle(false, request).await.status(), 400);
}

/// Answers with the headers it got, one a line.
fn echo(request: Request<Body>) -> Response<Body> {
    let mut lines: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let mut response = Response::new(wharf_http::full(lines.join("\n")));
    let headers = response.headers_mut();
    headers.insert("connection", "x-private".parse().unwrap());
    headers.insert("x-private", "1".parse().unwrap());
    headers.insert("x-public", "1".parse().unwrap());
    response
}

#[tokio::test]
async fn headers_of_one_hop_stay_on_it() {
    let mut bench = Bench::with_service();
    bench.pod("a", "v", serve(Arc::new(|request| Box::pin(async move { echo(request) }))).await);
    let proxy = bench.listen().await;
    let mut stream = tokio::net::TcpStream::connect(proxy).await.unwrap();
    let head = "GET /x?q=1 HTTP/1.1\r\nHost: Shop.test:8080\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\
        X-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nKeep-Alive: 5\r\nTE: trailers\r\nX-Kept: 1\r\n\
        Proxy-Authorization: x\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("x-public: 1") && !head.contains("x-private"), "{head}");
    let kept: Vec<_> = body.lines().filter(|line| !line.starts_with("traceparent: 00-")).collect();
    assert_eq!(
        kept,
        [
            "host: Shop.test:8080",
            "te: trailers",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-host: Shop.test:8080",
            "x-forwarded-proto: http",
            "x-kept: 1",
        ]
    );
    let span = bench.spans.recv().await.unwrap();
    assert_eq!((&*span.service, &*span.pod, &*span.version, span.status), ("web", "a", "v", 200));
    assert_eq!((span.method, span.path.as_str(), span.parent), ("GET", "/x", None));
}

#[tokio::test]
async fn http2_on_both_sides() {
    let mut bench = Bench::with_service();
    let mut service = service("web");
    service["spec"]["ports"][0]["appProtocol"] = json!("kubernetes.io/h2c");
    bench.set(Kind::Service, &service);
    let backend = serve(Arc::new(|request: Request<Body>| {
        Box::pin(async move {
            let version = format!("{:?} {}", request.version(), request.uri());
            let body = wharf_http::collect(request.into_body(), 1 << 20).await.unwrap();
            Response::new(wharf_http::full(format!("{version} {}", body.len())))
        })
    }))
    .await;
    bench.pod("a", "v", backend);
    let proxy = client::Target { address: bench.listen().await, protocol: client::Protocol::H2c };
    let request = Request::post("http://shop.test/up?x").body(wharf_http::full(vec![1; 300_000])).unwrap();
    let response = client::Client::default().send(&proxy, request).await.unwrap();
    let expected = "HTTP/2.0 http://shop.test/up?x 300000".to_owned();
    assert_eq!(text(response).await, (200, expected));
}

#[tokio::test]
async fn an_upgraded_connection_passes_through() {
    let mut bench = Bench::with_service();
    let backend = serve(Arc::new(|mut request: Request<Body>| {
        Box::pin(async move {
            let wanted = request.headers().get("upgrade").cloned().unwrap();
            let connection = wharf_http::upgrade(&mut request);
            tokio::spawn(async move {
                let mut connection = connection.await.unwrap();
                let mut heard = [0; 4];
                connection.read_exact(&mut heard).await.unwrap();
                connection.write_all(&[b"heard ", &heard[..]].concat()).await.unwrap();
                connection.shutdown().await.unwrap();
            });
            let response = Response::builder().status(101).header("connection", "upgrade");
            response.header("upgrade", wanted).body(wharf_http::empty()).unwrap()
        })
    }))
    .await;
    bench.pod("a", "v", backend);
    let mut stream = tokio::net::TcpStream::connect(bench.listen().await).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = vec![0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head, b"HTTP/1.1 101");
    stream.write_all(b"ping").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.ends_with("\r\n\r\nheard ping"), "{rest}");
    drop(stream);
    let registry = Arc::clone(&bench.gateway.registry);
    until("tunnel closed", || registry.open() == 0).await;
    assert!(registry.expose().contains("code=\"101\"} 1\n"));
}

#[tokio::test]
async fn an_endpoint_that_is_not_ready_is_left_out() {
    let mut bench = Bench::with_service();
    bench.pod("a", "v", named("ready").await);
    let mut starting = slice("web", "b", dead().await);
    starting["endpoints"][0]["conditions"]["ready"] = json!(false);
    bench.set(Kind::Slice, &starting);
    assert_eq!(bench.gateway.table().route("x", "/").unwrap().len(), 1);
}
