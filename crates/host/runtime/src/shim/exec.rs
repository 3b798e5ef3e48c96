//! One more process in a running container.

use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder, Process};
use rustix::process::WaitStatus;
use wharf_base::{Clock, SystemClock};

use super::code_of;
use crate::{
    config::{ContainerConfig, ExecConfig},
    error::{Error, Result},
    status::Exit,
};

/// A further process of a container.
pub(super) struct Exec {
    pub(super) pid: i32,
    /// The connection that asked for it and hears of its end.
    pub(super) connection: u64,
    pub(super) exit: Option<Exit>,
}

impl Exec {
    pub(super) fn ended(&mut self, status: WaitStatus) {
        let (code, signal) = code_of(status);
        self.exit =
            Some(Exit { code, signal, oom_killed: false, finished_at: SystemClock.now(), reason: None });
    }
}

/// The process asked for, with what it does not name taken from the container's own.
pub(super) fn process(config: &ContainerConfig, wanted: &ExecConfig) -> Result<Process> {
    let mut process = config.spec.process().clone().unwrap_or_default();
    if wanted.args.is_empty() {
        return Err(Error::invalid("run a command in", &config.name, "no command is given"));
    }
    process.set_args(Some(wanted.args.clone()));
    let mut env = process.env().clone().unwrap_or_default();
    env.extend(wanted.env.iter().cloned());
    process.set_env(Some(env));
    if let Some(cwd) = &wanted.cwd {
        process.set_cwd(cwd.into());
    }
    process.set_oom_score_adj(None);
    if wanted.privileged {
        let all: std::collections::HashSet<Capability> =
            crate::defaults::all_capabilities().into_iter().collect();
        let none = std::collections::HashSet::<Capability>::new();
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(all.clone())
            .effective(all.clone())
            .permitted(all)
            .inheritable(none.clone())
            .ambient(none)
            .build();
        process.set_capabilities(sets.ok());
        process.set_no_new_privileges(None);
    }
    Ok(process)
}
