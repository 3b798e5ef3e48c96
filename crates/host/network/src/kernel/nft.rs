//! The rules in nftables: one table per instance, in the layout of [`layout`].
//!
//! A new table takes a second name and stands beside the old one until it holds everything. Replaced within one batch
//! under one name, a packet could still meet the new chains before they count and the old ones when they no longer do:
//! nothing would translate it.

mod layout;
mod layout6;

use std::{
    net::SocketAddrV4,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use nlink::netlink::{
    Connection, Netfilter, Nftables as Protocol,
    netfilter::{ConntrackFilter, IpProtocol},
    nftables::{
        ByteorderOp, Chain, DynsetExpr, DynsetOp, Expr, Family, LookupExpr, NumgenKind, PayloadBase, RawExpr,
        Register, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction, Verdict,
    },
    types::AddressFamily,
};
use rustix::thread::{MembarrierCommand, membarrier};

use super::{Firewall, Later};
use crate::{
    error::{Doing as _, Result},
    rules::{Front, HostPort, Op, Shape},
};

/// Elements in one message: its list may have 64 KiB.
const CHUNK: usize = 256;
/// The largest batch: ten thousand services are about 8 MiB.
const SEND_BUFFER: usize = 64 << 20;
/// Longer than a packet is under way inside the host, where the kernel cannot be asked.
const GRACE: Duration = Duration::from_millis(100);
/// Client addresses one Service remembers.
const AFFINITY_SIZE: u32 = 65_536;

/// Where the first and the second word of an address and port lie while a rule works on them.
const TARGET: Register = Register::R1;
const TARGET_PORT: Register = Register::Reg32_05;

/// One table.
pub(crate) struct Nftables {
    /// The names it may have.
    names: [String; 2],
    /// Which of them it has.
    current: AtomicUsize,
    nft: Connection<Protocol>,
    conntrack: Connection<Netfilter>,
}

impl Nftables {
    pub(crate) fn open(table: String) -> Result<Self> {
        let nft = Connection::<Protocol>::new().doing(|| "open nftables".to_owned())?;
        // Best effort: only a very large batch needs it, and then the kernel says what it lacks.
        if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size_force(nft.socket(), SEND_BUFFER)
        {
            tracing::debug!(%error, "large nftables batches may not fit the socket");
        }
        let conntrack = Connection::<Netfilter>::new().doing(|| "open conntrack".to_owned())?;
        let names = [format!("{table}.b"), table];
        Ok(Self { names, current: AtomicUsize::new(1), nft, conntrack })
    }

    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed) % 2
    }

    /// Which of the names are taken.
    async fn existing(&self) -> Result<[bool; 2]> {
        let tables = self.nft.list_tables_in(Family::Ip).await.doing(|| "list nftables tables".to_owned())?;
        Ok(self.names.each_ref().map(|name| tables.iter().any(|table| table.name == *name)))
    }

    /// Finds the table of a former run. Of two, which a kill left, each holds everything.
    async fn find(&self) -> Result<bool> {
        let existing = self.existing().await?;
        let Some(found) = (0..2).rev().find(|at| existing[*at]) else { return Ok(false) };
        self.current.store(found, Ordering::Relaxed);
        let name = self.names[found].as_str();
        let chains = self.nft.list_chains_in(name, Family::Ip).await;
        let chains = chains.doing(|| format!("list chains of table {name}"))?;
        Ok(chains.iter().any(|chain| chain.name == layout::MARK))
    }

    async fn apply(&self, ops: &[Op]) -> Result<()> {
        let (mut at, creates) = (self.current(), ops.iter().any(|op| matches!(op, Op::Create(_))));
        let existing = if creates { self.existing().await? } else { [false; 2] };
        if creates && existing[at] {
            at = 1 - at;
            self.delete(at).await?;
        }
        let name = self.names[at].as_str();
        let doing = || format!("change nftables table {name}");
        if !creates {
            self.prepare(name, ops).await?;
        }
        let mut batch = self.nft.transaction();
        if let Some(bridges) = layout6::wanted(ops)
            && !self.has6(name).await?
        {
            batch = layout6::create(batch, name, bridges).doing(doing)?;
        }
        for op in ops {
            batch = step(batch, name, op, creates).doing(doing)?;
        }
        batch.commit(&self.nft).await.doing(doing)?;
        self.current.store(at, Ordering::Relaxed);
        let former: Vec<_> = ops.iter().filter_map(former_sets).collect();
        let replaced = creates && existing[1 - at];
        if replaced || !former.is_empty() {
            packets_have_passed().await;
        }
        if !former.is_empty() {
            let batch = former.into_iter().fold(self.nft.transaction(), |batch, (balancer, old, kept)| {
                drop_sets(batch, name, balancer, old, kept)
            });
            batch.commit(&self.nft).await.doing(doing)?;
        }
        if replaced {
            self.delete(1 - at).await?;
        }
        Ok(())
    }

    /// Fills the maps of ranges that `ops` will use. The kernel makes what it finds ranges by only after the rules of
    /// the same batch are in force, and a packet in between would find nothing.
    async fn prepare(&self, table: &str, ops: &[Op]) -> Result<()> {
        let maps: Vec<_> = ops.iter().filter_map(|op| ranges(table, op)).collect();
        if maps.is_empty() {
            return Ok(());
        }
        let add = |batch: Transaction, (map, elements): (Set, Vec<SetElement>)| {
            fill(batch.add_set(map.clone()), &map, &elements)
        };
        let batch = maps.into_iter().fold(self.nft.transaction(), add);
        batch.commit(&self.nft).await.doing(|| format!("prepare a change of nftables table {table}"))
    }

    async fn delete(&self, at: usize) -> Result<()> {
        let name = self.names[at].as_str();
        let doing = || format!("remove nftables table {name}");
        self.nft.del_table_if_exists(name, Family::Ip).await.doing(doing)?;
        if self.has6(name).await? {
            self.nft.del_table_if_exists(name, Family::Ip6).await.doing(doing)?;
        }
        Ok(())
    }

    /// Whether there is a table for IPv6 too: only where a network has such addresses, since not every kernel has IPv6.
    async fn has6(&self, name: &str) -> Result<bool> {
        let tables =
            self.nft.list_tables_in(Family::Ip6).await.doing(|| "list nftables tables".to_owned())?;
        Ok(tables.iter().any(|table| table.name == name))
    }
}

/// Waits until no packet is under way any more that began before: the rules it began with look for their sets as these
/// are at that moment, and the hooks it goes through are those of its beginning.
async fn packets_have_passed() {
    // A grace period of RCU, which the kernel handles packets under; milliseconds.
    let wait = || membarrier(MembarrierCommand::Global);
    if !matches!(tokio::task::spawn_blocking(wait).await, Ok(Ok(()))) {
        // Kernels with processors free of ticks do not offer it.
        tokio::time::sleep(GRACE).await;
    }
}

/// `fresh`: the table is made in the same batch; otherwise maps of ranges are there already.
fn step(batch: Transaction, table: &str, op: &Op, fresh: bool) -> nlink::Result<Transaction> {
    Ok(match op {
        Op::Create(wanted) => layout::create(batch, table, wanted)?,
        Op::SetBalancer { name, shape, previous, backends } => {
            let batch = match shape.mapped && (fresh || even(backends)) {
                true => {
                    let (map, elements) = slots_map(table, name, *shape, backends);
                    fill(batch.add_set(map.clone()), &map, &elements)
                }
                false => batch,
            };
            set_balancer(batch, table, name, *shape, *previous, backends)?
        }
        Op::RemoveBalancer { name, shape } => {
            let batch = batch.flush_chain(table, &chain(name), Family::Ip);
            drop_sets(batch.del_chain(table, &chain(name), Family::Ip), table, name, *shape, None)
        }
        Op::Route { front, balancer } => {
            let (set, key) = front_element(table, *front);
            batch.add_set_elements(&set, &[key.verdict(Verdict::GotoTo(chain(balancer).try_into()?))])
        }
        Op::Unroute(front) => {
            let (set, key) = front_element(table, *front);
            batch.del_set_elements(&set, &[key])
        }
        Op::Refuse(front) => {
            let (_, key) = front_element(table, *front);
            batch.add_set_elements(&layout::refused(table), &[key])
        }
        Op::Unrefuse(front) => {
            let (_, key) = front_element(table, *front);
            batch.del_set_elements(&layout::refused(table), &[key])
        }
        Op::Publish { port, to } => {
            let (set, key) = port_element(table, *port);
            batch.add_set_elements(&set, &[key.value(target(*to))])
        }
        Op::Unpublish(port) => {
            let (set, key) = port_element(table, *port);
            batch.del_set_elements(&set, &[key])
        }
        Op::Publish6 { protocol, port, to } => {
            let (set, key) = layout6::port(table, *protocol, *port);
            batch.add_set_elements(&set, &[key.value(layout6::target(*to))])
        }
        Op::Unpublish6(protocol, port) => {
            let (set, key) = layout6::port(table, *protocol, *port);
            batch.del_set_elements(&set, &[key])
        }
        Op::AddBridge(bridge) => {
            let add =
                |batch: Transaction, (set, key): (Set, SetElement)| batch.add_set_elements(&set, &[key]);
            let elements = layout::bridge(table, bridge).into_iter().chain(layout6::bridge(table, bridge));
            elements.fold(batch, add)
        }
        Op::RemoveBridge(bridge) => {
            let del =
                |batch: Transaction, (set, key): (Set, SetElement)| batch.del_set_elements(&set, &[key]);
            let elements = layout::bridge(table, bridge).into_iter().chain(layout6::bridge(table, bridge));
            elements.fold(batch, del)
        }
    })
}

/// The map of ranges a change will use.
fn ranges(table: &str, op: &Op) -> Option<(Set, Vec<SetElement>)> {
    let Op::SetBalancer { name, shape, backends, .. } = op else { return None };
    (shape.mapped && !even(backends)).then(|| slots_map(table, name, *shape, backends))
}

/// The chain's rules in the place of the old ones: nothing is ever half. The old sets stay.
fn set_balancer(
    batch: Transaction,
    table: &str,
    name: &str,
    shape: Shape,
    previous: Option<Shape>,
    backends: &[(SocketAddrV4, u32)],
) -> nlink::Result<Transaction> {
    let chain = chain(name);
    let mut batch = match previous {
        None => batch.add_chain(Chain::new(table, chain.as_str())?.family(Family::Ip)),
        Some(_) => batch.flush_chain(table, &chain, Family::Ip),
    };
    let add = |batch: Transaction, exprs| batch.add_rule(exprs_rule(table, Family::Ip, &chain, exprs));
    let pick = match backends {
        // One word each: nft cannot show a constant that holds both.
        [(one, _)] => vec![
            Expr::Immediate { dreg: TARGET, data: one.ip().octets().to_vec() },
            Expr::Immediate { dreg: TARGET_PORT, data: one.port().to_be_bytes().to_vec() },
        ],
        _ => draw(&map_name(name, shape), backends),
    };
    match shape.affinity {
        None => batch = add(batch, [pick, vec![dnat()]].concat()),
        Some(seconds) => {
            let members = members_set(table, name, shape);
            let elements: Vec<_> = backends.iter().map(|(address, _)| target(*address)).collect();
            batch = fill(batch.add_set(members.clone()), &members, &elements);
            let clients = clients_name(name, seconds);
            if previous.and_then(|old| old.affinity) != Some(seconds) {
                batch = batch.add_set(clients_set(table, &clients, seconds));
            }
            batch = add(batch, remembered(&clients, &members_name(name, shape)));
            batch = add(batch, [pick, remember(&clients), vec![dnat()]].concat());
        }
    }
    Ok(batch)
}

/// The shape whose sets a change leaves without use, and the time for which clients stay remembered.
fn former_sets(op: &Op) -> Option<(&str, Shape, Option<u64>)> {
    let Op::SetBalancer { name, shape, previous: Some(old), .. } = op else { return None };
    (old.mapped || old.affinity.is_some()).then_some((name, *old, shape.affinity))
}

/// Removes the sets of a balancer's former shape; clients stay remembered while the time is the same.
fn drop_sets(mut batch: Transaction, table: &str, name: &str, old: Shape, kept: Option<u64>) -> Transaction {
    if old.mapped {
        batch = batch.del_set(table, &map_name(name, old), Family::Ip);
    }
    if let Some(seconds) = old.affinity {
        batch = batch.del_set(table, &members_name(name, old), Family::Ip);
        if kept != Some(seconds) {
            batch = batch.del_set(table, &clients_name(name, seconds), Family::Ip);
        }
    }
    batch
}

/// Whether all have the same share.
fn even(backends: &[(SocketAddrV4, u32)]) -> bool {
    backends.iter().all(|(_, weight)| *weight == 1)
}

/// The numbers drawn, each with its backend; ranges of them where shares differ.
fn slots_map(
    table: &str,
    name: &str,
    shape: Shape,
    backends: &[(SocketAddrV4, u32)],
) -> (Set, Vec<SetElement>) {
    let set =
        |key| Set::new(table, &map_name(name, shape)).family(Family::Ip).key_type(key).map(target_type());
    if even(backends) {
        let elements = (0_u32..).zip(backends).map(|(n, (to, _))| SetElement::mark(n).value(target(*to)));
        return (set(SetKeyType::Mark), elements.collect());
    }
    let mut first = 0_u32;
    let elements = backends.iter().map(|(to, weight)| {
        let last = first + (weight - 1);
        let range = SetElement::range(first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
        first = last.wrapping_add(1);
        range.value(target(*to))
    });
    // nft's "integer".
    let key = SetKeyType::Other { type_id: 4, len: 4 };
    (set(key).interval(), elements.collect())
}

/// Draws a backend by weight from a map, and leaves it in `TARGET`.
fn draw(map: &str, backends: &[(SocketAddrV4, u32)]) -> Vec<Expr> {
    let total = backends.iter().map(|(_, weight)| weight).sum();
    let numgen = Expr::Numgen { dreg: TARGET, kind: NumgenKind::Random, modulus: total, offset: 0 };
    let look = LookupExpr::new(map, TARGET).dreg(TARGET).into();
    if even(backends) {
        return vec![numgen, look];
    }
    // Ranges compare in network order; the number drawn is in the host's.
    let swap = Expr::Byteorder { sreg: TARGET, dreg: TARGET, op: ByteorderOp::Hton, len: 4, size: 4 };
    vec![numgen, swap, look]
}

/// Matches a client that has a backend which is still there: it goes on with it, and its time starts anew.
fn remembered(clients: &str, members: &str) -> Vec<Expr> {
    vec![
        source(),
        LookupExpr::new(clients, Register::R0).dreg(TARGET).into(),
        LookupExpr::new(members, TARGET).into(),
        DynsetExpr::new(DynsetOp::Update, clients, Register::R0).sreg_data(TARGET).into(),
        dnat(),
    ]
}

/// Remembers the client; an entry to a backend that is gone must go first, for adding keeps what an entry says.
fn remember(clients: &str) -> Vec<Expr> {
    let change = |op| DynsetExpr::new(op, clients, Register::R0).sreg_data(TARGET).into();
    vec![source(), change(DynsetOp::Delete), change(DynsetOp::Add)]
}

fn source() -> Expr {
    Expr::Payload { dreg: Register::R0, base: PayloadBase::Network, offset: 12, len: 4 }
}

/// Sends a connection to the address and port in `TARGET`.
fn dnat() -> Expr {
    dnat_of(Family::Ip, TARGET_PORT)
}

fn dnat_of(family: Family, port: Register) -> Expr {
    const TYPE: u16 = 1;
    const FAMILY: u16 = 2;
    const ADDRESS: u16 = 3;
    const PORT: u16 = 5;
    const DNAT: u32 = 1;
    let attributes = [(TYPE, DNAT), (FAMILY, family as u32), (ADDRESS, TARGET.wire()), (PORT, port.wire())];
    let word = |(kind, value): (u16, u32)| {
        [8_u16.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &value.to_be_bytes()].concat()
    };
    RawExpr::new("nat", attributes.into_iter().flat_map(word).collect()).into()
}

fn exprs_rule(table: &str, family: Family, chain: &str, exprs: Vec<Expr>) -> Rule {
    exprs.into_iter().fold(Rule::new(table, chain).family(family), |rule, expr| rule.then(expr))
}

fn fill(batch: Transaction, set: &Set, elements: &[SetElement]) -> Transaction {
    elements.chunks(CHUNK).fold(batch, |batch, chunk| batch.add_set_elements(set, chunk))
}

fn target(to: SocketAddrV4) -> SetElement {
    SetElement::concat([SetElement::ipv4(*to.ip()), SetElement::port(to.port())])
}

fn target_type() -> SetDataType {
    SetDataType::Value(SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::InetService]))
}

fn members_set(table: &str, name: &str, shape: Shape) -> Set {
    let key = SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::InetService]);
    Set::new(table, &members_name(name, shape)).family(Family::Ip).key_type(key)
}

fn clients_set(table: &str, name: &str, seconds: u64) -> Set {
    let set = Set::new(table, name).family(Family::Ip).key_type(SetKeyType::Ipv4Addr).map(target_type());
    set.dynamic().timeout(Duration::from_secs(seconds)).size(AFFINITY_SIZE)
}

fn chain(balancer: &str) -> String {
    format!("svc/{balancer}")
}

fn map_name(balancer: &str, shape: Shape) -> String {
    format!("to/{balancer}/{}", shape.version)
}

fn members_name(balancer: &str, shape: Shape) -> String {
    format!("of/{balancer}/{}", shape.version)
}

fn clients_name(balancer: &str, seconds: u64) -> String {
    format!("from/{balancer}/{seconds}")
}

fn front_element(table: &str, front: Front) -> (Set, SetElement) {
    let (address, protocol, port, set) = match front {
        Front::Cluster(address, protocol, port) => (Some(address), protocol, port, layout::services(table)),
        Front::External(address, protocol, port) => (Some(address), protocol, port, layout::external(table)),
        Front::Node(protocol, port) => (None, protocol, port, layout::node_ports(table)),
    };
    (set, key(HostPort { address, protocol, port }))
}

fn port_element(table: &str, port: HostPort) -> (Set, SetElement) {
    let set = match port.address {
        Some(_) => layout::ports_at(table),
        None => layout::ports_anywhere(table),
    };
    (set, key(port))
}

fn key(port: HostPort) -> SetElement {
    let rest = [SetElement::inet_proto(port.protocol.number()), SetElement::port(port.port)];
    SetElement::concat(port.address.map(SetElement::ipv4).into_iter().chain(rest))
}

impl Firewall for Nftables {
    fn present(&self) -> Later<'_, bool> {
        Box::pin(self.find())
    }

    fn commit<'a>(&'a self, ops: &'a [Op]) -> Later<'a, ()> {
        Box::pin(self.apply(ops))
    }

    fn remove(&self) -> Later<'_, ()> {
        Box::pin(async move {
            self.delete(0).await?;
            self.delete(1).await
        })
    }

    fn forget<'a>(&'a self, backends: &'a [SocketAddrV4]) -> Later<'a, ()> {
        Box::pin(async move {
            for backend in backends {
                let flows = ConntrackFilter::new().family(AddressFamily::Inet).proto(IpProtocol::Udp);
                let flows = flows.reply_src(*backend.ip()).reply_src_port(backend.port());
                let forgotten = self.conntrack.flush_conntrack_matching(&flows).await;
                forgotten.doing(|| format!("end UDP flows to {backend}"))?;
            }
            Ok(())
        })
    }
}
