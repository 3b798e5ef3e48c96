//! `jobs`.

use std::collections::BTreeSet;

use super::{Reader, is_id, scopes, step::StepKind};
use crate::{
    expr::{Scope, Template},
    model::{Container, Environment, Job, Matrix, Strategy, Tree},
    problem::Position,
    yaml::{Data, Key, Node},
};

const KEYS: [&str; 21] = [
    "name",
    "needs",
    "if",
    "runs-on",
    "container",
    "services",
    "strategy",
    "outputs",
    "env",
    "defaults",
    "environment",
    "timeout-minutes",
    "cancel-timeout-minutes",
    "continue-on-error",
    "concurrency",
    "permissions",
    "steps",
    "uses",
    "with",
    "secrets",
    "snapshot",
];
/// Jobs of a workflow at the most.
const MAX_JOBS: usize = 256;

pub(super) fn read_jobs(reader: &mut Reader, node: &Node) -> Vec<Job> {
    let entries = reader.mapping(node, "'jobs'");
    if entries.is_empty() && matches!(node.data, Data::Map(_)) {
        let hint = "write the name of a job below it, and below that 'runs-on: wharf' and 'steps:'";
        reader.error(node.at, "the workflow has no jobs", hint);
    }
    if entries.len() > MAX_JOBS {
        let hint = "use a matrix, or split the workflow into several files";
        reader.error(node.at, format!("the workflow has more than {MAX_JOBS} jobs"), hint);
    }
    let ids: Vec<&str> = entries.iter().map(|(key, _)| key.text.as_str()).collect();
    let mut jobs = Vec::new();
    for (key, node) in entries {
        if !is_id(&key.text) || key.text.starts_with("__") {
            reader.error(
                key.at,
                format!("'{}' cannot be the id of a job", key.text),
                "begin with a letter or '_', then use letters, digits, '-' and '_'",
            );
        }
        if let Some(other) = ids.iter().find(|id| id.eq_ignore_ascii_case(&key.text) && **id != key.text) {
            let message = format!("the jobs '{other}' and '{}' differ only in case", key.text);
            reader.error(key.at, message, "give one of them another name");
        }
        jobs.push(reader.job(key, node, &ids));
    }
    if let Some(id) = circle(&jobs) {
        let at = entries.iter().find(|(key, _)| key.text == id).map_or(node.at, |(key, _)| key.at);
        reader.error(
            at,
            format!("the job '{id}' needs itself, by way of others"),
            "break the circle of 'needs'",
        );
    }
    jobs
}

/// A job that can never start because it waits for itself.
fn circle(jobs: &[Job]) -> Option<String> {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    loop {
        let before = done.len();
        for job in jobs {
            let known = |id: &String| done.contains(id.as_str()) || !jobs.iter().any(|job| job.id == *id);
            if job.needs.iter().all(known) {
                done.insert(&job.id);
            }
        }
        if done.len() == before {
            return jobs.iter().find(|job| !done.contains(job.id.as_str())).map(|job| job.id.clone());
        }
    }
}

impl Reader {
    fn job(&mut self, key: &Key, node: &Node, ids: &[&str]) -> Job {
        let id = &key.text;
        let what = format!("the job '{id}'");
        let fields = self.fields(node, &what, &KEYS);
        if let Some(node) = fields.get("snapshot") {
            let hint = "build images by a step with 'uses: wharf/build-push@v1'";
            self.error(node.at, "'snapshot' of a job is not supported", hint);
        }
        for name in ["uses", "with", "secrets"] {
            if let Some(node) = fields.get(name) {
                self.error(
                    node.at,
                    format!("'{name}' of a job is not supported: workflows cannot call other workflows"),
                    "write the steps into this job, or into a composite action",
                );
            }
        }
        if let Some(node) = fields.get("services").filter(|node| !matches!(node.data, Data::Null)) {
            self.services(node);
        }
        if let Some(node) = fields.get("permissions") {
            self.permissions(node);
        }
        if let Some(node) = fields.get("concurrency") {
            self.warn(node.at, "'concurrency' of a job has no effect yet: give it to the whole workflow");
        }
        if let Some(node) = fields.get("cancel-timeout-minutes") {
            self.warn(node.at, "'cancel-timeout-minutes' has no effect: a cancelled job ends at once");
        }
        if matches!(node.data, Data::Map(_)) && fields.get("uses").is_none() {
            for (required, hint) in [
                ("runs-on", "add 'runs-on: wharf'"),
                ("steps", "add 'steps:' and below it for example '- run: make'"),
            ] {
                if fields.get(required).is_none() {
                    self.error(node.at, format!("{what} has no '{required}'"), hint);
                }
            }
        }
        let scope = &scopes::JOB;
        let number = |reader: &mut Self, name: &str| {
            fields.get(name).map(|n| reader.number(n, &format!("'{name}'"), scope))
        };
        Job {
            id: id.clone(),
            at: key.at,
            name: fields.get("name").map(|n| self.template(n, "'name'", scope)),
            needs: fields.get("needs").map(|n| self.needs(n, id, ids)).unwrap_or_default(),
            condition: fields.get("if").map(|n| self.condition(n, &scopes::JOB_IF)).unwrap_or_default(),
            runs_on: fields.get("runs-on").map(|n| self.runs_on(n)).unwrap_or_default(),
            container: fields.get("container").map(|n| self.container(n)),
            strategy: fields.get("strategy").map(|n| self.strategy(n)).unwrap_or_default(),
            outputs: fields
                .get("outputs")
                .map(|n| self.settings(n, "'outputs'", &scopes::JOB_OUTPUTS))
                .unwrap_or_default(),
            env: fields.get("env").map(|n| self.settings(n, "'env'", &scopes::JOB_ENV)).unwrap_or_default(),
            defaults: self.defaults(fields.get("defaults"), &scopes::JOB_DEFAULTS),
            environment: fields.get("environment").map(|n| self.environment(n)),
            timeout_minutes: number(self, "timeout-minutes"),
            continue_on_error: fields
                .get("continue-on-error")
                .map(|n| self.flag(n, "'continue-on-error'", scope)),
            concurrency: fields.get("concurrency").map(|n| self.concurrency(n, scope)),
            steps: fields.get("steps").map(|n| self.steps(n, StepKind::Job)).unwrap_or_default(),
        }
    }

    fn needs(&mut self, node: &Node, own: &str, ids: &[&str]) -> Vec<String> {
        let mut needs = Vec::new();
        for (at, text) in self.texts(node, "'needs'") {
            if text == own {
                self.error(at, format!("the job '{own}' needs itself"), "take it out of its own 'needs'");
            } else if ids.contains(&text.as_str()) {
                needs.push(text);
            } else {
                let hint = wharf_base::closest(&text, ids.iter().copied()).map_or_else(
                    || format!("the jobs are: {}", ids.join(", ")),
                    |id| format!("did you mean '{id}'?"),
                );
                self.error(at, format!("'needs' names the job '{text}', which is not there"), hint);
            }
        }
        needs
    }

    fn runs_on(&mut self, node: &Node) -> Vec<(Position, Template)> {
        let mut label = |node: &Node| (node.at, self.template(node, "'runs-on'", &scopes::JOB));
        match &node.data {
            Data::List(items) => items.iter().map(label).collect(),
            Data::Map(_) => {
                let fields = self.fields(node, "'runs-on'", &["group", "labels"]);
                if let Some(group) = fields.get("group") {
                    self.error(group.at, "runner groups are not supported", "write 'runs-on: wharf'");
                }
                fields.get("labels").map(|labels| self.runs_on(labels)).unwrap_or_default()
            }
            _ => vec![label(node)],
        }
    }

    fn services(&mut self, node: &Node) {
        const KEYS: [&str; 7] = ["image", "credentials", "env", "ports", "volumes", "options", "command"];
        for (key, service) in self.mapping(node, "'services'") {
            self.fields(service, &format!("the service '{}'", key.text), &KEYS);
        }
        self.error(
            node.at,
            "'services' are not started for jobs yet",
            "start the service in a step, or use one that runs in the cluster",
        );
    }

    fn container(&mut self, node: &Node) -> Container {
        const KEYS: [&str; 6] = ["image", "credentials", "env", "ports", "volumes", "options"];
        if !matches!(node.data, Data::Map(_)) {
            let image = self.template(node, "'container'", &scopes::JOB);
            return Container { at: node.at, image, ..Container::default() };
        }
        let fields = self.fields(node, "'container'", &KEYS);
        for name in ["credentials", "ports", "volumes", "options"] {
            if let Some(node) = fields.get(name) {
                let hint = "leave it out: 'image' and 'env' are what a job's container can have";
                self.error(node.at, format!("'{name}' of a container is not supported"), hint);
            }
        }
        let Some(image) = fields.get("image") else {
            self.error(
                node.at,
                "'container' has no 'image'",
                "add 'image: NAME', such as 'image: shop:latest'",
            );
            return Container::default();
        };
        Container {
            at: image.at,
            image: self.template(image, "'image'", &scopes::JOB),
            env: fields
                .get("env")
                .map(|n| self.settings(n, "'env'", &scopes::CONTAINER_ENV))
                .unwrap_or_default(),
        }
    }

    fn environment(&mut self, node: &Node) -> Environment {
        if !matches!(node.data, Data::Map(_)) {
            let name = self.template(node, "'environment'", &scopes::JOB);
            return Environment { name, url: None };
        }
        let fields = self.fields(node, "'environment'", &["name", "url", "deployment"]);
        let Some(name) = fields.get("name") else {
            self.error(
                node.at,
                "'environment' has no 'name'",
                "add 'name: NAME', such as 'name: production'",
            );
            return Environment::default();
        };
        Environment {
            name: self.template(name, "'name'", &scopes::JOB),
            url: fields.get("url").map(|n| self.template(n, "'url'", &scopes::JOB_OUTPUTS)),
        }
    }

    fn strategy(&mut self, node: &Node) -> Strategy {
        let fields = self.fields(node, "'strategy'", &["matrix", "fail-fast", "max-parallel"]);
        let scope = &scopes::STRATEGY;
        Strategy {
            matrix: fields.get("matrix").map(|n| self.matrix(n)),
            fail_fast: fields.get("fail-fast").map(|n| self.flag(n, "'fail-fast'", scope)),
            max_parallel: fields.get("max-parallel").map(|n| self.number(n, "'max-parallel'", scope)),
        }
    }

    fn matrix(&mut self, node: &Node) -> Matrix {
        let scope = &scopes::STRATEGY;
        let Data::Map(entries) = &node.data else {
            let template = self.template(node, "'matrix'", scope);
            if template.as_literal().is_some() {
                let hint = "write 'NAME: [A, B]' below it, or '${{ fromJSON(…) }}'";
                self.error(node.at, "'matrix' must be a mapping or one expression", hint);
            }
            return Matrix::Whole(template);
        };
        let (mut dimensions, mut include, mut exclude) = (Vec::new(), None, None);
        for (key, node) in entries {
            let tree = self.tree(node, scope);
            match &tree {
                Tree::List(items) if items.is_empty() => {
                    let hint = "give it at least one value, or leave the key out";
                    self.error(node.at, format!("'{}' of the matrix is empty", key.text), hint);
                }
                Tree::List(_) | Tree::Template(_) => {}
                _ => {
                    let message = format!("'{}' of the matrix must be a list, not {}", key.text, node.kind());
                    let value = node.scalar().filter(|text| !text.is_empty()).unwrap_or("A, B".into());
                    self.error(node.at, message, format!("write '{}: [{value}]'", key.text));
                }
            }
            match key.text.as_str() {
                "include" => include = Some(tree),
                "exclude" => exclude = Some(tree),
                _ => dimensions.push((key.text.clone(), tree)),
            }
        }
        Matrix::Parts { dimensions, include, exclude }
    }

    fn tree(&mut self, node: &Node, scope: &Scope) -> Tree {
        match &node.data {
            Data::List(items) => Tree::List(items.iter().map(|item| self.tree(item, scope)).collect()),
            Data::Map(entries) => Tree::Map(
                entries.iter().map(|(key, item)| (key.text.clone(), self.tree(item, scope))).collect(),
            ),
            Data::Text(text) if text.contains("${{") => {
                Tree::Template(self.template(node, "a value of the matrix", scope))
            }
            _ => Tree::Value(node.value()),
        }
    }
}
