//! Signatures of tables: `(string, int) -> bool`, of members `list(T).(T) -> int`. `{C}` stands for
//! every type that has an order, `{S}` for every one that can be summed up: one overload for each.

use std::sync::Arc;

use super::{Overload, Row};
use crate::types::{Opaque, Type};

const ORDERED: [&str; 8] = ["int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"];
const SUMMED: [&str; 4] = ["int", "uint", "double", "duration"];

/// The overloads of a row.
pub(super) fn overloads(row: &Row) -> Vec<Overload> {
    let (function, id, signature, run) = *row;
    let names: &[&str] = if signature.contains("{C}") {
        &ORDERED
    } else if signature.contains("{S}") {
        &SUMMED
    } else {
        &[""]
    };
    let one = |name: &&str| {
        let signature = signature.replace("{C}", name).replace("{S}", name);
        let (member, args, result) = parse(&signature);
        Overload { function, id: id.replace("{C}", name).replace("{S}", name), member, args, result, run }
    };
    names.iter().map(one).collect()
}

fn parse(signature: &str) -> (bool, Vec<Type>, Type) {
    let (args, result) = signature.split_once(" -> ").unwrap_or((signature, "dyn"));
    let (target, args) = args.split_once(".(").map_or((None, args), |(target, args)| (Some(target), args));
    let args = args.strip_prefix('(').unwrap_or(args).strip_suffix(')').unwrap_or(args);
    let mut types: Vec<Type> = target.into_iter().map(ty).collect();
    types.extend(split(args).into_iter().map(ty));
    (target.is_some(), types, ty(result))
}

/// Splits at commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn ty(name: &str) -> Type {
    if let Some((head, parts)) = name.split_once('(') {
        let parts: Vec<Type> = split(parts.strip_suffix(')').unwrap_or(parts)).into_iter().map(ty).collect();
        return match (head, parts.as_slice()) {
            ("list", [of]) => Type::list(of.clone()),
            ("optional", [of]) => Type::optional(of.clone()),
            ("type", [of]) => Type::Type(Arc::new(of.clone())),
            ("map", [key, value]) => Type::map(key.clone(), value.clone()),
            _ => Type::Error,
        };
    }
    match name {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "A" => Type::Param("A"),
        "B" => Type::Param("B"),
        "quantity" => Type::Opaque(Opaque::Quantity),
        "url" => Type::Opaque(Opaque::Url),
        "ip" => Type::Opaque(Opaque::Ip),
        "cidr" => Type::Opaque(Opaque::Cidr),
        "format" => Type::Opaque(Opaque::Format),
        "semver" => Type::Opaque(Opaque::Semver),
        "authorizer" => Type::Opaque(Opaque::Authorizer),
        "path" => Type::Opaque(Opaque::PathCheck),
        "group" => Type::Opaque(Opaque::GroupCheck),
        "resource" => Type::Opaque(Opaque::ResourceCheck),
        "decision" => Type::Opaque(Opaque::Decision),
        _ => Type::Error,
    }
}

#[cfg(test)]
mod tests {
    use crate::{library::OVERLOADS, types::Type};

    #[test]
    fn every_signature_is_understood() {
        fn wrong(ty: &Type) -> bool {
            matches!(ty, Type::Error) || ty.parts().into_iter().any(wrong)
        }
        for overload in OVERLOADS.iter() {
            assert!(!overload.args.iter().any(wrong) && !wrong(&overload.result), "{}", overload.id);
        }
    }

    /// What tells overloads apart does not look into maps.
    #[test]
    fn maps_are_of_anything() {
        let any =
            |ty: &Type| !matches!(ty, Type::Map(of) if !matches!(**of, (Type::Param(_), Type::Param(_))));
        assert!(OVERLOADS.iter().all(|overload| overload.args.iter().all(any)));
    }
}
