//! The parts of a pod that subresources change.

use serde_json::{Value, json};

use super::{copy, keep_metadata};
use crate::table::tree;

/// Takes everything from the old pod but what `subresource` is there to change.
pub(super) fn keep_all_but(subresource: &str, new: &mut Value, old: &Value) {
    match subresource {
        "ephemeralcontainers" => keep_but_ephemeral(new, old),
        "resize" => keep_but_resources(new, old),
        _ => {}
    }
}

fn keep_but_ephemeral(new: &mut Value, old: &Value) {
    let mut spec = tree::at(old, "/spec").clone();
    copy(&mut spec, tree::at(new, "/spec"), "ephemeralContainers");
    tree::set(new, "spec", spec);
}

/// Resources and their policies of containers. Containers that came, went or changed places are left for validation
/// to refuse.
fn keep_but_resources(new: &mut Value, old: &Value) {
    let mut spec = tree::at(old, "/spec").clone();
    for list in ["containers", "initContainers"] {
        let asked = tree::list(new, &format!("/spec/{list}"));
        let kept =
            spec.get_mut(list).and_then(Value::as_array_mut).map(Vec::as_mut_slice).unwrap_or_default();
        let same = asked.len() == kept.len()
            && asked.iter().zip(&*kept).all(|(a, b)| tree::text(a, "/name") == tree::text(b, "/name"));
        if !same {
            return;
        }
        for (kept, asked) in kept.iter_mut().zip(asked) {
            copy(kept, asked, "resources");
            tree::set_missing(kept, "resources", json!({}));
            copy(kept, asked, "resizePolicy");
        }
    }
    copy(&mut spec, tree::at(new, "/spec"), "resources");
    tree::set(new, "spec", spec);
    keep_metadata(new, old);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n",
            "containers": [{"name": "a", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}})
    }

    #[test]
    fn resize_changes_resources_only() {
        let mut new = pod();
        new["metadata"]["labels"] = json!({});
        new["spec"]["nodeName"] = json!("other");
        new["spec"]["containers"][0] = json!({"name": "a", "image": "other", "resources": {"requests": {"cpu": "2"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]});
        keep_all_but("resize", &mut new, &pod());
        let mut expected = pod();
        expected["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}});
        expected["spec"]["containers"][0]["resizePolicy"] =
            json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
        assert_eq!(new, expected);
        let mut renamed = pod();
        renamed["spec"]["containers"][0]["name"] = json!("b");
        let asked = renamed.clone();
        keep_all_but("resize", &mut renamed, &pod());
        assert_eq!(renamed, asked, "validation says what is wrong");
    }

    #[test]
    fn ephemeral_containers_come_alone() {
        let mut new = pod();
        new["spec"]["nodeName"] = json!("other");
        new["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
        keep_all_but("ephemeralcontainers", &mut new, &pod());
        let mut expected = pod();
        expected["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
        assert_eq!(new, expected);
    }
}
