//! Access: role bindings, certificate requests and trust bundles. Roles print by default: name and creation time.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, Table, column, text, tree, wide};

const BINDING: &[Column] = &[
    NAME,
    column("Role", "Role that is granted"),
    AGE,
    wide("Users", "Users it is granted to"),
    wide("Groups", "Groups it is granted to"),
    wide("ServiceAccounts", "Service accounts it is granted to"),
];
const SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    column("SignerName", "Signer that is asked"),
    column("Requestor", "User who asks"),
    column("RequestedDuration", "Time the certificate shall be valid"),
    column("Condition", "State of the request"),
];
const TRUST_BUNDLE: &[Column] = &[NAME, column("SignerName", "Signer whose roots these are")];
const POD_CERTIFICATE: &[Column] = &[
    NAME,
    column("PodName", "Pod the certificate is for"),
    column("ServiceAccountName", "Service account of the pod"),
    column("NodeName", "Node of the pod"),
    column("SignerName", "Signer that is asked"),
    column("State", "State of the request"),
    wide("UnverifiedUserAnnotations", "Annotations the pod gave, not checked"),
];

pub(super) const TABLES: &[Table] = &[
    Table { group: "rbac.authorization.k8s.io", resource: "rolebindings", columns: BINDING, cells: binding },
    Table {
        group: "rbac.authorization.k8s.io",
        resource: "clusterrolebindings",
        columns: BINDING,
        cells: binding,
    },
    Table {
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests",
        columns: SIGNING_REQUEST,
        cells: signing_request,
    },
    Table {
        group: "certificates.k8s.io",
        resource: "clustertrustbundles",
        columns: TRUST_BUNDLE,
        cells: trust_bundle,
    },
    Table {
        group: "certificates.k8s.io",
        resource: "podcertificaterequests",
        columns: POD_CERTIFICATE,
        cells: pod_certificate,
    },
];

fn binding(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        json!(format!("{}/{}", row.text("/roleRef/kind"), row.text("/roleRef/name"))),
        row.age(),
        json!(subjects(row, "User")),
        json!(subjects(row, "Group")),
        json!(subjects(row, "ServiceAccount")),
    ]
}

/// The subjects of one kind; service accounts with their namespace.
fn subjects(row: &Row<'_>, kind: &str) -> String {
    let names: Vec<String> = row
        .list("/subjects")
        .iter()
        .filter(|subject| tree::text(subject, "/kind") == kind)
        .map(|subject| match kind {
            "ServiceAccount" => {
                format!("{}/{}", tree::text(subject, "/namespace"), tree::text(subject, "/name"))
            }
            _ => tree::text(subject, "/name").to_owned(),
        })
        .collect();
    names.join(", ")
}

fn signing_request(row: &Row<'_>) -> Vec<Value> {
    let duration = row
        .at("/spec/expirationSeconds")
        .as_i64()
        .map_or_else(|| "<none>".to_owned(), |seconds| text::human_duration(seconds.saturating_mul(1000)));
    vec![
        row.name(),
        row.age(),
        row.string_or("/spec/signerName", "<none>"),
        row.string("/spec/username"),
        json!(duration),
        json!(signing_state(row)),
    ]
}

fn signing_state(row: &Row<'_>) -> String {
    let has = |type_| tree::find(row.list("/status/conditions"), "type", type_).is_some();
    let mut state = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !row.text("/status/certificate").is_empty() {
        state.push_str(",Issued");
    }
    state
}

fn trust_bundle(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string_or("/spec/signerName", "<none>")]
}

fn pod_certificate(row: &Row<'_>) -> Vec<Value> {
    let state = row
        .list("/status/conditions")
        .iter()
        .rev()
        .map(|condition| tree::text(condition, "/type"))
        .find(|type_| matches!(*type_, "Issued" | "Denied" | "Failed"))
        .unwrap_or("Pending");
    vec![
        row.name(),
        row.string("/spec/podName"),
        row.string("/spec/serviceAccountName"),
        row.string("/spec/nodeName"),
        row.string("/spec/signerName"),
        json!(state),
        json!(text::labels(row.object, "/spec/unverifiedUserAnnotations")),
    ]
}
