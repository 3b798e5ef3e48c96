//! What the container commands share: the containers of a data folder, images, streams.

mod relay;
mod terminal;

use std::{os::unix::net::UnixStream, path::Path};

use wharf_base::{Hinted, closest};
use wharf_build::Builder;
use wharf_engine::{Engine, EngineConfig};
use wharf_runtime::SandboxConfig;

pub(crate) use relay::{Relay, Remote, exit_code as relay_end};
pub(crate) use terminal::{Terminal, is_terminal};

use super::{Globals, ended};
use crate::platform::network_config;

/// Prints an error as people see it.
pub(crate) fn complain(error: &anyhow::Error) {
    let mut text = wharf_base::render_error(error.as_ref());
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    if causes.any(wharf_image::is_full) && !text.contains("\n  hint: ") {
        text.push_str(&format!("\n  hint: {}", wharf_image::FREE_SPACE));
    }
    eprintln!("{text}");
}

/// The containers of the data folder.
pub(crate) fn open(globals: &Globals) -> anyhow::Result<Engine> {
    Ok(engine(&globals.data_dir()?))
}

/// The containers of `data`.
pub(crate) fn engine(data: &Path) -> Engine {
    let at_end =
        ["/proc/self/exe", "--data", &data.to_string_lossy(), ended::NAME].map(str::to_owned).to_vec();
    Engine::new(EngineConfig { data: data.to_owned(), network: network_config(data), at_end })
}

/// Whether the platform of these containers runs, which restarts them and looks after their health.
pub(crate) fn platform_runs(engine: &Engine) -> bool {
    UnixStream::connect(engine.data().join("docker.sock")).is_ok()
}

/// Takes back what ended containers had of the network, and ends what killed builds left running.
pub(crate) fn tidy(engine: &Engine) {
    if let Err(error) = engine.bridge().release_ended() {
        eprintln!("warning: an ended container keeps its address: {error:#}");
    }
    if let Err(error) = Builder::sweep(engine.data().join("build-cache"), &engine.runtime) {
        eprintln!("warning: a killed build is not put in order: {error}");
    }
}

/// An error of the engine with what to do about it.
pub(crate) fn hinted(error: wharf_engine::Error) -> anyhow::Error {
    match error.hint.clone() {
        Some(hint) => Hinted::new(error, hint).into(),
        None => error.into(),
    }
}

/// NAMESPACE/NAME of a pod of the platform, which its node keeps as the only label.
pub(crate) fn name_of_pod(config: SandboxConfig) -> String {
    config.labels.into_values().next().unwrap_or(config.id)
}

/// Applies `act` to every container named, goes on after failures, and tells whether there were any.
pub(crate) fn for_each(
    wanted: &[String],
    mut act: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<std::process::ExitCode> {
    let mut code = std::process::ExitCode::SUCCESS;
    for name in wanted {
        match act(name) {
            Ok(()) => println!("{name}"),
            Err(error) => {
                complain(&error);
                code = std::process::ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// Refuses a flag that stands where the first of `words` belongs, in docker's words.
pub(crate) fn refuse_flag<A: clap::Args>(command: &str, words: &[String]) -> Result<(), Hinted> {
    let Some(word) = words.first().filter(|word| word.len() > 1 && word.starts_with('-')) else {
        return Ok(());
    };
    let known = A::augment_args(clap::Command::new("wharf"));
    let flag = word.split('=').next().unwrap_or(word);
    let longs: Vec<String> =
        known.get_arguments().filter_map(|a| Some(format!("--{}", a.get_long()?))).collect();
    let error = match flag.strip_prefix("--") {
        Some(_) => format!("unknown flag: {flag}"),
        None => {
            let is_known = |c: &char| known.get_arguments().any(|a| a.get_short() == Some(*c));
            let unknown = flag.chars().skip(1).find(|c| !is_known(c)).unwrap_or('-');
            format!("unknown shorthand flag: '{unknown}' in {flag}")
        }
    };
    let hint = match closest(flag, longs.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!(
            "'wharf {command} --help' lists all; flags of the container's own program stand after the image"
        ),
    };
    Err(Hinted::new(error, hint))
}
