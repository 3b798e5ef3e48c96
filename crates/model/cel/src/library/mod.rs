//! The functions expressions may call: the language's own and those of Kubernetes 1.36
//! (apiserver, `pkg/cel/environment`: all libraries a new expression has).
//!
//! A file per library holds its table; a row names the function, the overload, its signature and
//! what it does.

pub(crate) mod authz;
pub(crate) mod convert;
pub(crate) mod format;
mod lists;
pub(crate) mod named_format;
pub(crate) mod net;
mod operators;
mod optional;
mod quantity;
pub(crate) mod regex;
pub(crate) mod semver;
mod sets;
mod signature;
mod strings;
mod time;
pub(crate) mod url;

use std::{collections::HashMap, sync::LazyLock};

use crate::{error::EvalError, types::Type, value::Value};

/// What an overload does with its arguments, of a member the target first.
pub(crate) type Run = for<'a> fn(&[Value<'a>]) -> Outcome<'a>;

/// A value or why there is none.
pub(crate) type Outcome<'a> = Result<Value<'a>, EvalError>;

/// A row of a library: function, overload, signature, what it does.
type Row = (&'static str, &'static str, &'static str, Run);

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) function: &'static str,
    pub(crate) id: String,
    pub(crate) member: bool,
    pub(crate) args: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) run: Run,
}

/// No result of a function may take more bytes. Cost does not keep them small: it goes by the arguments of
/// `replace`, `format` or `flatten`, and lists are added for nothing; all results of one evaluation together
/// are bounded there.
pub(crate) const LARGEST_RESULT: usize = 64 << 20;

static OVERLOADS: LazyLock<Vec<Overload>> = LazyLock::new(|| {
    let tables: [&[Row]; 16] = [
        operators::ROWS,
        convert::ROWS,
        strings::ROWS,
        time::ROWS,
        lists::ROWS,
        lists::EXTENSION_ROWS,
        sets::ROWS,
        regex::ROWS,
        optional::ROWS,
        url::ROWS,
        net::ROWS,
        quantity::ROWS,
        semver::ROWS,
        named_format::ROWS,
        authz::ROWS,
        format::ROWS,
    ];
    tables.into_iter().flatten().flat_map(|row| signature::overloads(row)).collect()
});

static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<&'static Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Vec<&'static Overload>> = HashMap::new();
    for overload in OVERLOADS.iter() {
        functions.entry(overload.function).or_default().push(overload);
    }
    functions
});

/// The overloads of a function.
pub(crate) fn function(name: &str) -> Option<&'static [&'static Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

/// Calls the overload the arguments are for, of those the checker left.
pub(crate) fn dispatch<'a>(overloads: &[&'static Overload], args: &[Value<'a>]) -> Outcome<'a> {
    if let [only] = overloads {
        return (only.run)(args);
    }
    let found = overloads.iter().find(|o| o.args.iter().zip(args).all(|(ty, value)| fits(ty, value)));
    found.map_or_else(no_overload, |overload| (overload.run)(args))
}

/// The value is of the type, as far as its first element tells.
fn fits(ty: &Type, value: &Value<'_>) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_), _) => true,
        (Type::List(of), Value::List(list)) => match list.get(0) {
            Some(Ok(first)) => fits(of, &first),
            _ => true,
        },
        // Every signature takes maps of any keys and values.
        (Type::Map(_), Value::Map(_)) => true,
        _ => ty.same_head(&value.ty()),
    }
}

/// Arguments of types no overload is for: what was declared dyn turned out to be something else.
pub(crate) fn no_overload<'a>() -> Outcome<'a> {
    Err(EvalError::no_such_overload())
}

/// Refuses a result of more bytes than any may have.
pub(crate) fn bounded(len: usize) -> Result<(), EvalError> {
    if len > LARGEST_RESULT { Err(EvalError::cost_limit()) } else { Ok(()) }
}

/// Refuses a list of more elements than any may have.
pub(crate) fn bounded_list(len: usize) -> Result<(), EvalError> {
    bounded(len.saturating_mul(size_of::<Value<'_>>()))
}
