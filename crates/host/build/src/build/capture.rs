//! Notes for the provenance, taken while a build runs: what it took from outside and what its steps did.

use std::collections::{BTreeMap, BTreeSet};

use wharf_base::Digest;
use wharf_image::{Platform, Reference};

use super::{
    executor::{Build, lock},
    request::BuildRequest,
    settings::PROXY_ARGS,
};
use crate::{
    attest::{ConfigSource, Material, Named, Traced, image_purl},
    dockerfile::Network,
    progress::StepId,
    remote::{GitUrl, split_user, without_password},
};

/// What was noted so far.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) materials: BTreeSet<Material>,
    pub(crate) locals: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<Named>,
    pub(crate) ssh: BTreeSet<Named>,
    pub(crate) incomplete: bool,
    pub(crate) network: bool,
    pub(crate) steps: BTreeMap<StepId, Traced>,
}

/// An image as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageSource {
    /// As the Dockerfile names it.
    pub(crate) name: String,
    /// What the name points at: the manifest or the index.
    pub(crate) digest: Digest,
    /// From a layout of this machine and no registry.
    pub(crate) is_layout: bool,
}

impl ImageSource {
    pub(crate) fn identifier(&self) -> String {
        let kind = if self.is_layout { "oci-layout" } else { "docker-image" };
        let name = self.name.parse::<Reference>().map_or_else(|_| self.name.clone(), |name| name.to_string());
        let name = name.split('@').next().unwrap_or(&name).to_owned();
        format!("{kind}://{name}@{}", self.digest)
    }

    fn material(&self, platform: &Platform) -> Material {
        let kind = if self.is_layout { "oci" } else { "docker" };
        let uri = match self.name.parse::<Reference>() {
            Ok(name) => image_purl(kind, &name, platform),
            Err(_) => format!("pkg:{kind}/{}", self.name),
        };
        Material::of_digest(uri, &self.digest)
    }
}

/// The address of a repository as provenance tells it.
pub(crate) fn git_uri(url: &GitUrl) -> String {
    let remote = without_password(&url.remote);
    match url.reference.is_empty() {
        true => remote,
        false => format!("{remote}#{}", url.reference),
    }
}

impl Build<'_> {
    pub(crate) fn capture<T>(&self, note: impl FnOnce(&mut Captured) -> T) {
        if self.request.attestations.provenance.is_some() {
            note(&mut lock(&self.captured));
        }
    }

    pub(crate) fn note_image(&self, image: Option<&ImageSource>, platform: &Platform) {
        if let Some(image) = image {
            self.capture(|captured| captured.materials.insert(image.material(platform)));
        }
    }

    /// Files of a folder of this machine.
    pub(crate) fn note_local(&self, name: &str) {
        // A remote context is told of as where the Dockerfile came from.
        if name != "context" || self.origin.is_none() {
            self.capture(|captured| captured.locals.insert(name.to_owned()));
        }
    }

    pub(crate) fn note_material(&self, material: Material) {
        self.capture(|captured| captured.materials.insert(material));
    }

    /// A step that may reach others than itself.
    pub(crate) fn note_network(&self, network: Network) {
        let reaches = match network {
            Network::None => false,
            Network::Host => true,
            Network::Default => self.builder.network.is_some(),
        };
        self.capture(|captured| captured.network |= reaches);
    }

    pub(crate) fn config_source(&self) -> ConfigSource {
        use super::request::DockerfileSource;
        let path = match &self.request.dockerfile {
            DockerfileSource::InContext(name) => name.clone(),
            DockerfileSource::File(path) => {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            }
            DockerfileSource::Text(_) => String::new(),
        };
        ConfigSource { context: self.origin.cloned(), path }
    }
}

/// What the caller asked for, in the words of BuildKit's front end. The machine's own affairs are left out.
pub(crate) fn request_args(request: &BuildRequest) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    for (name, value) in &request.args {
        let value = match PROXY_ARGS.contains(&name.as_str()) {
            true => split_user(value).0,
            false => value.clone(),
        };
        args.insert(format!("build-arg:{name}"), value);
    }
    args.extend(request.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
    args.extend(request.target.iter().map(|target| ("target".to_owned(), target.clone())));
    if request.no_cache || !request.no_cache_stages.is_empty() {
        args.insert("no-cache".into(), request.no_cache_stages.join(","));
    }
    if !request.hosts.is_empty() {
        let hosts: Vec<String> = request.hosts.iter().map(|(name, at)| format!("{name}={at}")).collect();
        args.insert("add-hosts".into(), hosts.join(","));
    }
    match request.network {
        Network::Default => {}
        Network::None => drop(args.insert("force-network-mode".into(), "none".into())),
        Network::Host => drop(args.insert("force-network-mode".into(), "host".into())),
    }
    args
}
