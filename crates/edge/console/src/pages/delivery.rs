//! Rollouts and their analyses.

use std::fmt::Write as _;

use serde_json::Value;
use wharf_client::Object;

use super::{E, at, badge, created, find, items, link, list_of, namespace_of, number, page, table};
use crate::Inner;

const HEADS: &[&str] = &["Rollout", "Namespace", "Phase", "Step", "Canary", "Pods", "Created"];

pub(super) fn phase(rollout: &Value) -> &str {
    if rollout.pointer("/status/abort").and_then(Value::as_bool) == Some(true) {
        return "Aborted";
    }
    match at(rollout, "/status/phase") {
        "" => "Progressing",
        phase => phase,
    }
}

fn weight(rollout: &Value) -> Option<i64> {
    rollout.pointer("/status/canary/weights/canary/weight")?.as_i64()
}

fn steps(rollout: &Value) -> &[Value] {
    items(rollout, "/spec/strategy/canary/steps")
}

pub(super) fn table_of(rollouts: &[Object]) -> String {
    let row = |rollout: &Object| {
        let strategy = rollout.pointer("/spec/strategy/blueGreen").map_or("canary", |_| "blue-green");
        let step = match steps(rollout).len() {
            0 => strategy.to_owned(),
            all => format!(
                "{strategy} {}/{all}",
                number(rollout, "/status/currentStepIndex").min(i64::try_from(all).unwrap_or(0))
            ),
        };
        let share = weight(rollout).map_or_else(|| "–".to_owned(), bar);
        let pods =
            format!("{}/{}", number(rollout, "/status/readyReplicas"), number(rollout, "/spec/replicas"));
        vec![
            link("rollouts", rollout),
            namespace_of(rollout),
            badge(phase(rollout)),
            step,
            share,
            pods,
            created(rollout),
        ]
    };
    let rows: Vec<_> = rollouts.iter().map(row).collect();
    table("Rollouts", HEADS, &rows, "No rollout yet. Apply a <code>Rollout</code> to deliver step by step.")
}

fn bar(weight: i64) -> String {
    format!("<meter min=\"0\" max=\"100\" value=\"{0}\">{0} %</meter> {0} %", weight.clamp(0, 100))
}

pub(super) fn list(console: &Inner) -> String {
    page("rollouts", "Rollouts", "rollouts", &table_of(&list_of(console, "rollouts")), "")
}

/// A step in words.
fn words(step: &Value) -> String {
    if let Some(weight) = step.get("setWeight").and_then(Value::as_i64) {
        return format!("Send {weight} % of the requests to the new version");
    }
    if let Some(pause) = step.get("pause") {
        return match pause.get("duration") {
            Some(Value::String(duration)) => format!("Wait {}", E(duration)),
            Some(Value::Number(seconds)) => format!("Wait {seconds} s"),
            _ => "Wait for a promotion".to_owned(),
        };
    }
    if step.get("analysis").is_some() {
        let names: Vec<_> =
            items(step, "/analysis/templates").iter().map(|t| at(t, "/templateName")).collect();
        return format!("Analyse {}", E(names.join(", ")));
    }
    let name = step.as_object().and_then(|step| step.keys().next()).map_or("", String::as_str);
    E(name).to_string()
}

fn analysis(run: &Value) -> String {
    let mut out = format!(
        "<article><h3>{} {}</h3><p>{}</p><ul class=\"steps\">",
        E(at(run, "/metadata/name")),
        badge(at(run, "/status/phase")),
        E(at(run, "/status/message"))
    );
    for metric in items(run, "/status/metricResults") {
        let last = items(metric, "/measurements").last().map_or("", |measurement| at(measurement, "/value"));
        let _ = write!(
            out,
            "<li>{} <b>{}</b> last value <code>{}</code>; good {}, bad {}, undecided {}</li>",
            badge(at(metric, "/phase")),
            E(at(metric, "/name")),
            E(last),
            number(metric, "/successful"),
            number(metric, "/failed"),
            number(metric, "/inconclusive"),
        );
    }
    out + "</ul></article>"
}

pub(super) fn one(console: &Inner, namespace: &str, name: &str) -> Option<String> {
    let rollout = find(console, "rollouts", namespace, name)?;
    let version = |pointer: &str| format!("<code>{}</code>", E(at(&rollout, pointer)));
    let mut live = format!(
        "<dl class=\"facts\"><dt>Phase</dt><dd>{}</dd><dt>Says</dt><dd>{}</dd><dt>Stable</dt><dd>{}</dd><dt>New</dt><dd>{}</dd>\
         <dt>Requests to the new version</dt><dd>{}</dd></dl>",
        badge(phase(&rollout)),
        E(at(&rollout, "/status/message")),
        version("/status/stableRS"),
        version("/status/currentPodHash"),
        weight(&rollout).map_or_else(|| "–".to_owned(), bar),
    );
    let current = number(&rollout, "/status/currentStepIndex");
    // After an abort the steps begin anew with the next version.
    let aborted = phase(&rollout) == "Aborted";
    live.push_str("<section><h2>Steps</h2><ol class=\"steps\">");
    for (at, step) in (0..).zip(steps(&rollout)) {
        let (class, state) = match at.cmp(&current) {
            _ if aborted => ("later", "–"),
            std::cmp::Ordering::Less => ("done", "done"),
            std::cmp::Ordering::Equal => ("now", "now"),
            std::cmp::Ordering::Greater => ("later", "later"),
        };
        let _ = write!(live, "<li class=\"{class}\"><small>{state}</small> {}</li>", words(step));
    }
    live.push_str("</ol></section><section><h2>Analyses</h2>");
    let uid = at(&rollout, "/metadata/uid");
    let runs = list_of(console, "analysisruns");
    let own = |run: &&Object| {
        items(run, "/metadata/ownerReferences")
            .iter()
            .any(|owner| !uid.is_empty() && at(owner, "/uid") == uid)
    };
    let shown: String =
        super::newest(runs.iter().filter(own).cloned().collect()).iter().map(|run| analysis(run)).collect();
    live.push_str(if shown.is_empty() { "<p class=\"none\">No analysis has run.</p>" } else { &shown });
    live.push_str("</section>");
    Some(page("rollouts", &format!("Rollout {name}"), "rollouts,analysisruns", &live, ""))
}
