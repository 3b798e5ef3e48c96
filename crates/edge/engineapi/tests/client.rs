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
use wharf_engineapi::{
    client::{Client, DockerConfig, Progress, Silent, Step, hosts::Folders},
    registry::{Registry, Through},
};
use wharf_http::{Authority, Body, Usage, full, tls_config};
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
    // Packed it is whole too, and unpacked by whoever uses it.
    let (_dir, packed) = store();
    Client::new().leaving_packed().pull(&packed, &name, &Silent).await.unwrap();
    let diff_id = to.resolve(&name.to_string()).unwrap().layers[0].diff_id;
    assert!(!packed.is_unpacked(&diff_id));
    let image = packed.resolve(&name.to_string()).unwrap();
    assert_eq!(std::fs::read(image.lower_dirs[0].join("etc/motd")).unwrap(), b"out and in");
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

/// A folder that says `hosts` of `r.example`, and a client that reads it.
fn told(hosts: &str) -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("r.example")).unwrap();
    std::fs::write(dir.path().join("r.example/hosts.toml"), hosts).unwrap();
    let client = Client::new().with_folders(Folders::new([dir.path().to_owned()]));
    (dir, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_need_not_have_it() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let blobs_fail = Arc::new(AtomicUsize::new(0));
    let noted = |who: &'static str| -> Around {
        let (asked, fail) = (Arc::clone(&asked), Arc::clone(&blobs_fail));
        Arc::new(move |registry, request| {
            let (asked, fail) = (Arc::clone(&asked), Arc::clone(&fail));
            Box::pin(async move {
                if request.method() == "GET" {
                    asked.lock().unwrap().push(format!("{who} {}", request.uri()));
                }
                let blob = request.uri().path().contains("/blobs/sha256");
                if who == "mirror" && blob && fail.load(Ordering::Relaxed) > 0 {
                    let mut response = Response::new(full(""));
                    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                    return response;
                }
                registry.handle(request).await
            })
        })
    };
    let mirror = Server::start_behind(noted("mirror")).await;
    let own = Server::start_behind(noted("own")).await;
    // By its name of this machine, since as a mirror it is told of which registry.
    mirror.push("r.example/team/app", "1", "the same everywhere").await;
    for tag in ["1", "2"] {
        own.push("team/app", tag, "the same everywhere").await;
    }
    let hosts = format!(
        "server = 'http://{}'\n[host.'http://127.0.0.1:1']\n[host.'http://{}']\ncapabilities = ['pull', 'resolve']\n\
         [host.'http://{}'.header]\nx-a = 'b'",
        own.address, mirror.address, mirror.address
    );
    let (_folder, client) = told(&hosts);
    let pull = |tag: &'static str| {
        let (client, asked) = (client.clone(), Arc::clone(&asked));
        async move {
            let (_dir, to) = store();
            let name: Reference = format!("r.example/team/app:{tag}").parse().unwrap();
            asked.lock().unwrap().clear();
            client.pull(&to, &name, &Silent).await.unwrap();
            to.resolve(&name.to_string()).unwrap();
            let asked = asked.lock().unwrap().clone();
            let by = |who: &str| asked.iter().filter(|line| line.starts_with(who)).count();
            (by("mirror"), by("own"), asked)
        }
    };
    // The mirror that is gone costs nothing but a try; the other has everything.
    let (of_mirror, of_own, lines) = pull("1").await;
    assert_eq!((of_mirror, of_own), (3, 0), "{lines:?}");
    assert!(lines.iter().all(|line| line.ends_with("?ns=r.example")), "{lines:?}");
    // It lacks the tag but has the content; it knows the tag but its content cannot be read.
    let (of_mirror, of_own, lines) = pull("2").await;
    assert_eq!((of_mirror, of_own), (3, 1), "{lines:?}");
    blobs_fail.store(1, Ordering::Relaxed);
    let (of_mirror, of_own, lines) = pull("1").await;
    assert_eq!((of_mirror, of_own), (3, 2), "{lines:?}");
    // What goes out goes to the registry itself.
    let (_dir, from) = store();
    let name: Reference = "r.example/team/app:1".parse().unwrap();
    client.pull(&from, &name, &Silent).await.unwrap();
    let out: Reference = "r.example/team/out:1".parse().unwrap();
    from.tag(std::slice::from_ref(&out), &from.lookup(&name).unwrap()).unwrap();
    client.push(&from, &out, &Silent).await.unwrap();
    assert!(own.images.find("team/out:1").is_ok() && mirror.images.find("r.example/team/out:1").is_err());
}

/// Runs openssl in `folder`.
fn openssl(folder: &std::path::Path, words: &[&str]) {
    let output = std::process::Command::new("openssl").current_dir(folder).args(words).output().unwrap();
    assert!(output.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Signs `digest` as cosign does, with the key of `folder`, and pushes the signature.
async fn sign(server: &Server, folder: &std::path::Path, repository: &str, digest: &Digest) {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let payload = serde_json::json!({
        "critical": {
            "identity": {"docker-reference": format!("{}/{repository}", server.address)},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature"
        },
        "optional": null
    })
    .to_string();
    std::fs::write(folder.join("payload"), &payload).unwrap();
    openssl(folder, &["dgst", "-sha256", "-sign", "a.key", "-out", "signature", "payload"]);
    let signature = STANDARD.encode(std::fs::read(folder.join("signature")).unwrap());
    for blob in [payload.as_bytes(), b"{}"] {
        server.push_blob(repository, blob).await;
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST,
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": Digest::of("{}"), "size": 2},
        "layers": [{
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": Digest::of(&payload), "size": payload.len(),
            "annotations": {"dev.cosignproject.cosign/signature": signature}
        }]
    });
    let path = format!("/v2/{repository}/manifests/sha256-{}.sig", digest.hex());
    let (status, _, said) =
        server.put(&path, media_type::OCI_MANIFEST, manifest.to_string().into_bytes()).await;
    assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_images_the_policy_trusts_come_in() {
    let server = Server::start().await;
    let good = server.push("team/app", "1", "good").await;
    let bad = server.push("team/app", "bad", "bad").await;
    server.push("else/app", "1", "else").await;
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let key = format!("{name}.key");
        openssl(folder.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
        openssl(folder.path(), &["ec", "-in", &key, "-pubout", "-out", &format!("{name}.pub")]);
    }
    let file = folder.path().join("policy.json");
    let write = |key: &str| {
        let policy = serde_json::json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {(format!("{}/team", server.address)): [{
                "type": "sigstoreSigned", "keyPath": folder.path().join(key),
                "signedIdentity": {"type": "matchRepository"}
            }]}}
        });
        std::fs::write(&file, policy.to_string()).unwrap();
    };
    write("a.pub");
    let client = Client::new().with_policy(&file);
    let (_dir, to) = store();
    let pull = |rest: &str| {
        let name: Reference = format!("{}/{rest}", server.address).parse().unwrap();
        let (client, to) = (client.clone(), Arc::clone(&to));
        async move {
            client.pull(&to, &name, &Silent).await.map(|target| target.digest).map_err(|e| e.to_string())
        }
    };
    let refused = |ended: Result<Digest, String>, words: &str| {
        let error = ended.unwrap_err();
        assert!(error.contains("not trusted") && error.contains(words), "{error}");
    };
    refused(pull("else/app:1").await, "rejects images");
    refused(pull("team/app:1").await, "no signature");
    sign(&server, folder.path(), "team/app", &good).await;
    assert_eq!(pull("team/app:1").await.unwrap(), good);
    assert_eq!(pull(&format!("team/app@{good}")).await.unwrap(), good);
    refused(pull("team/app:bad").await, "no signature");
    assert_eq!(to.references().unwrap().len(), 2);
    // The signature of another image under the name of this one's.
    let (_, _, signature) = server.get(&format!("/v2/team/app/manifests/sha256-{}.sig", good.hex())).await;
    let path = format!("/v2/team/app/manifests/sha256-{}.sig", bad.hex());
    server.put(&path, media_type::OCI_MANIFEST, signature).await;
    refused(pull("team/app:bad").await, "instead of");
    // Another key, then a policy that is not understood.
    write("b.pub");
    refused(pull("team/app:1").await, "b.pub");
    std::fs::write(&file, "{}").unwrap();
    refused(pull("team/app:1").await, "policy.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_brings_what_it_lacks_and_keeps_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let gone = Arc::new(AtomicUsize::new(0));
    let (counted, away) = (Arc::clone(&asked), Arc::clone(&gone));
    let own = Server::start_behind(Arc::new(move |registry, request| {
        let (counted, away) = (Arc::clone(&counted), Arc::clone(&away));
        Box::pin(async move {
            if away.load(Ordering::Relaxed) > 0 {
                let mut response = Response::new(full(""));
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return response;
            }
            counted.fetch_add(usize::from(request.method() == "GET"), Ordering::Relaxed);
            registry.handle(request).await
        })
    }))
    .await;
    own.push("team/app", "1", &"much ".repeat(100_000)).await;
    let (_upstream, fetching) = told(&format!("server = 'http://{}'", own.address));
    let registry = Arc::new(std::sync::OnceLock::new());
    let cache = Server::start_behind(Arc::new(move |bare, request| {
        let through = || bare.with_through(Through::new(fetching.clone()));
        let registry: &Registry = registry.get_or_init(through);
        let registry = registry.clone();
        Box::pin(async move { registry.handle(request).await })
    }))
    .await;
    let hosts = format!("server = 'http://127.0.0.1:1'\n[host.'http://{}']", cache.address);
    let pull = |tag: &'static str| {
        let (folder, client) = told(&hosts);
        async move {
            let (_dir, to) = store();
            let name: Reference = format!("r.example/team/app:{tag}").parse().unwrap();
            let ended = client.pull(&to, &name, &Silent).await;
            drop(folder);
            ended.map(|target| target.digest)
        }
    };
    let (first, second) = tokio::join!(pull("1"), pull("1"));
    let digest = first.unwrap();
    assert_eq!(second.unwrap(), digest);
    // The manifest at most once for each of both, configuration and layer once.
    let before = asked.load(Ordering::Relaxed);
    assert!((3..=4).contains(&before), "{before}");
    assert_eq!(pull("1").await.unwrap(), digest);
    assert_eq!(asked.load(Ordering::Relaxed), before);
    // A part, before the whole is here.
    let layer = Digest::of("x".repeat(1000));
    own.push_blob("team/app", "x".repeat(1000).as_bytes()).await;
    let path = format!("/v2/team/app/blobs/{layer}?ns=r.example");
    let (status, _, body) = cache.request("GET", &path, &[("range", "bytes=10-19")], vec![]).await;
    assert_eq!((status, body.as_slice()), (StatusCode::PARTIAL_CONTENT, b"xxxxxxxxxx".as_slice()));
    // Its registry is gone: what was there stays, what was not is missing and says why.
    gone.store(1, Ordering::Relaxed);
    assert_eq!(pull("1").await.unwrap(), digest);
    assert!(pull("2").await.is_err());
    let (status, _, said) = cache.get("/v2/team/app/manifests/2?ns=r.example").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(String::from_utf8_lossy(&said).contains("not brought"), "{}", String::from_utf8_lossy(&said));
    // What was pushed here is not the other registry's to change.
    gone.store(0, Ordering::Relaxed);
    let mine = cache.push("team/own", "1", "mine").await;
    let (_, headers, _) = cache.get("/v2/team/own/manifests/1").await;
    assert_eq!(headers["docker-content-digest"], mine.to_string());
    let (status, _, _) = cache.get("/v2/team/app/manifests/1?ns=a/b").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_folder_open_a_registry() {
    let authority = Authority::create("test").unwrap();
    let names = ["127.0.0.1".to_owned()];
    let issued = authority.issue("registry", &[], Usage::Server, &names).unwrap();
    let tls = tls_config(&issued.certificate, &issued.key, Some(authority.certificate())).unwrap();
    let around: Around = Arc::new(|registry, request| {
        Box::pin(async move {
            let who =
                request.extensions().get::<wharf_http::PeerCertificate>().map(|c| c.common_name.clone());
            if who.as_deref() == Some("me") || request.method() != "GET" {
                return registry.handle(request).await;
            }
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        })
    });
    let server = Server::start_with(around, Some(tls)).await;
    let name: Reference = format!("{}/app:1", server.address).parse().unwrap();
    let (manifest, blobs) = image("behind TLS");
    let (_dir, from) = store();
    for blob in &blobs {
        from.blobs().put(blob).unwrap();
    }
    let digest = from.blobs().put(&manifest).unwrap();
    from.tag(
        std::slice::from_ref(&name),
        &Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64),
    )
    .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join(server.address.to_string());
    std::fs::create_dir(&folder).unwrap();
    let client = || Client::new().with_folders(Folders::new([dir.path().to_owned()]));
    let (_dir, to) = store();
    // An authority that it is not of, then the right one, then with a certificate that lets in.
    let other = Authority::create("other").unwrap();
    std::fs::write(folder.join("ca.crt"), other.certificate()).unwrap();
    let error = client().push(&from, &name, &Silent).await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    std::fs::write(folder.join("ca.crt"), authority.certificate()).unwrap();
    client().push(&from, &name, &Silent).await.unwrap();
    let error = client().pull(&to, &name, &Silent).await.unwrap_err().to_string();
    assert!(error.contains("does not allow access"), "{error}");
    let me = authority.issue("me", &[], Usage::Client, &[]).unwrap();
    std::fs::write(folder.join("me.cert"), me.certificate).unwrap();
    std::fs::write(folder.join("me.key"), me.key).unwrap();
    client().pull(&to, &name, &Silent).await.unwrap();
}
