//! Labels of Nodes that are not the node's own to set.

use std::collections::BTreeSet;

use serde_json::Value;
use wharf_api::meta;

/// Labels that a node changes and may not, for a message: those of Kubernetes' own domains, but for the ones kubelets
/// set, and those made to keep nodes away.
pub(super) fn forbidden_labels(old: &Value, new: &Value) -> String {
    let (old, new) = (meta::labels(old), meta::labels(new));
    let changed = old.keys().chain(new.keys()).filter(|key| old.get(*key) != new.get(*key));
    let forbidden: BTreeSet<&str> = changed.map(|key| &**key).filter(|key| is_forbidden(key)).collect();
    forbidden.into_iter().collect::<Vec<_>>().join(", ")
}

fn is_forbidden(key: &str) -> bool {
    const KUBELETS: &[&str] = &[
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within =
        |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let allowed =
        || KUBELETS.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    within("node-restriction.kubernetes.io") || ((within("kubernetes.io") || within("k8s.io")) && !allowed())
}

#[cfg(test)]
mod tests {
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
}
