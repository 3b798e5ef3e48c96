//! `wharf top`: what nodes and pods use now.

use std::process::ExitCode;

use serde_json::Value;
use wharf_base::{Hinted, Quantity};
use wharf_client::{Client, Gvr, ListParams};
use wharf_control::action::NODES;

use super::{
    Globals,
    platform::{Form, Table, connect, say, text},
};

const NODE_METRICS: Gvr = Gvr::fixed("metrics.k8s.io", "v1beta1", "nodes");
const POD_METRICS: Gvr = Gvr::fixed("metrics.k8s.io", "v1beta1", "pods");

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Of what; nodes and the pods of all namespaces when absent
    #[arg(value_enum)]
    what: Option<What>,
    /// Pods of this namespace
    #[arg(short, long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only with these labels
    #[arg(short = 'l', long, default_value = "")]
    selector: String,
    /// A row for each container
    #[arg(long)]
    containers: bool,
    /// Another form of output; wide shows when it was measured
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum What {
    #[value(aliases = ["node", "no"])]
    Nodes,
    #[value(aliases = ["pod", "po"])]
    Pods,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        connect(globals, async |client| {
            let mut objects = Vec::new();
            let mut tables = Vec::new();
            if self.what != Some(What::Pods) {
                let metrics = list(&client, &NODE_METRICS, "", &self.selector).await?;
                let nodes = client.list(&NODES, &ListParams::default()).await?.items;
                tables.push(match metrics.is_empty() {
                    true => "no nodes with known usage\n".to_owned(),
                    false => self.nodes(&metrics, &nodes).render(),
                });
                objects.extend(metrics);
            }
            if self.what != Some(What::Nodes) {
                let all = self.all_namespaces || self.what.is_none();
                let namespace = match &self.namespace {
                    Some(namespace) => namespace,
                    None if all => "",
                    None => "default",
                };
                let metrics = list(&client, &POD_METRICS, namespace, &self.selector).await?;
                tables.push(match metrics.is_empty() {
                    true => "no pods with known usage\n".to_owned(),
                    false => self.pods(&metrics, namespace.is_empty()).render(),
                });
                objects.extend(metrics);
            }
            match self.output {
                Some(form @ (Form::Json | Form::Yaml)) => form.print(&objects)?,
                _ => say(&tables.join("\n")),
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    fn nodes(&self, metrics: &[Value], nodes: &[Value]) -> Table {
        let mut headings = vec!["NAME", "CPU(cores)", "CPU%", "MEMORY(bytes)", "MEMORY%"];
        headings.extend(self.more());
        let mut table = Table::new(&headings);
        for object in metrics {
            let name = text(object, "/metadata/name");
            let node = nodes.iter().find(|node| text(node, "/metadata/name") == name);
            let (cpu, memory) = usage(object);
            let share = |used: Quantity, what: &str| {
                let whole = node.map(|node| amount(&node["status"]["allocatable"], what).as_f64());
                let whole = whole.filter(|whole| *whole > 0.0);
                whole.map_or("-".to_owned(), |whole| format!("{:.0}%", used.as_f64() * 100.0 / whole))
            };
            let mut row =
                vec![name.to_owned(), cores(cpu), share(cpu, "cpu"), bytes(memory), share(memory, "memory")];
            row.extend(self.when(object));
            table.row(row);
        }
        table
    }

    fn pods(&self, metrics: &[Value], all: bool) -> Table {
        let mut headings = vec!["NAME", "CPU(cores)", "MEMORY(bytes)"];
        if self.containers {
            headings.splice(0..1, ["POD", "NAME"]);
        }
        if all {
            headings.insert(0, "NAMESPACE");
        }
        headings.extend(self.more());
        let mut table = Table::new(&headings);
        for object in metrics {
            let containers: Vec<&Value> = object["containers"].as_array().into_iter().flatten().collect();
            let mut start = vec![text(object, "/metadata/name").to_owned()];
            if all {
                start.insert(0, text(object, "/metadata/namespace").to_owned());
            }
            let mut row = |name: Option<&str>, (cpu, memory): (Quantity, Quantity)| {
                let mut row = start.clone();
                row.extend(name.map(str::to_owned));
                row.extend([cores(cpu), bytes(memory)]);
                row.extend(self.when(object));
                table.row(row);
            };
            if self.containers {
                containers.iter().for_each(|container| row(Some(text(container, "/name")), usage(container)));
            } else {
                let add = |sum: (Quantity, Quantity), container: &&Value| {
                    let (cpu, memory) = usage(container);
                    (sum.0.plus(cpu), sum.1.plus(memory))
                };
                row(None, containers.iter().fold((Quantity::ZERO, Quantity::ZERO), add));
            }
        }
        table
    }

    fn more(&self) -> &'static [&'static str] {
        if self.output == Some(Form::Wide) { &["MEASURED", "WINDOW"] } else { &[] }
    }

    fn when(&self, object: &Value) -> Vec<String> {
        let fields = if self.output == Some(Form::Wide) { &["/timestamp", "/window"][..] } else { &[] };
        fields.iter().map(|field| text(object, field).to_owned()).collect()
    }
}

async fn list(
    client: &Client,
    resource: &Gvr,
    namespace: &str,
    labels: &str,
) -> Result<Vec<Value>, anyhow::Error> {
    let params = ListParams { labels: labels.to_owned(), ..ListParams::namespace(namespace) };
    match client.list(resource, &params).await {
        Ok(list) => Ok(list.items),
        Err(error) if error.is_not_found() => Err(Hinted::new(
            "the platform does not know what nodes and pods use",
            "usage is measured on the platform's own machine; another cluster needs a metrics server",
        )
        .into()),
        Err(error) => Err(error.into()),
    }
}

fn usage(object: &Value) -> (Quantity, Quantity) {
    (amount(&object["usage"], "cpu"), amount(&object["usage"], "memory"))
}

fn amount(amounts: &Value, name: &str) -> Quantity {
    amounts[name].as_str().and_then(|text| text.parse().ok()).unwrap_or(Quantity::ZERO)
}

fn cores(cpu: Quantity) -> String {
    format!("{}m", cpu.milli())
}

fn bytes(memory: Quantity) -> String {
    format!("{}Mi", memory.units() >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn args(output: Option<Form>, containers: bool) -> Args {
        let what = Some(What::Pods);
        Args { what, namespace: None, all_namespaces: false, selector: String::new(), containers, output }
    }

    #[test]
    fn usage_is_shown_as_kubectl_does() {
        let node = json!({"metadata": {"name": "n"}, "usage": {"cpu": "250m", "memory": "512Mi"},
            "timestamp": "2026-01-01T00:00:00Z", "window": "15s"});
        let known =
            json!({"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "2", "memory": "2Gi"}}});
        assert_eq!(
            args(Some(Form::Wide), false).nodes(std::slice::from_ref(&node), &[known]).render(),
            "NAME   CPU(cores)   CPU%   MEMORY(bytes)   MEMORY%   MEASURED               WINDOW\n\
             n      250m         12%    512Mi           25%       2026-01-01T00:00:00Z   15s\n"
        );
        assert!(args(None, false).nodes(&[node], &[]).render().contains("250m         -"));
        let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "containers": [
            {"name": "a", "usage": {"cpu": "1500001n", "memory": "1Mi"}},
            {"name": "b", "usage": {"cpu": "1m", "memory": "2097152"}}]});
        assert_eq!(
            args(None, false).pods(std::slice::from_ref(&pod), true).render(),
            "NAMESPACE   NAME   CPU(cores)   MEMORY(bytes)\nd           p      3m           3Mi\n"
        );
        assert_eq!(
            args(None, true).pods(&[pod], false).render(),
            "POD   NAME   CPU(cores)   MEMORY(bytes)\np     a      2m           1Mi\np     b      1m           2Mi\n"
        );
    }
}
