use super::*;
use crate::meta::read;

fn service(spec: Value) -> Service {
    let mut all = json!({"selector": {"app": "web"}, "clusterIP": "10.0.0.1",
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    read(&json!({"metadata": {"name": "web", "namespace": "ns", "uid": "svc"}, "spec": all})).unwrap()
}

fn pod(n: usize, ready: bool) -> Pod {
    read(&json!({
        "metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n:04}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "node", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", n / 250, n % 250),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap()
}

/// A little server: slices by name, changed by steps.
#[derive(Default)]
struct Slices(BTreeMap<String, Value>, usize);

impl Slices {
    /// Runs to rest; returns the number of writes.
    fn run(&mut self, service: &Service, pods: &[Pod]) -> usize {
        let pods: Vec<&Pod> = pods.iter().collect();
        let zones = BTreeMap::from([("node".to_owned(), "z1".to_owned())]);
        let mut writes = 0;
        for _ in 0..3 {
            let slices = self.read();
            let slices: Vec<&EndpointSlice> = slices.iter().collect();
            let step = step(&View { service, pods: &pods, slices: &slices, zones: &zones });
            writes += step.actions.len();
            step.actions.into_iter().for_each(|action| self.apply(action));
        }
        writes
    }

    fn apply(&mut self, action: Action) {
        self.1 += 1;
        match action {
            Action::Create { mut object, .. } => {
                object["metadata"]["uid"] = json!(format!("slice-{}", self.1));
                self.0.insert(object["metadata"]["name"].as_str().unwrap().to_owned(), object);
            }
            Action::Delete { name, .. } => drop(self.0.remove(&name)),
            Action::Patch { name, body, .. } => {
                let object = self.0.get_mut(&name).unwrap();
                if let Some(endpoints) = body.get("endpoints") {
                    object["endpoints"] = endpoints.clone();
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn read(&self) -> Vec<EndpointSlice> {
        self.0.values().map(|object| read(object).unwrap()).collect()
    }

    fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.read().iter().map(|slice| slice.endpoints.len()).collect();
        sizes.sort_unstable();
        sizes
    }
}

/// The slices of `service` over pods, of which the first `ready` are ready, have these sizes.
fn check(service: &Service, pods: usize, expect: &[usize]) -> Slices {
    let pods: Vec<Pod> = (0..pods).map(|n| pod(n, true)).collect();
    let mut slices = Slices::default();
    slices.run(service, &pods);
    assert_eq!(slices.sizes(), expect);
    assert_eq!(slices.run(service, &pods), 0, "rests");
    slices
}

#[test]
fn slices_hold_a_hundred() {
    let service = service(json!({}));
    check(&service, 0, &[0]);
    check(&service, 1, &[1]);
    check(&service, 250, &[50, 100, 100]);
}

#[test]
fn one_change_writes_one_slice() {
    let service = service(json!({}));
    let mut slices = check(&service, 250, &[50, 100, 100]);
    let mut pods: Vec<Pod> = (0..250).map(|n| pod(n, true)).collect();
    pods[7] = pod(7, false);
    assert_eq!(slices.run(&service, &pods), 1);
    pods.remove(3);
    pods.push(pod(400, true));
    assert_eq!(slices.run(&service, &pods), 1);
    assert_eq!(slices.sizes(), [50, 100, 100]);
    pods.clear();
    slices.run(&service, &pods);
    assert_eq!(slices.sizes(), [0]);
}

#[test]
fn endpoints_tell_state_port_and_pod() {
    let slices = check(&service(json!({})), 1, &[1]);
    let slice = &slices.read()[0];
    assert_eq!((slice.ports[0].port, slice.ports[0].name.as_str()), (8080, "http"));
    assert_eq!(slice.metadata.labels[SERVICE_LABEL], "web");
    let endpoint = &slice.endpoints[0];
    assert_eq!((endpoint.zone.as_deref(), endpoint.node_name.as_deref()), (Some("z1"), Some("node")));
    assert_eq!(endpoint.target_ref.as_ref().unwrap().name, "p0");
}

#[test]
fn pods_on_their_way_out_serve_but_are_not_ready() {
    let mut leaving = pod(1, true);
    leaving.metadata.deletion_timestamp = Some(wharf_base::Timestamp::EPOCH);
    let mut slices = Slices::default();
    slices.run(&service(json!({})), &[leaving.clone()]);
    let conditions = slices.read()[0].endpoints[0].conditions;
    assert_eq!(
        (conditions.ready, conditions.serving, conditions.terminating),
        (Some(false), Some(true), Some(true))
    );
    let mut slices = Slices::default();
    slices.run(&service(json!({"publishNotReadyAddresses": true})), &[leaving]);
    assert_eq!(slices.read()[0].endpoints[0].conditions.ready, Some(true));
}

#[test]
fn different_ports_make_different_slices() {
    let mut other = pod(1, true);
    other.spec.containers[0].ports[0].container_port = 9090;
    let mut slices = Slices::default();
    slices.run(&service(json!({})), &[pod(0, true), other]);
    assert_eq!(slices.sizes(), [1, 1]);
}
