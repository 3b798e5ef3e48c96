//! Admission policies: expressions that judge or change objects, bound to requests and parameters.
//!
//! Source: `admissionregistration.k8s.io/v1` ValidatingAdmissionPolicy, MutatingAdmissionPolicy and their bindings.

mod findings;

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_api::{
    admission::{compile, conditions, policy_envs},
    codec::decode_value,
    meta, patch,
    resource::Resource,
    selector::LabelSelector,
    status::Status,
};
use wharf_cel::{Activation, Budget, Program};

use super::{
    Attributes,
    expressions::{Request, variables},
    matching::Match,
};
use crate::{ApiServer, Context, derived::Derived, storage::Snapshot, values::items};

use findings::Findings;

/// Compiled policies and bindings.
pub(crate) struct Policies {
    validating: Derived<Vec<Policy>>,
    validating_bindings: Derived<Vec<Binding>>,
    mutating: Derived<Vec<Policy>>,
    mutating_bindings: Derived<Vec<Binding>>,
}

impl Policies {
    pub(crate) const fn new() -> Self {
        Self {
            validating: Derived::of("validatingadmissionpolicies.admissionregistration.k8s.io"),
            validating_bindings: Derived::of(
                "validatingadmissionpolicybindings.admissionregistration.k8s.io",
            ),
            mutating: Derived::of("mutatingadmissionpolicies.admissionregistration.k8s.io"),
            mutating_bindings: Derived::of("mutatingadmissionpolicybindings.admissionregistration.k8s.io"),
        }
    }
}

struct Policy {
    kind: &'static str,
    name: String,
    matching: Match,
    conditions: Vec<(String, Arc<Program>)>,
    variables: Vec<(String, Program)>,
    validations: Vec<Validation>,
    /// What is written down of requests, by key.
    annotations: Vec<(String, Program)>,
    mutations: Vec<Mutation>,
    /// Group, version and kind of parameters.
    params: Option<(String, String)>,
    fails_open: bool,
    reinvoked: bool,
}

struct Validation {
    program: Program,
    message: String,
    message_expression: Option<Program>,
    reason: String,
}

struct Mutation {
    program: Program,
    /// A JSON patch, else an applied configuration.
    is_patch: bool,
}

struct Binding {
    name: String,
    policy: String,
    /// Narrows the policy down; without rules of its own to all it is about.
    matching: Option<Match>,
    reference: Value,
    denies: bool,
    warns: bool,
    /// What it breaks is written down.
    audits: bool,
}

impl Policy {
    /// Policies compiled when they were written, by the same environments; an expression that does not is left out.
    fn read(kind: &'static str, object: &Value) -> Self {
        let spec = &object["spec"];
        let constraints = &spec["matchConstraints"];
        let list = |name: &str| spec[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
        let envs = policy_envs(spec, None, None);
        let program = |source: &Value| compile(&envs.judging, &text(source), &[]).ok();
        let validations = list("validations").iter().filter_map(|validation| {
            Some(Validation {
                program: program(&validation["expression"])?,
                message: text(&validation["message"]),
                message_expression: program(&validation["messageExpression"]),
                reason: text(&validation["reason"]),
            })
        });
        let mutations = list("mutations").iter().filter_map(|mutation| {
            let is_patch = mutation["patchType"] == "JSONPatch";
            let place = if is_patch { &mutation["jsonPatch"] } else { &mutation["applyConfiguration"] };
            Some(Mutation {
                program: compile(&envs.changing, &text(&place["expression"]), &[]).ok()?,
                is_patch,
            })
        });
        let variables =
            list("variables").iter().filter_map(|v| Some((text(&v["name"]), program(&v["expression"])?)));
        let annotations = list("auditAnnotations")
            .iter()
            .filter_map(|a| Some((text(&a["key"]), program(&a["valueExpression"])?)));
        Self {
            kind,
            annotations: annotations.collect(),
            name: meta::name(object).to_owned(),
            matching: Match::of(constraints, &constraints["resourceRules"]),
            conditions: conditions(&spec["matchConditions"], &envs.conditions).unwrap_or_default(),
            variables: variables.collect(),
            validations: validations.collect(),
            mutations: mutations.collect(),
            params: spec["paramKind"]
                .is_object()
                .then(|| (text(&spec["paramKind"]["apiVersion"]), text(&spec["paramKind"]["kind"]))),
            fails_open: spec["failurePolicy"] == "Ignore",
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }

    fn title(&self, binding: &Binding) -> String {
        format!("{} '{}' with binding '{}'", self.kind, self.name, binding.name)
    }
}

impl Binding {
    fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let resources = &spec["matchResources"];
        let acts = |action: &str| items(&spec["validationActions"]).any(|listed| listed == action);
        Self {
            name: meta::name(object).to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            matching: resources.is_object().then(|| Match::of(resources, &resources["resourceRules"])),
            reference: spec["paramRef"].clone(),
            denies: acts("Deny"),
            warns: acts("Warn"),
            audits: acts("Audit"),
        }
    }
}

fn bindings(objects: &Snapshot) -> Vec<Binding> {
    objects.entries.values().map(|entry| Binding::read(&entry.object())).collect()
}

fn compiled(kind: &'static str) -> impl FnOnce(&Snapshot) -> Vec<Policy> {
    move |objects| objects.entries.values().map(|entry| Policy::read(kind, &entry.object())).collect()
}

/// The parameters a binding names; several when it selects them.
///
/// # Errors
/// A sentence when there must be some and are none.
fn parameters(
    server: &ApiServer,
    context: &Context,
    policy: &Policy,
    binding: &Binding,
    namespace: &str,
) -> Result<Vec<Option<Value>>, String> {
    let Some((api_version, kind)) = &policy.params else { return Ok(vec![None]) };
    let reference = &binding.reference;
    if !reference.is_object() {
        // An expression finds null there.
        return Ok(vec![None]);
    }
    let found = context.index.all().find(|r| r.gvk.api_version() == *api_version && r.gvk.kind == *kind);
    let resource = found.ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'")
    })?;
    let given = reference["namespace"].as_str().filter(|n| !n.is_empty());
    let namespace = match (resource.namespaced, given) {
        (false, Some(_)) => {
            return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
        }
        (false, None) => "",
        (true, Some(given)) => given,
        (true, None) if namespace.is_empty() => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                    .into(),
            );
        }
        (true, None) => namespace,
    };
    let cache = server.storage.cache(&resource.storage_key()).snapshot();
    let objects: Vec<Option<Value>> = match reference["name"].as_str().filter(|n| !n.is_empty()) {
        Some(name) => {
            let entry = cache.entries.get(format!("{namespace}/{name}").as_str());
            entry.into_iter().map(|entry| Some(entry.object())).collect()
        }
        None => {
            let selector = LabelSelector::from_object(reference.get("selector"));
            let within = cache.range(namespace, None);
            within.filter(|entry| selector.matches(&entry.labels)).map(|entry| Some(entry.object())).collect()
        }
    };
    if objects.is_empty() && reference["parameterNotFoundAction"].as_str() != Some("Allow") {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(objects)
}

/// Judges an operation by every policy bound to it.
pub(super) async fn validate(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<(), Status> {
    let policies = server.policies.validating.get(&server.storage, compiled("ValidatingAdmissionPolicy"));
    if policies.is_empty() {
        return Ok(());
    }
    let bindings = server.policies.validating_bindings.get(&server.storage, bindings);
    let mut warnings = Vec::new();
    let mut findings = Findings::default();
    for policy in policies.iter() {
        for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
            let Some(target) = target(server, context, policy, binding, attributes, object)? else {
                continue;
            };
            let (object, old) = forms(server, attributes, &target, object).await?;
            let request = Request::new(server, context, attributes, &target, object.as_ref(), old.as_ref());
            let broken = violations(server, context, policy, binding, attributes, &request, &mut findings);
            for violation in broken {
                let title = policy.title(binding);
                if binding.audits {
                    findings.broken(policy, binding, &violation);
                }
                if binding.denies {
                    let message = format!("{title} denied request: {}", violation.message);
                    findings.write_down();
                    return Err(denial(attributes, &message, &violation.reason));
                }
                if binding.warns {
                    warnings.push(format!("Validation failed for {title}: {}", violation.message));
                }
            }
        }
    }
    findings.write_down();
    context.warnings.extend(warnings);
    Ok(())
}

/// The version in which a policy and its binding judge a request, if they do.
fn target(
    server: &ApiServer,
    context: &Context,
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    object: Option<&Value>,
) -> Result<Option<Arc<Resource>>, Status> {
    let Some(target) = policy.matching.target(server, context, attributes, object)? else { return Ok(None) };
    match &binding.matching {
        None => Ok(Some(target)),
        Some(matching) if matching.has_rules() => {
            Ok(matching.target(server, context, attributes, object)?.map(|_| target))
        }
        Some(matching) => Ok(matching.selects(server, attributes, object)?.then_some(target)),
    }
}

/// The objects of a request in that version.
async fn forms(
    server: &ApiServer,
    attributes: &Attributes<'_>,
    target: &Resource,
    object: Option<&Value>,
) -> Result<(Option<Value>, Option<Value>), Status> {
    let (mut both, own) = ([object.cloned(), attributes.old.cloned()], attributes.resource);
    if target.gvk != own.gvk {
        for form in both.iter_mut().flatten() {
            *form = server.translate(own, target, form.take()).await?;
        }
    }
    let [object, old] = both;
    Ok((object, old))
}

struct Violation {
    message: String,
    reason: String,
    /// Which of the policy's expressions.
    place: usize,
}

fn violations(
    server: &ApiServer,
    context: &Context,
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    request: &Request<'_>,
    findings: &mut Findings,
) -> Vec<Violation> {
    let wrong = |message: String| match policy.fails_open {
        true => Vec::new(),
        false => vec![Violation { message, reason: String::new(), place: 0 }],
    };
    let params = match parameters(server, context, policy, binding, &attributes.namespace) {
        Ok(params) => params,
        Err(why) => return wrong(format!("failed to configure binding: {why}")),
    };
    let mut all = Vec::new();
    for params in params {
        let params = params.unwrap_or_default();
        let activation = request.activation().any("params", &params);
        match request.meets(&policy.conditions, &activation) {
            Ok(true) => {}
            Ok(false) => continue,
            Err((name, error)) => {
                all.extend(wrong(format!("match condition {name:?} has no value: {error}")));
                continue;
            }
        }
        let mut budget = Budget::default();
        let known = variables(&policy.variables, &activation, &mut budget);
        let activation = activation.value("variables", known);
        for (place, validation) in policy.validations.iter().enumerate() {
            match judge(validation, &activation, &mut budget) {
                Ok(None) => {}
                Ok(Some(violation)) => all.push(Violation { place, ..violation }),
                Err(message) => all.extend(wrong(message)),
            }
        }
        for (key, program) in &policy.annotations {
            match program.eval(&activation, &mut budget) {
                Ok(evaluated) => {
                    findings.annotation(policy, key, evaluated.value.as_str().unwrap_or_default())
                }
                Err(error) => all.extend(wrong(format!(
                    "audit annotation expression '{}' resulted in error: {error}",
                    program.source()
                ))),
            }
        }
    }
    all
}

fn judge<'a>(
    validation: &'a Validation,
    activation: &Activation<'a>,
    budget: &mut Budget,
) -> Result<Option<Violation>, String> {
    let source = validation.program.source();
    match validation.program.eval(activation, budget) {
        Err(error) => Err(format!("expression '{source}' resulted in error: {error}")),
        Ok(evaluated) if evaluated.value.as_bool() == Some(true) => Ok(None),
        Ok(_) => {
            let said = validation.message_expression.as_ref().and_then(|program| {
                let value = program.eval(activation, budget).ok()?.value;
                value
                    .as_str()
                    .map(|text| text.trim().to_owned())
                    .filter(|t| !t.is_empty() && !t.contains('\n'))
            });
            let message = said.unwrap_or_else(|| match validation.message.as_str() {
                "" => format!("failed expression: {source}"),
                message => message.to_owned(),
            });
            Ok(Some(Violation { message, reason: validation.reason.clone(), place: 0 }))
        }
    }
}

fn denial(attributes: &Attributes<'_>, message: &str, reason: &str) -> Status {
    let (qualified, name) = (attributes.resource.qualified(), &attributes.name);
    let mut status =
        Status::forbidden(format!("{qualified} {name:?} is forbidden: {message}")).about(&qualified, name);
    let (code, reason) = match reason {
        "Unauthorized" => (401, "Unauthorized"),
        "Forbidden" => (403, "Forbidden"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    status.code = code;
    status.reason = reason.into();
    status.details["causes"] = json!([{"message": message}]);
    status
}

/// Lets every policy bound to a request change its object.
pub(super) async fn mutate(
    server: &ApiServer,
    context: &mut Context,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    let policies = server.policies.mutating.get(&server.storage, compiled("MutatingAdmissionPolicy"));
    if policies.is_empty() || attributes.other_kind.is_some() {
        return Ok(());
    }
    let bindings = server.policies.mutating_bindings.get(&server.storage, bindings);
    let mut seen = Vec::new();
    for policy in policies.iter() {
        for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
            if change(server, context, policy, binding, attributes, object).await? {
                seen.push((policy, binding, object.clone()));
            }
        }
    }
    for (policy, binding, before) in seen {
        if policy.reinvoked && before != *object {
            change(server, context, policy, binding, attributes, object).await?;
        }
    }
    Ok(())
}

/// Whether the policy had its say.
async fn change(
    server: &ApiServer,
    context: &Context,
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<bool, Status> {
    let Some(target) = target(server, context, policy, binding, attributes, Some(object))? else {
        return Ok(false);
    };
    let (form, old) = forms(server, attributes, &target, Some(object)).await?;
    let changed = match changed(server, context, policy, binding, attributes, &target, form, old.as_ref()) {
        Ok(Some(changed)) => changed,
        Ok(None) => return Ok(false),
        Err(_) if policy.fails_open => return Ok(false),
        Err(why) => {
            let message = format!("{} denied request: {why}", policy.title(binding));
            return Err(denial(attributes, &message, ""));
        }
    };
    *object = match target.gvk == attributes.resource.gvk {
        true => changed,
        false => server.translate(&target, attributes.resource, changed).await?,
    };
    Ok(true)
}

#[allow(clippy::too_many_arguments, reason = "the parts of one request and one policy")]
fn changed(
    server: &ApiServer,
    context: &Context,
    policy: &Policy,
    binding: &Binding,
    attributes: &Attributes<'_>,
    target: &Resource,
    object: Option<Value>,
    old: Option<&Value>,
) -> Result<Option<Value>, String> {
    let mut object = object.unwrap_or_default();
    let mut asked = false;
    for params in parameters(server, context, policy, binding, &attributes.namespace)? {
        let params = params.unwrap_or_default();
        for (at, mutation) in policy.mutations.iter().enumerate() {
            let before = object.clone();
            let request = Request::new(server, context, attributes, target, Some(&before), old);
            let activation = request.activation().any("params", &params);
            if at == 0 {
                let met = request.meets(&policy.conditions, &activation);
                if !met.map_err(|(name, error)| format!("match condition {name:?} has no value: {error}"))? {
                    break;
                }
                asked = true;
            }
            let mut budget = Budget::default();
            let known = variables(&policy.variables, &activation, &mut budget);
            let activation = activation.value("variables", known);
            object = apply(mutation, &activation, &mut budget, &before, target)?;
        }
    }
    Ok(asked.then_some(object))
}

fn apply<'a>(
    mutation: &'a Mutation,
    activation: &Activation<'a>,
    budget: &mut Budget,
    object: &Value,
    target: &Resource,
) -> Result<Value, String> {
    let source = mutation.program.source();
    let failed = |why: String| format!("expression '{source}' resulted in error: {why}");
    let value = mutation.program.eval(activation, budget).map_err(|error| failed(error.to_string()))?.value;
    // Types of an applied configuration are named after their place.
    if !mutation.is_patch
        && let [fault, ..] = value.misnamed_objects().as_slice()
    {
        return Err(failed(fault.clone()));
    }
    let said = value.to_json().map_err(|error| failed(error.to_string()))?;
    let mut changed = object.clone();
    if mutation.is_patch {
        patch::json(&mut changed, said).map_err(|error| failed(error.to_string()))?;
    } else {
        let config = decode_value(said, &target.ty).map_err(|error| failed(error.to_string()))?;
        if let [field, ..] = config.strict.as_slice() {
            return Err(failed(format!("invalid ApplyConfiguration: {field}")));
        }
        changed = patch::merge_applied(object, &config.object, &target.ty);
    }
    decode_value(changed, &target.ty).map(|decoded| decoded.object).map_err(|error| failed(error.to_string()))
}
