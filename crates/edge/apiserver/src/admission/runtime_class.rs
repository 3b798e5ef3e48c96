//! RuntimeClasses: what a pod of one costs beside its containers, and where it may run.
//!
//! Source: Kubernetes' admission plugin RuntimeClass; `node.k8s.io/v1` RuntimeClass.

use serde_json::{Value, json};
use wharf_api::{meta, status::Status};

use crate::ApiServer;

pub(super) fn apply(server: &ApiServer, pod: &mut Value) -> Result<(), Status> {
    let (pod_name, given) = (meta::name(pod).to_owned(), pod["spec"]["overhead"].clone());
    let refuse = |why: String| {
        Status::forbidden(format!("pods {pod_name:?} is forbidden: pod rejected: {why}"))
            .about("pods", &pod_name)
    };
    let has_overhead = given.as_object().is_some_and(|o| !o.is_empty());
    let Some(class) = pod["spec"]["runtimeClassName"].as_str().filter(|c| !c.is_empty()).map(str::to_owned)
    else {
        return match has_overhead {
            true => {
                Err(refuse("Pod Overhead set without corresponding RuntimeClass defined Overhead".into()))
            }
            false => Ok(()),
        };
    };
    let entry = server.storage.get("runtimeclasses.node.k8s.io", &format!("/{class}"));
    let class = entry.ok_or_else(|| refuse(format!("RuntimeClass {class:?} not found")))?.object();
    let overhead = &class["overhead"]["podFixed"];
    if overhead.is_object() {
        if has_overhead && given != *overhead {
            return Err(refuse("Pod's Overhead doesn't match RuntimeClass's defined Overhead".into()));
        }
        meta::member_mut(pod, "spec").insert("overhead".into(), overhead.clone());
    } else if has_overhead {
        return Err(refuse("Pod Overhead set without corresponding RuntimeClass defined Overhead".into()));
    }
    place(pod, &class["scheduling"]).map_err(refuse)
}

fn place(pod: &mut Value, scheduling: &Value) -> Result<(), String> {
    let spec = meta::member_mut(pod, "spec");
    for (key, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        if !selector[key].is_null() && selector[key] != *value {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {}",
                selector[key]
            ));
        }
        selector[key] = value.clone();
    }
    let more = scheduling["tolerations"].as_array().cloned().unwrap_or_default();
    if !more.is_empty()
        && let Value::Array(list) = spec.entry("tolerations").or_insert_with(|| json!([]))
    {
        for toleration in more {
            if !list.contains(&toleration) {
                list.push(toleration);
            }
        }
    }
    Ok(())
}
