//! Webhook configurations and admission policies: who is asked, and expressions that must compile.

use wharf_cel::{Env, Type};

use super::field::{Errors, Field};
use super::values;
use crate::admission::{PolicyEnvs, Scope, compile, conditions, environment, policy_envs};

const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A ValidatingWebhookConfiguration or a MutatingWebhookConfiguration.
pub(super) fn webhooks(root: &Field<'_>, errors: &mut Errors) {
    let list = root.child("webhooks");
    let env = environment(Scope::default(), None, None, &[]);
    let mut names: Vec<&str> = Vec::new();
    for hook in list.items() {
        let name = hook.child("name");
        let parts = name.text().split('.').filter(|part| !part.is_empty()).count();
        if parts < 3 {
            errors.push(name.invalid("should be a domain with at least three segments separated by dots"));
        }
        if names.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        names.push(hook.text_at("/name"));
        reviews(&hook, errors);
        client(&hook.child("clientConfig"), errors);
        match_conditions(&hook.child("matchConditions"), &env, errors);
    }
}

fn reviews(hook: &Field<'_>, errors: &mut Errors) {
    let versions = hook.child("admissionReviewVersions");
    let known = versions.items().any(|version| VERSIONS.contains(&version.text()));
    if hook.list_at("/admissionReviewVersions").is_empty() {
        errors.push(versions.required("must specify one of v1, v1beta1"));
    } else if !known {
        errors.push(versions.invalid("must include at least one of v1, v1beta1"));
    }
    let effects = hook.child("sideEffects");
    if !effects.is_set() {
        errors.push(effects.required("must specify one of None, NoneOnDryRun"));
    } else {
        values::one_of(&effects, &["None", "NoneOnDryRun"], errors);
    }
    let timeout = hook.child("timeoutSeconds");
    if timeout.value().as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        errors.push(timeout.invalid("the timeout value must be between 1 and 30 seconds"));
    }
}

fn client(config: &Field<'_>, errors: &mut Errors) {
    let (url, service) = (config.child("url"), config.child("service"));
    if url.is_set() == service.is_set() {
        errors.push(config.required("exactly one of url or service is required"));
    } else if url.is_set() && !url.text().starts_with("https://") {
        errors.push(url.invalid("'https' is the only allowed URL scheme"));
    }
}

fn match_conditions(list: &Field<'_>, env: &Env, errors: &mut Errors) {
    let mut names: Vec<&str> = Vec::new();
    for condition in list.items() {
        let name = condition.child("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        }
        if names.contains(&name.text()) {
            errors.push(name.duplicate());
        }
        names.push(condition.text_at("/name"));
    }
    let Err((at, why)) = conditions(list.value(), env) else { return };
    for condition in list.items().skip(at).take(1) {
        errors.push(condition.child("expression").invalid(why.as_str()));
    }
}

fn policy(spec: &Field<'_>, errors: &mut Errors) -> PolicyEnvs {
    let envs = policy_envs(spec.value(), None, None);
    for variable in spec.child("variables").items() {
        expression(&variable.child("expression"), &envs.judging, &[], errors);
    }
    match_conditions(&spec.child("matchConditions"), &envs.conditions, errors);
    let constraints = spec.child("matchConstraints");
    if !constraints.is_set() {
        errors.push(constraints.required(""));
    } else if spec.list_at("/matchConstraints/resourceRules").is_empty() {
        errors.push(constraints.child("resourceRules").required(""));
    }
    envs
}

fn expression(field: &Field<'_>, env: &Env, wanted: &[Type], errors: &mut Errors) {
    match field.text().trim() {
        "" => errors.push(field.required("expression is not specified")),
        source => {
            if let Err(why) = compile(env, source, wanted) {
                errors.push(field.invalid(why.as_str()));
            }
        }
    }
}

/// A ValidatingAdmissionPolicy.
pub(super) fn validating(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let env = policy(&spec, errors).judging;
    if spec.list_at("/validations").is_empty() && spec.list_at("/auditAnnotations").is_empty() {
        let why = "validations or auditAnnotations must contain at least one item";
        errors.push(spec.child("validations").required(why));
    }
    for validation in spec.child("validations").items() {
        expression(&validation.child("expression"), &env, &[Type::Bool], errors);
        let message = validation.child("messageExpression");
        if message.is_set() {
            expression(&message, &env, &[Type::String], errors);
        }
    }
    for annotation in spec.child("auditAnnotations").items() {
        expression(&annotation.child("valueExpression"), &env, &[Type::String, Type::Null], errors);
    }
}

/// A MutatingAdmissionPolicy.
pub(super) fn mutating(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let env = policy(&spec, errors).changing;
    let mutations = spec.child("mutations");
    if spec.list_at("/mutations").is_empty() {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        let (kind, other) = match mutation.text_at("/patchType") {
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            _ => {
                values::one_of(&mutation.child("patchType"), &["ApplyConfiguration", "JSONPatch"], errors);
                continue;
            }
        };
        if mutation.child(other).is_set() {
            let why = format!("must not be specified when patchType is {}", mutation.text_at("/patchType"));
            errors.push(mutation.child(other).forbidden(why.as_str()));
        }
        expression(&mutation.child(kind).child("expression"), &env, &[], errors);
    }
}

/// What binds a policy to requests.
pub(super) fn binding(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    values::required_text(&spec.child("policyName"), errors);
    let reference = spec.child("paramRef");
    if reference.is_set() && reference.has("/name") == reference.has("/selector") {
        errors.push(reference.child("name").required("one of name or selector must be specified"));
    }
}

/// What binds a ValidatingAdmissionPolicy.
pub(super) fn validating_binding(root: &Field<'_>, errors: &mut Errors) {
    binding(root, errors);
    let spec = root.child("spec");
    let actions = spec.child("validationActions");
    if spec.list_at("/validationActions").is_empty() {
        errors.push(actions.required("at least one validation action is required"));
    }
    for action in actions.items() {
        values::one_of(&action, &["Audit", "Deny", "Warn"], errors);
    }
    let has = |wanted: &str| spec.list_at("/validationActions").iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(actions.invalid(why));
    }
}
