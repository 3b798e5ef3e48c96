//! Sandboxes and containers as the interface tells of them, and which of them a filter means.

use std::collections::BTreeMap;

use wharf_runtime::Exit;

use crate::{
    signals,
    table::{Container, Sandbox, Table, nanos},
    v1::{
        Container as ContainerItem, ContainerAttributes, ContainerFilter, ContainerResources, ContainerState,
        ContainerStatsFilter, ContainerStatus, ContainerUser, LinuxPodSandboxStatus, Namespace,
        NamespaceOption, PodSandbox, PodSandboxAttributes, PodSandboxConfig, PodSandboxFilter,
        PodSandboxNetworkStatus, PodSandboxStatsFilter, PodSandboxStatus,
    },
};

/// Labels that must all be there.
pub(crate) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// The namespaces of a sandbox as asked for.
pub(crate) fn namespaces(config: &PodSandboxConfig) -> NamespaceOption {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

pub(crate) fn sandbox_item(sandbox: &Sandbox) -> PodSandbox {
    let record = sandbox.record();
    let config = record.config.unwrap_or_default();
    PodSandbox {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        state: sandbox.state() as i32,
        created_at: record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: String::new(),
    }
}

pub(crate) fn sandbox_status(sandbox: &Sandbox) -> PodSandboxStatus {
    let record = sandbox.record();
    let config = record.config.unwrap_or_default();
    let options = Some(namespaces(&config));
    PodSandboxStatus {
        id: sandbox.id.clone(),
        state: sandbox.state() as i32,
        created_at: record.created_at,
        network: Some(PodSandboxNetworkStatus { ip: record.ip, additional_ips: Vec::new() }),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: String::new(),
    }
}

/// The sandboxes a filter means.
pub(crate) fn sandboxes(table: &Table, filter: &PodSandboxFilter) -> Vec<PodSandbox> {
    let wanted = filter.state.as_ref().map(|state| state.state);
    let items = table.sandboxes.values().filter(|sandbox| sandbox.id.starts_with(&filter.id));
    let items = items.map(|sandbox| sandbox_item(sandbox));
    items
        .filter(|item| wanted.is_none_or(|state| item.state == state))
        .filter(|item| selects(&filter.label_selector, &item.labels))
        .collect()
}

pub(crate) fn container_item(container: &Container) -> ContainerItem {
    let record = container.record();
    let config = record.config.unwrap_or_default();
    ContainerItem {
        id: container.id.clone(),
        pod_sandbox_id: container.sandbox.id.clone(),
        metadata: config.metadata,
        image: config.image,
        image_ref: record.image_ref,
        image_id: record.image_id,
        state: container.state() as i32,
        created_at: nanos(container.status().created_at),
        labels: config.labels,
        annotations: config.annotations,
    }
}

/// The containers a filter means.
pub(crate) fn containers(table: &Table, filter: &ContainerFilter) -> Vec<ContainerItem> {
    let wanted = filter.state.as_ref().map(|state| state.state);
    let items = table.containers.values().filter(|container| {
        container.id.starts_with(&filter.id) && container.sandbox.id.starts_with(&filter.pod_sandbox_id)
    });
    let items = items.map(|container| container_item(container));
    items
        .filter(|item| wanted.is_none_or(|state| item.state == state))
        .filter(|item| selects(&filter.label_selector, &item.labels))
        .collect()
}

/// Reason and message of an end, for people.
fn why(exit: &Exit, start_error: &str) -> (String, String) {
    let reason = match exit {
        _ if !start_error.is_empty() => "StartError",
        Exit { oom_killed: true, .. } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    };
    let message =
        if start_error.is_empty() { exit.reason.clone().unwrap_or_default() } else { start_error.to_owned() };
    (reason.to_owned(), message)
}

pub(crate) fn container_status(container: &Container) -> ContainerStatus {
    let (record, status, state) = (container.record(), container.status(), container.state());
    let config = record.config.unwrap_or_default();
    let exit = status.exit.as_ref().filter(|_| state == ContainerState::Exited);
    let (reason, message) = exit.map(|exit| why(exit, &record.start_error)).unwrap_or_default();
    ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata,
        state: state as i32,
        created_at: nanos(status.created_at),
        started_at: status.started_at.map_or(0, nanos),
        finished_at: exit.map_or(0, |exit| nanos(exit.finished_at)),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: config.image,
        image_ref: record.image_ref,
        image_id: record.image_id,
        reason,
        message,
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: record.log_path,
        resources: record.resources.map(|linux| ContainerResources { linux: Some(linux) }),
        user: Some(ContainerUser { linux: record.user }),
        stop_signal: signals::to_interface(record.stop_signal),
    }
}

/// Whose statistics are told.
pub(crate) fn attributes(container: &Container) -> ContainerAttributes {
    let config = container.record().config.unwrap_or_default();
    ContainerAttributes {
        id: container.id.clone(),
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
    }
}

/// As [`attributes`], of a sandbox.
pub(crate) fn sandbox_attributes(sandbox: &Sandbox) -> PodSandboxAttributes {
    let config = sandbox.config();
    PodSandboxAttributes {
        id: sandbox.id.clone(),
        metadata: config.metadata,
        labels: config.labels,
        annotations: config.annotations,
    }
}

/// The filter of statistics as one of containers that run.
pub(crate) fn of_stats(filter: ContainerStatsFilter) -> ContainerFilter {
    ContainerFilter {
        id: filter.id,
        state: None,
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
    }
}

/// The filter of statistics as one of sandboxes.
pub(crate) fn of_sandbox_stats(filter: PodSandboxStatsFilter) -> PodSandboxFilter {
    PodSandboxFilter { id: filter.id, state: None, label_selector: filter.label_selector }
}
