//! What a decision asks for: writes against the Kubernetes API, and when to look again.

use std::{borrow::Cow, time::Duration};

use serde_json::Value;

/// A resource of the API: group (empty for the core group), version, plural name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvr {
    /// API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// API version, such as `v1`.
    pub version: Cow<'static, str>,
    /// Plural resource name, such as `pods`.
    pub resource: Cow<'static, str>,
}

impl Gvr {
    /// A resource known at compile time.
    pub const fn fixed(group: &'static str, version: &'static str, resource: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            version: Cow::Borrowed(version),
            resource: Cow::Borrowed(resource),
        }
    }

    /// A resource learnt at run time, from discovery or a CustomResourceDefinition.
    pub fn dynamic(group: &str, version: &str, resource: &str) -> Self {
        Self {
            group: Cow::Owned(group.to_owned()),
            version: Cow::Owned(version.to_owned()),
            resource: Cow::Owned(resource.to_owned()),
        }
    }

    /// `group/version`, or the version alone for the core group: the form of `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone().into_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// `v1` Pods.
pub const PODS: Gvr = Gvr::fixed("", "v1", "pods");
/// `v1` Nodes.
pub const NODES: Gvr = Gvr::fixed("", "v1", "nodes");
/// `v1` Namespaces.
pub const NAMESPACES: Gvr = Gvr::fixed("", "v1", "namespaces");
/// `v1` Services.
pub const SERVICES: Gvr = Gvr::fixed("", "v1", "services");
/// `v1` Endpoints.
pub const ENDPOINTS: Gvr = Gvr::fixed("", "v1", "endpoints");
/// `v1` ConfigMaps.
pub const CONFIG_MAPS: Gvr = Gvr::fixed("", "v1", "configmaps");
/// `v1` Secrets.
pub const SECRETS: Gvr = Gvr::fixed("", "v1", "secrets");
/// `v1` ServiceAccounts.
pub const SERVICE_ACCOUNTS: Gvr = Gvr::fixed("", "v1", "serviceaccounts");
/// `v1` PersistentVolumeClaims.
pub const PERSISTENT_VOLUME_CLAIMS: Gvr = Gvr::fixed("", "v1", "persistentvolumeclaims");
/// `apps/v1` Deployments.
pub const DEPLOYMENTS: Gvr = Gvr::fixed("apps", "v1", "deployments");
/// `apps/v1` ReplicaSets.
pub const REPLICA_SETS: Gvr = Gvr::fixed("apps", "v1", "replicasets");
/// `v1` ReplicationControllers.
pub const REPLICATION_CONTROLLERS: Gvr = Gvr::fixed("", "v1", "replicationcontrollers");
/// `v1` ResourceQuotas.
pub const RESOURCE_QUOTAS: Gvr = Gvr::fixed("", "v1", "resourcequotas");
/// `apps/v1` StatefulSets.
pub const STATEFUL_SETS: Gvr = Gvr::fixed("apps", "v1", "statefulsets");
/// `apps/v1` DaemonSets.
pub const DAEMON_SETS: Gvr = Gvr::fixed("apps", "v1", "daemonsets");
/// `apps/v1` ControllerRevisions.
pub const CONTROLLER_REVISIONS: Gvr = Gvr::fixed("apps", "v1", "controllerrevisions");
/// `batch/v1` Jobs.
pub const JOBS: Gvr = Gvr::fixed("batch", "v1", "jobs");
/// `batch/v1` CronJobs.
pub const CRON_JOBS: Gvr = Gvr::fixed("batch", "v1", "cronjobs");
/// `discovery.k8s.io/v1` EndpointSlices.
pub const ENDPOINT_SLICES: Gvr = Gvr::fixed("discovery.k8s.io", "v1", "endpointslices");
/// `v1` Events.
pub const EVENTS: Gvr = Gvr::fixed("", "v1", "events");
/// `coordination.k8s.io/v1` Leases.
pub const LEASES: Gvr = Gvr::fixed("coordination.k8s.io", "v1", "leases");
/// `apiextensions.k8s.io/v1` CustomResourceDefinitions.
pub const CUSTOM_RESOURCE_DEFINITIONS: Gvr =
    Gvr::fixed("apiextensions.k8s.io", "v1", "customresourcedefinitions");
/// `policy/v1` PodDisruptionBudgets.
pub const POD_DISRUPTION_BUDGETS: Gvr = Gvr::fixed("policy", "v1", "poddisruptionbudgets");

/// `rbac.authorization.k8s.io/v1` ClusterRoles.
pub const CLUSTER_ROLES: Gvr = Gvr::fixed("rbac.authorization.k8s.io", "v1", "clusterroles");

/// What happens to the dependents of a deleted object (`DeleteOptions.propagationPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// The owner goes at once, the garbage collector removes the dependents later.
    Background,
    /// The owner waits for its blocking dependents.
    Foreground,
    /// The dependents stay and lose their owner reference.
    Orphan,
}

impl Propagation {
    /// The word the API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Background => "Background",
            Self::Foreground => "Foreground",
            Self::Orphan => "Orphan",
        }
    }
}

/// The patch formats the controllers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// JSON merge patch, RFC 7386 (`application/merge-patch+json`).
    Merge,
    /// JSON patch, RFC 6902 (`application/json-patch+json`).
    Json,
}

/// An object an Event speaks of, or an owner to verify.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The resource version it was read at; may be empty.
    pub resource_version: String,
}

/// Whether an Event reports ordinary progress or trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Ordinary progress.
    Normal,
    /// Something a person may have to look at.
    Warning,
}

/// An Event to record. The runner adds time, source and count, and folds repetitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object it is about.
    pub involved: ObjectRef,
    /// One CamelCase word, matched by tools.
    pub reason: &'static str,
    /// For people. In the `announce` of a create, `{name}` stands for the name the object was given.
    pub message: String,
    /// Ordinary or not.
    pub kind: EventType,
}

impl Event {
    /// An Event about ordinary progress.
    pub fn normal(involved: ObjectRef, reason: &'static str, message: impl Into<String>) -> Self {
        Self { involved, reason, message: message.into(), kind: EventType::Normal }
    }

    /// An Event about trouble.
    pub fn warning(involved: ObjectRef, reason: &'static str, message: impl Into<String>) -> Self {
        Self { involved, reason, message: message.into(), kind: EventType::Warning }
    }
}

/// One write a decision asks for. The runner applies the actions of a step in their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Creates `object`; a name that is still open is asked for with `generateName`.
    Create {
        /// Resource to create in.
        resource: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// The whole object, with `apiVersion` and `kind`.
        object: Value,
        /// Recorded once the create has succeeded.
        announce: Option<Box<Event>>,
    },
    /// Deletes one object. "Not found" counts as success.
    Delete {
        /// Resource to delete from.
        resource: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// Name of the object.
        name: String,
        /// Precondition: delete only the object with this uid.
        uid: Option<String>,
        /// Precondition: delete only this version of it.
        resource_version: Option<String>,
        /// What happens to dependents; the resource's default when absent.
        propagation: Option<Propagation>,
        /// `gracePeriodSeconds`; the object's own when absent.
        grace: Option<i64>,
        /// Recorded once the delete has succeeded.
        announce: Option<Box<Event>>,
    },
    /// Deletes every object of a resource in a namespace.
    DeleteCollection {
        /// Resource to empty.
        resource: Gvr,
        /// The namespace.
        namespace: String,
    },
    /// Writes the status subresource by JSON merge patch. Where `patch` carries
    /// `metadata.resourceVersion`, a view that was overtaken conflicts and is looked at again.
    UpdateStatus {
        /// Resource of the object.
        resource: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// Name of the object.
        name: String,
        /// Merge patch with the changed parts of `status`.
        patch: Value,
    },
    /// Patches the object itself.
    Patch {
        /// Resource of the object.
        resource: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// Name of the object.
        name: String,
        /// Format of `body`.
        kind: PatchKind,
        /// The patch.
        body: Value,
    },
    /// Replaces an object, or one of its subresources (namespaces: `finalize`).
    Update {
        /// Resource of the object.
        resource: Gvr,
        /// The subresource written to; the object itself when absent.
        subresource: Option<&'static str>,
        /// The whole object, with `metadata.resourceVersion`.
        object: Value,
    },
    /// Records an Event.
    Event(Event),
    /// Asks whether an owner exists, since no cache has shown it. The runner reads it live and
    /// answers with `garbage::Graph::owner_present` or `owner_absent`.
    CheckOwner {
        /// The owner; its namespace is that of the dependents when it is not cluster-scoped.
        owner: ObjectRef,
    },
}

/// The outcome of one decision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Writes, in the order to apply them.
    pub actions: Vec<Action>,
    /// Decide again after this long, even when nothing was seen to change.
    pub requeue_after: Option<Duration>,
}

impl Step {
    /// Nothing to do.
    pub fn idle() -> Self {
        Self::default()
    }

    /// Only these writes.
    pub fn of(actions: Vec<Action>) -> Self {
        Self { actions, requeue_after: None }
    }

    /// Asks to decide again after `delay`; the earliest of several requests counts.
    pub fn requeue(&mut self, delay: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |present| present.min(delay)));
    }

    /// Groups the actions as the runner shall send them: a run of creates of one resource in batches of 1, 2, 4, …, a
    /// run of deletes in batches of [`DELETES`] (the members of a batch at once), any other action alone. The
    /// runner stops at the first batch with a failure, so that a refused pod costs one request and
    /// not five hundred.
    pub fn batches(actions: Vec<Action>) -> Vec<Vec<Action>> {
        let mut batches: Vec<Vec<Action>> = Vec::new();
        let (mut room, mut creates) = (0, 1);
        let mut run = Run::Other;
        for action in actions {
            let kind = Run::of(&action);
            let same = kind == run;
            if same && room > 0 {
                room -= 1;
                if let Some(batch) = batches.last_mut() {
                    batch.push(action);
                }
                continue;
            }
            creates = if same { creates * 2 } else { 1 };
            room = match kind {
                Run::Creates(_) => creates - 1,
                Run::Deletes => DELETES - 1,
                Run::Other => 0,
            };
            run = kind;
            batches.push(vec![action]);
        }
        batches
    }
}

/// Most deletes sent at once.
const DELETES: usize = 64;

/// Actions that may be sent together.
#[derive(PartialEq, Eq)]
enum Run {
    /// Of one resource: a pod waits until all of its claims are there.
    Creates(Gvr),
    Deletes,
    Other,
}

impl Run {
    fn of(action: &Action) -> Self {
        match action {
            Action::Create { resource, .. } => Self::Creates(resource.clone()),
            Action::Delete { .. } => Self::Deletes,
            _ => Self::Other,
        }
    }
}

/// Why the runner's last writes for this object failed; fed back into the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteFailure {
    /// Whether a create failed (otherwise a delete or an update).
    pub creating: bool,
    /// The API server's message.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create() -> Action {
        Action::Create { resource: PODS, namespace: "n".into(), object: Value::Null, announce: None }
    }

    fn check(creates: usize, expect: &[usize]) {
        let sizes: Vec<usize> = Step::batches(vec![create(); creates]).iter().map(Vec::len).collect();
        assert_eq!(sizes, expect, "{creates} creates");
    }

    #[test]
    fn batches_double() {
        check(0, &[]);
        check(1, &[1]);
        check(3, &[1, 2]);
        check(10, &[1, 2, 4, 3]);
    }

    #[test]
    fn other_actions_stand_alone() {
        let other = Action::DeleteCollection { resource: PODS, namespace: "n".into() };
        let sizes: Vec<usize> =
            Step::batches(vec![create(), create(), other, create()]).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, 1, 1]);
    }

    #[test]
    fn what_is_made_of_another_resource_waits() {
        let claim = || {
            let mut create = create();
            if let Action::Create { resource, .. } = &mut create {
                *resource = PERSISTENT_VOLUME_CLAIMS;
            }
            create
        };
        let sizes = |actions| Step::batches(actions).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![claim(), claim(), create()]), [1, 1, 1]);
        assert_eq!(sizes(vec![claim(), claim(), claim(), create(), create(), create()]), [1, 2, 1, 2]);
    }

    #[test]
    fn deletes_go_together() {
        let delete = Action::Delete {
            resource: PODS,
            namespace: "n".into(),
            name: "p".into(),
            uid: None,
            resource_version: None,
            propagation: None,
            grace: None,
            announce: None,
        };
        let mut actions = vec![create(); 2];
        actions.extend(vec![delete; DELETES + 1]);
        let sizes: Vec<usize> = Step::batches(actions).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 1, DELETES, 1]);
    }
}
