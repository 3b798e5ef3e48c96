//! Paths of the distribution specification to what they ask for.

use wharf_base::Digest;
use wharf_image::Reference;

use super::error::{Code, Failure};

/// What a path asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Route {
    /// `/v2/`: is this a registry?
    Root,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/NAME/tags/list`.
    Tags(Repository),
    /// `/v2/NAME/manifests/TAG|DIGEST`.
    Manifest(Repository, Selector),
    /// `/v2/NAME/blobs/DIGEST`.
    Blob(Repository, Digest),
    /// `/v2/NAME/blobs/uploads/`.
    Uploads(Repository),
    /// `/v2/NAME/blobs/uploads/ID`.
    Upload(Repository, String),
    /// `/v2/NAME/referrers/DIGEST`.
    Referrers(Repository, Digest),
}

impl Route {
    /// The repository it is about.
    pub(super) fn repository(&mut self) -> Option<&mut Repository> {
        match self {
            Self::Root | Self::Catalog => None,
            Self::Tags(repository)
            | Self::Manifest(repository, _)
            | Self::Blob(repository, _)
            | Self::Uploads(repository)
            | Self::Upload(repository, _)
            | Self::Referrers(repository, _) => Some(repository),
        }
    }
}

/// A manifest by name or by content.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Selector {
    Tag(String),
    Digest(Digest),
}

/// A repository: its name on the wire and the local name it stands for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Repository {
    pub(super) name: String,
    /// It was asked for as a mirror of another registry's.
    pub(super) mirrored: bool,
    local: Reference,
}

impl Repository {
    pub(super) fn parse(name: &str) -> Result<Self, Failure> {
        let bad =
            |why: &str| Failure::new(Code::NameInvalid, format!("'{name}' is no repository name: {why}"));
        if name.contains([':', '@']) {
            return Err(bad("it has no tag, digest or port"));
        }
        let local = name.parse::<Reference>().map_err(|e| bad(&e.to_string()))?;
        Ok(Self { name: name.to_owned(), mirrored: false, local })
    }

    /// The same repository of the registry `domain`.
    pub(super) fn of(&self, domain: &str) -> Result<Self, Failure> {
        let bad = |e: &dyn std::fmt::Display| {
            Failure::new(Code::NameInvalid, format!("'ns={domain}' names no registry: {e}"))
        };
        let path = match domain {
            "docker.io" => self.local.path(),
            _ => self.name.as_str(),
        };
        // As a text it is checked as every other name is.
        let local: Reference = format!("{domain}/{path}").parse().map_err(|e| bad(&e))?;
        match local.domain() == domain && local.tag().is_none_or(|tag| tag == "latest") {
            true => Ok(Self { name: self.name.clone(), mirrored: true, local }),
            false => Err(bad(&"it is no host")),
        }
    }

    /// Domain and path of the local name.
    pub(super) fn local(&self) -> String {
        self.local.repository()
    }

    /// A name in it, of whatever it has.
    pub(super) fn any(&self) -> Reference {
        self.local.clone()
    }

    /// The local name of one of its tags or manifests.
    pub(super) fn reference(&self, selector: &Selector) -> Result<Reference, Failure> {
        let (tag, digest) = match selector {
            Selector::Tag(tag) => (Some(tag.as_str()), None),
            Selector::Digest(digest) => (None, Some(*digest)),
        };
        Reference::from_parts(self.local.domain(), self.local.path(), tag, digest)
            .map_err(|e| Failure::new(Code::TagInvalid, e.to_string()))
    }
}

pub(super) fn digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|e: wharf_base::DigestError| Failure::new(Code::DigestInvalid, e.to_string()))
}

/// Reads a path. Names may have slashes, so it is taken apart from its end.
pub(super) fn parse(path: &str) -> Result<Route, Failure> {
    let unknown = || Failure::new(Code::NotFound, format!("'{path}' is no path of the registry API"));
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Root),
        Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
        None => return Err(unknown()),
    };
    if rest == "_catalog" {
        return Ok(Route::Catalog);
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Repository::parse(name).map(Route::Tags);
    }
    let uploads = rest.strip_suffix("/blobs/uploads").or_else(|| rest.strip_suffix("/blobs/uploads/"));
    if let Some(name) = uploads {
        return Repository::parse(name).map(Route::Uploads);
    }
    let (head, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
    if let Some(name) = head.strip_suffix("/blobs/uploads") {
        return Ok(Route::Upload(Repository::parse(name)?, last.to_owned()));
    }
    let (name, kind) = head.rsplit_once('/').ok_or_else(unknown)?;
    match kind {
        "manifests" => {
            let selector = match last.contains(':') {
                true => Selector::Digest(digest(last)?),
                false => Selector::Tag(last.to_owned()),
            };
            let repository = Repository::parse(name)?;
            // Refuses a malformed tag here, once.
            repository.reference(&selector)?;
            Ok(Route::Manifest(repository, selector))
        }
        "blobs" => Ok(Route::Blob(Repository::parse(name)?, digest(last)?)),
        "referrers" => Ok(Route::Referrers(Repository::parse(name)?, digest(last)?)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_repositories_and_local_names() {
        let hex = "a".repeat(64);
        let digest = format!("sha256:{hex}");
        for (path, expect) in [
            ("/v2/", "Root"),
            ("/v2", "Root"),
            ("/v2/_catalog", "Catalog"),
            ("/v2/shop/tags/list", "Tags docker.io/library/shop"),
            ("/v2/team/shop/manifests/1.0", "Manifest docker.io/team/shop:1.0"),
            (&format!("/v2/shop/manifests/{digest}"), &format!("Manifest docker.io/library/shop@{digest}")),
            (&format!("/v2/ghcr.io/a/b/blobs/{digest}"), "Blob ghcr.io/a/b"),
            ("/v2/shop/blobs/uploads/", "Uploads docker.io/library/shop"),
            ("/v2/shop/blobs/uploads", "Uploads docker.io/library/shop"),
            ("/v2/blobs/uploads/blobs/uploads/x", "Upload docker.io/blobs/uploads"),
            (&format!("/v2/shop/referrers/{digest}"), "Referrers docker.io/library/shop"),
            ("/v2/Shop/tags/list", "NameInvalid"),
            ("/v2/../tags/list", "NameInvalid"),
            ("/v2/shop:1/tags/list", "NameInvalid"),
            ("/v2/shop/manifests/.x", "TagInvalid"),
            ("/v2/shop/manifests/sha256:12", "DigestInvalid"),
            ("/v2/shop/blobs/12", "DigestInvalid"),
            ("/v2/shop", "NotFound"),
            ("/v3/", "NotFound"),
            ("/v2shop/tags/list", "NotFound"),
        ] {
            let got = match parse(path) {
                Ok(Route::Root) => "Root".to_owned(),
                Ok(Route::Catalog) => "Catalog".to_owned(),
                Ok(Route::Tags(r)) => format!("Tags {}", r.local()),
                Ok(Route::Manifest(r, s)) => format!("Manifest {}", r.reference(&s).unwrap()),
                Ok(Route::Blob(r, _)) => format!("Blob {}", r.local()),
                Ok(Route::Uploads(r)) => format!("Uploads {}", r.local()),
                Ok(Route::Upload(r, _)) => format!("Upload {}", r.local()),
                Ok(Route::Referrers(r, _)) => format!("Referrers {}", r.local()),
                Err(failure) => format!("{:?}", failure.code),
            };
            assert_eq!(got, *expect, "{path}");
        }
    }
}
