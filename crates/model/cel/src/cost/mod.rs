//! What evaluation costs, in units of about a tenth of a microsecond upstream, and the limits
//! (apiserver, `pkg/apis/cel/config.go`; cel-go, `common/cost.go`).

pub(crate) mod call;
pub(crate) mod estimate;
mod estimate_call;
mod range;

use crate::error::EvalError;

pub use range::Range;

/// What one expression may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all expressions may cost for one object, or one binding of an admission policy.
pub const REQUEST_BUDGET: u64 = 10_000_000;
/// What the match conditions of one webhook or binding may cost.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;
/// What a rule of a custom resource may be estimated to cost.
pub const ESTIMATED_RULE_LIMIT: u64 = 10_000_000;
/// What all rules of a custom resource may be estimated to cost.
pub const ESTIMATED_CRD_LIMIT: u64 = 100_000_000;

/// How long a message made by an expression may be, in bytes.
pub const MESSAGE_LIMIT: usize = 5 * 1024;

pub(crate) const LIST_CREATE: u64 = 10;
pub(crate) const MAP_CREATE: u64 = 30;
pub(crate) const STRUCT_CREATE: u64 = 40;
/// Going through a text, per character.
pub(crate) const TRAVERSAL: f64 = 0.1;
/// Applying a regular expression, per character of it.
pub(crate) const REGEX: f64 = 0.25;

/// What is left of the cost several evaluations may have together.
#[derive(Debug, Clone)]
pub struct Budget {
    left: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(REQUEST_BUDGET)
    }
}

impl Budget {
    /// A budget of this much.
    pub fn new(total: u64) -> Self {
        Self { left: total }
    }

    /// Takes what an evaluation cost.
    ///
    /// # Errors
    /// When there is not enough left.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        let enough = cost <= self.left;
        self.left = self.left.saturating_sub(cost);
        if enough { Ok(()) } else { Err(EvalError::budget()) }
    }
}
