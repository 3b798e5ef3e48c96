use http::Method;

use super::*;

fn class(who: &Identity, method: Method, path: &str) -> String {
    let all = sorted(defaults::schemas().iter().map(Schema::read).collect());
    let info = RequestInfo::of(&method, &path.parse().unwrap()).unwrap();
    all.iter().find(|schema| schema.fits(who, &info)).map(|schema| schema.name.clone()).unwrap_or_default()
}

#[test]
fn the_defaults_classify_as_upstreams() {
    let account = |namespace: &str| {
        let groups = ["system:serviceaccounts", "system:authenticated"];
        Identity::new(format!("system:serviceaccount:{namespace}:x"), &groups)
    };
    let node = Identity::new("system:node:a", &["system:nodes", "system:authenticated"]);
    let person = Identity::new("jane", &["system:authenticated"]);
    let nobody = Identity::new("system:anonymous", &["system:unauthenticated"]);
    let scheduler = Identity::new("system:kube-scheduler", &["system:authenticated"]);
    let master = Identity::new("root", &["system:masters", "system:authenticated"]);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
    let pods = "/api/v1/namespaces/d/pods";
    for (who, path, expect) in [
        (&master, pods, "exempt"),
        (&nobody, "/healthz", "probes"),
        (&nobody, "/livez/ping", "probes"),
        (&nobody, "/livezx", "global-default"),
        (&scheduler, lease, "system-leader-election"),
        (&account("kube-system"), lease, "system-leader-election"),
        (&node, lease, "system-node-high"),
        (&node, "/api/v1/nodes/a", "system-node-high"),
        (&node, pods, "system-nodes"),
        (&scheduler, pods, "kube-scheduler"),
        (&account("kube-system"), pods, "kube-system-service-accounts"),
        (&account("default"), pods, "service-accounts"),
        (&person, pods, "global-default"),
        (&person, "/version", "global-default"),
    ] {
        assert_eq!(class(who, Method::GET, path), expect, "{} {path}", who.user);
    }
    assert_eq!(class(&Identity::new("x", &[]), Method::GET, pods), "", "of no group at all");
}

#[test]
fn flows_are_told_apart_as_the_schema_says() {
    let schema = |flows: &str| {
        Schema::read(
            &serde_json::json!({"metadata": {"name": "s"}, "spec": {"distinguisherMethod": {"type": flows}}}),
        )
    };
    let flow = |flows: &str, user: &str, path: &str| {
        let info = RequestInfo::of(&Method::GET, &path.parse().unwrap()).unwrap();
        schema(flows).flow(&Identity::new(user, &[]), &info)
    };
    let (one, two) = ("/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods");
    assert_ne!(flow("ByUser", "a", one), flow("ByUser", "b", one));
    assert_eq!(flow("ByUser", "a", one), flow("ByUser", "a", two));
    assert_ne!(flow("ByNamespace", "a", one), flow("ByNamespace", "a", two));
    assert_eq!(flow("", "a", one), flow("", "b", two));
}

#[test]
fn a_list_is_as_wide_as_what_it_goes_through() {
    for (query, expect) in [
        ("", 5),
        ("?limit=0", 5),
        ("?limit=250", 2),
        ("?limit=1", 1),
        ("?limit=9000", 5),
        ("?limit=x", 5),
        ("?limit=1&labelSelector=a%3Db", 5),
        ("?limit=1&fieldSelector=spec.nodeName%3Da", 5),
        ("?limit=1&labelSelector=", 1),
    ] {
        let info = RequestInfo::of(&Method::GET, &format!("/api/v1/pods{query}").parse().unwrap()).unwrap();
        assert_eq!(seats(500, &info), expect, "{query}");
    }
}

#[test]
fn the_defaults_are_valid() {
    let all = [("PriorityLevelConfiguration", defaults::levels()), ("FlowSchema", defaults::schemas())];
    for (kind, objects) in all {
        for mut object in objects {
            let group = "flowcontrol.apiserver.k8s.io";
            wharf_api::defaults::apply(group, "v1", kind, &mut object);
            assert_eq!(wharf_api::validate::create(group, "v1", kind, &object), [], "{kind}");
        }
    }
}
