use super::*;
use crate::{
    action::{ENDPOINTS, SERVICES},
    world::World,
};

/// A Service and Endpoints of one name, either of which may be missing.
struct Mirrored {
    world: World,
    warnings: Vec<&'static str>,
}

impl Mirrored {
    fn new(service: Option<Value>, endpoints: Option<Value>) -> Self {
        let mut world = World::new();
        for (resource, object) in [(SERVICES, service), (ENDPOINTS, endpoints)] {
            if let Some(mut object) = object {
                object["metadata"]["name"] = json!("db");
                world.create(&resource, object);
            }
        }
        Self { world, warnings: Vec::new() }
    }

    /// Steps until nothing is written; returns the number of writes.
    fn settle(&mut self) -> usize {
        let mut writes = 0;
        for _ in 0..5 {
            let services = self.world.all::<Service>(&SERVICES);
            let endpoints = self.world.all::<Endpoints>(&ENDPOINTS);
            let slices = self.slices();
            let slices: Vec<&EndpointSlice> = slices.iter().collect();
            let view = View { service: services.first(), endpoints: endpoints.first(), slices: &slices };
            let step = step(&view);
            self.warnings = step.actions.iter().filter_map(warning).collect();
            writes += step.actions.len() - self.warnings.len();
            if !self.world.apply(step) {
                return writes;
            }
        }
        panic!("does not settle");
    }

    fn slices(&self) -> Vec<EndpointSlice> {
        self.world.all(&ENDPOINT_SLICES)
    }

    /// Each slice as `family ports: addresses`; an address in brackets is not ready.
    fn told(&self) -> Vec<String> {
        let mut told: Vec<String> = self.slices().iter().map(tell).collect();
        told.sort();
        told
    }
}

fn warning(action: &Action) -> Option<&'static str> {
    match action {
        Action::Event(event) => Some(event.reason),
        _ => None,
    }
}

fn tell(slice: &EndpointSlice) -> String {
    let ports: Vec<String> = slice.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
    let address = |endpoint: &Endpoint| match endpoint.conditions.ready {
        Some(true) => endpoint.addresses[0].clone(),
        _ => format!("({})", endpoint.addresses[0]),
    };
    let addresses: Vec<String> = slice.endpoints.iter().map(address).collect();
    format!("{} {}: {}", slice.address_type, ports.join(","), addresses.join(" "))
}

fn service() -> Option<Value> {
    Some(json!({"metadata": {}, "spec": {"ports": [{"port": 80}]}}))
}

fn endpoints(subsets: &Value) -> Option<Value> {
    Some(json!({"metadata": {}, "subsets": subsets}))
}

fn subset(addresses: &[&str], not_ready: &[&str], ports: &[i64]) -> Value {
    let ips = |list: &[&str]| list.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    let ports: Vec<Value> = ports.iter().map(|port| json!({"port": port, "protocol": "TCP"})).collect();
    json!({"addresses": ips(addresses), "notReadyAddresses": ips(not_ready), "ports": ports})
}

fn check(subsets: &Value, expect: &[&str], warnings: &[&str]) {
    let mut mirrored = Mirrored::new(service(), endpoints(subsets));
    mirrored.settle();
    assert_eq!(mirrored.told(), expect, "{subsets}");
    assert_eq!(mirrored.warnings, warnings, "{subsets}");
    assert_eq!(mirrored.settle(), 0, "rests");
}

#[test]
fn subsets_become_slices() {
    check(&json!([]), &[], &[]);
    check(&json!(null), &[], &[]);
    check(&json!([subset(&["10.1.2.3"], &[], &[80])]), &["IPv4 80/TCP: 10.1.2.3"], &[]);
    check(
        &json!([{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]),
        &["IPv4 80/TCP: 10.0.0.1"],
        &[],
    );
    check(&json!([subset(&["10.0.0.1"], &[], &[])]), &["IPv4 : 10.0.0.1"], &[]);
    check(
        &json!([subset(&["10.0.0.2"], &["10.0.0.1"], &[80, 81])]),
        &["IPv4 80/TCP,81/TCP: 10.0.0.2 (10.0.0.1)"],
        &[],
    );
    check(
        &json!([subset(&["10.0.0.1", "fd00::1"], &["fd00:0::2"], &[80])]),
        &["IPv4 80/TCP: 10.0.0.1", "IPv6 80/TCP: fd00::1 (fd00::2)"],
        &[],
    );
    check(
        &json!([subset(&["10.0.0.1"], &[], &[8090]), subset(&["10.0.0.1"], &[], &[9090])]),
        &["IPv4 8090/TCP,9090/TCP: 10.0.0.1"],
        &[],
    );
    check(
        &json!([subset(&["10.0.0.1"], &[], &[80]), subset(&["10.0.0.2"], &[], &[81])]),
        &["IPv4 80/TCP: 10.0.0.1", "IPv4 81/TCP: 10.0.0.2"],
        &[],
    );
    check(
        &json!([subset(&["10.0.0.1"], &[], &[80]), subset(&["10.0.0.2"], &["10.0.0.1"], &[80])]),
        &["IPv4 80/TCP: 10.0.0.2 (10.0.0.1)"],
        &[],
    );
}

#[test]
fn odd_addresses_are_left_out_or_made_even() {
    let odd = ["10.0.0.1", "host", "", "1.2.3", "1.2.3.256", "10.0..1"];
    check(&json!([subset(&odd, &[], &[80])]), &["IPv4 80/TCP: 10.0.0.1"], &["InvalidIPAddress"]);
    check(&json!([subset(&["010.000.0.09"], &[], &[80])]), &["IPv4 80/TCP: 10.0.0.9"], &[]);
    check(&json!([subset(&["::ffff:10.0.0.9"], &[], &[80])]), &["IPv4 80/TCP: 10.0.0.9"], &[]);
}

#[test]
fn a_slice_holds_a_thousand_and_ready_ones_first() {
    let ips = |third: usize, count: usize| -> Vec<String> {
        (0..count).map(|n| format!("10.{third}.{}.{}", n / 250, n % 250)).collect()
    };
    let (ready, not_ready) = (ips(1, 700), ips(0, 700));
    let refs = |list: &[String]| -> Vec<Value> { list.iter().map(|ip| json!({"ip": ip})).collect() };
    let subset =
        json!({"addresses": refs(&ready), "notReadyAddresses": refs(&not_ready), "ports": [{"port": 80}]});
    let mut mirrored = Mirrored::new(service(), endpoints(&json!([subset])));
    mirrored.settle();
    let slices = mirrored.slices();
    let states: Vec<bool> = slices[0].endpoints.iter().filter_map(|e| e.conditions.ready).collect();
    assert_eq!((slices.len(), states.len()), (1, MAX_ADDRESSES));
    assert_eq!(states.iter().filter(|ready| **ready).count(), 700);
    assert_eq!(mirrored.warnings, ["TooManyAddressesToMirror"]);
}

#[test]
fn slices_carry_labels_annotations_and_owner() {
    let address = json!({"ip": "10.0.0.1", "hostname": "a", "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p", "uid": "u"}});
    let endpoints = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "b",
        "endpoints.kubernetes.io/last-change-trigger-time": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "subsets": [{"addresses": [address], "ports": [{"name": "sql", "port": 5432, "appProtocol": "pg"}]}]});
    let mut mirrored = Mirrored::new(service(), Some(endpoints));
    mirrored.settle();
    let slice = &mirrored.slices()[0];
    let pairs = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert!(slice.metadata.name.starts_with("db-"));
    assert_eq!(
        slice.metadata.labels,
        pairs(&[("team", "a"), (SERVICE_LABEL, "db"), (MANAGED_BY, CONTROLLER)])
    );
    assert_eq!(slice.metadata.annotations, pairs(&[("note", "b")]));
    let owner = slice.metadata.controller().unwrap();
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Endpoints", "db", "uid-2"));
    let endpoint = &slice.endpoints[0];
    assert_eq!((endpoint.hostname.as_deref(), endpoint.node_name.as_deref()), (Some("a"), Some("n")));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().uid, "u");
    assert_eq!((slice.ports[0].name.as_str(), slice.ports[0].app_protocol.as_deref()), ("sql", Some("pg")));
    // What changes on the Endpoints changes on the slice, in one write.
    let change = json!({"metadata": {"labels": {"team": null, "tier": "1"}, "annotations": {"note": "c"}}});
    mirrored.world.patch(&ENDPOINTS, "db", change);
    assert_eq!(mirrored.settle(), 1);
    let slice = &mirrored.slices()[0];
    assert_eq!(
        slice.metadata.labels,
        pairs(&[("tier", "1"), (SERVICE_LABEL, "db"), (MANAGED_BY, CONTROLLER)])
    );
    assert_eq!(slice.metadata.annotations, pairs(&[("note", "c")]));
}

#[test]
fn changes_keep_the_slice() {
    let mut mirrored = Mirrored::new(service(), endpoints(&json!([subset(&["10.1.2.3"], &[], &[80])])));
    mirrored.settle();
    let name = mirrored.slices()[0].metadata.name.clone();
    for (subsets, expect) in [
        (json!([subset(&["10.2.3.4"], &[], &[80])]), &["IPv4 80/TCP: 10.2.3.4"][..]),
        (json!([subset(&["10.2.3.4"], &[], &[81])]), &["IPv4 81/TCP: 10.2.3.4"]),
        (json!([subset(&[], &["10.2.3.4"], &[81])]), &["IPv4 81/TCP: (10.2.3.4)"]),
        (json!([]), &[]),
    ] {
        mirrored.world.patch(&ENDPOINTS, "db", json!({"subsets": subsets}));
        assert_eq!(mirrored.settle(), 1, "{subsets}");
        assert_eq!(mirrored.told(), expect);
        assert!(mirrored.slices().iter().all(|slice| slice.metadata.name == name));
    }
}

#[test]
fn endpoints_made_anew_own_their_slices() {
    let subsets = json!([subset(&["10.1.2.3"], &[], &[80])]);
    let mut mirrored = Mirrored::new(service(), endpoints(&subsets));
    mirrored.settle();
    mirrored.world.patch(&ENDPOINTS, "db", json!({"metadata": {"labels": {"a": "b"}}}));
    let name = mirrored.slices()[0].metadata.name.clone();
    let former =
        json!([{"apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "former", "controller": true}]);
    mirrored.world.patch(&ENDPOINT_SLICES, &name, json!({"metadata": {"ownerReferences": former}}));
    mirrored.settle();
    assert!(mirrored.slices()[0].metadata.controlled_by("uid-2"));
}

/// Whether there is a mirror, from the start and after a mirror that is there already.
fn check_mirrored(service: Option<Value>, metadata: Value, expect: bool) {
    let subsets = json!([subset(&["10.1.2.3"], &[], &[80])]);
    let endpoints = json!({"metadata": metadata, "subsets": subsets});
    let mut mirrored = Mirrored::new(service, Some(endpoints));
    let labels = json!({SERVICE_LABEL: "db", MANAGED_BY: CONTROLLER});
    let there = json!({"metadata": {"name": "db-1", "labels": labels}, "addressType": "IPv4", "ports": []});
    let foreign = json!({"metadata": {"name": "db-2", "labels": {SERVICE_LABEL: "db", MANAGED_BY: "me"}}});
    mirrored.world.create(&ENDPOINT_SLICES, foreign);
    for present in [None, Some(there)] {
        if let Some(slice) = present {
            mirrored.world.create(&ENDPOINT_SLICES, slice);
        }
        mirrored.settle();
        let ours = mirrored.slices().iter().filter(|slice| is_ours(slice)).count();
        assert_eq!(
            (ours, mirrored.slices().len()),
            (usize::from(expect), usize::from(expect) + 1),
            "{metadata}"
        );
    }
}

#[test]
fn only_services_without_selector_are_mirrored() {
    let selecting = json!({"metadata": {}, "spec": {"selector": {"app": "db"}}});
    check_mirrored(service(), json!({}), true);
    check_mirrored(None, json!({}), false);
    check_mirrored(Some(selecting), json!({}), false);
    check_mirrored(service(), json!({"labels": {SKIP: "true"}}), false);
    check_mirrored(service(), json!({"labels": {SKIP: "false"}}), true);
    check_mirrored(service(), json!({"annotations": {LEADER: "{}"}}), false);
}

#[test]
fn without_endpoints_there_is_no_mirror() {
    let mut mirrored = Mirrored::new(service(), None);
    let labels = json!({SERVICE_LABEL: "db", MANAGED_BY: CONTROLLER});
    mirrored.world.create(&ENDPOINT_SLICES, json!({"metadata": {"name": "db-1", "labels": labels}}));
    assert_eq!((mirrored.settle(), mirrored.slices().len()), (1, 0));
}
