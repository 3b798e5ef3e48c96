//! API aggregation: groups and versions that extension API servers serve, as APIServices say.
//!
//! A request for such a group goes to the server behind it, with who asks in headers that the server believes because
//! the connection proves itself by the front proxy's certificate. Whether a server answers is looked at again and
//! again, and said in its APIService's status. The server's own groups have APIServices too, which tell nothing new.
//! Source: Kubernetes' `apiregistration.k8s.io/v1` APIService and its "authenticating proxy" (X-Remote headers).

mod discover;
mod watch;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use serde_json::Value;
use wharf_api::status::Status;
use wharf_http::{Body, Issued};

use crate::{
    ApiServer, Context, Identity,
    callout::{self, Callout},
    derived::Derived,
    proxy::{drop_claims, pass_on},
    storage::Snapshot,
};

pub(crate) use discover::{Known, Remote, remotes};
pub(crate) use watch::keep_current;

pub(crate) const API_SERVICES: &str = "apiservices.apiregistration.k8s.io";

/// How the server proves to extension servers that it may speak for others.
#[derive(Debug, Clone)]
pub struct FrontProxy {
    /// The authority of the certificate, which extension servers trust for this alone (PEM).
    pub authority: String,
    /// The certificate of the common name [`FrontProxy::NAME`].
    pub identity: Issued,
}

impl FrontProxy {
    /// The only common name that extension servers are told to believe.
    pub const NAME: &'static str = "front-proxy-client";
}

/// A registered group and version that another server serves.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub name: String,
    pub group: String,
    pub version: String,
    pub group_priority: i64,
    pub version_priority: i64,
    pub available: bool,
    namespace: String,
    service: String,
    port: u64,
    authority: Value,
    insecure: bool,
}

/// APIServices compiled, the most important groups and versions first.
pub(crate) struct Services(Derived<Vec<Service>>);

impl Services {
    pub(crate) const fn new() -> Self {
        Self(Derived::of(API_SERVICES))
    }

    pub(crate) fn all(&self, server: &ApiServer) -> Arc<Vec<Service>> {
        self.0.get(&server.storage, compile)
    }

    /// Who serves this version of this group.
    pub(crate) fn of(&self, server: &ApiServer, group: &str, version: &str) -> Option<Service> {
        self.all(server).iter().find(|s| s.group == group && s.version == version).cloned()
    }
}

fn compile(objects: &Snapshot) -> Vec<Service> {
    let mut all: Vec<Service> =
        objects.entries.values().filter_map(|entry| Service::read(&entry.object())).collect();
    all.sort_by_key(|service| std::cmp::Reverse((service.group_priority, service.version_priority)));
    all
}

impl Service {
    /// None for those the server itself stands behind.
    fn read(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let service = spec["service"].as_object()?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        Some(Self {
            name: wharf_api::meta::name(object).to_owned(),
            group: text(spec.get("group")),
            version: text(spec.get("version")),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or_default(),
            version_priority: spec["versionPriority"].as_i64().unwrap_or_default(),
            available: conditions.into_iter().any(|c| c["type"] == "Available" && c["status"] == "True"),
            namespace: text(service.get("namespace")),
            service: text(service.get("name")),
            port: service.get("port").and_then(Value::as_u64).unwrap_or(443),
            authority: spec["caBundle"].clone(),
            insecure: spec["insecureSkipTLSVerify"] == true,
        })
    }

    /// Sends a request there as somebody.
    pub(crate) async fn send(
        &self,
        server: &ApiServer,
        who: &Identity,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, String> {
        let authority = callout::authority(&self.authority)?;
        let callout = Callout::service(server, &self.namespace, &self.service, self.port, authority)?;
        speak_for(who, request.headers_mut());
        if let Ok(host) = HeaderValue::from_str(&format!("{}.{}.svc", self.service, self.namespace)) {
            request.headers_mut().insert(header::HOST, host);
        }
        callout.forward_for(server, request, self.insecure).await
    }
}

const USER: HeaderName = HeaderName::from_static("x-remote-user");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

/// Who asks, for a server that believes it; what the client itself says of that is dropped.
fn speak_for(who: &Identity, headers: &mut HeaderMap) {
    drop_claims(headers, &["x-remote-", "impersonate-"]);
    let mut add = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(name, value);
        }
    };
    add(USER, &who.user);
    if !who.uid.is_empty() {
        add(UID, &who.uid);
    }
    who.groups.iter().for_each(|group| add(GROUP, group));
    for (key, values) in &who.extra {
        let escaped =
            percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        if let Ok(name) = HeaderName::from_bytes(format!("{EXTRA}{}", escaped.to_lowercase()).as_bytes()) {
            values.iter().for_each(|value| add(name.clone(), value));
        }
    }
}

/// Passes a request on to the server behind its group and version.
pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    context: &Context,
    service: &Service,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if !service.available {
        return Err(Status::new(503, "ServiceUnavailable", "service unavailable"));
    }
    let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let uri: Uri = path.parse().map_err(|_| Status::bad_request("the path is not usable"))?;
    pass_on(request, uri, |request| service.send(server, &context.identity, request)).await
}

/// Gets JSON from an extension server as the platform itself.
async fn get(
    server: &ApiServer,
    service: &Service,
    path: &str,
    accept: &str,
    limit: Duration,
) -> Result<Value, String> {
    let request = Request::get(path).header(header::ACCEPT, accept).body(wharf_http::empty());
    let request = request.map_err(|error| error.to_string())?;
    let who = Identity::new("system:kube-aggregator", &["system:masters"]);
    let exchange = async {
        let response = service.send(server, &who, request).await?;
        let status = response.status();
        let bytes = wharf_http::collect(response.into_body(), 8 << 20).await.map_err(|e| e.to_string())?;
        match status.is_success() {
            true => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            false => Err(format!("bad status from {path}: {}", status.as_u16())),
        }
    };
    tokio::time::timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(format!("no answer from {path} in time")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_says_who_asks() {
        let mut headers = HeaderMap::new();
        headers.insert(USER, HeaderValue::from_static("admin"));
        headers.append(GROUP, HeaderValue::from_static("system:masters"));
        headers.append(GROUP, HeaderValue::from_static("more"));
        headers.insert("x-remote-extra-scope", HeaderValue::from_static("all"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"));
        let mut who = Identity::new("ann", &["dev"]);
        who.extra.push(("a.b/C".into(), vec!["1".into()]));
        speak_for(&who, &mut headers);
        assert_eq!(headers[USER], "ann");
        assert_eq!(headers.get_all(GROUP).iter().collect::<Vec<_>>(), ["dev"]);
        assert_eq!(headers["x-remote-extra-a%2eb%2fc"], "1");
        assert_eq!(headers.len(), 3);
    }
}
