//! The chains and sets every table has.
//!
//! Services and host ports are found in verdict maps by (address . protocol . port). Cluster addresses count for
//! packets of this instance's own pods and of the host: several instances have the same cluster addresses.
//! Packets to a cluster address that no rule sent elsewhere are refused after translation.
//!
//! Bridge networks stand in sets: what passes between two links is dropped when one of them is a bridge, unless both are
//! the same, or it was sent to a port of the host, or belongs to a connection that was let through.

use nlink::netlink::nftables::{
    BaseChain, Chain, CmpOp, CtKey, Expr, Family, FibFlags, FibResult, FilterHook, LookupExpr, MetaKey,
    NatHook, PayloadBase, Priority, Register, Set, SetElement, SetKeyType, Transaction, Verdict,
};

use super::{TARGET, dnat, exprs_rule, fill, target_type};
use crate::{
    Ipv4Net,
    bridges::BRIDGES,
    pods::LINKS,
    rules::{BridgeRule, Layout},
};

/// Names the layout: a table without this chain is from another version and is replaced.
pub(super) const MARK: &str = "layout-2";

/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMP_REDIRECT: u8 = 5;

pub(super) fn services(table: &str) -> Set {
    Set::new(table, "services").family(Family::Ip).key_type(at_address()).vmap()
}

pub(super) fn external(table: &str) -> Set {
    Set::new(table, "external").family(Family::Ip).key_type(at_address()).vmap()
}

pub(super) fn refused(table: &str) -> Set {
    Set::new(table, "refused").family(Family::Ip).key_type(at_address())
}

pub(super) fn node_ports(table: &str) -> Set {
    Set::new(table, "node-ports").family(Family::Ip).key_type(anywhere()).vmap()
}

pub(super) fn ports_at(table: &str) -> Set {
    Set::new(table, "ports-at").family(Family::Ip).key_type(at_address()).map(target_type())
}

pub(super) fn ports_anywhere(table: &str) -> Set {
    Set::new(table, "ports-anywhere").family(Family::Ip).key_type(anywhere()).map(target_type())
}

fn hairpin(table: &str) -> Set {
    let pair = SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::Ipv4Addr]);
    Set::new(table, "hairpin").family(Family::Ip).key_type(pair)
}

/// Addresses of bridge networks.
fn subnets(table: &str) -> Set {
    Set::new(table, "subnets").family(Family::Ip).key_type(SetKeyType::Ipv4Addr).interval()
}

/// Bridges, each with itself: with `br_netfilter`, what stays in a bridge is seen too.
pub(super) fn within(table: &str) -> Set {
    Set::new(table, "within").family(Family::Ip).key_type(SetKeyType::Concat(vec![link_name(), link_name()]))
}

/// Bridges that nothing leads out of or into.
pub(super) fn internal(table: &str) -> Set {
    Set::new(table, "internal").family(Family::Ip).key_type(link_name())
}

/// nft's "ifname".
pub(super) fn link_name() -> SetKeyType {
    SetKeyType::Other { type_id: 41, len: 16 }
}

/// The elements a bridge network has in the sets of a table.
pub(super) fn bridge(table: &str, bridge: &BridgeRule) -> Vec<(Set, SetElement)> {
    let (first, last) = bridge.subnet.ends();
    let mut elements = vec![(subnets(table), SetElement::ipv4_range(first, last))];
    elements.extend(links_of(table, Family::Ip, bridge));
    elements
}

/// Those that say who may pass.
pub(super) fn links_of(table: &str, family: Family, bridge: &BridgeRule) -> Vec<(Set, SetElement)> {
    let mut name = bridge.link.as_bytes().to_vec();
    name.resize(16, 0);
    let pair = SetElement::new([name.as_slice(), name.as_slice()].concat());
    let mut elements = vec![(within(table).family(family), pair)];
    elements.extend(bridge.internal.then(|| (internal(table).family(family), SetElement::new(name))));
    elements
}

/// Keeps bridge networks apart, from each other and from pods.
pub(super) fn isolation(bridges: &str) -> Vec<Vec<Expr>> {
    let drop = || vec![Expr::Verdict(Verdict::Drop)];
    let accept = || vec![Expr::Verdict(Verdict::Accept)];
    [
        [ongoing(), accept()].concat(),
        [translated(), accept()].concat(),
        [link_pair(), member_of("within"), accept()].concat(),
        // Those of other instances too.
        [from(bridges), to(BRIDGES), drop()].concat(),
        [from(bridges), to(LINKS), drop()].concat(),
        [from(BRIDGES), to(bridges), drop()].concat(),
        [from(LINKS), to(bridges), drop()].concat(),
        [name_of(MetaKey::IifName, Register::R0), member_of("internal"), drop()].concat(),
        [name_of(MetaKey::OifName, Register::R0), member_of("internal"), drop()].concat(),
    ]
    .into()
}

fn at_address() -> SetKeyType {
    SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::InetProto, SetKeyType::InetService])
}

pub(super) fn anywhere() -> SetKeyType {
    SetKeyType::Concat(vec![SetKeyType::InetProto, SetKeyType::InetService])
}

/// The whole table without any service.
pub(super) fn create(batch: Transaction, table: &str, layout: &Layout) -> nlink::Result<Transaction> {
    let mut batch = batch.add_table(table, Family::Ip);
    let sets = [
        services,
        external,
        refused,
        node_ports,
        ports_at,
        ports_anywhere,
        hairpin,
        subnets,
        within,
        internal,
    ];
    for set in sets {
        batch = batch.add_set(set(table));
    }
    let own: Vec<_> =
        layout.pods.hosts().map(|ip| SetElement::concat([ip, ip].map(SetElement::ipv4))).collect();
    batch = fill(batch, &hairpin(table), &own);
    for (name, base) in chains() {
        let chain = Chain::new(table, name)?.family(Family::Ip);
        batch = batch.add_chain(match base {
            Some(base) => chain.base(base),
            None => chain,
        });
    }
    let isolation = isolation(&layout.bridges).into_iter().map(|exprs| ("isolation", exprs));
    for (chain, exprs) in rules(layout)?.into_iter().chain(isolation) {
        batch = batch.add_rule(exprs_rule(table, Family::Ip, chain, exprs));
    }
    Ok(batch)
}

fn chains() -> [(&'static str, Option<BaseChain>); 10] {
    [
        (MARK, None),
        ("local", None),
        ("refuse", None),
        ("martian", Some(BaseChain::filter(FilterHook::Prerouting, Priority::Raw))),
        ("prerouting", Some(BaseChain::nat(NatHook::Prerouting, Priority::DstNat))),
        ("output", Some(BaseChain::nat(NatHook::Output, Priority::DstNat))),
        ("postrouting", Some(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat))),
        ("isolation", Some(BaseChain::filter(FilterHook::Forward, Priority::Filter))),
        ("forward-filter", Some(BaseChain::filter(FilterHook::Forward, Priority::Filter))),
        ("output-filter", Some(BaseChain::filter(FilterHook::Output, Priority::Filter))),
    ]
}

type Rules = Vec<(&'static str, Vec<Expr>)>;

fn rules(layout: &Layout) -> nlink::Result<Rules> {
    let (pods, bridges) = (layout.links.as_str(), layout.bridges.as_str());
    let drop = || vec![Expr::Verdict(Verdict::Drop)];
    let loopback = Ipv4Net::new(std::net::Ipv4Addr::LOCALHOST, 8);
    let local = || Ok::<_, nlink::Error>(Expr::Verdict(Verdict::JumpTo("local".try_into()?)));
    let refuse = || Ok::<_, nlink::Error>(Expr::Verdict(Verdict::GotoTo("refuse".try_into()?)));
    let rule = |parts: &[Vec<Expr>]| parts.concat();
    Ok(vec![
        // Pods' links route loopback addresses for answers; what a pod sends to them itself is an attack.
        ("martian", rule(&[from(pods), inside(Destination, loopback), drop()])),
        ("martian", rule(&[from(bridges), inside(Destination, loopback), drop()])),
        ("prerouting", rule(&[from(pods), key_at(), verdict_of("services")])),
        ("prerouting", rule(&[key_at(), verdict_of("external")])),
        ("prerouting", rule(&[to_host(), vec![local()?]])),
        ("output", rule(&[key_at(), verdict_of("services")])),
        ("output", rule(&[key_at(), verdict_of("external")])),
        ("output", rule(&[to_host(), vec![local()?]])),
        ("local", rule(&[key_at(), target_of("ports-at"), vec![dnat()]])),
        ("local", rule(&[key_anywhere(), target_of("ports-anywhere"), vec![dnat()]])),
        ("local", rule(&[key_anywhere(), verdict_of("node-ports")])),
        ("postrouting", rule(&[to(pods), inside(Source, loopback), masquerade()])),
        // A pod that reaches itself through a Service must see another address, or it would answer itself directly.
        ("postrouting", rule(&[to(pods), own_address(), masquerade()])),
        ("postrouting", rule(&[not_to(pods), inside(Source, layout.pods), masquerade()])),
        ("postrouting", rule(&[to(bridges), inside(Source, loopback), masquerade()])),
        // Within one network the answer would go its own way, past the translation.
        ("postrouting", rule(&[to(bridges), source(), member_of("subnets"), translated(), masquerade()])),
        ("postrouting", rule(&[not_to(bridges), source(), member_of("subnets"), masquerade()])),
        ("forward-filter", rule(&[from(pods), inside(Destination, layout.services), vec![refuse()?]])),
        ("forward-filter", rule(&[key_at(), member_of("refused"), vec![refuse()?]])),
        // A pod that reaches itself through a Service must not be told a shorter way.
        ("output-filter", rule(&[to(pods), icmp_redirect(), drop()])),
        ("output-filter", rule(&[inside(Destination, layout.services), vec![refuse()?]])),
        ("output-filter", rule(&[key_at(), member_of("refused"), vec![refuse()?]])),
        ("refuse", rule(&[protocol(TCP), vec![Expr::Reject { reject_type: 1, icmp_code: 0 }]])),
        // Type 0 is ICMP, code 3 "port unreachable".
        ("refuse", vec![Expr::Reject { reject_type: 0, icmp_code: 3 }]),
    ])
}

enum Side {
    Source,
    Destination,
}
use Side::{Destination, Source};

fn equal(sreg: Register, data: Vec<u8>) -> Expr {
    Expr::Cmp { sreg, op: CmpOp::Eq, data }
}

fn link(key: MetaKey, op: CmpOp, prefix: &str) -> Vec<Expr> {
    // Without a final zero it is a prefix.
    let data = prefix.as_bytes().to_vec();
    vec![Expr::Meta { dreg: Register::R0, key }, Expr::Cmp { sreg: Register::R0, op, data }]
}

fn name_of(key: MetaKey, dreg: Register) -> Vec<Expr> {
    vec![Expr::Meta { dreg, key }]
}

/// The names of both links, one after the other.
fn link_pair() -> Vec<Expr> {
    [name_of(MetaKey::IifName, Register::R0), name_of(MetaKey::OifName, Register::R1)].concat()
}

fn ct(key: CtKey, bits: u32) -> Vec<Expr> {
    let (mask, xor) = (bits.to_ne_bytes().to_vec(), vec![0; 4]);
    vec![
        Expr::Ct { dreg: Register::R0, key },
        Expr::Bitwise { sreg: Register::R0, dreg: Register::R0, len: 4, mask, xor },
        Expr::Cmp { sreg: Register::R0, op: CmpOp::Neq, data: vec![0; 4] },
    ]
}

/// Belongs to a connection there is, or is about one.
fn ongoing() -> Vec<Expr> {
    const ESTABLISHED: u32 = 1 << 1;
    const RELATED: u32 = 1 << 2;
    ct(CtKey::State, ESTABLISHED | RELATED)
}

/// Was sent elsewhere than it was addressed to.
pub(super) fn translated() -> Vec<Expr> {
    const DESTINATION_TRANSLATED: u32 = 1 << 5;
    ct(CtKey::Status, DESTINATION_TRANSLATED)
}

fn source() -> Vec<Expr> {
    vec![address(&Source, Register::R0)]
}

fn from(prefix: &str) -> Vec<Expr> {
    link(MetaKey::IifName, CmpOp::Eq, prefix)
}

pub(super) fn to(prefix: &str) -> Vec<Expr> {
    link(MetaKey::OifName, CmpOp::Eq, prefix)
}

pub(super) fn not_to(prefix: &str) -> Vec<Expr> {
    link(MetaKey::OifName, CmpOp::Neq, prefix)
}

fn address(side: &Side, dreg: Register) -> Expr {
    let offset = if matches!(side, Source) { 12 } else { 16 };
    Expr::Payload { dreg, base: PayloadBase::Network, offset, len: 4 }
}

fn inside(side: Side, network: Ipv4Net) -> Vec<Expr> {
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix())).unwrap_or(0);
    vec![
        address(&side, Register::R0),
        Expr::Bitwise {
            sreg: Register::R0,
            dreg: Register::R0,
            len: 4,
            mask: mask.to_be_bytes().to_vec(),
            xor: vec![0; 4],
        },
        equal(Register::R0, network.address().octets().to_vec()),
    ]
}

fn destination_port(dreg: Register) -> Expr {
    Expr::Payload { dreg, base: PayloadBase::Transport, offset: 2, len: 2 }
}

fn key_at() -> Vec<Expr> {
    vec![
        address(&Destination, Register::R0),
        Expr::Meta { dreg: Register::Reg32_01, key: MetaKey::L4Proto },
        destination_port(Register::Reg32_02),
    ]
}

pub(super) fn key_anywhere() -> Vec<Expr> {
    vec![Expr::Meta { dreg: Register::R0, key: MetaKey::L4Proto }, destination_port(Register::Reg32_01)]
}

fn own_address() -> Vec<Expr> {
    let mut exprs = vec![address(&Source, Register::R0), address(&Destination, Register::Reg32_01)];
    exprs.extend(member_of("hairpin"));
    exprs
}

fn verdict_of(map: &str) -> Vec<Expr> {
    vec![LookupExpr::new(map, Register::R0).dreg(Register::Verdict).into()]
}

pub(super) fn target_of(map: &str) -> Vec<Expr> {
    vec![LookupExpr::new(map, Register::R0).dreg(TARGET).into()]
}

pub(super) fn member_of(set: &str) -> Vec<Expr> {
    vec![LookupExpr::new(set, Register::R0).into()]
}

pub(super) fn to_host() -> Vec<Expr> {
    vec![
        Expr::Fib { dreg: Register::R0, result: FibResult::AddrType, flags: FibFlags::DADDR },
        equal(Register::R0, LOCAL.to_ne_bytes().to_vec()),
    ]
}

fn protocol(number: u8) -> Vec<Expr> {
    vec![Expr::Meta { dreg: Register::R0, key: MetaKey::L4Proto }, equal(Register::R0, vec![number])]
}

fn icmp_redirect() -> Vec<Expr> {
    let kind = Expr::Payload { dreg: Register::R0, base: PayloadBase::Transport, offset: 0, len: 1 };
    [protocol(ICMP), vec![kind, equal(Register::R0, vec![ICMP_REDIRECT])]].concat()
}

pub(super) fn masquerade() -> Vec<Expr> {
    vec![Expr::Masquerade(nlink::netlink::nftables::MasqExpr::new())]
}
