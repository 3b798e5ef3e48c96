//! Conditional defaults of services and network policies.

use serde_json::{Value, json};

use crate::table::tree;

/// How long a client stays with its pod, unless the service says.
const AFFINITY_SECONDS: i64 = 3 * 60 * 60;

/// Target ports, affinity and traffic policies. Addresses and node ports are the allocator's.
pub(super) fn service(object: &mut Value) {
    if let Some(ingress) = load_balancer_ingress(object) {
        for address in ingress.iter_mut().filter(|address| !tree::text(address, "/ip").is_empty()) {
            tree::set_missing(address, "ipMode", json!("VIP"));
        }
    }
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    affinity(spec);
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        target_port(port);
    }
    let type_ = tree::text(spec, "/type").to_owned();
    let has_external_ip = !tree::list(spec, "/externalIPs").is_empty();
    if matches!(type_.as_str(), "NodePort" | "LoadBalancer") || (type_ == "ClusterIP" && has_external_ip) {
        tree::set_empty(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if type_ != "ExternalName" {
        tree::set_missing(spec, "internalTrafficPolicy", json!("Cluster"));
    }
    if type_ == "LoadBalancer" {
        tree::set_missing(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
}

/// The addresses in the status of a service with a load balancer.
fn load_balancer_ingress(object: &mut Value) -> Option<&mut Vec<Value>> {
    if tree::text(object, "/spec/type") != "LoadBalancer" {
        return None;
    }
    object.pointer_mut("/status/loadBalancer/ingress").and_then(Value::as_array_mut)
}

fn affinity(spec: &mut Value) {
    match tree::text(spec, "/sessionAffinity") {
        "None" => {
            tree::remove(spec, "sessionAffinityConfig");
        }
        "ClientIP" if !tree::has(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds") => {
            let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
            tree::set(spec, "sessionAffinityConfig", config);
        }
        _ => {}
    }
}

/// The port of the pods is the service's own, unless it is given.
fn target_port(port: &mut Value) {
    let target = tree::at(port, "/targetPort");
    let is_given = !target.is_null() && target.as_i64() != Some(0) && target.as_str() != Some("");
    let number = tree::at(port, "/port").clone();
    if !is_given && !number.is_null() {
        tree::set(port, "targetPort", number);
    }
}

/// A policy is for what comes in, and for what goes out if it has rules for that.
pub(super) fn network_policy(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if tree::list(spec, "/policyTypes").is_empty() {
        let types = if tree::list(spec, "/egress").is_empty() {
            json!(["Ingress"])
        } else {
            json!(["Ingress", "Egress"])
        };
        tree::set(spec, "policyTypes", types);
    }
}
