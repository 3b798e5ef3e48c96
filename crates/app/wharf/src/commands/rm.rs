//! `wharf rm`: removes containers.

use std::process::ExitCode;

use wharf_base::Hinted;
use wharf_runtime::Runtime;

use super::{
    Globals,
    containers::{Container, Containers, for_each},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kill it first when it runs
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes that are its own too (they always are)
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let containers = Containers::open(globals)?;
        let code =
            for_each(&self.containers, |wanted| remove(&containers, &containers.find(wanted)?, self.force));
        containers.tidy();
        code
    }
}

fn remove(containers: &Containers, container: &Container, force: bool) -> anyhow::Result<()> {
    if container.is_running() && !force {
        let error = format!("container {} is running", container.name());
        return Err(Hinted::new(
            error,
            format!("stop it with 'wharf stop {0}', or use 'wharf rm -f {0}'", container.name()),
        )
        .into());
    }
    // The shim of a container that has ended may still be there, for someone connected.
    if let Ok(sandbox) = containers.runtime.open(container.dir.path()) {
        sandbox.shutdown()?;
    }
    containers.runtime.clean_up(container.dir.path())?;
    containers.forget(&container.id, container.name())
}
