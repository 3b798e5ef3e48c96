use std::net::Ipv4Addr;

use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use wharf_control::meta::read;

use super::*;

fn zone() -> Zone {
    let mut zone =
        Zone::new("cluster.local", vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/16".parse().unwrap()])
            .unwrap();
    let slice = |endpoints: Value| {
        read(&json!({"addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}], "endpoints": endpoints})).unwrap()
    };
    let service = |namespace: &str, name: &str, spec: Value| {
        read(&json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
    };
    let ports = json!([{"name": "http", "port": 80}]);
    let web = service("shop", "web", json!({"clusterIP": "10.96.1.1", "ports": ports}));
    zone.set(
        "shop/web",
        Some(&web),
        &[slice(json!([{"addresses": ["10.244.0.2"], "conditions": {"ready": true}}]))],
    );
    let db = service("shop", "db", json!({"clusterIP": "None", "ports": ports}));
    let pods = json!([
        {"addresses": ["10.244.0.3"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.0.4"], "conditions": {"ready": true}},
        {"addresses": ["10.244.0.5"], "conditions": {"ready": false}},
    ]);
    zone.set("shop/db", Some(&db), &[slice(pods)]);
    let out = service("shop", "out", json!({"type": "ExternalName", "externalName": "example.org"}));
    zone.set("shop/out", Some(&out), &[]);
    zone
}

fn check(zone: &Zone, name: &str, kind: RecordType, expected: &str) {
    let answer = zone.answer(&Name::from_ascii(name).unwrap(), kind);
    let said = answer.map(|answer| match answer.code {
        ResponseCode::NoError if answer.answers.is_empty() => {
            assert_eq!(answer.authorities.len(), 1);
            "nothing".to_owned()
        }
        ResponseCode::NoError => {
            let mut data: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
            data.sort();
            data.join(" | ")
        }
        code => {
            assert_eq!(answer.authorities.len(), 1);
            format!("{code:?}")
        }
    });
    assert_eq!(said.as_deref().unwrap_or("forward"), expected, "{name} {kind}");
}

#[test]
fn names_of_the_cluster() {
    use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
    let zone = zone();
    for (name, kind, expected) in [
        ("web.shop.svc.cluster.local.", A, "10.96.1.1"),
        ("WEB.shop.SVC.cluster.local.", A, "10.96.1.1"),
        ("web.shop.svc.cluster.local.", AAAA, "nothing"),
        ("web.other.svc.cluster.local.", A, "NXDomain"),
        ("nobody.shop.svc.cluster.local.", AAAA, "NXDomain"),
        ("db.shop.svc.cluster.local.", A, "10.244.0.3 | 10.244.0.4"),
        ("db-0.db.shop.svc.cluster.local.", A, "10.244.0.3"),
        ("10-244-0-4.db.shop.svc.cluster.local.", A, "10.244.0.4"),
        ("10-244-0-5.db.shop.svc.cluster.local.", A, "NXDomain"),
        ("_http._tcp.web.shop.svc.cluster.local.", SRV, "0 100 80 web.shop.svc.cluster.local."),
        ("_http._tcp.web.shop.svc.cluster.local.", A, "nothing"),
        ("_tcp.web.shop.svc.cluster.local.", SRV, "nothing"),
        ("_http._udp.web.shop.svc.cluster.local.", SRV, "NXDomain"),
        (
            "_http._tcp.db.shop.svc.cluster.local.",
            SRV,
            "0 50 8080 10-244-0-4.db.shop.svc.cluster.local. | 0 50 8080 db-0.db.shop.svc.cluster.local.",
        ),
        ("out.shop.svc.cluster.local.", CNAME, "example.org."),
        ("out.shop.svc.cluster.local.", A, "example.org."),
        ("10-244-0-9.shop.pod.cluster.local.", A, "10.244.0.9"),
        ("x.shop.pod.cluster.local.", A, "NXDomain"),
        ("shop.svc.cluster.local.", A, "nothing"),
        ("none.svc.cluster.local.", A, "NXDomain"),
        ("svc.cluster.local.", A, "nothing"),
        ("cluster.local.", A, "nothing"),
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("1.1.96.10.in-addr.arpa.", PTR, "web.shop.svc.cluster.local."),
        ("3.0.244.10.in-addr.arpa.", PTR, "db-0.db.shop.svc.cluster.local."),
        ("9.9.244.10.in-addr.arpa.", PTR, "NXDomain"),
        ("8.8.8.8.in-addr.arpa.", PTR, "forward"),
        ("example.org.", A, "forward"),
    ] {
        check(&zone, name, kind, expected);
    }
}

#[test]
fn a_service_that_is_gone_leaves_nothing() {
    let mut zone = zone();
    for key in ["shop/web", "shop/db", "shop/out"] {
        zone.set(key, None, &[]);
    }
    check(&zone, "shop.svc.cluster.local.", RecordType::A, "NXDomain");
    check(&zone, "1.1.96.10.in-addr.arpa.", RecordType::PTR, "NXDomain");
}

#[test]
fn name_servers_of_a_file() {
    let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1\nnameserver fe80::1 x\nnameserver nothing\noptions ndots:5\n";
    let servers: Vec<_> = forward::name_servers(text).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["192.0.2.1:53", "[fe80::1]:53"]);
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(server: &DnsServer, bytes: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, server.address()).await.unwrap();
    let mut buffer = [0; 4096];
    let size = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..size]).unwrap()
}

async fn server(zone: Zone, upstream: Vec<SocketAddr>) -> DnsServer {
    let config = DnsConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        domain: "cluster.local".to_owned(),
        networks: Vec::new(),
        service_address: Ipv4Addr::new(10, 96, 0, 10),
        forwarding: Forwarding::Servers(upstream),
        private: None,
    };
    DnsServer::serve(config, Arc::new(RwLock::new(zone))).await.unwrap()
}

#[tokio::test]
async fn long_answers_are_truncated_over_udp_and_whole_over_tcp() {
    let mut zone = Zone::new("cluster.local", Vec::new()).unwrap();
    let endpoints: Vec<_> = (2..102)
        .map(|n| json!({"addresses": [format!("10.244.0.{n}")], "conditions": {"ready": true}}))
        .collect();
    let slice = read(&json!({"addressType": "IPv4", "ports": [], "endpoints": endpoints})).unwrap();
    let many = read(&json!({"metadata": {"namespace": "a", "name": "many"}, "spec": {"clusterIP": "None"}}))
        .unwrap();
    zone.set("a/many", Some(&many), &[slice]);
    let server = server(zone, Vec::new()).await;
    let bytes = query("many.a.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let short = udp(&server, &bytes).await;
    assert!(short.metadata.truncation && short.answers.is_empty());
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[&(bytes.len() as u16).to_be_bytes(), bytes.as_slice()].concat()).await.unwrap();
    let mut whole = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut whole).await.unwrap();
    let whole = Message::from_vec(&whole).unwrap();
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (100, false));
}

#[tokio::test]
async fn names_of_others_are_asked_once_and_aliases_followed() {
    let mut foreign = Zone::new("example.org", Vec::new()).unwrap();
    let host =
        read(&json!({"metadata": {"namespace": "x", "name": "host"}, "spec": {"clusterIP": "192.0.2.9"}}))
            .unwrap();
    foreign.set("x/host", Some(&host), &[]);
    let upstream = server(foreign, Vec::new()).await;
    let mut own = Zone::new("cluster.local", Vec::new()).unwrap();
    let spec = json!({"type": "ExternalName", "externalName": "host.x.svc.example.org"});
    let alias = read(&json!({"metadata": {"namespace": "a", "name": "out"}, "spec": spec})).unwrap();
    own.set("a/out", Some(&alias), &[]);
    // The upstream is 127.0.0.1 like the server itself: only its own configured address is left out.
    let config = DnsConfig {
        address: "127.0.0.2:0".parse().unwrap(),
        domain: "cluster.local".to_owned(),
        networks: Vec::new(),
        service_address: Ipv4Addr::new(10, 96, 0, 10),
        forwarding: Forwarding::Servers(vec![upstream.address().into()]),
        private: None,
    };
    let server = DnsServer::serve(config, Arc::new(RwLock::new(own))).await.unwrap();
    let answer = udp(&server, &query("out.a.svc.cluster.local.", RecordType::A).to_vec().unwrap()).await;
    let data: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["host.x.svc.example.org.", "192.0.2.9"]);
    drop(upstream);
    let kept = udp(&server, &query("HOST.x.svc.example.org.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(kept.answers.len(), 1);
    let unknown = udp(&server, &query("other.example.org.", RecordType::A).to_vec().unwrap()).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_is_no_good_query_is_told_so() {
    let server = server(zone(), Vec::new()).await;
    let damaged = udp(&server, &[0, 7, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0xff]).await;
    assert_eq!((damaged.metadata.id, damaged.metadata.response_code), (7, ResponseCode::FormErr));
    let mut two = query("a.", RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::A));
    assert_eq!(udp(&server, &two.to_vec().unwrap()).await.metadata.response_code, ResponseCode::FormErr);
    let mut update = query("a.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(udp(&server, &update.to_vec().unwrap()).await.metadata.response_code, ResponseCode::NotImp);
}
