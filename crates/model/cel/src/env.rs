//! What an expression may refer to, and compilation.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    check::check,
    decl::{Decl, DeclKind, ObjectDecl},
    issues::Issues,
    library::{self, Overload},
    parse::parse,
    plan::plan,
    program::Program,
    types::{Opaque, Type},
};

/// An environment: variables and types, besides what the language and Kubernetes' libraries have.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, Type>,
    /// Declarations of variables that are data: estimates of cost go by them.
    decls: BTreeMap<String, Arc<Decl>>,
    objects: BTreeMap<String, Arc<ObjectDecl>>,
    mutation: bool,
}

impl Env {
    /// Only the language and the libraries.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a variable that holds data.
    #[must_use]
    pub fn var(mut self, name: &str, decl: &Decl) -> Self {
        self.variables.insert(name.to_owned(), decl.ty());
        self.decls.insert(name.to_owned(), Arc::new(decl.clone()));
        self
    }

    /// With a variable of a type.
    #[must_use]
    pub fn var_of(mut self, name: &str, ty: Type) -> Self {
        self.variables.insert(name.to_owned(), ty);
        self
    }

    /// With an object type that expressions may construct by its name.
    #[must_use]
    pub fn object(mut self, decl: Arc<ObjectDecl>) -> Self {
        self.objects.insert(decl.name.clone(), decl);
        self
    }

    /// With what mutating admission policies have: `Object{..}`, `Object.spec{..}` of any fields,
    /// `JSONPatch{..}` and `jsonpatch.escapeKey`.
    #[must_use]
    pub fn mutation(mut self) -> Self {
        self.mutation = true;
        let text = || Decl::new(DeclKind::String);
        let patch = ObjectDecl::new("JSONPatch")
            .field("op", text())
            .field("path", text())
            .field("from", text())
            .field("value", Decl::new(DeclKind::Dyn).nullable());
        self.object(Arc::new(patch))
    }

    /// Compiles an expression.
    ///
    /// # Errors
    /// When it is no expression, or its types do not fit.
    pub fn compile(&self, source: &str) -> Result<Program, Issues> {
        let tree = parse(source)?;
        let checked = check(source, &tree, self)?;
        Ok(plan(source, &tree, checked, self))
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    pub(crate) fn decls(&self) -> Vec<(String, Arc<Decl>)> {
        self.decls.iter().map(|(name, decl)| (name.clone(), decl.clone())).collect()
    }

    /// The type an expression may name so.
    pub(crate) fn named_type(&self, name: &str) -> Option<Type> {
        if let Some(decl) = self.objects.get(name) {
            return Some(Type::Object(decl.clone()));
        }
        if self.mutation && (name == "Object" || name.starts_with("Object.")) {
            return Some(Type::Object(Arc::new(ObjectDecl::open(name))));
        }
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "null_type" => Type::Null,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "type" => Type::Type(Arc::new(Type::Dyn)),
            "optional_type" => Type::optional(Type::Dyn),
            _ => Type::Opaque(Opaque::ALL.into_iter().find(|opaque| opaque.name() == name)?),
        })
    }

    pub(crate) fn function(&self, name: &str) -> Option<&'static [&'static Overload]> {
        if name == "jsonpatch.escapeKey" && !self.mutation {
            return None;
        }
        library::function(name)
    }
}
