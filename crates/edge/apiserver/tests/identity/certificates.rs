//! Requests for certificates, before anybody signs them.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use wharf_apiserver::Identity;

use super::support::Api;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn pem(common_name: &str, organization: &str) -> String {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject.push(DnType::OrganizationName, organization);
    params.distinguished_name = subject;
    let key = KeyPair::generate().unwrap();
    STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
}

fn request(name: &str, common_name: &str, organization: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"request": pem(common_name, organization),
        "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}})
}

#[tokio::test]
async fn what_cannot_be_signed_is_refused_at_once() {
    let api = Api::start().await;
    api.made(REQUESTS, request("good", "jane", "people")).await;
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 7] = [
        (|spec| spec["request"] = "bm90aGluZw==".into(), "PEM block type must be CERTIFICATE REQUEST"),
        (|spec| spec["usages"] = json!([]), "usages must be provided"),
        (|spec| spec["usages"] = json!(["cooking"]), "Unsupported value: \"cooking\""),
        (|spec| spec["usages"] = json!(["any", "any"]), "Duplicate value: \"any\""),
        (|spec| spec["signerName"] = "nobody".into(), "must be a fully qualified domain"),
        (|spec| spec["signerName"] = "kubernetes.io/legacy-unknown".into(), "legacy signerName"),
        (|spec| spec["expirationSeconds"] = 599.into(), "may not specify a duration less than 600 seconds"),
    ];
    for (change, said) in changes {
        let mut object = request("bad", "jane", "people");
        change(&mut object["spec"]);
        let refused = api.send("POST", REQUESTS, object).await;
        assert!(refused.code == 422 && refused.message().contains(said), "{said}: {refused:?}");
    }
    let refused = api.send("POST", REQUESTS, request("root", "jane", "system:masters")).await;
    assert!(
        refused.code == 403 && refused.message().contains("system:masters group is not allowed"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn nodes_ask_for_themselves() {
    let api = Api::start().await;
    let node = Identity::new("system:node:a", &["system:nodes", "system:authenticated"]);
    for (common_name, code) in [("system:node:b", 403), ("system:node:a", 201)] {
        let mut object = request("r", common_name, "system:nodes");
        object["spec"]["signerName"] = "kubernetes.io/kube-apiserver-client-kubelet".into();
        let answer = api.ask(node.clone(), "POST", REQUESTS, "application/json", object).await;
        assert_eq!(answer.code, code, "{answer:?}");
    }
}

#[tokio::test]
async fn decisions_are_true_and_stay() {
    let api = Api::start().await;
    api.made(REQUESTS, request("r", "jane", "people")).await;
    let decide = async |conditions: Value| {
        let patch = json!({"status": {"conditions": conditions}});
        let path = format!("{REQUESTS}/r/approval");
        api.ask(Identity::system(), "PATCH", &path, "application/merge-patch+json", patch).await
    };
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
    for (conditions, said) in [
        (json!([condition("Approved", "False")]), "supported values: \"True\""),
        (json!([condition("Approved", "True"), condition("Denied", "True")]), "mutually exclusive"),
        (json!([condition("Denied", "True"), condition("Denied", "True")]), "Duplicate value"),
    ] {
        let refused = decide(conditions).await;
        assert!(refused.code == 422 && refused.message().contains(said), "{refused:?}");
    }
    assert_eq!(decide(json!([condition("Denied", "True")])).await.code, 200);
    let refused = decide(json!([condition("Approved", "True")])).await;
    assert!(refused.code == 422 && refused.message().contains("may not remove"), "{refused:?}");
}

#[test]
fn subjects_that_read_otherwise_elsewhere_are_refused() {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "system:node:a");
    let hidden = "system:masters".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let hidden = rcgen::DnValue::BmpString(rcgen::string::BmpString::from_utf16be(hidden).unwrap());
    subject.push(DnType::OrganizationName, hidden);
    params.distinguished_name = subject;
    let key = KeyPair::generate().unwrap();
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let refused = wharf_http::CertificateRequest::parse(pem.as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("a name of the subject"), "{refused}");
}
