//! A container's environment: values, references to other objects, and `$(NAME)` in texts.

use std::{collections::BTreeMap, net::IpAddr};

use wharf_base::Quantity;
use wharf_client::{Client, ListParams, action::SERVICES};
use wharf_control::service::Service;

use crate::{
    config::NodeConfig,
    machine::Machine,
    model::{Amounts, Container, EnvVar, KeyRef, Pod, ResourceRef, SourceRef},
    service_env,
    step::Reason,
    watches::{Kind, Objects},
};

/// Names and values in the order they were set; a later value of the same name replaces the earlier.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env(Vec<(String, String)>);

impl Env {
    fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As the kernel takes it: `NAME=value`.
    pub(crate) fn into_settings(self) -> impl Iterator<Item = String> {
        self.0.into_iter().map(|(name, value)| format!("{name}={value}"))
    }
}

/// Replaces `$(NAME)` by its value; `$$` stands for `$`, and names that are not set stay as they are.
pub(crate) fn expand(text: &str, env: &Env) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let after = from.get(1..).unwrap_or_default();
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        match after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            Some((name, tail)) => {
                match env.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = tail;
            }
            None => {
                out.push('$');
                rest = after;
            }
        }
    }
    out + rest
}

/// What the values of a pod's fields are taken from.
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) host_ip: IpAddr,
    pub(crate) machine: &'a Machine,
}

impl Facts<'_> {
    /// The value of a pod's field (`metadata.name`, `metadata.labels['x']`, …); nothing when it is not one that can be had.
    pub(crate) fn field(&self, path: &str) -> Option<String> {
        let metadata = &self.pod.metadata;
        let ip = || self.ip.map(|ip| ip.to_string()).unwrap_or_default();
        Some(match path {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => metadata.namespace.clone(),
            "metadata.uid" => metadata.uid.clone(),
            "metadata.labels" => lines(&metadata.labels),
            "metadata.annotations" => lines(&metadata.annotations),
            "spec.nodeName" => self.pod.spec.node_name.clone(),
            "spec.serviceAccountName" => self.pod.spec.service_account_name.clone(),
            "status.hostIP" | "status.hostIPs" => self.host_ip.to_string(),
            "status.podIP" | "status.podIPs" => ip(),
            other => {
                let (map, rest) = match other.strip_prefix("metadata.labels[") {
                    Some(rest) => (&metadata.labels, rest),
                    None => (&metadata.annotations, other.strip_prefix("metadata.annotations[")?),
                };
                let key = rest.strip_suffix(']')?.trim_matches(['\'', '"']);
                map.get(key).cloned().unwrap_or_default()
            }
        })
    }

    /// The value of a container's resource, in units of the divisor, rounded up.
    pub(crate) fn resource(&self, wanted: &ResourceRef, own: Option<&Container>) -> Result<String, Reason> {
        let container = match wanted.container_name.as_str() {
            "" => own,
            name => self.pod.container(name),
        };
        let container = container
            .ok_or_else(|| config_error(format!("container {:?} not found", wanted.container_name)))?;
        let (list, name) = wanted.resource.split_once('.').unwrap_or(("", wanted.resource.as_str()));
        let amounts: &Amounts = match list {
            "limits" => &container.resources.limits,
            "requests" => &container.resources.requests,
            _ => return Err(config_error(format!("unsupported container resource: {}", wanted.resource))),
        };
        let whole = match (name, list) {
            ("cpu", "limits") => Quantity::from_units(self.machine.cpus),
            ("memory", "limits") => Quantity::from_bytes(self.machine.memory),
            ("ephemeral-storage", "limits") => Quantity::from_bytes(self.machine.disk),
            _ => Quantity::ZERO,
        };
        let amount = amounts.get(name).copied().unwrap_or(whole).nanos();
        let unit =
            wanted.divisor.filter(|divisor| *divisor > Quantity::ZERO).unwrap_or(Quantity::from_units(1));
        let unit = unit.nanos().max(1);
        Ok(((amount + unit - 1) / unit).to_string())
    }
}

/// Labels or annotations as the downward API's files show them.
fn lines(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// What keeps a container from being described.
pub(crate) fn config_error(message: impl Into<String>) -> Reason {
    Reason::new("CreateContainerConfigError", message)
}

/// Resolves a container's environment. The platform's own variables come first, so that texts may refer to them.
pub(crate) async fn resolve(
    config: &NodeConfig,
    objects: &Objects,
    facts: &Facts<'_>,
    container: &Container,
) -> Result<Env, Reason> {
    let namespace = &facts.pod.metadata.namespace;
    let mut env = Env::default();
    if facts.pod.spec.enable_service_links != Some(false) {
        for (name, value) in service_variables(&config.client, namespace).await? {
            env.set(&name, value);
        }
    }
    for (name, value) in api_variables(config) {
        env.set(name, value);
    }
    for source in &container.env_from {
        let refs = [(Kind::ConfigMap, &source.config_map_ref), (Kind::Secret, &source.secret_ref)];
        for (kind, wanted) in refs {
            let Some(SourceRef { name, optional }) = wanted else { continue };
            match objects.content(kind, namespace, name).await? {
                Some(content) => {
                    for (key, value) in content {
                        env.set(&format!("{}{key}", source.prefix), text(value, kind, name, &key)?);
                    }
                }
                None if *optional => {}
                None => return Err(missing(kind, name)),
            }
        }
    }
    for var in &container.env {
        if let Some(value) = value(objects, facts, container, var, &env).await? {
            env.set(&var.name, value);
        }
    }
    Ok(env)
}

async fn value(
    objects: &Objects,
    facts: &Facts<'_>,
    container: &Container,
    var: &EnvVar,
    env: &Env,
) -> Result<Option<String>, Reason> {
    let Some(source) = &var.value_from else { return Ok(Some(expand(&var.value, env))) };
    if let Some(key) = &source.config_map_key_ref {
        return from_key(objects, facts, Kind::ConfigMap, key).await;
    }
    if let Some(key) = &source.secret_key_ref {
        return from_key(objects, facts, Kind::Secret, key).await;
    }
    if let Some(field) = &source.field_ref {
        let found = facts.field(&field.field_path);
        return found.map(Some).ok_or_else(|| {
            config_error(format!("unsupported field {:?} in env {}", field.field_path, var.name))
        });
    }
    if let Some(resource) = &source.resource_field_ref {
        return facts.resource(resource, Some(container)).map(Some);
    }
    Err(config_error(format!("env {}: this kind of valueFrom is not supported", var.name)))
}

async fn from_key(
    objects: &Objects,
    facts: &Facts<'_>,
    kind: Kind,
    key: &KeyRef,
) -> Result<Option<String>, Reason> {
    let content = objects.content(kind, &facts.pod.metadata.namespace, &key.name).await?;
    let Some(mut content) = content else {
        return if key.optional { Ok(None) } else { Err(missing(kind, &key.name)) };
    };
    match content.remove(&key.key) {
        Some(value) => text(value, kind, &key.name, &key.key).map(Some),
        None if key.optional => Ok(None),
        None => Err(config_error(format!("couldn't find key {} in {} {}", key.key, kind.word(), key.name))),
    }
}

fn text(value: Vec<u8>, kind: Kind, name: &str, key: &str) -> Result<String, Reason> {
    let bad = |what| config_error(format!("key {key} of {} {name} {what}", kind.word()));
    let text = String::from_utf8(value).map_err(|_| bad("is not text: mount it as a file"))?;
    if text.contains('\0') { Err(bad("has a NUL byte")) } else { Ok(text) }
}

pub(crate) fn missing(kind: Kind, name: &str) -> Reason {
    config_error(format!("{} {name:?} not found", kind.word()))
}

/// Where programs find the API, as every pod is told.
fn api_variables(config: &NodeConfig) -> [(&'static str, String); 8] {
    let (host, port) = (config.api_address.ip(), config.api_address.port());
    [
        ("KUBERNETES_SERVICE_HOST", host.to_string()),
        ("KUBERNETES_SERVICE_PORT", port.to_string()),
        ("KUBERNETES_SERVICE_PORT_HTTPS", port.to_string()),
        ("KUBERNETES_PORT", format!("tcp://{}", config.api_address)),
        ("KUBERNETES_PORT_443_TCP", format!("tcp://{}", config.api_address)),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp".to_owned()),
        ("KUBERNETES_PORT_443_TCP_PORT", port.to_string()),
        ("KUBERNETES_PORT_443_TCP_ADDR", host.to_string()),
    ]
}

/// What every container is told of the Services that are there when it starts.
async fn service_variables(client: &Client, namespace: &str) -> Result<Vec<(String, String)>, Reason> {
    let listed = client.list(&SERVICES, &ListParams::namespace(namespace)).await;
    let listed = listed.map_err(|error| config_error(format!("the Services cannot be listed: {error}")))?;
    let services: Vec<Service> =
        listed.items.iter().filter_map(|item| wharf_control::read(item).ok()).collect();
    Ok(service_env::variables(&services))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_kubernetes_does() {
        let mut env = Env::default();
        env.set("A", "one".into());
        env.set("E", String::new());
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$(A)-$(A)", "one-one"),
            ("$(E)x", "x"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$one"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("cost $", "cost $"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }

    #[test]
    fn fields_of_a_pod() {
        let pod = Pod::read(&serde_json::json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a/b": "c"}},
            "spec": {"nodeName": "node", "containers": [{"name": "x", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let machine = Machine { cpus: 4, memory: 1 << 30, ..Machine::default() };
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let facts = Facts { pod: &pod, ip: Some(ip), host_ip: ip, machine: &machine };
        for (path, expected) in [
            ("metadata.name", Some("p")),
            ("metadata.labels['a/b']", Some("c")),
            ("metadata.labels['z']", Some("")),
            ("metadata.labels", Some("a/b=\"c\"")),
            ("status.podIP", Some("10.0.0.1")),
            ("spec.other", None),
        ] {
            assert_eq!(facts.field(path).as_deref(), expected, "{path}");
        }
        for (resource, divisor, expected) in [
            ("limits.cpu", None, "2"),
            ("limits.cpu", Some("1m"), "1500"),
            ("limits.memory", Some("1Mi"), "64"),
            ("requests.memory", None, "0"),
            ("limits.ephemeral-storage", None, "0"),
        ] {
            let divisor = divisor.map(|divisor: &str| divisor.parse().unwrap());
            let wanted = ResourceRef { container_name: "x".into(), resource: resource.into(), divisor };
            assert_eq!(facts.resource(&wanted, None).unwrap(), expected, "{resource}");
        }
    }
}
