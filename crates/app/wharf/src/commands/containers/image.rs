//! What a container takes from its image.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use wharf_base::ContainerId;
use wharf_image::Store;

use crate::commands::image::hinted;

/// An image, reduced to what running it needs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    /// As people call it.
    pub(crate) name: String,
    /// Folders of its layers, the topmost first.
    pub(crate) lower_dirs: Vec<PathBuf>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) workdir: String,
    pub(crate) user: String,
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: Option<String>,
    /// Whether it says how its health is checked.
    pub(crate) has_healthcheck: bool,
}

/// A plain folder as an image without settings.
pub(crate) fn from_directory(path: &Path) -> anyhow::Result<Image> {
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot open the root file system {}", path.display()))?;
    if !path.is_dir() {
        bail!("the root file system {} is not a folder", path.display());
    }
    Ok(Image { name: path.display().to_string(), lower_dirs: vec![path], ..Image::default() })
}

/// The lease a container has on its image.
fn lease(id: &ContainerId) -> String {
    format!("{LEASE}{id}")
}

/// What the names of containers' leases begin with.
const LEASE: &str = "run-";

/// The container a lease is of.
pub(crate) fn leaseholder(lease: &str) -> Option<ContainerId> {
    lease.strip_prefix(LEASE)?.parse().ok()
}

/// Gives back what a container held of the store.
pub(super) fn release(data: &Path, id: &ContainerId) -> anyhow::Result<()> {
    let folder = data.join("images");
    if folder.exists() {
        Store::open(folder).map_err(hinted)?.release(&lease(id)).map_err(hinted)?;
    }
    Ok(())
}

/// An image of the platform's store, which keeps it as long as the container is there.
pub(crate) fn from_store(data: &Path, name: &str, id: &ContainerId) -> anyhow::Result<Image> {
    let store = Store::open(data.join("images")).map_err(hinted)?;
    let found = store.hold(name, &lease(id)).map_err(hinted)?;
    let config = found.config.config;
    Ok(Image {
        name: name.to_owned(),
        lower_dirs: found.lower_dirs,
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env,
        workdir: config.working_dir,
        user: config.user,
        volumes: config.volumes.into_keys().collect(),
        stop_signal: config.stop_signal,
        has_healthcheck: config
            .healthcheck
            .is_some_and(|check| check.test.first().is_some_and(|kind| kind != "NONE")),
    })
}
