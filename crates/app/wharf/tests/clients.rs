//! Clients nobody here wrote, doing what people do with them.

#![allow(clippy::unwrap_used)] // a test

#[path = "clients/controller.rs"]
mod controller;
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use support::{IMAGE, Kubectl, Platform, lossy, output_of, text, until};

/// A program or folder `cargo xtask test` has put somewhere.
fn given(variable: &str) -> PathBuf {
    let found = std::env::var_os(variable);
    found.unwrap_or_else(|| panic!("this test needs {variable}: run it by `cargo xtask test`")).into()
}

struct Helm {
    program: PathBuf,
    data: PathBuf,
}

impl Helm {
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(self.data.join("kubeconfig")).args(args).current_dir(&self.data);
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.data.join("helm").join(folder));
        }
        output_of(&mut command)
    }

    fn status(&self, release: &str) -> (String, u64) {
        let status: Value = serde_json::from_str(&self.run(&["status", release, "-o", "json"])).unwrap();
        (text(&status, "/info/status").to_owned(), status["version"].as_u64().unwrap())
    }
}

fn build(platform: &Platform, tag: &str, dockerfile: &str) {
    let context = tempfile::tempdir().unwrap();
    fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    output_of(platform.wharf().args(["build", "-t", tag]).arg(context.path()));
}

/// The chart `helm create` makes is what most charts begin as: a Deployment with probes, a Service, an account, a test.
#[test]
fn helm_installs_upgrades_rolls_back_and_tests_a_chart() {
    let platform = Platform::start();
    let (kubectl, helm) =
        (platform.kubectl(), Helm { program: given("WHARF_HELM"), data: platform.data().to_owned() });
    let server = format!(
        "FROM {IMAGE}\nRUN mkdir -p /www && echo hello > /www/index.html\n\
         CMD [\"busybox\", \"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n"
    );
    build(&platform, "chart/web:1", &server);
    // What the chart's own test runs.
    build(&platform, "busybox:latest", &format!("FROM {IMAGE}\n"));
    helm.run(&["create", "web"]);
    let image = ["--set", "image.repository=chart/web", "--set", "image.tag=1"];
    let told = helm.run(&[&["install", "shop", "web", "--dry-run=server"][..], &image].concat());
    assert!(told.contains("name: shop-web"), "{told}");
    assert!(kubectl.list(&["deployments"]).is_empty());

    helm.run(&[&["install", "shop", "web", "--wait", "--timeout", "90s"][..], &image].concat());
    assert_eq!(helm.status("shop"), ("deployed".into(), 1));
    helm.run(&["test", "shop", "--timeout", "90s"]);
    let more = ["--set", "replicaCount=2", "--set-string", "podLabels.color=green"];
    helm.run(&[&["upgrade", "shop", "web", "--wait", "--timeout", "90s"][..], &image, &more].concat());
    assert_eq!(helm.status("shop"), ("deployed".into(), 2));
    let deployment = kubectl.get(&["deployment", "shop-web"]);
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["status"]["readyReplicas"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(deployment["spec"]["template"]["metadata"]["labels"]["color"], "green");
    helm.run(&["rollback", "shop", "1", "--wait", "--timeout", "90s"]);
    assert_eq!(helm.status("shop"), ("deployed".into(), 3));
    let deployment = kubectl.get(&["deployment", "shop-web"]);
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert!(deployment["spec"]["template"]["metadata"]["labels"]["color"].is_null());
    let history: Value = serde_json::from_str(&helm.run(&["history", "shop", "-o", "json"])).unwrap();
    assert_eq!(history.as_array().unwrap().len(), 3);
    helm.run(&["uninstall", "shop", "--wait", "--timeout", "90s"]);
    // helm leaves the pods of its tests to whoever reads them.
    kubectl.run(&["delete", "pod", "shop-web-test-connection", "--wait"]);
    kubectl.list_until(
        "nothing of the release is left",
        &["deployments,pods,serviceaccounts,secrets"],
        |left| {
            let ours = |name: &str| name.contains("shop") || name.starts_with("sh.helm");
            !left.iter().any(|object| ours(text(object, "/metadata/name")))
        },
    );
    platform.drain();
}

#[test]
fn the_python_client_tours_the_api() {
    let platform = Platform::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/tour.py");
    let mut python = Command::new("python3");
    python.arg(script).arg(IMAGE).env("PYTHONPATH", given("WHARF_PYTHON_KUBERNETES"));
    python.env("KUBECONFIG", platform.data().join("kubeconfig")).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}{}", lossy(&output.stdout), lossy(&output.stderr));
    platform.drain();
}

fn debugs(kubectl: &Kubectl) {
    let debug =
        ["debug", "web", "--image", IMAGE, "--target", "main", "--container", "look", "--image-pull-policy"];
    let sees = ["Never", "--", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; echo; exec sleep 1000"];
    kubectl.run(&[&debug[..], &sees].concat());
    until("the debugger has looked", || {
        let output = kubectl.end(&["logs", "web", "-c", "look"], "");
        let said = lossy(&output.stdout);
        if said.starts_with("sh -c trap") { Ok(()) } else { Err(said + &lossy(&output.stderr)) }
    });
    let described = kubectl.run(&["describe", "pod", "web"]);
    assert!(described.contains("Ephemeral Containers:"), "{described}");
    assert_eq!(kubectl.run(&["exec", "web", "-c", "look", "--", "echo", "inside"]), "inside\n");
}

fn resizes(kubectl: &Kubectl) {
    let resources = json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "150m"}});
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}}).to_string();
    kubectl.run(&["patch", "pod", "web", "--subresource", "resize", "--patch", &patch]);
    let pod = until("the pod is resized", || {
        let pod = kubectl.get(&["pod", "web"]);
        let has = &pod["status"]["containerStatuses"][0]["resources"];
        if *has == resources { Ok(pod) } else { Err(pod.to_string()) }
    });
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

/// What only newer versions of kubectl do.
#[test]
fn kubectl_debugs_and_resizes_pods() {
    let platform = Platform::start();
    let kubectl = platform.kubectl_of("1.37");
    let container = json!({"name": "main", "image": IMAGE, "imagePullPolicy": "Never",
        "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"],
        "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "100m"}}});
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}));
    kubectl.run(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);
    debugs(&kubectl);
    resizes(&kubectl);
    kubectl.run(&["delete", "pod", "web", "--wait"]);
    platform.drain();
}

#[test]
fn a_controller_of_kube_rs_goes_on_after_a_kill() {
    let mut platform = Platform::control_plane();
    let kubectl = platform.kubectl();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let copies = || kubectl.list(&["secrets", "-l", "copy=yes"]);
    let source = |name: &str, word: &str| {
        kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"word": word},
            "metadata": {"name": name, "labels": {"copied": "yes"}}}));
    };
    let all_are = |count: usize, word: &str| {
        until("every copy is there", || {
            let found = copies();
            let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, word);
            let right = found.iter().filter(|copy| text(copy, "/data/word") == encoded).count();
            if (found.len(), right) == (count, count) { Ok(()) } else { Err(json!(found).to_string()) }
        });
    };
    let work = |platform: &Platform| {
        let work = controller::run(platform.data().join("kubeconfig"));
        runtime.spawn(async {
            if let Err(error) = work.await {
                eprintln!("the controller ended: {error}");
            }
        })
    };
    let first = work(&platform);
    (0..20).for_each(|number| source(&format!("s-{number}"), "one"));
    all_are(20, "one");
    first.abort();
    // What changes while it does not run is seen afterwards, also through a kill of the platform.
    (0..10).for_each(|number| source(&format!("s-{number}"), "two"));
    platform.kill();
    platform.restart();
    let _second = work(&platform);
    (10..20).for_each(|number| source(&format!("s-{number}"), "two"));
    all_are(20, "two");
    kubectl.run(&["delete", "configmap", "-l", "copied=yes", "--wait"]);
    all_are(0, "");
    platform.drain();
}
