//! Pod Security Standards: what pods of a namespace may ask of their node, by the labels of the namespace.
//!
//! A pod that breaks the enforced level is refused; the level to warn of is told, and that to audit written down, also of
//! whatever makes pods. The newest form of the standards counts, whatever version a label names.
//! Source: Kubernetes' admission plugin PodSecurity and its policy checks.

use std::collections::BTreeSet;

use serde_json::Value;
use wharf_api::{defaults, meta, selector::Labels, status::Status};

use super::{Attributes, Operation};
use crate::{ApiServer, Context, audit};

const LABEL: &str = "pod-security.kubernetes.io/";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn of(labels: &Labels, mode: &str) -> Self {
        match labels.get(&format!("{LABEL}{mode}")).map(String::as_str) {
            Some("baseline") => Self::Baseline,
            None | Some("privileged" | "") => Self::Privileged,
            // One that is not known is taken for the strictest.
            Some(_) => Self::Restricted,
        }
    }

    fn shown(self, labels: &Labels, mode: &str) -> String {
        let version = labels.get(&format!("{LABEL}{mode}-version")).map_or("latest", String::as_str);
        let level = match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        };
        format!("\"{level}:{version}\"")
    }
}

pub(super) fn check(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let gvk = &attributes.resource.gvk;
    let is_pod = gvk.group.is_empty() && attributes.resource.plural == "pods";
    let place = defaults::pod_spec(&gvk.group, &gvk.version, &gvk.kind);
    let judged = matches!(attributes.subresource, "" | "ephemeralcontainers");
    let Some(pointer) = place.filter(|_| judged) else { return Ok(()) };
    let Some(namespace) = server.storage.get("namespaces", &format!("/{}", attributes.namespace)) else {
        return Ok(());
    };
    let (labels, spec) = (&namespace.labels, object.pointer(pointer).unwrap_or(&Value::Null));
    let is_news = attributes.operation == Operation::Create
        || attributes.old.and_then(|old| old.pointer(pointer)) != Some(spec);
    let [enforced, audited, warned] = ["enforce", "audit", "warn"].map(|mode| Level::of(labels, mode));
    if !is_news || [enforced, audited, warned] == [Level::Privileged; 3] {
        return Ok(());
    }
    audit::note(|record| note(record, labels, spec, is_pod, (enforced, audited)));
    if is_pod {
        let broken = violations(spec, enforced);
        if !broken.is_empty() {
            let (name, shown) = (meta::name(object), enforced.shown(labels, "enforce"));
            let why = broken.join(", ");
            return Err(Status::forbidden(format!(
                "pods {name:?} is forbidden: violates PodSecurity {shown}: {why}"
            ))
            .about("pods", name));
        }
    }
    let broken = violations(spec, warned);
    if !broken.is_empty() {
        let shown = warned.shown(labels, "warn");
        context.warnings.push(format!("would violate PodSecurity {shown}: {}", broken.join(", ")));
    }
    Ok(())
}

/// What the audit log says of a pod.
fn note(
    record: &mut audit::Record,
    labels: &Labels,
    spec: &Value,
    is_pod: bool,
    (enforced, audited): (Level, Level),
) {
    if is_pod {
        let policy = enforced.shown(labels, "enforce").replace('"', "");
        record.annotate("pod-security.kubernetes.io/enforce-policy", policy);
    }
    let broken = violations(spec, audited);
    if !broken.is_empty() {
        let shown = audited.shown(labels, "audit");
        let text = format!("would violate PodSecurity {shown}: {}", broken.join(", "));
        record.annotate("pod-security.kubernetes.io/audit-violations", text);
    }
}

fn plural(word: &str, many: usize) -> String {
    if many == 1 { word.to_owned() } else { format!("{word}s") }
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
fn listed<T: AsRef<str>>(word: &str, names: &[T]) -> String {
    format!("{} {}", plural(word, names.len()), quoted(names))
}

struct Spec<'a> {
    spec: &'a Value,
    containers: Vec<&'a Value>,
}

impl<'a> Spec<'a> {
    fn named(&self, wanted: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let chosen = self.containers.iter().filter(|container| wanted(container));
        chosen.map(|container| container["name"].as_str().unwrap_or_default()).collect()
    }

    /// Who sets something, the pod or containers: `pod and containers "a", "b"`.
    fn setters(&self, pod: bool, containers: &[&str]) -> Option<String> {
        let mut who = Vec::new();
        if pod {
            who.push("pod".to_owned());
        }
        if !containers.is_empty() {
            who.push(listed("container", containers));
        }
        (!who.is_empty()).then(|| who.join(" and "))
    }

    fn volumes(&self) -> impl Iterator<Item = &'a Value> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }
}

fn violations(spec: &Value, level: Level) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let containers = lists.iter().flat_map(|list| spec[*list].as_array().into_iter().flatten()).collect();
    let spec = Spec { spec, containers };
    let restricted = level == Level::Restricted;
    let mut checks: Vec<fn(&Spec<'_>) -> Option<String>> = Vec::new();
    if restricted {
        checks.extend([escalation as fn(&Spec<'_>) -> Option<String>, capabilities_dropped]);
    } else {
        checks.push(capabilities_added);
    }
    checks.extend([
        app_armor as fn(&Spec<'_>) -> Option<String>,
        host_namespaces,
        host_paths,
        host_ports,
        probed_hosts,
        privileged,
        proc_mount,
    ]);
    if restricted {
        checks.extend([volume_types as fn(&Spec<'_>) -> Option<String>, non_root, user_zero, seccomp_set]);
    } else {
        checks.push(seccomp_unset);
    }
    checks.extend([se_linux as fn(&Spec<'_>) -> Option<String>, sysctls, windows]);
    checks.into_iter().filter_map(|check| check(&spec)).collect()
}

fn privileged(spec: &Spec<'_>) -> Option<String> {
    let bad = spec.named(|c| c["securityContext"]["privileged"] == true);
    (!bad.is_empty()).then(|| {
        format!("privileged ({} must not set securityContext.privileged=true)", listed("container", &bad))
    })
}

fn host_namespaces(spec: &Spec<'_>) -> Option<String> {
    let set = ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|name| spec.spec[**name] == true);
    let set: Vec<String> = set.map(|name| format!("{name}=true")).collect();
    (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
}

fn host_paths(spec: &Spec<'_>) -> Option<String> {
    let bad = spec.volumes().filter(|volume| volume["hostPath"].is_object());
    let bad: Vec<&str> = bad.map(|volume| volume["name"].as_str().unwrap_or_default()).collect();
    (!bad.is_empty()).then(|| format!("hostPath volumes ({})", listed("volume", &bad)))
}

fn host_ports(spec: &Spec<'_>) -> Option<String> {
    let ports = |c: &Value| -> Vec<u64> {
        let all = c["ports"].as_array().into_iter().flatten();
        all.filter_map(|port| port["hostPort"].as_u64()).filter(|port| *port != 0).collect()
    };
    let bad = spec.named(|c| !ports(c).is_empty());
    let used: BTreeSet<u64> = spec.containers.iter().flat_map(|c| ports(c)).collect();
    (!bad.is_empty()).then(|| {
        let (verb, word) = (if bad.len() == 1 { "uses" } else { "use" }, plural("hostPort", used.len()));
        let used: Vec<String> = used.iter().map(u64::to_string).collect();
        format!("hostPort ({} {verb} {word} {})", listed("container", &bad), used.join(", "))
    })
}

fn probed_hosts(spec: &Spec<'_>) -> Option<String> {
    let hosts = |c: &Value| -> Vec<String> {
        let places =
            ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle/postStart", "lifecycle/preStop"];
        let handlers = places.iter().filter_map(|place| c.pointer(&format!("/{place}")));
        let asked = handlers.flat_map(|h| ["httpGet", "tcpSocket"].map(|kind| h[kind]["host"].as_str()));
        asked.flatten().filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let bad = spec.named(|c| !hosts(c).is_empty());
    let used: BTreeSet<String> = spec.containers.iter().flat_map(|c| hosts(c)).collect();
    (!bad.is_empty()).then(|| {
        let (verb, word) = (if bad.len() == 1 { "uses" } else { "use" }, plural("host", used.len()));
        format!("probe or lifecycle host ({} {verb} {word} {})", listed("container", &bad), quoted(&used))
    })
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added(container: &Value, allowed: &[&str]) -> Vec<String> {
    let list = container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).filter(|name| !allowed.contains(name)).map(str::to_owned).collect()
}

fn capabilities(spec: &Spec<'_>, allowed: &[&str]) -> Option<String> {
    let bad = spec.named(|c| !added(c, allowed).is_empty());
    let names: BTreeSet<String> = spec.containers.iter().flat_map(|c| added(c, allowed)).collect();
    (!bad.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            listed("container", &bad),
            quoted(&names)
        )
    })
}

fn capabilities_added(spec: &Spec<'_>) -> Option<String> {
    capabilities(spec, &DEFAULT_CAPABILITIES).map(|why| format!("non-default capabilities ({why})"))
}

fn capabilities_dropped(spec: &Spec<'_>) -> Option<String> {
    let drops_all = |c: &Value| {
        let list = c["securityContext"]["capabilities"]["drop"].as_array().into_iter().flatten();
        list.into_iter().any(|name| name == "ALL")
    };
    let bad = spec.named(|c| !drops_all(c));
    let keeps = (!bad.is_empty()).then(|| {
        format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", listed("container", &bad))
    });
    let why: Vec<String> = keeps.into_iter().chain(capabilities(spec, &["NET_BIND_SERVICE"])).collect();
    (!why.is_empty()).then(|| format!("unrestricted capabilities ({})", why.join("; ")))
}

fn escalation(spec: &Spec<'_>) -> Option<String> {
    let bad = spec.named(|c| c["securityContext"]["allowPrivilegeEscalation"] != false);
    (!bad.is_empty()).then(|| {
        format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
            listed("container", &bad)
        )
    })
}

/// Who sets a field to a value that is not allowed, and these values.
fn set<'a>(spec: &Spec<'a>, path: &str, bad: impl Fn(&str) -> bool) -> Option<(String, String)> {
    let read = |holder: &'a Value| holder.pointer(path).and_then(Value::as_str).filter(|value| bad(value));
    let pod = read(spec.spec);
    let containers = spec.named(|c| c.pointer(path).and_then(Value::as_str).is_some_and(&bad));
    let who = spec.setters(pod.is_some(), &containers)?;
    let values: BTreeSet<&str> =
        pod.into_iter().chain(spec.containers.iter().filter_map(|c| read(c))).collect();
    Some((who, quoted(values)))
}

fn app_armor(spec: &Spec<'_>) -> Option<String> {
    let (who, values) = set(spec, "/securityContext/appArmorProfile/type", |kind| {
        !matches!(kind, "RuntimeDefault" | "Localhost")
    })?;
    Some(format!("forbidden AppArmor profile ({who} must not set AppArmor profile type to {values})"))
}

fn proc_mount(spec: &Spec<'_>) -> Option<String> {
    let other =
        |c: &Value| c["securityContext"]["procMount"].as_str().is_some_and(|mount| mount != "Default");
    // In a user namespace of its own a pod may see its own.
    let bad = if spec.spec["hostUsers"] == false { Vec::new() } else { spec.named(other) };
    let values: BTreeSet<&str> = spec
        .containers
        .iter()
        .filter_map(|c| c["securityContext"]["procMount"].as_str())
        .filter(|m| *m != "Default")
        .collect();
    (!bad.is_empty()).then(|| {
        format!(
            "procMount ({} must not set securityContext.procMount to {})",
            listed("container", &bad),
            quoted(values)
        )
    })
}

fn volume_types(spec: &Spec<'_>) -> Option<String> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let kind = |volume: &Value| -> Option<String> {
        let mut kinds =
            volume.as_object()?.iter().filter(|(name, value)| *name != "name" && !value.is_null());
        kinds.next().map(|(name, _)| name.clone()).filter(|name| !ALLOWED.contains(&name.as_str()))
    };
    let bad: Vec<&Value> = spec.volumes().filter(|volume| kind(volume).is_some()).collect();
    let names: Vec<&str> = bad.iter().map(|volume| volume["name"].as_str().unwrap_or_default()).collect();
    let kinds: BTreeSet<String> = bad.iter().filter_map(|volume| kind(volume)).collect();
    (!bad.is_empty()).then(|| {
        let (verb, word) =
            (if bad.len() == 1 { "uses" } else { "use" }, plural("restricted volume type", kinds.len()));
        format!("restricted volume types ({} {verb} {word} {})", listed("volume", &names), quoted(&kinds))
    })
}

fn non_root(spec: &Spec<'_>) -> Option<String> {
    let own = |c: &Value| c["securityContext"]["runAsNonRoot"].as_bool();
    let pod = own(spec.spec);
    let bad = spec.named(|c| own(c) == Some(false));
    if let Some(who) = spec.setters(pod == Some(false), &bad) {
        return Some(format!("runAsNonRoot != true ({who} must not set securityContext.runAsNonRoot=false)"));
    }
    let open = if pod == Some(true) { Vec::new() } else { spec.named(|c| own(c).is_none()) };
    (!open.is_empty()).then(|| {
        let who = listed("container", &open);
        format!("runAsNonRoot != true (pod or {who} must set securityContext.runAsNonRoot=true)")
    })
}

fn user_zero(spec: &Spec<'_>) -> Option<String> {
    let zero = |c: &Value| c["securityContext"]["runAsUser"] == 0;
    let who = spec.setters(zero(spec.spec), &spec.named(zero))?;
    Some(format!("runAsUser=0 ({who} must not set runAsUser=0)"))
}

const SECCOMP: &str = "/securityContext/seccompProfile/type";

fn seccomp_unset(spec: &Spec<'_>) -> Option<String> {
    let (who, values) = set(spec, SECCOMP, |kind| !matches!(kind, "RuntimeDefault" | "Localhost"))?;
    Some(format!("seccompProfile ({who} must not set securityContext.seccompProfile.type to {values})"))
}

fn seccomp_set(spec: &Spec<'_>) -> Option<String> {
    if let Some(broken) = seccomp_unset(spec) {
        return Some(broken);
    }
    let has = |holder: &Value| holder.pointer(SECCOMP).is_some_and(Value::is_string);
    let open = if has(spec.spec) { Vec::new() } else { spec.named(|c| !has(c)) };
    (!open.is_empty()).then(|| {
        let who = listed("container", &open);
        format!(
            "seccompProfile (pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
        )
    })
}

fn se_linux(spec: &Spec<'_>) -> Option<String> {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let options = |holder: &Value| holder["securityContext"]["seLinuxOptions"].clone();
    let text = |options: &Value, name: &str| options[name].as_str().unwrap_or_default().to_owned();
    let bad = |holder: &Value| {
        let options = options(holder);
        !TYPES.contains(&text(&options, "type").as_str())
            || !text(&options, "user").is_empty()
            || !text(&options, "role").is_empty()
    };
    let who = spec.setters(bad(spec.spec), &spec.named(bad))?;
    let all: Vec<Value> =
        std::iter::once(spec.spec).chain(spec.containers.iter().copied()).map(options).collect();
    let types: BTreeSet<String> =
        all.iter().map(|o| text(o, "type")).filter(|t| !TYPES.contains(&t.as_str())).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    for name in ["user", "role"] {
        if all.iter().any(|o| !text(o, name).is_empty()) {
            data.push(format!("{name} may not be set"));
        }
    }
    Some(format!("seLinuxOptions ({who} set forbidden securityContext.seLinuxOptions: {})", data.join("; ")))
}

fn sysctls(spec: &Spec<'_>) -> Option<String> {
    const ALLOWED: [&str; 12] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_rmem",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.tcp_wmem",
    ];
    let list = spec.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let names = list.filter_map(|sysctl| sysctl["name"].as_str());
    let bad: Vec<&str> = names.filter(|name| !ALLOWED.contains(name)).collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn windows(spec: &Spec<'_>) -> Option<String> {
    let set = |holder: &Value| holder["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = spec.setters(set(spec.spec), &spec.named(set))?;
    Some(format!("hostProcess ({who} must not set securityContext.windowsOptions.hostProcess=true)"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plain_pod_is_of_the_baseline() {
        let pod = json!({"containers": [{"name": "c", "image": "i"}]});
        assert_eq!(violations(&pod, Level::Baseline), [""; 0]);
        assert_eq!(
            violations(&pod, Level::Restricted),
            [
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
    }

    #[test]
    fn what_reaches_for_the_node_is_told() {
        let pod = json!({"hostNetwork": true, "hostPID": true,
            "securityContext": {"seccompProfile": {"type": "Unconfined"}, "sysctls": [{"name": "kernel.msgmax", "value": "1"}]},
            "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
            "containers": [
                {"name": "a", "ports": [{"hostPort": 80}], "securityContext": {"privileged": true, "procMount": "Unmasked",
                    "capabilities": {"add": ["NET_ADMIN", "KILL"]}, "seLinuxOptions": {"type": "x", "user": "u"}}},
                {"name": "b", "livenessProbe": {"httpGet": {"host": "h"}}, "securityContext": {"privileged": true}}]});
        assert_eq!(
            violations(&pod, Level::Baseline),
            [
                "non-default capabilities (container \"a\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
                "host namespaces (hostNetwork=true, hostPID=true)",
                "hostPath volumes (volume \"v\")",
                "hostPort (container \"a\" uses hostPort 80)",
                "probe or lifecycle host (container \"b\" uses host \"h\")",
                "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
                "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
                "forbidden sysctls (kernel.msgmax)",
            ]
        );
    }

    #[test]
    fn a_careful_pod_is_of_the_restricted_level() {
        let pod = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "securityContext":
                {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
        assert_eq!(violations(&pod, Level::Restricted), [""; 0]);
    }
}
