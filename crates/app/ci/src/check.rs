//! What is wrong with a workflow and can be told before anything runs.
//!
//! Only what is certain: an action an earlier step may make, or an image an earlier job may build, is looked for when
//! its turn comes.

use std::{collections::HashMap, path::Path};

use wharf_gitserver::Repository;
use wharf_workflow::{
    Position, Problem, Problems,
    model::{Action, ActionRef, Job, Step, Work, Workflow},
    read_action,
};

use crate::{
    actions::{Refused, Registry, missing_input},
    beneath::inside_workspace,
    job::{DEFAULT_IMAGE, check_label, no_image},
    sandbox::Sandboxes,
};

/// The files that describe an action.
pub(crate) const ACTION_FILES: [&str; 2] = ["action.yml", "action.yaml"];

/// Checks a workflow against the commit it belongs to and what the platform has.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) async fn check(
    workflow: &Workflow,
    repository: &Repository,
    sha: &str,
    actions: &Registry,
    sandboxes: &dyn Sandboxes,
) -> anyhow::Result<()> {
    let mut checker = Checker { repository, sha, actions, problems: Vec::new(), known: HashMap::new() };
    for job in &workflow.jobs {
        checker.job(&workflow.file, job, sandboxes);
        checker.steps(&workflow.file, &job.steps).await?;
    }
    if checker.problems.is_empty() { Ok(()) } else { Err(Problems(checker.problems).into()) }
}

struct Checker<'a> {
    repository: &'a Repository,
    sha: &'a str,
    actions: &'a Registry,
    problems: Vec<Problem>,
    /// Local actions by folder; nothing where the commit has none, or one that cannot be read.
    known: HashMap<String, Option<Action>>,
}

impl Checker<'_> {
    fn job(&mut self, file: &str, job: &Job, sandboxes: &dyn Sandboxes) {
        for (at, label) in &job.runs_on {
            if let Some(wrong) = label.as_literal().and_then(|label| check_label(label).err()) {
                self.problems.push(wrong.at(file, *at));
            }
        }
        // A job before it may make the image.
        if job.container.is_none() && job.needs.is_empty() && sandboxes.find_image(DEFAULT_IMAGE).is_err() {
            self.problems.push(no_image(&job.id).at(file, job.at));
        }
    }

    async fn steps(&mut self, file: &str, steps: &[Step]) -> anyhow::Result<()> {
        let mut uses = self.step_list(file, steps);
        while let Some(used) = uses.pop() {
            if !self.known.contains_key(&used.folder) {
                let action = self.action(&used.folder).await?;
                if let Some((name, action)) = &action {
                    uses.extend(self.step_list(name, &action.steps));
                }
                self.known.insert(used.folder.clone(), action.map(|(_, action)| action));
            }
            let inputs = self.known.get(&used.folder).and_then(Option::as_ref).map(|action| &action.inputs);
            let missing = inputs.into_iter().flatten().find(|input| {
                let given = used.given.iter().any(|name| name.eq_ignore_ascii_case(&input.name));
                input.required && input.default.is_none() && !given
            });
            if let Some(input) = missing {
                self.problems
                    .push(missing_input(&format!("./{}", used.folder), &input.name).at(&used.file, used.at));
            }
        }
        Ok(())
    }

    /// Checks the built-in actions of steps; gives the local ones.
    fn step_list(&mut self, file: &str, steps: &[Step]) -> Vec<Use> {
        let mut uses = Vec::new();
        for step in steps {
            let Work::Uses { action, with, places } = &step.work else { continue };
            match action {
                ActionRef::Local(path) => {
                    if let Some(folder) = inside_workspace(path) {
                        uses.push(Use {
                            folder: folder.to_string_lossy().into_owned(),
                            file: file.to_owned(),
                            at: step.at,
                            given: with.iter().map(|(name, _)| name.clone()).collect(),
                        });
                    }
                }
                ActionRef::Named { name, .. } => {
                    // Values with expressions are known only when the step runs.
                    let given: Vec<_> =
                        with.iter().map(|(name, value)| (name.as_str(), value.as_literal())).collect();
                    let refused = match self.actions.get(name) {
                        Ok(action) => action.inputs(&given, |_| {}).err(),
                        Err(wrong) => Some(Refused { given: None, wrong }),
                    };
                    self.problems.extend(refused.map(|refused| refused.placed(places).at(file, step.at)));
                }
            }
        }
        uses
    }

    /// A local action of the commit with the name of its file; nothing when there is none, or when it cannot be read,
    /// which is noted.
    async fn action(&mut self, folder: &str) -> anyhow::Result<Option<(String, Action)>> {
        for name in ACTION_FILES {
            let path = Path::new(folder).join(name).to_string_lossy().into_owned();
            let Some(text) = self.repository.read_file(self.sha, &path).await? else { continue };
            return Ok(match read_action(&path, &String::from_utf8_lossy(&text)) {
                Ok(action) => Some((path, action)),
                Err(Problems(problems)) => {
                    self.problems.extend(problems);
                    None
                }
            });
        }
        Ok(None)
    }
}

/// One use of a local action.
struct Use {
    folder: String,
    /// The file and the place that use it.
    file: String,
    at: Position,
    /// Names of the inputs given.
    given: Vec<String>,
}
