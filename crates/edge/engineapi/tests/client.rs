//! The client against registries that are well, slow, broken, locked or forged.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode};
use support::{Around, Server, image};
use wharf_base::Digest;
use wharf_engineapi::client::{Client, DockerConfig, Progress, Silent, Step};
use wharf_http::{Body, full};
use wharf_image::{Descriptor, Error, Reference, Store, media_type};

fn store() -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    (dir, store)
}

#[derive(Default)]
struct Steps {
    all: Mutex<Vec<Step>>,
    transferred: Arc<tokio::sync::Notify>,
}

impl Progress for Steps {
    fn step(&self, _: &Digest, step: Step) {
        self.all.lock().unwrap().push(step);
        if matches!(step, Step::Transfer { total, .. } if total > 100_000) {
            self.transferred.notify_one();
        }
    }
}

impl Steps {
    fn has(&self, step: Step) -> bool {
        self.all.lock().unwrap().contains(&step)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_goes_out_comes_in_and_keeps_its_digest() {
    let (_dir, from) = store();
    let (manifest, blobs) = image("out and in");
    for blob in &blobs {
        from.blobs().put(blob).unwrap();
    }
    let digest = from.blobs().put(&manifest).unwrap();
    let server = Server::start().await;
    let name: Reference = format!("{}/team/app:1", server.address).parse().unwrap();
    let target = Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64);
    from.tag(std::slice::from_ref(&name), &target).unwrap();

    let steps = Steps::default();
    assert_eq!(Client::new().push(&from, &name, &steps).await.unwrap().digest, digest);
    assert!(steps.has(Step::Done));
    assert_eq!(server.images.find("team/app:1").unwrap().1.digest, digest);
    let again = Steps::default();
    Client::new().push(&from, &name, &again).await.unwrap();
    assert!(again.has(Step::Exists) && !again.has(Step::Done));

    let (_dir, to) = store();
    for selector in [":1".to_owned(), format!("@{digest}")] {
        let name: Reference = format!("{}/team/app{selector}", server.address).parse().unwrap();
        assert_eq!(Client::new().pull(&to, &name, &Silent).await.unwrap().digest, digest);
        let image = to.resolve(&name.to_string()).unwrap();
        assert_eq!(std::fs::read(image.lower_dirs[0].join("etc/motd")).unwrap(), b"out and in");
    }
    let unknown: Reference = format!("{}/team/app:2", server.address).parse().unwrap();
    let error = Client::new().pull(&to, &unknown, &Silent).await.unwrap_err().to_string();
    assert!(error.contains("has no image team/app:2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_goes_on_where_it_stopped() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    let steps = Steps::default();
    let transferred = Arc::clone(&steps.transferred);
    let around: Around = Arc::new(move |registry, request| {
        let (noted, seen) = (Arc::clone(&noted), Arc::clone(&transferred));
        Box::pin(async move {
            let is_blob = request.uri().path().contains("/blobs/sha256");
            let range = request.headers().get("range").map(|r| r.to_str().unwrap().to_owned());
            let response = registry.handle(request).await;
            let (head, body) = response.into_parts();
            let long = head.headers.get("content-length").is_some_and(|l| l.len() > 4);
            if !is_blob || !long {
                return Response::from_parts(head, body);
            }
            noted.lock().unwrap().push(range.clone());
            if range.is_some() {
                return Response::from_parts(head, body);
            }
            let bytes = wharf_http::collect(body, 1 << 20).await.unwrap();
            let half = bytes.slice(..bytes.len() / 2);
            // It breaks after the client has seen the first half.
            let broken = async move {
                seen.notified().await;
                Err(std::io::ErrorKind::BrokenPipe.into())
            };
            let parts = stream::iter([Ok(half)]).chain(stream::once(broken));
            Response::from_parts(head, wharf_http::stream(parts))
        })
    });
    let server = Server::start_behind(around).await;
    server.push("big", "1", &"x".repeat(200_000)).await;
    let (_dir, to) = store();
    let name: Reference = format!("{}/big:1", server.address).parse().unwrap();
    Client::new().pull(&to, &name, &steps).await.unwrap();
    assert!(steps.has(Step::Retry));
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 2);
    assert!(
        asked[1].as_ref().is_some_and(|range| range.starts_with("bytes=") && range != "bytes=0-"),
        "{asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_content_is_refused_and_named_nowhere() {
    let around: Around = Arc::new(|registry, request| {
        Box::pin(async move {
            let is_blob = request.uri().path().contains("/blobs/sha256");
            let (head, body) = registry.handle(request).await.into_parts();
            let mut bytes = wharf_http::collect(body, 1 << 20).await.unwrap().to_vec();
            if is_blob && bytes.starts_with(b"etc/motd") {
                bytes[512] ^= 1;
            }
            Response::from_parts(head, full(bytes))
        })
    });
    let server = Server::start_behind(around).await;
    server.push("app", "1", "true").await;
    let (_dir, to) = store();
    let name: Reference = format!("{}/app:1", server.address).parse().unwrap();
    let error = Client::new().pull(&to, &name, &Silent).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(to.references().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_become_a_token_that_is_used_again() {
    let tokens = Arc::new(AtomicUsize::new(0));
    let given = Arc::clone(&tokens);
    let around: Around = Arc::new(move |registry, request| {
        let given = Arc::clone(&given);
        Box::pin(async move {
            let headers = request.headers().clone();
            let header = move |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
            let status = |status, challenge: Option<String>, body: &str| -> Response<Body> {
                let mut response = Response::new(full(body.to_owned()));
                *response.status_mut() = status;
                response
                    .headers_mut()
                    .extend(challenge.map(|c| (http::header::WWW_AUTHENTICATE, c.parse().unwrap())));
                response
            };
            let query = request.uri().query().unwrap_or_default();
            if request.uri().path() == "/token" {
                let known = header("authorization").as_deref() == Some("Basic dTpw");
                let right = known
                    && query.contains("service=test")
                    && query.contains("scope=repository%3Aapp%3Apull");
                given.fetch_add(1, Ordering::Relaxed);
                return match right {
                    true => status(StatusCode::OK, None, r#"{"token":"t0k"}"#),
                    false => status(StatusCode::UNAUTHORIZED, None, ""),
                };
            }
            // The test's own pushes come with a mark.
            if header("authorization").as_deref() == Some("Bearer t0k")
                || query.contains("digest=")
                || request.method() == "PUT"
            {
                return registry.handle(request).await;
            }
            let host = header("host").unwrap_or_default();
            let challenge =
                format!(r#"Bearer realm="http://{host}/token",service="test",scope="repository:app:pull""#);
            status(StatusCode::UNAUTHORIZED, Some(challenge), "")
        })
    });
    let server = Server::start_behind(around).await;
    server.push("app", "1", "secret").await;
    let (_dir, to) = store();
    let name: Reference = format!("{}/app:1", server.address).parse().unwrap();
    let error = Client::new().pull(&to, &name, &Silent).await.unwrap_err().to_string();
    assert!(error.contains("docker login"), "{error}");
    let config = format!(r#"{{"auths": {{"{}": {{"auth": "dTpw"}}}}}}"#, server.address);
    let client = Client::with_credentials(DockerConfig::parse(config.as_bytes()).unwrap());
    let before = tokens.load(Ordering::Relaxed);
    // The node agent pulls in tasks of its own.
    tokio::spawn(async move { client.pull(&to, &name, &Silent).await }).await.unwrap().unwrap();
    assert_eq!(tokens.load(Ordering::Relaxed) - before, 1);
}
