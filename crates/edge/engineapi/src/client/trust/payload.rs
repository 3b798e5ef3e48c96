//! What was signed: the "simple signing" text of cosign (containers-signature(5), cosign's SIGNATURE_SPEC).

use wharf_base::Digest;

use super::json::{At, Fault, Node, shown};

/// The one type of payload there is for these signatures; that of GPG signatures is another.
const TYPE: &str = "cosign container image signature";

/// An image a signature is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Its manifest's digest.
    pub(super) digest: Digest,
    /// Its name, where the signature has one.
    pub(super) name: Option<String>,
}

/// Reads a payload, whose signature is to be checked before.
pub(super) fn read_payload(bytes: &[u8]) -> Result<Subject, Fault> {
    let node = Node::parse(bytes)?;
    let payload = node.root().fields(&["critical", "optional"])?;
    check_optional(payload.need("optional")?)?;
    let critical = payload.need("critical")?.fields(&["type", "image", "identity"])?;
    let kind = critical.text("type")?;
    if kind != TYPE {
        let problem = format!("is a '{}' instead of a '{TYPE}'", shown(kind));
        return Err(Fault::new(problem, "sign the image with cosign"));
    }
    let image = critical.need("image")?.fields(&["docker-manifest-digest"])?;
    let digest = image.need("docker-manifest-digest")?;
    let text = digest.text()?;
    let bad = |_| digest.fault(format!("'{}' is not a digest", shown(text)), "sign the image again");
    let identity = critical.need("identity")?.fields(&["docker-reference"])?;
    let name = Some(identity.text("docker-reference")?.to_owned());
    Ok(Subject { digest: text.parse().map_err(bad)?, name })
}

/// Free remarks of the signer, of which two have a form.
fn check_optional(optional: &At<'_>) -> Result<(), Fault> {
    if optional.is_null() {
        return Ok(());
    }
    for (key, at) in optional.members()? {
        match key {
            "creator" => drop(at.text()?),
            "timestamp" if !at.is_whole() => {
                return Err(at.fault("is not a whole number", "sign the image again"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_cosign_and_containers_image_write() {
        let hex = "a".repeat(64);
        let payload = |critical: &str, optional: &str| {
            let text = format!(r#"{{"critical":{critical},"optional":{optional}}}"#);
            read_payload(text.as_bytes()).map_err(|fault| fault.to_string())
        };
        let critical = |kind: &str, image: &str, identity: &str| {
            format!(r#"{{"identity":{identity},"image":{image},"type":"{kind}"}}"#)
        };
        let image = format!(r#"{{"docker-manifest-digest":"sha256:{hex}"}}"#);
        let identity = r#"{"docker-reference":"r.example/shop"}"#;
        let good = critical(TYPE, &image, identity);
        for optional in [
            "null",
            "{}",
            r#"{"creator":"c","timestamp":1700000000,"x":{"y":[1.5]}}"#,
            r#"{"timestamp":1e3}"#,
        ] {
            let subject = payload(&good, optional).unwrap();
            assert_eq!(subject.digest, format!("sha256:{hex}").parse().unwrap());
            assert_eq!(subject.name.as_deref(), Some("r.example/shop"));
        }
        for (critical, optional, said) in [
            (good.clone(), "1", "optional: is a number"),
            (good.clone(), r#"{"timestamp":1.5}"#, "optional.timestamp: is not a whole number"),
            (good.clone(), r#"{"creator":1}"#, "optional.creator: is a number"),
            (
                critical("atomic container signature", &image, identity),
                "null",
                "is a 'atomic container signature'",
            ),
            (critical(TYPE, r#"{"docker-manifest-digest":"sha256:0"}"#, identity), "null", "is not a digest"),
            (critical(TYPE, "{}", identity), "null", "critical.image: has no field 'docker-manifest-digest'"),
            (critical(TYPE, &image, "{}"), "null", "critical.identity: has no field 'docker-reference'"),
            (critical(TYPE, &image, r#"{"docker-reference":null}"#), "null", "is null"),
            (critical(TYPE, &image, r#"{"docker-reference":"a","more":1}"#), "null", "unknown field 'more'"),
            (
                critical(TYPE, &image, r#"{"docker-reference":"a","docker-reference":"b"}"#),
                "null",
                "there twice",
            ),
        ] {
            let fault = payload(&critical, optional).unwrap_err();
            assert!(fault.contains(said), "{fault}");
        }
        assert!(read_payload(format!(r#"{{"critical":{good}}}"#).as_bytes()).is_err());
    }
}
