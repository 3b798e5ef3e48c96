//! What the server changes and refuses beyond a kind's own rules: first everything that may change an object, then,
//! on the object as it will be stored, everything that may refuse it.
//!
//! Source: Kubernetes' admission chain and its built-in plugins.

mod certificates;
mod expressions;
mod limits;
mod matching;
mod node_restriction;
mod pod_security;
mod pods;
mod policies;
pub(crate) mod quota;
mod rbac;
mod runtime_class;
pub(crate) mod type_check;
mod webhooks;

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_api::{meta, resource::Resource, schema::Gvk, status::Status};

use crate::{ApiServer, Context, unheeded};

pub(crate) use policies::Policies;
pub(crate) use webhooks::Hooks;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Kinds that are stored and given out but that nothing acts on yet: whoever makes one is told.
const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    ("", "persistentvolumeclaims", "no volume is provisioned"),
    ("", "persistentvolumes", "no volume is bound"),
    ("networking.k8s.io", "networkpolicies", "traffic is not filtered"),
    ("node.k8s.io", "runtimeclasses", "every pod runs under the built-in runtime"),
    ("networking.k8s.io", "servicecidrs", "Services have their addresses from the network of `kubernetes`"),
    ("networking.k8s.io", "ipaddresses", "Services do not reserve their addresses by them"),
    ("resource.k8s.io", "deviceclasses", "devices are not allocated"),
    ("resource.k8s.io", "resourceclaims", "devices are not allocated"),
    ("resource.k8s.io", "resourceclaimtemplates", "devices are not allocated"),
    ("storage.k8s.io", "volumeattachments", "nothing attaches volumes"),
];

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }

    const fn options(self) -> Option<&'static str> {
        match self {
            Self::Create => Some("CreateOptions"),
            Self::Update => Some("UpdateOptions"),
            Self::Delete => Some("DeleteOptions"),
            Self::Connect => None,
        }
    }
}

/// A request as admission sees it.
pub(crate) struct Attributes<'a> {
    pub operation: Operation,
    pub resource: &'a Arc<Resource>,
    pub subresource: &'a str,
    pub namespace: String,
    pub name: String,
    /// The object as it is stored now.
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    /// `meta.k8s.io` options of the operation.
    pub options: Value,
    /// What the object is, where that is not the resource's kind (`Scale`, `PodExecOptions`).
    pub other_kind: Option<Gvk>,
}

impl<'a> Attributes<'a> {
    /// Of an operation on the resource, or one of its subresources, that a request asks for.
    pub(crate) fn new(
        context: &Context,
        operation: Operation,
        resource: &'a Arc<Resource>,
        subresource: &'a str,
    ) -> Self {
        let info = &context.info;
        let dry_run = info.dry_run().unwrap_or_default();
        let mut options = Value::Null;
        if let Some(kind) = operation.options() {
            options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
            for name in ["fieldManager", "fieldValidation"] {
                if let Some(value) = info.param(name).filter(|_| operation != Operation::Delete) {
                    options[name] = value.into();
                }
            }
            if dry_run {
                options["dryRun"] = json!(["All"]);
            }
        }
        let namespace = if resource.namespaced { info.namespace.clone() } else { String::new() };
        let (name, old, other_kind) = (info.name.clone(), None, None);
        Self { operation, resource, subresource, namespace, name, old, dry_run, options, other_kind }
    }

    pub(crate) fn about(self, name: &str, old: Option<&'a Value>) -> Self {
        Self { name: name.to_owned(), old, ..self }
    }

    /// What the object is.
    fn kind(&self) -> Gvk {
        self.other_kind.clone().unwrap_or_else(|| self.resource.gvk.clone())
    }

    /// Nobody may be locked out of mending admission itself.
    fn is_of_admission(&self) -> bool {
        self.resource.gvk.group == "admissionregistration.k8s.io"
    }

    fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.gvk.group == group && self.resource.plural == plural && self.subresource.is_empty()
    }
}

/// Everything that may change an object before it is created or updated.
pub(crate) async fn mutate(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    if attributes.operation == Operation::Create && attributes.subresource.is_empty() {
        if attributes.resource.namespaced {
            namespace_accepts(server, attributes.resource, object)?;
        }
        fill_in(server, attributes, object)?;
    }
    if let (Operation::Update, true, Some(old)) =
        (attributes.operation, attributes.is("", "pods"), attributes.old)
    {
        pods::update(object, old);
    }
    node_restriction::check(server, context, attributes, Some(object))?;
    if !attributes.is_of_admission() {
        policies::mutate(server, context, attributes, object).await?;
        webhooks::mutate(server, context, attributes, object).await?;
    }
    Ok(())
}

/// What new objects get from others.
fn fill_in(server: &ApiServer, attributes: &Attributes<'_>, object: &mut Value) -> Result<(), Status> {
    if attributes.is("", "pods") {
        limits::default(server, object);
        pods::create(server, object)?;
        runtime_class::apply(server, object)?;
    }
    if attributes.is("", "persistentvolumeclaims") {
        default_class(server, object);
    }
    Ok(())
}

/// A claim that names no class, not even none, is of the default one: of several the newest.
fn default_class(server: &ApiServer, claim: &mut Value) {
    const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
    let old = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    if claim["spec"]["storageClassName"].is_string() || old.is_string() {
        return;
    }
    let classes = server.storage.cache("storageclasses.storage.k8s.io").snapshot();
    let marked = classes.entries.values().map(|entry| entry.object());
    let marked = marked.filter(|class| class["metadata"]["annotations"][DEFAULT] == "true");
    let newest = marked.max_by_key(|class| {
        let created = meta::text(class, "creationTimestamp").to_owned();
        (created, std::cmp::Reverse(meta::name(class).to_owned()))
    });
    if let Some(class) = newest {
        meta::member_mut(claim, "spec").insert("storageClassName".into(), meta::name(&class).into());
    }
}

/// Everything that may refuse an operation; `object` is what is written, none for a deletion.
pub(crate) async fn validate(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<(), Status> {
    if let (Operation::Create | Operation::Update, Some(object)) = (attributes.operation, object) {
        pod_security::check(server, context, attributes, object)?;
    }
    if attributes.operation == Operation::Delete {
        node_restriction::check(server, context, attributes, None)?;
    }
    match (attributes.operation, object) {
        (Operation::Create, Some(object)) if attributes.subresource.is_empty() => {
            created(server, context, attributes, object)?
        }
        (Operation::Update, Some(object)) => updated(server, context, attributes, object)?,
        (Operation::Delete, _) => deleted(attributes)?,
        _ => {}
    }
    if !attributes.is_of_admission() {
        policies::validate(server, context, attributes, object).await?;
        webhooks::validate(server, context, attributes, object).await?;
    }
    Ok(())
}

/// Asks about a connection to a pod, service or node; `options` is what the request says of it, of this kind.
pub(crate) async fn connect(
    server: &ApiServer,
    context: &mut Context,
    resource: &Arc<Resource>,
    kind: &str,
    mut options: Value,
) -> Result<(), Status> {
    subresource(server, context, resource, (Operation::Connect, Gvk::new("", "v1", kind)), &mut options, None)
        .await
}

/// Asks about a request to a subresource that takes an object of a kind of its own: a binding, an eviction, a scale.
pub(crate) async fn subresource(
    server: &ApiServer,
    context: &mut Context,
    resource: &Arc<Resource>,
    (operation, kind): (Operation, Gvk),
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    object["kind"] = kind.kind.as_str().into();
    object["apiVersion"] = kind.api_version().into();
    let subresource = context.info.subresource.clone();
    let mut attributes = Attributes::new(context, operation, resource, &subresource);
    attributes.other_kind = Some(kind);
    attributes.old = old;
    mutate(server, context, &attributes, object).await?;
    validate(server, context, &attributes, Some(object)).await
}

fn created(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let (resource, plural) = (attributes.resource, attributes.resource.plural.as_str());
    let effect = WITHOUT_EFFECT.iter().find(|(group, name, _)| attributes.is(group, name));
    if let Some((_, _, why)) = effect {
        context.warnings.push(format!("{}: stored, but {why}", resource.qualified()));
    }
    context.warnings.extend(unheeded::sentences(resource, object));
    match (resource.gvk.group.as_str(), plural) {
        ("rbac.authorization.k8s.io", _) => rbac::check(server, context, resource, object)?,
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            context.warnings.extend(wharf_api::crd::warnings(object));
        }
        ("certificates.k8s.io", "certificatesigningrequests") => certificates::created(object)?,
        ("", "pods") => limits::check_pod(server, object)?,
        ("", "persistentvolumeclaims") => limits::check_claim(server, object)?,
        _ => {}
    }
    Ok(())
}

fn updated(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    new: &Value,
) -> Result<(), Status> {
    let (resource, plural) = (attributes.resource, attributes.resource.plural.as_str());
    if resource.gvk.kind == "CertificateSigningRequest" && resource.custom.is_none() {
        certificates::check(server, context, attributes, new)?;
    }
    if attributes.subresource == "resize" {
        limits::check_pod(server, new)?;
    }
    let Some(old) = attributes.old.filter(|_| attributes.subresource.is_empty()) else { return Ok(()) };
    if new["spec"] != old["spec"] {
        context.warnings.extend(unheeded::sentences(resource, new));
    }
    match (resource.gvk.group.as_str(), plural) {
        ("rbac.authorization.k8s.io", _)
            if new["rules"] != old["rules"] || new["subjects"] != old["subjects"] =>
        {
            rbac::check(server, context, resource, new)
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            context.warnings.extend(wharf_api::crd::warnings(new));
            Ok(())
        }
        _ => Ok(()),
    }
}

fn deleted(attributes: &Attributes<'_>) -> Result<(), Status> {
    let name = attributes.name.as_str();
    if attributes.is("", "namespaces") && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(format!(
            "namespaces {name:?} is forbidden: this namespace may not be deleted"
        ))
        .about("namespaces", name));
    }
    Ok(())
}

/// New objects need a namespace that is there and stays.
fn namespace_accepts(server: &ApiServer, resource: &Resource, object: &Value) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    let Some(entry) = server.storage.get("namespaces", &format!("/{namespace}")) else {
        return Err(Status::not_found("namespaces", namespace));
    };
    if !meta::is_deleting(&entry.object()) {
        return Ok(());
    }
    let (qualified, name) = (resource.qualified(), meta::name(object));
    let mut status = Status::forbidden(format!(
        "{qualified} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated"
    ))
    .about(&qualified, name);
    status.details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated")}]);
    Err(status)
}
