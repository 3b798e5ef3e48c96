//! Custom resource definitions and aggregated APIs.

use std::collections::BTreeSet;

use serde_json::Value;

use super::field::{Errors, Field};
use super::{names, schema, values};
use crate::crd::Rules;

/// A CustomResourceDefinition.
pub(super) fn definition(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let group = spec.child("group");
    let wrong = names::dns_subdomain(group.text());
    if group.text().is_empty() {
        errors.push(group.required(""));
    } else if !wrong.is_empty() {
        errors.push(group.invalid(wrong.join(",")));
    } else if !group.text().contains('.') {
        errors.push(group.invalid("should be a domain with at least one dot"));
    }
    values::one_of(&spec.child("scope"), &["Cluster", "Namespaced"], errors);
    versions(&spec.child("versions"), errors);
    definition_names(&spec.child("names"), errors);
    conversion(&spec.child("conversion"), errors);
}

/// The rules of versions whose schema is new.
fn rules(versions: &Field<'_>, old: &[Value], errors: &mut Errors) {
    for version in versions.items() {
        let versioned = version.child("schema");
        let schema = versioned.child("openAPIV3Schema");
        let is_known = old.iter().any(|old| old["schema"]["openAPIV3Schema"] == *schema.value());
        if is_known || !schema.is_set() {
            continue;
        }
        for error in Rules::compile(schema.value()).1 {
            let mut said = schema.invalid(error.message);
            said.field = format!("{}.{}", said.field, error.path);
            said.value = Value::Null;
            errors.push(said);
        }
    }
}

/// A new CustomResourceDefinition: its name says what it defines.
pub(super) fn create(root: &Field<'_>, errors: &mut Errors) {
    rules(&root.child("spec").child("versions"), &[], errors);
    let wanted = format!("{}.{}", root.text_at("/spec/names/plural"), root.text_at("/spec/group"));
    let metadata = root.child("metadata");
    let name = metadata.child("name");
    if name.text() != wanted {
        errors.push(name.invalid("must be spec.names.plural+\".\"+spec.group"));
    }
}

fn versions(list: &Field<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let mut is_unique = true;
    let mut stored = 0;
    for version in list.items() {
        let name = version.child("name");
        let wrong = names::dns_1035_label(name.text());
        if !wrong.is_empty() {
            errors.push(name.invalid(wrong.join(",")));
        }
        is_unique &= seen.insert(name.text().to_owned());
        stored += usize::from(version.flag_at("/storage"));
        let versioned = version.child("schema");
        let open_api = versioned.child("openAPIV3Schema");
        if open_api.is_set() {
            schema::structural(&open_api, errors);
        } else {
            errors.push(open_api.required("schemas are required"));
        }
        printer_columns(&version.child("additionalPrinterColumns"), errors);
        let subresources = version.child("subresources");
        let scale = subresources.child("scale");
        if scale.is_set() {
            scale_paths(&scale, errors);
        }
    }
    if !is_unique {
        errors.push(list.invalid("must contain unique version names"));
    }
    if stored != 1 {
        errors.push(list.invalid("must have exactly one version marked as storage version"));
    }
}

fn printer_columns(columns: &Field<'_>, errors: &mut Errors) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    for column in columns.items() {
        values::required_text(&column.child("name"), errors);
        values::one_of(&column.child("type"), &TYPES, errors);
        values::required_text(&column.child("jsonPath"), errors);
    }
}

fn scale_paths(scale: &Field<'_>, errors: &mut Errors) {
    for (key, prefix) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let path = scale.child(key);
        if path.text().is_empty() {
            errors.push(path.required(""));
        } else if !path.text().starts_with(&format!("{prefix}.")) {
            errors.push(path.invalid(format!("should be a json path under {prefix}")));
        }
    }
}

fn definition_names(spec: &Field<'_>, errors: &mut Errors) {
    for key in ["plural", "singular"] {
        let name = spec.child(key);
        let wrong = names::dns_1035_label(name.text());
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if !wrong.is_empty() {
            errors.push(name.invalid(wrong.join(",")));
        }
    }
    for key in ["kind", "listKind"] {
        let name = spec.child(key);
        let wrong = names::dns_1035_label(&name.text().to_lowercase());
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if !wrong.is_empty() {
            let message = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(name.invalid(message));
        }
    }
    for key in ["shortNames", "categories"] {
        for name in spec.child(key).items() {
            let wrong = names::dns_1035_label(name.text());
            if !wrong.is_empty() {
                errors.push(name.invalid(wrong.join(",")));
            }
        }
    }
    if !spec.text_at("/kind").is_empty() && spec.text_at("/kind") == spec.text_at("/listKind") {
        errors.push(spec.child("listKind").invalid("kind and listKind may not be the same"));
    }
}

fn conversion(conversion: &Field<'_>, errors: &mut Errors) {
    if !conversion.is_set() {
        return;
    }
    values::one_of(&conversion.child("strategy"), &["None", "Webhook"], errors);
    let webhook = conversion.child("webhook");
    if conversion.text_at("/strategy") == "Webhook" {
        if !webhook.has("/clientConfig") {
            errors.push(webhook.child("clientConfig").required("required when strategy is set to Webhook"));
        }
        if webhook.list_at("/conversionReviewVersions").is_empty() {
            errors.push(webhook.child("conversionReviewVersions").required(""));
        }
    } else if webhook.is_set() {
        errors.push(webhook.forbidden("should not be set when strategy is not set to Webhook"));
    }
}

/// What a definition is for stays what it was.
pub(super) fn update(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    rules(&new.child("versions"), old.list_at("/versions"), errors);
    values::immutable(&new.child("group"), &old.child("group"), errors);
    let (names, before) = (new.child("names"), old.child("names"));
    values::immutable(&names.child("plural"), &before.child("plural"), errors);
    values::immutable(&new.child("scope"), &old.child("scope"), errors);
}

/// A new APIService: its name says which version it serves.
pub(super) fn api_service(root: &Field<'_>, errors: &mut Errors) {
    let wanted = format!("{}.{}", root.text_at("/spec/version"), root.text_at("/spec/group"));
    let metadata = root.child("metadata");
    let name = metadata.child("name");
    if name.text() != wanted {
        errors.push(name.invalid(format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\"")));
    }
}
