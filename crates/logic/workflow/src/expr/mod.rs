//! Expressions between `${{` and `}}`: GitHub Actions' grammar, coercions and functions.

mod eval;
mod functions;
mod lexer;
mod parse;
mod template;
#[cfg(test)]
mod tests;
mod value;

pub use eval::{Env, EvalError, Status, evaluate};
pub use parse::{BinaryOp, Expr, LogicalOp, Scope};
pub use template::{Condition, Template};
pub use value::{Object, Value};

/// Characters of an expression at the most, as upstream.
pub const MAX_LENGTH: usize = 21_000;
/// Nesting of an expression at the most, as upstream.
pub const MAX_DEPTH: usize = 50;
/// Bytes of text one evaluation may produce.
pub const MAX_MEMORY: usize = 1 << 20;

/// What is wrong with the text of an expression, and where in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at character {} of the expression '{expression}'", position + 1)]
pub struct SyntaxError {
    /// What.
    pub message: String,
    /// Characters before the place.
    pub position: usize,
    /// The expression, shortened.
    pub expression: String,
    /// Whether the text could not even be cut into symbols.
    pub lexical: bool,
    /// What may be meant.
    pub hint: Option<String>,
}
