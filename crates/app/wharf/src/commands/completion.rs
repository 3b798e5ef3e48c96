//! `wharf completion`: what a shell needs to complete wharf's commands.

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::{Cli, platform::say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// For which shell; for bash: source <(wharf completion bash)
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "wharf", &mut script);
        say(&String::from_utf8_lossy(&script));
        Ok(ExitCode::SUCCESS)
    }
}
