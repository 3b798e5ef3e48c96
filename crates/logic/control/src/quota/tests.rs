use super::*;
use serde_json::json;

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_unix(NOW, 0)
}

fn amounts(pairs: &[(&str, &str)]) -> Amounts {
    pairs.iter().map(|(name, amount)| ((*name).to_owned(), amount.parse().unwrap())).collect()
}

fn check_usage(resource: Resource<'_>, object: Value, expect: &[(&str, &str)]) {
    assert_eq!(usage(resource, &object, now()), amounts(expect), "{object}");
}

fn pod(containers: Value, rest: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
    for (field, value) in rest.as_object().unwrap() {
        match field.as_str() {
            "status" | "metadata" => pod[field] = value.clone(),
            _ => pod["spec"][field] = value.clone(),
        }
    }
    pod
}

fn container(requests: Value, limits: Value) -> Value {
    json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
}

#[test]
fn names_belong_to_resources() {
    for (name, expect) in [
        ("pods", Some(("", "pods"))),
        ("requests.cpu", Some(("", "pods"))),
        ("limits.ephemeral-storage", Some(("", "pods"))),
        ("hugepages-2Mi", Some(("", "pods"))),
        ("requests.hugepages-1Gi", Some(("", "pods"))),
        ("requests.example.com/gpu", Some(("", "pods"))),
        ("example.com/gpu", None),
        ("requests.storage", Some(("", "persistentvolumeclaims"))),
        ("gold.storageclass.storage.k8s.io/requests.storage", Some(("", "persistentvolumeclaims"))),
        ("services.nodeports", Some(("", "services"))),
        ("configmaps", Some(("", "configmaps"))),
        ("count/pods", Some(("", "pods"))),
        ("count/widgets.example.com", Some(("example.com", "widgets"))),
        ("something", None),
    ] {
        assert_eq!(resource_of(name).map(|r| (r.group, r.name)), expect, "{name}");
    }
}

#[test]
fn a_pod_asks_for_its_containers_or_its_largest_init_container() {
    let cpu = |amount: &str| container(json!({"cpu": amount}), json!({"cpu": amount}));
    let mut sidecar = cpu("1");
    sidecar["restartPolicy"] = "Always".into();
    let of = |inits: Value| {
        let rest = json!({"initContainers": inits, "overhead": {"cpu": "7"}});
        let (requests, limits) = asked(&pod(json!([cpu("1"), cpu("2")]), rest));
        assert_eq!(requests, limits);
        requests["cpu"].to_string()
    };
    assert_eq!(of(json!([cpu("2500m")])), "3");
    assert_eq!(of(json!([cpu("3500m")])), "3500m");
    assert_eq!(of(json!([sidecar, cpu("3500m")])), "4500m");
}

#[test]
fn pods_use_what_they_ask_for() {
    let full = container(
        json!({"cpu": "500m", "memory": "1Gi", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"}),
        json!({"cpu": "1", "ephemeral-storage": "1Gi"}),
    );
    let expect = [
        ("count/pods", "1"),
        ("pods", "1"),
        ("cpu", "1"),
        ("requests.cpu", "1"),
        ("limits.cpu", "2"),
        ("memory", "2Gi"),
        ("requests.memory", "2Gi"),
        ("limits.ephemeral-storage", "2Gi"),
        ("requests.example.com/gpu", "4"),
        ("hugepages-2Mi", "8Mi"),
        ("requests.hugepages-2Mi", "8Mi"),
    ];
    check_usage(PODS, pod(json!([full, full]), json!({})), &expect);
    check_usage(PODS, pod(json!([{"name": "c"}]), json!({})), &[("count/pods", "1"), ("pods", "1")]);
    let ended = json!({"status": {"phase": "Succeeded"}});
    check_usage(PODS, pod(json!([full]), ended), &[("count/pods", "1")]);
}

#[test]
fn init_containers_sidecars_overhead_and_whole_pods_count() {
    let cpu = |amount: &str| container(json!({"cpu": amount}), json!({}));
    let mut sidecar = cpu("1");
    sidecar["restartPolicy"] = json!("Always");
    let check = |rest: Value, expect: &str| {
        let used = usage(PODS, &pod(json!([cpu("2")]), rest.clone()), now());
        assert_eq!(used.get("cpu"), Some(&expect.parse().unwrap()), "{rest}");
    };
    check(json!({"initContainers": [cpu("1")]}), "2");
    check(json!({"initContainers": [cpu("5")]}), "5");
    check(json!({"initContainers": [sidecar]}), "3");
    // The init container runs beside the sidecar before it only.
    check(json!({"initContainers": [sidecar, cpu("4")]}), "5");
    check(json!({"initContainers": [cpu("4"), sidecar]}), "4");
    check(json!({"overhead": {"cpu": "250m"}}), "2250m");
    check(json!({"resources": {"requests": {"cpu": "7"}}}), "7");
    let grown = json!({"status": {"containerStatuses": [
        {"name": "c", "allocatedResources": {"cpu": "3"}, "resources": {"requests": {"cpu": "1"}}}]}});
    check(grown, "3");
}

#[test]
fn pods_their_node_does_not_end_stop_to_count() {
    let leaving = |seconds: i64| {
        let deletion = Timestamp::from_unix(NOW - seconds, 0);
        pod(json!([]), json!({"metadata": {"deletionTimestamp": deletion, "deletionGracePeriodSeconds": 30}}))
    };
    check_usage(PODS, leaving(20), &[("count/pods", "1"), ("pods", "1")]);
    check_usage(PODS, leaving(31), &[("count/pods", "1")]);
    let quota = quota(json!({"hard": {"pods": "5"}}));
    let pods: Pod = read(&leaving(20)).unwrap();
    let step = step(&View { quota: &quota, objects: &[Objects::Pods(&[&pods])] }, now());
    assert_eq!(step.requeue_after.map(|wait| wait.as_secs()), Some(10));
}

#[test]
fn services_claims_and_everything_else() {
    let service = |spec: Value| json!({"spec": spec});
    let services = |spec, balancers, ports| {
        let base = [("count/services", "1"), ("services", "1")];
        let own = [("services.loadbalancers", balancers), ("services.nodeports", ports)];
        check_usage(SERVICES, service(spec), &[base, own].concat());
    };
    services(json!({"ports": [{}]}), "0", "0");
    services(json!({"type": "NodePort", "ports": [{}, {}]}), "0", "2");
    services(json!({"type": "LoadBalancer", "ports": [{}, {}]}), "1", "2");
    let without = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "ports": [{"nodePort": 30000}, {}]});
    services(without, "1", "1");
    let claim =
        json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1500m"}}}});
    check_usage(
        CLAIMS,
        claim,
        &[
            ("count/persistentvolumeclaims", "1"),
            ("persistentvolumeclaims", "1"),
            ("requests.storage", "2"),
            ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "2"),
        ],
    );
    check_usage(Resource::new("", "secrets"), json!({}), &[("count/secrets", "1"), ("secrets", "1")]);
    check_usage(Resource::new("apps", "deployments"), json!({}), &[("count/deployments.apps", "1")]);
}

fn quota(spec: Value) -> ResourceQuota {
    read(&json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": spec})).unwrap()
}

#[test]
fn scopes_choose_pods() {
    let best_effort = pod(json!([{"name": "c"}]), json!({}));
    let asking = pod(json!([container(json!({"cpu": "1"}), json!({}))]), json!({}));
    let deadline = pod(json!([]), json!({"activeDeadlineSeconds": 5, "priorityClassName": "high"}));
    let term = json!([{"podAffinityTerm": {"namespaceSelector": {}}}]);
    let reaching = pod(
        json!([]),
        json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term}}}),
    );
    let pods = [&best_effort, &asking, &deadline, &reaching];
    let check = |spec: Value, expect: [bool; 4]| {
        let quota = quota(spec.clone());
        let found = pods.map(|pod| matches_scopes(&quota.spec, PODS, pod));
        assert_eq!(found, expect, "{spec}");
    };
    let plain = |scopes: &[&str]| json!({"scopes": scopes});
    check(json!({}), [true; 4]);
    check(plain(&["BestEffort"]), [true, false, true, true]);
    check(plain(&["NotBestEffort"]), [false, true, false, false]);
    check(plain(&["Terminating"]), [false, false, true, false]);
    check(plain(&["NotTerminating", "BestEffort"]), [true, false, false, true]);
    check(plain(&["CrossNamespacePodAffinity"]), [false, false, false, true]);
    check(plain(&["PriorityClass"]), [false, false, true, false]);
    let priority = |operator: &str, values: &[&str]| {
        let one = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
        json!({"scopeSelector": {"matchExpressions": [one]}})
    };
    check(priority("In", &["high"]), [false, false, true, false]);
    check(priority("In", &["low"]), [false; 4]);
    check(priority("NotIn", &["high"]), [true, true, false, true]);
    check(priority("DoesNotExist", &[]), [true, true, false, true]);
    let scoped = quota(plain(&["BestEffort"]));
    assert!(!matches_scopes(&scoped.spec, SERVICES, &json!({})), "only pods have this scope");
}

#[test]
fn the_status_follows_what_is_there() {
    let mut quota =
        quota(json!({"hard": {"pods": "5", "configmaps": "2", "count/widgets.example.com": "9"}}));
    quota.status.used = amounts(&[("count/widgets.example.com", "3"), ("secrets", "1")]);
    let one: Pod = read(&pod(json!([]), json!({}))).unwrap();
    let maps = [&json!({}), &json!({})];
    // Widgets cannot be seen now: what was known of them stays. Secrets are no longer asked for.
    let objects = [Objects::Pods(&[&one]), Objects::Of(Resource::new("", "configmaps"), &maps)];
    let step = step(&View { quota: &quota, objects: &objects }, now());
    let [crate::Action::UpdateStatus { patch, .. }] = step.actions.as_slice() else { panic!("{step:?}") };
    assert_eq!(
        patch["status"],
        json!({"hard": {"pods": "5", "configmaps": "2", "count/widgets.example.com": "9"},
            "used": {"pods": "1", "configmaps": "2", "secrets": null}})
    );
    quota.status = QuotaStatus {
        hard: quota.spec.hard.clone(),
        used: amounts(&[("pods", "1"), ("configmaps", "2"), ("count/widgets.example.com", "3")]),
    };
    assert_eq!(super::step(&View { quota: &quota, objects: &objects }, now()), Step::idle());
}

#[test]
fn too_much_is_named_only_when_asked_for() {
    let hard = amounts(&[("pods", "2"), ("cpu", "1"), ("memory", "1Gi")]);
    let used = amounts(&[("pods", "2"), ("cpu", "700m"), ("memory", "2Gi")]);
    assert_eq!(exceeded(&hard, &used, &amounts(&[("pods", "1"), ("cpu", "400m")])), ["cpu", "pods"]);
    assert_eq!(exceeded(&hard, &used, &amounts(&[("cpu", "300m"), ("secrets", "1")])), [""; 0]);
    let grown = increase(&amounts(&[("cpu", "1"), ("pods", "1")]), &amounts(&[("cpu", "3"), ("pods", "1")]));
    assert_eq!(grown, amounts(&[("cpu", "2")]));
}

#[test]
fn containers_must_say_what_a_quota_limits() {
    let hard = amounts(&[("limits.cpu", "1"), ("memory", "1Gi"), ("requests.example.com/gpu", "1")]);
    let check = |pod: Value, expect: &[&str]| {
        let missing = unspecified(&hard, &read(&pod).unwrap());
        assert_eq!(missing.into_keys().collect::<Vec<_>>(), expect, "{pod}");
    };
    check(pod(json!([container(json!({"memory": "1"}), json!({"cpu": "1"}))]), json!({})), &[]);
    check(pod(json!([container(json!({"memory": "1"}), json!({}))]), json!({})), &["limits.cpu"]);
    check(pod(json!([{"name": "c"}]), json!({})), &["limits.cpu", "memory"]);
    check(pod(json!([{"name": "c"}]), json!({"resources": {"limits": {"cpu": "1"}}})), &[]);
}
