//! ClusterRoles that are the sum of others (`aggregationRule`).

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    action::{CLUSTER_ROLES, Step},
    meta::{Meta, null_default},
    selector::LabelSelector,
};

/// `rbac.authorization.k8s.io/v1.ClusterRole`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterRole {
    /// Metadata.
    pub metadata: Meta,
    /// What it permits.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<Value>,
    /// Which others it is the sum of.
    pub aggregation_rule: Option<AggregationRule>,
}

/// `rbac.authorization.k8s.io/v1.AggregationRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    /// The ClusterRoles any of these select.
    #[serde(deserialize_with = "null_default")]
    pub cluster_role_selectors: Vec<LabelSelector>,
}

/// What a decision about one ClusterRole sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The ClusterRole.
    pub role: &'a ClusterRole,
    /// Every ClusterRole, in order of their names.
    pub all: &'a [&'a ClusterRole],
}

/// Decides about one ClusterRole.
pub fn step(view: &View<'_>) -> Step {
    let role = view.role;
    let Some(rule) = role.aggregation_rule.as_ref().filter(|_| !role.metadata.deleting()) else {
        return Step::idle();
    };
    let rules = sum(rule, view);
    if rules == role.rules {
        return Step::idle();
    }
    Step::of(vec![role.metadata.locked_patch(CLUSTER_ROLES, json!({"rules": rules}))])
}

/// The rules of all it selects, each once.
fn sum(rule: &AggregationRule, view: &View<'_>) -> Vec<Value> {
    let mut rules: Vec<Value> = Vec::new();
    for selector in &rule.cluster_role_selectors {
        let others = view.all.iter().filter(|other| other.metadata.name != view.role.metadata.name);
        let selected = others.filter(|other| selector.matches(&other.metadata.labels));
        for found in selected.flat_map(|other| &other.rules) {
            if !rules.contains(found) {
                rules.push(found.clone());
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, meta::read};

    fn role(name: &str, label: &str, rules: &[&str], selectors: Option<&[&str]>) -> ClusterRole {
        let selectors = selectors.map(|labels| {
            let selectors: Vec<Value> =
                labels.iter().map(|label| json!({"matchLabels": {"to": label}})).collect();
            json!({"clusterRoleSelectors": selectors})
        });
        let rules: Vec<Value> = rules.iter().map(|verb| json!({"verbs": [verb]})).collect();
        read(&json!({"metadata": {"name": name, "labels": {"to": label}}, "rules": rules,
            "aggregationRule": selectors}))
        .unwrap()
    }

    fn check(present: &[&str], selectors: Option<&[&str]>, expect: Option<&[&str]>) {
        let sum = role("sum", "view", present, selectors);
        let others = [
            role("a", "view", &["get", "list"], None),
            role("b", "edit", &["create", "get"], None),
            role("c", "none", &["delete"], None),
        ];
        let all: Vec<&ClusterRole> = others.iter().chain([&sum]).collect();
        let verbs = step(&View { role: &sum, all: &all }).actions.into_iter().map(|action| match action {
            Action::Patch { body, .. } => {
                let rules = body["rules"].as_array().cloned().unwrap_or_default();
                rules.iter().map(|r| r["verbs"][0].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        });
        let expect: Vec<Vec<String>> =
            expect.iter().map(|verbs| verbs.iter().map(|v| (*v).to_owned()).collect()).collect();
        assert_eq!(verbs.collect::<Vec<_>>(), expect);
    }

    #[test]
    fn rules_are_those_of_the_selected() {
        check(&[], None, None);
        check(&["get"], None, None);
        check(&[], Some(&["view"]), Some(&["get", "list"]));
        check(&["get", "list"], Some(&["view"]), None);
        check(&["delete"], Some(&["edit", "view"]), Some(&["create", "get", "list"]));
        check(&["delete"], Some(&["nothing"]), Some(&[]));
    }
}
