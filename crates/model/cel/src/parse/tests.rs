use proptest::prelude::*;

use super::{parse, parse_with, print::reprint};
use crate::ast::{Expr, Kind};

fn refused(source: &str) -> String {
    parse(source).map(|_| String::new()).unwrap_or_else(|issues| issues.to_string())
}

fn accepted(source: &str) {
    if let Err(issues) = parse(source) {
        panic!("{source}: {issues}");
    }
}

#[test]
fn every_form_of_the_grammar_parses() {
    for source in [
        "1",
        "0x1F",
        "-0x1f",
        "1u",
        "0xffU",
        "1.5",
        ".5",
        "1e3",
        "1.5E-3",
        "true",
        "null",
        "'a'",
        "\"a\"",
        "'''a'b\n'''",
        "\"\"\"a\"b\"\"\"",
        "r'\\d'",
        "R\"\\w\"",
        "b'\\xff'",
        "br'\\x'",
        "''",
        "\"\"",
        "[]",
        "[1, 2,]",
        "[,]",
        "[?a, b]",
        "{}",
        "{'a': 1,}",
        "{?'a': b}",
        "Object{}",
        "Object.spec{a: 1}",
        "JSONPatch{op: 'add', path: '/a', value: 1}",
        ".a.b",
        "a.b.c(1)",
        "f()",
        "a[0]",
        "a[?0]",
        "a.?b.?c",
        "!a",
        "!!a",
        "--a",
        "-a",
        "-1",
        "a ? b : c",
        "a ? b : c ? d : e",
        "a in b",
        "a && b || c && d",
        "1 + 2 * 3 % 4 - 5 / 6",
        "has(a.b)",
        "a.all(x, x)",
        "a.map(x, x > 1, x)",
        "a.all(i, x, x == i)",
        "a.transformMapEntry(k, v, {v: k})",
        "a.optMap(x, x)",
        "a.sortBy(x, x.y)",
        "a // comment",
        "(((1)))",
        "a.namespace",
        "a.if",
    ] {
        accepted(source);
    }
}

#[test]
fn faults_are_shown_at_their_place() {
    for (source, expect) in [
        ("1 +", "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '('"),
        ("a b", "ERROR: <input>:1:3: Syntax error: extraneous input 'b' expecting <EOF>\n | a b\n | ..^"),
        ("(a", "Syntax error: missing ')' at '<EOF>'"),
        ("a in [1, 2, ", "ERROR: <input>:1:13: Syntax error: missing ']' at '<EOF>'"),
        (
            "a = 'b'",
            "ERROR: <input>:1:3: Syntax error: token recognition error at: '= '\n | a = 'b'\n | ..^\nERROR: <input>:1:5: Syntax error: extraneous input ''b'' expecting <EOF>",
        ),
        ("a ? b", "mismatched input '<EOF>' expecting ':'"),
        ("a.true", "mismatched input 'true' expecting IDENTIFIER"),
        ("'a", "Syntax error: token recognition error at: ''a'"),
        ("a @ b", "token recognition error at: '@'"),
        ("if", "ERROR: <input>:1:1: reserved identifier: if"),
        ("99999999999999999999", "invalid int literal"),
        ("a.`b-c`", "ERROR: <input>:1:3: unsupported syntax: '`'"),
        ("1e999", "invalid double literal"),
        ("'\\q'", "unable to unescape string"),
        ("has(a)", "ERROR: <input>:1:5: invalid argument to has() macro"),
        ("a.all(b.c, true)", "argument must be a simple name"),
        ("a.map(1, true)", "argument is not an identifier"),
        ("a.all(x, x, true)", "duplicate variable name: x"),
        ("a.all(__result__, true)", "iteration variable overwrites accumulator variable"),
        ("a\n.b\n@", "ERROR: <input>:3:1:"),
        ("'\u{4f60}' @", "\n | '\u{4f60}' @\n | .\u{ff0e}..^"),
    ] {
        let found = refused(source);
        assert!(found.contains(expect), "{source}: {found}");
    }
}

#[test]
fn literals_have_the_values_they_are_written_with() {
    let value = |source: &str| match parse(source).map(|tree| tree.root) {
        Ok(Expr { kind: Kind::Literal(value), .. }) => format!("{value:?}"),
        other => panic!("{source}: {other:?}"),
    };
    for (source, expect) in [
        ("-9223372036854775808", "Int(-9223372036854775808)"),
        ("0xffffffffffffffffu", "Uint(18446744073709551615)"),
        ("'\\x41\\101\\u0041\\U00000041'", "String(\"AAAA\")"),
        ("b'\\xff\\377\u{e9}'", "Bytes([255, 255, 195, 169])"),
        ("'\\n\\t\\\\\\'\\`\\?'", "String(\"\\n\\t\\\\'`?\")"),
        ("r'\\n'", "String(\"\\\\n\")"),
        ("'''a\n'b'''", "String(\"a\\n'b\")"),
    ] {
        assert_eq!(value(source), expect, "{source}");
    }
}

#[test]
fn nesting_is_bounded_and_needs_little_stack() {
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    accepted(&nested("(", ")", 249));
    accepted(&nested("[", "]", 249));
    accepted(&nested("f(", ")", 249));
    accepted(&nested("x||x&&x==x+x*(", ")", 40));
    for source in [
        nested("(", ")", 10_000),
        nested("[", "]", 10_000),
        nested("x||x&&x==x+x*(", ")", 5_000),
        format!("a{}", ".a".repeat(40_000)),
        format!("a{}", "+1".repeat(40_000)),
        format!("a{}", ".a()".repeat(20_000)),
        format!("[1]{}", ".map(x, x)".repeat(9_000)),
        format!("a{}", ".optMap(x, x)".repeat(60)),
    ] {
        assert!(!refused(&source).is_empty());
    }
    accepted(&vec!["a"; 30_000].join("||"));
    assert!(
        refused(&"a".repeat(100_001)).contains("code point size exceeds limit: size: 100001, limit 100000")
    );
}

#[test]
fn what_macros_repeat_is_bounded() {
    let long = "x".repeat(90_000);
    for target in
        [long.clone(), format!("a.{long}"), format!("{long}()"), format!("{long}{{}}"), format!("'{long}'")]
    {
        let source = format!("{target}{}", ".optMap(x, x)".repeat(10));
        assert!(refused(&source).contains("macros repeat more than 4194304 bytes"), "{}", target.len());
    }
    accepted(&format!("a.{}{}", &long[..1000], ".optMap(x, x)".repeat(10)));
}

/// Trees without the places their nodes were at.
fn bare(expr: &str) -> String {
    let tree = parse_with(expr, true).expect(expr);
    let mut text = format!("{:?}", tree.root);
    for field in ["id: ", "at: "] {
        let mut out = String::new();
        for (i, part) in text.split(field).enumerate() {
            out.push_str(if i > 0 { part.trim_start_matches(|c: char| c.is_ascii_digit()) } else { part });
        }
        text = out;
    }
    text
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a", "1", "-1", "2u", "1.5", "'x\\n\"'", "b'\\x01'", "true", "null", "[]", "{}", "Object{}", "-2.5",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(6, 60, 3, |inner| {
        let op = prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", ">=", "in", "&&", "||"]);
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("({a}) {op} {b}")),
            inner.clone().prop_map(|a| format!("!({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.clone().prop_map(|a| format!("({a}).f.?g[0][?{a}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}).all(x, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, ?{b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("({a}) ? ({b}) : f({c}, has({a}))")),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(source in "\\PC{0,60}") {
        let _ = parse(&source);
    }

    #[test]
    fn any_tokens_are_parsed_or_refused(words in prop::collection::vec(
        prop::sample::select(vec!["a", ".", "(", ")", "[", "]", "{", "}", "?", ":", ",", "1", "'s'", "-", "!",
            "&&", "==", "in", "has", "map", "b'", "\"", "r", "0x", "`x`", "//", "\n", "optMap"]), 0..40)) {
        let _ = parse(&words.concat());
        let _ = parse(&words.join(" "));
    }

    #[test]
    fn what_is_printed_parses_to_the_same_tree(source in expression()) {
        let printed = reprint(&source).expect(&source);
        prop_assert_eq!(bare(&source), bare(&printed), "{}", printed);
    }
}
