//! Who asks (authentication) and whether they may (authorization).

pub(crate) mod bootstrap_token;
pub(crate) mod identify;
mod jwt;
pub(crate) mod node;
pub(crate) mod oidc;
mod rbac;
mod token;

use http::{HeaderMap, Request, header};
use serde_json::{Value, json};
use wharf_api::status::Status;
use wharf_http::{Body, PeerCertificate};

pub(crate) use rbac::{Attributes, Authorizer, Bound, Decision};
pub(crate) use token::ISSUER;
pub use token::SigningKey;
pub(crate) use token::TokenSubject;

/// Who asks. Put into a request's extensions by code in this process, it is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// Unique id, or empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further attributes, such as a service account's pod.
    pub extra: Vec<(String, Vec<String>)>,
    /// Whether this is a part of the platform itself, which no name or group says.
    platform: bool,
}

impl Identity {
    /// A user with groups.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        Self { user: user.into(), uid: String::new(), groups, extra: Vec::new(), platform: false }
    }

    /// The platform's own parts.
    pub fn system() -> Self {
        let groups = ["system:masters", "system:authenticated"];
        Self { platform: true, ..Self::new("system:wharf", &groups) }
    }

    fn anonymous() -> Self {
        Self::new("system:anonymous", &["system:unauthenticated"])
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.user == "system:anonymous"
    }

    /// The platform's own parts, which ask in process. Whoever acts as `system:wharf`, or has a certificate of that
    /// name, is none.
    pub(crate) const fn is_platform(&self) -> bool {
        self.platform
    }

    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == "system:masters")
    }

    /// `authentication.k8s.io` UserInfo.
    pub(crate) fn to_json(&self) -> Value {
        let mut info = json!({"username": self.user, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = self.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        }
        info
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A token in WebSocket's protocol header, for browsers that cannot set others.
fn websocket_bearer(headers: &HeaderMap) -> Option<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded =
        protocols.split(',').find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

/// What a request shows of who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Somebody known by the connection, or nobody.
    Identity(Identity),
    /// A bearer token, to be checked.
    Token(String),
}

/// What a request shows of who asks.
pub(crate) fn shown(request: &Request<Body>) -> Shown {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return Shown::Identity(identity.clone());
    }
    // A certificate that names nobody shows nobody.
    let peer = request.extensions().get::<PeerCertificate>().filter(|peer| !peer.common_name.is_empty());
    if let Some(peer) = peer {
        let mut identity = Identity::new(peer.common_name.clone(), &[]);
        identity.groups = peer.organizations.clone();
        identity.groups.push("system:authenticated".into());
        return Shown::Identity(identity);
    }
    let token = bearer(request.headers()).map(str::to_owned).or_else(|| websocket_bearer(request.headers()));
    token.map_or_else(|| Shown::Identity(Identity::anonymous()), Shown::Token)
}

/// Whether two secrets are the same, in a time that tells nothing of where they differ.
pub(crate) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// The identity to act as, when the request impersonates somebody; the caller checks that it may.
pub(crate) fn impersonated(headers: &HeaderMap) -> Result<Option<Identity>, Status> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect()
    };
    let groups = texts("impersonate-group");
    match texts("impersonate-user").into_iter().next() {
        None if groups.is_empty() && !headers.contains_key("impersonate-uid") => Ok(None),
        None => Err(Status::bad_request(format!(
            "requested groups {groups:?} or a uid without impersonating a user"
        ))),
        Some(user) => {
            let mut identity = Identity {
                uid: texts("impersonate-uid").pop().unwrap_or_default(),
                ..Identity::new(user, &[])
            };
            identity.groups = groups;
            for name in headers.keys() {
                if let Some(key) = name.as_str().strip_prefix("impersonate-extra-") {
                    // Keys of attributes are small letters, as headers are; others are percent-encoded.
                    let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                    identity.extra.push((key, texts(name.as_str())));
                }
            }
            if let Some(account) = identity.user.strip_prefix("system:serviceaccount:")
                && identity.groups.is_empty()
            {
                let namespace = account.split(':').next().unwrap_or_default();
                identity.groups =
                    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
            }
            if !identity.groups.iter().any(|g| g == "system:unauthenticated") {
                identity.groups.push("system:authenticated".into());
            }
            Ok(Some(identity))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn showing(common_name: &str, token: &str) -> Shown {
        let mut request = Request::get("/").body(wharf_http::empty()).unwrap();
        let organizations = vec!["system:masters".to_owned()];
        request.extensions_mut().insert(PeerCertificate { common_name: common_name.into(), organizations });
        if !token.is_empty() {
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        shown(&request)
    }

    #[test]
    fn certificates_show_who_they_name() {
        let Shown::Identity(jane) = showing("jane", "t") else { panic!() };
        assert_eq!((jane.user.as_str(), jane.is_master()), ("jane", true));
        assert_eq!(showing("", "t"), Shown::Token("t".into()));
        assert_eq!(showing("", ""), Shown::Identity(Identity::anonymous()));
    }

    #[test]
    fn nobody_is_the_platform_by_its_name() {
        assert!(Identity::system().is_platform());
        let Shown::Identity(named) = showing("system:wharf", "") else { panic!() };
        assert!(!named.is_platform() && named.is_master());
        let mut headers = HeaderMap::new();
        headers.insert("impersonate-user", "system:wharf".parse().unwrap());
        headers.insert("impersonate-group", "system:masters".parse().unwrap());
        let acted = impersonated(&headers).unwrap().unwrap();
        assert!(!acted.is_platform() && acted.is_master());
    }
}
