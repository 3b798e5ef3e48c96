//! Why an evaluation gave no value.

/// An evaluation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    message: String,
    kind: FailureKind,
    at: Option<u32>,
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The expression: a missing key, an overflow. `&&` and `||` may get over it.
    Value,
    /// The expression cost more than one expression may.
    CostLimit,
    /// All expressions together cost more than a request may.
    Budget,
}

impl EvalError {
    /// A failure of the expression.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), kind: FailureKind::Value, at: None }
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn no_such_key(key: &str) -> Self {
        Self::new(format!("no such key: {key}"))
    }

    pub(crate) fn out_of_bounds(index: i64) -> Self {
        Self::new(format!("index out of bounds: {index}"))
    }

    pub(crate) fn cost_limit() -> Self {
        let message = "operation cancelled: actual cost limit exceeded".to_owned();
        Self { message, kind: FailureKind::CostLimit, at: None }
    }

    pub(crate) fn budget() -> Self {
        let message =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        Self { message: message.to_owned(), kind: FailureKind::Budget, at: None }
    }

    pub(crate) fn located(mut self, at: u32) -> Self {
        self.at.get_or_insert(at);
        self
    }

    /// What it is about.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Where in the source, in bytes.
    pub fn at(&self) -> Option<u32> {
        self.at
    }

    /// No operator may turn it into a value.
    pub(crate) fn is_final(&self) -> bool {
        self.kind != FailureKind::Value
    }
}
