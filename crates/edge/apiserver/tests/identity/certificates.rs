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
