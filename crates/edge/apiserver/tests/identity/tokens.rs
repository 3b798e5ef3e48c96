//! Bearer tokens: those that let machines join, and those of service accounts as others verify them.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use wharf_apiserver::{Identity, is_signed};

use super::support::Api;

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const TOKEN: &str = "abcdef.0123456789abcdef";

fn review() -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
}

fn secret(data: &[(&str, &str)]) -> Value {
    let given = [
        ("token-id", "abcdef"),
        ("token-secret", "0123456789abcdef"),
        ("usage-bootstrap-authentication", "true"),
    ];
    let data: serde_json::Map<String, Value> = given
        .iter()
        .chain(data)
        .map(|(key, value)| ((*key).to_owned(), STANDARD.encode(value).into()))
        .collect();
    json!({"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "data": data})
}

#[tokio::test]
async fn bootstrap_tokens_are_shown_while_they_last() {
    let api = Api::start().await;
    let code = async |token: &str| api.bearing(token, "POST", REVIEW, review()).await.code;
    assert_eq!(code(TOKEN).await, 401, "there is none yet");
    for (data, expect) in [
        (&[("auth-extra-groups", "system:bootstrappers:kubeadm:default-node-token")][..], 201),
        (&[("expiration", "2001-01-01T00:00:00Z")], 401),
        (&[("usage-bootstrap-authentication", "false")], 401),
        (&[("auth-extra-groups", "system:masters")], 401),
        (&[("token-id", "other1")], 401),
    ] {
        api.made(SECRETS, secret(data)).await;
        assert_eq!(code(TOKEN).await, expect, "{data:?}");
        assert_eq!(code("abcdef.0123456789abcdee").await, 401, "another secret");
        if expect == 201 {
            joins(&api).await;
        }
        api.send("DELETE", &format!("{SECRETS}/bootstrap-token-abcdef"), Value::Null).await;
    }
}

/// Who they are, and what they may.
async fn joins(api: &Api) {
    let who = api.bearing(TOKEN, "POST", REVIEW, review()).await;
    let info = &who.body["status"]["userInfo"];
    assert_eq!(info["username"], "system:bootstrap:abcdef");
    let groups =
        ["system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token", "system:authenticated"];
    assert_eq!(info["groups"], json!(groups));
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    assert_eq!(api.bearing(TOKEN, "GET", requests, Value::Null).await.code, 200);
    assert_eq!(api.bearing(TOKEN, "GET", SECRETS, Value::Null).await.code, 403);
    // Others can have it reviewed, too.
    let review = json!({"spec": {"token": TOKEN}});
    let reviewed = api.send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed.body["status"]["user"]["username"], "system:bootstrap:abcdef", "{reviewed:?}");
}

#[tokio::test]
async fn others_verify_service_account_tokens_by_discovery() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let asked = api.made(path, json!({"spec": {"audiences": ["vault"]}})).await;
    let token = asked["status"]["token"].as_str().unwrap();
    let found = api.get("/.well-known/openid-configuration").await.body;
    let claims = token.split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    assert_eq!((&claims["iss"], &claims["aud"]), (&found["issuer"], &json!(["vault"])));
    // The address of the keys is that of the issuer.
    let keys = found["jwks_uri"].as_str().unwrap().strip_prefix(found["issuer"].as_str().unwrap()).unwrap();
    let keys = api.get(keys).await.body;
    assert!(is_signed(token, &keys));
    assert!(!is_signed(&format!("{token}AAAA"), &keys));
    // It is not for this server.
    assert_eq!(api.bearing(token, "POST", REVIEW, review()).await.code, 401);
}

#[tokio::test]
async fn nobody_becomes_more_than_they_may() {
    let api = Api::start().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = |resource: &str, name: &str| json!({"verbs": ["impersonate"], "apiGroups": [""], "resources": [resource], "resourceNames": [name]});
    api.made(
        &format!("{rbac}/clusterroles"),
        json!({"metadata": {"name": "act"}, "rules": [rule("users", "bob"), rule("serviceaccounts", "robot")]}),
    )
    .await;
    api.made(
        &format!("{rbac}/clusterrolebindings"),
        json!({"metadata": {"name": "act"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "act"},
            "subjects": [{"kind": "User", "name": "ann"}]}),
    )
    .await;
    let ann = || Identity::new("ann", &["system:authenticated"]);
    let account = "system:serviceaccount:default:robot";
    for (headers, code) in [
        (&[("impersonate-user", "bob")][..], 200),
        (&[("impersonate-user", account)], 200),
        (&[("impersonate-user", "jim")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-group", "system:serviceaccounts:kube-system")], 403),
        (&[("impersonate-user", account), ("impersonate-group", "system:serviceaccounts:kube-system")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-uid", "1")], 403),
        (&[("impersonate-user", "bob"), ("impersonate-extra-scopes", "all")], 403),
        (&[("impersonate-uid", "1")], 400),
    ] {
        let answer = api.ask_with(ann(), "/version", headers).await;
        assert_eq!(answer.code, code, "{headers:?}: {answer:?}");
    }
}
