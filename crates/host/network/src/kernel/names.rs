//! docker's address of the server of names, 127.0.0.11, in a container: some configurations name it. What is sent to it goes to the
//! machine's.
//!
//! A route with the container's own address as source keeps such packets off the loopback link, and answers from being taken for
//! forged ones; the rule sends them elsewhere before they leave. Nobody else gets at loopback addresses by that link.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::BorrowedFd,
};

use nlink::{
    Ipv4Route,
    netlink::{
        Connection, Nftables,
        devconf::Ipv4Devconf,
        nftables::{BaseChain, Chain, Family, FilterHook, NatHook, Priority, Rule},
        types::route::RouteScope,
    },
};

use super::links::inside;
use crate::error::{Doing as _, Error, Result};

/// The address docker gives its server of names in containers.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

const TABLE: &str = "wharf-names";
/// `RT_TABLE_LOCAL`: where the loopback network is found.
const LOCAL: u32 = 255;
const DNS: u16 = 53;

/// Leads [`NAME_SERVER`] in `netns` to the machine's `server`, by the link that has `address`.
pub(super) async fn serve(server: Ipv4Addr, address: Ipv4Addr, netns: BorrowedFd<'_>) -> Result<()> {
    let doing = || format!("lead {NAME_SERVER} to {server}");
    let nft = Connection::<Nftables>::new_in(netns).doing(doing)?;
    let tables = nft.list_tables_in(Family::Ip).await.doing(doing)?;
    if !tables.iter().any(|table| table.name == TABLE) {
        make_table(&nft, server).await.doing(doing)?;
    }
    let route = inside(netns)?;
    let addresses = route.get_addresses().await.doing(doing)?;
    let link = addresses.iter().find(|found| found.primary_address() == Some(&IpAddr::V4(address)));
    let index = link.ok_or_else(|| Error::Input(format!("{address} vanished")))?.ifindex();
    let settings = [(Ipv4Devconf::RouteLocalnet, 1)];
    route.set_ipv4_devconf_by_index(index, &settings).await.doing(doing)?;
    let by_link = Ipv4Route::from_addr(NAME_SERVER, 32).dev_index(index).scope(RouteScope::Link);
    route.replace_route(by_link.prefsrc(address).table(LOCAL)).await.doing(doing)
}

async fn make_table(nft: &Connection<Nftables>, server: Ipv4Addr) -> nlink::Result<()> {
    let chain = |name, base| Chain::new(TABLE, name).map(|chain| chain.family(Family::Ip).base(base));
    let rule = |chain| Rule::new(TABLE, chain).family(Family::Ip);
    let to = |rule: Rule| rule.match_daddr_v4(NAME_SERVER, 32);
    let guard = chain("guard", BaseChain::filter(FilterHook::Prerouting, Priority::Raw))?;
    let output = chain("output", BaseChain::nat(NatHook::Output, Priority::DstNat))?;
    let batch = nft.transaction().add_table(TABLE, Family::Ip).add_chain(guard).add_chain(output);
    let batch = batch
        .add_rule(rule("guard").match_iif_not("lo").match_daddr_v4(Ipv4Addr::LOCALHOST, 8).drop())
        .add_rule(to(rule("output")).match_udp_dport(DNS).dnat(server, Some(DNS)))
        .add_rule(to(rule("output")).match_tcp_dport(DNS).dnat(server, Some(DNS)));
    batch.commit(nft).await
}
