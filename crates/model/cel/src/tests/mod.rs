//! Expressions and what they come to.

mod compile;
mod costs;
mod estimates;
mod language;
mod libraries;
mod random;
mod rules;
mod schema;
mod values;

use serde_json::json;

use crate::{Activation, Budget, Env, Value};

/// The value of an expression without variables as JSON text, or why there is none.
fn value_of(source: &str) -> String {
    value_in(&Env::new(), source, &Activation::new())
}

fn value_in<'a>(env: &Env, source: &str, activation: &Activation<'a>) -> String {
    // Programs live as long as their results; tests need not give them back.
    let program = match env.compile(source) {
        Ok(program) => Box::leak(Box::new(program)),
        Err(issues) => return issues.to_string(),
    };
    match program.eval(activation, &mut Budget::default()) {
        Ok(result) => show(&result.value),
        Err(error) => format!("error: {error}"),
    }
}

fn show(value: &Value<'_>) -> String {
    match value {
        Value::Uint(u) => format!("{u}u"),
        Value::Type(ty) => ty.head().to_owned(),
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(value)) => format!("some({})", show(value)),
        other => other.to_json().unwrap_or(json!("?")).to_string(),
    }
}

fn check_all(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .map(|(source, expect)| (source, expect, value_of(source)))
        .filter(|(_, expect, found)| !(found == *expect || (expect.len() > 12 && found.contains(**expect))))
        .map(|(source, expect, found)| format!("{source}\n  expected {expect}\n  found    {found}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
