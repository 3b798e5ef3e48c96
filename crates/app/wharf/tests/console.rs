//! The console in a browser: every page shows what it is for, and keeps up without being loaded anew.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};
use support::{Browser, IMAGE, Kubectl, Platform, Repository, get, text, until};

const WORKFLOW: &str = "\
name: deliver
on: push
jobs:
  test:
    runs-on: wharf
    container: base/test:latest
    steps:
      - name: Count <slowly>
        run: for n in $(seq 40); do echo \"number $n\"; sleep 0.1; done
";

fn objects(version: &str) -> String {
    let script = format!(
        "mkdir /www; echo {version} > /www/index.html; echo sold 7 > /www/metrics; (while :; do echo tick; sleep 1; done) & exec busybox httpd -f -p 8080 -h /www"
    );
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    };
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "web"},
        "spec": {"rules": [{"host": "web.localhost", "http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}});
    let rollout = json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"canary": {"stableService": "web", "canaryService": "web-canary",
                "steps": [{"setWeight": 20}, {"pause": {}}, {"setWeight": 60}]}},
            "template": {"metadata": {"labels": {"app": "web"},
                    "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": IMAGE,
                    "command": ["sh", "-c", script], "ports": [{"containerPort": 8080}],
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}}]}}}});
    json!({"apiVersion": "v1", "kind": "List", "items": [service("web"), service("web-canary"), ingress, rollout]})
        .to_string()
}

fn pods(kubectl: &Kubectl, wanted: usize) -> Vec<Value> {
    kubectl.list_until("pods run", &["pods", "-l", "app=web"], |pods| {
        pods.len() == wanted && pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["ready"] == true)
    })
}

#[test]
fn the_console_shows_what_happens() {
    let platform = Platform::start();
    let kubectl = platform.kubectl();
    let browser = Browser::start();
    let console = format!("http://{}", platform.address("console"));
    let page = |path: &str| browser.open(&format!("{console}{path}"));

    page("/");
    browser.shows("Nothing has been pushed yet");
    browser.until("the page is live", "document.getElementById('state').textContent == 'live'");
    browser.eval("window.sameness = 'kept'");
    kubectl.apply(&objects("one"));
    browser.shows("1/1");
    let pod = text(&pods(&kubectl, 1)[0], "/metadata/name").to_owned();
    browser.shows("healthy");
    assert_eq!(browser.eval("return window.sameness"), "kept", "the page was loaded anew");
    browser.picture("overview.png");

    page(&format!("/pods/default/{pod}"));
    let ticks = "document.querySelector('pre.log').textContent.split('tick').length";
    let before = browser.eval(&format!("return {ticks}")).as_u64().unwrap();
    browser.until("the log goes on", &format!("{ticks} > {before} + 1"));

    // Requests through the router become golden signals.
    let stop = Arc::new(AtomicBool::new(false));
    let router = platform.address("ingress_http");
    until("the router has the route", || get(&router, "web.localhost", "/"));
    let load = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = get(&router, "web.localhost", "/");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    });
    page("/services/default/web");
    browser.until(
        "charts are drawn",
        "document.querySelectorAll('#live svg path, #live svg polyline').length >= 3",
    );
    browser.picture("service.png");

    // The annotated pod is asked for metrics, and that is seen.
    let shown = until("the pod is scraped", || {
        let answer = get(&platform.address("console"), "localhost", "/prometheus/api/v1/targets")?;
        let target = serde_json::from_str::<Value>(&answer).unwrap()["data"]["activeTargets"][0].clone();
        if target["health"] == "up" { Ok(target) } else { Err(answer) }
    });
    assert_eq!((&shown["labels"]["pod"], &shown["lastError"]), (&json!(pod), &json!("")), "{shown}");

    page("/rollouts/default/web");
    browser.shows("Send 20 % of the requests");
    kubectl.apply(&objects("two"));
    browser.shows("Paused");
    browser.until(
        "its step is marked",
        "document.querySelector('li.now').textContent.includes('Wait for a promotion')",
    );
    browser.picture("rollout.png");
    let promoted = platform.wharf().args(["rollout", "promote", "web"]).output().unwrap();
    assert!(promoted.status.success(), "{promoted:?}");
    browser.shows("Healthy");
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();

    page("/runs");
    browser.shows("No pipeline has run yet");
    let repository = Repository::new(platform.data(), WORKFLOW);
    repository.commit("Sell <b>more</b>");
    let mut push = repository.push(&platform);
    browser.shows("Sell <b>more</b>");
    browser.eval("document.querySelector('#live tbody a').click()");
    browser.shows("number 3\n");
    browser.picture("pipeline.png");
    browser.shows("Succeeded");
    browser.shows("number 40");
    browser.shows("Count <slowly>");
    assert!(push.wait().unwrap().success());

    page("/nodes");
    browser.shows("Ready");
    assert_eq!(browser.complaints(), [""; 0]);
    drop(browser);
    platform.drain();
}
