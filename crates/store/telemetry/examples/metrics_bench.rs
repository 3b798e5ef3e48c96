//! Figures of the metrics store: `metrics_bench DIR [SERIES] [SAMPLES]`. See bench/telemetry/metrics.sh.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use wharf_telemetry::metrics::{Labels, Metrics, Options};
use wharf_telemetry::promql::{Query, QueryOptions};

/// CPU seconds and resident bytes of this process.
fn usage() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|w| w.parse().unwrap_or(0.0)).collect();
    ((fields[11] + fields[12]) / 100.0, fields[21] * 4096.0)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap();
    let series: usize = args.next().map_or(100_000, |a| a.parse().unwrap());
    let samples: i64 = args.next().map_or(20, |a| a.parse().unwrap());
    let metrics = Metrics::open(dir, Options { background: false, ..Options::default() }).unwrap();
    let (_, empty) = usage();
    let mut refs: Vec<_> = (0..series)
        .map(|i| {
            let (pod, path, le) =
                (format!("pod-{}", i / 100), format!("/p/{}", i / 10 % 10), (i % 10).to_string());
            let labels = Labels::from_pairs([
                ("__name__", "http_request_duration_seconds_bucket"),
                ("job", "shop"),
                ("namespace", "production"),
                ("instance", &pod),
                ("pod", &pod),
                ("path", &path),
                ("method", "GET"),
                ("code", "200"),
                ("le", &le),
            ]);
            metrics.series_ref(&labels).unwrap()
        })
        .collect();
    let base = 1_700_000_000_000 / 7_200_000 * 7_200_000;
    let (before, _) = usage();
    for step in 0..samples {
        for (chunk, list) in refs.chunks_mut(1000).enumerate() {
            let mut appender = metrics.appender();
            for (i, one) in list.iter_mut().enumerate() {
                let rate = ((chunk * 1000 + i) * 7919 % 23) as i64;
                let jitter = (step * 31 + i as i64 * 17) % (rate + 2);
                appender.add_to(one, base + step * 15_000, (step * rate + jitter) as f64).unwrap();
            }
            appender.commit().unwrap();
        }
        metrics.sync().unwrap();
    }
    let (after, full) = usage();
    let total = series as f64 * samples as f64;
    println!("ingest (append, log, fsync): {:.2} M samples per CPU-second", total / (after - before) / 1e6);
    println!("memory: {:.0} bytes per series", (full - empty) / series as f64);
    let end = base + (samples - 1) * 15_000;
    for text in [
        "sum by (path) (rate(http_request_duration_seconds_bucket[5m]))",
        "histogram_quantile(0.9, sum by (le, path) (rate(http_request_duration_seconds_bucket[5m])))",
        "topk(5, http_request_duration_seconds_bucket)",
    ] {
        let query = Query::parse(text).unwrap();
        let mut times: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                query.instant(&*metrics, end, &QueryOptions::default()).unwrap();
                start.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{:.0} ms  {text}", times[2]);
    }
    metrics.flush_before(end + 1).unwrap();
    let stats = metrics.stats();
    println!(
        "disk: {:.3} bytes per sample with index",
        stats.block_bytes as f64 / stats.block_samples as f64
    );
}
