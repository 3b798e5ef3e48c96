//! `wharf inspect`: everything known about containers, in docker's shape.

use std::process::ExitCode;

use serde_json::{Value, json};
use wharf_engine::{Container, Engine};

use super::{
    Globals, completion,
    containers::{self, complain, hinted},
    formatted::Format,
    platform::say,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, add = completion::any_container())]
    containers: Vec<String>,
    /// Print by a Go template, as docker takes it: '{{.State.Status}}', 'table …', or 'json'
    #[arg(short = 'f', long, value_name = "TEMPLATE")]
    format: Option<Format>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let mut code = ExitCode::SUCCESS;
        let mut found = Vec::new();
        for wanted in &self.containers {
            match engine.find(wanted).map_err(hinted).and_then(|container| describe(&container, &engine)) {
                Ok(value) => found.push(value),
                Err(error) => {
                    complain(&error);
                    code = ExitCode::FAILURE;
                }
            }
        }
        match &self.format {
            Some(format) => say(&format.lines(&[], &found)?),
            None => println!("{}", serde_json::to_string_pretty(&found)?),
        }
        Ok(code)
    }
}

/// As docker describes it, and what could not be done as asked.
fn describe(container: &Container, engine: &Engine) -> anyhow::Result<Value> {
    let mut value = wharf_engineapi::docker::inspect(engine, container).map_err(anyhow::Error::msg)?;
    value["Warnings"] = json!(container.status.warnings);
    Ok(value)
}
