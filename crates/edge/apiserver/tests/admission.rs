//! What the server changes and refuses: policies, webhooks, quotas, rules of custom resources; and what others serve.

#[allow(dead_code, reason = "shared with the other tests of the server")]
mod support;

use serde_json::{Value, json};
use support::{Api, bundle, extension, version, widgets};
use wharf_apiserver::{FrontProxy, Identity};
use wharf_http::{Authority, Usage};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const WIDGETS: &str = "/apis/demo.io/v1/namespaces/default/widgets";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn map(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

fn rules() -> Value {
    json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["configmaps"]}])
}

#[tokio::test]
async fn policies_judge_by_parameters_and_say_why() {
    let api = Api::start().await;
    let policy = json!({"metadata": {"name": "sizes"}, "spec": {"failurePolicy": "Fail",
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "matchConstraints": {"resourceRules": rules()},
        "matchConditions": [{"name": "not-params", "expression": "object.metadata.name != 'limits'"}],
        "variables": [{"name": "count", "expression": "size(object.data)"},
            {"name": "most", "expression": "int(params.data.most)"}],
        "validations": [{"expression": "variables.count <= variables.most", "reason": "Forbidden",
            "messageExpression": "'%d of %d, asked by %s'.format([variables.count, variables.most, request.userInfo.username])"}]}});
    api.made(&format!("{ADMISSION}/validatingadmissionpolicies"), policy).await;
    api.made(MAPS, map("limits", json!({"most": "1"}))).await;
    let binding = |name: &str, action: &str, selector: Value| {
        json!({"metadata": {"name": name}, "spec": {"policyName": "sizes", "validationActions": [action],
            "paramRef": {"name": "limits", "parameterNotFoundAction": "Deny"},
            "matchResources": {"objectSelector": {"matchLabels": selector}}}})
    };
    let bindings = format!("{ADMISSION}/validatingadmissionpolicybindings");
    api.made(&bindings, binding("deny", "Deny", json!({"strict": "yes"}))).await;
    api.made(&bindings, binding("warn", "Warn", json!({"strict": "no"}))).await;

    let mut big = map("big", json!({"a": "1", "b": "2"}));
    big["metadata"]["labels"] = json!({"strict": "yes"});
    let refused = api.send("POST", MAPS, big.clone()).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.message(),
        "configmaps \"big\" is forbidden: ValidatingAdmissionPolicy 'sizes' with binding 'deny' denied request: 2 of 1, asked by system:wharf"
    );
    big["metadata"]["labels"] = json!({"strict": "no"});
    let warned = api.send("POST", MAPS, big).await;
    assert_eq!((warned.code, warned.warnings.len()), (201, 1), "{warned:?}");
    api.made(MAPS, map("free", json!({"a": "1", "b": "2"}))).await;
    // Without its parameters a binding that wants them denies.
    api.send("DELETE", &format!("{MAPS}/limits"), Value::Null).await;
    let mut small = map("small", json!({"a": "1"}));
    small["metadata"]["labels"] = json!({"strict": "yes"});
    assert!(api.send("POST", MAPS, small).await.message().contains("no params found"));
    // The policy itself was found to fit the kind it is about.
    let path = format!("{ADMISSION}/validatingadmissionpolicies/sizes");
    let checked = api.until(&path, |a| a.body["status"]["observedGeneration"] == 1).await;
    assert_eq!(checked.body["status"]["typeChecking"], json!({}), "{}", checked.body);
}

#[tokio::test]
async fn subresources_are_judged_as_what_they_are() {
    let api = Api::start().await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let policy = json!({"metadata": {"name": "parts"}, "spec": {
        "matchConstraints": {"resourceRules": [{"operations": ["*"], "apiGroups": ["", "apps"], "apiVersions": ["v1"],
            "resources": ["pods/binding", "pods/eviction", "serviceaccounts/token", "deployments/scale"]}]},
        "validations": [{"expression": "false",
            "messageExpression": "request.operation + ' ' + request.kind.kind + ' ' + object.kind"}]}});
    api.made(&format!("{group}/validatingadmissionpolicies"), policy).await;
    let binding = json!({"metadata": {"name": "parts"}, "spec": {"policyName": "parts", "validationActions": ["Deny"]}});
    api.made(&format!("{group}/validatingadmissionpolicybindings"), binding).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.made("/api/v1/namespaces/default/pods", pod).await;
    let labels = json!({"app": "d"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template":
        {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    api.made("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    let core = "/api/v1/namespaces/default";
    let scale = "/apis/apps/v1/namespaces/default/deployments/d/scale";
    for (verb, path, body, said) in [
        (
            "POST",
            format!("{core}/pods/p/binding"),
            json!({"target": {"name": "n"}}),
            "CREATE Binding Binding",
        ),
        (
            "POST",
            format!("{core}/pods/p/eviction"),
            json!({"metadata": {"name": "p"}}),
            "CREATE Eviction Eviction",
        ),
        (
            "POST",
            format!("{core}/serviceaccounts/default/token"),
            json!({}),
            "CREATE TokenRequest TokenRequest",
        ),
        ("PATCH", scale.to_owned(), json!({"spec": {"replicas": 3}}), "UPDATE Scale Scale"),
    ] {
        let answer = api.send(verb, &path, body).await;
        assert_eq!(answer.code, 422, "{path}: {answer:?}");
        assert!(answer.message().ends_with(said), "{path}: {}", answer.message());
    }
    assert_eq!(api.get(&format!("{core}/pods/p")).await.body["spec"].get("nodeName"), None);
}

#[tokio::test]
async fn policies_change_objects() {
    let api = Api::start().await;
    let policy = |name: &str, mutation: Value| {
        json!({"metadata": {"name": name}, "spec": {"reinvocationPolicy": "Never", "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": rules()}, "mutations": [mutation]}})
    };
    let policies = format!("{ADMISSION}/mutatingadmissionpolicies");
    let applied = json!({"patchType": "ApplyConfiguration", "applyConfiguration":
        {"expression": "Object{metadata: Object.metadata{labels: {'made-by': request.operation}}}"}});
    let patched = json!({"patchType": "JSONPatch", "jsonPatch": {"expression":
        "[JSONPatch{op: 'add', path: '/data/seen', value: string(size(object.metadata.labels))}]"}});
    api.made(&policies, policy("a-labels", applied)).await;
    api.made(&policies, policy("b-data", patched)).await;
    for name in ["a-labels", "b-data"] {
        let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name}});
        api.made(&format!("{ADMISSION}/mutatingadmissionpolicybindings"), binding).await;
    }
    let made = api.made(MAPS, map("m", json!({"own": "x"}))).await;
    assert_eq!(made["metadata"]["labels"], json!({"made-by": "CREATE"}));
    assert_eq!(made["data"], json!({"own": "x", "seen": "1"}));
    let wrong = policy("wrong", json!({"patchType": "JSONPatch", "jsonPatch": {"expression": "objekt.foo"}}));
    let refused = api.send("POST", &policies, wrong).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("undeclared reference to 'objekt'"), "{}", refused.message());
}

#[tokio::test]
async fn webhooks_change_refuse_and_fail() {
    let api = Api::start().await;
    let authority = Authority::create("test").unwrap();
    let port = extension(&authority, |parts, review| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let (request, uid) = (&review["request"], &review["request"]["uid"]);
        let mut response = json!({"uid": uid, "allowed": true});
        if parts.uri.path() == "/mutate" {
            let patch = json!([{"op": "add", "path": "/data/stage", "value": request["operation"]}]);
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch.to_string()).into();
        } else if request["object"]["data"]["bad"].is_string() {
            response = json!({"uid": uid, "allowed": false, "warnings": ["look"],
                "status": {"code": 418, "message": "no bad data"}});
        }
        json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response})
    })
    .await;
    let hook = |name: &str, url: String, policy: &str| {
        json!({"name": name, "rules": rules(), "failurePolicy": policy, "sideEffects": "None", "timeoutSeconds": 2,
            "admissionReviewVersions": ["v1"], "clientConfig": {"url": url, "caBundle": bundle(&authority)},
            "matchConditions": [{"name": "not-mine", "expression": "!object.metadata.name.startsWith('skip')"}]})
    };
    let at = |path: &str| format!("https://127.0.0.1:{port}{path}");
    let mutating = json!({"metadata": {"name": "m"}, "webhooks": [hook("m.demo.io", at("/mutate"), "Fail")]});
    let validating =
        json!({"metadata": {"name": "v"}, "webhooks": [hook("v.demo.io", at("/validate"), "Fail")]});
    api.made(&format!("{ADMISSION}/mutatingwebhookconfigurations"), mutating).await;
    api.made(&format!("{ADMISSION}/validatingwebhookconfigurations"), validating).await;

    assert_eq!(api.made(MAPS, map("a", json!({}))).await["data"], json!({"stage": "CREATE"}));
    assert_eq!(api.made(MAPS, map("skip", json!({"bad": "x"}))).await["data"], json!({"bad": "x"}));
    let refused = api.send("POST", MAPS, map("b", json!({"bad": "x"}))).await;
    assert_eq!(
        (refused.code, refused.message()),
        (418, "admission webhook \"v.demo.io\" denied the request: no bad data")
    );
    let dry = api.send("POST", &format!("{MAPS}?dryRun=All"), map("c", json!({}))).await;
    assert_eq!(dry.body["data"], json!({"stage": "CREATE"}));
    assert_eq!(api.get(&format!("{MAPS}/c")).await.code, 404);

    let nobody = "https://127.0.0.1:1/".to_owned();
    let broken =
        json!({"metadata": {"name": "w"}, "webhooks": [hook("open.demo.io", nobody.clone(), "Ignore")]});
    api.made(&format!("{ADMISSION}/validatingwebhookconfigurations"), broken).await;
    api.made(MAPS, map("d", json!({}))).await;
    let broken = json!({"metadata": {"name": "x"}, "webhooks": [hook("closed.demo.io", nobody, "Fail")]});
    api.made(&format!("{ADMISSION}/validatingwebhookconfigurations"), broken).await;
    let failed = api.send("POST", MAPS, map("e", json!({}))).await;
    assert_eq!(failed.code, 500);
    assert!(failed.message().contains("failed calling webhook \"closed.demo.io\""), "{}", failed.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_quota_is_exceeded_by_writes_at_once() {
    let api = Api::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    api.made(quotas, json!({"metadata": {"name": "few"}, "spec": {"hard": {"configmaps": "3"}}})).await;
    // What the controller would write.
    let status = json!({"status": {"hard": {"configmaps": "3"}, "used": {"configmaps": "0"}}});
    assert_eq!(api.send("PATCH", &format!("{quotas}/few/status"), status).await.code, 200);
    let tries = (0..12).map(|i| {
        let api = &api;
        async move { api.send("POST", MAPS, map(&format!("m{i}"), json!({}))).await }
    });
    let answers = futures_util::future::join_all(tries).await;
    let made = answers.iter().filter(|a| a.code == 201).count();
    assert_eq!(made, 3, "{answers:?}");
    let refused = answers.iter().find(|a| a.code != 201).unwrap();
    assert_eq!(refused.code, 403);
    assert!(
        refused.message().ends_with(
            "exceeded quota: few, requested: configmaps=1, used: configmaps=3, limited: configmaps=3"
        ),
        "{}",
        refused.message()
    );
    assert_eq!(api.get(&format!("{quotas}/few")).await.body["status"]["used"], json!({"configmaps": "3"}));
}

#[tokio::test]
async fn limit_ranges_fill_in_and_bound() {
    let api = Api::start().await;
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container",
        "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}});
    api.made("/api/v1/namespaces/default/limitranges", range).await;
    let pod = |resources: Value| {
        json!({"metadata": {"generateName": "p-"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let made = api.made(pods, pod(json!({}))).await;
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    let refused = api.send("POST", pods, pod(json!({"limits": {"cpu": "2"}}))).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused.message().contains("maximum cpu usage per Container is 1, but limit is 2"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn rules_of_custom_resources_judge_what_changes() {
    let api = Api::start().await;
    let spec = json!({"type": "object", "properties": {"min": {"type": "integer"}, "max": {"type": "integer"},
            "mode": {"type": "string"}},
        "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min above max"},
            {"rule": "!has(oldSelf.mode) || self.mode == oldSelf.mode", "message": "mode is fixed"}]});
    api.made(DEFINITIONS, widgets(json!([version("v1", true, spec)]))).await;
    let widget = |spec: Value| json!({"apiVersion": "demo.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let refused = api.send("POST", WIDGETS, widget(json!({"min": 2, "max": 1}))).await;
    assert_eq!((refused.code, refused.body["reason"].as_str()), (422, Some("Invalid")));
    assert!(
        refused.message().contains("spec: Invalid value: \"object\": min above max"),
        "{}",
        refused.message()
    );
    api.made(WIDGETS, widget(json!({"min": 1, "max": 2, "mode": "a"}))).await;
    let path = format!("{WIDGETS}/w");
    let refused = api.send("PATCH", &path, json!({"spec": {"mode": "b"}})).await;
    assert!(refused.message().contains("mode is fixed"), "{}", refused.message());
    assert_eq!(api.send("PATCH", &path, json!({"metadata": {"labels": {"a": "b"}}})).await.code, 200);
    let wrong = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.foo == 1"}]});
    let mut other = widgets(json!([version("v1", true, wrong)]));
    other["metadata"]["name"] = "gadgets.demo.io".into();
    other["spec"]["names"] =
        json!({"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"});
    let refused = api.send("POST", DEFINITIONS, other).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("undefined field 'foo'"), "{}", refused.message());
}

#[tokio::test]
async fn stored_objects_are_read_by_the_schema_of_now_in_every_version() {
    let api = Api::start().await;
    let size =
        json!({"type": "object", "properties": {"size": {"type": "integer"}, "old": {"type": "string"}}});
    api.made(DEFINITIONS, widgets(json!([version("v1", true, size)]))).await;
    let widget = json!({"apiVersion": "demo.io/v1", "kind": "Widget", "metadata": {"name": "w"},
        "spec": {"size": 3, "old": "x"}});
    api.made(WIDGETS, widget).await;
    let newer = json!({"type": "object", "properties": {"size": {"type": "integer"},
        "color": {"type": "string", "default": "red"}}});
    let mut v2 = version("v2", true, newer.clone());
    v2["selectableFields"] = json!([{"jsonPath": ".spec.color"}]);
    let versions = json!([version("v1", false, newer), v2]);
    let changed = api
        .send("PATCH", &format!("{DEFINITIONS}/widgets.demo.io"), json!({"spec": {"versions": versions}}))
        .await;
    assert_eq!(changed.code, 200, "{}", changed.body);
    assert_eq!(changed.body["status"]["storedVersions"], json!(["v1", "v2"]));
    for version in ["v1", "v2"] {
        let root = format!("/apis/demo.io/{version}/namespaces/default/widgets");
        for found in [api.get(&format!("{root}/w")).await.body, api.get(&root).await.body["items"][0].clone()]
        {
            assert_eq!(found["apiVersion"], format!("demo.io/{version}"));
            assert_eq!(found["spec"], json!({"size": 3, "color": "red"}));
        }
    }
    let selected = |color: &str| format!("/apis/demo.io/v2/widgets?fieldSelector=spec.color%3D{color}");
    assert_eq!(api.get(&selected("red")).await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get(&selected("blue")).await.body["items"].as_array().unwrap().len(), 0);
    assert_eq!(api.get("/apis/demo.io/v1/widgets?fieldSelector=spec.color%3Dred").await.code, 400);
}

#[tokio::test]
async fn versions_are_converted_by_the_webhook_of_the_definition() {
    let api = Api::start().await;
    let authority = Authority::create("test").unwrap();
    let port = extension(&authority, |_, review| {
        let request = &review["request"];
        let wanted = request["desiredAPIVersion"].as_str().unwrap();
        let convert = |object: &Value| {
            let mut object = object.clone();
            object["apiVersion"] = wanted.into();
            let (from, to) = if wanted.ends_with("v2") { ("hostPort", "host") } else { ("host", "hostPort") };
            object["spec"] = json!({to: object["spec"][from]});
            object
        };
        let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(convert).collect();
        json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response":
            {"uid": request["uid"], "convertedObjects": objects, "result": {"status": "Success"}}})
    })
    .await;
    let field = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}});
    let mut definition =
        widgets(json!([version("v1", true, field("hostPort")), version("v2", false, field("host"))]));
    definition["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://localhost:{port}/convert"), "caBundle": bundle(&authority)}}});
    api.made(DEFINITIONS, definition).await;
    let v2 = "/apis/demo.io/v2/namespaces/default/widgets";
    let widget = json!({"apiVersion": "demo.io/v2", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"host": "h"}});
    assert_eq!(api.made(v2, widget).await["spec"], json!({"host": "h"}));
    assert_eq!(api.get(&format!("{WIDGETS}/w")).await.body["spec"], json!({"hostPort": "h"}));
    let patched = api.send("PATCH", &format!("{v2}/w"), json!({"spec": {"host": "i"}})).await;
    assert_eq!(patched.body["spec"], json!({"host": "i"}), "{}", patched.body);
    assert_eq!(api.get(v2).await.body["items"][0]["spec"], json!({"host": "i"}));
    assert_eq!(api.get(WIDGETS).await.body["items"][0]["spec"], json!({"hostPort": "i"}));
}

#[tokio::test]
async fn groups_of_other_servers_are_answered_by_them() {
    let (authority, front) = (Authority::create("test").unwrap(), Authority::create("front").unwrap());
    let identity = front.issue(FrontProxy::NAME, &[], Usage::Client, &[]).unwrap();
    let api = Api::start_with(Some(FrontProxy { authority: front.certificate().to_owned(), identity })).await;
    let port = extension(&authority, |parts, _| match parts.uri.path() {
        "/apis/toys.io/v1" => json!({"kind": "APIResourceList", "groupVersion": "toys.io/v1", "resources":
            [{"name": "balls", "singularName": "ball", "namespaced": true, "kind": "Ball", "verbs": ["list"]}]}),
        path => json!({"path": path, "user": parts.headers["x-remote-user"].to_str().unwrap(),
            "groups": parts.headers.get_all("x-remote-group").iter().map(|g| g.to_str().unwrap()).collect::<Vec<_>>()}),
    })
    .await;
    let service =
        json!({"metadata": {"name": "toys"}, "spec": {"type": "ExternalName", "externalName": "localhost"}});
    api.made("/api/v1/namespaces/default/services", service).await;
    let registered = json!({"metadata": {"name": "v1.toys.io"}, "spec": {"group": "toys.io", "version": "v1",
        "groupPriorityMinimum": 2000, "versionPriority": 10, "caBundle": bundle(&authority),
        "service": {"namespace": "default", "name": "toys", "port": port}}});
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    api.made(services, registered).await;
    let available = |a: &support::Answer| a.body["status"]["conditions"][0]["status"] == "True";
    api.until(&format!("{services}/v1.toys.io"), available).await;
    api.until(&format!("{services}/v1.apps"), available).await;

    let ann = Identity::new("ann", &["system:masters", "dev"]);
    let balls = "/apis/toys.io/v1/namespaces/default/balls";
    let answer = api.ask(ann, "GET", balls, "application/json", Value::Null).await;
    assert_eq!(answer.body, json!({"path": balls, "user": "ann", "groups": ["system:masters", "dev"]}));
    let nobody = api.ask(Identity::new("eve", &[]), "GET", balls, "application/json", Value::Null).await;
    assert_eq!(nobody.code, 403);
    let groups = api.get("/apis").await.body;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "toys.io"));
    let told =
        api.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.body;
    assert_eq!(told["data"]["requestheader-allowed-names"], r#"["front-proxy-client"]"#);

    api.send("DELETE", "/api/v1/namespaces/default/services/toys", Value::Null).await;
    let gone = |a: &support::Answer| a.body["status"]["conditions"][0]["reason"] == "ServiceNotFound";
    api.until(&format!("{services}/v1.toys.io"), gone).await;
    assert_eq!(api.get(balls).await.code, 503);
}

#[tokio::test]
async fn events_are_the_same_objects_in_both_groups() {
    let api = Api::start().await;
    let event = json!({"metadata": {"name": "e"}, "eventTime": "2026-01-02T03:04:05.000000Z", "reason": "R",
        "action": "A", "note": "n", "type": "Normal", "reportingController": "c.io/x", "reportingInstance": "i",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    api.made("/apis/events.k8s.io/v1/namespaces/default/events", event).await;
    let core = api.get("/api/v1/namespaces/default/events/e").await.body;
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("n"), &json!("p")));
    let found = api.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await.body;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let found = api.get("/apis/events.k8s.io/v1/events?fieldSelector=regarding.name%3Dp").await.body;
    assert_eq!(found["items"][0]["note"], "n");
}
