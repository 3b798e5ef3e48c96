//! The network in a kernel: pods, services, host ports. Needs root; everything is in network namespaces of its own.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Write},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use support::{Space, line, links, pod, rule, ruleset, test};
use wharf_network::{Error, PodNetwork, PortMapping, Protocol};

const ONE: &str = "10.96.5.5";

#[test]
fn a_service_is_reached_from_pods_and_from_the_host() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let (server, address) = pod(&network, "server").await;
        assert_eq!(client.ask(&format!("{address}:8080")).unwrap(), "server");
        let rules = network.services();
        let mut web = rule("ns/web", ONE, &[(address, 1)]);
        web.node_port = Some(30080);
        rules.apply([("ns/web".to_owned(), vec![web.clone()])]).await.unwrap();
        assert!(ruleset().contains(&format!("dnat to {address}:8080")), "{}", ruleset());
        assert_eq!(client.ask("10.96.5.5:80").unwrap(), "server");
        assert_eq!(world.host.ask("10.96.5.5:80").unwrap(), "server");
        assert_eq!(server.ask("10.96.5.5:80").unwrap(), "server", "a pod reaches itself through its Service");
        let node_port = format!("{}:30080", network.gateway());
        for to in ["127.0.0.1:30080", "127.0.0.2:30080", &node_port] {
            assert_eq!(world.host.ask(to).unwrap(), "server", "{to}");
        }
        assert_eq!(client.ask(&node_port).unwrap(), "server");

        // Nobody there: refused at once, not a timeout.
        web.backends.clear();
        rules.apply([("ns/web".to_owned(), vec![web])]).await.unwrap();
        for to in ["10.96.5.5:80", "10.96.5.5:81", &node_port] {
            assert_eq!(client.ask(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
            assert_eq!(world.host.ask(to).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
        }
    });
}

#[test]
fn a_service_can_be_a_listener_on_the_hosts_loopback() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        world.host.echo("api", "127.0.0.1:6443".parse().unwrap());
        let mut api = rule("kubernetes", "10.96.0.1", &[]);
        api.port = 443;
        api.backends = vec![("127.0.0.1:6443".parse().unwrap(), 1)];
        network.services().set_platform("kubernetes", vec![api]).await.unwrap();
        assert_eq!(client.ask("10.96.0.1:443").unwrap(), "api");
        assert_eq!(world.host.ask("10.96.0.1:443").unwrap(), "api");
    });
}

#[test]
fn weights_hold_to_a_per_cent() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let (_stable, stable) = pod(&network, "stable").await;
        let (_canary, canary) = pod(&network, "canary").await;
        let rules = network.services();
        let share = |network: &[(Ipv4Addr, u32)]| rule("ns/web", ONE, network);
        // Bounds five standard deviations wide.
        for (backends, asked, low, high) in [
            (vec![(stable, 99), (canary, 1)], 10_000, 50, 150),
            (vec![(stable, 1), (canary, 1)], 1_000, 420, 580),
            (vec![(stable, 1), (canary, 0)], 100, 0, 0),
        ] {
            rules.apply([("ns/web".to_owned(), vec![share(&backends)])]).await.unwrap();
            ruleset();
            let count = client.run(|| {
                let answers = (0..asked).map(|_| support::ask("10.96.5.5:80").unwrap());
                answers.filter(|answer| answer == "canary").count()
            });
            assert!((low..=high).contains(&count), "{count} of {asked} reached the canary of {backends:?}");
        }
    });
}

#[test]
fn a_change_breaks_no_connection_and_refuses_none() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let (_a, a) = pod(&network, "a").await;
        let (_b, b) = pod(&network, "b").await;
        let rules = network.services();
        rules.apply([("ns/web".to_owned(), vec![rule("ns/web", ONE, &[(a, 1)])])]).await.unwrap();
        let mut old = client.connect("10.96.5.5:80");
        assert_eq!(line(&mut old).unwrap(), "a");
        let done = Arc::new(AtomicBool::new(false));
        let asking = std::thread::spawn({
            let (done, client) = (Arc::clone(&done), client);
            move || {
                client.run(|| {
                    let mut asked = 0;
                    while !done.load(Ordering::Relaxed) {
                        support::ask("10.96.5.5:80").unwrap();
                        asked += 1;
                    }
                    asked
                })
            }
        });
        let mut changes = 0;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) && !asking.is_finished() {
            let each =
                [&[(b, 1)][..], &[(a, 1), (b, 2)], &[(a, 2), (b, 1)], &[(a, 1), (b, 1)], &[(b, 1), (a, 1)]];
            for backends in each {
                rules.apply([("ns/web".to_owned(), vec![rule("ns/web", ONE, backends)])]).await.unwrap();
                changes += 1;
            }
            if start.elapsed() < Duration::from_millis(600) {
                continue;
            }
            // A restart of the daemon swaps the whole table.
            let again = PodNetwork::open(world.config("a")).await.unwrap();
            let web = (String::from("ns/web"), vec![rule("ns/web", ONE, &[(b, 1)])]);
            again.services().replace(BTreeMap::from([web.clone()])).await.unwrap();
            rules.apply([web]).await.unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().unwrap();
        assert!(asked > 20 && changes > 10, "{asked} connections during {changes} changes");
        old.write_all(b"still\n").unwrap();
        assert_eq!(line(&mut old).unwrap(), "still");
    });
}

#[test]
fn clients_stay_with_their_backend_where_asked() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let mut backends = Vec::new();
        let mut spaces = Vec::new();
        for name in ["a", "b", "c", "d"] {
            let (space, address) = pod(&network, name).await;
            backends.push((address, 1));
            spaces.push(space);
        }
        let mut web = rule("ns/web", ONE, &backends);
        web.session_affinity = Some(Duration::from_secs(600));
        let rules = network.services();
        rules.apply([("ns/web".to_owned(), vec![web.clone()])]).await.unwrap();
        let ask = || client.ask("10.96.5.5:80").unwrap();
        let mine = ask();
        assert!((0..20).all(|_| ask() == mine));
        // Another backend goes: nothing changes for this client. Its own goes: it gets a new one and stays there.
        let at = |name: &str| backends[["a", "b", "c", "d"].iter().position(|n| *n == name).unwrap()].0;
        let without = |gone: &str| {
            let mut rule = web.clone();
            rule.backends.retain(|(address, _)| *address.ip() != at(gone));
            [("ns/web".to_owned(), vec![rule])]
        };
        let other = if mine == "a" { "b" } else { "a" };
        rules.apply(without(other)).await.unwrap();
        assert!((0..20).all(|_| ask() == mine));
        rules.apply(without(&mine)).await.unwrap();
        let next = ask();
        assert_ne!(next, mine);
        assert!((0..20).all(|_| ask() == next));
    });
}

#[test]
fn host_ports_lead_to_a_container_and_are_taken_once() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let (_server, address) = pod(&network, "server").await;
        let mapping = |host_ip: Option<&str>, host_port| PortMapping {
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port,
            container_ip: address,
            container_ip6: None,
            container_port: 8080,
            protocol: Protocol::Tcp,
        };
        let both = vec![mapping(None, 8000), mapping(Some("127.0.0.1"), 8001)];
        network.publish("server", both.clone()).await.unwrap();
        network.publish("server", both).await.unwrap();
        let gateway = network.gateway();
        assert_eq!(world.host.ask("127.0.0.1:8000").unwrap(), "server");
        assert_eq!(world.host.ask("127.0.0.1:8001").unwrap(), "server");
        assert_eq!(client.ask(&format!("{gateway}:8000")).unwrap(), "server");
        assert!(client.ask(&format!("{gateway}:8001")).is_err());
        let taken = network.publish("other", vec![mapping(Some("127.0.0.1"), 8000)]).await.unwrap_err();
        assert!(
            taken
                .to_string()
                .starts_with("Bind for 127.0.0.1:8000 failed: port is already allocated by server"),
            "{taken}"
        );
        let listener = std::net::TcpListener::bind("127.0.0.1:8002").unwrap();
        let taken = network.publish("other", vec![mapping(None, 8002)]).await;
        assert!(matches!(taken, Err(Error::PortTaken { .. })));
        drop(listener);
        // They outlive the daemon, and go with their publisher.
        let again = PodNetwork::open(world.config("a")).await.unwrap();
        assert_eq!(world.host.ask("127.0.0.1:8000").unwrap(), "server");
        again.services().replace(BTreeMap::new()).await.unwrap();
        assert_eq!(world.host.ask("127.0.0.1:8000").unwrap(), "server");
        again.detach("server").await.unwrap();
        assert!(world.host.ask("127.0.0.1:8000").is_err());
        again.publish("other", vec![mapping(None, 8000)]).await.unwrap();
    });
}

#[test]
fn flows_of_udp_leave_a_backend_that_is_gone() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let (one, a) = pod(&network, "a").await;
        let (two, b) = pod(&network, "b").await;
        one.echo_udp("a", "0.0.0.0:8080".parse().unwrap());
        two.echo_udp("b", "0.0.0.0:8080".parse().unwrap());
        let dns = |address| {
            let mut rule = rule("ns/dns", ONE, &[(address, 1)]);
            rule.protocol = Protocol::Udp;
            [("ns/dns".to_owned(), vec![rule])]
        };
        network.services().apply(dns(a)).await.unwrap();
        let socket = client.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let ask = || {
            socket.send_to(b"?", "10.96.5.5:80").unwrap();
            let mut answer = [0];
            socket.recv(&mut answer).unwrap();
            answer[0]
        };
        assert_eq!([ask(), ask()], [b'a', b'a']);
        network.services().apply(dns(b)).await.unwrap();
        assert_eq!(ask(), b'b', "the same socket reaches the new backend");
    });
}

#[test]
fn instances_stand_beside_each_other_and_leave_nothing() {
    test(|world| async move {
        let before = (links().await, ruleset());
        let one = PodNetwork::open(world.config("one")).await.unwrap();
        let two = PodNetwork::open(world.config("two")).await.unwrap();
        assert_ne!(one.range(), two.range());
        let (a, a_address) = pod(&one, "a").await;
        let (b, b_address) = pod(&two, "b").await;
        one.services()
            .apply([("ns/web".to_owned(), vec![rule("ns/web", ONE, &[(a_address, 1)])])])
            .await
            .unwrap();
        two.services()
            .apply([("ns/web".to_owned(), vec![rule("ns/web", ONE, &[(b_address, 1)])])])
            .await
            .unwrap();
        assert_eq!(a.ask("10.96.5.5:80").unwrap(), "a");
        assert_eq!(b.ask("10.96.5.5:80").unwrap(), "b");
        world.host.ask("10.96.5.5:80").unwrap();

        // The same pod keeps its address; one that is gone leaves its own.
        assert_eq!(one.attach("a", a.file()).await.unwrap(), a_address);
        let again = PodNetwork::open(world.config("one")).await.unwrap();
        assert_eq!((again.range(), again.attach("a", a.file()).await.unwrap()), (one.range(), a_address));
        let gone = Space::new();
        again.attach("gone", gone.file()).await.unwrap();
        again.recover(&BTreeSet::from(["a".to_owned()]), &BTreeSet::new()).await.unwrap();
        assert_eq!(links().await.iter().filter(|name| name.starts_with("wv-one.")).count(), 1);
        assert_eq!(a.ask("10.96.5.5:80").unwrap(), "a");

        one.remove_all().await.unwrap();
        one.remove_all().await.unwrap();
        assert_eq!(b.ask("10.96.5.5:80").unwrap(), "b");
        two.remove_all().await.unwrap();
        assert_eq!((links().await, ruleset()), before);
    });
}

#[test]
fn what_the_host_asks_one_instance_outlives_the_others() {
    test(|world| async move {
        let pool = |instance: &str| {
            let mut config = world.config(instance);
            config.services = "10.96.0.0/12".parse().unwrap();
            config
        };
        // Whichever of the two comes first, its going must not take connections to the other along.
        for (stays, goes, stays_first) in [("one", "two", true), ("three", "four", false)] {
            let first = PodNetwork::open(pool(if stays_first { stays } else { goes })).await.unwrap();
            let second = PodNetwork::open(pool(if stays_first { goes } else { stays })).await.unwrap();
            assert!(!first.service_range().overlaps(second.service_range()));
            let (stays, goes) = if stays_first { (first, second) } else { (second, first) };
            let (_server, address) = pod(&stays, "server").await;
            let web = stays.service_range().nth(1000).unwrap().to_string();
            stays
                .services()
                .apply([("ns/web".to_owned(), vec![rule("ns/web", &web, &[(address, 1)])])])
                .await
                .unwrap();
            let mut connection = world.host.connect(&format!("{web}:80"));
            assert_eq!(line(&mut connection).unwrap(), "server");
            goes.remove_all().await.unwrap();
            connection.write_all(b"still\n").unwrap();
            assert_eq!(line(&mut connection).unwrap(), "still");

            // Objects hold addresses of it, so it stays the folder's, whoever comes meanwhile.
            let range = stays.service_range();
            stays.remove_all().await.unwrap();
            let other = PodNetwork::open(pool("other")).await.unwrap();
            let again = PodNetwork::open(pool(if stays_first { "one" } else { "three" })).await.unwrap();
            assert_eq!(again.service_range(), range);
            other.remove_all().await.unwrap();
            again.remove_all().await.unwrap();
        }
    });
}

#[test]
fn a_pod_cannot_send_to_the_hosts_loopback() {
    test(|world| async move {
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        world.host.echo("secret", "127.0.0.1:7000".parse().unwrap());
        let route =
            nlink::Connection::<nlink::Route>::new_in(std::os::fd::AsFd::as_fd(&client.file())).unwrap();
        // As a hostile pod with its own network namespace would: 127.0.0.2 leaves through the gateway.
        route.set_link_down("lo").await.unwrap();
        let index = route.get_link_by_name("eth0").await.unwrap().unwrap().ifindex();
        let settings = [(nlink::netlink::devconf::Ipv4Devconf::RouteLocalnet, 1)];
        route.set_ipv4_devconf_by_index(index, &settings).await.unwrap();
        let way = nlink::Ipv4Route::from_addr(Ipv4Addr::new(127, 0, 0, 0), 8).gateway(network.gateway());
        route.add_route(way.dev_index(index)).await.unwrap();
        let answer = client.run(|| {
            let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7000).into();
            std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300)).map(drop)
        });
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::TimedOut);
    });
}
