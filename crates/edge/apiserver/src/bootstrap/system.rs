//! Roles of the cluster's own components, and of those who become nodes.
//!
//! Source: Kubernetes' default roles; kubeadm's bindings for bootstrap tokens of the group
//! `system:bootstrappers:kubeadm:default-node-token`.

use serde_json::{Value, json};

use super::{RBAC, READ, role, rule};
use crate::auth::node;

const CERTIFICATES: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const STORAGE: &str = "storage.k8s.io";
const LEASES: &str = "coordination.k8s.io";
const JOINING: &str = "system:bootstrappers:kubeadm:default-node-token";
/// Who may make a client certificate for a node, also another's, and for itself.
const NODE_CLIENT: &str = "system:certificates.k8s.io:certificatesigningrequests:nodeclient";
const SELF_NODE_CLIENT: &str = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";

fn events() -> Vec<Value> {
    ["", "events.k8s.io"].map(|group| rule(&["create", "patch", "update"], group, &["events"])).into()
}

fn reviews() -> Vec<Value> {
    vec![
        rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
        rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
    ]
}

fn with_events(rules: Vec<Value>) -> Vec<Value> {
    [events(), rules].concat()
}

fn named(verbs: &[&str], group: &str, resource: &str, name: &str) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": [resource], "resourceNames": [name]})
}

/// ClusterRoles.
pub(super) fn roles() -> Vec<Value> {
    let mut all = vec![
        role("system:node", node::rules()),
        role(
            "system:node-bootstrapper",
            vec![rule(&["create", "get", "list", "watch"], CERTIFICATES, &[REQUESTS])],
        ),
        role(NODE_CLIENT, vec![rule(&["create"], CERTIFICATES, &["certificatesigningrequests/nodeclient"])]),
        role(
            SELF_NODE_CLIENT,
            vec![rule(&["create"], CERTIFICATES, &["certificatesigningrequests/selfnodeclient"])],
        ),
        role("system:monitoring", monitoring()),
        role("system:kubelet-api-admin", kubelet_admin()),
        role("system:kube-controller-manager", controller_manager()),
        role("system:kube-scheduler", scheduler()),
        role("system:kube-aggregator", vec![rule(READ, "", &["services", "endpoints"])]),
        role("system:kube-dns", vec![rule(&["list", "watch"], "", &["endpoints", "services"])]),
        role(
            "system:node-problem-detector",
            with_events(vec![rule(&["get"], "", &["nodes"]), rule(&["patch"], "", &["nodes/status"])]),
        ),
        role(
            "system:node-proxier",
            with_events(vec![
                rule(&["list", "watch"], "", &["services", "endpoints"]),
                rule(READ, "", &["nodes"]),
                rule(&["list", "watch"], "networking.k8s.io", &["servicecidrs"]),
                rule(&["list", "watch"], "discovery.k8s.io", &["endpointslices"]),
            ]),
        ),
        role(
            "system:persistent-volume-provisioner",
            with_events(vec![
                rule(&["get", "list", "watch", "create", "delete"], "", &["persistentvolumes"]),
                rule(&["get", "list", "watch", "update"], "", &["persistentvolumeclaims"]),
                rule(READ, STORAGE, &["storageclasses"]),
                rule(&["watch"], "", &["events"]),
            ]),
        ),
        role(
            "system:volume-scheduler",
            vec![
                rule(
                    &["get", "list", "watch", "update", "patch"],
                    "",
                    &["persistentvolumes", "persistentvolumeclaims"],
                ),
                rule(READ, STORAGE, &["storageclasses"]),
            ],
        ),
    ];
    all.extend(
        ["legacy-unknown", "kubelet-serving", "kube-apiserver-client", "kube-apiserver-client-kubelet"].map(
            |signer| {
                let name = format!("kubernetes.io/{signer}");
                let approve = named(&["approve"], CERTIFICATES, "signers", &name);
                role(&format!("system:certificates.k8s.io:{signer}-approver"), vec![approve])
            },
        ),
    );
    all
}

fn monitoring() -> Vec<Value> {
    let paths =
        ["/metrics", "/metrics/slis", "/livez", "/readyz", "/healthz", "/livez/*", "/readyz/*", "/healthz/*"];
    vec![json!({"verbs": ["get"], "nonResourceURLs": paths}), rule(&["get"], "", &["nodes/metrics"])]
}

fn kubelet_admin() -> Vec<Value> {
    let parts = [
        "nodes/proxy",
        "nodes/metrics",
        "nodes/stats",
        "nodes/log",
        "nodes/pods",
        "nodes/healthz",
        "nodes/configz",
    ];
    vec![rule(READ, "", &["nodes"]), rule(&["proxy"], "", &["nodes"]), rule(&["*"], "", &parts)]
}

fn controller_manager() -> Vec<Value> {
    let rules = vec![
        rule(&["create"], LEASES, &["leases"]),
        named(&["get", "update"], LEASES, "leases", "kube-controller-manager"),
        rule(&["create", "update"], "", &["secrets", "serviceaccounts"]),
        rule(&["delete"], "", &["secrets"]),
        rule(&["get"], "", &["namespaces", "secrets", "serviceaccounts", "configmaps"]),
        rule(&["list", "watch"], "*", &["*"]),
        rule(&["create"], "", &["serviceaccounts/token"]),
    ];
    [events(), rules, reviews()].concat()
}

fn scheduler() -> Vec<Value> {
    const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    const CHANGE: &[&str] = &["get", "list", "patch", "update", "watch"];
    const DEVICES: &str = "resource.k8s.io";
    let rules = vec![
        rule(&["create"], LEASES, &["leases"]),
        named(&["get", "update", "list", "watch"], LEASES, "leases", "kube-scheduler"),
        rule(ALL, LEASES, &["leasecandidates"]),
        rule(READ, "", &["nodes", "services", "replicationcontrollers", "namespaces"]),
        rule(READ, "", &["persistentvolumeclaims", "persistentvolumes"]),
        rule(&["get", "list", "watch", "delete"], "", &["pods"]),
        rule(&["create"], "", &["pods/binding", "bindings"]),
        rule(&["patch", "update"], "", &["pods/status"]),
        rule(&["update"], "", &["pods/finalizers"]),
        rule(READ, "apps", &["replicasets", "statefulsets"]),
        rule(READ, "policy", &["poddisruptionbudgets"]),
        rule(READ, STORAGE, &["csinodes", "volumeattachments", "csidrivers", "csistoragecapacities"]),
        rule(READ, DEVICES, &["deviceclasses", "resourceslices", "devicetaintrules"]),
        rule(CHANGE, DEVICES, &["resourceclaims", "resourceclaims/status"]),
        rule(&["create", "delete"], DEVICES, &["resourceclaims"]),
        rule(&["update", "patch"], DEVICES, &["resourceclaims/binding"]),
    ];
    [events(), rules, reviews()].concat()
}

/// ClusterRoleBindings.
pub(super) fn bindings() -> Vec<Value> {
    let bind = |name: &str, role: &str, kind: &str, subjects: &[&str]| {
        let subjects: Vec<Value> =
            subjects.iter().map(|name| json!({"kind": kind, "apiGroup": RBAC, "name": name})).collect();
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "subjects": subjects,
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role}})
    };
    let same = |name: &str, kind: &str, subject: &str| bind(name, name, kind, &[subject]);
    let mut dns = bind("system:kube-dns", "system:kube-dns", "", &[]);
    dns["subjects"] = json!([{"kind": "ServiceAccount", "namespace": "kube-system", "name": "kube-dns"}]);
    vec![
        // Nodes have their rights from the Node authorizer.
        bind("system:node", "system:node", "", &[]),
        same("system:monitoring", "Group", "system:monitoring"),
        same("system:node-proxier", "User", "system:kube-proxy"),
        same("system:kube-controller-manager", "User", "system:kube-controller-manager"),
        same("system:kube-scheduler", "User", "system:kube-scheduler"),
        same("system:volume-scheduler", "User", "system:kube-scheduler"),
        dns,
        bind("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", "Group", &[JOINING]),
        bind("kubeadm:node-autoapprove-bootstrap", NODE_CLIENT, "Group", &[JOINING]),
        bind("kubeadm:node-autoapprove-certificate-rotation", SELF_NODE_CLIENT, "Group", &["system:nodes"]),
    ]
}
