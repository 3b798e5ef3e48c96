//! What a node may do: read what pods bound to it need, and write its own objects.
//!
//! A node is a user `system:node:NAME` of the group `system:nodes`. What its requests may write into the objects it
//! has a right to is judged by admission (`admission/node_restriction.rs`), which sees them.
//!
//! Source: Kubernetes' Node authorizer.

mod graph;
mod references;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};
use wharf_api::selector::FieldSelector;

use super::{
    Identity,
    rbac::{Attributes, Rule},
};
use crate::storage::Storage;

use graph::{Graph, Kind};
#[cfg(test)]
use references::Reference;
pub(crate) use references::{Referred, ephemeral_claim, references};

/// What names of nodes as users begin with.
pub(crate) const PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
/// Where nodes keep their leases.
pub(crate) const LEASES: &str = "kube-node-lease";

/// The node that asks, when it is a node.
pub(crate) fn node_of(who: &Identity) -> Option<&str> {
    let name = who.user.strip_prefix(PREFIX)?;
    who.groups.iter().any(|group| group == GROUP).then_some(name)
}

/// The rules of the ClusterRole `system:node`; the authorizer narrows many of them down.
pub(crate) fn rules() -> Vec<Value> {
    const READ: &[&str] = &["get", "list", "watch"];
    const CHANGE: &[&str] = &["update", "patch"];
    const OWN: &[&str] = &["get", "create", "update", "patch", "delete"];
    let rows: &[(&[&str], &[&str], &[&str])] = &[
        (&["create"], &["authentication.k8s.io"], &["tokenreviews"]),
        (&["create"], &["authorization.k8s.io"], &["subjectaccessreviews", "localsubjectaccessreviews"]),
        (READ, &[""], &["services", "pods", "secrets", "configmaps"]),
        (&["create", "get", "list", "watch"], &[""], &["nodes"]),
        (CHANGE, &[""], &["nodes", "nodes/status", "pods/status"]),
        (&["create", "update", "patch"], &["", "events.k8s.io"], &["events"]),
        (&["create", "delete"], &[""], &["pods"]),
        (&["create"], &[""], &["pods/eviction", "serviceaccounts/token"]),
        (&["get"], &[""], &["persistentvolumeclaims", "persistentvolumes", "endpoints", "serviceaccounts"]),
        (&["get", "update", "patch"], &[""], &["persistentvolumeclaims/status"]),
        (&["create", "get", "list", "watch"], &["certificates.k8s.io"], &["certificatesigningrequests"]),
        (OWN, &["coordination.k8s.io"], &["leases"]),
        (&["get"], &["storage.k8s.io"], &["volumeattachments"]),
        (READ, &["storage.k8s.io"], &["csidrivers"]),
        (OWN, &["storage.k8s.io"], &["csinodes"]),
        (READ, &["node.k8s.io"], &["runtimeclasses"]),
        (&["get"], &["resource.k8s.io"], &["resourceclaims"]),
        (&["deletecollection"], &["resource.k8s.io"], &["resourceslices"]),
    ];
    let rule = |(verbs, groups, resources): &(&[&str], &[&str], &[&str])| json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    rows.iter().map(rule).collect()
}

/// Decides about nodes.
pub(super) struct NodeAuthorizer {
    graph: Graph,
    rules: Vec<Rule>,
}

/// A right, or why there is none; empty when there is nothing more to say.
type Verdict = Result<(), String>;

impl NodeAuthorizer {
    pub(super) fn new() -> Self {
        Self { graph: Graph::default(), rules: rules().iter().map(Rule::read).collect() }
    }

    /// Whether a node may.
    pub(super) fn decide(&self, storage: &Storage, node: &str, asked: &Attributes<'_>) -> Verdict {
        let asking = Asking { graph: &self.graph, storage, node, asked };
        match (asked.path, asked.group, asked.resource) {
            (Some(_), ..) => self.by_rule(asked),
            (None, "", "secrets") => asking.read(Kind::Secret),
            (None, "", "configmaps") => asking.read(Kind::ConfigMap),
            (None, "", "persistentvolumeclaims") if asked.subresource == "status" => asking.claim_status(),
            (None, "", "persistentvolumeclaims") => asking.get(Kind::Claim),
            (None, "", "persistentvolumes") => asking.get(Kind::Volume),
            (None, "", "serviceaccounts") => asking.account(),
            (None, "", "nodes") => asking.node(),
            (None, "", "pods") => asking.pod(),
            (None, "resource.k8s.io", "resourceclaims") => asking.get(Kind::ResourceClaim),
            (None, "resource.k8s.io", "resourceslices") => asking.slice(),
            (None, "storage.k8s.io", "volumeattachments") => asking.get(Kind::Attachment),
            (None, "storage.k8s.io", "csinodes") => asking.own("CSINode"),
            (None, "coordination.k8s.io", "leases") => asking.lease(),
            _ => self.by_rule(asked),
        }
    }

    fn by_rule(&self, asked: &Attributes<'_>) -> Verdict {
        self.rules.iter().any(|rule| rule.allows(asked)).then_some(()).ok_or_else(String::new)
    }
}

/// One question of a node.
struct Asking<'a> {
    graph: &'a Graph,
    storage: &'a Storage,
    node: &'a str,
    asked: &'a Attributes<'a>,
}

fn no(why: impl Into<String>) -> Verdict {
    Err(why.into())
}

impl Asking<'_> {
    fn related(&self, kind: Kind) -> Verdict {
        let Attributes { namespace, name, .. } = self.asked;
        if name.is_empty() {
            return no("No Object name found");
        }
        match self.graph.reaches(self.storage, self.node, kind, namespace, name) {
            true => Ok(()),
            false => no(format!("no relationship found between node '{}' and this object", self.node)),
        }
    }

    /// One object of a kind.
    fn get(&self, kind: Kind) -> Verdict {
        match (self.asked.verb, self.asked.subresource) {
            ("get", "") => self.related(kind),
            ("get", _) => no("cannot get subresource"),
            _ => no("can only get individual resources of this type"),
        }
    }

    /// One object of a kind, also by list and watch of its name.
    fn read(&self, kind: Kind) -> Verdict {
        match (self.asked.verb, self.asked.subresource) {
            ("get" | "list" | "watch", "") if self.asked.namespace.is_empty() => {
                no("can only read namespaced object of this type")
            }
            ("get" | "list" | "watch", "") => self.related(kind),
            ("get" | "list" | "watch", _) => no("cannot read subresource"),
            _ => no("can only read resources of this type"),
        }
    }

    fn claim_status(&self) -> Verdict {
        match self.asked.verb {
            "update" | "patch" => self.related(Kind::Claim),
            _ => no("can only get/update/patch this type"),
        }
    }

    fn account(&self) -> Verdict {
        match (self.asked.verb, self.asked.subresource) {
            ("get", "") => self.read(Kind::Account),
            ("create", "token") if !self.asked.name.is_empty() => self.related(Kind::Account),
            ("create", _) if !self.asked.name.is_empty() => {
                no("can only create token subresource of serviceaccount")
            }
            _ => no("can only create tokens for individual service accounts"),
        }
    }

    fn lease(&self) -> Verdict {
        if self.asked.namespace != LEASES && is_own_verb(self.asked.verb) {
            return no(format!("can only access leases in the {LEASES:?} system namespace"));
        }
        self.own("node lease")
    }

    /// An object that has the node's name. The name of a new one is known to admission.
    fn own(&self, what: &str) -> Verdict {
        let Attributes { verb, name, subresource, .. } = self.asked;
        match () {
            () if !is_own_verb(verb) => {
                let a = if what == "CSINode" { "a CSINode" } else { "a node lease" };
                no(format!("can only get, create, update, patch, or delete {a}"))
            }
            () if !subresource.is_empty() => no(format!("cannot authorize {what} subresources")),
            () if *verb != "create" && *name != self.node => {
                no(format!("can only access {what} with the same name as the requesting node"))
            }
            () => Ok(()),
        }
    }

    fn node(&self) -> Verdict {
        let Attributes { verb, name, subresource, .. } = self.asked;
        let node = self.node;
        match (*subresource, *verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") => match *name {
                name if name == node => Ok(()),
                "" => no(format!("node '{node}' cannot read all nodes, only its own Node object")),
                name => no(format!("node '{node}' cannot read '{name}', only its own Node object")),
            },
            _ => no(""),
        }
    }

    fn pod(&self) -> Verdict {
        match (self.asked.subresource, self.asked.verb) {
            ("", "get") => self.related(Kind::Pod),
            ("", "list" | "watch") if self.selects("spec.nodeName") => Ok(()),
            ("", "list" | "watch") if !self.asked.name.is_empty() => self.related(Kind::Pod),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => no(""),
        }
    }

    fn slice(&self) -> Verdict {
        match (self.asked.subresource, self.asked.verb) {
            ("", "create") => Ok(()),
            ("", "get" | "update" | "patch" | "delete") => self.related(Kind::Slice),
            ("", "watch" | "list" | "deletecollection") if self.selects("spec.nodeName") => Ok(()),
            ("", "watch" | "list" | "deletecollection") => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            ("", _) => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
            _ => no("cannot authorize ResourceSlice subresources"),
        }
    }

    /// Whether only objects are asked for whose field is the node's name.
    fn selects(&self, path: &str) -> bool {
        let selector = FieldSelector::parse(self.asked.fields, |_| true);
        selector.is_ok_and(|selector| selector.exact(path) == Some(self.node))
    }
}

fn is_own_verb(verb: &str) -> bool {
    matches!(verb, "get" | "create" | "update" | "patch" | "delete")
}
