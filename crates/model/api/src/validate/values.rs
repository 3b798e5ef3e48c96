//! Checks that many kinds share: numbers, ports, percentages, quantities, labels, selectors, enumerations.

use serde_json::Value;
use wharf_base::Quantity;

use super::field::{Errors, Field};
use super::names::{self, Rule};
use crate::table::tree;

/// What a field says that may not change.
pub(super) const IMMUTABLE: &str = "field is immutable";

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// The text must be a name of a form.
pub(super) fn named(field: &Field<'_>, rule: Rule, errors: &mut Errors) {
    errors.extend(rule(field.text()).into_iter().map(|message| field.invalid(message)));
}

/// The text, if there is one, must be a name of a form.
pub(super) fn optionally_named(field: &Field<'_>, rule: Rule, errors: &mut Errors) {
    if !field.text().is_empty() {
        named(field, rule, errors);
    }
}

/// There must be a text, and it must be a name of a form.
pub(super) fn required_name(field: &Field<'_>, rule: Rule, errors: &mut Errors) {
    if field.text().is_empty() {
        errors.push(field.required(""));
    } else {
        named(field, rule, errors);
    }
}

/// There must be a text.
pub(super) fn required_text(field: &Field<'_>, errors: &mut Errors) {
    if field.text().is_empty() {
        errors.push(field.required(""));
    }
}

/// The text must be one of a few; no text is missing.
pub(super) fn one_of(field: &Field<'_>, supported: &[&str], errors: &mut Errors) {
    match field.text() {
        "" => errors.push(field.required("")),
        text if supported.contains(&text) => {}
        _ => errors.push(field.not_supported(supported)),
    }
}

/// The text, if the field is set, must be one of a few.
pub(super) fn optionally_one_of(field: &Field<'_>, supported: &[&str], errors: &mut Errors) {
    if field.is_set() && !supported.contains(&field.text()) {
        errors.push(field.not_supported(supported));
    }
}

/// The transport protocol of a port.
pub(super) fn protocol(field: &Field<'_>, errors: &mut Errors) {
    one_of(field, &PROTOCOLS, errors);
}

/// The numbers of some fields, where set, must not be negative.
pub(super) fn nonnegative(parent: &Field<'_>, fields: &[&str], errors: &mut Errors) {
    for name in fields {
        let field = parent.child(name);
        if field.value().as_i64().is_some_and(|number| number < 0) {
            errors.push(field.invalid("must be greater than or equal to 0"));
        }
    }
}

/// The number, where set, must be within bounds.
pub(super) fn in_range(field: &Field<'_>, least: i64, most: i64, errors: &mut Errors) {
    if field.value().as_i64().is_some_and(|number| number < least || number > most) {
        errors.push(field.invalid(format!("must be between {least} and {most}, inclusive")));
    }
}

/// The number of a port; a missing one counts as zero.
pub(super) fn port_number(field: &Field<'_>, errors: &mut Errors) {
    let number = field.value().as_i64().unwrap_or_default();
    if !(1..=65535).contains(&number) {
        errors.push(field.invalid_as(number, "must be between 1 and 65535, inclusive"));
    }
}

/// The number or the name of a port.
pub(super) fn port_or_name(field: &Field<'_>, errors: &mut Errors) {
    if field.value().is_string() {
        named(field, names::port_name, errors)
    } else {
        port_number(field, errors)
    }
}

/// A number that is not negative, or a percentage.
pub(super) fn int_or_percent(field: &Field<'_>, errors: &mut Errors) {
    match field.value() {
        Value::String(text) => {
            errors.extend(names::percent(text).into_iter().map(|message| field.invalid(message)));
        }
        value if value.as_i64().is_some_and(|number| number < 0) => {
            errors.push(field.invalid("must be greater than or equal to 0"));
        }
        _ => {}
    }
}

/// A percentage of at most 100.
pub(super) fn at_most_all(field: &Field<'_>, errors: &mut Errors) {
    let percent = field.text().strip_suffix('%').and_then(|digits| digits.parse::<u64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        errors.push(field.invalid("must not be greater than 100%"));
    }
}

/// The number, or the number of percent.
pub(super) fn amount(value: &Value) -> i64 {
    match value {
        Value::String(text) => {
            text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or_default()
        }
        other => other.as_i64().unwrap_or_default(),
    }
}

/// The quantity here; an error where it is none.
pub(super) fn quantity(field: &Field<'_>, errors: &mut Errors) -> Option<Quantity> {
    let parsed: Option<Quantity> = tree::scalar(field.value()).parse().ok();
    if parsed.is_none() {
        errors.push(field.invalid(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ));
    }
    parsed
}

/// A quantity that is not negative.
pub(super) fn nonnegative_quantity(field: &Field<'_>, errors: &mut Errors) -> Option<Quantity> {
    let quantity = quantity(field, errors)?;
    if quantity < Quantity::ZERO {
        errors.push(field.invalid_as(quantity.to_string(), "must be greater than or equal to 0"));
    }
    Some(quantity)
}

/// A quantity above zero.
pub(super) fn positive_quantity(field: &Field<'_>, errors: &mut Errors) {
    if let Some(quantity) = quantity(field, errors)
        && quantity <= Quantity::ZERO
    {
        errors.push(field.invalid_as(quantity.to_string(), "must be greater than zero"));
    }
}

/// Labels: their keys and values.
pub(super) fn labels(field: &Field<'_>, errors: &mut Errors) {
    for (key, value) in field.entries() {
        errors.extend(names::qualified_name(key).into_iter().map(|message| field.invalid_as(key, message)));
        let text = value.text();
        errors.extend(names::label_value(text).into_iter().map(|message| field.invalid_as(text, message)));
    }
}

/// A label selector.
pub(super) fn selector(field: &Field<'_>, errors: &mut Errors) {
    labels(&field.child("matchLabels"), errors);
    for expression in field.child("matchExpressions").items() {
        requirement(&expression, errors);
    }
}

fn requirement(expression: &Field<'_>, errors: &mut Errors) {
    let values = expression.child("values");
    match expression.text_at("/operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                errors.push(
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                );
            }
        }
        _ => errors.push(expression.child("operator").invalid("not a valid selector operator")),
    }
    named(&expression.child("key"), names::qualified_name, errors);
    for value in values.items() {
        named(&value, names::label_value, errors);
    }
}

/// Whether a selector, already checked, holds for a set of labels.
pub(super) fn selects(selector: &Value, labels: &Value) -> bool {
    let held = |key: &str| labels.get(key).and_then(Value::as_str);
    tree::entries(selector, "/matchLabels").all(|(key, value)| held(key) == value.as_str())
        && tree::list(selector, "/matchExpressions").iter().all(|expression| {
            let value = held(tree::text(expression, "/key"));
            let listed =
                tree::list(expression, "/values").iter().any(|v| value.is_some() && v.as_str() == value);
            match tree::text(expression, "/operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

/// The field must be what it was; missing and null are the same.
pub(super) fn immutable(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    if new.value() != old.value() {
        errors.push(new.invalid(IMMUTABLE));
    }
}
