//! What a container takes from its image.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

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

/// An image of the platform's store.
pub(crate) fn from_store(data: &Path, name: &str) -> anyhow::Result<Image> {
    let found = wharf_image::Store::open(data.join("images"))?.resolve(name)?;
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
    })
}
