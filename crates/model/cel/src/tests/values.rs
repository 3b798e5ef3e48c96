//! What programs that embed expressions rely on: variables, objects to be made, questions asked.

use std::sync::Mutex;

use serde_json::json;

use super::{show, value_in};
use crate::{
    Activation, Attributes, Authorizer, Budget, Decision, Decl, DeclKind, Env, ObjectDecl, Opaque,
    ResourceAttributes, Subject, Type, Value,
};

fn check(env: &Env, activation: &Activation<'_>, cases: &[(&str, &str)]) {
    for (source, expect) in cases {
        let found = value_in(env, source, activation);
        assert!(found == *expect || (expect.len() > 12 && found.contains(expect)), "{source}\n  {found}");
    }
}

#[test]
fn mutations_construct_objects() {
    let env = Env::new().mutation().var_of("object", Type::Dyn);
    let object = json!({"spec": {"replicas": 2}, "metadata": {"labels": {"a/b": "c"}}});
    check(
        &env,
        &Activation::new().any("object", &object),
        &[
            ("Object{spec: Object.spec{replicas: 3}}", r#"{"spec":{"replicas":3}}"#),
            ("Object{spec: Object.spec{?replicas: object.?spec.?missing}}", r#"{"spec":{}}"#),
            ("Object{metadata: Object.metadata{labels: {'x': 'y'}}}", r#"{"metadata":{"labels":{"x":"y"}}}"#),
            (
                "Object{spec: Object.spec{list: [Object.spec.list{name: 'a'}]}}",
                r#"{"spec":{"list":[{"name":"a"}]}}"#,
            ),
            ("Object{spec: Object.spec{replicas: object.spec.replicas + 1}}.spec.replicas", "3"),
            ("has(Object{spec: Object.spec{a: 1}}.spec.a)", "true"),
            ("has(Object{spec: Object.spec{a: 1}}.spec.b)", "false"),
            ("Object{} == Object{}", "true"),
            ("Object{a: 1} == Object{a: 2}", "false"),
            ("type(Object{}) == Object", "true"),
            (
                "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b~c'), value: 'x'}]",
                r#"[{"op":"add","path":"/metadata/labels/a~1b~0c","value":"x"}]"#,
            ),
            ("JSONPatch{op: 'test', path: '/spec', value: Object.spec{a: 1}}.value.a", "1"),
            ("JSONPatch{op: 1}", "expected type of field 'op' is 'string' but provided type is 'int'"),
            ("JSONPatch{nothing: 1}", "undefined field 'nothing'"),
            ("Nothing{}", "undeclared reference to 'Nothing' (in container '')"),
            ("int{}", "'int' is not a message type"),
            ("Object{?spec: optional.ofNonZeroValue(Object.spec{?replicas: Object{}.?replicas})}", "{}"),
            ("Object{}.?existing", "none"),
            ("Object{}.missing", "error: no such key: missing"),
        ],
    );
    assert!(
        value_in(&Env::new(), "Object{}", &Activation::new()).contains("undeclared reference to 'Object'")
    );
}

#[test]
fn constructed_objects_are_named_after_their_place() {
    let faults = |source: &str| {
        let program = Env::new().mutation().compile(source).expect(source);
        let result = program.eval(&Activation::new(), &mut Budget::default()).expect(source);
        result.value.misnamed_objects().join("; ")
    };
    assert_eq!(faults("Object{spec: Object.spec{l: [Object.spec.l{}], m: {'k': Object.spec.m{}}}}"), "");
    assert!(
        faults("Object{invalid: Object.spec{}}")
            .contains("unexpected type name \"Object.spec\", expected \"Object.invalid\"")
    );
    assert!(faults("Object{spec: Object.spec{l: [Object.spec.x{}]}}").contains("expected \"Object.spec.l\""));
}

#[test]
fn spans_and_moments_of_data_may_be_written_freely() {
    let decl = Decl::object(
        ObjectDecl::new("Root")
            .field("d", Decl::new(DeclKind::Duration))
            .field("t", Decl::new(DeclKind::Timestamp)),
    );
    let env = Env::new().var("self", &decl);
    for (d, expect) in [("1 day 2 hours", "26h"), ("3w", "504h"), ("5 mins", "5m"), ("10ms", "10ms")] {
        let data = json!({"d": d, "t": "2020-01-01T00:00:00"});
        let source = format!("self.d == duration('{expect}') && self.t == timestamp('2020-01-01T00:00:00Z')");
        assert_eq!(value_in(&env, &source, &Activation::new().data("self", &data, &decl)), "true", "{d}");
    }
    let data = json!({"d": "soon"});
    let found = value_in(&env, "self.d == self.d", &Activation::new().data("self", &data, &decl));
    assert_eq!(found, "error: Invalid duration soon");
}

#[test]
fn objects_of_two_places_are_two_types() {
    let part = || Decl::object(ObjectDecl::new("object").field("x", Decl::new(DeclKind::Int)));
    let decl = Decl::object(ObjectDecl::new("object").field("a", part()).field("b", Decl::list(part())))
        .named("self");
    let env = Env::new().var("self", &decl);
    let compiles = |source: &str| env.compile(source).map(drop).map_err(|issues| issues.to_string());
    assert_eq!(compiles("self.a == self.a && self.b[0] == self.b[1]"), Ok(()));
    let refused = compiles("self.a == self.b[0]").expect_err("two types");
    assert!(refused.contains("applied to '(self.a, self.b.@idx)'"), "{refused}");
}

#[test]
fn large_lists_are_compared_in_time() {
    let decl = Decl::list_of(Decl::new(DeclKind::Int), crate::Topology::Set);
    let data = serde_json::Value::from((0..200_000).collect::<Vec<i64>>());
    let back = serde_json::Value::from((0..200_000).rev().collect::<Vec<i64>>());
    let env = Env::new().var("self", &decl).var("oldSelf", &decl);
    let activation = Activation::new().data("self", &data, &decl).data("oldSelf", &back, &decl);
    check(
        &env,
        &activation,
        &[
            ("self == oldSelf", "true"),
            ("(self + oldSelf).size()", "200000"),
            ("self.distinct().size()", "running out of cost budget"),
            ("self.sort().size()", "running out of cost budget"),
            ("sets.contains(self, oldSelf)", "running out of cost budget"),
        ],
    );
}

#[test]
fn declared_objects_are_read_in_place() {
    let spec = ObjectDecl::new("Spec")
        .field("when", Decl::new(DeclKind::Timestamp))
        .field("a-b", Decl::new(DeclKind::Int))
        .field("data", Decl::new(DeclKind::Bytes))
        .field("none", Decl::new(DeclKind::String).nullable())
        .field("mixed", Decl::map(Decl::new(DeclKind::IntOrString)));
    let decl = Decl::object(ObjectDecl::new("Root").field("spec", Decl::object(spec)));
    let data = json!({"spec": {"when": "2020-01-01T00:00:00Z", "a-b": 3.0, "data": "AQI=", "none": null,
        "mixed": {"x": 1, "y": "2"}, "unknown": {"deep": true}}});
    let env = Env::new().var("self", &decl);
    check(
        &env,
        &Activation::new().data("self", &data, &decl),
        &[
            ("self.spec.when.getFullYear()", "2020"),
            ("self.spec.a__dash__b + 1", "4"),
            ("self.spec.`a-b`", "unsupported syntax: '`'"),
            ("self.spec.data == b'\\x01\\x02'", "true"),
            ("has(self.spec.none)", "false"),
            ("self.spec.?none.orValue('x')", "\"x\""),
            ("self.spec.mixed.x == 1 && self.spec.mixed.y == '2'", "true"),
            ("self.spec.unknown", "undefined field 'unknown'"),
            ("self.spec", &data["spec"].to_string()),
            ("type(self.spec) == map", "true"),
        ],
    );
}

#[test]
fn data_without_declaration_is_found_out_when_evaluated() {
    let env = Env::new().var_of("object", Type::Dyn).var_of("oldObject", Type::Dyn);
    let object = json!({"a": 1, "b": 1.5, "c": null, "l": [1, "x"], "big": 18446744073709551615u64});
    check(
        &env,
        &Activation::new().any("object", &object).value("oldObject", Value::Null),
        &[
            ("type(object.a) == int && type(object.b) == double && type(object.big) == double", "true"),
            ("object.c == null", "true"),
            ("has(object.c)", "true"),
            ("has(object.d)", "false"),
            ("object.?d.?e.orValue('none')", "\"none\""),
            ("object.d.e", "error: no such key: d"),
            ("object.a.e", "error: no such key: e"),
            ("has(object.a.e)", "false"),
            ("has(oldObject.a)", "false"),
            ("oldObject.?a.?b.orValue(1)", "1"),
            ("1 in object", "false"),
            ("object.l[1] + 1", "error: no such overload"),
            ("object.l.exists(x, x == 'x')", "true"),
            ("oldObject == null", "true"),
            ("oldObject == null || oldObject.a == 1", "true"),
            ("size(object.l)", "2"),
            ("object.l.size() == 2 && object.size() == 5", "true"),
            ("object.l.join()", "error: join: invalid input: int"),
            ("object.a.startsWith('x')", "error: no such overload: startsWith(int, string)"),
            ("size(object.a)", "error: no such overload: size(int)"),
        ],
    );
    let program = env.compile("object.a == 1").expect("compiles");
    let error = program.eval(&Activation::new(), &mut Budget::default()).map(drop).expect_err("no value");
    assert_eq!(error.to_string(), "no such attribute(s): object");
    assert!(program.uses("object") && !program.uses("oldObject"));
}

struct Askable(Mutex<Vec<String>>);

impl Authorizer for Askable {
    fn authorize(&self, subject: &Subject, attributes: &Attributes) -> Decision {
        if let Ok(mut asked) = self.0.lock() {
            asked.push(format!("{subject:?} {attributes:?}"));
        }
        match attributes {
            Attributes::Path { path, .. } => Decision { allowed: path == "/healthz", ..Default::default() },
            Attributes::Resource { resource, verb } => Decision {
                allowed: resource.name == "x" && verb == "get",
                reason: format!("{}/{}", resource.group, resource.resource),
                error: (verb == "fail").then(|| "broken".to_owned()),
            },
        }
    }
}

#[test]
fn authorizers_are_asked_what_the_expression_says() {
    let env = Env::new()
        .var_of("authorizer", Type::Opaque(Opaque::Authorizer))
        .var_of("authorizer.requestResource", Type::Opaque(Opaque::ResourceCheck));
    let authorizer = Askable(Mutex::default());
    let resource = ResourceAttributes { resource: "pods".into(), name: "x".into(), ..Default::default() };
    let activation = Activation::new()
        .value("authorizer", Value::authorizer(&authorizer))
        .value("authorizer.requestResource", Value::resource_check(&authorizer, resource));
    check(
        &env,
        &activation,
        &[
            ("authorizer.path('/healthz').check('get').allowed()", "true"),
            ("authorizer.path(' ')", "error: path must not be empty"),
            (
                "authorizer.group('apps').resource('deployments').namespace('n').name('x').check('get').allowed()",
                "true",
            ),
            (
                "authorizer.group('apps').resource('deployments').subresource('scale').check('list').reason()",
                "\"apps/deployments\"",
            ),
            ("authorizer.group('').resource('').check('x').allowed()", "error: resource must not be empty"),
            ("authorizer.group('').resource('pods').check('fail').errored()", "true"),
            ("authorizer.group('').resource('pods').check('fail').error()", "\"broken\""),
            ("authorizer.requestResource.check('get').allowed()", "true"),
            ("authorizer.serviceAccount('default', 'sa').path('/x').check('get').allowed()", "false"),
            ("authorizer.serviceAccount('not@valid', 'sa')", "error: Invalid service account namespace"),
            ("authorizer.serviceAccount('default', 'a*b')", "error: Invalid service account name"),
            (
                "authorizer.group('').resource('pods').fieldSelector('a=b').labelSelector('c=d').check('list').allowed()",
                "false",
            ),
            ("authorizer.allowed()", "found no matching overload for 'allowed'"),
        ],
    );
    let asked = authorizer.0.lock().expect("not poisoned").join("\n");
    for part in [
        "ServiceAccount { namespace: \"default\", name: \"sa\" }",
        "field_selector: \"a=b\"",
        "subresource: \"scale\"",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
    let twice = "authorizer.path('/healthz').check('get').allowed() && authorizer.path('/healthz').check('get').allowed()";
    assert_eq!(value_in(&env, twice, &activation), "true");
    let thrice = format!("{twice} && {twice}");
    assert_eq!(
        value_in(&env, &thrice, &activation),
        "error: operation cancelled: actual cost limit exceeded"
    );
}

#[test]
fn old_data_may_be_missing() {
    let decl = Decl::object(ObjectDecl::new("Root").field("n", Decl::new(DeclKind::Int)));
    let env = Env::new().var("self", &decl).var_of("oldSelf", Type::optional(decl.ty()));
    let (new, old) = (json!({"n": 2}), json!({"n": 1}));
    let rule = "self.n >= oldSelf.n.orValue(0) && oldSelf.hasValue()";
    let with = |value| Activation::new().data("self", &new, &decl).value("oldSelf", value);
    assert_eq!(value_in(&env, rule, &with(Value::some(Value::data(&old, &decl).expect("fits")))), "true");
    assert_eq!(value_in(&env, rule, &with(Value::Optional(None))), "false");
}

#[test]
fn programs_are_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let program = Env::new().compile("[1, 2].map(x, x + 1)").expect("compiles");
    shared(&program);
    let results = std::thread::scope(|scope| {
        let run =
            || show(&program.eval(&Activation::new(), &mut Budget::default()).expect("evaluates").value);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect::<Vec<_>>()
    });
    assert_eq!(results, vec!["[2,3]"; 4]);
}

#[test]
fn there_are_no_bindings() {
    assert!(
        value_in(&Env::new(), "cel.bind(x, 2, x * x)", &Activation::new()).contains("undeclared reference")
    );
}
