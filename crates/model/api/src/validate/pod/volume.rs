//! Volumes of a pod: names, and exactly one source each.

use std::collections::BTreeSet;

use wharf_base::Quantity;

use super::container::local_path;
use crate::table::tree;
use crate::validate::field::{Errors, Field};
use crate::validate::{names, values};

/// The names of the volumes of a pod that mounts may refer to.
pub(super) type Volumes<'a> = BTreeSet<&'a str>;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// Least and most seconds a token lives.
const TOKEN_SECONDS: (i64, i64) = (10 * 60, 1 << 32);

/// Checks all volumes; the names of those that are right.
pub(super) fn all<'a>(list: &Field<'a>, errors: &mut Errors) -> Volumes<'a> {
    let mut seen = Volumes::new();
    for (volume, value) in list.items().zip(list.list_at("")) {
        let mut wrong = Errors::new();
        source(&volume, &mut wrong);
        let name = volume.child("name");
        values::required_name(&name, names::dns_label, &mut wrong);
        if seen.contains(name.text()) {
            wrong.push(name.duplicate());
        }
        if wrong.is_empty() {
            seen.insert(tree::text(value, "/name"));
        }
        errors.append(&mut wrong);
    }
    seen
}

/// Tokens of a service account need a service account.
pub(super) fn forbid_tokens(list: &Field<'_>, errors: &mut Errors) {
    for volume in list.items() {
        let projected = volume.child("projected");
        for source in projected.child("sources").items() {
            let token = source.child("serviceAccountToken");
            if token.is_set() {
                errors.push(token.forbidden("must not be specified when serviceAccountName is not set"));
            }
        }
    }
}

/// One source, and what it needs.
fn source(volume: &Field<'_>, errors: &mut Errors) {
    let mut has_source = false;
    for (key, _) in volume.entries().filter(|(key, field)| *key != "name" && field.is_set()) {
        let field = volume.child(key);
        if has_source {
            errors.push(field.forbidden("may not specify more than 1 volume type"));
        } else {
            has_source = true;
            source_of_kind(key, &field, errors);
        }
    }
    if !has_source {
        errors.push(volume.required("must specify a volume type"));
    }
}

fn source_of_kind(kind: &str, source: &Field<'_>, errors: &mut Errors) {
    match kind {
        "emptyDir" => empty_dir(source, errors),
        "hostPath" => host_path(source, errors),
        "secret" => {
            values::required_text(&source.child("secretName"), errors);
            files(source, errors);
        }
        "configMap" => {
            values::required_text(&source.child("name"), errors);
            files(source, errors);
        }
        "downwardAPI" => {
            mode(&source.child("defaultMode"), errors);
            downward_files(source, errors);
        }
        "projected" => projected(source, errors),
        "persistentVolumeClaim" => values::required_text(&source.child("claimName"), errors),
        "nfs" => {
            values::required_text(&source.child("server"), errors);
            let path = source.child("path");
            values::required_text(&path, errors);
            if !path.text().starts_with('/') {
                errors.push(path.invalid("must be an absolute path"));
            }
        }
        "csi" => values::required_text(&source.child("driver"), errors),
        "ephemeral" => {
            let template = source.child("volumeClaimTemplate");
            if !template.is_set() {
                errors.push(template.required(""));
            }
        }
        _ => {}
    }
}

fn empty_dir(source: &Field<'_>, errors: &mut Errors) {
    let limit = source.child("sizeLimit");
    let parsed = tree::scalar(limit.value()).parse::<Quantity>();
    if limit.is_set() && !parsed.is_ok_and(|limit| limit >= Quantity::ZERO) {
        errors.push(limit.forbidden("SizeLimit field must be a valid resource quantity"));
    }
}

fn host_path(source: &Field<'_>, errors: &mut Errors) {
    const TYPES: [&str; 8] =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = source.child("path");
    values::required_text(&path, errors);
    if path.text().split('/').any(|part| part == "..") {
        errors.push(path.invalid("must not contain '..'"));
    }
    values::optionally_one_of(&source.child("type"), &TYPES, errors);
}

/// The mode and the items of a secret or a config map.
fn files(source: &Field<'_>, errors: &mut Errors) {
    mode(&source.child("defaultMode"), errors);
    for item in source.child("items").items() {
        values::required_text(&item.child("key"), errors);
        let path = item.child("path");
        values::required_text(&path, errors);
        local_path(&path, path.text(), errors);
        if path.text().starts_with("..") && !path.text().starts_with("../") {
            errors.push(path.invalid("must not start with '..'"));
        }
        mode(&item.child("mode"), errors);
    }
}

fn downward_files(source: &Field<'_>, errors: &mut Errors) {
    for item in source.child("items").items() {
        let path = item.child("path");
        values::required_text(&path, errors);
        local_path(&path, path.text(), errors);
        match (item.has("/fieldRef"), item.has("/resourceFieldRef")) {
            (true, true) => {
                errors.push(source.invalid_as(
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                ));
            }
            (false, false) => {
                errors.push(source.required("one of fieldRef and resourceFieldRef is required"));
            }
            _ => {}
        }
        mode(&item.child("mode"), errors);
    }
}

fn projected(source: &Field<'_>, errors: &mut Errors) {
    mode(&source.child("defaultMode"), errors);
    for part in source.child("sources").items() {
        if part.entries().filter(|(_, field)| field.is_set()).count() > 1 {
            errors.push(part.forbidden("may not specify more than 1 volume type per source"));
        }
        for key in ["secret", "configMap"] {
            let field = part.child(key);
            if field.is_set() {
                values::required_text(&field.child("name"), errors);
                files(&field, errors);
            }
        }
        downward_files(&part.child("downwardAPI"), errors);
        let token = part.child("serviceAccountToken");
        if token.is_set() {
            token_source(&token, errors);
        }
    }
}

fn token_source(token: &Field<'_>, errors: &mut Errors) {
    let seconds = token.child("expirationSeconds");
    let (least, most) = TOKEN_SECONDS;
    match seconds.value().as_i64() {
        Some(number) if number < least => {
            errors.push(seconds.invalid("may not specify a duration less than 10 minutes"));
        }
        Some(number) if number > most => {
            errors.push(seconds.invalid("may not specify a duration larger than 2^32 seconds"));
        }
        _ => {}
    }
    values::required_text(&token.child("path"), errors);
}

fn mode(field: &Field<'_>, errors: &mut Errors) {
    if field.value().as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.push(field.invalid(MODE));
    }
}
