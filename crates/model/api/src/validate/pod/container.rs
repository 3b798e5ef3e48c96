//! Containers of a pod: ordinary, init and ephemeral ones.

use std::collections::BTreeSet;

use serde_json::json;
use wharf_base::Quantity;

use super::volume::Volumes;
use super::{env, probe, seccomp};
use crate::table::tree;
use crate::validate::field::{Errors, Field};
use crate::validate::{names, values};

/// Why probes and hooks are not for every init container.
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
/// Resources by their short names.
const STANDARD_RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// All containers of a pod spec.
pub(super) fn all(spec: &Field<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let containers = spec.child("containers");
    if containers.is_empty() {
        errors.push(containers.required(""));
    }
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    for container in containers.items() {
        common(&container, volumes, errors);
        unique_name(&container, &mut seen, errors);
        probe::all(&container, errors);
        restart_policy(&container, errors);
        unique_host_ports(&container, &mut host_ports, errors);
        resize_policy(spec, &container, false, errors);
    }
    for container in spec.child("initContainers").items() {
        common(&container, volumes, errors);
        unique_name(&container, &mut seen, errors);
        resize_policy(spec, &container, true, errors);
        init(&container, errors);
        unique_host_ports(&container, &mut BTreeSet::new(), errors);
    }
    let targets = seen.clone();
    for container in spec.child("ephemeralContainers").items() {
        common(&container, volumes, errors);
        unique_name(&container, &mut seen, errors);
        ephemeral(&container, &targets, errors);
    }
}

/// What an ephemeral container may not have: nobody is to rely on it.
fn ephemeral(container: &Field<'_>, targets: &BTreeSet<String>, errors: &mut Errors) {
    const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";
    const FORBIDDEN: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    let target = container.child("targetContainerName");
    if !target.text().is_empty() && !targets.contains(target.text()) {
        errors.push(target.not_found());
    }
    for name in FORBIDDEN {
        let field = container.child(name);
        let is_empty = field.value().as_object().is_some_and(serde_json::Map::is_empty);
        if field.is_set() && !is_empty {
            errors.push(field.forbidden(NOT_FOR_EPHEMERAL));
        }
    }
    for mount in container.child("volumeMounts").items() {
        for name in ["subPath", "subPathExpr"] {
            let field = mount.child(name);
            if !field.text().is_empty() {
                errors.push(field.forbidden(NOT_FOR_EPHEMERAL));
            }
        }
    }
}

/// What a change of a container's resources comes to: nothing, or its restart.
fn resize_policy(spec: &Field<'_>, container: &Field<'_>, is_init: bool, errors: &mut Errors) {
    let policies = container.child("resizePolicy");
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let (resource, restart) = (policy.child("resourceName"), policy.child("restartPolicy"));
        if !seen.insert(resource.text().to_owned()) {
            errors.push(policy.duplicate_as(resource.text()));
        }
        match resource.text() {
            "cpu" | "memory" => {}
            "" => errors.push(policies.required("")),
            _ => errors.push(resource.not_supported(&["cpu", "memory"])),
        }
        match restart.text() {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.push(policies.required("")),
            _ => errors.push(restart.not_supported(&["NotRequired", "RestartContainer"])),
        }
        if restart.text() != "RestartContainer" {
            continue;
        }
        if spec.text_at("/restartPolicy") == "Never" {
            let message = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(policies.invalid_as(restart.text(), message));
        }
        if is_init && container.text_at("/restartPolicy") != "Always" {
            errors.push(
                restart.invalid("must not be set to 'RestartContainer' for non-sidecar initContainers"),
            );
        }
    }
}

fn unique_name(container: &Field<'_>, seen: &mut BTreeSet<String>, errors: &mut Errors) {
    let name = container.child("name");
    if !name.text().is_empty() && !seen.insert(name.text().to_owned()) {
        errors.push(name.duplicate());
    }
}

/// What holds for every container.
fn common(container: &Field<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    values::required_name(&container.child("name"), names::dns_label, errors);
    image(&container.child("image"), errors);
    let message_policies = ["File", "FallbackToLogsOnError"];
    values::one_of(&container.child("terminationMessagePolicy"), &message_policies, errors);
    ports(&container.child("ports"), errors);
    env::variables(&container.child("env"), errors);
    env::sources(&container.child("envFrom"), errors);
    mounts(container, volumes, errors);
    values::one_of(&container.child("imagePullPolicy"), &["Always", "IfNotPresent", "Never"], errors);
    resources(&container.child("resources"), errors);
    security_context(&container.child("securityContext"), errors);
}

fn image(image: &Field<'_>, errors: &mut Errors) {
    values::required_text(image, errors);
    if image.text().trim() != image.text() {
        errors.push(image.invalid("must not have leading or trailing whitespace"));
    }
}

fn restart_policy(container: &Field<'_>, errors: &mut Errors) {
    let supported = ["Always", "Never", "OnFailure"];
    values::optionally_one_of(&container.child("restartPolicy"), &supported, errors);
}

/// What holds for init containers: probes and hooks are only for those that keep running.
fn init(container: &Field<'_>, errors: &mut Errors) {
    restart_policy(container, errors);
    if container.text_at("/restartPolicy") == "Always" {
        probe::all(container, errors);
        return;
    }
    for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        let field = container.child(key);
        if field.is_set() {
            errors.push(field.forbidden(NOT_FOR_INIT));
        }
    }
}

fn ports(ports: &Field<'_>, errors: &mut Errors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for port in ports.items() {
        let name = port.child("name");
        if !name.text().is_empty() {
            let wrong = names::port_name(name.text());
            if wrong.is_empty() && !seen.insert(name.text().to_owned()) {
                errors.push(name.duplicate());
            }
            errors.extend(wrong.into_iter().map(|message| name.invalid(message)));
        }
        let number = port.child("containerPort");
        if port.int_at("/containerPort") == 0 {
            errors.push(number.required(""));
        } else {
            values::port_number(&number, errors);
        }
        if port.int_at("/hostPort") != 0 {
            values::port_number(&port.child("hostPort"), errors);
        }
        values::protocol(&port.child("protocol"), errors);
    }
}

fn unique_host_ports(container: &Field<'_>, seen: &mut BTreeSet<String>, errors: &mut Errors) {
    for port in container.child("ports").items() {
        let number = port.int_at("/hostPort");
        let key = format!("{}/{}/{number}", port.text_at("/protocol"), port.text_at("/hostIP"));
        if number != 0 && !seen.insert(key.clone()) {
            errors.push(port.child("hostPort").duplicate_as(key));
        }
    }
}

fn mounts(container: &Field<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let list = container.child("volumeMounts");
    let mut paths: BTreeSet<String> = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.child("name"), mount.child("mountPath"));
        values::required_text(&name, errors);
        if !volumes.contains(name.text()) {
            errors.push(name.not_found());
        }
        values::required_text(&path, errors);
        if !paths.insert(path.text().to_owned()) {
            errors.push(path.invalid("must be unique"));
        }
        for key in ["subPath", "subPathExpr"] {
            local_path(&list.child(key), mount.text_at(&format!("/{key}")), errors);
        }
        let expression = mount.child("subPathExpr");
        if !expression.text().is_empty() && !mount.text_at("/subPath").is_empty() {
            errors.push(expression.invalid("subPathExpr and subPath are mutually exclusive"));
        }
    }
    for device in container.child("volumeDevices").items() {
        let (name, path) = (device.child("name"), device.child("devicePath"));
        values::required_text(&name, errors);
        if !volumes.contains(name.text()) {
            errors.push(name.not_found());
        }
        values::required_text(&path, errors);
        if !paths.insert(path.text().to_owned()) {
            errors.push(path.invalid("must be unique"));
        }
    }
}

/// A path that stays below where it starts.
pub(super) fn local_path(field: &Field<'_>, path: &str, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.push(field.invalid_as(path, "must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        errors.push(field.invalid_as(path, "must not contain '..'"));
    }
}

/// Requests and limits: known resources, no negative amounts, requests within limits.
pub(super) fn resources(resources: &Field<'_>, errors: &mut Errors) {
    let limits = resources.child("limits");
    for (name, limit) in limits.entries() {
        resource_name(name, &limit, errors);
        amount(name, &limit, errors);
    }
    let requests = resources.child("requests");
    for (name, request) in requests.entries() {
        resource_name(name, &request, errors);
        let Some(wanted) = amount(name, &request, errors) else { continue };
        let limit = limits.value().get(name).map(tree::scalar);
        match limit.and_then(|limit| limit.parse::<Quantity>().ok()) {
            Some(limit) if wanted != limit && !may_overcommit(name) => {
                let message = format!("must be equal to {name} limit of {limit}");
                errors.push(requests.invalid_as(wanted.to_string(), message));
            }
            Some(limit) if wanted > limit => {
                let message = format!("must be less than or equal to {name} limit of {limit}");
                errors.push(requests.invalid_as(wanted.to_string(), message));
            }
            None if !may_overcommit(name) => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
}

fn amount(name: &str, field: &Field<'_>, errors: &mut Errors) -> Option<Quantity> {
    let quantity = values::nonnegative_quantity(field, errors)?;
    if is_extended(name) && quantity.nanos() % 1_000_000_000 != 0 {
        errors.push(field.invalid_as(quantity.to_string(), "must be an integer"));
    }
    Some(quantity)
}

/// Resources of the cluster's own may be requested beyond what there is; devices and huge pages may not.
fn may_overcommit(name: &str) -> bool {
    !is_extended(name) && !name.starts_with("hugepages-")
}

/// A resource with a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io"))
}

fn resource_name(name: &str, field: &Field<'_>, errors: &mut Errors) {
    let wrong = names::qualified_name(name);
    let is_standard = STANDARD_RESOURCES.contains(&name) || name.starts_with("hugepages-");
    if wrong.is_empty() && !name.contains('/') && !is_standard {
        if name != "storage" {
            let message = "must be a standard resource type or fully qualified";
            errors.push(field.invalid_as(name, message));
        }
        errors.push(field.invalid_as(name, "must be a standard resource for containers"));
    }
    errors.extend(wrong.into_iter().map(|message| field.invalid_as(name, message)));
}

fn security_context(context: &Field<'_>, errors: &mut Errors) {
    for id in ["runAsUser", "runAsGroup"] {
        values::in_range(&context.child(id), 0, i32::MAX.into(), errors);
    }
    values::optionally_one_of(&context.child("procMount"), &["Default", "Unmasked"], errors);
    seccomp(&context.child("seccompProfile"), errors);
    if context.at("/allowPrivilegeEscalation").as_bool() != Some(false) {
        return;
    }
    if context.flag_at("/privileged") {
        errors
            .push(context.invalid("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"));
    }
    if context.list_at("/capabilities/add").contains(&json!("CAP_SYS_ADMIN")) {
        errors.push(
            context.invalid(
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ),
        );
    }
}
