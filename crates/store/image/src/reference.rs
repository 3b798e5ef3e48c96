//! Image references as docker writes them: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.

use std::{fmt, str::FromStr};

use wharf_base::Digest;

use crate::error::Error;

const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;

/// A normalised reference: the domain is always there, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// A reference from parts that are already known to be well formed, checked all the same.
    pub fn from_parts(
        domain: &str,
        path: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, Error> {
        let mut text = format!("{domain}/{path}");
        if let Some(tag) = tag {
            text = format!("{text}:{tag}");
        }
        if let Some(digest) = digest {
            text = format!("{text}@{digest}");
        }
        text.parse()
    }

    /// The registry's host and port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's name within its registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one is named or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned to one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// What a registry is asked for: the digest when there is one, or the tag.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.into(),
        }
    }

    /// The shortest text that means the same, as lists show it.
    pub fn familiar(&self) -> String {
        let path = match self.path.strip_prefix("library/") {
            Some(short) if self.domain == DEFAULT_DOMAIN && !short.contains('/') => short,
            _ => &self.path,
        };
        let mut text = String::new();
        if self.domain != DEFAULT_DOMAIN {
            text.push_str(&self.domain);
            text.push('/');
        }
        text.push_str(path);
        self.push_suffix(&mut text);
        text
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.repository();
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|problem| Error::Reference { text: text.chars().take(300).collect(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| "what follows '@' is not a digest")?)),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(
            "a tag has 1 to 128 letters, digits, '_', '.' and '-', and starts with none of the last two",
        );
    }
    let (domain, path) = split_domain(name);
    if !is_domain(domain) {
        return Err("the registry's host name is malformed");
    }
    if path.is_empty() || !path.split('/').all(is_path_component) {
        return Err(
            "each part of the name has lower-case letters and digits, with '.', '_', '__' or '-' only between them",
        );
    }
    let path =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("library/{path}") } else { path.into() };
    if domain.len() + 1 + path.len() > MAX_NAME {
        return Err("the name is longer than 255 characters");
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (None, Some(_)) => None,
    };
    Ok(Reference { domain: domain.to_owned(), path, tag, digest })
}

/// The first part is a host only when it looks like one: a dot, a port, `localhost`, or an upper-case letter.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_DOMAIN, path),
        Some((first, path))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, path)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|p| p.parse::<u16>().is_err()) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn is_path_component(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges = bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    edges
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normalises_as_docker_does() {
        let hex = "a".repeat(64);
        for (given, canonical, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("team/shop", "docker.io/team/shop:latest", "team/shop:latest"),
            ("127.0.0.1:5000/shop:1", "127.0.0.1:5000/shop:1", "127.0.0.1:5000/shop:1"),
            ("localhost/a/b_c/d-e.f", "localhost/a/b_c/d-e.f:latest", "localhost/a/b_c/d-e.f:latest"),
            ("[::1]:5000/shop", "[::1]:5000/shop:latest", "[::1]:5000/shop:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            (
                &format!("nginx@sha256:{hex}"),
                &format!("docker.io/library/nginx@sha256:{hex}"),
                &format!("nginx@sha256:{hex}"),
            ),
            (
                &format!("a:1@sha256:{hex}"),
                &format!("docker.io/library/a:1@sha256:{hex}"),
                &format!("a:1@sha256:{hex}"),
            ),
        ] {
            let reference: Reference = given.parse().unwrap();
            assert_eq!(
                (reference.to_string().as_str(), reference.familiar().as_str()),
                (canonical, familiar)
            );
        }
    }

    #[test]
    fn refuses_what_is_no_reference() {
        for bad in [
            "",
            "Nginx",
            ":tag",
            "a:",
            "a:.x",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "host:99999/a",
            "a@sha256:12",
            "a@md5:00",
            "../a",
            "a b",
            "a.b-.c/x",
            &"x".repeat(300),
            &format!("a:{}", "t".repeat(129)),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn canonical_and_familiar_text_mean_the_same(text in "([a-zA-Z0-9.-]{1,8}(:[0-9]{1,4})?/)?[a-z0-9._/-]{1,20}(:[a-zA-Z0-9._-]{1,8})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
                prop_assert_eq!(&reference.familiar().parse::<Reference>().unwrap(), &reference);
            }
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Reference>();
        }
    }
}
