//! What is refused, and with which words.

use serde_json::json;

use super::*;
use crate::defaults;

/// A created object with its defaults has exactly these errors.
#[track_caller]
fn check(group: &str, kind: &str, object: Value, expect: &[&str]) {
    let errors = create(group, "v1", kind, &prepared(group, kind, object));
    assert_eq!(texts(&errors), expect, "{kind}");
}

/// A change of an object has exactly these errors.
#[track_caller]
fn check_update(group: &str, kind: &str, old: Value, new: Value, expect: &[&str]) {
    let (old, new) = (prepared(group, kind, old), prepared(group, kind, new));
    assert_eq!(texts(&update(group, "v1", kind, &new, &old)), expect, "{kind}");
}

fn texts(errors: &[FieldError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn prepared(group: &str, kind: &str, mut object: Value) -> Value {
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("web");
    }
    object["metadata"]["uid"] = json!("u");
    defaults::apply(group, "v1", kind, &mut object);
    object
}

fn pod(container: Value) -> Value {
    let mut container = container;
    container["name"] = json!("c");
    container["image"] = json!("x:1");
    json!({"spec": {"containers": [container]}})
}

fn deployment() -> Value {
    json!({"spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
        "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}}}})
}

#[test]
fn names_and_labels() {
    check("", "ConfigMap", json!({}), &[]);
    check(
        "",
        "ConfigMap",
        json!({"metadata": {"name": "My_Map"}}),
        &[
            "metadata.name: Invalid value: \"My_Map\": a lowercase RFC 1123 subdomain must consist of lower case \
           alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
           'example.com', regex used for validation is \
           '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ],
    );
    check(
        "",
        "Namespace",
        json!({"metadata": {"name": "a.b"}}),
        &["metadata.name: Invalid value: \"a.b\": must not contain dots"],
    );
    check("rbac.authorization.k8s.io", "ClusterRole", json!({"metadata": {"name": "system:Node"}}), &[]);
    check("", "ConfigMap", json!({"metadata": {"name": "web-1", "generateName": "web-"}}), &[]);
    check(
        "",
        "ConfigMap",
        json!({"metadata": {"labels": {"a b": "x"}}}),
        &[
            "metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or \
           '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
           '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
    let nameless = create("", "v1", "ConfigMap", &json!({}));
    assert_eq!(texts(&nameless), ["metadata.name: Required value: name or generateName is required"]);
}

#[test]
fn pods() {
    check("", "Pod", pod(json!({})), &[]);
    check("", "Pod", json!({"spec": {}}), &["spec.containers: Required value"]);
    check(
        "",
        "Pod",
        json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "a"}]}}),
        &["spec.containers[1].image: Required value", "spec.containers[1].name: Duplicate value: \"a\""],
    );
    check(
        "",
        "Pod",
        pod(json!({"imagePullPolicy": "Sometimes"})),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
           \"IfNotPresent\", \"Never\"",
        ],
    );
    check(
        "",
        "Pod",
        pod(json!({"volumeMounts": [{"name": "data", "mountPath": "/d"}]})),
        &["spec.containers[0].volumeMounts[0].name: Not found: \"data\""],
    );
    check(
        "",
        "Pod",
        pod(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
        &[
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit \
           of 1",
        ],
    );
    check(
        "",
        "Pod",
        pod(json!({"livenessProbe": {"tcpSocket": {"port": 80}, "exec": {"command": ["x"]}}})),
        &["spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"],
    );
    check(
        "",
        "Pod",
        pod(json!({"ports": [{"containerPort": 70000}]})),
        &[
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ],
    );
    check(
        "",
        "Pod",
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}],
            "containers": [{"name": "c", "image": "x"}]}}),
        &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
    );
    check(
        "",
        "Pod",
        json!({"spec": {"initContainers": [{"name": "i", "image": "x", "livenessProbe": {}}],
            "containers": [{"name": "c", "image": "x"}]}}),
        &["spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without \
           restartPolicy=Always"],
    );
}

#[test]
fn pods_change_little() {
    let mut image = pod(json!({}));
    image["spec"]["containers"][0]["image"] = json!("x:2");
    check_update("", "Pod", pod(json!({})), image, &[]);

    let mut node = pod(json!({}));
    node["spec"]["hostname"] = json!("h");
    let errors = update("", "v1", "Pod", &prepared("", "Pod", node), &prepared("", "Pod", pod(json!({}))));
    let text = texts(&errors).concat();
    assert!(
        text.starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers")
    );
    assert!(text.ends_with("\n  hostname: null -> \"h\""), "{text}");
}

#[test]
fn workloads() {
    check("apps", "Deployment", deployment(), &[]);
    let mut negative = deployment();
    negative["spec"]["replicas"] = json!(-1);
    check(
        "apps",
        "Deployment",
        negative,
        &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
    );
    let mut unmatched = deployment();
    unmatched["spec"]["template"]["metadata"]["labels"]["app"] = json!("db");
    check(
        "apps",
        "Deployment",
        unmatched,
        &[
            "spec.template.metadata.labels: Invalid value: {\"app\":\"db\"}: `selector` does not match template \
           `labels`",
        ],
    );
    let mut never = deployment();
    never["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    check(
        "apps",
        "Deployment",
        never,
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
    let mut other = deployment();
    other["spec"]["selector"]["matchLabels"]["tier"] = json!("x");
    other["spec"]["template"]["metadata"]["labels"]["tier"] = json!("x");
    check_update(
        "apps",
        "Deployment",
        deployment(),
        other,
        &[
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"x\"}}: field is immutable",
        ],
    );
    check("apps", "DaemonSet", deployment(), &[]);
    check(
        "apps",
        "StatefulSet",
        json!({"spec": {"selector": {"matchLabels": {"app": "web"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}}], "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "x",
            "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}}}),
        &[],
    );
}

#[test]
fn jobs() {
    let job = |policy: &str| {
        let mut job = json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": policy, "containers": [{"name": "c", "image": "x"}]}}}});
        defaults::apply("batch", "v1", "Job", &mut job);
        defaults::prepare_for_create("batch", "v1", "Job", &mut job);
        job
    };
    check("batch", "Job", job("Never"), &[]);
    check(
        "batch",
        "Job",
        job("Always"),
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    for (schedule, expect) in [
        ("*/5 0-4,8 * jan mon", Ok(())),
        ("@every 1h30m", Ok(())),
        ("@daily", Ok(())),
        ("* * *", Err("expected exactly 5 fields, found 3: [* * *]")),
        ("60 * * * *", Err("end of range (60) above maximum (59): 60")),
        ("@sometimes", Err("unrecognized descriptor: @sometimes")),
    ] {
        assert_eq!(cron::check(schedule), expect.map_err(str::to_owned), "{schedule}");
    }
}

#[test]
fn services() {
    check("", "Service", json!({"spec": {"ports": [{"port": 80}]}}), &[]);
    check("", "Service", json!({"spec": {}}), &["spec.ports: Required value"]);
    check("", "Service", json!({"spec": {"clusterIP": "None"}}), &[]);
    check(
        "",
        "Service",
        json!({"spec": {"ports": [{"port": 80}, {"port": 81, "name": "b"}]}}),
        &["spec.ports[0].name: Required value"],
    );
    check(
        "",
        "Service",
        json!({"spec": {"type": "Open", "ports": [{"port": 0}]}}),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.type: Unsupported value: \"Open\": supported values: \"ClusterIP\", \"ExternalName\", \
             \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}]}),
        &[
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, \
           ::1/128)",
        ],
    );
}

#[test]
fn ingresses() {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"rules": [{"host": "a.test", "http": {"paths":
            [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}),
        &[],
    );
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"rules": [{"http": {"paths": [{"backend": backend}]}}]}}),
        &["spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
    );
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"defaultBackend": {"service": {"name": "web"}}}}),
        &["spec.defaultBackend: Required value: port name or number is required"],
    );
}

#[test]
fn configuration() {
    check(
        "",
        "ConfigMap",
        json!({"data": {"a/b": "x"}}),
        &[
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' \
           or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
           '[-._a-zA-Z0-9]+')",
        ],
    );
    check(
        "",
        "Secret",
        json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "eA=="}}),
        &["data[tls.key]: Required value"],
    );
    check_update(
        "",
        "ConfigMap",
        json!({"immutable": true, "data": {"a": "1"}}),
        json!({"immutable": true, "data": {"a": "2"}}),
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
    check(
        "",
        "ConfigMap",
        json!({"data": {"a": "x".repeat((1 << 20) + 1)}}),
        &[": Too long: may not be more than 1048576 bytes"],
    );
}

#[test]
fn access() {
    check(
        "rbac.authorization.k8s.io",
        "Role",
        json!({"rules": [{"verbs": ["get"], "apiGroups": [""]}]}),
        &["rules[0].resources: Required value: resource rules must supply at least one resource"],
    );
    let binding = |name: &str| {
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "User", "name": "ada"}]})
    };
    check("rbac.authorization.k8s.io", "RoleBinding", binding("edit"), &[]);
    check_update(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        binding("edit"),
        binding("view"),
        &["roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"Role\",\
           \"name\":\"view\"}: cannot change roleRef"],
    );
}

#[test]
fn limits_and_storage() {
    check(
        "",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
        &["spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"],
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"minAvailable": "120%"}}),
        &["spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%"],
    );
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {"resources": {"requests": {"storage": "1Gi"}}}}),
        &["spec.accessModes: Required value: at least 1 access mode is required"],
    );
    check(
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        json!({"metadata": {"name": "boats.test"}, "spec": {"group": "sea.test", "scope": "Cluster",
            "names": {"plural": "boats", "kind": "Boat"},
            "versions": [{"name": "v1", "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
        &["metadata.name: Invalid value: \"boats.test\": must be spec.names.plural+\".\"+spec.group"],
    );
}

#[test]
fn what_is_doubtful_in_a_pod_is_said() {
    let container = json!({"env": [{"name": "A"}, {"name": "B"}, {"name": "A"}],
        "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"},
            {"containerPort": 80, "protocol": "TCP", "name": "again"}],
        "resources": {"limits": {"memory": "512m", "cpu": "512m"}, "requests": {"memory": "1Gi"}}});
    let object = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    assert_eq!(
        pod_warnings(&object, "/spec/template/spec"),
        [
            "spec.template.spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.template.spec.containers[0].ports[2]: duplicate port definition with spec.template.spec.containers[0].ports[0]",
            "spec.template.spec.containers[0].resources.limits[memory]: fractional byte value \"512m\" is invalid, must be an integer",
        ]
    );
    assert_eq!(pod_warnings(&json!({"spec": []}), "/spec"), [""; 0]);
}

#[test]
fn schemas_of_definitions_are_structural() {
    let check = |schema: Value, expect: &[&str]| {
        let object = json!({"metadata": {"name": "boats.sea.test"}, "spec": {"group": "sea.test", "scope": "Cluster",
            "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList"},
            "versions": [{"name": "v1", "storage": true, "served": true, "schema": {"openAPIV3Schema": schema}}]}});
        let errors = texts(&create("apiextensions.k8s.io", "v1", "CustomResourceDefinition", &object));
        let at = "spec.versions[0].schema.openAPIV3Schema";
        let short: Vec<&str> =
            errors.iter().map(|e| e.strip_prefix(at).unwrap_or(e).trim_start_matches('.')).collect();
        assert_eq!(short, expect);
    };
    let spec = |spec: Value| json!({"type": "object", "properties": {"spec": spec}});
    check(json!({"type": "object"}), &[]);
    check(json!({}), &["type: Required value: must not be empty at the root"]);
    check(
        json!({"type": "array", "items": {"type": "string"}}),
        &["type: Invalid value: \"array\": must be object at the root"],
    );
    check(
        spec(json!({"type": "foo"})),
        &[
            "properties[spec].type: Unsupported value: \"foo\": supported values: \"array\", \"boolean\", \"integer\", \
         \"number\", \"object\", \"string\"",
        ],
    );
    check(
        spec(json!({"properties": {"a": {"type": "string"}}})),
        &["properties[spec].type: Required value: must not be empty for specified object fields"],
    );
    check(
        spec(json!({"type": "string", "properties": {"a": {"type": "string"}}})),
        &["properties[spec].properties: Forbidden: must not be set if type is string: objects have it"],
    );
    check(spec(json!({"type": "array"})), &["properties[spec].items: Required value: must be specified"]);
    check(
        spec(json!({"type": "array", "items": {}})),
        &["properties[spec].items.type: Required value: must not be empty for specified array items"],
    );
    check(
        spec(
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": true}),
        ),
        &[
            "properties[spec].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ],
    );
    check(
        spec(json!({"type": "integer", "default": "many"})),
        &["properties[spec].default: Invalid value: \"many\": must be of type integer: \"string\""],
    );
    check(
        spec(json!({"type": "string", "anyOf": [{"type": "string"}, {"minLength": 3}]})),
        &["properties[spec].anyOf[0].type: Forbidden: must be empty to be structural"],
    );
    check(
        spec(json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "string"}, {"type": "integer"}]})),
        &[],
    );
    check(spec(json!({"x-kubernetes-preserve-unknown-fields": true})), &[]);
    check(
        spec(json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"]})),
        &["properties[spec].items.type: Invalid value: \"string\": must be object if parent array's \
         x-kubernetes-list-type is map"],
    );
    let errors = |pattern: &str| {
        let mut errors = Errors::new();
        let schema = spec(json!({"type": "string", "pattern": pattern}));
        schema::structural(&Field::root(&schema), &mut errors);
        texts(&errors).pop().unwrap_or_default()
    };
    assert!(
        errors("(").starts_with(
            "properties[spec].pattern: Invalid value: \"(\": must be a valid regular expression"
        )
    );
    assert_eq!((errors("^a+$").as_str(), errors(r"^\p{L}+$").as_str()), ("", ""));
}

#[test]
fn odd_trees_are_refused_without_harm() {
    for rules in KINDS {
        for odd in [json!(null), json!([[]]), json!({"spec": "x", "metadata": [1], "rules": {}, "data": []})]
        {
            let _ = create(rules.group, "v1", rules.kind, &odd);
            let _ = update(rules.group, "v1", rules.kind, &odd, &json!({}));
            assert!(!create(rules.group, "v1", rules.kind, &odd).is_empty(), "{}: {odd}", rules.kind);
        }
    }
}

const FLOW: &str = "flowcontrol.apiserver.k8s.io";

#[test]
fn priority_levels() {
    let level = |queuing: Value, shares: i64| {
        let response = json!({"type": "Queue", "queuing": queuing});
        json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares, "limitResponse": response}}})
    };
    let queuing = |queues: i64, hand: i64, length: i64| json!({"queues": queues, "handSize": hand, "queueLengthLimit": length});
    let check = |object: Value, expect: &[&str]| check(FLOW, "PriorityLevelConfiguration", object, expect);
    check(level(queuing(128, 6, 50), 10), &[]);
    check(level(queuing(64, 10, 50), 10), &[]);
    let at = "spec.limited.limitResponse.queuing";
    check(
        level(queuing(64, 11, 50), 10),
        &[&format!(
            "{at}.handSize: Invalid value: 11: required entropy bits of deckSize 64 and handSize 11 should not be greater than 60"
        )],
    );
    check(
        level(queuing(2, 3, -1), 10),
        &[
            &format!("{at}.queueLengthLimit: Invalid value: -1: must be positive"),
            &format!("{at}.handSize: Invalid value: 3: should not be greater than queues (2)"),
        ],
    );
    check(
        level(queuing(100_001, 1, 100_001), -1),
        &[
            "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
            &format!("{at}.queueLengthLimit: Invalid value: 100001: must not be greater than 100000"),
            &format!("{at}.queues: Invalid value: 100001: must not be greater than 100000"),
        ],
    );
    let mut lent = level(queuing(1, 1, 1), 1);
    lent["spec"]["limited"]["lendablePercent"] = json!(101);
    lent["spec"]["limited"]["borrowingLimitPercent"] = json!(-1);
    lent["spec"]["exempt"] = json!({});
    check(
        lent,
        &[
            "spec.exempt: Forbidden: must be nil if the type is Limited",
            "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
        ],
    );
    let only_exempt = "must be 'Exempt' if and only if `name` is 'exempt'";
    check(
        json!({"spec": {"type": "Exempt"}}),
        &[&format!("spec.type: Invalid value: \"Exempt\": {only_exempt}")],
    );
    check(
        json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {"lendablePercent": 5}}}),
        &[],
    );
    let mut catch_all = level(queuing(1, 1, 1), 5);
    catch_all["metadata"]["name"] = json!("catch-all");
    let errors = create(FLOW, "v1", "PriorityLevelConfiguration", &catch_all);
    assert_eq!((errors.len(), errors[0].field.as_str()), (1, "spec"));
    assert_eq!(errors[0].message, "spec of 'catch-all' must equal the fixed value");
}

#[test]
fn flow_schemas() {
    let schema = |rule: Value, precedence: i64| json!({"spec": {"priorityLevelConfiguration": {"name": "x"}, "matchingPrecedence": precedence, "rules": [rule]}});
    let rule = || {
        json!({"subjects": [{"kind": "User", "user": {"name": "*"}}, {"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": "*"}}],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/", "/x/*"]}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["a"]}]})
    };
    let check = |object: Value, expect: &[&str]| check(FLOW, "FlowSchema", object, expect);
    check(schema(rule(), 10_000), &[]);
    check(
        schema(rule(), 10_001),
        &["spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000"],
    );
    check(
        schema(rule(), 1),
        &[
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
        ],
    );
    check(schema(rule(), -1), &["spec.matchingPrecedence: Invalid value: -1: must be a positive value"]);
    check(
        schema(json!({"subjects": [{"kind": "User", "group": {"name": "x"}}]}), 5),
        &[
            "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
            "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
        ],
    );
    let mut wrong = rule();
    wrong["subjects"] =
        json!([{"kind": "Robot"}, {"kind": "ServiceAccount", "serviceAccount": {"name": "*"}}]);
    wrong["resourceRules"] = json!([{"verbs": ["*", "get"], "apiGroups": [], "resources": ["*", "a"]}]);
    wrong["nonResourceRules"] = json!([{"verbs": ["eat"], "nonResourceURLs": ["x", "/a*", "/a b"]}]);
    let at = "spec.rules[0]";
    check(
        schema(wrong, 5),
        &[
            &format!(
                "{at}.subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\""
            ),
            &format!(
                "{at}.subjects[1].serviceAccount.namespace: Required value: must specify namespace for service account"
            ),
            &format!(
                "{at}.resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs"
            ),
            &format!(
                "{at}.resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group"
            ),
            &format!(
                "{at}.resourceRules[0].resources: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other resources"
            ),
            &format!(
                "{at}.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace"
            ),
            &format!(
                "{at}.nonResourceRules[0].verbs: Unsupported value: [\"eat\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\""
            ),
            &format!(
                "{at}.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash"
            ),
            &format!(
                "{at}.nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/a*\": wildcard can only do suffix matching"
            ),
            &format!(
                "{at}.nonResourceRules[0].nonResourceURLs[2]: Invalid value: \"/a b\": must not contain white-space"
            ),
        ],
    );
    let mut exempt = schema(rule(), 1);
    exempt["metadata"]["name"] = json!("exempt");
    let errors = create(FLOW, "v1", "FlowSchema", &exempt);
    assert_eq!(errors.last().unwrap().message, "spec of 'exempt' must equal the fixed value");
}
