//! What a policy may say, and where a mistake in it is.

use std::{cell::RefCell, path::PathBuf};

use proptest::prelude::*;

use super::*;

#[test]
fn keys_that_are_no_use_are_refused_when_the_policy_is_read() {
    let refused = |key: &str| {
        let text = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/keys/a.pub"}]}"#;
        policy(text, &[("/keys/a.pub", key)]).unwrap_err().to_string()
    };
    let head = format!("{FILE}: default[0].keyPath: the key /keys/a.pub is ");
    for (algorithm, said) in [
        ("P-521", "a key of a kind that is not supported"),
        ("RSA-1024", "an RSA key of 1024 bits"),
        ("X25519", "a key of a kind that is not supported"),
    ] {
        assert_eq!(refused(&Signer::new(algorithm).public()), format!("{head}{said}"));
    }
    let signer = Signer::new("P-256");
    let private = std::fs::read_to_string(signer.dir.path().join("key")).unwrap();
    let said = refused(&private);
    assert_eq!(said, format!("{head}a private key"));
    // Every truncation of a good key is refused.
    for algorithm in ["P-256", "P-384", "RSA-2048"] {
        let signer = Signer::new(algorithm);
        let der = openssl(&["pkey", "-in", "key", "-pubout", "-outform", "DER"], signer.dir.path());
        let pem = |der: &[u8]| {
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
        };
        for length in 0..der.len() {
            assert_eq!(refused(&pem(&der[..length])), format!("{head}a malformed public key"), "{length}");
        }
        assert_eq!(refused(&pem(&[der.as_slice(), &[0]].concat())), format!("{head}a malformed public key"));
    }
}

#[test]
fn a_policy_rejects_by_name_before_anything_is_fetched() {
    let policy = policy(
        r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{
            "r.example":[{"type":"reject"}],"r.example/free":[{"type":"insecureAcceptAnything"}],
            "":[{"type":"insecureAcceptAnything"},{"type":"reject"}]}}}"#,
        &[],
    )
    .unwrap();
    let admit = |name: &str| {
        let reference = reference(name);
        policy.requirements(&reference).admit(&reference).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(
        admit("r.example/shop:1").unwrap_err(),
        format!("r.example/shop:1: {FILE} rejects images of r.example")
    );
    assert_eq!(
        admit("R.EXAMPLE/shop:1").unwrap_err(),
        format!("R.EXAMPLE/shop:1: {FILE} rejects images of r.example")
    );
    assert_eq!(admit("r.example/free/a:1"), Ok(Need::Nothing));
    let other = "other.example/a:1";
    assert_eq!(
        admit(other).unwrap_err(),
        format!("{other}: {FILE} rejects images of registries it does not name")
    );
    assert_eq!(verify(&policy, "r.example/free/a:1", &Digest::of(""), &[]), Ok(()));
    assert!(verify(&policy, "r.example/shop:1", &Digest::of(""), &[]).is_err());
}

#[test]
fn the_most_specific_rule_is_the_one() {
    let scopes = [
        "",
        "*.example.com",
        "r.example.com:5000",
        "r.example.com:5000/a",
        "r.example.com:5000/a/b",
        "r.example.com:5000/a/b:1",
        "*.com",
        "docker.io/library/nginx",
    ];
    // Each scope has a rule that tells by its number of entries.
    let rule = |n: usize| vec![r#"{"type":"insecureAcceptAnything"}"#; n + 1].join(",");
    let rules: Vec<_> =
        scopes.iter().enumerate().map(|(n, scope)| format!(r#""{scope}":[{}]"#, rule(n))).collect();
    let of = |rules: &[String], name: &str| {
        let text =
            format!(r#"{{"default":[{}],"transports":{{"docker":{{{}}}}}}}"#, rule(9), rules.join(","));
        policy(&text, &[]).unwrap().requirements(&reference(name)).all.len() - 1
    };
    for (name, expect) in [
        ("r.example.com:5000/a/b:1", 5),
        ("r.example.com:5000/a/b:2", 4),
        ("r.example.com:5000/a/b", 4),
        ("r.example.com:5000/a/c/d", 3),
        ("r.example.com:5000/ab", 2),
        ("r.example.com:5000/c", 2),
        ("r.example.com:5001/a/b:1", 1),
        ("r.example.com/a/b:1", 1),
        ("a.b.example.com/x", 1),
        ("example.com/x", 6),
        ("xexample.com/x", 6),
        ("nginx", 7),
        ("nginx:1", 7),
        ("redis", 0),
        ("localhost:5000/a/b", 0),
    ] {
        assert_eq!(of(&rules, name), expect, "{name}");
    }
    assert_eq!(of(&rules[1..], "redis"), 9);
}

#[test]
fn what_is_not_understood_is_an_error_with_its_place() {
    let docker = |scopes: &str| {
        format!(r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{{scopes}}}}}}}"#)
    };
    let signed = |fields: &str| format!(r#"{{"default":[{{"type":"sigstoreSigned"{fields}}}]}}"#);
    let identity = |fields: &str| signed(&format!(r#","keyPath":"/k","signedIdentity":{fields}"#));
    for (text, said, hint) in [
        ("", "is not the JSON expected: EOF", "correct the file"),
        ("{}", "has no field 'default'", "add it"),
        (r#"{"default":[]}"#, "default: is empty", "reject"),
        (r#"{"default":null}"#, "default: is null instead of an array", "write an array"),
        (r#"{"defualt":[]}"#, "has the unknown field 'defualt'", "did you mean 'default'?"),
        (
            r#"{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}]}"#,
            "'default' is there twice",
            "correct",
        ),
        (r#"{"default":[{}]}"#, "default[0]: has no field 'type'", "add it"),
        (
            r#"{"default":[{"type":"accept"}]}"#,
            "default[0]: has the unknown type 'accept'",
            "insecureAcceptAnything, reject, sigstoreSigned",
        ),
        (r#"{"default":[{"type":"rejekt"}]}"#, "unknown type 'rejekt'", "did you mean 'reject'?"),
        (
            r#"{"default":[{"type":"insecureAcceptAnything","keyPath":"/k"}]}"#,
            "default[0]: has the unknown field 'keyPath'",
            "type",
        ),
        (
            r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}"#,
            "default[0]: asks for GPG signatures",
            "sigstoreSigned",
        ),
        (
            &format!(r#"{{"default":[{}]}}"#, [r#"{"type":"reject"}"#; 17].join(",")),
            "default: has 17 entries, more than 16",
            "fewer",
        ),
        (
            r#"{"default":[{"type":"reject"}],"transports":{"dokcer":{}}}"#,
            "transports: has the unknown field 'dokcer'",
            "did you mean 'docker'?",
        ),
        (
            &docker(r#""busybox":[{"type":"reject"}]"#),
            r#"transports.docker.busybox: no image can belong to the scope 'busybox'"#,
            "docker.io/library/busybox",
        ),
        (
            &docker(r#""r.example":[{"type":"x"}]"#),
            r#"transports.docker["r.example"][0]: has the unknown type 'x'"#,
            "known",
        ),
        (
            &docker(r#""r.example":[{"type":"reject"}],"R.example":[{"type":"reject"}]"#),
            "other letters",
            "keep one",
        ),
        (
            &docker(r#""a.b":[{"type":"reject"}],"a.b":[{"type":"reject"}]"#),
            "'a.b' is there twice",
            "correct",
        ),
        (&signed(""), "default[0]: has 0 of keyPath", "exactly one"),
        (&signed(r#","keyPath":"/k","keyData":"""#), "default[0]: has 2 of keyPath", "exactly one"),
        (&signed(r#","keyPaths":[]"#), "default[0].keyPaths: is empty", "required"),
        (&signed(r#","keyPaths":"/k""#), "default[0].keyPaths: is a string instead of an array", "array"),
        (&signed(r#","keyPath":"k.pub""#), "'k.pub' is not an absolute path", "begin it"),
        (
            &signed(r#","keyPath":"/none""#),
            "default[0].keyPath: cannot read the key /none: no such file",
            "put the public key",
        ),
        (&signed(r#","keyData":"?""#), "default[0].keyData: is not base64", "base64 -w0"),
        (
            &signed(r#","keyDatas":["", "eA=="]"#),
            "default[0].keyDatas[0]: the key default[0].keyDatas[0] has no public key",
            "BEGIN PUBLIC KEY",
        ),
        (
            &signed(r#","keyPath":"/k","rekorPublicKeyPath":"/r""#),
            "default[0].rekorPublicKeyPath: 'rekorPublicKeyPath' is not supported",
            "by a key",
        ),
        (&signed(r#","fulcio":{}"#), "default[0].fulcio: 'fulcio' is not supported", "by a key"),
        (&signed(r#","pki":{}"#), "'pki' is not supported", "by a key"),
        (
            &signed(r#","keypath":"/k""#),
            "default[0]: has the unknown field 'keypath'",
            "did you mean 'keyPath'?",
        ),
        (&identity("null"), "default[0].signedIdentity: is null", "object"),
        (
            &identity(r#"{"type":"matchAny"}"#),
            "default[0].signedIdentity: has the unknown type 'matchAny'",
            "matchExact",
        ),
        (&identity(r#"{"type":"matchExact","prefix":"a"}"#), "unknown field 'prefix'", "type"),
        (&identity(r#"{"type":"exactReference"}"#), "has no field 'dockerReference'", "add it"),
        (
            &identity(r#"{"type":"exactReference","dockerReference":"A B"}"#),
            "signedIdentity.dockerReference: 'A B' is not an image's name",
            "write HOST",
        ),
        (
            &identity(r#"{"type":"exactReference","dockerReference":"h.x/a"}"#),
            "without tag and digest",
            "TAG",
        ),
        (
            &identity(r#"{"type":"exactRepository","dockerRepository":"h.x/a:1"}"#),
            "with a tag or digest",
            "leave it out",
        ),
        (&identity(r#"{"type":"remapIdentity","prefix":"h.x"}"#), "has no field 'signedPrefix'", "add it"),
        (
            &identity(r#"{"type":"remapIdentity","prefix":"h.x/a:1","signedPrefix":"h.y"}"#),
            "signedIdentity.prefix: 'h.x/a:1' is not a registry",
            "in full",
        ),
        (
            &identity(r#"{"type":"remapIdentity","prefix":"h.x","signedPrefix":"library"}"#),
            "signedIdentity.signedPrefix: 'library'",
            "docker.io/library",
        ),
    ] {
        let error = policy(text, &[]).expect_err(text);
        let shown = error.to_string();
        assert!(shown.starts_with(&format!("{FILE}: ")) && shown.contains(said), "{text}\n{shown}");
        assert!(error.hint().contains(hint), "{text}\n{shown}\n{}", error.hint());
    }
}

#[test]
fn rules_of_other_transports_are_none_of_ours() {
    let text = r#"{"default":[{"type":"reject"}],"transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]},
        "atomic":{"r.example":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}}}"#;
    let policy = policy(text, &[]).unwrap();
    assert!(verify(&policy, "r.example/a:1", &Digest::of(""), &[]).is_err());
}

#[test]
fn a_policy_and_its_keys_are_files() {
    let signer = Signer::new("P-256");
    let dir = signer.dir.path();
    openssl(&["pkey", "-in", "key", "-pubout", "-out", "key.pub"], dir);
    let file = dir.join("policy.json");
    let write = |key: PathBuf| {
        let text = serde_json::json!({"default": [{"type": "sigstoreSigned", "keyPath": key}]});
        std::fs::write(&file, text.to_string()).unwrap();
        Policy::load(&file)
    };
    assert!(write(dir.join("key.pub")).is_ok());
    let refused = |loaded: Result<Policy, PolicyError>, said: &str| {
        let error = loaded.unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", file.display())) && error.contains(said), "{error}");
    };
    refused(write(dir.join("none")), "No such file");
    refused(write(dir.to_owned()), "it is not a regular file");
    std::fs::write(dir.join("large"), vec![b'x'; (64 << 10) + 1]).unwrap();
    refused(write(dir.join("large")), "it has more than 65536 bytes");
    std::fs::write(&file, vec![b' '; (1 << 20) + 1]).unwrap();
    refused(Policy::load(&file), "it has more than 1048576 bytes");
    std::fs::remove_file(&file).unwrap();
    refused(Policy::load(&file), "cannot be read: No such file");
}

#[test]
fn keys_are_asked_for_by_the_paths_of_the_policy_and_no_others() {
    let asked = RefCell::new(Vec::new());
    let text = r#"{"default":[{"type":"sigstoreSigned","keyPath":"/keys/a"}],
        "transports":{"dir":{"":[{"type":"sigstoreSigned","keyPath":"/keys/b"}]}}}"#;
    let _ = Policy::parse(Path::new(FILE), text.as_bytes(), |path| {
        asked.borrow_mut().push(path.to_owned());
        Err("no".into())
    });
    assert_eq!(asked.into_inner(), [PathBuf::from("/keys/a")]);
}

proptest! {
    #[test]
    fn no_text_is_accepted_as_a_policy_by_chance(text in "\\PC{0,60}") {
        prop_assert!(policy(&text, &[]).is_err());
    }
}
