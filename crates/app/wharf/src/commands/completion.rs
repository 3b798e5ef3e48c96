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
        say(&self.script());
        Ok(ExitCode::SUCCESS)
    }

    fn script(&self) -> String {
        let all = Cli::command();
        // Without what is hidden from people.
        let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
        let mut shown = clap::Command::new("wharf")
            .version(env!("CARGO_PKG_VERSION"))
            .disable_help_subcommand(true)
            .args(all.get_arguments().cloned())
            .subcommands(shown);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut shown, "wharf", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_completed() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = Args { shell }.script();
            assert!(
                ["stats", "--no-stream", "--data"]
                    .iter()
                    .all(|word| script.contains(word.trim_start_matches('-')))
            );
            assert!(!script.contains("container-ended"), "{shell}");
        }
    }
}
