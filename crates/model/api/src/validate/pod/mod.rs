//! Pods: the spec, alone and in templates.

mod container;
mod doubtful;
mod env;
mod part;
mod probe;
mod update;
mod volume;

use super::field::{Errors, Field};
use super::{meta, names, values};

pub(super) use doubtful::warnings;
pub use part::MIRROR;
pub(super) use part::{resize, update_ephemeral};
pub(super) use update::update;

const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A pod, new or changed.
pub(super) fn always(root: &Field<'_>, errors: &mut Errors) {
    let pod_spec = root.child("spec");
    spec(&pod_spec, errors);
    if pod_spec.text_at("/serviceAccountName").is_empty() {
        volume::forbid_tokens(&pod_spec.child("volumes"), errors);
    }
}

/// A new pod.
pub(super) fn create(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let ephemeral = spec.child("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("cannot be set on create"));
    }
    if !spec.text_at("/nodeName").is_empty() && !spec.list_at("/schedulingGates").is_empty() {
        errors.push(
            spec.child("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"),
        );
    }
}

/// The template of the pods of a workload.
pub(super) fn template(template: &Field<'_>, errors: &mut Errors) {
    let metadata = template.child("metadata");
    let mut wrong = Errors::new();
    values::labels(&metadata.child("labels"), &mut wrong);
    meta::annotations(&metadata.child("annotations"), &mut wrong);
    // The paths leave out "metadata", as upstream's do.
    let [long, short] = [metadata.path(), template.path()];
    for error in &mut wrong {
        error.field = error.field.replacen(&long, &short, 1);
    }
    errors.append(&mut wrong);
    let pod_spec = template.child("spec");
    spec(&pod_spec, errors);
    let ephemeral = pod_spec.child("ephemeralContainers");
    if !ephemeral.is_empty() {
        errors.push(ephemeral.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// The spec of a pod.
fn spec(spec: &Field<'_>, errors: &mut Errors) {
    if !spec.has("/terminationGracePeriodSeconds") {
        errors.push(spec.child("terminationGracePeriodSeconds").required(""));
    }
    let volumes = volume::all(&spec.child("volumes"), errors);
    container::all(spec, &volumes, errors);
    policies(spec, errors);
    references(spec, errors);
    security_context(&spec.child("securityContext"), errors);
    values::labels(&spec.child("nodeSelector"), errors);
    values::in_range(&spec.child("activeDeadlineSeconds"), 1, i32::MAX.into(), errors);
    tolerations(&spec.child("tolerations"), errors);
    scheduling_gates(&spec.child("schedulingGates"), errors);
    for gate in spec.child("readinessGates").items() {
        values::named(&gate.child("conditionType"), names::qualified_name, errors);
    }
    topology(&spec.child("topologySpreadConstraints"), errors);
}

fn policies(spec: &Field<'_>, errors: &mut Errors) {
    values::one_of(&spec.child("restartPolicy"), &["Always", "OnFailure", "Never"], errors);
    let dns = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    values::one_of(&spec.child("dnsPolicy"), &dns, errors);
    if spec.text_at("/dnsPolicy") == "None" && spec.list_at("/dnsConfig/nameservers").is_empty() {
        let config = spec.child("dnsConfig");
        errors.push(if config.is_set() {
            config
                .child("nameservers")
                .required("must provide at least one DNS nameserver when `dnsPolicy` is None")
        } else {
            config.required("must provide `dnsConfig` when `dnsPolicy` is None")
        });
    }
    let preemption = ["PreemptLowerPriority", "Never"];
    values::optionally_one_of(&spec.child("preemptionPolicy"), &preemption, errors);
}

/// Names of other objects, and of the pod itself.
fn references(spec: &Field<'_>, errors: &mut Errors) {
    for name in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        values::optionally_named(&spec.child(name), names::dns_subdomain, errors);
    }
    for name in ["hostname", "subdomain"] {
        values::optionally_named(&spec.child(name), names::dns_label, errors);
    }
    for secret in spec.child("imagePullSecrets").items() {
        values::required_text(&secret.child("name"), errors);
    }
    for alias in spec.child("hostAliases").items() {
        for host in alias.child("hostnames").items() {
            values::named(&host, names::dns_subdomain, errors);
        }
        let ip = alias.child("ip");
        if ip.text().parse::<std::net::IpAddr>().is_err() {
            errors.push(ip.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
    }
}

fn security_context(context: &Field<'_>, errors: &mut Errors) {
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        values::in_range(&context.child(id), 0, i32::MAX.into(), errors);
    }
    for group in context.child("supplementalGroups").items() {
        values::in_range(&group, 0, i32::MAX.into(), errors);
    }
    let policies = ["Always", "OnRootMismatch"];
    values::optionally_one_of(&context.child("fsGroupChangePolicy"), &policies, errors);
    seccomp(&context.child("seccompProfile"), errors);
}

/// A seccomp profile; a local one has a path, others have none.
fn seccomp(profile: &Field<'_>, errors: &mut Errors) {
    if !profile.is_set() {
        return;
    }
    values::one_of(&profile.child("type"), &["Localhost", "RuntimeDefault", "Unconfined"], errors);
    let path = profile.child("localhostProfile");
    if profile.text_at("/type") == "Localhost" {
        if !path.is_set() {
            errors.push(path.required("must be set when seccomp type is Localhost"));
        }
    } else if path.is_set() {
        errors.push(path.invalid("can only be set when seccomp type is Localhost"));
    }
}

/// Tolerations of taints.
pub(super) fn tolerations(list: &Field<'_>, errors: &mut Errors) {
    for toleration in list.items() {
        let (key, operator) = (toleration.child("key"), toleration.child("operator"));
        values::optionally_named(&key, names::qualified_name, errors);
        if key.text().is_empty() && operator.text() != "Exists" {
            errors.push(operator.invalid(
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        let effect = toleration.child("effect");
        if toleration.has("/tolerationSeconds") && effect.text() != "NoExecute" {
            errors.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        toleration_value(&toleration, errors);
        if !effect.text().is_empty() {
            values::one_of(&effect, &TAINT_EFFECTS, errors);
        }
    }
}

fn toleration_value(toleration: &Field<'_>, errors: &mut Errors) {
    let (operator, value) = (toleration.child("operator"), toleration.text_at("/value"));
    match operator.text() {
        "" | "Equal" => {
            let wrong = names::label_value(value);
            if !wrong.is_empty() {
                errors.push(operator.invalid_as(value, wrong.join(";")));
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            errors.push(operator.invalid_as(value, "value must be empty when `operator` is 'Exists'"));
        }
        "Lt" | "Gt" => {
            if value.parse::<i64>().is_err() {
                let message = "must be a valid decimal integer in canonical form";
                errors.push(toleration.child("value").invalid(message));
            }
        }
        _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
    }
}

/// Taints of a node.
pub(super) fn taints(list: &Field<'_>, errors: &mut Errors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for taint in list.items() {
        values::named(&taint.child("key"), names::qualified_name, errors);
        values::optionally_named(&taint.child("value"), names::label_value, errors);
        values::one_of(&taint.child("effect"), &TAINT_EFFECTS, errors);
    }
    for (index, taint) in list.list_at("").iter().enumerate() {
        let text = |key: &str| taint.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
        let pair = (text("effect"), text("key"));
        if seen.contains(&pair) {
            if let Some(field) = list.items().nth(index) {
                let error = field.duplicate();
                let message = "taints must be unique by key and effect pair".to_owned();
                errors.push(super::FieldError { message, ..error });
            }
        } else {
            seen.push(pair);
        }
    }
}

fn scheduling_gates(gates: &Field<'_>, errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for gate in gates.items() {
        let name = gate.child("name");
        values::named(&name, names::qualified_name, errors);
        if seen.iter().any(|other| other == name.text()) {
            errors.push(gate.duplicate_as(name.text()));
        } else {
            seen.push(name.text().to_owned());
        }
    }
}

fn topology(constraints: &Field<'_>, errors: &mut Errors) {
    for constraint in constraints.items() {
        let skew = constraint.child("maxSkew");
        if skew.value().as_i64().unwrap_or_default() <= 0 {
            errors.push(skew.invalid_as(constraint.int_at("/maxSkew"), "must be greater than zero"));
        }
        let key = constraint.child("topologyKey");
        if key.text().is_empty() {
            errors.push(key.required("can not be empty"));
        } else {
            values::named(&key, names::qualified_name, errors);
        }
        let when = constraint.child("whenUnsatisfiable");
        if !matches!(when.text(), "DoNotSchedule" | "ScheduleAnyway") {
            errors.push(when.not_supported(&["DoNotSchedule", "ScheduleAnyway"]));
        }
        values::selector(&constraint.child("labelSelector"), errors);
    }
}
