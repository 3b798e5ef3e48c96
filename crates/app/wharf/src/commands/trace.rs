//! `wharf trace`: one trace as a tree, or a search for traces.

mod tree;

use std::process::ExitCode;

use serde_json::Value;
use wharf_base::{Clock as _, Hinted, SystemClock, Timestamp};

use super::{
    Globals,
    console::{Console, Refused, ask},
    logs::{point, span},
    platform::{Form, Table, print, print_one},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Id of the trace, 32 hexadecimal digits
    #[arg(conflicts_with_all = ["service", "min_duration", "name", "errors"])]
    id: Option<String>,
    /// Search for traces with a span of this service
    #[arg(short, long)]
    service: Option<String>,
    /// Search for traces that took so long at least, such as 100ms
    #[arg(long, value_name = "SPAN")]
    min_duration: Option<String>,
    /// Search for traces with a span of this name
    #[arg(long)]
    name: Option<String>,
    /// Search for traces with errors
    #[arg(long)]
    errors: bool,
    /// Search from this time: 2026-01-02T15:04:05Z, or so long ago, such as 10m
    #[arg(long, default_value = "1h")]
    since: String,
    /// Traces found at the most
    #[arg(long, default_value_t = 20)]
    limit: u16,
    /// Another form of output
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        ask(globals, async |console| {
            match &self.id {
                Some(id) => self.show(&console, id).await?,
                None if self.searches() => self.search(&console).await?,
                None => {
                    let hint = "give its id, or search with --service, --name, --min-duration or --errors";
                    return Err(Hinted::new("which trace is not said", hint).into());
                }
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    fn searches(&self) -> bool {
        self.service.is_some() || self.name.is_some() || self.min_duration.is_some() || self.errors
    }

    async fn show(&self, console: &Console, id: &str) -> anyhow::Result<()> {
        let id = id.trim().to_ascii_lowercase();
        if id.is_empty() || id.len() > 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let error = format!("{id:?} is not a trace id");
            return Err(Hinted::new(
                error,
                "ids have 32 hexadecimal digits; 'wharf trace --service S' finds some",
            )
            .into());
        }
        let trace = console.get(&format!("/tempo/api/traces/{id}"), &[]).await;
        let trace = trace.map_err(|error| match error.downcast_ref::<Refused>() {
            Some(Refused { status: 404, .. }) => Hinted::new(
                format!("there is no trace {id}"),
                "'wharf trace --service S' lists traces; a new one shows up within seconds",
            )
            .into(),
            _ => error,
        })?;
        print_one(self.output, &trace, || tree::render(&id, &trace, self.output == Some(Form::Wide)))
    }

    async fn search(&self, console: &Console) -> anyhow::Result<()> {
        let now = SystemClock.now();
        let start = point("since", &self.since, now)?.as_second().to_string();
        // The API's seconds are whole: what happened in this one counts.
        let end = (now.as_second() + 1).to_string();
        let (limit, tags) = (self.limit.to_string(), self.tags());
        let mut query = vec![("start", start.as_str()), ("end", &end), ("limit", &limit)];
        let duration = match &self.min_duration {
            Some(text) => Some(milliseconds(text)?),
            None => None,
        };
        query.extend(duration.as_deref().map(|duration| ("minDuration", duration)));
        if !tags.is_empty() {
            query.push(("tags", &tags));
        }
        let found = console.get("/tempo/api/search", &query).await?;
        let traces = found["traces"].as_array().map(Vec::as_slice).unwrap_or_default();
        print(self.output, traces, |traces| match traces {
            [] => eprintln!("no traces since {}", self.since),
            traces => table(traces).print(),
        })
    }

    /// As logfmt.
    fn tags(&self) -> String {
        let quoted = |name: &str, value: &String| format!("{name}=\"{}\"", value.replace('"', ""));
        let mut tags: Vec<String> = Vec::new();
        tags.extend(self.service.as_ref().map(|service| quoted("service.name", service)));
        tags.extend(self.name.as_ref().map(|name| quoted("name", name)));
        tags.extend(self.errors.then(|| "status=error".to_owned()));
        tags.join(" ")
    }
}

/// A span in whole milliseconds, as the API reads it.
fn milliseconds(text: &str) -> Result<String, Hinted> {
    match span(text).map(|span| span.as_millis()).filter(|millis| *millis > 0) {
        Some(millis) => Ok(format!("{millis}ms")),
        None => {
            let error = format!("--min-duration {text} is not a span of time");
            Err(Hinted::new(error, "write at least one millisecond: 100ms, 2s, 1m"))
        }
    }
}

fn table(traces: &[Value]) -> Table {
    let mut table = Table::new(&["TRACE ID", "SERVICE", "NAME", "START", "DURATION", "SPANS", "ERRORS"]);
    for trace in traces {
        let text = |name: &str| trace[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| trace[name].as_u64().unwrap_or_default();
        let start: i64 = text("startTimeUnixNano").parse().unwrap_or_default();
        table.row([
            text("traceID"),
            text("rootServiceName"),
            text("rootTraceName"),
            Timestamp::from_unix(start.div_euclid(1_000_000_000), 0).to_string(),
            tree::duration(number("durationMs").saturating_mul(1_000_000)),
            number("spanCount").to_string(),
            number("errorCount").to_string(),
        ]);
    }
    table
}
