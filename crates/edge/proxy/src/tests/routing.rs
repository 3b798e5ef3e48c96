//! Hosts, paths, classes and ports, as the Kubernetes documentation has them.

use serde_json::{Value, json};

use super::{backend_of, ingress, service};
use crate::{
    Kind, Outcome, World,
    metrics::Registry,
    table::{RouteTable, table_of},
};

fn world(objects: &[(Kind, Value)]) -> World {
    let mut world = World::default();
    for (kind, object) in objects {
        world.set(*kind, &wharf_client::object_key(object), Some(object));
    }
    world
}

fn table(objects: &[(Kind, Value)]) -> (RouteTable, Outcome) {
    table_of(&world(objects), &Registry::default())
}

fn found(table: &RouteTable, host: &str, path: &str) -> String {
    table.route(host, path).map(|backend| backend.state.service.to_string()).unwrap_or_default()
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let path = |(kind, path, service): &(&str, &str, &str)| json!({"path": path, "pathType": kind, "backend": backend_of(service, 80)});
    let paths: Vec<Value> = paths.iter().map(path).collect();
    json!({"host": host, "http": {"paths": paths}})
}

/// The examples of the Ingress page of the Kubernetes documentation.
#[test]
fn paths_as_documented() {
    /// Paths with their types, a request's path, and the path that gets it.
    type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        (&[("Prefix", "/")], "/any/path", "/"),
        (&[("Exact", "/foo")], "/foo", "/foo"),
        (&[("Exact", "/foo")], "/bar", ""),
        (&[("Exact", "/foo")], "/foo/", ""),
        (&[("Exact", "/foo/")], "/foo", ""),
        (&[("Prefix", "/foo")], "/foo", "/foo"),
        (&[("Prefix", "/foo")], "/foo/", "/foo"),
        (&[("Prefix", "/foo/")], "/foo", "/foo/"),
        (&[("Prefix", "/foo/")], "/foo/", "/foo/"),
        (&[("Prefix", "/aaa/bb")], "/aaa/bbb", ""),
        (&[("Prefix", "/aaa/bbb")], "/aaa/bbb", "/aaa/bbb"),
        (&[("Prefix", "/aaa/bbb/")], "/aaa/bbb", "/aaa/bbb/"),
        (&[("Prefix", "/aaa/bbb")], "/aaa/bbb/", "/aaa/bbb"),
        (&[("Prefix", "/aaa/bbb")], "/aaa/bbb/ccc", "/aaa/bbb"),
        (&[("Prefix", "/aaa/bbb")], "/aaa/bbbxyz", ""),
        (&[("Prefix", "/"), ("Prefix", "/aaa")], "/aaa/ccc", "/aaa"),
        (&[("Prefix", "/"), ("Prefix", "/aaa"), ("Prefix", "/aaa/bbb")], "/aaa/bbb", "/aaa/bbb"),
        (&[("Prefix", "/"), ("Prefix", "/aaa"), ("Prefix", "/aaa/bbb")], "/ccc", "/"),
        (&[("Prefix", "/aaa")], "/ccc", ""),
        (&[("Prefix", "/Foo")], "/foo", ""),
        (&[("ImplementationSpecific", "/foo")], "/foo/bar", "/foo"),
        (&[("ImplementationSpecific", "")], "/foo/bar", ""),
    ];
    for (paths, request, expect) in cases {
        // Each Service is named after its path, so that the answer names the path.
        let named: Vec<_> = paths.iter().map(|(kind, path)| (*kind, *path, *path)).collect();
        let (table, outcome) =
            table(&[(Kind::Ingress, ingress("i", json!({"rules": [rule("a.test", &named)]})))]);
        assert_eq!(found(&table, "a.test", request), *expect, "{paths:?} {request}");
        assert_eq!(outcome.warnings, [], "{paths:?}");
    }
}

#[test]
fn exact_goes_before_prefix_of_the_same_path() {
    let paths = [("Prefix", "/foo", "prefix"), ("Exact", "/foo", "exact")];
    let (table, _) = table(&[(Kind::Ingress, ingress("i", json!({"rules": [rule("", &paths)]})))]);
    assert_eq!(found(&table, "x.test", "/foo"), "exact");
    assert_eq!(found(&table, "x.test", "/foo/"), "prefix");
}

#[test]
fn hosts_as_documented() {
    let rules = json!([
        rule("*.foo.com", &[("Prefix", "/", "wild")]),
        rule("www.foo.com", &[("Prefix", "/www", "www")]),
        rule("", &[("Prefix", "/any", "any")])
    ]);
    let spec = json!({"rules": rules, "defaultBackend": backend_of("default", 80)});
    let (table, _) = table(&[(Kind::Ingress, ingress("i", spec))]);
    for (host, path, expect) in [
        ("bar.foo.com", "/", "wild"),
        ("baz.bar.foo.com", "/", "default"),
        ("foo.com", "/", "default"),
        ("www.foo.com", "/www/x", "www"),
        ("www.foo.com", "/other", "wild"),
        ("www.foo.com.", "/www", "www"),
        ("other.test", "/any", "any"),
        ("other.test", "/", "default"),
    ] {
        assert_eq!(found(&table, host, path), expect, "{host}{path}");
    }
}

#[test]
fn the_default_backend_of_a_host_is_its_own() {
    let other = json!({"defaultBackend": backend_of("everybody", 80)});
    let mine = json!({"rules": [rule("a.test", &[("Prefix", "/x", "x")])],
        "defaultBackend": backend_of("mine", 80)});
    let (table, _) = table(&[(Kind::Ingress, ingress("a", other)), (Kind::Ingress, ingress("b", mine))]);
    for (host, path, expect) in [("a.test", "/x", "x"), ("a.test", "/", "mine"), ("b.test", "/", "everybody")]
    {
        assert_eq!(found(&table, host, path), expect, "{host}{path}");
    }
}

#[test]
fn what_is_not_honoured_is_said() {
    let mut old = ingress("old", json!({"rules": [rule("a.test", &[("Prefix", "/", "old")])]}));
    old["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut new = ingress(
        "a-new",
        json!({"ingressClassName": "nginx", "rules": [
        rule("a.test", &[("Prefix", "/", "new"), ("ImplementationSpecific", "/x(/|$)(.*)", "new")]),
        {"http": {"paths": [{"path": "/", "pathType": "Prefix",
            "backend": {"resource": {"kind": "Bucket", "name": "b"}}}]}}],
        "tls": [{"secretName": "none"}]}),
    );
    new["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    new["metadata"]["annotations"] = json!({"nginx.ingress.kubernetes.io/rewrite-target": "/"});
    let (table, outcome) = table(&[(Kind::Ingress, new), (Kind::Ingress, old)]);
    assert_eq!(found(&table, "a.test", "/"), "old");
    let messages: Vec<_> = outcome.warnings.iter().map(|w| w.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "there is no IngressClass 'nginx'; wharf serves this Ingress",
            "metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target] is for another controller and has no effect",
            "spec.rules[0].http.paths[0]: host 'a.test' and path '/' go to service shop/old already, by an older rule",
            "spec.rules[0].http.paths[1].path '/x(/|$)(.*)' is taken as a plain prefix, not as a pattern",
            "spec.rules[1].http.paths[0]: a resource backend is not supported; name a service",
            "spec.tls[0].secretName: there is no secret 'none' of type kubernetes.io/tls; the default certificate is shown",
        ]
    );
}

#[test]
fn classes() {
    let class = |name: &str, controller: &str, default: bool| {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default.to_string()});
        (
            Kind::Class,
            json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": controller}}),
        )
    };
    let served = |classes: &[(Kind, Value)], named: Option<&str>| {
        let spec = json!({"ingressClassName": named, "defaultBackend": backend_of("web", 80)});
        let mut objects = classes.to_vec();
        objects.push((Kind::Ingress, ingress("i", spec)));
        table(&objects).1.served.len() == 1
    };
    let other = class("other", "example.com/other", false);
    let other_default = class("other", "example.com/other", true);
    let ours = class("edge", crate::CONTROLLER, false);
    assert!(served(&[], None) && served(&[], Some("wharf")) && served(&[], Some("nginx")));
    assert!(served(std::slice::from_ref(&other), None));
    assert!(!served(&[other.clone(), ours.clone()], Some("other")));
    assert!(served(&[other, ours], Some("edge")));
    assert!(!served(&[other_default], None));
}

#[test]
fn ports_by_number_and_name() {
    let problem = |port: Value| {
        let backend = json!({"service": {"name": "web", "port": port}});
        let spec = json!({"defaultBackend": backend});
        let (table, _) = table(&[(Kind::Service, service("web")), (Kind::Ingress, ingress("i", spec))]);
        table.route("a", "/").unwrap().problem.clone()
    };
    assert_eq!(problem(json!({"number": 80})), None);
    assert_eq!(problem(json!({"name": "http"})), None);
    assert_eq!(problem(json!({"number": 81})).unwrap(), "service shop/web has no port 81");
    assert_eq!(problem(json!({"name": "x"})).unwrap(), "service shop/web has no port 'x'");
}
