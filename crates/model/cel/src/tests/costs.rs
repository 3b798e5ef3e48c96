//! What rules cost when evaluated: `costs.tbl` has groups of a schema, data, and rules with their cost,
//! the figures upstream keeps stable.

use serde_json::Value as Json;

use super::schema;
use crate::{Activation, Budget, Decl, Env, Type};

#[test]
fn rules_cost_what_they_cost_upstream() {
    let mut wrong = Vec::new();
    let (mut name, mut decl, mut data) = ("", None::<Decl>, Json::Null);
    for line in include_str!("costs.tbl").lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let json = || serde_json::from_str::<Json>(rest).expect(rest);
        match word {
            "" => {}
            "#" => name = rest,
            "schema" => decl = Some(schema::decl(&json()).expect(name)),
            "data" => data = json(),
            cost => {
                let rule = json().as_str().expect(rest).to_owned();
                let found = cost_of(&rule, decl.as_ref().expect(name), &data);
                if found != cost {
                    wrong.push(format!("{name}: {rule}\n  expected {cost}\n  found    {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

fn cost_of(rule: &str, decl: &Decl, data: &Json) -> String {
    match Env::new().var("self", decl).compile(rule) {
        Err(issues) => issues.to_string(),
        Ok(program) => {
            let result = program.eval(&Activation::new().data("self", data, decl), &mut Budget::default());
            result.map_or_else(|error| error.to_string(), |result| result.cost.to_string())
        }
    }
}

#[test]
fn limits_end_an_evaluation() {
    let endless = "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, \
                   [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, a + b > 0))))))";
    let program = Env::new().compile(&format!("{endless} || true")).expect("compiles");
    let error = program.eval(&Activation::new(), &mut Budget::default()).map(drop).expect_err("too much");
    assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
    let program = Env::new().compile("1 + 1 == 2").expect("compiles");
    let mut budget = Budget::new(5);
    assert!(program.eval(&Activation::new(), &mut budget).is_ok());
    assert!(program.eval(&Activation::new(), &mut budget).is_ok());
    let error = program.eval(&Activation::new(), &mut budget).map(drop).expect_err("nothing left");
    assert_eq!(error.kind(), crate::FailureKind::Budget);
}

#[test]
fn results_are_bounded_before_they_are_made() {
    for source in [
        "[[1], [2], [3]].flatten(9223372036854775807)",
        "lists.range(9223372036854775807)",
        "lists.range(300000).map(x, 'aaaaaaaaaaaaaaaaaaaa').join('').replace('', 'bbbbbbbbbbbbbbbbbbbb')",
        "[1].map(a, 'x'.replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f').replace('', '%.9999f'))",
    ] {
        let program = Env::new().compile(source).expect(source);
        let result = program.eval(&Activation::new(), &mut Budget::new(u64::MAX));
        assert_eq!(result.map(drop).expect_err(source).kind(), crate::FailureKind::CostLimit, "{source}");
    }
}

fn refused(source: &str, data: &Json) {
    let program = Env::new().var_of("self", Type::Dyn).compile(source).expect(source);
    let result = program.eval(&Activation::new().any("self", data), &mut Budget::new(u64::MAX));
    assert_eq!(result.map(drop).expect_err(source).kind(), crate::FailureKind::CostLimit, "{source}");
}

/// A list that has two of the list before in it, and so on: little memory, and as many parts as can be.
fn shared(levels: usize) -> String {
    format!("[1]{}", ".map(x, [x, x])".repeat(levels))
}

#[test]
fn what_values_share_counts_wherever_it_is() {
    let started = std::time::Instant::now();
    let (much, deep) = (shared(20), shared(40));
    for source in [
        format!("{deep}.all(y, y == y)"),
        format!("dyn({deep}) == dyn(1)"),
        deep,
        format!("[1]{}", ".map(x, {'a': x, 'b': x})".repeat(40)),
        format!("[1]{}", ".map(x, [x] + [x])".repeat(40)),
        format!("[{{'a': 1}}]{}", ".map(m, [m, m].transformMap(i, v, v))".repeat(40)),
        // Each comparison is short enough, all together are not.
        format!("{much}.all(y, lists.range(1000).all(z, y == y))"),
        format!("{much}.all(y, lists.range(1000).all(z, dyn(y) in [dyn(1), dyn(y)]))"),
        format!("{much}.all(y, lists.range(1000).all(z, [y].indexOf(y) == 0))"),
        format!("{much}.all(y, lists.range(1000).all(z, [y, y].distinct().size() == 1))"),
        format!("{much}.all(y, lists.range(1000).all(z, sets.contains([y], [y])))"),
        format!("{much}.all(y, lists.range(1000).all(z, [y].flatten(100).size() > 1))"),
    ] {
        refused(&source, &Json::Null);
    }
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

#[test]
fn large_data_cannot_be_gone_through_for_nothing() {
    let started = std::time::Instant::now();
    let list: Vec<Json> = (0..200_000).map(Json::from).collect();
    let map = list.iter().map(|i| (i.to_string(), i.clone())).collect::<serde_json::Map<_, _>>();
    let data = serde_json::json!({"list": [list], "map": map, "text": "x".repeat(3 << 20)});
    for step in [
        "self.list == self.list",
        "self.list[0].filter(x, false).size() == 0",
        "self.map.exists(k, true)",
        "[self.list].size() == 1",
        "self.list.reverse().size() == 1",
        "self.text.size() > 0",
        "self.text != 'x'",
    ] {
        refused(&format!("lists.range(50000).all(i, {step})"), &data);
    }
    let constants: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    refused(&format!("lists.range(50000).all(i, !(-1 in [{}]))", constants.join(",")), &data);
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

#[test]
fn results_are_bounded_together() {
    for source in [
        "[lists.range(100000)].all(l, lists.range(1000).map(x, l + l).size() > 0)",
        "lists.range(300000).map(x, 'aaaaaaaaaa').join('').split('').all(x, true)",
        "['x'.replace('', '%.9999f%.9999f%.9999f%.9999f%.9999f')].all(f, lists.range(5000).all(x, f.format([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]).size() > 0))",
        "[lists.range(1000)].all(l, lists.range(10000).all(x, [l, l, l, l, l, l].flatten().size() > 0))",
        "lists.range(2000).flatten(1).map(x, [x]).map(x, lists.range(1000)).flatten().map(x, [x,1,1,1,1,1,1,1,1,1,1,1,1,1,1]).size() > 0",
    ] {
        refused(source, &Json::Null);
    }
}

#[test]
fn patterns_are_bounded_together() {
    refused("lists.range(5000).all(x, !'a'.matches('b{' + string(x % 1000) + '}' + string(x)))", &Json::Null);
    // More than are compiled ahead, and each of them used again and again.
    let many: Vec<String> = (0..150).map(|n| format!("'a'.matches('b{n}')")).collect();
    let source = format!("!lists.range(6).exists(x, {})", many.join("||"));
    let program = Env::new().compile(&source).expect("compiles");
    let result = program.eval(&Activation::new(), &mut Budget::default()).expect("evaluates");
    assert_eq!(result.value.as_bool(), Some(true));
}
