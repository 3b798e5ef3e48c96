//! `wharf rollout get`: once, or at every change.

use std::time::Duration;

use serde_json::Value;
use wharf_base::{Clock as _, SystemClock};
use wharf_client::{Gvr, Informer, ListParams};
use wharf_control::action::{PODS, REPLICA_SETS};
use wharf_deliver::{ANALYSIS_RUNS, ROLLOUTS};

use super::{Target, show};
use crate::commands::platform::{Form, print_one, say};

/// Ages move on even when nothing happens.
const REDRAW: Duration = Duration::from_secs(1);
/// Changes that come together are shown together.
const GATHER: Duration = Duration::from_millis(50);

pub(super) async fn once(on: &Target<'_>, name: &str, output: Option<Form>) -> anyhow::Result<()> {
    let (object, rollout) = on.get(name).await?;
    let list = async |resource: &Gvr| {
        Ok::<_, wharf_client::Error>(
            on.client.list(resource, &ListParams::namespace(on.namespace)).await?.items,
        )
    };
    let around = show::Around {
        replica_sets: show::owned(&list(&REPLICA_SETS).await?, &rollout),
        analysis_runs: show::owned(&list(&ANALYSIS_RUNS).await?, &rollout),
        pods: list(&PODS).await?,
    };
    print_one(output, &object, || show::render(&rollout, &around, SystemClock.now()))
}

pub(super) async fn watch(on: &Target<'_>, name: &str) -> anyhow::Result<()> {
    on.get(name).await?;
    let start = |resource: Gvr, fields: String| {
        let params = ListParams { fields, ..ListParams::namespace(on.namespace) };
        Informer::start(on.client.clone(), resource, params)
    };
    let rollouts = start(ROLLOUTS, format!("metadata.name={name}"));
    let [sets, runs, pods] =
        [REPLICA_SETS, ANALYSIS_RUNS, PODS].map(|resource| start(resource, String::new()));
    for informer in [&rollouts, &sets, &runs, &pods] {
        informer.synced().await;
    }
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let mut shown = String::new();
    if terminal {
        say("\x1b[2J");
    }
    loop {
        let Some(object) = rollouts.get(&format!("{}/{name}", on.namespace)) else {
            anyhow::bail!("the rollout '{name}' was deleted");
        };
        let rollout = wharf_control::read(&object)?;
        let all = |informer: &Informer| -> Vec<Value> {
            informer.in_namespace(on.namespace).iter().map(|object| (**object).clone()).collect()
        };
        let around = show::Around {
            replica_sets: show::owned(&all(&sets), &rollout),
            analysis_runs: show::owned(&all(&runs), &rollout),
            pods: all(&pods),
        };
        let text = show::render(&rollout, &around, SystemClock.now());
        // Without a terminal, only what happens is a change, not that time goes by.
        let compared = match rollout.metadata.creation_timestamp {
            Some(created) if !terminal => show::render(&rollout, &around, created),
            _ => text.clone(),
        };
        if compared != shown {
            // To the upper left, each line to its end, and what is below.
            match terminal {
                true => say(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))),
                false => say(&format!("{text}\n")),
            }
            shown = compared;
        }
        changed(&[&rollouts, &sets, &runs, &pods], terminal).await;
        tokio::time::sleep(GATHER).await;
    }
}

/// Waits for a change of any, or until it is time to draw again.
async fn changed(informers: &[&Informer], terminal: bool) {
    let before: Vec<u64> = informers.iter().map(|informer| informer.revision()).collect();
    let waits = informers.iter().zip(before).map(|(informer, revision)| {
        Box::pin(async move {
            let informer: &Informer = informer;
            informer.seen(revision + 1).await;
        })
    });
    let any = futures_util::future::select_all(waits);
    if terminal {
        tokio::time::timeout(REDRAW, any).await.ok();
    } else {
        any.await;
    }
}
