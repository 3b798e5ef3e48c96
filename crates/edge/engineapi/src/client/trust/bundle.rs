//! The form cosign 3 signs in: a Sigstore bundle with a DSSE envelope around an in-toto statement.
//!
//! Sources: sigstore's `protobuf-specs` (`sigstore_bundle.proto`), DSSE's `protocol.md`, in-toto's Statement v1,
//! cosign's BUNDLE_SPEC. These allow fields a reader does not know.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wharf_base::Algorithm;

use super::{
    json::{At, Fault, Node, shown},
    payload::Subject,
};

/// The media type of a bundle, of the layer that holds it and of the artifact it is found as.
pub(super) const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";
const MAX_SUBJECTS: usize = 64;
const MADE_AGAIN: &str = "sign the image again with cosign";

/// An envelope out of a bundle, not yet verified.
#[derive(Debug)]
pub(super) struct Envelope {
    statement: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// Reads a bundle as far as it takes to verify it by a key. Its hint at the key is not needed: each is tried.
pub(super) fn read_bundle(bytes: &[u8]) -> Result<Envelope, Fault> {
    let node = Node::parse(bytes)?;
    let bundle = node.root().open_fields()?;
    expect(bundle.need("mediaType")?, MEDIA_TYPE)?;
    let envelope = bundle.need("dsseEnvelope")?.open_fields()?;
    expect(envelope.need("payloadType")?, IN_TOTO)?;
    let signatures = envelope.need("signatures")?;
    // More than one would leave open which of them is meant.
    let list = signatures.list()?;
    let [signature] = list.as_slice() else {
        return Err(signatures.fault(format!("has {} signatures instead of one", list.len()), MADE_AGAIN));
    };
    Ok(Envelope {
        statement: base64(envelope.need("payload")?)?,
        signature: base64(signature.open_fields()?.need("sig")?)?,
    })
}

impl Envelope {
    /// What the signature is over: DSSE's pre-authentication encoding.
    pub(super) fn signed(&self) -> Vec<u8> {
        let head = format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), self.statement.len());
        [head.as_bytes(), &self.statement].concat()
    }

    /// The images the statement is about, once the signature is verified.
    pub(super) fn subjects(&self) -> Result<Vec<Subject>, Fault> {
        let node = Node::parse(&self.statement)?;
        let statement = node.root().open_fields()?;
        expect(statement.need("_type")?, STATEMENT)?;
        // Other predicates say something about an image without vouching for it.
        expect(statement.need("predicateType")?, PREDICATE)?;
        let subjects = statement.need("subject")?;
        let list = subjects.list()?;
        if list.len() > MAX_SUBJECTS {
            return Err(subjects.fault(format!("has more than {MAX_SUBJECTS} entries"), MADE_AGAIN));
        }
        let each: Vec<_> = list.iter().map(read_subject).collect::<Result<_, _>>()?;
        Ok(each.concat())
    }
}

/// A subject once for each of its digests of a known algorithm.
fn read_subject(at: &At<'_>) -> Result<Vec<Subject>, Fault> {
    let fields = at.open_fields()?;
    let name = fields.get("name").map(At::text).transpose()?.filter(|name| !name.is_empty());
    let mut subjects = Vec::new();
    for (algorithm, digits) in fields.need("digest")?.members()? {
        let Some(known) = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm) else {
            continue;
        };
        let digest =
            known.digest(digits.text()?).ok_or_else(|| digits.fault("is not a digest", MADE_AGAIN))?;
        subjects.push(Subject { digest, name: name.map(str::to_owned) });
    }
    Ok(subjects)
}

fn expect(at: &At<'_>, wanted: &str) -> Result<(), Fault> {
    let found = at.text()?;
    match found == wanted {
        true => Ok(()),
        false => Err(at.fault(format!("is '{}' instead of '{wanted}'", shown(found)), MADE_AGAIN)),
    }
}

fn base64(at: &At<'_>) -> Result<Vec<u8>, Fault> {
    STANDARD.decode(at.text()?).map_err(|_| at.fault("is not base64", MADE_AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let envelope = Envelope { statement: b"hello".to_vec(), signature: Vec::new() };
        assert_eq!(envelope.signed(), b"DSSEv1 28 application/vnd.in-toto+json 5 hello");
    }

    fn bundle(kind: &str, statement: &str, signatures: &str) -> String {
        let payload = STANDARD.encode(statement);
        format!(
            r#"{{"mediaType":"{kind}","verificationMaterial":{{"publicKey":{{"hint":"x"}}}},
            "dsseEnvelope":{{"payload":"{payload}","payloadType":"{IN_TOTO}","signatures":{signatures}}}}}"#
        )
    }

    fn statement(predicate: &str, subject: &str) -> String {
        format!(
            r#"{{"_type":"{STATEMENT}","subject":[{subject}],"predicateType":"{predicate}","predicate":{{}}}}"#
        )
    }

    #[test]
    fn reads_what_cosign_writes() {
        let hex = "a".repeat(64);
        let subject = format!(r#"{{"name":"r.example/shop","digest":{{"sha256":"{hex}","gitCommit":"1"}}}}"#);
        let text = bundle(MEDIA_TYPE, &statement(PREDICATE, &subject), r#"[{"sig":"AAAA","keyid":""}]"#);
        let envelope = read_bundle(text.as_bytes()).unwrap();
        assert_eq!(envelope.signature, [0; 3]);
        let digest = format!("sha256:{hex}").parse().unwrap();
        assert_eq!(envelope.subjects().unwrap(), [Subject { digest, name: Some("r.example/shop".into()) }]);
    }

    #[test]
    fn refuses_other_bundles_and_statements() {
        let one = r#"[{"sig":"AAAA"}]"#;
        let good = statement(PREDICATE, r#"{"digest":{}}"#);
        for (text, said) in [
            (bundle("application/json", &good, one), "mediaType: is 'application/json'"),
            (bundle(MEDIA_TYPE, &good, "[]"), "has 0 signatures"),
            (bundle(MEDIA_TYPE, &good, "[{},{}]"), "has 2 signatures instead of one"),
            (bundle(MEDIA_TYPE, &good, r#"[{"sig":"?"}]"#), "signatures[0].sig: is not base64"),
            ("{}".into(), "has no field 'mediaType'"),
            ("".into(), "EOF"),
        ] {
            let fault = read_bundle(text.as_bytes()).unwrap_err().to_string();
            assert!(fault.contains(said), "{fault}");
        }
        for (statement, said) in [
            (
                statement("https://slsa.dev/provenance/v1", ""),
                "predicateType: is 'https://slsa.dev/provenance/v1'",
            ),
            (good.replace("/v1\",\"subject", "/v0.1\",\"subject"), "'https://in-toto.io/Statement/v0.1'"),
            (statement(PREDICATE, r#"{"digest":{"sha256":"aa"}}"#), "is not a digest"),
            (statement(PREDICATE, r#"{"name":"x"}"#), "subject[0]: has no field 'digest'"),
            (statement(PREDICATE, &[r#"{"digest":{}}"#; 65].join(",")), "more than 64"),
            ("[]".into(), "is an array"),
        ] {
            let envelope = read_bundle(bundle(MEDIA_TYPE, &statement, one).as_bytes()).unwrap();
            let fault = envelope.subjects().unwrap_err().to_string();
            assert!(fault.contains(said), "{fault}");
        }
    }
}
