//! Rules of custom resources over data: `rules.tbl` has groups of a schema, data, and rules that hold
//! or fail with a message. The cases are those upstream tests its rules by.

use serde_json::Value as Json;

use super::{schema, value_in};
use crate::{Activation, Decl, Env};

struct Group<'t> {
    name: &'t str,
    decl: Decl,
    data: Json,
    old: Option<Json>,
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn run(group: &Group<'_>, rule: &str) -> String {
    let env = Env::new().var("self", &group.decl).var("oldSelf", &group.decl);
    let mut activation = Activation::new().data("self", &group.data, &group.decl);
    if let Some(old) = &group.old {
        activation = activation.data("oldSelf", old, &group.decl);
    }
    value_in(&env, rule, &activation)
}

#[test]
fn rules_hold_or_fail_as_upstream() {
    let mut wrong = Vec::new();
    let mut group: Option<Group<'_>> = None;
    let mut name = "";
    for line in include_str!("rules.tbl").lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "#" => name = rest,
            "schema" => {
                let decl = schema::decl(&json(rest)).expect(name);
                group = Some(Group { name, decl, data: Json::Null, old: None });
            }
            "data" => group.as_mut().expect(name).data = json(rest),
            "old" => group.as_mut().expect(name).old = Some(json(rest)),
            "true" | "fails" => {
                let group = group.as_ref().expect(name);
                let (rule, expect) =
                    rest.split_once(" => ").filter(|_| word == "fails").unwrap_or((rest, ""));
                let rule = json(rule).as_str().expect(rest).to_owned();
                let found = run(group, &rule);
                let right = if word == "true" { found == "true" } else { found.contains(expect) };
                if !right {
                    wrong.push(format!(
                        "{}: {rule}\n  expected {word} {expect}\n  found    {found}",
                        group.name
                    ));
                }
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
