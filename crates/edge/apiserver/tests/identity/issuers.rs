//! Tokens of a provider of OpenID Connect on loopback.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use wharf_apiserver::{Authentication, OidcFlags, Security};
use wharf_http::Authority;

use super::support::{Api, extension};

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A key of a provider.
struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let bytes = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            id,
            pair: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes.as_ref(), &random)
                .unwrap(),
        }
    }

    fn public(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({"alg": "ES256", "kid": self.id})), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A provider, what it gives out as keys, and how often it was asked for them.
struct Provider {
    url: String,
    authority: String,
    keys: Arc<Mutex<Vec<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(keys: Vec<Value>) -> Self {
        let authority = Authority::create("provider").unwrap();
        let (keys, asked) = (Arc::new(Mutex::new(keys)), Arc::new(AtomicUsize::new(0)));
        let port = Arc::new(AtomicUsize::new(0));
        let (given, counted, known) = (Arc::clone(&keys), Arc::clone(&asked), Arc::clone(&port));
        let bound = extension(&authority, move |parts, _| {
            let url = format!("https://localhost:{}/realm", known.load(Ordering::SeqCst));
            match parts.uri.path() {
                "/realm/.well-known/openid-configuration" => {
                    json!({"issuer": url, "jwks_uri": format!("{url}/keys")})
                }
                "/realm/keys" => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    json!({"keys": *given.lock().unwrap()})
                }
                _ => json!({"code": 404}),
            }
        })
        .await;
        port.store(usize::from(bound), Ordering::SeqCst);
        let url = format!("https://localhost:{bound}/realm");
        Self { url, authority: authority.certificate().to_owned(), keys, asked }
    }

    fn flags(&self) -> OidcFlags {
        OidcFlags {
            issuer_url: self.url.clone(),
            client_id: "wharf".into(),
            username_prefix: Some("oidc:".into()),
            groups_claim: "groups".into(),
            authority: self.authority.clone(),
            signing_algorithms: vec!["ES256".into()],
            ..OidcFlags::default()
        }
    }

    fn claims(&self, subject: &str) -> Value {
        json!({"iss": self.url, "aud": "wharf", "sub": subject, "exp": 4_000_000_000_u32, "groups": ["dev"]})
    }
}

async fn who(api: &Api, token: &str) -> Result<Value, u16> {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let answer = api.bearing(token, "POST", REVIEW, review).await;
    if answer.code == 201 { Ok(answer.body["status"]["userInfo"].clone()) } else { Err(answer.code) }
}

#[tokio::test]
async fn tokens_of_a_provider_are_believed_and_no_others() {
    let (first, second) = (Key::new("one"), Key::new("two"));
    let provider = Provider::start(vec![first.public()]).await;
    let security = Security { issuers: vec![provider.flags().issuer().unwrap()], ..Security::default() };
    let api = Api::start_secured(None, security).await;
    let claims = provider.claims("jane");
    let user = who(&api, &first.sign(&claims)).await.unwrap();
    assert_eq!(user, json!({"username": "oidc:jane", "groups": ["dev", "system:authenticated"]}));

    let change = |name: &str, value: Value| {
        let mut claims = provider.claims("jane");
        claims[name] = value;
        first.sign(&claims)
    };
    for (name, value) in
        [("exp", json!(1)), ("aud", json!("other")), ("iss", json!("https://other")), ("sub", json!(null))]
    {
        assert_eq!(who(&api, &change(name, value)).await, Err(401), "{name}");
    }
    let mut forged = first.sign(&claims);
    forged.replace_range(forged.len() - 8..forged.len() - 4, "AAAA");
    assert_eq!(who(&api, &forged).await, Err(401), "a signature that is none");
    // Nobody makes the server ask a provider again and again.
    let asked = provider.asked.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(who(&api, &second.sign(&claims)).await, Err(401), "a key it does not know");
    }
    assert!(provider.asked.load(Ordering::SeqCst) <= asked + 1);
    // Reviews by others say the same.
    let review = json!({"spec": {"token": first.sign(&claims)}});
    let reviewed = api.send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed.body["status"]["user"]["username"], "oidc:jane", "{reviewed:?}");
}

#[tokio::test]
async fn new_keys_are_fetched_when_a_token_needs_them() {
    let (first, second) = (Key::new("one"), Key::new("two"));
    let provider = Provider::start(vec![first.public()]).await;
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        "jwt": [{"issuer": {"url": provider.url, "audiences": ["x", "wharf"], "audienceMatchPolicy": "MatchAny",
                "certificateAuthority": provider.authority},
            "claimMappings": {"username": {"expression": "'cel:' + claims.sub"}}}]});
    let parsed = Authentication::parse(&config.to_string()).unwrap();
    let security =
        Security { issuers: parsed.issuers, anonymous: parsed.anonymous.unwrap(), ..Security::default() };
    let api = Api::start_secured(None, security).await;
    assert_eq!(who(&api, &first.sign(&provider.claims("jane"))).await.unwrap()["username"], "cel:jane");
    *provider.keys.lock().unwrap() = vec![second.public()];
    assert_eq!(who(&api, &second.sign(&provider.claims("joe"))).await.unwrap()["username"], "cel:joe");
    assert_eq!(who(&api, &first.sign(&provider.claims("jane"))).await, Err(401), "its key was withdrawn");
    // Somebody unknown gets no further than where it was said.
    let nobody = |path: &'static str| {
        let request = http::Request::get(path).body(wharf_http::empty()).unwrap();
        let server = Arc::clone(&api.server);
        async move { server.handle(request).await.status().as_u16() }
    };
    assert_eq!(nobody("/livez").await, 200);
    assert_eq!(nobody("/version").await, 401);
}

#[tokio::test]
async fn a_provider_out_of_order_takes_no_keys_away() {
    let (first, second) = (Key::new("one"), Key::new("two"));
    let provider = Provider::start(vec![first.public()]).await;
    let security = Security { issuers: vec![provider.flags().issuer().unwrap()], ..Security::default() };
    let api = Api::start_secured(None, security).await;
    let claims = provider.claims("jane");
    assert_eq!(who(&api, &first.sign(&claims)).await.unwrap()["username"], "oidc:jane");
    provider.keys.lock().unwrap().clear();
    let asked = provider.asked.load(Ordering::SeqCst);
    assert_eq!(who(&api, &second.sign(&claims)).await, Err(401));
    assert_eq!(provider.asked.load(Ordering::SeqCst), asked + 1, "it was asked, and had none");
    assert_eq!(who(&api, &first.sign(&claims)).await.unwrap()["username"], "oidc:jane");
}
