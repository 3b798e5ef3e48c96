//! A service's whole life through kubectl, with the versions of it that people have.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::json;
use support::{IMAGE, Kubectl, Load, Platform, get, lossy, output_of, text, until};

/// Answers with $WORD, and serves on a little when it is asked to end, until nobody sends to it any more.
const SERVER: &str = r#"
import http.server, os, signal, socketserver, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = os.environ["WORD"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if ending.is_set():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *rest):
        print("asked for", self.path, flush=True)
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
ending = threading.Event()
def end(*_):
    ending.set()
    threading.Timer(2, server.shutdown).start()
server = Server(("", 8080), Handler)
signal.signal(signal.SIGTERM, end)
print("serving", flush=True)
server.serve_forever()
"#;

fn manifests() -> String {
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"server.py": SERVER, "color": "green"}});
    let container = json!({"name": "main", "image": IMAGE, "command": ["python3", "/app/server.py"],
        "env": [{"name": "WORD", "value": "one"},
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "timeoutSeconds": 5},
        "volumeMounts": [{"name": "app", "mountPath": "/app"}]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [container],
                    "volumes": [{"name": "app", "configMap": {"name": "settings"}}]}}}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"},
        "spec": {"rules": [{"host": "web.test",
            "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [settings, deployment, service, ingress]});
    list.to_string()
}

fn web_pods(kubectl: &Kubectl) -> Vec<String> {
    let pods = kubectl.list(&["pods", "-l", "app=web"]);
    let living = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    living.map(|pod| text(pod, "/metadata/name").to_owned()).collect()
}

fn rolled_out(kubectl: &Kubectl) {
    let said = kubectl.run(&["rollout", "status", "deployment/web", "--timeout=80s"]);
    assert!(said.contains("successfully rolled out"), "{said}");
}

/// A kubectl that runs until it is dropped.
struct Running(Child, BufReader<ChildStdout>);

impl Running {
    fn start(kubectl: &Kubectl, args: &[&str]) -> Self {
        let mut child = kubectl.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    /// The first line that has `words`.
    fn line_with(&mut self, words: &str) -> String {
        let mut lines = self.1.by_ref().lines().map_while(Result::ok);
        lines.find(|line| line.contains(words)).unwrap_or_else(|| panic!("it never said {words}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sessions(kubectl: &Kubectl, pod: &str) {
    let output = kubectl.end(&["exec", "-i", pod, "--", "sh", "-c", "cat; echo $COLOR; exit 7"], "typed\n");
    assert_eq!((lossy(&output.stdout).as_str(), output.status.code()), ("typed\ngreen\n", Some(7)));
    let big = "0123456789abcdef".repeat(1 << 14);
    let output = kubectl.end(&["exec", "-i", pod, "--", "cat"], &big);
    assert!(output.status.success() && lossy(&output.stdout) == big, "{}", lossy(&output.stderr));

    // script gives a terminal.
    let line = kubectl.words(&format!("exec -it {pod} -- sh -c 'test -t 0 && tty; exit 5'"));
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let output = output.expect("this test needs the program script: apt-get install -y bsdutils");
    assert!(lossy(&output.stdout).contains("/dev/pts/"), "{}", lossy(&output.stdout));
    assert_eq!(output.status.code(), Some(5));
}

fn copies(kubectl: &Kubectl, platform: &Platform, pod: &str) {
    let (there, back) = (platform.data().join("there"), platform.data().join("back"));
    fs::create_dir_all(there.join("sub")).unwrap();
    fs::write(there.join("sub/file"), vec![7; 300_000]).unwrap();
    kubectl.run(&["cp", there.to_str().unwrap(), &format!("{pod}:/tmp/copied")]);
    kubectl.run(&["cp", &format!("{pod}:/tmp/copied"), back.to_str().unwrap()]);
    assert_eq!(fs::read(back.join("sub/file")).unwrap(), vec![7; 300_000]);
    fs::remove_dir_all(there).unwrap();
    fs::remove_dir_all(back).unwrap();
}

fn logs(kubectl: &Kubectl, pod: &str, address: &str) {
    let mut follower = Running::start(kubectl, &["logs", "-f", pod]);
    follower.line_with("serving");
    // It is any pod that answers: until it was this one.
    until("the pod is asked", || {
        get(address, "web.test", "/marked")?;
        let said = kubectl.run(&["logs", pod]);
        if said.contains("/marked") { Ok(()) } else { Err(said) }
    });
    follower.line_with("asked for /marked");
    assert_eq!(kubectl.run(&["logs", pod, "--tail=1"]).lines().count(), 1);
    assert!(kubectl.run(&["logs", "-l", "app=web", "--prefix"]).contains(&format!("pod/{pod}/main")));

    let script =
        "if [ -e /data/ran ]; then echo second; exec sleep 1000; fi; touch /data/ran; echo first; exit 3";
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "twice"},
        "spec": {"terminationGracePeriodSeconds": 0, "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}}));
    until("it ran twice", || {
        let status = kubectl.get(&["pod", "twice"])["status"]["containerStatuses"][0].clone();
        let again = status["restartCount"] == 1 && !status["state"]["running"].is_null();
        if again && status["lastState"]["terminated"]["exitCode"] == 3 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    until("its second log", || {
        let said = kubectl.run(&["logs", "twice"]);
        if said == "second\n" { Ok(()) } else { Err(said) }
    });
    assert_eq!(kubectl.run(&["logs", "twice", "--previous"]), "first\n");
    kubectl.run(&["delete", "pod", "twice", "--timeout=60s"]);
}

fn forwards(kubectl: &Kubectl) {
    for target in ["service/web", "deployment/web"] {
        let ports = if target == "service/web" { ":80" } else { ":8080" };
        let mut forward = Running::start(kubectl, &["port-forward", target, ports]);
        let line = forward.line_with("Forwarding from 127.0.0.1:");
        let port = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
        for _ in 0..3 {
            assert_eq!(get(&format!("127.0.0.1:{port}"), "web", "/").unwrap(), "one", "{target}");
        }
    }
}

fn explains_and_measures(kubectl: &Kubectl) {
    let said = kubectl.run(&["explain", "deployment.spec.strategy"]);
    for word in ["DeploymentStrategy", "rollingUpdate", "type"] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    until("usage is measured", || {
        let output = kubectl.end(&["top", "pods", "--no-headers"], "");
        let said = lossy(&output.stdout);
        let measured = output.status.success() && said.contains("web-") && said.contains("Mi");
        if measured { Ok(()) } else { Err(said + &lossy(&output.stderr)) }
    });
}

/// What kubectl tells of pods that came up, and of one that does not.
fn events_and_reasons(kubectl: &Kubectl, pod: &str) {
    until("the way of a pod is told in its order", || {
        let said = kubectl.run(&["describe", "pod", pod]);
        let events = said.split("\nEvents:").nth(1).unwrap_or_default();
        let words: Vec<&str> = events.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        let way = ["Scheduled", "Pulling", "Pulled", "Created", "Started"];
        let seen: Vec<&str> = words.into_iter().filter(|word| way.contains(word)).collect();
        if seen == way { Ok(()) } else { Err(said) }
    });
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stuck"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": IMAGE,
            "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}]}}));
    let why = r#"container "main" in pod "stuck" is waiting to start: CreateContainerConfigError"#;
    until("why there is no log", || {
        let said = lossy(&kubectl.end(&["logs", "stuck"], "").stderr);
        if said.contains(why) { Ok(()) } else { Err(said) }
    });
    kubectl.run(&["delete", "pod", "stuck", "--timeout=60s"]);
}

/// New versions come and go while clients notice nothing.
fn updates_under_load(kubectl: &Kubectl, platform: &Platform, address: &str) {
    output_of(platform.wharf().args(["image", "tag", IMAGE, "base/test:v2"]));
    let load = Load::start(&[(address.to_owned(), "web"), (platform.address("ingress_http"), "web.test")]);
    let mut seen = 0;
    let mut answers = |word: &str| {
        until("the version answers", || {
            let tally = load.so_far();
            if tally.of(word) > seen + 50 || !tally.failures.is_empty() {
                Ok(())
            } else {
                Err(format!("{tally:?}"))
            }
        });
        seen = load.so_far().of("one");
    };
    answers("one");
    kubectl.run(&["set", "image", "deployment/web", "main=base/test:v2"]);
    rolled_out(kubectl);
    kubectl.run(&["set", "env", "deployment/web", "WORD=two"]);
    rolled_out(kubectl);
    kubectl.run(&["rollout", "undo", "deployment/web"]);
    rolled_out(kubectl);
    answers("one");
    let tally = load.stop();
    assert_eq!(tally.failures, [""; 0], "{:?}", tally.answers);
    assert!(tally.of("two") > 0, "{:?}", tally.answers);
    let history = kubectl.run(&["rollout", "history", "deployment/web"]);
    assert!(history.contains('4') && !history.contains("\n2 "), "{history}");
    let image = kubectl.run(&["get", "deployment", "web", "-o", "jsonpath={..image}"]);
    assert_eq!(image, "base/test:v2");
}

fn a_service_lives(version: &str) {
    let platform = Platform::start();
    let kubectl = platform.kubectl_of(version);
    let objects = manifests();
    kubectl.apply(&objects);
    let at = kubectl.cluster_address("web");
    rolled_out(&kubectl);
    assert!(kubectl.apply(&objects).lines().all(|line| line.ends_with("unchanged")));
    kubectl.run(&["scale", "deployment/web", "--replicas=3"]);
    kubectl.run(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    rolled_out(&kubectl);
    let pods = web_pods(&kubectl);
    assert_eq!(pods.len(), 3);
    let wide = kubectl.run(&["get", "pods", "-o", "wide"]);
    assert_eq!(wide.matches("1/1 ").count(), 3, "{wide}");

    sessions(&kubectl, &pods[0]);
    copies(&kubectl, &platform, &pods[0]);
    until("the service answers", || get(&at, "web", "/"));
    logs(&kubectl, &pods[0], &at);
    events_and_reasons(&kubectl, &pods[0]);
    forwards(&kubectl);
    explains_and_measures(&kubectl);
    updates_under_load(&kubectl, &platform, &at);

    let output = kubectl.end(&["delete", "-f", "-", "--timeout=60s"], &objects);
    assert!(output.status.success(), "{}", lossy(&output.stderr));
    kubectl.run(&["wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s"]);
    kubectl.list_until(
        "nothing is left",
        &["deployments,replicasets,pods,endpointslices,ingresses"],
        |left| left.iter().all(|object| text(object, "/metadata/name") == "kubernetes"),
    );
    assert!(get(&at, "web", "/").is_err());
    until("the node is empty", || {
        let folders = fs::read_dir(platform.data().join("pods")).unwrap().flatten().map(|entry| entry.path());
        let left = format!(
            "{:?} {:?} {:?}",
            folders.collect::<Vec<_>>(),
            platform.traces().processes(),
            platform.traces().pod_links()
        );
        if left == "[] [] []" { Ok(()) } else { Err(left) }
    });
    platform.drain();
}

#[test]
fn a_service_lives_through_kubectl_1_27() {
    a_service_lives("1.27");
}

#[test]
fn a_service_lives_through_kubectl_1_29() {
    a_service_lives("1.29");
}

#[test]
fn a_service_lives_through_kubectl_1_31() {
    a_service_lives("1.31");
}

#[test]
fn a_service_lives_through_kubectl_1_33() {
    a_service_lives("1.33");
}

#[test]
fn a_service_lives_through_kubectl_1_37() {
    a_service_lives("1.37");
}
