//! WorkflowRuns.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    E, at, badge, created, encoded, find, items, link, list_of, log, newest, number, page, table, time,
};
use crate::{Inner, LogTarget};

pub(super) const HEADS: &[&str] = &["Run", "Phase", "Repository", "Workflow", "Ref", "Commit", "Started"];

pub(super) fn row(run: &Value) -> Vec<String> {
    let sha: String = at(run, "/spec/sha").chars().take(8).collect();
    let workflow = match at(run, "/status/workflowName") {
        "" => at(run, "/spec/workflow"),
        name => name,
    };
    vec![
        link("runs", run),
        badge(phase(run)),
        E(at(run, "/spec/repository")).to_string(),
        E(workflow).to_string(),
        E(at(run, "/spec/ref").trim_start_matches("refs/heads/")).to_string(),
        format!("<code>{}</code> {}", E(sha), E(at(run, "/status/title"))),
        created(run),
    ]
}

fn phase(run: &Value) -> &str {
    match at(run, "/status/phase") {
        "" => "Pending",
        phase => phase,
    }
}

pub(super) fn list(console: &Inner) -> String {
    let rows: Vec<_> = newest(list_of(console, "runs")).iter().map(|run| row(run)).collect();
    let none = "No pipeline has run yet. Push to a repository: <code>git push http://127.0.0.1:7070/git/NAME.git main</code>";
    page("runs", "Pipelines", "runs", &table("Pipelines", HEADS, &rows, none), "")
}

/// What became of a job or a step: its conclusion, else its state.
fn result(part: &Value) -> &str {
    match at(part, "/conclusion") {
        "" => at(part, "/status"),
        conclusion => conclusion,
    }
}

fn span(part: &Value) -> String {
    let (from, to) = (at(part, "/startedAt"), at(part, "/completedAt"));
    if from.is_empty() {
        return String::new();
    }
    let to = if to.is_empty() { String::new() } else { format!(" data-to=\"{}\"", E(to)) };
    format!("<time class=\"span\" datetime=\"{0}\"{to}>{0}</time>", E(from))
}

fn job(job: &Value) -> String {
    let name = match at(job, "/name") {
        "" => at(job, "/key"),
        name => name,
    };
    let open = if matches!(result(job), "failure" | "in_progress") { " open" } else { "" };
    let mut out = format!(
        "<details class=\"job\" id=\"job-{}\"{open}><summary>{} <b>{}</b> {}</summary>",
        encoded(at(job, "/key")),
        badge(result(job)),
        E(name),
        span(job)
    );
    if !at(job, "/message").is_empty() {
        let _ = write!(out, "<p>{}</p>", E(at(job, "/message")));
    }
    for note in items(job, "/annotations") {
        let place = match at(note, "/file") {
            "" => String::new(),
            file => format!("<code>{}:{}</code> ", E(file), E(at(note, "/line"))),
        };
        let _ = write!(
            out,
            "<p class=\"note\">{} {place}{}</p>",
            badge(at(note, "/level")),
            E(at(note, "/message"))
        );
    }
    out.push_str("<ol class=\"steps\">");
    for step in items(job, "/steps") {
        let _ = write!(out, "<li>{} {} {}</li>", badge(result(step)), E(at(step, "/name")), span(step));
    }
    out + "</ol></details>"
}

pub(super) async fn one(console: &Inner, namespace: &str, name: &str) -> Option<String> {
    let run = find(console, "runs", namespace, name)?;
    let (jobs, number) = (items(&run, "/status/jobs"), number(&run, "/spec/number"));
    let head = format!(
        "<dl class=\"facts\"><dt>Phase</dt><dd>{}</dd><dt>Run</dt><dd>{number}</dd><dt>Repository</dt><dd>{}</dd>\
         <dt>Ref</dt><dd>{}</dd><dt>Commit</dt><dd><code>{}</code> {}</dd><dt>By</dt><dd>{}</dd><dt>Started</dt><dd>{}</dd></dl>",
        badge(phase(&run)),
        E(at(&run, "/spec/repository")),
        E(at(&run, "/spec/ref")),
        E(at(&run, "/spec/sha")),
        E(at(&run, "/status/title")),
        E(at(&run, "/spec/actor")),
        time(at(&run, "/status/startedAt")),
    );
    let message = match at(&run, "/status/message") {
        "" => String::new(),
        message => format!("<p class=\"note\">{}</p>", E(message)),
    };
    let shown: String = jobs.iter().map(job).collect();
    let live = format!("{head}{message}<section><h2>Jobs</h2>{shown}</section>");
    let mut still = String::new();
    for job in jobs.iter().filter(|job| !matches!(result(job), "waiting" | "queued" | "skipped")) {
        let key = at(job, "/key");
        let (namespace_, run_) = (namespace.to_owned(), name.to_owned());
        let target = LogTarget::Job { namespace: namespace_, run: run_, job: key.to_owned() };
        let address = format!("/logs/run/{}/{}/{}", encoded(namespace), encoded(name), encoded(key));
        still.push_str(&log(console, &format!("Log of {key}"), &address, target).await);
    }
    Some(page("runs", &format!("Run {name}"), "runs", &live, &still))
}
