//! What people read, kind by kind.

use super::*;

/// Half an hour past three in the afternoon; objects of the tests were created five minutes before.
const NOW: &str = "2026-01-02T15:30:00Z";
const CREATED: &str = "2026-01-02T15:25:00Z";

#[track_caller]
fn check(group: &str, resource: &str, mut object: Value, expect: &[&str]) {
    object["metadata"]["creationTimestamp"] = json!(CREATED);
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("web");
    }
    let cells = cells(group, resource, &object, NOW.parse().unwrap());
    let texts: Vec<String> = cells.iter().map(tree::scalar).collect();
    assert_eq!(texts, expect, "{group}/{resource}");
    assert_eq!(cells.len(), columns(group, resource).len(), "{group}/{resource}: one cell for each column");
}

/// Ready, Status and Restarts of a pod.
#[track_caller]
fn check_pod(pod: Value, expect: [&str; 3]) {
    let mut pod = pod;
    pod["metadata"]["creationTimestamp"] = json!(CREATED);
    let cells = cells("", "pods", &pod, NOW.parse().unwrap());
    assert_eq!([&cells[1], &cells[2], &cells[3]], expect.map(|text| json!(text)).each_ref(), "{pod}");
}

#[test]
fn durations_lose_precision_as_they_grow() {
    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    for (millis, expect) in [
        (-5 * SECOND, "<invalid>"),
        (-SECOND, "0s"),
        (5 * SECOND + 900, "5s"),
        (119 * SECOND, "119s"),
        (2 * MINUTE, "2m"),
        (2 * MINUTE + 3 * SECOND, "2m3s"),
        (10 * MINUTE + 3 * SECOND, "10m"),
        (179 * MINUTE, "179m"),
        (3 * HOUR + 12 * MINUTE, "3h12m"),
        (8 * HOUR + 12 * MINUTE, "8h"),
        (47 * HOUR, "47h"),
        (2 * DAY, "2d"),
        (3 * DAY + 5 * HOUR, "3d5h"),
        (45 * DAY, "45d"),
        (740 * DAY, "2y10d"),
        (3000 * DAY, "8y"),
    ] {
        assert_eq!(text::human_duration(millis), expect, "{millis} ms");
    }
}

#[test]
fn pods_say_what_holds_them_up() {
    let running = json!({"state": {"running": {}}, "ready": true, "restartCount": 0, "name": "c"});
    let spec = json!({"containers": [{"name": "c"}]});
    check_pod(json!({"spec": spec, "status": {"phase": "Pending"}}), ["0/1", "Pending", "0"]);
    check_pod(
        json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running]}}),
        ["1/1", "Running", "0"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Pending", "containerStatuses":
            [{"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}}]}}),
        ["0/1", "ContainerCreating", "0"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [{
            "name": "c", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-02T15:27:00Z", "exitCode": 1}}}]}}),
        ["0/1", "CrashLoopBackOff", "4 (3m ago)"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Succeeded", "containerStatuses":
            [{"name": "c", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}}),
        ["0/1", "Completed", "0"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses":
            [{"name": "c", "state": {"terminated": {"signal": 9, "exitCode": 137}}}]}}),
        ["0/1", "Signal:9", "0"],
    );
    check_pod(
        json!({"metadata": {"deletionTimestamp": NOW}, "spec": spec,
            "status": {"phase": "Running", "containerStatuses": [running]}}),
        ["1/1", "Terminating", "0"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
        ["0/1", "SchedulingGated", "0"],
    );
}

#[test]
fn several_containers_share_one_word() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    let done = json!({"name": "a", "state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
    let running = json!({"name": "b", "ready": true, "state": {"running": {}}});
    check_pod(
        json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [done, running]}}),
        ["1/2", "NotReady", "0"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [done, running],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
        ["1/2", "Running", "0"],
    );
    let failed = json!({"name": "b", "state": {"terminated": {"reason": "Error", "exitCode": 1}}});
    check_pod(
        json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses": [done, failed]}}),
        ["0/2", "Error", "0"],
    );
}

#[test]
fn init_containers_are_counted_until_they_are_done() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
        "containers": [{"name": "c"}]});
    check_pod(
        json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses":
            [{"name": "i", "state": {"running": {}}}, {"name": "s", "state": {"waiting": {}}}]}}),
        ["0/2", "Init:0/2", "0"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [{
            "name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}),
        ["0/2", "Init:CrashLoopBackOff", "2"],
    );
    check_pod(
        json!({"spec": spec, "status": {"phase": "Running", "initContainerStatuses": [
            {"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 0}}},
            {"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
            "containerStatuses": [{"name": "c", "ready": true, "state": {"running": {}}}]}}),
        ["2/2", "Running", "0"],
    );
}

#[test]
fn workloads() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}});
    let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions":
        [{"key": "tier", "operator": "In", "values": ["b", "a"]}]});
    check(
        "apps",
        "deployments",
        json!({"spec": {"replicas": 3, "template": template, "selector": selector},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
        &["web", "2/3", "3", "2", "5m", "a,b", "x:1,y", "app=web,tier in (a,b)"],
    );
    check(
        "apps",
        "replicasets",
        json!({"spec": {"replicas": 3, "template": template}, "status": {"replicas": 3}}),
        &["web", "3", "3", "0", "5m", "a,b", "x:1,y", "<none>"],
    );
    check(
        "batch",
        "jobs",
        json!({"spec": {"completions": 1, "selector": selector}, "status": {"succeeded": 1,
            "startTime": "2026-01-02T15:25:00Z", "completionTime": "2026-01-02T15:25:07Z",
            "conditions": [{"type": "Complete", "status": "True"}]}}),
        &["web", "Complete", "1/1", "7s", "5m", "", "", "app=web,tier in (a,b)"],
    );
    check(
        "autoscaling",
        "horizontalpodautoscalers",
        json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 9,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}},
                {"type": "Pods", "pods": {"target": {"averageValue": "100"}}},
                {"type": "External", "external": {"target": {"value": "30"}}}]},
            "status": {"currentReplicas": 2, "currentMetrics": [
                {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12}}}]}}),
        &["web", "Deployment/web", "cpu: 12%/50%, <unknown>/100 + 1 more...", "1", "9", "2", "5m"],
    );
}

#[test]
fn networking() {
    check(
        "",
        "services",
        json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.7", "selector": {"b": "2", "a": "1"}, "ports":
            [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}}),
        &["web", "NodePort", "10.0.0.7", "<none>", "80:30080/TCP,53/UDP", "5m", "a=1,b=2"],
    );
    check(
        "",
        "services",
        json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.7"]}}),
        &["web", "LoadBalancer", "10.0.0.7", "<pending>", "<none>", "5m", "<none>"],
    );
    check(
        "",
        "endpoints",
        json!({"subsets": [{"ports": [{"port": 80}],
            "addresses": [{"ip": "10.1.0.1"}, {"ip": "10.1.0.2"}, {"ip": "10.1.0.3"}, {"ip": "10.1.0.4"}]}]}),
        &["web", "10.1.0.1:80,10.1.0.2:80,10.1.0.3:80 + 1 more...", "5m"],
    );
    check(
        "discovery.k8s.io",
        "endpointslices",
        json!({"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.1.0.1"]}]}),
        &["web", "IPv4", "80", "10.1.0.1", "5m"],
    );
    check(
        "networking.k8s.io",
        "ingresses",
        json!({"spec": {"ingressClassName": "wharf", "rules": [{"host": "a.test"}, {"host": "b.test"}],
            "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
        &["web", "wharf", "a.test,b.test", "192.0.2.1", "80, 443", "5m"],
    );
}

#[test]
fn cluster_objects() {
    check(
        "",
        "nodes",
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}},
            "spec": {"unschedulable": true}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64"}}}),
        &[
            "web",
            "Ready,SchedulingDisabled",
            "control-plane",
            "5m",
            "v1.36.0",
            "192.0.2.1",
            "<none>",
            "<unknown>",
            "6.1 (amd64)",
            "<unknown>",
        ],
    );
    let cells = ["60s", "Normal", "Started", "pod/web", "spec", "node, n1", "up", "2m", "3", "web"];
    check(
        "",
        "events",
        json!({"type": "Normal", "reason": "Started", "message": "up\n", "count": 3,
            "source": {"component": "node", "host": "n1"},
            "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec"},
            "firstTimestamp": "2026-01-02T15:28:00Z", "lastTimestamp": "2026-01-02T15:29:00Z"}),
        &cells,
    );
    check(
        "events.k8s.io",
        "events",
        json!({"type": "Normal", "reason": "Started", "note": "up", "reportingController": "node",
            "reportingInstance": "n1", "regarding": {"kind": "Pod", "name": "web", "fieldPath": "spec"},
            "eventTime": "2026-01-02T15:28:00.000000Z",
            "series": {"count": 3, "lastObservedTime": "2026-01-02T15:29:00.000000Z"}}),
        &cells,
    );
    check("", "configmaps", json!({"data": {"a": "1"}, "binaryData": {"b": "eA=="}}), &["web", "2", "5m"]);
    check("", "namespaces", json!({"status": {"phase": "Active"}}), &["web", "Active", "5m"]);
    check(
        "",
        "resourcequotas",
        json!({"status": {"hard": {"limits.cpu": "2", "pods": "10"}, "used": {"limits.cpu": "500m"}}}),
        &["web", "pods: 0/10", "limits.cpu: 500m/2", "5m"],
    );
}

#[test]
fn access_and_storage() {
    check(
        "rbac.authorization.k8s.io",
        "rolebindings",
        json!({"roleRef": {"kind": "Role", "name": "edit"}, "subjects": [{"kind": "User", "name": "ada"},
            {"kind": "ServiceAccount", "namespace": "default", "name": "bot"}]}),
        &["web", "Role/edit", "5m", "ada", "", "default/bot"],
    );
    check("rbac.authorization.k8s.io", "roles", json!({}), &["web", CREATED]);
    check("apiextensions.k8s.io", "customresourcedefinitions", json!({}), &["web", CREATED]);
    check(
        "",
        "persistentvolumeclaims",
        json!({"spec": {"volumeName": "v", "storageClassName": "fast", "volumeMode": "Filesystem"},
            "status": {"phase": "Bound", "capacity": {"storage": "1024Mi"}, "accessModes": ["ReadWriteOnce"]}}),
        &["web", "Bound", "v", "1Gi", "RWO", "fast", "<unset>", "5m", "Filesystem"],
    );
}

#[test]
fn every_table_prints_any_tree_with_one_cell_for_each_column() {
    let odd =
        [json!(null), json!([]), json!("x"), json!({"spec": [], "status": 1, "metadata": "m"}), json!({})];
    for table in FAMILIES.iter().flat_map(|family| family.iter()) {
        for object in &odd {
            let cells = cells(table.group, table.resource, object, Timestamp::EPOCH);
            assert_eq!(cells.len(), table.columns.len(), "{}: {object}", table.resource);
        }
    }
}
