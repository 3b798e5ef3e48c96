//! A rollout as people see it: a summary, and its versions with their pods and analyses as a tree.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use wharf_base::Timestamp;
use wharf_control::{Meta, condition::find, replicaset::ReplicaSet};
use wharf_deliver::{
    analysis::{AnalysisRun, Phase},
    rollout::{HASH_LABEL, REVISION, Rollout},
};

use crate::commands::platform::{Table, branches, text};

/// What belongs to a rollout.
pub(super) struct Around {
    pub(super) replica_sets: Vec<ReplicaSet>,
    pub(super) analysis_runs: Vec<AnalysisRun>,
    /// Every pod of the namespace.
    pub(super) pods: Vec<Value>,
}

/// The objects that a rollout manages, of those that can be read.
pub(super) fn owned<T: serde::de::DeserializeOwned>(objects: &[Value], rollout: &Rollout) -> Vec<T> {
    let mine = objects.iter().filter(|object| owner(object) == rollout.metadata.uid);
    mine.filter_map(|object| wharf_control::read(object).ok()).collect()
}

/// Uid of the object's controller.
fn owner(object: &Value) -> &str {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller = owners.into_iter().flatten().find(|owner| owner["controller"] == true);
    controller.map_or("", |owner| text(owner, "/uid"))
}

pub(super) fn revision(metadata: &Meta) -> i64 {
    metadata.annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn strategy(rollout: &Rollout) -> &'static str {
    match (&rollout.spec.strategy.canary, &rollout.spec.strategy.blue_green) {
        (Some(_), _) => "Canary",
        (None, Some(_)) => "BlueGreen",
        (None, None) => "unknown",
    }
}

pub(super) fn phase(rollout: &Rollout) -> &str {
    match rollout.status.phase.as_str() {
        _ if find(&rollout.status.conditions, "InvalidSpec").is_some() => "InvalidSpec",
        "" => "Unknown",
        phase => phase,
    }
}

/// `2/5`, for canaries with steps.
pub(super) fn step(rollout: &Rollout) -> Option<String> {
    let steps = rollout.spec.strategy.canary.as_ref()?.steps.len();
    let index = rollout.status.current_step_index?;
    (steps > 0).then(|| format!("{index}/{steps}"))
}

/// The share of the requests the steps so far ask for.
pub(super) fn set_weight(rollout: &Rollout) -> Option<i64> {
    let steps = &rollout.spec.strategy.canary.as_ref()?.steps;
    if rollout.status.abort {
        return Some(0);
    }
    let index = usize::try_from(rollout.status.current_step_index.unwrap_or(0)).unwrap_or(0);
    match steps.get(..=index) {
        Some(so_far) => Some(so_far.iter().rev().find_map(|step| step.set_weight).unwrap_or(0)),
        None => Some(100),
    }
}

/// The share of the requests the new version gets.
fn actual_weight(rollout: &Rollout) -> i64 {
    let status = &rollout.status;
    match &status.canary.weights {
        _ if status.stable_rs == status.current_pod_hash => 100,
        Some(weights) => weights.canary.weight,
        None => 0,
    }
}

/// Images of a pod template.
pub(super) fn images(template: &Value) -> Vec<String> {
    let containers = |pointer| template.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    let all = containers("/spec/initContainers").chain(containers("/spec/containers"));
    let mut images: Vec<String> = all.map(|container| text(container, "/image").to_owned()).collect();
    images.dedup();
    images
}

fn marked(status: &str) -> String {
    format!("{} {status}", icon(status))
}

fn icon(status: &str) -> &'static str {
    match status {
        "Healthy" | "Running" | "Completed" | "Successful" | "Succeeded" => "✔",
        "Paused" => "॥",
        "Degraded" | "Failed" | "Error" | "OOMKilled" | "CrashLoopBackOff" | "ImagePullBackOff"
        | "ErrImagePull" => "✖",
        "InvalidSpec" => "⚠",
        "ScaledDown" => "•",
        "Unknown" | "Inconclusive" => "?",
        _ => "◌",
    }
}

/// What a version is to the rollout: `canary`, `stable`, `active`, `preview`.
fn roles(rollout: &Rollout, set: &ReplicaSet) -> Vec<&'static str> {
    let status = &rollout.status;
    let Some(hash) = set.metadata.labels.get(HASH_LABEL) else { return Vec::new() };
    let mut roles = Vec::new();
    if rollout.spec.strategy.blue_green.is_some() {
        if *hash == status.blue_green.active_selector {
            roles.push("active");
        }
        if *hash == status.blue_green.preview_selector && *hash != status.blue_green.active_selector {
            roles.push("preview");
        }
    } else if *hash == status.current_pod_hash && *hash != status.stable_rs {
        roles.push("canary");
    }
    if *hash == status.stable_rs {
        roles.push("stable");
    }
    roles
}

/// The summary and the tree.
pub(super) fn render(rollout: &Rollout, around: &Around, now: Timestamp) -> String {
    format!("{}\n{}", summary(rollout, around), tree(rollout, around, now))
}

fn summary(rollout: &Rollout, around: &Around) -> String {
    let (status, phase) = (&rollout.status, phase(rollout));
    let mut lines: Vec<(&str, String)> = vec![
        ("Name:", rollout.metadata.name.clone()),
        ("Namespace:", rollout.metadata.namespace.clone()),
        ("Status:", marked(phase)),
    ];
    if !status.message.is_empty() {
        lines.push(("Message:", status.message.clone()));
    }
    lines.push(("Strategy:", strategy(rollout).to_owned()));
    lines.extend(step(rollout).map(|step| ("  Step:", step)));
    if let Some(weight) = set_weight(rollout) {
        lines.push(("  SetWeight:", weight.to_string()));
        lines.push(("  ActualWeight:", actual_weight(rollout).to_string()));
    }
    let mut heading = "Images:";
    for (image, roles) in images_in_use(rollout, &around.replica_sets) {
        let roles: Vec<&str> = roles.into_iter().collect();
        let roles = if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) };
        lines.push((heading, format!("{image}{roles}")));
        heading = "";
    }
    lines.push(("Replicas:", String::new()));
    for (heading, count) in [
        ("  Desired:", rollout.replicas()),
        ("  Current:", status.replicas),
        ("  Updated:", status.updated_replicas),
        ("  Ready:", status.ready_replicas),
        ("  Available:", status.available_replicas),
    ] {
        lines.push((heading, count.to_string()));
    }
    let lines = lines.iter().map(|(heading, value)| format!("{heading:<16} {value}"));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

fn images_in_use<'a>(rollout: &Rollout, sets: &'a [ReplicaSet]) -> BTreeMap<String, BTreeSet<&'static str>> {
    let mut images_in_use: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for set in sets.iter().filter(|set: &&'a ReplicaSet| set.status.replicas > 0) {
        for image in images(&set.spec.template) {
            images_in_use.entry(image).or_default().extend(roles(rollout, set));
        }
    }
    images_in_use
}

/// Rows of the tree with their depths.
struct Tree {
    now: Timestamp,
    rows: Vec<(usize, [String; 5])>,
}

impl Tree {
    fn add(
        &mut self,
        depth: usize,
        name: String,
        kind: &str,
        status: &str,
        from: Option<Timestamp>,
        info: String,
    ) {
        let age = from.map_or(String::new(), |from| wharf_api::table::age(from, self.now));
        self.rows.push((depth, [name, kind.to_owned(), status.to_owned(), age, info]));
    }
}

fn tree(rollout: &Rollout, around: &Around, now: Timestamp) -> String {
    let mut tree = Tree { now, rows: Vec::new() };
    let name = format!("⟳ {}", rollout.metadata.name);
    tree.add(0, name, "Rollout", &marked(phase(rollout)), rollout.metadata.creation_timestamp, String::new());
    let mut by_revision: BTreeMap<i64, (Vec<&ReplicaSet>, Vec<&AnalysisRun>)> = BTreeMap::new();
    for set in &around.replica_sets {
        by_revision.entry(revision(&set.metadata)).or_default().0.push(set);
    }
    for run in &around.analysis_runs {
        by_revision.entry(revision_of_run(run, &around.replica_sets)).or_default().1.push(run);
    }
    for (revision, (sets, mut runs)) in by_revision.into_iter().rev() {
        tree.add(1, format!("# revision:{revision}"), "", "", None, String::new());
        for set in sets {
            add_replica_set(&mut tree, rollout, set, &around.pods);
        }
        runs.sort_by_key(|run| (run.metadata.creation_timestamp, run.metadata.name.as_str()));
        for run in runs {
            let name = format!("α {}", run.metadata.name);
            let created = run.metadata.creation_timestamp;
            tree.add(2, name, "AnalysisRun", &analysis(run.status.phase), created, measured(run));
        }
    }
    let mut table = Table::new(&["NAME", "KIND", "STATUS", "AGE", "INFO"]);
    let depths: Vec<usize> = tree.rows.iter().map(|(depth, _)| *depth).collect();
    for ((_, mut row), prefix) in tree.rows.into_iter().zip(branches(&depths)) {
        row[0].insert_str(0, &prefix);
        table.row(row);
    }
    table.render()
}

/// The revision of the version it judges.
fn revision_of_run(run: &AnalysisRun, sets: &[ReplicaSet]) -> i64 {
    let hash = run.metadata.labels.get(HASH_LABEL);
    let set = sets.iter().find(|set| hash.is_some() && set.metadata.labels.get(HASH_LABEL) == hash);
    set.map_or_else(|| revision(&run.metadata), |set| revision(&set.metadata))
}

fn add_replica_set(tree: &mut Tree, rollout: &Rollout, set: &ReplicaSet, pods: &[Value]) {
    let pods: Vec<&Value> = pods.iter().filter(|pod| owner(pod) == set.metadata.uid).collect();
    let status = match set.replicas() {
        0 if set.status.replicas == 0 => "ScaledDown",
        wanted if set.status.available_replicas >= wanted => "Healthy",
        _ => "Progressing",
    };
    let mut info: Vec<String> = roles(rollout, set).into_iter().map(str::to_owned).collect();
    let deadline = set.metadata.annotations.get("scale-down-deadline").and_then(|text| text.parse().ok());
    if let Some(deadline) = deadline.filter(|deadline: &Timestamp| set.replicas() > 0 && *deadline > tree.now)
    {
        info.push(format!("delay:{}s", deadline.since(tree.now).as_secs()));
    }
    let created = set.metadata.creation_timestamp;
    tree.add(2, format!("⧉ {}", set.metadata.name), "ReplicaSet", &marked(status), created, info.join(","));
    for pod in pods {
        let cells = wharf_api::table::cells("", "pods", pod, tree.now);
        let cell = |index: usize| cells.get(index).map_or(String::new(), plain);
        let restarts = match cell(3).split(' ').next() {
            None | Some("" | "0") => String::new(),
            Some(count) => format!(",restarts:{count}"),
        };
        let created = text(pod, "/metadata/creationTimestamp").parse().ok();
        let name = format!("□ {}", text(pod, "/metadata/name"));
        tree.add(3, name, "Pod", &marked(&cell(2)), created, format!("ready:{}{restarts}", cell(1)));
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A running analysis is not good yet, unlike a running pod.
fn analysis(phase: Phase) -> String {
    match phase {
        Phase::Running => "◌ Running".to_owned(),
        other => marked(&format!("{other:?}")),
    }
}

/// How many measurements were good, bad, neither, or failed.
fn measured(run: &AnalysisRun) -> String {
    let sum = |count: fn(&wharf_deliver::analysis::MetricResult) -> i64| {
        run.status.metric_results.iter().map(count).sum::<i64>()
    };
    let counts = [
        ("✔", sum(|m| m.successful)),
        ("✖", sum(|m| m.failed)),
        ("?", sum(|m| m.inconclusive)),
        ("⚠", sum(|m| m.error)),
    ];
    let counts: Vec<String> =
        counts.iter().filter(|(_, n)| *n > 0).map(|(icon, n)| format!("{icon} {n}")).collect();
    counts.join(",")
}
