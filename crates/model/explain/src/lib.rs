//! What fields of Kubernetes' kinds mean, for people: what `kubectl explain` prints.
//!
//! The texts are those of the crate k8s-openapi, collected when this is built; unpacked when somebody first asks.

use std::{collections::HashMap, sync::LazyLock};

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.zst"));

/// What is said of a type and of its fields.
#[derive(Debug, Default)]
struct Described {
    text: &'static str,
    fields: HashMap<&'static str, &'static str>,
}

static TYPES: LazyLock<HashMap<&'static str, Described>> = LazyLock::new(|| {
    let text = zstd::decode_all(PACKED).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    // Kept for the life of the program, as what it was packed into would be.
    read(Box::leak(text.unwrap_or_default().into_boxed_str()))
});

fn read(text: &'static str) -> HashMap<&'static str, Described> {
    let mut types: HashMap<&'static str, Described> = HashMap::new();
    let mut current = "";
    for line in text.lines() {
        let mut parts = line.splitn(3, '\t');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("T"), Some(name), said) => {
                current = name;
                types.entry(name).or_default().text = said.unwrap_or_default();
            }
            (Some(field), Some(said), _) => {
                types.entry(current).or_default().fields.insert(field, said);
            }
            _ => {}
        }
    }
    types
}

/// What a type is (`api.core.v1.Pod`).
pub fn of_type(name: &str) -> Option<&'static str> {
    TYPES.get(name).map(|described| described.text).filter(|text| !text.is_empty())
}

/// What a field of a type is, by its name in JSON.
pub fn of_field(name: &str, field: &str) -> Option<&'static str> {
    TYPES.get(name)?.fields.get(field).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        assert!(of_type("api.core.v1.Pod").unwrap().starts_with("Pod is a collection"));
        assert!(of_field("api.core.v1.Pod", "spec").unwrap().contains("desired behavior"));
        assert!(of_field("api.core.v1.PodSpec", "hostIPC").is_some());
        assert!(of_field("apimachinery.pkg.apis.meta.v1.ObjectMeta", "creationTimestamp").is_some());
        assert!(of_field("api.core.v1.Container", "image").is_some(), "a plain one");
        assert!(of_field("api.core.v1.Container", "nosuch").is_none());
        assert!(TYPES.len() > 500, "{}", TYPES.len());
    }
}
