//! Images as package URLs: `pkg:docker/NAMESPACE/NAME@TAG?platform=linux%2Famd64` (package-url/purl-spec).

use wharf_image::{Platform, Reference};

/// The package URL of an image of a registry (`docker`) or a layout (`oci`).
pub(crate) fn image_purl(kind: &str, name: &Reference, platform: &Platform) -> String {
    let bare = Reference::from_parts(name.domain(), name.path(), Some("x"), None);
    let bare = bare.map_or_else(|_| name.repository(), |bare| bare.familiar());
    let bare = bare.strip_suffix(":x").unwrap_or(&bare);
    let path: Vec<String> = bare.split('/').map(|part| encoded(part, b":")).collect();
    let version = name.tag().map_or(String::new(), |tag| format!("@{}", encoded(tag, b"")));
    let digest = name.digest().map_or(String::new(), |digest| format!("digest={digest}&"));
    format!("pkg:{kind}/{}{version}?{digest}platform={}", path.join("/"), encoded(&platform.to_string(), b""))
}

/// Percent-encoded but for letters, digits, `-._~` and `plain`.
fn encoded(text: &str, plain: &[u8]) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            byte if plain.contains(&byte) => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_people_write() {
        let arm = Platform { architecture: "arm".into(), os: "linux".into(), variant: Some("v7".into()) };
        let purl = |name: &str| image_purl("docker", &name.parse().unwrap(), &arm);
        assert_eq!(purl("alpine:3.17"), "pkg:docker/alpine@3.17?platform=linux%2Farm%2Fv7");
        assert_eq!(purl("a/b"), "pkg:docker/a/b@latest?platform=linux%2Farm%2Fv7");
        assert_eq!(purl("host.x:5000/a/b:v1"), "pkg:docker/host.x:5000/a/b@v1?platform=linux%2Farm%2Fv7");
        let digest = wharf_base::Digest::of("x");
        assert_eq!(
            purl(&format!("a@{digest}")),
            format!("pkg:docker/a?digest={digest}&platform=linux%2Farm%2Fv7")
        );
    }
}
