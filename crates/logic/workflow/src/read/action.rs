//! `action.yml`.

use super::{Reader, scopes, step::StepKind};
use crate::{
    model::{Action, Input},
    problem::Problems,
    yaml::{self, Data, Node},
};

/// What an action consists of.
const RUNS_HINT: &str = "write 'runs:', below it 'using: composite' and 'steps:', and its steps below that";

/// Reads the description of a composite action.
///
/// # Errors
/// Everything that is wrong with it; also that it is of another sort.
pub fn read_action(file: &str, text: &str) -> Result<Action, Problems> {
    let root = yaml::parse(file, text)?;
    let mut reader = Reader::new(file);
    let action = reader.action(&root);
    reader.finish(action).map(|(action, _)| action)
}

impl Reader {
    fn action(&mut self, root: &Node) -> Action {
        let known = ["name", "author", "description", "inputs", "outputs", "runs", "branding"];
        let fields = self.fields(root, "the action", &known);
        let mut action = Action {
            name: fields.get("name").map(|n| self.text(n, "'name'")).unwrap_or_default(),
            inputs: fields.get("inputs").map(|n| self.inputs(n)).unwrap_or_default(),
            ..Action::default()
        };
        if let Some(node) = fields.get("outputs") {
            for (key, node) in self.mapping(node, "'outputs'") {
                let what = format!("the output '{}'", key.text);
                match self.fields(node, &what, &["description", "value"]).get("value") {
                    Some(value) => {
                        let value = self.template(value, "'value'", &scopes::ACTION_STEP);
                        action.outputs.push((key.text.clone(), value));
                    }
                    None => {
                        let hint = "add for example 'value: ${{ steps.ID.outputs.NAME }}'";
                        self.error(key.at, format!("{what} has no 'value'"), hint);
                    }
                }
            }
        }
        match fields.get("runs") {
            Some(runs) => action.steps = self.runs(runs),
            None => {
                if matches!(root.data, Data::Map(_)) {
                    self.error(root.at, "the action has no 'runs'", RUNS_HINT);
                }
            }
        }
        action
    }

    fn runs(&mut self, node: &Node) -> Vec<crate::model::Step> {
        let using = match &node.data {
            Data::Map(entries) => entries.iter().find(|(key, _)| key.text == "using").map(|(_, node)| node),
            _ => None,
        };
        let Some(using) = using else {
            self.error(node.at, "'runs' has no 'using'", RUNS_HINT);
            return Vec::new();
        };
        let kind = self.text(using, "'using'");
        if kind != "composite" {
            self.error(
                using.at,
                format!("actions that run by '{kind}' are not supported"),
                "use a composite action, or a script in a 'run' step",
            );
            return Vec::new();
        }
        let fields = self.fields(node, "'runs'", &["using", "steps"]);
        match fields.get("steps") {
            Some(steps) => self.steps(steps, StepKind::Action),
            None => {
                self.error(node.at, "'runs' has no 'steps'", RUNS_HINT);
                Vec::new()
            }
        }
    }

    fn inputs(&mut self, node: &Node) -> Vec<Input> {
        const KEYS: [&str; 5] = ["description", "required", "default", "deprecationMessage", "type"];
        let mut inputs = Vec::new();
        for (key, node) in self.mapping(node, "'inputs'") {
            let mut input = Input { name: key.text.clone(), kind: "string".into(), ..Input::default() };
            if !matches!(node.data, Data::Null) {
                let fields = self.fields(node, &format!("the input '{}'", key.text), &KEYS);
                input.required = matches!(fields.get("required").map(|n| &n.data), Some(Data::Bool(true)));
                input.default =
                    fields.get("default").map(|n| self.template(n, "'default'", &scopes::ACTION_DEFAULT));
            }
            inputs.push(input);
        }
        inputs
    }
}
