//! Commands inside a container, for probes and hooks.

use std::{net::IpAddr, sync::Arc, time::Duration};

use wharf_runtime::{ExecConfig, Sandbox};

use crate::{config::SecureConnect, model::Container};

/// A run of a container, to be asked something.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    /// The run's name.
    pub(crate) run: String,
    pub(crate) container: Container,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) secure: Arc<dyn SecureConnect>,
}

/// The most that is kept of a command's output.
const MAX_OUTPUT: usize = 10 << 10;

/// Runs a command to its end, at most for `limit`; gives its exit code and the start of its output.
pub(crate) async fn command(
    target: &Target,
    args: &[String],
    limit: Duration,
) -> Result<(i32, String), String> {
    let (target, args) = (target.clone(), args.to_vec());
    let ran = tokio::task::spawn_blocking(move || run(&target, args, limit)).await;
    ran.unwrap_or_else(|_| Err("the command could not be run".to_owned()))
}

fn run(target: &Target, args: Vec<String>, limit: Duration) -> Result<(i32, String), String> {
    let config = ExecConfig { args, ..ExecConfig::default() };
    let answer = wharf_runtime::command(target.sandbox.as_ref(), &target.run, &config, limit, MAX_OUTPUT);
    let answer = answer.map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&answer.said).trim().to_owned();
    answer.code.map(|code| (code, said)).ok_or_else(|| format!("command timed out after {limit:?}"))
}
