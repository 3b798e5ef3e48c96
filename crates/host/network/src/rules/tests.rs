use super::*;

fn to(n: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, n), 8080)
}

fn rule(name: &str, ip: u8, backends: &[(u8, u32)]) -> ServicePortRule {
    ServicePortRule {
        name: name.to_owned(),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, ip)],
        port: 80,
        protocol: Protocol::Tcp,
        node_port: None,
        external_ips: Vec::new(),
        session_affinity: None,
        backends: backends.iter().map(|(n, weight)| (to(*n), *weight)).collect(),
    }
}

fn table() -> Table {
    let net = |text: &str| text.parse().unwrap();
    Table::new(Layout {
        bridges: "wb-test.".to_owned(),
        links: "wv-a.".to_owned(),
        pods: net("10.244.0.0/24"),
        services: net("10.96.0.0/16"),
    })
}

/// A plan in few words.
fn words(plan: &Plan) -> Vec<String> {
    let word = |op: &Op| match op {
        Op::SetBalancer { name, previous, .. } => {
            format!("{} {name}", if previous.is_some() { "swap" } else { "add" })
        }
        Op::RemoveBalancer { name, .. } => format!("remove {name}"),
        Op::Route { front, balancer } => format!("route {front:?} {balancer}"),
        Op::Unroute(front) => format!("unroute {front:?}"),
        Op::Refuse(front) => format!("refuse {front:?}"),
        Op::Unrefuse(front) => format!("unrefuse {front:?}"),
        other => format!("{other:?}"),
    };
    plan.ops.iter().map(word).collect()
}

#[test]
fn shares() {
    let check = |weights: &[u32], expected: &[u32]| {
        let backends: Vec<_> = (2..).zip(weights).map(|(n, weight)| (to(n), *weight)).collect();
        assert_eq!(
            slots(&backends).iter().map(|(_, share)| *share).collect::<Vec<_>>(),
            expected,
            "{weights:?}"
        );
    };
    check(&[99_000_000, 1_000_000], &[99, 1]);
    check(&[7, 7, 7], &[1, 1, 1]);
    check(&[0, 0], &[1, 1]);
    check(&[5, 0], &[1]);
    check(&[], &[]);
    let sum: u64 =
        slots(&[(to(2), u32::MAX), (to(3), u32::MAX - 1)]).iter().map(|(_, n)| u64::from(*n)).sum();
    assert!(sum <= u64::from(u32::MAX));
}

#[test]
fn a_change_touches_only_what_it_concerns() {
    let mut table = table();
    let front = "Cluster(10.96.0.1, Tcp, 80)";
    let mut step = |owner: &str, rules: Vec<ServicePortRule>| words(&table.set(owner, rules));
    let web = || rule("ns/web/http", 1, &[(2, 1)]);
    assert_eq!(
        step("ns/web", vec![web()]),
        ["add ns/web/http".to_owned(), format!("route {front} ns/web/http")]
    );
    assert!(step("ns/web", vec![web()]).is_empty());
    step("ns/other", vec![rule("ns/other/http", 2, &[(2, 1)])]);
    assert_eq!(step("ns/web", vec![rule("ns/web/http", 1, &[(2, 1), (3, 1)])]), ["swap ns/web/http"]);
    // Without backends nothing leads anywhere: the address refuses by itself.
    assert_eq!(
        step("ns/web", vec![rule("ns/web/http", 1, &[])]),
        [format!("unroute {front}"), "remove ns/web/http".to_owned()]
    );
    assert!(step("ns/web", Vec::new()).is_empty());
}

#[test]
fn an_external_address_without_backends_is_refused() {
    let mut table = table();
    let outside = |backends: &[(u8, u32)]| {
        let mut rule = rule("ns/web/http", 1, backends);
        rule.cluster_ips.clear();
        rule.external_ips.push(Ipv4Addr::new(192, 0, 2, 1));
        vec![rule]
    };
    let front = "External(192.0.2.1, Tcp, 80)";
    assert_eq!(words(&table.set("ns/web", outside(&[]))), [format!("refuse {front}")]);
    let ready = words(&table.set("ns/web", outside(&[(2, 1)])));
    assert_eq!(
        ready,
        ["add ns/web/http".to_owned(), format!("unrefuse {front}"), format!("route {front} ns/web/http")]
    );
}

#[test]
fn the_first_owner_of_an_address_keeps_it() {
    let mut table = table();
    let front = "Cluster(10.96.0.1, Tcp, 80)";
    table.set("-/api", vec![rule("https", 1, &[(2, 1)])]);
    assert_eq!(words(&table.set("ns/web", vec![rule("ns/web/http", 1, &[(3, 1)])])), ["add ns/web/http"]);
    let freed = words(&table.set("-/api", Vec::new()));
    assert_eq!(
        freed,
        [format!("unroute {front}"), format!("route {front} ns/web/http"), "remove -/api/https".to_owned()]
    );
}

#[test]
fn udp_flows_to_a_backend_that_is_gone_are_stale() {
    let mut table = table();
    let udp = |backends: &[(u8, u32)]| {
        let mut rule = rule("ns/dns/dns", 1, backends);
        rule.protocol = Protocol::Udp;
        vec![rule]
    };
    table.set("ns/dns", udp(&[(2, 1), (3, 1)]));
    assert_eq!(table.set("ns/dns", udp(&[(3, 1)])).stale, BTreeSet::from([to(2)]));
    assert_eq!(table.set("ns/dns", Vec::new()).stale, BTreeSet::from([to(3)]));
}
