use http::Method;
use serde_json::Value;

use super::*;

fn policy(rules: Value) -> Result<Policy, ConfigError> {
    Policy::parse(&json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}).to_string())
}

fn info(method: Method, path: &str) -> RequestInfo {
    RequestInfo::of(&method, &path.parse().unwrap()).unwrap()
}

#[test]
fn the_first_rule_that_fits_counts() {
    let policy = policy(json!([
        {"level": "None", "users": ["system:wharf"]},
        {"level": "None", "nonResourceURLs": ["/healthz*", "/version"]},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods", "*/scale", "services/*"]}], "verbs": ["create", "get"]},
        {"level": "Request", "resources": [{"group": "", "resources": ["configmaps"], "resourceNames": ["one"]}]},
        {"level": "Metadata", "namespaces": ["kube-system"], "omitStages": ["RequestReceived"], "omitManagedFields": true},
        {"level": "Metadata", "userGroups": ["people"]},
        {"level": "Request", "resources": [{"group": "apps"}]},
    ]))
    .unwrap();
    let check = |who: &str, groups: &[&str], method: Method, path: &str, expect: Level| {
        let wanted = policy.wants(&info(method, path), Some(&Identity::new(who, groups)));
        assert_eq!(wanted.level, expect, "{who} {path}");
    };
    let (get, post) = (Method::GET, Method::POST);
    check("system:wharf", &[], get.clone(), "/api/v1/namespaces/d/pods/p", Level::None);
    check("u", &["people"], get.clone(), "/healthz/x", Level::None);
    check("u", &["people"], get.clone(), "/versions", Level::Metadata);
    check("u", &[], get.clone(), "/api/v1/namespaces/d/pods/p", Level::RequestResponse);
    check("u", &[], get.clone(), "/api/v1/namespaces/d/pods/p/log", Level::None);
    check(
        "u",
        &[],
        get.clone(),
        "/api/v1/namespaces/d/replicationcontrollers/p/scale",
        Level::RequestResponse,
    );
    check("u", &[], get.clone(), "/api/v1/namespaces/d/services/p/status", Level::RequestResponse);
    check("u", &[], get.clone(), "/api/v1/namespaces/d/pods", Level::None);
    check("u", &[], get.clone(), "/api/v1/namespaces/d/configmaps/one", Level::Request);
    check("u", &[], get.clone(), "/api/v1/namespaces/d/configmaps/two", Level::None);
    check("u", &[], get.clone(), "/api/v1/namespaces/kube-system/configmaps/two", Level::Metadata);
    check("u", &[], post, "/apis/apps/v1/namespaces/d/deployments", Level::Request);
    let wanted = policy.wants(&info(get.clone(), "/api/v1/namespaces/kube-system/secrets"), None);
    assert_eq!(wanted.omit_stages, [Stage::RequestReceived]);
    assert!(wanted.omit_managed_fields);
    // Nobody in particular is no user and in no group.
    assert_eq!(policy.wants(&info(get, "/api/v1/namespaces/d/pods"), None).level, Level::None);
}

#[test]
fn policies_say_where_they_are_wrong() {
    for (rules, expect) in [
        (json!([]), "rules: there must be one"),
        (json!([{"level": "All"}]), "rules[0].level: \"All\" is not"),
        (json!([{"level": "None", "user": "x"}]), "rules[0].user: unknown field"),
        (
            json!([{"level": "None"}, {"level": "None", "omitStages": ["X"]}]),
            "rules[1].omitStages: \"X\" is no stage",
        ),
        (
            json!([{"level": "None", "nonResourceURLs": ["/x"], "namespaces": ["y"]}]),
            "rules[0].nonResourceURLs: a rule",
        ),
        (json!([{"level": "None", "nonResourceURLs": ["x"]}]), "rules[0].nonResourceURLs: \"x\" must be"),
        (
            json!([{"level": "None", "resources": [{"resourceNames": ["x"]}]}]),
            "rules[0].resources[0].resourceNames: ",
        ),
        (json!([{"level": "None", "resources": [{"group": "apps/v1"}]}]), "rules[0].resources[0].group: "),
    ] {
        let said = policy(rules.clone()).unwrap_err().to_string();
        assert!(said.starts_with(expect), "{rules}: {said}");
    }
}
