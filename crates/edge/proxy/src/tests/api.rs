//! The whole proxy against a real API server in this process.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use wharf_apiserver::{ApiServer, Config, Identity, Ranges, SigningKey};
use wharf_base::SystemClock;
use wharf_client::{Client, Gvr, action};
use wharf_http::{
    Authority, Usage,
    client::{self, ClientConfig, Protocol, Target, Trust},
};
use wharf_state::{Embedded, Options};

use super::{backend_of, ingress, named, service, slice, text};
use crate::{
    Proxy, ProxyConfig,
    objects::{INGRESSES, SECRETS},
};

async fn api(folder: &std::path::Path, authority: &Authority) -> Client {
    let store = Embedded::open(&folder.join("state.redb"), Options::default()).unwrap();
    let server = ApiServer::open(Config {
        store: Arc::new(store),
        clock: Arc::new(SystemClock),
        signing_key: SigningKey::open(&SigningKey::generate().unwrap()).unwrap(),
        ranges: Ranges::new(Ipv4Addr::new(10, 96, 0, 0), 16, 30000..=32767),
        authority: authority.certificate().to_owned(),
        front_proxy: None,
    })
    .await
    .unwrap();
    Client::in_process(Arc::new(move |request: Request<Bytes>| {
        let mut request = request.map(wharf_http::full);
        request.extensions_mut().insert(Identity::system());
        let answer = Arc::clone(&server).handle(request);
        Box::pin(async { answer.await.map(|body| body.map_frame(|f| f.map_data(reachable)).boxed_unsync()) })
    }))
}

/// The API refuses endpoints on the loopback network, where the test's are: they are stored under an address for
/// documentation, of the same length.
fn reachable(data: Bytes) -> Bytes {
    match String::from_utf8(data.to_vec()) {
        Ok(text) => text.replace("192.0.2.7", "127.0.0.1").into(),
        Err(_) => data,
    }
}

async fn create(client: &Client, resource: &Gvr, kind: &str, mut object: Value) {
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(kind);
    client.create(resource, "shop", &object).await.unwrap();
}

#[tokio::test]
async fn from_api_objects_to_an_answer_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create("test").unwrap();
    let issue = |name: &str| authority.issue(name, &[], Usage::Server, &[name.to_owned()]).unwrap();
    let api = api(folder.path(), &authority).await;
    let namespaces = Gvr::fixed("", "v1", "namespaces");
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    api.create(&namespaces, "", &namespace).await.unwrap();

    let any = "127.0.0.1:0".parse().unwrap();
    let mut config = ProxyConfig::new(api.clone(), any, any, issue("default.test"));
    config.publish = Some([127, 0, 0, 1].into());
    let proxy = Proxy::start(config).await.unwrap();

    let issued = issue("shop.test");
    create(
        &api,
        &SECRETS,
        "Secret",
        json!({"metadata": {"namespace": "shop", "name": "cert"},
        "type": "kubernetes.io/tls", "data": {"tls.crt": STANDARD.encode(&issued.certificate),
        "tls.key": STANDARD.encode(&issued.key)}}),
    )
    .await;
    create(&api, &action::SERVICES, "Service", service("web")).await;
    create(
        &api,
        &INGRESSES,
        "Ingress",
        ingress(
            "web",
            json!({
        "tls": [{"hosts": ["shop.test"], "secretName": "cert"}],
        "rules": [{"host": "shop.test", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend_of("web", 80)}]}}]}),
        ),
    )
    .await;

    // The request comes first, the endpoint later.
    let trusting = client::Client::new(ClientConfig {
        trust: Trust::Authority(authority.certificate().to_owned()),
        ..ClientConfig::default()
    });
    let target = Target { address: proxy.addresses().https, protocol: Protocol::Tls("shop.test".to_owned()) };
    let url = "https://shop.test/";
    let request = move || Request::get(url).body(wharf_http::empty()).unwrap();
    let asked = {
        let (trusting, target) = (trusting.clone(), target.clone());
        tokio::spawn(async move {
            // Until the secret and the Ingress are seen, the certificate is the default one, or there is no rule.
            loop {
                match trusting.send(&target, request()).await {
                    Ok(response) if response.status() != 404 => return text(response).await,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        })
    };
    let held = "wharf_http_requests_held{namespace=\"shop\",service=\"web\"} 1\n";
    super::until("request held", || proxy.metrics().contains(held)).await;
    let mut address = named("hello").await;
    address.set_ip([192, 0, 2, 7].into());
    create(&api, &action::ENDPOINT_SLICES, "EndpointSlice", slice("web", "a", address)).await;
    assert_eq!(asked.await.unwrap(), (200, "hello".to_owned()));

    let address = async || {
        let ingress = api.get(&INGRESSES, "shop", "web").await.unwrap().unwrap();
        ingress.pointer("/status/loadBalancer/ingress/0/ip").cloned()
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while address().await != Some(json!("127.0.0.1")) {
        assert!(tokio::time::Instant::now() < deadline, "no address in the status");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    proxy.stop().await;
    assert!(tokio::net::TcpStream::connect(target.address).await.is_err());
}
