//! `wharf rollout`: looks at Rollouts and steers them, as `kubectl argo rollouts` does.

mod change;
mod get;
mod ls;
mod show;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use serde_json::Value;
use wharf_base::{Hinted, closest};
use wharf_client::{Client, ListParams, PatchKind};
use wharf_control::{action::REPLICA_SETS, replicaset::ReplicaSet};
use wharf_deliver::{ROLLOUTS, rollout::Rollout};

use super::{
    Globals,
    platform::{Form, connect, say, text},
};
use change::Writes;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Namespace of the rollout
    #[arg(short, long, global = true, default_value = "default")]
    namespace: String,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List rollouts
    #[command(visible_alias = "list")]
    Ls {
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Another form of output
        #[arg(short, long, value_enum)]
        output: Option<Form>,
    },
    /// Show a rollout with its versions, pods and analyses
    Get {
        /// Its name
        name: String,
        /// Go on and show every change
        #[arg(short, long, conflicts_with = "output")]
        watch: bool,
        /// Another form of output
        #[arg(short, long, value_enum)]
        output: Option<Form>,
    },
    /// Let a paused rollout go on; skip the current step of one that is not paused
    Promote {
        /// Its name
        name: String,
        /// Bring the new version in at once: no more steps, pauses or analyses
        #[arg(long)]
        full: bool,
    },
    /// Hold a rollout where it is
    Pause {
        /// Its name
        name: String,
    },
    /// Take the new version back: all requests go to the old one
    Abort {
        /// Its name
        name: String,
    },
    /// Bring an earlier version in again
    Undo {
        /// Its name
        name: String,
        /// Revision to go back to; the one before the present one when absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
        to_revision: Option<i64>,
    },
    /// Try an aborted rollout again
    Retry {
        /// Its name
        name: String,
    },
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let Self { command, namespace } = self;
        connect(globals, async |client| {
            let on = Target { client: &client, namespace: &namespace };
            match command {
                Command::Ls { all_namespaces, output } => {
                    let namespace = if all_namespaces { "" } else { namespace.as_str() };
                    ls::run(&client, namespace, output).await?;
                }
                Command::Get { name, watch: true, .. } => get::watch(&on, &name).await?,
                Command::Get { name, output, .. } => get::once(&on, &name, output).await?,
                Command::Promote { name, full } => {
                    let (_, rollout) = on.get(&name).await?;
                    change::check_promotable(&name, &rollout)?;
                    let (writes, what) = match full {
                        true => (change::promote_fully(&rollout), "fully promoted"),
                        false => (change::promote(&rollout), "promoted"),
                    };
                    on.write(&name, writes).await?;
                    done(&name, what);
                }
                Command::Pause { name } => on.change(&name, change::pause(), "paused").await?,
                Command::Abort { name } => on.change(&name, change::abort(), "aborted").await?,
                Command::Retry { name } => on.change(&name, change::retry(), "retried").await?,
                Command::Undo { name, to_revision } => undo(&on, &name, to_revision).await?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn done(name: &str, what: &str) {
    say(&format!("rollout '{name}' {what}\n"));
}

/// Where a command works.
struct Target<'a> {
    client: &'a Client,
    namespace: &'a str,
}

impl Target<'_> {
    /// A rollout by name.
    async fn get(&self, name: &str) -> anyhow::Result<(Value, Rollout)> {
        match self.client.get(&ROLLOUTS, self.namespace, name).await? {
            Some(object) => {
                let rollout = wharf_control::read(&object)?;
                Ok((object, rollout))
            }
            None => Err(self.unknown(name).await),
        }
    }

    async fn unknown(&self, name: &str) -> anyhow::Error {
        let error = format!("there is no rollout '{name}' in the namespace '{}'", self.namespace);
        let all = match self.client.list(&ROLLOUTS, &ListParams::default()).await {
            Ok(all) => all.items,
            Err(error) => return error.into(),
        };
        let here = |object: &&Value| text(object, "/metadata/namespace") == self.namespace;
        let elsewhere = all.iter().find(|o| text(o, "/metadata/name") == name);
        let names = all.iter().filter(here).map(|object| text(object, "/metadata/name"));
        let hint = match (elsewhere, closest(name, names)) {
            (Some(object), _) => format!(
                "there is one in the namespace '{0}': add -n {0}",
                text(object, "/metadata/namespace")
            ),
            (None, Some(meant)) => format!("did you mean '{meant}'?"),
            (None, None) => "'wharf rollout ls -A' lists all rollouts".to_owned(),
        };
        Hinted::new(error, hint).into()
    }

    async fn write(&self, name: &str, writes: Writes) -> anyhow::Result<()> {
        let patch = async |subresource, kind, body: Option<Value>| match body {
            Some(body) => {
                self.client.patch(&ROLLOUTS, self.namespace, name, subresource, kind, &body).await.map(drop)
            }
            None => Ok(()),
        };
        patch(Some("status"), PatchKind::Merge, writes.status).await?;
        patch(None, PatchKind::Merge, writes.spec).await?;
        Ok(())
    }

    async fn change(&self, name: &str, writes: Writes, what: &str) -> anyhow::Result<()> {
        self.get(name).await?;
        self.write(name, writes).await?;
        done(name, what);
        Ok(())
    }

    /// The ReplicaSets a rollout manages.
    async fn replica_sets(&self, rollout: &Rollout) -> anyhow::Result<Vec<ReplicaSet>> {
        let all = self.client.list(&REPLICA_SETS, &ListParams::namespace(self.namespace)).await?.items;
        Ok(show::owned(&all, rollout))
    }
}

async fn undo(on: &Target<'_>, name: &str, to_revision: Option<i64>) -> anyhow::Result<()> {
    let (_, rollout) = on.get(name).await?;
    let sets = on.replica_sets(&rollout).await?;
    let chosen = change::revision(name, &sets, to_revision)?;
    match change::undo(&rollout, chosen) {
        Some(patch) => {
            on.client.patch(&ROLLOUTS, on.namespace, name, None, PatchKind::Json, &patch).await?;
            done(name, "undo");
        }
        None => say(&format!(
            "skipped rollback (current template already matches revision {})\n",
            show::revision(&chosen.metadata)
        )),
    }
    Ok(())
}
