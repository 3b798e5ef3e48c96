//! The control loops and the scheduler, seen through kubectl: a platform with nodes that exist on paper only.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::time::Instant;

use serde_json::{Value, json};
use support::{Kubectl, PATIENCE, text};

/// A control plane whose nodes exist on paper only.
struct Platform {
    platform: support::Platform,
    kubectl: Kubectl,
}

impl Platform {
    fn start() -> Self {
        let platform = support::Platform::control_plane();
        let kubectl = platform.kubectl();
        Self { platform, kubectl }
    }

    /// SIGKILL, and a new start on the same folder.
    fn kill_and_restart(&mut self) {
        self.platform.kill();
        self.platform.restart();
    }

    fn kubectl(&self, args: &[&str]) -> String {
        self.kubectl.run(args)
    }

    fn apply(&self, object: &Value) {
        self.kubectl.apply_object(object);
    }

    fn get(&self, args: &[&str]) -> Value {
        self.kubectl.get(args)
    }

    fn list(&self, args: &[&str]) -> Vec<Value> {
        self.kubectl.list(args)
    }

    fn list_until(&self, what: &str, args: &[&str], wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        self.kubectl.list_until(what, args, wanted)
    }

    /// Says that a node is well, as its agent would.
    fn heartbeat(&self, name: &str, beat: u32) {
        let condition = json!({"type": "Ready", "status": "True", "reason": "Paper", "message": "on paper",
            "lastHeartbeatTime": format!("2026-01-01T00:{:02}:{:02}Z", beat / 60, beat % 60)});
        let status = json!({"status": {"conditions": [condition],
            "capacity": {"cpu": "8", "memory": "16Gi", "pods": "110"},
            "allocatable": {"cpu": "8", "memory": "16Gi", "pods": "110"}}});
        let patch = status.to_string();
        self.kubectl(&["patch", "node", name, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    fn add_node(&self, name: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}));
        self.heartbeat(name, 0);
    }

    /// Says what a node agent would say of a pod.
    fn patch_pod(&self, namespace: &str, pod: &Value, status: Value) {
        let (name, patch) = (text(pod, "/metadata/name"), json!({"status": status}).to_string());
        let args =
            ["patch", "pod", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", &patch];
        self.kubectl(&args);
    }
}

fn bound(pods: &[Value]) -> bool {
    pods.iter().all(|pod| text(pod, "/spec/nodeName").starts_with("paper"))
}

fn template(labels: Value) -> Value {
    // Nobody stops containers here: pods go as soon as they are deleted.
    json!({"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "shop:1", "ports": [{"containerPort": 8080}],
            "resources": {"requests": {"cpu": "100m"}}}]}})
}

fn deployment(namespace: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": template(json!({"app": "web"}))}})
}

fn deployments_scale_update_and_go(platform: &Platform) {
    platform.apply(&deployment("default", 3));
    let pods = platform.list_until("pods are bound", &["pods"], |pods| pods.len() == 3 && bound(pods));
    let sets = platform.list(&["replicasets"]);
    assert_eq!(sets.len(), 1);
    assert_eq!(text(&sets[0], "/metadata/ownerReferences/0/name"), "web");
    assert_eq!(text(&pods[0], "/metadata/ownerReferences/0/name"), text(&sets[0], "/metadata/name"));

    platform.kubectl(&["scale", "deployment/web", "--replicas=5"]);
    platform.list_until("scaled up", &["pods"], |pods| pods.len() == 5 && bound(pods));
    platform.kubectl(&["scale", "deployment/web", "--replicas=2"]);
    platform.list_until("scaled down", &["pods"], |pods| pods.len() == 2);

    platform.kubectl(&["set", "image", "deployment/web", "main=shop:2"]);
    let sets = platform.list_until("a second version", &["replicasets"], |sets| sets.len() == 2);
    let revision = |set: &Value| set["metadata"]["annotations"]["deployment.kubernetes.io/revision"].clone();
    assert_ne!(revision(&sets[0]), revision(&sets[1]));
    let count = |pods: &[Value]| {
        let new = pods.iter().filter(|pod| text(pod, "/spec/containers/0/image") == "shop:2");
        new.cloned().collect::<Vec<_>>()
    };
    let mut pods = platform.list_until("new pods", &["pods"], |pods| !count(pods).is_empty() && bound(pods));
    // Each new pod that becomes ready lets an old one go.
    let deadline = Instant::now() + PATIENCE;
    while pods.len() != 2 || count(&pods).len() != 2 {
        assert!(Instant::now() < deadline, "the update does not end: {}", json!(pods));
        for pod in count(&pods).iter().filter(|pod| text(pod, "/status/phase") != "Running") {
            platform.patch_pod("default", pod, ready("10.1.0.1"));
        }
        pods = platform.list(&["pods"]);
    }
    platform.kubectl(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    let events = platform.kubectl(&["get", "events"]);
    for reason in ["ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled"] {
        assert!(events.contains(reason), "no event {reason} in {events}");
    }

    platform.kubectl(&["delete", "deployment", "web"]);
    platform.list_until("ReplicaSets collected", &["replicasets"], <[Value]>::is_empty);
    platform.list_until("pods collected", &["pods"], <[Value]>::is_empty);
}

fn ready(address: &str) -> Value {
    json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "PodScheduled", "status": "True"}]})
}

fn services_find_ready_pods_and_namespaces_go(platform: &Platform) {
    platform.kubectl(&["create", "namespace", "shop"]);
    platform.list_until("defaults", &["configmaps", "-n", "shop"], |maps| maps.len() == 1);
    platform.list_until("defaults", &["serviceaccounts", "-n", "shop"], |accounts| accounts.len() == 1);
    platform.apply(&deployment("shop", 2));
    platform.apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    let pods = platform.list_until("bound", &["pods", "-n", "shop"], |pods| pods.len() == 2 && bound(pods));
    for (pod, address) in pods.iter().zip(["10.1.0.2", "10.1.0.3"]) {
        platform.patch_pod("shop", pod, ready(address));
    }
    let addresses = |slices: &[Value]| {
        let endpoints = slices.iter().filter_map(|slice| slice["endpoints"].as_array()).flatten();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let mut all: Vec<String> = ready.map(|e| text(e, "/addresses/0").to_owned()).collect();
        all.sort();
        all
    };
    platform.list_until("slices", &["endpointslices", "-n", "shop"], |slices| {
        addresses(slices) == ["10.1.0.2", "10.1.0.3"] && slices[0]["ports"][0]["port"] == 8080
    });
    platform.list_until("endpoints", &["endpoints", "-n", "shop"], |all| {
        all.iter().any(|e| e["subsets"][0]["addresses"].as_array().is_some_and(|a| a.len() == 2))
    });
    platform.kubectl(&["delete", "service", "web", "-n", "shop"]);
    platform.list_until("endpoints gone", &["endpoints", "-n", "shop"], <[Value]>::is_empty);
    platform.list_until("slices gone", &["endpointslices", "-n", "shop"], <[Value]>::is_empty);
    platform.kubectl(&["delete", "namespace", "shop", "--timeout=60s"]);
    let left = platform.kubectl(&["get", "all,configmaps", "-n", "shop", "-o", "name"]);
    assert_eq!(left, "");
}

fn jobs_count_their_pods(platform: &Platform) {
    let mut spec = template(json!({"app": "work"}));
    spec["spec"]["restartPolicy"] = json!("Never");
    platform.apply(&json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "work", "namespace": "default"}, "spec": {"completions": 2, "template": spec}}));
    for _ in 0..2 {
        let running = |pods: &[Value]| {
            pods.iter()
                .find(|pod| text(pod, "/status/phase") == "Pending" && bound(&[(*pod).clone()]))
                .cloned()
        };
        let pods = platform.list_until("a pod of the job", &["pods"], |pods| running(pods).is_some());
        platform.patch_pod("default", &running(&pods).unwrap(), json!({"phase": "Succeeded"}));
    }
    platform.kubectl(&["wait", "--for=condition=complete", "job/work", "--timeout=60s"]);
    let job = platform.get(&["job", "work"]);
    assert_eq!(job["status"]["succeeded"], 2);
    platform.kubectl(&["delete", "job", "work"]);
    platform.list_until("pods of the job collected", &["pods"], <[Value]>::is_empty);
}

fn custom_owners_are_known(platform: &Platform) {
    platform.apply(&json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "carts.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "carts", "singular": "cart", "kind": "Cart", "listKind": "CartList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]}}));
    platform.kubectl(&["wait", "--for=condition=established", "crd/carts.example.com", "--timeout=30s"]);
    platform.apply(&json!({"apiVersion": "example.com/v1", "kind": "Cart",
        "metadata": {"name": "mine", "namespace": "default"}}));
    let owner = |name: &str, uid: &str| json!([{"apiVersion": "example.com/v1", "kind": "Cart", "name": name, "uid": uid}]);
    let note = |name: &str, owners: Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default", "ownerReferences": owners}})
    };
    let uid = platform.get(&["cart", "mine"])["metadata"]["uid"].as_str().unwrap().to_owned();
    platform.apply(&note("kept", owner("mine", &uid)));
    platform.apply(&note("lost", owner("other", "0c5cd5ab-0000-4000-8000-000000000000")));
    let names =
        |maps: &[Value]| maps.iter().map(|m| text(m, "/metadata/name").to_owned()).collect::<Vec<_>>();
    platform.list_until("a map without its owner goes", &["configmaps"], |maps| {
        !names(maps).contains(&"lost".to_owned())
    });
    assert!(names(&platform.list(&["configmaps"])).contains(&"kept".to_owned()));
    platform.kubectl(&["delete", "cart", "mine"]);
    platform.list_until("dependents of a custom resource", &["configmaps"], |maps| {
        !names(maps).contains(&"kept".to_owned())
    });
    platform.apply(&json!({"apiVersion": "example.com/v1", "kind": "Cart",
        "metadata": {"name": "last", "namespace": "default"}}));
    platform.kubectl(&["delete", "crd", "carts.example.com", "--timeout=60s"]);
}

fn pods_that_fit_nowhere_say_why(platform: &Platform) {
    let mut pod = template(json!({"app": "big"}));
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"] = json!({"name": "big", "namespace": "default"});
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("9");
    platform.apply(&pod);
    let pods = platform.list_until("the condition", &["pods"], |pods| {
        pods.iter().any(|pod| text(pod, "/status/conditions/0/reason") == "Unschedulable")
    });
    assert_eq!(
        text(&pods[0], "/status/conditions/0/message"),
        "0/2 nodes are available: 2 Insufficient cpu."
    );
    platform.list_until("the event", &["events"], |events| {
        events.iter().any(|event| text(event, "/reason") == "FailedScheduling")
    });
    let more = json!({"status": {"allocatable": {"cpu": "16"}, "capacity": {"cpu": "16"}}}).to_string();
    platform.kubectl(&["patch", "node", "paper-1", "--subresource=status", "--type=merge", "-p", &more]);
    platform.list_until("a node that grew takes it", &["pods"], bound);
    platform.kubectl(&["delete", "pod", "big"]);
}

fn the_first_of_two_manages(platform: &Platform) {
    let conditions = |object: &Value, kind: &str| {
        let all = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        all.filter(|c| text(c, "/type") == kind).map(|c| text(c, "/message").to_owned()).collect::<String>()
    };
    platform.apply(&deployment("default", 1));
    let scaled = |name: &str, count: &str| {
        json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"scaleTargetRef": {"name": "web"}, "triggers": [{"type": "cron", "metadata":
                {"timezone": "UTC", "start": "0 0 1 1 *", "end": "59 23 31 12 *", "desiredReplicas": count}}]}})
    };
    platform.apply(&scaled("a", "2"));
    platform.list_until("the first scales", &["pods"], |pods| pods.len() == 2);
    platform.apply(&scaled("b", "3"));
    let message = "Deployment web is already managed by ScaledObject a";
    platform.list_until("the second is told", &["scaledobjects"], |objects| {
        objects.iter().any(|o| text(o, "/metadata/name") == "b" && conditions(o, "Ready") == message)
    });
    assert_eq!(platform.get(&["deployment", "web"])["spec"]["replicas"], 2);
    platform.kubectl(&["delete", "scaledobject", "a"]);
    platform.list_until("the second scales", &["pods"], |pods| pods.len() == 3);
    platform.kubectl(&["delete", "scaledobject", "b"]);
    platform.kubectl(&["delete", "deployment", "web"]);

    platform.apply(&json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "front", "namespace": "default"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}));
    let rollout = |name: &str| {
        json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout",
            "metadata": {"name": name, "namespace": "default"},
            // Nobody runs pods here: without any it is available at once.
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web", "of": name}},
                "template": template(json!({"app": "web", "of": name})),
                "strategy": {"blueGreen": {"activeService": "front"}}}})
    };
    let invalid = |name: &'static str, wanted: &'static str| {
        platform.list_until(wanted, &["rollouts"], |all| {
            all.iter().any(|r| text(r, "/metadata/name") == name && conditions(r, "InvalidSpec") == wanted)
        });
    };
    let hash = || {
        let service = platform.get(&["service", "front"]);
        service["spec"]["selector"]["rollouts-pod-template-hash"].as_str().unwrap_or_default().to_owned()
    };
    platform.apply(&rollout("one"));
    platform.list_until("the first has its Service", &["services"], |_| !hash().is_empty());
    let first = hash();
    platform.apply(&rollout("two"));
    invalid("two", "spec.strategy: Service \"front\" is managed by Rollout \"one\"");
    assert_eq!(hash(), first);
    platform.kubectl(&["delete", "rollout", "one"]);
    platform.list_until("the second has it", &["services"], |_| hash() != first);
    platform.kubectl(&["delete", "rollout", "two"]);
    platform.kubectl(&["delete", "service", "front"]);
    platform.list_until("all pods went", &["pods"], <[Value]>::is_empty);
}

fn a_killed_platform_goes_on(platform: &mut Platform) {
    platform.apply(&deployment("default", 30));
    platform.kill_and_restart();
    platform.list_until("the rest after the kill", &["pods"], |pods| pods.len() == 30 && bound(pods));
    assert_eq!(platform.list(&["replicasets"]).len(), 1);
    platform.kubectl(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=60s"]);
    assert_eq!(platform.list(&["pods"]), [Value::Null; 0]);
}

#[test]
fn loops_work_on_real_objects() {
    let mut platform = Platform::start();
    ["paper-0", "paper-1"].iter().for_each(|node| platform.add_node(node));
    let stories: [fn(&Platform); 6] = [
        deployments_scale_update_and_go,
        services_find_ready_pods_and_namespaces_go,
        jobs_count_their_pods,
        custom_owners_are_known,
        pods_that_fit_nowhere_say_why,
        the_first_of_two_manages,
    ];
    for (beat, story) in stories.iter().enumerate() {
        // Silent nodes are tainted after forty seconds.
        ["paper-0", "paper-1"].iter().for_each(|node| platform.heartbeat(node, beat as u32 + 1));
        story(&platform);
    }
    a_killed_platform_goes_on(&mut platform);
}
