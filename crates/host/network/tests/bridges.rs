//! Bridge networks in a kernel: who reaches whom. Needs root; everything is in network namespaces of its own.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    process::Command,
    time::Duration,
};

use support::{Space, links, pod, ruleset, test};
use wharf_network::{
    BridgeNetwork, EndpointWish, Error, Ipv6Net, Ipv6Side, PodNetwork, PortMapping, Protocol,
};

/// How long a packet that is dropped is waited for.
const DROPPED: Duration = Duration::from_millis(300);

fn bridge(id: &str, subnet: &str) -> BridgeNetwork {
    let subnet: wharf_network::Ipv4Net = subnet.parse().unwrap();
    let gateway = subnet.gateway();
    BridgeNetwork { id: id.to_owned(), subnet, gateway, range: None, ipv6: None, internal: false, mtu: None }
}

/// A container on a network with a server on port 8080 that says its name.
async fn container(network: &PodNetwork, on: &BridgeNetwork, name: &str) -> (Space, Ipv4Addr) {
    let space = Space::new();
    let address = join(network, on, name, &space).await;
    space.echo(name, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080));
    (space, address)
}

async fn join(network: &PodNetwork, on: &BridgeNetwork, name: &str, space: &Space) -> Ipv4Addr {
    let endpoint = network.connect(name, on, &EndpointWish::default(), space.file()).await.unwrap();
    if !on.internal {
        network.route_over(on.gateway, endpoint.address, space.file()).await.unwrap();
    }
    endpoint.address
}

/// Whether nothing comes back.
fn is_dropped(from: &Space, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let answer = from.run(|| TcpStream::connect_timeout(&to, DROPPED).map(drop));
    answer.is_err_and(|error| matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::NetworkUnreachable))
}

/// Who answers a datagram to `to`, from there.
fn asked_udp(from: &Space, to: &str) -> String {
    from.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"who").unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    })
}

#[test]
fn containers_reach_their_own_network_only() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let other_instance = PodNetwork::open(world.config("b")).await.unwrap();
        let (front, back) = (bridge("front", "172.18.0.0/16"), bridge("back", "172.19.0.0/16"));
        let foreign = bridge("foreign", "172.20.0.0/16");
        let (one, one_at) = container(&network, &front, "one").await;
        let (two, two_at) = container(&network, &front, "two").await;
        let (three, three_at) = container(&network, &back, "three").await;
        let (four, four_at) = container(&other_instance, &foreign, "four").await;
        let (pod, pod_at) = pod(&network, "pod").await;
        let at = |address: Ipv4Addr| format!("{address}:8080");
        assert_eq!(one.ask(&at(two_at)).unwrap(), "two");
        assert_eq!(two.ask(&at(one_at)).unwrap(), "one");
        assert_eq!(world.host.ask(&at(one_at)).unwrap(), "one", "the machine reaches all");
        for (from, to) in [
            (&one, three_at),
            (&three, one_at),
            (&one, four_at),
            (&four, one_at),
            (&one, pod_at),
            (&pod, one_at),
        ] {
            assert!(is_dropped(from, &at(to)), "{to} is reached from elsewhere: {}", ruleset());
        }

        // On both, it reaches both, and goes out by the one that was said.
        let again = join(&network, &back, "one", &one).await;
        assert_eq!(one.ask(&at(three_at)).unwrap(), "three");
        assert_eq!(one.ask(&at(two_at)).unwrap(), "two");
        assert_eq!(three.ask(&at(again)).unwrap(), "one");
        network.disconnect("one", "back").await.unwrap();
        network.route_over(front.gateway, one_at, one.file()).await.unwrap();
        assert!(is_dropped(&one, &at(three_at)));
        assert_eq!(one.ask(&at(two_at)).unwrap(), "two");
    });
}

#[test]
fn dockers_address_of_the_name_server_leads_to_the_machines() {
    test(|world| async move {
        // Rules of the machine do not see what stays in a bridge.
        world.host.run(|| drop(fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0")));
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let front = bridge("front", "172.18.0.0/16");
        let (one, one_at) = container(&network, &front, "one").await;
        let (two, two_at) = container(&network, &front, "two").await;
        world.host.echo("dns", SocketAddrV4::new(network.gateway(), 53));
        world.host.echo_udp("dns", SocketAddrV4::new(network.gateway(), 53));
        for (space, address) in [(&one, one_at), (&two, two_at), (&one, one_at)] {
            network.serve_names(address, space.file()).await.unwrap();
        }
        for strict in ["0", "1", "2"] {
            one.run(|| fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", strict)).unwrap();
            assert_eq!(one.ask("127.0.0.11:53").unwrap(), "dns", "rp_filter {strict}");
            assert_eq!(asked_udp(&one, "127.0.0.11:53"), "dns", "rp_filter {strict}");
        }
        assert_eq!(two.ask("127.0.0.1:8080").unwrap(), "two");
        // Nobody else gets to the loopback network by it.
        let via = two_at.to_string();
        let route = ["route", "add", "127.0.0.99/32", "via", &via, "table", "local"];
        assert!(one.run(|| Command::new("ip").args(route).status()).unwrap().success());
        assert!(is_dropped(&one, "127.0.0.99:8080"));
    });
}

#[test]
fn a_network_without_a_way_out() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let mut closed = bridge("closed", "172.18.0.0/16");
        closed.internal = true;
        let (one, _) = container(&network, &closed, "one").await;
        let (_two, two_at) = container(&network, &closed, "two").await;
        let (pod, pod_at) = pod(&network, "pod").await;
        world.host.echo("dns", SocketAddrV4::new(network.gateway(), 53));
        assert_eq!(one.ask(&format!("{two_at}:8080")).unwrap(), "two");
        assert_eq!(one.ask(&format!("{}:53", network.gateway())).unwrap(), "dns");
        assert!(is_dropped(&one, &format!("{pod_at}:8080")));
        assert!(is_dropped(&pod, &format!("{two_at}:8080")));
        // Not even when it makes itself a way.
        network.route_over(closed.gateway, "172.18.0.2".parse().unwrap(), one.file()).await.unwrap();
        assert!(is_dropped(&one, &format!("{pod_at}:8080")));
        assert!(is_dropped(&one, "198.51.100.1:80"));
    });
}

#[test]
fn ports_lead_to_containers_of_bridge_networks() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (front, back) = (bridge("front", "172.18.0.0/16"), bridge("back", "172.19.0.0/16"));
        let (server, at) = container(&network, &front, "server").await;
        let (neighbour, _) = container(&network, &front, "neighbour").await;
        let (other, _) = container(&network, &back, "other").await;
        let (pod, _) = pod(&network, "pod").await;
        let mapping = PortMapping {
            host_ip: None,
            host_port: 8000,
            container_ip: at,
            container_ip6: None,
            container_port: 8080,
            protocol: Protocol::Tcp,
        };
        network.publish("server", vec![mapping]).await.unwrap();
        assert_eq!(world.host.ask("127.0.0.1:8000").unwrap(), "server");
        let here = format!("{}:8000", front.gateway);
        for (name, from) in [
            ("host", &world.host),
            ("neighbour", &neighbour),
            ("itself", &server),
            ("other", &other),
            ("pod", &pod),
        ] {
            let answer = from.ask(&here);
            assert!(
                answer.as_ref().is_ok_and(|answer| answer == "server"),
                "{name}: {answer:?}\n{}",
                ruleset()
            );
        }
        // As after a restart of the platform.
        let again = PodNetwork::open(world.config("a")).await.unwrap();
        again.services().replace(BTreeMap::new()).await.unwrap();
        assert_eq!(world.host.ask("127.0.0.1:8000").unwrap(), "server");
        assert!(is_dropped(&other, &format!("{at}:8080")), "isolation outlives the table");
        assert_eq!(neighbour.ask(&format!("{at}:8080")).unwrap(), "server");
    });
}

#[test]
fn a_network_with_ipv6() {
    test(|world| async move {
        let before = (links().await, ruleset());
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let six = |id: &str, subnet: &str, subnet6: &str| {
            let subnet6: Ipv6Net = subnet6.parse().unwrap();
            let ipv6 = Some(Ipv6Side { subnet: subnet6, gateway: subnet6.gateway() });
            BridgeNetwork { ipv6, ..bridge(id, subnet) }
        };
        let (front, back) =
            (six("front", "172.18.0.0/16", "fd00:18::/64"), six("back", "172.19.0.0/16", "fd00:19::/64"));
        let (one, one_at) = container(&network, &front, "one").await;
        let (two, _) = container(&network, &front, "two").await;
        let (three, three_at) = container(&network, &back, "three").await;
        for (space, name) in [(&one, "one"), (&two, "two"), (&three, "three")] {
            space.echo6(name, 9090);
        }
        network.route6_over("fd00:18::1".parse().unwrap(), one_at, one.file()).await.unwrap();
        network.route6_over("fd00:19::1".parse().unwrap(), three_at, three.file()).await.unwrap();
        assert_eq!(one.ask("[fd00:18::3]:9090").unwrap(), "two");
        assert_eq!(world.host.ask("[fd00:19::2]:9090").unwrap(), "three");
        assert!(is_dropped(&one, "[fd00:19::2]:9090"));
        assert!(is_dropped(&three, "[fd00:18::2]:9090"));
        let mapping = PortMapping {
            host_ip: None,
            host_port: 8000,
            container_ip: three_at,
            container_ip6: Some("fd00:19::2".parse().unwrap()),
            container_port: 9090,
            protocol: Protocol::Tcp,
        };
        network.publish("three", vec![mapping]).await.unwrap();
        assert_eq!(world.host.ask("[fd00:18::1]:8000").unwrap(), "three");
        assert_eq!(one.ask("[fd00:18::1]:8000").unwrap(), "three", "by the port, over the machine");
        assert_eq!(three.ask("[fd00:19::1]:8000").unwrap(), "three", "itself");

        // As after a restart of the platform.
        let again = PodNetwork::open(world.config("a")).await.unwrap();
        again.services().replace(BTreeMap::new()).await.unwrap();
        assert_eq!(world.host.ask("[fd00:18::1]:8000").unwrap(), "three");
        assert!(is_dropped(&one, "[fd00:19::2]:9090"));
        again.unpublish("three").await.unwrap();
        assert!(world.host.ask("[fd00:18::1]:8000").is_err());
        again.remove_all().await.unwrap();
        assert_eq!((links().await, ruleset()), before);
    });
}

#[test]
fn addresses_are_given_asked_for_and_refused() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let free = network.free_subnet(&[]).await.unwrap();
        assert_eq!(free.to_string(), "172.18.0.0/16");
        let front = bridge("front", "172.18.0.0/16");
        network.make_bridge(&front).await.unwrap();
        assert_eq!(
            network.free_subnet(&["172.19.0.0/16".parse().unwrap()]).await.unwrap().to_string(),
            "172.20.0.0/16"
        );
        let taken = network.make_bridge(&bridge("inside", "172.18.5.0/24")).await;
        assert!(matches!(taken, Err(Error::SubnetTaken { .. })), "{taken:?}");
        let taken = network.make_bridge(&bridge("pods", &network.range().to_string())).await;
        assert!(matches!(taken, Err(Error::SubnetTaken { .. })), "{taken:?}");

        let (one, two) = (Space::new(), Space::new());
        let wish = EndpointWish {
            address: Some("172.18.7.7".parse().unwrap()),
            hardware: Some([2, 0, 0, 0, 0, 9]),
            ..EndpointWish::default()
        };
        let endpoint = network.connect("one", &front, &wish, one.file()).await.unwrap();
        assert_eq!(endpoint.address.to_string(), "172.18.7.7");
        let shown = one.run(|| {
            let ip = Command::new("ip").args(["address", "show", "eth0"]).output();
            String::from_utf8_lossy(&ip.unwrap().stdout).into_owned()
        });
        assert!(shown.contains("172.18.7.7/16") && shown.contains("02:00:00:00:00:09"), "{shown}");
        let refused = network.connect("two", &front, &wish, two.file()).await;
        assert!(matches!(refused, Err(Error::AddressTaken(_))), "{refused:?}");
    });
}

#[test]
fn a_bridge_that_is_gone_comes_back() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let front = bridge("front", "172.18.0.0/16");
        network.make_bridge(&front).await.unwrap();
        // As after a loss of power: it is known, and not there. Another program is the first to need it.
        let route = nlink::Connection::<nlink::Route>::new().unwrap();
        route.del_link("wb-a.0").await.unwrap();
        let other = PodNetwork::open(world.config("a")).await.unwrap();
        let (one, _) = container(&other, &front, "one").await;
        let (_two, two_at) = container(&network, &front, "two").await;
        assert_eq!(one.ask(&format!("{two_at}:8080")).unwrap(), "two");
    });
}

#[test]
fn what_is_gone_is_removed() {
    test(|world| async move {
        let before = (links().await, ruleset());
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (front, back) = (bridge("front", "172.18.0.0/16"), bridge("back", "172.19.0.0/16"));
        let (_one, _) = container(&network, &front, "one").await;
        let (_two, _) = container(&network, &back, "two").await;
        let names = PodNetwork::attached(&world.config("a").data).unwrap();
        assert_eq!(names, BTreeSet::from(["one".to_owned(), "two".to_owned()]));
        let left = |links: Vec<String>| {
            let ours = links.into_iter().filter(|name| name.starts_with("wb-") || name.starts_with("wp-"));
            ours.collect::<Vec<_>>()
        };
        assert_eq!(left(links().await), ["wb-a.0", "wp-a.0", "wb-a.1", "wp-a.1"]);
        // A container that is gone, a network that is gone, and a link nobody knows.
        let route = nlink::Connection::<nlink::Route>::new().unwrap();
        route.add_link(nlink::netlink::link::BridgeLink::new("wb-a.7")).await.unwrap();
        let living = BTreeSet::from(["two".to_owned()]);
        network.recover(&living, &BTreeSet::from(["front".to_owned()])).await.unwrap();
        assert_eq!(left(links().await), ["wb-a.0"]);
        assert!(PodNetwork::attached(&world.config("a").data).unwrap().is_empty());
        network.remove_bridge("front").await.unwrap();
        network.remove_bridge("front").await.unwrap();
        assert_eq!(left(links().await), Vec::<String>::new());
        container(&network, &front, "one").await;
        network.remove_all().await.unwrap();
        assert_eq!((links().await, ruleset()), before);
    });
}
