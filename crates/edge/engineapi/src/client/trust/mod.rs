//! Content trust: may an image be used, and what has to be fetched to decide?
//!
//! The rules are those of containers/image, in its file format (containers-policy.json(5)); signatures are
//! cosign's, verified by public keys. Nothing here asks a registry. Whoever pulls an image does, in this order:
//!
//! 1. [`Policy::load`] once, at start. A policy that is not understood whole is an error, never a weaker policy.
//! 2. [`Policy::requirements`] of the reference as it was asked for, and [`Requirements::admit`]: a refusal, or
//!    what it [`Need`]s. With [`Need::Nothing`] the image may be used.
//! 3. With [`Need::Signatures`], resolve the reference to the digest of its manifest or index. Fetch the manifest
//!    with the tag [`signature_tag`] from the same repository; without one there are no such signatures. Likewise
//!    the manifests that refer to the digest with the artifact type [`BUNDLE_TYPE`].
//! 4. Of each of these manifests fetch the [`signature_layers`], and make a [`Signature`] of each.
//! 5. [`Requirements::verify`] by the digest and the signatures, before anything of the image is kept under its
//!    name.
//!
//! A signature counts when, in this order: a key of the policy made it over exactly the bytes of the payload, the
//! payload has the digest of the manifest, and the name in it is one that `signedIdentity` accepts. cosign names
//! the repository without a tag unless told otherwise, which `matchRepository` and `exactRepository` accept and
//! the default, `matchRepoDigestOrExact`, does not. The bundles of cosign 3 name no image at all, so no
//! `signedIdentity` accepts them, unless the signer gave the statement's subject a name.
//!
//! Not supported, and refused by name: GPG signatures (`signedBy`), certificates (`fulcio`, `pki`) and
//! transparency logs (`rekorPublicKey…`).

mod bundle;
mod der;
mod identity;
mod json;
mod key;
mod payload;
mod policy;
mod read;
mod scope;
mod signature;
mod verdict;

#[cfg(test)]
mod tests;

pub use policy::{Policy, PolicyError, Requirements};
pub use signature::{BUNDLE_TYPE, Signature, signature_layers, signature_tag};
pub use verdict::{Need, Refusal};
