//! Golden signals, counted per request and shown as Prometheus' text.
//!
//! Each thread counts in a shard of its own, so that no request waits for another's; a scrape adds the shards up.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use wharf_http::client::Target;

use crate::backend::{Endpoint, Gate};

/// Upper bounds of the histogram's buckets in seconds, as Prometheus' libraries have them by default.
const BUCKETS: [(f64, &str); 13] = [
    (0.001, "0.001"),
    (0.0025, "0.0025"),
    (0.005, "0.005"),
    (0.01, "0.01"),
    (0.025, "0.025"),
    (0.05, "0.05"),
    (0.1, "0.1"),
    (0.25, "0.25"),
    (0.5, "0.5"),
    (1.0, "1"),
    (2.5, "2.5"),
    (5.0, "5"),
    (10.0, "10"),
];
const SHARDS: usize = 8;
/// Series of what is gone are shown this long, so that a last scrape sees them.
const KEEP_GONE: Duration = Duration::from_secs(300);

/// Methods by name; others are `OTHER`, since clients invent them.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "OTHER"];

/// The label of a method.
pub(crate) fn method_label(method: &Method) -> &'static str {
    METHODS.iter().copied().find(|name| method.as_str() == *name).unwrap_or("OTHER")
}

/// Why an endpoint gave no whole response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It took no connection.
    Connect,
    /// The connection broke before the response's head.
    Closed,
    /// The response's head did not come in time.
    Timeout,
    /// The connection broke within the response's body.
    Body,
}

const TROUBLES: [&str; 4] = ["connect", "closed", "timeout", "body"];

#[derive(Debug, Default, Clone)]
struct Cell {
    requests: Vec<(&'static str, u16, u64)>,
    /// The last one holds what is above all bounds.
    buckets: [u64; BUCKETS.len() + 1],
    nanos: u128,
}

impl Cell {
    fn count(&mut self, method: &'static str, code: u16, times: u64) {
        match self.requests.iter_mut().find(|(m, c, _)| *m == method && *c == code) {
            Some((_, _, count)) => *count += times,
            None => self.requests.push((method, code, times)),
        }
    }

    fn add(&mut self, other: &Self) {
        for (method, code, times) in &other.requests {
            self.count(method, *code, *times);
        }
        for (sum, more) in self.buckets.iter_mut().zip(other.buckets) {
            *sum += more;
        }
        self.nanos += other.nanos;
    }
}

/// Far enough apart that two threads do not share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Cell>);

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

/// What is counted for one pod of one Service.
#[derive(Debug, Default)]
pub struct Series {
    shards: [Shard; SHARDS],
    troubles: [AtomicU64; TROUBLES.len()],
}

impl Series {
    /// Counts a request; without a latency when it has none that means anything.
    pub fn record(&self, method: &'static str, code: u16, latency: Option<Duration>) {
        let shard = &self.shards[SHARD.with(|shard| *shard)];
        let mut cell = lock(&shard.0);
        cell.count(method, code, 1);
        if let Some(latency) = latency {
            let seconds = latency.as_secs_f64();
            let bucket = BUCKETS.iter().position(|(bound, _)| seconds <= *bound).unwrap_or(BUCKETS.len());
            cell.buckets[bucket] += 1;
            cell.nanos += latency.as_nanos();
        }
    }

    /// Counts a failure of the endpoint, whether or not another one helped out.
    pub fn trouble(&self, trouble: Trouble) {
        self.troubles[trouble as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self) -> Cell {
        let mut sum = Cell::default();
        for shard in &self.shards {
            sum.add(&lock(&shard.0));
        }
        sum
    }

    /// Requests counted so far.
    #[cfg(test)]
    pub(crate) fn requests(&self) -> u64 {
        self.sum().requests.iter().map(|(_, _, count)| count).sum()
    }
}

/// What is counted for a Service.
#[derive(Debug)]
pub struct ServiceState {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub service: Arc<str>,
    /// Requests that have not ended.
    pub in_flight: AtomicI64,
    /// Requests that wait for an endpoint.
    pub held: AtomicUsize,
    /// Requests sent again.
    pub retries: AtomicU64,
    /// Turns of its weighted choice.
    pub sequence: AtomicU64,
    /// Requests that no endpoint answered.
    pub unanswered: Arc<Series>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    namespace: Arc<str>,
    service: Arc<str>,
    pod: Arc<str>,
    version: Arc<str>,
}

/// Namespace and name.
type ServiceKey = (Arc<str>, Arc<str>);

#[derive(Debug)]
struct Kept<T> {
    item: Arc<T>,
    gone_since: Option<Instant>,
}

impl<T> Kept<T> {
    fn new(item: Arc<T>) -> Self {
        Self { item, gone_since: None }
    }

    /// Whether to keep it: somebody else holds it, or did a while ago.
    fn stays(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.item) > 1 {
            self.gone_since = None;
            return true;
        }
        now.duration_since(*self.gone_since.get_or_insert(now)) < KEEP_GONE
    }
}

/// Keeps counters over changes of the routing table.
#[derive(Debug, Default)]
pub struct Registry {
    services: Mutex<BTreeMap<ServiceKey, Kept<ServiceState>>>,
    series: Mutex<BTreeMap<SeriesKey, Kept<Series>>>,
    gates: Mutex<HashMap<(ServiceKey, SocketAddr), Weak<Gate>>>,
    refused: Mutex<BTreeMap<&'static str, u64>>,
    said: Mutex<HashSet<String>>,
    /// Requests that have not ended, of all Services.
    pub(crate) open: AtomicUsize,
    /// Open tunnels.
    pub tunnels: AtomicI64,
    /// Spans that found the feed full.
    pub spans_lost: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// The counters of a Service.
    pub fn service(&self, namespace: &Arc<str>, service: &Arc<str>) -> Arc<ServiceState> {
        let mut services = lock(&self.services);
        let kept = services.entry((Arc::clone(namespace), Arc::clone(service))).or_insert_with(|| {
            Kept::new(Arc::new(ServiceState {
                namespace: Arc::clone(namespace),
                service: Arc::clone(service),
                in_flight: AtomicI64::new(0),
                held: AtomicUsize::new(0),
                retries: AtomicU64::new(0),
                sequence: AtomicU64::new(0),
                unanswered: Arc::default(),
            }))
        });
        Arc::clone(&kept.item)
    }

    /// An endpoint with the counters it had before.
    pub fn endpoint(
        &self,
        service: &ServiceState,
        target: Target,
        pod: &str,
        version: &str,
    ) -> Arc<Endpoint> {
        let key = SeriesKey {
            namespace: Arc::clone(&service.namespace),
            service: Arc::clone(&service.service),
            pod: pod.into(),
            version: version.into(),
        };
        let place = ((Arc::clone(&key.namespace), Arc::clone(&key.service)), target.address);
        let mut gates = lock(&self.gates);
        let gate = gates.get(&place).and_then(Weak::upgrade).unwrap_or_else(|| {
            let gate = Arc::new(Gate::default());
            gates.insert(place, Arc::downgrade(&gate));
            gate
        });
        drop(gates);
        let (pod, version) = (Arc::clone(&key.pod), Arc::clone(&key.version));
        let mut series = lock(&self.series);
        let kept = series.entry(key).or_insert_with(|| Kept::new(Arc::default()));
        let series = Arc::clone(&kept.item);
        Arc::new(Endpoint { target, pod, version, series, gate })
    }

    /// Requests that have not ended, of all Services.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a request that came to no Service.
    pub fn refuse(&self, reason: &'static str) {
        *lock(&self.refused).entry(reason).or_default() += 1;
    }

    /// Logs something once.
    pub fn say_once(&self, service: &str, what: &str) {
        if lock(&self.said).insert(format!("{service}: {what}")) {
            tracing::warn!(%service, "{what}");
        }
    }

    /// Drops what has been gone for a while.
    pub fn sweep(&self) {
        let now = Instant::now();
        lock(&self.gates).retain(|_, gate| gate.strong_count() > 0);
        lock(&self.series).retain(|_, kept| kept.stays(now));
        lock(&self.services).retain(|_, kept| kept.stays(now));
    }

    /// Everything in Prometheus' text format.
    pub fn expose(&self) -> String {
        self.sweep();
        let mut cells: Vec<(SeriesKey, Arc<Series>)> =
            lock(&self.series).iter().map(|(key, kept)| (key.clone(), Arc::clone(&kept.item))).collect();
        let services: Vec<_> = lock(&self.services).values().map(|kept| Arc::clone(&kept.item)).collect();
        for service in &services {
            let key = SeriesKey {
                namespace: Arc::clone(&service.namespace),
                service: Arc::clone(&service.service),
                pod: "".into(),
                version: "".into(),
            };
            cells.push((key, Arc::clone(&service.unanswered)));
        }
        let mut text = String::new();
        series_text(&mut text, &merged(cells));
        services_text(&mut text, &services);
        head(&mut text, "wharf_proxy_requests_refused_total", "counter", "Requests that came to no Service.");
        for (reason, count) in &*lock(&self.refused) {
            let _ = writeln!(text, "wharf_proxy_requests_refused_total{{reason=\"{reason}\"}} {count}");
        }
        head(
            &mut text,
            "wharf_proxy_tunnels",
            "gauge",
            "Open connections that were upgraded, such as WebSockets.",
        );
        let _ = writeln!(text, "wharf_proxy_tunnels {}", self.tunnels.load(Ordering::Relaxed));
        head(&mut text, "wharf_proxy_spans_lost_total", "counter", "Spans that found the feed full.");
        let _ = writeln!(text, "wharf_proxy_spans_lost_total {}", self.spans_lost.load(Ordering::Relaxed));
        text
    }
}

/// What one set of labels shows.
struct Row {
    labels: String,
    cell: Cell,
    troubles: [u64; TROUBLES.len()],
}

/// Endpoints that are no pods have the same labels as requests without any endpoint.
fn merged(cells: Vec<(SeriesKey, Arc<Series>)>) -> Vec<Row> {
    let mut rows: BTreeMap<SeriesKey, (Cell, [u64; TROUBLES.len()])> = BTreeMap::new();
    for (key, series) in cells {
        let (cell, troubles) = rows.entry(key).or_default();
        cell.add(&series.sum());
        for (sum, more) in troubles.iter_mut().zip(&series.troubles) {
            *sum += more.load(Ordering::Relaxed);
        }
    }
    let labels = |key: &SeriesKey| {
        format!(
            "namespace=\"{}\",service=\"{}\",pod=\"{}\",version=\"{}\"",
            escape(&key.namespace),
            escape(&key.service),
            escape(&key.pod),
            escape(&key.version)
        )
    };
    rows.into_iter().map(|(key, (cell, troubles))| Row { labels: labels(&key), cell, troubles }).collect()
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn series_text(text: &mut String, rows: &[Row]) {
    head(text, "wharf_http_requests_total", "counter", "Requests that have ended.");
    for Row { labels, cell, .. } in rows {
        for (method, code, count) in &cell.requests {
            let _ = writeln!(
                text,
                "wharf_http_requests_total{{{labels},method=\"{method}\",code=\"{code}\"}} {count}"
            );
        }
    }
    let name = "wharf_http_request_duration_seconds";
    head(text, name, "histogram", "Time from a request's head to the end of its response.");
    for Row { labels, cell, .. } in rows.iter().filter(|row| row.cell.buckets.iter().any(|count| *count > 0))
    {
        let mut below = 0;
        let bounds = BUCKETS.iter().map(|(_, text)| *text).chain(["+Inf"]);
        for (count, bound) in cell.buckets.iter().zip(bounds) {
            below += count;
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        #[expect(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
        let seconds = cell.nanos as f64 / 1e9;
        let _ = writeln!(text, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {below}");
    }
    let name = "wharf_http_upstream_failures_total";
    head(text, name, "counter", "Times an endpoint gave no whole response, by reason; retries included.");
    for Row { labels, troubles, .. } in rows {
        for (reason, count) in TROUBLES.iter().zip(troubles).filter(|(_, count)| **count > 0) {
            let _ = writeln!(text, "{name}{{{labels},reason=\"{reason}\"}} {count}");
        }
    }
}

fn services_text(text: &mut String, services: &[Arc<ServiceState>]) {
    let mut family = |name: &str, kind: &str, help: &str, of: &dyn Fn(&ServiceState) -> i64| {
        head(text, name, kind, help);
        for state in services {
            let (namespace, service) = (escape(&state.namespace), escape(&state.service));
            let value = of(state);
            let _ = writeln!(text, "{name}{{namespace=\"{namespace}\",service=\"{service}\"}} {value}");
        }
    };
    family("wharf_http_requests_in_flight", "gauge", "Requests that have not ended.", &|state| {
        state.in_flight.load(Ordering::Relaxed)
    });
    family("wharf_http_requests_held", "gauge", "Requests that wait for an endpoint to appear.", &|state| {
        i64::try_from(state.held.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    });
    family("wharf_http_retries_total", "counter", "Times a request was sent again.", &|state| {
        i64::try_from(state.retries.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
    });
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
