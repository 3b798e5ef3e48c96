//! Controllers on a real API server, with a node that only says that pods are ready.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use wharf_base::SystemClock;
use wharf_client::{
    Client, Gvr, PatchKind,
    action::{
        CLUSTER_ROLES, CONFIG_MAPS, CONTROLLER_REVISIONS, CUSTOM_RESOURCE_DEFINITIONS, DAEMON_SETS,
        ENDPOINT_SLICES, ENDPOINTS, JOBS, NODES, PERSISTENT_VOLUME_CLAIMS, POD_DISRUPTION_BUDGETS, PODS,
        REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, SERVICE_ACCOUNTS, SERVICES, STATEFUL_SETS,
    },
};
use wharf_control::replicaset::ReplicationController;

use super::{PATIENCE, shared};
use crate::loops::{
    aggregation::Aggregations,
    daemonset::DaemonSets,
    definition::Definitions,
    disruption::Disruptions,
    endpointslicemirroring::Mirrors,
    garbage,
    job::Jobs,
    namespace_defaults::NamespaceDefaults,
    replicaset::ReplicaSets,
    resource_quota::ResourceQuotas,
    runner::{Controller, Shared, run},
    statefulset::StatefulSets,
};

const WIDGETS: Gvr = Gvr::fixed("example.com", "v1", "widgets");

/// A server with loops on it.
struct Cluster {
    shared: Shared,
    tasks: JoinSet<()>,
    _dir: TempDir,
}

impl Cluster {
    async fn new() -> Self {
        let (shared, tasks, dir) = shared(Arc::new(SystemClock)).await;
        let mut cluster = Self { shared, tasks, _dir: dir };
        cluster.start(|shared| NamespaceDefaults::new(shared, "authority"));
        cluster.until(&SERVICE_ACCOUNTS, "default", |account| account.is_some()).await;
        cluster
    }

    fn start<C: Controller>(&mut self, make: impl Fn(&Shared) -> C) {
        let controller = make(&self.shared);
        self.tasks.spawn(run(controller, self.shared.clone(), 2));
    }

    fn client(&self) -> &Client {
        &self.shared.client
    }

    async fn create(&self, resource: &Gvr, object: Value) -> Value {
        self.client().create(resource, namespace(resource), &object).await.unwrap()
    }

    /// Waits until an object, or its absence, is as wanted.
    async fn until(&self, resource: &Gvr, name: &str, test: impl Fn(Option<&Value>) -> bool) -> Value {
        let wait = async {
            loop {
                let found = self.client().get(resource, namespace(resource), name).await.unwrap();
                if test(found.as_ref()) {
                    return found.unwrap_or_default();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => {
                let found = self.client().get(resource, namespace(resource), name).await.unwrap();
                panic!("{name} has not become as wanted: {found:#?}")
            }
        }
    }

    /// Waits until a field of the status has a value.
    async fn status(&self, resource: &Gvr, name: &str, field: &str, value: Value) -> Value {
        let pointer = format!("/status/{field}");
        self.until(resource, name, |o| o.and_then(|o| o.pointer(&pointer)) == Some(&value)).await
    }

    async fn pods(&self) -> Vec<Value> {
        let params = wharf_client::ListParams::namespace("default");
        self.client().list(&PODS, &params).await.unwrap().items
    }

    /// Waits until the objects of the namespace are as wanted.
    async fn until_all(&self, resource: &Gvr, what: &str, test: impl Fn(&[Value]) -> bool) {
        let params = wharf_client::ListParams::namespace("default");
        let wait = async {
            while !test(&self.client().list(resource, &params).await.unwrap().items) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not so: {what}"));
    }

    /// Waits until the slices are mirrors of these addresses.
    async fn mirrored(&self, addresses: Value) {
        let test = |slices: &[Value]| {
            let mirrors = slices.iter().filter(|s| s["metadata"]["name"] != "kubernetes");
            let found: Vec<Value> =
                mirrors.map(|slice| slice["endpoints"][0]["addresses"][0].clone()).collect();
            json!(found) == addresses
        };
        self.until_all(&ENDPOINT_SLICES, &format!("mirrors of {addresses}"), test).await;
    }

    /// What a node would say of a pod that runs.
    async fn ready(&self, pod: &str) {
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let merge = PatchKind::Merge;
        self.client().patch(&PODS, "default", pod, Some("status"), merge, &status).await.unwrap();
    }
}

fn namespace(resource: &Gvr) -> &'static str {
    let everywhere = [&CLUSTER_ROLES, &CUSTOM_RESOURCE_DEFINITIONS, &NODES].contains(&resource);
    if everywhere { "" } else { "default" }
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn workload(api_version: &str, kind: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template()}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replication_controller_its_budget_and_its_quota() {
    let mut cluster = Cluster::new().await;
    cluster.start(ReplicaSets::<ReplicationController>::new);
    cluster.start(Disruptions::new);
    cluster.start(ResourceQuotas::new);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "9", "replicationcontrollers": "2"}}});
    cluster.create(&RESOURCE_QUOTAS, quota).await;
    let controller =
        workload("v1", "ReplicationController", json!({"replicas": 3, "selector": {"app": "a"}}));
    cluster.create(&REPLICATION_CONTROLLERS, controller).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": "40%", "selector": {"matchLabels": {"app": "a"}}}});
    cluster.create(&POD_DISRUPTION_BUDGETS, budget).await;
    cluster.status(&REPLICATION_CONTROLLERS, "a", "replicas", json!(3)).await;
    cluster.status(&POD_DISRUPTION_BUDGETS, "b", "expectedPods", json!(3)).await;
    for pod in cluster.pods().await {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicationController");
        cluster.ready(pod["metadata"]["name"].as_str().unwrap()).await;
    }
    cluster.status(&REPLICATION_CONTROLLERS, "a", "availableReplicas", json!(3)).await;
    let budget = cluster.status(&POD_DISRUPTION_BUDGETS, "b", "disruptionsAllowed", json!(2)).await;
    assert_eq!(budget["status"]["conditions"][0]["reason"], "SufficientPods");
    cluster.status(&RESOURCE_QUOTAS, "q", "used", json!({"pods": "3", "replicationcontrollers": "1"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_counts_what_comes_later() {
    let mut cluster = Cluster::new().await;
    cluster.start(ResourceQuotas::new);
    cluster.start(Definitions::new);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"count/widgets.example.com": "5", "configmaps": "7"}}});
    cluster.create(&RESOURCE_QUOTAS, quota).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    cluster.create(&CONFIG_MAPS, map).await;
    // The map with the cluster's root certificates is there as well.
    cluster.status(&RESOURCE_QUOTAS, "q", "used", json!({"configmaps": "2"})).await;
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    cluster.create(&CUSTOM_RESOURCE_DEFINITIONS, definition).await;
    cluster
        .status(&RESOURCE_QUOTAS, "q", "used", json!({"configmaps": "2", "count/widgets.example.com": "0"}))
        .await;
    let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}});
    cluster.create(&WIDGETS, widget).await;
    let used = json!({"configmaps": "2", "count/widgets.example.com": "1"});
    cluster.status(&RESOURCE_QUOTAS, "q", "used", used).await;
    cluster.client().delete(&WIDGETS, "default", "w", &json!({})).await.unwrap();
    let used = json!({"configmaps": "2", "count/widgets.example.com": "0"});
    cluster.status(&RESOURCE_QUOTAS, "q", "used", used).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_follows_its_nodes_and_rolls_back() {
    let mut cluster = Cluster::new().await;
    cluster.start(DaemonSets::new);
    for name in ["n1", "n2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        cluster.create(&NODES, node).await;
    }
    cluster.create(&DAEMON_SETS, workload("apps/v1", "DaemonSet", json!({}))).await;
    cluster.status(&DAEMON_SETS, "a", "currentNumberScheduled", json!(2)).await;
    for pod in cluster.pods().await {
        cluster.ready(pod["metadata"]["name"].as_str().unwrap()).await;
    }
    cluster.status(&DAEMON_SETS, "a", "numberAvailable", json!(2)).await;
    let image = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    let merge = PatchKind::Merge;
    cluster.client().patch(&DAEMON_SETS, "default", "a", None, merge, &image("j")).await.unwrap();
    cluster.status(&DAEMON_SETS, "a", "observedGeneration", json!(2)).await;
    cluster.client().patch(&DAEMON_SETS, "default", "a", None, merge, &image("i")).await.unwrap();
    cluster.status(&DAEMON_SETS, "a", "observedGeneration", json!(3)).await;
    let params = wharf_client::ListParams::namespace("default");
    let revisions = cluster.client().list(&CONTROLLER_REVISIONS, &params).await.unwrap().items;
    let mut numbers: Vec<(i64, &str)> = revisions
        .iter()
        .map(|r| {
            let image = r.pointer("/data/spec/template/spec/containers/0/image");
            (r["revision"].as_i64().unwrap(), image.and_then(Value::as_str).unwrap())
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [(2, "j"), (3, "i")], "going back renews the old version");
    cluster.client().delete(&NODES, "", "n2", &json!({})).await.unwrap();
    cluster.status(&DAEMON_SETS, "a", "desiredNumberScheduled", json!(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_makes_pods_and_claims_in_order() {
    let mut cluster = Cluster::new().await;
    cluster.start(StatefulSets::new);
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"replicas": 2, "serviceName": "svc", "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"}});
    cluster.create(&STATEFUL_SETS, workload("apps/v1", "StatefulSet", spec)).await;
    cluster.status(&STATEFUL_SETS, "a", "replicas", json!(1)).await;
    assert_eq!(cluster.pods().await.len(), 1);
    cluster.ready("a-0").await;
    let second = cluster.until(&PODS, "a-1", |pod| pod.is_some()).await;
    assert_eq!(second["spec"]["hostname"], "a-1");
    cluster.ready("a-1").await;
    let set = cluster.status(&STATEFUL_SETS, "a", "availableReplicas", json!(2)).await;
    let revision = &second["metadata"]["labels"]["controller-revision-hash"];
    assert_eq!((&set["status"]["currentRevision"], &set["status"]["updateRevision"]), (revision, revision));
    let owned = |claim: Option<&Value>| {
        claim.is_some_and(|c| c.pointer("/metadata/ownerReferences/0/kind") == Some(&json!("StatefulSet")))
    };
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "data-a-0", owned).await;
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "data-a-1", owned).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_the_new_kinds_is_collected() {
    let mut cluster = Cluster::new().await;
    cluster.start(StatefulSets::new);
    cluster.start(ReplicaSets::<ReplicationController>::new);
    cluster.tasks.spawn(garbage::run(cluster.shared.clone()));
    // A pod something holds keeps the controller that goes in the foreground.
    let mut controller =
        workload("v1", "ReplicationController", json!({"replicas": 1, "selector": {"app": "a"}}));
    controller["spec"]["template"]["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.create(&REPLICATION_CONTROLLERS, controller.clone()).await;
    cluster.status(&REPLICATION_CONTROLLERS, "a", "replicas", json!(1)).await;
    let pod = cluster.pods().await[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let delete = |policy: &str| json!({"propagationPolicy": policy});
    let client = cluster.client();
    client.delete(&REPLICATION_CONTROLLERS, "default", "a", &delete("Foreground")).await.unwrap();
    let deleting = |o: Option<&Value>| o.is_some_and(|o| o["metadata"].get("deletionTimestamp").is_some());
    cluster.until(&PODS, &pod, deleting).await;
    cluster.until(&REPLICATION_CONTROLLERS, "a", deleting).await;
    let release = json!({"metadata": {"finalizers": null}});
    client.patch(&PODS, "default", &pod, None, PatchKind::Merge, &release).await.unwrap();
    cluster.until(&REPLICATION_CONTROLLERS, "a", |o| o.is_none()).await;
    cluster.until(&PODS, &pod, |o| o.is_none()).await;
    // Orphans stay, and the next controller adopts them.
    controller["spec"]["template"]["metadata"]["finalizers"] = Value::Null;
    cluster.create(&REPLICATION_CONTROLLERS, controller.clone()).await;
    cluster.status(&REPLICATION_CONTROLLERS, "a", "replicas", json!(1)).await;
    let pod = cluster.pods().await[0]["metadata"]["name"].as_str().unwrap().to_owned();
    client.delete(&REPLICATION_CONTROLLERS, "default", "a", &delete("Orphan")).await.unwrap();
    cluster.until(&REPLICATION_CONTROLLERS, "a", |o| o.is_none()).await;
    let orphan = cluster.until(&PODS, &pod, |o| o.is_some()).await;
    assert_eq!(orphan.pointer("/metadata/ownerReferences"), None);
    let next = cluster.create(&REPLICATION_CONTROLLERS, controller).await;
    let uid = next["metadata"]["uid"].clone();
    let adopted =
        |o: Option<&Value>| o.and_then(|o| o.pointer("/metadata/ownerReferences/0/uid")) == Some(&uid);
    cluster.until(&PODS, &pod, adopted).await;
    client.delete(&REPLICATION_CONTROLLERS, "default", "a", &delete("Background")).await.unwrap();
    cluster.until(&PODS, &pod, |o| o.is_none()).await;
    // A StatefulSet takes its versions with it, and its claims where it is told to.
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let spec = json!({"replicas": 1, "serviceName": "svc", "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"}});
    cluster.create(&STATEFUL_SETS, workload("apps/v1", "StatefulSet", spec)).await;
    let owned =
        |claim: Option<&Value>| claim.is_some_and(|c| c.pointer("/metadata/ownerReferences/0").is_some());
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "data-a-0", owned).await;
    client.delete(&STATEFUL_SETS, "default", "a", &delete("Background")).await.unwrap();
    cluster.until(&PODS, "a-0", |o| o.is_none()).await;
    cluster.until(&PERSISTENT_VOLUME_CLAIMS, "data-a-0", |o| deleting(o) || o.is_none()).await;
    cluster.until_all(&CONTROLLER_REVISIONS, "no version is left", |all| all.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_role_becomes_the_sum_of_others() {
    let mut cluster = Cluster::new().await;
    cluster.start(Aggregations::new);
    let role = |name: &str, rest: Value| {
        let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}});
        for (field, value) in rest.as_object().unwrap() {
            role[field] = value.clone();
        }
        role
    };
    let selector = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "sum"}}]});
    cluster.create(&CLUSTER_ROLES, role("sum", json!({"aggregationRule": selector}))).await;
    let rules = json!([{"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]}]);
    let metadata = json!({"name": "part", "labels": {"to": "sum"}});
    cluster.create(&CLUSTER_ROLES, role("part", json!({"metadata": metadata, "rules": rules}))).await;
    cluster.until(&CLUSTER_ROLES, "sum", |role| role.is_some_and(|role| role["rules"] == rules)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_made_by_hand_are_mirrored() {
    let mut cluster = Cluster::new().await;
    cluster.start(Mirrors::new);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"ports": [{"name": "sql", "port": 80}]}});
    cluster.create(&SERVICES, service).await;
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"}, "subsets": subsets("10.1.2.3")});
    cluster.create(&ENDPOINTS, endpoints).await;
    cluster.mirrored(json!(["10.1.2.3"])).await;
    let merge = PatchKind::Merge;
    let change = json!({"subsets": subsets("10.2.3.4")});
    cluster.client().patch(&ENDPOINTS, "default", "db", None, merge, &change).await.unwrap();
    cluster.mirrored(json!(["10.2.3.4"])).await;
    cluster.client().delete(&ENDPOINTS, "default", "db", &json!({})).await.unwrap();
    cluster.mirrored(json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_counts_the_failures_of_its_indexes() {
    let mut cluster = Cluster::new().await;
    cluster.start(Jobs::new);
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("Never");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, "spec": {"template": template,
        "completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0}});
    cluster.create(&JOBS, job).await;
    cluster.status(&JOBS, "a", "active", json!(2)).await;
    for pod in cluster.pods().await {
        let index = &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
        assert_eq!(pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"], "0");
        let status = json!({"status": {"phase": if index == "0" { "Succeeded" } else { "Failed" }}});
        let (name, merge) = (pod["metadata"]["name"].as_str().unwrap(), PatchKind::Merge);
        cluster.client().patch(&PODS, "default", name, Some("status"), merge, &status).await.unwrap();
    }
    let over =
        |job: Option<&Value>| job.is_some_and(|job| job["status"]["conditions"][1]["type"] == "Failed");
    let status = cluster.until(&JOBS, "a", over).await["status"].clone();
    assert_eq!((&status["failedIndexes"], &status["completedIndexes"]), (&json!("1"), &json!("0")));
    assert_eq!((&status["failed"], &status["succeeded"]), (&json!(1), &json!(1)));
    assert_eq!(status["conditions"][1]["reason"], "FailedIndexes");
}
