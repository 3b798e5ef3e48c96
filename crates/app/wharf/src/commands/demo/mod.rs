//! `wharf demo`: the whole way of a sample application, from git push to automatic rollback.

mod checks;
mod folder;
mod load;
mod pipeline;
mod production;
mod report;
mod sample;
mod screen;
mod story;

use std::{process::ExitCode, time::Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wharf_client::Client;

use super::Globals;
use crate::platform::{Platform, Ports, RegistryOptions, Role, SecurityOptions, StateOptions};
use checks::Missing;
use folder::Folder;
use load::Load;
use screen::{Screen, Style, time};
use story::{NIGHT, Stages, Story};

/// As shells have it after Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after the story, with status 0 only if every stage did what it said
    #[arg(long)]
    exit: bool,
    /// Ports to listen on [default: the documented ones when all are free, else any]
    #[arg(long, value_enum)]
    ports: Option<Ports>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> Result<ExitCode> {
        let screen = Screen::new();
        let command: Vec<String> = std::env::args().collect();
        if let Some(missing) = checks::root(&command.join(" ")) {
            return Ok(lacks(&screen, &[missing]));
        }
        let folder = Folder::choose(globals.data.as_deref())?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(Box::pin(self.demo(&screen, &folder)))
    }

    async fn demo(&self, screen: &Screen, folder: &Folder) -> Result<ExitCode> {
        let mut signals = Signals::new()?;
        if folder.left_over {
            take_over(screen, folder).await?;
        }
        folder.make()?;
        let missing = checks::machine(&folder.path);
        if !missing.is_empty() {
            folder.remove()?;
            return Ok(lacks(screen, &missing));
        }
        crate::logging::start_in(std::fs::File::create(folder.path.join(report::LOG))?);
        let begun = Instant::now();
        let stages = Stages::new(screen);
        let platform = match stages.run("Start the platform", self.start(screen, folder)).await {
            Ok(platform) => platform,
            Err(error) => {
                super::containers::complain(&error);
                report::log(&folder.path).iter().for_each(|line| screen.detail(line));
                return Ok(ExitCode::FAILURE);
            }
        };
        let client = Client::from_kubeconfig(&folder.path.join("kubeconfig")).await?;
        let story = Story {
            screen,
            stages: &stages,
            data: &folder.path,
            endpoints: &platform.endpoints,
            client: client.clone(),
        };
        let told = tokio::select! {
            told = story.tell() => Some(told),
            () = signals.any() => None,
        };
        let code = match &told {
            None => {
                screen.say("\ninterrupted");
                ExitCode::from(INTERRUPTED)
            }
            Some(Ok(_)) => ExitCode::SUCCESS,
            Some(Err(error)) => {
                screen.say("");
                super::containers::complain(error);
                report::lines(&client, &folder.path).await.iter().for_each(|line| screen.detail(line));
                ExitCode::FAILURE
            }
        };
        screen.say("");
        stages.table().iter().for_each(|row| screen.say(row));
        screen.say(&format!("\nin all {}", time(begun.elapsed())));
        let failed = matches!(told, Some(Err(_)));
        if let Some(told) = told
            && !self.exit
        {
            serve(screen, &platform, folder, told.ok(), &mut signals).await;
        }
        let clean = end(screen, platform, folder, failed).await;
        Ok(if clean { code } else { ExitCode::FAILURE })
    }

    async fn start(&self, screen: &Screen, folder: &Folder) -> Result<(Platform, String)> {
        let taken = Ports::taken().await;
        let ports = self.ports.unwrap_or(if taken.is_empty() { Ports::Default } else { Ports::Auto });
        if self.ports.is_none() && !taken.is_empty() {
            let taken: Vec<String> = taken.iter().map(u16::to_string).collect();
            screen.detail(&format!("in use already: port {}; taking other ports", taken.join(", ")));
        }
        let begun = Instant::now();
        let platform = Platform::start(
            folder.path.clone(),
            ports,
            Role::All,
            &RegistryOptions::default(),
            &StateOptions::default(),
            &SecurityOptions::default(),
        )
        .await?;
        for (name, address) in platform.endpoints.rows() {
            screen.detail(&format!("{name:<14}{address}"));
        }
        let text = format!("ready after {}, in {}", time(begun.elapsed()), folder.path.display());
        Ok((platform, text))
    }
}

/// What ends the demo from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn lacks(screen: &Screen, missing: &[Missing]) -> ExitCode {
    screen.say("The demo cannot run here. Missing:");
    for Missing { what, help } in missing {
        screen.say(&format!("  {} {what}", screen.paint(Style::Bad, "✗")));
        screen.say(&format!("      {help}"));
    }
    ExitCode::FAILURE
}

/// Ends what an earlier demo left running, and removes its folder.
async fn take_over(screen: &Screen, folder: &Folder) -> Result<()> {
    screen.say(&format!("an earlier demo left {}: ending what still runs there", folder.path.display()));
    let platform = Platform::start(
        folder.path.clone(),
        Ports::Auto,
        Role::All,
        &RegistryOptions::default(),
        &StateOptions::default(),
        &SecurityOptions::default(),
    )
    .await;
    platform.context("what an earlier demo left cannot be taken over")?.stop(true).await;
    folder.remove()
}

/// Goes on until somebody ends it.
async fn serve(
    screen: &Screen,
    platform: &Platform,
    folder: &Folder,
    load: Option<Load>,
    signals: &mut Signals,
) {
    let endpoints = &platform.endpoints;
    screen.say(&format!("\nconsole: http://{}", endpoints.console));
    screen.say(&format!(
        "shop:    curl -H 'Host: {}' http://{}/products",
        load::HOST,
        endpoints.ingress_http
    ));
    screen.say(&format!("kubectl: export KUBECONFIG={}", folder.path.join("kubeconfig").display()));
    screen.say(&format!("wharf:   export WHARF_DATA={}", folder.path.display()));
    screen.say("serving until Ctrl-C, which stops and removes everything");
    if let Some(load) = &load {
        load.change(NIGHT);
    }
    signals.any().await;
}

/// Stops everything; whether nothing is left.
async fn end(screen: &Screen, platform: Platform, folder: &Folder, failed: bool) -> bool {
    let begun = Instant::now();
    screen.live("stopping and removing pods, network and rules");
    platform.stop(true).await;
    if failed {
        screen.say(&format!(
            "stopped in {}; state and logs are kept in {}, until the next demo",
            time(begun.elapsed()),
            folder.path.display()
        ));
        return true;
    }
    match folder.remove() {
        Ok(()) => {
            screen.say(&format!("stopped, and everything removed, in {}", time(begun.elapsed())));
            true
        }
        Err(error) => {
            super::containers::complain(&error);
            false
        }
    }
}
