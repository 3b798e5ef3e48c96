//! Service account tokens: signed JWTs (RFC 7519, ES256 of RFC 7518) with Kubernetes' claims.
//!
//! Signed with ring, which TLS brings along; the JWT libraries would add a second crypto stack.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use wharf_base::Timestamp;

use super::{
    Identity,
    jwt::{Jwt, Key, keys},
};

/// Who issues tokens, and their default audience.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The key that signs service account tokens.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// What its tokens are verified by.
    public: Vec<Key>,
}

/// A text that is no key.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the token signing key is not usable: {0}")]
pub struct KeyError(String);

impl SigningKey {
    /// A new key in PKCS #8, to store and to [`SigningKey::open`].
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|document| document.as_ref().to_vec())
            .map_err(|e| KeyError(e.to_string()))
    }

    /// Opens a key made by [`SigningKey::generate`].
    ///
    /// # Errors
    /// When the bytes are no such key.
    pub fn open(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|e| KeyError(e.to_string()))?;
        let mut key = Self { pair, random, public: Vec::new() };
        key.public = keys(&key.key_set());
        Ok(key)
    }

    /// The public key as a JSON Web Key Set (RFC 7517).
    pub(crate) fn key_set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(32.min(point.len().saturating_sub(1)));
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id(), "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    fn id(&self) -> String {
        wharf_base::Digest::of(self.pair.public_key()).hex()[..16].to_owned()
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": "ES256", "kid": self.id(), "typ": "JWT"});
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let message = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&self.random, message.as_bytes()).ok()?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn verify(&self, token: &str) -> Option<Value> {
        let jwt = Jwt::parse(token)?;
        jwt.is_signed_by(&self.public).then_some(jwt.claims)
    }
}

/// The service account a token is for, and what it is bound to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenSubject {
    pub namespace: String,
    pub account: String,
    pub uid: String,
    /// Kind, name and uid of the object the token dies with.
    pub bound: Option<(String, String, String)>,
    /// Name and uid of the node of the pod it is bound to.
    pub node: Option<(String, String)>,
}

/// What a valid token says.
#[derive(Debug, Clone)]
pub(crate) struct Claims {
    pub subject: TokenSubject,
    pub audiences: Vec<String>,
    /// The token's own id (`jti`).
    pub id: String,
}

impl Claims {
    pub(crate) fn identity(&self) -> Identity {
        let TokenSubject { namespace, account, uid, bound, node } = &self.subject;
        let mut identity = Identity::new(
            format!("system:serviceaccount:{namespace}:{account}"),
            &[
                "system:serviceaccounts",
                &format!("system:serviceaccounts:{namespace}"),
                "system:authenticated",
            ],
        );
        identity.uid.clone_from(uid);
        if !self.id.is_empty() {
            let id = format!("JTI={}", self.id);
            identity.extra.push(("authentication.kubernetes.io/credential-id".into(), vec![id]));
        }
        if let Some((kind, name, uid)) = bound
            && kind == "Pod"
        {
            identity.extra.extend([
                ("authentication.kubernetes.io/pod-name".into(), vec![name.clone()]),
                ("authentication.kubernetes.io/pod-uid".into(), vec![uid.clone()]),
            ]);
        }
        if let Some((name, uid)) = node {
            identity.extra.extend([
                ("authentication.kubernetes.io/node-name".into(), vec![name.clone()]),
                ("authentication.kubernetes.io/node-uid".into(), vec![uid.clone()]),
            ]);
        }
        identity
    }
}

impl SigningKey {
    /// A token for `subject` until `expires`.
    pub(crate) fn issue(
        &self,
        subject: &TokenSubject,
        audiences: &[String],
        now: Timestamp,
        expires: Timestamp,
    ) -> Option<String> {
        let mut kubernetes = json!({"namespace": subject.namespace,
            "serviceaccount": {"name": subject.account, "uid": subject.uid}});
        if let Some((kind, name, uid)) = &subject.bound {
            kubernetes[kind.to_lowercase()] = json!({"name": name, "uid": uid});
        }
        if let Some((name, uid)) = &subject.node {
            kubernetes["node"] = json!({"name": name, "uid": uid});
        }
        self.sign(&json!({
            "iss": ISSUER, "aud": audiences, "jti": crate::verbs::new_uid(),
            "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.account),
            "iat": now.as_second(), "nbf": now.as_second(), "exp": expires.as_second(),
            "kubernetes.io": kubernetes,
        }))
    }

    /// What a token says, when its signature, issuer and times are right.
    pub(crate) fn check(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let claims = self.verify(token)?;
        let time = |name: &str| claims[name].as_i64();
        // Clocks of nodes may differ a little.
        let valid = claims["iss"] == ISSUER
            && time("exp")? > now.as_second()
            && time("nbf").unwrap_or_default() <= now.as_second() + 60;
        if !valid {
            return None;
        }
        let private = &claims["kubernetes.io"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let bound = ["pod", "secret", "node"].iter().find_map(|kind| {
            let object = private.get(*kind)?;
            let kind = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
            Some((kind, text(&object["name"]), text(&object["uid"])))
        });
        let audiences = claims["aud"].as_array().into_iter().flatten().map(text).collect();
        let subject = TokenSubject {
            namespace: text(&private["namespace"]),
            account: text(&private["serviceaccount"]["name"]),
            uid: text(&private["serviceaccount"]["uid"]),
            node: match &bound {
                Some((kind, ..)) if kind == "Pod" && private["node"].is_object() => {
                    Some((text(&private["node"]["name"]), text(&private["node"]["uid"])))
                }
                _ => None,
            },
            bound,
        };
        Some(Claims { subject, audiences, id: text(&claims["jti"]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_checked() {
        let key = SigningKey::open(&SigningKey::generate().unwrap()).unwrap();
        let subject = TokenSubject {
            namespace: "n".into(),
            account: "a".into(),
            uid: "u".into(),
            bound: Some(("Pod".into(), "p".into(), "pu".into())),
            node: Some(("n1".into(), "nu".into())),
        };
        let at = |s| Timestamp::from_unix(s, 0);
        let token = key.issue(&subject, &["x".into()], at(1000), at(2000)).unwrap();
        assert_eq!(key.check(&token, at(1500)).unwrap().subject, subject);
        assert!(key.check(&token, at(2001)).is_none(), "expired");
        assert!(key.check(&token, at(900)).is_none(), "not yet");
        let other = SigningKey::open(&SigningKey::generate().unwrap()).unwrap();
        assert!(other.check(&token, at(1500)).is_none(), "another key");
        let (head, _) = token.rsplit_once('.').unwrap();
        assert!(key.check(&format!("{head}.AAAA"), at(1500)).is_none());
        assert!(key.check("x", at(1500)).is_none());
    }
}
