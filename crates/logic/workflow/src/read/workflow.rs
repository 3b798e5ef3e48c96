//! The top of a workflow file.

use super::{Reader, job, scopes, triggers};
use crate::{
    expr::Scope,
    model::{Concurrency, RunDefaults, Workflow},
    problem::Problems,
    yaml::{self, Data, Node},
};

const KEYS: [&str; 9] =
    ["name", "description", "run-name", "on", "env", "defaults", "permissions", "concurrency", "jobs"];

/// Reads a workflow file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_workflow(file: &str, text: &str) -> Result<Workflow, Problems> {
    let root = yaml::parse(file, text)?;
    let mut reader = Reader::new(file);
    let workflow = reader.workflow(&root);
    let (mut workflow, warnings) = reader.finish(workflow)?;
    workflow.warnings = warnings;
    Ok(workflow)
}

impl Reader {
    fn workflow(&mut self, root: &Node) -> Workflow {
        let fields = self.fields(root, "the workflow", &KEYS);
        for (required, hint) in [
            ("on", "write for example 'on: push' at its top"),
            (
                "jobs",
                "write 'jobs:', below it the name of a job, and below that 'runs-on: wharf' and 'steps:'",
            ),
        ] {
            if fields.get(required).is_none() && matches!(root.data, Data::Map(_)) {
                self.error(root.at, format!("the workflow has no '{required}'"), hint);
            }
        }
        let name = fields.get("name").map(|node| self.text(node, "'name'")).filter(|name| !name.is_empty());
        if let Some(node) = fields.get("permissions") {
            self.permissions(node);
        }
        Workflow {
            file: self.file.clone(),
            name: name.unwrap_or_else(|| self.file.clone()),
            run_name: fields.get("run-name").map(|n| self.template(n, "'run-name'", &scopes::RUN_NAME)),
            on: fields.get("on").map(|node| triggers::read(self, node)).unwrap_or_default(),
            env: fields
                .get("env")
                .map(|n| self.settings(n, "'env'", &scopes::WORKFLOW_ENV))
                .unwrap_or_default(),
            defaults: self.defaults(fields.get("defaults"), &scopes::RUN_NAME),
            concurrency: fields.get("concurrency").map(|n| self.concurrency(n, &scopes::RUN_NAME)),
            jobs: fields.get("jobs").map(|node| job::read_jobs(self, node)).unwrap_or_default(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn defaults(&mut self, node: Option<&Node>, scope: &Scope) -> RunDefaults {
        let Some(node) = node else { return RunDefaults::default() };
        let Some(run) = self.fields(node, "'defaults'", &["run"]).get("run") else {
            return RunDefaults::default();
        };
        let fields = self.fields(run, "'defaults.run'", &["shell", "working-directory"]);
        RunDefaults {
            shell: fields.get("shell").map(|n| self.shell(n, scope)),
            working_directory: fields
                .get("working-directory")
                .map(|n| self.template(n, "'working-directory'", scope)),
        }
    }

    pub(super) fn concurrency(&mut self, node: &Node, scope: &Scope) -> Concurrency {
        if !matches!(node.data, Data::Map(_)) {
            let group = self.template(node, "'concurrency'", scope);
            return Concurrency { group, ..Concurrency::default() };
        }
        let fields = self.fields(node, "'concurrency'", &["group", "cancel-in-progress"]);
        let Some(group) = fields.get("group") else {
            let hint = "add 'group: NAME': runs of the same group do not overlap";
            self.error(node.at, "'concurrency' has no 'group'", hint);
            return Concurrency::default();
        };
        Concurrency {
            group: self.template(group, "'group'", scope),
            cancel_in_progress: fields
                .get("cancel-in-progress")
                .map(|n| self.flag(n, "'cancel-in-progress'", scope))
                .unwrap_or_default(),
        }
    }

    /// Accepted, since there is no token to limit.
    pub(super) fn permissions(&mut self, node: &Node) {
        match &node.data {
            Data::Map(entries) => {
                for (key, value) in entries {
                    let level = self.text(value, "a permission");
                    if !matches!(level.as_str(), "read" | "write" | "none") {
                        let hint = "use read, write or none";
                        self.error(value.at, format!("'{level}' is no level of '{}'", key.text), hint);
                    }
                }
            }
            Data::Text(text) if matches!(text.as_str(), "read-all" | "write-all") => {}
            _ => self.error(
                node.at,
                "'permissions' must be a mapping, 'read-all' or 'write-all'",
                "write for example 'contents: read' below it",
            ),
        }
    }
}
