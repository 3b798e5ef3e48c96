//! Addresses and node ports of services.

use std::{
    collections::HashSet,
    net::Ipv4Addr,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};
use wharf_api::{meta, resource::Resource, status::Status};

use crate::storage::Storage;

/// The pools services draw from.
#[derive(Debug, Clone)]
pub struct Ranges {
    base: u32,
    size: u32,
    ports: RangeInclusive<u16>,
    used: Arc<Mutex<Used>>,
}

#[derive(Debug, Default)]
struct Used {
    addresses: HashSet<u32>,
    ports: HashSet<u16>,
}

/// What a write takes and gives back. Dropped, it returns what it took.
#[must_use]
pub(crate) struct Allocation {
    used: Arc<Mutex<Used>>,
    taken: Used,
    freed: Used,
}

impl Allocation {
    /// From here on only the outcome of the write decides: one that nobody waits for any more may still go through.
    pub(crate) fn writing(mut self) -> Writing {
        let (taken, freed) = (std::mem::take(&mut self.taken), std::mem::take(&mut self.freed));
        Writing { used: Arc::clone(&self.used), taken, freed }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        remove(&mut lock(&self.used), &self.taken);
    }
}

/// What a write that is under way takes and gives back.
#[must_use]
pub(crate) struct Writing {
    used: Arc<Mutex<Used>>,
    taken: Used,
    freed: Used,
}

impl Writing {
    /// What the write came to. Where nobody knows, nothing of it is given to others: what it took may be in use, and
    /// what it gave back may still be.
    pub(crate) fn end(self, written: Option<bool>) {
        let gone = match written {
            Some(true) => &self.freed,
            Some(false) => &self.taken,
            None => return,
        };
        remove(&mut lock(&self.used), gone);
    }
}

fn remove(used: &mut Used, gone: &Used) {
    for address in &gone.addresses {
        used.addresses.remove(address);
    }
    for port in &gone.ports {
        used.ports.remove(port);
    }
}

fn lock(used: &Mutex<Used>) -> MutexGuard<'_, Used> {
    used.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Addresses at the start of the range kept for fixed uses: the API's and the DNS server's.
const RESERVED: u32 = 16;

impl Ranges {
    /// The pools of a service network `base/prefix` and of node ports.
    pub fn new(base: Ipv4Addr, prefix: u8, ports: RangeInclusive<u16>) -> Self {
        let size = 1u32.checked_shl(32 - u32::from(prefix.clamp(8, 30))).unwrap_or(u32::MAX);
        Self { base: u32::from(base), size, ports, used: Arc::default() }
    }

    /// The network services have their addresses from, in CIDR form.
    pub(crate) fn network(&self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.base), 32 - self.size.trailing_zeros())
    }

    /// The address of the service `kubernetes.default`.
    pub fn api_address(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Takes in what the stored services hold.
    pub(crate) fn load(&self, storage: &Storage) {
        let mut used = lock(&self.used);
        for entry in storage.cache("services").snapshot().entries.values() {
            let service = entry.object();
            used.addresses.extend(addresses(&service));
            used.ports.extend(node_ports(&service));
        }
    }

    /// Gives a service the address and ports it needs, and frees those it no longer has.
    pub(crate) fn assign(
        &self,
        resource: &Resource,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<Allocation, Status> {
        let mut allocation =
            Allocation { used: Arc::clone(&self.used), taken: Used::default(), freed: Used::default() };
        if resource.plural != "services" || !resource.gvk.group.is_empty() {
            return Ok(allocation);
        }
        let held = old.map(|o| (addresses(o), node_ports(o))).unwrap_or_default();
        self.assign_address(new, &held.0, &mut allocation)?;
        self.assign_ports(new, &held.1, &mut allocation)?;
        let (kept, ports) = (addresses(new), node_ports(new));
        allocation.freed.addresses = held.0.into_iter().filter(|a| !kept.contains(a)).collect();
        allocation.freed.ports = held.1.into_iter().filter(|p| !ports.contains(p)).collect();
        Ok(allocation)
    }

    /// A deleted service gives everything back.
    pub(crate) fn freed(&self, resource: &Resource, object: &Value) {
        if resource.plural == "services" && resource.gvk.group.is_empty() {
            let gone = Used {
                addresses: addresses(object).into_iter().collect(),
                ports: node_ports(object).into_iter().collect(),
            };
            remove(&mut lock(&self.used), &gone);
        }
    }

    fn assign_address(
        &self,
        new: &mut Value,
        held: &[u32],
        allocation: &mut Allocation,
    ) -> Result<(), Status> {
        if new["spec"]["type"] == "ExternalName" {
            let spec = meta::member_mut(new, "spec");
            for gone in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(gone);
            }
            return Ok(());
        }
        let asked = new["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
        let name = meta::name(new).to_owned();
        let address = match asked.as_str() {
            "None" => None,
            "" => Some(self.free_address(allocation).ok_or_else(|| {
                Status::new(500, "InternalError", "no service address is free: the range is used up")
            })?),
            text => {
                let refused = |why: &str| {
                    let why = format!("failed to allocate IP {text}: {why}");
                    invalid(&name, "spec.clusterIPs", &json!([text]).to_string(), &why)
                };
                let ip: Ipv4Addr = text.parse().map_err(|_| refused("not an IPv4 address"))?;
                let ip = u32::from(ip);
                if !held.contains(&ip) {
                    if ip.wrapping_sub(self.base) >= self.size {
                        return Err(refused("the provided IP is not in the valid range"));
                    }
                    if !lock(&self.used).addresses.insert(ip) {
                        return Err(refused("provided IP is already allocated"));
                    }
                    allocation.taken.addresses.insert(ip);
                }
                Some(ip)
            }
        };
        let text = address.map_or("None".to_owned(), |ip| Ipv4Addr::from(ip).to_string());
        let spec = meta::member_mut(new, "spec");
        spec.insert("clusterIP".into(), text.as_str().into());
        spec.insert("clusterIPs".into(), json!([text]));
        spec.insert("ipFamilies".into(), json!(["IPv4"]));
        spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
        Ok(())
    }

    fn free_address(&self, allocation: &mut Allocation) -> Option<u32> {
        let mut used = lock(&self.used);
        let first = RESERVED.min(self.size / 4).max(2);
        let ip = (self.base + first..self.base + self.size - 1).find(|ip| !used.addresses.contains(ip))?;
        used.addresses.insert(ip);
        allocation.taken.addresses.insert(ip);
        Some(ip)
    }

    fn assign_ports(&self, new: &mut Value, held: &[u16], allocation: &mut Allocation) -> Result<(), Status> {
        let wants = matches!(new["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"));
        let name = meta::name(new).to_owned();
        let ports = meta::member_mut(new, "spec").get_mut("ports").and_then(Value::as_array_mut);
        for (i, port) in ports.into_iter().flatten().enumerate() {
            let Value::Object(port) = port else { continue };
            let asked = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
            if !wants {
                port.remove("nodePort");
                continue;
            }
            let number = match u16::try_from(asked) {
                Ok(0) => {
                    self.free_port(allocation).ok_or_else(|| Status::internal("no node port is free"))?
                }
                Ok(number) if held.contains(&number) || allocation.taken.ports.contains(&number) => number,
                Ok(number) if self.ports.contains(&number) && lock(&self.used).ports.insert(number) => {
                    allocation.taken.ports.insert(number);
                    number
                }
                _ => {
                    let taken = u16::try_from(asked).is_ok_and(|n| self.ports.contains(&n));
                    let why = match taken {
                        true => "provided port is already allocated".to_owned(),
                        false => format!(
                            "provided port is not in the valid range. The range of valid ports is {}-{}",
                            self.ports.start(),
                            self.ports.end()
                        ),
                    };
                    return Err(invalid(
                        &name,
                        &format!("spec.ports[{i}].nodePort"),
                        &asked.to_string(),
                        &why,
                    ));
                }
            };
            port.insert("nodePort".into(), number.into());
        }
        Ok(())
    }

    fn free_port(&self, allocation: &mut Allocation) -> Option<u16> {
        let mut used = lock(&self.used);
        let port = self.ports.clone().find(|p| !used.ports.contains(p))?;
        used.ports.insert(port);
        allocation.taken.ports.insert(port);
        Some(port)
    }
}

fn invalid(name: &str, field: &str, value: &str, why: &str) -> Status {
    let message = format!("Invalid value: {value}: {why}");
    let cause = wharf_api::status::Cause { reason: "FieldValueInvalid".into(), field: field.into(), message };
    Status::invalid("Service", "", name, vec![cause])
}

fn addresses(service: &Value) -> Vec<u32> {
    let ip = service["spec"]["clusterIP"].as_str().and_then(|t| t.parse::<Ipv4Addr>().ok());
    ip.map(u32::from).into_iter().collect()
}

fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports.filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok()).filter(|p| *p > 0).collect()
}

#[cfg(test)]
mod tests {
    use wharf_api::resource::builtin_resource;

    use super::*;

    fn services() -> &'static Resource {
        builtin_resource("", "services").unwrap()
    }

    fn service(kind: &str) -> Value {
        json!({"metadata": {"name": "s"}, "spec": {"type": kind, "ports": [{"port": 80}]}})
    }

    #[test]
    fn addresses_and_ports_are_given_once_and_returned() {
        let ranges = Ranges::new(Ipv4Addr::new(10, 96, 0, 0), 16, 30000..=30001);
        let (mut a, mut b, mut c) = (service("NodePort"), service("NodePort"), service("NodePort"));
        ranges.assign(services(), None, &mut a).unwrap().writing().end(Some(true));
        ranges.assign(services(), None, &mut b).unwrap().writing().end(Some(true));
        assert_ne!(a["spec"]["clusterIP"], b["spec"]["clusterIP"]);
        assert_ne!(a["spec"]["ports"][0]["nodePort"], b["spec"]["ports"][0]["nodePort"]);
        assert!(ranges.assign(services(), None, &mut c).is_err(), "both ports are taken");
        ranges.freed(services(), &a);
        let mut again = service("NodePort");
        again["spec"]["clusterIP"] = a["spec"]["clusterIP"].clone();
        ranges.assign(services(), None, &mut again).unwrap().writing().end(Some(true));
        assert_eq!(again["spec"]["ports"][0]["nodePort"], a["spec"]["ports"][0]["nodePort"]);
    }

    #[test]
    fn a_taken_address_is_refused_and_a_failed_write_returns_it() {
        let ranges = Ranges::new(Ipv4Addr::new(10, 96, 0, 0), 16, 30000..=30001);
        let mut a = service("ClusterIP");
        ranges.assign(services(), None, &mut a).unwrap().writing().end(Some(true));
        let mut b = service("ClusterIP");
        b["spec"]["clusterIP"] = a["spec"]["clusterIP"].clone();
        let status = ranges.assign(services(), None, &mut b.clone()).err().unwrap();
        assert!(status.message.contains("provided IP is already allocated"), "{status}");
        ranges.freed(services(), &a);
        ranges.assign(services(), None, &mut b.clone()).unwrap().writing().end(Some(false));
        drop(ranges.assign(services(), None, &mut b.clone()).unwrap());
        ranges.assign(services(), None, &mut b).unwrap().writing().end(Some(true));
    }

    #[test]
    fn what_may_have_been_written_is_not_given_again() {
        let ranges = Ranges::new(Ipv4Addr::new(10, 96, 0, 0), 16, 30000..=30001);
        let (mut a, mut b) = (service("NodePort"), service("NodePort"));
        ranges.assign(services(), None, &mut a).unwrap().writing().end(None);
        ranges.assign(services(), None, &mut b).unwrap().writing().end(Some(true));
        assert_ne!(a["spec"]["clusterIP"], b["spec"]["clusterIP"]);
        assert_ne!(a["spec"]["ports"][0]["nodePort"], b["spec"]["ports"][0]["nodePort"]);
    }
}
