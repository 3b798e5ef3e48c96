//! Running pods that change: containers added to look into them, other resources.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wharf_client::Error;

use crate::support::*;

/// Patches a subresource of a pod.
async fn patch(cluster: &Cluster, pod: &str, subresource: &str, patch: Value) -> Result<Value, String> {
    let path = format!("/api/v1/namespaces/default/pods/{pod}/{subresource}");
    let kind = "application/strategic-merge-patch+json";
    match cluster.client.call(http::Method::PATCH, &path, kind, Some(&patch)).await {
        Ok(pod) => Ok(pod),
        Err(Error::Api { message, .. }) => Err(message),
        Err(other) => panic!("{other}"),
    }
}

fn ephemeral(containers: Value) -> Value {
    json!({"spec": {"ephemeralContainers": containers}})
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_added_to_look_into_a_pod() {
    let mut cluster = Cluster::start().await;
    let main = json!({"name": "main", "command": sh(FOREVER)});
    let spec = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [main]});
    cluster.pod("p", spec).await;
    cluster.until("p", "ready", is_ready).await;
    let debugger = |name: &str, script: &str| json!({"name": name, "image": "test/busybox:1", "command": sh(script), "targetContainerName": "main"});
    let looks = "cat /proc/1/cmdline | tr '\\0' ' '; exec sleep 1000";
    let changed = patch(&cluster, "p", "ephemeralcontainers", ephemeral(json!([debugger("debug", looks)])));
    assert_eq!(changed.await.unwrap()["metadata"]["generation"], 2);
    let status = |pod: &Value, name: &str| {
        let all = pod["status"]["ephemeralContainerStatuses"].as_array().into_iter().flatten();
        all.into_iter().find(|status| status["name"] == name).cloned().unwrap_or_default()
    };
    let pod =
        cluster.until("p", "looked into", |pod| status(pod, "debug")["state"]["running"].is_object()).await;
    assert_eq!(pod["status"]["observedGeneration"], 2);
    assert!(status(&pod, "debug")["resources"].is_null());
    // It sees the processes of the container it is for, and has files of its own.
    let (code, seen) = cluster.exec("p", "debug", "cat /proc/1/cmdline | tr '\\0' ' '").await;
    assert_eq!((code, seen.as_str()), (0, format!("sh -c {FOREVER} ").as_str()));

    // One that has ended is not started again, whatever the pod's policy.
    let over = patch(&cluster, "p", "ephemeralcontainers", ephemeral(json!([debugger("over", "exit 3")])));
    over.await.unwrap();
    let ended = |pod: &Value| status(pod, "over")["state"]["terminated"]["exitCode"] == 3;
    let pod = cluster.until("p", "with one that has ended", ended).await;
    assert!(is_ready(&pod) && pod["status"]["phase"] == "Running");
    cluster.restart();
    let added = patch(&cluster, "p", "ephemeralcontainers", ephemeral(json!([debugger("last", looks)])));
    added.await.unwrap();
    let pod =
        cluster.until("p", "with a third", |pod| status(pod, "last")["state"]["running"].is_object()).await;
    assert_eq!(status(&pod, "over")["restartCount"], 0);
    assert!(status(&pod, "debug")["state"]["running"].is_object(), "{pod:#}");

    let wrong = [
        (
            json!([{"name": "debug", "image": "other"}]),
            "existing ephemeral containers \"debug\" may not be changed",
        ),
        (
            json!([{"name": "debug", "$patch": "delete"}]),
            "existing ephemeral containers \"debug\" may not be removed",
        ),
        (
            json!([{"name": "x", "image": "i", "targetContainerName": "no"}]),
            "targetContainerName: Not found: \"no\"",
        ),
        (
            json!([{"name": "x", "image": "i", "resources": {"limits": {"cpu": "1"}}}]),
            "resources: Forbidden: cannot be set for an Ephemeral Container",
        ),
    ];
    for (containers, why) in wrong {
        let refused = patch(&cluster, "p", "ephemeralcontainers", ephemeral(containers)).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    cluster.delete("p", 1).await;
    cluster.until_gone("p").await;
    cluster.drain().await;
}

fn resized(name: &str, resources: Value) -> Value {
    json!({"spec": {"containers": [{"name": name, "resources": resources}]}})
}

/// The processors and memory a container's cgroup allows, in microseconds of a tenth of a second and bytes.
async fn limits(cluster: &Cluster, container: &str) -> (String, String) {
    let read = |names: &str| {
        format!(
            "for f in {names}; do [ -e /sys/fs/cgroup/$f ] && cut -d' ' -f1 /sys/fs/cgroup/$f; done; true"
        )
    };
    let (_, cpu) = cluster.exec("p", container, &read("cpu/cpu.cfs_quota_us cpu.max")).await;
    let (_, memory) = cluster.exec("p", container, &read("memory/memory.limit_in_bytes memory.max")).await;
    (cpu.trim().to_owned(), memory.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_change_while_containers_run() {
    let mut cluster = Cluster::start().await;
    let amounts = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
    let resources =
        |cpu: &str, memory: &str| json!({"requests": amounts(cpu, memory), "limits": amounts(cpu, memory)});
    let container = |name: &str, policy: &str| {
        json!({"name": name, "command": sh(FOREVER), "resources": resources("100m", "32Mi"),
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}]})
    };
    let containers = [container("a", "NotRequired"), container("b", "RestartContainer")];
    cluster.pod("p", json!({"restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 5, "containers": containers})).await;
    cluster.until("p", "ready", is_ready).await;
    assert_eq!(limits(&cluster, "a").await, ("10000".into(), (32 << 20).to_string()));

    let settled = |pod: &Value, at: usize, wanted: &Value| {
        let status = &pod["status"]["containerStatuses"][at];
        is_ready(pod)
            && status["resources"] == *wanted
            && status["allocatedResources"] == wanted["requests"]
            && pod["status"]["observedGeneration"] == pod["metadata"]["generation"]
            && !condition(pod, "PodResizeInProgress")
            && !condition(pod, "PodResizePending")
    };
    let wanted = resources("200m", "64Mi");
    patch(&cluster, "p", "resize", resized("a", wanted.clone())).await.unwrap();
    let pod = cluster.until("p", "resized", |pod| settled(pod, 0, &wanted)).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(limits(&cluster, "a").await, ("20000".into(), (64 << 20).to_string()));
    // Less than before, and a processor alone does not restart where only memory asks for it.
    let smaller = resources("50m", "16Mi");
    patch(&cluster, "p", "resize", resized("a", smaller.clone())).await.unwrap();
    patch(&cluster, "p", "resize", resized("b", resources("150m", "32Mi"))).await.unwrap();
    cluster.until("p", "smaller", |pod| settled(pod, 0, &smaller)).await;
    let pod = cluster.until("p", "faster", |pod| settled(pod, 1, &resources("150m", "32Mi"))).await;
    assert_eq!(pod["status"]["containerStatuses"][1]["restartCount"], 0);
    assert_eq!(limits(&cluster, "a").await, ("5000".into(), (16 << 20).to_string()));
    assert_eq!(limits(&cluster, "b").await, ("15000".into(), (32 << 20).to_string()));
    // Its program ends well when told to, and is started again all the same.
    let larger = resources("150m", "48Mi");
    patch(&cluster, "p", "resize", resized("b", larger.clone())).await.unwrap();
    let pod = cluster.until("p", "restarted", |pod| settled(pod, 1, &larger)).await;
    assert_eq!(pod["status"]["containerStatuses"][1]["restartCount"], 1);
    assert_eq!(limits(&cluster, "b").await, ("15000".into(), (48 << 20).to_string()));

    // What the node does not have is not given; a new agent knows so too.
    let huge = resources("5000", "16Mi");
    patch(&cluster, "p", "resize", resized("a", huge)).await.unwrap();
    let reason = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|c| c["type"] == "PodResizePending");
        found.map(|found| found["reason"].as_str().unwrap().to_owned())
    };
    let infeasible = |pod: &Value| reason(pod).as_deref() == Some("Infeasible");
    let pod = cluster.until("p", "infeasible", infeasible).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["resources"], smaller);
    cluster.restart();
    let taken_over = Instant::now();
    while cluster.agent().stats().len() < 2 {
        assert!(taken_over.elapsed() < DEADLINE, "the new agent does not know the pod");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(limits(&cluster, "a").await, ("5000".into(), (16 << 20).to_string()));
    assert_eq!(reason(&cluster.get("p").await.unwrap()).as_deref(), Some("Infeasible"));
    patch(&cluster, "p", "resize", resized("a", wanted.clone())).await.unwrap();
    let pod = cluster.until("p", "feasible again", |pod| settled(pod, 0, &wanted)).await;
    assert!(reason(&pod).is_none());
    assert_eq!(limits(&cluster, "a").await, ("20000".into(), (64 << 20).to_string()));

    let wrong = [
        (
            resized("a", json!({"limits": {"cpu": "300m"}})),
            "Pod QOS Class may not change as a result of resizing",
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "resources": null}]}}),
            "resource limits cannot be removed",
        ),
        (
            json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
            "containers may not be added or removed on resize",
        ),
    ];
    for (change, why) in wrong {
        let refused = patch(&cluster, "p", "resize", change).await.unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    cluster.drain().await;
}
