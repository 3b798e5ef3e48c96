//! `wharf up`: runs the platform in the foreground.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use wharf_engine::Container;

use crate::{
    commands::{
        Globals,
        containers::{self, hinted},
    },
    platform::{Platform, Ports, RegistryOptions, Role, SecurityOptions, StateOptions},
};

/// Run the platform in the foreground
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Ports to listen on
    #[arg(long, value_enum, default_value_t)]
    ports: Ports,
    /// What runs on this machine
    #[arg(long, value_enum, default_value_t)]
    role: Role,
    /// Stop and remove workloads when the platform is stopped
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    state: StateOptions,
    #[command(flatten)]
    registry: RegistryOptions,
    #[command(flatten)]
    security: Box<SecurityOptions>,
}

/// Containers of `wharf run` are not the platform's to end.
fn tell_who_stays(globals: &Globals) -> Result<()> {
    let containers = containers::open(globals)?.all().map_err(hinted)?;
    let names: Vec<&str> = containers.iter().filter(|c| c.is_running()).map(Container::name).collect();
    if !names.is_empty() {
        let data = globals.data.as_ref().map_or(String::new(), |data| format!("--data {} ", data.display()));
        println!(
            "containers of 'wharf run' go on: {}; end them with 'wharf {data}rm -f {}'",
            names.join(", "),
            names.join(" ")
        );
    }
    Ok(())
}

impl Args {
    /// Whether this machine is to run containers.
    pub(crate) fn is_node(&self) -> bool {
        self.role == Role::All
    }

    pub(crate) fn run(self, globals: &Globals) -> Result<ExitCode> {
        crate::logging::start();
        let data = globals.data_dir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let started = Instant::now();
            let (mut terminate, mut interrupt) =
                (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let platform = Platform::start(
                data.clone(),
                self.ports,
                self.role,
                &self.registry,
                &self.state,
                &self.security,
            )
            .await?;
            let mut text = format!("wharf is ready after {} ms\n", started.elapsed().as_millis());
            let kubeconfig = ("kubeconfig", data.join("kubeconfig").display().to_string());
            for (name, address) in platform.endpoints.rows().into_iter().chain([kubeconfig]) {
                text += &format!("  {name:<14}{address}\n");
            }
            // It serves all the same where nobody can be told.
            let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            platform.stop(self.drain).await;
            if self.drain {
                tell_who_stays(globals)?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
