//! What a call may cost, by the sizes its arguments may have (apiserver, `pkg/cel/library/cost.go`;
//! cel-go, `ext/lists.go`, `ext/sets.go`, `checker/cost.go`).

use super::{
    LIST_CREATE, REGEX, STRUCT_CREATE, TRAVERSAL,
    estimate::{Arg, Place},
    range::Range,
};
use crate::{
    ast::{Kind, Literal, op},
    types::{Opaque, Type},
};

type Estimate = (Range, Option<Range>);

/// Longest pattern a named format is assumed to have.
const LONGEST_FORMAT_PATTERN: f64 = 128.0;
/// Longest name of a format.
const LONGEST_FORMAT: u64 = 64;

const ONE: Range = Range::exactly(1);

/// The cost of the call without that of its arguments, and the size of its result; none if the call
/// is one of those whose cost is always the same, or follows from its arguments'.
pub(super) fn estimate(
    function: &str,
    id: &str,
    target: Option<&Arg<'_>>,
    args: &[Arg<'_>],
) -> Option<Estimate> {
    extension(id, target, args)
        .or_else(|| kubernetes(function, id, target, args))
        .or_else(|| standard(id, target, args))
}

/// The size of an argument; what nothing is known of may be of any size.
fn size(arg: &Arg<'_>) -> Range {
    arg.size.or_else(|| arg.place.and_then(Place::size)).unwrap_or(Range::UNKNOWN)
}

fn extension(id: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Estimate> {
    let made = |factor: f64, size: Range| {
        Some((size.scaled(factor).plus(Range::exactly(1 + LIST_CREATE)), Some(size)))
    };
    match (id, target, args) {
        ("list_sets_contains_list" | "list_sets_intersects_list", _, [a, b]) => {
            Some((size(a).times(size(b)).plus(ONE), None))
        }
        ("list_sets_equivalent_list", _, [a, b]) => {
            Some((size(a).times(size(b)).scaled(2.0).plus(ONE), None))
        }
        ("list_slice", Some(list), [start, end]) => {
            let (start, end) = (integer(start, 0), integer(end, size(list).max));
            made(1.0, Range::exactly(end.wrapping_sub(start)))
        }
        ("lists_range", None, [n]) => made(1.0, Range::exactly(integer(n, u64::MAX))),
        ("list_reverse", Some(list), []) => made(1.0, size(list)),
        ("list_flatten", Some(list), []) => made(1.0, size(list)),
        ("list_flatten_int", Some(list), [depth]) => made(integer(depth, u64::MAX) as f64, size(list)),
        ("list_distinct", Some(list), []) => made(2.0, size(list).times(size(list))),
        (_, Some(list), []) if id.starts_with("list_") && id.ends_with("_sort") => {
            made(pair_cost(id), size(list).times(size(list)))
        }
        (_, Some(_), [keys]) if id.ends_with("_sortByAssociatedKeys") => {
            made(pair_cost(id), size(keys).times(size(keys)))
        }
        _ => None,
    }
}

/// The cost of comparing two elements when sorting.
fn pair_cost(id: &str) -> f64 {
    if id.starts_with("list_string_") || id.starts_with("list_bytes_") { 2.0 + TRAVERSAL } else { 2.0 }
}

fn integer(arg: &Arg<'_>, otherwise: u64) -> u64 {
    match &arg.expr.kind {
        Kind::Literal(Literal::Int(i)) => u64::try_from(*i).unwrap_or(0),
        _ => otherwise,
    }
}

fn kubernetes(function: &str, id: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Estimate> {
    let traversed = |size: Range| Some((size.scaled(TRAVERSAL), Some(size)));
    match (function, target, args) {
        ("check", ..) => Some((Range::exactly(350_000), None)),
        ("fieldSelector" | "labelSelector", _, [selector]) => Some((selector_cost(size(selector)), None)),
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
            Some((through(target), None))
        }
        ("url" | "jsonpatch.escapeKey", _, [text]) => traversed(size(text)),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(text), _) => traversed(size(text)),
        ("replace", Some(text), [old, new, ..]) => Some(replace(size(text), size(old), size(new))),
        ("split", Some(text), _) => Some(split(size(text), args)),
        ("join", Some(list), _) => traversed(joined(list, args)),
        ("find" | "findAll", Some(text), [pattern, ..]) => {
            let found = Range { min: 0, max: size(text).max };
            Some((matching(size(text), size(pattern)), Some(found)))
        }
        ("ip", ..) if id == "cidr_ip" => Some((ONE, None)),
        ("ip.isCanonical", _, [text]) => Some((size(text).scaled(2.0 * TRAVERSAL), None)),
        (
            "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver",
            _,
            [text, ..],
        ) => Some((size(text).scaled(TRAVERSAL), None)),
        ("containsIP", _, [other]) => Some((contains(other, id == "cidr_contains_ip_string", false), None)),
        ("containsCIDR", _, [other]) => {
            Some((contains(other, id == "cidr_contains_cidr_string", true), None))
        }
        ("validate", _, [text]) => {
            Some((size(text).scaled(TRAVERSAL).scaled(LONGEST_FORMAT_PATTERN * REGEX), None))
        }
        (op::EQUALS, _, [a, b]) if a.ty == b.ty => Some((equality(a.ty, b)?, None)),
        _ => None,
    }
}

fn selector_cost(size: Range) -> Range {
    let requirements = size.scaled(0.5).scaled((LIST_CREATE + STRUCT_CREATE) as f64);
    Range::exactly(LIST_CREATE).plus(size.scaled(TRAVERSAL)).plus(requirements)
}

/// Every element of a list once, texts in it with their length; or a text.
fn through(target: &Arg<'_>) -> Range {
    let of = match target.ty {
        Type::List(of) | Type::Optional(of) | Type::Type(of) => of,
        Type::Map(of) => &of.0,
        _ => return size(target).scaled(TRAVERSAL),
    };
    let mut element = ONE;
    if matches!(of, Type::String | Type::Bytes) {
        element = element.plus(element_size(target).scaled(TRAVERSAL));
    }
    size(target).times(element)
}

fn element_size(list: &Arg<'_>) -> Range {
    list.place.and_then(|place| place.items().size()).unwrap_or(Range::UNKNOWN)
}

fn replace(text: Range, old: Range, new: Range) -> Estimate {
    let (mut count, mut kept) = (Range::ZERO, Range::ZERO);
    if old.min == 0 {
        // An empty text is found around every character.
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / old.max as f64).ceil() as u64;
    }
    (text.scaled(2.0 * TRAVERSAL), Some(count.times(new).plus(kept)))
}

fn split(text: Range, args: &[Arg<'_>]) -> Estimate {
    let max = match args.get(1).map(|arg| &arg.expr.kind) {
        Some(Kind::Literal(Literal::Int(n))) => *n as u64,
        _ => text.max,
    };
    (text.scaled(2.0 * TRAVERSAL), Some(Range { min: 0, max }))
}

fn joined(list: &Arg<'_>, args: &[Arg<'_>]) -> Range {
    let count = size(list);
    let texts = count.times(element_size(list));
    let between = Range { min: count.min.saturating_sub(1), max: count.max.saturating_sub(1) };
    args.first().map_or(texts, |separator| texts.plus(size(separator).times(between)))
}

fn matching(text: Range, pattern: Range) -> Range {
    text.plus(ONE).scaled(TRAVERSAL).times(pattern.scaled(REGEX))
}

fn contains(other: &Arg<'_>, parse: bool, cidr: bool) -> Range {
    let bytes = Range { min: 4, max: 16 };
    let mut cost = bytes.plus(bytes).scaled(TRAVERSAL);
    if cidr {
        cost = cost.plus(bytes.scaled(TRAVERSAL)).plus(ONE);
    }
    if parse { cost.plus(size(other).scaled(TRAVERSAL)) } else { cost }
}

/// Values of libraries are compared at once, URLs and formats by their length.
fn equality(ty: &Type, other: &Arg<'_>) -> Option<Range> {
    let Type::Opaque(opaque) = ty else { return None };
    Some(match opaque {
        Opaque::Format => Range { min: 1, max: LONGEST_FORMAT }.scaled(TRAVERSAL),
        Opaque::Url => Range { min: 1, max: other.size.map_or(1, |size| size.max) }.scaled(TRAVERSAL),
        _ => ONE,
    })
}

fn standard(id: &str, target: Option<&Arg<'_>>, args: &[Arg<'_>]) -> Option<Estimate> {
    let known = |arg: &Arg<'_>| arg.size_or_unknown();
    match (id, target, args) {
        ("string_format", Some(text), _) => Some((known(text).scaled(TRAVERSAL), None)),
        ("string_to_bytes", _, [text]) => {
            let size = known(text);
            let result = Range { min: size.min, max: size.max.wrapping_mul(4) };
            Some((size.scaled(TRAVERSAL), Some(result)))
        }
        ("bytes_to_string", _, [bytes]) => {
            let size = known(bytes);
            Some((size.scaled(TRAVERSAL), Some(Range { min: size.min / 4, max: size.max })))
        }
        ("strings_quote", _, [text]) => {
            let size = known(text);
            let result =
                Range { min: size.min.wrapping_add(2), max: size.max.wrapping_mul(2).wrapping_add(2) };
            Some((size.scaled(TRAVERSAL), Some(result)))
        }
        ("starts_with_string" | "ends_with_string", _, [part]) => Some((known(part).scaled(TRAVERSAL), None)),
        ("in_list", _, [_, list]) => Some((known(list).scaled(1.0), None)),
        ("matches_string", Some(text), [pattern]) => Some((matching(known(text), known(pattern)), None)),
        ("contains_string", Some(text), [part]) => {
            Some((known(text).scaled(TRAVERSAL).times(known(part).scaled(TRAVERSAL)), None))
        }
        ("equals" | "not_equals", _, [a, b]) => Some((shorter(known(a), known(b)), None)),
        (_, _, [a, b]) if ordered_texts(id) => Some((shorter(known(a), known(b)), None)),
        _ => None,
    }
}

fn ordered_texts(id: &str) -> bool {
    (id.starts_with("less_") || id.starts_with("greater_"))
        && (id.ends_with("_string") || id.ends_with("_bytes"))
}

fn shorter(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range { min: u64::from(max > 0), max }.scaled(TRAVERSAL)
}
