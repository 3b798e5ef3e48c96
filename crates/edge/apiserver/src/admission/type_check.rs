//! Types of policies' expressions against the kinds they are about, told in the policies' status.
//!
//! A policy is stored whatever its expressions ask of objects, since those may be of any kind; what no object of a
//! kind can have is said as a warning.
//! Source: `admissionregistration.k8s.io/v1` TypeChecking.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_api::{
    admission::{compile, declaration, policy_envs},
    crd, meta,
    resource::Resource,
};
use wharf_cel::{Decl, Env};

use crate::{
    ApiServer, Context,
    registry::Index,
    request::RequestInfo,
    verbs::{Change, WriteOptions, write_change},
};

const POLICIES: &str = "validatingadmissionpolicies.admissionregistration.k8s.io";
/// Kinds a policy is checked against, as upstream.
const MAX_KINDS: usize = 10;

/// Checks every policy whose present form was not checked yet.
pub(crate) async fn check(server: &Arc<ApiServer>) {
    let policies = server.storage.cache(POLICIES).snapshot();
    let index = server.registry.index(&server.storage);
    for entry in policies.entries.values() {
        let policy = entry.object();
        if policy["status"]["observedGeneration"] == policy["metadata"]["generation"] {
            continue;
        }
        let warnings = warnings(&index, &policy);
        say(server, &index, &policy, warnings).await;
    }
}

fn decl_of(resource: &Resource) -> Decl {
    match &resource.custom {
        Some(custom) => crd::declaration(&custom.schema),
        None => declaration(&resource.ty),
    }
}

/// What is wrong with which expression.
fn warnings(index: &Index, policy: &Value) -> Vec<Value> {
    let spec = &policy["spec"];
    let of_params = index.all().find(|r| {
        spec["paramKind"]["apiVersion"] == r.gvk.api_version()
            && spec["paramKind"]["kind"] == r.gvk.kind.as_str()
    });
    let of_params = of_params.map(|resource| decl_of(resource));
    let kinds = kinds(index, &spec["matchConstraints"]["resourceRules"]);
    let known = kinds
        .into_iter()
        .map(|kind| (kind, policy_envs(spec, Some(&decl_of(kind)), of_params.as_ref()).judging));
    let known: Vec<(&Arc<Resource>, Env)> = known.collect();
    let mut all = Vec::new();
    for (field, expression) in expressions(spec) {
        let mut said = Vec::new();
        for (kind, env) in &known {
            if let Err(why) = compile(env, expression, &[]) {
                let why = why.trim_start_matches("compilation failed: ");
                said.push(format!("{}, Kind={}: {why}\n", kind.gvk.api_version(), kind.gvk.kind));
            }
        }
        if !said.is_empty() {
            all.push(json!({"fieldRef": field, "warning": said.join("\n")}));
        }
    }
    all
}

fn expressions(spec: &Value) -> Vec<(String, &str)> {
    let mut all = Vec::new();
    for (list, field) in
        [("variables", "expression"), ("validations", "expression"), ("validations", "messageExpression")]
    {
        for (at, item) in spec[list].as_array().into_iter().flatten().enumerate() {
            if let Some(source) = item[field].as_str().filter(|source| !source.trim().is_empty()) {
                all.push((format!("spec.{list}[{at}].{field}"), source.trim()));
            }
        }
    }
    all
}

/// The kinds that rules name; a rule with a wildcard is about too many to be checked.
fn kinds<'a>(index: &'a Index, rules: &Value) -> Vec<&'a Arc<Resource>> {
    let mut found: Vec<&Arc<Resource>> = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let texts = |name: &str| -> Vec<&str> {
            rule[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (groups, versions, resources) = (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        let open = |list: &[&str]| list.iter().any(|text| text.contains('*'));
        if open(&groups) || open(&versions) || open(&resources) {
            continue;
        }
        let named = index.all().filter(|r| {
            groups.contains(&r.gvk.group.as_str())
                && versions.contains(&r.gvk.version.as_str())
                && resources.contains(&r.plural.as_str())
        });
        found.extend(named);
    }
    found.truncate(MAX_KINDS);
    found
}

async fn say(server: &Arc<ApiServer>, index: &Arc<Index>, policy: &Value, warnings: Vec<Value>) {
    let Some(resource) = index.find("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies")
    else {
        return;
    };
    let info = RequestInfo { name: meta::name(policy).to_owned(), verb: "update", ..RequestInfo::default() };
    let mut context = Context::own(server, info, "wharf");
    let generation = policy["metadata"]["generation"].clone();
    let mut checked = json!({});
    if !warnings.is_empty() {
        checked["expressionWarnings"] = warnings.into();
    }
    let options = WriteOptions { subresource: "status", ..WriteOptions::default() };
    let change = |old: &Value| {
        let mut new = old.clone();
        new["status"]["typeChecking"] = checked.clone();
        new["status"]["observedGeneration"] = generation.clone();
        meta::metadata_mut(&mut new).remove("resourceVersion");
        Ok(Change::Updated(new))
    };
    if let Err(status) = write_change(server, &mut context, resource, &options, change).await {
        tracing::debug!(%status, "the status of a policy cannot be written");
    }
}
