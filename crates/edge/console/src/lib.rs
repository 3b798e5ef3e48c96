//! The web page: what runs, what is delivered and how it fares.
//!
//! Every page is complete HTML made here, so that it can be read without JavaScript; a small script keeps it current by
//! server-sent events. The room knows objects through informers, and metrics and logs through two traits; it knows
//! nothing of how either is stored. Nothing is written through it.

mod chart;
mod html;
mod pages;
mod stream;

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use futures_util::Stream;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use wharf_client::{Client, Gvr, Informer, ListParams, action};
use wharf_http::{Body, full};

/// An answer that takes a while; the error is for people.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

/// Lines as they are written.
pub type Lines = Pin<Box<dyn Stream<Item = String> + Send>>;

/// One series of a range query: labels, and points of seconds since the epoch and value.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Points in order of time.
    pub points: Vec<(f64, f64)>,
}

/// Answers PromQL.
pub trait MetricsQuery: Send + Sync {
    /// A range query; times in seconds since the epoch.
    fn range(&self, query: String, start: f64, end: f64, step: f64) -> Answer<Vec<Series>>;
}

/// Whose log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// A container's.
    Container {
        /// Namespace of the pod.
        namespace: String,
        /// Its name.
        pod: String,
        /// Name of the container.
        container: String,
    },
    /// A job's of a WorkflowRun.
    Job {
        /// Namespace of the run.
        namespace: String,
        /// Its name.
        run: String,
        /// Key of the job in the run's status.
        job: String,
    },
}

/// Reads logs.
pub trait LogSource: Send + Sync {
    /// The last lines.
    fn tail(&self, target: LogTarget, lines: usize) -> Answer<Vec<String>>;
    /// The last lines, then what is written. Ends when nothing more can come.
    fn follow(&self, target: LogTarget, lines: usize) -> Answer<Lines>;
}

/// What a console is made of.
pub struct ConsoleConfig {
    /// The API.
    pub client: Client,
    /// Metrics.
    pub query: Arc<dyn MetricsQuery>,
    /// Logs.
    pub logs: Arc<dyn LogSource>,
}

/// Serves the pages. Cheap to clone.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) informers: BTreeMap<&'static str, Informer>,
    pub(crate) query: Arc<dyn MetricsQuery>,
    pub(crate) logs: Arc<dyn LogSource>,
}

const WATCHED: [(&str, Gvr); 7] = [
    ("pods", action::PODS),
    ("services", action::SERVICES),
    ("nodes", action::NODES),
    ("deployments", action::DEPLOYMENTS),
    ("rollouts", Gvr::fixed("argoproj.io", "v1alpha1", "rollouts")),
    ("analysisruns", Gvr::fixed("argoproj.io", "v1alpha1", "analysisruns")),
    ("runs", Gvr::fixed("ci.wharf.dev", "v1alpha1", "workflowruns")),
];

/// Only what comes from here, and nothing inline.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

impl Console {
    /// Starts to watch what the pages show; must be called inside a tokio runtime.
    pub fn new(config: ConsoleConfig) -> Self {
        let start = |gvr: Gvr| Informer::start(config.client.clone(), gvr, ListParams::default());
        let informers = WATCHED.into_iter().map(|(name, gvr)| (name, start(gvr))).collect();
        Self(Arc::new(Inner { informers, query: config.query, logs: config.logs }))
    }

    /// Answers a request. Paths: `/`, `/runs`, `/rollouts`, `/services`, `/pods`, `/nodes`, `/assets`, `/events`, `/logs`.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "the console only shows\n");
        }
        let path: Vec<String> = request.uri().path().split('/').skip(1).map(html::decoded).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["assets", "style.css"] => asset("text/css; charset=utf-8", include_str!("assets/style.css")),
            ["assets", "console.js"] => {
                asset("text/javascript; charset=utf-8", include_str!("assets/console.js"))
            }
            ["assets", "icon.svg"] => asset("image/svg+xml", include_str!("assets/icon.svg")),
            ["events"] => stream::events(&self.0, request.uri().query().unwrap_or("")),
            ["logs", "pod", namespace, pod, container] => {
                let [namespace, pod, container] = [*namespace, *pod, *container].map(str::to_owned);
                stream::log(&self.0, LogTarget::Container { namespace, pod, container }).await
            }
            ["logs", "run", namespace, run, job] => {
                let [namespace, run, job] = [*namespace, *run, *job].map(str::to_owned);
                stream::log(&self.0, LogTarget::Job { namespace, run, job }).await
            }
            path => match pages::page_at(&self.0, path).await {
                Some(page) => text(StatusCode::OK, "text/html; charset=utf-8", page),
                None => text(
                    StatusCode::NOT_FOUND,
                    "text/html; charset=utf-8",
                    pages::missing(request.uri().path()),
                ),
            },
        }
    }
}

fn asset(kind: &'static str, content: &'static str) -> Response<Body> {
    text(StatusCode::OK, kind, content)
}

pub(crate) fn text(
    status: StatusCode,
    kind: &'static str,
    content: impl Into<bytes::Bytes>,
) -> Response<Body> {
    guarded(status, kind, full(content))
}

pub(crate) fn guarded(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
