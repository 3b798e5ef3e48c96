//! Validation rules of custom resources (`x-kubernetes-validations`): compiled once with a definition, evaluated on
//! every write, on what changed.
//!
//! Source: Kubernetes' `apiextensions.k8s.io/v1` ValidationRule; values that a write leaves as they were are not
//! judged again (ratcheting), except by rules about the change.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Map, Value};
use wharf_cel::{
    Activation, Budget, Decl, DeclKind, ESTIMATED_CRD_LIMIT, ESTIMATED_RULE_LIMIT, Env, EvalError,
    FailureKind, MESSAGE_LIMIT, ObjectDecl, Program, Topology, Type, Value as Cel,
};

use super::{Earlier, merge};
use crate::{schema::Merge, status::Cause};

/// Nesting of a schema beyond which rules are not looked for.
const MAX_DEPTH: usize = 64;

/// The rules of a schema and of what is below it.
#[derive(Debug, Default)]
pub struct Rules {
    here: Vec<Rule>,
    decl: Option<Arc<Decl>>,
    kind: String,
    topology: Merge,
    fields: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    values: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    program: Program,
    source: String,
    message: String,
    message_expression: Option<Program>,
    reason: String,
    field_path: String,
    /// Judges a change; with no value before only if it says so.
    transition: bool,
    optional_old: bool,
}

/// A rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Where it stands, below the schema: `properties[spec].x-kubernetes-validations[0].rule`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Rules {
    /// Compiles the rules of a version's schema; those that cannot be used are left out and told. Told are also
    /// those that cost too much, alone or all together.
    pub fn compile(schema: &Value) -> (Self, Vec<RuleError>) {
        let mut said = Said::default();
        let rules = compile(schema, Place::ROOT, "", MAX_DEPTH, &mut said);
        said.total();
        (rules, said.errors)
    }

    /// Whether there is any rule.
    pub fn is_empty(&self) -> bool {
        // What has none is left out below.
        self.here.is_empty() && self.fields.is_empty() && self.items.is_none() && self.values.is_none()
    }

    /// What an object breaks, `old` being what it was before.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut run = Run { budget: Budget::default(), causes: Vec::new() };
        run.visit(self, new, old, "");
        run.causes
    }
}

#[derive(Clone, Copy)]
struct Place {
    root: bool,
    embedded: bool,
    /// How often it may occur in an object, if all lists and maps it is in have bounds.
    most: Option<u64>,
}

impl Place {
    const ROOT: Self = Self { root: true, embedded: false, most: Some(1) };

    /// A place below, in what the schema may have so many of.
    fn below(self, schema: &Value) -> Self {
        let bound = |name: &str| Some(schema[name].as_i64()?.max(0).unsigned_abs());
        let elements = match schema["type"].as_str() {
            Some("array") => bound("maxItems"),
            Some("object") if schema["additionalProperties"].is_object() => bound("maxProperties"),
            _ => Some(1),
        };
        let most = self.most.zip(elements).map(|(most, elements)| most.saturating_mul(elements));
        Self { root: false, embedded: false, most }
    }

    /// How often a value may occur at most: without bounds as often as it fits into a request.
    fn cardinality(self, decl: &Decl) -> u64 {
        self.most.unwrap_or_else(|| decl.max_cardinality())
    }
}

/// What is wrong with rules, and what all are estimated to cost.
#[derive(Default)]
struct Said {
    errors: Vec<RuleError>,
    total: u64,
    /// Rules that have a part in the total worth telling.
    dear: Vec<(u64, String)>,
}

/// How many of the dearest rules are told of when all together cost too much.
const DEAREST: usize = 4;

impl Said {
    /// What an expression costs, however often it is evaluated.
    fn cost(&mut self, cost: u64, what: &str, path: String) {
        if cost > ESTIMATED_RULE_LIMIT {
            let message = exceeds(what, cost, ESTIMATED_RULE_LIMIT);
            self.errors.push(RuleError { path: path.clone(), message });
        }
        self.total = self.total.saturating_add(cost);
        if cost >= ESTIMATED_CRD_LIMIT / 100 {
            self.dear.push((cost, path));
        }
    }

    fn total(&mut self) {
        if self.total <= ESTIMATED_CRD_LIMIT {
            return;
        }
        self.dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, path) in self.dear.drain(..).take(DEAREST) {
            let message =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(RuleError { path, message: message.to_owned() });
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        let message = exceeds(what, self.total, ESTIMATED_CRD_LIMIT);
        self.errors.push(RuleError { path: "x-kubernetes-validations".to_owned(), message });
    }
}

fn exceeds(what: &str, cost: u64, limit: u64) -> String {
    let times = match cost as f64 / limit as f64 {
        times if times > 100.0 => "more than 100x".to_owned(),
        // As one digit it would read like the budget itself.
        times if times < 1.5 => format!("{times:.6}x"),
        times => format!("{times:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {times} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

fn compile(schema: &Value, place: Place, path: &str, depth: usize, said: &mut Said) -> Rules {
    let Some(depth) = depth.checked_sub(1) else { return Rules::default() };
    let below = |at: &str| if path.is_empty() { at.to_owned() } else { format!("{path}.{at}") };
    let inner = place.below(schema);
    let mut rules = Rules {
        kind: schema["type"].as_str().unwrap_or_default().to_owned(),
        topology: merge(schema),
        ..Rules::default()
    };
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let place = Place { embedded: property["x-kubernetes-embedded-resource"] == true, ..inner };
        let found = compile(property, place, &below(&format!("properties[{name}]")), depth, said);
        if !found.is_empty() {
            rules.fields.insert(name.clone(), found);
        }
    }
    for (key, slot) in [("items", &mut rules.items), ("additionalProperties", &mut rules.values)] {
        if schema[key].is_object() {
            let found = compile(&schema[key], inner, &below(key), depth, said);
            *slot = (!found.is_empty()).then(|| Box::new(found));
        }
    }
    let list = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return rules;
    }
    let decl = decl_of(schema, place, MAX_DEPTH).named(if place.root { "selfType" } else { "object" });
    for (at, rule) in list.iter().enumerate() {
        let at = below(&format!("x-kubernetes-validations[{at}]"));
        match one(rule, &decl) {
            Ok(rule) => {
                let most = rule.program.estimate_cost().max.saturating_mul(place.cardinality(&decl));
                said.cost(most, "estimated rule cost", format!("{at}.rule"));
                if let Some(message) = &rule.message_expression {
                    let most = message.estimate_cost().max;
                    said.cost(most, "estimated messageExpression cost", format!("{at}.messageExpression"));
                }
                rules.here.push(rule);
            }
            Err((field, message)) => said.errors.push(RuleError { path: format!("{at}.{field}"), message }),
        }
    }
    rules.decl = Some(Arc::new(decl));
    rules
}

fn one(rule: &Value, decl: &Decl) -> Result<Rule, (&'static str, String)> {
    let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
    let (source, optional_old) = (text("rule"), rule["optionalOldSelf"] == true);
    let old = if optional_old { Type::optional(decl.ty()) } else { decl.ty() };
    let env = Env::new().var("self", decl);
    let env = if optional_old { env.var_of("oldSelf", old) } else { env.var("oldSelf", decl) };
    let compiled = |field, source: &str| {
        env.compile(source).map_err(|issues| (field, format!("compilation failed: {issues}")))
    };
    let program = compiled("rule", source.trim())?;
    if !matches!(program.result_type(), Type::Bool | Type::Dyn) {
        return Err(("rule", "cel expression must evaluate to a bool".into()));
    }
    let message_expression = match text("messageExpression").trim() {
        "" => None,
        expression => {
            let program = compiled("messageExpression", expression)?;
            if !matches!(program.result_type(), Type::String | Type::Dyn) {
                return Err(("messageExpression", "must evaluate to a string".into()));
            }
            Some(program)
        }
    };
    let transition = program.uses("oldSelf");
    let (message, field_path) = (text("message"), text("fieldPath"));
    let reason = match text("reason").as_str() {
        "" => "FieldValueInvalid".to_owned(),
        reason => reason.to_owned(),
    };
    Ok(Rule { program, source, message, message_expression, reason, field_path, transition, optional_old })
}

/// How expressions see the values of a schema.
pub fn declaration(schema: &Value) -> Decl {
    decl_of(schema, Place::ROOT, MAX_DEPTH).named("object")
}

fn decl_of(schema: &Value, place: Place, depth: usize) -> Decl {
    let Some(depth) = depth.checked_sub(1) else { return Decl::new(DeclKind::Dyn).nullable() };
    let inner = |schema: &Value| {
        let embedded = schema["x-kubernetes-embedded-resource"] == true;
        decl_of(schema, Place { root: false, embedded, most: None }, depth)
    };
    let mut decl = if schema["x-kubernetes-int-or-string"] == true {
        Decl::new(DeclKind::IntOrString)
    } else {
        match schema["type"].as_str() {
            Some("string") => text_decl(schema),
            Some("boolean") => Decl::new(DeclKind::Bool),
            Some("integer") => Decl::new(DeclKind::Int),
            Some("number") => Decl::new(DeclKind::Double),
            Some("array") => {
                let topology = match merge(schema) {
                    Merge::Set => Topology::Set,
                    Merge::Keys(keys) => Topology::Map(keys),
                    _ => Topology::Atomic,
                };
                sized(Decl::list_of(inner(&schema["items"]), topology), &schema["maxItems"])
            }
            Some("object") => match &schema["additionalProperties"] {
                values @ Value::Object(_) => sized(Decl::map(inner(values)), &schema["maxProperties"]),
                _ => Decl::object(object_decl(schema, place, &inner)),
            },
            _ => Decl::new(DeclKind::Dyn).nullable(),
        }
    };
    decl.nullable |= schema["nullable"] == true;
    decl
}

fn sized(decl: Decl, most: &Value) -> Decl {
    match most.as_u64() {
        Some(most) => decl.max_size(most),
        None => decl,
    }
}

fn text_decl(schema: &Value) -> Decl {
    let kind = match schema["format"].as_str() {
        Some("byte") => DeclKind::Bytes,
        Some("date-time") => DeclKind::Timestamp,
        Some("date") => DeclKind::Date,
        Some("duration") => DeclKind::Duration,
        _ => DeclKind::String,
    };
    let decl = sized(Decl::new(kind), &schema["maxLength"]);
    let allowed = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    match allowed.map(|text| text.chars().count()).max() {
        Some(longest) => decl.longest_value(longest as u64),
        None => decl,
    }
}

fn object_decl(schema: &Value, place: Place, inner: &dyn Fn(&Value) -> Decl) -> ObjectDecl {
    let required =
        |name: &str| schema["required"].as_array().into_iter().flatten().any(|required| required == name);
    let mut object = ObjectDecl::new("object");
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let decl = inner(property);
        object = if required(name) { object.required(name, decl) } else { object.field(name, decl) };
    }
    if place.root || place.embedded {
        let text = || Decl::new(DeclKind::String);
        let meta = ObjectDecl::new("metadata").field("name", text()).field("generateName", text());
        object = object.required("apiVersion", text()).required("kind", text());
        object = object.required("metadata", Decl::object(meta));
    }
    object
}

struct Run {
    budget: Budget,
    causes: Vec<Cause>,
}

/// Violations kept per object.
const MAX_CAUSES: usize = 100;

impl Run {
    fn visit(&mut self, rules: &Rules, new: &Value, old: Option<&Value>, path: &str) {
        if new.is_null() || self.causes.len() >= MAX_CAUSES {
            return;
        }
        if let Some(decl) = &rules.decl {
            let unchanged = old == Some(new);
            for rule in &rules.here {
                // What was so before stays allowed; a rule about changes has its say all the same.
                if (!unchanged || rule.transition) && !self.judge(rule, rules, decl, new, old, path) {
                    return;
                }
            }
        }
        match new {
            Value::Object(fields) => self.fields(rules, fields, old, path),
            Value::Array(items) => self.items(rules, items, old, path),
            _ => {}
        }
    }

    fn fields(&mut self, rules: &Rules, fields: &Map<String, Value>, old: Option<&Value>, path: &str) {
        let before = |name: &str| old.and_then(|old| old.get(name));
        for (name, inner) in &rules.fields {
            if let Some(value) = fields.get(name) {
                let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.visit(inner, value, before(name), &at);
            }
        }
        if let Some(inner) = &rules.values {
            for (name, value) in fields {
                self.visit(inner, value, before(name), &format!("{path}[{name}]"));
            }
        }
    }

    fn items(&mut self, rules: &Rules, items: &[Value], old: Option<&Value>, path: &str) {
        let Some(inner) = &rules.items else { return };
        let earlier = Earlier::of(&rules.topology, old);
        for (at, item) in items.iter().enumerate() {
            self.visit(inner, item, earlier.form_of(item), &format!("{path}[{at}]"));
        }
    }

    /// `false` when nothing more can be afforded.
    fn judge(
        &mut self,
        rule: &Rule,
        rules: &Rules,
        decl: &Decl,
        new: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> bool {
        let old = old.filter(|old| !old.is_null());
        if rule.transition && !rule.optional_old && old.is_none() {
            return true;
        }
        let mut activation = Activation::new().data("self", new, decl);
        activation = match (rule.optional_old, old) {
            (false, Some(old)) => activation.data("oldSelf", old, decl),
            (false, None) => activation,
            (true, old) => activation.optional("oldSelf", old, decl),
        };
        match rule.program.eval(&activation, &mut self.budget) {
            Ok(evaluated) if evaluated.value.as_bool() == Some(true) => true,
            Ok(_) => {
                let message = self.message(rule, &activation);
                self.say(rule, &rules.kind, path, &message);
                true
            }
            Err(error) => {
                let said = failure(&rule.source, &error);
                self.say_plainly(&rules.kind, path, &said);
                error.kind() != FailureKind::Budget
            }
        }
    }

    fn message<'a>(&mut self, rule: &'a Rule, activation: &Activation<'a>) -> String {
        if let Some(program) = &rule.message_expression
            && let Ok(evaluated) = program.eval(activation, &mut self.budget)
            && let Cel::String(text) = &evaluated.value
        {
            let text = text.to_string();
            let usable =
                !text.trim().is_empty() && !text.contains('\n') && text.trim().len() <= MESSAGE_LIMIT;
            if usable {
                return text;
            }
        }
        match rule.message.trim() {
            "" => format!("failed rule: {}", rule.source.trim()),
            message => message.to_owned(),
        }
    }

    fn say(&mut self, rule: &Rule, kind: &str, path: &str, message: &str) {
        let field = match rule.field_path.as_str() {
            "" => path.to_owned(),
            below if path.is_empty() => below.trim_start_matches('.').to_owned(),
            below => format!("{path}{below}"),
        };
        let text = match rule.reason.as_str() {
            "FieldValueRequired" => format!("Required value: {message}"),
            "FieldValueForbidden" => format!("Forbidden: {message}"),
            "FieldValueDuplicate" => format!("Duplicate value: {kind:?}"),
            _ => format!("Invalid value: {kind:?}: {message}"),
        };
        self.causes.push(Cause { reason: rule.reason.clone(), field, message: text });
    }

    fn say_plainly(&mut self, kind: &str, path: &str, message: &str) {
        let message = format!("Invalid value: {kind:?}: {message}");
        self.causes.push(Cause { reason: "FieldValueInvalid".into(), field: path.to_owned(), message });
    }
}

fn failure(source: &str, error: &EvalError) -> String {
    match error.kind() {
        FailureKind::CostLimit => {
            format!("'{source}': call cost exceeds limit for rule: {error}")
        }
        FailureKind::Budget => error.to_string(),
        _ => format!("rule evaluation error: '{source}': {error}"),
    }
}

#[cfg(test)]
mod tests;
