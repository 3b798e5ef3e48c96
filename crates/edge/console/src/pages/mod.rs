//! The pages, one function each: objects in, HTML out.

mod delivery;
mod pipelines;
mod services;
mod workloads;

use serde_json::Value;
use wharf_client::Object;

use crate::{
    Inner, LogTarget,
    html::{E, at, badge, encoded, items, number, page, table, time},
};

/// Lines of a log shown at first.
pub(crate) const LOG_LINES: usize = 500;

/// The page of a path, if there is one.
pub(crate) async fn page_at(console: &Inner, path: &[&str]) -> Option<String> {
    match path {
        [""] => Some(overview(console)),
        ["runs"] => Some(pipelines::list(console)),
        ["runs", namespace, name] => pipelines::one(console, namespace, name).await,
        ["rollouts"] => Some(delivery::list(console)),
        ["rollouts", namespace, name] => delivery::one(console, namespace, name),
        ["services"] => Some(services::list(console)),
        ["services", namespace, name] => services::one(console, namespace, name).await,
        ["pods"] => Some(workloads::pods(console)),
        ["pods", namespace, name] => workloads::pod(console, namespace, name).await,
        ["nodes"] => Some(workloads::nodes(console)),
        _ => None,
    }
}

/// The page of a path nothing is at.
pub(crate) fn missing(path: &str) -> String {
    let live = format!(
        "<p>There is nothing at <code>{}</code>. It may be gone; the sections above lead on.</p>",
        E(path)
    );
    page("-", "Not found", "", &live, "")
}

fn list_of(console: &Inner, kind: &str) -> Vec<Object> {
    console.informers.get(kind).map(|informer| informer.list()).unwrap_or_default()
}

fn find(console: &Inner, kind: &str, namespace: &str, name: &str) -> Option<Object> {
    console.informers.get(kind)?.get(&format!("{namespace}/{name}"))
}

/// A link to an object's page.
fn link(section: &str, object: &Value) -> String {
    let (namespace, name) = (at(object, "/metadata/namespace"), at(object, "/metadata/name"));
    format!("<a href=\"/{section}/{}/{}\">{}</a>", encoded(namespace), encoded(name), E(name))
}

fn namespace_of(object: &Value) -> String {
    E(at(object, "/metadata/namespace")).to_string()
}

fn created(object: &Value) -> String {
    time(at(object, "/metadata/creationTimestamp"))
}

/// Newest first.
fn newest(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by(|a, b| {
        // Runs of one second are told apart by their number.
        let when = |object: &Object| {
            (at(object, "/metadata/creationTimestamp").to_owned(), number(object, "/spec/number"))
        };
        when(b).cmp(&when(a))
    });
    objects
}

/// A log: its last lines, and where the script gets those that follow.
async fn log(console: &Inner, title: &str, address: &str, target: LogTarget) -> String {
    let (class, text) = match console.logs.tail(target, LOG_LINES).await {
        Ok(lines) => ("log", lines.join("\n")),
        Err(why) => ("log none", why),
    };
    format!(
        "<section><h2>{0}</h2><pre class=\"{class}\" tabindex=\"0\" aria-label=\"{0}\" data-stream=\"{1}\">{2}\n</pre></section>",
        E(title),
        E(address),
        E(text)
    )
}

fn overview(console: &Inner) -> String {
    let pods = list_of(console, "pods");
    let running = pods.iter().filter(|pod| workloads::state(pod) == "Running").count();
    let nodes = list_of(console, "nodes");
    let ready = nodes.iter().filter(|node| workloads::node_state(node) == "Ready").count();
    let rollouts = list_of(console, "rollouts");
    let healthy = rollouts.iter().filter(|rollout| delivery::phase(rollout) == "Healthy").count();
    let runs = newest(list_of(console, "runs"));
    let going = runs.iter().filter(|run| matches!(at(run, "/status/phase"), "Running" | "Pending")).count();
    let card = |href: &str, name: &str, value: String, what: &str| {
        format!(
            "<a class=\"card\" href=\"/{href}\"><span>{name}</span><b>{value}</b><small>{what}</small></a>"
        )
    };
    let cards = [
        card("runs", "Pipelines", going.to_string(), "running"),
        card("rollouts", "Rollouts", format!("{healthy}/{}", rollouts.len()), "healthy"),
        card("services", "Services", list_of(console, "services").len().to_string(), "known"),
        card("pods", "Pods", format!("{running}/{}", pods.len()), "running"),
        card("nodes", "Nodes", format!("{ready}/{}", nodes.len()), "ready"),
    ];
    let troubled: Vec<_> = pods.iter().filter(|pod| workloads::troubled(pod)).map(workloads::row).collect();
    let recent: Vec<_> = runs.iter().take(8).map(|run| pipelines::row(run)).collect();
    let live = format!(
        "<div class=\"cards\">{}</div><section><h2>Needs a look</h2>{}</section>\
         <section><h2>Rollouts</h2>{}</section><section><h2>Latest pipelines</h2>{}</section>",
        cards.concat(),
        table("Pods in trouble", workloads::POD_HEADS, &troubled, "Every pod is well."),
        delivery::table_of(&rollouts),
        table("Latest pipelines", pipelines::HEADS, &recent, "Nothing has been pushed yet."),
    );
    page("", "Overview", "pods,nodes,rollouts,runs,services", &live, "")
}
