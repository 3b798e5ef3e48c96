//! `proxy` of pods, services and nodes: HTTP requests passed on to what runs in the cluster.
//!
//! The name in the path may carry a scheme and a port: `https:web:8443`. What answers is not verified over TLS, as
//! upstream: whoever may use the proxy sees whatever answers there.
//! Source: Kubernetes API, connect verbs of pods, services and nodes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use serde_json::{Value, json};
use wharf_api::{resource::Resource, status::Status};
use wharf_http::{
    Body,
    client::{Protocol, Target},
    collect, full, upgrade, upgraded,
};

use crate::{ApiServer, Context, admission, discovery::proxy_options, respond, storage::Snapshot};

/// Headers that concern one connection only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Address<'a> {
    secure: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Address<'a> {
    fn of(text: &'a str) -> Result<Self, Status> {
        let wrong =
            || Status::bad_request(format!("invalid proxy request {text:?}: it is no [scheme:]name[:port]"));
        let (secure, name, port) = match text.split(':').collect::<Vec<_>>()[..] {
            [name] => (false, name, ""),
            [name, port] => (false, name, port),
            ["https", name, port] => (true, name, port),
            ["http" | "", name, port] => (false, name, port),
            _ => return Err(wrong()),
        };
        if name.is_empty() { Err(wrong()) } else { Ok(Self { secure, name, port }) }
    }

    fn port_or(&self, default: Option<u64>) -> Result<u16, Status> {
        let number = if self.port.is_empty() { default } else { self.port.parse().ok() };
        let usual = if self.secure { 443 } else { 80 };
        u16::try_from(number.unwrap_or(if self.port.is_empty() { usual } else { 0 }))
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Status::bad_request(format!("invalid port {:?}", self.port)))
    }
}

pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let path = after_proxy(request.uri().path());
    if path.is_none() && matches!(*request.method(), http::Method::GET | http::Method::HEAD) {
        return Ok(with_slash(request.uri()));
    }
    let path = path.unwrap_or_default().to_owned();
    let named = context.info.name.clone();
    let address = Address::of(&named)?;
    let target = match resource.gvk.kind.as_str() {
        "Pod" => pod(server, &context.info.namespace, &address)?,
        "Service" => service(server, &context.info.namespace, &address)?,
        _ => node(server, &address)?,
    };
    context.info.name = address.name.to_owned();
    let kind = proxy_options(&resource.gvk.kind);
    admission::connect(server, context, resource, kind, json!({"path": format!("/{path}")})).await?;

    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    let uri: Uri =
        format!("/{path}{query}").parse().map_err(|_| Status::bad_request("the path is not usable"))?;
    let prefix =
        request.uri().path().strip_suffix(path.as_str()).unwrap_or_default().trim_end_matches('/').to_owned();
    let client = server.clients.anybody();
    let send = |request| async move {
        client.send(&target, addressed(request, &target)).await.map_err(|error| error.to_string())
    };
    let mut response = pass_on(request, uri, send).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    moved(response.headers_mut(), &prefix);
    links(response, &prefix).await
}

/// Passes a request on as one for `uri`, and gives back the response; a connection that changes its protocol goes on as
/// the client's.
pub(crate) async fn pass_on<F>(
    mut request: Request<Body>,
    uri: Uri,
    send: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, Status>
where
    F: Future<Output = Result<Response<Body>, String>>,
{
    let mine = request.headers().contains_key(header::UPGRADE).then(|| upgrade(&mut request));
    let (mut parts, body) = request.into_parts();
    parts.uri = uri;
    parts.version = http::Version::HTTP_11;
    parts.extensions = http::Extensions::new();
    if mine.is_none() {
        clean(&mut parts.headers);
    }
    // Who the client is to the API is no business of what runs behind it.
    drop_claims(&mut parts.headers, &["impersonate-"]);
    let sent = send(Request::from_parts(parts, body)).await;
    let mut response = sent.map_err(|why| {
        Status::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
    })?;
    if let Some(mine) = mine.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
        let theirs = upgraded(&mut response);
        tokio::spawn(async move {
            if let (Ok(mut mine), Ok(mut theirs)) = (mine.await, theirs.await) {
                drop(tokio::io::copy_bidirectional(&mut mine, &mut theirs).await);
            }
        });
        return Ok(response);
    }
    clean(response.headers_mut());
    Ok(response)
}

/// Links of a page that lead to the root of its server lead there through the proxy.
async fn links(response: Response<Body>, prefix: &str) -> Result<Response<Body>, Status> {
    if !has_links(response.headers()) {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let page = collect(body, MAX_PAGE).await;
    let page =
        page.map_err(|error| Status::new(502, "BadGateway", format!("the page cannot be read: {error}")))?;
    let page = rewritten(&page, prefix);
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(page.len()));
    Ok(Response::from_parts(parts, full(page)))
}

fn has_links(headers: &HeaderMap) -> bool {
    let header = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let length = header(header::CONTENT_LENGTH).and_then(|l| l.parse::<usize>().ok());
    header(header::CONTENT_TYPE).is_some_and(|t| t.starts_with("text/html"))
        && header(header::CONTENT_ENCODING).is_none()
        && length.is_none_or(|l| l <= MAX_PAGE)
}

/// Bytes of a page whose links are looked at.
const MAX_PAGE: usize = 8 << 20;
/// Attributes that hold links.
const LINKS: [&[u8]; 3] = [b"href", b"src", b"action"];

/// Within tags, `href="/x"` becomes `href="PREFIX/x"`.
fn rewritten(page: &[u8], prefix: &str) -> Vec<u8> {
    let (mut out, mut at, mut in_tag) = (Vec::with_capacity(page.len() + 256), 0, false);
    while let Some(&byte) = page.get(at) {
        in_tag = match byte {
            b'<' => true,
            b'>' => false,
            _ => in_tag,
        };
        out.push(byte);
        at += 1;
        if !in_tag || !byte.is_ascii_whitespace() {
            continue;
        }
        let rest = page.get(at..).unwrap_or_default();
        let link = LINKS
            .iter()
            .find(|name| rest.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name)));
        let Some(name) = link else { continue };
        let value = rest.get(name.len()..).unwrap_or_default();
        if let [b'=', quote @ (b'"' | b'\''), b'/', after, ..] = value
            && *after != b'/'
        {
            out.extend_from_slice(rest.get(..name.len()).unwrap_or_default());
            out.extend_from_slice(&[b'=', *quote]);
            out.extend_from_slice(prefix.as_bytes());
            at += name.len() + 2;
        }
    }
    out
}

/// What follows `/proxy/` in a path as it was sent; none when nothing does.
fn after_proxy(path: &str) -> Option<&str> {
    // Before it: api, version, resource and name, and where there is one the namespace.
    let before = if path.split('/').nth(3) == Some("namespaces") { 7 } else { 5 };
    path.splitn(before + 2, '/').nth(before + 1)
}

/// Relative links of what answers need the slash.
fn with_slash(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = respond::response(301, "text/plain", "");
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A request to a server that learns how it was reached.
fn addressed(mut request: Request<Body>, target: &Target) -> Request<Body> {
    let uri = header_of(&request.uri().to_string());
    let headers = request.headers_mut();
    if let Some(host) = headers.remove(header::HOST) {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-uri", uri);
    headers.insert(header::HOST, header_of(&target.address.to_string()));
    request
}

/// Drops what a client says of who it is: in `Authorization` and headers that begin so.
pub(crate) fn drop_claims(headers: &mut HeaderMap, prefixes: &[&str]) {
    let claimed = |name: &&HeaderName| {
        **name == header::AUTHORIZATION || prefixes.iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    let claimed: Vec<HeaderName> = headers.keys().filter(claimed).cloned().collect();
    for name in claimed {
        headers.remove(name);
    }
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn clean(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// A redirect within what answers leads there through the proxy.
fn moved(headers: &mut HeaderMap, prefix: &str) {
    let location = headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
    if let Some(path) = location.filter(|l| l.starts_with('/') && !l.starts_with("//")) {
        let through = header_of(&format!("{prefix}{path}"));
        headers.insert(header::LOCATION, through);
    }
}

fn target(ip: &str, port: u16, secure: bool) -> Result<Target, Status> {
    let ip: IpAddr = ip.parse().map_err(|_| Status::new(503, "ServiceUnavailable", "address not allowed"))?;
    let protocol = if secure { Protocol::Tls(ip.to_string()) } else { Protocol::Http1 };
    Ok(Target { address: SocketAddr::new(ip, port), protocol })
}

fn pod(server: &ApiServer, namespace: &str, address: &Address<'_>) -> Result<Target, Status> {
    let key = format!("{namespace}/{}", address.name);
    let pod =
        server.storage.get("pods", &key).ok_or_else(|| Status::not_found("pods", address.name))?.object();
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let first = containers
        .flat_map(|c| c["ports"].as_array().into_iter().flatten())
        .find_map(|p| p["containerPort"].as_u64());
    let ip = pod["status"]["podIP"].as_str().filter(|ip| !ip.is_empty());
    let ip = ip.ok_or_else(|| Status::new(503, "ServiceUnavailable", "the pod has no address yet"))?;
    target(ip, address.port_or(first)?, address.secure)
}

fn service(server: &ApiServer, namespace: &str, address: &Address<'_>) -> Result<Target, Status> {
    let key = format!("{namespace}/{}", address.name);
    let missing = || Status::not_found("services", address.name);
    let service = server.storage.get("services", &key).ok_or_else(missing)?.object();
    let ports: Vec<&Value> = service["spec"]["ports"].as_array().into_iter().flatten().collect();
    let wanted = match (&ports[..], address.port) {
        ([only], "") => Some(*only),
        (all, "") => all.iter().copied().find(|p| p["name"].as_str().unwrap_or_default().is_empty()),
        (all, port) => {
            let number: Option<u64> = port.parse().ok();
            let fits = |p: &&&Value| p["name"] == port || number.is_some_and(|number| p["port"] == number);
            all.iter().find(fits).copied()
        }
    };
    let none = || {
        let message = format!("no service port {:?} found for service {:?}", address.port, address.name);
        Status::new(503, "ServiceUnavailable", message)
    };
    let name = wanted.ok_or_else(none)?["name"].as_str().unwrap_or_default();
    let slices = server.storage.cache("endpointslices.discovery.k8s.io").snapshot();
    let ready = ready(&slices, namespace, address.name, name);
    let number = usize::from(u16::from_ne_bytes(wharf_base::random_bytes()));
    let chosen = ready.get(number % ready.len().max(1));
    let unavailable = || {
        Status::new(
            503,
            "ServiceUnavailable",
            format!("no endpoints available for service {:?}", address.name),
        )
    };
    let (ip, port) = chosen.ok_or_else(unavailable)?;
    target(ip, *port, address.secure)
}

/// Addresses of ready endpoints with the number their port of this name has.
fn ready(slices: &Snapshot, namespace: &str, service: &str, port_name: &str) -> Vec<(String, u16)> {
    let mut all = Vec::new();
    for entry in slices.range(namespace, None) {
        if entry.labels.get("kubernetes.io/service-name").is_none_or(|name| name != service) {
            continue;
        }
        let slice = entry.object();
        let ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.into_iter().find(|p| p["name"].as_str().unwrap_or_default() == port_name);
        let number = port.and_then(|p| p["port"].as_u64()).and_then(|n| u16::try_from(n).ok());
        let Some(number) = number else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] != false
                && let Some(ip) = endpoint["addresses"][0].as_str()
            {
                all.push((ip.to_owned(), number));
            }
        }
    }
    all
}

fn node(server: &ApiServer, address: &Address<'_>) -> Result<Target, Status> {
    let node = server.storage.get("nodes", &format!("/{}", address.name));
    let node = node.ok_or_else(|| Status::not_found("nodes", address.name))?.object();
    let own = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    if address.port.is_empty() && own.is_none() {
        let message = format!("node {:?} has no kubelet endpoint: name a port, as in {0}:8080", address.name);
        return Err(Status::new(503, "ServiceUnavailable", message));
    }
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let internal =
        addresses.into_iter().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str());
    let ip = internal.ok_or_else(|| Status::new(503, "ServiceUnavailable", "the node has no address"))?;
    target(ip, address.port_or(own)?, address.secure || address.port.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        let is =
            |text, secure, name, port| assert_eq!(Address::of(text).unwrap(), Address { secure, name, port });
        is("web", false, "web", "");
        is("web:http", false, "web", "http");
        is("https:web:443", true, "web", "443");
        is("http:web:", false, "web", "");
        assert!(Address::of("ftp:web:1").is_err());
        assert!(Address::of("").is_err());
    }

    #[test]
    fn links_to_the_root_go_through_the_proxy() {
        let page = b"<a href=\"/x\">href=\"/y\"</a><img alt='' src='/z'><a href=\"//other/\"><a href=\"x\">";
        let expect =
            "<a href=\"/p/x\">href=\"/y\"</a><img alt='' src='/p/z'><a href=\"//other/\"><a href=\"x\">";
        assert_eq!(String::from_utf8(rewritten(page, "/p")).unwrap(), expect);
    }

    #[test]
    fn the_rest_of_the_path_is_passed_on_as_it_is() {
        let rest = |path| after_proxy(path);
        assert_eq!(rest("/api/v1/namespaces/d/pods/p/proxy/a%2Fb/proxy/"), Some("a%2Fb/proxy/"));
        assert_eq!(rest("/api/v1/namespaces/d/pods/p/proxy/"), Some(""));
        assert_eq!(rest("/api/v1/namespaces/d/pods/p/proxy"), None);
        assert_eq!(rest("/api/v1/nodes/n/proxy/logs"), Some("logs"));
        assert_eq!(rest("/api/v1/namespaces/proxy/pods/proxy/proxy/x"), Some("x"));
    }
}
