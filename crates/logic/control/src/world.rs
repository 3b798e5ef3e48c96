//! A little cluster for tests: one namespace, an API server that knows creates, merge patches and
//! deletes, and a node that starts and stops pods. Every write is checked as a real server would.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wharf_base::Timestamp;

use crate::{
    action::{
        Action, CONTROLLER_REVISIONS, DAEMON_SETS, DEPLOYMENTS, Gvr, NODES, PERSISTENT_VOLUME_CLAIMS, PODS,
        REPLICA_SETS, STATEFUL_SETS, Step,
    },
    affinity::required_node,
    daemonset::{self, Backoffs, DaemonSet},
    deployment::{self, Deployment},
    history::ControllerRevision,
    meta::read,
    node_lifecycle::Node,
    pod::Pod,
    replicaset::{self, ReplicaSet},
    statefulset::{self, PersistentVolumeClaim, StatefulSet},
};

pub(crate) struct World {
    objects: BTreeMap<(String, String), Value>,
    serial: u64,
    pub(crate) now: Timestamp,
    /// Pods of this image never become ready.
    pub(crate) broken_image: String,
    backoffs: Backoffs,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            serial: 0,
            now: Timestamp::from_unix(1_700_000_000, 0),
            broken_image: "broken".into(),
            backoffs: Backoffs::default(),
        }
    }

    // The API server.

    pub(crate) fn create(&mut self, resource: &Gvr, mut object: Value) -> String {
        self.serial += 1;
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).expect("metadata");
        let prefix = metadata.remove("generateName").and_then(|p| p.as_str().map(str::to_owned));
        if let Some(prefix) = prefix {
            metadata.insert("name".into(), json!(format!("{prefix}{:05}", self.serial)));
        }
        metadata.insert("namespace".into(), json!("ns"));
        metadata.insert("uid".into(), json!(format!("uid-{}", self.serial)));
        metadata.insert("generation".into(), json!(1));
        metadata.insert("resourceVersion".into(), json!(self.serial.to_string()));
        metadata.insert("creationTimestamp".into(), json!(self.now));
        let name = metadata["name"].as_str().expect("name").to_owned();
        let before = self.objects.insert((resource.resource.to_string(), name.clone()), object);
        assert!(before.is_none(), "{name} exists already");
        name
    }

    pub(crate) fn patch(&mut self, resource: &Gvr, name: &str, mut body: Value) {
        self.serial += 1;
        let object = self.objects.get_mut(&(resource.resource.to_string(), name.to_owned())).expect(name);
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in ["uid", "resourceVersion"] {
                if let Some(wanted) = metadata.remove(key) {
                    assert_eq!(object["metadata"][key], wanted, "conflict on {key} of {name}");
                }
            }
        }
        let spec = object.get("spec").cloned();
        merge(object, &body);
        if object.get("spec") != spec.as_ref() {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        object["metadata"]["resourceVersion"] = json!(self.serial.to_string());
    }

    fn delete(&mut self, resource: &Gvr, name: &str) {
        if *resource == PODS {
            let deletion = json!({"metadata": {"deletionTimestamp": self.now}});
            self.patch(resource, name, deletion);
        } else {
            self.objects.remove(&(resource.resource.to_string(), name.to_owned()));
        }
    }

    /// Applies a step; true when it asked for any write.
    pub(crate) fn apply(&mut self, step: Step) -> bool {
        let mut wrote = false;
        for action in step.actions {
            wrote |= !matches!(action, Action::Event(_));
            match action {
                Action::Create { resource, object, .. } => {
                    self.create(&resource, object);
                }
                Action::Delete { resource, name, .. } => self.delete(&resource, &name),
                Action::Patch { resource, name, body, .. }
                | Action::UpdateStatus { resource, name, patch: body, .. } => {
                    self.patch(&resource, &name, body);
                }
                Action::Event(_) => {}
                other => panic!("not known here: {other:?}"),
            }
        }
        wrote
    }

    pub(crate) fn all<T: serde::de::DeserializeOwned>(&self, resource: &Gvr) -> Vec<T> {
        let of_resource = self.objects.iter().filter(|((r, _), _)| *r == resource.resource);
        of_resource.map(|(_, object)| read(object).expect("reads")).collect()
    }

    pub(crate) fn object(&self, resource: &Gvr, name: &str) -> Option<&Value> {
        self.objects.get(&(resource.resource.to_string(), name.to_owned()))
    }

    // The controllers and the node.

    pub(crate) fn run_replica_sets(&mut self) -> bool {
        let mut wrote = false;
        for set in self.all::<ReplicaSet>(&REPLICA_SETS) {
            let pods = self.all::<Pod>(&PODS);
            let pods: Vec<&Pod> = pods.iter().collect();
            let view = replicaset::View { replica_set: &set, pods: &pods, related: &[], failure: None };
            wrote |= self.apply(replicaset::step(&view, self.now));
        }
        wrote
    }

    pub(crate) fn run_deployments(&mut self) -> bool {
        let mut wrote = false;
        for deployment in self.all::<Deployment>(&DEPLOYMENTS) {
            let (sets, pods) = (self.all::<ReplicaSet>(&REPLICA_SETS), self.all::<Pod>(&PODS));
            let (sets, pods): (Vec<&ReplicaSet>, Vec<&Pod>) = (sets.iter().collect(), pods.iter().collect());
            let view =
                deployment::View { deployment: &deployment, replica_sets: &sets, pods: &pods, failure: None };
            wrote |= self.apply(deployment::step(&view, self.now));
        }
        wrote
    }

    pub(crate) fn run_daemon_sets(&mut self) -> bool {
        let mut wrote = false;
        for set in self.all::<DaemonSet>(&DAEMON_SETS) {
            let (nodes, pods) = (self.all::<Node>(&NODES), self.all::<Pod>(&PODS));
            let revisions = self.all::<ControllerRevision>(&CONTROLLER_REVISIONS);
            let view = daemonset::View {
                daemon_set: &set,
                nodes: &nodes.iter().collect::<Vec<_>>(),
                pods: &pods.iter().collect::<Vec<_>>(),
                revisions: &revisions.iter().collect::<Vec<_>>(),
                failure: None,
            };
            let step = daemonset::step(&view, &mut self.backoffs, self.now);
            wrote |= self.apply(step);
        }
        wrote
    }

    pub(crate) fn run_stateful_sets(&mut self) -> bool {
        let mut wrote = false;
        for set in self.all::<StatefulSet>(&STATEFUL_SETS) {
            let pods = self.all::<Pod>(&PODS);
            let claims = self.all::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
            let revisions = self.all::<ControllerRevision>(&CONTROLLER_REVISIONS);
            let view = statefulset::View {
                stateful_set: &set,
                pods: &pods.iter().collect::<Vec<_>>(),
                claims: &claims.iter().collect::<Vec<_>>(),
                revisions: &revisions.iter().collect::<Vec<_>>(),
                failure: None,
            };
            wrote |= self.apply(statefulset::step(&view, self.now));
        }
        wrote
    }

    /// Binds and starts at most `starts` pods, ends at most `stops` pods under deletion: one with a
    /// finalizer has failed, any other is gone.
    pub(crate) fn run_node(&mut self, mut starts: usize, mut stops: usize) -> bool {
        let mut changed = false;
        for pod in self.all::<Pod>(&PODS) {
            let name = pod.metadata.name.as_str();
            if pod.metadata.deleting() {
                let held = !pod.metadata.finalizers.is_empty();
                if stops > 0 && !(held && pod.ended()) {
                    stops -= 1;
                    changed = true;
                    if held {
                        self.patch(&PODS, name, json!({"status": {"phase": "Failed"}}));
                    } else {
                        self.objects.remove(&("pods".to_owned(), name.to_owned()));
                    }
                }
            } else if !pod.ended() && !pod.ready() && starts > 0 && !self.broken(name) {
                starts -= 1;
                changed = true;
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": self.now}]);
                let node = required_node(&pod.spec.affinity).unwrap_or("node");
                let body =
                    json!({"spec": {"nodeName": node}, "status": {"phase": "Running", "conditions": ready}});
                self.patch(&PODS, name, body);
            }
        }
        changed
    }

    fn broken(&self, pod: &str) -> bool {
        let image = self.object(&PODS, pod).and_then(|pod| pod.pointer("/spec/containers/0/image"));
        image.and_then(Value::as_str) == Some(self.broken_image.as_str())
    }

    /// Runs everything until nothing changes.
    pub(crate) fn settle(&mut self) {
        for _ in 0..500 {
            let controllers = self.run_deployments()
                | self.run_replica_sets()
                | self.run_daemon_sets()
                | self.run_stateful_sets();
            if !(self.run_node(usize::MAX, usize::MAX) | controllers) {
                return;
            }
        }
        panic!("does not settle");
    }

    // What the tests set up and ask.

    pub(crate) fn create_replica_set(&mut self, replicas: i64, pods: usize) {
        let template =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": "v1"}]}});
        let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "template": template,
            "selector": {"matchLabels": {"app": "web"}}}});
        self.create(&REPLICA_SETS, set);
        for _ in 0..pods {
            let pod = json!({"metadata": {"generateName": "web-", "labels": {"app": "web"}},
                "spec": {"containers": [{"image": "v1"}]}});
            self.create(&PODS, pod);
        }
    }

    /// Makes the `index`-th pod fail, if there is one.
    pub(crate) fn fail_pod(&mut self, index: usize) {
        if let Some(pod) = self.all::<Pod>(&PODS).get(index) {
            self.patch(&PODS, &pod.metadata.name, json!({"status": {"phase": "Failed"}}));
        }
    }

    pub(crate) fn active_pods(&self) -> usize {
        self.all::<Pod>(&PODS).iter().filter(|pod| pod.active()).count()
    }

    pub(crate) fn ready_pods(&self) -> usize {
        self.all::<Pod>(&PODS).iter().filter(|pod| pod.active() && pod.ready()).count()
    }

    /// (replicas, availableReplicas) of the only ReplicaSet.
    pub(crate) fn replica_set_status(&self) -> (i64, i64) {
        let sets = self.all::<ReplicaSet>(&REPLICA_SETS);
        (sets[0].status.replicas, sets[0].status.available_replicas)
    }
}

/// Applies a merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(fields) = target {
        for (key, value) in patch {
            if value.is_null() {
                fields.remove(key);
            } else {
                merge(fields.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
