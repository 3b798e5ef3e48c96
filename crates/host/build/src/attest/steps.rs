//! What each step did, as `mode=max` tells it: operations in the JSON of BuildKit's `solver/pb/ops.proto`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wharf_image::Descriptor;

use crate::{error::Place, progress::StepId};

/// A step that was part of the build, from the cache or not.
#[derive(Debug, Clone)]
pub(crate) struct Traced {
    pub(crate) op: Op,
    /// Steps whose files it took, the one before it first.
    pub(crate) inputs: Vec<StepId>,
    pub(crate) place: Place,
    pub(crate) platform: String,
    /// The layers of its result.
    pub(crate) layers: Vec<Descriptor>,
}

/// What a step did.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Took a source, by its identifier.
    Source(String),
    /// Ran a program.
    Exec {
        args: Vec<String>,
        env: Vec<String>,
        cwd: String,
        user: String,
        network: &'static str,
        insecure: bool,
    },
    /// Copied files.
    Copy { sources: Vec<String>, target: String },
    /// Made a folder.
    Folder(String),
    /// Began on the result of another step.
    Same,
}

/// A stage that begins on another is no step of its own: what took from it took from where it began.
fn resolved(steps: &BTreeMap<StepId, Traced>, mut id: StepId) -> Option<StepId> {
    // A stage begins on an earlier one, so this ends.
    for _ in 0..=steps.len() {
        let step = steps.get(&id)?;
        match step.op {
            Op::Same => id = *step.inputs.first()?,
            _ => return Some(id),
        }
    }
    None
}

fn inputs(steps: &BTreeMap<StepId, Traced>, step: &Traced) -> Vec<String> {
    let found = step.inputs.iter().filter_map(|id| resolved(steps, *id));
    found.map(|id| format!("step{id}:0")).collect()
}

/// `llbDefinition`.
pub(super) fn definition(steps: &BTreeMap<StepId, Traced>) -> Value {
    let own = steps.iter().filter(|(_, step)| !matches!(step.op, Op::Same));
    own.map(|(id, step)| {
        let inputs = inputs(steps, step);
        let mut value = json!({ "id": format!("step{id}"), "op": { "Op": op(step, inputs.len()) } });
        if let Some((os, rest)) = step.platform.split_once('/') {
            value["op"]["platform"] = json!({ "OS": os, "Architecture": rest.split('/').next() });
        }
        if !inputs.is_empty() {
            value["inputs"] = json!(inputs);
        }
        value
    })
    .collect()
}

fn op(step: &Traced, inputs: usize) -> Value {
    match &step.op {
        Op::Source(identifier) => json!({ "source": { "identifier": identifier } }),
        Op::Exec { args, env, cwd, user, network, insecure } => {
            let mut exec = json!({ "meta": { "args": args, "env": env, "cwd": cwd } });
            if !user.is_empty() {
                exec["meta"]["user"] = json!(user);
            }
            if *network != "UNSET" {
                exec["network"] = json!(network);
            }
            if *insecure {
                exec["security"] = json!("INSECURE");
            }
            json!({ "exec": exec })
        }
        Op::Copy { sources, target } => {
            // -1: from outside of the steps.
            let from = if inputs > 1 { 1 } else { -1 };
            let copy = |src: &String| json!({ "input": 0, "secondaryInput": from, "Action": { "copy": { "src": src, "dest": target } } });
            json!({ "file": { "actions": sources.iter().map(copy).collect::<Vec<_>>() } })
        }
        Op::Folder(path) => {
            json!({ "file": { "actions": [{ "input": 0, "Action": { "mkdir": { "path": path, "makeParents": true } } }] } })
        }
        Op::Same => Value::Null,
    }
}

/// `source.locations`: the lines of each step.
pub(super) fn locations(steps: &BTreeMap<StepId, Traced>) -> Value {
    let own = steps.iter().filter(|(_, step)| !matches!(step.op, Op::Same));
    let lines = own.map(|(id, step)| {
        let range = json!({ "start": { "line": step.place.line }, "end": { "line": step.place.end } });
        (format!("step{id}"), json!({ "locations": [{ "ranges": [range] }] }))
    });
    Value::Object(lines.collect::<Map<_, _>>())
}

/// `layers`: what each step's result consists of.
pub(super) fn layers(steps: &BTreeMap<StepId, Traced>) -> Value {
    let own = steps.iter().filter(|(_, step)| !matches!(step.op, Op::Same) && !step.layers.is_empty());
    let layers = own.map(|(id, step)| {
        let layer = |layer: &Descriptor| json!({ "mediaType": layer.media_type, "digest": layer.digest, "size": layer.size });
        (format!("step{id}:0"), json!([step.layers.iter().map(layer).collect::<Vec<_>>()]))
    });
    Value::Object(layers.collect::<Map<_, _>>())
}
