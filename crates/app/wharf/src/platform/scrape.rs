//! Brings metrics in: this machine's, its containers', the router's, the platform's own, and those of annotated pods.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};
use wharf_base::{Clock as _, SystemClock};
use wharf_client::{Informer, Object};
use wharf_http::client::Client;
use wharf_node::{ContainerStats, NodeAgent};
use wharf_proxy::Proxy;
use wharf_telemetry::metrics::{Labels, Metrics, ScrapeCache, ScrapeOptions, exposition::Format};

use super::telemetry::now_millis;

/// What the platform measures itself is taken this often: decisions are made on it.
const OWN: Duration = Duration::from_secs(1);
/// Annotated pods are asked this often.
const PODS: Duration = Duration::from_secs(5);
/// A pod has this long to answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// Bytes of a pod's answer at the most.
const MAX_ANSWER: usize = 16 << 20;
/// Pods asked at once.
const AT_ONCE: usize = 16;

fn cache(job: &str, instance: &str) -> ScrapeCache {
    let target = Labels::from_pairs([("job", job), ("instance", instance)]);
    let options = ScrapeOptions { honor_labels: true, ..ScrapeOptions::default() };
    ScrapeCache::new(target, options)
}

/// Takes in what needs no request.
pub(crate) async fn own(
    metrics: Arc<Metrics>,
    agent: Option<Arc<NodeAgent>>,
    proxy: Arc<Proxy>,
    node: String,
) {
    let mut caches = (cache("node", &node), cache("wharf-proxy", &node), cache("wharf", &node));
    let mut failed = false;
    let mut tick = tokio::time::interval(OWN);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (metrics, agent, proxy, node) =
            (Arc::clone(&metrics), agent.clone(), Arc::clone(&proxy), node.clone());
        let taken = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let mut text = machine(&node);
            if let Some(agent) = &agent {
                containers(&agent.stats(), &node, &mut text);
            }
            let parts = [(&mut caches.0, text), (&mut caches.1, proxy.metrics()), (&mut caches.2, process())];
            let mut failure = None;
            for (cache, text) in parts {
                let taken = cache.ingest(&metrics, &text, Format::Text, now_millis(), started.elapsed());
                failure = failure.or(taken.err().map(|error| format!("{:#}", anyhow::Error::from(error))));
            }
            // A disk that is full stays so for a while: it is told once.
            if let (false, Some(error)) = (failed, &failure) {
                tracing::error!(error, "the platform's own metrics cannot be kept");
            }
            (caches, failure.is_some())
        });
        match taken.await {
            Ok(back) => (caches, failed) = back,
            Err(error) => return tracing::error!(%error, "the platform's own metrics are no longer taken"),
        }
    }
}

/// The machine, in the names of Prometheus' node exporter.
fn machine(node: &str) -> String {
    let mut text = String::new();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    if let Some(line) = read("/proc/stat").lines().next() {
        let modes = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
        for (mode, ticks) in modes.iter().zip(line.split_ascii_whitespace().skip(1)) {
            let seconds = ticks.parse::<f64>().unwrap_or(0.0) / 100.0;
            let _ = writeln!(text, "node_cpu_seconds_total{{node={node:?},mode=\"{mode}\"}} {seconds}");
        }
    }
    for line in read("/proc/meminfo").lines() {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default().trim_end_matches(':');
        let kilobytes: f64 = words.next().and_then(|n| n.parse().ok()).unwrap_or(0.0);
        if matches!(name, "MemTotal" | "MemAvailable" | "MemFree" | "Cached" | "SwapTotal" | "SwapFree") {
            let _ = writeln!(text, "node_memory_{name}_bytes{{node={node:?}}} {}", kilobytes * 1024.0);
        }
    }
    let loads = read("/proc/loadavg");
    for (name, load) in ["node_load1", "node_load5", "node_load15"].iter().zip(loads.split_ascii_whitespace())
    {
        let _ = writeln!(text, "{name}{{node={node:?}}} {load}");
    }
    if let Ok(space) = rustix::fs::statvfs("/") {
        let all = [("size", space.f_blocks), ("avail", space.f_bavail)];
        for (name, blocks) in all {
            let bytes = blocks.saturating_mul(space.f_frsize);
            let _ = writeln!(text, "node_filesystem_{name}_bytes{{node={node:?},mountpoint=\"/\"}} {bytes}");
        }
    }
    text
}

/// Containers, in the names of cAdvisor.
fn containers(all: &[ContainerStats], node: &str, text: &mut String) {
    let mut write = |name: &str, value: &dyn Fn(&ContainerStats) -> Option<f64>| {
        for stats in all {
            let Some(value) = value(stats) else { continue };
            let label =
                |names: &[&str]| names.iter().find_map(|n| stats.labels.get(*n)).map_or("", String::as_str);
            let service = label(&["app.kubernetes.io/name", "app", "k8s-app"]);
            let version = label(&["rollouts-pod-template-hash", "pod-template-hash"]);
            let _ = writeln!(
                text,
                "{name}{{namespace={:?},pod={:?},container={:?},node={node:?},service={service:?},version={version:?}}} {value}",
                stats.namespace, stats.pod, stats.container
            );
        }
    };
    write("container_cpu_usage_seconds_total", &|s| Some(s.cpu_nanos as f64 / 1e9));
    write("container_cpu_cfs_throttled_periods_total", &|s| Some(s.cpu_throttled_periods as f64));
    write("container_memory_usage_bytes", &|s| Some(s.memory_usage as f64));
    write("container_memory_working_set_bytes", &|s| Some(s.memory_working_set as f64));
    write("container_spec_memory_limit_bytes", &|s| s.memory_limit.map(|n| n as f64));
    write("container_processes", &|s| Some(s.pids as f64));
    write("kube_pod_container_status_restarts_total", &|s| Some(f64::from(s.restarts)));
}

/// wharf's own process, in the names of Prometheus' client libraries.
fn process() -> String {
    let mut text = String::new();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields after the name, which may hold anything (proc(5)).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
    let _ = writeln!(text, "process_cpu_seconds_total {}", (number(11) + number(12)) / 100.0);
    let _ = writeln!(text, "process_threads {}", number(17));
    let _ =
        writeln!(text, "process_resident_memory_bytes {}", number(21) * rustix::param::page_size() as f64);
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let _ = writeln!(text, "process_open_fds {open}");
    text
}

/// A pod that wants to be asked, by its `prometheus.io/*` annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    url: String,
    labels: Vec<(String, String)>,
}

fn target(pod: &Object) -> Option<(String, Target)> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let annotation = |name: &str| {
        pod.pointer("/metadata/annotations")
            .and_then(|a| a.get(format!("prometheus.io/{name}")))
            .and_then(Value::as_str)
    };
    let wanted = annotation("scrape") == Some("true") && text("/status/phase") == "Running";
    let address = text("/status/podIP");
    if !wanted || address.is_empty() {
        return None;
    }
    let first_port = || pod.pointer("/spec/containers/0/ports/0/containerPort").and_then(Value::as_u64);
    let port = annotation("port").and_then(|p| p.parse().ok()).or_else(first_port)?;
    let path = annotation("path").unwrap_or("/metrics");
    let scheme = annotation("scheme").unwrap_or("http");
    let label =
        |name: &str| pod.pointer("/metadata/labels").and_then(|l| l.get(name)).and_then(Value::as_str);
    let service =
        ["app.kubernetes.io/name", "app", "k8s-app"].iter().find_map(|n| label(n)).unwrap_or_default();
    let version =
        ["rollouts-pod-template-hash", "pod-template-hash"].iter().find_map(|n| label(n)).unwrap_or_default();
    let instance = format!("{address}:{port}");
    let labels = [
        ("job", if service.is_empty() { "pods" } else { service }),
        ("instance", instance.as_str()),
        ("namespace", text("/metadata/namespace")),
        ("pod", text("/metadata/name")),
        ("node", text("/spec/nodeName")),
        ("service", service),
        ("version", version),
    ];
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let url = format!("{scheme}://{instance}/{}", path.trim_start_matches('/'));
    Some((text("/metadata/uid").to_owned(), Target { url, labels }))
}

/// The annotated pods and how the last scrape of each went, as Prometheus' `targets` shows them. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Targets(Arc<Mutex<BTreeMap<String, Value>>>);

impl Targets {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scraped(&self, uid: &str, target: &Target, failure: Option<&str>, took: Duration) {
        let labels: BTreeMap<_, _> =
            target.labels.iter().filter(|(_, value)| !value.is_empty()).cloned().collect();
        let shown = json!({
            "discoveredLabels": {"__meta_kubernetes_pod_uid": uid},
            "labels": labels,
            "scrapePool": "pods",
            "scrapeUrl": target.url,
            "globalUrl": target.url,
            "lastError": failure.unwrap_or_default(),
            "lastScrape": SystemClock.now().to_string(),
            "lastScrapeDuration": took.as_secs_f64(),
            "health": if failure.is_none() { "up" } else { "down" },
            "scrapeInterval": format!("{}s", PODS.as_secs()),
            "scrapeTimeout": format!("{}s", PATIENCE.as_secs()),
        });
        self.all().insert(uid.to_owned(), shown);
    }

    /// The `data` of `/api/v1/targets`.
    pub(crate) fn data(&self) -> Value {
        let active: Vec<Value> = self.all().values().cloned().collect();
        json!({"activeTargets": active, "droppedTargets": [], "droppedTargetCounts": {}})
    }
}

/// Asks annotated pods.
pub(crate) async fn pods(metrics: Arc<Metrics>, pods: Informer, shown: Targets) {
    let client = Client::default();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut caches: HashMap<String, (Target, ScrapeCache)> = HashMap::new();
    let mut tick = tokio::time::interval(PODS);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let targets: HashMap<String, Target> = pods.list().iter().filter_map(target).collect();
        shown.all().retain(|uid, _| targets.contains_key(uid));
        let mut asked = JoinSet::new();
        let mut known = std::mem::take(&mut caches);
        for (uid, target) in targets {
            let cache = known.remove(&uid).filter(|(before, _)| *before == target);
            let (target, mut cache) = cache.unwrap_or_else(|| {
                let labels = Labels::from_pairs(target.labels.iter().map(|(n, v)| (n.as_str(), v.as_str())));
                (target, ScrapeCache::new(labels, ScrapeOptions::default()))
            });
            let (client, metrics, slots) = (client.clone(), Arc::clone(&metrics), Arc::clone(&slots));
            let shown = shown.clone();
            asked.spawn(async move {
                // Never closed.
                let _slot = slots.acquire_owned().await;
                let started = Instant::now();
                let answer = tokio::time::timeout(PATIENCE, get(&client, &target.url)).await;
                let now = now_millis();
                let answer = answer.map_err(|_| "no answer in time".to_owned()).and_then(|a| a);
                let failure = answer.as_ref().err().map(String::as_str);
                shown.scraped(&uid, &target, failure, started.elapsed());
                let kept = match answer {
                    Ok((format, text)) => cache
                        .ingest(&metrics, &text, format, now, started.elapsed())
                        .map(drop)
                        .map_err(|e| e.to_string()),
                    Err(why) => {
                        tracing::debug!(url = target.url, why, "a pod gave no metrics");
                        cache.failed(&metrics, now, started.elapsed()).map(drop).map_err(|e| e.to_string())
                    }
                };
                if let Err(error) = kept {
                    tracing::debug!(url = target.url, error, "a pod's metrics could not be kept");
                }
                (uid, target, cache)
            });
        }
        // Series of pods that are gone end now.
        for (_, (_, cache)) in known {
            if let Err(error) = cache.finish(&metrics, now_millis()) {
                tracing::debug!(%error, "the end of a pod's series could not be kept");
            }
        }
        while let Some(done) = asked.join_next().await {
            if let Ok((uid, target, cache)) = done {
                caches.insert(uid, (target, cache));
            }
        }
    }
}

async fn get(client: &Client, url: &str) -> Result<(Format, String), String> {
    let response = client.get(url).await.map_err(|e| e.to_string())?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status()));
    }
    let content_type =
        response.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let format = Format::of_content_type(content_type);
    let body = wharf_http::collect(response.into_body(), MAX_ANSWER).await.map_err(|e| e.to_string())?;
    Ok((format, String::from_utf8_lossy(&body).into_owned()))
}
