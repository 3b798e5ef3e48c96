//! Stages that are built to images, and images to what the build gives.

use wharf_base::{Clock, Digest, SystemClock};
use wharf_image::{Descriptor, ImageConfig, Platform, Reference};

use super::{
    capture::request_args,
    executor::{Build, lock},
    platform::is_same,
    request::{BuildRequest, Builder, Image},
    state::State,
    transfer::FIELD,
};
use crate::{
    attest::{Attested, BillRequest, Facts, Provenance, SPDX, predicate, put_attestations, statement},
    error::{Error, IoContext, Result},
};

/// What the images of one build have in common.
pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) started: String,
    /// The Dockerfile's name and text.
    pub(super) dockerfile: (String, String),
}

impl Build<'_> {
    /// The image of a stage that is built, with what is attested of it.
    pub(super) fn image(&self, state: &State, invocation: &Invocation) -> Result<(Attested, Digest)> {
        let manifest = self.annotated(self.put_image(state)?)?;
        let id = self.builder.images.manifest(&manifest)?.1.config.digest;
        let attested = Attested {
            platform: self.platform.clone(),
            statements: self.statements(&manifest, invocation)?,
            manifest,
        };
        Ok((attested, id))
    }

    fn put_image(&self, state: &State) -> Result<Descriptor> {
        let mut config = ImageConfig {
            architecture: state.platform.architecture.clone(),
            os: state.platform.os.clone(),
            ..ImageConfig::default()
        };
        if let Some(variant) = &state.platform.variant {
            config.other.insert("variant".into(), variant.clone().into());
        }
        config.config = state.config.clone();
        config.config.labels.extend(self.request.labels.clone());
        config.history = state.history.clone();
        config.author = state.author.clone();
        config.created = match self.request.source_date_epoch {
            Some(_) => Some(self.now()),
            None => state.created.clone(),
        };
        if self.request.cache_inline {
            let image: Vec<Digest> = state.layers.iter().map(|layer| layer.descriptor.digest).collect();
            let results = serde_json::to_value(&self.results_of(false, &image).0);
            config.other.insert(FIELD.into(), results.at("write the results of", "the image")?);
        }
        Ok(self.builder.images.put_image(config, &state.layers)?)
    }

    /// The manifest with the annotations the caller wants.
    fn annotated(&self, manifest: Descriptor) -> Result<Descriptor> {
        if self.request.annotations.is_empty() {
            return Ok(manifest);
        }
        let images = &self.builder.images;
        let mut document = images.manifest(&manifest)?.1;
        let annotations = serde_json::to_value(&self.request.annotations).at("write", "the annotations")?;
        document.other.insert("annotations".into(), annotations);
        let bytes = serde_json::to_vec(&document).at("write", "the manifest")?;
        let digest = images.blobs().put(&bytes)?;
        Ok(Descriptor::new(manifest.media_type, digest, bytes.len() as u64))
    }

    fn statements(
        &self,
        manifest: &Descriptor,
        invocation: &Invocation,
    ) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let wish = &self.request.attestations;
        let names = if wish.names.is_empty() { &self.request.tags } else { &wish.names };
        let mut statements = Vec::new();
        let mut add = |kind: &'static str, predicate: &serde_json::Value| -> Result<()> {
            let bytes = statement(kind, predicate, &manifest.digest, names, self.platform)?;
            statements.push((kind, bytes));
            Ok(())
        };
        if wish.sbom {
            add(SPDX, &self.bill(manifest, names)?)?;
        }
        if let Some(wish) = &wish.provenance {
            add(wish.version.predicate_type(), &self.provenance(wish, invocation))?;
        }
        Ok(statements)
    }

    fn bill(&self, manifest: &Descriptor, names: &[Reference]) -> Result<serde_json::Value> {
        let Some(bill) = &self.builder.bill else {
            return Err(Error::host("there is nothing here that lists packages").hint("build without --sbom"));
        };
        let images = &self.builder.images;
        let name = names.first().map_or_else(|| manifest.digest.to_string(), |name| name.familiar());
        let request = BillRequest { name, manifest: manifest.digest, created: self.now() };
        bill(images, &images.resolve_descriptor(manifest)?, &request).map_err(|error| {
            Error::host(format!("cannot list the packages: {error}")).hint(error.hint().to_owned())
        })
    }

    fn provenance(&self, wish: &Provenance, invocation: &Invocation) -> serde_json::Value {
        let captured = lock(&self.captured);
        let mut locals: Vec<String> = captured.locals.iter().cloned().collect();
        let is_local = !matches!(self.request.dockerfile, super::request::DockerfileSource::Text(_));
        if self.origin.is_none() && is_local {
            locals.push("dockerfile".into());
        }
        let materials = captured.materials.iter().chain(self.origin).cloned();
        predicate(
            wish,
            &Facts {
                config: self.config_source(),
                args: request_args(self.request),
                secrets: captured.secrets.iter().cloned().collect(),
                ssh: captured.ssh.iter().cloned().collect(),
                locals,
                materials: materials.collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
                incomplete: captured.incomplete,
                network: captured.network,
                builder_platform: Platform::host().to_string(),
                invocation: invocation.id.clone(),
                started: invocation.started.clone(),
                finished: SystemClock.now().to_nano(),
                steps: captured.steps.clone(),
                dockerfile: invocation.dockerfile.clone(),
            },
        )
    }
}

/// What the build gives: the one image, or an index of several or of what is attested; and its name in the store.
pub(super) fn assemble(
    builder: &Builder,
    request: &BuildRequest,
    built: &[(Attested, Digest)],
) -> Result<(Descriptor, Digest, Vec<Image>)> {
    let host = Platform::host();
    let own = built.iter().find(|(image, _)| is_same(&image.platform, &host)).or_else(|| built.first());
    let Some((first, id)) = own else { return Err(Error::host("no image was built")) };
    let images: Vec<Attested> = built.iter().map(|(image, _)| image.clone()).collect();
    let alone = images.len() == 1 && first.statements.is_empty();
    let target = match alone {
        true => first.manifest.clone(),
        false => put_attestations(&builder.images, &images, request.attestations.as_image)?,
    };
    if !request.tags.is_empty() {
        builder.images.tag(&request.tags, &target)?;
    }
    let image = |(image, id): &(Attested, Digest)| Image {
        platform: image.platform.clone(),
        manifest: image.manifest.clone(),
        id: *id,
        statements: image
            .statements
            .iter()
            .map(|(kind, bytes)| ((*kind).to_owned(), bytes.clone()))
            .collect(),
    };
    Ok((target, *id, built.iter().map(image).collect()))
}
