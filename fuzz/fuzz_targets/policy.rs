#![no_main]
//! Policies, keys, and what is signed: any bytes are read or refused, and no signature is accepted that was not made.

use std::{path::Path, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use wharf_base::Digest;
use wharf_engineapi::client::trust::{BUNDLE_TYPE, Policy, Signature, signature_layers};
use wharf_image::{Manifest, Reference};

const POLICY: &str = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/k","signedIdentity":{"type":"matchRepository"}}]}"#;
const IN_TOTO: &str = "application/vnd.in-toto+json";

struct Trusted {
    signer: Ed25519KeyPair,
    policy: Policy,
    image: Reference,
    digest: Digest,
}

fn trusted() -> &'static Trusted {
    static TRUSTED: OnceLock<Trusted> = OnceLock::new();
    TRUSTED.get_or_init(|| {
        let signer = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed");
        let spki = [b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", signer.public_key().as_ref()].concat();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(&spki));
        let policy = Policy::parse(Path::new("p"), POLICY.as_bytes(), |_| Ok(pem.clone().into_bytes()));
        let image = "r.example/shop:1".parse().expect("a reference");
        Trusted { signer, policy: policy.expect("a policy"), image, digest: Digest::of("image") }
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn accepted(signature: Signature) -> bool {
    let Trusted { policy, image, digest, .. } = trusted();
    policy.requirements(image).verify(image, digest, &[signature]).is_ok()
}

fn value(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).expect("what is accepted is JSON")
}

fn assert_about_the_image(name: &serde_json::Value) {
    let name: Reference = name.as_str().expect("a name").parse().expect("a reference");
    assert_eq!(name.repository(), "r.example/shop");
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(data);
    let signed = |bytes: &[u8]| base64(trusted().signer.sign(bytes).as_ref());
    match kind % 6 {
        // A policy, whose keys are the trusted one's: what it says of an image is said.
        0 => {
            if let Ok(policy) = Policy::parse(Path::new("p"), data, |_| Err("none".into())) {
                for name in ["nginx", "r.example.com:5000/a/b:1", "localhost/a"] {
                    let image: Reference = name.parse().expect("a reference");
                    let _ = policy.requirements(&image).admit(&image);
                    let _ = policy.requirements(&image).verify(&image, &Digest::of("image"), &[]);
                }
            }
        }
        // A key.
        1 => {
            let policy = Policy::parse(Path::new("p"), POLICY.as_bytes(), |_| Ok(data.to_vec()));
            let spki = |_: &Path| Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(data)).into_bytes());
            for policy in [policy, Policy::parse(Path::new("p"), POLICY.as_bytes(), spki)].into_iter().flatten() {
                let image = &trusted().image;
                let _ = policy.requirements(image).verify(image, &trusted().digest, &[Signature::simple("x", base64(data))]);
            }
        }
        // A payload that the trusted key signed: accepted only with the image's digest and name in it.
        2 => {
            if accepted(Signature::simple(data.to_vec(), signed(data))) {
                let critical = &value(data)["critical"];
                assert_eq!(critical["image"]["docker-manifest-digest"], trusted().digest.to_string());
                assert_about_the_image(&critical["identity"]["docker-reference"]);
            }
        }
        // A statement that it signed, likewise.
        3 => {
            let over = [format!("DSSEv1 {} {IN_TOTO} {} ", IN_TOTO.len(), data.len()).as_bytes(), data].concat();
            let bundle = format!(
                r#"{{"mediaType":"{BUNDLE_TYPE}","dsseEnvelope":{{"payload":"{}","payloadType":"{IN_TOTO}","signatures":[{{"sig":"{}"}}]}}}}"#,
                base64(data),
                signed(&over)
            );
            if accepted(Signature::bundle(bundle)) {
                let subjects = value(data)["subject"].as_array().expect("subjects").clone();
                let hex = trusted().digest.hex();
                let ours = subjects.iter().filter(|subject| subject["digest"]["sha256"] == hex);
                assert!(ours.clone().count() > 0);
                ours.for_each(|subject| assert!(subject["name"].is_string() || subjects.len() > 1));
            }
        }
        // What nobody signed.
        4 => {
            let (payload, signature) = text.split_once('\n').unwrap_or((&text, ""));
            assert!(!accepted(Signature::simple(payload.to_owned(), signature)));
            assert!(!accepted(Signature::bundle(data.to_vec())));
        }
        // A manifest of signatures.
        _ => {
            if let Ok(manifest) = Manifest::parse(data)
                && let Ok(layers) = signature_layers(&manifest)
            {
                assert!(layers.len() <= 128);
                for layer in layers {
                    assert!(!accepted(Signature::of_layer(layer, data.to_vec().into())));
                }
            }
        }
    }
});
