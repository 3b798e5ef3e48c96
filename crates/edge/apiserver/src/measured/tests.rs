use http::Request;
use wharf_base::FixedClock;
use wharf_http::{collect, empty, full};
use wharf_state::{Embedded, Options};

use super::*;
use crate::{Config, Identity, Ranges, SigningKey};

struct Fake;

fn at() -> Timestamp {
    Timestamp::from_unix(1_000, 0)
}

impl ResourceMetrics for Fake {
    fn pods(&self) -> Vec<PodUsage> {
        let pod = |namespace: &str, name: &str, app: &str| PodUsage {
            namespace: namespace.into(),
            name: name.into(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            containers: vec![("main".into(), 1_562_304, 31 << 20), ("side".into(), 2_000_000, 1000)],
            at: at(),
            window: Duration::from_millis(15_500),
        };
        vec![pod("b", "two", "shop"), pod("a", "one", "shop"), pod("a", "three", "other")]
    }

    fn nodes(&self) -> Vec<NodeUsage> {
        vec![NodeUsage {
            name: "n".into(),
            cpu_nanocores: 1_000_000_000,
            memory_bytes: 1 << 30,
            at: at(),
            window: Duration::from_secs(60),
        }]
    }
}

async fn server() -> (Arc<ApiServer>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let server = ApiServer::open(Config {
        store: Arc::new(Embedded::open(&folder.path().join("state"), Options::default()).unwrap()),
        clock: Arc::new(FixedClock(at())),
        signing_key: SigningKey::open(&SigningKey::generate().unwrap()).unwrap(),
        ranges: Ranges::new([10, 96, 0, 0].into(), 16, 30000..=32767),
        authority: String::new(),
        front_proxy: None,
    });
    (server.await.unwrap(), folder)
}

async fn ask(
    server: &Arc<ApiServer>,
    who: Identity,
    method: &str,
    path: &str,
    accept: &str,
    body: Value,
) -> (u16, Value) {
    let body = if body.is_null() { empty() } else { full(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("accept", accept);
    let mut request = request.header("content-type", "application/json").body(body).unwrap();
    request.extensions_mut().insert(who);
    let response = Arc::clone(server).handle(request).await;
    let code = response.status().as_u16();
    let bytes = collect(response.into_body(), 1 << 20).await.unwrap();
    (code, serde_json::from_slice(&bytes).unwrap())
}

async fn get(server: &Arc<ApiServer>, path: &str) -> (u16, Value) {
    ask(server, Identity::system(), "GET", path, "application/json", Value::Null).await
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(wharf_api::meta::name).collect()
}

#[tokio::test]
async fn the_group_is_there_once_a_source_is() {
    let (server, _folder) = server().await;
    assert_eq!(get(&server, "/apis/metrics.k8s.io/v1beta1").await.0, 404);
    assert_eq!(get(&server, "/apis/metrics.k8s.io/v1beta1/nodes").await.0, 404);
    server.connect_metrics(Arc::new(Fake));
    let (_, resources) = get(&server, "/apis/metrics.k8s.io/v1beta1").await;
    let found: Vec<(&str, &str, bool)> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["name"].as_str().unwrap(), r["kind"].as_str().unwrap(), r["namespaced"] == true))
        .collect();
    assert_eq!(found, [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)]);
    assert_eq!(resources["resources"][0]["verbs"], json!(["get", "list"]));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let (_, groups) = ask(&server, Identity::system(), "GET", "/apis", aggregated, Value::Null).await;
    assert!(names(&groups).contains(&"metrics.k8s.io"));
    let (code, document) = get(&server, "/openapi/v3/apis/metrics.k8s.io/v1beta1").await;
    assert_eq!((code, document["paths"].as_object().unwrap().len()), (200, 4));
}

#[tokio::test]
async fn usage_is_read_and_selected() {
    let (server, _folder) = server().await;
    server.connect_metrics(Arc::new(Fake));
    let root = "/apis/metrics.k8s.io/v1beta1";
    let (code, pod) = get(&server, &format!("{root}/namespaces/a/pods/one")).await;
    assert_eq!(code, 200);
    assert_eq!(pod["window"], "15.5s");
    assert_eq!(pod["timestamp"], "1970-01-01T00:16:40Z");
    assert_eq!(pod["containers"][0], json!({"name": "main", "usage": {"cpu": "1562304n", "memory": "31Mi"}}));
    assert_eq!(pod["containers"][1]["usage"], json!({"cpu": "2m", "memory": "1000"}));
    assert_eq!(get(&server, &format!("{root}/namespaces/b/pods/one")).await.0, 404);

    let all = get(&server, &format!("{root}/pods")).await.1;
    assert_eq!((names(&all), all["kind"].as_str()), (vec!["one", "three", "two"], Some("PodMetricsList")));
    let list = |query: &str| format!("{root}/namespaces/a/pods?{query}");
    assert_eq!(names(&get(&server, &list("labelSelector=app%3Dshop")).await.1), ["one"]);
    assert_eq!(names(&get(&server, &list("fieldSelector=metadata.name%3Dthree")).await.1), ["three"]);
    assert_eq!(get(&server, &list("labelSelector=%3D%3D")).await.0, 400);
    assert_eq!(get(&server, &list("watch=true")).await.0, 405);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, table) = ask(&server, Identity::system(), "GET", &list(""), table, Value::Null).await;
    assert_eq!(table["rows"][0]["cells"], json!(["one", "15.5s", "0s"]));

    // A node is selected by the labels of its Node.
    let node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"zone": "x"}}});
    let (code, answer) =
        ask(&server, Identity::system(), "POST", "/api/v1/nodes", "application/json", node).await;
    assert_eq!(code, 201, "{answer}");
    let nodes = get(&server, &format!("{root}/nodes?labelSelector=zone%3Dx")).await.1;
    assert_eq!(nodes["items"][0]["usage"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(nodes["items"][0]["window"], "1m0s");
    assert_eq!(names(&get(&server, &format!("{root}/nodes?labelSelector=zone%3Dy")).await.1).len(), 0);
}

#[tokio::test]
async fn people_see_what_their_role_shows() {
    let (server, _folder) = server().await;
    server.connect_metrics(Arc::new(Fake));
    let viewer = || Identity::new("viewer", &["system:authenticated"]);
    let read =
        async |path: &str| ask(&server, viewer(), "GET", path, "application/json", Value::Null).await.0;
    let pods = "/apis/metrics.k8s.io/v1beta1/namespaces/a/pods";
    assert_eq!(read(pods).await, 403);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "viewer", "namespace": "a"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "viewer"}]});
    for (path, object) in [
        ("/api/v1/namespaces", namespace),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/a/rolebindings", binding),
    ] {
        let (code, answer) = ask(&server, Identity::system(), "POST", path, "application/json", object).await;
        assert_eq!(code, 201, "{answer}");
    }
    assert_eq!(read(pods).await, 200);
    assert_eq!(read("/apis/metrics.k8s.io/v1beta1/nodes").await, 403);
}
