//! Admission webhooks: which are asked about a request, what they are sent, and what their answer means.
//!
//! Source: Kubernetes' `admissionregistration.k8s.io/v1` and `admission.k8s.io/v1` AdmissionReview.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use wharf_api::{
    admission::{Scope, conditions, environment},
    codec::decode_value,
    meta, patch,
    resource::Resource,
    status::Status,
};
use wharf_cel::Program;

use super::{
    Attributes,
    expressions::{self, Request},
    matching::Match,
};
use crate::{ApiServer, Context, callout::Callout, derived::Derived, storage::Snapshot, verbs::new_uid};

/// One webhook of a configuration.
#[derive(Debug)]
pub(crate) struct Hook {
    name: String,
    matching: Match,
    client: Value,
    timeout: u64,
    /// A call that fails lets the request through.
    fails_open: bool,
    /// Asked again when others changed the object after it.
    reinvoked: bool,
    /// May be asked about dry runs.
    dry_runs: bool,
    conditions: Vec<(String, Arc<Program>)>,
}

/// Compiled configurations of both kinds.
pub(crate) struct Hooks {
    mutating: Derived<Vec<Hook>>,
    validating: Derived<Vec<Hook>>,
}

impl Hooks {
    pub(crate) const fn new() -> Self {
        Self {
            mutating: Derived::of("mutatingwebhookconfigurations.admissionregistration.k8s.io"),
            validating: Derived::of("validatingwebhookconfigurations.admissionregistration.k8s.io"),
        }
    }
}

fn compile(configurations: &Snapshot) -> Vec<Hook> {
    // In order of their configurations' names, and within one as written.
    let objects = configurations.entries.values().map(|entry| entry.object());
    objects.flat_map(|object| object["webhooks"].as_array().cloned().unwrap_or_default()).map(hook).collect()
}

fn hook(webhook: Value) -> Hook {
    let text = |name: &str| webhook[name].as_str().unwrap_or_default();
    Hook {
        name: text("name").to_owned(),
        matching: Match::of(&webhook, &webhook["rules"]),
        timeout: webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30),
        fails_open: text("failurePolicy") == "Ignore",
        reinvoked: text("reinvocationPolicy") == "IfNeeded",
        // They compiled when the configuration was written.
        conditions: conditions(&webhook["matchConditions"], &environment(Scope::default(), None, None, &[]))
            .unwrap_or_default(),
        dry_runs: matches!(text("sideEffects"), "None" | "NoneOnDryRun"),
        client: webhook["clientConfig"].clone(),
    }
}

/// Lets every mutating webhook that wants to change the object.
pub(super) async fn mutate(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    let hooks = server.hooks.mutating.get(&server.storage, compile);
    let mut seen: Vec<Option<Value>> = Vec::new();
    for hook in hooks.iter() {
        let asked = change(server, context, hook, attributes, object).await?;
        seen.push(asked.then(|| object.clone()));
    }
    for (hook, seen) in hooks.iter().zip(seen) {
        if hook.reinvoked && seen.is_some_and(|seen| seen != *object) {
            change(server, context, hook, attributes, object).await?;
        }
    }
    Ok(())
}

/// Whether the webhook was asked.
async fn change(
    server: &ApiServer,
    context: &mut Context,
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<bool, Status> {
    let Some(target) = hook.matching.target(server, context, attributes, Some(object))? else {
        return Ok(false);
    };
    let translated = target.gvk != attributes.resource.gvk;
    let sent = if translated {
        server.translate(attributes.resource, &target, object.clone()).await?
    } else {
        object.clone()
    };
    let Some(response) = ask(server, context, hook, attributes, &target, Some(&sent)).await? else {
        return Ok(true);
    };
    if let Some(encoded) = response["patch"].as_str() {
        let mut changed = sent;
        apply(hook, &mut changed, encoded)?;
        if translated {
            changed = server.translate(&target, attributes.resource, changed).await?;
        }
        *object = attributes.decode(changed).map_err(|why| broken(hook, &why))?;
    }
    Ok(true)
}

fn broken(hook: &Hook, why: &str) -> Status {
    Status::internal(format!("failed calling webhook {:?}: {why}", hook.name))
}

fn apply(hook: &Hook, object: &mut Value, encoded: &str) -> Result<(), Status> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes = STANDARD.decode(encoded).map_err(|_| broken(hook, "its patch is not base64"))?;
    let patch =
        serde_json::from_slice(&bytes).map_err(|e| broken(hook, &format!("its patch is not JSON: {e}")))?;
    patch::json(object, patch).map_err(|error| broken(hook, &error.to_string()))
}

/// Asks every validating webhook that wants to know, all at once.
pub(super) async fn validate(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<(), Status> {
    let hooks = server.hooks.validating.get(&server.storage, compile);
    let mut wanted = Vec::new();
    for hook in hooks.iter() {
        if let Some(target) = hook.matching.target(server, context, attributes, object)? {
            wanted.push((hook, target));
        }
    }
    let asking = &*context;
    let asks = wanted.iter().map(|(hook, target)| async move {
        let mut own = Context::asking(asking);
        let sent = match object {
            Some(object) if target.gvk != attributes.resource.gvk => {
                Some(server.translate(attributes.resource, target, object.clone()).await?)
            }
            object => object.cloned(),
        };
        ask(server, &mut own, hook, attributes, target, sent.as_ref()).await?;
        Ok(own.warnings)
    });
    let answers: Vec<Result<Vec<String>, Status>> = join_all(asks).await;
    for answer in answers {
        context.warnings.extend(answer?);
    }
    Ok(())
}

/// The response of a webhook that allows; nothing when it failed and may.
async fn ask(
    server: &ApiServer,
    context: &mut Context,
    hook: &Hook,
    attributes: &Attributes<'_>,
    target: &Arc<Resource>,
    object: Option<&Value>,
) -> Result<Option<Value>, Status> {
    let old = match attributes.old {
        Some(old) if target.gvk != attributes.resource.gvk => {
            Some(server.translate(attributes.resource, target, old.clone()).await?)
        }
        old => old.cloned(),
    };
    if !hook.wants(server, context, attributes, target, object, old.as_ref())? {
        return Ok(None);
    }
    if attributes.dry_run && !hook.dry_runs {
        return Err(Status::bad_request(format!(
            "admission webhook {:?} does not support dry run",
            hook.name
        )));
    }
    let uid = new_uid();
    let review = review(context, attributes, target, &uid, object, old.as_ref());
    let answer = match Callout::of(server, &hook.client) {
        Ok(callout) => callout.post(server, &review, hook.timeout).await,
        Err(why) => Err(why),
    };
    match answer.and_then(|answer| checked(answer, &uid)) {
        Err(why) if hook.fails_open => {
            tracing::warn!(webhook = hook.name, why, "admission webhook failed; the request goes on");
            Ok(None)
        }
        Err(why) => Err(broken(hook, &format!("failed to call webhook: {why}"))),
        Ok(response) => {
            let warnings = response["warnings"].as_array().into_iter().flatten();
            context.warnings.extend(warnings.filter_map(|w| w.as_str().map(str::to_owned)));
            if response["allowed"] == true {
                Ok(Some(response))
            } else {
                Err(denial(hook, &response["status"]))
            }
        }
    }
}

fn checked(mut answer: Value, uid: &str) -> Result<Value, String> {
    let (kind, version) = (&answer["kind"], &answer["apiVersion"]);
    if kind != "AdmissionReview" || version != "admission.k8s.io/v1" {
        return Err(format!("expected an admission.k8s.io/v1 AdmissionReview, got {version} {kind}"));
    }
    let response = answer["response"].take();
    if response["uid"] != uid {
        return Err(format!("expected response.uid={uid:?}, got {}", response["uid"]));
    }
    if response["patch"].is_string() && response["patchType"] != "JSONPatch" {
        return Err(format!("its patchType {} is not JSONPatch", response["patchType"]));
    }
    Ok(response)
}

fn denial(hook: &Hook, status: &Value) -> Status {
    let name = &hook.name;
    let why =
        [&status["message"], &status["reason"]].into_iter().filter_map(Value::as_str).find(|t| !t.is_empty());
    let message = match why {
        Some(why) => format!("admission webhook {name:?} denied the request: {why}"),
        None => format!("admission webhook {name:?} denied the request without explanation"),
    };
    let code =
        status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|c| (400..600).contains(c));
    let mut denied = Status::forbidden(message);
    denied.code = code.unwrap_or(403);
    if let Some(reason) = status["reason"].as_str() {
        denied.reason = reason.to_owned().into();
    }
    if status["details"].is_object() {
        denied.details = status["details"].clone();
    }
    denied
}

impl Hook {
    /// Whether its conditions hold. One that has no value fails as the webhook itself would.
    fn wants(
        &self,
        server: &ApiServer,
        context: &Context,
        attributes: &Attributes<'_>,
        target: &Resource,
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<bool, Status> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let request = Request::new(server, context, attributes, target, object, old);
        match request.meets(&self.conditions, &request.activation()) {
            Ok(wants) => Ok(wants),
            Err(_) if self.fails_open => Ok(false),
            Err((name, error)) => Err(Status::internal(format!(
                "webhook {:?}: match condition {name:?} has no value: {error}",
                self.name
            ))),
        }
    }
}

fn review(
    context: &Context,
    attributes: &Attributes<'_>,
    target: &Resource,
    uid: &str,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let mut request = expressions::request(context, attributes, target);
    request["uid"] = uid.into();
    request["object"] = object.cloned().unwrap_or_default();
    request["oldObject"] = old.cloned().unwrap_or_default();
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

impl Attributes<'_> {
    /// What came back from a webhook as an object of the request's kind.
    fn decode(&self, object: Value) -> Result<Value, String> {
        let ty = match self.other_kind {
            Some(_) => return Ok(object),
            None => &self.resource.ty,
        };
        let (name, namespace) = (meta::name(&object).to_owned(), meta::namespace(&object).to_owned());
        if !self.name.is_empty() && (name != self.name || namespace != self.namespace) {
            return Err(format!("it moved the object to {namespace}/{name}"));
        }
        decode_value(object, ty).map(|decoded| decoded.object).map_err(|error| error.to_string())
    }
}
