//! Requests nobody should send: broken JSON, YAML, protobuf, patches, selectors and paths. The server answers each, and
//! never with a fault of its own.
//!
//! `WHARF_FUZZ_REQUESTS` says how many; `WHARF_FUZZ_SEED` which.

#![allow(clippy::unwrap_used)] // a test

#[allow(dead_code, reason = "shared with the other tests of the server")]
mod support;

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use http::Request;
use serde_json::{Value, json};
use support::{Api, version, widgets};
use wharf_apiserver::Identity;
use wharf_http::{collect, full};

/// xorshift64*: the same requests for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() >> 33) as usize % n.max(1)
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A path of a collection, and an object that fits it.
fn subjects() -> Vec<(&'static str, Value)> {
    let pod = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": "1"}}, "env": [{"name": "A", "value": "b"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k", "operator": "Exists"}]});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
    vec![
        (
            "/api/v1/namespaces/default/configmaps",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}),
        ),
        (
            "/api/v1/namespaces/default/secrets",
            json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "Yg=="}}),
        ),
        (
            "/api/v1/namespaces/default/pods",
            json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}),
        ),
        (
            "/api/v1/namespaces/default/services",
            json!({"apiVersion": "v1", "kind": "Service",
            "spec": {"ports": [{"port": 80, "targetPort": "http"}], "selector": {"a": "b"}}}),
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template,
                "strategy": {"rollingUpdate": {"maxSurge": "25%"}}}}),
        ),
        (
            "/apis/batch/v1/namespaces/default/jobs",
            json!({"apiVersion": "batch/v1", "kind": "Job",
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": pod["containers"]}}}}),
        ),
        (
            "/apis/demo.io/v1/namespaces/default/widgets",
            json!({"apiVersion": "demo.io/v1", "kind": "Widget",
            "spec": {"min": 1, "max": 2, "list": [{"k": "a", "v": 1}], "free": {"x": [1, {}]}}}),
        ),
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            widgets(json!([version("v1", true, json!({"type": "object"}))])),
        ),
        (
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
            json!({"kind": "Role",
            "apiVersion": "rbac.authorization.k8s.io/v1", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events",
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
            "eventTime": "2026-01-02T03:04:05.000000Z", "reason": "R", "action": "A", "type": "Normal",
            "reportingController": "a/b", "reportingInstance": "i", "regarding": {"namespace": "default"}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            json!({"kind": "ValidatingAdmissionPolicy",
            "apiVersion": "admissionregistration.k8s.io/v1", "spec": {"validations": [{"expression": "object.x == 1"}],
            "matchConstraints": {"resourceRules": [{"apiGroups": ["none"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["x"]}]}}}),
        ),
        (
            "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
            json!({"apiVersion": "autoscaling/v1",
            "kind": "HorizontalPodAutoscaler", "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "X", "name": "x"}}}),
        ),
    ]
}

/// Values that are seldom what is wanted.
fn odd(dice: &mut Dice) -> Value {
    match dice.below(14) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(i64::MAX),
        4 => json!(1e300),
        5 => json!(0.5),
        6 => json!(""),
        7 => json!("x".repeat(dice.below(600))),
        8 => json!([]),
        9 => json!({}),
        10 => json!([[[[{"a": [1, null]}]]]]),
        11 => json!("\u{0}\u{7f}ÿ𝔘\n"),
        12 => json!({"$patch": "delete", "$retainKeys": ["a"], "$setElementOrder/x": [1]}),
        _ => json!("999999999999999999999999999Ei"),
    }
}

/// Changes a few places of a value.
fn spoil(dice: &mut Dice, value: &mut Value) {
    for _ in 0..=dice.below(3) {
        let mut at = &mut *value;
        for _ in 0..dice.below(6) {
            let next = match at {
                Value::Object(map) if !map.is_empty() => {
                    let key = map.keys().nth(dice.below(map.len())).cloned().unwrap_or_default();
                    map.get_mut(&key)
                }
                Value::Array(list) if !list.is_empty() => {
                    let index = dice.below(list.len());
                    list.get_mut(index)
                }
                _ => None,
            };
            match next {
                // The borrow ends here when there is no next place.
                Some(next) => at = next,
                None => return,
            }
        }
        let odd = odd(dice);
        match at {
            Value::Object(map) if dice.chance(40) => {
                let key =
                    dice.of(&["metadata", "spec", "status", "name", "x", "labels", "kind", ""]).to_string();
                map.insert(key, odd);
            }
            Value::Array(list) if dice.chance(40) => list.push(odd),
            other => *other = odd,
        }
    }
}

/// Changes a few bytes.
fn scramble(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(4) {
            0 if !bytes.is_empty() => bytes.truncate(at),
            1 if !bytes.is_empty() => drop(bytes.remove(at)),
            2 => bytes.insert(at.min(bytes.len()), dice.roll() as u8),
            _ if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            _ => {}
        }
    }
}

fn query(dice: &mut Dice) -> String {
    const PARTS: &[&str] = &[
        "labelSelector=a%3Db",
        "labelSelector=a+in+(b,c",
        "labelSelector=!a,b%21%3Dc,d%3E1",
        "labelSelector=%00%FF",
        "fieldSelector=metadata.name%3Dx",
        "fieldSelector=spec.foo%3D1",
        "fieldSelector=,,=",
        "limit=1",
        "limit=-1",
        "limit=99999999999999999999",
        "continue=AAAA",
        "continue=eyJ2IjoibWV0YSJ9",
        "resourceVersion=0",
        "resourceVersion=1",
        "resourceVersion=-5",
        "resourceVersion=99999999",
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=NotOlderThan",
        "resourceVersionMatch=x",
        "dryRun=All",
        "dryRun=None",
        "fieldManager=m",
        "fieldManager=",
        "force=true",
        "force=x",
        "fieldValidation=Strict",
        "fieldValidation=Ignore",
        "fieldValidation=?",
        "gracePeriodSeconds=0",
        "gracePeriodSeconds=x",
        "propagationPolicy=Orphan",
        "propagationPolicy=?",
        "pretty=true",
        "watch=true&timeoutSeconds=0",
        "watch=1&timeoutSeconds=0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        "includeObject=Object",
        "timeout=1ns",
        "%zz=%zz",
        "a=b&&&=",
    ];
    let many = dice.below(4);
    let parts: Vec<&str> = (0..many).map(|_| *dice.of(PARTS)).collect();
    if parts.is_empty() { String::new() } else { format!("?{}", parts.join("&")) }
}

struct Shot {
    method: &'static str,
    path: String,
    media: &'static str,
    accept: &'static str,
    body: Vec<u8>,
}

fn shot(dice: &mut Dice, subjects: &[(&'static str, Value)], messages: &[Vec<u8>]) -> Shot {
    const JSON: &str = "application/json";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let at = dice.below(subjects.len());
    let (collection, object) = &subjects[at];
    let (mut object, name) = (object.clone(), format!("n{}", dice.below(6)));
    if object["metadata"].is_null() {
        object["metadata"] = json!({"name": name});
    }
    if dice.chance(70) {
        spoil(dice, &mut object);
    }
    let one = format!(
        "{collection}/{name}{}",
        dice.of(&["", "", "", "", "/status", "/scale", "/finalize", "/nosuch", "/eviction"])
    );
    let accept = *dice.of(&[
        JSON,
        JSON,
        PROTOBUF,
        "application/yaml",
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "text/html",
        "*/*",
        ";;,",
    ]);
    let (method, path, media, mut body) = match dice.below(10) {
        0..=2 => ("POST", collection.to_string(), JSON, object.to_string().into_bytes()),
        3 => ("PUT", one, JSON, object.to_string().into_bytes()),
        4 => {
            let media = *dice.of(&[
                "application/merge-patch+json",
                "application/strategic-merge-patch+json",
                "application/apply-patch+yaml",
                "application/json-patch+json",
                "application/apply-patch+cbor",
            ]);
            let body = match media.contains("json-patch") {
                false => object,
                true => json!([{"op": dice.of(&["add", "remove", "replace", "move", "copy", "test", "x"]),
                    "path": dice.of(&["/spec", "/metadata/labels", "", "/", "/spec/containers/0", "/spec/-", "/a~2", "/metadata/name"]),
                    "from": "/spec", "value": odd(dice)}]),
            };
            ("PATCH", one, media, body.to_string().into_bytes())
        }
        5 => ("POST", collection.to_string(), "application/yaml", object.to_string().into_bytes()),
        6 | 7 => {
            let mut message = messages[at % messages.len()].clone();
            scramble(dice, &mut message);
            ("POST", collection.to_string(), PROTOBUF, message)
        }
        8 => ("GET", if dice.chance(50) { one } else { collection.to_string() }, JSON, Vec::new()),
        _ => {
            let body = if dice.chance(50) {
                Vec::new()
            } else {
                json!({"kind": "DeleteOptions", "apiVersion": "v1",
                "gracePeriodSeconds": odd(dice), "preconditions": odd(dice)})
                .to_string()
                .into_bytes()
            };
            ("DELETE", if dice.chance(95) { one } else { collection.to_string() }, JSON, body)
        }
    };
    if dice.chance(15) {
        scramble(dice, &mut body);
    }
    let mut path = format!("{path}{}", query(dice));
    if dice.chance(3) {
        path = dice
            .of(&[
                "/",
                "/apis",
                "/api/v1",
                "/apis//",
                "/apis/x/y/z",
                "/openapi/v2",
                "/openapi/v3/apis/apps/v1",
                "/api/v1/namespaces/%2e%2e/pods",
                "/api/v1/namespaces/a/b/c/d/e/f/g",
                "/metrics",
                "/readyz?verbose",
                "/api/v1/namespaces/default/services/https:x:y:z/proxy/",
                "/api/v1/nodes/n/proxy",
                "/version/",
            ])
            .to_string();
    }
    Shot { method, path, media, accept, body }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn the_server_answers_whatever_it_is_sent() {
    let (many, seed) = (number("WHARF_FUZZ_REQUESTS", 3_000), number("WHARF_FUZZ_SEED", 0x5EED));
    let api = Api::start().await;
    let spec = json!({"type": "object", "properties": {"min": {"type": "integer"}, "max": {"type": "integer"},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items":
            {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer", "default": 7}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
        "x-kubernetes-validations": [{"rule": "!has(self.min) || !has(self.max) || self.min <= self.max"}]});
    api.made(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        widgets(json!([version("v1", true, spec)])),
    )
    .await;
    let subjects = subjects();
    let messages = messages(&api).await;
    let mut dice = Dice(seed | 1);
    let mut seen = std::collections::BTreeMap::new();
    let mut settled = 0;
    for i in 0..many {
        let shot = shot(&mut dice, &subjects, &messages);
        let said = format!(
            "request {i} of seed {seed:#x}: {} {} {}",
            shot.method,
            shot.path,
            String::from_utf8_lossy(&shot.body)
        );
        let request = Request::builder().method(shot.method).uri(&shot.path);
        let request = request.header("content-type", shot.media).header("accept", shot.accept);
        // What is no request by HTTP's own rules never gets so far.
        let Ok(mut request) = request.body(full(shot.body)) else { continue };
        request.extensions_mut().insert(Identity::system());
        let answer =
            AssertUnwindSafe(std::sync::Arc::clone(&api.server).handle(request)).catch_unwind().await;
        let Ok(response) = answer else { panic!("a panic: {said}") };
        let code = response.status().as_u16();
        let body = AssertUnwindSafe(collect(response.into_body(), 64 << 20)).catch_unwind().await;
        let Ok(Ok(body)) = body else { panic!("no body: {said}") };
        // 503: nothing is behind a proxy; 504: a revision that is not there yet.
        assert!(
            code < 500 || matches!(code, 503 | 504),
            "{code}: {}\n{said}",
            String::from_utf8_lossy(&body)
        );
        *seen.entry(code).or_insert(0) += 1;
        if i == many / 5 {
            settled = resident_kib();
        }
    }
    let kinds_of_answers =
        [200, 201, 400, 404, 409, 415, 422].iter().filter(|code| seen.contains_key(*code)).count();
    assert!(kinds_of_answers >= 6, "too few kinds of answers to mean anything: {seen:?}");
    let grown = resident_kib().saturating_sub(settled);
    assert!(grown < 128 << 10, "memory grew by {grown} KiB over the last four fifths: {seen:?}");
    println_answers(&seen, grown);
}

#[allow(clippy::print_stdout, reason = "what a long run saw, for who asked for it")]
fn println_answers(seen: &std::collections::BTreeMap<u16, u32>, grown: u64) {
    println!("answers by code: {seen:?}; memory grew by {grown} KiB");
}

/// Valid objects in protobuf, as the server itself writes them.
async fn messages(api: &Api) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (path, mut object) in subjects() {
        object["metadata"] = json!({"name": "message"});
        let made = api.send("POST", path, object).await;
        if made.code != 201 {
            continue;
        }
        let request =
            Request::get(format!("{path}/message")).header("accept", "application/vnd.kubernetes.protobuf");
        let mut request = request.body(wharf_http::empty()).unwrap();
        request.extensions_mut().insert(Identity::system());
        let response = std::sync::Arc::clone(&api.server).handle(request).await;
        if response.status() == 200 {
            all.push(collect(response.into_body(), 1 << 20).await.unwrap().to_vec());
        }
    }
    assert!(all.len() > 5, "{}", all.len());
    all
}
