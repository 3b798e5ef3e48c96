use serde_json::{Value, json};

use super::*;

fn example(jwt: Value) -> String {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt})
        .to_string()
}

fn flags() -> OidcFlags {
    OidcFlags { issuer_url: "https://id.example".into(), client_id: "wharf".into(), ..OidcFlags::default() }
}

#[test]
fn flags_make_an_issuer() {
    type Change = fn(&mut OidcFlags);
    let check = |change: Change, claims: Value, expect: Result<(&str, &[&str]), &str>| {
        let mut flags = flags();
        change(&mut flags);
        let said =
            flags.issuer().map_err(|e| e.to_string()).and_then(|issuer| issuer.mapping.identity(&claims));
        match (said, expect) {
            (Ok(who), Ok((user, groups))) => {
                assert_eq!(who.user, user);
                assert_eq!(who.groups[..who.groups.len() - 1], *groups, "{claims}");
                assert_eq!(who.groups.last().unwrap(), "system:authenticated");
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (said, expect) => panic!("{said:?}, not {expect:?}"),
        }
    };
    check(|_| {}, json!({"sub": "jane"}), Ok(("https://id.example#jane", &[])));
    check(|f| f.username_prefix = Some("-".into()), json!({"sub": "jane"}), Ok(("jane", &[])));
    check(|f| f.username_prefix = Some("x:".into()), json!({"sub": "jane"}), Ok(("x:jane", &[])));
    let mail: Change = |f| f.username_claim = "email".into();
    check(mail, json!({"email": "j@x", "email_verified": true}), Ok(("j@x", &[])));
    check(mail, json!({"email": "j@x"}), Ok(("j@x", &[])));
    check(mail, json!({"email": "j@x", "email_verified": false}), Err("not verified"));
    check(|_| {}, json!({"name": "jane"}), Err("claim \"sub\""));
    check(|_| {}, json!({"sub": ""}), Err("empty"));
    let groups: Change = |f| (f.groups_claim, f.groups_prefix) = ("roles".into(), "g:".into());
    check(groups, json!({"sub": "j", "roles": ["a", "b"]}), Ok(("https://id.example#j", &["g:a", "g:b"])));
    check(groups, json!({"sub": "j", "roles": "a"}), Ok(("https://id.example#j", &["g:a"])));
    check(groups, json!({"sub": "j"}), Ok(("https://id.example#j", &[])));
    check(groups, json!({"sub": "j", "roles": [1]}), Err("no text"));
    let elsewhere = json!({"sub": "j", "_claim_names": {"roles": "s"}, "_claim_sources": {"s": {}}});
    check(groups, elsewhere.clone(), Err("claim \"roles\" is a distributed claim"));
    check(|_| {}, elsewhere, Ok(("https://id.example#j", &[])));
    let required: Change = |f| f.required_claims = vec!["hd=x".into()];
    check(required, json!({"sub": "j", "hd": "x"}), Ok(("https://id.example#j", &[])));
    check(required, json!({"sub": "j", "hd": "y"}), Err("required claim hd"));
    check(|f| f.required_claims = vec!["hd".into()], json!({}), Err("--oidc-required-claim: \"hd\" is not"));
    check(
        |f| f.issuer_url = "http://x".into(),
        json!({}),
        Err("--oidc-issuer-url: \"http://x\": URL scheme"),
    );
    check(|f| f.client_id.clear(), json!({}), Err("--oidc-client-id"));
    check(|f| f.signing_algorithms = vec!["HS256".into()], json!({}), Err("--oidc-signing-algs: \"HS256\""));
}

fn issuer() -> Value {
    json!({"issuer": {"url": "https://id.example", "audiences": ["wharf"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}}})
}

#[test]
fn files_say_where_they_are_wrong() {
    type Change = fn(&mut Value);
    let check = |change: Change, expect: &str| {
        let mut issuer = issuer();
        change(&mut issuer);
        let said = Authentication::parse(&example(json!([issuer]))).unwrap_err().to_string();
        assert!(said.starts_with(expect), "{said}");
    };
    assert_eq!(Authentication::parse(&example(json!([issuer()]))).unwrap().issuers.len(), 1);
    check(|i| i["issuer"]["url"] = "http://x".into(), "jwt[0].issuer.url: \"http://x\": URL scheme");
    check(|i| i["issuer"]["audience"] = "x".into(), "jwt[0].issuer.audience: unknown field");
    check(|i| i["issuer"]["audiences"] = json!([]), "jwt[0].issuer.audiences: at least one");
    check(|i| i["issuer"]["audiences"] = json!(["a", "b"]), "jwt[0].issuer.audienceMatchPolicy");
    check(|i| i["issuer"]["audiences"] = json!([1]), "jwt[0].issuer.audiences[0]: must be a text");
    check(
        |i| i["claimMappings"]["username"] = json!({"claim": "sub"}),
        "jwt[0].claimMappings.username.prefix: prefix is required",
    );
    check(|i| i["claimMappings"]["username"] = json!({}), "jwt[0].claimMappings.username: claim or");
    check(
        |i| i["claimMappings"]["groups"] = json!({"expression": "claims."}),
        "jwt[0].claimMappings.groups.expression: compilation",
    );
    check(
        |i| i["claimMappings"]["username"] = json!({"expression": "claims.email"}),
        "jwt[0].claimMappings.username.expression: claims.email must",
    );
    check(
        |i| i["claimMappings"]["extra"] = json!([{"key": "A/b", "valueExpression": "'x'"}]),
        "jwt[0].claimMappings.extra[0].key: ",
    );
    check(
        |i| i["claimValidationRules"] = json!([{"expression": "'x'"}]),
        "jwt[0].claimValidationRules[0].expression: must evaluate",
    );
    for (text, expect) in [
        ("[", "file: "),
        ("kind: Pod", "kind: is \"Pod\""),
        ("kind: AuthenticationConfiguration\napiVersion: v9", "apiVersion: \"v9\" is not known"),
    ] {
        let said = Authentication::parse(text).unwrap_err().to_string();
        assert!(said.starts_with(expect), "{said}");
    }
    let twice = Authentication::parse(&example(json!([issuer(), issuer()]))).unwrap_err().to_string();
    assert!(twice.starts_with("jwt[1].issuer.url") && twice.ends_with("there twice"), "{twice}");
}

#[test]
fn expressions_make_users_and_refuse_them() {
    let mut given = issuer();
    given["claimMappings"] = json!({
        "username": {"expression": "'u:' + claims.sub"}, "groups": {"expression": "claims.roles.split(',')"},
        "uid": {"claim": "uid"}, "extra": [{"key": "acme.io/team", "valueExpression": "claims.team"}]});
    given["claimValidationRules"] =
        json!([{"expression": "claims.exp - claims.iat <= 3600", "message": "lives too long"}]);
    given["userValidationRules"] = json!([{"expression": "!user.username.startsWith('u:system:')"}]);
    let parsed = Authentication::parse(&example(json!([given]))).unwrap();
    let mapping = &parsed.issuers[0].mapping;
    let claims = |sub: &str, exp: i64| json!({"sub": sub, "roles": "a,b", "uid": "7", "team": ["x", ""], "iat": 0, "exp": exp, "jti": "t"});
    let who = mapping.identity(&claims("jane", 60)).unwrap();
    assert_eq!((who.user.as_str(), who.uid.as_str()), ("u:jane", "7"));
    assert_eq!(who.groups, ["a", "b", "system:authenticated"]);
    assert_eq!(who.extra[1], ("acme.io/team".to_owned(), vec!["x".to_owned()]));
    assert!(mapping.identity(&claims("jane", 4000)).unwrap_err().ends_with("lives too long"));
    assert!(mapping.identity(&claims("system:x", 60)).is_err());
}

#[test]
fn claims_are_for_this_server_and_now() {
    let issuer = flags().issuer().unwrap();
    let now = Timestamp::from_unix(1000, 0);
    for (claims, valid) in [
        (json!({"aud": "wharf", "exp": 1001}), true),
        (json!({"aud": ["x", "wharf"], "exp": 1001.5}), true),
        (json!({"aud": "x", "exp": 1001}), false),
        (json!({"exp": 1001}), false),
        (json!({"aud": "wharf"}), false),
        (json!({"aud": "wharf", "exp": 1000}), false),
        (json!({"aud": "wharf", "exp": 2000, "nbf": 1300}), true),
        (json!({"aud": "wharf", "exp": 2000, "nbf": 1301}), false),
    ] {
        assert_eq!(issuer.valid(&claims, now).is_ok(), valid, "{claims}");
    }
}

#[test]
fn texts_that_are_no_tokens_are_none() {
    for text in ["", ".", "..", "a.b.c", "e30.e30.", "e30.e30.AA", &"a".repeat(100_000)] {
        assert!(Jwt::parse(text).is_none(), "{text:.20}");
    }
    let none = "eyJhbGciOiJub25lIn0.e30.";
    assert!(Jwt::parse(none).is_some_and(|jwt| {
        !jwt.is_signed_by(&keys(&json!({"keys": [{"kty": "RSA"}, {"kty": "oct", "k": "AA"}]})))
    }));
}

#[test]
fn signatures_of_published_examples_are_verified() {
    // RFC 7515, appendices A.2 (RS256) and A.3 (ES256).
    let rsa = json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"});
    let ec = json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"});
    let payload =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signed_rsa = format!(
        "eyJhbGciOiJSUzI1NiJ9.{payload}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    let signed_ec = format!(
        "eyJhbGciOiJFUzI1NiJ9.{payload}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    for (text, key, other) in [(&signed_rsa, &rsa, &ec), (&signed_ec, &ec, &rsa)] {
        let jwt = Jwt::parse(text).unwrap();
        assert!(jwt.is_signed_by(&keys(&json!({"keys": [other, key]}))));
        assert!(!jwt.is_signed_by(&keys(&json!({"keys": [other]}))));
        let mut others_only = key.clone();
        others_only["alg"] = "ES384".into();
        assert!(!jwt.is_signed_by(&keys(&json!({"keys": [others_only]}))));
        let head = text.replacen("ImlzcyI", "Imlzcyj", 1).replacen("eyJpc3Mi", "eyJpc3Nj", 1);
        assert!(Jwt::parse(&head).is_none_or(|jwt| !jwt.is_signed_by(&keys(&json!({"keys": [key]})))));
    }
}

#[test]
fn a_key_set_without_usable_keys_is_none() {
    let key = json!({"kty": "RSA", "e": "AQAB", "n": "ofgW"});
    for (set, count) in [
        (json!({"keys": [key, {"kty": "oct", "k": "AA"}]}), Ok(1)),
        (json!({"keys": [{"kty": "oct", "k": "AA"}]}), Err(())),
        (json!({"keys": []}), Err(())),
        (json!({}), Err(())),
    ] {
        assert_eq!(usable(&set).map(|keys| keys.len()).map_err(|_| ()), count, "{set}");
    }
}
