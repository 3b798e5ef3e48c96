//! What admission policies found out about a request, for the audit log.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Binding, Policy, Violation};
use crate::audit;

/// Characters of an annotation at the most, as upstream's bytes.
const MAX_ANNOTATION: usize = 10 << 10;

/// What policies have for the audit log.
#[derive(Default)]
pub(super) struct Findings {
    broken: Vec<Value>,
    /// By `POLICY/KEY`; several bindings may say something under one.
    annotations: BTreeMap<String, Vec<String>>,
}

impl Findings {
    pub(super) fn broken(&mut self, policy: &Policy, binding: &Binding, violation: &Violation) {
        let actions: Vec<&str> =
            [(binding.denies, "Deny"), (binding.warns, "Warn"), (binding.audits, "Audit")]
                .into_iter()
                .filter_map(|(is, name)| is.then_some(name))
                .collect();
        self.broken
            .push(json!({"message": violation.message, "policy": policy.name, "binding": binding.name,
            "expressionIndex": violation.place, "validationActions": actions}));
    }

    pub(super) fn annotation(&mut self, policy: &Policy, key: &str, value: &str) {
        let value: String = value.trim().chars().take(MAX_ANNOTATION).collect();
        let values = self.annotations.entry(format!("{}/{key}", policy.name)).or_default();
        if !value.is_empty() && !values.contains(&value) {
            values.push(value);
        }
    }

    pub(super) fn write_down(self) {
        audit::note(|record| {
            for (key, values) in self.annotations {
                if !values.is_empty() {
                    record.annotate(&key, values.join(", "));
                }
            }
            if !self.broken.is_empty() {
                let text = Value::Array(self.broken).to_string();
                record.annotate("validation.policy.admission.k8s.io/validation_failure", text);
            }
        });
    }
}
