//! What expressions of webhooks and policies look at: the objects of a request, who makes it, its namespace.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_api::{resource::Resource, schema::Gvk};
use wharf_cel::{self as cel, Activation, Budget, Decision, EvalError, Program, ResourceAttributes, Subject};

use super::Attributes;
use crate::{ApiServer, Context, Identity, auth};

static NOTHING: Value = Value::Null;

/// The values of one request, read by any number of expressions.
pub(super) struct Request<'a> {
    server: &'a ApiServer,
    identity: Identity,
    object: &'a Value,
    old: &'a Value,
    request: Value,
    namespace: Value,
    resource: ResourceAttributes,
}

impl<'a> Request<'a> {
    pub(super) fn new(
        server: &'a ApiServer,
        context: &Context,
        attributes: &'a Attributes<'a>,
        target: &Resource,
        object: Option<&'a Value>,
        old: Option<&'a Value>,
    ) -> Self {
        let gvk = &target.gvk;
        let namespace = match attributes.namespace.as_str() {
            "" => Value::Null,
            name => server.storage.get("namespaces", &format!("/{name}")).map_or(Value::Null, |e| e.object()),
        };
        Self {
            server,
            identity: context.identity.clone(),
            object: object.unwrap_or(&NOTHING),
            old: old.unwrap_or(&NOTHING),
            request: request(context, attributes, target),
            namespace,
            resource: ResourceAttributes {
                group: gvk.group.clone(),
                resource: target.plural.clone(),
                subresource: attributes.subresource.to_owned(),
                namespace: attributes.namespace.clone(),
                name: attributes.name.clone(),
                ..ResourceAttributes::default()
            },
        }
    }

    pub(super) fn activation(&'a self) -> Activation<'a> {
        Activation::new()
            .any("object", self.object)
            .any("oldObject", self.old)
            .any("request", &self.request)
            .any("namespaceObject", &self.namespace)
            .value("authorizer", cel::Value::authorizer(self))
            .value("authorizer.requestResource", cel::Value::resource_check(self, self.resource.clone()))
    }

    /// Whether every condition holds; the first that does not, does it.
    ///
    /// # Errors
    /// The name of a condition that has no value, and why.
    pub(super) fn meets(
        &'a self,
        conditions: &'a [(String, Arc<Program>)],
        activation: &Activation<'a>,
    ) -> Result<bool, (String, EvalError)> {
        let mut budget = Budget::new(cel::MATCH_CONDITIONS_BUDGET);
        let mut failed = None;
        for (name, program) in conditions {
            match program.eval(activation, &mut budget) {
                Ok(evaluated) if evaluated.value.as_bool() == Some(true) => {}
                // One that says no decides, whatever others could not say.
                Ok(_) => return Ok(false),
                Err(error) => {
                    failed.get_or_insert((name.clone(), error));
                }
            }
        }
        failed.map_or(Ok(true), Err)
    }
}

impl cel::Authorizer for Request<'_> {
    fn authorize(&self, subject: &Subject, attributes: &cel::Attributes) -> Decision {
        let identity = match subject {
            Subject::Requester => self.identity.clone(),
            Subject::ServiceAccount { namespace, name } => Identity::new(
                format!("system:serviceaccount:{namespace}:{name}"),
                &[
                    "system:serviceaccounts",
                    &format!("system:serviceaccounts:{namespace}"),
                    "system:authenticated",
                ],
            ),
        };
        let asked = match attributes {
            cel::Attributes::Path { path, verb } => {
                auth::Attributes { verb, path: Some(path), ..auth::Attributes::default() }
            }
            cel::Attributes::Resource { resource: r, verb } => auth::Attributes {
                verb,
                group: &r.group,
                resource: &r.resource,
                subresource: &r.subresource,
                namespace: &r.namespace,
                name: &r.name,
                fields: &r.field_selector,
                path: None,
            },
        };
        let allowed = self.server.authorize(&identity, &asked).is_ok();
        Decision { allowed, ..Decision::default() }
    }
}

fn gvk_json(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

/// `admission.k8s.io/v1` AdmissionRequest without the objects and without its id.
pub(super) fn request(context: &Context, attributes: &Attributes<'_>, target: &Resource) -> Value {
    let place = |r: &Resource| json!({"group": r.gvk.group, "version": r.gvk.version, "resource": r.plural});
    let own = attributes.kind();
    let sent = if target.gvk == attributes.resource.gvk { own.clone() } else { target.gvk.clone() };
    let mut request = json!({"kind": gvk_json(&sent), "resource": place(target),
        "requestKind": gvk_json(&own), "requestResource": place(attributes.resource),
        "name": attributes.name, "operation": attributes.operation.name(), "userInfo": context.identity.to_json(),
        "dryRun": attributes.dry_run, "options": attributes.options});
    if !attributes.namespace.is_empty() {
        request["namespace"] = attributes.namespace.as_str().into();
    }
    if !attributes.subresource.is_empty() {
        request["subResource"] = attributes.subresource.into();
        request["requestSubResource"] = attributes.subresource.into();
    }
    request
}

/// What a policy's variables are evaluated to, in their order; each may look at those before it.
pub(super) fn variables<'a>(
    programs: &'a [(String, Program)],
    base: &Activation<'a>,
    budget: &mut Budget,
) -> cel::Value<'a> {
    let mut known: Vec<(Arc<str>, Result<cel::Value<'a>, EvalError>)> = Vec::new();
    for (name, program) in programs {
        let activation = base.clone().value("variables", cel::Value::fields(known.clone()));
        let value = program.eval(&activation, budget).map(|evaluated| evaluated.value);
        known.push((name.as_str().into(), value));
    }
    cel::Value::fields(known)
}
