//! Environment variables of a container.

use crate::validate::field::{Errors, Field};
use crate::validate::{names, values};

/// Where a variable's value may come from.
const SOURCES: [&str; 5] = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
/// Fields of the pod that a variable may hold.
const FIELDS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.host",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The list of variables.
pub(super) fn variables(list: &Field<'_>, errors: &mut Errors) {
    for variable in list.items() {
        values::required_name(&variable.child("name"), names::env_name, errors);
        let source = variable.child("valueFrom");
        if source.is_set() {
            value_from(&source, !variable.text_at("/value").is_empty(), errors);
        }
    }
}

fn value_from(source: &Field<'_>, has_value: bool, errors: &mut Errors) {
    let given: Vec<&str> = SOURCES.into_iter().filter(|name| source.child(name).is_set()).collect();
    for name in &given {
        reference(&source.child(name), name, errors);
    }
    if given.is_empty() {
        errors.push(source.invalid_as(
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ));
    } else if has_value {
        errors.push(source.invalid_as("", "may not be specified when `value` is not empty"));
    } else if given.len() > 1 {
        errors.push(source.invalid_as("", "may not have more than one field specified at a time"));
    }
}

fn reference(field: &Field<'_>, source: &str, errors: &mut Errors) {
    match source {
        "fieldRef" => field_ref(field, errors),
        "resourceFieldRef" => values::required_text(&field.child("resource"), errors),
        "configMapKeyRef" | "secretKeyRef" => {
            values::named(&field.child("name"), names::dns_subdomain, errors);
            values::required_name(&field.child("key"), names::config_key, errors);
        }
        _ => {
            values::required_name(&field.child("volumeName"), names::dns_label, errors);
            values::required_name(&field.child("key"), names::env_name, errors);
        }
    }
}

fn field_ref(field: &Field<'_>, errors: &mut Errors) {
    let path = field.child("fieldPath");
    values::required_text(&field.child("apiVersion"), errors);
    values::required_text(&path, errors);
    if path.text().is_empty() {
        return;
    }
    if let Some((map, key)) = path.text().strip_suffix(']').and_then(|path| path.split_once('[')) {
        let key = key.trim_matches(|c: char| c == '\'' || c == '"');
        match map {
            "metadata.labels" | "metadata.annotations" => {
                let wrong = names::qualified_name(key);
                errors.extend(wrong.into_iter().map(|message| field.invalid_as(key, message)));
            }
            _ => errors.push(field.invalid_as(map, "does not support subscript")),
        }
    } else if !FIELDS.contains(&path.text()) {
        let message = format!("error converting fieldPath: field label not supported: {}", path.text());
        errors.push(path.invalid(message));
    }
}

/// The list of whole config maps and secrets.
pub(super) fn sources(list: &Field<'_>, errors: &mut Errors) {
    for source in list.items() {
        values::optionally_named(&source.child("prefix"), names::env_name, errors);
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            let reference = source.child(key);
            if reference.is_set() {
                count += 1;
                values::required_name(&reference.child("name"), names::dns_subdomain, errors);
            }
        }
        if count == 0 {
            errors.push(list.invalid_as("", "must specify one of: `configMapRef` or `secretRef`"));
        } else if count > 1 {
            errors.push(list.invalid_as("", "may not have more than one field specified at a time"));
        }
    }
}
