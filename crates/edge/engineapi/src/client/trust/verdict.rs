//! Whether an image meets its requirements, and in which words it is refused.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wharf_base::Digest;
use wharf_image::Reference;

use super::{
    bundle::read_bundle,
    identity::{Identity, Named},
    json::shown,
    key::Key,
    payload::{Subject, read_payload},
    policy::{Requirement, Requirements},
    signature::{Form, MAX_BYTES, MAX_SIGNATURES, Signature, signature_tag},
};

/// What has to be fetched before [`Requirements::verify`] can decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: every signature or none is the same.
    Nothing,
    /// The signatures of the image.
    Signatures,
}

/// Why an image may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Refusal {
    problem: String,
    hint: String,
}

impl Refusal {
    /// What the reader can do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl Requirements {
    /// Whether an image may be used as far as its name tells, and what else has to be known. To be asked before
    /// a registry is.
    ///
    /// # Errors
    /// When the policy rejects the image whatever its signatures are.
    pub fn admit(&self, reference: &Reference) -> Result<Need, Refusal> {
        if self.all.iter().any(|requirement| matches!(requirement, Requirement::Reject)) {
            let (file, about) = (self.file.display(), &self.about);
            return Err(Refusal {
                problem: format!("{reference}: {file} rejects images of {about}"),
                hint: format!("use an image the policy accepts, or change the rule for {about} in {file}"),
            });
        }
        let signed = |requirement| matches!(requirement, &Requirement::Signed { .. });
        Ok(if self.all.iter().any(signed) { Need::Signatures } else { Need::Nothing })
    }

    /// Whether an image may be used: `reference` is its name as it was asked for, `manifest` the digest of what
    /// that name stands for, `signatures` what was found for this digest.
    ///
    /// For an image of several platforms a signature of the index is enough, since it has the digests of all its
    /// manifests; a caller may ask again with the manifest of its platform when the index is refused. That the
    /// bytes have the digest, and that a digest in `reference` leads to them, is the caller's to check.
    ///
    /// # Errors
    /// When a requirement does not hold, with which one and why; or when there are more than 128 signatures.
    pub fn verify(
        &self,
        reference: &Reference,
        manifest: &Digest,
        signatures: &[Signature],
    ) -> Result<(), Refusal> {
        self.admit(reference)?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(Refusal {
                problem: format!(
                    "{reference} has {} signatures, more than {MAX_SIGNATURES}",
                    signatures.len()
                ),
                hint: "remove signatures that are of no use from its repository".into(),
            });
        }
        for requirement in &self.all {
            if let Requirement::Signed { keys, identity } = requirement {
                let wanted = Wanted { keys, identity, reference, name: Named::of(reference), manifest };
                wanted.one_of(signatures).map_err(|rejections| self.refuse(&wanted, &rejections))?;
            }
        }
        Ok(())
    }

    fn refuse(&self, wanted: &Wanted<'_>, rejections: &[Rejection]) -> Refusal {
        let Wanted { reference, manifest, .. } = wanted;
        let Some(nearest) = rejections.iter().max() else {
            let (file, tag) = (self.file.display(), signature_tag(manifest));
            return Refusal {
                problem: format!("{reference} is not signed by a key of {file}: no signature found ({tag})"),
                hint: wanted.how_to_sign(),
            };
        };
        let count = match rejections.len() {
            1 => "1 signature".to_owned(),
            n => format!("{n} signatures"),
        };
        let (problem, hint) = wanted.explain(nearest);
        Refusal { problem: format!("{reference}: {count}, {problem}"), hint }
    }
}

/// What one requirement asks of one image.
struct Wanted<'a> {
    keys: &'a [Key],
    identity: &'a Identity,
    reference: &'a Reference,
    name: Named,
    manifest: &'a Digest,
}

/// Why a signature is not accepted; what comes later was nearer to it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rejection {
    /// It is no signature at all.
    Malformed(String),
    NotByKey,
    /// By this key, but what is signed cannot be read.
    Unreadable {
        key: String,
        problem: String,
    },
    /// By this key, for an image of another digest.
    OtherImage {
        key: String,
        digest: Option<Digest>,
    },
    /// By this key, for this image under a name that is not accepted, or under none.
    OtherName {
        key: String,
        name: Option<String>,
    },
}

impl Wanted<'_> {
    /// Nothing, when one of the signatures is accepted; why each is not, otherwise.
    fn one_of(&self, signatures: &[Signature]) -> Result<(), Vec<Rejection>> {
        let mut rejections = Vec::new();
        for signature in signatures {
            match self.check(signature) {
                Ok(()) => return Ok(()),
                Err(rejection) => rejections.push(rejection),
            }
        }
        Err(rejections)
    }

    fn check(&self, signature: &Signature) -> Result<(), Rejection> {
        if signature.bytes() > MAX_BYTES {
            return Err(Rejection::Malformed(format!("a signature has more than {MAX_BYTES} bytes")));
        }
        // In this order: nothing of a text is read whose signature is not verified.
        let (key, subjects) = match &signature.0 {
            Form::Simple { payload, signature } => {
                let signature = simple_signature(signature).map_err(Rejection::Malformed)?;
                let key = self.key_of(payload, &signature)?;
                (key, read_payload(payload).map(|subject| vec![subject]))
            }
            Form::Bundle(bundle) => {
                let envelope =
                    read_bundle(bundle).map_err(|fault| Rejection::Malformed(fault.to_string()))?;
                let key = self.key_of(&envelope.signed(), &envelope.signature)?;
                (key, envelope.subjects())
            }
        };
        let key = key.source.clone();
        match subjects {
            Ok(subjects) => self.is_about_the_image(key, subjects),
            Err(fault) => Err(Rejection::Unreadable { key, problem: fault.to_string() }),
        }
    }

    fn key_of(&self, message: &[u8], signature: &[u8]) -> Result<&Key, Rejection> {
        self.keys.iter().find(|key| key.signed(message, signature)).ok_or(Rejection::NotByKey)
    }

    fn is_about_the_image(&self, key: String, subjects: Vec<Subject>) -> Result<(), Rejection> {
        let other = subjects.first().map(|subject| subject.digest);
        let mut named = None;
        for subject in subjects.into_iter().filter(|subject| subject.digest == *self.manifest) {
            let signed = subject.name.as_deref().and_then(Named::parse);
            if signed.is_some_and(|signed| self.identity.accepts(&self.name, &signed)) {
                return Ok(());
            }
            named = Some(subject.name);
        }
        Err(match named {
            Some(name) => Rejection::OtherName { key, name },
            None => Rejection::OtherImage { key, digest: other },
        })
    }

    fn explain(&self, rejection: &Rejection) -> (String, String) {
        let identity = self.identity;
        match rejection {
            Rejection::Malformed(problem) => {
                (format!("none of them readable: {problem}"), self.how_to_sign())
            }
            Rejection::NotByKey => (format!("none by {}", self.keys()), self.how_to_sign()),
            Rejection::Unreadable { key, problem } => {
                (format!("what the key {key} signed is not understood: {problem}"), self.how_to_sign())
            }
            Rejection::OtherImage { key, digest } => {
                let other = digest.map_or("no image".into(), |digest| digest.to_string());
                let problem = format!("the one by the key {key} is for {other} instead of {}", self.manifest);
                (problem, self.how_to_sign())
            }
            Rejection::OtherName { key, name: Some(name) } => {
                let problem = format!(
                    "the one by the key {key} is for '{}', which {identity} does not accept",
                    shown(name)
                );
                (problem, self.how_to_name(name))
            }
            Rejection::OtherName { key, name: None } => {
                let problem = format!(
                    "the one by the key {key} names no image, as bundles of cosign 3, and {identity} wants a name"
                );
                (problem, self.how_to_sign())
            }
        }
    }

    fn keys(&self) -> String {
        let names: Vec<_> = self.keys.iter().map(|key| key.source.as_str()).collect();
        match names.as_slice() {
            [one] => format!("the key {one}"),
            several => format!("one of the keys {}", several.join(", ")),
        }
    }

    fn how_to_sign(&self) -> String {
        let name = self.identity.name_to_sign(&self.name);
        let name = name.map_or_else(String::new, |name| format!(" --sign-container-identity {name}"));
        format!(
            "sign it with the private key: `cosign sign --key cosign.key --new-bundle-format=false \
             --use-signing-config=false{name} {}@{}`",
            self.reference.repository(),
            self.manifest
        )
    }

    fn how_to_name(&self, name: &str) -> String {
        let repository_only = Named::parse(name).is_some_and(|named| named.is_name_only());
        match self.identity.name_to_sign(&self.name).filter(|_| repository_only) {
            Some(name) => format!(
                "cosign names the repository alone: let the policy accept that, \"signedIdentity\": \
                 {{\"type\": \"matchRepository\"}}, or sign with `--sign-container-identity {name}`"
            ),
            None => "say in \"signedIdentity\" of the policy under which name this image is signed".into(),
        }
    }
}

fn simple_signature(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Err("a payload has no signature in its annotations".into());
    }
    // As Go decodes it: line breaks do not count.
    STANDARD.decode(text.replace(['\r', '\n'], "")).map_err(|_| "a signature is not base64".into())
}
