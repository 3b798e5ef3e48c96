//! Requests for certificates and bootstrap tokens on a real API server.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use wharf_base::SystemClock;
use wharf_client::{
    Client, Gvr,
    action::{CONFIG_MAPS, SECRETS},
};
use wharf_control::certificate::REQUESTS;
use wharf_http::Authority;

use super::{PATIENCE, shared};
use crate::loops::{
    bootstrap_token,
    certificate::{Approver, Signer},
    runner::run,
};

const BINDINGS: Gvr = Gvr::fixed("rbac.authorization.k8s.io", "v1", "clusterrolebindings");

async fn cluster() -> (Client, Authority, JoinSet<()>, TempDir) {
    let (shared, mut tasks, dir) = shared(Arc::new(SystemClock)).await;
    let authority = Authority::create("test").unwrap();
    let same = Arc::new(Authority::open(&authority.stored()).unwrap());
    tasks.spawn(run(Approver::new(&shared), shared.clone(), 2));
    tasks.spawn(run(Signer::new(&shared, &same), shared.clone(), 2));
    tasks.spawn(run(bootstrap_token::Cleaner::new(&shared), shared.clone(), 1));
    tasks.spawn(run(bootstrap_token::Signer::new(&shared), shared.clone(), 1));
    (shared.client, authority, tasks, dir)
}

async fn until(client: &Client, at: (&Gvr, &str, &str), test: impl Fn(Option<&Value>) -> bool) -> Value {
    let (resource, namespace, name) = at;
    let wait = async {
        loop {
            let found = client.get(resource, namespace, name).await.unwrap();
            if test(found.as_ref()) {
                return found.unwrap_or_default();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{name} does not become what is wanted"))
}

fn request(name: &str, common_name: &str, organization: &str, signer: &str) -> Value {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject.push(DnType::OrganizationName, organization);
    params.distinguished_name = subject;
    let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(pem), "signerName": format!("kubernetes.io/{signer}"),
            "usages": ["digital signature", "client auth"]}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_nodes_are_approved_where_a_role_says_so_and_approved_ones_signed() {
    let (client, _authority, _tasks, _dir) = cluster().await;
    let create = async |object: Value| client.create(&REQUESTS, "", &object).await.unwrap();
    // The platform itself asks, which may everything.
    create(request("node", "system:node:a", "system:nodes", "kube-apiserver-client-kubelet")).await;
    let signed = until(&client, (&REQUESTS, "", "node"), |found| {
        found.is_some_and(|found| found["status"]["certificate"].is_string())
    })
    .await;
    assert_eq!(signed["status"]["conditions"][0]["reason"], "AutoApproved", "{signed}");
    let pem = STANDARD.decode(signed["status"]["certificate"].as_str().unwrap()).unwrap();
    assert!(wharf_http::certificate_ends(&pem).is_some());

    // Others wait for a person, and are signed only if the signer takes them.
    create(request("person", "jane", "people", "kube-apiserver-client")).await;
    let wrong = request("wrong", "a", "people", "kubelet-serving");
    create(wrong).await;
    for name in ["person", "wrong"] {
        let mut object = client.get(&REQUESTS, "", name).await.unwrap().unwrap();
        assert_eq!(object.get("status").and_then(|status| status.get("conditions")), None, "{object}");
        object["status"]["conditions"] = json!([{"type": "Approved", "status": "True", "reason": "Person"}]);
        client.update(&REQUESTS, Some("approval"), &object).await.unwrap();
    }
    until(&client, (&REQUESTS, "", "person"), |found| {
        found.is_some_and(|found| found["status"]["certificate"].is_string())
    })
    .await;
    let failed = until(&client, (&REQUESTS, "", "wrong"), |found| {
        found.is_some_and(|found| found["status"]["conditions"].as_array().is_some_and(|c| c.len() == 2))
    })
    .await;
    assert_eq!(
        failed["status"]["conditions"][1]["message"], "subject organization is not system:nodes",
        "{failed}"
    );
    let rotation = client.get(&BINDINGS, "", "kubeadm:node-autoapprove-certificate-rotation").await.unwrap();
    assert_eq!(rotation.unwrap()["subjects"][0]["name"], "system:nodes");
}

fn token(id: &str, expiration: &str) -> Value {
    let data = json!({"token-id": STANDARD.encode(id), "token-secret": STANDARD.encode("0123456789abcdef"),
        "expiration": STANDARD.encode(expiration), "usage-bootstrap-signing": STANDARD.encode("true")});
    json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token", "data": data,
        "metadata": {"name": format!("bootstrap-token-{id}"), "namespace": "kube-system"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_tokens_sign_and_go_in_time() {
    let (client, _authority, _tasks, _dir) = cluster().await;
    let info = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"kubeconfig": "x"},
        "metadata": {"name": "cluster-info", "namespace": "kube-public"}});
    client.create(&CONFIG_MAPS, "kube-public", &info).await.unwrap();
    client.create(&SECRETS, "kube-system", &token("aaaaaa", "2100-01-01T00:00:00Z")).await.unwrap();
    let at = (&CONFIG_MAPS, "kube-public", "cluster-info");
    let signed =
        until(&client, at, |found| found.is_some_and(|f| f["data"].get("jws-kubeconfig-aaaaaa").is_some()))
            .await;
    let wanted = wharf_apiserver::detached_signature("x", "aaaaaa", "0123456789abcdef");
    assert_eq!(signed["data"]["jws-kubeconfig-aaaaaa"], wanted);

    client.create(&SECRETS, "kube-system", &token("bbbbbb", "2001-01-01T00:00:00Z")).await.unwrap();
    until(&client, (&SECRETS, "kube-system", "bootstrap-token-bbbbbb"), |found| found.is_none()).await;
    client.delete(&SECRETS, "kube-system", "bootstrap-token-aaaaaa", &json!({})).await.unwrap();
    until(&client, at, |found| found.is_some_and(|f| f["data"].get("jws-kubeconfig-aaaaaa").is_none())).await;
}
