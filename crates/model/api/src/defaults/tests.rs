//! Defaults by kind, and what create and update do.

use serde_json::json;

use super::*;

/// Every key of `expect` must be in the object with its defaults; lists are compared element by element.
#[track_caller]
fn check(group: &str, version: &str, kind: &str, mut object: Value, expect: Value) {
    apply(group, version, kind, &mut object);
    assert_contains(&object, &expect, kind);
    let once = object.clone();
    apply(group, version, kind, &mut object);
    assert_eq!(object, once, "{kind}: defaults applied twice change nothing more");
}

#[track_caller]
fn assert_contains(actual: &Value, expect: &Value, path: &str) {
    match expect {
        Value::Object(keys) => {
            for (key, expect) in keys {
                assert_contains(&actual[key.as_str()], expect, &format!("{path}.{key}"));
            }
        }
        Value::Array(items) => {
            for (index, expect) in items.iter().enumerate() {
                assert_contains(&actual[index], expect, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(actual, expect, "{path}"),
    }
}

#[test]
fn pods() {
    check(
        "",
        "v1",
        "Pod",
        json!({"spec": {"hostNetwork": true, "serviceAccount": "bot", "volumes": [{"name": "a"},
            {"name": "b", "secret": {}}, {"name": "c", "projected": {"sources": [{"serviceAccountToken": {}}]}}],
            "containers": [{"name": "c", "image": "x", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "0.5"}}, "readinessProbe": {"httpGet": {"port": 80}}}]}}),
        json!({"spec": {"dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "securityContext": {},
            "serviceAccountName": "bot", "serviceAccount": "bot",
            "volumes": [{"emptyDir": {}}, {"secret": {"defaultMode": 420}, "emptyDir": null},
                {"projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"expirationSeconds": 3600}}]}}],
            "containers": [{"imagePullPolicy": "Always", "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File", "ports": [{"protocol": "TCP", "hostPort": 80}],
                "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}]}}),
    );
}

#[test]
fn images_are_pulled_by_tag() {
    for (reference, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.27", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:aa", "IfNotPresent"),
        ("nginx:latest@sha256:aa", "Always"),
        ("", "IfNotPresent"),
    ] {
        assert_eq!(image::pull_policy(reference), json!(policy), "{reference}");
    }
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "x:1"}]}});
    check(
        "apps",
        "v1",
        "Deployment",
        json!({"spec": {"template": template}}),
        json!({"spec": {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"spec": {"enableServiceLinks": null, "restartPolicy": "Always",
                "containers": [{"imagePullPolicy": "IfNotPresent", "resources": {"requests": null}}]}}}}),
    );
    check(
        "apps",
        "v1",
        "Deployment",
        json!({"spec": {"replicas": 0, "strategy": {"type": "Recreate"}}}),
        json!({"spec": {"replicas": 0, "strategy": {"rollingUpdate": null}}}),
    );
    check(
        "apps",
        "v1",
        "StatefulSet",
        json!({"spec": {}}),
        json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}}),
    );
    check(
        "batch",
        "v1",
        "Job",
        json!({"spec": {}}),
        json!({"spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "suspend": false, "podReplacementPolicy": "TerminatingOrFailed"}}),
    );
    check(
        "batch",
        "v1",
        "Job",
        json!({"spec": {"parallelism": 3}}),
        json!({"spec": {"completions": null, "parallelism": 3}}),
    );
    check(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        json!({"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}}),
        json!({"spec": {"minReplicas": 1, "metrics": [{"resource": {"target": {"averageUtilization": 80}}}],
            "behavior": {"scaleUp": {"selectPolicy": "Max", "stabilizationWindowSeconds": 0},
                "scaleDown": {"stabilizationWindowSeconds": 5, "policies": [{"type": "Percent"}]}}}}),
    );
}

#[test]
fn services() {
    check(
        "",
        "v1",
        "Service",
        json!({"spec": {"ports": [{"port": 80}]}}),
        json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "externalTrafficPolicy": null, "ports": [{"protocol": "TCP", "targetPort": 80}]}}),
    );
    check(
        "",
        "v1",
        "Service",
        json!({"spec": {"type": "NodePort", "sessionAffinity": "ClientIP"}}),
        json!({"spec": {"externalTrafficPolicy": "Cluster",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}}}),
    );
}

#[test]
fn other_kinds() {
    check(
        "",
        "v1",
        "Namespace",
        json!({"metadata": {"name": "shop"}}),
        json!({"metadata": {"labels": {"kubernetes.io/metadata.name": "shop"}}, "status": {"phase": "Active"}}),
    );
    check(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        json!({"spec": {"names": {"kind": "Boat"}, "versions": [{"name": "v1", "storage": true}]}}),
        json!({"spec": {"names": {"singular": "boat", "listKind": "BoatList"}, "conversion": {"strategy": "None"}},
            "status": {"storedVersions": ["v1"]}}),
    );
    check(
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        json!({"roleRef": {"name": "x"}, "subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]}),
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io"}, {"apiGroup": null}]}),
    );
    check(
        "",
        "v1",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}),
        json!({"spec": {"limits": [{"default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Mi"}}]}}),
    );
}

#[test]
fn odd_trees_do_no_harm() {
    for kind in ["Pod", "Service", "Namespace", "PersistentVolume", "LimitRange", "Secret", "Node"] {
        for odd in [json!(null), json!([1]), json!({"spec": 1, "status": "x", "metadata": []})] {
            let mut object = odd.clone();
            apply("", "v1", kind, &mut object);
            prepare_for_create("", "v1", kind, &mut object);
            prepare_for_update("", "v1", kind, &mut object, &odd);
            prepare_for_status_update("", "v1", kind, &mut object, &odd);
        }
    }
}

#[test]
fn create_starts_afresh() {
    let mut pod = json!({"metadata": {"generation": 7, "deletionTimestamp": "x"}, "status": {"phase": "Running"},
        "spec": {"containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"},
            "limits": {"cpu": "1000m", "memory": "1Gi"}}}]}});
    prepare_for_create("", "v1", "Pod", &mut pod);
    assert_eq!(pod["metadata"], json!({"generation": 1}));
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Guaranteed"}));

    let mut job = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {}});
    prepare_for_create("batch", "v1", "Job", &mut job);
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");

    let mut secret = json!({"data": {"a": "eA=="}, "stringData": {"b": "foo"}});
    prepare_for_create("", "v1", "Secret", &mut secret);
    assert_eq!(secret["data"], json!({"a": "eA==", "b": "Zm9v"}));
    assert!(secret.get("stringData").is_none());

    let mut namespace = json!({});
    prepare_for_create("", "v1", "Namespace", &mut namespace);
    assert_eq!(namespace["spec"]["finalizers"], json!(["kubernetes"]));
}

#[test]
fn qos_classes() {
    let pod = |resources: Value| json!({"spec": {"containers": [{"resources": resources}]}});
    assert_eq!(qos::class(&pod(json!({}))), "BestEffort");
    assert_eq!(qos::class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
    assert_eq!(qos::class(&pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}))), "Burstable");
}

#[test]
fn update_counts_what_is_asked() {
    let old = json!({"metadata": {"generation": 4, "uid": "u"}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
    let mut same = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}});
    prepare_for_update("apps", "v1", "ReplicaSet", &mut same, &old);
    assert_eq!(same["metadata"], json!({"generation": 4, "uid": "u", "labels": {"a": "b"}}));
    assert_eq!(same["status"], old["status"]);

    let mut changed = json!({"metadata": {}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
    prepare_for_update("apps", "v1", "ReplicaSet", &mut changed, &old);
    assert_eq!((&changed["metadata"]["generation"], &changed["status"]["replicas"]), (&json!(5), &json!(1)));

    let mut status = json!({"metadata": {}, "spec": {"replicas": 3}, "status": {"replicas": 3}});
    prepare_for_status_update("apps", "v1", "ReplicaSet", &mut status, &old);
    assert_eq!((&status["spec"]["replicas"], &status["status"]["replicas"]), (&json!(1), &json!(3)));
}

#[test]
fn services_keep_what_they_were_given() {
    let old = json!({"metadata": {}, "spec": {"type": "NodePort", "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"],
        "ports": [{"name": "web", "port": 80, "nodePort": 30080}]}, "status": {}});
    let mut new = json!({"spec": {"type": "NodePort", "ports": [{"name": "web", "port": 81}]}});
    prepare_for_update("", "v1", "Service", &mut new, &old);
    assert_eq!(
        (&new["spec"]["clusterIP"], &new["spec"]["clusterIPs"]),
        (&json!("10.0.0.7"), &json!(["10.0.0.7"]))
    );
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30080);

    let mut closed = old.clone();
    closed["spec"]["type"] = json!("ClusterIP");
    prepare_for_update("", "v1", "Service", &mut closed, &old);
    assert_eq!(closed["spec"]["ports"][0].get("nodePort"), None);
}
