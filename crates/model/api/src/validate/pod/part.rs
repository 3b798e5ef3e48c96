//! What may change through a pod's subresources `ephemeralcontainers` and `resize`.

use serde_json::Value;
use wharf_base::Quantity;

use crate::{
    defaults,
    table::tree,
    validate::field::{Errors, Field},
};

/// The annotation of pods that stand for static ones.
/// The annotation of pods that a node runs by itself and the API only shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

fn is_mirror(pod: &Field<'_>) -> bool {
    pod.at("/metadata/annotations").get(MIRROR).is_some()
}

/// Ephemeral containers come, and stay as they are.
pub(in crate::validate) fn update_ephemeral(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    if is_mirror(old) {
        *errors = vec![new.forbidden("static pods do not support ephemeral containers")];
        return;
    }
    let spec = new.child("spec");
    let (list, wanted) = (spec.child("ephemeralContainers"), new.list_at("/spec/ephemeralContainers"));
    for before in old.list_at("/spec/ephemeralContainers") {
        let name = tree::text(before, "/name");
        match tree::find(wanted, "name", name) {
            None => errors
                .push(list.forbidden(format!("existing ephemeral containers {name:?} may not be removed\n"))),
            Some(after) if after != before => errors
                .push(list.forbidden(format!("existing ephemeral containers {name:?} may not be changed\n"))),
            Some(_) => {}
        }
    }
}

/// CPU and memory may change, but not come to nothing, nor make another class of the pod.
pub(in crate::validate) fn resize(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    if is_mirror(old) {
        *errors = vec![new.forbidden("static pods cannot be resized")];
        return;
    }
    let (spec, before) = (new.child("spec"), old.child("spec"));
    if spec.child("os").text_at("/name") == "windows" {
        *errors = vec![new.forbidden("windows pods cannot be resized")];
        return;
    }
    let class = |pod: &Field<'_>| defaults::qos_class(pod.value());
    if class(old) != class(new) {
        let class = new.text_at("/status/qosClass");
        errors.push(spec.invalid_as(class, "Pod QOS Class may not change as a result of resizing"));
    }
    if !reports_resources(old) {
        errors.push(spec.forbidden("Pod running on node without support for resize"));
    }
    if spec.has("/resources") || before.has("/resources") {
        errors
            .push(new.forbidden("resources of the pod as a whole cannot be resized: resize its containers"));
        return;
    }
    let found = errors.len();
    for list in ["containers", "initContainers"] {
        same_containers(&spec, &before, list, errors);
    }
    if errors.len() > found {
        return;
    }
    for list in ["containers", "initContainers"] {
        let olds = before.list_at(&format!("/{list}"));
        for (container, old) in spec.child(list).items().zip(olds) {
            one(&spec, &container, old, list == "initContainers", errors);
        }
    }
}

/// A node that says what resources containers have can change them.
fn reports_resources(pod: &Field<'_>) -> bool {
    let running = pod.list_at("/status/containerStatuses").iter().find(|s| tree::has(s, "/state/running"));
    running.is_none_or(|status| tree::has(status, "/resources"))
}

fn same_containers(new: &Field<'_>, old: &Field<'_>, list: &str, errors: &mut Errors) {
    let (containers, before) = (new.child(list), old.list_at(&format!("/{list}")));
    if containers.len() != before.len() {
        errors.push(containers.forbidden(format!("{list} may not be added or removed on resize")));
        return;
    }
    for (container, before) in containers.items().zip(before) {
        if container.text_at("/name") != tree::text(before, "/name") {
            let why = format!("{list} may not be renamed or reordered on resize");
            errors.push(container.child("name").forbidden(why));
        }
    }
}

fn one(spec: &Field<'_>, new: &Field<'_>, old: &Value, is_init: bool, errors: &mut Errors) {
    let changed = tree::at(old, "/resources") != new.at("/resources");
    if is_init && changed && new.text_at("/restartPolicy") != "Always" {
        errors.push(spec.forbidden("resources for non-sidecar init containers are immutable"));
        return;
    }
    let resources = new.child("resources");
    for (field, what) in [("requests", "resource requests"), ("limits", "resource limits")] {
        let (after, before) = (resources.child(field), tree::at(old, "/resources").get(field));
        let before = before.unwrap_or(&Value::Null);
        if tree::entries(before, "").any(|(name, _)| !after.has(&format!("/{}", pointer_part(name)))) {
            errors.push(after.forbidden(format!("{what} cannot be removed")));
        }
        let others = |amounts: &Value| -> Vec<(String, Option<Quantity>)> {
            let kept = tree::entries(amounts, "").filter(|(name, _)| !matches!(*name, "cpu" | "memory"));
            kept.map(|(name, amount)| (name.to_owned(), tree::scalar(amount).parse().ok())).collect()
        };
        if others(after.value()) != others(before) {
            let at = if is_init { new } else { spec };
            errors.push(at.forbidden(match is_init {
                true => "only cpu and memory resources for init or sidecar containers are mutable",
                false => ONLY_CPU_AND_MEMORY,
            }));
        }
    }
    let claims = |of: &Value| tree::at(of, "/claims").clone();
    if claims(new.at("/resources")) != claims(tree::at(old, "/resources")) {
        errors.push(spec.forbidden(ONLY_CPU_AND_MEMORY));
    }
    if tree::at(old, "/resizePolicy") != new.at("/resizePolicy") {
        errors.push(spec.forbidden(ONLY_CPU_AND_MEMORY));
    }
}

/// A name as a part of a JSON pointer (RFC 6901 §3).
fn pointer_part(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
