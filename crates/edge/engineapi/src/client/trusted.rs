//! Asks a registry for what the policy wants to know of an image, and lets the policy decide ([`super::trust`]).
//!
//! The policy is the file `WHARF_POLICY` names, or else /etc/wharf/policy.json where there is one; without a policy
//! every image may be used. It is read for each image, so that a change counts at once. It is asked for what comes
//! from registries: images built, loaded or pushed here are this machine's own.

use std::path::PathBuf;

use wharf_base::Digest;
use wharf_image::{Error, Manifest, Reference};

use super::{
    Result,
    pull::{Source, blocking},
    trust::{BUNDLE_TYPE, Need, Policy, Requirements, Signature, signature_layers, signature_tag},
};

const FILE: &str = "/etc/wharf/policy.json";
const VARIABLE: &str = "WHARF_POLICY";
/// Manifests of bundles that are looked at.
const MAX_BUNDLES: usize = 32;

/// Which policy counts.
#[derive(Debug, Clone, Default)]
pub(super) enum Policies {
    /// This machine's.
    #[default]
    OfMachine,
    File(PathBuf),
}

impl Policies {
    /// The file of the policy; without one every image may be used.
    fn file(self) -> Option<PathBuf> {
        match (self, std::env::var_os(VARIABLE)) {
            (Self::File(file), _) => Some(file),
            (Self::OfMachine, Some(file)) => (!file.is_empty()).then(|| file.into()),
            (Self::OfMachine, None) => Some(PathBuf::from(FILE)).filter(|file| file.exists()),
        }
    }

    /// What the policy wants of an image by its name alone; nothing when that is all.
    pub(super) fn requirements(self, name: &Reference) -> Result<Option<Requirements>> {
        let Some(file) = self.file() else { return Ok(None) };
        let policy = Policy::load(&file).map_err(|e| refusal(&e.to_string(), e.hint()))?;
        let requirements = policy.requirements(name);
        let need = requirements.admit(name).map_err(|e| refusal(&e.to_string(), e.hint()))?;
        Ok((need == Need::Signatures).then(|| requirements.clone()))
    }
}

fn refusal(problem: &str, hint: &str) -> Error {
    Error::Untrusted { problem: problem.to_owned(), hint: hint.to_owned() }
}

impl Source<'_> {
    /// Refuses an image whose signatures do not meet the requirements.
    pub(super) async fn verify(&self, wanted: Requirements, name: &Reference, digest: Digest) -> Result<()> {
        let verify = |signatures: Vec<Signature>| {
            let (wanted, name) = (wanted.clone(), name.clone());
            // Many signatures and many keys take a while.
            blocking(move || {
                let verdict = wanted.verify(&name, &digest, &signatures);
                verdict.map_err(|e| refusal(&e.to_string(), e.hint()))
            })
        };
        let mut signatures = self.simple_signatures(&digest).await?;
        // Not every registry knows referrers, and they need not be asked for then.
        if verify(signatures.clone()).await.is_ok() {
            return Ok(());
        }
        signatures.extend(self.bundles(&digest).await?);
        verify(signatures).await
    }

    /// Those under the tag that cosign gives them; none when there is no such tag.
    async fn simple_signatures(&self, digest: &Digest) -> Result<Vec<Signature>> {
        match self.found(&format!("manifests/{}", signature_tag(digest))).await? {
            Some(bytes) => self.signatures_of(&bytes).await,
            None => Ok(Vec::new()),
        }
    }

    /// Sigstore's bundles, which refer to the image.
    async fn bundles(&self, digest: &Digest) -> Result<Vec<Signature>> {
        let kind: String = form_urlencoded::byte_serialize(BUNDLE_TYPE.as_bytes()).collect();
        let list = self.found(&format!("referrers/{digest}?artifactType={kind}")).await?;
        let mut signatures = Vec::new();
        for bundle in list.map_or(Vec::new(), |list| bundles_of(&list)) {
            if let Some(bytes) = self.found(&format!("manifests/{bundle}")).await? {
                if Digest::by(bundle.algorithm(), &bytes) != bundle {
                    return Err(self.error(format!("the manifest {bundle} has another digest")));
                }
                signatures.extend(self.signatures_of(&bytes).await?);
            }
        }
        Ok(signatures)
    }

    async fn signatures_of(&self, manifest: &[u8]) -> Result<Vec<Signature>> {
        let manifest = Manifest::parse(manifest)?;
        let layers = signature_layers(&manifest).map_err(|problem| self.error(problem))?;
        let mut signatures = Vec::new();
        for layer in layers {
            let content = self.found(&format!("blobs/{}", layer.digest)).await?.unwrap_or_default();
            if Digest::by(layer.digest.algorithm(), &content) != layer.digest {
                return Err(
                    self.error(format!("the signature {} is missing or has another digest", layer.digest))
                );
            }
            signatures.push(Signature::of_layer(layer, content));
        }
        Ok(signatures)
    }
}

/// The bundles in a list of referrers, which may have more than was asked for.
fn bundles_of(list: &[u8]) -> Vec<Digest> {
    let list: serde_json::Value = serde_json::from_slice(list).unwrap_or_default();
    let manifests = list["manifests"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bundles = manifests.iter().filter(|found| found["artifactType"] == BUNDLE_TYPE);
    bundles.filter_map(|found| found["digest"].as_str()?.parse().ok()).take(MAX_BUNDLES).collect()
}
