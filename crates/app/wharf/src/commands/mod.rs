//! The command line: one file per subcommand, one row here for each.

pub(crate) mod backup;
pub(crate) mod build;
mod completion;
mod console;
pub(crate) mod containers;
mod cp;
mod demo;
mod ended;
mod events;
mod exec;
mod formatted;
mod image;
mod inspect;
mod kill;
mod kubeconfig;
mod logs;
mod platform;
mod ps;
mod query;
mod repo;
pub(crate) mod restore;
mod rm;
mod rollout;
pub(crate) mod rootless;
mod run;
mod runs;
mod start;
mod stats;
mod stop;
mod top;
mod trace;
mod up;
mod version;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser as _},
};

/// From git push to a healthy production service.
#[derive(Parser)]
#[command(name = "wharf", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(clap::Args)]
pub(crate) struct Globals {
    /// Folder of the platform to talk to [default: /var/lib/wharf as root, else $XDG_DATA_HOME/wharf]
    // A variable that is empty is none.
    #[arg(long, global = true, env = "WHARF_DATA", value_name = "DIR", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    data: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the platform in the foreground
    Up(up::Args),
    /// Show the whole way of a sample application, from git push to automatic rollback
    Demo(demo::Args),
    /// Build an image from a Dockerfile
    Build(Box<build::Args>),
    /// Create and run a new container from an image
    Run(Box<run::Args>),
    /// List containers
    Ps(ps::Args),
    /// Fetch the logs of a container, or of all pods with given labels
    Logs(logs::Args),
    /// Execute a command in a running container
    Exec(exec::Args),
    /// Start one or more stopped containers
    Start(start::Start),
    /// Stop one or more running containers
    Stop(stop::Args),
    /// Stop containers, and start them again
    Restart(start::Restart),
    /// Wait for containers to end, and print their exit codes
    Wait(start::Wait),
    /// Kill one or more running containers
    Kill(kill::Args),
    /// Remove one or more containers
    Rm(rm::Args),
    /// Return low-level information on containers
    Inspect(inspect::Args),
    /// Show what containers use, live
    Stats(stats::Args),
    /// Show what happens to containers, as it happens
    Events(events::Args),
    /// Copy files and folders between a container and this machine
    Cp(cp::Args),
    /// Manage images
    Image(image::Args),
    /// Git repositories served by the platform
    Repo(repo::Args),
    /// Runs of workflows
    Runs(runs::Args),
    /// Look at rollouts and steer them
    #[command(visible_alias = "rollouts")]
    Rollout(rollout::Args),
    /// Show what nodes and pods use now
    Top(top::Args),
    /// Ask the metrics in PromQL
    Query(query::Args),
    /// Show a trace, or search for traces
    Trace(trace::Args),
    /// Save all objects and the keys of the platform to a file
    Backup(backup::Args),
    /// Put a backup in the place of a platform's state
    Restore(restore::Args),
    /// Print what kubectl needs to reach the platform
    Kubeconfig(kubeconfig::Args),
    /// Print the versions of this program and of the platform
    Version(version::Args),
    /// Print what a shell needs to complete commands
    Completion(completion::Args),
    #[command(name = ended::NAME, hide = true)]
    ContainerEnded(ended::Args),
    #[command(name = rootless::NAME, hide = true)]
    RootlessHolder(rootless::Args),
}

impl Command {
    /// Whether it works on containers and images by itself, for which it has to be root at least of namespaces of its own.
    fn makes_containers(&self) -> bool {
        match self {
            Self::Up(args) => args.is_node(),
            Self::Demo(_)
            | Self::Build(_)
            | Self::Run(_)
            | Self::Ps(_)
            | Self::Logs(_)
            | Self::Exec(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Restart(_)
            | Self::Wait(_)
            | Self::Kill(_)
            | Self::Rm(_)
            | Self::Inspect(_)
            | Self::Stats(_)
            | Self::Events(_)
            | Self::Cp(_)
            | Self::Image(_)
            | Self::ContainerEnded(_) => true,
            Self::Repo(_)
            | Self::Runs(_)
            | Self::Rollout(_)
            | Self::Top(_)
            | Self::Query(_)
            | Self::Trace(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Kubeconfig(_)
            | Self::Version(_)
            | Self::Completion(_)
            | Self::RootlessHolder(_) => false,
        }
    }
}

/// Runs the command line, prints what went wrong, and gives the exit code.
pub(crate) fn dispatch() -> ExitCode {
    completion::answer();
    let Cli { globals, command } = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    if command.makes_containers()
        && let Err(error) = rootless::enter()
    {
        containers::complain(&error);
        return ExitCode::FAILURE;
    }
    let result = match command {
        Command::Up(args) => args.run(&globals),
        Command::Demo(args) => args.run(&globals),
        Command::Build(args) => args.run(&globals),
        Command::Run(args) => args.run(&globals),
        Command::Ps(args) => args.run(&globals),
        Command::Logs(args) => args.run(&globals),
        Command::Exec(args) => args.run(&globals),
        Command::Start(args) => args.run(&globals),
        Command::Stop(args) => args.run(&globals),
        Command::Restart(args) => args.run(&globals),
        Command::Wait(args) => args.run(&globals),
        Command::Kill(args) => args.run(&globals),
        Command::Rm(args) => args.run(&globals),
        Command::Inspect(args) => args.run(&globals),
        Command::Stats(args) => args.run(&globals),
        Command::Events(args) => args.run(&globals),
        Command::Cp(args) => args.run(&globals),
        Command::Image(args) => args.run(&globals),
        Command::Repo(args) => args.run(&globals),
        Command::Runs(args) => args.run(&globals),
        Command::Rollout(args) => args.run(&globals),
        Command::Top(args) => args.run(&globals),
        Command::Query(args) => args.run(&globals),
        Command::Trace(args) => args.run(&globals),
        Command::Backup(args) => args.run(&globals),
        Command::Restore(args) => args.run(&globals),
        Command::Kubeconfig(args) => args.run(&globals),
        Command::Version(args) => args.run(&globals),
        Command::Completion(args) => args.run(),
        Command::ContainerEnded(args) => args.run(&globals),
        Command::RootlessHolder(args) => args.run(),
    };
    result.unwrap_or_else(|error| {
        containers::complain(&error);
        ExitCode::FAILURE
    })
}

/// Says what is wrong with the command line, or helps; with docker's exit codes for commands that have them.
fn refuse(error: &clap::Error) -> ! {
    let known = <Cli as clap::CommandFactory>::command();
    let mut words = std::env::args_os().skip(1);
    let named = words.find_map(|word| Some(known.find_subcommand(word)?.get_name()));
    let runs = matches!(named, Some("run" | "exec"));
    // Whoever reads it may have gone.
    let _ = error.print();
    std::process::exit(if error.use_stderr() && runs { run::ENGINE_FAILED.into() } else { error.exit_code() })
}

impl Globals {
    /// The platform's folder, as an absolute path.
    pub(crate) fn data_dir(&self) -> anyhow::Result<PathBuf> {
        let chosen = self.data.clone().filter(|given| !given.as_os_str().is_empty());
        let chosen = chosen.unwrap_or_else(default_data_dir);
        Ok(std::path::absolute(chosen)?)
    }
}

fn default_data_dir() -> PathBuf {
    if rootless::is_root() {
        return "/var/lib/wharf".into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".local/share");
    std::env::var_os("XDG_DATA_HOME").map_or_else(home, PathBuf::from).join("wharf")
}
