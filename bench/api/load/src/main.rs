//! Load for a Kubernetes API server, the same for whichever it is: creates, lists, and many watchers of one change.
//!
//! Prints one JSON object with what it measured; times in milliseconds.

use std::{
    error::Error,
    fs,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};
use wharf_http::{
    Body, Issued,
    client::{Client, ClientConfig, Trust},
    collect, empty, full,
};

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    work: Work,
}

/// Where the server is and who asks.
#[derive(Args, Clone)]
struct Server {
    /// `https://host:port`.
    #[arg(long)]
    server: String,
    /// The authority of its certificate (PEM).
    #[arg(long)]
    ca: PathBuf,
    /// Who asks: a certificate (PEM).
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    #[arg(long)]
    key: Option<PathBuf>,
    /// Who asks: a bearer token.
    #[arg(long)]
    token: Option<String>,
    /// Where the ConfigMaps are.
    #[arg(long, default_value = "default")]
    namespace: String,
    /// What their names begin with.
    #[arg(long, default_value = "load")]
    prefix: String,
}

#[derive(Subcommand)]
enum Work {
    /// Creates small ConfigMaps, each client one after the other.
    Create {
        #[arg(long, default_value_t = 16)]
        clients: usize,
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
    /// Lists all of them, one list after the other.
    List {
        #[arg(long, default_value_t = 20)]
        count: usize,
    },
    /// Creates ConfigMaps, one after the other, and waits until every watcher has seen each.
    Watch {
        #[arg(long, default_value_t = 1000)]
        watchers: usize,
        #[arg(long, default_value_t = 100)]
        count: usize,
    },
}

/// One client with connections of its own.
struct Api {
    client: Client,
    server: Server,
}

impl Api {
    fn new(server: &Server) -> Result<Self, Failure> {
        let read = |path: &PathBuf| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()));
        let identity = match (&server.cert, &server.key) {
            (Some(cert), Some(key)) => Some(Issued { certificate: read(cert)?, key: read(key)? }),
            _ => None,
        };
        let client = Client::new(ClientConfig {
            trust: Trust::Authority(read(&server.ca)?),
            identity,
            response_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(600),
            ..ClientConfig::default()
        });
        Ok(Self { client, server: server.clone() })
    }

    fn url(&self, query: &str) -> String {
        format!("{}/api/v1/namespaces/{}/configmaps{query}", self.server.server, self.server.namespace)
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Body,
    ) -> Result<http::Response<Body>, Failure> {
        let request = match &self.server.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let sent = self.client.fetch(request.body(body)?).await;
        let response = sent.map_err(|error| error.to_string())?;
        if matches!(response.status(), StatusCode::OK | StatusCode::CREATED) {
            return Ok(response);
        }
        let status = response.status();
        let said = collect(response.into_body(), 1 << 20).await?;
        Err(format!("{status}: {}", String::from_utf8_lossy(&said)).into())
    }

    async fn create(&self, name: &str) -> Result<(), Failure> {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"key": "a value of some forty letters, as small as most"}});
        let request = Request::post(self.url("")).header(header::CONTENT_TYPE, "application/json");
        let response = self.send(request, full(object.to_string())).await?;
        collect(response.into_body(), 1 << 20).await?;
        Ok(())
    }

    async fn list(&self, query: &str) -> Result<Bytes, Failure> {
        let response = self.send(Request::get(self.url(query)), empty()).await?;
        collect(response.into_body(), 1 << 30).await
    }
}

/// Median, 99th percentile and the worst of some times, in milliseconds.
fn times(mut all: Vec<Duration>) -> Value {
    all.sort_unstable();
    let at = |share: f64| {
        let place = ((all.len() as f64 * share).ceil() as usize).clamp(1, all.len().max(1)) - 1;
        all.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    json!({"count": all.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

async fn create(server: &Server, clients: usize, count: usize) -> Result<Value, Failure> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..clients {
        let (api, next) = (Api::new(server)?, Arc::clone(&next));
        workers.spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, Failure>(times);
                }
                let began = Instant::now();
                api.create(&format!("{}-{number}", api.server.prefix)).await?;
                times.push(began.elapsed());
            }
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = workers.join_next().await {
        all.extend(ended??);
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut result = times(all);
    result["seconds"] = seconds.into();
    Ok(result)
}

async fn list(server: &Server, count: usize) -> Result<Value, Failure> {
    let api = Api::new(server)?;
    let mut bytes = api.list("").await?.len();
    let mut all = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        bytes = api.list("").await?.len();
        all.push(began.elapsed());
    }
    let mut result = times(all);
    result["bytes"] = bytes.into();
    Ok(result)
}

/// Follows a watch and says when each line with the prefix has come.
async fn follow(api: Api, query: String, seen: mpsc::UnboundedSender<Instant>) -> Result<(), Failure> {
    let response = api.send(Request::get(api.url(&query)), empty()).await?;
    let (mut body, mut open) = (response.into_body(), Vec::new());
    let wanted = api.server.prefix.as_bytes();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            open.extend_from_slice(part);
            if part.ends_with(b"\n") {
                if open.windows(wanted.len()).any(|window| window == wanted)
                    && seen.send(Instant::now()).is_err()
                {
                    return Ok(());
                }
                open.clear();
            }
        }
    }
    Err("the watch ended".into())
}

async fn watch(server: &Server, watchers: usize, count: usize) -> Result<Value, Failure> {
    let api = Api::new(server)?;
    let listed: Value = serde_json::from_slice(&api.list("?limit=1").await?)?;
    let version = listed["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let (seen, mut sights) = mpsc::unbounded_channel();
    let mut following = JoinSet::new();
    for _ in 0..watchers {
        let query = format!("?watch=1&timeoutSeconds=3600&resourceVersion={version}");
        following.spawn(follow(Api::new(server)?, query, seen.clone()));
    }
    // The first is for all watches to stand: it is not counted.
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for number in 0..=count {
        let began = Instant::now();
        api.create(&format!("{}-watched-{number}", server.prefix)).await?;
        let mut latest = began;
        for _ in 0..watchers {
            let sight = tokio::select! {
                sight = tokio::time::timeout(Duration::from_secs(120), sights.recv()) => sight?,
                Some(ended) = following.join_next() => {
                    ended??;
                    None
                }
            };
            let sight = sight.ok_or("a watch ended")?;
            latest = latest.max(sight);
            if number > 0 {
                first.push(sight - began);
            }
        }
        if number > 0 {
            last.push(latest - began);
        }
    }
    Ok(json!({"each": times(first), "all": times(last)}))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Cli { server, work } = Cli::parse();
    let result = match work {
        Work::Create { clients, count } => create(&server, clients, count).await?,
        Work::List { count } => list(&server, count).await?,
        Work::Watch { watchers, count } => watch(&server, watchers, count).await?,
    };
    writeln!(std::io::stdout(), "{result}")?;
    Ok(())
}
