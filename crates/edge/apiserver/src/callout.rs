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
use http::{Method, Request, header};
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

/// The clients, by the authority they trust.
pub(crate) struct Clients {
    by_authority: Mutex<HashMap<String, Client>>,
    anybody: Client,
    /// Those that show the front proxy's certificate, by the authority they trust; none trusts anybody.
    speaking: Mutex<HashMap<Option<String>, Client>>,
    front_proxy: Option<Issued>,
}

impl Clients {
    pub(crate) fn new(front_proxy: Option<Issued>) -> Self {
        let anybody = Client::new(ClientConfig { trust: Trust::Anything, ..ClientConfig::default() });
        Self { by_authority: Mutex::default(), anybody, speaking: Mutex::default(), front_proxy }
    }

    /// A client whose servers may believe what it says of others.
    fn speaking(&self, authority: Option<&str>) -> Client {
        let mut all = self.speaking.lock().unwrap_or_else(PoisonError::into_inner);
        let key = authority.map(str::to_owned);
        if all.len() >= MAX_CLIENTS && !all.contains_key(&key) {
            all.clear();
        }
        let make = || {
            let trust = authority.map_or(Trust::Anything, trust);
            let identity = self.front_proxy.clone();
            Client::new(ClientConfig { trust, identity, http1_only: true, ..ClientConfig::default() })
        };
        all.entry(key).or_insert_with(make).clone()
    }
}

impl Clients {
    /// Trusts everybody, for what clients reach through the proxy and judge themselves.
    pub(crate) fn anybody(&self) -> &Client {
        &self.anybody
    }

    pub(crate) fn get(&self, authority: &str) -> Client {
        let mut all = self.by_authority.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_CLIENTS && !all.contains_key(authority) {
            all.clear();
        }
        let make = || Client::new(ClientConfig { trust: trust(authority), ..ClientConfig::default() });
        all.entry(authority.to_owned()).or_insert_with(make).clone()
    }
}

fn trust(authority: &str) -> Trust {
    match authority {
        "" => Trust::System,
        pem => Trust::Authority(pem.to_owned()),
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

    /// Sends a request whose path and query are `request`'s, and gives the response as it comes.
    pub(crate) async fn forward(
        &self,
        server: &ApiServer,
        request: Request<Body>,
    ) -> Result<http::Response<Body>, String> {
        let client = server.clients.get(&self.authority);
        let sent = match &self.target {
            Some(target) => Box::pin(client.send(target, request)).await,
            None => Box::pin(client.fetch(request)).await,
        };
        sent.map_err(|error| error.to_string())
    }

    /// Sends a request for somebody else, who is named in it; with `insecure` to whoever answers.
    pub(crate) async fn forward_for(
        &self,
        server: &ApiServer,
        request: Request<Body>,
        insecure: bool,
    ) -> Result<http::Response<Body>, String> {
        let client = server.clients.speaking((!insecure).then_some(self.authority.as_str()));
        let sent = match &self.target {
            Some(target) => Box::pin(client.send(target, request)).await,
            None => Box::pin(client.fetch(absolute(request, &self.url)?)).await,
        };
        sent.map_err(|error| error.to_string())
    }

    /// Sends JSON and reads JSON.
    ///
    /// # Errors
    /// A sentence about what went wrong, as upstream writes it where clients read it.
    pub(crate) async fn send(
        &self,
        server: &ApiServer,
        method: Method,
        body: &Value,
        timeout: u64,
    ) -> Result<Value, String> {
        let url = format!("{}{}timeout={timeout}s", self.url, if self.url.contains('?') { "&" } else { "?" });
        let request = Request::builder()
            .method(method)
            .uri(&url)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "wharf-apiserver")
            .body(full(body.to_string()))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.forward(server, request).await?;
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
