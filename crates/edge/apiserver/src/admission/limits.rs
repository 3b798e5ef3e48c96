//! LimitRanges: what containers get when they ask for nothing, and the bounds of what they may ask for.
//!
//! Source: Kubernetes' admission plugin LimitRanger; `v1` LimitRange.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use wharf_api::{meta, status::Status};
use wharf_base::Quantity;
use wharf_control::quota::{self, Amounts};

use crate::ApiServer;

/// The limits of a namespace, all LimitRanges together.
fn limits(server: &ApiServer, namespace: &str) -> Vec<Value> {
    let ranges = server.storage.cache("limitranges").snapshot();
    let items = ranges.range(namespace, None).map(|entry| entry.object());
    items.flat_map(|range| range["spec"]["limits"].as_array().cloned().unwrap_or_default()).collect()
}

fn amounts(list: &Value) -> Amounts {
    let pairs = list.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?))).collect()
}

/// Gives the containers of a new pod what the namespace has as defaults.
pub(super) fn default(server: &ApiServer, pod: &mut Value) {
    let limits = limits(server, meta::namespace(pod));
    let (mut requests, mut bounds) = (Map::new(), Map::new());
    for limit in limits.iter().filter(|limit| limit["type"] == "Container") {
        requests.extend(limit["defaultRequest"].as_object().cloned().unwrap_or_default());
        bounds.extend(limit["default"].as_object().cloned().unwrap_or_default());
    }
    if requests.is_empty() && bounds.is_empty() {
        return;
    }
    let mut said = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = meta::member_mut(pod, "spec").get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            for (field, defaults, what) in [("requests", &requests, "request"), ("limits", &bounds, "limit")]
            {
                let set = fill(container, field, defaults);
                if !set.is_empty() {
                    said.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let said = format!("LimitRanger plugin set: {}", said.join("; "));
        let metadata = meta::metadata_mut(pod);
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        annotations["kubernetes.io/limit-ranger"] = said.into();
    }
}

/// The names of what was missing.
fn fill(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let resources = meta::member_mut(container, "resources");
    let Value::Object(given) = resources.entry(field).or_insert_with(|| json!({})) else { return Vec::new() };
    let mut set = Vec::new();
    for (name, value) in defaults {
        if !given.contains_key(name) {
            given.insert(name.clone(), value.clone());
            set.push(name.clone());
        }
    }
    if given.is_empty() {
        resources.remove(field);
    }
    set
}

/// Refuses a pod whose containers, or which as a whole, ask for too little or too much.
pub(super) fn check_pod(server: &ApiServer, pod: &Value) -> Result<(), Status> {
    let namespace = meta::namespace(pod);
    let mut wrong = BTreeSet::new();
    for limit in limits(server, namespace) {
        match limit["type"].as_str() {
            Some("Container") => {
                for list in ["containers", "initContainers"] {
                    for container in pod["spec"][list].as_array().into_iter().flatten() {
                        let resources = &container["resources"];
                        let (requests, bounds) =
                            (amounts(&resources["requests"]), amounts(&resources["limits"]));
                        check(&limit, "Container", &requests, &bounds, &mut wrong);
                    }
                }
            }
            Some("Pod") => {
                let (requests, bounds) = quota::asked(pod);
                check(&limit, "Pod", &requests, &bounds, &mut wrong);
            }
            _ => {}
        }
    }
    refusal("pods", pod, wrong)
}

/// Refuses a claim that asks for too little or too much storage.
pub(super) fn check_claim(server: &ApiServer, claim: &Value) -> Result<(), Status> {
    let mut wrong = BTreeSet::new();
    let asked = amounts(&claim["spec"]["resources"]["requests"]);
    for limit in limits(server, meta::namespace(claim)) {
        if limit["type"] == "PersistentVolumeClaim" {
            below(&limit["min"], "PersistentVolumeClaim", &asked, &Amounts::new(), &mut wrong);
            let most = amounts(&limit["max"]);
            for (name, most) in &most {
                match asked.get(name) {
                    None => wrong.insert(format!(
                        "maximum {name} usage per PersistentVolumeClaim is {most}.  No request is specified"
                    )),
                    Some(asked) if asked > most => wrong.insert(format!(
                        "maximum {name} usage per PersistentVolumeClaim is {most}, but request is {asked}"
                    )),
                    _ => false,
                };
            }
        }
    }
    refusal("persistentvolumeclaims", claim, wrong)
}

fn refusal(plural: &str, object: &Value, wrong: BTreeSet<String>) -> Result<(), Status> {
    let name = meta::name(object);
    let wrong: Vec<String> = wrong.into_iter().collect();
    let text = match &wrong[..] {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(Status::forbidden(format!("{plural} {name:?} is forbidden: {text}")).about(plural, name))
}

fn check(limit: &Value, kind: &str, requests: &Amounts, bounds: &Amounts, wrong: &mut BTreeSet<String>) {
    below(&limit["min"], kind, requests, bounds, wrong);
    above(&limit["max"], kind, requests, bounds, wrong);
    ratio(&limit["maxLimitRequestRatio"], kind, requests, bounds, wrong);
}

fn below(least: &Value, kind: &str, requests: &Amounts, bounds: &Amounts, wrong: &mut BTreeSet<String>) {
    for (name, least) in amounts(least) {
        let rule = format!("minimum {name} usage per {kind} is {least}");
        match (requests.get(&name), bounds.get(&name)) {
            (None, _) => wrong.insert(format!("{rule}.  No request is specified")),
            (Some(request), _) if *request < least => {
                wrong.insert(format!("{rule}, but request is {request}"))
            }
            (_, Some(bound)) if *bound < least => wrong.insert(format!("{rule}, but limit is {bound}")),
            _ => false,
        };
    }
}

fn above(most: &Value, kind: &str, requests: &Amounts, bounds: &Amounts, wrong: &mut BTreeSet<String>) {
    for (name, most) in amounts(most) {
        let rule = format!("maximum {name} usage per {kind} is {most}");
        match (requests.get(&name), bounds.get(&name)) {
            (_, None) => wrong.insert(format!("{rule}.  No limit is specified")),
            (_, Some(bound)) if *bound > most => wrong.insert(format!("{rule}, but limit is {bound}")),
            (Some(request), _) if *request > most => {
                wrong.insert(format!("{rule}, but request is {request}"))
            }
            _ => false,
        };
    }
}

fn ratio(most: &Value, kind: &str, requests: &Amounts, bounds: &Amounts, wrong: &mut BTreeSet<String>) {
    for (name, most) in amounts(most) {
        let rule = format!("{name} max limit to request ratio per {kind} is {most}");
        let some = |amount: Option<&Quantity>| amount.map(|q| q.as_f64()).filter(|number| *number > 0.0);
        match (some(requests.get(&name)), some(bounds.get(&name))) {
            (None, _) => wrong.insert(format!("{rule}, but no request is specified or request is 0")),
            (_, None) => wrong.insert(format!("{rule}, but no limit is specified or limit is 0")),
            (Some(request), Some(bound)) if bound / request > most.as_f64() => {
                wrong.insert(format!("{rule}, but provided ratio is {:.6}", bound / request))
            }
            _ => false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(limit: Value, resources: Value) -> Vec<String> {
        let mut wrong = BTreeSet::new();
        let (requests, bounds) = (amounts(&resources["requests"]), amounts(&resources["limits"]));
        check(&limit, "Container", &requests, &bounds, &mut wrong);
        wrong.into_iter().collect()
    }

    #[test]
    fn bounds_are_told_as_upstream() {
        let limit = json!({"min": {"cpu": "50m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}});
        assert_eq!(
            wrong(limit.clone(), json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}})),
            [""; 0]
        );
        assert_eq!(
            wrong(limit.clone(), json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "2"}})),
            [
                "cpu max limit to request ratio per Container is 2, but provided ratio is 200.000000",
                "maximum cpu usage per Container is 1, but limit is 2",
                "minimum cpu usage per Container is 50m, but request is 10m"
            ]
        );
        assert_eq!(wrong(limit, json!({})).len(), 3);
    }
}
