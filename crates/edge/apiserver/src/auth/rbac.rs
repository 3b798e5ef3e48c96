//! Role-based access control: the stored roles and bindings as one compiled table.
//!
//! Source: Kubernetes' RBAC API conventions (`rbac.authorization.k8s.io/v1`).

use std::{collections::HashMap, sync::Arc};

use serde_json::Value;

use super::{
    Identity,
    node::{NodeAuthorizer, node_of},
};
use crate::{
    derived::Derived,
    storage::{Snapshot, Storage},
    values::{items, texts},
};

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// Field selector of a request for many objects, as it was sent.
    pub fields: &'a str,
    /// Path of a request that is for no resource.
    pub path: Option<&'a str>,
}

/// Whether somebody may.
#[derive(Debug)]
pub(crate) enum Decision {
    /// By this binding; without one where no role had to be looked for.
    Allowed(Option<Bound>),
    /// Why not; empty when there is nothing to say but that no role allows it.
    Denied(String),
}

/// The binding that allows something, and which of its subjects the user is.
#[derive(Debug)]
pub(crate) struct Bound {
    binding: Arc<Binding>,
    subject: usize,
}

impl Bound {
    /// The reason as upstream's authorizer words it, which audit logs carry.
    pub(crate) fn reason(&self) -> String {
        let Binding { subjects, namespace, named, .. } = &*self.binding;
        let subject = subjects.get(self.subject).unwrap_or(&Value::Null);
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        let who = match text("kind") {
            "ServiceAccount" => {
                let namespace = subject["namespace"].as_str().unwrap_or(namespace);
                format!("{}/{namespace}", text("name"))
            }
            _ => text("name").to_owned(),
        };
        format!("RBAC: allowed by {named} to {} {who:?}", text("kind"))
    }
}

impl Attributes<'_> {
    /// The sentence after `User "x"`.
    pub(crate) fn refusal(&self) -> String {
        if let Some(path) = self.path {
            return format!("cannot {} path {path:?}", self.verb);
        }
        let mut resource = self.resource.to_owned();
        if !self.subresource.is_empty() {
            resource.push_str(&format!("/{}", self.subresource));
        }
        let scope = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("cannot {} resource {resource:?} in API group {:?} {scope}", self.verb, self.group)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    paths: Vec<String>,
}

impl Rule {
    pub(super) fn read(rule: &Value) -> Self {
        let texts = |name: &str| texts(&rule[name]);
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    pub(super) fn allows(&self, asked: &Attributes<'_>) -> bool {
        let any = |list: &[String], wanted: &str| list.iter().any(|v| v == "*" || v == wanted);
        if !any(&self.verbs, asked.verb) {
            return false;
        }
        match asked.path {
            Some(path) => self.paths.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => pattern == path,
            }),
            None => {
                any(&self.groups, asked.group)
                    && self.allows_resource(asked)
                    && (self.names.is_empty() || self.names.iter().any(|n| n == asked.name))
            }
        }
    }

    fn allows_resource(&self, asked: &Attributes<'_>) -> bool {
        self.resources.iter().any(|pattern| match (pattern.split_once('/'), asked.subresource) {
            (None, "") => pattern == "*" || pattern == asked.resource,
            (None, _) => pattern == "*",
            (Some((resource, sub)), wanted) => {
                !wanted.is_empty() && (resource == "*" || resource == asked.resource) && sub == wanted
            }
        })
    }

    /// Whether this rule covers everything `other` allows.
    fn covers(&self, other: &Self) -> bool {
        let all = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|m| m == "*") || theirs.iter().all(|t| mine.contains(t))
        };
        let names = self.names.is_empty() || (!other.names.is_empty() && all(&self.names, &other.names));
        let path = |t: &String| {
            self.paths
                .iter()
                .any(|m| m == t || m.strip_suffix('*').is_some_and(|prefix| t.starts_with(prefix)))
        };
        all(&self.verbs, &other.verbs)
            && if other.paths.is_empty() {
                all(&self.groups, &other.groups) && all(&self.resources, &other.resources) && names
            } else {
                other.paths.iter().all(path)
            }
    }
}

#[derive(Debug)]
struct Binding {
    subjects: Vec<Value>,
    rules: Arc<Vec<Rule>>,
    namespace: String,
    /// Itself and its role, for people.
    named: String,
}

impl Binding {
    /// Which of its subjects somebody is.
    fn binds(&self, who: &Identity) -> Option<usize> {
        self.subjects.iter().position(|subject| {
            let name = subject["name"].as_str().unwrap_or_default();
            match subject["kind"].as_str() {
                Some("User") => name == who.user,
                Some("Group") => who.groups.iter().any(|g| g == name),
                Some("ServiceAccount") => {
                    let namespace = subject["namespace"].as_str().unwrap_or(&self.namespace);
                    who.user == format!("system:serviceaccount:{namespace}:{name}")
                }
                _ => false,
            }
        })
    }
}

/// Bindings of one state of the four resources.
#[derive(Debug, Default)]
struct Compiled {
    cluster: Vec<Arc<Binding>>,
    namespaced: HashMap<String, Vec<Arc<Binding>>>,
}

fn compile([cluster_roles, roles, cluster_bindings, bindings]: [Snapshot; 4]) -> Compiled {
    let rules_of = |entries: &Snapshot| -> HashMap<String, Arc<Vec<Rule>>> {
        let rules = |object: &Value| items(&object["rules"]).map(Rule::read).collect();
        entries.entries.iter().map(|(key, e)| (key.to_string(), Arc::new(rules(&e.object())))).collect()
    };
    let (cluster_rules, local_rules) = (rules_of(&cluster_roles), rules_of(&roles));
    let mut compiled = Compiled::default();
    for entry in cluster_bindings.entries.values().chain(bindings.entries.values()) {
        let object = entry.object();
        let namespace = entry.namespace().to_owned();
        let name = object["roleRef"]["name"].as_str().unwrap_or_default();
        let rules = match object["roleRef"]["kind"].as_str() {
            Some("ClusterRole") => cluster_rules.get(&format!("/{name}")),
            _ => local_rules.get(&format!("{namespace}/{name}")),
        };
        let Some(rules) = rules else { continue };
        let subjects = object["subjects"].as_array().cloned().unwrap_or_default();
        let role = object["roleRef"]["kind"].as_str().unwrap_or_default();
        let named = match namespace.as_str() {
            "" => format!("ClusterRoleBinding {:?} of {role} {name:?}", entry.name()),
            _ => format!("RoleBinding \"{}/{namespace}\" of {role} {name:?}", entry.name()),
        };
        let rules = Arc::clone(rules);
        let binding = Arc::new(Binding { subjects, rules, namespace: namespace.clone(), named });
        match namespace.as_str() {
            "" => compiled.cluster.push(binding),
            _ => compiled.namespaced.entry(namespace).or_default().push(binding),
        }
    }
    compiled
}

/// Decides by the roles stored now.
pub(crate) struct Authorizer {
    compiled: Derived<Compiled, 4>,
    nodes: NodeAuthorizer,
}

const RESOURCES: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

impl Authorizer {
    pub(crate) fn new() -> Self {
        Self { compiled: Derived::of_all(RESOURCES), nodes: NodeAuthorizer::new() }
    }

    fn compiled(&self, storage: &Storage) -> Arc<Compiled> {
        self.compiled.of_now(storage, compile)
    }

    /// Whether `who` may, and by what.
    pub(crate) fn decide(&self, storage: &Storage, who: &Identity, asked: &Attributes<'_>) -> Decision {
        if who.is_master() {
            return Decision::Allowed(None);
        }
        let node = node_of(who).map(|node| self.nodes.decide(storage, node, asked));
        if let Some(Ok(())) = node {
            return Decision::Allowed(None);
        }
        let compiled = self.compiled(storage);
        let local = compiled.namespaced.get(asked.namespace).into_iter().flatten();
        let allowed = |b: &Arc<Binding>| {
            let subject = b.binds(who)?;
            let binding = b.rules.iter().any(|r| r.allows(asked)).then(|| Arc::clone(b))?;
            Some(Bound { binding, subject })
        };
        match compiled.cluster.iter().chain(local).find_map(allowed) {
            Some(bound) => Decision::Allowed(Some(bound)),
            None => Decision::Denied(node.and_then(Result::err).unwrap_or_default()),
        }
    }

    /// Whether `who` may.
    pub(crate) fn allows(&self, storage: &Storage, who: &Identity, asked: &Attributes<'_>) -> bool {
        matches!(self.decide(storage, who, asked), Decision::Allowed(_))
    }

    /// The rules of `role` that `who` does not hold: nobody may grant what they cannot do themselves.
    pub(crate) fn escalates(
        &self,
        storage: &Storage,
        who: &Identity,
        namespace: &str,
        rules: &[Value],
    ) -> bool {
        if who.is_master() {
            return false;
        }
        let held = self.rules_of(storage, who, namespace);
        rules.iter().map(Rule::read).any(|wanted| !held.iter().any(|rule| rule.covers(&wanted)))
    }

    fn rules_of(&self, storage: &Storage, who: &Identity, namespace: &str) -> Vec<Rule> {
        let compiled = self.compiled(storage);
        let local = compiled.namespaced.get(namespace).into_iter().flatten();
        let bound = compiled.cluster.iter().chain(local).filter(|b| b.binds(who).is_some());
        bound.flat_map(|b| b.rules.iter().cloned()).collect()
    }

    /// All that `who` may do in a namespace, for SelfSubjectRulesReview.
    pub(crate) fn rules_json(
        &self,
        storage: &Storage,
        who: &Identity,
        namespace: &str,
    ) -> (Vec<Value>, Vec<Value>) {
        let mut rules = self.rules_of(storage, who, namespace);
        if who.is_master() {
            let star = || vec!["*".to_owned()];
            rules.push(Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() });
            rules.push(Rule { verbs: star(), paths: star(), ..Rule::default() });
        }
        let (paths, resources): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|r| !r.paths.is_empty());
        let resource = |r: Rule| serde_json::json!({"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources, "resourceNames": r.names});
        let path = |r: Rule| serde_json::json!({"verbs": r.verbs, "nonResourceURLs": r.paths});
        (resources.into_iter().map(resource).collect(), paths.into_iter().map(path).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rule: Value, asked: Attributes<'_>) -> bool {
        Rule::read(&rule).allows(&asked)
    }

    #[test]
    fn rules_match_verbs_groups_resources_and_names() {
        let asked = Attributes { verb: "get", resource: "pods", name: "a", ..Attributes::default() };
        assert!(check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), asked.clone()));
        assert!(check(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}), asked.clone()));
        assert!(!check(json!({"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}), asked.clone()));
        assert!(!check(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["b"]}),
            asked.clone()
        ));
        assert!(!check(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}),
            asked.clone()
        ));
        let log = Attributes { subresource: "log", ..asked };
        assert!(check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}), log.clone()));
        assert!(!check(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), log));
        let path = Attributes { verb: "get", path: Some("/healthz/x"), ..Attributes::default() };
        assert!(check(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/*"]}), path));
    }
}
