//! Config maps and secrets: keys, sizes, what a secret's type asks for, and those that may not change.

use super::field::{Errors, Field};
use super::{names, values};

/// How many bytes all entries together may have.
const SIZE_LIMIT: usize = 1 << 20;
const SEALED: &str = "field is immutable when `immutable` is set";

/// A ConfigMap.
pub(super) fn config_map(root: &Field<'_>, errors: &mut Errors) {
    let (data, binary) = (root.child("data"), root.child("binaryData"));
    let mut size = 0;
    for (key, value) in data.entries() {
        entry_key(&data, key, errors);
        if binary.key(key).is_set() {
            errors.push(data.key(key).invalid_as(key, "duplicate of key present in binaryData"));
        }
        size += value.text().len();
    }
    for (key, value) in binary.entries() {
        entry_key(&binary, key, errors);
        size += decoded_len(value.text());
    }
    if size > SIZE_LIMIT {
        // Upstream's path is empty.
        errors.push(root.too_long(SIZE_LIMIT));
    }
}

/// What may not change in a ConfigMap.
pub(super) fn update_config_map(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    sealed(new, old, &["data", "binaryData"], errors);
}

/// A Secret.
pub(super) fn secret(root: &Field<'_>, errors: &mut Errors) {
    let data = root.child("data");
    let mut size = 0;
    for (key, value) in data.entries() {
        entry_key(&data, key, errors);
        size += decoded_len(value.text());
    }
    if size > SIZE_LIMIT {
        errors.push(data.too_long(SIZE_LIMIT));
    }
    required_entries(root, &data, errors);
}

/// The entries that the type of a secret asks for.
fn required_entries(root: &Field<'_>, data: &Field<'_>, errors: &mut Errors) {
    let needed: &[&str] = match root.text_at("/type") {
        "kubernetes.io/service-account-token" => {
            let metadata = root.child("metadata");
            let annotations = metadata.child("annotations");
            let name = annotations.key("kubernetes.io/service-account.name");
            values::required_text(&name, errors);
            &[]
        }
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/basic-auth" if data.key("username").is_set() || data.key("password").is_set() => &[],
        "kubernetes.io/basic-auth" => &["username", "password"],
        _ => &[],
    };
    for key in needed {
        let entry = data.key(key);
        if !entry.is_set() {
            errors.push(entry.required(""));
        }
    }
}

/// What may not change in a Secret.
pub(super) fn update_secret(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    values::immutable(&new.child("type"), &old.child("type"), errors);
    sealed(new, old, &["data"], errors);
}

/// An object marked immutable keeps its mark and its data.
fn sealed(new: &Field<'_>, old: &Field<'_>, parts: &[&str], errors: &mut Errors) {
    if !old.flag_at("/immutable") {
        return;
    }
    if !new.flag_at("/immutable") {
        errors.push(new.child("immutable").forbidden(SEALED));
    }
    for part in parts {
        if new.child(part).value() != old.child(part).value() {
            errors.push(new.child(part).forbidden(SEALED));
        }
    }
}

fn entry_key(map: &Field<'_>, key: &str, errors: &mut Errors) {
    let entry = map.key(key);
    errors.extend(names::config_key(key).into_iter().map(|message| entry.invalid_as(key, message)));
}

/// How many bytes base64 stands for.
fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}
