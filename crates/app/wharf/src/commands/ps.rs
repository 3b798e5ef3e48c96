//! `wharf ps`: lists containers.

use std::{collections::BTreeSet, process::ExitCode};

use serde_json::json;
use wharf_base::{Clock, SystemClock};
use wharf_engine::{Container, Engine, MountPoint, MountSource, Publish, words};
use wharf_engineapi::docker;

use super::{
    Globals,
    containers::{self, hinted, platform_runs, tidy},
    formatted::Format,
    platform::{Form, say},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    all: bool,
    /// Show only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Another form of output
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Print by a Go template, as docker takes it: '{{.Names}}', 'table …', or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["output", "quiet"])]
    format: Option<Format>,
}

/// What `--format` may name, with the headings of a table.
const FIELDS: [(&str, &str); 12] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
];

const HEADINGS: [&str; 7] = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let mut found = engine.all().map_err(hinted)?;
        tidy(&engine);
        found.retain(|container| self.all || container.is_running());
        let short = !(self.no_trunc || matches!(self.output, Some(Form::Wide)));
        let view = View { engine: &engine, short, restarts: platform_runs(&engine) };
        if let Some(format) = &self.format {
            let values: Vec<_> = found.iter().map(|container| view.fields(container)).collect();
            say(&format.lines(&FIELDS, &values)?);
            return Ok(ExitCode::SUCCESS);
        }
        match self.output {
            Some(Form::Json) => {
                let all: Vec<_> = found.iter().map(|container| view.facts(container)).collect();
                println!("{}", serde_json::to_string_pretty(&all)?);
            }
            // JSON is YAML.
            Some(Form::Yaml) => found.iter().for_each(|container| println!("- {}", view.facts(container))),
            _ if self.quiet => {
                found.iter().for_each(|c| println!("{}", if short { c.id.short() } else { c.id.as_str() }))
            }
            _ => table(&found.iter().map(|container| view.row(container)).collect::<Vec<_>>()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How containers are shown.
struct View<'a> {
    engine: &'a Engine,
    /// Ids and commands are cut.
    short: bool,
    /// The platform runs, which starts those again that are to be.
    restarts: bool,
}

impl View<'_> {
    /// The values of [`FIELDS`].
    fn fields(&self, container: &Container) -> serde_json::Value {
        let [id, image, command, running_for, status, ports, names] = self.row(container);
        let spec = &container.record.spec;
        let labels: Vec<String> = spec.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let source = |mount: &MountPoint| match &mount.source {
            MountSource::Path { path, .. } => Some(path.display().to_string()),
            MountSource::Volume(name) => Some(name.clone()),
            MountSource::Tmpfs => None,
        };
        let mounts: Vec<String> = spec.mounts.iter().filter_map(source).collect();
        let networks: BTreeSet<&String> = spec.endpoints.keys().chain([&spec.network]).collect();
        let networks: Vec<&str> = networks.into_iter().map(String::as_str).collect();
        json!({
            "ID": id, "Image": image, "Command": command, "CreatedAt": container.status.created_at,
            "RunningFor": running_for, "Status": status, "State": self.state(container).0, "Ports": ports,
            "Names": names, "Labels": labels.join(","), "Mounts": mounts.join(","), "Networks": networks.join(","),
        })
    }

    fn facts(&self, container: &Container) -> serde_json::Value {
        let exit = container.status.exit.as_ref();
        json!({
            "id": container.id, "name": container.name(), "image": container.image(), "command": docker::command(self.engine, container),
            "createdAt": container.status.created_at, "state": self.state(container).0, "ports": ports(container), "status": self.status(container),
            "pid": container.status.pid, "exitCode": exit.map(|exit| exit.code), "oomKilled": exit.is_some_and(|exit| exit.oom_killed),
        })
    }

    /// As docker lists it, and whether it ran out of memory.
    fn status(&self, container: &Container) -> String {
        let exit = container.status.exit.as_ref().filter(|_| !container.is_running());
        let why = if exit.is_some_and(|exit| exit.oom_killed) { " (out of memory)" } else { "" };
        format!("{}{why}", self.state(container).1)
    }

    fn row(&self, container: &Container) -> [String; 7] {
        let mut command = docker::command(self.engine, container).join(" ");
        if self.short && command.chars().count() > 20 {
            command = command.chars().take(19).chain(['…']).collect();
        }
        let id = if self.short { container.id.short() } else { container.id.as_str() };
        [
            id.to_owned(),
            container.image().to_owned(),
            format!("\"{command}\""),
            format!("{} ago", words::span(SystemClock.now(), container.status.created_at)),
            self.status(container),
            ports(container).join(", "),
            container.name().to_owned(),
        ]
    }

    /// A word, and the line about it.
    fn state(&self, container: &Container) -> (&'static str, String) {
        match self.restarts {
            true => docker::state(container),
            false => (words::state(container), words::status(container)),
        }
    }
}

fn ports(container: &Container) -> Vec<String> {
    container.ports().iter().map(Publish::arrow).collect()
}

fn table(rows: &[[String; 7]]) {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    let line = |cells: &[&str]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("   ").trim_end());
    };
    line(&HEADINGS);
    rows.iter().for_each(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>()));
}
