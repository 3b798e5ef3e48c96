//! Services and their golden signals.

use std::time::SystemTime;

use futures_util::future::join_all;
use serde_json::Value;

use super::{E, at, created, find, items, link, list_of, namespace_of, page, table};
use crate::{
    Inner,
    chart::{Line, Unit, figure},
};

const WINDOW: f64 = 1800.0;
const STEP: f64 = 15.0;

fn ports(service: &Value) -> String {
    let port = |port: &Value| {
        let number = port.get("port").map(Value::to_string).unwrap_or_default();
        format!("{number}/{}", at(port, "/protocol"))
    };
    E(items(service, "/spec/ports").iter().map(port).collect::<Vec<_>>().join(", ")).to_string()
}

pub(super) fn list(console: &Inner) -> String {
    let row = |service: &wharf_client::Object| {
        vec![
            link("services", service),
            namespace_of(service),
            E(at(service, "/spec/type")).to_string(),
            E(at(service, "/spec/clusterIP")).to_string(),
            ports(service),
            created(service),
        ]
    };
    let rows: Vec<_> = list_of(console, "services").iter().map(row).collect();
    let heads = &["Service", "Namespace", "Type", "Address", "Ports", "Created"];
    page("services", "Services", "services", &table("Services", heads, &rows, "No service yet."), "")
}

struct Chart {
    title: &'static str,
    unit: Unit,
    /// Name of the line, or of the label it is named by, and the query.
    queries: Vec<(&'static str, String)>,
}

/// The four golden signals of a Service.
fn charts(namespace: &str, service: &str) -> Vec<Chart> {
    let of = format!("namespace={},service={}", promql(namespace), promql(service));
    let buckets = format!("sum by (le) (rate(wharf_http_request_duration_seconds_bucket{{{of}}}[1m]))");
    let quantile = |q: &str| format!("histogram_quantile({q}, {buckets})");
    let rate = |more: &str, by: &str| format!("sum{by}(rate(wharf_http_requests_total{{{of}{more}}}[1m]))");
    let (failed, all) = (rate(",code=~\"5..\"", " by (version) "), rate("", " by (version) "));
    // A version without errors has no series of them.
    let errors = format!("100 * ({failed} or 0 * {all}) / {all}");
    vec![
        Chart {
            title: "Latency",
            unit: Unit::Seconds,
            queries: vec![("p50", quantile("0.5")), ("p90", quantile("0.9")), ("p99", quantile("0.99"))],
        },
        Chart {
            title: "Traffic by status",
            unit: Unit::PerSecond,
            queries: vec![("@code", rate("", " by (code) "))],
        },
        Chart { title: "Errors by version", unit: Unit::Percent, queries: vec![("@version", errors)] },
        Chart {
            title: "Saturation: requests under way and held",
            unit: Unit::Count,
            queries: vec![
                ("under way", format!("sum(wharf_http_requests_in_flight{{{of}}})")),
                ("held", format!("sum(wharf_http_requests_held{{{of}}})")),
            ],
        },
    ]
}

/// A text as PromQL writes it.
fn promql(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

async fn drawn(console: &Inner, chart: Chart, from: f64, to: f64) -> String {
    let mut lines = Vec::new();
    for (name, query) in chart.queries {
        match console.query.range(query, from, to, STEP).await {
            Ok(series) => lines.extend(series.into_iter().map(|series| {
                Line {
                    name: match name.strip_prefix('@') {
                        None => name.to_owned(),
                        Some(label) => series
                            .labels
                            .get(label)
                            .filter(|v| !v.is_empty())
                            .cloned()
                            .unwrap_or_else(|| "none".to_owned()),
                    },
                    points: series.points,
                }
            })),
            Err(why) => {
                return format!(
                    "<figure><figcaption>{}</figcaption><p class=\"none\">{}</p></figure>",
                    E(chart.title),
                    E(why)
                );
            }
        }
    }
    figure(chart.title, chart.unit, from, to, &lines)
}

pub(super) async fn one(console: &Inner, namespace: &str, name: &str) -> Option<String> {
    let service = find(console, "services", namespace, name)?;
    let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
    let drawn = charts(namespace, name).into_iter().map(|chart| drawn(console, chart, now - WINDOW, now));
    let charts = join_all(drawn).await.concat();
    let live = format!(
        "<dl class=\"facts\"><dt>Namespace</dt><dd>{}</dd><dt>Address</dt><dd>{}</dd><dt>Ports</dt><dd>{}</dd></dl>\
         <div class=\"charts\" data-every=\"10\">{charts}</div>\
         <p class=\"none\">Measured by the proxy, for requests that come through an Ingress.</p>",
        E(namespace),
        E(at(&service, "/spec/clusterIP")),
        ports(&service),
    );
    Some(page("services", &format!("Service {name}"), "services", &live, ""))
}
