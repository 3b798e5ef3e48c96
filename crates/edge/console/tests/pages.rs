//! Pages through the front door.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod sample;

use std::time::Duration;

use http::Request;
use wharf_console::Console;

async fn get(console: &Console, path: &str) -> (u16, String) {
    let request = Request::get(path).body(wharf_http::empty()).unwrap();
    let response = console.handle(request).await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
    let status = response.status().as_u16();
    let body = wharf_http::collect(response.into_body(), 1 << 22).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The console once it has read the objects.
async fn ready() -> Console {
    let console = sample::console();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    for (path, sign) in [
        ("/nodes", "node-1"),
        ("/runs", "shop-12"),
        ("/rollouts", "shop"),
        ("/services", "10.96"),
        ("/pods", "shop-5f8b-a"),
    ] {
        while !get(&console, path).await.1.contains(sign) {
            assert!(tokio::time::Instant::now() < deadline, "{path} never shows {sign}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    console
}

#[tokio::test]
async fn every_page_shows_what_it_is_for() {
    let console = ready().await;
    for (path, signs) in [
        ("/", &["Needs a look", "CrashLoopBackOff", "shop-12", "2/5"][..]),
        ("/runs", &["shop-11", "Fix the cart", "8c1f0a7b"]),
        (
            "/runs/ci/shop-12",
            &["unit tests", "no tag on &lt;base&gt;", "/logs/run/ci/shop-12/test%20%283.11%29"],
        ),
        (
            "/rollouts/shop/shop",
            &["Send 5 % of the requests", "Wait for a promotion", "holding: not enough evidence"],
        ),
        ("/services/shop/shop", &["<svg", "p99", "Errors by version", "7c9d"]),
        ("/pods/shop/shop-5f8b-a", &["Log of shop", "the container has not started"]),
        ("/pods", &["Running", "CrashLoopBackOff", "1/2", "Init:0/1", "Completed"]),
        ("/rollouts/shop/cart", &["Aborted", "<li class=\"later\"><small>–</small> Send 1 %"]),
        ("/nodes", &["node-1", "24Gi"]),
    ] {
        let (status, page) = get(&console, path).await;
        assert_eq!(status, 200, "{path}");
        for sign in signs {
            assert!(page.contains(sign), "{path} does not show {sign}:\n{page}");
        }
    }
    assert_eq!(get(&console, "/pods/shop/none").await.0, 404);
    assert_eq!(get(&console, "/nothing").await.0, 404);
}

#[tokio::test]
async fn nothing_from_outside_becomes_markup() {
    let console = ready().await;
    for path in ["/", "/runs", "/runs/ci/shop-12", "/pods/shop/shop-5f8b-a", "/%3Cscript%3Ealert(1)"] {
        let page = get(&console, path).await.1;
        assert!(!page.contains("<script>alert") && !page.contains("cart <b>"), "{path}:\n{page}");
        assert!(!page.contains(" style=") && !page.contains(" onclick="), "{path}: the policy forbids it");
    }
}

#[tokio::test]
async fn logs_stream_line_by_line() {
    let console = ready().await;
    let (status, events) = get(&console, "/logs/run/ci/shop-12/test%20%283.11%29").await;
    assert_eq!(status, 200);
    assert!(events.starts_with("data: 2026-01-01T10:00:01Z GET /cart <b>1</b>"), "{events}");
    assert!(events.ends_with("data: one more\n\nevent: end\ndata: end\n\n"), "{events}");
    let (status, why) = get(&console, "/logs/pod/shop/a/sidecar").await;
    assert_eq!((status, why.as_str()), (404, "the container has not started\n"));
    assert_eq!(get(&console, "/events?kinds=nothing").await.0, 400);
}
