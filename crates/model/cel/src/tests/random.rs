//! Expressions nobody would write: none may panic, run out of stack, cost more than is allowed, or come
//! to something of another type than the checker said.

use proptest::prelude::*;
use serde_json::json;

use crate::{Activation, Budget, Env, FailureKind, PER_CALL_LIMIT, Type};

fn run(source: &str) {
    let data = json!({"a": [1, 2.5, "x", null], "s": "text", "m": {"k": "v"}, "n": -1});
    let env = Env::new().var_of("self", Type::Dyn).mutation();
    if let Ok(program) = env.compile(source) {
        program.estimate_cost();
        if let Ok(result) = program.eval(&Activation::new().any("self", &data), &mut Budget::default()) {
            assert!(result.cost <= PER_CALL_LIMIT, "{source}");
            if let Some(less) = result.cost.checked_sub(1) {
                let refused = program.eval(&Activation::new().any("self", &data), &mut Budget::new(less));
                let refused = refused.map(drop).expect_err(source);
                assert_eq!(refused.kind(), FailureKind::Budget, "{source}");
            }
            let (promised, kept) = (program.result_type(), result.value.ty());
            let same =
                promised.same_head(&kept) || matches!((promised, &kept), (Type::Dyn, _) | (_, Type::Null));
            // What is not optional is let through by `or` and `orValue`, as upstream does.
            assert!(same || source.contains(".or"), "{source}: {promised} but {kept}");
            let _ = result.value.to_json();
        }
    }
}

/// Expressions whose operands are all passed through `wrap`: of `dyn` everything compiles.
fn expression(wrap: &'static str) -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "self",
        "self.a",
        "self.s",
        "self.m",
        "self.n",
        "1",
        "-9223372036854775808",
        "0",
        "2u",
        "1.5",
        "'x'",
        "''",
        "b'x'",
        "true",
        "null",
        "[]",
        "{}",
        "[1, 2]",
        "{'a': 1}",
        "duration('1h')",
        "timestamp('2020-01-01T00:00:00Z')",
        "int",
        "x",
        "optional.none()",
        "quantity('1Ki')",
        "ip('1.2.3.4')",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 3, move |inner| {
        let inner = inner.prop_map(move |inner| format!("{wrap}({inner})")).boxed();
        let op = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", ">=", "in", "&&", "||"]);
        let method = prop::sample::select(vec![
            "size",
            "sum",
            "max",
            "join",
            "sort",
            "reverse",
            "distinct",
            "flatten",
            "first",
            "trim",
            "lowerAscii",
            "getFullYear",
            "getHours",
            "value",
            "hasValue",
            "isSorted",
            "unwrapOpt",
            "isInteger",
            "family",
        ]);
        let method1 = prop::sample::select(vec![
            "contains",
            "startsWith",
            "matches",
            "indexOf",
            "lastIndexOf",
            "charAt",
            "substring",
            "split",
            "format",
            "orValue",
            "or",
            "findAll",
            "flatten",
            "add",
            "getHours",
            "@sortByAssociatedKeys",
            "containsIP",
            "join",
        ]);
        let function = prop::sample::select(vec![
            "int",
            "uint",
            "double",
            "string",
            "bytes",
            "type",
            "dyn",
            "duration",
            "timestamp",
            "size",
            "lists.range",
            "optional.of",
            "url",
            "semver",
            "isURL",
            "cidr",
            "strings.quote",
            "bool",
            "sets.contains",
        ]);
        let comprehension = prop::sample::select(vec![
            "all",
            "exists",
            "exists_one",
            "map",
            "filter",
            "sortBy",
            "optMap",
            "optFlatMap",
        ]);
        let two =
            prop::sample::select(vec!["all", "exists", "transformList", "transformMap", "transformMapEntry"]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} ({b})")),
            (inner.clone(), method).prop_map(|(a, m)| format!("({a}).{m}()")),
            (inner.clone(), method1, inner.clone()).prop_map(|(a, m, b)| format!("({a}).{m}({b})")),
            (function, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (inner.clone(), comprehension, inner.clone()).prop_map(|(a, m, b)| format!("({a}).{m}(x, {b})")),
            (inner.clone(), two, inner.clone()).prop_map(|(a, m, b)| format!("({a}).{m}(x, y, {b})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("(({a}) ? ({b}) : ({c}))")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a})[{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, dyn({b})]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            inner.clone().prop_map(|a| format!("Object{{a: {a}}}")),
            inner.prop_map(|a| format!("dyn({a}).?f")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_expression_is_evaluated_or_refused(source in expression("")) {
        run(&source);
    }

    #[test]
    fn any_expression_of_no_known_type_is_evaluated(source in expression("dyn")) {
        run(&source);
    }
}

#[test]
fn large_expressions_take_little_time() {
    let started = std::time::Instant::now();
    let joined = |term: &str, n: usize, with: &str| vec![term; n].join(with);
    for source in [
        joined("1 == 1", 12_000, "||"),
        format!("[{}].size() == 1", joined("[1]", 20_000, ",")),
        joined("[1].all(x, x == 1)", 5_000, "&&"),
        joined("optional.of(1).hasValue()", 3_000, "&&"),
        // Variables of types that are bound one to the other.
        format!("[].all(x, [{}].size() > 0)", joined("x == []", 12_000, ",")),
        format!("[].all(x, [{}].size() > 0)", joined("[]==x", 16_000, ",")),
        format!("[{}].size() > 0", joined("[[]]", 19_000, ",")),
    ] {
        run(&source);
    }
    // Types that double with every level.
    for n in [4, 40] {
        let nested = (0..n).fold("x".to_owned(), |inner, _| format!("[{{x: x}}].map(x, {inner})"));
        let compiled = Env::new().compile(&format!("[1].map(x, {nested})"));
        assert_eq!(compiled.is_ok(), n == 4);
    }
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn parameters_of_urls_are_found_by_name() {
    let started = std::time::Instant::now();
    let query: Vec<String> = (0..150_000).map(|i| format!("{}=1", i % 100_000)).collect();
    let data = json!({"url": format!("/a?{}", query.join("&"))});
    let program = Env::new().var_of("self", Type::Dyn).compile("url(self.url).getQuery().size() == 100000");
    let program = program.expect("compiles");
    let result = program.eval(&Activation::new().any("self", &data), &mut Budget::default());
    assert_eq!(result.expect("evaluates").value.as_bool(), Some(true));
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

#[test]
fn deep_expressions_need_little_stack() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| {
        format!("{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    for source in [
        deep("[1].map(x, ", "x", ")", 49),
        deep("[1].all(x, [x].exists(y, ", "true", "))", 40),
        deep("[", "1", "]", 240),
        deep("dyn(", "1", ")", 240),
        deep("{'a': ", "1", "}", 240),
        deep("(true ? ", "1", " : 2)", 240),
        deep("-(", "1", ")", 240),
        format!("1{}", " + 1".repeat(240)),
        format!("dyn({{'a': 1}}){}", ".?a".repeat(240)),
        format!("'a'{}", ".trim()".repeat(240)),
        format!("[1]{}", ".map(x, x)".repeat(49)),
        format!("optional.of(1){}", ".optMap(x, x)".repeat(8)),
    ] {
        assert!(Env::new().compile(&source).is_ok(), "{source}");
        run(&source);
    }
}
