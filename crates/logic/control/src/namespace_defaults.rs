//! What every namespace has: the ServiceAccount `default` and the ConfigMap with the cluster's root
//! certificate.

use serde::Deserialize;
use serde_json::json;

use crate::{
    action::{Action, CONFIG_MAPS, SERVICE_ACCOUNTS, Step},
    meta::{Labels, Meta, null_default},
};

/// Name of the ConfigMap with the root certificate.
pub const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";

/// `v1.ConfigMap`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Meta,
    /// Texts by key.
    #[serde(deserialize_with = "null_default")]
    pub data: Labels,
}

/// What a decision about one namespace sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The namespace.
    pub namespace: &'a Meta,
    /// Whether its ServiceAccount `default` exists.
    pub has_default_account: bool,
    /// Its ConfigMap [`ROOT_CA`], if there is one.
    pub root_ca: Option<&'a ConfigMap>,
    /// The cluster's root certificates in PEM.
    pub ca_bundle: &'a str,
}

/// Decides what one namespace lacks.
pub fn step(view: &View<'_>) -> Step {
    if view.namespace.deleting() {
        return Step::idle();
    }
    let mut actions = Vec::new();
    if !view.has_default_account {
        actions.push(create_account(&view.namespace.name));
    }
    actions.extend(root_ca(view));
    Step::of(actions)
}

fn create_account(namespace: &str) -> Action {
    Action::Create {
        resource: SERVICE_ACCOUNTS,
        namespace: namespace.to_owned(),
        object: json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace}}),
        announce: None,
    }
}

fn root_ca(view: &View<'_>) -> Option<Action> {
    let data = json!({ROOT_CA_KEY: view.ca_bundle});
    let text = "Contains a CA bundle that can be used to verify the kube-apiserver.";
    let annotations = json!({DESCRIPTION: text});
    let Some(present) = view.root_ca else {
        let namespace = &view.namespace.name;
        return Some(Action::Create {
            resource: CONFIG_MAPS,
            namespace: namespace.clone(),
            object: json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data,
                "metadata": {"name": ROOT_CA, "namespace": namespace, "annotations": annotations}}),
            announce: None,
        });
    };
    let right = present.data.len() == 1
        && present.data.get(ROOT_CA_KEY).is_some_and(|pem| pem == view.ca_bundle)
        && present.metadata.annotations.contains_key(DESCRIPTION);
    let others = present.data.keys().filter(|key| *key != ROOT_CA_KEY);
    let mut data = data;
    for key in others {
        data[key] = serde_json::Value::Null;
    }
    let body = json!({"data": data, "metadata": {"annotations": annotations}});
    (!right).then(|| present.metadata.locked_patch(CONFIG_MAPS, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;

    fn check(account: bool, ca: Option<serde_json::Value>, expect: usize) {
        let namespace = Meta { name: "ns".into(), ..Meta::default() };
        let ca: Option<ConfigMap> = ca.map(|data| {
            read(&json!({"metadata": {"annotations": {DESCRIPTION: "x"}}, "data": data})).unwrap()
        });
        let view = View {
            namespace: &namespace,
            has_default_account: account,
            root_ca: ca.as_ref(),
            ca_bundle: "PEM",
        };
        assert_eq!(step(&view).actions.len(), expect);
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_wrong_mended() {
        check(false, None, 2);
        check(true, None, 1);
        check(true, Some(json!({"ca.crt": "PEM"})), 0);
        check(true, Some(json!({"ca.crt": "OLD"})), 1);
        check(true, Some(json!({"ca.crt": "PEM", "other": "x"})), 1);
    }
}
