//! The resource table: which resources the API serves, with the facts discovery and routing need.
//!
//! Adding a built-in kind is adding a row here (its fields are in the schema table already), plus
//! rows for printer columns and defaults where it has any.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use crate::{
    crd::Custom,
    schema::{Gvk, TypeRef, builtin},
};

/// One built-in resource.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// API group, empty for core.
    pub group: &'static str,
    /// The version served.
    pub version: &'static str,
    /// The group and version its objects are stored in; see [`crate::convert`].
    pub stored: (&'static str, &'static str),
    /// Lower-case plural name in paths.
    pub plural: &'static str,
    /// Kind in CamelCase.
    pub kind: &'static str,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Names kubectl accepts as abbreviations.
    pub short: &'static [&'static str],
    /// Groups of resources it belongs to, such as `all`.
    pub categories: &'static [&'static str],
    /// Subresources served (`status`, `scale`, …).
    pub subresources: &'static [&'static str],
    /// Create only: a review that is answered and not stored.
    pub review: bool,
}

const NONE: &[&str] = &[];
const ALL: &[&str] = &["all"];
const STATUS: &[&str] = &["status"];
const STATUS_SCALE: &[&str] = &["status", "scale"];

#[allow(clippy::too_many_arguments, reason = "a row of the table below, read column by column")]
const fn row(
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [&'static str],
) -> Row {
    Row {
        group,
        version,
        stored: (group, version),
        plural,
        kind,
        namespaced,
        short,
        categories,
        subresources,
        review: false,
    }
}

const fn review(group: &'static str, plural: &'static str, kind: &'static str, namespaced: bool) -> Row {
    Row {
        group,
        version: "v1",
        stored: (group, "v1"),
        plural,
        kind,
        namespaced,
        short: NONE,
        categories: NONE,
        subresources: NONE,
        review: true,
    }
}

/// A further form of a resource that is stored in another group or version.
const fn stored_as(group: &'static str, version: &'static str, row: Row) -> Row {
    Row { stored: (group, version), ..row }
}

const POD_SUB: &[&str] = &[
    "status",
    "log",
    "exec",
    "attach",
    "portforward",
    "proxy",
    "binding",
    "eviction",
    "ephemeralcontainers",
    "resize",
];
const STATUS_PROXY: &[&str] = &["status", "proxy"];
const ADMISSION: &str = "admissionregistration.k8s.io";
const AUTHN: &str = "authentication.k8s.io";
const AUTHZ: &str = "authorization.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const DEVICES: &str = "resource.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const API: &[&str] = &["api-extensions"];

/// Every built-in resource, in the order discovery shows groups.
#[rustfmt::skip]
pub const ROWS: &[Row] = &[
    row("", "v1", "configmaps", "ConfigMap", true, &["cm"], NONE, NONE),
    row("", "v1", "endpoints", "Endpoints", true, &["ep"], NONE, NONE),
    row("", "v1", "events", "Event", true, &["ev"], NONE, NONE),
    row("", "v1", "limitranges", "LimitRange", true, &["limits"], NONE, NONE),
    row("", "v1", "namespaces", "Namespace", false, &["ns"], NONE, &["status", "finalize"]),
    row("", "v1", "nodes", "Node", false, &["no"], NONE, STATUS_PROXY),
    row("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, &["pvc"], NONE, STATUS),
    row("", "v1", "persistentvolumes", "PersistentVolume", false, &["pv"], NONE, STATUS),
    row("", "v1", "pods", "Pod", true, &["po"], ALL, POD_SUB),
    row("", "v1", "podtemplates", "PodTemplate", true, NONE, NONE, NONE),
    row("", "v1", "replicationcontrollers", "ReplicationController", true, &["rc"], ALL, STATUS_SCALE),
    row("", "v1", "resourcequotas", "ResourceQuota", true, &["quota"], NONE, STATUS),
    row("", "v1", "secrets", "Secret", true, NONE, NONE, NONE),
    row("", "v1", "serviceaccounts", "ServiceAccount", true, &["sa"], NONE, &["token"]),
    row("", "v1", "services", "Service", true, &["svc"], ALL, STATUS_PROXY),
    row("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false, &["crd", "crds"], API, STATUS),
    row("apiregistration.k8s.io", "v1", "apiservices", "APIService", false, NONE, API, STATUS),
    row("apps", "v1", "controllerrevisions", "ControllerRevision", true, NONE, NONE, NONE),
    row("apps", "v1", "daemonsets", "DaemonSet", true, &["ds"], ALL, STATUS),
    row("apps", "v1", "deployments", "Deployment", true, &["deploy"], ALL, STATUS_SCALE),
    row("apps", "v1", "replicasets", "ReplicaSet", true, &["rs"], ALL, STATUS_SCALE),
    row("apps", "v1", "statefulsets", "StatefulSet", true, &["sts"], ALL, STATUS_SCALE),
    row("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true, &["hpa"], ALL, STATUS),
    stored_as("autoscaling", "v2", row("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler", true, &["hpa"], ALL, STATUS)),
    row("batch", "v1", "cronjobs", "CronJob", true, &["cj"], ALL, STATUS),
    row("batch", "v1", "jobs", "Job", true, NONE, ALL, STATUS),
    row("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", false, &["csr"], NONE, &["approval", "status"]),
    row("coordination.k8s.io", "v1", "leases", "Lease", true, NONE, NONE, NONE),
    row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", true, NONE, NONE, NONE),
    stored_as("", "v1", row("events.k8s.io", "v1", "events", "Event", true, &["ev"], NONE, NONE)),
    row(FLOW_CONTROL, "v1", "flowschemas", "FlowSchema", false, NONE, NONE, STATUS),
    row(FLOW_CONTROL, "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration", false, NONE, NONE, STATUS),
    row(NETWORKING, "v1", "ingressclasses", "IngressClass", false, NONE, NONE, NONE),
    row(NETWORKING, "v1", "ingresses", "Ingress", true, &["ing"], NONE, STATUS),
    row(NETWORKING, "v1", "ipaddresses", "IPAddress", false, &["ip"], NONE, NONE),
    row(NETWORKING, "v1", "networkpolicies", "NetworkPolicy", true, &["netpol"], NONE, NONE),
    row(NETWORKING, "v1", "servicecidrs", "ServiceCIDR", false, NONE, NONE, STATUS),
    row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true, &["pdb"], NONE, STATUS),
    row(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", false, NONE, NONE, NONE),
    row(RBAC, "v1", "clusterroles", "ClusterRole", false, NONE, NONE, NONE),
    row(RBAC, "v1", "rolebindings", "RoleBinding", true, NONE, NONE, NONE),
    row(RBAC, "v1", "roles", "Role", true, NONE, NONE, NONE),
    row(DEVICES, "v1", "deviceclasses", "DeviceClass", false, NONE, NONE, NONE),
    row(DEVICES, "v1", "resourceclaims", "ResourceClaim", true, NONE, NONE, STATUS),
    row(DEVICES, "v1", "resourceclaimtemplates", "ResourceClaimTemplate", true, NONE, NONE, NONE),
    row(DEVICES, "v1", "resourceslices", "ResourceSlice", false, NONE, NONE, NONE),
    row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", false, &["pc"], NONE, NONE),
    row(STORAGE, "v1", "csidrivers", "CSIDriver", false, NONE, NONE, NONE),
    row(STORAGE, "v1", "csinodes", "CSINode", false, NONE, NONE, NONE),
    row(STORAGE, "v1", "csistoragecapacities", "CSIStorageCapacity", true, NONE, NONE, NONE),
    row(STORAGE, "v1", "storageclasses", "StorageClass", false, &["sc"], NONE, NONE),
    row(STORAGE, "v1", "volumeattachments", "VolumeAttachment", false, NONE, NONE, STATUS),
    row(STORAGE, "v1", "volumeattributesclasses", "VolumeAttributesClass", false, &["vac"], NONE, NONE),
    row("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", false, NONE, NONE, NONE),
    row(ADMISSION, "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration", false, NONE, API, NONE),
    row(ADMISSION, "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", false, NONE, API, NONE),
    row(ADMISSION, "v1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy", false, NONE, API, NONE),
    row(ADMISSION, "v1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding", false, NONE, API, NONE),
    row(ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", false, NONE, API, STATUS),
    row(ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", false, NONE, API, NONE),
    review("", "bindings", "Binding", true),
    review(AUTHN, "tokenreviews", "TokenReview", false),
    review(AUTHN, "selfsubjectreviews", "SelfSubjectReview", false),
    review(AUTHZ, "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
    review(AUTHZ, "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
    review(AUTHZ, "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
    review(AUTHZ, "subjectaccessreviews", "SubjectAccessReview", false),
];

/// Where the objects of a resource are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// In the store.
    #[default]
    Stored,
    /// Nowhere: what is created is a question that is answered.
    Review,
    /// Nowhere: they are measured when they are read.
    Measured,
}

/// A resource the API serves: a built-in row or a custom resource's version.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Group, version and kind.
    pub gvk: Gvk,
    /// Lower-case plural name in paths.
    pub plural: String,
    /// Lower-case singular name.
    pub singular: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Names kubectl accepts as abbreviations.
    pub short: Vec<String>,
    /// Groups of resources it belongs to.
    pub categories: Vec<String>,
    /// Subresources served.
    pub subresources: Vec<String>,
    /// Where its objects are.
    pub backing: Backing,
    /// What its objects are stored as.
    pub stored: Gvk,
    /// The type of its objects.
    pub ty: TypeRef,
    /// What a CustomResourceDefinition adds.
    pub custom: Option<Arc<Custom>>,
}

impl Resource {
    /// Verbs of the resource itself, as discovery lists them.
    pub fn verbs(&self) -> &'static [&'static str] {
        match self.backing {
            Backing::Review => &["create"],
            Backing::Measured => &["get", "list"],
            Backing::Stored => {
                &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
            }
        }
    }

    /// Whether objects are stored in the group and version this resource serves.
    pub fn serves_stored(&self) -> bool {
        self.stored == self.gvk
    }

    /// What its objects are kept under: `plural.group` of the group they are stored in.
    pub fn storage_key(&self) -> String {
        qualify(&self.plural, &self.stored.group)
    }

    /// Whether the subresource is served.
    pub fn has(&self, subresource: &str) -> bool {
        self.subresources.iter().any(|s| s == subresource)
    }

    /// `plural.group`, or the plural alone for core: the form of messages.
    pub fn qualified(&self) -> String {
        qualify(&self.plural, &self.gvk.group)
    }
}

fn qualify(plural: &str, group: &str) -> String {
    if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") }
}

/// The built-in resources with their types.
pub fn builtin_resources() -> &'static [Resource] {
    static RESOURCES: OnceLock<Vec<Resource>> = OnceLock::new();
    RESOURCES.get_or_init(|| ROWS.iter().filter_map(from_row).collect())
}

fn from_row(row: &Row) -> Option<Resource> {
    let gvk = Gvk::new(row.group, row.version, row.kind);
    let owned = |texts: &[&str]| texts.iter().map(|s| (*s).to_owned()).collect();
    Some(Resource {
        ty: builtin().of_kind(&gvk)?,
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        list_kind: format!("{}List", row.kind),
        namespaced: row.namespaced,
        short: owned(row.short),
        categories: owned(row.categories),
        subresources: owned(row.subresources),
        stored: Gvk::new(row.stored.0, row.stored.1, row.kind),
        backing: if row.review { Backing::Review } else { Backing::Stored },
        custom: None,
        gvk,
    })
}

/// The built-in resource of a group and plural name, in the version it is stored in.
pub fn builtin_resource(group: &str, plural: &str) -> Option<&'static Resource> {
    static INDEX: OnceLock<HashMap<(&'static str, &'static str), &'static Resource>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let stored = builtin_resources().iter().filter(|r| r.serves_stored());
        stored.map(|r| ((r.gvk.group.as_str(), r.plural.as_str()), r)).collect()
    });
    index.get(&(group, plural)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_type() {
        assert_eq!(builtin_resources().len(), ROWS.len());
        assert_eq!(builtin_resource("apps", "deployments").unwrap().qualified(), "deployments.apps");
    }
}
