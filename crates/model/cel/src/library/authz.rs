//! Questions to the authorizer: Kubernetes' `pkg/cel/library/authz.go`.

use std::sync::Arc;

use super::{Outcome, Row, named_format, no_overload};
use crate::{
    error::EvalError,
    types::Opaque,
    value::{Text, Value},
};

pub(super) const ROWS: &[Row] = &[
    ("path", "authorizer_path", "authorizer.(string) -> path", path),
    ("group", "authorizer_group", "authorizer.(string) -> group", group),
    (
        "serviceAccount",
        "authorizer_serviceaccount",
        "authorizer.(string, string) -> authorizer",
        service_account,
    ),
    ("resource", "groupcheck_resource", "group.(string) -> resource", resource),
    ("subresource", "resourcecheck_subresource", "resource.(string) -> resource", |args| {
        refined(args, |r, text| r.subresource = text)
    }),
    ("namespace", "resourcecheck_namespace", "resource.(string) -> resource", |args| {
        refined(args, |r, text| r.namespace = text)
    }),
    ("name", "resourcecheck_name", "resource.(string) -> resource", |args| {
        refined(args, |r, text| r.name = text)
    }),
    ("fieldSelector", "authorizer_fieldselector", "resource.(string) -> resource", |args| {
        refined(args, |r, text| r.field_selector = text)
    }),
    ("labelSelector", "authorizer_labelselector", "resource.(string) -> resource", |args| {
        refined(args, |r, text| r.label_selector = text)
    }),
    ("check", "pathcheck_check", "path.(string) -> decision", check),
    ("check", "resourcecheck_check", "resource.(string) -> decision", check),
    ("errored", "decision_errored", "decision.() -> bool", |args| {
        decision(args, |d| Value::Bool(d.error.is_some()))
    }),
    ("error", "decision_error", "decision.() -> string", |args| {
        decision(args, |d| Value::string(d.error.clone().unwrap_or_default()))
    }),
    ("allowed", "decision_allowed", "decision.() -> bool", |args| decision(args, |d| Value::Bool(d.allowed))),
    ("reason", "decision_reason", "decision.() -> string", |args| {
        decision(args, |d| Value::string(d.reason.clone()))
    }),
];

/// Who answers what the maker of a request, or a service account, may do.
pub trait Authorizer: Send + Sync {
    /// May they do this?
    fn authorize(&self, user: &Subject, attributes: &Attributes) -> Decision;
}

/// Whom a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Who made the request.
    Requester,
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// What somebody wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attributes {
    /// A request for a path that is no resource.
    Path {
        /// The path.
        path: String,
        /// The verb, such as `get`.
        verb: String,
    },
    /// A request for resources.
    Resource {
        /// Which resources.
        resource: ResourceAttributes,
        /// The verb, such as `list`.
        verb: String,
    },
}

/// Resources, as far as a question narrows them down; empty texts say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceAttributes {
    /// API group, empty for core.
    pub group: String,
    /// Resource in lower-case plural.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace, empty for the whole cluster.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Field selector, not parsed.
    pub field_selector: String,
    /// Label selector, not parsed.
    pub label_selector: String,
}

/// What the authorizer said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// It is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong, if anything did.
    pub error: Option<String>,
}

/// A question as far as it is put together, or its answer.
#[derive(Clone)]
pub struct Check<'a> {
    authorizer: Option<&'a dyn Authorizer>,
    subject: Subject,
    stage: Stage,
}

#[derive(Debug, Clone, PartialEq)]
enum Stage {
    Authorizer,
    Path(String),
    Group(String),
    Resource(ResourceAttributes),
    Decided(Decision),
}

impl std::fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("subject", &self.subject).field("stage", &self.stage).finish()
    }
}

impl<'a> Check<'a> {
    pub(crate) fn opaque(&self) -> Opaque {
        match self.stage {
            Stage::Authorizer => Opaque::Authorizer,
            Stage::Path(_) => Opaque::PathCheck,
            Stage::Group(_) => Opaque::GroupCheck,
            Stage::Resource(_) => Opaque::ResourceCheck,
            Stage::Decided(_) => Opaque::Decision,
        }
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        self.subject == other.subject && self.stage == other.stage
    }

    fn at(&self, stage: Stage) -> Value<'a> {
        Value::Check(Arc::new(Self { authorizer: self.authorizer, subject: self.subject.clone(), stage }))
    }
}

impl<'a> Value<'a> {
    /// The variable `authorizer`.
    pub fn authorizer(authorizer: &'a dyn Authorizer) -> Self {
        let (subject, stage) = (Subject::Requester, Stage::Authorizer);
        Self::Check(Arc::new(Check { authorizer: Some(authorizer), subject, stage }))
    }

    /// The variable `authorizer.requestResource`: a check of what the request is about.
    pub fn resource_check(authorizer: &'a dyn Authorizer, resource: ResourceAttributes) -> Self {
        let (subject, stage) = (Subject::Requester, Stage::Resource(resource));
        Self::Check(Arc::new(Check { authorizer: Some(authorizer), subject, stage }))
    }
}

fn step<'v, 'a>(args: &'v [Value<'a>]) -> Option<(&'v Check<'a>, &'v Text<'a>)> {
    match args {
        [Value::Check(check), Value::String(text)] => Some((check, text)),
        _ => None,
    }
}

fn path<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match step(args) {
        Some((_, text)) if text.trim().is_empty() => Err(EvalError::new("path must not be empty")),
        Some((check, text)) if check.stage == Stage::Authorizer => {
            Ok(check.at(Stage::Path(text.to_string())))
        }
        _ => no_overload(),
    }
}

fn group<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match step(args) {
        Some((check, text)) if check.stage == Stage::Authorizer => {
            Ok(check.at(Stage::Group(text.to_string())))
        }
        _ => no_overload(),
    }
}

fn service_account<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Check(check), Value::String(namespace), Value::String(name)] = args else {
        return no_overload();
    };
    if !named_format::dns_subdomain(name, false).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !named_format::dns_label(namespace, false).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let subject = Subject::ServiceAccount { namespace: namespace.to_string(), name: name.to_string() };
    let authorizer = check.authorizer;
    Ok(Value::Check(Arc::new(Check { authorizer, subject, stage: Stage::Authorizer })))
}

fn resource<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Some((check, text)) = step(args) else { return no_overload() };
    if text.trim().is_empty() {
        return Err(EvalError::new("resource must not be empty"));
    }
    let Stage::Group(group) = &check.stage else { return no_overload() };
    let resource =
        ResourceAttributes { group: group.clone(), resource: text.to_string(), ..Default::default() };
    Ok(check.at(Stage::Resource(resource)))
}

fn refined<'a>(args: &[Value<'a>], set: fn(&mut ResourceAttributes, String)) -> Outcome<'a> {
    let Some((check, text)) = step(args) else { return no_overload() };
    let Stage::Resource(resource) = &check.stage else { return no_overload() };
    let mut resource = resource.clone();
    set(&mut resource, text.to_string());
    Ok(check.at(Stage::Resource(resource)))
}

fn check<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let Some((check, verb)) = step(args) else { return no_overload() };
    let verb = verb.to_string();
    let attributes = match &check.stage {
        Stage::Path(path) => Attributes::Path { path: path.clone(), verb },
        Stage::Resource(resource) => Attributes::Resource { resource: resource.clone(), verb },
        _ => return no_overload(),
    };
    let Some(authorizer) = check.authorizer else { return no_overload() };
    Ok(check.at(Stage::Decided(authorizer.authorize(&check.subject, &attributes))))
}

fn decision<'a>(args: &[Value<'a>], part: fn(&Decision) -> Value<'static>) -> Outcome<'a> {
    match args {
        [Value::Check(check)] => match &check.stage {
            Stage::Decided(decision) => Ok(part(decision)),
            _ => no_overload(),
        },
        _ => no_overload(),
    }
}
