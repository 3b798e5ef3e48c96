//! What a kubelet that is not the platform's own may do.

use serde_json::{Value, json};
use wharf_apiserver::Identity;

use super::support::{Answer, Api};

const CORE: &str = "/api/v1/namespaces/default";

fn node(name: &str) -> Identity {
    Identity::new(format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
}

async fn ask(api: &Api, name: &str, method: &str, path: &str, body: Value) -> Answer {
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    api.ask(node(name), method, path, media, body).await
}

async fn reads(api: &Api, name: &str, path: &str) -> u16 {
    ask(api, name, "GET", path, Value::Null).await.code
}

/// A pod bound to a node, with a secret, a map and a claim.
async fn bound(api: &Api, pod: &str, node: &str) -> Value {
    let body = json!({"metadata": {"name": pod}, "spec": {"nodeName": node,
        "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "env"}}]}],
        "volumes": [{"name": "m", "configMap": {"name": "map"}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}]}});
    api.made(&format!("{CORE}/pods"), body).await
}

#[tokio::test]
async fn nodes_read_what_their_pods_need_and_nothing_else() {
    let api = Api::start().await;
    for secret in ["env", "other"] {
        api.made(&format!("{CORE}/secrets"), json!({"metadata": {"name": secret}})).await;
    }
    api.made(&format!("{CORE}/configmaps"), json!({"metadata": {"name": "map"}})).await;
    let claim = json!({"metadata": {"name": "claim"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    api.made(&format!("{CORE}/persistentvolumeclaims"), claim).await;
    let volume = json!({"metadata": {"name": "vol"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"},
        "claimRef": {"namespace": "default", "name": "claim"}}});
    api.made("/api/v1/persistentvolumes", volume).await;

    let needed = [
        format!("{CORE}/secrets/env"),
        format!("{CORE}/secrets?fieldSelector=metadata.name=env"),
        format!("{CORE}/configmaps/map"),
        format!("{CORE}/persistentvolumeclaims/claim"),
        "/api/v1/persistentvolumes/vol".to_owned(),
        format!("{CORE}/serviceaccounts/default"),
        format!("{CORE}/pods/p"),
    ];
    for path in &needed {
        assert_eq!(reads(&api, "a", path).await, 403, "{path} before the pod");
    }
    bound(&api, "p", "a").await;
    for path in &needed {
        assert_eq!(reads(&api, "a", path).await, 200, "{path}");
        assert_eq!(reads(&api, "b", path).await, 403, "{path} from another node");
    }
    for path in [
        format!("{CORE}/secrets/other"),
        format!("{CORE}/secrets"),
        "/api/v1/secrets".into(),
        format!("{CORE}/pods"),
        "/api/v1/pods".into(),
        "/api/v1/pods?fieldSelector=spec.nodeName=b".into(),
        "/api/v1/nodes".into(),
        "/api/v1/nodes/b".into(),
    ] {
        assert_eq!(reads(&api, "a", &path).await, 403, "{path}");
    }
    assert_eq!(reads(&api, "a", "/api/v1/pods?fieldSelector=spec.nodeName=a").await, 200);
    assert_eq!(reads(&api, "a", "/api/v1/nodes?fieldSelector=metadata.name=a").await, 200);
    assert_eq!(reads(&api, "a", "/api/v1/services").await, 200);
    let refused = ask(&api, "a", "GET", &needed[0].replace("env", "other"), Value::Null).await;
    assert_eq!(
        refused.message(),
        "secrets \"other\" is forbidden: User \"system:node:a\" cannot get resource \"secrets\" in API group \"\" in the namespace \"default\": no relationship found between node 'a' and this object"
    );
    // What a pod needed is read no more once it is gone.
    api.send("DELETE", &format!("{CORE}/pods/p?gracePeriodSeconds=0"), Value::Null).await;
    assert_eq!(reads(&api, "a", &needed[0]).await, 403);
    assert_eq!(reads(&api, "a", &needed[4]).await, 403);
}

#[tokio::test]
async fn nodes_write_their_own_objects() {
    let api = Api::start().await;
    let object = |name: &str| json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    assert_eq!(ask(&api, "a", "POST", "/api/v1/nodes", object("b")).await.code, 403);
    let mut secure = object("a");
    secure["metadata"]["labels"]["node-restriction.kubernetes.io/x"] = "y".into();
    let refused = ask(&api, "a", "POST", "/api/v1/nodes", secure).await;
    assert_eq!(
        refused.message(),
        "nodes \"a\" is forbidden: node \"a\" is not allowed to set the following labels: node-restriction.kubernetes.io/x"
    );
    let made = ask(&api, "a", "POST", "/api/v1/nodes", object("a")).await;
    assert_eq!(made.code, 201, "{made:?}");
    api.made("/api/v1/nodes", object("b")).await;

    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(ask(&api, "a", "PATCH", "/api/v1/nodes/a/status", ready.clone()).await.code, 200);
    assert_eq!(ask(&api, "a", "PATCH", "/api/v1/nodes/b/status", ready).await.code, 403);
    let taints = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    assert_eq!(ask(&api, "a", "PATCH", "/api/v1/nodes/a", taints).await.code, 403);
    let label = json!({"metadata": {"labels": {"rack": "7"}}});
    assert_eq!(ask(&api, "a", "PATCH", "/api/v1/nodes/a", label).await.code, 200);
    assert_eq!(ask(&api, "a", "DELETE", "/api/v1/nodes/a", Value::Null).await.code, 403);

    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    for (name, code) in [("b", 403), ("a", 201)] {
        let lease = json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
        assert_eq!(ask(&api, "a", "POST", leases, lease).await.code, code, "lease {name}");
    }
    let elsewhere = leases.replace("kube-node-lease", "default");
    assert_eq!(ask(&api, "a", "POST", &elsewhere, json!({"metadata": {"name": "a"}})).await.code, 403);
    let csi = "/apis/storage.k8s.io/v1/csinodes";
    for (name, code) in [("b", 403), ("a", 201)] {
        let object = json!({"metadata": {"name": name}, "spec": {"drivers": []}});
        assert_eq!(ask(&api, "a", "POST", csi, object).await.code, code, "CSINode {name}");
    }
}

#[tokio::test]
async fn nodes_report_on_their_pods_and_end_them() {
    let api = Api::start().await;
    api.made("/api/v1/nodes", json!({"metadata": {"name": "a"}})).await;
    for (pod, node) in [("mine", "a"), ("theirs", "b")] {
        bound(&api, pod, node).await;
    }
    let running = json!({"status": {"phase": "Running"}});
    let status = |pod: &str| format!("{CORE}/pods/{pod}/status");
    assert_eq!(ask(&api, "a", "PATCH", &status("mine"), running.clone()).await.code, 200);
    let refused = ask(&api, "a", "PATCH", &status("theirs"), running).await;
    assert_eq!(
        refused.message(),
        "pods \"theirs\" is forbidden: node \"a\" can only update pod status for pods with spec.nodeName set to itself"
    );
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    assert_eq!(ask(&api, "a", "PATCH", &status("mine"), labels).await.code, 403);
    let evict = |pod: &str| json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}});
    let evicting = format!("{CORE}/pods/theirs/eviction");
    assert_eq!(ask(&api, "a", "POST", &evicting, evict("theirs")).await.code, 403);
    let now = json!({"gracePeriodSeconds": 0});
    assert_eq!(ask(&api, "a", "DELETE", &format!("{CORE}/pods/theirs"), now.clone()).await.code, 403);
    assert_eq!(ask(&api, "a", "DELETE", &format!("{CORE}/pods/mine"), now).await.code, 200);
}

#[tokio::test]
async fn nodes_make_mirror_pods_and_tokens_of_their_pods() {
    let api = Api::start().await;
    let own = api.made("/api/v1/nodes", json!({"metadata": {"name": "a"}})).await;
    let mirror = json!({"metadata": {"name": "static-a", "annotations": {"kubernetes.io/config.mirror": "hash"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "controller": true,
            "uid": own["metadata"]["uid"]}]},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    let pods = format!("{CORE}/pods");
    let mut plain = mirror.clone();
    plain["metadata"]["annotations"] = json!({});
    assert_eq!(ask(&api, "a", "POST", &pods, plain).await.code, 403);
    let mut foreign = mirror.clone();
    foreign["spec"]["nodeName"] = "b".into();
    assert_eq!(ask(&api, "a", "POST", &pods, foreign).await.code, 403);
    let mut greedy = mirror.clone();
    greedy["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "s"}}]);
    assert_eq!(ask(&api, "a", "POST", &pods, greedy).await.code, 403);
    let made = ask(&api, "a", "POST", &pods, mirror).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(made.body["spec"].get("serviceAccountName"), None);

    let pod = bound(&api, "p", "a").await;
    let tokens = format!("{CORE}/serviceaccounts/default/token");
    let request = |audience: &str, uid: &Value| {
        let audiences = if audience.is_empty() { json!([]) } else { json!([audience]) };
        json!({"spec": {"audiences": audiences, "boundObjectRef":
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid}}})
    };
    let uid = &pod["metadata"]["uid"];
    let made = ask(&api, "a", "POST", &tokens, request("", uid)).await;
    assert_eq!(made.code, 201, "{made:?}");
    assert_eq!(ask(&api, "a", "POST", &tokens, json!({"spec": {}})).await.code, 403);
    assert_eq!(ask(&api, "a", "POST", &tokens, request("", &json!("other"))).await.code, 403);
    assert_eq!(ask(&api, "a", "POST", &tokens, request("vault", uid)).await.code, 403);
    assert_eq!(ask(&api, "b", "POST", &tokens, request("", uid)).await.code, 403);
}
