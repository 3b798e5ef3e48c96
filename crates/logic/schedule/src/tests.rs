use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A node with 4 CPUs, 8 Gi and 10 pods; `more` is merged in at the top.
fn node(name: &str, more: Value) -> NodeModel {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"host": name}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "10", "gpu.example/v1": "1"}},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        match node.get_mut(key).and_then(Value::as_object_mut) {
            Some(present) => present.extend(value.as_object().unwrap().clone()),
            None => node[key] = value.clone(),
        }
    }
    read(node)
}

/// A pod that asks for half a CPU; `spec` is merged into its spec.
fn pod(name: &str, spec: Value) -> PodModel {
    let mut all = json!({"containers": [{"resources": {"requests": {"cpu": "500m", "memory": "128Mi"}}}]});
    for (key, value) in spec.as_object().into_iter().flatten() {
        all[key] = value.clone();
    }
    read(
        json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}}, "spec": all}),
    )
}

fn asking(name: &str, requests: Value) -> PodModel {
    pod(name, json!({"containers": [{"resources": {"requests": requests}}]}))
}

fn table(nodes: &[NodeModel]) -> NodeTable {
    let mut table = NodeTable::new();
    nodes.iter().for_each(|node| table.set_node(node));
    table
}

fn place(table: &mut NodeTable, pod: &PodModel) -> Result<String, String> {
    let node = schedule(pod, table).map_err(|failure| failure.to_string())?;
    let name = table.name(node).to_owned();
    table.place(pod, &name);
    Ok(name)
}

/// Where a pod with this spec goes on these nodes: a name, or the message.
fn check(nodes: &[NodeModel], spec: Value, expect: &str) {
    let found = place(&mut table(nodes), &pod("p", spec.clone())).unwrap_or_else(|message| message);
    assert_eq!(found, expect, "{spec}");
}

#[test]
fn messages_have_upstreams_form() {
    check(&[], json!({}), "no nodes available to schedule pods");
    let tainted = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}});
    let nodes = [node("a", json!({})), node("b", tainted.clone()), node("c", tainted)];
    let big = json!({"containers": [{"resources": {"requests": {"cpu": "5"}}}]});
    check(&nodes, big, "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).");
    let gpu = json!({"containers": [{"resources": {"requests": {"gpu.example/v1": "2"}}}]});
    check(&nodes[..1], gpu, "0/1 nodes are available: 1 Insufficient gpu.example/v1.");
}

#[test]
fn taints_and_tolerations() {
    let taint = |effect| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let nodes = [node("a", taint("NoExecute"))];
    for toleration in [
        json!({"key": "k", "value": "v"}),
        json!({"key": "k", "operator": "Exists"}),
        json!({"operator": "Exists"}),
    ] {
        check(&nodes, json!({"tolerations": [toleration]}), "a");
    }
    let refused = "0/1 nodes are available: 1 node(s) had untolerated taint(s).";
    check(&nodes, json!({"tolerations": [{"key": "k", "value": "w"}]}), refused);
    check(
        &nodes,
        json!({"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}]}),
        refused,
    );
    check(&[node("a", taint("PreferNoSchedule")), node("b", json!({}))], json!({}), "b");
    let cordoned = [node("a", json!({"spec": {"unschedulable": true}}))];
    check(&cordoned, json!({}), "0/1 nodes are available: 1 node(s) were unschedulable.");
    let tolerant =
        json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]});
    check(&cordoned, tolerant, "a");
}

#[test]
fn selectors_and_affinity() {
    let nodes = [
        node("a", json!({"metadata": {"labels": {"disk": "hdd", "gen": "3"}}})),
        node("b", json!({"metadata": {"labels": {"disk": "ssd", "gen": "7"}}})),
    ];
    let refused = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    check(&nodes, json!({"nodeSelector": {"disk": "ssd"}}), "b");
    check(&nodes, json!({"nodeSelector": {"disk": "tape"}}), refused);
    let required = |term: Value| {
        json!({"affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}})
    };
    let expression = |key: &str, operator: &str, values: Value| {
        required(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
    };
    check(&nodes, expression("disk", "In", json!(["ssd", "nvme"])), "b");
    check(&nodes, expression("disk", "NotIn", json!(["ssd"])), "a");
    check(&nodes, expression("gen", "Gt", json!(["5"])), "b");
    check(&nodes, expression("gen", "Lt", json!(["5"])), "a");
    check(&nodes, expression("gen", "Exists", json!([])), "a");
    check(&nodes, expression("gen", "DoesNotExist", json!([])), refused);
    check(&nodes, required(json!({})), refused);
    check(
        &nodes,
        required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]})),
        "b",
    );
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 10, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}]}}});
    check(&nodes, preferred, "b");
}

#[test]
fn host_ports_conflict() {
    let with_port = |ip: &str| json!({"containers": [{"ports": [{"hostPort": 80, "hostIP": ip}]}]});
    let mut table = table(&[node("a", json!({}))]);
    assert_eq!(place(&mut table, &pod("one", with_port("10.0.0.1"))).as_deref(), Ok("a"));
    assert_eq!(place(&mut table, &pod("two", with_port("10.0.0.2"))).as_deref(), Ok("a"));
    let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(place(&mut table, &pod("three", with_port(""))), Err(message.to_owned()));
    table.remove_pod("one");
    table.remove_pod("two");
    assert_eq!(place(&mut table, &pod("three", with_port(""))).as_deref(), Ok("a"));
}

#[test]
fn init_containers_and_overhead_count() {
    let spec = json!({
        "overhead": {"cpu": "1"},
        "containers": [{"resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"resources": {"requests": {"cpu": "3500m"}}}],
    });
    check(&[node("a", json!({}))], spec, "0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn siblings_are_spread() {
    let mut table = table(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let mut seen = std::collections::BTreeMap::new();
    for n in 0..6 {
        let mut pod = pod(&format!("p{n}"), json!({}));
        pod.metadata.owner_references = vec![Owner { uid: "set".into(), controller: Some(true) }];
        *seen.entry(place(&mut table, &pod).unwrap()).or_insert(0) += 1;
    }
    assert!(seen.values().all(|count| *count == 2), "{seen:?}");
}

#[test]
fn anti_affinity_affinity_and_spread() {
    let term = json!({"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "host", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let mut apart = table(&nodes);
    let anti = json!({"affinity": {"podAntiAffinity": term}});
    let first = place(&mut apart, &pod("one", anti.clone())).unwrap();
    let second = place(&mut apart, &pod("two", anti.clone())).unwrap();
    assert_ne!(first, second);
    let message = place(&mut apart, &pod("three", anti)).unwrap_err();
    assert_eq!(
        message,
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
    );

    let mut together = table(&nodes);
    let near = json!({"affinity": {"podAffinity": term}});
    let first = place(&mut together, &pod("one", near.clone())).unwrap();
    for n in 0..3 {
        assert_eq!(place(&mut together, &pod(&format!("p{n}"), near.clone())).as_ref(), Ok(&first));
    }

    let mut even = table(&nodes);
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "host",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]});
    let places: Vec<String> =
        (0..4).map(|n| place(&mut even, &pod(&format!("p{n}"), spread.clone())).unwrap()).collect();
    assert_eq!(places.iter().filter(|name| *name == "a").count(), 2);
}

#[test]
fn pods_seen_before_their_node_count() {
    let mut table = NodeTable::new();
    table.place(&asking("early", json!({"cpu": "4"})), "a");
    table.set_node(&node("a", json!({})));
    let message = "0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(place(&mut table, &asking("p", json!({"cpu": "1"}))), Err(message.to_owned()));
    table.remove_node("a");
    assert!(table.is_empty());
    table.remove_pod("early");
    table.set_node(&node("b", json!({})));
    assert_eq!(place(&mut table, &asking("p", json!({"cpu": "4"}))).as_deref(), Ok("b"));
}

proptest! {
    #[test]
    fn never_oversubscribes(
        nodes in 1usize..8,
        turns in proptest::collection::vec((0i64..3000, 0i64..4000, any::<bool>()), 0..120),
    ) {
        let models: Vec<NodeModel> = (0..nodes).map(|n| node(&format!("n{n}"), json!({}))).collect();
        let mut table = table(&models);
        let mut bound: Vec<(String, i64, i64, String)> = Vec::new();
        for (turn, (cpu, memory, removes)) in turns.into_iter().enumerate() {
            if removes && !bound.is_empty() {
                let (uid, ..) = bound.remove(turn % bound.len());
                table.remove_pod(&uid);
                continue;
            }
            let name = format!("p{turn}");
            let pod = asking(&name, json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi")}));
            if let Ok(node) = place(&mut table, &pod) {
                bound.push((name, cpu, memory, node));
            }
            for n in 0..nodes {
                let of_node: Vec<_> = bound.iter().filter(|pod| pod.3 == format!("n{n}")).collect();
                prop_assert!(of_node.len() <= 10);
                prop_assert!(of_node.iter().map(|pod| pod.1).sum::<i64>() <= 4000);
                prop_assert!(of_node.iter().map(|pod| pod.2).sum::<i64>() <= 8 * 1024);
            }
        }
    }
}
