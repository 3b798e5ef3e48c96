//! Who clients are, seen through kubectl: certificates that are asked for, approved and used; machines that join by a
//! token; what is written down of requests; and Secrets nobody finds on the disk.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};
use support::{Kubectl, Platform, lossy, until};
use tempfile::TempDir;

/// A key, and a request for its certificate.
fn request(name: &str, common_name: &str, organization: &str, signer: &str) -> (String, Value) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    subject.push(DnType::OrganizationName, organization);
    params.distinguished_name = subject;
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name}, "spec": {"request": STANDARD.encode(pem), "expirationSeconds": 3600,
            "signerName": format!("kubernetes.io/{signer}"), "usages": ["digital signature", "client auth"]}});
    (key.serialize_pem(), object)
}

/// kubectl of somebody who is not the administrator.
struct Somebody<'a> {
    kubectl: &'a Kubectl,
    flags: Vec<String>,
}

impl<'a> Somebody<'a> {
    /// Somebody with a file that names the platform and nobody, and these flags.
    fn new(kubectl: &'a Kubectl, platform: &Platform, folder: &Path, mut flags: Vec<String>) -> Self {
        let config = fs::read_to_string(platform.data().join("kubeconfig")).unwrap();
        let nobody: Vec<&str> =
            config.lines().filter(|line| !line.trim_start().starts_with("client-")).collect();
        let path = folder.join("kubeconfig");
        fs::write(&path, nobody.join("\n").replace("  user:\n", "  user: {}\n")).unwrap();
        // The last of its kind counts.
        flags.push(format!("--kubeconfig={}", path.display()));
        Self { kubectl, flags }
    }

    fn with_certificate(
        kubectl: &'a Kubectl,
        platform: &Platform,
        folder: &Path,
        (name, key): (&str, &str),
    ) -> Self {
        let at = |kind: &str| folder.join(format!("{name}.{kind}"));
        let certificate = until("the certificate", || {
            let request = kubectl.get(&["csr", name]);
            let text = request["status"]["certificate"].as_str().map(|text| STANDARD.decode(text).unwrap());
            text.ok_or_else(|| request.to_string())
        });
        fs::write(at("crt"), certificate).unwrap();
        fs::write(at("key"), key).unwrap();
        let flag = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        let flags = vec![flag("client-certificate", at("crt")), flag("client-key", at("key"))];
        Self::new(kubectl, platform, folder, flags)
    }

    fn end(&self, args: &[&str], input: &str) -> Output {
        let mut all: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        all.extend(args);
        self.kubectl.end(&all, input)
    }

    fn runs(&self, args: &[&str], input: &str) -> String {
        let output = self.end(args, input);
        assert!(output.status.success(), "{args:?}: {}", lossy(&output.stderr));
        lossy(&output.stdout)
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.end(args, "");
        assert!(!output.status.success(), "{args:?}: {}", lossy(&output.stdout));
        lossy(&output.stderr)
    }
}

#[test]
fn certificates_are_asked_for_approved_and_used() {
    let folder = TempDir::new().unwrap();
    let platform = Platform::control_plane();
    let kubectl = platform.kubectl();
    let (key, object) = request("jane", "jane", "people", "kube-apiserver-client");
    kubectl.apply_object(&object);
    kubectl.run(&["certificate", "approve", "jane"]);
    let jane = Somebody::with_certificate(&kubectl, &platform, folder.path(), ("jane", &key));
    let who: Value = serde_json::from_str(&jane.runs(&["auth", "whoami", "-o", "json"], "")).unwrap();
    let info = &who["status"]["userInfo"];
    assert_eq!(
        (&info["username"], &info["groups"]),
        (&json!("jane"), &json!(["people", "system:authenticated"]))
    );
    assert!(jane.refused(&["get", "secrets"]).contains("User \"jane\" cannot list resource \"secrets\""));

    // One that is denied stays without.
    let (_, object) = request("joe", "joe", "people", "kube-apiserver-client");
    kubectl.apply_object(&object);
    kubectl.run(&["certificate", "deny", "joe"]);
    assert_eq!(kubectl.get(&["csr", "joe"])["status"].get("certificate"), None);
    platform.drain();
}

#[test]
fn a_machine_joins_by_a_token_and_becomes_a_node() {
    let folder = TempDir::new().unwrap();
    let platform = Platform::control_plane();
    let kubectl = platform.kubectl();
    kubectl.apply_object(
        &json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"}}),
    );
    let token = vec!["--token=abcdef.0123456789abcdef".to_owned()];
    let bootstrap = Somebody::new(&kubectl, &platform, folder.path(), token);
    assert!(bootstrap.runs(&["auth", "whoami"], "").contains("system:bootstrap:abcdef"));
    let (key, object) = request("node", "system:node:far", "system:nodes", "kube-apiserver-client-kubelet");
    bootstrap.runs(&["create", "-f", "-"], &object.to_string());
    // Nobody has to approve it.
    let node = Somebody::with_certificate(&kubectl, &platform, folder.path(), ("node", &key));
    let own = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "far"}});
    node.runs(&["create", "-f", "-"], &own.to_string());
    node.runs(&["get", "node", "far"], "");
    assert!(node.refused(&["get", "nodes"]).contains("cannot read all nodes, only its own Node object"));
    assert!(
        node.refused(&["label", "node", "far", "node-restriction.kubernetes.io/x=y"])
            .contains("is not allowed")
    );
    let secret = ["get", "secret", "-n", "kube-system", "bootstrap-token-abcdef"];
    assert!(node.refused(&secret).contains("no relationship found between node 'far' and this object"));
    // It renews its certificate by itself.
    let (_, object) = request("again", "system:node:far", "system:nodes", "kube-apiserver-client-kubelet");
    node.runs(&["create", "-f", "-"], &object.to_string());
    until("the next certificate", || {
        match kubectl.get(&["csr", "again"])["status"]["certificate"].is_string() {
            true => Ok(()),
            false => Err("without one".into()),
        }
    });
    platform.drain();
}

const POLICY: &str = "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [\
    {level: None, users: [system:wharf]}, {level: Metadata, resources: [{group: '', resources: [secrets]}]}, \
    {level: Request}]}";

fn keys(names: &[&str]) -> String {
    let key = |name: &&str| json!({"name": name, "secret": STANDARD.encode([name.len() as u8; 32])});
    let keys: Vec<Value> = names.iter().map(key).collect();
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources":
        [{"resources": ["secrets"], "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}]})
    .to_string()
}

#[test]
fn requests_are_written_down_and_secrets_are_not_on_the_disk() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (policy, log, encryption) = (at("policy.yaml"), at("audit.log"), at("encryption.yaml"));
    fs::write(&policy, POLICY).unwrap();
    fs::write(&encryption, keys(&["one"])).unwrap();
    let auditing = ["--audit-policy-file", &policy, "--audit-log-path", &log];
    let options = [&auditing[..], &["--encryption-provider-config", &encryption]].concat();
    let mut platform = Platform::control_plane_with(&options);
    let kubectl = platform.kubectl();
    kubectl.run(&["create", "secret", "generic", "s", "--from-literal=password=hunter2"]);
    kubectl.run(&["create", "configmap", "m", "--from-literal=a=b"]);
    platform.terminate().unwrap();

    let text = fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let created = |resource: &str| {
        let is = |event: &&Value| event["verb"] == "create" && event["objectRef"]["resource"] == resource;
        events.iter().find(is).unwrap_or_else(|| panic!("no {resource} was created: {text}"))
    };
    assert_eq!(created("secrets")["objectRef"]["name"], "s");
    assert_eq!(created("secrets")["user"]["username"], "wharf-admin");
    assert_eq!(created("configmaps")["requestObject"]["data"]["a"], "b");
    assert_eq!(created("configmaps")["sourceIPs"], json!(["127.0.0.1"]));
    // "hunter2", as it stands in a Secret.
    let state = fs::read(platform.data().join("state.redb")).unwrap();
    for (place, bytes) in [("the audit log", text.as_bytes()), ("the state file", &state)] {
        let found = bytes.windows(12).any(|window| window == b"aHVudGVyMg==");
        assert!(!found, "the password is in {place}");
    }

    // Neither without the key, nor without any, nor by files that are wrong does it start.
    let check = |options: &[&str], parts: &[&str]| {
        let said = platform.refused(options);
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    };
    fs::write(at("other.yaml"), keys(&["other"])).unwrap();
    check(
        &["--encryption-provider-config", &at("other.yaml")],
        &["secrets/default/s", "\"one\"", "not configured"],
    );
    check(&[], &["secrets/default/s", "--encryption-provider-config"]);
    fs::write(at("wrong.yaml"), POLICY.replace("level: Request", "level: All")).unwrap();
    check(
        &["--audit-policy-file", &at("wrong.yaml"), "--audit-log-path", &log],
        &["wrong.yaml of --audit-policy-file", "rules[2].level: \"All\" is not", "hint: "],
    );
    check(
        &["--oidc-issuer-url", "http://x", "--oidc-client-id", "y"],
        &["--oidc-issuer-url: \"http://x\": URL scheme must be https", "hint: "],
    );
    platform.restart();
    assert_eq!(platform.kubectl().get(&["secret", "s"])["data"]["password"], "aHVudGVyMg==");
    platform.drain();
}
