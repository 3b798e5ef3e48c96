//! What is written down of requests.

use std::{path::PathBuf, sync::Arc};

use http::Request;
use serde_json::{Value, json};
use wharf_apiserver::{Audit, Identity, LogOptions, Security};

use super::support::Api;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Audited {
    api: Api,
    audit: Arc<Audit>,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Audited {
    async fn start(rules: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let policy = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules,
            "omitManagedFields": true});
        let options = LogOptions { path: path.clone(), max_age_days: 0, max_backups: 0, max_megabytes: 0 };
        let audit = Arc::new(Audit::open(&policy.to_string(), options).unwrap());
        let security = Security { audit: Some(Arc::clone(&audit)), ..Security::default() };
        Self { api: Api::start_secured(None, security).await, audit, path, _folder: folder }
    }

    /// Everything written down.
    async fn events(&self) -> Vec<Value> {
        self.audit.flush().await;
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What was written down of a stage of requests by `jane`.
    async fn of(&self, stage: &str) -> Vec<Value> {
        let mut events = self.events().await;
        events.retain(|event| event["user"]["username"] == "jane" && event["stage"] == stage);
        events
    }
}

fn jane() -> Identity {
    Identity::new("jane", &["people", "system:masters", "system:authenticated"])
}

#[tokio::test]
async fn requests_are_written_down_as_much_as_the_policy_wants() {
    let audited = Audited::start(json!([
        {"level": "None", "users": ["system:wharf"]},
        {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": ["configmaps"]}], "omitStages": ["RequestReceived"]},
        {"level": "Request", "omitStages": ["RequestReceived"]},
    ]))
    .await;
    let ask = async |method: &str, path: &str, body: Value| {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        audited.api.ask(jane(), method, path, media, body).await.code
    };
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "b"}});
    assert_eq!(ask("POST", MAPS, map.clone()).await, 201);
    assert_eq!(ask("POST", MAPS, map).await, 409);
    assert_eq!(ask("PATCH", &format!("{MAPS}/m"), json!({"data": {"c": "d"}})).await, 200);
    assert_eq!(ask("GET", MAPS, Value::Null).await, 200);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    assert_eq!(ask("POST", "/api/v1/namespaces/default/secrets", secret).await, 201);
    assert_eq!(ask("POST", "/api/v1/namespaces", json!({"metadata": {"name": "x"}})).await, 201);

    let events = audited.of("ResponseComplete").await;
    let shown = |i: usize, pointer: &str| events[i].pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(events.len(), 6);
    assert_eq!(shown(0, "/level"), "RequestResponse");
    assert_eq!(shown(0, "/verb"), "create");
    assert_eq!(shown(0, "/requestURI"), MAPS);
    assert_eq!(
        shown(0, "/objectRef"),
        json!({"resource": "configmaps", "namespace": "default", "name": "m", "apiVersion": "v1"})
    );
    assert_eq!(shown(0, "/requestObject/data"), json!({"a": "b"}));
    assert_eq!(shown(0, "/responseObject/metadata/name"), "m");
    assert_eq!(shown(0, "/responseObject/metadata/managedFields"), Value::Null, "omitted");
    assert_eq!(shown(0, "/responseStatus"), json!({"metadata": {}, "code": 201}));
    assert_eq!(shown(0, "/annotations/authorization.k8s.io~1decision"), "allow");
    assert_eq!(shown(1, "/responseStatus/reason"), "AlreadyExists");
    assert_eq!(shown(2, "/requestObject"), json!({"data": {"c": "d"}}));
    assert_eq!(shown(2, "/responseObject/data"), json!({"a": "b", "c": "d"}));
    assert_eq!(shown(3, "/responseObject/kind"), "ConfigMapList");
    // Nothing of a secret's body, whatever was sent and answered.
    assert_eq!((shown(4, "/requestObject"), shown(4, "/responseObject")), (Value::Null, Value::Null));
    assert!(!std::fs::read_to_string(&audited.path).unwrap().contains("hunter2"));
    assert_eq!(
        (shown(5, "/requestObject/metadata/name"), shown(5, "/responseObject")),
        (json!("x"), Value::Null)
    );
    // Stages of one request share its id, and those omitted are not there.
    let received = audited.of("RequestReceived").await;
    assert_eq!(received.len(), 1);
    assert_eq!(received[0]["auditID"], events[4]["auditID"]);
    assert!(audited.events().await.iter().all(|event| event["user"]["username"] != "system:wharf"));
}

#[tokio::test]
async fn long_lines_are_whole() {
    let audited = Audited::start(json!([
        {"level": "None", "users": ["system:wharf"]}, {"level": "RequestResponse"},
    ]))
    .await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "x".repeat(900_000)}});
    for expect in [201, 409] {
        let made = audited.api.ask(jane(), "POST", MAPS, "application/json", map.clone()).await;
        assert_eq!(made.code, expect);
    }
    let events = audited.of("ResponseComplete").await;
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event["requestObject"]["data"], map["data"]);
        assert_eq!(event["annotations"].get("audit.k8s.io/truncated"), None);
    }
    assert_eq!(events[0]["responseObject"]["data"], map["data"]);
}

#[tokio::test]
async fn refusals_and_strangers_are_written_down() {
    let audited =
        Audited::start(json!([{"level": "None", "users": ["system:wharf"]}, {"level": "Metadata"}])).await;
    let poor = Identity::new("jane", &["system:authenticated"]);
    let refused = audited.api.ask(poor, "GET", MAPS, "application/json", Value::Null).await;
    assert_eq!(refused.code, 403);
    let events = audited.of("ResponseComplete").await;
    assert_eq!(events[0]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[0]["responseStatus"]["code"], 403);
    assert_eq!(events[0].get("responseObject"), None);

    assert_eq!(audited.api.bearing("nonsense", "GET", MAPS, Value::Null).await.code, 401);
    let events = audited.events().await;
    let stranger = events.iter().find(|event| event["responseStatus"]["code"] == 401).unwrap();
    assert_eq!(stranger["user"], json!({}));
    // Whoever acts as another is known by both names.
    let mut request = Request::get(MAPS).header("impersonate-user", "joe").body(wharf_http::empty()).unwrap();
    request.extensions_mut().insert(jane());
    let response = Arc::clone(&audited.api.server).handle(request).await;
    let id = response.headers()["audit-id"].to_str().unwrap().to_owned();
    let events = audited.events().await;
    let acted = events.iter().rfind(|event| event["auditID"] == id.as_str()).unwrap();
    assert_eq!(
        (&acted["user"]["username"], &acted["impersonatedUser"]["username"]),
        (&json!("jane"), &json!("joe"))
    );
}

#[tokio::test]
async fn a_watch_is_written_down_at_its_beginning_and_its_end() {
    let audited =
        Audited::start(json!([{"level": "None", "users": ["system:wharf"]}, {"level": "Metadata"}])).await;
    let mut request = Request::get(format!("{MAPS}?watch=true")).body(wharf_http::empty()).unwrap();
    request.extensions_mut().insert(jane());
    let response = Arc::clone(&audited.api.server).handle(request).await;
    assert_eq!(audited.of("ResponseStarted").await.len(), 1);
    assert_eq!(audited.of("ResponseComplete").await.len(), 0, "it goes on");
    drop(response);
    assert_eq!(audited.of("ResponseComplete").await.len(), 1);
}

#[tokio::test]
async fn policies_and_pod_security_say_what_they_found() {
    let audited =
        Audited::start(json!([{"level": "None", "users": ["system:wharf"]}, {"level": "Metadata"}])).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"metadata": {"name": "sizes"}, "spec": {"matchConstraints": {"resourceRules":
        [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": "true"}, {"expression": "size(object.data) < 2", "message": "too many"}],
        "auditAnnotations": [{"key": "count", "valueExpression": "string(size(object.data))"}]}});
    audited.api.made(&format!("{group}/validatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": "audit"}, "spec": {"policyName": "sizes", "validationActions": ["Audit"]}});
    audited.api.made(&format!("{group}/validatingadmissionpolicybindings"), binding).await;
    let map = json!({"metadata": {"name": "m"}, "data": {"a": "1", "b": "2"}});
    let made = audited.api.ask(jane(), "POST", MAPS, "application/json", map).await;
    assert_eq!(made.code, 201, "it is only written down: {made:?}");
    let events = audited.of("ResponseComplete").await;
    let annotations = &events[0]["annotations"];
    assert_eq!(annotations["sizes/count"], "2");
    let found: Value = serde_json::from_str(
        annotations["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap(),
    )
    .unwrap();
    assert_eq!(
        found,
        json!([{"message": "too many", "policy": "sizes", "binding": "audit", "expressionIndex": 1, "validationActions": ["Audit"]}])
    );

    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "baseline"}}});
    audited.api.send("PATCH", "/api/v1/namespaces/default", labels).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "i"}]}});
    let made =
        audited.api.ask(jane(), "POST", "/api/v1/namespaces/default/pods", "application/json", pod).await;
    assert_eq!((made.code, made.warnings.len()), (201, 0), "{made:?}");
    let events = audited.of("ResponseComplete").await;
    let annotations = &events[1]["annotations"];
    assert_eq!(annotations["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violations = annotations["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(violations.starts_with("would violate PodSecurity \"baseline:latest\": host"), "{violations}");
}

#[tokio::test]
async fn what_cannot_be_written_down_is_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let options = |path: PathBuf| LogOptions { path, max_age_days: 0, max_backups: 0, max_megabytes: 0 };
    let policy = "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}";
    let said = Audit::open(policy, options(folder.path().join("no/audit.log"))).err().unwrap().to_string();
    assert!(said.starts_with("cannot open the audit log") && said.contains("no/audit.log"), "{said}");
    let said = Audit::open("{kind: Policy}", options(folder.path().join("a"))).err().unwrap().to_string();
    assert!(said.starts_with("audit policy: apiVersion"), "{said}");
}
