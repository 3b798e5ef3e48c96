use super::*;
use crate::meta::read;

fn request(spec: Value, conditions: Value) -> Request {
    read(&json!({"metadata": {"name": "r", "creationTimestamp": "2030-01-01T00:00:00Z"}, "spec": spec,
        "status": {"conditions": conditions}}))
    .unwrap()
}

fn node() -> Asked {
    Asked {
        common_name: "system:node:a".into(),
        organizations: vec!["system:nodes".into()],
        ..Asked::default()
    }
}

fn kubelet(usages: &[&str], signer: &str, user: &str) -> Request {
    request(json!({"signerName": signer, "usages": usages, "username": user}), json!([]))
}

const CLIENT: [&str; 2] = ["digital signature", "client auth"];

#[test]
fn nodes_are_recognized() {
    let check = |usages: &[&str], user: &str, change: &dyn Fn(&mut Asked), expect: &[&str]| {
        let mut asked = node();
        change(&mut asked);
        assert_eq!(kubelet(usages, KUBELET_CLIENT, user).permissions(&asked), expect, "{user} {asked:?}");
    };
    let both = ["selfnodeclient", "nodeclient"];
    check(&CLIENT, "system:node:a", &|_| {}, &both);
    check(&["key encipherment", "digital signature", "client auth"], "system:node:a", &|_| {}, &both);
    check(&CLIENT, "system:bootstrap:abcdef", &|_| {}, &["nodeclient"]);
    check(&["client auth"], "system:node:a", &|_| {}, &[]);
    check(&["digital signature", "client auth", "server auth"], "system:node:a", &|_| {}, &[]);
    check(&CLIENT, "system:node:a", &|asked| asked.organizations.push("system:masters".into()), &[]);
    check(&CLIENT, "system:node:a", &|asked| asked.common_name = "a".into(), &[]);
    check(&CLIENT, "system:node:a", &|asked| asked.dns_names = true, &[]);
    assert_eq!(kubelet(&CLIENT, API_CLIENT, "system:node:a").permissions(&node()), [""; 0]);
}

#[test]
fn signers_have_their_rules() {
    let serving = Asked { dns_names: true, ..node() };
    for (signer, usages, asked, refused) in [
        (SERVING, &["digital signature", "server auth"][..], serving.clone(), None),
        (SERVING, &["digital signature", "server auth"], node(), Some("DNS or IP")),
        (SERVING, &CLIENT, serving.clone(), Some("usages")),
        (SERVING, &["digital signature", "server auth"], Asked { uris: true, ..serving }, Some("URI")),
        (KUBELET_CLIENT, &CLIENT, node(), None),
        (KUBELET_CLIENT, &CLIENT, Asked { addresses: true, ..node() }, Some("IP")),
        (API_CLIENT, &["client auth"], Asked::default(), None),
        (API_CLIENT, &["digital signature"], Asked::default(), Some("missing required usage")),
        (API_CLIENT, &["client auth", "server auth"], Asked::default(), Some("invalid usage")),
        (LEGACY, &["server auth"], Asked::default(), None),
    ] {
        let said = kubelet(usages, signer, "u").fits_signer(&asked).err();
        match refused {
            None => assert_eq!(said, None, "{signer} {usages:?}"),
            Some(part) => {
                assert!(said.as_deref().unwrap_or_default().contains(part), "{signer} {usages:?}: {said:?}")
            }
        }
    }
}

#[test]
fn approved_requests_of_own_signers_are_signed() {
    let approved = json!([{"type": "Approved", "status": "True"}]);
    for (signer, conditions, expect) in [
        (API_CLIENT, approved.clone(), true),
        ("example.com/other", approved, false),
        (API_CLIENT, json!([]), false),
        (API_CLIENT, json!([{"type": "Denied", "status": "True"}]), false),
        (API_CLIENT, json!([{"type": "Approved"}, {"type": "Failed", "status": "True"}]), false),
    ] {
        let request = request(json!({"signerName": signer}), conditions.clone());
        assert_eq!(request.is_to_be_signed(), expect, "{signer} {conditions}");
    }
    for (asked, seconds) in
        [(json!(null), LIFE), (json!(60), LIFE_MIN), (json!(3600), 3600), (json!(LIFE * 2), LIFE)]
    {
        assert_eq!(request(json!({"expirationSeconds": asked}), json!([])).seconds(), seconds);
    }
}

#[test]
fn old_requests_go() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let check = |certificate: &str, conditions: Value, ends: Option<&str>, now: &str, goes: bool| {
        let mut request = request(json!({}), conditions.clone());
        request.status.certificate = certificate.into();
        let step = clean(&request, ends.map(at), at(now));
        assert_eq!(!step.actions.is_empty(), goes, "{conditions} at {now}");
        assert_eq!(step.requeue_after.is_some(), !goes, "{conditions} at {now}");
    };
    let decided = |kind: &str| json!([{"type": kind, "lastUpdateTime": "2030-01-01T00:00:00Z"}]);
    check("", json!([]), None, "2030-01-01T23:59:00Z", false);
    check("", json!([]), None, "2030-01-02T00:00:00Z", true);
    check("", decided("Denied"), None, "2030-01-01T00:59:00Z", false);
    check("", decided("Denied"), None, "2030-01-01T01:00:00Z", true);
    check("", decided("Failed"), None, "2030-01-01T01:00:00Z", true);
    check("", decided("Approved"), None, "2030-01-01T02:00:00Z", false);
    check("x", decided("Approved"), None, "2030-01-01T01:00:00Z", true);
    check("x", decided("Approved"), Some("2030-01-01T00:30:00Z"), "2030-01-01T00:30:00Z", true);
}
