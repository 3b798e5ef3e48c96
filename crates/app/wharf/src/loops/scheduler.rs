//! Runs the scheduler of `wharf_schedule`: one task owns the node table and the queue; bindings are written
//! apart, many at a time, and pods count on their node from the decision on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    task::{JoinError, JoinSet},
    time::sleep,
};
use wharf_base::Timestamp;
use wharf_client::{
    Change, Error, Object, PatchKind,
    action::{NODES, PODS},
};
use wharf_control::{Event, Meta, action::ObjectRef};
use wharf_schedule::{NodeModel, NodeTable, PodModel, Queue, Unschedulable, Wakes, schedule};

use super::{keys, runner::Shared};

/// The component Events come from, and the name pods choose it by.
const NAME: &str = "default-scheduler";
/// Writes under way at the same time.
const AT_ONCE: usize = 512;

/// A pod without a node.
struct Waiting {
    object: Object,
    model: Arc<PodModel>,
}

/// What a write was about, and how it went.
struct Done {
    uid: String,
    /// The node of a binding; nothing for a report.
    node: Option<String>,
    result: Result<(), Error>,
}

struct Scheduler {
    shared: Shared,
    table: NodeTable,
    queue: Queue,
    /// Pods in the queue, by uid.
    waiting: HashMap<String, Waiting>,
    /// Pods whose binding is not seen yet.
    assumed: HashMap<String, String>,
    /// What has changed since the queue was last told.
    wakes: Wakes,
    writes: JoinSet<Done>,
}

/// Runs the scheduler. Returns only when an informer has ended.
pub(crate) async fn run(shared: Shared) {
    let (nodes, pods) = (shared.informers.of(&NODES), shared.informers.of(&PODS));
    nodes.synced().await;
    pods.synced().await;
    let (mut nodes, mut pods) = (nodes.subscribe(), pods.subscribe());
    let mut scheduler = Scheduler::new(shared);
    loop {
        // Everything that is known already counts before the next decision.
        while let Ok(change) = nodes.try_recv() {
            scheduler.take_node(&change);
        }
        while let Ok(change) = pods.try_recv() {
            scheduler.take_pod(&change);
        }
        while let Some(done) = scheduler.writes.try_join_next() {
            scheduler.written(done);
        }
        scheduler.decide();
        let wait = scheduler.queue.next_wake().map(|at| at.since(scheduler.shared.clock.now()));
        tokio::select! {
            change = nodes.recv() => match change {
                Some(change) => scheduler.take_node(&change),
                None => return,
            },
            change = pods.recv() => match change {
                Some(change) => scheduler.take_pod(&change),
                None => return,
            },
            Some(done) = scheduler.writes.join_next() => scheduler.written(done),
            () = sleep(wait.unwrap_or_default().max(Duration::from_millis(1))), if wait.is_some() => {}
        }
    }
}

impl Scheduler {
    fn new(shared: Shared) -> Self {
        Self {
            shared,
            table: NodeTable::new(),
            queue: Queue::new(),
            waiting: HashMap::new(),
            assumed: HashMap::new(),
            wakes: Wakes::NONE,
            writes: JoinSet::new(),
        }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    fn wake(&mut self, wakes: Wakes) {
        self.wakes = self.wakes.with(wakes);
    }

    fn take_node(&mut self, change: &Change) {
        let Some(object) = &change.new else {
            return self.table.remove_node(keys::name(&change.key));
        };
        let wakes = node_wakes(change);
        if wakes == Wakes::NONE {
            return;
        }
        match wharf_control::read::<NodeModel>(object) {
            Ok(model) => {
                self.table.set_node(&model);
                self.wake(wakes);
            }
            Err(error) => tracing::warn!(key = %change.key, %error, "node left out: it cannot be read"),
        }
    }

    fn take_pod(&mut self, change: &Change) {
        let new = change.new.as_ref();
        let replaced = |old: &&Object| new.is_none_or(|new| uid(old) != uid(new));
        if let Some(old) = change.old.as_ref().filter(replaced) {
            self.forget_pod(uid(old), !node_of(old).is_empty());
        }
        let Some(object) = new else { return };
        let before = change.old.as_ref().filter(|old| uid(old) == uid(object));
        if matches!(keys::text(object, "/status/phase"), "Succeeded" | "Failed") {
            let bound = before.is_some_and(|old| !ended(old) && !node_of(old).is_empty());
            return self.forget_pod(uid(object), bound);
        }
        let same = before.is_some_and(|old| {
            ["/spec", "/metadata/labels", "/metadata/deletionTimestamp"]
                .iter()
                .all(|pointer| old.pointer(pointer) == object.pointer(pointer))
        });
        if !same {
            self.take_new(object, &change.key);
        } else if let Some(waiting) = self.waiting.get_mut(uid(object)) {
            waiting.object = Arc::clone(object);
        }
    }

    fn take_new(&mut self, object: &Object, key: &str) {
        let model: PodModel = match wharf_control::read(object) {
            Ok(model) => model,
            Err(error) => return tracing::warn!(key, %error, "pod not scheduled: it cannot be read"),
        };
        let uid = model.metadata.uid.clone();
        let node = model.spec.node_name.clone();
        if !node.is_empty() {
            self.queue.remove(&uid);
            self.waiting.remove(&uid);
            self.assumed.remove(&uid);
            self.table.place(&model, &node);
            return self.wake(Wakes::POD_PLACED);
        }
        let ours = matches!(model.spec.scheduler_name.as_str(), "" | NAME);
        let deleting = object.pointer("/metadata/deletionTimestamp").is_some();
        if !ours || deleting || !model.spec.scheduling_gates.is_empty() {
            self.queue.remove(&uid);
            self.waiting.remove(&uid);
            return;
        }
        if self.assumed.contains_key(&uid) {
            return;
        }
        let created = model.metadata.creation_timestamp.unwrap_or(Timestamp::EPOCH);
        self.queue.add(&uid, model.spec.priority.unwrap_or(0), created);
        self.waiting.insert(uid, Waiting { object: Arc::clone(object), model: Arc::new(model) });
    }

    fn forget_pod(&mut self, uid: &str, was_bound: bool) {
        let assumed = self.assumed.remove(uid).is_some();
        self.queue.remove(uid);
        self.waiting.remove(uid);
        self.table.remove_pod(uid);
        if was_bound || assumed {
            self.wake(Wakes::POD_REMOVED);
        }
    }

    /// Decides about pods until none is ready or enough is under way.
    fn decide(&mut self) {
        let now = self.now();
        if self.wakes != Wakes::NONE {
            self.queue.wake(self.wakes, now);
            self.wakes = Wakes::NONE;
        }
        while self.writes.len() < AT_ONCE {
            let Some(uid) = self.queue.pop(now) else { return };
            let Some(Waiting { object, model }) = self.waiting.get(&uid) else {
                self.queue.remove(&uid);
                continue;
            };
            let (object, model) = (Arc::clone(object), Arc::clone(model));
            match schedule(&model, &mut self.table) {
                Ok(node) => {
                    let node = self.table.name(node).to_owned();
                    self.table.place(&model, &node);
                    self.assumed.insert(uid.clone(), node.clone());
                    self.writes.spawn(bind(self.shared.clone(), object, node));
                }
                Err(unfit) => {
                    self.queue.unschedulable(&uid, unfit.wakes, now);
                    self.writes.spawn(report(self.shared.clone(), object, unfit, now));
                }
            }
        }
    }

    fn written(&mut self, done: Result<Done, JoinError>) {
        let Done { uid, node, result } = match done {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "a write of the scheduler has failed"),
        };
        let (Some(node), Err(error)) = (node, result) else { return };
        // What the watch has shown meanwhile counts more than the refusal.
        if self.assumed.get(&uid) != Some(&node) {
            return;
        }
        self.assumed.remove(&uid);
        self.table.remove_pod(&uid);
        self.wake(Wakes::POD_REMOVED);
        let now = self.now();
        self.queue.failed(&uid, now);
        let Some(waiting) = self.waiting.get(&uid) else { return };
        if !error.is_not_found() && !error.is_conflict() {
            let involved = reference(&waiting.object);
            let message = format!("binding rejected: {error}");
            self.shared.recorder.record(NAME, Event::warning(involved, "FailedScheduling", message));
        }
    }
}

fn uid(object: &Value) -> &str {
    keys::text(object, "/metadata/uid")
}

fn node_of(pod: &Value) -> &str {
    keys::text(pod, "/spec/nodeName")
}

fn ended(pod: &Value) -> bool {
    matches!(keys::text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// What a change of a node may help with. Heartbeats help nobody.
fn node_wakes(change: &Change) -> Wakes {
    if change.old.is_none() {
        return Wakes::NODE_ADDED;
    }
    let kinds: [(&[&str], Wakes); 3] = [
        (&["/status/allocatable", "/status/capacity"], Wakes::NODE_CAPACITY),
        (&["/metadata/labels"], Wakes::NODE_LABELS),
        (&["/spec/taints", "/spec/unschedulable"], Wakes::NODE_TAINTS),
    ];
    let changed = kinds.iter().filter(|(pointers, _)| keys::differs(change, pointers));
    changed.fold(Wakes::NONE, |all, (_, wakes)| all.with(*wakes))
}

fn reference(pod: &Value) -> ObjectRef {
    let meta: Meta = pod.get("metadata").and_then(|m| wharf_control::read(m).ok()).unwrap_or_default();
    meta.object_ref("v1", "Pod")
}

async fn bind(shared: Shared, pod: Object, node: String) -> Done {
    let (namespace, name) = (keys::text(&pod, "/metadata/namespace"), keys::text(&pod, "/metadata/name"));
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": namespace, "name": name, "uid": uid(&pod)},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    // The node may go to work before the answer is here.
    let bound = shared.recorder.now();
    let result = shared.client.post(&PODS, namespace, name, "binding", &binding).await;
    if result.is_ok() {
        let message = format!("Successfully assigned {namespace}/{name} to {node}");
        shared.recorder.record_at(NAME, Event::normal(reference(&pod), "Scheduled", message), bound);
    }
    Done { uid: uid(&pod).to_owned(), node: Some(node), result: result.map(drop) }
}

/// Tells why a pod has no node: an Event and the condition `PodScheduled`.
async fn report(shared: Shared, pod: Object, unfit: Unschedulable, now: Timestamp) -> Done {
    let message = unfit.to_string();
    shared.recorder.record(NAME, Event::warning(reference(&pod), "FailedScheduling", message.as_str()));
    let result = match unscheduled_condition(&pod, &message, now) {
        None => Ok(()),
        Some(patch) => {
            let (namespace, name) =
                (keys::text(&pod, "/metadata/namespace"), keys::text(&pod, "/metadata/name"));
            shared
                .client
                .patch(&PODS, namespace, name, Some("status"), PatchKind::Merge, &patch)
                .await
                .map(drop)
        }
    };
    if let Err(error) = &result {
        tracing::debug!(key = %wharf_client::object_key(&pod), %error, "condition PodScheduled not written");
    }
    Done { uid: uid(&pod).to_owned(), node: None, result }
}

/// The status patch that says `message`; nothing when the pod says so already.
fn unscheduled_condition(pod: &Value, message: &str, now: Timestamp) -> Option<Value> {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.cloned().unwrap_or_default();
    let kind = |condition: &Value| keys::text(condition, "/type") == "PodScheduled";
    let present = conditions.iter().find(|condition| kind(condition)).cloned();
    let text = |pointer| present.as_ref().map_or("", |condition| keys::text(condition, pointer));
    let unscheduled = text("/status") == "False";
    if unscheduled && text("/reason") == "Unschedulable" && text("/message") == message {
        return None;
    }
    let since = match unscheduled {
        true => present.as_ref().and_then(|c| c.get("lastTransitionTime")).cloned(),
        false => None,
    };
    conditions.retain(|condition| !kind(condition));
    conditions.push(json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message, "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| json!(now))}));
    let version = keys::text(pod, "/metadata/resourceVersion");
    Some(
        json!({"metadata": {"uid": uid(pod), "resourceVersion": version}, "status": {"conditions": conditions}}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_written_once() {
        let now = Timestamp::from_unix(60, 0);
        let mut pod = json!({"metadata": {"uid": "u", "resourceVersion": "7"},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        let patch = unscheduled_condition(&pod, "no room", now).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 2);
        pod["status"] = patch["status"].clone();
        assert_eq!(unscheduled_condition(&pod, "no room", now), None);
        let later = unscheduled_condition(&pod, "still no room", now.plus(Duration::from_secs(9))).unwrap();
        assert_eq!(later["status"]["conditions"][1]["lastTransitionTime"], "1970-01-01T00:01:00Z");
    }

    #[test]
    fn heartbeats_wake_nobody() {
        let node = |beat: u32, cpu: u32| {
            Some(Arc::new(json!({"status": {"allocatable": {"cpu": cpu},
                "conditions": [{"lastHeartbeatTime": beat}]}})))
        };
        let change = |old, new| Change { key: "/n".into(), old, new };
        assert_eq!(node_wakes(&change(node(1, 1), node(2, 1))), Wakes::NONE);
        assert_eq!(node_wakes(&change(node(1, 1), node(2, 2))), Wakes::NODE_CAPACITY);
        assert_eq!(node_wakes(&change(None, node(2, 2))), Wakes::NODE_ADDED);
    }
}
