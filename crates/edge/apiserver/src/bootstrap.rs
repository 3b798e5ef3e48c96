//! What every cluster has from its first start: namespaces, roles, priority classes, the API's service.
//!
//! Source: Kubernetes' documented default namespaces, "Default roles and role bindings" and system
//! priority classes.

mod system;

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use wharf_api::status::Status;

use crate::{
    ApiServer, Context, FrontProxy,
    request::RequestInfo,
    verbs::{Change, Creation, WriteOptions, create_object, write_change},
};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Creates what is missing; what is there is left alone.
pub(crate) async fn run(
    server: &Arc<ApiServer>,
    authority: &str,
    front_proxy: Option<&FrontProxy>,
) -> Result<(), wharf_state::Error> {
    let (namespaces, others): (Vec<Value>, Vec<Value>) =
        objects(server).into_iter().partition(|object| object["kind"] == "Namespace");
    for objects in [namespaces, others] {
        // At once, so that the store writes many in one transaction.
        let made = join_all(objects.into_iter().map(|object| ensure(server, object))).await;
        for status in made.into_iter().filter_map(Result::err) {
            if status.reason != "AlreadyExists" {
                tracing::error!(%status, "cannot create a default object");
            }
        }
    }
    crate::fairness::defaults::make(server).await;
    let said = whom_to_believe(authority, front_proxy);
    if let Err(status) = ensure_data(server, said).await {
        tracing::error!(%status, "extension API servers cannot be told whom to believe");
    }
    Ok(())
}

/// What extension API servers read to know clients' certificates, and who may speak for others.
fn whom_to_believe(authority: &str, front_proxy: Option<&FrontProxy>) -> Value {
    let mut data = json!({"client-ca-file": authority});
    if let Some(front_proxy) = front_proxy {
        data["requestheader-client-ca-file"] = front_proxy.authority.as_str().into();
        data["requestheader-allowed-names"] = json!([FrontProxy::NAME]).to_string().into();
        for (key, header) in [
            ("username-headers", "X-Remote-User"),
            ("uid-headers", "X-Remote-Uid"),
            ("group-headers", "X-Remote-Group"),
            ("extra-headers-prefix", "X-Remote-Extra-"),
        ] {
            data[format!("requestheader-{key}")] = json!([header]).to_string().into();
        }
    }
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"}})
}

/// Makes a ConfigMap, or gives the one that is there this data.
async fn ensure_data(server: &Arc<ApiServer>, map: Value) -> Result<(), Status> {
    let (namespace, name) = (wharf_api::meta::namespace(&map), wharf_api::meta::name(&map));
    if server.storage.get("configmaps", &format!("{namespace}/{name}")).is_none() {
        return ensure(server, map).await;
    }
    let info = RequestInfo {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        verb: "update",
        ..RequestInfo::default()
    };
    let mut context = Context::own(server, info, "wharf");
    let resource = context.index.find("", "v1", "configmaps").cloned().ok_or_else(Status::no_such_path)?;
    let change = |old: &Value| {
        let mut new = old.clone();
        new["data"] = map["data"].clone();
        Ok(Change::Updated(new))
    };
    write_change(server, &mut context, &resource, &WriteOptions::default(), change).await.map(drop)
}

async fn ensure(server: &Arc<ApiServer>, object: Value) -> Result<(), Status> {
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let index = server.registry.index(&server.storage);
    let resource = index
        .all()
        .find(|r| r.gvk.group == group && r.gvk.version == version && object["kind"] == r.gvk.kind.as_str())
        .cloned()
        .ok_or_else(Status::no_such_path)?;
    let namespace = wharf_api::meta::namespace(&object).to_owned();
    let key = format!("{namespace}/{}", wharf_api::meta::name(&object));
    if server.storage.get(&resource.storage_key(), &key).is_some() {
        return Ok(());
    }
    let info = RequestInfo { namespace, verb: "create", ..RequestInfo::default() };
    let mut context = Context::own(server, info, "wharf");
    create_object(server, &mut context, &resource, object, Creation::default()).await.map(drop)
}

fn objects(server: &ApiServer) -> Vec<Value> {
    let mut all: Vec<Value> = ["default", "kube-system", "kube-public", crate::auth::node::LEASES]
        .iter()
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .collect();
    for (name, value, text) in [
        ("system-cluster-critical", 2_000_000_000, "For pods the whole cluster depends on."),
        ("system-node-critical", 2_000_001_000, "For pods a node depends on."),
    ] {
        all.push(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value, "description": text}));
    }
    all.push(json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": [server.ranges.network()]}}));
    all.extend(roles());
    all.extend(system::roles());
    all.extend(bindings());
    all.extend(system::bindings());
    all.push(json!({"apiVersion": format!("{RBAC}/v1"), "kind": "Role",
        "metadata": {"name": "extension-apiserver-authentication-reader", "namespace": "kube-system",
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": [{"verbs": READ, "apiGroups": [""], "resources": ["configmaps"],
            "resourceNames": ["extension-apiserver-authentication"]}]}));
    all.push(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": server.ranges.api_address().to_string(),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]}}));
    all
}

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// What each of the roles for people covers: group, resources.
const WORKLOADS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "configmaps",
            "endpoints",
            "persistentvolumeclaims",
            "pods",
            "replicationcontrollers",
            "replicationcontrollers/scale",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "apps",
        &[
            "controllerrevisions",
            "daemonsets",
            "deployments",
            "deployments/scale",
            "replicasets",
            "replicasets/scale",
            "statefulsets",
            "statefulsets/scale",
        ],
    ),
    ("autoscaling", &["horizontalpodautoscalers"]),
    ("batch", &["cronjobs", "jobs"]),
    ("networking.k8s.io", &["ingresses", "networkpolicies"]),
    ("policy", &["poddisruptionbudgets"]),
    ("discovery.k8s.io", &["endpointslices"]),
    ("argoproj.io", &["rollouts", "analysistemplates", "analysisruns"]),
    ("keda.sh", &["scaledobjects"]),
];

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

/// What upstream's metrics server adds to the roles for people.
fn metrics_rule() -> Value {
    rule(READ, "metrics.k8s.io", &["nodes", "pods"])
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "rules": rules,
        "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}})
}

fn roles() -> Vec<Value> {
    let read: Vec<Value> = WORKLOADS.iter().map(|(group, resources)| rule(READ, group, resources)).collect();
    let write: Vec<Value> =
        WORKLOADS.iter().map(|(group, resources)| rule(WRITE, group, resources)).collect();
    let view_extra =
        rule(READ, "", &["events", "limitranges", "namespaces", "pods/log", "pods/status", "resourcequotas"]);
    let view = [read, vec![view_extra, metrics_rule()]].concat();
    let edit_extra = vec![
        rule(READ, "", &["secrets", "pods/attach", "pods/exec", "pods/portforward"]),
        rule(WRITE, "", &["secrets", "pods/attach", "pods/exec", "pods/portforward", "pods/eviction"]),
        rule(&["create"], "", &["serviceaccounts/token"]),
        rule(&["impersonate"], "", &["serviceaccounts"]),
    ];
    let edit = [view.clone(), write, edit_extra].concat();
    let admin_extra = vec![
        rule(READ, RBAC, &["roles", "rolebindings"]),
        rule(WRITE, RBAC, &["roles", "rolebindings"]),
        rule(&["create"], "authorization.k8s.io", &["localsubjectaccessreviews"]),
    ];
    let admin = [edit.clone(), admin_extra].concat();
    let everything = vec![
        json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
        json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
    ];
    let paths = |paths: &[&str]| vec![json!({"verbs": ["get"], "nonResourceURLs": paths})];
    let basic = vec![
        rule(&["create"], "authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]),
        rule(&["create"], "authentication.k8s.io", &["selfsubjectreviews"]),
    ];
    vec![
        role("cluster-admin", everything),
        role("admin", admin),
        role("edit", edit),
        role("view", view),
        role("system:aggregated-metrics-reader", vec![metrics_rule()]),
        role("system:basic-user", basic),
        role(
            "system:discovery",
            paths(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/healthz",
                "/livez",
                "/openapi",
                "/openapi/*",
                "/readyz",
                "/version",
                "/version/",
            ]),
        ),
        role("system:public-info-viewer", paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])),
        role(
            "system:service-account-issuer-discovery",
            paths(&["/.well-known/openid-configuration", "/openid/v1/jwks"]),
        ),
        role(
            "system:auth-delegator",
            vec![
                rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
                rule(&["create"], "authorization.k8s.io", &["subjectaccessreviews"]),
            ],
        ),
    ]
}

fn bindings() -> Vec<Value> {
    let bind = |name: &str, groups: &[&str]| {
        let subjects: Vec<Value> =
            groups.iter().map(|g| json!({"kind": "Group", "apiGroup": RBAC, "name": g})).collect();
        json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "subjects": subjects,
            "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name}})
    };
    vec![
        bind("cluster-admin", &["system:masters"]),
        bind("system:basic-user", &["system:authenticated"]),
        bind("system:discovery", &["system:authenticated"]),
        bind("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
        bind("system:service-account-issuer-discovery", &["system:serviceaccounts"]),
    ]
}
