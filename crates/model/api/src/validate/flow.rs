//! Priority levels and FlowSchemas.
//!
//! Source: `flowcontrol.apiserver.k8s.io/v1`; bounds on queues are those the server keeps.

use serde_json::{Value, json};

use super::field::{Errors, Field};
use super::{names, values};

/// Queues of a level, and requests in one of them, at the most.
const MOST: i64 = 100_000;
/// Bits of a flow's number that are used to deal its hand: with more the last card would be dealt unevenly.
const MAX_HASH_BITS: f64 = 60.0;
const LAST_PRECEDENCE: i64 = 10_000;
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const ALL: &str = "*";

/// A PriorityLevelConfiguration.
pub(super) fn level(root: &Field<'_>, errors: &mut Errors) {
    let (spec, name) = (root.child("spec"), root.text_at("/metadata/name"));
    let (kind, exempt, limited) = (spec.child("type"), spec.child("exempt"), spec.child("limited"));
    if (name == "exempt") != (kind.text() == "Exempt") {
        errors.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(&exempt, errors);
        }
        "Limited" => {
            if exempt.is_set() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            match limited.is_set() {
                true => limits(&limited, errors),
                false => errors.push(limited.required("must not be empty when type is Limited")),
            }
        }
        _ => errors.push(kind.not_supported(&["Exempt", "Limited"])),
    }
    if name == "catch-all" && *spec.value() != catch_all_level() {
        errors.push(spec.invalid("spec of 'catch-all' must equal the fixed value"));
    }
}

/// What the level `catch-all` is, whatever else there is.
fn catch_all_level() -> Value {
    json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "lendablePercent": 0,
        "limitResponse": {"type": "Reject"}}})
}

fn shares(part: &Field<'_>, errors: &mut Errors) {
    let (nominal, lendable) = (part.child("nominalConcurrencyShares"), part.child("lendablePercent"));
    if number(&nominal).is_some_and(|shares| shares < 0) {
        errors.push(nominal.invalid("must be a non-negative integer"));
    }
    values::in_range(&lendable, 0, 100, errors);
}

fn number(field: &Field<'_>) -> Option<i64> {
    field.value().as_i64()
}

fn limits(limited: &Field<'_>, errors: &mut Errors) {
    shares(limited, errors);
    let borrowing = limited.child("borrowingLimitPercent");
    if number(&borrowing).is_some_and(|percent| percent < 0) {
        errors.push(borrowing.invalid("if specified, must be a non-negative integer"));
    }
    let response = limited.child("limitResponse");
    let (kind, queues) = (response.child("type"), response.child("queuing"));
    match kind.text() {
        "Reject" if queues.is_set() => {
            errors.push(queues.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        "Reject" => {}
        "Queue" if queues.is_set() => queuing(&queues, errors),
        "Queue" => {
            errors.push(queues.required("must not be empty if limited.limitResponse.type is Limited"));
        }
        _ => errors.push(kind.not_supported(&["Queue", "Reject"])),
    }
}

fn queuing(queuing: &Field<'_>, errors: &mut Errors) {
    let [length, queues, hand] = ["queueLengthLimit", "queues", "handSize"].map(|name| queuing.child(name));
    for field in [&length, &queues] {
        match number(field).unwrap_or_default() {
            ..=0 => errors.push(field.invalid("must be positive")),
            many if many > MOST => errors.push(field.invalid(format!("must not be greater than {MOST}"))),
            _ => {}
        }
    }
    let (deck, dealt) = (number(&queues).unwrap_or_default(), number(&hand).unwrap_or_default());
    if dealt <= 0 {
        errors.push(hand.invalid("must be positive"));
    } else if dealt > deck {
        errors.push(hand.invalid(format!("should not be greater than queues ({deck})")));
    } else if ((deck as f64).log2() * dealt as f64).ceil() > MAX_HASH_BITS {
        errors.push(hand.invalid(format!(
            "required entropy bits of deckSize {deck} and handSize {dealt} should not be greater than {MAX_HASH_BITS}"
        )));
    }
}

/// A FlowSchema.
pub(super) fn schema(root: &Field<'_>, errors: &mut Errors) {
    let (spec, name) = (root.child("spec"), root.text_at("/metadata/name"));
    precedence(&spec.child("matchingPrecedence"), name, errors);
    let method = spec.child("distinguisherMethod");
    if method.is_set() && !["ByNamespace", "ByUser"].contains(&method.text_at("/type")) {
        errors.push(method.child("type").not_supported(&["ByNamespace", "ByUser"]));
    }
    let level = spec.child("priorityLevelConfiguration");
    let level = level.child("name");
    match level.text() {
        "" => errors.push(level.required("must reference a priority level")),
        _ => values::named(&level, names::dns_subdomain, errors),
    }
    spec.child("rules").items().for_each(|one| rule(&one, errors));
    if fixed_schema(name).is_some_and(|fixed| *spec.value() != fixed) {
        errors.push(spec.invalid(format!("spec of '{name}' must equal the fixed value")));
    }
}

fn precedence(field: &Field<'_>, name: &str, errors: &mut Errors) {
    match number(field).unwrap_or_default() {
        ..=0 => errors.push(field.invalid("must be a positive value")),
        1 if name != "exempt" => {
            errors.push(field.invalid("only the schema named 'exempt' may have matchingPrecedence 1"));
        }
        number if number > LAST_PRECEDENCE => {
            errors.push(field.invalid(format!("must not be greater than {LAST_PRECEDENCE}")));
        }
        _ => {}
    }
}

/// What the first and the last FlowSchema are, whatever else there is.
fn fixed_schema(name: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let everything = |subjects: Value| {
        json!([{"subjects": subjects,
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])
    };
    match name {
        "exempt" => Some(json!({"priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
            "rules": everything(json!([group("system:masters")]))})),
        "catch-all" => {
            let everybody = json!([group("system:unauthenticated"), group("system:authenticated")]);
            Some(json!({"priorityLevelConfiguration": {"name": "catch-all"},
                "matchingPrecedence": LAST_PRECEDENCE, "distinguisherMethod": {"type": "ByUser"},
                "rules": everything(everybody)}))
        }
        _ => None,
    }
}

fn rule(rule: &Field<'_>, errors: &mut Errors) {
    let subjects = rule.child("subjects");
    if subjects.is_empty() {
        errors.push(subjects.required("subjects must contain at least one value"));
    }
    subjects.items().for_each(|one| subject(&one, errors));
    let (resources, paths) = (rule.child("resourceRules"), rule.child("nonResourceRules"));
    if resources.is_empty() && paths.is_empty() {
        errors.push(rule.required("at least one of resourceRules and nonResourceRules has to be non-empty"));
    }
    resources.items().for_each(|one| resource_rule(&one, errors));
    paths.items().for_each(|one| path_rule(&one, errors));
}

fn subject(subject: &Field<'_>, errors: &mut Errors) {
    const KINDS: [(&str, &str); 3] =
        [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = subject.child("kind");
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind.text()) else {
        return errors.push(kind.not_supported(&KINDS.map(|(known, _)| known)));
    };
    let who = subject.child(own);
    match who.is_set() {
        false => {
            errors.push(who.required(format!("{own} is required when subject kind is '{}'", kind.text())))
        }
        true if *own == "serviceAccount" => account(&who, errors),
        true => values::required_text(&who.child("name"), errors),
    }
    for (other, field) in KINDS.iter().filter(|(_, field)| field != own) {
        let given = subject.child(field);
        if given.is_set() {
            errors.push(given.forbidden(format!("{field} is forbidden when subject kind is not '{other}'")));
        }
    }
}

fn account(account: &Field<'_>, errors: &mut Errors) {
    let (name, namespace) = (account.child("name"), account.child("namespace"));
    if name.text() != ALL {
        values::required_name(&name, names::dns_subdomain, errors);
    }
    match namespace.text() {
        "" => errors.push(namespace.required("must specify namespace for service account")),
        _ => values::named(&namespace, names::dns_label, errors),
    }
}

/// A list of some, or of all alone; gives whether it is of all.
fn some_or_all(field: &Field<'_>, missing: &str, what: &str, errors: &mut Errors) -> bool {
    let is_all = field.items().any(|item| item.text() == ALL);
    if field.is_empty() {
        errors.push(field.required(missing));
    } else if is_all && field.len() > 1 {
        errors.push(field.invalid(format!("if '*' is present, must not specify other {what}")));
    }
    is_all
}

fn verbs(rule: &Field<'_>, errors: &mut Errors) {
    let verbs = rule.child("verbs");
    let is_all = some_or_all(&verbs, "verbs must contain at least one value", "verbs", errors);
    if !is_all && verbs.items().any(|verb| !VERBS.contains(&verb.text())) {
        errors.push(verbs.not_supported(&VERBS));
    }
}

fn resource_rule(rule: &Field<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    let missing = "resource rules must supply at least one api group";
    some_or_all(&rule.child("apiGroups"), missing, "api groups", errors);
    let missing = "resource rules must supply at least one resource";
    some_or_all(&rule.child("resources"), missing, "resources", errors);
    let namespaces = rule.child("namespaces");
    if namespaces.is_empty() && rule.flag_at("/clusterScope") {
        return;
    }
    let missing = "resource rules that are not cluster scoped must supply at least one namespace";
    if some_or_all(&namespaces, missing, "namespaces", errors) {
        return;
    }
    for namespace in namespaces.items() {
        errors.extend(names::dns_label(namespace.text()).into_iter().map(|why| {
            namespace.invalid(format!("each member of this list must be '*' or a DNS-1123 label; {why}"))
        }));
    }
}

fn path_rule(rule: &Field<'_>, errors: &mut Errors) {
    verbs(rule, errors);
    let urls = rule.child("nonResourceURLs");
    let missing = "nonResourceURLs must contain at least one value";
    if !some_or_all(&urls, missing, "non-resource URLs", errors) {
        for url in urls.items() {
            errors.extend(path_error(url.text()).map(|why| url.invalid(why)));
        }
    }
}

fn path_error(path: &str) -> Option<&'static str> {
    let wildcards = path.matches('*').count();
    match () {
        () if path.is_empty() => Some("must not be empty"),
        () if !path.starts_with('/') => Some("must start with slash"),
        () if path.contains(' ') => Some("must not contain white-space"),
        () if path.contains("//") => Some("must not contain double slash"),
        () if wildcards > 1 || (wildcards == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        () => None,
    }
}
