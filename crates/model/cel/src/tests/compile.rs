//! Rules that compile or do not: `compile.tbl` has groups of a schema and rules (with `optional` those
//! whose `oldSelf` may be missing) or messages, with what upstream says of them.

use serde_json::Value as Json;

use super::schema;
use crate::{Decl, Env, Type};

#[test]
fn rules_compile_or_not_as_upstream() {
    let mut wrong = Vec::new();
    let (mut name, mut decl) = ("", None::<Decl>);
    for line in include_str!("compile.tbl").lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "" => {}
            "#" => name = rest,
            "schema" => {
                let schema: Json = serde_json::from_str(rest).expect(rest);
                decl = Some(schema::decl(&schema).expect(name));
            }
            _ => {
                let (rule, expect) = rest.split_once(" => ").expect(rest);
                let rule: String = serde_json::from_str(rule).expect(rest);
                let found = outcome(&rule, decl.as_ref().expect(name), word);
                let missing: Vec<&str> = expect.split(" && ").filter(|part| !found.contains(part)).collect();
                if !missing.is_empty() {
                    wrong.push(format!("{name}: {rule}\n  missing {missing:?}\n  found   {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}

fn outcome(rule: &str, decl: &Decl, word: &str) -> String {
    let old = if word == "optional" { Type::optional(decl.ty()) } else { decl.ty() };
    let wanted = if word == "message" { Type::String } else { Type::Bool };
    match Env::new().var("self", decl).var_of("oldSelf", old).compile(rule) {
        Err(issues) => format!("compilation failed: {issues}"),
        Ok(program) if *program.result_type() != wanted => format!("must evaluate to a {wanted}"),
        Ok(program) if program.uses("oldSelf") => "compiles, transition".to_owned(),
        Ok(_) => "compiles, no transition".to_owned(),
    }
}
