//! Compiled expressions.

use crate::{
    cost::{Budget, Range},
    decl::Decl,
    error::EvalError,
    eval::Evaluation,
    plan::Node,
    types::Type,
    value::Value,
};

/// A compiled expression. It can be evaluated any number of times, by several threads at once.
#[derive(Debug)]
pub struct Program {
    pub(crate) source: String,
    pub(crate) node: Node,
    pub(crate) globals: Vec<String>,
    pub(crate) locals: usize,
    pub(crate) result: Type,
    pub(crate) estimate: Range,
}

/// Values for the variables of an expression.
#[derive(Debug, Clone, Default)]
pub struct Activation<'a> {
    values: Vec<(&'a str, Result<Value<'a>, EvalError>)>,
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a variable that is a piece of JSON, read as declared.
    #[must_use]
    pub fn data(self, name: &'a str, json: &'a serde_json::Value, decl: &'a Decl) -> Self {
        self.with(name, Value::data(json, decl))
    }

    /// With a variable that is any JSON.
    #[must_use]
    pub fn any(self, name: &'a str, json: &'a serde_json::Value) -> Self {
        self.with(name, Ok(Value::any(json)))
    }

    /// With a variable of a value.
    #[must_use]
    pub fn value(self, name: &'a str, value: Value<'a>) -> Self {
        self.with(name, Ok(value))
    }

    /// With a variable that is an optional piece of JSON, read as declared.
    #[must_use]
    pub fn optional(self, name: &'a str, json: Option<&'a serde_json::Value>, decl: &'a Decl) -> Self {
        let value = match json {
            Some(json) => Value::data(json, decl).map(Value::some),
            None => Ok(Value::Optional(None)),
        };
        self.with(name, value)
    }

    fn with(mut self, name: &'a str, value: Result<Value<'a>, EvalError>) -> Self {
        self.values.push((name, value));
        self
    }

    fn get(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.values.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| value.clone())
    }
}

/// What an evaluation gave, and what it cost.
#[derive(Debug, Clone)]
pub struct Evaluated<'a> {
    /// The value.
    pub value: Value<'a>,
    /// The cost, taken from the budget already.
    pub cost: u64,
}

impl Program {
    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of what the expression evaluates to.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// The expression refers to this variable; a rule that refers to `oldSelf` is one of transitions.
    pub fn uses(&self, variable: &str) -> bool {
        self.globals.iter().any(|name| name == variable)
    }

    /// What an evaluation may cost, by what is declared of the sizes of data. Rules of custom resources
    /// are refused by the most of it, see [`ESTIMATED_RULE_LIMIT`](crate::ESTIMATED_RULE_LIMIT).
    pub fn estimate_cost(&self) -> Range {
        self.estimate
    }

    /// Evaluates the expression. Its cost is taken from the budget also when it fails.
    ///
    /// # Errors
    /// When it has no value, or costs more than the budget allows.
    pub fn eval<'a>(
        &'a self,
        activation: &Activation<'a>,
        budget: &mut Budget,
    ) -> Result<Evaluated<'a>, EvalError> {
        let globals = self.globals.iter().map(|name| activation.get(name)).collect();
        let mut evaluation = Evaluation::new(&self.globals, globals, self.locals);
        let value = evaluation.eval(&self.node);
        let cost = evaluation.spent();
        budget.charge(cost)?;
        Ok(Evaluated { value: value?, cost })
    }
}
