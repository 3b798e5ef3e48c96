//! `wharf completion`: what a shell needs to complete wharf's commands, and the names it asks for while somebody types.

use std::{ffi::OsStr, path::PathBuf, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate,
    engine::ValueCompleter,
    env::{CompleteEnv, Shells},
};
use wharf_image::Store;

use super::{Cli, Globals, containers, platform::say};

/// By this the shell's function asks for candidates.
const VARIABLE: &str = "WHARF_COMPLETE";

/// Bash takes names like `shop:1` apart at the colon: the word is put together, and what stands before its last colon is
/// taken off the answers again.
const COLONS: &str = r#"
_wharf() {
    local word=${COMP_LINE:0:COMP_POINT}
    word=${word##*[[:space:]]}
    if [[ $word != *:* || $COMP_WORDBREAKS != *:* ]]; then
        _clap_complete_wharf "$@"
        return
    fi
    local -a COMP_WORDS=(${COMP_LINE:0:COMP_POINT})
    local COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _clap_complete_wharf wharf "$word"
    COMPREPLY=("${COMPREPLY[@]#"${word%:*}:"}")
}
complete -o nospace -o bashdefault -o nosort -F _wharf wharf 2>/dev/null || complete -o nospace -o bashdefault -F _wharf wharf
"#;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// For which shell; for bash: source <(wharf completion bash)
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl Args {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        say(&self.script()?);
        Ok(ExitCode::SUCCESS)
    }

    fn script(&self) -> anyhow::Result<String> {
        let (shells, name) = (Shells::builtins(), self.shell.to_string());
        let shell = shells.completer(&name);
        let shell = shell.ok_or_else(|| anyhow::anyhow!("nothing is known of the shell {name}"))?;
        let mut script = Vec::new();
        shell.write_registration(VARIABLE, "wharf", "wharf", "wharf", &mut script)?;
        if self.shell == clap_complete::Shell::Bash {
            script.extend_from_slice(COLONS.as_bytes());
        }
        Ok(String::from_utf8_lossy(&script).into_owned())
    }
}

/// Answers a shell that asks for candidates, and ends; returns when no shell asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(shown).var(VARIABLE).bin("wharf").complete();
}

/// The commands without what is hidden from people.
fn shown() -> clap::Command {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    clap::Command::new("wharf")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(all.get_arguments().cloned())
        .subcommands(shown)
}

/// Completes names of containers.
pub(crate) fn any_container() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names_of_containers(|_| true))
}

/// Completes names of containers that run.
pub(crate) fn running_container() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names_of_containers(wharf_engine::Container::is_running))
}

/// Completes names of images.
pub(crate) fn image() -> ArgValueCandidates {
    ArgValueCandidates::new(names_of_images)
}

/// Completes the name of an image, and nothing after it.
pub(crate) fn image_first() -> ArgValueCompleter {
    ArgValueCompleter::new(ImageFirst)
}

struct ImageFirst;

impl ValueCompleter for ImageFirst {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let current = current.to_string_lossy();
        let fits =
            |name: &CompletionCandidate| name.get_value().to_string_lossy().starts_with(current.as_ref());
        names_of_images().into_iter().filter(fits).collect()
    }

    fn complete_at(&self, index: usize, current: &OsStr) -> Vec<CompletionCandidate> {
        if index == 0 { self.complete(current) } else { Vec::new() }
    }
}

fn names_of_containers(wanted: impl Fn(&wharf_engine::Container) -> bool) -> Vec<CompletionCandidate> {
    let found = data().and_then(|data| containers::engine(&data).all().ok()).unwrap_or_default();
    let about = |container: &wharf_engine::Container| {
        let help = format!("{}, {}", container.image(), wharf_engine::words::status(container));
        CompletionCandidate::new(container.name()).help(Some(help.into()))
    };
    found.iter().filter(|container| wanted(container)).map(about).collect()
}

fn names_of_images() -> Vec<CompletionCandidate> {
    let folder = data().map(|data| data.join("images")).filter(|folder| folder.is_dir());
    let entries = folder.and_then(|folder| Store::open(folder).ok()?.references().ok()).unwrap_or_default();
    let named = entries.iter().filter(|entry| entry.reference.tag().is_some());
    named.map(|entry| CompletionCandidate::new(entry.reference.familiar())).collect()
}

/// The folder the line that is typed is about; nothing when there is none yet.
fn data() -> Option<PathBuf> {
    let words: Vec<_> = std::env::args_os().collect();
    let chosen = words.iter().enumerate().find_map(|(at, word)| match word.to_str()? {
        "--data" => words.get(at + 1).cloned(),
        word => word.strip_prefix("--data=").map(Into::into),
    });
    let chosen = chosen.or_else(|| std::env::var_os("WHARF_DATA").filter(|data| !data.is_empty()));
    Globals { data: chosen.map(PathBuf::from) }.data_dir().ok().filter(|data| data.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_not_completed() {
        assert!(shown().find_subcommand("stats").is_some());
        assert!(shown().find_subcommand(super::super::ended::NAME).is_none());
    }

    #[test]
    fn every_shell_has_a_script() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let script = Args { shell }.script().unwrap();
            assert!(script.contains(VARIABLE) && script.contains("wharf"), "{shell}: {script}");
        }
    }
}
