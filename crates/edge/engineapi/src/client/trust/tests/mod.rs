//! Policies through the front door, with signatures that openssl makes.

mod policy;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wharf_base::Digest;
use wharf_image::{Descriptor, Reference};

use super::*;

const FILE: &str = "/etc/containers/policy.json";

/// A key pair of openssl.
struct Signer {
    dir: tempfile::TempDir,
    algorithm: &'static str,
}

fn openssl(args: &[&str], dir: &Path) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .expect("the program openssl is needed: install the package openssl");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Signer {
    fn new(algorithm: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (kind, option) = match algorithm {
            "P-256" => ("EC", "ec_paramgen_curve:P-256"),
            "P-384" | "P-384 with SHA-384" => ("EC", "ec_paramgen_curve:P-384"),
            "P-521" => ("EC", "ec_paramgen_curve:P-521"),
            "RSA-1024" => ("RSA", "rsa_keygen_bits:1024"),
            "RSA-2048" => ("RSA", "rsa_keygen_bits:2048"),
            "RSA-4096" => ("RSA", "rsa_keygen_bits:4096"),
            other => (other, ""),
        };
        let mut args = vec!["genpkey", "-algorithm", kind, "-out", "key"];
        if !option.is_empty() {
            args.extend(["-pkeyopt", option]);
        }
        openssl(&args, dir.path());
        Self { dir, algorithm }
    }

    fn public(&self) -> String {
        String::from_utf8(openssl(&["pkey", "-in", "key", "-pubout"], self.dir.path())).unwrap()
    }

    fn sign(&self, message: &[u8]) -> String {
        std::fs::write(self.dir.path().join("message"), message).unwrap();
        let hash = if self.algorithm.ends_with("SHA-384") { "-sha384" } else { "-sha256" };
        STANDARD.encode(match self.algorithm {
            "ED25519" => {
                openssl(&["pkeyutl", "-sign", "-inkey", "key", "-rawin", "-in", "message"], self.dir.path())
            }
            _ => openssl(&["dgst", hash, "-sign", "key", "message"], self.dir.path()),
        })
    }

    fn signature(&self, payload: String) -> Signature {
        let signature = self.sign(payload.as_bytes());
        Signature::simple(payload, signature)
    }

    fn bundle(&self, statement: &str) -> String {
        let kind = "application/vnd.in-toto+json";
        let signed = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
        let (payload, signature) = (STANDARD.encode(statement), self.sign(signed.as_bytes()));
        format!(
            r#"{{"mediaType":"{BUNDLE_TYPE}","verificationMaterial":{{"publicKey":{{"hint":"a"}},"tlogEntries":[]}},
            "dsseEnvelope":{{"payload":"{payload}","payloadType":"{kind}","signatures":[{{"sig":"{signature}"}}]}}}}"#
        )
    }
}

fn payload(digest: &Digest, name: &str) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"{name}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
    )
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// A policy whose key files are these.
fn policy(text: &str, keys: &[(&str, &str)]) -> Result<Policy, PolicyError> {
    let keys: BTreeMap<_, _> = keys.iter().copied().collect();
    Policy::parse(Path::new(FILE), text.as_bytes(), |path| {
        let key = path.to_str().and_then(|path| keys.get(path));
        key.map(|key| key.as_bytes().to_vec()).ok_or_else(|| "no such file".into())
    })
}

/// A policy that wants images of `r.example` signed by this key, and rejects all others.
fn signed_by(key: &str, identity: &str) -> Policy {
    let text = format!(
        r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{"r.example":[
            {{"type":"sigstoreSigned","keyPath":"/keys/a.pub","signedIdentity":{{"type":"{identity}"}}}}]}}}}}}"#
    );
    policy(&text, &[("/keys/a.pub", key)]).unwrap()
}

fn verify(policy: &Policy, name: &str, digest: &Digest, signatures: &[Signature]) -> Result<(), String> {
    let reference = reference(name);
    policy.requirements(&reference).verify(&reference, digest, signatures).map_err(|e| e.to_string())
}

#[test]
fn each_kind_of_key_is_verified_and_nothing_but_what_it_signed() {
    let (image, other) = (Digest::of("image"), Digest::of("other"));
    for algorithm in ["P-256", "P-384", "P-384 with SHA-384", "ED25519", "RSA-2048", "RSA-4096"] {
        let (signer, stranger) = (Signer::new(algorithm), Signer::new(algorithm));
        let policy = signed_by(&signer.public(), "matchRepository");
        let check = |signature: &Signature| {
            verify(&policy, "r.example/shop:1", &image, std::slice::from_ref(signature))
        };
        let text = payload(&image, "r.example/shop");
        assert_eq!(check(&signer.signature(text.clone())), Ok(()), "{algorithm}");
        let head = "r.example/shop:1: 1 signature, ";
        let by_none = Err(format!("{head}none by the key /keys/a.pub"));
        assert_eq!(check(&stranger.signature(text.clone())), by_none, "{algorithm}");
        let signature = signer.sign(text.as_bytes());
        assert_eq!(check(&Signature::simple(format!("{text} "), signature.clone())), by_none, "{algorithm}");
        for cut in [0, 1, 8, 40] {
            let mut bytes = STANDARD.decode(&signature).unwrap();
            bytes.truncate(cut);
            // A signature of no bytes is written as none.
            let expect = if cut == 0 {
                Err(format!("{head}none of them readable: a payload has no signature in its annotations"))
            } else {
                by_none.clone()
            };
            assert_eq!(
                check(&Signature::simple(text.clone(), STANDARD.encode(bytes))),
                expect,
                "{algorithm}"
            );
        }
        let of_other = signer.signature(payload(&other, "r.example/shop"));
        let said = format!("{head}the one by the key /keys/a.pub is for {other} instead of {image}");
        assert_eq!(check(&of_other), Err(said), "{algorithm}");
        let elsewhere = signer.signature(payload(&image, "r.example/cart"));
        let said = format!(
            "{head}the one by the key /keys/a.pub is for 'r.example/cart', which matchRepository does not accept"
        );
        assert_eq!(check(&elsewhere), Err(said), "{algorithm}");
    }
}

/// Made once by `openssl dgst -sha256 -sign` with a key of P-256.
#[test]
fn a_fixed_signature_is_verified() {
    let key = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEyA0/RXFVyCRrGgj0JvITI9BXNqCL\nCrvH2H5aOfBnlcCWyMQZyV8LP5axOr1E5kk7ktlbUmLli5YzUyUmoBBMYQ==\n-----END PUBLIC KEY-----\n";
    let signature =
        "MEUCIG4vhFczWRS2D884qqPbSKZmqNdp2SFXQ0D1bIhWMD6ZAiEAp8ktEKwbGF9+OYF1fNbRof4wy9zzlXNF0cSUSjQidMk=";
    let image = Digest::of("image");
    let fixed = |signature: &str| Signature::simple(payload(&image, "r.example/shop:1"), signature);
    let policy = signed_by(key, "matchExact");
    assert_eq!(verify(&policy, "r.example/shop:1", &image, &[fixed(signature)]), Ok(()));
    // Every changed byte of the signature spoils it.
    let bytes = STANDARD.decode(signature).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let said =
            verify(&policy, "r.example/shop:1", &image, &[fixed(&STANDARD.encode(changed))]).unwrap_err();
        assert!(said.ends_with("1 signature, none by the key /keys/a.pub"), "{said}");
    }
}

#[test]
fn refusals_say_what_is_missing_and_what_to_do() {
    let (signer, stranger) = (Signer::new("ED25519"), Signer::new("ED25519"));
    let image = Digest::of("image");
    let of_name = |name: &str| signer.signature(payload(&image, name));
    let foreign = stranger.signature(payload(&image, "r.example/shop"));
    let refuse = |identity: &str, signatures: &[Signature]| {
        let policy = signed_by(&signer.public(), identity);
        let reference = reference("r.example/shop:1");
        let refusal = policy.requirements(&reference).verify(&reference, &image, signatures).unwrap_err();
        (refusal.to_string(), refusal.hint().to_owned())
    };
    let sign = format!(
        "sign it with the private key: `cosign sign --key cosign.key --new-bundle-format=false \
         --use-signing-config=false r.example/shop@{image}`"
    );
    let tag = format!("sha256-{}.sig", image.hex());
    let none = format!("r.example/shop:1 is not signed by a key of {FILE}: no signature found ({tag})");
    assert_eq!(refuse("matchRepository", &[]), (none, sign.clone()));
    let two = "r.example/shop:1: 2 signatures, none by the key /keys/a.pub".to_owned();
    assert_eq!(refuse("matchRepository", &[foreign.clone(), foreign.clone()]), (two, sign));
    let (said, hint) = refuse("matchExact", &[]);
    assert!(said.contains("no signature found"), "{said}");
    assert!(hint.contains("--sign-container-identity r.example/shop:1 r.example/shop@sha256:"), "{hint}");

    // The nearest of several is told of, whatever their order.
    let named = of_name("r.example/shop");
    let elsewhere = signer.signature(payload(&Digest::of("b"), "r.example/shop:1"));
    let many = [foreign, elsewhere, Signature::simple("x", "?"), named, Signature::bundle("{")];
    let (said, hint) = refuse("matchRepoDigestOrExact", &many);
    assert_eq!(
        said,
        "r.example/shop:1: 5 signatures, the one by the key /keys/a.pub is for 'r.example/shop', which \
         matchRepoDigestOrExact does not accept"
    );
    assert!(hint.starts_with("cosign names the repository alone: "), "{hint}");
    let (_, hint) = refuse("matchRepoDigestOrExact", &[of_name("r.example/shop:2")]);
    assert!(hint.contains("under which name"), "{hint}");

    let (said, _) = refuse("matchRepository", &[Signature::simple("x", "?")]);
    assert_eq!(said, "r.example/shop:1: 1 signature, none of them readable: a signature is not base64");
    let (said, _) = refuse("matchRepository", &[signer.signature("{}".into())]);
    assert_eq!(
        said,
        "r.example/shop:1: 1 signature, what the key /keys/a.pub signed is not understood: has no field 'optional'"
    );
    // A foreign text that is shown cannot forge lines.
    let (said, _) = refuse("matchExact", &[of_name("a\\nb\\u001b[1m")]);
    assert!(said.contains(r"'a\nb\u{1b}[1m'"), "{said}");
}

#[test]
fn all_requirements_hold_and_one_key_of_each_is_enough() {
    let (a, b) = (Signer::new("P-256"), Signer::new("ED25519"));
    let (public_a, public_b) = (a.public(), b.public());
    let keys = [("/keys/a", public_a.as_str()), ("/keys/b", public_b.as_str())];
    let image = Digest::of("image");
    let repository = r#""signedIdentity":{"type":"matchRepository"}"#;
    let of = |requirements: &str| policy(&format!(r#"{{"default":[{requirements}]}}"#), &keys).unwrap();
    let both = of(&format!(
        r#"{{"type":"sigstoreSigned","keyPath":"/keys/a",{repository}}},{{"type":"sigstoreSigned","keyPath":"/keys/b",{repository}}}"#
    ));
    let either = of(&format!(r#"{{"type":"sigstoreSigned","keyPaths":["/keys/a","/keys/b"],{repository}}}"#));
    let data = STANDARD.encode(&public_b);
    let by_data = of(&format!(r#"{{"type":"sigstoreSigned","keyData":"{data}",{repository}}}"#));
    let by_datas = of(&format!(
        r#"{{"type":"sigstoreSigned","keyDatas":["{}","{data}"],{repository}}}"#,
        STANDARD.encode(&public_a)
    ));
    let [by_a, by_b] = [&a, &b].map(|signer| signer.signature(payload(&image, "r.example/shop")));
    let check =
        |policy: &Policy, signatures: &[Signature]| verify(policy, "r.example/shop:1", &image, signatures);
    assert_eq!(check(&both, &[by_b.clone(), by_a.clone()]), Ok(()));
    assert_eq!(
        check(&both, std::slice::from_ref(&by_a)).unwrap_err(),
        "r.example/shop:1: 1 signature, none by the key /keys/b"
    );
    for one in [&by_a, &by_b] {
        assert_eq!(check(&either, std::slice::from_ref(one)), Ok(()));
        assert_eq!(check(&by_datas, std::slice::from_ref(one)), Ok(()));
    }
    assert_eq!(check(&by_data, &[by_b]), Ok(()));
    let said = check(&by_data, std::slice::from_ref(&by_a)).unwrap_err();
    assert_eq!(said, "r.example/shop:1: 1 signature, none by the key default[0].keyData");
    let stranger = Signer::new("P-256").signature(payload(&image, "r.example/shop"));
    let said = check(&either, &[stranger]).unwrap_err();
    assert_eq!(said, "r.example/shop:1: 1 signature, none by one of the keys /keys/a, /keys/b");
    let said = check(&either, &vec![by_a; 129]).unwrap_err();
    assert_eq!(said, "r.example/shop:1 has 129 signatures, more than 128");
}

#[test]
fn without_signed_identity_the_tag_counts() {
    let signer = Signer::new("ED25519");
    let public = signer.public();
    let text = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/k"}]}"#;
    let policy = policy(text, &[("/k", &public)]).unwrap();
    let image = Digest::of("image");
    let check = |name: &str, signed: &str| {
        verify(&policy, name, &image, &[signer.signature(payload(&image, signed))]).is_ok()
    };
    assert!(check("r.example/shop:1", "r.example/shop:1"));
    assert!(!check("r.example/shop:1", "r.example/shop:2"));
    assert!(!check("r.example/shop:1", "r.example/shop"));
    assert!(check(&format!("r.example/shop@{image}"), "r.example/shop:1"));
    assert!(!check(&format!("r.example/shop@{image}"), "r.example/cart:1"));
    let reference = reference("r.example/shop:1");
    assert_eq!(policy.requirements(&reference).admit(&reference), Ok(Need::Signatures));
}

#[test]
fn bundles_of_cosign_3_are_verified_and_have_to_name_the_image() {
    let signer = Signer::new("P-256");
    let policy = signed_by(&signer.public(), "matchRepository");
    let image = Digest::of("image");
    let statement = |digest: &Digest, name: &str, predicate: &str| {
        format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{{name}"digest":{{"sha256":"{}"}},"annotations":{{}}}}],"predicateType":"{predicate}","predicate":{{}}}}"#,
            digest.hex()
        )
    };
    let check = |bundle: String| verify(&policy, "r.example/shop:1", &image, &[Signature::bundle(bundle)]);
    let sign = "https://sigstore.dev/cosign/sign/v1";
    let named = r#""name":"r.example/shop","#;
    let good = signer.bundle(&statement(&image, named, sign));
    assert_eq!(check(good.clone()), Ok(()));
    let head = "r.example/shop:1: 1 signature, ";
    let by_key = format!("{head}the one by the key /keys/a.pub ");
    for (bundle, said) in [
        (
            Signer::new("P-256").bundle(&statement(&image, named, sign)),
            format!("{head}none by the key /keys/a.pub"),
        ),
        (
            signer.bundle(&statement(&Digest::of("b"), named, sign)),
            format!("{by_key}is for {}", Digest::of("b")),
        ),
        (
            signer.bundle(&statement(&image, r#""name":"r.example/cart","#, sign)),
            format!("{by_key}is for 'r.example/cart'"),
        ),
        (signer.bundle(&statement(&image, "", sign)), format!("{by_key}names no image")),
        (
            signer.bundle(&statement(&image, named, "https://slsa.dev/provenance/v1")),
            format!(
                "{head}what the key /keys/a.pub signed is not understood: predicateType: is 'https://slsa.dev"
            ),
        ),
        (
            good.replace("application/vnd.in-toto+json", "text/plain"),
            format!("{head}none of them readable: dsseEnvelope.payloadType"),
        ),
        ("{".into(), format!("{head}none of them readable: is not the JSON expected")),
    ] {
        let refusal = check(bundle).unwrap_err();
        assert!(refusal.starts_with(&said), "{refusal}");
    }
    // What is signed as a bundle is no payload, and the other way round.
    let text = statement(&image, named, sign);
    assert!(verify(&policy, "r.example/shop:1", &image, &[signer.signature(text)]).is_err());
}

#[test]
fn signatures_come_out_of_layers() {
    let signer = Signer::new("ED25519");
    let policy = signed_by(&signer.public(), "matchRepository");
    let image = Digest::of("image");
    let text = payload(&image, "r.example/shop");
    let mut layer = Descriptor::new(
        "application/vnd.dev.cosign.simplesigning.v1+json",
        Digest::of(&text),
        text.len() as u64,
    );
    let check = |layer: &Descriptor| {
        verify(&policy, "r.example/shop:1", &image, &[Signature::of_layer(layer, text.clone().into())])
    };
    assert!(check(&layer).unwrap_err().contains("has no signature in its annotations"));
    layer.annotations.insert("dev.cosignproject.cosign/signature".into(), signer.sign(text.as_bytes()));
    assert_eq!(check(&layer), Ok(()));
    let large = Signature::simple(" ".repeat((256 << 10) + 1), signer.sign(b"x"));
    assert!(
        verify(&policy, "r.example/shop:1", &image, &[large]).unwrap_err().contains("more than 262144 bytes")
    );
}
