//! Requests that wait for one another.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_apiserver::{Identity, Security};
use wharf_http::Body;

use super::support::Api;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn person(name: &str) -> Identity {
    Identity::new(name, &["system:authenticated"])
}

/// A level of one seat for a user.
async fn level_for(api: &Api, name: &str, response: Value) -> (Value, Value) {
    let spec = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "lendablePercent": 0,
        "borrowingLimitPercent": 0, "limitResponse": response}});
    let level = api
        .made(
            &format!("{GROUP}/prioritylevelconfigurations"),
            json!({"metadata": {"name": name}, "spec": spec}),
        )
        .await;
    let spec = json!({"priorityLevelConfiguration": {"name": name}, "matchingPrecedence": 500, "rules": [{
        "subjects": [{"kind": "User", "user": {"name": name}}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]});
    let schema =
        api.made(&format!("{GROUP}/flowschemas"), json!({"metadata": {"name": name}, "spec": spec})).await;
    (schema, level)
}

async fn ask(api: &Api, who: &str, method: &str, path: &str, body: Body) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).body(body).unwrap();
    request.extensions_mut().insert(person(who));
    Arc::clone(&api.server).handle(request).await
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// A request that lasts until its body is sent.
fn held(
    api: &Api,
    who: &'static str,
) -> (mpsc::Sender<std::io::Result<Bytes>>, tokio::task::JoinHandle<u16>) {
    let (sender, receiver) = mpsc::channel(1);
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let mut request = Request::post(REVIEW).body(wharf_http::stream(chunks)).unwrap();
    request.extensions_mut().insert(person(who));
    let server = Arc::clone(&api.server);
    (sender, tokio::spawn(async move { server.handle(request).await.status().as_u16() }))
}

fn review() -> Bytes {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string().into()
}

/// A number of the metrics.
async fn metric(api: &Api, name: &str, level: &str) -> u64 {
    let mut request = Request::get("/metrics").body(wharf_http::empty()).unwrap();
    request.extensions_mut().insert(Identity::system());
    let response = Arc::clone(&api.server).handle(request).await;
    let text = wharf_http::collect(response.into_body(), 1 << 20).await.unwrap();
    let wanted = format!("apiserver_flowcontrol_{name}{{priority_level=\"{level}\"}} ");
    let text = String::from_utf8(text.to_vec()).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&wanted))
        .unwrap_or_else(|| panic!("no {wanted} in {text}"));
    line.parse().unwrap()
}

async fn until(api: &Api, name: &str, level: &str, value: u64) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while metric(api, name, level).await != value {
        assert!(std::time::Instant::now() < deadline, "{name} of {level} does not become {value}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A server where levels of one share have one seat.
async fn start() -> Api {
    Api::start_secured(None, Security { seats: Some(200), ..Security::default() }).await
}

#[tokio::test]
async fn answers_say_how_requests_were_classified() {
    let api = start().await;
    let (schema, level) = level_for(&api, "noxu", json!({"type": "Reject"})).await;
    let path = format!("{GROUP}/flowschemas/noxu");
    let steady = api.until(&path, |a| a.body["status"]["conditions"][0]["type"] == "Dangling").await;
    assert_eq!(steady.body["status"]["conditions"][0]["status"], "False", "{steady:?}");
    assert_eq!(metric(&api, "nominal_limit_seats", "noxu").await, 1);
    let answer = ask(&api, "noxu", "GET", "/version", wharf_http::empty()).await;
    assert_eq!(header(&answer, "x-kubernetes-pf-flowschema-uid"), schema["metadata"]["uid"]);
    assert_eq!(header(&answer, "x-kubernetes-pf-prioritylevel-uid"), level["metadata"]["uid"]);
    let other = ask(&api, "foo", "GET", "/version", wharf_http::empty()).await;
    let global = api.get(&format!("{GROUP}/flowschemas/global-default")).await.body;
    assert_eq!(header(&other, "x-kubernetes-pf-flowschema-uid"), global["metadata"]["uid"]);
    // One whose level is gone says so, and counts no more.
    api.send("DELETE", &format!("{GROUP}/prioritylevelconfigurations/noxu"), Value::Null).await;
    api.until(&path, |a| a.body["status"]["conditions"][0]["status"] == "True").await;
}

#[tokio::test]
async fn who_finds_no_seat_is_refused_or_waits() {
    let api = start().await;
    level_for(&api, "hasty", json!({"type": "Reject"})).await;
    let queuing = json!({"queues": 1, "handSize": 1, "queueLengthLimit": 1});
    level_for(&api, "patient", json!({"type": "Queue", "queuing": queuing})).await;

    let (body, first) = held(&api, "hasty");
    until(&api, "current_executing_seats", "hasty", 1).await;
    let refused = ask(&api, "hasty", "GET", "/version", wharf_http::empty()).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after")), (429, "1"));
    assert_ne!(header(&refused, "x-kubernetes-pf-prioritylevel-uid"), "");
    // Others do not feel it, and those who are exempt never do.
    assert_eq!(ask(&api, "foo", "GET", "/version", wharf_http::empty()).await.status().as_u16(), 200);
    body.send(Ok(review())).await.unwrap();
    drop(body);
    assert_eq!(first.await.unwrap(), 201);
    assert_eq!(ask(&api, "hasty", "GET", "/version", wharf_http::empty()).await.status().as_u16(), 200);

    let (body, first) = held(&api, "patient");
    until(&api, "current_executing_seats", "patient", 1).await;
    let (other, second) = held(&api, "patient");
    other.send(Ok(review())).await.unwrap();
    drop(other);
    until(&api, "current_inqueue_requests", "patient", 1).await;
    let third = ask(&api, "patient", "GET", "/version", wharf_http::empty()).await;
    assert_eq!(third.status().as_u16(), 429, "the queue is full");
    assert!(!second.is_finished(), "it waits");
    body.send(Ok(review())).await.unwrap();
    drop(body);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (201, 201));
    assert_eq!(metric(&api, "current_executing_seats", "patient").await, 0);
}

#[tokio::test]
async fn who_goes_away_gives_back_what_they_had() {
    let api = start().await;
    let queuing = json!({"queues": 4, "handSize": 2, "queueLengthLimit": 5});
    level_for(&api, "patient", json!({"type": "Queue", "queuing": queuing})).await;
    let (_body, first) = held(&api, "patient");
    until(&api, "current_executing_seats", "patient", 1).await;
    let (_other, second) = held(&api, "patient");
    until(&api, "current_inqueue_requests", "patient", 1).await;
    second.abort();
    until(&api, "current_inqueue_requests", "patient", 0).await;
    first.abort();
    until(&api, "current_executing_seats", "patient", 0).await;
    // A watch has its seat only until it has begun.
    let watch =
        ask(&api, "patient", "GET", "/api/v1/namespaces/default/configmaps?watch=1", wharf_http::empty())
            .await;
    assert_eq!(metric(&api, "current_executing_seats", "patient").await, 0);
    drop(watch);
}

#[tokio::test]
async fn the_defaults_are_kept() {
    let api = start().await;
    let level = |name: &str| format!("{GROUP}/prioritylevelconfigurations/{name}");
    let before = api.get(&level("workload-low")).await.body;
    assert_eq!(before["spec"]["limited"]["nominalConcurrencyShares"], 100);
    api.send("DELETE", &level("catch-all"), Value::Null).await;
    api.until(&level("catch-all"), |answer| answer.code == 200).await;
    let change = json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}});
    api.send("PATCH", &level("system"), change.clone()).await;
    api.until(&level("system"), |a| a.body["spec"]["limited"]["nominalConcurrencyShares"] == 30).await;
    // What a person has taken over stays; what is right is not written again and again.
    let mut taken = change;
    taken["metadata"]["annotations"] = json!({"apf.kubernetes.io/autoupdate-spec": "false"});
    api.send("PATCH", &level("workload-high"), taken).await;
    api.send("DELETE", &level("exempt"), Value::Null).await;
    api.until(&level("exempt"), |answer| answer.code == 200).await;
    let kept = api.get(&level("workload-high")).await.body;
    assert_eq!(kept["spec"]["limited"]["nominalConcurrencyShares"], 7);
    let after = api.get(&level("workload-low")).await.body;
    assert_eq!(after["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
}
