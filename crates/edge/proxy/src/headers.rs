//! What a proxy does to headers: RFC 9110 §7.6, RFC 9113 §8.2, and the `X-Forwarded` ones.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
    header::{self, CONNECTION, COOKIE, HOST, TE, UPGRADE},
};
use wharf_http::Body;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    header::TRANSFER_ENCODING,
    UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    TE,
];

/// Who asks, and how.
pub(crate) struct Origin<'a> {
    /// Address of the client.
    pub peer: Option<IpAddr>,
    /// The host asked for, as it was given.
    pub host: &'a str,
    /// Whether the client speaks TLS.
    pub secure: bool,
    /// Whether what the client says of others before it is believed.
    pub trusted: bool,
}

/// The host a request is for, with its port: the target's authority before `Host` (RFC 9112 §3.2.2).
pub(crate) fn host_of(request: &Request<Body>) -> Option<String> {
    if let Some(authority) = request.uri().authority() {
        let text = authority.as_str();
        return Some(text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().filter(|host| !host.is_empty()).map(str::to_owned),
        _ => None,
    }
}

/// A host without its port, in lower case.
pub(crate) fn bare_host(host: &str) -> String {
    let bare = match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    bare.to_ascii_lowercase()
}

/// Whether a path has an element of dots, plain or encoded: a backend would leave the prefix it was routed by.
pub(crate) fn climbs(path: &str) -> bool {
    let dots = |element: &str| {
        element.len() <= 6 && {
            let plain = element.to_ascii_lowercase().replace("%2e", ".");
            plain == ".." || plain == "."
        }
    };
    path.contains(['.', '%']) && path.split('/').any(dots)
}

/// The protocol a client wants to switch to. Not to HTTP/2, which each hop decides for itself.
pub(crate) fn wanted_upgrade(request: &Request<Body>) -> Option<HeaderValue> {
    let asked = request.version() == Version::HTTP_11 && names(request.headers(), &CONNECTION, "upgrade");
    let wanted = request.headers().get(UPGRADE).filter(|_| asked)?;
    (!wanted.as_bytes().to_ascii_lowercase().starts_with(b"h2c")).then(|| wanted.clone())
}

fn names(headers: &HeaderMap, list: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(list).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

/// Removes what is meant for one connection only.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    named.iter().filter(|name| **name != HOST).for_each(|name| {
        headers.remove(name);
    });
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes the headers of a request those of the proxy's own.
pub(crate) fn forward(headers: &mut HeaderMap, origin: &Origin<'_>, upgrade: Option<&HeaderValue>) {
    let trailers = names(headers, &TE, "trailers");
    strip(headers);
    headers.remove(header::EXPECT);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    join_cookies(headers);
    set(headers, HOST, origin.host);
    forwarded(headers, origin);
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn forwarded(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let before = match origin.trusted {
        true => headers.get(FORWARDED_FOR).and_then(|v| v.to_str().ok()).map(|list| format!("{list}, ")),
        false => {
            headers.remove(header::FORWARDED);
            None
        }
    };
    if let Some(peer) = origin.peer {
        set(headers, FORWARDED_FOR, &(before.unwrap_or_default() + &peer.to_canonical().to_string()));
    } else if !origin.trusted {
        headers.remove(FORWARDED_FOR);
    }
    for (name, value) in
        [(FORWARDED_PROTO, if origin.secure { "https" } else { "http" }), (FORWARDED_HOST, origin.host)]
    {
        if !origin.trusted || !headers.contains_key(&name) {
            set(headers, name, value);
        }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whether a request may be sent again although it may have been worked on (RFC 9110 §9.2.2).
pub(crate) fn idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}
