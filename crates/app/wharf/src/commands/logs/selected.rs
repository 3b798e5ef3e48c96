//! `wharf logs -l`: what the containers of many pods have said, out of the platform's log store.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;
use wharf_base::{Hinted, Timestamp};
use wharf_client::{Client, ListParams};
use wharf_control::action::PODS;

use crate::commands::{
    Globals,
    console::Console,
    platform::{client_of, run, text},
};

/// Looked back over when nobody says since when.
pub(super) const BACK: Duration = Duration::from_secs(3600);
/// Lines asked for at once.
const PAGE: usize = 5000;
/// How often a followed log is asked for.
const LOOK: Duration = Duration::from_millis(500);
/// Lines may come this late into the store and are still shown when followed.
const LATE: i64 = 5_000_000_000;
/// Labels of log lines. Others are labels of pods.
const LABELS: [&str; 6] = ["namespace", "pod", "container", "service", "version", "node"];

/// What is wanted of the log store.
pub(super) struct Wanted {
    pub(super) selector: String,
    pub(super) namespace: Option<String>,
    pub(super) grep: Option<String>,
    pub(super) since: Timestamp,
    pub(super) tail: Option<usize>,
    pub(super) follow: bool,
    pub(super) timestamps: bool,
}

/// A selector in two parts.
#[derive(Debug, Default, PartialEq)]
struct Parts {
    /// Conditions on the labels of lines, in LogQL.
    lines: Vec<String>,
    /// A selector of pods by their own labels.
    pods: Vec<String>,
}

/// Namespace and name of the pods whose own labels fit.
type Pods = BTreeSet<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Line {
    at: i64,
    labels: BTreeMap<String, String>,
    text: String,
}

impl Wanted {
    pub(super) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        run(async {
            let mut parts = split(&self.selector)?;
            if let Some(namespace) = &self.namespace {
                parts.lines.push(format!("namespace={}", quote(namespace)));
            }
            let console = Console::of(globals)?;
            let client = match parts.pods.is_empty() {
                true => None,
                false => Some(client_of(&globals.data_dir()?).await?),
            };
            let source = Source { wanted: &self, parts, console, client };
            match source.show().await {
                Err(error) if super::is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
                other => other.map(|()| ExitCode::SUCCESS),
            }
        })
    }
}

struct Source<'a> {
    wanted: &'a Wanted,
    parts: Parts,
    console: Console,
    client: Option<Client>,
}

impl Source<'_> {
    async fn show(&self) -> anyhow::Result<()> {
        let since = nanos(self.wanted.since);
        let mut seen: HashSet<Line> = HashSet::new();
        let (mut start, mut last) = (since, since);
        if let Some(tail) = self.wanted.tail {
            let lines =
                if tail == 0 { Vec::new() } else { self.ask(since, "backward", tail.min(50_000)).await? };
            last = lines.last().map_or(last, |line| line.at);
            self.print(&lines)?;
            seen.extend(lines);
            start = if tail == 0 { nanos(wharf_base::Clock::now(&wharf_base::SystemClock)) } else { last };
            if !self.wanted.follow {
                return Ok(());
            }
        }
        loop {
            let lines = self.ask(start, "forward", PAGE).await?;
            let full = lines.len() >= PAGE;
            let newest = lines.last().map_or(start, |line| line.at);
            let fresh: Vec<Line> = lines.into_iter().filter(|line| !seen.contains(line)).collect();
            self.print(&fresh)?;
            last = last.max(newest);
            seen.extend(fresh);
            if full {
                // More lines at one time than a page holds cannot be asked for.
                start = if newest > start { newest } else { start + 1 };
            } else if self.wanted.follow {
                seen.retain(|line| line.at >= last - 2 * LATE);
                start = start.max(last - LATE);
                tokio::time::sleep(LOOK).await;
            } else {
                return Ok(());
            }
        }
    }

    /// Lines in the order they were said.
    async fn ask(&self, start: i64, direction: &str, limit: usize) -> anyhow::Result<Vec<Line>> {
        let pods = self.pods().await?;
        if let (Some(pods), false) = (&pods, self.wanted.follow)
            && pods.is_empty()
        {
            let error = format!("no pod has the labels {}", self.parts.pods.join(","));
            let hint = format!(
                "'kubectl get pods -A --show-labels' lists pods with their labels; log lines know {}",
                LABELS.join(", ")
            );
            return Err(Hinted::new(error, hint).into());
        }
        let Some(query) = logql(&self.parts.lines, pods.as_ref(), self.wanted.grep.as_deref()) else {
            return Ok(Vec::new());
        };
        let (start, limit) = (start.to_string(), limit.to_string());
        // A little into the future: clocks of containers' nodes differ.
        let end = nanos(wharf_base::Clock::now(&wharf_base::SystemClock)).saturating_add(LATE).to_string();
        let query = [
            ("query", query.as_str()),
            ("start", &start),
            ("end", &end),
            ("direction", direction),
            ("limit", &limit),
        ];
        let answer = self.console.get("/loki/loki/api/v1/query_range", &query).await?;
        let mut lines = read(&answer);
        // Pods of one name in several namespaces are told apart here.
        if let Some(pods) = pods {
            lines.retain(|line| {
                let label = |name: &str| line.labels.get(name).cloned().unwrap_or_default();
                pods.contains(&(label("namespace"), label("pod")))
            });
        }
        Ok(lines)
    }

    async fn pods(&self) -> anyhow::Result<Option<Pods>> {
        let Some(client) = &self.client else { return Ok(None) };
        let params = ListParams {
            namespace: self.wanted.namespace.clone().unwrap_or_default(),
            labels: self.parts.pods.join(","),
            ..ListParams::default()
        };
        let list = client.list(&PODS, &params).await?.items;
        let name = |pod: &Value| {
            (text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned())
        };
        Ok(Some(list.iter().map(name).collect()))
    }

    fn print(&self, lines: &[Line]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for line in lines {
            if self.wanted.timestamps {
                let at = Timestamp::from_unix(
                    line.at.div_euclid(1_000_000_000),
                    line.at.rem_euclid(1_000_000_000) as i32,
                );
                write!(out, "{} ", at.to_nano())?;
            }
            writeln!(
                out,
                "{} | {}",
                line.origin(self.wanted.namespace.is_none()),
                line.text.trim_end_matches('\n')
            )?;
        }
        out.flush()
    }
}

impl Line {
    /// Who said it.
    fn origin(&self, with_namespace: bool) -> String {
        let names = ["namespace", "pod", "container"].into_iter().skip(usize::from(!with_namespace));
        let names: Vec<&str> = names
            .filter_map(|name| self.labels.get(name))
            .map(String::as_str)
            .filter(|n| !n.is_empty())
            .collect();
        match (self.labels.contains_key("pod"), self.labels.get("service")) {
            // Lines that came over OTLP have a service and perhaps no pod.
            (false, Some(service)) => service.clone(),
            _ => names.join("/"),
        }
    }
}

fn nanos(time: Timestamp) -> i64 {
    time.as_second().saturating_mul(1_000_000_000).saturating_add(i64::from(time.subsec_nanos()))
}

fn read(answer: &Value) -> Vec<Line> {
    let mut lines = Vec::new();
    for stream in answer["data"]["result"].as_array().into_iter().flatten() {
        let labels: BTreeMap<String, String> = wharf_control::read(&stream["stream"]).unwrap_or_default();
        for entry in stream["values"].as_array().into_iter().flatten() {
            let (Some(at), Some(text)) =
                (entry[0].as_str().and_then(|at| at.parse().ok()), entry[1].as_str())
            else {
                continue;
            };
            lines.push(Line { at, labels: labels.clone(), text: text.to_owned() });
        }
    }
    // Stable: lines of one stream at one time stay in order.
    lines.sort_by_key(|line| line.at);
    lines
}

/// The query; nothing when no pod is wanted.
fn logql(lines: &[String], pods: Option<&Pods>, grep: Option<&str>) -> Option<String> {
    let mut conditions = lines.to_vec();
    if let Some(pods) = pods {
        if pods.is_empty() {
            return None;
        }
        let names: BTreeSet<&str> = pods.iter().map(|(_, name)| name.as_str()).collect();
        conditions.push(format!("pod=~{}", quote(&any(names))));
    }
    let filter = grep.map_or(String::new(), |wanted| format!(" |= {}", quote(wanted)));
    Some(format!("{{{}}}{filter}", conditions.join(",")))
}

/// A text in quotes.
fn quote(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    format!("\"{escaped}\"")
}

/// A regular expression of exactly these texts.
fn any<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let literal = |text: &str| -> String {
        let special = |c: char| !(c.is_alphanumeric() || matches!(c, '-' | '_' | '/' | ':' | ' '));
        text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
    };
    texts.into_iter().map(literal).collect::<Vec<_>>().join("|")
}

/// Takes a label selector apart.
fn split(selector: &str) -> Result<Parts, Hinted> {
    let mut parts = Parts::default();
    for term in terms(selector) {
        let Some((label, condition)) = condition(&term) else {
            return Err(Hinted::new(
                format!("-l {selector}: {term:?} is no condition on a label"),
                "write app=shop, pod!=a, service in (a,b), version notin (a), app or !app, with commas between",
            ));
        };
        match LABELS.contains(&label.as_str()) {
            true => parts.lines.push(format!("{label}{condition}")),
            false => parts.pods.push(term),
        }
    }
    Ok(parts)
}

/// Parts between commas that are not in parentheses.
fn terms(selector: &str) -> Vec<String> {
    let mut terms = vec![String::new()];
    let mut inside = false;
    for c in selector.chars() {
        match c {
            ',' if !inside => terms.push(String::new()),
            c => {
                inside = c == '(' || inside && c != ')';
                if let Some(term) = terms.last_mut() {
                    term.push(c);
                }
            }
        }
    }
    let trimmed = terms.iter().map(|term| term.trim().to_owned());
    trimmed.filter(|term| !term.is_empty()).collect()
}

/// The label of a term, and its condition in LogQL.
fn condition(term: &str) -> Option<(String, String)> {
    let label = |text: &str| {
        let text = text.trim();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
    };
    let set = |text: &str| {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(quote(&any(inner.split(',').map(str::trim))))
    };
    if let Some((name, value)) = term.split_once("!=") {
        return Some((label(name)?, format!("!={}", quote(value.trim()))));
    }
    if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some((label(name)?, format!("={}", quote(value.trim()))));
    }
    if let Some((name, values)) = term.split_once(" notin ").or_else(|| term.split_once(" notin(")) {
        return Some((label(name)?, format!("!~{}", set(&opened(values))?)));
    }
    if let Some((name, values)) = term.split_once(" in ").or_else(|| term.split_once(" in(")) {
        return Some((label(name)?, format!("=~{}", set(&opened(values))?)));
    }
    match term.strip_prefix('!') {
        Some(name) => Some((label(name)?, "=\"\"".to_owned())),
        None => Some((label(term)?, "=~\".+\"".to_owned())),
    }
}

/// Values with the parenthesis that may have been split off.
fn opened(values: &str) -> String {
    let values = values.trim();
    if values.starts_with('(') { values.to_owned() } else { format!("({values}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, lines: &[&str], pods: &[&str]) {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let wanted = Parts { lines: owned(lines), pods: owned(pods) };
        assert_eq!(split(selector).unwrap(), wanted, "{selector}");
    }

    #[test]
    fn selectors_become_conditions_on_lines_or_pods() {
        check("service=shop", &[r#"service="shop""#], &[]);
        check("app=shop, version != a", &[r#"version!="a""#], &["app=shop"]);
        check("pod in (a-1, b.2),tier notin(x)", &[r#"pod=~"a-1|b\\.2""#], &["tier notin(x)"]);
        check(
            "container==main,!node,version",
            &[r#"container="main""#, r#"node="""#, r#"version=~".+""#],
            &[],
        );
        check("app.kubernetes.io/name=x,tier", &[], &["app.kubernetes.io/name=x", "tier"]);
        check("", &[], &[]);
        for bad in ["a b", "=x", "pod in a", "{x}"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries_are_log_ql() {
        let lines = split("service=shop").unwrap().lines;
        assert_eq!(logql(&lines, None, Some("say \"no\"")).unwrap(), r#"{service="shop"} |= "say \"no\"""#);
        let pods: Pods =
            [("a".into(), "x-1".into()), ("b".into(), "x-1".into()), ("b".into(), "y".into())].into();
        assert_eq!(logql(&[], Some(&pods), None).unwrap(), r#"{pod=~"x-1|y"}"#);
        assert_eq!(logql(&lines, Some(&Pods::new()), None), None);
    }

    #[test]
    fn lines_of_several_streams_are_merged_by_time() {
        let answer = serde_json::json!({"data": {"result": [
            {"stream": {"namespace": "n", "pod": "a", "container": "c"}, "values": [["3", "last"], ["1", "first"]]},
            {"stream": {"service": "s"}, "values": [["2", "middle"]]}]}});
        let lines = read(&answer);
        let shown: Vec<(String, &str)> = lines.iter().map(|l| (l.origin(true), l.text.as_str())).collect();
        let wanted = [("n/a/c", "first"), ("s", "middle"), ("n/a/c", "last")];
        assert_eq!(shown, wanted.map(|(origin, text)| (origin.to_owned(), text)));
        assert_eq!(lines[0].origin(false), "a/c");
    }
}
