use serde_json::json;

use super::{
    graph::{Kind, State},
    *,
};

fn pod(node: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": node, "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "initContainers": [{"envFrom": [{"secretRef": {"name": "env"}}, {"configMapRef": {"name": "map"}}]}],
        "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}},
            {"valueFrom": {"configMapKeyRef": {"name": "one"}}}]}],
        "volumes": [{"name": "s", "secret": {"secretName": "vol"}}, {"name": "c", "configMap": {"name": "cm"}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "e", "ephemeral": {}},
            {"name": "x", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
            {"name": "j", "projected": {"sources": [{"secret": {"name": "pro"}}, {"configMap": {"name": "jec"}}]}}],
        "resourceClaims": [{"name": "r", "resourceClaimName": "gpu"}, {"name": "t", "resourceClaimTemplateName": "t"}]},
        "status": {"resourceClaimStatuses": [{"name": "t", "resourceClaimName": "made"}]}})
}

#[test]
fn a_pod_leads_to_what_it_names() {
    use Referred::{Account, Claim, ConfigMap, ResourceClaim, Secret};
    let found = references(&pod("a"));
    let expect: Vec<Reference> = [
        (Account, "sa"),
        (Secret, "csi"),
        (Secret, "env"),
        (Secret, "key"),
        (Secret, "pro"),
        (Secret, "pull"),
        (Secret, "vol"),
        (ConfigMap, "cm"),
        (ConfigMap, "jec"),
        (ConfigMap, "map"),
        (ConfigMap, "one"),
        (Claim, "claim"),
        (Claim, "p-e"),
        (ResourceClaim, "gpu"),
        (ResourceClaim, "made"),
    ]
    .map(|(kind, name)| (kind, name.to_owned()))
    .into();
    assert_eq!(found, expect);
}

#[test]
fn what_leads_to_a_node_ends_with_the_pod() {
    let mut graph = State::default();
    graph.pod("n/p", &pod("a"));
    graph.volume(
        "v",
        &json!({"spec": {"claimRef": {"namespace": "n", "name": "claim"},
        "csi": {"nodeStageSecretRef": {"namespace": "storage", "name": "stage"},
            "controllerPublishSecretRef": {"namespace": "storage", "name": "control"}}}}),
    );
    for (node, kind, namespace, name, expect) in [
        ("a", Kind::Pod, "n", "p", true),
        ("b", Kind::Pod, "n", "p", false),
        ("a", Kind::Secret, "n", "vol", true),
        ("b", Kind::Secret, "n", "vol", false),
        ("a", Kind::Secret, "m", "vol", false),
        ("a", Kind::Secret, "storage", "stage", true),
        ("a", Kind::Secret, "storage", "control", false),
        ("a", Kind::Volume, "", "v", true),
        ("b", Kind::Volume, "", "v", false),
        ("a", Kind::ResourceClaim, "n", "made", true),
        ("a", Kind::Account, "n", "sa", true),
    ] {
        assert_eq!(graph.reaches(node, kind, namespace, name), expect, "{node} {kind:?} {namespace}/{name}");
    }
    // Another pod of the node keeps what it needs, too.
    graph.pod("n/q", &json!({"spec": {"nodeName": "a", "imagePullSecrets": [{"name": "pull"}]}}));
    graph.pod("n/p", &Value::Null);
    assert!(graph.reaches("a", Kind::Secret, "n", "pull"));
    assert!(!graph.reaches("a", Kind::Secret, "n", "vol"));
    assert!(!graph.reaches("a", Kind::Volume, "", "v"));
    graph.pod("n/q", &Value::Null);
    graph.volume("v", &Value::Null);
    assert_eq!(graph.len(), 0, "nothing is left behind");
}

#[test]
fn mirror_pods_give_no_rights() {
    let mut graph = State::default();
    let mut mirror = pod("a");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    graph.pod("n/p", &mirror);
    assert!(graph.reaches("a", Kind::Pod, "n", "p"));
    assert!(!graph.reaches("a", Kind::Secret, "n", "vol"));
}

#[test]
fn nodes_are_users_of_their_group() {
    let of = |user: &str, groups: &[&str]| node_of(&Identity::new(user, groups)).map(str::to_owned);
    assert_eq!(of("system:node:a", &["system:nodes"]), Some("a".into()));
    assert_eq!(of("system:node:a", &["system:masters"]), None);
    assert_eq!(of("a", &["system:nodes"]), None);
}
