//! Requests for certificates: those of nodes are approved by themselves where a role says so, approved ones are signed,
//! old ones go.
//!
//! Source: `certificates.k8s.io/v1`; Kubernetes' certificate approving, signing and cleaner controllers.

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_base::Timestamp;

use crate::{
    action::{Action, Gvr, Step},
    meta::{Meta, null_default},
};

/// `certificates.k8s.io/v1` CertificateSigningRequests.
pub const REQUESTS: Gvr = Gvr::fixed("certificates.k8s.io", "v1", "certificatesigningrequests");

const HOUR: Duration = Duration::from_secs(3600);
/// How long what was decided stays, and what was not.
const DECIDED: Duration = HOUR;
const PENDING: Duration = Duration::from_secs(24 * 3600);
/// Seconds a certificate lives: unless asked for less, and at least.
const LIFE: i64 = 365 * 86_400;
const LIFE_MIN: i64 = 600;

const SERVING: &str = "kubernetes.io/kubelet-serving";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// A CertificateSigningRequest, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Metadata.
    pub metadata: Meta,
    /// What is asked for, by whom.
    pub spec: Spec,
    /// What became of it.
    pub status: Status,
}

/// Its `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec {
    /// PKCS #10 in PEM in base64.
    pub request: String,
    /// Who is to sign.
    pub signer_name: String,
    /// Seconds the certificate is to live.
    pub expiration_seconds: Option<i64>,
    /// What the key may be used for.
    #[serde(deserialize_with = "null_default")]
    pub usages: Vec<String>,
    /// Who asks.
    pub username: String,
}

/// Its `status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The certificate in PEM in base64.
    pub certificate: String,
    /// Decisions and failures.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Value>,
}

/// What the request inside asks to be certified.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
    /// Whether there are DNS names.
    pub dns_names: bool,
    /// Whether there are addresses.
    pub addresses: bool,
    /// Whether there are addresses of mail.
    pub emails: bool,
    /// Whether there are URIs.
    pub uris: bool,
}

impl Request {
    fn has(&self, kind: &str) -> bool {
        self.status.conditions.iter().any(|condition| condition["type"] == kind)
    }

    fn is_true(&self, kind: &str) -> bool {
        self.status
            .conditions
            .iter()
            .any(|c| c["type"] == kind && matches!(c["status"].as_str(), None | Some("True")))
    }

    fn uses(&self, all: &[&str]) -> bool {
        let usages: BTreeSet<&str> = self.spec.usages.iter().map(String::as_str).collect();
        usages == all.iter().copied().collect()
    }

    /// Whether nothing is left to decide by the approver.
    pub fn is_decided(&self) -> bool {
        !self.status.certificate.is_empty() || self.has("Approved") || self.has("Denied")
    }

    /// Whether this platform's authority is to sign it now.
    pub fn is_to_be_signed(&self) -> bool {
        let ours = [SERVING, KUBELET_CLIENT, API_CLIENT, LEGACY].contains(&self.spec.signer_name.as_str());
        ours && self.status.certificate.is_empty()
            && self.is_true("Approved")
            && !self.has("Denied")
            && !self.is_true("Failed")
            && !self.metadata.deleting()
    }

    /// Seconds the certificate lives.
    pub fn seconds(&self) -> i64 {
        self.spec.expiration_seconds.map_or(LIFE, |asked| asked.clamp(LIFE_MIN, LIFE))
    }

    /// Subresources of the request of which the user must be allowed to create one for it to be approved by itself.
    pub fn permissions(&self, asked: &Asked) -> Vec<&'static str> {
        let of_node = self.spec.signer_name == KUBELET_CLIENT && kubelet_client(self, asked).is_ok();
        let of_itself = of_node && self.spec.username == asked.common_name;
        let both = [(of_itself, "selfnodeclient"), (of_node, "nodeclient")];
        both.into_iter().filter(|(applies, _)| *applies).map(|(_, permission)| permission).collect()
    }

    /// Why the signer does not sign this.
    ///
    /// # Errors
    /// The sentence, for the condition `Failed`.
    pub fn fits_signer(&self, asked: &Asked) -> Result<(), String> {
        match self.spec.signer_name.as_str() {
            SERVING => kubelet_serving(self, asked),
            KUBELET_CLIENT => kubelet_client(self, asked),
            API_CLIENT => api_client(&self.spec.usages),
            _ => Ok(()),
        }
    }

    /// The write that approves it.
    pub fn approve(&self, stored: &Value, permission: &str) -> Action {
        let what = if permission == "selfnodeclient" { "self kubelet client" } else { "kubelet client" };
        let mut object = stored.clone();
        let mut conditions = self.status.conditions.clone();
        conditions.push(json!({"type": "Approved", "status": "True", "reason": "AutoApproved",
            "message": format!("Auto approving {what} certificate after SubjectAccessReview.")}));
        object["status"]["conditions"] = conditions.into();
        Action::Update { resource: REQUESTS, subresource: Some("approval"), object }
    }

    /// The write of the certificate (base64 of PEM).
    pub fn signed(&self, certificate: &str) -> Action {
        self.metadata.locked_status_patch(REQUESTS, json!({"status": {"certificate": certificate}}))
    }

    /// The write that says why there will be no certificate.
    pub fn failed(&self, reason: &str, message: &str) -> Action {
        let mut conditions = self.status.conditions.clone();
        conditions.push(json!({"type": "Failed", "status": "True", "reason": reason, "message": message}));
        self.metadata.locked_status_patch(REQUESTS, json!({"status": {"conditions": conditions}}))
    }
}

fn no<T>(why: &str) -> Result<T, String> {
    Err(why.to_owned())
}

fn kubelet_serving(request: &Request, asked: &Asked) -> Result<(), String> {
    match () {
        () if asked.organizations != ["system:nodes"] => no("subject organization is not system:nodes"),
        () if !asked.dns_names && !asked.addresses => no("DNS or IP subjectAltName is required"),
        () if asked.emails => no("Email subjectAltNames are not allowed"),
        () if asked.uris => no("URI subjectAltNames are not allowed"),
        () => usages_of_node(request, "server auth").and_then(|()| name_of_node(asked)),
    }
}

fn kubelet_client(request: &Request, asked: &Asked) -> Result<(), String> {
    match () {
        () if asked.organizations != ["system:nodes"] => no("subject organization is not system:nodes"),
        () if asked.dns_names => no("DNS subjectAltNames are not allowed"),
        () if asked.emails => no("Email subjectAltNames are not allowed"),
        () if asked.addresses => no("IP subjectAltNames are not allowed"),
        () if asked.uris => no("URI subjectAltNames are not allowed"),
        () => name_of_node(asked).and_then(|()| usages_of_node(request, "client auth")),
    }
}

fn name_of_node(asked: &Asked) -> Result<(), String> {
    match asked.common_name.starts_with("system:node:") {
        true => Ok(()),
        false => no("subject common name does not begin with system:node:"),
    }
}

/// Signatures and one side of TLS; encipherment only for keys that need it.
fn usages_of_node(request: &Request, side: &str) -> Result<(), String> {
    let fits = request.uses(&["digital signature", side])
        || request.uses(&["digital signature", "key encipherment", side]);
    if fits {
        Ok(())
    } else {
        Err(format!("usages did not match [{side} digital signature key encipherment]"))
    }
}

fn api_client(usages: &[String]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => no("missing required usage for client certificate: client auth"),
    }
}

/// Decides whether a request goes. `ends` is when its certificate does.
pub fn clean(request: &Request, ends: Option<Timestamp>, now: Timestamp) -> Step {
    let issued = !request.status.certificate.is_empty();
    let since = |condition: &Value| {
        condition["lastUpdateTime"].as_str().and_then(|text| text.parse::<Timestamp>().ok())
    };
    let mut due: Vec<Timestamp> = Vec::new();
    for condition in &request.status.conditions {
        let kept = match condition["type"].as_str() {
            Some("Approved") if issued => DECIDED,
            Some("Approved") => PENDING,
            Some("Denied" | "Failed") => DECIDED,
            _ => continue,
        };
        due.extend(since(condition).map(|at| at.plus(kept)));
        due.extend(ends.filter(|_| issued && condition["type"] == "Approved"));
    }
    if request.status.conditions.is_empty() {
        due.extend(request.metadata.creation_timestamp.map(|at| at.plus(PENDING)));
    }
    let Some(first) = due.into_iter().min().filter(|_| !request.metadata.deleting()) else {
        return Step::idle();
    };
    match first.since(now) {
        left if left.is_zero() => Step::of(vec![request.metadata.delete(REQUESTS, None)]),
        left => Step { actions: Vec::new(), requeue_after: Some(left) },
    }
}

#[cfg(test)]
mod tests;
