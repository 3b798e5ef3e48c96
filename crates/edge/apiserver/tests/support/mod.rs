//! An API server in this process, asked as clients ask it; and servers it may call.

#![allow(clippy::unwrap_used)] // a test

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use wharf_apiserver::{ApiServer, Config, FrontProxy, Identity, Ranges, Security, SigningKey};
use wharf_base::SystemClock;
use wharf_http::{Authority, Listener, Usage, collect, empty, full, tls_config};
use wharf_state::{Embedded, Options, Store};

/// The server with its folder.
pub(crate) struct Api {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) folder: tempfile::TempDir,
}

/// An answer: code, warnings, body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) warnings: Vec<String>,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_with(front_proxy: Option<FrontProxy>) -> Self {
        Self::start_secured(front_proxy, Security::default()).await
    }

    pub(crate) async fn start_secured(front_proxy: Option<FrontProxy>, security: Security) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(&folder.path().join("state"), Options::default()).unwrap());
        Self::start_on(folder, store, front_proxy, security).await
    }

    pub(crate) async fn start_on(
        folder: tempfile::TempDir,
        store: Arc<dyn Store>,
        front_proxy: Option<FrontProxy>,
        security: Security,
    ) -> Self {
        let config = Config {
            store,
            clock: Arc::new(SystemClock),
            signing_key: SigningKey::open(&SigningKey::generate().unwrap()).unwrap(),
            ranges: Ranges::new([10, 96, 0, 0].into(), 16, 30000..=32767),
            authority: String::new(),
            front_proxy,
        };
        let api = Self { server: ApiServer::open_with(config, security).await.unwrap(), folder };
        let path = "/api/v1/namespaces/default/serviceaccounts";
        if api.get(&format!("{path}/default")).await.code == 404 {
            api.made(path, json!({"metadata": {"name": "default"}})).await;
        }
        api
    }

    pub(crate) async fn ask(
        &self,
        who: Identity,
        method: &str,
        path: &str,
        media: &str,
        body: Value,
    ) -> Answer {
        let mut request = Self::request(method, path, media, body);
        request.extensions_mut().insert(who);
        self.answer(request).await
    }

    /// Asks as somebody, with more headers.
    pub(crate) async fn ask_with(
        &self,
        who: Identity,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Answer {
        let mut request = Self::request("GET", path, "application/json", Value::Null);
        request.extensions_mut().insert(who);
        for (name, value) in headers {
            request.headers_mut().append(*name, http::HeaderValue::from_str(value).unwrap());
        }
        self.answer(request).await
    }

    /// Asks as whoever shows a bearer token.
    pub(crate) async fn bearing(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let mut request = Self::request(method, path, "application/json", body);
        let value = http::HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        request.headers_mut().insert("authorization", value);
        self.answer(request).await
    }

    fn request(method: &str, path: &str, media: &str, body: Value) -> Request<wharf_http::Body> {
        let body = match body {
            Value::Null => empty(),
            Value::String(text) => full(text),
            body => full(body.to_string()),
        };
        Request::builder().method(method).uri(path).header("content-type", media).body(body).unwrap()
    }

    async fn answer(&self, request: Request<wharf_http::Body>) -> Answer {
        let response = Arc::clone(&self.server).handle(request).await;
        let code = response.status().as_u16();
        let texts = response.headers().get_all("warning").iter().filter_map(|w| w.to_str().ok());
        let warnings = texts.map(str::to_owned).collect();
        let bytes = collect(response.into_body(), 8 << 20).await.unwrap();
        Answer { code, warnings, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        let media = match (method, body.is_array()) {
            ("PATCH", true) => "application/json-patch+json",
            ("PATCH", false) => "application/merge-patch+json",
            _ => "application/json",
        };
        self.ask(Identity::system(), method, path, media, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Value::Null).await
    }

    /// Creates what must be created.
    pub(crate) async fn made(&self, path: &str, body: Value) -> Value {
        let answer = self.send("POST", path, body).await;
        assert_eq!(answer.code, 201, "{path}: {}", answer.body);
        answer.body
    }

    /// Waits until a path answers what is wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let answer = self.get(path).await;
            if wanted(&answer) {
                return answer;
            }
            assert!(std::time::Instant::now() < deadline, "{path} stays {answer:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A definition of widgets with these versions.
pub(crate) fn widgets(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.demo.io"},
        "spec": {"group": "demo.io", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"}}})
}

pub(crate) fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
}

/// A server over TLS that answers JSON with what `answer` makes of the path and headers and JSON of a request.
pub(crate) async fn extension(
    authority: &Authority,
    answer: impl Fn(&http::request::Parts, Value) -> Value + Send + Sync + 'static,
) -> u16 {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let issued = authority.issue("extension", &[], Usage::Server, &names).unwrap();
    let tls = tls_config(&issued.certificate, &issued.key, None).unwrap();
    let listener = Listener::tcp(([127, 0, 0, 1], 0).into(), Some(tls)).await.unwrap();
    let port = listener.address().unwrap().port();
    let answer = Arc::new(answer);
    let (stop, stopping) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let _kept = stop;
        let handler: wharf_http::Handler = Arc::new(move |request| {
            let answer = Arc::clone(&answer);
            Box::pin(async move {
                let (parts, body) = request.into_parts();
                let bytes: Bytes = collect(body, 8 << 20).await.unwrap();
                let said = answer(&parts, serde_json::from_slice(&bytes).unwrap_or_default());
                let mut response = http::Response::new(full(said.to_string()));
                response
                    .headers_mut()
                    .insert("content-type", http::HeaderValue::from_static("application/json"));
                if said["code"].is_u64() {
                    *response.status_mut() =
                        http::StatusCode::from_u16(said["code"].as_u64().unwrap() as u16).unwrap();
                }
                response
            })
        });
        listener.serve(handler, stopping).await;
    });
    port
}

pub(crate) fn bundle(authority: &Authority) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(authority.certificate())
}
