//! Cluster: nodes, namespaces, events, configuration, quotas, leases, priorities.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, Table, boolean, column, integer, text, tree, wide};

const NODE: &[Column] = &[
    NAME,
    column("Status", "Whether the node is ready and takes pods"),
    column("Roles", "Roles of the node"),
    AGE,
    column("Version", "Version of the node agent"),
    wide("Internal-IP", "Address within the cluster"),
    wide("External-IP", "Address from outside the cluster"),
    wide("OS-Image", "Operating system"),
    wide("Kernel-Version", "Kernel"),
    wide("Container-Runtime", "Container run time and its version"),
];
const EVENT: &[Column] = &[
    column("Last Seen", "Time since it last happened"),
    column("Type", "Normal or Warning"),
    column("Reason", "Why it happened, in one word"),
    column("Object", "Object it happened to"),
    wide("Subobject", "Part of the object it happened to"),
    wide("Source", "Who reported it"),
    column("Message", "What happened"),
    wide("First Seen", "Time since it first happened"),
    wide("Count", "How often it happened"),
    Column { priority: 1, ..NAME },
];
const PHASE: &[Column] = &[NAME, column("Status", "Phase of the namespace"), AGE];
const CONFIG_MAP: &[Column] = &[NAME, column("Data", "Number of entries"), AGE];
const SECRET: &[Column] =
    &[NAME, column("Type", "What the data is for"), column("Data", "Number of entries"), AGE];
const SERVICE_ACCOUNT: &[Column] = &[NAME, AGE];
const QUOTA: &[Column] = &[
    NAME,
    column("Request", "Requests and counts, used of allowed"),
    column("Limit", "Limits, used of allowed"),
    AGE,
];
const COMPONENT: &[Column] = &[
    NAME,
    column("Status", "Whether the component is healthy"),
    column("Message", "What it says of its health"),
    column("Error", "What is wrong"),
];
const LEASE: &[Column] = &[NAME, column("Holder", "Who holds the lease"), AGE];
const LEASE_CANDIDATE: &[Column] = &[
    NAME,
    column("LeaseName", "Lease it stands for"),
    column("BinaryVersion", "Version of the program"),
    column("EmulationVersion", "Version the program behaves as"),
    AGE,
];
const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value", "Priority of the pods of the class"),
    boolean("Global-Default", "Whether pods without a class have it"),
    AGE,
    wide("PreemptionPolicy", "Whether the pods may displace others"),
];
const RUNTIME_CLASS: &[Column] = &[NAME, column("Handler", "Run time that starts the pods"), AGE];

pub(super) const TABLES: &[Table] = &[
    Table { group: "", resource: "nodes", columns: NODE, cells: node },
    Table { group: "", resource: "events", columns: EVENT, cells: event },
    Table { group: "events.k8s.io", resource: "events", columns: EVENT, cells: event },
    Table { group: "", resource: "namespaces", columns: PHASE, cells: namespace },
    Table { group: "", resource: "configmaps", columns: CONFIG_MAP, cells: config_map },
    Table { group: "", resource: "secrets", columns: SECRET, cells: secret },
    Table { group: "", resource: "serviceaccounts", columns: SERVICE_ACCOUNT, cells: service_account },
    Table { group: "", resource: "resourcequotas", columns: QUOTA, cells: quota },
    Table { group: "", resource: "componentstatuses", columns: COMPONENT, cells: component },
    Table { group: "coordination.k8s.io", resource: "leases", columns: LEASE, cells: lease },
    Table {
        group: "coordination.k8s.io",
        resource: "leasecandidates",
        columns: LEASE_CANDIDATE,
        cells: lease_candidate,
    },
    Table {
        group: "scheduling.k8s.io",
        resource: "priorityclasses",
        columns: PRIORITY_CLASS,
        cells: priority_class,
    },
    Table { group: "node.k8s.io", resource: "runtimeclasses", columns: RUNTIME_CLASS, cells: runtime_class },
];

fn node(row: &Row<'_>) -> Vec<Value> {
    let mut kernel = row.text("/status/nodeInfo/kernelVersion").to_owned();
    if kernel.is_empty() {
        kernel.push_str("<unknown>");
    }
    let architecture = row.text("/status/nodeInfo/architecture");
    if !architecture.is_empty() {
        kernel = format!("{kernel} ({architecture})");
    }
    vec![
        row.name(),
        json!(node_status(row)),
        json!(node_roles(row)),
        row.age(),
        row.string("/status/nodeInfo/kubeletVersion"),
        json!(node_address(row, "InternalIP")),
        json!(node_address(row, "ExternalIP")),
        row.string_or("/status/nodeInfo/osImage", "<unknown>"),
        json!(kernel),
        row.string_or("/status/nodeInfo/containerRuntimeVersion", "<unknown>"),
    ]
}

fn node_status(row: &Row<'_>) -> String {
    let ready = tree::find(row.list("/status/conditions"), "type", "Ready");
    let mut status = match ready.map(|condition| tree::text(condition, "/status")) {
        None => "Unknown".to_owned(),
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
    };
    if tree::flag(row.object, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn node_roles(row: &Row<'_>) -> String {
    let roles: BTreeSet<&str> = tree::entries(row.object, "/metadata/labels")
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    text::or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

fn node_address<'a>(row: &Row<'a>, type_: &str) -> &'a str {
    tree::find(row.list("/status/addresses"), "type", type_)
        .map_or("<none>", |address| tree::text(address, "/address"))
}

/// Core events and `events.k8s.io` events: the same object under two sets of field names.
fn event(row: &Row<'_>) -> Vec<Value> {
    let either = |core: &str, new: &str| match row.text(core) {
        "" => row.text(new),
        text => text,
    };
    let first = first_time(row, &["/firstTimestamp", "/deprecatedFirstTimestamp", "/eventTime"]);
    let last = first_time(row, &["/series/lastObservedTime", "/lastTimestamp", "/deprecatedLastTimestamp"]);
    let last = if tree::has(row.object, "/series") { last } else { last.or(first) };
    let kind = either("/involvedObject/kind", "/regarding/kind").to_lowercase();
    let target = match either("/involvedObject/name", "/regarding/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    vec![
        json!(text::since(last, row.now)),
        row.string("/type"),
        row.string("/reason"),
        json!(target),
        json!(either("/involvedObject/fieldPath", "/regarding/fieldPath")),
        json!(event_source(row)),
        json!(either("/message", "/note").trim()),
        json!(text::since(first, row.now)),
        json!(event_count(row)),
        row.name(),
    ]
}

/// The first of several fields that holds a time.
fn first_time(row: &Row<'_>, pointers: &[&str]) -> Option<wharf_base::Timestamp> {
    pointers.iter().find_map(|pointer| tree::time(row.object, pointer))
}

fn event_count(row: &Row<'_>) -> i64 {
    if tree::has(row.object, "/series") {
        return row.int("/series/count");
    }
    row.int("/count").max(row.int("/deprecatedCount")).max(1)
}

/// The component and the host that reported an event.
fn event_source(row: &Row<'_>) -> String {
    let first = |pointers: &[&str]| {
        pointers.iter().map(|pointer| row.text(pointer)).find(|text| !text.is_empty()).unwrap_or_default()
    };
    let component = first(&[
        "/source/component",
        "/deprecatedSource/component",
        "/reportingComponent",
        "/reportingController",
    ]);
    match first(&["/source/host", "/deprecatedSource/host", "/reportingInstance"]) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

fn namespace(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string("/status/phase"), row.age()]
}

fn config_map(row: &Row<'_>) -> Vec<Value> {
    let entries = tree::count(row.object, "/data") + tree::count(row.object, "/binaryData");
    vec![row.name(), json!(entries), row.age()]
}

fn secret(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string("/type"), json!(tree::count(row.object, "/data")), row.age()]
}

fn service_account(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.age()]
}

fn quota(row: &Row<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in tree::entries(row.object, "/status/hard") {
        let used = row.at("/status/used").get(resource).map_or_else(|| "0".to_owned(), text::quantity);
        let cell = format!("{resource}: {used}/{}", text::quantity(hard));
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![row.name(), json!(requests.join(", ")), json!(limits.join(", ")), row.age()]
}

fn component(row: &Row<'_>) -> Vec<Value> {
    let healthy = tree::find(row.list("/conditions"), "type", "Healthy");
    let part = |pointer| healthy.map_or("", |condition| tree::text(condition, pointer));
    let status = match part("/status") {
        "" => "Unknown",
        "True" => "Healthy",
        _ => "Unhealthy",
    };
    vec![row.name(), json!(status), json!(part("/message")), json!(part("/error"))]
}

fn lease(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string("/spec/holderIdentity"), row.age()]
}

fn lease_candidate(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.string("/spec/leaseName"),
        row.string("/spec/binaryVersion"),
        row.string("/spec/emulationVersion"),
        row.age(),
    ]
}

fn priority_class(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.number("/value"),
        row.truth("/globalDefault", false),
        row.age(),
        row.string("/preemptionPolicy"),
    ]
}

fn runtime_class(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string("/handler"), row.age()]
}
