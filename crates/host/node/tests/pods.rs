//! Pods from their object in the API to containers on this machine, and back.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

#[path = "pods/changes.rs"]
mod changes;
mod support;

use std::{fs, sync::Arc, time::Instant};

use serde_json::{Value, json};
use support::*;
use wharf_client::{
    Gvr, ListParams, PatchKind,
    action::{CONFIG_MAPS, NODES, PODS},
};
use wharf_http::{Authority, Listener, Usage, tls_config};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_is_removed_without_trace() {
    let cluster = Cluster::start().await;
    let begun = Instant::now();
    let spec = json!({"containers": [{"name": "main", "command": sh(FOREVER),
        "readinessProbe": {"exec": {"command": ["test", "-e", "/bin/sh"]}, "periodSeconds": 1}}]});
    cluster.pod("web", spec).await;
    let pod = cluster.until("web", "running", phase("Running")).await;
    eprintln!("created to Running: {:?}", begun.elapsed());
    let pod_ready = cluster.until("web", "ready", is_ready).await;
    let status = &pod_ready["status"];
    assert_eq!(status["podIP"], "127.0.0.1");
    assert_eq!(status["qosClass"], "BestEffort");
    for kind in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady"] {
        assert!(condition(&pod_ready, kind), "{kind}");
    }
    let container = &status["containerStatuses"][0];
    assert!(container["containerID"].as_str().unwrap().starts_with("wharf://"));
    assert_eq!((&container["restartCount"], &container["started"]), (&json!(0), &json!(true)));
    for reason in ["Pulled", "Created", "Started"] {
        cluster.until_event("web", reason).await;
    }
    let folder = cluster.pod_folder(&pod);
    assert_eq!(cluster.exec("web", "main", "hostname; exit 3").await, (3, "web\n".into()));
    let stats = cluster.agent().stats();
    assert_eq!((stats.len(), stats[0].container.as_str()), (1, "main"));
    assert!(stats[0].memory_usage > 0 && stats[0].pids > 0);
    cluster.delete("web", 30).await;
    cluster.until_gone("web").await;
    cluster.until_event("web", "Killing").await;
    assert!(!folder.exists());

    let node = cluster.client.get(&NODES, "", NODE).await.unwrap().unwrap();
    assert!(condition(&node, "Ready"));
    assert!(node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap().starts_with("wharf://"));
    let leases = Gvr::fixed("coordination.k8s.io", "v1", "leases");
    let leases = cluster.client.list(&leases, &ListParams::namespace("kube-node-lease")).await.unwrap();
    assert_eq!(leases.items[0]["spec"]["holderIdentity"], NODE);
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_and_volumes_arrive() {
    let cluster = Cluster::start().await;
    cluster
        .create(
            "configmaps",
            json!({"kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "one", "b": "two"}}),
        )
        .await;
    cluster
        .create(
            "secrets",
            json!({"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "hidden"}}),
        )
        .await;
    let container = json!({"name": "main", "command": sh(FOREVER), "workingDir": "/tmp",
        "env": [
            {"name": "A", "value": "x"}, {"name": "B", "value": "$(A)-$(NONE)-$$(A)"},
            {"name": "CM", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}},
            {"name": "MISSING", "valueFrom": {"secretKeyRef": {"name": "no", "key": "key", "optional": true}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}}],
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}],
        "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}},
        "securityContext": {"runAsUser": 1000, "runAsGroup": 3000, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "cm", "mountPath": "/cm"}, {"name": "cm", "mountPath": "/one", "subPath": "a"},
            {"name": "secret", "mountPath": "/secret"}, {"name": "shared", "mountPath": "/shared"},
            {"name": "memory", "mountPath": "/memory"}, {"name": "all", "mountPath": "/all"},
            {"name": "shared", "mountPath": "/sub", "subPathExpr": "$(NAME)/deep"}]});
    let other = json!({"name": "other", "command": sh("echo hello > /shared/greeting; exec sleep 1000"),
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
    let spec = json!({"containers": [container, other], "terminationGracePeriodSeconds": 1,
        "securityContext": {"fsGroup": 2000}, "hostAliases": [{"ip": "10.1.2.3", "hostnames": ["alias"]}],
        "volumes": [
            {"name": "cm", "configMap": {"name": "cm", "defaultMode": 0o440}},
            {"name": "secret", "secret": {"secretName": "s", "items": [{"key": "key", "path": "dir/file"}]}},
            {"name": "shared", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "all", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "cm"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}]});
    cluster.pod("p", spec).await;
    let pod = cluster.until("p", "ready", is_ready).await;
    let check = async |script: &str, expected: &str| {
        let (_, said) = cluster.exec("p", "main", script).await;
        assert_eq!(said.trim_end(), expected, "{script}");
    };
    check(
        "echo $A $B $CM $SECRET [$MISSING] $NAME $IP $CPU $P_b",
        "x x-$(NONE)-$(A) one hidden [] p 127.0.0.1 500 two",
    )
    .await;
    check(
        "echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT; pwd; id -u; id -g; id -G",
        "10.96.0.1:443\n/tmp\n1000\n3000\n3000 2000",
    )
    .await;
    check(
        "grep -E 'NoNewPrivs|CapBnd' /proc/self/status | tr '\\t' ' '",
        "CapBnd: 0000000000000000\nNoNewPrivs: 1",
    )
    .await;
    check("cat /cm/a /one /secret/dir/file /all/a /all/labels", "oneonehiddenoneapp=\"p\"").await;
    check("stat -L -c '%a %g' /cm/a; stat -c '%a %g' /shared", "440 2000\n2777 2000").await;
    check("dd if=/dev/zero of=/memory/x bs=1M count=2 2>/dev/null; stat -c %s /memory/x", "1048576").await;
    check("touch /cm/x 2>/dev/null || echo read-only", "read-only").await;
    check("touch /sub/file; ls /shared/p/deep; cat /shared/greeting", "file\nhello").await;
    check(
        "grep -c alias /etc/hosts; head -n 1 /etc/resolv.conf | tr ' ' '\\n' | head -n 2",
        "1\nsearch\ndefault.svc.cluster.local",
    )
    .await;
    check(
        "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; cat /all/token | tr -cd . | wc -c",
        "default2",
    )
    .await;

    // Changes show up all at once in a volume, one volume after the other.
    let patch = json!({"data": {"a": "changed", "c": "new"}});
    cluster.client.patch(&CONFIG_MAPS, "default", "cm", None, PatchKind::Merge, &patch).await.unwrap();
    let (_, said) = cluster
        .exec(
            "p",
            "main",
            "until grep -q changed /cm/a && grep -q changed /all/a; do sleep 0.1; done; cat /cm/a /cm/c /all/a; echo; cat /one",
        )
        .await;
    assert_eq!(said, "changednewchanged\none");
    let folder = cluster.pod_folder(&pod);
    cluster.delete("p", 1).await;
    cluster.until_gone("p").await;
    assert!(!folder.exists());
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn init_containers_and_sidecars_run_in_order() {
    let cluster = Cluster::start().await;
    let mount = json!([{"name": "v", "mountPath": "/v"}]);
    let step = |name: &str, script: &str| json!({"name": name, "command": sh(script), "volumeMounts": mount});
    let mut sidecar = step("side", &format!("echo side >> /v/log; {FOREVER}"));
    sidecar["restartPolicy"] = "Always".into();
    sidecar["startupProbe"] = json!({"exec": {"command": ["grep", "side", "/v/log"]}, "periodSeconds": 1});
    let spec = json!({"restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}}],
        "initContainers": [step("first", "echo first >> /v/log"), sidecar, step("second", "echo second >> /v/log")],
        "containers": [step("main", "echo main >> /v/log; cat /v/log > /dev/termination-log")]});
    cluster.pod("p", spec).await;
    let pod = cluster.until("p", "succeeded", phase("Succeeded")).await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["message"], "first\nside\nsecond\nmain\n");
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("Completed"), &json!(0)));
    // The sidecar has been ended with the pod.
    let pod = cluster
        .until("p", "all ended", |pod| {
            pod["status"]["initContainerStatuses"][1]["state"]["terminated"].is_object()
        })
        .await;
    assert_eq!(pod["status"]["initContainerStatuses"][0]["ready"], true);
    // The log of an ended pod can still be read.
    let logs = cluster.agent().logs("default", "p", Default::default());
    assert!(logs.is_ok());
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashing_container_backs_off() {
    let cluster = Cluster::start().await;
    let spec = json!({"containers": [{"name": "main", "command": sh("echo last words; exit 7"), "terminationMessagePolicy": "FallbackToLogsOnError"}]});
    cluster.pod("p", spec).await;
    let waits = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    };
    let pod = cluster.until("p", "backing off", waits).await;
    let container = &pod["status"]["containerStatuses"][0];
    assert_eq!(container["restartCount"], 1);
    let last = &container["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"], &last["message"]),
        (&json!(7), &json!("Error"), &json!("last words"))
    );
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(!is_ready(&pod));
    cluster.until_event("p", "BackOff").await;
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_said_and_waited_for() {
    let cluster = Cluster::start().await;
    let from = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "a"}}}]);
    cluster.pod("env", json!({"containers": [{"name": "main", "command": sh(FOREVER), "env": from}]})).await;
    cluster.pod("image", json!({"containers": [{"name": "main", "image": "nowhere/none:1"}]})).await;
    cluster
        .pod(
            "never",
            json!({"containers": [{"name": "main", "image": "nowhere/none:1", "imagePullPolicy": "Never"}]}),
        )
        .await;
    cluster
        .pod(
            "volume",
            json!({"containers": [{"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/p"}}]}),
        )
        .await;
    cluster
        .pod(
            "program",
            json!({"restartPolicy": "Never", "containers": [{"name": "main", "command": ["nope"]}]}),
        )
        .await;
    let waits = |reason: &'static str| {
        move |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason
    };
    cluster.until("env", "refused", waits("CreateContainerConfigError")).await;
    cluster.until("image", "refused", waits("ErrImagePull")).await;
    cluster.until("image", "backing off", waits("ImagePullBackOff")).await;
    cluster.until("never", "refused", waits("ErrImageNeverPull")).await;
    cluster
        .until_event("volume", "FailedMount: MountVolume.SetUp failed for volume \"v\" : volumes of type nfs")
        .await;
    let pod = cluster.until("program", "failed", phase("Failed")).await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("StartError"), &json!(128)));
    cluster
        .create("configmaps", json!({"kind": "ConfigMap", "metadata": {"name": "late"}, "data": {"a": "1"}}))
        .await;
    cluster.until("env", "running", phase("Running")).await;
    // Deletion does not wait for what cannot be made.
    for name in ["image", "volume"] {
        cluster.delete(name, 30).await;
        cluster.until_gone(name).await;
    }
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_restart_and_limits_kill() {
    let cluster = Cluster::start().await;
    let sick = json!({"containers": [{"name": "main", "command": sh(FOREVER),
        "livenessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2},
        "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo bye > /dev/termination-log"]}}}}]});
    cluster.pod("sick", sick).await;
    let greedy = json!({"restartPolicy": "Never", "containers": [{"name": "main", "resources": {"limits": {"memory": "16Mi"}},
        "command": ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]}]});
    cluster.pod("greedy", greedy).await;
    cluster
        .pod(
            "late",
            json!({"activeDeadlineSeconds": 1, "containers": [{"name": "main", "command": sh(FOREVER)}]}),
        )
        .await;
    let pod = cluster.until("greedy", "failed", phase("Failed")).await;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!("OOMKilled"), &json!(137)));
    let pod = cluster.until("late", "failed", phase("Failed")).await;
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    let restarted = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1);
    let pod = cluster.until("sick", "restarted", restarted).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"], "bye\n");
    cluster.until_event("sick", "Unhealthy: Liveness probe failed").await;
    cluster.until_event("sick", "Killing").await;
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_over_what_runs() {
    let mut cluster = Cluster::start().await;
    let spec = |name: &str| json!({"containers": [{"name": name, "command": sh(FOREVER), "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}}]});
    let kept = cluster.pod("kept", spec("a")).await;
    let orphan = cluster.pod("orphan", spec("a")).await;
    let before = cluster.until("kept", "ready", is_ready).await;
    cluster.until("orphan", "ready", is_ready).await;
    let pid = |cluster: &Cluster| {
        let state = fs::read(cluster.pod_folder(&kept).join("containers/a.0/state.json")).unwrap();
        serde_json::from_slice::<Value>(&state).unwrap()["pid"].as_i64().unwrap()
    };
    let running = pid(&cluster);
    drop(cluster.agent.take());
    cluster.delete("orphan", 0).await;
    cluster.until_gone("orphan").await;
    cluster.restart();
    cluster.pod("other", spec("a")).await;
    cluster.until("other", "ready", is_ready).await;
    let after = cluster.until("kept", "ready", is_ready).await;
    assert_eq!(pid(&cluster), running);
    assert_eq!(before["status"]["containerStatuses"], after["status"]["containerStatuses"]);
    assert_eq!(cluster.exec("kept", "a", "hostname").await, (0, "kept\n".into()));
    let gone = Instant::now();
    while cluster.pod_folder(&orphan).exists() {
        assert!(gone.elapsed() < DEADLINE, "the orphan stays");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    // A shim that is killed takes its containers along; they are started again in a new one.
    let shim = rustix::process::Pid::from_raw(cluster.shim_pid(&kept)).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let pod = cluster.until("kept", "restarted and ready", |pod| {
        is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    let pod = pod.await;
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(137), &json!("ContainerStatusUnknown")));
    cluster.until_event("kept", "SandboxChanged").await;
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_https_speak_tls() {
    let cluster = Cluster::start().await;
    // A certificate of nobody known, as pods have them.
    let issued = Authority::create("test").unwrap().issue("pod", &[], Usage::Server, &[]).unwrap();
    let tls = tls_config(&issued.certificate, &issued.key, None).unwrap();
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), Some(tls)).await.unwrap();
    let port = listener.address().unwrap().port();
    let handler: wharf_http::Handler =
        Arc::new(|_| Box::pin(async { http::Response::new(wharf_http::full("hello")) }));
    let (_stop, stopping) = tokio::sync::watch::channel(false);
    tokio::spawn(listener.serve(handler, stopping));
    let spec = |scheme: &str| {
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "command": sh(FOREVER),
            "readinessProbe": {"httpGet": {"scheme": scheme, "path": "/", "port": port}, "periodSeconds": 1}}]})
    };
    cluster.pod("secure", spec("HTTPS")).await;
    cluster.pod("plain", spec("HTTP")).await;
    cluster.until("secure", "ready", is_ready).await;
    cluster.until_event("plain", "Unhealthy: Readiness probe failed").await;
    assert!(!is_ready(&cluster.get("plain").await.unwrap()));
    let refused: Vec<String> = cluster.events("secure").await;
    assert!(!refused.iter().any(|event| event.starts_with("Unhealthy")), "{refused:?}");
    cluster.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_use_the_machines_network_and_files() {
    let cluster = Cluster::start().await;
    let site = tempfile::tempdir().unwrap();
    fs::write(site.path().join("index.html"), "hello").unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = json!({"name": "web", "ports": [{"name": "http", "containerPort": port}],
        "command": ["busybox", "httpd", "-f", "-p", format!("127.0.0.1:{port}"), "-h", "/www"],
        "readinessProbe": {"httpGet": {"path": "/index.html", "port": "http"}, "periodSeconds": 1},
        "livenessProbe": {"tcpSocket": {"port": port}, "initialDelaySeconds": 1},
        "volumeMounts": [{"name": "www", "mountPath": "/www", "readOnly": true}]});
    let volume = |kind: &str| json!([{"name": "www", "hostPath": {"path": site.path(), "type": kind}}]);
    let spec = json!({"hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [server], "volumes": volume("Directory")});
    cluster.pod("web", spec).await;
    let pod = cluster.until("web", "ready", is_ready).await;
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(cluster.exec("web", "web", "hostname; echo $HOSTNAME").await.1, format!("{own}{own}"));
    let spec = json!({"containers": [{"name": "main", "volumeMounts": [{"name": "www", "mountPath": "/x"}]}], "volumes": volume("Socket")});
    cluster.pod("wrong", spec).await;
    cluster
        .until_event(
            "wrong",
            "FailedMount: MountVolume.SetUp failed for volume \"www\" : hostPath type check failed",
        )
        .await;
    // A new image takes the place of the old one.
    cluster.alias("test/busybox:2");
    let patch = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": "test/busybox:2"}]);
    cluster.client.patch(&PODS, "default", "web", None, PatchKind::Json, &patch).await.unwrap();
    let renewed = |pod: &Value| is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1;
    let pod = cluster.until("web", "restarted and ready", renewed).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["image"], "test/busybox:2");
    cluster.drain().await;
}
