//! What a mirror pod must not need.

use serde_json::Value;

use crate::auth::node::{Referred, references};

/// Which kind of objects a pod cannot be run without, in upstream's words.
pub(super) fn needs_api(pod: &Value) -> Option<&'static str> {
    let references = references(pod);
    for kind in [Referred::Account, Referred::Secret, Referred::ConfigMap] {
        if references.iter().any(|(referred, _)| *referred == kind) {
            return Some(match kind {
                Referred::Account => "serviceaccounts",
                Referred::Secret => "secrets",
                _ => "configmaps",
            });
        }
    }
    if pod["spec"]["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.into_iter().find_map(volume_needs)
}

fn volume_needs(volume: &Value) -> Option<&'static str> {
    const KINDS: &[(&str, &str)] = &[
        ("configMap", "configmaps (via configmap volumes)"),
        ("secret", "secrets (via secret volumes)"),
        ("csi", "csidrivers (via CSI volumes)"),
        ("glusterfs", "endpoints (via glusterFS volumes)"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
        ("azureFile", "secrets (via azureFile volumes)"),
    ];
    const SOURCES: &[(&str, &str)] = &[
        ("configMap", "configmaps (via projected volumes)"),
        ("secret", "secrets (via projected volumes)"),
        ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    let of = |from: &Value, rows: &[(&str, &'static str)]| {
        rows.iter().find(|(kind, _)| from.get(*kind).is_some_and(|v| !v.is_null())).map(|(_, what)| *what)
    };
    let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
    of(volume, KINDS).or_else(|| sources.into_iter().find_map(|source| of(source, SOURCES)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
}
