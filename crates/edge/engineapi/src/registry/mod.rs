//! The registry: the OCI distribution specification 1.1, served straight from the image store.
//!
//! **Names.** A repository is the image of the same name on this machine, read as every other name is:
//! `shop` is `docker.io/library/shop`, `team/shop` is `docker.io/team/shop`, `ghcr.io/acme/x` is
//! `ghcr.io/acme/x`. So a push to `127.0.0.1:5000/shop:1` makes the image `shop:1`, which pods and
//! `wharf run` use at once, and every image of the store can be pulled. What was pushed stays as it is when the image of this machine
//! is removed or becomes another, until it is pushed again or deleted here ([`wharf_image::Store::publish`]). The other direction is
//! [`wharf_image::Store::serve_as`]: with the registry's address declared there, the store reads
//! `127.0.0.1:5000/shop:1` as `shop:1`, so both texts name one image everywhere.
//!
//! **Content** is shared by all repositories: a blob that one has, every one has, and a mount always
//! succeeds. A manifest belongs to a repository by a tag or, when pushed by digest or after its tag moved
//! on, by the name `REPOSITORY@DIGEST`. A manifest is stored and served as the bytes that came.
//!
//! **Deletion** of a blob is refused while a manifest needs it. Deleting a tag leaves its manifest reachable
//! by digest; deleting a digest takes all its names in the repository.
//!
//! **Crashes.** A request is acknowledged after its content and names are flushed. Uploads grow in files
//! that outlive the process; their digests are computed anew from the file after a restart, and those
//! nobody continued for a day are swept.
//!
//! **Pull-through** ([`Through`]), when it is on: what is asked for and not here comes from the registry of its name.
//!
//! **Access** is everybody's who can connect, unless users are given ([`Access`]).

mod access;
mod blobs;
mod error;
mod lists;
mod manifests;
mod route;
mod through;
mod uploads;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use wharf_http::{Body, empty, full};
use wharf_image::Store;

pub use access::Access;
pub(crate) use blobs::read_file;
use error::{Code, Failure};
use lists::ReferrerCache;
use route::{Repository, Route};
pub use through::Through;
use uploads::Uploads;

/// How long an upload nobody continues is kept.
const UPLOAD_AGE: Duration = Duration::from_secs(24 * 3600);
const SWEEP_EVERY: Duration = Duration::from_secs(600);

type Answer = Result<Response<Body>, Failure>;

/// A registry over one image store. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    images: Arc<Store>,
    uploads: Arc<Uploads>,
    referrers: Arc<ReferrerCache>,
    swept: Arc<Mutex<Option<Instant>>>,
    access: Option<Arc<Access>>,
    through: Option<Arc<Through>>,
}

impl Registry {
    /// A registry over `images`, for everybody who can connect.
    pub fn new(images: Arc<Store>) -> Self {
        let (uploads, referrers, swept) = Default::default();
        Self { images, uploads, referrers, swept, access: None, through: None }
    }

    /// The same registry, for these users only.
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = Some(Arc::new(access));
        self
    }

    /// The same registry, which brings what it lacks.
    pub fn with_through(mut self, through: Through) -> Self {
        self.through = Some(Arc::new(through));
        self
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let admitted = match &self.access {
            Some(access) => access.admit(request.headers()).await,
            None => Ok(()),
        };
        let mut response = match admitted {
            Ok(()) => self.answer(request).await.unwrap_or_else(Failure::into_response),
            Err(refusal) => refusal,
        };
        if head {
            let headers = std::mem::take(response.headers_mut());
            let status = response.status();
            response = Response::new(empty());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
        }
        let version = HeaderValue::from_static("registry/2.0");
        response.headers_mut().insert("docker-distribution-api-version", version);
        response
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let mut route = route::parse(head.uri.path())?;
        // Who uses this as a mirror says of which registry.
        if let (Some(repository), Some(domain)) = (route.repository(), query(&head, "ns")) {
            *repository = repository.of(&domain)?;
        }
        match (route, head.method.as_str()) {
            (Route::Root, "GET" | "HEAD") => Ok(json_response(&serde_json::json!({}))),
            (Route::Catalog, "GET") => self.catalog(&head).await,
            (Route::Tags(repository), "GET" | "HEAD") => self.tags(repository, &head).await,
            (Route::Referrers(repository, subject), "GET") => {
                self.referrers(repository, subject, &head).await
            }
            (Route::Manifest(repository, selector), "GET" | "HEAD") => {
                self.get_manifest(repository, selector, &head).await
            }
            (Route::Manifest(repository, selector), "PUT") => {
                self.put_manifest(repository, selector, &head, body).await
            }
            (Route::Manifest(repository, selector), "DELETE") => {
                self.delete_manifest(repository, selector).await
            }
            (Route::Blob(repository, digest), "HEAD") => self.head_blob(repository, digest).await,
            (Route::Blob(repository, digest), "GET") => self.get_blob(repository, digest, &head).await,
            (Route::Blob(_, digest), "DELETE") => self.delete_blob(digest).await,
            (Route::Uploads(repository), "POST") => {
                self.sweep_sometimes();
                self.start_upload(repository, &head, body).await
            }
            (Route::Upload(repository, id), "GET" | "HEAD") => self.upload_status(repository, &id).await,
            (Route::Upload(repository, id), "PATCH") => {
                self.add_to_upload(repository, &id, &head, body).await
            }
            (Route::Upload(repository, id), "PUT") => self.finish_upload(repository, &id, &head, body).await,
            (Route::Upload(_, id), "DELETE") => self.cancel_upload(&id).await,
            _ => {
                let what = format!("{} {} is not supported", head.method, head.uri.path());
                Err(Failure::new(Code::Unsupported, what))
            }
        }
    }

    /// Removes abandoned uploads, now and then.
    fn sweep_sometimes(&self) {
        let mut swept = self.swept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if swept.is_some_and(|at| at.elapsed() < SWEEP_EVERY) {
            return;
        }
        *swept = Some(Instant::now());
        let (images, uploads) = (Arc::clone(&self.images), Arc::clone(&self.uploads));
        tokio::task::spawn_blocking(move || {
            uploads.forget_idle();
            if let Err(error) = images.blobs().sweep_partials(UPLOAD_AGE) {
                tracing::warn!(%error, "cannot sweep abandoned uploads");
            }
        });
    }

    /// Runs `work` with the store on a thread that may wait for the disk.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let images = Arc::clone(&self.images);
        blocking(move || work(&images)).await
    }
}

/// Runs `work` on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Failure::new(Code::Internal, format!("the request was not finished: {e}"))))
}

fn json_response(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response without content.
fn bare(status: StatusCode, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

/// The parameter `name` of the request's query.
fn query(head: &Parts, name: &str) -> Option<String> {
    let query = head.uri.query()?;
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
