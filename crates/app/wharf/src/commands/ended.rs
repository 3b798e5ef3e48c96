//! What the shim of a detached container runs at its end, since nobody else is there: gives back what the container had.

use std::{path::Path, process::ExitCode};

use wharf_base::ContainerId;

use super::{Globals, containers::Containers};

#[derive(clap::Args)]
pub(crate) struct Args {
    id: ContainerId,
    name: String,
}

/// Hidden from people.
pub(crate) const NAME: &str = "container-ended";

/// The command line, in which this program is the shim's own.
pub(crate) fn command(data: &Path, id: &ContainerId, name: &str) -> Vec<String> {
    let data = data.to_string_lossy();
    ["/proc/self/exe", "--data", &data, NAME, id.as_str(), name].map(str::to_owned).to_vec()
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let containers = Containers::open(globals)?;
        if !containers.folder(&self.id).exists() {
            containers.forget(&self.id, &self.name)?;
        }
        containers.tidy();
        Ok(ExitCode::SUCCESS)
    }
}
