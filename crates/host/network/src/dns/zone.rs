//! The cluster's own names, after Kubernetes' DNS specification 1.1.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use hickory_proto::{
    op::ResponseCode,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, PTR, SOA, SRV, TXT},
    },
};
use wharf_control::endpointslice::EndpointSlice;

use crate::{
    Ipv4Net, Protocol, Service,
    error::{Error, Result},
    services::usable,
};

/// Seconds answers may be kept.
const TTL: u32 = 5;
const VERSION: &str = "1.1.0";

type Port = (String, Protocol, u16);

#[derive(Debug, Clone)]
enum Kind {
    Cluster(Vec<Ipv4Addr>),
    Headless,
    External(Name),
}

#[derive(Debug, Clone)]
struct Endpoint {
    label: String,
    address: Ipv4Addr,
    ports: Vec<Port>,
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

/// An answer out of the zone.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
    pub additionals: Vec<Record>,
    /// Where the answer goes on.
    pub alias: Option<Name>,
}

/// What is at a name.
#[derive(Default)]
struct Node {
    addresses: Vec<Ipv4Addr>,
    services: Vec<(Name, u16, Vec<Ipv4Addr>)>,
    alias: Option<Name>,
    text: Option<&'static str>,
    pointers: Vec<Name>,
}

/// The names of one cluster.
pub struct Zone {
    domain: Name,
    /// Networks whose reverse names are the cluster's.
    networks: Vec<Ipv4Net>,
    services: BTreeMap<String, BTreeMap<String, Entry>>,
    /// Names by address, each with the Service it is of.
    reverse: BTreeMap<Ipv4Addr, BTreeSet<(String, String)>>,
}

impl Zone {
    /// An empty zone below `domain`.
    ///
    /// # Errors
    /// When the domain is no name.
    pub fn new(domain: &str, networks: Vec<Ipv4Net>) -> Result<Self> {
        let parsed = Name::from_ascii(format!("{}.", domain.trim_end_matches('.')));
        let domain =
            parsed.map_err(|e| Error::Input(format!("cluster domain `{domain}`: {e}")))?.to_lowercase();
        Ok(Self { domain, networks, services: BTreeMap::new(), reverse: BTreeMap::new() })
    }

    /// Sets or removes the records of one Service.
    pub fn set(&mut self, key: &str, service: Option<&Service>, slices: &[EndpointSlice]) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        self.reverse.retain(|_, names| {
            names.retain(|(of, _)| of != key);
            !names.is_empty()
        });
        let Some(entry) = service.and_then(|service| entry(service, slices)) else {
            if let Some(services) = self.services.get_mut(namespace) {
                services.remove(name);
                if services.is_empty() {
                    self.services.remove(namespace);
                }
            }
            return;
        };
        let base = format!("{name}.{namespace}.svc");
        let own = match &entry.kind {
            Kind::Cluster(addresses) => addresses.clone(),
            _ => Vec::new(),
        };
        let own = own.into_iter().map(|address| (address, base.clone()));
        let pods = entry.endpoints.iter().map(|end| (end.address, format!("{}.{base}", end.label)));
        for (address, name) in own.chain(pods) {
            self.reverse.entry(address).or_default().insert((key.to_owned(), name));
        }
        self.services.entry(namespace.to_owned()).or_default().insert(name.to_owned(), entry);
    }

    /// Answers what is the zone's to answer; `None` is for others.
    pub(super) fn answer(&self, name: &Name, kind: RecordType) -> Option<Answer> {
        let node = match self.reverse_of(name) {
            Some(address) => {
                let known = self.reverse.get(&address);
                let ours = known.is_some() || self.networks.iter().any(|network| network.contains(address));
                if !ours {
                    return None;
                }
                known.map(|names| Node {
                    pointers: names.iter().filter_map(|(_, name)| self.below(name)).collect(),
                    ..Node::default()
                })
            }
            None if self.domain.zone_of(name) => self.find(name),
            None => return None,
        };
        Some(self.records(name, kind, node))
    }

    fn reverse_of(&self, name: &Name) -> Option<Ipv4Addr> {
        let text = name.to_lowercase().to_ascii();
        let bytes = text.trim_end_matches('.').strip_suffix(".in-addr.arpa")?;
        let mut octets: Vec<u8> =
            bytes.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u8>>>()?;
        octets.reverse();
        <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
    }

    fn below(&self, relative: &str) -> Option<Name> {
        Name::from_ascii(relative).ok()?.append_domain(&self.domain).ok()
    }

    fn find(&self, name: &Name) -> Option<Node> {
        let labels: Option<Vec<String>> =
            name.iter().map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase)).collect();
        let labels = labels?;
        let own = labels.get(..labels.len().checked_sub(usize::from(self.domain.num_labels()))?)?;
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        match own.as_slice() {
            [] | ["svc" | "pod"] => Some(Node::default()),
            ["dns-version"] => Some(Node { text: Some(VERSION), ..Node::default() }),
            [namespace, "svc" | "pod"] => self.services.contains_key(*namespace).then(Node::default),
            [address, _, "pod"] => {
                let address = dashed(address)?;
                Some(Node { addresses: vec![address], ..Node::default() })
            }
            [rest @ .., service, namespace, "svc"] => {
                let entry = self.services.get(*namespace)?.get(*service)?;
                self.service(entry, rest, &format!("{service}.{namespace}.svc"))
            }
            _ => None,
        }
    }

    fn service(&self, entry: &Entry, rest: &[&str], base: &str) -> Option<Node> {
        if let Kind::External(target) = &entry.kind {
            return rest.is_empty().then(|| Node { alias: Some(target.clone()), ..Node::default() });
        }
        match rest {
            [] => {
                let addresses = match &entry.kind {
                    Kind::Cluster(addresses) => addresses.clone(),
                    _ => entry.endpoints.iter().map(|end| end.address).collect(),
                };
                Some(Node { addresses, services: self.ports(entry, base, |_| true), ..Node::default() })
            }
            [protocol] if protocol.starts_with('_') => {
                let protocol = protocol.strip_prefix('_')?;
                let any = entry.all_ports().any(|(_, p, _)| p.lower() == protocol);
                any.then(Node::default)
            }
            [port, protocol] => {
                let (port, protocol) = (port.strip_prefix('_')?, protocol.strip_prefix('_')?);
                let services = self.ports(entry, base, |(name, p, _)| name == port && p.lower() == protocol);
                (!services.is_empty()).then(|| Node { services, ..Node::default() })
            }
            [label] => {
                let ends = entry.endpoints.iter().filter(|end| end.label == *label);
                let addresses: Vec<_> = ends.map(|end| end.address).collect();
                (!addresses.is_empty()).then(|| Node { addresses, ..Node::default() })
            }
            _ => None,
        }
    }

    fn ports(
        &self,
        entry: &Entry,
        base: &str,
        fits: impl Fn(&Port) -> bool,
    ) -> Vec<(Name, u16, Vec<Ipv4Addr>)> {
        let named = |port: &&Port| !port.0.is_empty() && fits(port);
        match &entry.kind {
            Kind::Cluster(addresses) => {
                let target = self.below(base);
                let ports = entry.ports.iter().filter(named);
                ports.filter_map(|(_, _, port)| Some((target.clone()?, *port, addresses.clone()))).collect()
            }
            _ => {
                let of = |end: &Endpoint| {
                    let target = self.below(&format!("{}.{base}", end.label));
                    let ports = end.ports.iter().filter(named);
                    let all = ports.filter_map(|port| Some((target.clone()?, port.2, vec![end.address])));
                    all.collect::<Vec<_>>()
                };
                entry.endpoints.iter().flat_map(of).collect()
            }
        }
    }

    fn records(&self, name: &Name, kind: RecordType, node: Option<Node>) -> Answer {
        let Some(node) = node else {
            let authorities = self.authority();
            return Answer { code: ResponseCode::NXDomain, authorities, ..Answer::default() };
        };
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        let mut answer = Answer::default();
        if let Some(alias) = node.alias {
            answer.answers.push(record(RData::CNAME(CNAME(alias.clone()))));
            answer.alias = (kind != RecordType::CNAME).then_some(alias);
            return answer;
        }
        let wants = |one| kind == one || kind == RecordType::ANY;
        if wants(RecordType::A) {
            answer.answers.extend(node.addresses.iter().map(|ip| record(RData::A(A(*ip)))));
        }
        if wants(RecordType::SRV) {
            let weight = u16::try_from(100 / node.services.len().max(1)).unwrap_or(1).max(1);
            for (target, port, addresses) in &node.services {
                answer.answers.push(record(RData::SRV(SRV::new(0, weight, *port, target.clone()))));
                let address = |ip: &Ipv4Addr| Record::from_rdata(target.clone(), TTL, RData::A(A(*ip)));
                answer.additionals.extend(addresses.iter().map(address));
            }
            let mut seen = BTreeSet::new();
            answer.additionals.retain(|record| seen.insert(record.to_string()));
        }
        if wants(RecordType::PTR) {
            answer.answers.extend(node.pointers.into_iter().map(|name| record(RData::PTR(PTR(name)))));
        }
        if wants(RecordType::TXT) {
            answer.answers.extend(node.text.map(|text| record(RData::TXT(TXT::new(vec![text.to_owned()])))));
        }
        if wants(RecordType::SOA) && *name == self.domain {
            answer.answers = self.authority();
        }
        if answer.answers.is_empty() {
            answer.authorities = self.authority();
        }
        answer
    }

    /// Says how long "no" may be kept.
    fn authority(&self) -> Vec<Record> {
        let (Some(server), Some(mail)) = (self.below("ns.dns"), self.below("hostmaster")) else {
            return Vec::new();
        };
        let soa = SOA::new(server, mail, 1, 7200, 1800, 86_400, TTL);
        vec![Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))]
    }
}

impl Entry {
    fn all_ports(&self) -> impl Iterator<Item = &Port> {
        let of_pods = self.endpoints.iter().flat_map(|end| end.ports.iter());
        self.ports.iter().chain(of_pods).filter(|port| !port.0.is_empty())
    }
}

fn entry(service: &Service, slices: &[EndpointSlice]) -> Option<Entry> {
    let kind = if service.external() {
        let name = service.spec.external_name.as_deref()?.trim_end_matches('.');
        Kind::External(Name::from_ascii(format!("{name}.")).ok()?)
    } else if service.headless() {
        Kind::Headless
    } else {
        let addresses = service.cluster_ips();
        if addresses.is_empty() {
            return None;
        }
        Kind::Cluster(addresses)
    };
    let ports = service.spec.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::from_name(port.protocol.as_deref().unwrap_or_default())?;
        Some((port.name.clone().unwrap_or_default(), protocol, port.port))
    });
    let endpoints = usable(slices).into_iter().filter_map(|(slice, endpoint)| {
        let address: Ipv4Addr = endpoint.addresses.first()?.parse().ok()?;
        let ports = slice.ports.iter().filter_map(|port| {
            Some((port.name.clone(), Protocol::from_name(&port.protocol)?, u16::try_from(port.port).ok()?))
        });
        let label = endpoint.hostname.clone().filter(|name| !name.is_empty());
        let label = label.unwrap_or_else(|| address.to_string().replace('.', "-"));
        Some(Endpoint { label, address, ports: ports.collect() })
    });
    Some(Entry { kind, ports: ports.collect(), endpoints: endpoints.collect() })
}

/// `10-244-0-5` as an address.
fn dashed(label: &str) -> Option<Ipv4Addr> {
    label.replace('-', ".").parse().ok()
}
