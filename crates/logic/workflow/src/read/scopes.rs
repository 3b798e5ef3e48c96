//! Which contexts and functions an expression may use, by the place it stands at (GitHub's table of context availability).

use crate::expr::Scope;

const fn contexts(contexts: &'static [&'static str]) -> Scope {
    Scope { contexts, status: false, files: false }
}

pub(super) const RUN_NAME: Scope = contexts(&["github", "inputs", "vars"]);
pub(super) const WORKFLOW_ENV: Scope = contexts(&["github", "secrets", "inputs", "vars"]);
pub(super) const STRATEGY: Scope = contexts(&["github", "needs", "vars", "inputs"]);
pub(super) const JOB_IF: Scope =
    Scope { contexts: &["github", "needs", "vars", "inputs"], status: true, files: false };
pub(super) const JOB: Scope = contexts(&["github", "needs", "strategy", "matrix", "vars", "inputs"]);
pub(super) const JOB_ENV: Scope =
    contexts(&["github", "needs", "strategy", "matrix", "vars", "secrets", "inputs"]);
pub(super) const JOB_DEFAULTS: Scope =
    contexts(&["github", "needs", "strategy", "matrix", "env", "vars", "inputs"]);
pub(super) const JOB_OUTPUTS: Scope = contexts(&[
    "github", "needs", "strategy", "matrix", "job", "runner", "env", "vars", "secrets", "steps", "inputs",
]);
pub(super) const CONTAINER_ENV: Scope =
    contexts(&["github", "needs", "strategy", "matrix", "job", "runner", "env", "vars", "secrets", "inputs"]);
pub(super) const STEP: Scope = Scope { files: true, ..JOB_OUTPUTS };
pub(super) const STEP_IF: Scope = Scope {
    contexts: &["github", "needs", "strategy", "matrix", "job", "runner", "env", "vars", "steps", "inputs"],
    status: true,
    files: true,
};

pub(super) const ACTION_DEFAULT: Scope = contexts(&["github", "strategy", "matrix", "job", "runner"]);
pub(super) const ACTION_STEP: Scope = Scope {
    contexts: &["github", "needs", "strategy", "matrix", "job", "runner", "env", "vars", "steps", "inputs"],
    status: false,
    files: true,
};
pub(super) const ACTION_STEP_IF: Scope = Scope { status: true, ..ACTION_STEP };
