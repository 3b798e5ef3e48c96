//! The Common Expression Language as the Kubernetes API server v1.36 uses it: rules of custom
//! resources (`x-kubernetes-validations`), admission policies, match conditions of webhooks.
//!
//! An [`Env`] declares variables; [`Env::compile`] parses, checks types and plans; [`Program::eval`]
//! evaluates over JSON that is read in place as its [`Decl`] says, and counts what that costs.
//!
//! ```
//! use wharf_cel::{Activation, Budget, Decl, DeclKind, Env, ObjectDecl};
//!
//! let spec = ObjectDecl::new("Spec").field("replicas", Decl::new(DeclKind::Int));
//! let this = Decl::object(spec);
//! let program = Env::new().var("self", &this).compile("self.replicas <= 5").unwrap();
//! let data = serde_json::json!({"replicas": 3});
//! let result = program.eval(&Activation::new().data("self", &data, &this), &mut Budget::default());
//! assert_eq!(result.unwrap().value.as_bool(), Some(true));
//! ```
//!
//! All libraries are there that Kubernetes 1.36 gives new expressions; `math` and `base64` are not among
//! them, nor is `cel.bind`. What the authorizer, a policy's variables or the sizes of data are comes from
//! whoever embeds the language: [`Authorizer`], [`Known`], [`Decl`].
//!
//! Sources: cel-spec (`doc/langdef.md`) for the language, cel-go for extensions, costs and messages,
//! Kubernetes' apiserver (`pkg/cel`) for its libraries and limits.

mod ast;
mod check;
mod cost;
mod decl;
mod env;
mod error;
mod escape;
mod eval;
mod issues;
mod library;
mod parse;
mod plan;
mod program;
mod sizes;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use cost::{
    Budget, ESTIMATED_CRD_LIMIT, ESTIMATED_RULE_LIMIT, MATCH_CONDITIONS_BUDGET, MESSAGE_LIMIT,
    PER_CALL_LIMIT, REQUEST_BUDGET, Range,
};
pub use decl::{Decl, DeclKind, FieldDecl, ListDecl, ObjectDecl, Topology};
pub use env::Env;
pub use error::{EvalError, FailureKind};
pub use escape::{escape, unescape};
pub use issues::{Issue, Issues};
pub use library::authz::{Attributes, Authorizer, Decision, ResourceAttributes, Subject};
pub use program::{Activation, Evaluated, Program};
pub use types::{Opaque, Type};
pub use value::{Duration, Known, List, Map, Text, Timestamp, Value};
