//! Veth pairs, addresses and routes over rtnetlink.
//!
//! Each pod has a link of its own to the host and is reached by a route; there is no common segment. What pods send each
//! other therefore always passes the host's rules, whether or not the kernel filters bridged packets (`br_netfilter`).

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::BorrowedFd,
};

use nlink::{
    Ipv4Address, Ipv4Route, Route,
    netlink::{
        Connection,
        devconf::Ipv4Devconf,
        link::{BridgeLink, VethLink},
        types::route::RouteScope,
    },
};

use super::{Gateway, Later, Links, Plug, Port, Segment, bridge, names};
use crate::{
    Ipv4Net,
    error::{Doing as _, Error, Result},
};

/// Loopback is the first link of every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// rtnetlink in the namespace it was opened in.
pub(crate) struct Netlink {
    pub(super) route: Connection<Route>,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self> {
        let route = Connection::<Route>::new().doing(|| "open rtnetlink".to_owned())?;
        Ok(Self { route })
    }

    pub(super) async fn index(&self, link: &str) -> Result<Option<u32>> {
        let found = self.route.get_link_by_name(link).await.doing(|| format!("look for link {link}"))?;
        Ok(found.map(|link| link.ifindex()))
    }

    async fn networks_of(&self) -> Result<Vec<Ipv4Net>> {
        let addresses = self.route.get_addresses().await.doing(|| "list addresses".to_owned())?;
        let routes = self.route.get_routes().await.doing(|| "list routes".to_owned())?;
        let addresses = addresses.iter().filter_map(|address| match address.primary_address()? {
            IpAddr::V4(ip) => Some(Ipv4Net::new(*ip, address.prefix_len())),
            IpAddr::V6(_) => None,
        });
        let routes = routes.iter().filter_map(|route| match route.destination()? {
            IpAddr::V4(ip) if route.dst_len() > 0 => Some(Ipv4Net::new(*ip, route.dst_len())),
            _ => None,
        });
        Ok(addresses.chain(routes).collect())
    }

    async fn gateway(&self, gateway: &Gateway) -> Result<()> {
        let (link, address) = (&gateway.link, gateway.pods.gateway());
        let doing = || format!("set up link {link}");
        // A bridge without ports: every kernel has bridges, not every one has dummies.
        match self.route.add_link(BridgeLink::new(link.as_str()).address(hardware(address))).await {
            Err(error) if !error.is_already_exists() => return Err(error).doing(doing),
            _ => {}
        }
        let index = self.index(link).await?.ok_or_else(|| Error::Input(format!("link {link} vanished")))?;
        let address = Ipv4Address::with_index(index, address, gateway.pods.prefix());
        self.route.replace_address(address).await.doing(doing)?;
        self.route.set_link_up_by_index(index).await.doing(doing)?;
        // The host reaches services by this route: without one it would not even try.
        let route =
            Ipv4Route::from_addr(gateway.services.address(), gateway.services.prefix()).dev_index(index);
        let route = route.prefsrc(gateway.pods.gateway()).scope(RouteScope::Link).priority(gateway.metric);
        self.route.replace_route(route).await.doing(|| format!("route services over {link}"))
    }

    async fn pair(&self, gateway: Ipv4Addr, port: &Port, name: &str, netns: BorrowedFd<'_>) -> Result<()> {
        let doing = || format!("make pod link {}", port.link);
        let veth = || {
            let pair = VethLink::new(port.link.as_str(), name).peer_address(hardware(port.address));
            pair.address(hardware(gateway)).peer_netns_fd(netns)
        };
        if let Err(error) = self.route.add_link(veth()).await {
            if !error.is_already_exists() {
                return Err(error).doing(doing);
            }
            // Left by a pod that is gone, or by an attempt that was interrupted.
            self.drop_link(&port.link).await?;
            self.route.add_link(veth()).await.doing(doing)?;
        }
        let index = self.index(&port.link).await?;
        let index = index.ok_or_else(|| Error::Input(format!("link {} vanished", port.link)))?;
        // Answers to connections from 127.0.0.1 to a pod come back here; the rules drop what pods send there themselves.
        let settings = [(Ipv4Devconf::RouteLocalnet, 1), (Ipv4Devconf::SendRedirects, 0)];
        self.route.set_ipv4_devconf_by_index(index, &settings).await.doing(doing)?;
        self.route.set_link_up_by_index(index).await.doing(doing)?;
        let route = Ipv4Route::from_addr(port.address, 32).dev_index(index).scope(RouteScope::Link);
        self.route.replace_route(route.prefsrc(gateway)).await.doing(doing)
    }

    pub(super) async fn drop_link(&self, link: &str) -> Result<()> {
        match self.route.del_link_if_exists(link).await {
            // A veth whose pod ends just now goes by itself.
            Err(error) if !error.is_not_found() => Err(error).doing(|| format!("remove link {link}")),
            _ => Ok(()),
        }
    }
}

pub(super) fn inside(netns: BorrowedFd<'_>) -> Result<Connection<Route>> {
    Connection::<Route>::new_in(netns).doing(|| "open rtnetlink in the pod's network namespace".to_owned())
}

/// Sets up a pod's own side. Its address stands alone: other pods are reached through the gateway like everything else.
async fn inner(route: &Connection<Route>, gateway: Ipv4Addr, port: &Port, name: &str) -> Result<()> {
    let doing = || format!("set up {name} of pod {}", port.address);
    let link = route.get_link_by_name(name).await.doing(doing)?;
    let index = link.map(|link| link.ifindex()).ok_or_else(|| Error::Input(format!("{name} vanished")))?;
    route.set_link_up_by_index(index).await.doing(doing)?;
    route.set_link_up_by_index(LOOPBACK).await.doing(doing)?;
    let to_gateway = Ipv4Route::from_addr(gateway, 32).dev_index(index).scope(RouteScope::Link);
    route.add_route(to_gateway).await.doing(doing)?;
    let default = Ipv4Route::from_addr(Ipv4Addr::UNSPECIFIED, 0).gateway(gateway).dev_index(index);
    route.replace_route(default).await.doing(doing)?;
    // Last, for it is what tells a pod that is wired from one whose wiring was broken off.
    let address = Ipv4Address::with_index(index, port.address, 32);
    route.add_address(address).await.doing(doing)
}

async fn attached(host: &Netlink, port: &Port, netns: BorrowedFd<'_>) -> Result<bool> {
    if host.index(&port.link).await?.is_none() {
        return Ok(false);
    }
    let addresses = inside(netns)?.get_addresses().await.doing(|| "list a pod's addresses".to_owned())?;
    Ok(addresses.iter().any(|address| address.primary_address() == Some(&IpAddr::V4(port.address))))
}

/// The hardware address of whoever has an IP address: locally administered, and made from that.
pub fn hardware(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

impl Links for Netlink {
    fn networks(&self) -> Later<'_, Vec<Ipv4Net>> {
        Box::pin(self.networks_of())
    }

    fn exists<'a>(&'a self, link: &'a str) -> Later<'a, bool> {
        Box::pin(async move { Ok(self.index(link).await?.is_some()) })
    }

    fn ensure_gateway<'a>(&'a self, gateway: &'a Gateway) -> Later<'a, ()> {
        Box::pin(self.gateway(gateway))
    }

    fn is_attached<'a>(&'a self, port: &'a Port, netns: BorrowedFd<'a>) -> Later<'a, bool> {
        Box::pin(attached(self, port, netns))
    }

    fn attach<'a>(&'a self, gateway: Ipv4Addr, port: &'a Port, netns: BorrowedFd<'a>) -> Later<'a, ()> {
        Box::pin(async move {
            let route = inside(netns)?;
            let name = bridge::free_name(&route).await?;
            self.pair(gateway, port, &name, netns).await?;
            inner(&route, gateway, port, &name).await
        })
    }

    fn ensure_bridge<'a>(&'a self, segment: &'a Segment) -> Later<'a, ()> {
        Box::pin(self.bridge(segment))
    }

    fn plug<'a>(&'a self, segment: &'a Segment, plug: &'a Plug, netns: BorrowedFd<'a>) -> Later<'a, ()> {
        Box::pin(self.connect(segment, plug, netns))
    }

    fn route<'a>(&'a self, gateway: IpAddr, address: Ipv4Addr, netns: BorrowedFd<'a>) -> Later<'a, ()> {
        Box::pin(bridge::route(gateway, address, netns))
    }

    fn serve_names<'a>(
        &'a self,
        server: Ipv4Addr,
        address: Ipv4Addr,
        netns: BorrowedFd<'a>,
    ) -> Later<'a, ()> {
        Box::pin(names::serve(server, address, netns))
    }

    fn remove<'a>(&'a self, link: &'a str) -> Later<'a, ()> {
        Box::pin(self.drop_link(link))
    }

    fn named<'a>(&'a self, prefix: &'a str) -> Later<'a, Vec<String>> {
        Box::pin(async move {
            let links = self.route.get_links().await.doing(|| "list links".to_owned())?;
            let names = links.iter().filter_map(|link| link.name());
            Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
        })
    }
}
