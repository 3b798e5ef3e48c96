//! Conditional defaults of jobs.

use serde_json::{Value, json};

use super::apps;
use super::row::{self, Fixed, Row};
use crate::table::tree;
use Fixed::{Text, Truth};

/// Rows of a job.
pub(super) const JOB: &[Row] = &[
    Row("spec.completionMode", Text("NonIndexed")),
    Row("spec.suspend", Truth(false)),
    Row("spec.manualSelector", Truth(false)),
    Row("spec.podFailurePolicy.rules[].onPodConditions[].status", Text("True")),
];

/// A job by itself: its spec, and the template's labels.
pub(super) fn job_object(object: &mut Value) {
    let labels = tree::at(object, "/spec/template/metadata/labels").clone();
    apps::labels_from_template(object, labels);
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if !tree::has(spec, "/completions") && !tree::has(spec, "/parallelism") {
        tree::set(spec, "completions", json!(1));
    }
    tree::set_missing(spec, "parallelism", json!(1));
    let backoff_limit = if tree::has(spec, "/backoffLimitPerIndex") { i32::MAX } else { 6 };
    tree::set_missing(spec, "backoffLimit", json!(backoff_limit));
    let replacement = if tree::has(spec, "/podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    tree::set_missing(spec, "podReplacementPolicy", json!(replacement));
}

/// The job of a cron job gets its defaults when it is made, except those of its conditions.
pub(super) fn cron_job(object: &mut Value) {
    const CONDITION: &[Row] =
        &[Row("spec.jobTemplate.spec.podFailurePolicy.rules[].onPodConditions[].status", Text("True"))];
    row::apply(CONDITION, object);
}
