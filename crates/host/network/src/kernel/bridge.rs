//! Bridges of bridge networks, and their ports.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, BorrowedFd},
};

use nlink::{
    Ipv4Address, Ipv4Route, Ipv6Address, Ipv6Route, Route,
    netlink::{
        Connection,
        devconf::Ipv4Devconf,
        link::{BridgeLink, BridgePortConfig, LinkCreateExt as _, VethLink},
    },
};

use super::{
    Plug, Segment,
    links::{LOOPBACK, Netlink, hardware, inside},
};
use crate::error::{Doing as _, Error, Result};

impl Netlink {
    pub(super) async fn bridge(&self, segment: &Segment) -> Result<()> {
        let link = &segment.link;
        let doing = || format!("set up bridge {link}");
        let mut bridge = BridgeLink::new(link.as_str()).address(hardware(segment.gateway));
        if let Some(mtu) = segment.mtu {
            bridge = bridge.mtu(mtu);
        }
        match self.route.add_link(bridge).await {
            Err(error) if !error.is_already_exists() => return Err(error).doing(doing),
            _ => {}
        }
        let index = self.index(link).await?.ok_or_else(|| vanished(link))?;
        // Answers to connections from 127.0.0.1 to a container come back here, as on links of pods.
        let settings = [(Ipv4Devconf::RouteLocalnet, 1), (Ipv4Devconf::SendRedirects, 0)];
        self.route.set_ipv4_devconf_by_index(index, &settings).await.doing(doing)?;
        let address = Ipv4Address::with_index(index, segment.gateway, segment.subnet.prefix());
        self.route.replace_address(address).await.doing(doing)?;
        if let Some(side) = segment.ipv6 {
            let address = Ipv6Address::with_index(index, side.gateway, side.subnet.prefix()).nodad();
            self.route.replace_address(address).await.doing(doing)?;
        }
        self.route.set_link_up_by_index(index).await.doing(doing)
    }

    pub(super) async fn connect(&self, segment: &Segment, plug: &Plug, netns: BorrowedFd<'_>) -> Result<()> {
        let route = inside(netns)?;
        let name = free_name(&route).await?;
        self.pair_with_bridge(segment, plug, &name, netns).await?;
        let doing = || format!("set up {name} of container {}", plug.address);
        let link = route.get_link_by_name(&name).await.doing(doing)?;
        let index = link.map(|link| link.ifindex()).ok_or_else(|| vanished(&name))?;
        route.set_link_up_by_index(LOOPBACK).await.doing(doing)?;
        let address = Ipv4Address::with_index(index, plug.address, segment.subnet.prefix());
        let address = address.broadcast(segment.subnet.ends().1);
        route.add_address(address).await.doing(doing)?;
        route.set_link_up_by_index(index).await.doing(doing)?;
        if let (Some(side), Some(address)) = (segment.ipv6, plug.ipv6) {
            // Nobody else has it: there is nothing to wait for.
            let address = Ipv6Address::with_index(index, address, side.subnet.prefix()).nodad();
            route.add_address(address).await.doing(doing)?;
        }
        if let Some(only) = segment.only {
            let route_to = Ipv4Route::from_addr(only, 32).gateway(segment.gateway).dev_index(index);
            route.replace_route(route_to).await.doing(doing)?;
        }
        Ok(())
    }

    async fn pair_with_bridge(
        &self,
        segment: &Segment,
        plug: &Plug,
        name: &str,
        netns: BorrowedFd<'_>,
    ) -> Result<()> {
        let doing = || format!("make link {} of bridge {}", plug.link, segment.link);
        let pair = || {
            let mut pair = VethLink::new(plug.link.as_str(), name);
            if let Some(mtu) = segment.mtu {
                pair = pair.mtu(mtu).peer_mtu(mtu);
            }
            pair.peer_address(plug.hardware).peer_netns_fd(netns.as_fd()).master(segment.link.as_str()).up()
        };
        if let Err(error) = self.route.add_link(pair()).await {
            if !error.is_already_exists() {
                return Err(error).doing(doing);
            }
            // Left by a container that is gone, or by an attempt that was interrupted.
            self.drop_link(&plug.link).await?;
            self.route.add_link(pair()).await.doing(doing)?;
        }
        // Where the kernel rules bridged packets too (`br_netfilter`), what a container sends to itself by a port of the
        // host is turned around in the bridge.
        let port = BridgePortConfig::new().hairpin(true);
        self.route.set_bridge_port(plug.link.as_str(), port).await.doing(doing)
    }
}

fn vanished(link: &str) -> Error {
    Error::Input(format!("link {link} vanished"))
}

/// The first name of `eth0`, `eth1` and so on that no link there has.
pub(super) async fn free_name(inside: &Connection<Route>) -> Result<String> {
    let links = inside.get_links().await.doing(|| "list links of a container".to_owned())?;
    let taken = |name: &String| links.iter().any(|link| link.name() == Some(name.as_str()));
    let mut names = (0..=links.len()).map(|number| format!("eth{number}"));
    Ok(names.find(|name| !taken(name)).unwrap_or_default())
}

pub(super) async fn route(gateway: IpAddr, address: Ipv4Addr, netns: BorrowedFd<'_>) -> Result<()> {
    let doing = || format!("route over {gateway}");
    let route = inside(netns)?;
    let addresses = route.get_addresses().await.doing(doing)?;
    let found = addresses.iter().find(|found| found.primary_address() == Some(&IpAddr::V4(address)));
    let index = found.ok_or_else(|| vanished(&address.to_string()))?.ifindex();
    match gateway {
        IpAddr::V4(gateway) => {
            let default = Ipv4Route::from_addr(Ipv4Addr::UNSPECIFIED, 0).gateway(gateway);
            route.replace_route(default.dev_index(index)).await.doing(doing)
        }
        IpAddr::V6(gateway) => {
            let default = Ipv6Route::from_addr(Ipv6Addr::UNSPECIFIED, 0).gateway(gateway);
            route.replace_route(default.dev_index(index)).await.doing(doing)
        }
    }
}
