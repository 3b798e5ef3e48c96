//! What built-in actions need of other parts. The application gives them; without one, the action says it is missing.

use std::{path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;

/// Tells the log of the step that waits.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// Builds images.
pub trait Build: Send + Sync {
    /// Builds and pushes; gives what was made.
    fn build(&self, order: BuildOrder, say: Say) -> BoxFuture<'_, anyhow::Result<Built>>;
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildOrder {
    /// The folder.
    pub context: PathBuf,
    /// The Dockerfile.
    pub dockerfile: PathBuf,
    /// Names to give it.
    pub tags: Vec<String>,
    /// Build arguments.
    pub args: Vec<(String, String)>,
    /// The stage to build; the last when empty.
    pub target: String,
    /// Whether it is also pushed to the registry.
    pub push: bool,
}

/// An image built.
#[derive(Debug, Clone, Default)]
pub struct Built {
    /// `REPOSITORY[:TAG]@DIGEST`, as pods name it.
    pub image: String,
    /// Its digest.
    pub digest: String,
}

/// Looks for vulnerabilities.
pub trait Scan: Send + Sync {
    /// What is found in an image at or above a severity (`low`, `medium`, `high`, `critical`).
    fn scan(&self, image: &str, severity: &str, say: Say) -> BoxFuture<'_, anyhow::Result<Vec<Finding>>>;
}

/// A vulnerability.
#[derive(Debug, Clone, Default)]
pub struct Finding {
    /// Its id, such as `CVE-2026-1234`.
    pub id: String,
    /// How bad.
    pub severity: String,
    /// The package.
    pub package: String,
    /// The version found.
    pub version: String,
    /// The version that mends it, if there is one.
    pub fixed: String,
}

/// Brings images from registries.
pub trait Pull: Send + Sync {
    /// Brings one.
    fn pull<'a>(&'a self, image: &'a str) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// The other parts.
#[derive(Clone, Default)]
pub struct Services {
    /// For the images of jobs.
    pub pull: Option<Arc<dyn Pull>>,
    /// For `wharf/build-push`.
    pub build: Option<Arc<dyn Build>>,
    /// For `wharf/scan`.
    pub scan: Option<Arc<dyn Scan>>,
    /// Address under which jobs reach the ingress (`http://10.244.0.1:8080`), for `wharf/deploy`'s `url`.
    pub ingress: Option<String>,
}
