//! What a container takes from its image.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use wharf_base::ContainerId;
use wharf_image::{Healthcheck, Store};

use crate::{
    error::{Error, IoContext as _, Result},
    spec::checks,
};

/// An image, reduced to what running it needs.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// As people call it.
    pub name: String,
    /// The digest of its configuration; empty for a folder.
    pub id: String,
    /// Folders of its layers, the topmost first.
    pub lower_dirs: Vec<PathBuf>,
    /// The program.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// `K=V`.
    pub env: Vec<String>,
    /// Where it starts.
    pub workdir: String,
    /// Who it runs as.
    pub user: String,
    /// Places that hold data.
    pub volumes: Vec<String>,
    /// The signal that stops it.
    pub stop_signal: Option<String>,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
    /// Ports its programs listen on: `80/tcp`.
    pub ports: Vec<String>,
    /// How its health is checked.
    pub healthcheck: Option<Healthcheck>,
    /// What runs commands written as one text.
    pub shell: Vec<String>,
}

/// A plain folder as an image without settings.
pub(crate) fn from_directory(path: &Path) -> Result<Image> {
    let path = path.canonicalize().at("open the root file system", path)?;
    if !path.is_dir() {
        return Err(Error::invalid(format!("the root file system {} is not a folder", path.display())));
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
pub fn leaseholder(lease: &str) -> Option<ContainerId> {
    lease.strip_prefix(LEASE)?.parse().ok()
}

/// Gives back what a container held of the store.
pub(crate) fn release(data: &Path, id: &ContainerId) -> Result<()> {
    let folder = data.join("images");
    if folder.exists() {
        Store::open(folder)?.release(&lease(id))?;
    }
    Ok(())
}

/// An image of the platform's store, which keeps it as long as the container is there. One that removes itself is not there
/// any more once the machine has stopped.
pub(crate) fn hold(data: &Path, name: &str, id: &ContainerId, removes_itself: bool) -> Result<Image> {
    let store = Store::open(data.join("images"))?;
    let held = match removes_itself {
        true => store.hold_for_now(name, &lease(id)),
        false => store.hold(name, &lease(id)),
    };
    Ok(reduced(name, held?))
}

/// An image of the platform's store.
pub(crate) fn resolve(data: &Path, name: &str) -> Result<Image> {
    Ok(reduced(name, Store::open(data.join("images"))?.resolve(name)?))
}

fn reduced(name: &str, found: wharf_image::ResolvedImage) -> Image {
    let id = found.id.to_string();
    let config = found.config.config;
    Image {
        name: name.to_owned(),
        id,
        lower_dirs: found.lower_dirs,
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.cmd.unwrap_or_default(),
        env: config.env,
        workdir: config.working_dir,
        user: config.user,
        volumes: config.volumes.into_keys().collect(),
        stop_signal: config.stop_signal,
        labels: config.labels,
        ports: config.exposed_ports.into_keys().collect(),
        healthcheck: config.healthcheck.filter(|check| checks(&check.test)),
        shell: config.shell.unwrap_or_default(),
    }
}
