//! `wharf start`, `wharf restart`, `wharf wait`: containers that are there already.

use std::process::ExitCode;

use wharf_engine::{Container, Engine, MAIN};

use super::{
    Globals, completion,
    containers::{self, complain, for_each, hinted, tidy},
    stop::Grace,
};

#[derive(clap::Args)]
pub(crate) struct Start {
    /// Names or ids
    #[arg(required = true, add = completion::any_container())]
    containers: Vec<String>,
}

impl Start {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let code = for_each(&self.containers, |wanted| {
            let container = engine.find(wanted).map_err(hinted)?;
            // As docker: one that runs is no failure.
            if container.is_running() { Ok(()) } else { start(&engine, &container) }
        });
        tidy(&engine);
        code
    }
}

#[derive(clap::Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    grace: Grace,
    /// Names or ids
    #[arg(required = true, add = completion::any_container())]
    containers: Vec<String>,
}

impl Restart {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let code = for_each(&self.containers, |wanted| {
            let container = engine.find(wanted).map_err(hinted)?;
            self.grace.stop(&engine, &container)?;
            start(&engine, &engine.load(&container.id).map_err(hinted)?)
        });
        tidy(&engine);
        code
    }
}

#[derive(clap::Args)]
pub(crate) struct Wait {
    /// Names or ids
    #[arg(required = true, add = completion::any_container())]
    containers: Vec<String>,
}

impl Wait {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let mut code = ExitCode::SUCCESS;
        for wanted in &self.containers {
            match engine.find(wanted).map_err(hinted).and_then(|container| ended(&engine, &container)) {
                Ok(exit) => println!("{exit}"),
                Err(error) => {
                    complain(&error);
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}

fn start(engine: &Engine, container: &Container) -> anyhow::Result<()> {
    engine.change(&container.id, |record| record.stopped = false).map_err(hinted)?;
    let started = engine.start(&container.record, None, None, |_| Ok(())).map_err(hinted)?;
    started.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    Ok(())
}

/// Waits for the end, and gives the exit code.
fn ended(engine: &Engine, container: &Container) -> anyhow::Result<i32> {
    if container.is_running() {
        // Its shim may be killed; then its folder tells.
        let _ = container.connect(engine).and_then(|sandbox| Ok(sandbox.wait(MAIN)?));
    }
    let container = engine.load(&container.id).map_err(hinted)?;
    Ok(container.status.exit.map_or(0, |exit| exit.code))
}
