//! Label and field selectors in their query form (`a=b,c!=d,e in (f,g),!h`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::table::tree;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A conjunction of requirements on labels; the empty selector selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    Greater(String, i64),
    Less(String, i64),
    Never,
}

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Not of the grammar.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// The resource cannot be selected by this field.
    #[error("field label not supported: {0}")]
    Field(String),
}

/// Requirements a selector may hold.
const MAX_REQUIREMENTS: usize = 200;

impl LabelSelector {
    /// Parses the query form.
    ///
    /// # Errors
    /// When the text is not of the grammar.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let parts: Vec<&str> = split_outside(text);
        if parts.len() > MAX_REQUIREMENTS {
            return Err(SelectorError::Syntax(format!("more than {MAX_REQUIREMENTS} requirements")));
        }
        parts
            .into_iter()
            .map(str::trim)
            .filter(|p| !p.is_empty())
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// From a `metav1.LabelSelector` object; an absent one selects nothing, an empty one everything.
    pub fn from_object(selector: Option<&Value>) -> Self {
        let Some(selector) = selector.and_then(Value::as_object) else {
            return Self(vec![Requirement::Never]);
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::In(key.clone(), vec![value]));
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(|v| v.as_str().map(str::to_owned)).collect();
            requirements.push(match expression["operator"].as_str() {
                Some("In") => Requirement::In(key, values),
                Some("NotIn") => Requirement::NotIn(key, values),
                Some("Exists") => Requirement::Exists(key),
                Some("DoesNotExist") => Requirement::Absent(key),
                _ => Requirement::Never,
            });
        }
        Self(requirements)
    }

    /// From a plain map, as a Service's or ReplicationController's selector.
    pub fn from_map(selector: &Labels) -> Self {
        Self(selector.iter().map(|(k, v)| Requirement::In(k.clone(), vec![v.clone()])).collect())
    }

    /// Selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let number = |key: &String| labels.get(key).and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.contains_key(key),
            Self::Absent(key) => !labels.contains_key(key),
            Self::Greater(key, n) => number(key).is_some_and(|v| v > *n),
            Self::Less(key, n) => number(key).is_some_and(|v| v < *n),
            Self::Never => false,
        }
    }
}

/// A `metav1.LabelSelector` object in the query form, as it is written after `-l`; `None` when it cannot be written.
pub fn written(selector: &Value) -> Option<String> {
    let mut requirements: Vec<(&str, String)> = tree::entries(selector, "/matchLabels")
        .map(|(key, value)| (key, format!("{key}={}", tree::scalar(value))))
        .collect();
    for expression in tree::list(selector, "/matchExpressions") {
        requirements.push((tree::text(expression, "/key"), written_requirement(expression)?));
    }
    requirements.sort_by_key(|(key, _)| *key);
    let texts: Vec<String> = requirements.into_iter().map(|(_, text)| text).collect();
    Some(texts.join(","))
}

/// One element of `matchExpressions`.
fn written_requirement(expression: &Value) -> Option<String> {
    let key = tree::text(expression, "/key");
    let mut values: Vec<&str> = tree::list(expression, "/values").iter().filter_map(Value::as_str).collect();
    values.sort_unstable();
    match tree::text(expression, "/operator") {
        "In" => Some(format!("{key} in ({})", values.join(","))),
        "NotIn" => Some(format!("{key} notin ({})", values.join(","))),
        "Exists" => Some(key.to_owned()),
        "DoesNotExist" => Some(format!("!{key}")),
        _ => None,
    }
}

/// Splits at commas that are not in parentheses.
fn split_outside(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let bad = || SelectorError::Syntax(format!("found '{text}'"));
    let key = |k: &str| {
        let k = k.trim();
        let ok = !k.is_empty() && k.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if ok { Ok(k.to_owned()) } else { Err(bad()) }
    };
    let value = |v: &str| {
        let v = v.trim();
        let ok = v.len() <= 63 && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        if ok { Ok(v.to_owned()) } else { Err(bad()) }
    };
    if let Some(absent) = text.strip_prefix('!') {
        return Ok(Requirement::Absent(key(absent)?));
    }
    if let Some((head, list)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
        let (name, operator) = head.trim().rsplit_once(char::is_whitespace).ok_or_else(bad)?;
        let values = list.split(',').map(value).collect::<Result<_, _>>()?;
        return match operator {
            "in" => Ok(Requirement::In(key(name)?, values)),
            "notin" => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(bad()),
        };
    }
    let number = |v: &str| v.trim().parse::<i64>().map_err(|_| bad());
    if let Some((k, v)) = text.split_once("!=") {
        Ok(Requirement::NotIn(key(k)?, vec![value(v)?]))
    } else if let Some((k, v)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Ok(Requirement::In(key(k)?, vec![value(v)?]))
    } else if let Some((k, v)) = text.split_once('>') {
        Ok(Requirement::Greater(key(k)?, number(v)?))
    } else if let Some((k, v)) = text.split_once('<') {
        Ok(Requirement::Less(key(k)?, number(v)?))
    } else {
        Ok(Requirement::Exists(key(text)?))
    }
}

/// A conjunction of `path=value` and `path!=value` requirements on fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Parses the query form for a resource that can be selected by `supported` paths.
    ///
    /// # Errors
    /// When the text is not of the grammar or names another path.
    pub fn parse(text: &str, supported: impl Fn(&str) -> bool) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (path, true, value)
            } else {
                return Err(SelectorError::Syntax(format!("invalid field selector: '{part}'")));
            };
            let path = path.trim();
            if !supported(path) {
                return Err(SelectorError::Field(path.to_owned()));
            }
            requirements.push((path.to_owned(), equal, value.trim().to_owned()));
        }
        Ok(Self(requirements))
    }

    /// Selects everything.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Every path it asks for.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(path, _, _)| path.as_str())
    }

    /// The value `path` must have, when the selector says so.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.0.iter().find(|(p, equal, _)| *equal && p == path).map(|(_, _, value)| value.as_str())
    }

    /// Whether an object is selected whose field at a path `read` gives.
    pub fn matches<'a>(&self, read: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|(path, equal, value)| (read(path).unwrap_or_default() == value) == *equal)
    }
}

/// A field objects can be selected by besides `metadata.name` and `metadata.namespace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selectable {
    /// Its name in selectors.
    pub path: &'static str,
    /// Where it is, as a JSON pointer; where that is empty, the second place counts.
    at: [&'static str; 2],
    /// What it is when it is not there.
    otherwise: &'static str,
}

impl Selectable {
    /// The field of an object as text.
    pub fn read(&self, object: &Value) -> Option<String> {
        let texts = self.at.iter().filter(|at| !at.is_empty()).filter_map(|at| text_at(object, at));
        let text = texts.into_iter().find(|text| !text.is_empty());
        text.or_else(|| (!self.otherwise.is_empty()).then(|| self.otherwise.to_owned()))
    }
}

/// What a selector sees at a JSON pointer: texts, numbers and truth values.
pub fn text_at(object: &Value, pointer: &str) -> Option<String> {
    match object.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Bool(_) | Value::Number(_)) => Some(value.to_string()),
        _ => None,
    }
}

const fn plain(path: &'static str, at: &'static str) -> Selectable {
    Selectable { path, at: [at, ""], otherwise: "" }
}

const fn with(otherwise: &'static str, field: Selectable) -> Selectable {
    Selectable { otherwise, ..field }
}

const POD: &[Selectable] = &[
    plain("spec.nodeName", "/spec/nodeName"),
    plain("spec.restartPolicy", "/spec/restartPolicy"),
    plain("spec.schedulerName", "/spec/schedulerName"),
    plain("spec.serviceAccountName", "/spec/serviceAccountName"),
    with("false", plain("spec.hostNetwork", "/spec/hostNetwork")),
    plain("status.phase", "/status/phase"),
    plain("status.podIP", "/status/podIP"),
    plain("status.podIPs", "/status/podIP"),
    plain("status.nominatedNodeName", "/status/nominatedNodeName"),
];
const SOURCE: Selectable = plain("source", "/source/component");
const REPORTER: Selectable = plain("reportingComponent", "/reportingComponent");
// Both names of each field, since both groups serve the same objects.
const EVENT: &[Selectable] = &[
    plain("involvedObject.kind", "/involvedObject/kind"),
    plain("involvedObject.namespace", "/involvedObject/namespace"),
    plain("involvedObject.name", "/involvedObject/name"),
    plain("involvedObject.uid", "/involvedObject/uid"),
    plain("involvedObject.apiVersion", "/involvedObject/apiVersion"),
    plain("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
    plain("involvedObject.fieldPath", "/involvedObject/fieldPath"),
    plain("regarding.kind", "/involvedObject/kind"),
    plain("regarding.namespace", "/involvedObject/namespace"),
    plain("regarding.name", "/involvedObject/name"),
    plain("regarding.uid", "/involvedObject/uid"),
    plain("regarding.apiVersion", "/involvedObject/apiVersion"),
    plain("regarding.resourceVersion", "/involvedObject/resourceVersion"),
    plain("regarding.fieldPath", "/involvedObject/fieldPath"),
    plain("reason", "/reason"),
    REPORTER,
    plain("reportingController", "/reportingComponent"),
    Selectable { at: ["/source/component", "/reportingComponent"], ..SOURCE },
    plain("type", "/type"),
];
const REPLICAS: &[Selectable] = &[with("0", plain("status.replicas", "/status/replicas"))];

/// What each resource can be selected by, by the group it is stored in.
pub fn selectable_fields(group: &str, plural: &str) -> &'static [Selectable] {
    match (group, plural) {
        ("", "pods") => POD,
        ("", "events") => EVENT,
        ("", "namespaces") => const { &[plain("status.phase", "/status/phase")] },
        ("", "nodes") => const { &[with("false", plain("spec.unschedulable", "/spec/unschedulable"))] },
        ("", "secrets") => const { &[plain("type", "/type")] },
        ("", "services") => {
            const { &[plain("spec.clusterIP", "/spec/clusterIP"), plain("spec.type", "/spec/type")] }
        }
        ("", "replicationcontrollers") | ("apps", "replicasets") => REPLICAS,
        ("batch", "jobs") => const { &[with("0", plain("status.successful", "/status/succeeded"))] },
        ("certificates.k8s.io", "certificatesigningrequests") => {
            const { &[plain("spec.signerName", "/spec/signerName")] }
        }
        ("resource.k8s.io", "resourceslices") => {
            const { &[plain("spec.nodeName", "/spec/nodeName"), plain("spec.driver", "/spec/driver")] }
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn label_selectors_select() {
        let labels = [("app", "web"), ("tier", "front"), ("n", "5")];
        for yes in [
            "",
            "app=web",
            "app==web,tier!=back",
            "app in (web, api)",
            "x notin (y)",
            "tier",
            "!x",
            "n>4",
            "n<6",
        ] {
            assert!(check(yes, &labels), "{yes}");
        }
        for no in ["app=api", "app in (api)", "app notin (web)", "x", "!app", "n>5"] {
            assert!(!check(no, &labels), "{no}");
        }
    }

    #[test]
    fn broken_selectors_are_refused() {
        for bad in ["a in b", "a in (b", "=x", "a=b c", "a b (c)", "!", "é=x"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_selectors_know_their_paths() {
        let supported = |p: &str| p == "status.phase";
        let selector = FieldSelector::parse("status.phase!=Running", supported).unwrap();
        assert!(selector.matches(|_| Some("Pending")));
        assert!(!selector.matches(|_| Some("Running")));
        assert!(FieldSelector::parse("spec.foo=1", supported).is_err());
    }
}
