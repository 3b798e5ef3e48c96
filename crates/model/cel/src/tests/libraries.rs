//! Kubernetes' libraries: `libraries.tbl` has expressions with their value, or with what they fail of,
//! as upstream tests them.

use super::value_of;

#[test]
fn libraries_answer_as_upstream() {
    let mut wrong = Vec::new();
    for line in include_str!("libraries.tbl").lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let Some((source, expect)) = rest.split_once(" => ") else { continue };
        let source: String = serde_json::from_str(source).expect(line);
        let found = value_of(&source);
        let right = if word == "is" { found == expect } else { found.contains(expect) };
        if !right {
            wrong.push(format!("{source}\n  expected {expect}\n  found    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
