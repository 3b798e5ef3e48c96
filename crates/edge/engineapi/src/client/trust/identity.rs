//! For which image a signature is meant: `signedIdentity` (containers-policy.json(5)).

use std::fmt;

use wharf_base::Digest;
use wharf_image::Reference;

/// An image's name as it is compared. It may have neither tag nor digest: no `latest` is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Named {
    /// The name of an image that is asked for. With a digest in it the digest alone decides what is pulled,
    /// so the tag beside it is left out.
    pub(super) fn of(reference: &Reference) -> Self {
        let digest = reference.digest();
        let tag = reference.tag().filter(|_| digest.is_none()).map(str::to_owned);
        Self { repository: reference.repository(), tag, digest }
    }

    /// A name in a policy or a signature, short names completed as docker does.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let reference: Reference = text.parse().ok()?;
        let has_tag =
            reference.digest().is_some() || text.rsplit('/').next().is_some_and(|n| n.contains(':'));
        Some(Self {
            repository: reference.repository(),
            tag: reference.tag().filter(|_| has_tag).map(str::to_owned),
            digest: reference.digest(),
        })
    }

    /// Whether it names a repository and no image of it.
    pub(super) fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// `:TAG`, `@DIGEST`, both or nothing.
    pub(super) fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        self.digest.map_or_else(|| tag.clone(), |digest| format!("{tag}@{digest}"))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.repository, self.suffix())
    }
}

/// Which identities a signature of an image may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    Exact,
    RepoDigestOrExact,
    Repository,
    ExactReference(Named),
    ExactRepository(Named),
    Remap { prefix: String, signed_prefix: String },
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "matchExact",
            Self::RepoDigestOrExact => "matchRepoDigestOrExact",
            Self::Repository => "matchRepository",
            Self::ExactReference(_) => "exactReference",
            Self::ExactRepository(_) => "exactRepository",
            Self::Remap { .. } => "remapIdentity",
        })
    }
}

impl Identity {
    /// Whether a signature that names `signed` is one of the image asked for as `wanted`.
    pub(super) fn accepts(&self, wanted: &Named, signed: &Named) -> bool {
        match self {
            Self::Exact => exact(wanted, signed),
            Self::RepoDigestOrExact => repo_digest_or_exact(wanted, signed),
            Self::Repository => wanted.repository == signed.repository,
            Self::ExactReference(named) => exact(named, signed),
            Self::ExactRepository(named) => named.repository == signed.repository,
            Self::Remap { prefix, signed_prefix } => {
                remap(wanted, prefix, signed_prefix).is_some_and(|w| repo_digest_or_exact(&w, signed))
            }
        }
    }

    /// The name to give the signer of an image, where the repository alone, as cosign writes it, is not accepted.
    pub(super) fn name_to_sign(&self, wanted: &Named) -> Option<String> {
        match self {
            Self::Repository => None,
            Self::ExactRepository(named) if named.repository == wanted.repository => None,
            Self::Exact | Self::RepoDigestOrExact => Some(wanted.to_string()),
            Self::ExactReference(named) | Self::ExactRepository(named) => Some(named.to_string()),
            Self::Remap { prefix, signed_prefix } => {
                remap(wanted, prefix, signed_prefix).map(|n| n.to_string())
            }
        }
    }
}

fn exact(wanted: &Named, signed: &Named) -> bool {
    !wanted.is_name_only() && !signed.is_name_only() && wanted == signed
}

fn repo_digest_or_exact(wanted: &Named, signed: &Named) -> bool {
    match (&wanted.tag, &wanted.digest) {
        (None, None) => false,
        (Some(_), _) => exact(wanted, signed),
        (None, Some(_)) => !signed.is_name_only() && wanted.repository == signed.repository,
    }
}

/// The image under the name it was signed with, when the prefix is one of its name; the image as it is otherwise.
/// Nothing when the new name is none.
fn remap(wanted: &Named, prefix: &str, signed_prefix: &str) -> Option<Named> {
    let rest = wanted.repository.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let Some(rest) = rest else { return Some(wanted.clone()) };
    let repository = format!("{signed_prefix}{rest}");
    let whole = repository.parse::<Reference>().is_ok_and(|r| r.repository() == repository);
    whole.then(|| Named { repository, ..wanted.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(identity: &Identity, wanted: &str, signed: &str) -> bool {
        let wanted = Named::of(&wanted.parse().unwrap());
        Named::parse(signed).is_some_and(|signed| identity.accepts(&wanted, &signed))
    }

    fn hex(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    #[test]
    fn the_image_asked_for_and_the_one_signed_are_compared_as_the_manual_says() {
        let (a, b) = (hex('a'), hex('b'));
        let by_a = format!("h.x/r@{a}");
        // Asked for, signed; accepted by matchExact, matchRepoDigestOrExact, matchRepository.
        for (wanted, signed, expect) in [
            ("h.x/r:1", "h.x/r:1", [true, true, true]),
            ("h.x/r:1", "h.x/r:2", [false, false, true]),
            ("h.x/r:1", "h.x/r", [false, false, true]),
            ("h.x/r", "h.x/r", [false, false, true]),
            ("h.x/r", "h.x/r:latest", [true, true, true]),
            ("h.x/r:1", &format!("h.x/r@{a}"), [false, false, true]),
            (&by_a, "h.x/r:1", [false, true, true]),
            (&by_a, "h.x/r", [false, false, true]),
            (&by_a, &by_a, [true, true, true]),
            (&by_a, &format!("h.x/r@{b}"), [false, true, true]),
            (&format!("h.x/r:1@{a}"), "h.x/r:2", [false, true, true]),
            (&format!("h.x/r:1@{a}"), &by_a, [true, true, true]),
            ("h.x/r:1", "h.x/s:1", [false, false, false]),
            ("h.x/r:1", "h.y/r:1", [false, false, false]),
            ("h.x:5000/r:1", "h.x/r:1", [false, false, false]),
            ("nginx:1", "docker.io/library/nginx:1", [true, true, true]),
            ("nginx:1", "nginx:1", [true, true, true]),
            ("h.x/r:1", "", [false, false, false]),
            ("h.x/r:1", "H R", [false, false, false]),
        ] {
            let found = [Identity::Exact, Identity::RepoDigestOrExact, Identity::Repository]
                .map(|identity| check(&identity, wanted, signed));
            assert_eq!(found, expect, "{wanted} signed as {signed}");
        }
    }

    #[test]
    fn a_fixed_name_stands_for_whatever_is_asked_for() {
        let reference = Identity::ExactReference(Named::parse("docker.io/a/r:1").unwrap());
        let repository = Identity::ExactRepository(Named::parse("a/r").unwrap());
        for (signed, by_reference, by_repository) in [
            ("docker.io/a/r:1", true, true),
            ("a/r:1", true, true),
            ("a/r:2", false, true),
            ("a/r", false, true),
            ("h.x/r:1", false, false),
        ] {
            assert_eq!(check(&reference, "mirror.x/r:7", signed), by_reference, "{signed}");
            assert_eq!(check(&repository, "mirror.x/r:7", signed), by_repository, "{signed}");
        }
    }

    #[test]
    fn a_prefix_is_put_in_place_of_another() {
        let by_a = format!("mirror.x/library/r@{}", hex('a'));
        for (prefix, signed_prefix, wanted, signed, expect) in [
            ("mirror.x", "docker.io", "mirror.x/library/r:1", "docker.io/library/r:1", true),
            ("mirror.x", "docker.io", "mirror.x/library/r:1", "mirror.x/library/r:1", false),
            ("mirror.x", "docker.io", "mirror.x/library/r:1", "docker.io/library/r:2", false),
            ("mirror.x", "docker.io", &by_a, "docker.io/library/r:2", true),
            ("mirror.x", "docker.io", &by_a, "docker.io/library/r", false),
            // `docker.io/r` is no full name.
            ("mirror.x", "docker.io", "mirror.x/r:1", "docker.io/library/r:1", false),
            ("mirror.x", "docker.io", "mirror.xy/library/r:1", "mirror.xy/library/r:1", true),
            ("mirror.x/li", "docker.io", "mirror.x/library/r:1", "mirror.x/library/r:1", true),
            ("mirror.x/a/r", "h.y/z", "mirror.x/a/r:1", "h.y/z:1", true),
            ("mirror.x", "docker.io", "mirror.x:5000/a/r:1", "mirror.x:5000/a/r:1", true),
            ("mirror.x", "docker.io", "other.x/a/r:1", "other.x/a/r:1", true),
        ] {
            let identity = Identity::Remap { prefix: prefix.into(), signed_prefix: signed_prefix.into() };
            assert_eq!(check(&identity, wanted, signed), expect, "{prefix} {wanted} {signed}");
        }
    }

    #[test]
    fn the_signer_is_told_a_name_that_is_accepted() {
        let fixed = |text: &str| Named::parse(text).unwrap();
        let remap = Identity::Remap { prefix: "mirror.x".into(), signed_prefix: "h.y".into() };
        for (identity, expect) in [
            (Identity::Exact, Some("mirror.x/a/r:1")),
            (Identity::RepoDigestOrExact, Some("mirror.x/a/r:1")),
            (Identity::Repository, None),
            (Identity::ExactReference(fixed("h.y/r:7")), Some("h.y/r:7")),
            (Identity::ExactRepository(fixed("h.y/r")), Some("h.y/r")),
            (Identity::ExactRepository(fixed("mirror.x/a/r")), None),
            (remap, Some("h.y/a/r:1")),
        ] {
            let wanted = fixed("mirror.x/a/r:1");
            let name = identity.name_to_sign(&wanted);
            assert_eq!(name.as_deref(), expect, "{identity}");
            let signed = fixed(name.as_deref().unwrap_or("mirror.x/a/r"));
            assert!(identity.accepts(&wanted, &signed), "{identity}");
        }
    }
}
