//! Services keep the addresses and ports they were given, and drop those their new type has no use for.

use serde_json::{Value, json};

use crate::table::tree;

/// Takes over, or drops, what was allocated for the old form.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    let Some(old) = old.get("spec") else { return };
    let Some(new) = new.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    match (has_cluster_ip(old), has_cluster_ip(new)) {
        (true, true) => keep_cluster_ip(new, old),
        (true, false) => drop_cluster_ip(new, old),
        _ => {}
    }
    match (has_node_ports(old), has_node_ports(new)) {
        (true, true) => keep_node_ports(new, old),
        (true, false) => drop_node_ports(new, old),
        _ => {}
    }
    keep_health_check_port(new, old);
    drop_load_balancer_fields(new, old);
}

fn has_cluster_ip(spec: &Value) -> bool {
    tree::text(spec, "/type") != "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    let allocates = tree::at(spec, "/allocateLoadBalancerNodePorts").as_bool().unwrap_or(true);
    match tree::text(spec, "/type") {
        "NodePort" => true,
        "LoadBalancer" => allocates,
        _ => false,
    }
}

fn has_health_check_port(spec: &Value) -> bool {
    tree::text(spec, "/type") == "LoadBalancer" && tree::text(spec, "/externalTrafficPolicy") == "Local"
}

fn same(new: &Value, old: &Value, key: &str) -> bool {
    new.get(key).unwrap_or(&Value::Null) == old.get(key).unwrap_or(&Value::Null)
}

fn keep_cluster_ip(new: &mut Value, old: &Value) {
    for key in ["clusterIP", "clusterIPs"] {
        if key == "clusterIPs" && !same(new, old, "clusterIP") {
            return;
        }
        if let Some(address) = old.get(key) {
            tree::set_empty(new, key, address.clone());
        }
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = old.get(key) {
            tree::set_missing(new, key, value.clone());
        }
    }
}

/// Only what the client did not change as well; validation refuses the rest.
fn drop_cluster_ip(new: &mut Value, old: &Value) {
    if same(new, old, "clusterIP") && same(new, old, "clusterIPs") {
        tree::remove(new, "clusterIP");
        tree::remove(new, "clusterIPs");
    }
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if same(new, old, key) {
            tree::remove(new, key);
        }
    }
}

/// Ports are known by their name; a number that is used elsewhere is not taken over.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let old_ports = tree::list(old, "/ports");
    let mut used: Vec<i64> = tree::list(new, "/ports").iter().map(node_port).collect();
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if node_port(port) != 0 {
            continue;
        }
        let name = tree::text(port, "/name");
        let known = old_ports.iter().find(|old| tree::text(old, "/name") == name).map_or(0, node_port);
        if known != 0 && !used.contains(&known) {
            used.push(known);
            tree::set(port, "nodePort", json!(known));
        }
    }
}

fn node_port(port: &Value) -> i64 {
    tree::int(port, "/nodePort")
}

fn drop_node_ports(new: &mut Value, old: &Value) {
    let numbers = |spec: &Value| tree::list(spec, "/ports").iter().map(node_port).collect::<Vec<_>>();
    if numbers(new) != numbers(old) {
        return;
    }
    for port in new.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        tree::remove(port, "nodePort");
    }
}

fn keep_health_check_port(new: &mut Value, old: &Value) {
    let port = tree::int(old, "/healthCheckNodePort");
    if port == 0 || !has_health_check_port(old) {
        return;
    }
    if has_health_check_port(new) {
        tree::set_missing(new, "healthCheckNodePort", json!(port));
    } else if same(new, old, "healthCheckNodePort") {
        tree::remove(new, "healthCheckNodePort");
    }
}

fn drop_load_balancer_fields(new: &mut Value, old: &Value) {
    let is_balanced = |spec: &Value| tree::text(spec, "/type") == "LoadBalancer";
    if is_balanced(old) && !is_balanced(new) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(new, old, key) {
                tree::remove(new, key);
            }
        }
    }
    let is_external = |spec: &Value| {
        matches!(tree::text(spec, "/type"), "NodePort" | "LoadBalancer")
            || !tree::list(spec, "/externalIPs").is_empty()
    };
    if is_external(old) && !is_external(new) && same(new, old, "externalTrafficPolicy") {
        tree::remove(new, "externalTrafficPolicy");
    }
}
