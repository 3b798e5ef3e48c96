//! The Kubernetes API server: one pipeline of authentication, authorization, admission and storage
//! that sockets and in-process clients enter alike.
//!
//! It does not know how pods run, how networks are built or what controllers decide.

mod admission;
mod aggregation;
mod allocate;
mod audit;
mod auth;
mod backup;
mod bootstrap;
mod callout;
mod configuration;
mod derived;
mod discovery;
mod encryption;
mod fairness;
mod measured;
mod openapi;
mod proxy;
mod registry;
mod request;
mod respond;
mod reviews;
mod storage;
mod streams;
mod unheeded;
mod values;
mod verbs;
mod versions;

use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderValue, Request, Response, header};
use serde_json::json;
use wharf_api::{
    resource::{Backing, Resource},
    status::Status,
};
use wharf_base::{Clock, Timestamp};
use wharf_http::{Body, collect};
use wharf_state::Store;

pub use aggregation::FrontProxy;
pub use allocate::Ranges;
pub use audit::{Audit, AuditError, LogOptions};
pub use auth::{
    Identity, SigningKey,
    bootstrap_token::detached_signature,
    oidc::{Anonymous, Authentication, Issuer, OidcFlags, is_signed},
};
pub use backup::PATH as BACKUP_PATH;
pub use configuration::ConfigError;
pub use encryption::{Encrypted, Encryption, Stale};
pub use measured::{NodeUsage, PodUsage, ResourceMetrics};
pub use streams::{ExecRequest, ExecSession, Kubelet, LogRequest, PodConnection, Reply, TerminalSize};

use auth::{Attributes, Authorizer, Decision, impersonated};
use registry::{Index, Registry};
use request::RequestInfo;
use storage::Storage;

/// Bytes of a request body at the most, as upstream.
const MAX_BODY: usize = 3 << 20;

/// What the server is made of.
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Signs service account tokens.
    pub signing_key: SigningKey,
    /// Addresses and ports given to services.
    pub ranges: Ranges,
    /// The authority's certificate, published in each namespace.
    pub authority: String,
    /// How the server speaks for its clients to extension API servers; without it those do not believe it.
    pub front_proxy: Option<FrontProxy>,
}

/// What a server may be told of who its clients are and what is kept of them. By default it believes only what it has
/// issued itself, and writes nothing down.
#[derive(Default)]
pub struct Security {
    /// Other issuers whose tokens are believed.
    pub issuers: Vec<Issuer>,
    /// Whether somebody unknown may ask.
    pub anonymous: Anonymous,
    /// Where requests are written down.
    pub audit: Option<Arc<Audit>>,
    /// Objects that are to be written anew, of the store where some are encrypted.
    pub stale: Stale,
    /// Requests that are carried out at once, besides those that are exempt; 600 unless it is said.
    pub seats: Option<u32>,
}

/// The server.
pub struct ApiServer {
    pub(crate) storage: Storage,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) signing_key: SigningKey,
    pub(crate) ranges: Ranges,
    authorizer: Authorizer,
    registry: Registry,
    kubelet: OnceLock<Arc<dyn Kubelet>>,
    metrics: measured::Source,
    openapi: openapi::Documents,
    pub(crate) hooks: admission::Hooks,
    pub(crate) policies: admission::Policies,
    pub(crate) clients: Arc<callout::Clients>,
    pub(crate) services: aggregation::Services,
    pub(crate) discovered: aggregation::Known,
    issuers: auth::oidc::Issuers,
    anonymous: Anonymous,
    audit: Option<Arc<Audit>>,
    pub(crate) stale: Stale,
    fairness: fairness::Fairness,
}

/// One request on its way: who asks for what.
pub(crate) struct Context {
    pub info: RequestInfo,
    pub identity: Identity,
    pub index: Arc<Index>,
    /// Warnings for the client (RFC 7234 §5.5).
    pub warnings: Vec<String>,
    /// Field manager of clients that name none: the first word of their user agent.
    pub default_manager: String,
}

impl Context {
    /// Of what the server does by itself, under this name of a manager.
    pub(crate) fn own(server: &ApiServer, info: RequestInfo, manager: &str) -> Self {
        Self {
            info,
            identity: Identity::system(),
            index: server.registry.index(&server.storage),
            warnings: Vec::new(),
            default_manager: manager.to_owned(),
        }
    }

    /// Of the same request, with warnings of its own.
    pub(crate) fn asking(other: &Self) -> Self {
        Self {
            info: other.info.clone(),
            identity: other.identity.clone(),
            index: Arc::clone(&other.index),
            warnings: Vec::new(),
            default_manager: other.default_manager.clone(),
        }
    }

    pub(crate) fn manager(&self) -> String {
        match self.info.param("fieldManager") {
            Some(name) if !name.is_empty() => name.chars().take(128).collect(),
            _ => self.default_manager.clone(),
        }
    }
}

impl ApiServer {
    /// Loads the store and makes what every cluster has: namespaces, roles, priority classes.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn open(config: Config) -> Result<Arc<Self>, wharf_state::Error> {
        Self::open_with(config, Security::default()).await
    }

    /// As [`ApiServer::open`], told more of who its clients are.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn open_with(config: Config, security: Security) -> Result<Arc<Self>, wharf_state::Error> {
        let server = Arc::new(Self {
            storage: Storage::open(config.store).await?,
            clock: config.clock,
            signing_key: config.signing_key,
            ranges: config.ranges,
            authorizer: Authorizer::new(),
            registry: Registry::new(),
            kubelet: OnceLock::new(),
            metrics: measured::Source::new(),
            openapi: openapi::Documents::default(),
            hooks: admission::Hooks::new(),
            policies: admission::Policies::new(),
            clients: Arc::new(callout::Clients::new(config.front_proxy.as_ref().map(|f| f.identity.clone()))),
            services: aggregation::Services::new(),
            discovered: aggregation::Known::default(),
            issuers: auth::oidc::Issuers::new(security.issuers),
            anonymous: security.anonymous,
            audit: security.audit,
            stale: security.stale,
            fairness: fairness::Fairness::new(security.seats.unwrap_or(fairness::SEATS)),
        });
        server.ranges.load(&server.storage);
        Box::pin(bootstrap::run(&server, &config.authority, config.front_proxy.as_ref())).await?;
        tokio::spawn(aggregation::keep_current(Arc::downgrade(&server)));
        tokio::spawn(fairness::defaults::keep(Arc::downgrade(&server)));
        if !server.issuers.is_empty() {
            tokio::spawn(auth::identify::ask_issuers(Arc::downgrade(&server)));
        }
        Ok(server)
    }

    /// Connects the node that logs, exec, attach and port-forward go to.
    pub fn connect_kubelet(&self, kubelet: Arc<dyn Kubelet>) {
        if self.kubelet.set(kubelet).is_err() {
            tracing::warn!("a kubelet is connected already; the second is not used");
        }
    }

    pub(crate) fn kubelet(&self) -> Result<&Arc<dyn Kubelet>, Status> {
        self.kubelet.get().ok_or_else(|| Status::new(503, "ServiceUnavailable", "no node is connected yet"))
    }

    /// Connects what knows the use of processors and memory: from here on `metrics.k8s.io` is served.
    pub fn connect_metrics(&self, source: Arc<dyn ResourceMetrics>) {
        match self.metrics.set(source) {
            Ok(()) => self.registry.serve_measured(),
            Err(_) => tracing::warn!("a metrics source is connected already; the second is not used"),
        }
    }

    pub(crate) fn metrics_source(&self) -> Option<&Arc<dyn ResourceMetrics>> {
        self.metrics.get()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The revision of the newest write.
    pub fn revision(&self) -> u64 {
        self.storage.revision()
    }

    /// Answers a request.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        match self.answer(request).await {
            Ok(response) => response,
            Err(status) => respond::failure(&status),
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Status> {
        let info = RequestInfo::of(request.method(), request.uri())?;
        let identity = match self.authenticate(auth::shown(&request), &info).await {
            Ok(identity) => identity,
            Err(status) => {
                self.write_down_stranger(&request, &info).await?;
                return Err(status);
            }
        };
        let record =
            self.audit.as_ref().and_then(|audit| audit.record(&self, &request, &info, Some(&identity)));
        let auditing = match (&self.audit, record) {
            (Some(audit), Some(record)) => Some(audit.begin(&self, record).await?),
            _ => None,
        };
        let Some(auditing) = auditing else { return self.answer_known(request, info, identity).await };
        let answered = auditing.about(async {
            let answered = self.answer_known(request, info, identity).await;
            answered.unwrap_or_else(|status| respond::failure(&status))
        });
        let response = Box::pin(answered).await;
        Ok(auditing.end(response).await)
    }

    /// Writes down a request of somebody who could not show who they are.
    fn write_down_stranger(
        self: &Arc<Self>,
        request: &Request<Body>,
        info: &RequestInfo,
    ) -> impl Future<Output = Result<(), Status>> + Send + use<> {
        let audit = self.audit.clone();
        let record = audit.as_ref().and_then(|audit| audit.record(self, request, info, None));
        let server = Arc::clone(self);
        async move {
            if let (Some(audit), Some(record)) = (audit, record) {
                audit.begin(&server, record).await?.end_unauthenticated();
            }
            Ok(())
        }
    }

    async fn answer_known(
        self: Arc<Self>,
        request: Request<Body>,
        info: RequestInfo,
        mut identity: Identity,
    ) -> Result<Response<Body>, Status> {
        if let Some(other) = impersonated(request.headers())? {
            self.authorize_impersonation(&identity, &other)?;
            audit::note(|record| record.impersonated(&other));
            identity = other;
        }
        let index = self.registry.index(&self.storage);
        let (class, seat) = match self.fairness.admit(&self.storage, &index, &identity, &info).await {
            Ok(admitted) => admitted,
            Err((class, status)) => {
                let mut response = respond::failure(&status);
                class.tell(response.headers_mut());
                return Ok(response);
            }
        };
        let answered = Box::pin(self.answer_admitted(request, info, identity, index)).await;
        drop(seat);
        let mut response = answered.unwrap_or_else(|status| respond::failure(&status));
        class.tell(response.headers_mut());
        Ok(response)
    }

    async fn answer_admitted(
        self: Arc<Self>,
        request: Request<Body>,
        info: RequestInfo,
        identity: Identity,
        index: Arc<Index>,
    ) -> Result<Response<Body>, Status> {
        self.authorize_request(&identity, &info)?;
        let agent =
            request.headers().get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or("unknown");
        let mut context = Context {
            default_manager: agent.split(['/', ' ']).next().unwrap_or("unknown").to_owned(),
            info,
            identity,
            index,
            warnings: Vec::new(),
        };
        let result = match self.elsewhere(&context) {
            Some(service) => aggregation::answer(&self, &context, &service, request).await,
            None if context.info.resource.is_empty() => self.other_path(&context, request.headers()).await,
            None => self.resource_request(&mut context, request).await,
        };
        let mut response = result.unwrap_or_else(|status| respond::failure(&status));
        for warning in &context.warnings {
            let text = format!("299 - {:?}", warning);
            if let Ok(value) = HeaderValue::from_str(&text) {
                response.headers_mut().append(header::WARNING, value);
            }
        }
        Ok(response)
    }

    /// The other server behind the group and version of a request.
    fn elsewhere(&self, context: &Context) -> Option<aggregation::Service> {
        let rest = context.info.path.strip_prefix("/apis/")?;
        let (group, rest) = rest.split_once('/')?;
        let version = rest.split('/').next()?;
        if context.index.serves(group, version) {
            return None;
        }
        self.services.of(self, group, version)
    }

    /// A token dies with its account, and with the object it is bound to.
    pub(crate) fn token_alive(&self, subject: &auth::TokenSubject) -> bool {
        let same = |qualified: &str, name: &str, uid: &str| {
            let entry = self.storage.get(qualified, &format!("{}/{name}", subject.namespace));
            entry.is_some_and(|e| uid.is_empty() || wharf_api::meta::text(&e.object(), "uid") == uid)
        };
        same("serviceaccounts", &subject.account, &subject.uid)
            && subject.bound.as_ref().is_none_or(|(kind, name, uid)| match kind.as_str() {
                "Pod" => same("pods", name, uid),
                "Secret" => same("secrets", name, uid),
                "Node" => {
                    let entry = self.storage.get("nodes", &format!("/{name}"));
                    entry.is_some_and(|e| uid.is_empty() || wharf_api::meta::text(&e.object(), "uid") == uid)
                }
                _ => false,
            })
    }

    fn authorize_request(&self, identity: &Identity, info: &RequestInfo) -> Result<(), Status> {
        // What the API has no verb for may still be a method of what is behind a proxy.
        if info.verb.is_empty() && info.subresource != "proxy" {
            return Err(Status::method_not_allowed());
        }
        let name = info.selected_name();
        let asked = match info.resource.as_str() {
            "" => Attributes { verb: info.verb, path: Some(&info.path), ..Attributes::default() },
            resource => Attributes {
                verb: info.verb,
                group: &info.group,
                resource,
                subresource: &info.subresource,
                namespace: &info.namespace,
                name: &name,
                fields: info.param("fieldSelector").unwrap_or_default(),
                path: None,
            },
        };
        let decision = self.authorizer.decide(&self.storage, identity, &asked);
        audit::note(|record| {
            let (decision, reason) = match &decision {
                Decision::Allowed(bound) => {
                    ("allow", bound.as_ref().map(auth::Bound::reason).unwrap_or_default())
                }
                Decision::Denied(why) => ("forbid", why.clone()),
            };
            record.annotate("authorization.k8s.io/decision", decision);
            record.annotate("authorization.k8s.io/reason", reason);
        });
        Self::permitted(decision, identity, &asked)
    }

    /// 403 when `identity` may not.
    pub(crate) fn authorize(&self, identity: &Identity, asked: &Attributes<'_>) -> Result<(), Status> {
        Self::permitted(self.authorizer.decide(&self.storage, identity, asked), identity, asked)
    }

    fn permitted(decision: Decision, identity: &Identity, asked: &Attributes<'_>) -> Result<(), Status> {
        let Decision::Denied(why) = decision else { return Ok(()) };
        let user = &identity.user;
        let mut refusal = asked.refusal();
        if !why.is_empty() {
            refusal = format!("{refusal}: {why}");
        }
        if asked.path.is_some() {
            return Err(Status::forbidden(format!("forbidden: User {user:?} {refusal}")));
        }
        let resource = match asked.group {
            "" => asked.resource.to_owned(),
            group => format!("{}.{group}", asked.resource),
        };
        let name = if asked.name.is_empty() { String::new() } else { format!(" {:?}", asked.name) };
        Err(Status::forbidden(format!("{resource}{name} is forbidden: User {user:?} {refusal}"))
            .about(&resource, asked.name))
    }

    fn authorize_impersonation(&self, identity: &Identity, other: &Identity) -> Result<(), Status> {
        let ask = |resource: &str, namespace: &str, name: &str| {
            let asked =
                Attributes { verb: "impersonate", resource, namespace, name, ..Attributes::default() };
            self.authorize(identity, &asked)
        };
        match other.user.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':')) {
            Some((namespace, name)) => ask("serviceaccounts", namespace, name)?,
            None => ask("users", "", &other.user)?,
        }
        // Groups that come with being somebody need no right of their own.
        let mut implied = vec!["system:authenticated".to_owned()];
        if let Some((namespace, _)) =
            other.user.strip_prefix("system:serviceaccount:").and_then(|a| a.split_once(':'))
        {
            implied.push("system:serviceaccounts".to_owned());
            implied.push(format!("system:serviceaccounts:{namespace}"));
        }
        other
            .groups
            .iter()
            .filter(|g| !implied.contains(g))
            .try_for_each(|group| ask("groups", "", group))?;
        let of_user = |resource: &str, subresource: &str, name: &str| {
            let group = "authentication.k8s.io";
            let verb = "impersonate";
            let asked = Attributes { verb, group, resource, subresource, name, ..Attributes::default() };
            self.authorize(identity, &asked)
        };
        if !other.uid.is_empty() {
            of_user("uids", "", &other.uid)?;
        }
        for (key, values) in &other.extra {
            values.iter().try_for_each(|value| of_user("userextras", key, value))?;
        }
        Ok(())
    }

    async fn resource_request(
        self: &Arc<Self>,
        context: &mut Context,
        request: Request<Body>,
    ) -> Result<Response<Body>, Status> {
        let info = &context.info;
        let resource = context.index.find(&info.group, &info.version, &info.resource);
        let resource = Arc::clone(resource.ok_or_else(Status::no_such_path)?);
        if !resource.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
            return Err(Status::no_such_path());
        }
        if !info.subresource.is_empty() {
            if !resource.has(&info.subresource) {
                return Err(Status::no_such_path());
            }
            return verbs::subresource(self, context, &resource, request).await;
        }
        match resource.backing {
            Backing::Review => reviews::answer(self, context, &resource, request).await,
            Backing::Measured => measured::answer(self, context, &resource, request.headers()).await,
            Backing::Stored => verbs::dispatch(self, context, &resource, request).await,
        }
    }

    /// The namespace and name of the addressed object as a cache key.
    pub(crate) fn key(resource: &Resource, info: &RequestInfo) -> String {
        if resource.namespaced {
            format!("{}/{}", info.namespace, info.name)
        } else {
            format!("/{}", info.name)
        }
    }

    async fn other_path(&self, context: &Context, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let path = context.info.path.trim_end_matches('/');
        match path {
            "/version" => Ok(respond::json_response(200, &version())),
            "/healthz" | "/livez" | "/readyz" => Ok(self.health(context, path)),
            "/metrics" => Ok(respond::response(200, "text/plain; version=0.0.4", self.metrics())),
            "/.well-known/openid-configuration" | "/openid/v1/jwks" => Ok(self.openid(path)),
            backup::PATH => backup::answer(self, context.info.verb).await,
            _ if path.starts_with("/openapi/") => self.openapi.answer(context, headers),
            _ => discovery::answer(self, context, headers).await,
        }
    }

    fn health(&self, context: &Context, path: &str) -> Response<Body> {
        let text = match context.info.param("verbose") {
            None => "ok".to_owned(),
            Some(_) => format!("[+]ping ok\n[+]state ok\n[+]watch-cache ok\n{} check passed\n", &path[1..]),
        };
        respond::response(200, "text/plain; charset=utf-8", text)
    }

    fn metrics(&self) -> String {
        let mut text = String::from(
            "# HELP apiserver_storage_objects Number of stored objects by resource.\n# TYPE apiserver_storage_objects gauge\n",
        );
        let index = self.registry.index(&self.storage);
        let stored = index.all().filter(|r| r.backing == Backing::Stored);
        // Once, whatever the number of versions.
        let names: std::collections::BTreeSet<String> = stored.map(|r| r.storage_key()).collect();
        for qualified in names {
            let count = self.storage.cache(&qualified).snapshot().entries.len();
            text.push_str(&format!("apiserver_storage_objects{{resource=\"{qualified}\"}} {count}\n"));
        }
        text.push_str(&self.fairness.metrics(&self.storage));
        if let Some(audit) = &self.audit {
            text.push_str(
                "# HELP apiserver_audit_error_total Number of times the audit log could not be written.\n",
            );
            text.push_str("# TYPE apiserver_audit_error_total counter\n");
            text.push_str(&format!("apiserver_audit_error_total {}\n", audit.failures()));
        }
        text
    }

    /// What others verify service account tokens by (OpenID Connect Discovery 1.0). They may keep it for an hour.
    fn openid(&self, path: &str) -> Response<Body> {
        let (content_type, value) = match path {
            "/openid/v1/jwks" => ("application/jwk-set+json", self.signing_key.key_set()),
            _ => (
                "application/json",
                json!({"issuer": auth::ISSUER, "jwks_uri": format!("{}/openid/v1/jwks", auth::ISSUER),
                    "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": ["ES256"]}),
            ),
        };
        let mut response = respond::response(200, content_type, value.to_string());
        let kept = HeaderValue::from_static("public, max-age=3600");
        response.headers_mut().insert(header::CACHE_CONTROL, kept);
        response
    }
}

/// How long a body may take to come: whoever sends it has a seat that others wait for.
const BODY_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);

/// All bytes of a request's body, within the limit.
pub(crate) async fn read_body(request: Request<Body>) -> Result<bytes::Bytes, Status> {
    let read = tokio::time::timeout(BODY_WITHIN, collect(request.into_body(), MAX_BODY)).await;
    let late = |_| Status::new(408, "Timeout", "the request body did not come in time");
    read.map_err(late)?.map_err(|error| match error.downcast_ref() {
        Some(wharf_http::BodyTooLarge { limit }) => {
            Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
        }
        None => Status::bad_request(format!("the request body could not be read: {error}")),
    })
}

/// The API version clients see. The platform's own version stands in `gitVersion` after the plus.
fn version() -> serde_json::Value {
    json!({"major": "1", "minor": "36", "gitVersion": concat!("v1.36.0+wharf", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", arch())})
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
