//! Calls to servers that clients register: webhooks and extension API servers.
//!
//! Where they are is said by a `clientConfig` with a URL or a service, whose address is that of the service in the
//! cluster; they prove themselves by the `caBundle`. Nothing is sent to a server that does not.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Request, header};
use serde_json::Value;
use wharf_http::{
    Body, Issued,
    client::{Client, ClientConfig, Protocol, Target, Trust},
    collect, full,
};

use crate::ApiServer;

/// Bytes of an answer at the most, as of a request to the API.
const MAX_ANSWER: usize = 3 << 20;
/// Authorities whose clients are kept.
const MAX_CLIENTS: usize = 256;

/// Whom a client believes, and whether it shows the front proxy's certificate.
type Manner = (Option<String>, bool);

/// The clients for servers of others.
pub(crate) struct Clients {
    known: Mutex<HashMap<Manner, Client>>,
    front_proxy: Option<Issued>,
}

impl Clients {
    pub(crate) fn new(front_proxy: Option<Issued>) -> Self {
        Self { known: Mutex::default(), front_proxy }
    }

    /// Trusts everybody, for what clients reach through the proxy and judge themselves.
    pub(crate) fn anybody(&self) -> Client {
        self.get(None, false)
    }

    /// Trusts these authorities in PEM, or those of this machine where there are none.
    pub(crate) fn trusting(&self, authority: &str) -> Client {
        self.get(Some(authority), false)
    }

    /// Trusts an authority, that of the system where it is empty, or anybody; where it `speaks`, its servers may believe
    /// what it says of others.
    fn get(&self, authority: Option<&str>, speaks: bool) -> Client {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let manner = (authority.map(str::to_owned), speaks);
        if known.len() >= MAX_CLIENTS && !known.contains_key(&manner) {
            known.clear();
        }
        let make = || {
            let trust = match authority {
                None => Trust::Anything,
                Some("") => Trust::System,
                Some(pem) => Trust::Authority(pem.to_owned()),
            };
            let identity = self.front_proxy.clone().filter(|_| speaks);
            Client::new(ClientConfig { trust, identity, http1_only: speaks, ..ClientConfig::default() })
        };
        known.entry(manner).or_insert_with(make).clone()
    }
}

/// A server to call.
#[derive(Debug, Clone)]
pub(crate) struct Callout {
    /// Where to connect, if a name does not have to be looked up.
    target: Option<Target>,
    url: String,
    authority: String,
}

impl Callout {
    /// From a `clientConfig`.
    ///
    /// # Errors
    /// A sentence when it leads nowhere.
    pub(crate) fn of(server: &ApiServer, config: &Value) -> Result<Self, String> {
        let authority = authority(&config["caBundle"])?;
        if let Some(url) = config["url"].as_str() {
            return Ok(Self { target: None, url: url.to_owned(), authority });
        }
        let service = &config["service"];
        let text = |name: &str| service[name].as_str().unwrap_or_default();
        let port = service["port"].as_u64().unwrap_or(443);
        let mut callout = Self::service(server, text("namespace"), text("name"), port, authority)?;
        callout.url.push_str(text("path"));
        Ok(callout)
    }

    /// A port of a service, over TLS.
    pub(crate) fn service(
        server: &ApiServer,
        namespace: &str,
        name: &str,
        port: u64,
        authority: String,
    ) -> Result<Self, String> {
        let host = format!("{name}.{namespace}.svc");
        let url = format!("https://{host}:{port}");
        let missing = || format!("service {name:?} not found");
        let service = server.storage.get("services", &format!("{namespace}/{name}")).ok_or_else(missing)?;
        let spec = &service.object()["spec"];
        if let Some(external) = spec["externalName"].as_str().filter(|_| spec["type"] == "ExternalName") {
            return Ok(Self { target: None, url: format!("https://{external}:{port}"), authority });
        }
        let ports = spec["ports"].as_array().into_iter().flatten();
        if !ports.into_iter().any(|p| p["port"].as_u64() == Some(port)) {
            return Err(format!("no service port {port} found for service {name:?}"));
        }
        let address = spec["clusterIP"].as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let (Some(address), Ok(port)) = (address, u16::try_from(port)) else {
            return Err(format!("service {name:?} has no address in the cluster"));
        };
        let target = Target { address: SocketAddr::new(address, port), protocol: Protocol::Tls(host) };
        Ok(Self { target: Some(target), url, authority })
    }

    /// Sends a request for somebody else, who is named in it; with `insecure` to whoever answers.
    pub(crate) async fn forward_for(
        &self,
        server: &ApiServer,
        request: Request<Body>,
        insecure: bool,
    ) -> Result<http::Response<Body>, String> {
        let client = server.clients.get((!insecure).then_some(self.authority.as_str()), true);
        let sent = match &self.target {
            Some(target) => Box::pin(client.send(target, request)).await,
            None => Box::pin(client.fetch(absolute(request, &self.url)?)).await,
        };
        sent.map_err(|error| error.to_string())
    }

    /// Posts JSON and reads JSON.
    ///
    /// # Errors
    /// A sentence about what went wrong, as upstream writes it where clients read it.
    pub(crate) async fn post(&self, server: &ApiServer, body: &Value, timeout: u64) -> Result<Value, String> {
        let url = format!("{}{}timeout={timeout}s", self.url, if self.url.contains('?') { "&" } else { "?" });
        let request = Request::post(&url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "wharf-apiserver")
            .body(full(body.to_string()))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let client = server.clients.get(Some(&self.authority), false);
            let response = match &self.target {
                Some(target) => Box::pin(client.send(target, request)).await,
                None => Box::pin(client.fetch(request)).await,
            };
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            let bytes = collect(response.into_body(), MAX_ANSWER).await.map_err(|e| e.to_string())?;
            if !status.is_success() {
                let text: String = String::from_utf8_lossy(&bytes).trim().chars().take(200).collect();
                return Err(format!("the server answered {status}: {text}"));
            }
            serde_json::from_slice(&bytes).map_err(|error| format!("the answer is not JSON: {error}"))
        };
        let answer = tokio::time::timeout(Duration::from_secs(timeout), exchange).await;
        let answer = answer.unwrap_or_else(|_| Err("context deadline exceeded".into()));
        answer.map_err(|why| format!("Post {url:?}: {why}"))
    }
}

fn absolute(request: Request<Body>, root: &str) -> Result<Request<Body>, String> {
    let (mut parts, body) = request.into_parts();
    parts.uri = format!("{root}{}", parts.uri).parse().map_err(|_| "the path is not usable".to_owned())?;
    Ok(Request::from_parts(parts, body))
}

/// PEM from a `caBundle`.
pub(crate) fn authority(bundle: &Value) -> Result<String, String> {
    let Some(text) = bundle.as_str().filter(|text| !text.is_empty()) else { return Ok(String::new()) };
    let bytes = STANDARD.decode(text).map_err(|_| "caBundle is not base64".to_owned())?;
    String::from_utf8(bytes).map_err(|_| "caBundle is not PEM".to_owned())
}
