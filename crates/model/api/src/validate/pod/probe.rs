//! Probes and hooks of a container, and their handlers.

use crate::validate::field::{Errors, Field};
use crate::validate::{names, values};

/// How a probe or a hook acts; exactly one must be given.
const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// The probes and hooks of a container.
pub(super) fn all(container: &Field<'_>, errors: &mut Errors) {
    let lifecycle = container.child("lifecycle");
    for hook in ["postStart", "preStop"] {
        let hook = lifecycle.child(hook);
        if hook.is_set() {
            handler(&hook, errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let field = container.child(name);
        if field.is_set() {
            probe(&field, name == "readinessProbe", errors);
        }
    }
}

fn probe(probe: &Field<'_>, is_readiness: bool, errors: &mut Errors) {
    handler(probe, errors);
    let counts =
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"];
    values::nonnegative(probe, &counts, errors);
    let grace = probe.child("terminationGracePeriodSeconds");
    if grace.value().as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.push(grace.invalid("must be greater than 0"));
    }
    let threshold = probe.child("successThreshold");
    if is_readiness && grace.is_set() {
        errors.push(grace.invalid("must not be set for readinessProbes"));
    }
    if !is_readiness && threshold.value().as_i64() != Some(1) {
        errors.push(threshold.invalid_as(probe.int_at("/successThreshold"), "must be 1"));
    }
}

fn handler(field: &Field<'_>, errors: &mut Errors) {
    let given: Vec<&str> = HANDLERS.into_iter().filter(|name| field.child(name).is_set()).collect();
    let Some((first, others)) = given.split_first() else {
        errors.push(field.required("must specify a handler type"));
        return;
    };
    for other in others {
        errors.push(field.child(other).forbidden("may not specify more than 1 handler type"));
    }
    let handler = field.child(first);
    match *first {
        "exec" => {
            let command = handler.child("command");
            if command.is_empty() {
                errors.push(command.required(""));
            }
        }
        "httpGet" => http_get(&handler, errors),
        "tcpSocket" => values::port_or_name(&handler.child("port"), errors),
        "grpc" => values::port_number(&handler.child("port"), errors),
        _ => {
            let seconds = handler.child("seconds");
            if seconds.value().as_i64().is_some_and(|seconds| seconds < 0) {
                errors.push(seconds.invalid("must be greater than or equal to 0"));
            }
        }
    }
}

fn http_get(http: &Field<'_>, errors: &mut Errors) {
    values::required_text(&http.child("path"), errors);
    values::port_or_name(&http.child("port"), errors);
    let scheme = http.child("scheme");
    if !matches!(scheme.text(), "HTTP" | "HTTPS") {
        errors.push(scheme.not_supported(&["HTTP", "HTTPS"]));
    }
    let headers = http.child("httpHeaders");
    for header in headers.items() {
        let name = header.text_at("/name");
        let wrong = names::header_name(name);
        errors.extend(wrong.into_iter().map(|message| headers.invalid_as(name, message)));
    }
}
