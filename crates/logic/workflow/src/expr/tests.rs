use super::{Condition, Env, Expr, Object, Scope, Status, Template, Value, evaluate};

const SCOPE: Scope = Scope { contexts: &["github", "env", "steps"], status: true, files: true };

fn contexts() -> Object {
    serde_json::from_str::<Value>(
        r#"{"github": {"ref": "refs/heads/main", "event": {"tags": [{"name": "a"}, {"name": "b"}, {}]}},
            "env": {"EMPTY": ""}, "steps": {"build": {"outcome": "failure"}}}"#,
    )
    .unwrap()
    .as_object()
    .unwrap()
    .clone()
}

fn with_env<T>(status: Status, act: impl FnOnce(&Env<'_>) -> T) -> T {
    let contexts = contexts();
    act(&Env { contexts: &contexts, status, hash_files: &|patterns| Ok(patterns.join("+")) })
}

fn check(expression: &str, expected: &str) {
    let seen = match Expr::parse(expression, &SCOPE) {
        Err(error) => format!("syntax: {error}"),
        Ok(parsed) => match with_env(Status::default(), |env| evaluate(&parsed, env)) {
            Ok(value) => value.to_json().to_string(),
            Err(error) => format!("error: {error}"),
        },
    };
    assert_eq!(seen, expected, "{expression}");
}

#[test]
fn values_and_operators() {
    check("github.ref == 'REFS/heads/MAIN'", "true");
    check("1 == '1.0' && null == 0 && '' == false", "true");
    check("'a' < 'B' || NaN == NaN", "true");
    check("github.event.tags.*.name", r#"["a","b"]"#);
    check("join(github.event.tags.*.name, '/')", r#""a/b""#);
    check("!steps.build.outcome", "false");
    check("github.nothing.at.all", "null");
    check("env.EMPTY || 'default'", r#""default""#);
    check("format('{{{0}}}', 0x1f)", r#""{31}""#);
    check("fromJSON('{\"b\": [1, 2]}').b[1]", "2");
    check("toJSON(fromJSON('{\"b\":1,\"a\":[]}'))", r#""{\n  \"b\": 1,\n  \"a\": []\n}""#);
    check("hashFiles('a', 'b')", r#""a+b""#);
    check("'it''s'", r#""it's""#);
}

#[test]
fn wrong_expressions_say_what_and_where() {
    check(
        "github.ref ==",
        "syntax: something is missing at the end at character 14 of the expression 'github.ref =='",
    );
    check("gihub.ref", "syntax: there is no 'gihub' here at character 1 of the expression 'gihub.ref'");
    check("\"a\"", "syntax: '\"a\"' is not understood at character 1 of the expression '\"a\"'");
    check(
        "contains('a')",
        "syntax: 'contains' takes at least 2 arguments, not 1 at character 1 of the expression 'contains('a')'",
    );
    check("format('{1}', 1)", "error: the format '{1}' names more values than are given");
}

#[test]
fn every_wrong_expression_has_a_hint() {
    let functions = "case, contains, endsWith, format, fromJSON, join, startsWith, toJSON, always, cancelled, \
                     failure, success, hashFiles";
    for (expression, hint) in [
        ("containz('a', 'b')", "did you mean 'contains'?".to_owned()),
        ("size(github)", format!("the functions are: {functions}")),
        ("github.foo('a')", format!("only functions are called: {functions}")),
        ("contains('a')", "write contains(LIST OR TEXT, ITEM)".into()),
        ("always(1)", "write always()".into()),
        ("github.ref ==", "write a value after '=='".into()),
        ("(github.ref", "close '(' with ')'".into()),
        ("github.event[0", "close '[' with ']'".into()),
        ("github.ref)", "leave ')' out, or write what it closes before it".into()),
        ("github.ref env.x", "put an operator between two values: ==, !=, <, <=, >, >=, && or ||".into()),
        ("github.ref == && 1", "write a value between '==' and '&&'".into()),
        ("== 1", "write a value before '=='".into()),
        ("1 + 1", super::lexer::NO_ARITHMETIC.into()),
        ("2 * 3", super::lexer::NO_ARITHMETIC.into()),
        ("github.ref = 'a'", "compare with '=='".into()),
        ("github.ref & env.x", "write '&&'".into()),
        ("'a", "add the closing quote (a quote within a text is written twice)".into()),
        ("\"a\"", "texts stand between single quotes".into()),
        ("${{ 1", "'${{' and '}}' cannot stand inside an expression: leave them out".into()),
    ] {
        let error = Expr::parse(expression, &SCOPE).unwrap_err();
        assert_eq!(error.hint, Some(hint), "{expression}");
    }
    let hint = |expression: &str| {
        let parsed = Expr::parse(expression, &SCOPE).unwrap();
        with_env(Status::default(), |env| evaluate(&parsed, env)).unwrap_err().hint.unwrap_or_default()
    };
    assert!(hint("fromJSON('[1,]')").starts_with("JSON has double quotes around keys and texts"));
    assert!(hint("fromJSON(env.EMPTY)").contains("fromJSON(VALUE || '[]')"));
    assert!(hint("format('{1}', 1)").ends_with("and 1 are given"));
    assert!(hint("format('{', 1)").contains("write braces twice"));
}

#[test]
fn templates_keep_the_type_of_a_lone_expression() {
    let value = |text: &str| {
        let template = Template::parse(text, &SCOPE).unwrap();
        with_env(Status::default(), |env| template.value(env)).unwrap().to_json().to_string()
    };
    assert_eq!(value("${{ 1 }}"), "1");
    assert_eq!(value("v${{ 1 }}-${{ '}}' }}"), r#""v1-}}""#);
    assert_eq!(value("plain"), r#""plain""#);
    assert!(Template::parse("${{ 1", &SCOPE).unwrap_err().to_string().contains("not closed"));
    assert!(Template::parse("${{ }}", &SCOPE).is_err());
}

#[test]
fn a_condition_without_a_status_function_asks_for_success() {
    let holds = |text: &str, status| {
        with_env(status, |env| Condition::parse(text, &SCOPE).unwrap().holds(env)).unwrap()
    };
    let good = Status { success: true, ..Status::default() };
    let bad = Status { failure: true, ..Status::default() };
    for (text, after_success, after_failure) in [
        ("", true, false),
        ("true", true, false),
        ("${{ github.ref == 'refs/heads/main' }}", true, false),
        ("always()", true, true),
        ("failure() && steps.build.outcome == 'failure'", false, true),
        ("${{ failure() }}", false, true),
        ("false", false, false),
    ] {
        assert_eq!((holds(text, good), holds(text, bad)), (after_success, after_failure), "{text}");
    }
}

/// Runs the cases of actions/languageservices (`expressions/testdata`) found in the folder that
/// `WHARF_EXPRESSION_CASES` names; without it there is nothing to compare with.
#[test]
fn upstream_cases() {
    let Some(folder) = std::env::var_os("WHARF_EXPRESSION_CASES") else { return };
    let (mut passed, mut total) = (0, 0);
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let groups: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for (_, cases) in groups.as_object().unwrap().iter() {
            let Value::Array { items, .. } = cases else { panic!() };
            for case in items.iter() {
                total += 1;
                let (seen, wanted) = run_case(case);
                if seen == wanted {
                    passed += 1;
                } else {
                    println!(
                        "{}: {}\n  seen {seen}\n  want {wanted}",
                        path.display(),
                        case.get("expr").to_text()
                    );
                }
            }
        }
    }
    println!("{passed} of {total} passed");
    assert_eq!(passed, total);
}

/// The outcome seen and the one wanted; of errors only the stage is compared, the words are our own.
fn run_case(case: &Value) -> (String, String) {
    let contexts = case.get("contexts").as_object().cloned().unwrap_or_default();
    let names: Vec<&str> = contexts.iter().map(|(name, _)| name).collect();
    let wanted = match case.get("err") {
        Value::Null => {
            let result = case.get("result");
            format!("{} {}", result.get("kind").to_text(), result.get("value").to_json())
        }
        error => error.get("kind").to_text(),
    };
    let scope = Scope { contexts: &[], status: false, files: false };
    let seen = match Expr::parse_naming(&case.get("expr").to_text(), &names, &scope) {
        Err(error) if error.lexical => "lexing".into(),
        Err(_) => "parsing".into(),
        Ok(expression) => {
            let env =
                Env { contexts: &contexts, status: Status::default(), hash_files: &|_| Err(String::new()) };
            match evaluate(&expression, &env) {
                Ok(value) => format!("{} {}", value.kind(), value.to_json()),
                Err(_) => "evaluation".into(),
            }
        }
    };
    (seen, wanted)
}
