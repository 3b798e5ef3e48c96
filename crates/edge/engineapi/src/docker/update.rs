//! `/containers/ID/update`.

use serde::Deserialize as _;
use serde_json::{Value, json};
use wharf_engine::Container;

use super::{
    Call, Docker,
    answer::{Failure, Reply, json_of},
    blocking, create,
};

impl Docker {
    /// Changes limits and the restart policy.
    pub(super) async fn update(&self, id: &str, mut call: Call) -> Reply {
        let update: serde_json::Map<String, Value> = call.json().await?;
        let given = |value: &Value| {
            let empty = [Value::Null, json!(0), json!(""), json!([]), json!({}), json!(false)];
            !empty.contains(value)
        };
        let known = |name: &str| CHANGEABLE.contains(&name);
        if let Some((name, _)) = update.iter().find(|(name, value)| given(value) && !known(name)) {
            return Err(Failure::not_supported(format!("{name} of a container cannot be changed yet")));
        }
        let (engine, container) = self.found(id).await?;
        let record = container.record.clone();
        let refused = |failure: Failure| failure.about(&format!("Cannot update container {}", container.id));
        let policy = update
            .get("RestartPolicy")
            .filter(|policy| policy["Name"].as_str().is_some_and(|n| !n.is_empty()));
        let restart = match policy {
            Some(_) if container.record.spec.auto_remove => {
                let message =
                    "Restart policy cannot be updated because AutoRemove is enabled for the container";
                return Err(refused(Failure::bad(message)));
            }
            Some(policy) => {
                let policy = create::RestartPolicy::deserialize(policy)
                    .map_err(|error| Failure::bad(format!("RestartPolicy: {error}")))?;
                Some(create::restart(&policy, false)?)
            }
            None => None,
        };
        let body = Value::Object(update);
        let (memory, swap) = (body["Memory"].as_i64(), container.record.spec.resources.memory_swap);
        let no_swap = body["MemorySwap"].as_i64().unwrap_or_default() == 0;
        if let (Some(memory), Some(swap @ 1..), true) = (memory, swap, no_swap)
            && memory > swap
        {
            return Err(refused(Failure::bad(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
            )));
        }
        let limits = create::limits(&changed(&container, &body))?;
        blocking(move || {
            engine.limit(&container, &limits)?;
            engine.change(&container.id, |record| {
                record.spec.restart = restart.unwrap_or(record.spec.restart);
                if let (Some(docker), Value::Object(fields)) = (&mut record.docker, body) {
                    for (name, value) in fields.into_iter().filter(|(_, value)| given(value)) {
                        docker["HostConfig"][name] = value;
                    }
                }
            })?;
            Ok(())
        })
        .await?;
        self.keeper.tell_of(&record, "update", &[]);
        Ok(json_of(&json!({ "Warnings": [] })))
    }
}

/// What `update` changes.
const CHANGEABLE: [&str; 12] = [
    "RestartPolicy",
    "BlkioWeight",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "CpuShares",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "PidsLimit",
];

/// The limits of an update beside those that stay, so that both are checked together.
fn changed(container: &Container, update: &Value) -> Value {
    let limits = &container.record.spec.resources;
    let mut all = update.clone();
    let kept = [("Memory", limits.memory), ("MemorySwap", limits.memory_swap)];
    for (name, value) in kept {
        if all[name].as_i64().unwrap_or_default() == 0
            && let Some(value) = value
        {
            all[name] = json!(value);
        }
    }
    all
}
