//! Networking: services, endpoints, ingresses, policies, address ranges.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, SELECTOR, Table, column, text, tree};

/// How many addresses, ports or hosts a cell shows.
const SHOWN: usize = 3;

const SERVICE: &[Column] = &[
    NAME,
    column("Type", "How the service is reached"),
    column("Cluster-IP", "Address within the cluster"),
    column("External-IP", "Addresses from outside the cluster"),
    column("Port(s)", "Ports, with node ports and protocols"),
    AGE,
    SELECTOR,
];
const ENDPOINTS: &[Column] = &[NAME, column("Endpoints", "Addresses and ports of the pods behind"), AGE];
const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", "IPv4, IPv6 or FQDN"),
    column("Ports", "Ports of every endpoint"),
    column("Endpoints", "Addresses of the endpoints"),
    AGE,
];
const INGRESS: &[Column] = &[
    NAME,
    column("Class", "Class of the controller that serves it"),
    column("Hosts", "Host names that are routed"),
    column("Address", "Where the ingress is reached"),
    column("Ports", "Ports that are open"),
    AGE,
];
const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", "Controller that serves the class"),
    column("Parameters", "Object with the controller's settings"),
    AGE,
];
const NETWORK_POLICY: &[Column] = &[NAME, column("Pod-Selector", "Pods the policy is for"), AGE];
const SERVICE_CIDR: &[Column] = &[NAME, column("CIDRs", "Ranges of addresses for services"), AGE];
const IP_ADDRESS: &[Column] = &[NAME, column("ParentRef", "Object that uses the address")];

pub(super) const TABLES: &[Table] = &[
    Table { group: "", resource: "services", columns: SERVICE, cells: service },
    Table { group: "", resource: "endpoints", columns: ENDPOINTS, cells: endpoints },
    Table {
        group: "discovery.k8s.io",
        resource: "endpointslices",
        columns: ENDPOINT_SLICE,
        cells: endpoint_slice,
    },
    Table { group: "networking.k8s.io", resource: "ingresses", columns: INGRESS, cells: ingress },
    Table {
        group: "networking.k8s.io",
        resource: "ingressclasses",
        columns: INGRESS_CLASS,
        cells: ingress_class,
    },
    Table {
        group: "networking.k8s.io",
        resource: "networkpolicies",
        columns: NETWORK_POLICY,
        cells: network_policy,
    },
    Table {
        group: "networking.k8s.io",
        resource: "servicecidrs",
        columns: SERVICE_CIDR,
        cells: service_cidr,
    },
    Table { group: "networking.k8s.io", resource: "ipaddresses", columns: IP_ADDRESS, cells: ip_address },
];

fn service(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row.list("/spec/ports").iter().map(service_port).collect();
    vec![
        row.name(),
        row.string("/spec/type"),
        json!(cluster_ip(row)),
        json!(external_ip(row)),
        json!(text::or_none(ports.join(","))),
        row.age(),
        json!(text::labels(row.object, "/spec/selector")),
    ]
}

fn cluster_ip(row: &Row<'_>) -> String {
    match row.list("/spec/clusterIPs").first().and_then(Value::as_str) {
        Some(first) => first.to_owned(),
        None => text::or_none(row.text("/spec/clusterIP").to_owned()),
    }
}

fn external_ip(row: &Row<'_>) -> String {
    let fixed = strings(row.list("/spec/externalIPs"));
    match row.text("/spec/type") {
        "ClusterIP" | "NodePort" => text::or_none(fixed.join(",")),
        "LoadBalancer" => {
            let mut all: Vec<String> = load_balancer(row).into_iter().collect();
            all.extend(fixed);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => row.text("/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// Addresses or host names of the load balancer, in order, each once.
fn load_balancer(row: &Row<'_>) -> BTreeSet<String> {
    row.list("/status/loadBalancer/ingress")
        .iter()
        .map(|ingress| match tree::text(ingress, "/ip") {
            "" => tree::text(ingress, "/hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

fn service_port(port: &Value) -> String {
    let (number, protocol) = (tree::int(port, "/port"), tree::text(port, "/protocol"));
    match tree::int(port, "/nodePort") {
        node_port if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
        _ => format!("{number}/{protocol}"),
    }
}

fn endpoints(row: &Row<'_>) -> Vec<Value> {
    let subsets = row.list("/subsets");
    let addresses: Vec<String> = subsets.iter().flat_map(subset_addresses).collect();
    let cell =
        if subsets.is_empty() { "<none>".to_owned() } else { text::shortened(&addresses, SHOWN, ",", "") };
    vec![row.name(), json!(cell), row.age()]
}

/// Every address with every port; bare addresses when there are no ports.
fn subset_addresses(subset: &Value) -> Vec<String> {
    let addresses: Vec<&str> =
        tree::list(subset, "/addresses").iter().map(|address| tree::text(address, "/ip")).collect();
    let ports = tree::list(subset, "/ports");
    if ports.is_empty() {
        return addresses.into_iter().map(str::to_owned).collect();
    }
    ports
        .iter()
        .flat_map(|port| addresses.iter().map(move |ip| host_port(ip, tree::int(port, "/port"))))
        .collect()
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn endpoint_slice(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row.list("/ports").iter().map(slice_port).collect();
    let addresses: Vec<String> = row
        .list("/endpoints")
        .iter()
        .flat_map(|endpoint| strings(tree::list(endpoint, "/addresses")))
        .collect();
    vec![
        row.name(),
        row.string("/addressType"),
        json!(text::shortened(&ports, SHOWN, ",", "<unset>")),
        json!(text::shortened(&addresses, SHOWN, ",", "<unset>")),
        row.age(),
    ]
}

fn slice_port(port: &Value) -> String {
    match (port.get("port").and_then(Value::as_i64), port.get("name").and_then(Value::as_str)) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    }
}

fn ingress(row: &Row<'_>) -> Vec<Value> {
    let ports = if row.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    let addresses: Vec<String> = load_balancer(row).into_iter().collect();
    vec![
        row.name(),
        row.string_or("/spec/ingressClassName", "<none>"),
        json!(ingress_hosts(row.list("/spec/rules"))),
        json!(addresses.join(",")),
        json!(ports),
        row.age(),
    ]
}

/// The first hosts; rules without a host are counted only once three hosts are shown.
fn ingress_hosts(rules: &[Value]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more = more || shown.len() == SHOWN;
        let host = tree::text(rule, "/host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    if shown.is_empty() {
        return "*".to_owned();
    }
    let text = shown.join(",");
    if more { format!("{text} + {} more...", rules.len().saturating_sub(SHOWN)) } else { text }
}

fn ingress_class(row: &Row<'_>) -> Vec<Value> {
    let mut name = row.text("/metadata/name").to_owned();
    if row.text("/metadata/annotations/ingressclass.kubernetes.io~1is-default-class") == "true" {
        name.push_str(" (default)");
    }
    vec![json!(name), row.string("/spec/controller"), json!(class_parameters(row)), row.age()]
}

fn class_parameters(row: &Row<'_>) -> String {
    let parameters = row.at("/spec/parameters");
    if parameters.is_null() {
        return "<none>".to_owned();
    }
    let (kind, name) = (tree::text(parameters, "/kind"), tree::text(parameters, "/name"));
    match parameters.get("apiGroup").and_then(Value::as_str) {
        Some(group) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn network_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(text::selector_or_none(row.at("/spec/podSelector"))), row.age()]
}

fn service_cidr(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(strings(row.list("/spec/cidrs")).join(",")), row.age()]
}

fn ip_address(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(parent_name(row.at("/spec/parentRef")))]
}

/// `resource.group/namespace/name` of a parent reference.
fn parent_name(parent: &Value) -> String {
    if parent.is_null() {
        return "<none>".to_owned();
    }
    let mut name = tree::text(parent, "/resource").to_lowercase();
    let group = tree::text(parent, "/group");
    if !group.is_empty() {
        name = format!("{name}.{}", group.to_lowercase());
    }
    let namespace = tree::text(parent, "/namespace");
    if !namespace.is_empty() {
        name = format!("{name}/{namespace}");
    }
    format!("{name}/{}", tree::text(parent, "/name"))
}

/// The strings of a list.
fn strings(list: &[Value]) -> Vec<String> {
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}
