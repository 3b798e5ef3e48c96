//! `wharf image`: one file per subcommand, one row here for each.

mod pack;

use std::process::ExitCode;

use clap::Subcommand;

use super::Globals;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a small base image of this machine's own programs
    Pack(pack::Args),
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Pack(args) => args.run(globals),
        }
    }
}
