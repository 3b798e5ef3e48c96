use serde_json::json;

use super::*;

#[test]
fn labels_of_the_system_are_not_a_nodes() {
    for (key, forbidden) in [
        ("app", false),
        ("example.com/role", false),
        ("kubernetes.io/hostname", false),
        ("node.kubernetes.io/instance-type", false),
        ("x.node.kubernetes.io/y", false),
        ("kubelet.kubernetes.io/x", false),
        ("node-role.kubernetes.io/control-plane", true),
        ("node-restriction.kubernetes.io/secure", true),
        ("a.node-restriction.kubernetes.io/secure", true),
        ("k8s.io/x", true),
        ("notkubernetes.io/x", false),
    ] {
        assert_eq!(is_forbidden(key), forbidden, "{key}");
    }
    let node = |labels: Value| json!({"metadata": {"labels": labels}});
    let (old, new) =
        (json!({"k8s.io/a": "1", "k8s.io/b": "1", "c": "1"}), json!({"k8s.io/a": "2", "k8s.io/b": "1"}));
    assert_eq!(forbidden_labels(&node(old), &node(new)), "k8s.io/a");
}

#[test]
fn mirror_pods_need_nothing_of_the_api() {
    for (spec, expect) in [
        (json!({"volumes": [{"hostPath": {"path": "/"}}, {"emptyDir": {}}]}), None),
        (json!({"serviceAccountName": "x"}), Some("serviceaccounts")),
        (json!({"imagePullSecrets": [{"name": "x"}]}), Some("secrets")),
        (json!({"volumes": [{"csi": {"driver": "d"}}]}), Some("csidrivers (via CSI volumes)")),
        (
            json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
            Some("serviceaccounts (via projected volumes)"),
        ),
        (
            json!({"volumes": [{"name": "e", "ephemeral": {}}]}),
            Some("persistentvolumeclaims (via ephemeral volumes)"),
        ),
        (json!({"resourceClaims": [{"name": "x"}]}), Some("resourceclaims")),
    ] {
        assert_eq!(needs_api(&json!({"spec": spec})), expect, "{spec}");
    }
}
