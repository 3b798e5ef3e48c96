//! `cases.jsonl` holds what Go's `text/template` gives with docker's functions: the template, what a missing key means,
//! the result, and the document where it is not `document.json`.

use serde_json::{Value as Json, json};

use super::{MAX_NESTING, MAX_TEMPLATE, Missing, Template};

fn document() -> Json {
    serde_json::from_str(include_str!("document.json")).unwrap()
}

fn rendered(template: &str, missing: Missing, document: &Json) -> String {
    let result = Template::parse(template).and_then(|template| template.missing(missing).render(document));
    result.map_or_else(|problem| format!("ERR {problem}"), |text| format!("OK {text}"))
}

fn check(template: &str, document: &Json, expected: &str) {
    assert_eq!(rendered(template, Missing::Error, document), expected, "{template}");
}

#[test]
fn results_are_those_of_go() {
    let shared = document();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in include_str!("cases.jsonl").lines() {
        let case: Vec<String> = serde_json::from_str(line).unwrap();
        let other = case.get(3).map(|text| serde_json::from_str(text).unwrap());
        let missing = if case[1] == "error" { Missing::Error } else { Missing::NoValue };
        let got = rendered(&case[0], missing, other.as_ref().unwrap_or(&shared));
        count += 1;
        if got != case[2] {
            wrong.push(format!("{}\n  wanted {}\n  got    {got}", case[0], case[2]));
        }
    }
    assert!(count > 400, "only {count} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn null_prints_as_a_nil_pointer_and_a_missing_key_as_no_value() {
    let document = json!({"a": null, "list": [1, null]});
    check(
        "{{.a}} {{(.a)}} {{range .list}}{{.}} {{end}}{{.list}}",
        &document,
        "OK <nil> <nil> 1 <nil> [1 <nil>]",
    );
    assert_eq!(rendered("{{.b}} {{.b.c}}", Missing::NoValue, &document), "OK <no value> <no value>");
    check("{{index . \"b\"}}", &document, "OK <no value>");
}

#[test]
fn keys_are_sorted_and_exact() {
    check(
        "{{.}} {{json .}}",
        &json!({"b": 1, "B": 2, "a": 3}),
        "OK map[B:2 a:3 b:1] {\"B\":2,\"a\":3,\"b\":1}",
    );
    let problem = "ERR template parsing error: template: :1:2: executing \"\" at <.id>: map has no entry for key \"id\"";
    check("{{.id}}", &json!({"ID": 1}), problem);
}

#[test]
fn what_is_left_out_is_refused_by_name() {
    for (template, named) in [
        ("{{define \"x\"}}{{end}}", "{{define}} is not supported"),
        ("{{template \"x\"}}", "{{template}} is not supported"),
        ("{{block \"x\" .}}{{end}}", "{{block}} is not supported"),
        ("{{call .f}}", "function \"call\" not defined"),
        ("{{2i}}", "complex numbers are not supported: \"2i\""),
    ] {
        check(template, &Json::Null, &format!("ERR template parsing error: template: :1: {named}"));
    }
    for (format, named) in [
        ("%*d", "'*' in a format"),
        ("%.*f", "'*' in a format"),
        ("%[1]d", "'[' in a format"),
        ("%#v", "%#v of float64"),
        ("%#g", "%#g of float64"),
        ("%x", "%x of float64"),
        ("%1000001d", "a width or precision above 1000000 in a format"),
    ] {
        let template = format!("{{{{printf {format:?} 1.5}}}}");
        let got = rendered(&template, Missing::Error, &Json::Null);
        assert!(got.ends_with(&format!(": error calling printf: {named} is not supported")), "{got}");
    }
}

#[test]
fn the_template_has_limits() {
    let long = "x".repeat(MAX_TEMPLATE);
    check(&long, &Json::Null, &format!("OK {long}"));
    let refused = "ERR template parsing error: template: :1: the template is longer than 65536 bytes";
    check(&format!("{long}x"), &Json::Null, refused);

    let blocks = |depth: usize| format!("{}x{}", "{{range 1}}".repeat(depth), "{{end}}".repeat(depth));
    check(&blocks(MAX_NESTING), &Json::Null, "OK x");
    let refused = "ERR template parsing error: template: :1: nested deeper than 100 levels";
    check(&blocks(MAX_NESTING + 1), &Json::Null, refused);
    let parens = |depth: usize| format!("{{{{{}1{}}}}}", "(".repeat(depth), ")".repeat(depth));
    check(&parens(MAX_NESTING), &Json::Null, "OK 1");
    check(&parens(20_000), &Json::Null, refused);

    let chain = format!("{{{{if 0}}}}{}{{{{else}}}}last{{{{end}}}}", "{{else if 0}}".repeat(4000));
    check(&chain, &Json::Null, "OK last");
}

#[test]
fn rendering_has_limits() {
    for (template, limit) in [
        ("{{range 10000000000}}{{end}}", "the template takes too many steps"),
        ("{{range 100000}}{{range 100000}}{{end}}{{end}}", "the template takes too many steps"),
        (
            "{{$x := pad \"x\" 1000000 0}}{{range 100}}{{$x}}{{end}}",
            "the output is longer than 67108864 bytes",
        ),
        (
            "{{$x := \"0123456789\"}}{{range 99}}{{$x = print $x $x}}{{end}}",
            "the text is longer than the 67108864 bytes left for it",
        ),
        ("{{range 99}}{{$y := pad \"x\" 9000000 0}}{{end}}", " bytes left for it"),
        ("{{pad \"x\" 9223372036854775807 1}}", "the text is longer than the 67108864 bytes left for it"),
        ("{{split (pad \"x\" 9000000 0) \"\"}}", " parts"),
    ] {
        let got = rendered(template, Missing::Error, &Json::Null);
        assert!(got.starts_with("ERR ") && got.ends_with(limit), "{template}: {got}");
    }
}

/// Templates that have a bit of everything.
const SOUND: [&str; 12] = [
    "{{range $i, $e := .Names}}{{if $i}}, {{end}}{{$e | printf \"%-5s|\"}}{{end}}",
    "{{- if and .State.Running (gt .State.Pid 0) -}} alive {{else if eq \"a\" `b`}}{{.N}}{{else}}no{{end}}",
    "{{/* c */}}{{(index .Config.Env 0)}} {{json .State.Health}}{{with $x := .Config}}{{$x.Image}}{{end}}",
    "{{$x := 0x1F}}{{$x = -1.5e3}}{{printf \"%5.2f %v\" $x 'a'}}{{\"\\u00e9\\x41\"}}\n{{range .None}}{{end}}",
    "{{range 3}}{{if eq . 1}}{{continue}}{{end}}{{.}}{{break}}{{end}} {{slice .ID 0 4 | upper}}",
    "{{join (split .Name \"/\") \",\"}} {{title (lower \"A B\")}} {{pad .ID 1 2}} {{truncate .ID 3}}",
    "{{.State.Pid}} {{$.N}} {{len .Uni}} {{true}} {{html .Html \"x\" 1 | js | urlquery}}",
    "a\n{{ .ID\n | print (print\n 1) -}}\n b{{if\n.T}}{{end}}\n{{.Big}}",
    "{{printf \"%08.3f|%+d|% x|%#x|%q|%U|%T|%e\" .F .N .Uni .ID .Uni 233 .Mixed .Six}}",
    "é{{\"ü\"}}{{.Uni}}{{slice .Uni 0 2}}{{index .Uni 1}}{{'é'}}{{truncate .Uni 2}}{{- /* ö */ -}} ß",
    "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}}{{with $v.Aliases}}{{.}}{{end}}{{end}}",
    "{{not (or .Zero .Empty)}}{{and 1 2}}{{le 1 2}}{{ne .N 1}}{{lt \"a\" \"b\"}}{{ge 2.5 1.5}}{{print .Mixed nil}}",
];

#[test]
fn mangled_templates_end_in_a_result() {
    let document = document();
    let (mut sound, mut refused) = (0, 0);
    let mut attempt = |template: &str| match rendered(template, Missing::Error, &document) {
        result if result.starts_with("OK ") => sound += 1,
        result => {
            assert!(result.starts_with("ERR template parsing error: template: :"), "{template}: {result}");
            refused += 1;
        }
    };
    for template in SOUND {
        assert!(rendered(template, Missing::Error, &document).starts_with("OK "), "{template}");
        for at in 0..=template.len() {
            // Bytes are cut as they come: what is no UTF-8 then arrives as replacement characters.
            let (before, after) = template.as_bytes().split_at(at);
            attempt(&String::from_utf8_lossy(before));
            attempt(&String::from_utf8_lossy(after));
            attempt(&String::from_utf8_lossy(&[before, after.get(1..).unwrap_or_default()].concat()));
            for added in
                ["{{", "}}", "(", ")", " ", "\n", ".", "|", "$x", "-1", "nil ", "\"", "\\", "%", "é", "\0"]
            {
                attempt(&String::from_utf8_lossy(&[before, added.as_bytes(), after].concat()));
            }
        }
    }
    assert!(sound > 1000 && refused > 10_000, "{sound} {refused}");
}
