//! What rules cost when evaluated: `costs.tbl` has groups of a schema, data, and rules with their cost,
//! the figures upstream keeps stable.

use serde_json::Value as Json;

use super::schema;
use crate::{Activation, Budget, Decl, Env};

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
