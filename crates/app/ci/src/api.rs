//! The objects this room reads and writes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wharf_client::Gvr;
use wharf_control::meta::Meta;

/// Namespace of repositories, runs and their secrets.
pub const NAMESPACE: &str = "wharf-ci";
/// `ci.wharf.dev` Repositories.
pub const REPOSITORIES: Gvr = Gvr::fixed("ci.wharf.dev", "v1alpha1", "repositories");
/// `ci.wharf.dev` WorkflowRuns.
pub const WORKFLOW_RUNS: Gvr = Gvr::fixed("ci.wharf.dev", "v1alpha1", "workflowruns");
/// Label of a run: its repository.
pub const REPOSITORY_LABEL: &str = "ci.wharf.dev/repository";
pub(crate) const API_VERSION: &str = "ci.wharf.dev/v1alpha1";

/// A WorkflowRun.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WorkflowRun {
    /// `metadata`.
    pub metadata: Meta,
    /// `spec`.
    pub spec: RunSpec,
    /// `status`.
    pub status: RunStatus,
}

/// What is to be run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RunSpec {
    /// The repository.
    pub repository: String,
    /// The reference.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The commit.
    pub sha: String,
    /// The commit before the push.
    pub before: String,
    /// The workflow file.
    pub workflow: String,
    /// `push` or `workflow_dispatch`.
    pub event: String,
    /// Counts the runs of the repository.
    pub number: u64,
    /// Counts the times it was started.
    pub attempt: u64,
    /// Who pushed.
    pub actor: String,
    /// Inputs of `workflow_dispatch`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// The run is to be ended.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cancel: bool,
    /// The run this one repeats.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rerun_of: String,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// Not begun.
    #[default]
    Pending,
    /// Jobs run.
    Running,
    /// All went well.
    Succeeded,
    /// Something failed.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// The platform stopped under it.
    Interrupted,
}

impl RunPhase {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// How a run goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RunStatus {
    /// Where it is.
    pub phase: RunPhase,
    /// One word why.
    pub reason: String,
    /// More for people.
    pub message: String,
    /// The workflow's `run-name`, or the first line of the commit's message.
    pub title: String,
    /// The workflow's name.
    pub workflow_name: String,
    /// `concurrency.group`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub concurrency_group: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// `Completed` and `Succeeded`.
    pub conditions: Vec<Value>,
    /// Its jobs.
    pub jobs: Vec<JobStatus>,
}

/// How a job goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JobStatus {
    /// Unique in the run.
    pub key: String,
    /// Its id in the workflow.
    pub id: String,
    /// For people.
    pub name: String,
    /// `waiting`, `queued`, `in_progress` or `completed`.
    pub status: String,
    /// `success`, `failure`, `cancelled` or `skipped`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub conclusion: String,
    /// One word why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// More for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Jobs it needs.
    pub needs: Vec<String>,
    /// The environment it deploys to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// The environment's address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// What it hands to others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
    /// Errors, warnings and notices its steps told of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<Annotation>,
    /// Its steps.
    pub steps: Vec<StepStatus>,
}

/// How a step goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StepStatus {
    /// Its place in the job, from 1.
    pub number: usize,
    /// Its id.
    pub id: String,
    /// For people.
    pub name: String,
    /// `queued`, `in_progress` or `completed`.
    pub status: String,
    /// `success`, `failure`, `cancelled` or `skipped`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub conclusion: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// Its outputs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
}

/// `::error::`, `::warning::` or `::notice::`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotation {
    /// `error`, `warning` or `notice`.
    pub level: String,
    /// What.
    pub message: String,
    /// Where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Where in it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub line: String,
    /// The step that said it.
    pub step: usize,
}

/// The object of a new run.
pub fn new_run(spec: &RunSpec) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "WorkflowRun",
        "metadata": {
            "name": format!("{}-{}", spec.repository, spec.number),
            "namespace": NAMESPACE,
            "labels": {REPOSITORY_LABEL: spec.repository},
        },
        "spec": spec,
    })
}

/// The object of a repository.
pub fn new_repository(name: &str, description: &str) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": "Repository",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"description": description},
    })
}

/// Creates a run under the next free number of its repository.
///
/// # Errors
/// Whatever the server answers.
pub async fn create_run(client: &wharf_client::Client, mut spec: RunSpec) -> wharf_client::Result<Value> {
    let params = wharf_client::ListParams {
        labels: format!("{REPOSITORY_LABEL}={}", spec.repository),
        ..wharf_client::ListParams::namespace(NAMESPACE)
    };
    let existing = client.list(&WORKFLOW_RUNS, &params).await?.items;
    let number = |run: &Value| run.pointer("/spec/number").and_then(Value::as_u64).unwrap_or(0);
    spec.number = existing.iter().map(number).max().unwrap_or(0) + 1;
    spec.attempt = spec.attempt.max(1);
    loop {
        match client.create(&WORKFLOW_RUNS, NAMESPACE, &new_run(&spec)).await {
            Err(error) if error.is_already_exists() => spec.number += 1,
            other => return other,
        }
    }
}
