//! Services and what is behind them: endpoints and endpoint slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::field::{Errors, Field};
use super::{names, values};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const NOT_FOR_NAMES: &str = "may not be set for ExternalName services";
const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const MOST_ENDPOINTS: usize = 1000;
const MOST_ADDRESSES: usize = 100;
const MOST_PORTS: usize = 20_000;
/// Longest time a client may stay with its pod: a day.
const MOST_AFFINITY_SECONDS: i64 = 86_400;

/// A Service.
pub(super) fn service(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let type_ = spec.text_at("/type");
    if spec.list_at("/ports").is_empty() && !is_headless(&spec) && type_ != "ExternalName" {
        errors.push(spec.child("ports").required(""));
    }
    addresses_for_type(&spec, errors);
    ports(&spec, errors);
    values::labels(&spec.child("selector"), errors);
    affinity(&spec, errors);
    if type_ != "ExternalName" {
        cluster_ips(&spec, errors);
    }
    for ip in spec.child("externalIPs").items() {
        endpoint_ip(&ip, errors);
    }
    values::one_of(&spec.child("type"), &TYPES, errors);
    load_balancer(&spec, errors);
    traffic_policies(&spec, errors);
}

fn is_headless(spec: &Field<'_>) -> bool {
    let first = spec.list_at("/clusterIPs").first().and_then(Value::as_str);
    first.unwrap_or_else(|| spec.text_at("/clusterIP")) == "None"
}

fn addresses_for_type(spec: &Field<'_>, errors: &mut Errors) {
    let ips = spec.child("clusterIPs");
    match spec.text_at("/type") {
        type_ @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            if let Some(first) = ips.items().next() {
                errors.push(first.invalid(format!("may not be set to 'None' for {type_} services")));
            }
        }
        "ExternalName" => {
            for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                let field = spec.child(key);
                if !field.is_empty() || field.value().is_string() {
                    errors.push(field.forbidden(NOT_FOR_NAMES));
                }
            }
            let name = spec.child("externalName");
            let bare = name.text().strip_suffix('.').unwrap_or(name.text());
            if bare.is_empty() {
                errors.push(name.required(""));
            } else {
                let wrong = names::dns_subdomain(bare);
                errors.extend(wrong.into_iter().map(|message| name.invalid_as(bare, message)));
            }
        }
        _ => {}
    }
}

fn ports(spec: &Field<'_>, errors: &mut Errors) {
    let list = spec.child("ports");
    let needs_name = list.len() > 1;
    let mut seen_names = BTreeSet::new();
    let mut seen_ports = BTreeSet::new();
    let mut seen_node_ports = BTreeSet::new();
    for port in list.items() {
        port_name(&port, needs_name, &mut seen_names, errors);
        let protocol = port.text_at("/protocol").to_owned();
        let (number, node_port) = (port.int_at("/port"), port.int_at("/nodePort"));
        values::port_number(&port.child("port"), errors);
        values::protocol(&port.child("protocol"), errors);
        values::port_or_name(&port.child("targetPort"), errors);
        values::optionally_named(&port.child("appProtocol"), names::qualified_name, errors);
        if node_port != 0 && spec.text_at("/type") == "ClusterIP" {
            errors.push(port.child("nodePort").forbidden("may not be used when `type` is 'ClusterIP'"));
        }
        if node_port != 0 && !seen_node_ports.insert((protocol.clone(), node_port)) {
            errors.push(port.child("nodePort").duplicate());
        }
        if !seen_ports.insert((protocol.clone(), number)) {
            errors.push(port.duplicate_as(json!({"protocol": protocol, "port": number})));
        }
    }
}

fn port_name(port: &Field<'_>, is_needed: bool, seen: &mut BTreeSet<String>, errors: &mut Errors) {
    let name = port.child("name");
    if name.text().is_empty() {
        if is_needed {
            errors.push(name.required(""));
        }
        return;
    }
    values::named(&name, names::dns_label, errors);
    if !seen.insert(name.text().to_owned()) {
        errors.push(name.duplicate());
    }
}

fn affinity(spec: &Field<'_>, errors: &mut Errors) {
    let affinity = spec.child("sessionAffinity");
    values::one_of(&affinity, &["ClientIP", "None"], errors);
    let config = spec.child("sessionAffinityConfig");
    match affinity.text() {
        "ClientIP" => {
            let client = config.child("clientIP");
            let seconds = client.child("timeoutSeconds");
            if !seconds.is_set() {
                errors.push(config.required("when session affinity type is ClientIP"));
            } else if !(1..=MOST_AFFINITY_SECONDS).contains(&seconds.value().as_i64().unwrap_or_default()) {
                errors.push(
                    seconds.invalid(format!("must be greater than 0 and less than {MOST_AFFINITY_SECONDS}")),
                );
            }
        }
        "None" if config.is_set() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn cluster_ips(spec: &Field<'_>, errors: &mut Errors) {
    let (list, first) = (spec.child("clusterIPs"), spec.text_at("/clusterIP"));
    if list.is_set() && list.list_at("").first().and_then(Value::as_str).unwrap_or_default() != first {
        errors.push(list.invalid(if first.is_empty() {
            "must be empty when `clusterIP` is not specified"
        } else {
            "first value must match `clusterIP`"
        }));
    }
    for ip in list.items() {
        if ip.text() == "None" {
            if list.len() > 1 {
                errors.push(list.invalid("'None' must be the first and only value"));
            }
        } else if ip.text().parse::<IpAddr>().is_err() {
            errors.push(ip.invalid(BAD_IP));
        }
    }
    if list.len() > 2 {
        errors.push(list.invalid("may only hold up to 2 values"));
    }
    let families = spec.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for family in families.items() {
        values::one_of(&family, &["IPv4", "IPv6"], errors);
        if !seen.insert(family.text().to_owned()) {
            errors.push(family.duplicate());
        }
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    values::optionally_one_of(&spec.child("ipFamilyPolicy"), &policies, errors);
}

fn load_balancer(spec: &Field<'_>, errors: &mut Errors) {
    if spec.text_at("/type") == "LoadBalancer" {
        return;
    }
    let message = "may only be used when `type` is 'LoadBalancer'";
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        let field = spec.child(key);
        if field.is_set() {
            errors.push(field.forbidden(message));
        }
    }
    if !spec.list_at("/loadBalancerSourceRanges").is_empty() {
        // The capital letter is upstream's.
        errors.push(spec.child("LoadBalancerSourceRanges").forbidden(message));
    }
}

fn traffic_policies(spec: &Field<'_>, errors: &mut Errors) {
    let type_ = spec.text_at("/type");
    let has_external_ip = !spec.list_at("/externalIPs").is_empty();
    let is_external =
        matches!(type_, "NodePort" | "LoadBalancer") || (type_ == "ClusterIP" && has_external_ip);
    let external = spec.child("externalTrafficPolicy");
    if is_external {
        values::one_of(&external, &["Cluster", "Local"], errors);
    } else if !external.text().is_empty() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    let health = spec.child("healthCheckNodePort");
    let is_checked = type_ == "LoadBalancer" && external.text() == "Local";
    if !is_checked && spec.int_at("/healthCheckNodePort") != 0 {
        errors.push(
            health.invalid(
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ),
        );
    }
    let internal = spec.child("internalTrafficPolicy");
    if internal.is_set() {
        values::one_of(&internal, &["Cluster", "Local"], errors);
    } else if matches!(type_, "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.push(internal.required(""));
    }
}

/// The address of a service stays what it was, unless its type asks for another.
pub(super) fn update(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    let is_named = |spec: &Field<'_>| spec.text_at("/type") == "ExternalName";
    if is_named(&new) || is_named(&old) || old.text_at("/clusterIP").is_empty() {
        return;
    }
    let ips = new.child("clusterIPs");
    if new.text_at("/clusterIP") != old.text_at("/clusterIP") {
        let message = "may not change once set";
        errors.push(match ips.items().next() {
            Some(first) => first.invalid(message),
            None => new.child("clusterIP").invalid(message),
        });
    }
}

/// An Endpoints object.
pub(super) fn endpoints(root: &Field<'_>, errors: &mut Errors) {
    for subset in root.child("subsets").items() {
        let (ready, other) = (subset.child("addresses"), subset.child("notReadyAddresses"));
        if ready.is_empty() && other.is_empty() {
            errors.push(subset.required("must specify `addresses` or `notReadyAddresses`"));
        }
        for address in ready.items().chain(other.items()) {
            endpoint_ip(&address.child("ip"), errors);
            values::optionally_named(&address.child("hostname"), names::dns_label, errors);
        }
        let ports = subset.child("ports");
        let needs_name = ports.len() > 1;
        for port in ports.items() {
            port_name(&port, needs_name, &mut BTreeSet::new(), errors);
            values::port_number(&port.child("port"), errors);
            values::protocol(&port.child("protocol"), errors);
        }
    }
}

/// An address of a pod or another machine: none that means this machine, this link or many at once.
fn endpoint_ip(field: &Field<'_>, errors: &mut Errors) {
    let Ok(ip) = field.text().parse::<IpAddr>() else {
        errors.push(field.invalid(BAD_IP));
        return;
    };
    if ip.is_unspecified() {
        errors.push(field.invalid(format!("may not be unspecified ({})", field.text())));
    }
    if ip.is_loopback() {
        errors.push(field.invalid("may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments().first().is_some_and(|first| first & 0xffc0 == 0xfe80),
    };
    if is_link_local {
        errors.push(field.invalid("may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(root: &Field<'_>, errors: &mut Errors) {
    values::one_of(&root.child("addressType"), &["FQDN", "IPv4", "IPv6"], errors);
    slice_ports(&root.child("ports"), errors);
    let list = root.child("endpoints");
    if list.len() > MOST_ENDPOINTS {
        errors.push(list.too_many(MOST_ENDPOINTS));
        return;
    }
    for endpoint in list.items() {
        let addresses = endpoint.child("addresses");
        if addresses.is_empty() {
            errors.push(addresses.required("must contain at least 1 address"));
        } else if addresses.len() > MOST_ADDRESSES {
            errors.push(addresses.too_many(MOST_ADDRESSES));
        }
        for address in addresses.items() {
            slice_address(root.text_at("/addressType"), &addresses, &address, errors);
        }
        values::optionally_named(&endpoint.child("nodeName"), names::dns_subdomain, errors);
        values::optionally_named(&endpoint.child("hostname"), names::dns_label, errors);
    }
}

fn slice_address(type_: &str, list: &Field<'_>, address: &Field<'_>, errors: &mut Errors) {
    if type_ == "FQDN" {
        values::named(address, names::dns_subdomain, errors);
        return;
    }
    endpoint_ip(address, errors);
    if let Ok(ip) = address.text().parse::<IpAddr>() {
        let (is_right, word) = if type_ == "IPv6" { (ip.is_ipv6(), "IPv6") } else { (ip.is_ipv4(), "IPv4") };
        if !is_right {
            errors.push(list.invalid_as(address.text(), format!("must be an {word} address")));
        }
    }
}

fn slice_ports(list: &Field<'_>, errors: &mut Errors) {
    if list.len() > MOST_PORTS {
        errors.push(list.too_many(MOST_PORTS));
        return;
    }
    let mut seen = BTreeSet::new();
    for port in list.items() {
        let name = port.child("name");
        values::optionally_named(&name, names::dns_label, errors);
        if !seen.insert(name.text().to_owned()) {
            errors.push(name.duplicate());
        }
        values::protocol(&port.child("protocol"), errors);
        values::optionally_named(&port.child("appProtocol"), names::qualified_name, errors);
    }
}

/// The form of the addresses of a slice stays what it was.
pub(super) fn update_endpoint_slice(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    values::immutable(&new.child("addressType"), &old.child("addressType"), errors);
}
