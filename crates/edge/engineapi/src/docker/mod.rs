//! The Docker Engine API, version 1.47, for the docker CLI, Compose, SDKs and testcontainers.
//!
//! Containers are those of [`wharf_engine`], images those of the store: what one client makes, `wharf run`, `wharf ps` and
//! builds see too. What is not honoured is refused by name, or warned about in the answer to `create`.

mod answer;
mod archive;
mod build;
mod changes;
mod containers;
mod create;
mod describe;
mod exec;
mod images;
mod keeper;
mod networks;
mod route;
mod seccomp;
mod stats;
mod streams;
mod system;
mod update;
mod volumes;

use std::{path::PathBuf, sync::Arc};

use http::{Method, Request, Response, request::Parts};
use wharf_build::Builder;
use wharf_engine::{Container, Engine};
use wharf_http::Body;
use wharf_image::Store;

use answer::{Failure, Reply};
use exec::Execs;
use keeper::Keeper;
use route::Query;

/// The version of the API that is served.
pub const API_VERSION: &str = "1.47";
/// The oldest version a client may ask for.
pub const MIN_API_VERSION: &str = "1.24";
/// Bytes of a request's JSON.
const MAX_JSON: usize = 4 << 20;

/// What the API serves.
#[derive(Clone)]
pub struct Docker {
    engine: Engine,
    images: Arc<Store>,
    builder: Option<Arc<Builder>>,
    keeper: Arc<Keeper>,
    execs: Arc<Execs>,
}

/// A container as `docker inspect` shows it.
///
/// # Errors
/// Why it cannot be looked at.
pub fn inspect(engine: &Engine, container: &Container) -> Result<serde_json::Value, String> {
    describe::inspect(engine, container, false).map_err(|failure| failure.to_string())
}

/// A container's program with its arguments: as it was started, or as it will be.
pub fn command(engine: &Engine, container: &Container) -> Vec<String> {
    describe::command(engine, container)
}

/// Docker's word for how a container is, and the line of `docker ps` about it.
pub fn state(container: &Container) -> (&'static str, String) {
    (describe::state(container), describe::status(container))
}

/// A request, taken apart.
struct Call {
    head: Parts,
    query: Query,
    body: Body,
    /// The connection, for those that leave HTTP.
    upgrade: Option<answer::Upgrade>,
}

impl Docker {
    /// Serves the containers of `engine` and the images of `images`. Containers that are to be restarted are, from now on.
    pub fn start(engine: Engine, images: Arc<Store>, builder: Option<Arc<Builder>>) -> Self {
        let keeper = Keeper::start(engine.clone());
        Self { engine, images, builder, keeper, execs: Arc::default() }
    }

    /// The folder of the platform.
    fn data(&self) -> PathBuf {
        self.engine.data().to_owned()
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let head_only = request.method() == Method::HEAD;
        let mut response = match self.answer(request).await {
            Ok(response) => response,
            Err(failure) => failure.into_response(),
        };
        answer::stamp(&mut response);
        if head_only {
            *response.body_mut() = wharf_http::empty();
        }
        response
    }

    async fn answer(&self, mut request: Request<Body>) -> Reply {
        let upgrade = answer::Upgrade::take(&mut request);
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path().to_owned(), Query::parse(head.uri.query()));
        let parts = route::parts(&path)?;
        let method = head.method.clone();
        let call = Call { head, query, body, upgrade };
        let words: Vec<&str> = parts.iter().map(String::as_str).collect();
        match (method.as_str(), words.as_slice()) {
            ("GET" | "HEAD", ["_ping"]) => Ok(system::ping()),
            ("GET", ["version"]) => Ok(system::version()),
            ("GET", ["info"]) => self.info().await,
            ("GET", ["events"]) => self.events(&call),
            ("GET", ["system", "df"]) => self.disk_usage().await,
            ("POST", ["auth"]) => self.auth(call).await,
            (_, ["containers", rest @ ..]) => self.containers(&method, rest, call).await,
            (_, ["exec", id, rest @ ..]) => self.exec(&method, id, rest, call).await,
            (_, ["images", rest @ ..]) => self.images(&method, rest, call).await,
            (_, ["networks", rest @ ..]) => self.networks(&method, rest, call).await,
            (_, ["volumes", rest @ ..]) => self.volumes(&method, rest, call).await,
            ("POST", ["commit"]) => self.commit(call).await,
            ("POST", ["build"]) => self.build(call).await,
            ("POST", ["build", "prune"]) => self.prune_builds().await,
            (_, ["session" | "grpc"]) => Err(Failure::not_supported(
                "BuildKit sessions are not supported: set DOCKER_BUILDKIT=0, or use 'wharf build'",
            )),
            (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => Err(Failure::new(
                http::StatusCode::SERVICE_UNAVAILABLE,
                "This node is not a swarm manager: wharf runs services as Kubernetes workloads",
            )),
            ("GET", ["plugins"]) => Ok(answer::json_of(&serde_json::json!([]))),
            _ => Err(Failure::not_found(format!("page not found: {method} {path}"))),
        }
    }
}

/// Runs `work` on a thread that may wait for the disk or for a shim.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| Err(Failure::internal(format!("the request was not finished: {error}"))))
}

/// Everything that is read of a request before anything is done, for fuzzing.
#[doc(hidden)]
pub fn fuzz_request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    let _ = route::parts(path);
    let query = Query::parse(Some(query));
    if let Ok(filters) = query.filters() {
        let _ = filters.labels(&Default::default());
    }
    for name in ["since", "until"] {
        let _ = containers::time(&query, name);
    }
    let _ = containers::size(&query);
    if let Ok(body) = serde_json::from_slice(bytes) {
        let _ = create::read(&body);
    }
}
