//! What Services and PersistentVolumeClaims use.

use serde_json::Value;
use wharf_base::Quantity;

use super::{Amounts, CLAIMS, ONE, SERVICES};

const LOAD_BALANCERS: &str = "services.loadbalancers";
const NODE_PORTS: &str = "services.nodeports";
const STORAGE: &str = "requests.storage";
/// Follows the name of a storage class whose claims are counted apart.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Where the class of a claim stood before it was a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn counts_services(name: &str) -> bool {
    [SERVICES.name, LOAD_BALANCERS, NODE_PORTS].contains(&name)
}

pub(super) fn counts_claims(name: &str) -> bool {
    let name = name.rsplit_once(OF_CLASS).map_or(name, |(_, counted)| counted);
    [CLAIMS.name, STORAGE].contains(&name)
}

/// A Service: itself, the ports nodes listen on for it, a load balancer.
pub(super) fn service(service: &Value) -> Amounts {
    let spec = |field: &str| service.get("spec").and_then(|spec| spec.get(field));
    let ports = spec("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let given = ports.iter().filter(|port| port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0);
    let (balancers, node_ports) = match spec("type").and_then(Value::as_str) {
        Some("NodePort") => (0, ports.len()),
        // Not all have their ports yet: what counts is what will be allocated.
        Some("LoadBalancer") if spec("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false)) => {
            (1, given.count())
        }
        Some("LoadBalancer") => (1, ports.len()),
        _ => (0, 0),
    };
    Amounts::from([
        (SERVICES.count_name(), ONE),
        (SERVICES.name.to_owned(), ONE),
        (LOAD_BALANCERS.to_owned(), Quantity::from_units(balancers)),
        (NODE_PORTS.to_owned(), Quantity::from_units(i64::try_from(node_ports).unwrap_or(i64::MAX))),
    ])
}

/// A claim: itself and its storage, over all and in its class.
pub(super) fn claim(claim: &Value) -> Amounts {
    let mut amounts = Amounts::from([(CLAIMS.count_name(), ONE), (CLAIMS.name.to_owned(), ONE)]);
    let storage = storage(claim);
    amounts.extend(storage.map(|storage| (STORAGE.to_owned(), storage)));
    if let Some(class) = class(claim) {
        amounts.insert(format!("{class}{OF_CLASS}{}", CLAIMS.name), ONE);
        amounts.extend(storage.map(|storage| (format!("{class}{OF_CLASS}{STORAGE}"), storage)));
    }
    amounts
}

fn class(claim: &Value) -> Option<&str> {
    let annotations = claim.pointer("/metadata/annotations");
    let annotation = annotations.and_then(|annotations| annotations.get(CLASS_ANNOTATION));
    let class = annotation.or_else(|| claim.pointer("/spec/storageClassName")).and_then(Value::as_str)?;
    (!class.is_empty()).then_some(class)
}

/// Whole bytes asked for, or what an expansion under way has set aside, if that is more.
fn storage(claim: &Value) -> Option<Quantity> {
    let amount = |pointer: &str| {
        let text = claim.pointer(pointer).and_then(Value::as_str)?;
        let amount: Quantity = text.parse().ok()?;
        let whole = amount.nanos() % Quantity::from_units(1).nanos() == 0;
        Some(if whole { amount } else { Quantity::from_bytes(amount.units()) })
    };
    let asked = amount("/spec/resources/requests/storage")?;
    Some(amount("/status/allocatedResources/storage").map_or(asked, |allocated| allocated.max(asked)))
}
