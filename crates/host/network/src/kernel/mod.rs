//! The kernel's network as this room uses it. Only what is in this folder names the netlink library.

mod bridge;
mod links;
mod names;
mod nft;

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4},
    os::fd::BorrowedFd,
    pin::Pin,
};

pub(crate) use links::Netlink;
pub use links::hardware;
pub use names::NAME_SERVER;
pub(crate) use nft::Nftables;

use crate::{Ipv4Net, Ipv6Side, error::Result, rules::Op};

/// What is done later.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The host's side of the pod network: a link that only carries the gateway's address.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    pub link: String,
    pub pods: Ipv4Net,
    pub services: Ipv4Net,
    /// Makes the routes of several instances to the same services differ.
    pub metric: u32,
}

/// A pod's end of the network.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// The link on the host; the pod's own is its peer.
    pub link: String,
    pub address: Ipv4Addr,
}

/// A bridge network: a bridge with the gateway's address.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub link: String,
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    pub ipv6: Option<Ipv6Side>,
    pub mtu: Option<u32>,
    /// The only address out of the subnet that is to be reached, when not all are.
    pub only: Option<Ipv4Addr>,
}

/// A container's end of a bridge network.
#[derive(Debug, Clone)]
pub(crate) struct Plug {
    /// The link on the host, a port of the bridge.
    pub link: String,
    pub address: Ipv4Addr,
    pub ipv6: Option<Ipv6Addr>,
    pub hardware: [u8; 6],
}

/// Links, addresses and routes.
pub(crate) trait Links: Send + Sync {
    /// The networks this machine has addresses in or routes to.
    fn networks(&self) -> Later<'_, Vec<Ipv4Net>>;
    fn exists<'a>(&'a self, link: &'a str) -> Later<'a, bool>;
    fn ensure_gateway<'a>(&'a self, gateway: &'a Gateway) -> Later<'a, ()>;
    /// Whether the pod in `netns` has its address and its link on the host.
    fn is_attached<'a>(&'a self, port: &'a Port, netns: BorrowedFd<'a>) -> Later<'a, bool>;
    fn attach<'a>(&'a self, gateway: Ipv4Addr, port: &'a Port, netns: BorrowedFd<'a>) -> Later<'a, ()>;
    fn ensure_bridge<'a>(&'a self, segment: &'a Segment) -> Later<'a, ()>;
    /// Connects `netns` to a bridge, without a way out of its subnet but the one it says.
    fn plug<'a>(&'a self, segment: &'a Segment, plug: &'a Plug, netns: BorrowedFd<'a>) -> Later<'a, ()>;
    /// Makes a gateway the way out of `netns`, by the link that has `address`.
    fn route<'a>(&'a self, gateway: IpAddr, address: Ipv4Addr, netns: BorrowedFd<'a>) -> Later<'a, ()>;
    /// Leads docker's address of the server of names to `server`, by the link that has `address`.
    fn serve_names<'a>(&'a self, server: Ipv4Addr, address: Ipv4Addr, netns: BorrowedFd<'a>)
    -> Later<'a, ()>;
    /// Removes a link, its peer with it; it may be gone already.
    fn remove<'a>(&'a self, link: &'a str) -> Later<'a, ()>;
    /// The links whose names start so.
    fn named<'a>(&'a self, prefix: &'a str) -> Later<'a, Vec<String>>;
}

/// The rules of one table.
pub(crate) trait Firewall: Send + Sync {
    /// Whether the table is there, in the layout of this version.
    fn present(&self) -> Later<'_, bool>;
    /// Does all of it, or nothing.
    fn commit<'a>(&'a self, ops: &'a [Op]) -> Later<'a, ()>;
    /// Removes the table; it may be gone already.
    fn remove(&self) -> Later<'_, ()>;
    /// Ends UDP flows to these addresses, so that the next packet finds a new one.
    fn forget<'a>(&'a self, backends: &'a [SocketAddrV4]) -> Later<'a, ()>;
}
