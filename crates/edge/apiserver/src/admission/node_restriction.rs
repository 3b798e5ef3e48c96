//! What nodes may write: their own Node, lease and CSINode, status of pods bound to them, mirror pods, tokens of those
//! pods' accounts, requests for their own certificates.
//!
//! Source: Kubernetes' admission plugin NodeRestriction.

mod labels;
mod mirror;

use serde_json::Value;
use wharf_api::{meta, status::Status, validate::MIRROR};
use wharf_http::CertificateRequest;

use super::{Attributes, Operation};
use crate::{
    ApiServer, Context,
    auth::{
        self,
        node::{LEASES, PREFIX, ephemeral_claim, node_of},
    },
};

use labels::forbidden_labels;
use mirror::needs_api;

/// Refuses what a node may not write; others are not its matter.
pub(super) fn check(
    server: &ApiServer,
    context: &Context,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<(), Status> {
    let Some(node) = node_of(&context.identity) else { return Ok(()) };
    let writing = Writing { server, context, node, attributes, object: object.unwrap_or(&Value::Null) };
    writing.judge().map_err(|refused| match refused {
        Refused::Because(why) => {
            let (qualified, name) = (attributes.resource.qualified(), attributes.name.as_str());
            let about = if name.is_empty() { String::new() } else { format!(" {name:?}") };
            Status::forbidden(format!("{qualified}{about} is forbidden: {why}")).about(&qualified, name)
        }
        Refused::With(status) => status,
    })
}

enum Refused {
    Because(String),
    With(Status),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Because(why)
    }
}

impl From<&str> for Refused {
    fn from(why: &str) -> Self {
        Self::Because(why.to_owned())
    }
}

type Verdict = Result<(), Refused>;

/// `Ok` where a condition holds.
fn only(holds: bool, why: impl Into<Refused>) -> Verdict {
    if holds { Ok(()) } else { Err(why.into()) }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

struct Writing<'a> {
    server: &'a ApiServer,
    context: &'a Context,
    node: &'a str,
    attributes: &'a Attributes<'a>,
    object: &'a Value,
}

impl Writing<'_> {
    fn judge(&self) -> Verdict {
        if self.node.is_empty() {
            let user = &self.context.identity.user;
            return Err(format!("could not determine node from user {user:?}").into());
        }
        let resource = self.attributes.resource;
        if resource.custom.is_some() {
            return Ok(());
        }
        match (resource.gvk.group.as_str(), resource.plural.as_str(), self.attributes.subresource) {
            ("", "pods", "") => self.pod(),
            ("", "pods", "status") => self.pod_status(),
            ("", "pods", "eviction") => self.eviction(),
            ("", "pods", other) => {
                Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")
                    .into())
            }
            ("", "nodes", _) => self.node(),
            ("", "persistentvolumeclaims", "status") => self.claim_status(),
            ("", "persistentvolumeclaims", _) => Err("may only update PVC status".into()),
            ("", "serviceaccounts", "token") => self.token(),
            ("coordination.k8s.io", "leases", _) => self.lease(),
            ("storage.k8s.io", "csinodes", _) => self.same_name("CSINode"),
            ("resource.k8s.io", "resourceslices", _) => self.slice(),
            ("certificates.k8s.io", "certificatesigningrequests", "") => self.certificate(),
            _ => Ok(()),
        }
    }

    fn pod(&self) -> Verdict {
        match self.attributes.operation {
            Operation::Create => self.mirror_pod(),
            Operation::Delete => {
                let pod = self.attributes.old.unwrap_or(&Value::Null);
                let node = self.node;
                only(
                    text(&pod["spec"], "nodeName") == node,
                    format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
                )
            }
            other => Err(format!(
                "unexpected operation {:?}, node {:?} can only create and delete mirror pods",
                other.name(),
                self.node
            )
            .into()),
        }
    }

    fn mirror_pod(&self) -> Verdict {
        let (node, pod) = (self.node, self.object);
        only(
            pod["metadata"]["annotations"].get(MIRROR).is_some(),
            format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"),
        )?;
        only(
            text(&pod["spec"], "nodeName") == node,
            format!("node {node:?} can only create pods with spec.nodeName set to itself"),
        )?;
        let none = Vec::new();
        let owner = match &pod["metadata"]["ownerReferences"].as_array().unwrap_or(&none)[..] {
            [owner] => owner,
            [] => {
                let why = format!("node {node:?} can only create pods with an owner reference set to itself");
                return Err(why.into());
            }
            _ => {
                return Err(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                )
                .into());
            }
        };
        self.owned(owner)?;
        match needs_api(pod) {
            None => Ok(()),
            Some(what) => Err(format!("node {node:?} can not create pods that reference {what}").into()),
        }
    }

    fn owned(&self, owner: &Value) -> Verdict {
        let node = self.node;
        only(
            text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node" && text(owner, "name") == node,
            format!("node {node:?} can only create pods with an owner reference set to itself"),
        )?;
        only(
            owner["controller"] == true,
            format!("node {node:?} can only create pods with a controller owner reference set to itself"),
        )?;
        only(
            owner["blockOwnerDeletion"] != true,
            format!("node {node:?} must not set blockOwnerDeletion on an owner reference"),
        )?;
        let stored = self.server.storage.get("nodes", &format!("/{node}"));
        let stored = stored.ok_or_else(|| Refused::With(Status::not_found("nodes", node)))?.object();
        let (given, known) = (text(owner, "uid"), meta::text(&stored, "uid"));
        only(given == known, format!("node {node} UID mismatch: expected {given} got {known}"))
    }

    fn pod_status(&self) -> Verdict {
        let (node, old) = (self.node, self.attributes.old.unwrap_or(&Value::Null));
        only(
            self.attributes.operation == Operation::Update,
            format!("unexpected operation {:?}", self.attributes.operation.name()),
        )?;
        only(
            text(&old["spec"], "nodeName") == node,
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
        )?;
        let labels = |pod: &Value| meta::labels(pod);
        only(
            labels(old) == labels(self.object),
            format!("node {node:?} cannot update labels through pod status"),
        )?;
        only(
            same(&old["status"]["resourceClaimStatuses"], &self.object["status"]["resourceClaimStatuses"]),
            format!("node {node:?} cannot update resource claim statues"),
        )?;
        let field = "extendedResourceClaimStatus";
        only(
            same(&old["status"][field], &self.object["status"][field]),
            format!("node {node:?} cannot update extended resource claim status"),
        )
    }

    fn eviction(&self) -> Verdict {
        let (node, name) = (self.node, self.attributes.name.as_str());
        let pod = self.stored_pod(name)?;
        only(
            text(&pod["spec"], "nodeName") == node,
            format!("node {node} can only evict pods with spec.nodeName set to itself"),
        )
    }

    fn stored_pod(&self, name: &str) -> Result<Value, Refused> {
        let entry = self.server.storage.get("pods", &format!("{}/{name}", self.attributes.namespace));
        entry.map(|entry| entry.object()).ok_or_else(|| Refused::With(Status::not_found("pods", name)))
    }

    /// Everything but what a node finds out while it grows a volume stays as it is.
    fn claim_status(&self) -> Verdict {
        let without = |claim: &Value| {
            let mut claim = claim.clone();
            if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
                for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                    status.remove(field);
                }
            }
            let metadata = meta::metadata_mut(&mut claim);
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
            claim
        };
        let old = self.attributes.old.unwrap_or(&Value::Null);
        only(
            same(&without(old), &without(self.object)),
            format!(
                "node {:?} is not allowed to update fields other than status.quantity and status.conditions",
                self.node
            ),
        )
    }

    fn node(&self) -> Verdict {
        let (node, name) = (self.node, self.attributes.name.as_str());
        only(name == node, format!("node {node:?} is not allowed to modify node {name:?}"))?;
        let (new, old) = (self.object, self.attributes.old.unwrap_or(&Value::Null));
        let source = &new["spec"]["configSource"];
        match self.attributes.operation {
            Operation::Create => {
                only(
                    source.is_null(),
                    format!("node {node:?} is not allowed to create pods with a non-nil configSource"),
                )?;
                let forbidden = forbidden_labels(&Value::Null, new);
                only(
                    forbidden.is_empty(),
                    format!("node {node:?} is not allowed to set the following labels: {forbidden}"),
                )
            }
            Operation::Update => {
                only(
                    source.is_null() || *source == old["spec"]["configSource"],
                    format!(
                        "node {node:?} is not allowed to update configSource to a new non-nil configSource"
                    ),
                )?;
                only(
                    same(&new["spec"]["taints"], &old["spec"]["taints"]),
                    format!("node {node:?} is not allowed to modify taints"),
                )?;
                let owners = "ownerReferences";
                only(
                    same(&new["metadata"][owners], &old["metadata"][owners]),
                    format!("node {node:?} is not allowed to modify ownerReferences"),
                )?;
                let forbidden = forbidden_labels(old, new);
                only(forbidden.is_empty(), format!("is not allowed to modify labels: {forbidden}"))
            }
            _ => Ok(()),
        }
    }

    fn token(&self) -> Verdict {
        let reference = &self.object["spec"]["boundObjectRef"];
        let (name, uid) = (text(reference, "name"), text(reference, "uid"));
        only(
            text(reference, "apiVersion") == "v1" && text(reference, "kind") == "Pod" && !name.is_empty(),
            "node requested token not bound to a pod",
        )?;
        only(!uid.is_empty(), "node requested token with a pod binding without a uid")?;
        let pod = self.stored_pod(name)?;
        only(
            uid == meta::text(&pod, "uid"),
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ),
        )?;
        only(
            text(&pod["spec"], "nodeName") == self.node,
            "node requested token bound to a pod scheduled on a different node",
        )?;
        self.audience(&pod)
    }

    /// A node asks only for audiences the pod's volumes are for, or that a role lets it ask for.
    fn audience(&self, pod: &Value) -> Verdict {
        let none = Vec::new();
        let audience = match &self.object["spec"]["audiences"].as_array().unwrap_or(&none)[..] {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err("node may only request 0 or 1 audiences".into()),
        };
        let namespace = self.attributes.namespace.as_str();
        let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        if volumes.into_iter().any(|volume| self.mounts(pod, volume, audience)) {
            return Ok(());
        }
        let asked = auth::Attributes {
            verb: "request-serviceaccounts-token-audience",
            resource: audience,
            namespace,
            name: &self.attributes.name,
            ..auth::Attributes::default()
        };
        let user = &self.context.identity.user;
        only(
            self.server.authorize(&self.context.identity, &asked).is_ok(),
            format!(
                "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
            ),
        )
    }

    /// Whether a volume is, or its driver asks for, a token for an audience.
    fn mounts(&self, pod: &Value, volume: &Value, audience: &str) -> bool {
        let sources = volume["projected"]["sources"].as_array().into_iter().flatten();
        let tokens = sources.map(|source| &source["serviceAccountToken"]);
        if tokens.filter(|token| token.is_object()).any(|token| text(token, "audience") == audience) {
            return true;
        }
        let claim = match ephemeral_claim(pod, volume) {
            Value::String(name) => name,
            _ => text(&volume["persistentVolumeClaim"], "claimName").to_owned(),
        };
        let driver = match claim.as_str() {
            "" => Some(text(&volume["csi"], "driver").to_owned()),
            claim => self.driver_of(claim),
        };
        let Some(driver) = driver.filter(|driver| !driver.is_empty()) else { return false };
        let driver = self.server.storage.get("csidrivers.storage.k8s.io", &format!("/{driver}"));
        driver.is_some_and(|driver| {
            let asked = &driver.object()["spec"]["tokenRequests"];
            asked.as_array().into_iter().flatten().any(|request| text(request, "audience") == audience)
        })
    }

    fn driver_of(&self, claim: &str) -> Option<String> {
        let storage = &self.server.storage;
        let key = format!("{}/{claim}", self.attributes.namespace);
        let claim = storage.get("persistentvolumeclaims", &key)?.object();
        let volume = storage.get("persistentvolumes", &format!("/{}", text(&claim["spec"], "volumeName")))?;
        Some(text(&volume.object()["spec"]["csi"], "driver").to_owned())
    }

    fn lease(&self) -> Verdict {
        only(
            self.attributes.namespace == LEASES,
            format!("can only access leases in the {LEASES:?} system namespace"),
        )?;
        self.same_name("node lease")
    }

    fn same_name(&self, what: &str) -> Verdict {
        only(
            self.attributes.name == self.node,
            format!("can only access {what} with the same name as the requesting node"),
        )
    }

    fn slice(&self) -> Verdict {
        let (doing, slice) = match self.attributes.operation {
            Operation::Create => ("create", self.object),
            Operation::Delete => ("delete", self.attributes.old.unwrap_or(&Value::Null)),
            _ => return Ok(()),
        };
        only(
            text(&slice["spec"], "nodeName") == self.node,
            format!("can only {doing} ResourceSlice with the same NodeName as the requesting node"),
        )
    }

    fn certificate(&self) -> Verdict {
        let signer = text(&self.object["spec"], "signerName");
        let ours = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
        if self.attributes.operation != Operation::Create || !ours.contains(&signer) {
            return Ok(());
        }
        let request = super::certificates::parse(self.object);
        let CertificateRequest { common_name, .. } =
            request.map_err(|error| format!("unable to parse csr: {error}"))?;
        only(
            common_name.strip_prefix(PREFIX) == Some(self.node),
            format!("can only create a node CSR with CN={PREFIX}{}", self.node),
        )
    }
}

/// Whether two parts of objects say the same, nothing and an empty list or map being one.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    a == b || empty(a) && empty(b)
}
