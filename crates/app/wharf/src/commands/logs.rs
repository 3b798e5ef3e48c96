//! `wharf logs`: what containers have said.

mod selected;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use wharf_base::{Clock, Hinted, SystemClock, Timestamp};
use wharf_engine::{Container, Engine, LogEntry, LogQuery, LogReader};
use wharf_runtime::Stream;

use super::{
    Globals, completion,
    containers::{self, hinted},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Go on with what is said from now on
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end
    #[arg(long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// With -l as --namespace, else as --tail
    #[arg(short = 'n', value_name = "NAMESPACE|LINES")]
    n: Option<String>,
    /// Only what was said since then: a time such as 2026-01-02T15:04:05Z, or a span such as 10m [default with -l: 1h]
    #[arg(long)]
    since: Option<String>,
    /// Show when each line was said
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines with this text
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// Of all containers of pods with these labels; namespace, pod, container, service, version and node are known too
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "container")]
    selector: Option<String>,
    /// Only of this namespace
    #[arg(long, conflicts_with = "container")]
    namespace: Option<String>,
    /// Name or id of a container
    #[arg(add = completion::any_container())]
    container: Option<String>,
}

/// How often a followed log is looked at. A log that grows is read at once to its end.
const LOOK: Duration = Duration::from_millis(50);

impl Args {
    pub(crate) fn run(mut self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let now = SystemClock.now();
        let since = self.since.as_deref().map(|text| point("since", text, now)).transpose()?;
        let Some(name) = self.container.take() else {
            if self.selector.is_none() && self.namespace.is_none() {
                let hint =
                    "name a container of 'wharf ps -a', or select pods with -l app=shop or --namespace prod";
                return Err(Hinted::new("whose logs is not said", hint).into());
            }
            let tail = lines(&self.tail)?;
            return selected::Wanted {
                selector: self.selector.unwrap_or_default(),
                namespace: self.namespace.or(self.n),
                grep: self.grep,
                since: since.unwrap_or_else(|| now.minus(selected::BACK)),
                tail,
                follow: self.follow,
                timestamps: self.timestamps,
            }
            .run(globals);
        };
        let tail = lines(self.n.as_deref().unwrap_or(&self.tail))?;
        let engine = containers::open(globals)?;
        let container = engine.find(&name).map_err(hinted)?;
        let query = LogQuery { since, until: None, tail, grep: self.grep.take() };
        match self.show(&engine, &container, query) {
            // The reader of the pipe has had enough.
            Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
            other => other.map(|()| ExitCode::SUCCESS),
        }
    }

    fn show(&self, engine: &Engine, container: &Container, query: LogQuery) -> anyhow::Result<()> {
        let mut reader = LogReader::open(&container.log(), query).map_err(hinted)?;
        loop {
            // Asked before reading: what was written before the end is then read after it.
            let over = !self.follow
                || !engine.find(container.id.as_str()).is_ok_and(|container| container.is_running())
                    && !container.dir.has_shim();
            while let Some(entry) = reader.next_entry().map_err(hinted)? {
                self.print(&entry)?;
            }
            io::stdout().flush()?;
            if over {
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }

    fn print(&self, entry: &LogEntry) -> io::Result<()> {
        let mut text = Vec::with_capacity(entry.text.len() + 32);
        if self.timestamps {
            text.extend_from_slice(entry.time.to_nano().as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(&entry.text);
        match entry.stream {
            Stream::Stdout => io::stdout().write_all(&text),
            Stream::Stderr => io::stderr().write_all(&text),
        }
    }
}

/// `--tail`.
fn lines(text: &str) -> anyhow::Result<Option<usize>> {
    match text {
        "all" => Ok(None),
        number => number.parse().map(Some).map_err(|_| {
            Hinted::new(format!("--tail {number} is not a number of lines"), "write a number, or all").into()
        }),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The point in time that an option names: itself, or so long before `now`.
pub(super) fn point(option: &str, text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Some(span) = span(text) {
        return Ok(now.minus(span));
    }
    Err(Hinted::new(
        format!("--{option} {text} is not a time"),
        "write 2026-01-02T15:04:05Z, or a span such as 90s, 10m, 1h30m",
    )
    .into())
}

/// `1h30m`, `90s`, `2d`.
pub(super) fn span(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        let unit_end = rest[end..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| end + at);
        seconds += number
            * match &rest[end..unit_end] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    (!text.is_empty() && seconds.is_finite()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_docker_reads_them() {
        let seconds = |text| span(text).map(|span| span.as_secs_f64());
        assert_eq!(seconds("90s"), Some(90.0));
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds("1.5m"), Some(90.0));
        for bad in ["", "m", "10", "10x", "1e999s"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
