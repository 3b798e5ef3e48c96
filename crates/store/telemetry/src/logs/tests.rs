use super::{
    logql::{LogQl, MetricQuery, RangeFunction, parse},
    *,
};

const SECOND: i64 = 1_000_000_000;

fn labels(pod: &str) -> Labels {
    Labels::from_pairs([("namespace", "shop"), ("pod", pod)])
}

fn fill(logs: &Logs, pod: &str, seconds: std::ops::Range<i64>) {
    for second in seconds {
        let level = if second % 10 == 0 { "error" } else { "info" };
        let entry = Entry::new(second * SECOND, format!("level={level} n={second} pod={pod}"));
        logs.append(&labels(pod), &[entry]).unwrap();
    }
}

fn query(logs: &Logs, text: &str, from: i64, to: i64, limit: usize, direction: Direction) -> Vec<String> {
    let LogQl::Lines(pipeline) = parse(text).unwrap() else { panic!("a metric query") };
    let query = Query {
        matchers: pipeline.matchers,
        filters: pipeline.filters,
        from: from * SECOND,
        to: to * SECOND,
        limit,
        direction,
    };
    let mut lines: Vec<(i64, String)> = Vec::new();
    for stream in logs.query(&query).unwrap() {
        lines.extend(stream.entries.iter().map(|e| (e.at, e.line.to_string())));
    }
    lines.sort();
    if direction == Direction::Backward {
        lines.reverse();
    }
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Lines in memory, sealed, and read back after a restart answer alike.
#[test]
fn lines_are_found_in_memory_sealed_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Logs::open(dir.path(), Options::default()).unwrap();
    fill(&logs, "a", 0..100);
    logs.seal().unwrap();
    fill(&logs, "b", 50..150);
    let check = |logs: &Logs| {
        let all = r#"{namespace="shop"}"#;
        assert_eq!(query(logs, all, 0, 1000, 5000, Direction::Forward).len(), 200);
        assert_eq!(query(logs, all, 99, 101, 5000, Direction::Forward).len(), 3);
        let newest = query(logs, all, 0, 1000, 2, Direction::Backward);
        assert_eq!(newest, ["level=info n=149 pod=b", "level=info n=148 pod=b"]);
        let oldest = query(logs, all, 0, 1000, 1, Direction::Forward);
        assert_eq!(oldest, ["level=error n=0 pod=a"]);
        let errors = r#"{pod=~"a|b"} |= "error" != "n=50" |~ "n=5.|n=60""#;
        assert_eq!(
            query(logs, errors, 0, 1000, 100, Direction::Forward),
            ["level=error n=60 pod=a", "level=error n=60 pod=b"]
        );
        assert_eq!(query(logs, r#"{pod="c"}"#, 0, 1000, 100, Direction::Forward).len(), 0);
        assert_eq!(logs.series(&[], 0, 40 * SECOND).len(), 1);
        assert_eq!(
            (logs.newest(&labels("a")), logs.newest(&labels("b"))),
            (Some(99 * SECOND), Some(149 * SECOND))
        );
    };
    check(&logs);
    drop(logs);
    let logs = Logs::open(dir.path(), Options::default()).unwrap();
    assert!(logs.problems().is_empty());
    check(&logs);
    logs.seal().unwrap();
    check(&logs);
    drop(logs);
    check(&Logs::open(dir.path(), Options::default()).unwrap());
}

#[test]
fn a_crash_between_sealing_and_trimming_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let logs = Logs::open(dir.path(), Options::default()).unwrap();
    fill(&logs, "a", 0..10);
    let saved = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir.path().join("wal")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, saved.path().join(path.file_name().unwrap())).unwrap();
    }
    logs.seal().unwrap();
    drop(logs);
    // The log as it was before it was trimmed.
    fs::remove_dir_all(dir.path().join("wal")).unwrap();
    fs::rename(saved.keep(), dir.path().join("wal")).unwrap();
    let logs = Logs::open(dir.path(), Options::default()).unwrap();
    assert_eq!(query(&logs, r#"{pod="a"}"#, 0, 1000, 100, Direction::Forward).len(), 10);
    fill(&logs, "a", 10..12);
    drop(logs);
    let logs = Logs::open(dir.path(), Options::default()).unwrap();
    assert_eq!(query(&logs, r#"{pod="a"}"#, 0, 1000, 100, Direction::Forward).len(), 12);
}

#[test]
fn old_lines_go() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { retention: Duration::from_secs(60), ..Options::default() };
    let logs = Logs::open(dir.path(), options).unwrap();
    fill(&logs, "a", 0..10);
    logs.seal().unwrap();
    fill(&logs, "a", 100..110);
    logs.seal().unwrap();
    logs.tick(120 * SECOND).unwrap();
    assert_eq!(query(&logs, r#"{pod="a"}"#, 0, 1000, 100, Direction::Forward).len(), 10);
    assert_eq!(Segment::files(dir.path()).unwrap().len(), 1);
}

#[test]
fn queries_that_cannot_be_read_name_the_place() {
    for (text, expect) in [
        ("{}", "parse error at line 1, col 1: queries require at least one matcher"),
        ("{a=\"b\"", "col 7: unexpected end, expected \"}\""),
        ("{a=\"b\"} | json", "col 15: \"json\" after \"|\" is not supported"),
        ("{a=~\"(\"}", "error parsing regexp"),
        ("topk(5, rate({a=\"b\"}[5m]))", "col 1: \"topk\" is not supported"),
        ("rate({a=\"b\"}[soon])", "\"soon\" is no duration"),
        ("{a=\"b\"} |= \"x\" y", "col 16: unexpected text"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expect), "{text}: {error}");
    }
    let Ok(LogQl::Metric(MetricQuery { range, function, sum_by, .. })) =
        parse(r#"sum by (pod, level) (rate({a="b"} |= "x" [1m30s]))"#)
    else {
        panic!("a metric query")
    };
    assert_eq!((range.as_secs(), function), (90, RangeFunction::Rate));
    assert_eq!(sum_by, Some(vec!["pod".to_owned(), "level".to_owned()]));
}
