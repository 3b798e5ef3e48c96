//! `steps`, of jobs and of composite actions.

use super::{Reader, is_id, scopes};
use crate::{
    expr::Scope,
    model::{ActionRef, Step, Work},
    yaml::{Data, Node},
};

const KEYS: [&str; 10] =
    ["id", "name", "if", "uses", "with", "run", "shell", "working-directory", "env", "continue-on-error"];
/// Steps of a job at the most.
const MAX_STEPS: usize = 1000;

/// Where steps stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    Job,
    Action,
}

impl StepKind {
    fn scopes(self) -> (&'static Scope, &'static Scope) {
        match self {
            Self::Job => (&scopes::STEP, &scopes::STEP_IF),
            Self::Action => (&scopes::ACTION_STEP, &scopes::ACTION_STEP_IF),
        }
    }
}

impl Reader {
    pub(super) fn steps(&mut self, node: &Node, kind: StepKind) -> Vec<Step> {
        let items = self.list(node, "'steps'");
        if items.is_empty() && matches!(node.data, Data::List(_)) {
            self.error(node.at, "there are no steps", "write for example '- run: make' below it");
        }
        if items.len() > MAX_STEPS {
            let hint = "move some into another job, or into a script";
            self.error(node.at, format!("there are more than {MAX_STEPS} steps"), hint);
        }
        let mut steps: Vec<Step> = Vec::new();
        for node in items {
            let mut step = self.step(node, kind);
            if step.id.is_empty() {
                step.id = generated_id(&step, &steps);
            } else if steps.iter().any(|other| other.id.eq_ignore_ascii_case(&step.id)) {
                let hint = "give this one another 'id'";
                self.error(node.at, format!("two steps have the id '{}'", step.id), hint);
            }
            steps.push(step);
        }
        steps
    }

    fn step(&mut self, node: &Node, kind: StepKind) -> Step {
        let (scope, condition) = kind.scopes();
        // A composite action's step cannot be given a time of its own.
        let known: Vec<&str> =
            KEYS.into_iter().chain((kind == StepKind::Job).then_some("timeout-minutes")).collect();
        let fields = self.fields(node, "the step", &known);
        let id = fields.get("id").map(|n| (n.at, self.text(n, "'id'")));
        if let Some((at, id)) = &id
            && (!is_id(id) || id.starts_with("__"))
        {
            self.error(
                *at,
                format!("'{id}' cannot be the id of a step"),
                "begin with a letter or '_', then use letters, digits, '-' and '_'",
            );
        }
        let work = match (fields.get("run"), fields.get("uses")) {
            (Some(run), None) => {
                if let Some(with) = fields.get("with") {
                    self.error(with.at, "'with' belongs to 'uses'", "give values to a script by 'env'");
                }
                let shell = fields.get("shell").map(|n| self.shell(n, scope));
                if shell.is_none() && kind == StepKind::Action {
                    self.error(
                        node.at,
                        "a 'run' step of an action has no 'shell'",
                        "add 'shell: sh' or 'shell: bash'",
                    );
                }
                Work::Run {
                    script: self.template(run, "'run'", scope),
                    shell,
                    working_directory: fields
                        .get("working-directory")
                        .map(|n| self.template(n, "'working-directory'", scope)),
                }
            }
            (None, Some(uses)) => {
                for name in ["shell", "working-directory"] {
                    if let Some(node) = fields.get(name) {
                        let hint = "leave it out: an action decides that itself";
                        self.error(node.at, format!("'{name}' belongs to 'run'"), hint);
                    }
                }
                let with = fields.get("with");
                let entries = match with.map(|node| &node.data) {
                    Some(Data::Map(entries)) => entries.as_slice(),
                    _ => &[],
                };
                Work::Uses {
                    action: self.action_ref(uses),
                    with: with.map(|n| self.settings(n, "'with'", scope)).unwrap_or_default(),
                    places: entries.iter().map(|(key, _)| key.at).collect(),
                }
            }
            (Some(_), Some(uses)) => {
                let hint = "make two steps of it, each with its own '- '";
                self.error(uses.at, "a step has either 'run' or 'uses', not both", hint);
                Work::default()
            }
            (None, None) => {
                if matches!(node.data, Data::Map(_)) {
                    let hint = "add 'run: COMMAND' for a script, or 'uses: ACTION' for an action";
                    self.error(node.at, "the step has neither 'run' nor 'uses'", hint);
                }
                Work::default()
            }
        };
        Step {
            id: id.map(|(_, id)| id).unwrap_or_default(),
            name: fields.get("name").map(|n| self.template(n, "'name'", scope)),
            condition: fields.get("if").map(|n| self.condition(n, condition)).unwrap_or_default(),
            work,
            env: fields.get("env").map(|n| self.settings(n, "'env'", scope)).unwrap_or_default(),
            continue_on_error: fields
                .get("continue-on-error")
                .map(|n| self.flag(n, "'continue-on-error'", scope)),
            timeout_minutes: fields
                .get("timeout-minutes")
                .map(|n| self.number(n, "'timeout-minutes'", scope)),
            at: node.at,
        }
    }

    fn action_ref(&mut self, node: &Node) -> ActionRef {
        let text = self.text(node, "'uses'");
        if let Some(path) = text.strip_prefix("./") {
            let path = path.trim_end_matches('/');
            if path.split('/').any(|part| part == "..") {
                let hint = "write the folder as seen from the root of the repository, without '..'";
                self.error(node.at, format!("the action '{text}' lies outside the repository"), hint);
            }
            return ActionRef::Local(path.to_owned());
        }
        if text.starts_with("docker://") {
            self.error(
                node.at,
                "'docker://' actions are not supported",
                "run the job in that image by 'container'",
            );
        } else if let Some((name, version)) = text.split_once('@')
            && name.contains('/')
            && !version.is_empty()
        {
            return ActionRef::Named { name: name.to_ascii_lowercase(), version: version.to_owned() };
        } else {
            self.error(
                node.at,
                format!("'{text}' names no action"),
                "write OWNER/NAME@VERSION, or ./FOLDER for one of this repository",
            );
        }
        ActionRef::Named { name: text, version: String::new() }
    }
}

/// `__run`, `__actions_checkout`, with `_2`, `_3`, … where there is one already.
fn generated_id(step: &Step, before: &[Step]) -> String {
    let base = match &step.work {
        Work::Run { .. } => "__run".to_owned(),
        Work::Uses { action: ActionRef::Local(_), .. } => "__self".to_owned(),
        Work::Uses { action: ActionRef::Named { name, .. }, .. } => format!("__{}", name.replace('/', "_")),
    };
    let taken = |id: &str| before.iter().any(|step| step.id == id);
    (1..=before.len() + 1)
        .map(|count| if count == 1 { base.clone() } else { format!("{base}_{count}") })
        .find(|id| !taken(id))
        .unwrap_or(base)
}
