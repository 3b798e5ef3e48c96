//! The registry over real sockets, as clients of the distribution specification use it.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use std::{
    io::{Read as _, Write as _},
    sync::Arc,
};

use http::StatusCode;
use serde_json::{Value, json};
use support::{Server, body, image};
use wharf_base::Digest;
use wharf_engineapi::registry::Registry;
use wharf_http::{Handler, Listener};
use wharf_image::{Error, Store, media_type};

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_image_is_a_local_image_and_comes_back_byte_for_byte() {
    let server = Server::start().await;
    assert_eq!(server.get("/v2/").await.0, StatusCode::OK);
    let (manifest, blobs) = image("hello");
    for blob in &blobs {
        server.push_blob("shop", blob).await;
    }
    let (status, headers, _) =
        server.put("/v2/shop/manifests/1", media_type::OCI_MANIFEST, manifest.clone()).await;
    let digest = Digest::of(&manifest).to_string();
    assert_eq!((status, headers["docker-content-digest"].to_str().unwrap()), (StatusCode::CREATED, &*digest));

    let (_, found) = server.images.find("shop:1").unwrap();
    assert_eq!(found.digest.to_string(), digest);
    for name in ["1", &digest] {
        let (status, headers, bytes) = server.get(&format!("/v2/shop/manifests/{name}")).await;
        assert_eq!((status, &bytes), (StatusCode::OK, &manifest));
        assert_eq!(headers["content-type"], media_type::OCI_MANIFEST);
    }
    let blob = format!("/v2/shop/blobs/{}", Digest::of(&blobs[0]));
    let (_, headers, bytes) = server.get(&blob).await;
    assert_eq!(
        (bytes, headers["content-length"].to_str().unwrap()),
        (blobs[0].clone(), &*blobs[0].len().to_string())
    );
    let (status, headers, bytes) = server.request("GET", &blob, &[("range", "bytes=2-5")], vec![]).await;
    assert_eq!((status, &bytes[..]), (StatusCode::PARTIAL_CONTENT, &blobs[0][2..6]));
    assert_eq!(headers["content-range"], format!("bytes 2-5/{}", blobs[0].len()));
    let (status, ..) = server.request("GET", &blob, &[("range", "bytes=99999-")], vec![]).await;
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
    let (status, headers, bytes) = server.request("HEAD", &blob, &[], vec![]).await;
    assert_eq!((status, bytes.len()), (StatusCode::OK, 0));
    assert_eq!(headers["content-length"], blobs[0].len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_in_chunks_survives_a_restart_and_refuses_gaps() {
    let mut server = Server::start().await;
    let (status, headers, _) = server.request("POST", "/v2/a/b/blobs/uploads/", &[], vec![]).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let upload = headers["location"].to_str().unwrap().to_owned();
    let patch = async |server: &Server, range: &str, data: &[u8]| {
        let (status, headers, _) =
            server.request("PATCH", &upload, &[("content-range", range)], data.to_vec()).await;
        (status, headers.get("range").map(|r| r.to_str().unwrap().to_owned()))
    };
    assert_eq!(patch(&server, "0-4", b"hello").await, (StatusCode::ACCEPTED, Some("0-4".into())));
    assert_eq!(patch(&server, "9-10", b"xx").await, (StatusCode::RANGE_NOT_SATISFIABLE, Some("0-4".into())));
    assert_eq!(patch(&server, "5-9", b"xx").await.0, StatusCode::BAD_REQUEST, "shorter than it says");
    server.restart().await;
    let (status, headers, _) = server.get(&upload).await;
    assert_eq!((status, headers["range"].to_str().unwrap()), (StatusCode::NO_CONTENT, "0-4"));
    assert_eq!(patch(&server, "5-10", b" world").await, (StatusCode::ACCEPTED, Some("0-10".into())));
    let digest = Digest::of("hello world!");
    let put = format!("{upload}?digest={digest}");
    let (status, headers, _) = server.request("PUT", &put, &[], b"!".to_vec()).await;
    assert_eq!(
        (status, headers["location"].to_str().unwrap()),
        (StatusCode::CREATED, &*format!("/v2/a/b/blobs/{digest}"))
    );
    assert_eq!(server.get(&upload).await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.images.blobs().read(&digest, 99).unwrap(), b"hello world!");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_gets_the_code_of_the_specification() {
    let server = Server::start().await;
    let there = Digest::of("x");
    server.push_blob("a", b"x").await;
    let missing = Digest::of("missing");
    let (manifest, _) = image("never pushed");
    let text = |v: Value| v.to_string().into_bytes();
    let oci = [("content-type", media_type::OCI_MANIFEST)];
    for (method, path, headers, sent, status, code) in [
        ("GET", format!("/v2/a/blobs/{missing}"), &[][..], vec![], 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/a/manifests/none".into(), &[], vec![], 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/nobody/tags/list".into(), &[], vec![], 404, "NAME_UNKNOWN"),
        ("GET", "/v2/UPPER/tags/list".into(), &[], vec![], 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/sha256:1".into(), &[], vec![], 400, "DIGEST_INVALID"),
        ("GET", "/v2/_catalog?n=x".into(), &[], vec![], 400, "PAGINATION_NUMBER_INVALID"),
        ("POST", "/v2/a/tags/list".into(), &[], vec![], 405, "UNSUPPORTED"),
        ("PUT", "/v2/a/manifests/1".into(), &oci, manifest, 400, "MANIFEST_BLOB_UNKNOWN"),
        ("PUT", "/v2/a/manifests/1".into(), &oci, b"{".to_vec(), 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1".into(), &oci, vec![b' '; (4 << 20) + 1], 413, "MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/1".into(), &oci, text(json!({"schemaVersion": 1})), 400, "MANIFEST_INVALID"),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?digest={missing}"),
            &[],
            b"forged".to_vec(),
            400,
            "DIGEST_INVALID",
        ),
        ("PATCH", format!("/v2/a/blobs/uploads/{}", "0".repeat(32)), &[], vec![], 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/a/blobs/uploads/..%2f..".into(), &[], vec![], 404, "BLOB_UPLOAD_UNKNOWN"),
        ("DELETE", format!("/v2/a/blobs/{there}"), &[], vec![], 202, ""),
        ("DELETE", format!("/v2/a/blobs/{there}"), &[], vec![], 404, "BLOB_UNKNOWN"),
    ] {
        let (got, _, bytes) = server.request(method, &path, headers, sent).await;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let got_code = body["errors"][0]["code"].as_str().unwrap_or_default();
        assert_eq!((got.as_u16(), got_code), (status, code), "{method} {path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_move_and_go_and_digests_stay() {
    let server = Server::start().await;
    let first = server.push("shop", "1", "first").await;
    let second = server.push("shop", "1", "second").await;
    server.push("shop", "2", "second").await;
    server.push("team/other", "x", "second").await;
    let tags = async |query: &str| {
        let (_, headers, bytes) = server.get(&format!("/v2/shop/tags/list{query}")).await;
        let link = headers.get("link").map(|l| l.to_str().unwrap().to_owned());
        (body(&bytes)["tags"].clone(), link)
    };
    assert_eq!(tags("").await, (json!(["1", "2"]), None));
    assert_eq!(
        tags("?n=1").await,
        (json!(["1"]), Some("</v2/shop/tags/list?n=1&last=1>; rel=\"next\"".into()))
    );
    assert_eq!(tags("?n=1&last=1").await, (json!(["2"]), None));
    let (_, _, bytes) = server.get("/v2/_catalog").await;
    assert_eq!(body(&bytes)["repositories"], json!(["shop", "team/other"]));

    assert_eq!(server.get(&format!("/v2/shop/manifests/{first}")).await.0, StatusCode::OK, "by digest still");
    assert_eq!(server.delete("/v2/shop/manifests/1").await, StatusCode::ACCEPTED);
    assert_eq!(server.get("/v2/shop/manifests/1").await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.delete(&format!("/v2/shop/manifests/{second}")).await, StatusCode::ACCEPTED);
    assert_eq!(server.get("/v2/shop/manifests/2").await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/v2/team/other/manifests/x").await.0, StatusCode::OK);
    assert!(matches!(server.images.lookup(&"shop:2".parse().unwrap()), Err(Error::NoImage { .. })));
    let config =
        server.images.find("team/other:x").map(|(_, d)| server.images.manifest(&d).unwrap()).unwrap();
    assert_eq!(
        server.delete(&format!("/v2/shop/blobs/{}", config.1.config.digest)).await,
        StatusCode::FORBIDDEN,
        "a blob in use stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_mounts_and_referrers() {
    let server = Server::start().await;
    let child = server.push("shop", "amd64", "child").await;
    let size = server.images.blobs().size(&child).unwrap();
    let host = wharf_image::Platform::host();
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [
        {"mediaType": media_type::OCI_MANIFEST, "digest": child, "size": size, "platform": host}]});
    let index = index.to_string().into_bytes();
    let (status, ..) = server.put("/v2/shop/manifests/all", media_type::OCI_INDEX, index.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    let accept = |types| server.request("GET", "/v2/shop/manifests/all", types, vec![]);
    let (_, headers, bytes) = accept(&[("accept", media_type::OCI_INDEX)]).await;
    assert_eq!((headers["content-type"].to_str().unwrap(), bytes), (media_type::OCI_INDEX, index));
    let (_, headers, _) = accept(&[("accept", media_type::OCI_MANIFEST)]).await;
    assert_eq!(headers["docker-content-digest"], child.to_string(), "the platform's manifest");
    assert_eq!(accept(&[("accept", media_type::DOCKER_MANIFEST)]).await.0, StatusCode::NOT_FOUND);

    server.push_blob("x", b"layer").await;
    let mount = |digest: Digest| format!("/v2/y/blobs/uploads/?mount={digest}&from=x");
    let (status, ..) = server.request("POST", &mount(Digest::of("layer")), &[], vec![]).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, ..) = server.request("POST", &mount(Digest::of("other")), &[], vec![]).await;
    assert_eq!(status, StatusCode::ACCEPTED, "falls back to an upload");

    server.push_blob("shop", b"{}").await;
    let artifact = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "application/sbom",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of("{}"), "size": 2}, "layers": [],
        "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": child, "size": size}, "annotations": {"a": "b"}});
    let artifact = artifact.to_string().into_bytes();
    let path = format!("/v2/shop/manifests/{}", Digest::of(&artifact));
    let (_, headers, _) = server.put(&path, media_type::OCI_MANIFEST, artifact.clone()).await;
    assert_eq!(headers["oci-subject"], child.to_string());
    let referrers = async |query: &str| {
        let (_, headers, bytes) = server.get(&format!("/v2/shop/referrers/{child}{query}")).await;
        assert_eq!(headers["content-type"], media_type::OCI_INDEX);
        body(&bytes)["manifests"].clone()
    };
    let found = referrers("").await;
    assert_eq!(found[0]["digest"], json!(Digest::of(&artifact)));
    assert_eq!(
        (&found[0]["artifactType"], &found[0]["annotations"]["a"]),
        (&json!("application/sbom"), &json!("b"))
    );
    assert_eq!(referrers("?artifactType=other").await, json!([]));
}

/// A client that sends its body whatever the answer is gets the answer, and not a broken connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_who_still_sends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sock");
    let registry = Registry::new(Arc::new(Store::open(dir.path().join("images")).unwrap()));
    let handler: Handler = Arc::new(move |request| {
        let registry = registry.clone();
        Box::pin(async move { registry.handle(request).await })
    });
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    tokio::spawn(Listener::unix(&path).unwrap().serve(handler, stopping));
    let answers = tokio::task::spawn_blocking(move || {
        let ask = |_| {
            let mut stream = std::os::unix::net::UnixStream::connect(&path)?;
            write!(stream, "PUT /v2/Bad/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")?;
            for _ in 0..200 {
                stream.write_all(&[b'x'; 1000])?;
            }
            let mut head = [0; 12];
            stream.read_exact(&mut head)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&head).into_owned())
        };
        (0..50).map(ask).collect::<Vec<_>>()
    });
    for answer in answers.await.unwrap() {
        assert_eq!(answer.unwrap(), "HTTP/1.1 400");
    }
}
