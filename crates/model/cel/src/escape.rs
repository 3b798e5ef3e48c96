//! JSON names as identifiers of expressions, and back.
//!
//! Source: Kubernetes API, `x-kubernetes-validations`: "property names are escaped according to the
//! following rules when accessed in the expression".

use crate::parse::{KEYWORDS, RESERVED};

const SEQUENCES: [(&str, &str); 4] =
    [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// It cannot be an identifier.
fn is_word(name: &str) -> bool {
    KEYWORDS.contains(&name) || RESERVED.contains(&name)
}

/// The identifier for a property, if there is one: letters, digits, `_`, `.`, `-` and `/` only, no
/// digit first.
pub fn escape(name: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(allowed) {
        return None;
    }
    if is_word(name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let sequence = SEQUENCES.into_iter().find(|(plain, _)| rest.starts_with(plain));
        let (taken, written) = sequence.unwrap_or((&rest[..c.len_utf8()], &rest[..c.len_utf8()]));
        out.push_str(written);
        rest = &rest[taken.len()..];
    }
    Some(out)
}

/// The property an identifier stands for, unless it has a sequence that means nothing.
pub fn unescape(identifier: &str) -> Option<String> {
    let mut out = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some(start) = rest.find("__") {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let end = inner.find('_').unwrap_or(inner.len());
        let closed = end > 0 && inner[end..].starts_with("__");
        if !closed {
            // Not of the form `__x__`: the first underscore is itself, what follows may begin a sequence.
            out.push('_');
            rest = &rest[start + 1..];
            continue;
        }
        let sequence = &rest[start..start + 2 + end + 2];
        out.push_str(plain(sequence, identifier)?);
        rest = &rest[start + sequence.len()..];
    }
    out.push_str(rest);
    Some(out)
}

fn plain<'a>(sequence: &'a str, whole: &str) -> Option<&'a str> {
    if let Some((plain, _)) = SEQUENCES.into_iter().find(|(_, escaped)| *escaped == sequence) {
        return Some(plain);
    }
    let word = sequence.trim_matches('_');
    (is_word(word) && sequence.len() == whole.len()).then_some(word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{escape, unescape};

    #[test]
    fn names_become_identifiers() {
        for (name, expect) in [
            ("a", Some("a")),
            ("a.b", Some("a__dot__b")),
            ("a-b/c", Some("a__dash__b__slash__c")),
            ("namespace", Some("__namespace__")),
            ("if", Some("__if__")),
            ("int", Some("int")),
            ("a__b", Some("a__underscores__b")),
            ("___a", Some("__underscores___a")),
            ("__dot__", Some("__underscores__dot__underscores__")),
            ("", None),
            ("1a", None),
            ("a b", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(escape(name).as_deref(), expect, "{name}");
        }
        for (identifier, expect) in
            [("__illegal__", None), ("a__if__", None), ("__if__", Some("if")), ("a_b", Some("a_b"))]
        {
            assert_eq!(unescape(identifier).as_deref(), expect, "{identifier}");
        }
    }

    proptest! {
        #[test]
        fn escaping_can_be_undone(name in "[a-z_./-][a-z0-9_./-]{0,20}") {
            prop_assume!(!name.contains("___"));
            let escaped = escape(&name).expect("legal name");
            prop_assert_eq!(unescape(&escaped), Some(name));
        }
    }
}
