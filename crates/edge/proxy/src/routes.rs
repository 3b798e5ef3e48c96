//! From host and path to a Service, as Ingresses say.
//!
//! The most specific host is looked at first: the exact one, then a wildcard over one label, then rules without a host.
//! In each, the path with the most elements wins, and `Exact` before `Prefix`. What no path matches goes to the default
//! backend of an Ingress that names the host, then to any default backend. Where two Ingresses claim the same, the older
//! one has it, as its traffic must not be taken away by a newcomer.

use std::{collections::HashMap, sync::Arc};

use crate::objects::{BackendPort, Ingress, IngressBackend, IngressClass, World};

/// What an IngressClass of this proxy names as its controller.
pub const CONTROLLER: &str = "wharf.dev/ingress";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Annotations that make other controllers do something.
const FOREIGN_ANNOTATIONS: [&str; 5] = [
    "nginx.ingress.kubernetes.io/",
    "traefik.ingress.kubernetes.io/",
    "haproxy",
    "alb.ingress.kubernetes.io/",
    "konghq.com/",
];

/// A port of a Service, as an Ingress names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortRef {
    /// By number.
    Number(i64),
    /// By name.
    Name(Arc<str>),
}

/// A Service and its port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Its port.
    pub port: PortRef,
}

/// Something of an Ingress that is not honoured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Warning {
    /// Namespace of the Ingress.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What, where, and what to do.
    pub message: String,
}

impl Warning {
    pub(crate) fn about(ingress: &Ingress, message: String) -> Self {
        let meta = &ingress.metadata;
        Self { namespace: meta.namespace.clone(), name: meta.name.clone(), uid: meta.uid.clone(), message }
    }
}

/// Which Service gets a request.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    exact: HashMap<String, Host>,
    /// By what follows the star and its dot.
    wildcard: HashMap<String, Host>,
    any: Host,
    default: Option<BackendKey>,
}

#[derive(Debug, Default)]
struct Host {
    exact: HashMap<String, BackendKey>,
    /// Without the slash at the end; `/` is the empty text.
    prefix: HashMap<String, BackendKey>,
    default: Option<BackendKey>,
}

impl Host {
    fn find(&self, path: &str) -> Option<&BackendKey> {
        if let Some(key) = self.exact.get(path) {
            return Some(key);
        }
        let mut rest = path.strip_suffix('/').unwrap_or(path);
        loop {
            if let Some(key) = self.prefix.get(rest) {
                return Some(key);
            }
            rest = &rest[..rest.rfind('/')?];
        }
    }

    fn keys(&self) -> impl Iterator<Item = &BackendKey> {
        self.exact.values().chain(self.prefix.values()).chain(&self.default)
    }
}

impl Routes {
    /// The Service for a request. `host` is in lower case and without a port; `path` has no query.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&BackendKey> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let exact = self.exact.get(host);
        let wildcard = host.split_once('.').and_then(|(_, rest)| self.wildcard.get(rest));
        let hosts = [exact, wildcard, Some(&self.any)];
        let by_path = hosts.iter().flatten().find_map(|host| host.find(path));
        let by_host = || hosts.iter().flatten().find_map(|host| host.default.as_ref());
        by_path.or_else(by_host).or(self.default.as_ref())
    }

    /// Every Service that may get a request; some more than once.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &BackendKey> {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain([&self.any]);
        hosts.flat_map(Host::keys).chain(&self.default)
    }

    fn host(&mut self, name: &str) -> &mut Host {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.entry(rest.to_owned()).or_default(),
            None if name.is_empty() => &mut self.any,
            None => self.exact.entry(name).or_default(),
        }
    }
}

/// The Ingresses that are this proxy's, oldest first, and what is odd about them.
pub(crate) fn served(world: &World) -> (Vec<&Ingress>, Vec<Warning>) {
    let mut warnings = Vec::new();
    let mut ours: Vec<_> =
        world.ingresses.values().filter(|ingress| is_ours(ingress, world, &mut warnings)).collect();
    ours.sort_by_key(|i| (i.metadata.creation_timestamp, &i.metadata.namespace, &i.metadata.name));
    (ours, warnings)
}

fn is_ours(ingress: &Ingress, world: &World, warnings: &mut Vec<Warning>) -> bool {
    let annotated = ingress.metadata.annotations.get(CLASS_ANNOTATION);
    let Some(class) = ingress.spec.ingress_class_name.as_ref().or(annotated) else {
        let default = |class: &&IngressClass| {
            class.metadata.annotations.get(DEFAULT_CLASS).is_some_and(|value| value == "true")
        };
        return world.classes.values().find(default).is_none_or(|class| class.spec.controller == CONTROLLER);
    };
    match world.classes.get(&format!("/{class}")) {
        Some(class) => class.spec.controller == CONTROLLER,
        None => {
            if class != "wharf" {
                let message = format!("there is no IngressClass '{class}'; wharf serves this Ingress");
                warnings.push(Warning::about(ingress, message));
            }
            true
        }
    }
}

/// The routes of these Ingresses, oldest first.
pub(crate) fn routes_of(ingresses: &[&Ingress], warnings: &mut Vec<Warning>) -> Routes {
    let mut routes = Routes::default();
    for ingress in ingresses {
        let mut warn = |message: String| warnings.push(Warning::about(ingress, message));
        for name in ingress.metadata.annotations.keys() {
            if FOREIGN_ANNOTATIONS.iter().any(|foreign| name.starts_with(foreign)) {
                warn(format!("metadata.annotations[{name}] is for another controller and has no effect"));
            }
        }
        add(&mut routes, ingress, &mut warn);
    }
    routes
}

fn add(routes: &mut Routes, ingress: &Ingress, warn: &mut dyn FnMut(String)) {
    let default = ingress.spec.default_backend.as_ref();
    let default = default.and_then(|b| key_of(ingress, b, "spec.defaultBackend", warn));
    for (at, rule) in ingress.spec.rules.iter().enumerate() {
        let host = routes.host(&rule.host);
        if !rule.host.is_empty() && host.default.is_none() {
            host.default.clone_from(&default);
        }
        if rule.http.paths.is_empty() && host.default.is_none() && default.is_none() {
            warn(format!(
                "spec.rules[{at}] has no paths and there is no spec.defaultBackend: it serves nothing"
            ));
        }
        for (number, path) in rule.http.paths.iter().enumerate() {
            let field = format!("spec.rules[{at}].http.paths[{number}]");
            let Some(key) = key_of(ingress, &path.backend, &field, warn) else { continue };
            let (paths, text) = match path.path_type.as_str() {
                "Exact" => (&mut host.exact, path.path.clone()),
                kind => {
                    if kind == "ImplementationSpecific" && path.path.contains(['*', '(', '[', '$', '^']) {
                        let text = &path.path;
                        warn(format!("{field}.path '{text}' is taken as a plain prefix, not as a pattern"));
                    }
                    (&mut host.prefix, path.path.strip_suffix('/').unwrap_or(&path.path).to_owned())
                }
            };
            if let Some(other) = paths.get(&text) {
                if *other != key {
                    let (service, namespace) = (&other.service, &other.namespace);
                    warn(format!(
                        "{field}: host '{}' and path '{}' go to service {namespace}/{service} already, by an older rule",
                        rule.host, path.path
                    ));
                }
                continue;
            }
            paths.insert(text, key);
        }
    }
    match (&routes.default, default) {
        (Some(other), Some(key)) if *other != key => {
            let (service, namespace) = (&other.service, &other.namespace);
            if ingress.spec.rules.iter().all(|rule| rule.host.is_empty()) {
                warn(format!(
                    "spec.defaultBackend: requests without a rule go to service {namespace}/{service} already"
                ));
            }
        }
        (None, default) => routes.default = default,
        _ => {}
    }
}

fn key_of(
    ingress: &Ingress,
    backend: &IngressBackend,
    field: &str,
    warn: &mut dyn FnMut(String),
) -> Option<BackendKey> {
    let Some(service) = &backend.service else {
        warn(format!("{field}: a resource backend is not supported; name a service"));
        return None;
    };
    let BackendPort { name, number } = &service.port;
    Some(BackendKey {
        namespace: ingress.metadata.namespace.as_str().into(),
        service: service.name.as_str().into(),
        port: if name.is_empty() { PortRef::Number(*number) } else { PortRef::Name(name.as_str().into()) },
    })
}
