//! What a call costs once its arguments and result are known (cel-go, `interpreter/runtimecost.go`;
//! apiserver, `pkg/cel/library/cost.go`).

use super::{LIST_CREATE, REGEX, STRUCT_CREATE, TRAVERSAL};
use crate::value::Value;

/// How the cost of a call comes about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    Fixed(u64),
    /// Going through the first argument so many times.
    Traverse(f64),
    /// Going through the shorter argument; values of libraries are compared at once.
    Shorter,
    /// Going through both arguments.
    Both,
    /// Looking for one text in another.
    Contains,
    /// A text and a regular expression.
    Pattern,
    /// Every element of the second argument.
    Elements,
    /// Everything below the first argument.
    Tree,
    /// Going through the result twice.
    Result,
    /// Every element of one list with every one of another, so many times.
    Pairs(f64),
    /// A list as long as the result.
    Made,
    /// A list as long as the first argument says.
    Counted,
    /// A list as long as the first argument, for each level.
    Flattened,
    /// Every element of an argument with every other.
    SelfPairs(usize),
    Selector,
    ContainsIp {
        parse: bool,
    },
    ContainsCidr {
        parse: bool,
    },
    Validate,
}

/// The rule of a function, and of its overload if only one came into question.
pub(crate) fn rule(function: &str, overload: Option<&str>) -> Rule {
    let id = overload.unwrap_or_default();
    if let Some(rule) = by_list_overload(id) {
        return rule;
    }
    match function {
        "check" => Rule::Fixed(350_000),
        "fieldSelector" | "labelSelector" => Rule::Selector,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => Rule::Tree,
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => {
            Rule::Traverse(1.0)
        }
        "replace" | "split" | "ip.isCanonical" => Rule::Traverse(2.0),
        "join" => Rule::Result,
        "find" | "findAll" => Rule::Pattern,
        "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => Rule::Traverse(1.0),
        "ip" if id == "cidr_ip" => Rule::Fixed(1),
        "ip" => Rule::Traverse(1.0),
        "containsIP" => Rule::ContainsIp { parse: id == "cidr_contains_ip_string" },
        "containsCIDR" => Rule::ContainsCidr { parse: id == "cidr_contains_cidr_string" },
        "validate" => Rule::Validate,
        _ => by_overload(id),
    }
}

fn by_list_overload(id: &str) -> Option<Rule> {
    Some(match id {
        "list_sets_contains_list" | "list_sets_intersects_list" => Rule::Pairs(1.0),
        "list_sets_equivalent_list" => Rule::Pairs(2.0),
        "list_slice" | "list_reverse" => Rule::Made,
        "lists_range" => Rule::Counted,
        "list_flatten" | "list_flatten_int" => Rule::Flattened,
        "list_distinct" => Rule::SelfPairs(0),
        _ if id.starts_with("list_") && id.ends_with("_sort") => Rule::SelfPairs(0),
        _ if id.starts_with("list_") && id.ends_with("_sortByAssociatedKeys") => Rule::SelfPairs(1),
        _ => return None,
    })
}

fn by_overload(id: &str) -> Rule {
    match id {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => Rule::Traverse(1.0),
        "in_list" => Rule::Elements,
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes"
        | "equals"
        | "not_equals" => Rule::Shorter,
        "add_string" | "add_bytes" => Rule::Both,
        "matches" | "matches_string" => Rule::Pattern,
        "contains_string" => Rule::Contains,
        _ => Rule::Fixed(1),
    }
}

fn traverse(size: u64, times: f64) -> u64 {
    (size as f64 * times * TRAVERSAL).ceil() as u64
}

impl Rule {
    /// The arguments alone decide, so that a call can be paid for before it is made.
    pub(crate) fn known_before(self) -> bool {
        !matches!(self, Self::Made | Self::Result)
    }

    /// The cost of a call with these arguments.
    pub(crate) fn cost(self, args: &[Value<'_>], result: &Value<'_>) -> u64 {
        let size = |i: usize| args.get(i).map_or(1, Value::size);
        match self {
            Self::Fixed(cost) => cost,
            Self::Traverse(times) => traverse(size(0), times),
            Self::Shorter if args.first().is_some_and(compared_at_once) => 1,
            Self::Shorter => traverse(size(0).min(size(1)), 1.0),
            Self::Both => traverse(size(0) + size(1), 1.0),
            Self::Contains => traverse(size(0), 1.0).saturating_mul(traverse(size(1), 1.0)),
            Self::Pattern => pattern(size(0), size(1)),
            Self::Elements => size(1),
            Self::Tree => args.first().map_or(0, tree),
            Self::Result => traverse(result.size(), 2.0),
            Self::Pairs(times) => ((size(0).saturating_mul(size(1)) as f64 * times) as u64).saturating_add(1),
            Self::Made => made(1.0, result.size()),
            Self::Counted => match args.first() {
                Some(Value::Int(n)) => made(1.0, u64::try_from(*n).unwrap_or(0)),
                _ => 1,
            },
            Self::Flattened => {
                let depth = if let Some(Value::Int(depth)) = args.get(1) { *depth as f64 } else { 1.0 };
                made(depth, size(0))
            }
            Self::SelfPairs(i) => self_pairs(args.get(i)),
            Self::Selector => selector(size(1)),
            Self::ContainsIp { parse } => {
                traverse(2 * size(0), 1.0) + if parse { traverse(size(1), 1.0) } else { 0 }
            }
            Self::ContainsCidr { parse } => {
                let masked = traverse(size(0), 1.0) + 1;
                traverse(2 * size(0), 1.0) + masked + if parse { traverse(size(1), 1.0) } else { 0 }
            }
            Self::Validate => match args.first() {
                Some(Value::Format(format)) => pattern(size(1), format.regex_size),
                _ => 1,
            },
        }
    }
}

fn pattern(text: u64, pattern: u64) -> u64 {
    let text = ((1.0 + text as f64) * TRAVERSAL).ceil() as u64;
    text.saturating_mul((pattern as f64 * REGEX).ceil() as u64)
}

fn made(times: f64, size: u64) -> u64 {
    ((size as f64 * times) as u64).saturating_add(1 + LIST_CREATE)
}

fn self_pairs(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return made(2.0, 0) };
    let texts = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let size = list.len() as u64;
    made(if texts { 2.0 + TRAVERSAL } else { 2.0 }, size.saturating_mul(size))
}

/// A selector: going through it, and a requirement for every second character.
fn selector(size: u64) -> u64 {
    let requirements = (size as f64 * 0.5).ceil() as u64;
    LIST_CREATE + traverse(size, 1.0) + requirements * (LIST_CREATE + STRUCT_CREATE)
}

fn compared_at_once(value: &Value<'_>) -> bool {
    matches!(
        value,
        Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(_)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Check(_)
    )
}

/// The cost of going through all of a value.
fn tree(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.iter().map(|item| item.map_or(1, |item| tree(&item))).sum(),
        Value::Map(map) => {
            map.entries().iter().map(|(key, value)| tree(key) + value.as_ref().map_or(1, tree)).sum()
        }
        _ => 1,
    }
}
