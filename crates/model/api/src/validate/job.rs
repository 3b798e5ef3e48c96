//! Jobs and cron jobs.

use serde_json::Value;

use super::field::{Errors, Field};
use super::{apps, cron, names, pod, values};
use crate::table::tree;

/// Most pods of an indexed job at a time.
const INDEXED_PARALLELISM: i64 = 100_000;

/// A Job.
pub(super) fn job(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    job_spec(&spec, errors);
    let selector = spec.child("selector");
    if selector.is_set() {
        values::selector(&selector, errors);
        if !apps::selects(&spec) {
            errors.push(apps::labels_field_error(&spec.child("template")));
        }
    } else {
        errors.push(selector.required(""));
    }
}

/// A new Job: its selector is the one made for it, and its pods' names are short enough.
pub(super) fn create(root: &Field<'_>, errors: &mut Errors) {
    let (spec, metadata) = (root.child("spec"), root.child("metadata"));
    if !spec.flag_at("/manualSelector") && spec.has("/selector") {
        generated_selector(root, errors);
    }
    let completions = spec.int_at("/completions");
    if spec.text_at("/completionMode") == "Indexed" && completions > 0 {
        let name = metadata.child("name");
        let longest = format!("{}-{}", name.text(), completions - 1);
        if !names::dns_label(&longest).is_empty() {
            let message = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.push(name.invalid(message));
        }
    }
}

fn generated_selector(root: &Field<'_>, errors: &mut Errors) {
    let (uid, name) = (root.text_at("/metadata/uid"), root.text_at("/metadata/name"));
    let expected = serde_json::json!({
        "controller-uid": uid,
        "job-name": name,
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name,
    });
    let spec = root.child("spec");
    let template = spec.child("template");
    let metadata = template.child("metadata");
    let labels = metadata.child("labels");
    for (key, wanted) in tree::entries(&expected, "") {
        let label = labels.key(key);
        let wanted = tree::scalar(wanted);
        if !label.is_set() {
            errors.push(label.required(format!("must be '{wanted}'")));
        } else if label.text() != wanted {
            errors.push(label.invalid_as(labels.value().clone(), format!("must be '{wanted}'")));
        }
    }
    let selector = spec.child("selector");
    if !values::selects(selector.value(), &expected) {
        errors.push(selector.invalid("`selector` not auto-generated"));
    }
}

/// The spec of a job, alone or in a cron job.
fn job_spec(spec: &Field<'_>, errors: &mut Errors) {
    let counts = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    values::nonnegative(spec, &counts, errors);
    completion(spec, errors);
    if spec.has("/maxFailedIndexes") && !spec.has("/backoffLimitPerIndex") {
        errors.push(spec.child("backoffLimitPerIndex").required("when maxFailedIndexes is specified"));
    }
    let replacement = spec.child("podReplacementPolicy");
    if replacement.is_set() {
        let has_policy = spec.has("/podFailurePolicy");
        let supported: &[&str] = if has_policy { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        values::one_of(&replacement, supported, errors);
    }
    let template = spec.child("template");
    pod::template(&template, errors);
    restart_policy(spec, &template, errors);
}

fn completion(spec: &Field<'_>, errors: &mut Errors) {
    let mode = spec.child("completionMode");
    values::optionally_one_of(&mode, &["NonIndexed", "Indexed"], errors);
    if mode.text() == "Indexed" {
        let parallelism = spec.child("parallelism");
        if !spec.has("/completions") {
            errors.push(spec.child("completions").required("when completion mode is Indexed"));
        }
        if spec.int_at("/parallelism") > INDEXED_PARALLELISM {
            errors.push(parallelism.invalid(format!(
                "must be less than or equal to {INDEXED_PARALLELISM} when completion mode is Indexed"
            )));
        }
        if spec.has("/completions") && spec.int_at("/maxFailedIndexes") > spec.int_at("/completions") {
            errors.push(spec.child("maxFailedIndexes").invalid("must be less than or equal to completions"));
        }
        return;
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        let field = spec.child(key);
        if field.is_set() {
            errors.push(field.invalid("requires indexed completion mode"));
        }
    }
}

fn restart_policy(spec: &Field<'_>, template: &Field<'_>, errors: &mut Errors) {
    let pod_spec = template.child("spec");
    let policy = pod_spec.child("restartPolicy");
    match policy.text() {
        "" | "Always" => errors.push(policy.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.has("/podFailurePolicy") => {
            errors.push(policy.invalid("only \"Never\" is supported when podFailurePolicy is specified"));
        }
        "OnFailure" | "Never" => {}
        _ => errors.push(policy.not_supported(&["OnFailure", "Never"])),
    }
}

/// What may not change in a Job.
pub(super) fn update(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    completions_change(&new, &old, errors);
    for key in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        values::immutable(&new.child(key), &old.child(key), errors);
    }
    if template_for_comparison(&new, &old) != template_for_comparison(&old, &old) {
        errors.push(new.child("template").invalid(values::IMMUTABLE));
    }
}

/// Completions of an indexed job may change together with its parallelism.
fn completions_change(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (completions, before) = (new.child("completions"), old.child("completions"));
    if completions.value() == before.value() {
        return;
    }
    let is_indexed = new.text_at("/completionMode") == "Indexed";
    let parallelism = new.at("/parallelism");
    if !is_indexed || !completions.is_set() || !before.is_set() {
        errors.push(completions.invalid(values::IMMUTABLE));
    } else if completions.value() != parallelism {
        errors.push(
            completions
                .invalid(format!("can only be modified in tandem with {}", new.child("parallelism").path())),
        );
    }
}

/// The template; where a suspended job has not started, without what may be set until it does.
fn template_for_comparison(spec: &Field<'_>, old: &Field<'_>) -> Value {
    let mut template = spec.at("/template").clone();
    if old.flag_at("/suspend") {
        if let Some(metadata) = template.get_mut("metadata") {
            tree::remove(metadata, "annotations");
            tree::remove(metadata, "labels");
        }
        if let Some(pod_spec) = template.get_mut("spec") {
            for key in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                tree::remove(pod_spec, key);
            }
        }
    }
    template
}

/// A CronJob.
pub(super) fn cron_job(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let schedule = spec.child("schedule");
    if schedule.text().is_empty() {
        errors.push(schedule.required(""));
    } else if let Err(message) = cron::check(schedule.text()) {
        errors.push(schedule.invalid(message));
    }
    let counts = ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
    values::nonnegative(&spec, &counts, errors);
    values::one_of(&spec.child("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], errors);
    let zone = spec.child("timeZone");
    if zone.is_set() && zone.text().is_empty() {
        errors.push(zone.invalid("timeZone must be nil or non-empty string"));
    }
    let template = spec.child("jobTemplate");
    let job = template.child("spec");
    job_spec(&job, errors);
    if job.flag_at("/manualSelector") {
        errors.push(job.child("manualSelector").not_supported(&["nil", "false"]));
    }
}

/// A new CronJob: its jobs' names are its own and eleven characters more.
pub(super) fn create_cron_job(root: &Field<'_>, errors: &mut Errors) {
    let metadata = root.child("metadata");
    let name = metadata.child("name");
    if name.text().len() > 52 {
        errors.push(name.invalid("must be no more than 52 characters"));
    }
    no_zone_in_schedule(root, errors);
}

/// A changed CronJob: a zone within the schedule is kept only where it was before.
pub(super) fn update_cron_job(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    if !old.text_at("/spec/schedule").contains("TZ") {
        no_zone_in_schedule(new, errors);
    }
}

fn no_zone_in_schedule(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let schedule = spec.child("schedule");
    if schedule.text().contains("TZ") {
        errors.push(schedule.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
    }
}
