//! Expressions of admission: what they may refer to, and whether the objects that hold them are usable.
//!
//! Source: `admissionregistration.k8s.io/v1`: MatchCondition, ValidatingAdmissionPolicy, MutatingAdmissionPolicy.

use std::sync::Arc;

use serde_json::Value;
use wharf_cel::{Decl, DeclKind, Env, ObjectDecl, Opaque, Program, Type};

use crate::schema::{Kind, Type as Shape};

/// Variables that depend on who holds the expression.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scope {
    /// `params`, of a policy with a kind of parameters.
    pub params: bool,
    /// `namespaceObject` and `variables`, of policies.
    pub policy: bool,
    /// `Object{..}` and `JSONPatch{..}`, of mutations.
    pub mutation: bool,
}

fn any() -> Decl {
    Decl::new(DeclKind::Dyn).nullable()
}

/// Nesting below which objects are of any type: some types hold themselves.
const MAX_DEPTH: usize = 12;

/// How expressions see objects of a built-in type.
pub fn declaration(ty: &Shape) -> Decl {
    Decl::object(object(ty, MAX_DEPTH)).named("object")
}

fn object(ty: &Shape, depth: usize) -> ObjectDecl {
    let mut decl = ObjectDecl::new(ty.name.clone());
    for field in &ty.fields {
        let inner = of_kind(&field.kind, depth);
        decl =
            if field.required { decl.required(&field.name, inner) } else { decl.field(&field.name, inner) };
    }
    decl
}

fn of_kind(kind: &Kind, depth: usize) -> Decl {
    let Some(below) = depth.checked_sub(1) else { return any() };
    match kind {
        Kind::Str => text(),
        Kind::Bool => Decl::new(DeclKind::Bool),
        Kind::I32 | Kind::I64 => Decl::new(DeclKind::Int),
        Kind::F64 => Decl::new(DeclKind::Double),
        Kind::Bytes => Decl::new(DeclKind::Bytes),
        Kind::Time | Kind::MicroTime => Decl::new(DeclKind::Timestamp).nullable(),
        Kind::Quantity | Kind::IntOrString => Decl::new(DeclKind::IntOrString),
        Kind::List(item) => Decl::list(of_kind(item, below)),
        Kind::Map(value) => Decl::map(of_kind(value, below)),
        Kind::Object(ty) => Decl::object(object(ty, below)),
        _ => any(),
    }
}

/// The environment of expressions about objects of this declaration; any object when there is none.
pub fn environment(scope: Scope, object: Option<&Decl>, params: Option<&Decl>, variables: &[String]) -> Env {
    let of = |env: Env, name: &str, decl: Option<&Decl>| env.var(name, decl.unwrap_or(&any()));
    let mut env = of(of(Env::new(), "object", object), "oldObject", object)
        .var("request", &Decl::object(request()))
        .var_of("authorizer", Type::Opaque(Opaque::Authorizer))
        .var_of("authorizer.requestResource", Type::Opaque(Opaque::ResourceCheck));
    if scope.params {
        env = of(env, "params", params);
    }
    if scope.policy {
        let named =
            variables.iter().fold(ObjectDecl::new("variables"), |object, name| object.field(name, any()));
        env = env
            .var("namespaceObject", &Decl::object(namespace()).nullable())
            .var("variables", &Decl::object(named));
    }
    if scope.mutation { env.mutation() } else { env }
}

/// The environments of a policy's expressions.
pub struct PolicyEnvs {
    /// Of match conditions, which cannot look at variables: those are only for what matches.
    pub conditions: Env,
    /// Of variables and validations.
    pub judging: Env,
    /// Of mutations.
    pub changing: Env,
}

/// What expressions of this policy's `spec` see, for objects and parameters of these declarations.
pub fn policy_envs(spec: &Value, object: Option<&Decl>, params: Option<&Decl>) -> PolicyEnvs {
    let variables = spec["variables"].as_array().into_iter().flatten();
    let names: Vec<String> =
        variables.filter_map(|variable| Some(variable["name"].as_str()?.trim().to_owned())).collect();
    let judging = Scope { params: spec["paramKind"].is_object(), policy: true, mutation: false };
    let of = |scope| environment(scope, object, params, &names);
    PolicyEnvs {
        conditions: of(Scope { policy: false, ..judging }),
        judging: of(judging),
        changing: of(Scope { mutation: true, ..judging }),
    }
}

fn text() -> Decl {
    Decl::new(DeclKind::String)
}

fn texts(name: &str, fields: &[&str]) -> ObjectDecl {
    fields.iter().fold(ObjectDecl::new(name), |object, field| object.field(field, text()))
}

/// `admission.k8s.io/v1` AdmissionRequest, as expressions see it.
fn request() -> ObjectDecl {
    let kind = || Decl::object(texts("kubernetes.GroupVersionKind", &["group", "version", "kind"]));
    let resource =
        || Decl::object(texts("kubernetes.GroupVersionResource", &["group", "version", "resource"]));
    let user = texts("kubernetes.UserInfo", &["username", "uid"])
        .field("groups", Decl::list(text()))
        .field("extra", Decl::map(Decl::list(text())));
    let plain = texts(
        "kubernetes.AdmissionRequest",
        &["subResource", "requestSubResource", "name", "namespace", "operation"],
    );
    plain
        .field("kind", kind())
        .field("resource", resource())
        .field("requestKind", kind())
        .field("requestResource", resource())
        .field("userInfo", Decl::object(user))
        .field("dryRun", Decl::new(DeclKind::Bool))
        .field("options", any())
}

/// `v1` Namespace, as far as expressions may look into it.
fn namespace() -> ObjectDecl {
    let meta = texts(
        "kubernetes.NamespaceMetadata",
        &["name", "generateName", "namespace", "uid", "resourceVersion"],
    )
    .field("labels", Decl::map(text()))
    .field("annotations", Decl::map(text()))
    .field("generation", Decl::new(DeclKind::Int))
    .field("creationTimestamp", Decl::new(DeclKind::Timestamp))
    .field("deletionTimestamp", Decl::new(DeclKind::Timestamp))
    .field("deletionGracePeriodSeconds", Decl::new(DeclKind::Int));
    let spec = ObjectDecl::new("kubernetes.NamespaceSpec").field("finalizers", Decl::list(text()));
    let status = texts("kubernetes.NamespaceStatus", &["phase"]).field("conditions", Decl::list(any()));
    texts("kubernetes.Namespace", &["apiVersion", "kind"])
        .field("metadata", Decl::object(meta))
        .field("spec", Decl::object(spec))
        .field("status", Decl::object(status))
}

/// Compiles an expression that must give one of these types.
///
/// # Errors
/// What is wrong with it, as users are told.
pub fn compile(env: &Env, source: &str, wanted: &[Type]) -> Result<Program, String> {
    let program = env.compile(source).map_err(|issues| format!("compilation failed: {issues}"))?;
    let is_wanted = |ty: &Type| std::mem::discriminant(ty) == std::mem::discriminant(program.result_type());
    if wanted.is_empty() || matches!(program.result_type(), Type::Dyn) || wanted.iter().any(is_wanted) {
        return Ok(program);
    }
    let names: Vec<String> = wanted.iter().map(|ty| ty.to_string()).collect();
    match &names[..] {
        [one] => Err(format!("compilation failed: must evaluate to {one}")),
        many => Err(format!("compilation failed: must evaluate to one of [{}]", many.join(" "))),
    }
}

/// Named conditions, compiled.
pub type Conditions = Vec<(String, Arc<Program>)>;

/// The match conditions of a webhook or policy, by name.
///
/// # Errors
/// Which one is wrong, and how.
pub fn conditions(list: &Value, env: &Env) -> Result<Conditions, (usize, String)> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let each = list.iter().enumerate().map(|(at, condition)| {
        let text = |name: &str| condition[name].as_str().unwrap_or_default();
        let program = compile(env, text("expression").trim(), &[Type::Bool]).map_err(|why| (at, why))?;
        Ok((text("name").to_owned(), Arc::new(program)))
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_compiled_or_told_of() {
        let env = environment(Scope::default(), None, None, &[]);
        let list = json!([{"name": "a", "expression": "object.metadata.name != 'x' && request.operation == 'CREATE'"},
            {"name": "b", "expression": "authorizer.requestResource.check('update').allowed()"}]);
        assert_eq!(conditions(&list, &env).unwrap().len(), 2);
        let wrong = |expression: &str| {
            conditions(&json!([{"name": "a", "expression": expression}]), &env).unwrap_err().1
        };
        assert!(wrong("foo").contains("undeclared reference to 'foo'"));
        assert!(wrong("request.foo == 1").contains("undefined field 'foo'"));
        assert_eq!(wrong("1 + 1"), "compilation failed: must evaluate to bool");
        assert!(wrong("params.x").contains("undeclared reference to 'params'"));
    }
}
