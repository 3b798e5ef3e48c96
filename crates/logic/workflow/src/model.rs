//! A workflow as it was read: nothing evaluated, everything checked.

use crate::{
    expr::{Condition, Template, Value},
    filter::PushFilter,
    problem::{Position, Problem},
};

/// Settings by name, in the order written.
pub type Settings = Vec<(String, Template)>;

/// A workflow file.
#[derive(Debug, Clone, Default)]
pub struct Workflow {
    /// The file, as given.
    pub file: String,
    /// `name`, or the file.
    pub name: String,
    /// `run-name`.
    pub run_name: Option<Template>,
    /// `on`.
    pub on: Triggers,
    /// `env`.
    pub env: Settings,
    /// `defaults.run`.
    pub defaults: RunDefaults,
    /// `concurrency`.
    pub concurrency: Option<Concurrency>,
    /// `jobs` in the order written; `needs` name only jobs of this list and make no circle.
    pub jobs: Vec<Job>,
    /// What is accepted but has no effect here.
    pub warnings: Vec<Problem>,
}

/// What starts a workflow.
#[derive(Debug, Clone, Default)]
pub struct Triggers {
    /// `push`.
    pub push: Option<PushFilter>,
    /// `workflow_dispatch`, with its inputs.
    pub dispatch: Option<Vec<Input>>,
}

/// An input of a workflow or an action.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Whether one must be given.
    pub required: bool,
    /// What it is when none is given.
    pub default: Option<Template>,
    /// Its type: `string`, `boolean`, `number`, `choice`, `environment`.
    pub kind: String,
    /// What a choice can be.
    pub options: Vec<String>,
}

/// `defaults.run`.
#[derive(Debug, Clone, Default)]
pub struct RunDefaults {
    /// `shell`.
    pub shell: Option<Template>,
    /// `working-directory`.
    pub working_directory: Option<Template>,
}

/// `concurrency`.
#[derive(Debug, Clone, Default)]
pub struct Concurrency {
    /// Runs of one group do not overlap.
    pub group: Template,
    /// Whether a newer one ends the one that runs.
    pub cancel_in_progress: Template,
}

/// `container` of a job.
#[derive(Debug, Clone, Default)]
pub struct Container {
    /// Where its image stands.
    pub at: Position,
    /// `image`.
    pub image: Template,
    /// `env`.
    pub env: Settings,
}

/// `environment` of a job.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `name`.
    pub name: Template,
    /// `url`.
    pub url: Option<Template>,
}

/// `strategy` of a job.
#[derive(Debug, Clone, Default)]
pub struct Strategy {
    /// `matrix`.
    pub matrix: Option<Matrix>,
    /// `fail-fast`; true when absent.
    pub fail_fast: Option<Template>,
    /// `max-parallel`; no limit when absent.
    pub max_parallel: Option<Template>,
}

/// `strategy.matrix`.
#[derive(Debug, Clone)]
pub enum Matrix {
    /// One expression gives the whole matrix.
    Whole(Template),
    /// Dimensions, inclusions and exclusions, each a value whose texts are templates.
    Parts {
        /// Name and values of each dimension.
        dimensions: Vec<(String, Tree)>,
        /// `include`.
        include: Option<Tree>,
        /// `exclude`.
        exclude: Option<Tree>,
    },
}

/// A value some of whose texts are templates.
#[derive(Debug, Clone)]
pub enum Tree {
    /// A text with expressions.
    Template(Template),
    /// A value without.
    Value(Value),
    /// A list.
    List(Vec<Tree>),
    /// A mapping.
    Map(Vec<(String, Tree)>),
}

/// A job.
#[derive(Debug, Clone, Default)]
pub struct Job {
    /// Its key.
    pub id: String,
    /// Where it stands.
    pub at: Position,
    /// `name`.
    pub name: Option<Template>,
    /// `needs`.
    pub needs: Vec<String>,
    /// `if`.
    pub condition: Condition,
    /// `runs-on`: each label with its place.
    pub runs_on: Vec<(Position, Template)>,
    /// `container`.
    pub container: Option<Container>,
    /// `strategy`.
    pub strategy: Strategy,
    /// `outputs`.
    pub outputs: Settings,
    /// `env`.
    pub env: Settings,
    /// `defaults.run`.
    pub defaults: RunDefaults,
    /// `environment`.
    pub environment: Option<Environment>,
    /// `timeout-minutes`; 360 when absent.
    pub timeout_minutes: Option<Template>,
    /// `continue-on-error`; false when absent.
    pub continue_on_error: Option<Template>,
    /// `concurrency`.
    pub concurrency: Option<Concurrency>,
    /// `steps`.
    pub steps: Vec<Step>,
}

/// A step of a job or of a composite action.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// `id`, or one made from what the step does, beginning with `__`.
    pub id: String,
    /// `name`.
    pub name: Option<Template>,
    /// `if`.
    pub condition: Condition,
    /// What it does.
    pub work: Work,
    /// `env`.
    pub env: Settings,
    /// `continue-on-error`; false when absent.
    pub continue_on_error: Option<Template>,
    /// `timeout-minutes`; the job's when absent.
    pub timeout_minutes: Option<Template>,
    /// Where it stands.
    pub at: Position,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Work {
    /// `run`: a script.
    Run {
        /// The script.
        script: Template,
        /// `shell`.
        shell: Option<Template>,
        /// `working-directory`.
        working_directory: Option<Template>,
    },
    /// `uses`: an action.
    Uses {
        /// Which.
        action: ActionRef,
        /// `with`.
        with: Settings,
        /// Where the key of each of these stands.
        places: Vec<Position>,
    },
}

impl Default for Work {
    fn default() -> Self {
        Self::Run { script: Template::default(), shell: None, working_directory: None }
    }
}

/// Which action a step uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionRef {
    /// A folder of the repository: `./.github/actions/x`, without the `./`.
    Local(String),
    /// `owner/name@version`.
    Named {
        /// `owner/name`, in lower case.
        name: String,
        /// What follows the `@`.
        version: String,
    },
}

impl std::fmt::Display for ActionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local(path) => write!(f, "./{path}"),
            Self::Named { name, version } => write!(f, "{name}@{version}"),
        }
    }
}

/// A composite action (`action.yml`).
#[derive(Debug, Clone, Default)]
pub struct Action {
    /// `name`.
    pub name: String,
    /// `inputs`.
    pub inputs: Vec<Input>,
    /// `outputs`.
    pub outputs: Settings,
    /// `runs.steps`.
    pub steps: Vec<Step>,
}
