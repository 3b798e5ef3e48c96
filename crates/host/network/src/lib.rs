//! Pod network, service load balancing and cluster DNS.
//!
//! Netlink only. A pod has one address and one link, and reaches everything through the host, where one nftables table
//! per instance translates service addresses and host ports. [`ServiceRules`] holds that table as it is told; it does not
//! know the API. [`ServiceProxy`] and [`DnsServer`] read the API and tell.
//!
//! Several instances on one machine have networks of their own, for pods and for service addresses. They share the host's
//! ports: a node port that several have leads to any one of them.

mod bridges;
mod dns;
mod engine;
mod error;
mod kernel;
mod outside;
mod pods;
mod range;
mod range6;
mod rules;
mod saved;
mod services;

pub use bridges::{BridgeNetwork, Endpoint, EndpointWish, Ipv6Side};
#[doc(hidden)]
pub use dns::fuzz_query;
pub use dns::{DnsConfig, DnsServer, Forwarding, Known, LookUp, Private, Zone};
pub use engine::ServiceRules;
pub use error::{Error, Result};
pub use kernel::{NAME_SERVER, hardware};
pub use outside::{InsideSockets, Lease, OutsideRelay, inside_sockets, lease};
pub use pods::{NetworkConfig, PodNetwork, Taken};
pub use range::Ipv4Net;
pub use range6::Ipv6Net;
pub use rules::{Protocol, ServicePortRule};
pub use saved::PortMapping;
pub use services::{Service, ServiceProxy, Weights, rules_of};
