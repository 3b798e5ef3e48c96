//! Which FlowSchema a request is of, and which of its flows.
//!
//! Source: `flowcontrol.apiserver.k8s.io/v1` FlowSchema.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use http::HeaderValue;
use serde_json::Value;
use wharf_api::meta;

use crate::{
    Identity,
    request::RequestInfo,
    values::{items, texts},
};

/// A FlowSchema.
#[derive(Debug)]
pub(super) struct Schema {
    pub name: String,
    pub uid: Option<HeaderValue>,
    /// Name of the priority level.
    pub level: String,
    precedence: i64,
    flows: Flows,
    rules: Vec<Rule>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy)]
enum Flows {
    One,
    ByUser,
    ByNamespace,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    Account(String, String),
}

#[derive(Debug)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

#[derive(Debug)]
struct Paths {
    verbs: Vec<String>,
    paths: Vec<String>,
}

/// Whether a list holds a value, or all of them.
fn holds(list: &[String], value: &str) -> bool {
    list.iter().any(|one| one == "*" || one == value)
}

/// Schemas in the order they are tried.
pub(super) fn sorted(mut all: Vec<Schema>) -> Vec<Schema> {
    all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
    all
}

impl Schema {
    pub(super) fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            name: meta::name(object).to_owned(),
            uid: HeaderValue::from_str(meta::text(object, "uid")).ok(),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            flows: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Flows::ByUser,
                Some("ByNamespace") => Flows::ByNamespace,
                _ => Flows::One,
            },
            rules: items(&spec["rules"]).map(Rule::read).collect(),
        }
    }

    pub(super) fn fits(&self, who: &Identity, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.fits(who, info))
    }

    /// The flow of a request, by which its queue is chosen.
    pub(super) fn flow(&self, who: &Identity, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.flows {
            Flows::One => "",
            Flows::ByUser => &who.user,
            Flows::ByNamespace => &info.namespace,
        }
        .hash(&mut hasher);
        hasher.finish()
    }
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let subject = |subject: &Value| match subject["kind"].as_str()? {
            "User" => Some(Subject::User(text(&subject["user"]["name"]))),
            "Group" => Some(Subject::Group(text(&subject["group"]["name"]))),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                Some(Subject::Account(text(&account["namespace"]), text(&account["name"])))
            }
            _ => None,
        };
        let resources = |rule: &Value| Resources {
            verbs: texts(&rule["verbs"]),
            groups: texts(&rule["apiGroups"]),
            resources: texts(&rule["resources"]),
            namespaces: texts(&rule["namespaces"]),
            cluster_scope: rule["clusterScope"] == true,
        };
        let paths =
            |rule: &Value| Paths { verbs: texts(&rule["verbs"]), paths: texts(&rule["nonResourceURLs"]) };
        Self {
            subjects: items(&rule["subjects"]).filter_map(subject).collect(),
            resources: items(&rule["resourceRules"]).map(resources).collect(),
            paths: items(&rule["nonResourceRules"]).map(paths).collect(),
        }
    }

    fn fits(&self, who: &Identity, info: &RequestInfo) -> bool {
        let what = match info.resource.is_empty() {
            true => self.paths.iter().any(|rule| rule.fit(info)),
            false => self.resources.iter().any(|rule| rule.fit(info)),
        };
        what && self.subjects.iter().any(|subject| subject.is(who))
    }
}

impl Subject {
    fn is(&self, who: &Identity) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == who.user,
            Self::Group(name) => name == "*" || who.groups.contains(name),
            Self::Account(namespace, name) => {
                let account = who.user.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'));
                account.is_some_and(|(of, called)| of == namespace && (name == "*" || called == name))
            }
        }
    }
}

impl Resources {
    fn fit(&self, info: &RequestInfo) -> bool {
        let fits = |pattern: &String| match pattern.split_once('/') {
            _ if pattern == "*" => true,
            None => info.subresource.is_empty() && *pattern == info.resource,
            Some((resource, sub)) => resource == info.resource && sub == info.subresource,
        };
        holds(&self.verbs, info.verb)
            && holds(&self.groups, &info.group)
            && self.resources.iter().any(fits)
            && match info.namespace.as_str() {
                "" => self.cluster_scope,
                namespace => holds(&self.namespaces, namespace),
            }
    }
}

impl Paths {
    fn fit(&self, info: &RequestInfo) -> bool {
        let fits = |pattern: &String| {
            let prefix = pattern.strip_suffix('*').unwrap_or(pattern);
            let below = info.path.strip_prefix(prefix.trim_end_matches('/'));
            pattern == "*" || *pattern == info.path || below.is_some_and(|rest| rest.starts_with('/'))
        };
        holds(&self.verbs, info.verb) && self.paths.iter().any(fits)
    }
}
