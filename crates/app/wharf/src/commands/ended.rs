//! What runs at the end of a container, when nobody waits any more: gives back what the container had.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use wharf_base::ContainerId;

use super::{
    Globals,
    containers::{Containers, bridge},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// It was on the bridge network.
    #[arg(long)]
    bridged: bool,
    id: ContainerId,
    name: String,
}

const LINK_GOES: Duration = Duration::from_millis(200);

/// Hidden from people.
pub(crate) const NAME: &str = "container-ended";

/// The command line, in which this program is the shim's own.
pub(crate) fn command(data: &Path, id: &ContainerId, name: &str, bridged: bool) -> Vec<String> {
    let data = data.to_string_lossy();
    let words = ["/proc/self/exe", "--data", &data, NAME].into_iter().chain(bridged.then_some("--bridged"));
    words.chain([id.as_str(), name]).map(str::to_owned).collect()
}

/// Starts it in the background, for a container on the bridge network.
pub(crate) fn start(data: &Path, id: &ContainerId, name: &str) {
    let words = command(data, id, name, true);
    let Some((program, args)) = words.split_first() else { return };
    let mut command = Command::new(program);
    // A terminal's Ctrl-C is not for it, and nobody must wait for the pipes of a command that has ended.
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "the next command takes back what the container had");
    }
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        // The kernel removes the link by itself in a moment. Doing it meanwhile would hold up whoever comes next.
        std::thread::sleep(LINK_GOES);
        let data = globals.data_dir()?;
        if self.bridged && bridge::is_orphan(&data) {
            return bridge::remove_orphan(&data).map(|()| ExitCode::SUCCESS);
        }
        let containers = Containers::open(globals)?;
        if !containers.folder(&self.id).exists() {
            containers.forget(&self.id, &self.name)?;
        }
        containers.tidy();
        bridge::remove_idle(&data)?;
        Ok(ExitCode::SUCCESS)
    }
}
