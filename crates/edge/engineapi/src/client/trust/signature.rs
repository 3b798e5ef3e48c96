//! Where the signatures of an image lie in its repository, and what of them is fetched.

use bytes::Bytes;
use wharf_base::Digest;
use wharf_image::{Descriptor, Manifest};

use super::bundle;

/// The media type of a layer that holds a payload; the signature over it is an annotation of the layer.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The most signatures of one manifest, and of one image: more is no signing but an attempt to keep a verifier busy.
pub(super) const MAX_SIGNATURES: usize = 128;
/// The largest payload or bundle, in bytes: payloads have some 300, bundles some 10,000. So all signatures of
/// a manifest are at most 32 MiB.
pub(super) const MAX_BYTES: u64 = 256 << 10;

/// The artifact type that bundles are found by: `GET /v2/NAME/referrers/DIGEST?artifactType=…` (OCI distribution
/// specification 1.1, "Listing Referrers").
pub const BUNDLE_TYPE: &str = bundle::MEDIA_TYPE;

/// The tag of the manifest that has the signatures of the image with this digest, in the same repository.
/// Of a digest by SHA-512 it is longer than a tag may be: registries have none, and say so.
pub fn signature_tag(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm().name(), digest.hex())
}

/// The layers of a manifest that hold signatures and are worth fetching: payloads of the manifest that is tagged
/// [`signature_tag`], a bundle of one that refers to the image.
///
/// # Errors
/// A text that says which limit the manifest passes: 128 signatures of at most 256 KiB each.
pub fn signature_layers(manifest: &Manifest) -> Result<Vec<&Descriptor>, String> {
    let known = |layer: &&Descriptor| matches!(layer.media_type.as_str(), SIMPLE_SIGNING | BUNDLE_TYPE);
    let layers: Vec<_> = manifest.layers.iter().filter(known).collect();
    if layers.len() > MAX_SIGNATURES {
        return Err(format!("the manifest has {} signatures, more than {MAX_SIGNATURES}", layers.len()));
    }
    if let Some(layer) = layers.iter().find(|layer| layer.size > MAX_BYTES) {
        return Err(format!("signature {} has {} bytes, more than {MAX_BYTES}", layer.digest, layer.size));
    }
    Ok(layers)
}

/// A signature as it was found; nothing of it is believed yet.
#[derive(Debug, Clone)]
pub struct Signature(pub(super) Form);

#[derive(Debug, Clone)]
pub(super) enum Form {
    /// A payload, and the signature over exactly these bytes in base64.
    Simple {
        payload: Bytes,
        signature: String,
    },
    Bundle(Bytes),
}

impl Signature {
    /// A signature out of a layer that [`signature_layers`] named, and its content.
    pub fn of_layer(layer: &Descriptor, content: Bytes) -> Self {
        if layer.media_type == BUNDLE_TYPE {
            return Self::bundle(content);
        }
        // One without annotation is no signature, and says so when it is verified.
        Self::simple(content, layer.annotations.get(ANNOTATION).cloned().unwrap_or_default())
    }

    /// A payload in the form of "simple signing", and the signature over it in base64, as cosign's
    /// `--output-payload` and `--output-signature` write them.
    pub fn simple(payload: impl Into<Bytes>, signature: impl Into<String>) -> Self {
        Self(Form::Simple { payload: payload.into(), signature: signature.into() })
    }

    /// A Sigstore bundle, version 0.3.
    pub fn bundle(bundle: impl Into<Bytes>) -> Self {
        Self(Form::Bundle(bundle.into()))
    }

    /// The bytes to be read of it.
    pub(super) fn bytes(&self) -> u64 {
        match &self.0 {
            Form::Simple { payload, signature } => payload.len().max(signature.len()) as u64,
            Form::Bundle(bundle) => bundle.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(layers: Vec<Descriptor>) -> Manifest {
        let config = Descriptor::new("application/vnd.oci.image.config.v1+json", Digest::of("{}"), 2);
        let text = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
        Manifest::parse(text.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn signatures_lie_beside_the_image() {
        assert_eq!(signature_tag(&Digest::of("abc")), format!("sha256-{}.sig", Digest::of("abc").hex()));
    }

    #[test]
    fn only_signatures_are_fetched_and_not_without_end() {
        let layer = |kind: &str, size: u64| Descriptor::new(kind, Digest::of(kind), size);
        let mixed = manifest(vec![
            layer(SIMPLE_SIGNING, 300),
            layer("text/plain", 1 << 40),
            layer(BUNDLE_TYPE, 9000),
        ]);
        assert_eq!(signature_layers(&mixed).unwrap().len(), 2);
        let many =
            |n| signature_layers(&manifest(vec![layer(SIMPLE_SIGNING, 300); n])).map(|layers| layers.len());
        assert_eq!(many(MAX_SIGNATURES), Ok(MAX_SIGNATURES));
        assert_eq!(many(MAX_SIGNATURES + 1).unwrap_err(), "the manifest has 129 signatures, more than 128");
        assert!(signature_layers(&manifest(vec![layer(SIMPLE_SIGNING, MAX_BYTES)])).is_ok());
        assert!(signature_layers(&manifest(vec![layer(SIMPLE_SIGNING, MAX_BYTES + 1)])).is_err());
    }
}
