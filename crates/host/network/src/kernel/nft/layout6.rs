//! The table for IPv6: only bridge networks have such addresses, so that it isolates, translates and publishes, and knows no
//! services.

use std::net::SocketAddrV6;

use nlink::netlink::nftables::{
    BaseChain, Chain, Expr, Family, FilterHook, LookupExpr, NatHook, PayloadBase, Priority, Register, Set,
    SetDataType, SetElement, SetKeyType, Transaction, Verdict,
};

use super::{
    dnat_of, exprs_rule,
    layout::{
        anywhere, internal, isolation, key_anywhere, links_of, masquerade, not_to, target_of, to, to_host,
        translated, within,
    },
};
use crate::rules::{BridgeRule, Op, Protocol};

/// Where the port lies behind the sixteen bytes of an address.
const PORT: Register = Register::Reg32_08;

/// What the names of the bridges start with, when these steps need the table.
pub(super) fn wanted(ops: &[Op]) -> Option<&str> {
    ops.iter().find_map(|op| match op {
        Op::AddBridge(bridge) if bridge.subnet6.is_some() => {
            bridge.link.rfind('.').map(|dot| &bridge.link[..=dot])
        }
        _ => None,
    })
}

fn subnets(table: &str) -> Set {
    Set::new(table, "subnets").family(Family::Ip6).key_type(SetKeyType::Ipv6Addr).interval()
}

fn ports(table: &str) -> Set {
    let to = SetKeyType::Concat(vec![SetKeyType::Ipv6Addr, SetKeyType::InetService]);
    let set = Set::new(table, "ports-anywhere").family(Family::Ip6).key_type(anywhere());
    set.map(SetDataType::Value(to))
}

/// The element of a port of the host.
pub(super) fn port(table: &str, protocol: Protocol, port: u16) -> (Set, SetElement) {
    let key = [SetElement::inet_proto(protocol.number()), SetElement::port(port)];
    (ports(table), SetElement::concat(key))
}

/// Where it leads.
pub(super) fn target(to: SocketAddrV6) -> SetElement {
    SetElement::concat([SetElement::ipv6(*to.ip()), SetElement::port(to.port())])
}

/// The elements a bridge network has here, if it has addresses of IPv6.
pub(super) fn bridge(table: &str, bridge: &BridgeRule) -> Vec<(Set, SetElement)> {
    let Some(subnet) = bridge.subnet6 else { return Vec::new() };
    let (first, last) = subnet.ends();
    let mut elements = vec![(subnets(table), SetElement::ipv6_range(first, last))];
    elements.extend(links_of(table, Family::Ip6, bridge));
    elements
}

/// The whole table without any network.
pub(super) fn create(batch: Transaction, table: &str, bridges: &str) -> nlink::Result<Transaction> {
    let mut batch = batch.add_table(table, Family::Ip6);
    for set in [subnets(table), ports(table), within(table), internal(table)] {
        batch = batch.add_set(set.family(Family::Ip6));
    }
    let chains: [(&str, Option<BaseChain>); 5] = [
        ("local", None),
        ("prerouting", Some(BaseChain::nat(NatHook::Prerouting, Priority::DstNat))),
        ("output", Some(BaseChain::nat(NatHook::Output, Priority::DstNat))),
        ("postrouting", Some(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat))),
        ("isolation", Some(BaseChain::filter(FilterHook::Forward, Priority::Filter))),
    ];
    for (name, base) in chains {
        let chain = Chain::new(table, name)?.family(Family::Ip6);
        batch = batch.add_chain(match base {
            Some(base) => chain.base(base),
            None => chain,
        });
    }
    let local = || Ok::<_, nlink::Error>(vec![Expr::Verdict(Verdict::JumpTo("local".try_into()?))]);
    let inside = || vec![source(), LookupExpr::new("subnets", Register::R0).into()];
    let mut rules = vec![
        ("prerouting", [to_host(), local()?].concat()),
        ("output", [to_host(), local()?].concat()),
        ("local", [key_anywhere(), target_of("ports-anywhere"), vec![dnat_of(Family::Ip6, PORT)]].concat()),
        ("postrouting", [to(bridges), inside(), translated(), masquerade()].concat()),
        ("postrouting", [not_to(bridges), inside(), masquerade()].concat()),
    ];
    rules.extend(isolation(bridges).into_iter().map(|exprs| ("isolation", exprs)));
    for (chain, exprs) in rules {
        batch = batch.add_rule(exprs_rule(table, Family::Ip6, chain, exprs));
    }
    Ok(batch)
}

fn source() -> Expr {
    Expr::Payload { dreg: Register::R0, base: PayloadBase::Network, offset: 8, len: 16 }
}
