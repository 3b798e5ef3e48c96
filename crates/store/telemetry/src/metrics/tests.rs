use super::exposition::Format;
use super::*;
use std::time::Duration;

const HOUR: i64 = 3_600_000;

fn options() -> Options {
    Options { background: false, ..Options::default() }
}

fn open(dir: &Path) -> Arc<Metrics> {
    Metrics::open(dir, options()).unwrap()
}

fn labels(text: &str) -> Labels {
    Labels::from_pairs(text.split(',').map(|pair| pair.split_once('=').unwrap()))
}

fn matcher(op: MatchOp, name: &str, value: &str) -> Matcher {
    Matcher::new(op, name, value).unwrap()
}

fn points(metrics: &Metrics, matchers: &[Matcher], from: i64, to: i64) -> Vec<(String, Vec<(i64, f64)>)> {
    let set = metrics.select(matchers, from, to).unwrap();
    let mut out: Vec<_> = set
        .series()
        .iter()
        .map(|series| {
            let mut points = Vec::new();
            series.read(from, to, &mut points).unwrap();
            (series.labels().to_string(), points.iter().map(|p| (p.t, p.v)).collect())
        })
        .collect();
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

#[test]
fn matchers_see_an_absent_label_as_empty() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = open(dir.path());
    for set in ["__name__=m,a=1", "__name__=m,a=2,b=x", "__name__=m,b=xy"] {
        metrics.append(&[(labels(set), 1, 1.0)]).unwrap();
    }
    use MatchOp::*;
    let check = |list: &[(MatchOp, &str, &str)], want: &[&str]| {
        let mut matchers: Vec<Matcher> = list.iter().map(|(op, n, v)| matcher(*op, n, v)).collect();
        matchers.push(Matcher::equal("__name__", "m"));
        for flushed in [false, true] {
            if flushed {
                metrics.flush_before(10).unwrap();
            }
            let got: Vec<String> = points(&metrics, &matchers, 0, 10).into_iter().map(|(l, _)| l).collect();
            assert_eq!(got, want, "{list:?} flushed {flushed}");
        }
    };
    let (one, two, three) = (r#"m{a="1"}"#, r#"m{a="2", b="x"}"#, r#"m{b="xy"}"#);
    check(&[(Equal, "a", "")], &[three]);
    check(&[(NotEqual, "a", "")], &[one, two]);
    check(&[(NotEqual, "a", "1")], &[two, three]);
    check(&[(Regex, "b", "x")], &[two]);
    check(&[(Regex, "b", "x.*")], &[two, three]);
    check(&[(Regex, "b", "x|")], &[one, two]);
    check(&[(NotRegex, "b", "x.+")], &[one, two]);
    check(&[(Regex, "b", ".+"), (Equal, "a", "2")], &[two]);
    check(&[(Equal, "nothing", "x")], &[]);
}

#[test]
fn order_repeats_and_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = open(dir.path());
    let series = labels("__name__=m");
    let add = |t, v| metrics.append(&[(series.clone(), t, v)]).unwrap();
    assert_eq!(add(10, 1.0).added, 1);
    assert_eq!(add(10, 1.0).repeated, 1);
    assert_eq!(add(10, 2.0).duplicate, 1);
    assert_eq!(add(5, 1.0).out_of_order, 1);
    assert_eq!(add(now_ms() + 2 * HOUR, 1.0).too_new, 1);
    metrics.flush_before(100).unwrap();
    assert_eq!(add(50, 1.0).too_old, 1);
    assert_eq!(metrics.stats().refused, [1, 1, 1, 1]);
}

/// Everything acknowledged is there after a crash at any of these moments: the files are copied as a crash leaves them.
#[test]
fn a_crash_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = open(dir.path());
    let mut want: BTreeMap<String, Vec<(i64, f64)>> = Default::default();
    let check = |metrics: &Metrics, want: &BTreeMap<String, Vec<(i64, f64)>>| {
        let copy = tempfile::tempdir().unwrap();
        copy_all(dir.path(), copy.path());
        for store in [metrics, &*open(copy.path())] {
            let got = points(store, &[Matcher::equal("__name__", "m")], i64::MIN, i64::MAX);
            assert!(got == want.clone().into_iter().collect::<Vec<_>>(), "samples differ");
        }
    };
    for round in 0..24i64 {
        let mut batch = Vec::new();
        for step in 0..40 {
            let t = round * HOUR / 2 + step * 45_000;
            for s in 0..5 {
                // Series come and go.
                if (round + s) % 4 == 0 {
                    continue;
                }
                let set = labels(&format!("__name__=m,s={s}"));
                want.entry(set.to_string()).or_default().push((t, (round * s + step) as f64 / 3.0));
                batch.push((set, t, (round * s + step) as f64 / 3.0));
            }
        }
        assert_eq!(metrics.append(&batch).unwrap().added, batch.len() as u64);
        metrics.sync().unwrap();
        if round % 3 == 0 {
            check(&metrics, &want);
            metrics.maintain((round + 1) * HOUR / 2).unwrap();
            check(&metrics, &want);
        }
    }
    let stats = metrics.stats();
    assert!(stats.blocks > 0 && stats.blocks < 6, "{stats:?}");
    assert_eq!(stats.problems, Vec::<String>::new());
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn retention_and_a_damaged_block() {
    let dir = tempfile::tempdir().unwrap();
    let metrics =
        Metrics::open(dir.path(), Options { retention: Duration::from_secs(6 * 3600), ..options() }).unwrap();
    for hour in 0..12 {
        metrics.append(&[(labels("__name__=m"), hour * HOUR, 1.0)]).unwrap();
    }
    metrics.maintain(12 * HOUR).unwrap();
    let all = [Matcher::equal("__name__", "m")];
    let times = |metrics: &Metrics| -> Vec<i64> {
        points(metrics, &all, 0, i64::MAX).iter().flat_map(|(_, p)| p.iter().map(|p| p.0 / HOUR)).collect()
    };
    let kept = times(&metrics);
    assert!(
        kept.first().is_some_and(|first| (4..=6).contains(first)) && kept.last() == Some(&11),
        "{kept:?}"
    );
    assert_eq!(metrics.label_values("__name__", &[], 0, i64::MAX).unwrap(), ["m"]);
    let block = read(&metrics.blocks)[0].path.clone();
    drop(metrics);
    let mut bytes = fs::read(&block).unwrap();
    let middle = bytes.len() - 40;
    bytes[middle] ^= 0xff;
    fs::write(&block, bytes).unwrap();
    let metrics = open(dir.path());
    assert!(metrics.stats().problems[0].contains("damaged"), "{:?}", metrics.stats());
}

#[test]
fn queries_in_progress_keep_their_samples() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = open(dir.path());
    for t in 0..500 {
        metrics.append(&[(labels("__name__=m"), t * 1000, t as f64)]).unwrap();
    }
    let set = metrics.select(&[Matcher::equal("__name__", "m")], 0, HOUR).unwrap();
    let flusher = std::thread::spawn({
        let metrics = metrics.clone();
        move || metrics.flush_before(400_000).unwrap()
    });
    while metrics.stats().blocks == 0 {
        std::thread::yield_now();
    }
    let mut out = Vec::new();
    set.series()[0].read(0, HOUR, &mut out).unwrap();
    assert_eq!(out.len(), 500);
    // A new query sees block and memory, and each sample once.
    let again = metrics.select(&[Matcher::equal("__name__", "m")], 0, HOUR).unwrap();
    again.series()[0].read(0, HOUR, &mut out).unwrap();
    assert_eq!(out.len(), 500);
    drop((set, again));
    flusher.join().unwrap();
    assert_eq!(points(&metrics, &[Matcher::equal("__name__", "m")], 0, HOUR)[0].1.len(), 500);
}

#[test]
fn a_scrape_target_comes_changes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = open(dir.path());
    let mut cache = ScrapeCache::new(labels("job=j,instance=i"), ScrapeOptions::default());
    let took = Duration::from_millis(5);
    let text = "# TYPE a counter\n# HELP a what\na{job=\"own\",exported_job=\"x\"} 1\nb 2\nc 3 500\n";
    let stats = cache.ingest(&metrics, text, Format::Text, 1000, took).unwrap();
    assert_eq!((stats.scraped, stats.added, stats.series_added), (3, 3, 3));
    assert_eq!(
        metrics.metadata()[0].1,
        Metadata { kind: "counter".into(), help: "what".into(), unit: "".into() }
    );
    let stats = cache.ingest(&metrics, "b 3\n", Format::Text, 2000, took).unwrap();
    assert_eq!((stats.series_added, stats.vanished), (0, 1), "c has its own time");
    assert!(cache.ingest(&metrics, "b 4\nd{", Format::Text, 3000, took).is_err());
    let value = |name: &str, t: i64| {
        points(&metrics, &[Matcher::equal("__name__", name)], t, t)
            .into_iter()
            .map(|(l, p)| (l, p[0].1))
            .next()
    };
    let a = r#"a{exported_exported_job="own", exported_job="x", instance="i", job="j"}"#;
    assert_eq!(value("a", 1000), Some((a.to_string(), 1.0)));
    assert!(is_stale(value("a", 2000).unwrap().1) && is_stale(value("b", 3000).unwrap().1));
    assert_eq!(value("up", 2000).unwrap().1, 1.0);
    assert_eq!(value("up", 3000).unwrap().1, 0.0);
    cache.ingest(&metrics, "b 5\n", Format::Text, 4000, took).unwrap();
    cache.finish(&metrics, 5000).unwrap();
    assert!(is_stale(value("b", 5000).unwrap().1) && is_stale(value("up", 5000).unwrap().1));
}
