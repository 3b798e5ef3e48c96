//! `wharf query`: asks the platform's metrics in PromQL.

use std::{collections::BTreeSet, process::ExitCode};

use serde_json::Value;
use wharf_base::{Clock as _, Hinted, SystemClock, Timestamp};

use super::{
    Globals,
    console::{Console, Refused, ask},
    logs::{point, span},
    platform::{Form, Table, print_one},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The query in PromQL, such as 'sum by (service) (rate(wharf_http_requests_total[1m]))'
    promql: String,
    /// Over so long until now, such as 1h, instead of at one time
    #[arg(long, value_name = "SPAN")]
    range: Option<String>,
    /// Distance of the points of a range, such as 15s
    #[arg(long, value_name = "SPAN", default_value = "15s", requires = "range")]
    step: String,
    /// At this time instead of now: 2026-01-02T15:04:05Z, or so long ago, such as 10m
    #[arg(long, conflicts_with = "range")]
    time: Option<String>,
    /// Another form of output; wide shows every point of a range
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

/// Labels that get a column each; of more, all are written in one.
const COLUMNS: usize = 6;
/// Points that a trend is drawn from.
const TREND: usize = 24;

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        asks(&self.promql)?;
        ask(globals, async |console| {
            let data = self.ask(&console).await.map_err(|error| pointed(error, &self.promql))?;
            print_one(self.output, &data, || render(&data, self.output == Some(Form::Wide)))?;
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn ask(&self, console: &Console) -> anyhow::Result<Value> {
        let now = SystemClock.now();
        let length = |name: &str, text: &str| {
            span(text).filter(|span| !span.is_zero()).ok_or_else(|| {
                Hinted::new(format!("--{name} {text} is not a span of time"), "write 15s, 10m or 1h30m")
            })
        };
        let answer = match &self.range {
            Some(range) => {
                let start = seconds(now.minus(length("range", range)?));
                let step = length("step", &self.step)?.as_secs_f64().to_string();
                let query = [
                    ("query", self.promql.as_str()),
                    ("start", &start),
                    ("end", &seconds(now)),
                    ("step", &step),
                ];
                console.get("/prometheus/api/v1/query_range", &query).await?
            }
            None => {
                let at = match &self.time {
                    Some(text) => point("time", text, now)?,
                    None => now,
                };
                let query = [("query", self.promql.as_str()), ("time", &seconds(at))];
                console.get("/prometheus/api/v1/query", &query).await?
            }
        };
        for kind in ["warnings", "infos"] {
            let texts = answer[kind].as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.for_each(|text| eprintln!("warning: {text}"));
        }
        Ok(answer["data"].clone())
    }
}

/// A query asks for something.
fn asks(promql: &str) -> Result<(), Hinted> {
    match promql.trim().is_empty() {
        true => Err(Hinted::new(
            "the query is empty",
            "write PromQL, such as 'up' or 'sum by (service) (rate(wharf_http_requests_total[1m]))'",
        )),
        false => Ok(()),
    }
}

/// The error with the place in the query that it names (`1:5: parse error: …`).
fn pointed(error: anyhow::Error, query: &str) -> anyhow::Error {
    let Some(Refused { message, .. }) = error.downcast_ref::<Refused>() else { return error };
    let place = message.rsplit_once(": parse error").and_then(|(before, _)| {
        let (line, column) = before.rsplit(' ').next()?.split_once(':')?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
    });
    match place.and_then(|(line, column)| Some((query.lines().nth(line.checked_sub(1)?)?, column))) {
        Some((line, column)) => {
            let before: String = line.chars().take(column.saturating_sub(1)).collect();
            Hinted::new(
                message.clone(),
                format!("look at the mark in: {before}⏵{}", line.strip_prefix(&before).unwrap_or_default()),
            )
            .into()
        }
        None => error,
    }
}

fn seconds(time: Timestamp) -> String {
    format!("{}.{:03}", time.as_second(), time.as_millis().rem_euclid(1000))
}

/// A table of the answer.
fn render(data: &Value, wide: bool) -> String {
    let result = &data["result"];
    let series = || result.as_array().map(Vec::as_slice).unwrap_or_default();
    match data["resultType"].as_str() {
        Some("vector" | "matrix") if series().is_empty() => "no data\n".to_owned(),
        Some("vector") => {
            let mut table = Labelled::new(series(), &["VALUE"]);
            for one in series() {
                table.row(one, vec![value(&one["value"])]);
            }
            table.render()
        }
        Some("matrix") if wide => points(series()),
        Some("matrix") => {
            let mut table = Labelled::new(series(), &["MIN", "AVG", "MAX", "LAST", "TREND"]);
            for one in series() {
                table.row(one, summary(&numbers(one)));
            }
            table.render()
        }
        // A scalar or a string: one point.
        _ => format!("{}\n", value(result)),
    }
}

/// The value of a point `[time, "value"]`.
fn value(point: &Value) -> String {
    point[1].as_str().unwrap_or_default().to_owned()
}

fn numbers(series: &Value) -> Vec<f64> {
    let points = series["values"].as_array().into_iter().flatten();
    points.filter_map(|point| point[1].as_str()?.parse().ok()).collect()
}

/// Rows of series: a column for each label that tells them apart, then what is said of each.
struct Labelled {
    labels: Option<Vec<String>>,
    table: Table,
}

impl Labelled {
    fn new(series: &[Value], more: &[&str]) -> Self {
        let names: BTreeSet<&str> = series
            .iter()
            .filter_map(|one| one["metric"].as_object())
            .flat_map(|labels| labels.keys().map(String::as_str))
            .collect();
        // "__name__" sorts before all labels that people choose.
        let labels: Option<Vec<String>> =
            (names.len() <= COLUMNS).then(|| names.into_iter().map(str::to_owned).collect());
        let mut headings = match &labels {
            Some(labels) => labels.iter().map(|name| heading(name)).collect(),
            None => vec!["SERIES".to_owned()],
        };
        headings.extend(more.iter().map(|name| (*name).to_owned()));
        Self { labels, table: Table::new(&headings.iter().map(String::as_str).collect::<Vec<_>>()) }
    }

    fn row(&mut self, series: &Value, more: Vec<String>) {
        let mut row = match &self.labels {
            Some(labels) => labels
                .iter()
                .map(|name| series["metric"][name.as_str()].as_str().unwrap_or_default().to_owned())
                .collect(),
            None => vec![name(&series["metric"])],
        };
        row.extend(more);
        self.table.row(row);
    }

    fn render(&self) -> String {
        self.table.render()
    }
}

fn heading(label: &str) -> String {
    if label == "__name__" { "METRIC".to_owned() } else { label.to_uppercase() }
}

/// A series as PromQL writes it.
fn name(metric: &Value) -> String {
    let labels = metric.as_object().into_iter().flatten().filter(|(name, _)| *name != "__name__");
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}={value}")).collect();
    format!("{}{{{}}}", metric["__name__"].as_str().unwrap_or_default(), labels.join(","))
}

fn summary(numbers: &[f64]) -> Vec<String> {
    let Some(last) = numbers.last() else { return vec!["-".into(); 5] };
    let min = numbers.iter().copied().fold(f64::NAN, f64::min);
    let max = numbers.iter().copied().fold(f64::NAN, f64::max);
    let average = numbers.iter().sum::<f64>() / numbers.len() as f64;
    let mut row: Vec<String> = [min, average, max, *last].into_iter().map(short).collect();
    row.push(trend(numbers, min, max));
    row
}

/// Four significant digits.
fn short(number: f64) -> String {
    if !number.is_finite() || number == 0.0 || number.fract() == 0.0 && number.abs() < 1e15 {
        return number.to_string();
    }
    let digits = number.abs().log10().floor();
    if !(-5.0..15.0).contains(&digits) {
        return format!("{number:.3e}");
    }
    let decimals = (3.0 - digits).max(0.0) as usize;
    format!("{number:.decimals$}")
}

/// A small chart in one line.
fn trend(numbers: &[f64], min: f64, max: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let part = numbers.len().div_ceil(TREND).max(1);
    let bar = |part: &[f64]| {
        let average = part.iter().sum::<f64>() / part.len() as f64;
        let height = if max > min { (average - min) / (max - min) } else { 0.0 };
        // A value that is no number has no height.
        BARS.get((height * 7.0).round() as usize).copied().unwrap_or(' ')
    };
    numbers.chunks(part).map(bar).collect()
}

fn points(series: &[Value]) -> String {
    let mut table = Labelled::new(series, &["TIME", "VALUE"]);
    for one in series {
        for point in one["values"].as_array().into_iter().flatten() {
            let at = point[0].as_f64().unwrap_or_default();
            let at = Timestamp::from_unix(at.floor() as i64, (at.fract() * 1e9) as i32);
            table.row(one, vec![at.truncated().to_string(), value(point)]);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_empty_query_is_refused_with_an_example() {
        assert!(asks("up").is_ok());
        assert!(asks(" ").unwrap_err().hint().contains("such as 'up'"));
    }

    fn check(data: Value, wide: bool, wanted: &str) {
        let shown = render(&data, wide);
        assert_eq!(shown, wanted, "\n{shown}");
    }

    #[test]
    fn answers_become_tables() {
        let metric = json!({"__name__": "up", "job": "a"});
        check(
            json!({"resultType": "vector", "result": [{"metric": metric, "value": [1.5, "1"]}]}),
            false,
            "METRIC   JOB   VALUE\nup       a     1\n",
        );
        check(json!({"resultType": "vector", "result": []}), false, "no data\n");
        check(json!({"resultType": "scalar", "result": [1, "42"]}), false, "42\n");
        let values = json!([[0, "0"], [15, "1"], [30, "3"]]);
        let matrix = json!({"resultType": "matrix", "result": [{"metric": {"job": "a"}, "values": values}]});
        check(
            matrix.clone(),
            false,
            "JOB   MIN   AVG     MAX   LAST   TREND\na     0     1.333   3     3      ▁▃█\n",
        );
        let long = "JOB   TIME                   VALUE\n\
                    a     1970-01-01T00:00:00Z   0\n\
                    a     1970-01-01T00:00:15Z   1\n\
                    a     1970-01-01T00:00:30Z   3\n";
        check(matrix, true, long);
        let many: serde_json::Map<String, Value> = ('a'..='g').map(|c| (c.to_string(), json!("1"))).collect();
        check(
            json!({"resultType": "vector", "result": [{"metric": many, "value": [0, "7"]}]}),
            false,
            "SERIES                                        VALUE\n{a=\"1\",b=\"1\",c=\"1\",d=\"1\",e=\"1\",f=\"1\",g=\"1\"}   7\n",
        );
    }

    #[test]
    fn a_refused_query_shows_the_place() {
        let refused = |message: &str| Refused { status: 400, message: message.to_owned() };
        let check = |message: &str, query: &str, hint: Option<&str>| {
            let error = pointed(refused(message).into(), query);
            assert_eq!(error.downcast_ref::<Hinted>().map(Hinted::hint), hint, "{message}");
        };
        let message = "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis";
        check(message, "sum(", Some("look at the mark in: sum(⏵"));
        check("1:2: parse error: x", "ü{", Some("look at the mark in: ü⏵{"));
        check("9:9: parse error: x", "a", None);
        check("too many samples", "a", None);
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in
            [(0.0, "0"), (3.0, "3"), (1.23456, "1.235"), (0.000123456, "0.0001235"), (123456.7, "123457")]
        {
            assert_eq!(short(number), text);
        }
        assert_eq!(short(f64::NAN), "NaN");
        assert_eq!(trend(&[f64::NAN], f64::NAN, f64::NAN), "▁");
    }
}
