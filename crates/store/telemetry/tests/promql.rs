//! Runs PromQL test scripts in the format of Prometheus' promqltest: the ones of this folder always, and those of the
//! folder that WHARF_PROMQL_TESTDATA names, which are the oracle.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use wharf_telemetry::metrics::{Labels, Metrics, Options, Point, exposition, stale};
use wharf_telemetry::promql::{self, Query, QueryOptions, QueryValue};

#[derive(Default, Clone, Copy)]
struct Tally {
    passed: usize,
    failed: usize,
    /// Need native histograms or start timestamps, which are not stored.
    excluded: usize,
}

#[derive(Default)]
struct Eval {
    query: String,
    /// start, end, step; the last is 0 for an instant query.
    times: (i64, i64, i64),
    line: usize,
    series: Vec<(String, String)>,
    fail: bool,
    ordered: bool,
    string: Option<String>,
    range_vector: Option<(i64, i64, i64)>,
    /// fail, warn, info; then msg or regex, or nothing; then the text.
    texts: Vec<(&'static str, Option<bool>, String)>,
    no_warn: bool,
    no_info: bool,
}

struct Runner {
    store: Option<(tempfile::TempDir, Arc<Metrics>)>,
    /// Something that is not stored was loaded since the last clear.
    special: bool,
    tally: Tally,
    verbose: bool,
}

fn ms(text: &str) -> i64 {
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let value = match text.parse::<f64>() {
        Ok(seconds) => (seconds * 1000.0) as i64,
        Err(_) => promql::parse_duration(text).unwrap_or_else(|e| panic!("{text}: {e}")) as i64,
    };
    sign * value
}

fn labels(text: &str) -> Labels {
    let text = text.trim();
    let parse = |text: &str| {
        exposition::parse_series(text)
            .map(|pairs| Labels::new(pairs.iter().map(|(n, v)| ((&**n).into(), (&**v).into())).collect()))
    };
    parse(text)
        .or_else(|_| parse(&format!("x{text}")).map(|l| l.with("__name__", "")))
        .unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Splits a line into series and values.
fn split(line: &str) -> (String, String) {
    let mut quoted = None;
    let mut depth = 0;
    for (at, c) in line.char_indices() {
        match c {
            '"' | '\'' if quoted.is_none() => quoted = Some(c),
            _ if quoted == Some(c) && !line[..at].ends_with('\\') => quoted = None,
            '{' if quoted.is_none() => depth += 1,
            '}' if quoted.is_none() => depth -= 1,
            ' ' | '\t' if quoted.is_none() && depth == 0 => {
                return (line[..at].into(), line[at..].trim().into());
            }
            _ => {}
        }
    }
    (line.into(), String::new())
}

fn number(text: &str) -> f64 {
    match text.to_ascii_lowercase().as_str() {
        "stale" => stale(),
        "inf" | "+inf" => f64::INFINITY,
        "-inf" => f64::NEG_INFINITY,
        "nan" => f64::NAN,
        other => other.parse().unwrap_or_else(|_| {
            let hex = other.trim_start_matches("0x");
            i64::from_str_radix(hex, 16).unwrap_or_else(|_| panic!("number {text}")) as f64
        }),
    }
}

fn values(text: &str) -> Vec<Option<f64>> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let (body, times) = match word.rsplit_once('x') {
            Some((body, times)) if !body.is_empty() => (body, Some(times.parse::<usize>().unwrap())),
            _ => (word, None),
        };
        if body == "_" {
            out.extend(std::iter::repeat_n(None, times.unwrap_or(1)));
            continue;
        }
        let Some(times) = times else {
            out.push(Some(number(body)));
            continue;
        };
        // base ± step, where a sign after an exponent or at the start is no operator.
        let bytes = body.as_bytes();
        let op = (1..bytes.len()).find(|&i| {
            matches!(bytes[i], b'+' | b'-')
                && !(matches!(bytes[i - 1], b'e' | b'E') && i >= 2 && bytes[i - 2].is_ascii_digit())
        });
        let (base, step) = match op {
            Some(at) => (number(&body[..at]), number(&body[at..])),
            None => (number(body), 0.0),
        };
        let mut value = base;
        for i in 0..=times {
            out.push(Some(value));
            value = if step == 0.0 { base } else { value + step };
            let _ = i;
        }
    }
    out
}

fn close(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, diff) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        diff < 1e-6 * f64::MIN_POSITIVE
    } else {
        diff / sum.min(f64::MAX) < 1e-6
    }
}

impl Runner {
    fn new(verbose: bool) -> Self {
        Self { store: None, special: false, tally: Tally::default(), verbose }
    }

    fn store(&mut self) -> Arc<Metrics> {
        let make = || {
            let dir = tempfile::tempdir().unwrap();
            let metrics =
                Metrics::open(dir.path(), Options { background: false, ..Options::default() }).unwrap();
            (dir, metrics)
        };
        self.store.get_or_insert_with(make).1.clone()
    }

    fn run(&mut self, name: &str, text: &str) {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            at += 1;
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let from = at;
            while at < lines.len() && !lines[at].is_empty() && !is_command(lines[at]) {
                at += 1;
            }
            let block: Vec<&str> =
                lines[from..at].iter().copied().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
            if line == "clear" {
                self.store = None;
                self.special = false;
            } else if line.starts_with("load") {
                self.load(line, &block);
            } else {
                self.eval(name, parse_eval(line, &block, from));
            }
        }
    }

    fn load(&mut self, line: &str, block: &[&str]) {
        self.special |= line.starts_with("load_with_nhcb");
        let step = ms(line.split_whitespace().nth(1).unwrap());
        let store = self.store();
        let mut samples = Vec::new();
        for line in block {
            let (series, text) = split(line);
            // Start timestamps stand behind an @.
            if text.contains("{{") || series.ends_with("@st") {
                self.special = true;
                continue;
            }
            let series = labels(&series);
            for (i, value) in values(&text).into_iter().enumerate() {
                if let Some(v) = value {
                    samples.push((series.clone(), i as i64 * step, v));
                }
            }
        }
        // Of a series that stands twice the last one counts.
        let last: BTreeMap<(Labels, i64), f64> = samples.into_iter().map(|(l, t, v)| ((l, t), v)).collect();
        let samples: Vec<_> = last.into_iter().map(|((l, t), v)| (l, t, v)).collect();
        store.append(&samples).unwrap();
    }

    fn eval(&mut self, name: &str, eval: Eval) {
        if eval.series.iter().any(|(_, v)| v.contains("{{")) {
            self.tally.excluded += 1;
            return;
        }
        let store = self.store();
        let mut outcome = check(&store, &eval, eval.times);
        let plain = !eval.ordered && eval.string.is_none() && eval.range_vector.is_none();
        if outcome.is_ok()
            && eval.times.2 == 0
            && plain
            && !eval.fail
            && !eval.query.contains("range()")
            && !eval.query.contains("step()")
            && !eval.query.contains("start()")
            && !eval.query.contains("end()")
            && eval.texts.is_empty()
        {
            outcome = check_middle(&store, &eval).map_err(|e| format!("as a range query: {e}"));
        }
        match outcome {
            Ok(()) => self.tally.passed += 1,
            Err(_) if self.special => self.tally.excluded += 1,
            Err(why) => {
                self.tally.failed += 1;
                if self.verbose {
                    println!("{name}:{}: {}\n    {why}", eval.line, eval.query);
                }
            }
        }
    }
}

fn is_command(line: &str) -> bool {
    line == "clear" || line.starts_with("load ") || line.starts_with("load_") || line.starts_with("eval")
}

fn parse_eval(line: &str, block: &[&str], number: usize) -> Eval {
    let mut eval = Eval { line: number, ..Eval::default() };
    let (head, rest) = line.split_once(char::is_whitespace).unwrap();
    eval.fail = head.ends_with("_fail");
    eval.ordered = head.ends_with("_ordered");
    let mut words = rest.split_whitespace();
    let mut skip = |n: usize| (0..n).map(|_| words.next().unwrap()).collect::<Vec<_>>();
    if skip(1)[0] == "instant" {
        let at = ms(skip(2)[1]);
        eval.times = (at, at, 0);
    } else {
        let w = skip(6);
        eval.times = (ms(w[1]), ms(w[3]), ms(w[5]));
    }
    let used = if eval.times.2 == 0 { 3 } else { 7 };
    let mut query = rest;
    for _ in 0..used {
        query = query.trim_start();
        query = &query[query.find(char::is_whitespace).unwrap()..];
    }
    eval.query = query.trim().into();
    for line in block {
        expectation(&mut eval, line);
    }
    eval
}

fn expectation(eval: &mut Eval, line: &str) {
    if let Some(text) = line.strip_prefix("expected_fail_message ") {
        eval.texts.push(("fail", Some(false), text.trim().into()));
    } else if let Some(text) = line.strip_prefix("expected_fail_regexp ") {
        eval.texts.push(("fail", Some(true), text.trim().into()));
    } else if let Some(text) = line.strip_prefix("expect string") {
        let text = text.trim();
        eval.string = Some(text[1..text.len() - 1].into());
    } else if let Some(text) = line.strip_prefix("expect range vector") {
        let w: Vec<&str> = text.split_whitespace().collect();
        eval.range_vector = Some((ms(w[1]), ms(w[3]), ms(w[5])));
    } else if let Some(text) = line.strip_prefix("expect ") {
        let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match kind {
            "no_warn" => eval.no_warn = true,
            "no_info" => eval.no_info = true,
            "ordered" => eval.ordered = true,
            "fail" | "warn" | "info" => {
                eval.fail |= kind == "fail";
                let kind = if kind == "fail" {
                    "fail"
                } else if kind == "warn" {
                    "warn"
                } else {
                    "info"
                };
                let rest = rest.trim();
                let (how, text) = match (rest.strip_prefix("msg:"), rest.strip_prefix("regex:")) {
                    (Some(text), _) => (Some(false), text),
                    (_, Some(text)) => (Some(true), text),
                    _ => (None, ""),
                };
                eval.texts.push((kind, how, unquoted(text.trim()).into()));
            }
            _ => panic!("{line}"),
        }
    } else if line.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+' || c == '.')
        || matches!(line.to_ascii_lowercase().as_str(), "nan" | "inf")
    {
        eval.series.push((String::new(), line.into()));
    } else {
        eval.series.push(split(line));
    }
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

fn options() -> QueryOptions {
    QueryOptions { delayed_name_removal: true, ..QueryOptions::default() }
}

fn matches(text: &str, how: Option<bool>, want: &str) -> bool {
    match how {
        None => true,
        Some(false) => text == want,
        Some(true) => regex::Regex::new(want).unwrap().is_match(text),
    }
}

fn answer(
    store: &Metrics,
    query: &str,
    (start, end, step): (i64, i64, i64),
) -> Result<promql::QueryResult, String> {
    let query = Query::parse(query).map_err(|e| e.to_string())?;
    let result = match step {
        0 => query.instant(store, start, &options()),
        _ => query.range(store, (start, end, step), &options()),
    };
    result.map_err(|e| e.to_string())
}

fn check(store: &Metrics, eval: &Eval, times: (i64, i64, i64)) -> Result<(), String> {
    let got = match (answer(store, &eval.query, times), eval.fail) {
        (Ok(_), true) => return Err("it should have failed".into()),
        (Err(error), false) => return Err(error),
        (Err(error), true) => {
            let all = eval.texts.iter().all(|(_, how, want)| matches(&error, *how, want));
            return if all { Ok(()) } else { Err(format!("another error: {error}")) };
        }
        (Ok(got), false) => got,
    };
    for (kind, list, none) in [("warn", &got.warnings, eval.no_warn), ("info", &got.infos, eval.no_info)] {
        if none && !list.is_empty() {
            return Err(format!("no {kind} was expected: {list:?}"));
        }
        let wanted: Vec<_> = eval.texts.iter().filter(|(k, ..)| *k == kind).collect();
        if wanted.iter().any(|(_, how, want)| !list.iter().any(|text| matches(text, *how, want)))
            || (!wanted.is_empty()
                && list.iter().any(|text| !wanted.iter().any(|(_, how, want)| matches(text, *how, want))))
        {
            return Err(format!("{kind}: wanted {wanted:?}, got {list:?}"));
        }
    }
    compare(eval, got.value)
}

fn compare(eval: &Eval, value: QueryValue) -> Result<(), String> {
    let start = eval.range_vector.map_or(eval.times.0, |r| r.0);
    let step = eval.range_vector.map_or(eval.times.2, |r| r.2);
    match value {
        QueryValue::String(_, text) => {
            (eval.string.as_deref() == Some(&text)).then_some(()).ok_or(format!("got {text:?}"))
        }
        QueryValue::Scalar(point) => {
            let want = eval.series.first().map(|(a, b)| number(if a.is_empty() { b } else { a }));
            want.is_some_and(|w| close(w, point.v)).then_some(()).ok_or(format!("got {}", point.v))
        }
        QueryValue::Vector(got) => {
            let want: Vec<(Labels, f64)> = eval
                .series
                .iter()
                .map(|(l, v)| (labels(if l.is_empty() { "{}" } else { l }), number(v)))
                .collect();
            let shown = || {
                format!(
                    "wanted {want:?}\n    got    {:?}",
                    got.iter().map(|(l, p)| (l, p.v)).collect::<Vec<_>>()
                )
            };
            if want.len() != got.len() {
                return Err(shown());
            }
            for (i, (labels, v)) in want.iter().enumerate() {
                let same = |(l, p): &(Labels, Point)| l == labels && close(p.v, *v);
                let ok = if eval.ordered { same(&got[i]) } else { got.iter().any(same) };
                if !ok {
                    return Err(shown());
                }
            }
            Ok(())
        }
        QueryValue::Matrix(got) => {
            let mut want: BTreeMap<Labels, Vec<(i64, f64)>> = BTreeMap::new();
            for (series, text) in &eval.series {
                let points = values(text).into_iter().enumerate();
                let points = points.filter_map(|(i, v)| Some((start + i as i64 * step, v?))).collect();
                want.insert(labels(if series.is_empty() { "{}" } else { series }), points);
            }
            let got: BTreeMap<Labels, Vec<(i64, f64)>> =
                got.into_iter().map(|s| (s.labels, s.points.iter().map(|p| (p.t, p.v)).collect())).collect();
            let same = |a: &Vec<(i64, f64)>, b: &Vec<(i64, f64)>| {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && close(a.1, b.1))
            };
            let ok = want.len() == got.len()
                && want.iter().all(|(l, points)| got.get(l).is_some_and(|g| same(points, g)));
            ok.then_some(()).ok_or_else(|| format!("wanted {want:?}\n    got    {got:?}"))
        }
    }
}

/// An instant query must give the same in the middle of a range query.
fn check_middle(store: &Metrics, eval: &Eval) -> Result<(), String> {
    if !matches!(Query::parse(&eval.query).map(|q| q.value_type().api().to_string()).as_deref(), Ok("vector"))
    {
        return Ok(());
    }
    let at = eval.times.0;
    let query = Query::parse(&eval.query).map_err(|e| e.to_string())?;
    let Ok(result) = query.range(store, (at - 60_000, at + 60_000, 60_000), &options()) else {
        // Neighbouring steps may be wrong where this one is not.
        return Ok(());
    };
    let QueryValue::Matrix(series) = result.value else { return Ok(()) };
    let middle = series.into_iter().filter_map(|s| Some((s.labels, *s.points.iter().find(|p| p.t == at)?)));
    compare(eval, QueryValue::Vector(middle.collect()))
}

fn run_folder(dir: &Path, verbose: bool) -> BTreeMap<String, Tally> {
    let mut out = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "test")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let mut runner = Runner::new(verbose);
        runner.run(&name, &std::fs::read_to_string(file).unwrap());
        out.insert(name, runner.tally);
    }
    out
}

#[test]
fn own_scripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promql");
    let tallies = run_folder(&dir, true);
    assert!(!tallies.is_empty());
    for (name, tally) in tallies {
        assert_eq!((tally.failed, tally.excluded), (0, 0), "{name}");
    }
}

#[test]
fn prometheus_scripts() {
    let Some(dir) = std::env::var_os("WHARF_PROMQL_TESTDATA") else {
        println!("WHARF_PROMQL_TESTDATA is not set: Prometheus' own scripts were not run");
        return;
    };
    let mut all = Tally::default();
    for (name, t) in run_folder(Path::new(&dir), true) {
        println!("{name:28} passed {:4}  failed {:3}  not stored {:4}", t.passed, t.failed, t.excluded);
        all.passed += t.passed;
        all.failed += t.failed;
        all.excluded += t.excluded;
    }
    println!("total passed {} failed {} not stored {}", all.passed, all.failed, all.excluded);
    assert_eq!(all.failed, 0);
}

/// No text makes the parser break, however it is cut, and no nesting exhausts the stack.
#[test]
fn any_text_is_parsed_or_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/promql");
    for file in std::fs::read_dir(dir).unwrap() {
        for line in std::fs::read_to_string(file.unwrap().path()).unwrap().lines() {
            for (at, c) in line.char_indices() {
                let (before, after) = (&line[..at], &line[at + c.len_utf8()..]);
                for text in [
                    before.to_string(),
                    after.into(),
                    format!("{before}{after}"),
                    format!("{before}é{after}"),
                ] {
                    if let Ok(query) = Query::parse(&text) {
                        promql::pretty(&query);
                    }
                }
            }
        }
    }
    let store = Runner::new(false).store();
    for (deep, fits) in [(90, true), (100_000, false)] {
        for (open, close) in [("(", ")"), ("-", ""), ("sum(", ")"), ("abs(", ")")] {
            let text = format!("{}vector(1){}", open.repeat(deep), close.repeat(deep));
            assert_eq!(answer(&store, &text, (0, 0, 0)).is_ok(), fits, "{open} {deep}");
        }
    }
    for (long, fits) in [(390, true), (100_000, false)] {
        let text = format!("vector(1){}", " + vector(1)".repeat(long));
        assert_eq!(answer(&store, &text[..text.len().min(1 << 20)], (0, 0, 0)).is_ok(), fits, "{long}");
    }
}
