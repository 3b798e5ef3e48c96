//! What rules are estimated to cost at most: `estimates.tbl` has groups of a schema and rules with the
//! figure upstream keeps stable.

use serde_json::Value as Json;

use super::schema;
use crate::{Decl, Env};

#[test]
fn rules_are_estimated_as_upstream() {
    let mut wrong = Vec::new();
    let (mut name, mut decl) = ("", None::<Decl>);
    for line in include_str!("estimates.tbl").lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let json = || serde_json::from_str::<Json>(rest).expect(rest);
        match word {
            "" => {}
            "#" => name = rest,
            "schema" => decl = Some(schema::decl(&json()).expect(name)),
            most => {
                let rule = json().as_str().expect(rest).to_owned();
                let env = Env::new()
                    .var("self", decl.as_ref().expect(name))
                    .var("oldSelf", decl.as_ref().expect(name));
                let found = match env.compile(&rule) {
                    Ok(program) => program.estimate_cost().max.to_string(),
                    Err(issues) => issues.to_string(),
                };
                if found != most {
                    wrong.push(format!("{name}: {rule}\n  expected {most}\n  found    {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
