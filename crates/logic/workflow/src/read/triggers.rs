//! `on`.

use super::{Reader, scopes};
use crate::{
    filter::{Patterns, PushFilter},
    model::{Input, Triggers},
    problem::Position,
    yaml::{Data, Key, Node},
};

/// Events of GitHub that have no source here. They are accepted with a warning.
const ELSEWHERE: [&str; 35] = [
    "branch_protection_rule",
    "check_run",
    "check_suite",
    "create",
    "delete",
    "deployment",
    "deployment_status",
    "discussion",
    "discussion_comment",
    "fork",
    "gollum",
    "image_version",
    "issue_comment",
    "issues",
    "label",
    "merge_group",
    "milestone",
    "page_build",
    "project",
    "project_card",
    "project_column",
    "public",
    "pull_request",
    "pull_request_comment",
    "pull_request_review",
    "pull_request_review_comment",
    "pull_request_target",
    "registry_package",
    "release",
    "repository_dispatch",
    "schedule",
    "status",
    "watch",
    "workflow_call",
    "workflow_run",
];
const PUSH: [&str; 6] = ["branches", "branches-ignore", "tags", "tags-ignore", "paths", "paths-ignore"];
const PULL_REQUEST: [&str; 5] = ["types", "branches", "branches-ignore", "paths", "paths-ignore"];

pub(super) fn read(reader: &mut Reader, node: &Node) -> Triggers {
    let mut triggers = Triggers::default();
    match &node.data {
        Data::Map(entries) => {
            for (key, node) in entries {
                event(reader, &mut triggers, key, Some(node));
            }
        }
        Data::Text(_) | Data::List(_) => {
            for (at, text) in reader.texts(node, "'on'") {
                event(reader, &mut triggers, &Key { text, at }, None);
            }
        }
        _ => reader.error(node.at, "'on' names no event", "write for example 'on: push'"),
    }
    triggers
}

fn event(reader: &mut Reader, triggers: &mut Triggers, key: &Key, node: Option<&Node>) {
    let node = node.filter(|node| !matches!(node.data, Data::Null));
    match key.text.as_str() {
        "push" => triggers.push = Some(node.map(|node| push(reader, node)).unwrap_or_default()),
        "workflow_dispatch" => {
            let inputs =
                node.and_then(|n| reader.fields(n, "'workflow_dispatch'", &["inputs"]).get("inputs"));
            let inputs = inputs.filter(|node| !matches!(node.data, Data::Null));
            triggers.dispatch = Some(inputs.map(|node| dispatch_inputs(reader, node)).unwrap_or_default());
        }
        "pull_request" => {
            if let Some(node) = node {
                let fields = reader.fields(node, "'pull_request'", &PULL_REQUEST);
                patterns(reader, &fields, "branches");
                patterns(reader, &fields, "paths");
            }
            reader.warn(key.at, "'pull_request' never happens here: repositories are served without a forge");
        }
        other if ELSEWHERE.contains(&other) => {
            reader.warn(key.at, format!("the event '{other}' never happens here; it is left out"));
        }
        _ => {
            let known: Vec<&str> = ["push", "workflow_dispatch"].into_iter().chain(ELSEWHERE).collect();
            match wharf_base::closest(&key.text, known) {
                Some(meant) => reader.error(
                    key.at,
                    format!("unknown event '{}'", key.text),
                    format!("did you mean '{meant}'?"),
                ),
                None => reader.error(
                    key.at,
                    format!("unknown event '{}'", key.text),
                    "here happen: push, workflow_dispatch",
                ),
            }
        }
    }
}

fn push(reader: &mut Reader, node: &Node) -> PushFilter {
    let fields = reader.fields(node, "'push'", &PUSH);
    PushFilter {
        branches: patterns(reader, &fields, "branches"),
        tags: patterns(reader, &fields, "tags"),
        paths: patterns(reader, &fields, "paths"),
    }
}

/// `NAME` or `NAME-ignore`.
fn patterns(reader: &mut Reader, fields: &super::Fields<'_>, name: &str) -> Option<Patterns> {
    let ignored = format!("{name}-ignore");
    let (node, ignore) = match (fields.get(name), fields.get(&ignored)) {
        (Some(_), Some(both)) => {
            reader.error(
                both.at,
                format!("'{name}' and '{ignored}' cannot stand together"),
                format!("use '!' patterns in '{name}'"),
            );
            return None;
        }
        (Some(node), None) => (node, false),
        (None, Some(node)) => (node, true),
        (None, None) => return None,
    };
    let texts = reader.texts(node, &format!("'{name}'"));
    let places: Vec<Position> = texts.iter().map(|(at, _)| *at).collect();
    let texts: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
    match Patterns::new(&texts, ignore) {
        Ok(patterns) => Some(patterns),
        Err((index, message)) => {
            let hint = "in patterns, '*' stands for a part, '**' for any path, '!' at the start takes away; '\\' keeps a sign";
            reader.error(places.get(index).copied().unwrap_or(node.at), message, hint);
            None
        }
    }
}

fn dispatch_inputs(reader: &mut Reader, node: &Node) -> Vec<Input> {
    const KEYS: [&str; 6] = ["description", "required", "default", "type", "options", "deprecationMessage"];
    const TYPES: [&str; 5] = ["string", "boolean", "number", "choice", "environment"];
    let mut inputs = Vec::new();
    for (key, node) in reader.mapping(node, "'inputs'") {
        let mut input = Input { name: key.text.clone(), kind: "string".into(), ..Input::default() };
        if !matches!(node.data, Data::Null) {
            let fields = reader.fields(node, &format!("the input '{}'", key.text), &KEYS);
            input.required = matches!(fields.get("required").map(|n| &n.data), Some(Data::Bool(true)));
            input.default = fields.get("default").map(|n| reader.template(n, "'default'", &scopes::RUN_NAME));
            if let Some(kind) = fields.get("type") {
                input.kind = reader.text(kind, "'type'");
                if !TYPES.contains(&input.kind.as_str()) {
                    let message = format!("'{}' is no type of an input", input.kind);
                    reader.error(kind.at, message, format!("use one of {}", TYPES.join(", ")));
                }
            }
            let options = fields.get("options").map(|n| reader.texts(n, "'options'")).unwrap_or_default();
            input.options = options.into_iter().map(|(_, text)| text).collect();
        }
        inputs.push(input);
    }
    inputs
}
