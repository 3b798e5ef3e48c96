//! From API objects to connections and names in a pod. Needs root; everything is in network namespaces of its own.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod support;

use std::{
    future::Future,
    net::UdpSocket,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::{Value, json};
use support::{Space, pod, test};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use wharf_client::{Client, Response};
use wharf_network::{DnsConfig, DnsServer, Forwarding, PodNetwork, ServiceProxy};

/// As much of an API server as informers need: it lists, and watches from any revision.
#[derive(Default)]
struct Api {
    events: Mutex<Vec<(String, Value)>>,
    watches: Mutex<Vec<(String, UnboundedSender<Bytes>)>>,
}

impl Api {
    fn put(&self, resource: &str, mut object: Value) {
        let mut events = self.events.lock().unwrap();
        object["metadata"]["resourceVersion"] = json!((events.len() + 1).to_string());
        let event = json!({"type": "MODIFIED", "object": object});
        events.push((resource.to_owned(), event.clone()));
        for (_, watch) in self.watches.lock().unwrap().iter().filter(|(of, _)| of == resource) {
            let _ = watch.send(line(&event));
        }
    }

    fn answer(&self, request: &http::Request<Bytes>) -> Response {
        let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let events = self.events.lock().unwrap();
        if !query.contains("watch=true") {
            let mut objects = std::collections::BTreeMap::new();
            for (_, event) in events.iter().filter(|(of, _)| *of == resource) {
                objects.insert(wharf_client::object_key(&event["object"]), event["object"].clone());
            }
            let items: Vec<_> = objects.into_values().collect();
            let list = json!({"kind": "List", "metadata": {"resourceVersion": events.len().to_string()}, "items": items});
            let body = Full::new(Bytes::from(list.to_string())).map_err(|never| match never {});
            return http::Response::new(body.boxed_unsync());
        }
        let since = query.split("resourceVersion=").nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let (sender, mut receiver) = unbounded_channel();
        for (_, event) in events.iter().skip(since).filter(|(of, _)| *of == resource) {
            let _ = sender.send(line(event));
        }
        self.watches.lock().unwrap().push((resource, sender));
        let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let body = StreamBody::new(stream.map(|bytes| Ok(http_body::Frame::data(bytes))));
        http::Response::new(body.boxed_unsync())
    }

    fn client(self: &Arc<Self>) -> Client {
        let api = Arc::clone(self);
        Client::in_process(Arc::new(move |request| {
            let answer = api.answer(&request);
            Box::pin(async move { answer }) as Pin<Box<dyn Future<Output = Response> + Send>>
        }))
    }
}

fn line(event: &Value) -> Bytes {
    Bytes::from(format!("{event}\n"))
}

fn slice(pods: &[(&str, std::net::Ipv4Addr)]) -> Value {
    let endpoint = |(name, address): &(&str, std::net::Ipv4Addr)| {
        json!({"addresses": [address.to_string()], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": "shop", "name": name}})
    };
    json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// Lets the platform's tasks run until `done` or five seconds are over.
async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A query for the address of `name`, by hand.
fn query(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// Sends a query from a pod to the cluster's DNS address; the answer is taken while the server runs.
async fn resolve(pod: &Space, name: &str) -> (u8, Option<[u8; 4]>) {
    let socket = pod.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    socket.send_to(&query(name), "10.96.0.10:53").await.unwrap();
    let mut answer = [0; 512];
    let received = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut answer)).await;
    let (size, from) = received.unwrap().unwrap();
    assert_eq!(from.to_string(), "10.96.0.10:53");
    let address = answer[..size].last_chunk::<4>().copied();
    (answer[3] & 15, address.filter(|_| answer[7] > 0))
}

#[test]
fn a_service_of_the_api_is_reached_and_resolved_by_a_pod() {
    test(|world| async move {
        let api = Arc::new(Api::default());
        api.put(
            "services",
            json!({"metadata": {"namespace": "shop", "name": "web"},
            "spec": {"clusterIP": "10.96.5.5", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}}),
        );
        let network = PodNetwork::open(world.config("a")).await.unwrap();
        let (client, _) = pod(&network, "client").await;
        let (_stable, stable) = pod(&network, "stable").await;
        let (_canary, canary) = pod(&network, "canary").await;
        for (name, hash) in [("stable", "old"), ("canary", "new")] {
            let labels = json!({"rollouts-pod-template-hash": hash});
            api.put("pods", json!({"metadata": {"namespace": "shop", "name": name, "labels": labels}}));
        }
        let _proxy = ServiceProxy::start(api.client(), network.services().clone());
        let config = DnsConfig {
            address: std::net::SocketAddrV4::new(network.gateway(), 53),
            domain: "cluster.local".to_owned(),
            networks: vec![network.range(), "10.96.0.0/16".parse().unwrap()],
            service_address: "10.96.0.10".parse().unwrap(),
            forwarding: Forwarding::File(PathBuf::from("/nonexistent")),
            private: None,
        };
        let _dns = DnsServer::start(api.client(), config).await.unwrap();

        api.put("endpointslices", slice(&[("stable", stable)]));
        eventually("the Service is reached", || {
            client.ask("10.96.5.5:80").is_ok_and(|name| name == "stable")
        })
        .await;
        assert_eq!(world.host.ask("127.0.0.1:30080").unwrap(), "stable");
        assert_eq!(resolve(&client, "web.shop.svc.cluster.local").await, (0, Some([10, 96, 5, 5])));
        assert_eq!(resolve(&client, "nobody.shop.svc.cluster.local").await, (3, None));
        assert_eq!(resolve(&client, "example.org").await, (2, None));

        // The whole share to the canary, then none of it.
        let weights = |canary: u32| {
            json!({"metadata": {"namespace": "shop", "name": "web"}, "status": {"canary": {"weights": {
                "canary": {"weight": canary, "podTemplateHash": "new"},
                "stable": {"weight": 100 - canary, "podTemplateHash": "old"}}}}})
        };
        api.put("rollouts", weights(100));
        api.put("endpointslices", slice(&[("stable", stable), ("canary", canary)]));
        let all = |name: &str| (0..20).all(|_| client.ask("10.96.5.5:80").is_ok_and(|answer| answer == name));
        eventually("the canary has everything", || all("canary")).await;
        api.put("rollouts", weights(0));
        eventually("the canary has nothing", || all("stable")).await;
        api.put("endpointslices", slice(&[]));
        eventually("the Service refuses", || client.ask("10.96.5.5:80").is_err()).await;
    });
}
