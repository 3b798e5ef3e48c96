use std::sync::Arc;

use serde_json::{Value, json};
use wharf_control::meta::read;

use super::*;

fn service(spec: Value) -> Service {
    let mut all =
        json!({"clusterIP": "10.96.1.1", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    read(&json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": all})).unwrap()
}

/// Endpoints as `(last byte, conditions)`, conditions among `r`eady, `s`erving, `t`erminating.
fn slice(endpoints: &[(u8, &str)]) -> wharf_control::endpointslice::EndpointSlice {
    let endpoint = |(n, state): &(u8, &str)| {
        json!({
            "addresses": [format!("10.244.0.{n}")],
            "conditions": {"ready": state.contains('r'), "serving": state.contains('s'), "terminating": state.contains('t')},
            "targetRef": {"kind": "Pod", "namespace": "ns", "name": format!("pod-{n}")},
        })
    };
    read(&json!({"addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()}))
    .unwrap()
}

fn backends(service: &Service, endpoints: &[(u8, &str)], weights: &Weights) -> Vec<(u8, u32)> {
    let rules = rules_of(service, &[slice(endpoints)], weights);
    let [rule] = rules.as_slice() else { panic!("{rules:?}") };
    rule.backends.iter().map(|(address, weight)| (address.ip().octets()[3], *weight)).collect()
}

#[test]
fn which_endpoints_take_traffic() {
    let check = |endpoints: &[(u8, &str)], expected: &[u8]| {
        let found = backends(&service(json!({})), endpoints, &Weights::default());
        assert_eq!(found, expected.iter().map(|n| (*n, 1)).collect::<Vec<_>>(), "{endpoints:?}");
    };
    check(&[(2, "rs"), (3, ""), (4, "st")], &[2]);
    check(&[(2, ""), (3, "st"), (4, "t")], &[3]);
    check(&[(2, "")], &[]);
    check(&[], &[]);
}

#[test]
fn what_a_service_listens_on() {
    let rules = |spec| rules_of(&service(spec), &[slice(&[(2, "rs")])], &Weights::default());
    let plain = &rules(json!({}))[0];
    assert_eq!((plain.name.as_str(), plain.port, plain.node_port), ("ns/web/http", 80, Some(30080)));
    assert_eq!(plain.session_affinity, None);
    let sticky = rules(
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
    );
    assert_eq!(sticky[0].session_affinity, Some(Duration::from_secs(5)));
    assert_eq!(
        rules(json!({"sessionAffinity": "ClientIP"}))[0].session_affinity,
        Some(Duration::from_secs(10_800))
    );
    let outside = rules(json!({"externalIPs": ["192.0.2.1", "2001:db8::1"]}));
    assert_eq!(outside[0].external_ips, ["192.0.2.1".parse::<std::net::Ipv4Addr>().unwrap()]);
    for none in [
        json!({"clusterIP": "None"}),
        json!({"type": "ExternalName", "clusterIP": null}),
        json!({"clusterIP": "fd00::1"}),
    ] {
        assert_eq!(rules(none), []);
    }
    // A port the pods do not have is there, and refuses.
    assert_eq!(rules(json!({"ports": [{"name": "other", "port": 1}]}))[0].backends, []);
}

#[test]
fn shares_of_a_rollout() {
    let rollout: Object = Arc::new(json!({"status": {"canary": {"weights": {
        "canary": {"weight": 1, "podTemplateHash": "new"}, "stable": {"weight": 99, "podTemplateHash": "old"}}}}}));
    let pod = |n: u8, hash: &str| -> Object {
        Arc::new(
            json!({"metadata": {"name": format!("pod-{n}"), "labels": {"rollouts-pod-template-hash": hash}}}),
        )
    };
    let pods = [pod(2, "old"), pod(3, "old"), pod(4, "old"), pod(5, "new"), pod(6, "older")];
    let weights = Weights::of(&[rollout], &pods);
    let check = |endpoints: &[(u8, &str)], expected: &[(u8, u32)]| {
        assert_eq!(backends(&service(json!({})), endpoints, &weights), expected);
    };
    check(
        &[(2, "rs"), (3, "rs"), (4, "rs"), (5, "rs"), (6, "rs")],
        &[(2, 33_000_000), (3, 33_000_000), (4, 33_000_000), (5, 1_000_000), (6, 0)],
    );
    check(&[(2, "rs"), (5, "")], &[(2, 99_000_000)]);
    // Pods no rollout knows stay equal.
    check(&[(7, "rs"), (8, "rs")], &[(7, 1), (8, 1)]);
}
