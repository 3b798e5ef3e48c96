//! Jobs choose their pods by labels made from their own uid.

use serde_json::{Value, json};

use crate::table::tree;

/// Labels with the job's uid; the first is the old form.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
/// Labels with the job's name; the first is the old form.
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Labels the template and makes the selector, unless the user does it. Labels already there are kept: if they
/// are wrong, validation says so.
pub(super) fn generate_selector(job: &mut Value) {
    if tree::flag(job, "/spec/manualSelector") {
        return;
    }
    let uid = json!(tree::text(job, "/metadata/uid"));
    let name = json!(tree::text(job, "/metadata/name"));
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    label_template(spec, &uid, &name);
    tree::set_missing(spec, "selector", json!({}));
    if let Some(selector) = spec.get_mut("selector")
        && let Some(labels) = tree::child_mut(selector, "matchLabels")
    {
        labels.entry(UID_LABELS[1]).or_insert(uid);
    }
}

fn label_template(spec: &mut Value, uid: &Value, name: &Value) {
    tree::set_missing(spec, "template", json!({}));
    let Some(template) = spec.get_mut("template") else { return };
    tree::set_missing(template, "metadata", json!({}));
    let Some(metadata) = template.get_mut("metadata") else { return };
    let Some(labels) = tree::child_mut(metadata, "labels") else { return };
    for (keys, value) in [(NAME_LABELS, name), (UID_LABELS, uid)] {
        for key in keys {
            labels.entry(key).or_insert_with(|| value.clone());
        }
    }
}
