//! The node's own object and its sign of life.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use wharf_base::{Clock, Quantity, SystemClock};
use wharf_client::{
    Client, Gvr, PatchKind, Result,
    action::{NAMESPACES, NODES},
};

use crate::{
    agent::Shared,
    events::Level,
    machine::{Left, Machine},
};

const LEASES: Gvr = Gvr::fixed("coordination.k8s.io", "v1", "leases");
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The kubelet's periods.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: u64 = 40;
const FULL_STATUS: Duration = Duration::from_secs(300);
/// As many pods as the kubelet takes unless told otherwise.
const MAX_PODS: i64 = 110;
/// The kubelet's threshold of memory, and thousandths of disk and process ids below which the node says so.
const LOW_MEMORY: i64 = 100 << 20;
const LOW_DISK: u64 = 50;
const LOW_PIDS: u64 = 50;

/// Registers the node and keeps it alive, until aborted.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut pause = Duration::from_millis(50);
    while let Err(error) = register(&shared).await {
        tracing::warn!(%error, "the node cannot be registered; trying again");
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(7));
    }
    shared.events.node(&shared.config.name, Level::Normal, "Starting", "wharf's node agent has started");
    let mut ticks = interval(RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut written, mut at) = (Value::Null, Instant::now());
    loop {
        ticks.tick().await;
        if let Err(error) = renew(&shared).await {
            tracing::warn!(%error, "the node's lease cannot be renewed");
        }
        let pressure = pressure(&shared);
        if pressure != written || at.elapsed() >= FULL_STATUS {
            match write_status(&shared).await {
                Ok(()) => (written, at) = (pressure, Instant::now()),
                Err(error) => tracing::warn!(%error, "the node's status cannot be written"),
            }
        }
    }
}

fn labels(shared: &Shared) -> BTreeMap<String, String> {
    let mut labels = shared.config.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", shared.config.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", Machine::arch()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", Machine::arch()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

async fn register(shared: &Shared) -> Result<()> {
    let (client, name) = (&shared.config.client, &shared.config.name);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels(shared)},
        "status": status(shared)});
    match client.create(&NODES, "", &node).await {
        Err(error) if error.is_already_exists() => {
            let body = json!({"metadata": {"labels": labels(shared)}});
            client.patch(&NODES, "", name, None, PatchKind::Merge, &body).await?;
        }
        other => drop(other?),
    }
    write_status(shared).await?;
    renew(shared).await
}

async fn write_status(shared: &Shared) -> Result<()> {
    let (client, name) = (&shared.config.client, &shared.config.name);
    let mut status = status(shared);
    let node = client.get(&NODES, "", name).await?.unwrap_or_default();
    keep_transitions(&mut status, &node["status"]["conditions"]);
    strategic_status(client, &format!("/api/v1/nodes/{name}"), &status).await
}

/// Patches a status so that conditions others own stay.
pub(crate) async fn strategic_status(client: &Client, path: &str, status: &Value) -> Result<()> {
    let body = json!({"status": status});
    let kind = "application/strategic-merge-patch+json";
    client.call(http::Method::PATCH, &format!("{path}/status"), kind, Some(&body)).await.map(drop)
}

/// A condition that stays as it was keeps its time of transition.
fn keep_transitions(status: &mut Value, before: &Value) {
    for condition in status["conditions"].as_array_mut().into_iter().flatten() {
        let known = before.as_array().into_iter().flatten();
        let same = known
            .into_iter()
            .find(|known| known["type"] == condition["type"] && known["status"] == condition["status"]);
        if let Some(since) = same.map(|known| known["lastTransitionTime"].clone()).filter(Value::is_string) {
            condition["lastTransitionTime"] = since;
        }
    }
}

/// The conditions without their times.
fn pressure(shared: &Shared) -> Value {
    let left = Left::look(&shared.config.data);
    let one = |kind: &str, is: bool, yes: &str, no: &str, message: &str| json!({"type": kind, "status": if is { "True" } else { "False" }, "reason": if is { yes } else { no }, "message": message});
    json!([
        one(
            "MemoryPressure",
            left.memory < LOW_MEMORY,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "whether the machine has memory left"
        ),
        one(
            "DiskPressure",
            left.disk_permille < LOW_DISK,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "whether the data folder's disk has room left"
        ),
        one(
            "PIDPressure",
            left.pids_permille < LOW_PIDS,
            "KubeletHasInsufficientPID",
            "KubeletHasSufficientPID",
            "whether the machine has process ids left"
        ),
        one("Ready", true, "KubeletReady", "KubeletNotReady", "the node agent runs pods"),
    ])
}

fn status(shared: &Shared) -> Value {
    let machine = &shared.machine;
    let now = SystemClock.now();
    let amounts = json!({
        "cpu": Quantity::from_units(machine.cpus),
        "memory": Quantity::from_bytes(machine.memory),
        "ephemeral-storage": Quantity::from_bytes(machine.disk),
        "pods": MAX_PODS.to_string(),
    });
    let mut conditions = pressure(shared);
    for condition in conditions.as_array_mut().into_iter().flatten() {
        condition["lastHeartbeatTime"] = json!(now);
        condition["lastTransitionTime"] = json!(now);
    }
    json!({
        "capacity": amounts,
        "allocatable": amounts,
        "addresses": [
            {"type": "InternalIP", "address": shared.address},
            {"type": "Hostname", "address": machine.hostname},
        ],
        "conditions": conditions,
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.system_uuid,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": concat!("wharf://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": concat!("v1.36.0+wharf", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": Machine::arch(),
        },
    })
}

async fn renew(shared: &Shared) -> Result<()> {
    let (client, name) = (&shared.config.client, &shared.config.name);
    let now = SystemClock.now().to_micro();
    let body =
        json!({"spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}});
    match client.patch(&LEASES, LEASE_NAMESPACE, name, None, PatchKind::Merge, &body).await {
        Err(error) if error.is_not_found() => {}
        other => return other.map(drop),
    }
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": LEASE_NAMESPACE}});
    match client.create(&NAMESPACES, "", &namespace).await {
        Err(error) if !error.is_already_exists() => return Err(error),
        _ => {}
    }
    let mut lease = body;
    lease["apiVersion"] = "coordination.k8s.io/v1".into();
    lease["kind"] = "Lease".into();
    lease["metadata"] = json!({"name": name, "namespace": LEASE_NAMESPACE});
    client.create(&LEASES, LEASE_NAMESPACE, &lease).await.map(drop)
}
