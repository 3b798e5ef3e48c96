//! A registry on a free port and a plain client for it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{net::Ipv4Addr, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use wharf_base::Digest;
use wharf_engineapi::registry::Registry;
use wharf_http::{Body, Handler, Listener, TlsConfig, client::Client as Http};
use wharf_image::{Store, media_type};

/// A registry that serves.
pub(crate) struct Server {
    pub(crate) images: Arc<Store>,
    pub(crate) address: std::net::SocketAddr,
    around: Around,
    dir: tempfile::TempDir,
    http: Http,
    stop: watch::Sender<bool>,
    /// Ends once no connection has the registry any more.
    gone: mpsc::Receiver<()>,
    task: JoinHandle<()>,
}

/// A registry, and a sign that it is in use: dropped after it.
struct Used {
    registry: Registry,
    _sign: mpsc::Sender<()>,
}

/// What stands between the connection and the registry.
pub(crate) type Around = Arc<
    dyn Fn(Registry, Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync,
>;

async fn serve(
    images: Arc<Store>,
    around: Around,
    tls: Option<TlsConfig>,
) -> (std::net::SocketAddr, watch::Sender<bool>, mpsc::Receiver<()>, JoinHandle<()>) {
    let (_sign, gone) = mpsc::channel(1);
    let used = Used { registry: Registry::new(images), _sign };
    let handler: Handler = Arc::new(move |request| {
        let used = &used;
        around(used.registry.clone(), request)
    });
    let listener = Listener::tcp((Ipv4Addr::LOCALHOST, 0).into(), tls).await.unwrap();
    let address = listener.address().unwrap();
    let (stop, stopping) = watch::channel(false);
    (address, stop, gone, tokio::spawn(listener.serve(handler, stopping)))
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_behind(Arc::new(|registry, request| {
            Box::pin(async move { registry.handle(request).await })
        }))
        .await
    }

    pub(crate) async fn start_behind(around: Around) -> Self {
        Self::start_with(around, None).await
    }

    pub(crate) async fn start_with(around: Around, tls: Option<TlsConfig>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Arc::new(Store::open(dir.path()).unwrap());
        let (address, stop, gone, task) = serve(Arc::clone(&images), Arc::clone(&around), tls).await;
        Self { images, address, around, dir, http: Http::default(), stop, gone, task }
    }

    /// Serves the same folder anew, with nothing remembered.
    pub(crate) async fn restart(&mut self) {
        self.stop.send_replace(true);
        (&mut self.task).await.unwrap();
        // A process that ends takes its locks along; here connections end a moment after the server.
        let gone = tokio::time::timeout(Duration::from_secs(60), self.gone.recv());
        assert_eq!(gone.await, Ok(None), "a connection holds the registry");
        self.images = Arc::new(Store::open(self.dir.path()).unwrap());
        (self.address, self.stop, self.gone, self.task) =
            serve(Arc::clone(&self.images), Arc::clone(&self.around), None).await;
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.http.fetch(request.body(wharf_http::full(body)).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, head.headers, wharf_http::collect(body, 100 << 20).await.unwrap().to_vec())
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, HeaderMap, Vec<u8>) {
        self.request("GET", path, &[], vec![]).await
    }

    pub(crate) async fn put(
        &self,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> (StatusCode, HeaderMap, Vec<u8>) {
        self.request("PUT", path, &[("content-type", kind)], body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> StatusCode {
        self.request("DELETE", path, &[], vec![]).await.0
    }

    pub(crate) async fn push_blob(&self, repository: &str, blob: &[u8]) {
        let path = format!("/v2/{repository}/blobs/uploads/?digest={}", Digest::of(blob));
        let (status, _, said) = self.request("POST", &path, &[], blob.to_vec()).await;
        assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&said));
    }

    /// Pushes a small image and gives its manifest's digest.
    pub(crate) async fn push(&self, repository: &str, tag: &str, content: &str) -> Digest {
        let (manifest, blobs) = image(content);
        for blob in &blobs {
            self.push_blob(repository, blob).await;
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let (status, _, said) = self.put(&path, media_type::OCI_MANIFEST, manifest.clone()).await;
        assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&said));
        Digest::of(&manifest)
    }
}

/// The manifest and blobs (layer, configuration) of an image with one file of this content.
pub(crate) fn image(content: &str) -> (Vec<u8>, [Vec<u8>; 2]) {
    let mut tar = wharf_image::TarWriter::new(Vec::new());
    let mut entry = wharf_image::TarEntry::new("etc/motd", wharf_image::TarKind::File, 0o644);
    entry.size = content.len() as u64;
    tar.append(&entry, content.as_bytes()).unwrap();
    let layer = tar.finish().unwrap();
    let host = wharf_image::Platform::host();
    let config = json!({"architecture": host.architecture, "os": host.os, "config": {},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}});
    let config = config.to_string().into_bytes();
    // Odd spacing: only exact bytes keep the digest.
    let manifest = format!(
        r#"{{ "schemaVersion":2,  "mediaType":"{}", "config":{{"mediaType":"{}","digest":"{}","size":{}}},
  "layers":[{{"mediaType":"{}","digest":"{}","size":{}}}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        Digest::of(&config),
        config.len(),
        media_type::OCI_LAYER,
        Digest::of(&layer),
        layer.len()
    );
    (manifest.into_bytes(), [layer, config])
}

pub(crate) fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
