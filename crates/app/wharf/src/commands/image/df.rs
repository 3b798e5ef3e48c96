//! `wharf image df`: what takes how much of the disk, and what of it could be had back.

use std::{collections::HashSet, process::ExitCode};

use serde_json::json;
use wharf_base::Digest;
use wharf_image::{Store, bytes_below};

use super::{Globals, hinted, human, open, table};
use crate::commands::{containers, platform::Form};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Another form of output
    #[arg(short, long, value_enum)]
    output: Option<Form>,
}

/// One kind of things on the disk.
struct Row {
    kind: &'static str,
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let (store, data) = (open(globals)?, globals.data_dir()?);
        let engine = containers::open(globals)?;
        let all = engine.all().map_err(containers::hinted)?;
        let running = all.iter().filter(|container| container.is_running()).count();
        let folder = |container: &wharf_engine::Container| bytes_below(container.dir.path());
        let stopped = all.iter().filter(|container| !container.is_running()).map(folder).sum();
        let mut rows = Vec::from(images(&store)?);
        rows.push(Row {
            kind: "Containers",
            total: all.len(),
            active: running,
            bytes: all.iter().map(folder).sum(),
            reclaimable: stopped,
        });
        let volumes = wharf_engine::volumes::all(&data);
        let (mut active, mut bytes, mut reclaimable) = (0, 0, 0);
        for volume in &volumes {
            let files = bytes_below(&wharf_engine::volumes::files(&data, &volume.name));
            bytes += files;
            match engine.users_of_volume(&volume.name).map_err(containers::hinted)?.is_empty() {
                true => reclaimable += files,
                false => active += 1,
            }
        }
        rows.push(Row { kind: "Local Volumes", total: volumes.len(), active, bytes, reclaimable });
        let cache = bytes_below(&data.join("build-cache"));
        let steps = std::fs::read_dir(data.join("build-cache/records")).map_or(0, |steps| steps.count());
        rows.push(Row { kind: "Build Cache", total: steps, active: 0, bytes: cache, reclaimable: cache });
        match self.output {
            Some(Form::Json) => {
                let facts = rows.iter().map(facts).collect::<Vec<_>>();
                println!("{}", serde_json::to_string_pretty(&facts)?);
            }
            Some(Form::Yaml) => rows.iter().for_each(|row| println!("- {}", facts(row))),
            _ => print(&rows),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Blobs and unpacked layers, with what of them no container and no pod has.
fn images(store: &Store) -> anyhow::Result<[Row; 2]> {
    let held = store.leased().map_err(hinted)?;
    let images: HashSet<Digest> = store
        .references()
        .map_err(hinted)?
        .iter()
        .filter_map(|entry| Some(store.manifest(&entry.target).ok()?.1.config.digest))
        .collect();
    let (usage, layers) = (store.disk_usage().map_err(hinted)?, store.layer_sizes().map_err(hinted)?);
    let held_blobs: u64 = held.iter().filter_map(|digest| store.blobs().size(digest)).sum();
    let held_layers: Vec<u64> =
        layers.iter().filter(|(layer, _)| held.contains(layer)).map(|(_, bytes)| *bytes).collect();
    Ok([
        Row {
            kind: "Images",
            total: images.len(),
            active: images.intersection(&held).count(),
            bytes: usage.blob_bytes,
            reclaimable: usage.blob_bytes.saturating_sub(held_blobs),
        },
        Row {
            kind: "Unpacked Layers",
            total: layers.len(),
            active: held_layers.len(),
            bytes: usage.layer_bytes,
            reclaimable: usage.layer_bytes.saturating_sub(held_layers.iter().sum()),
        },
    ])
}

fn facts(row: &Row) -> serde_json::Value {
    json!({
        "type": row.kind, "total": row.total, "active": row.active, "size": row.bytes, "reclaimable": row.reclaimable,
    })
}

fn print(rows: &[Row]) {
    let cells = rows.iter().map(|row| {
        let share = row.reclaimable.saturating_mul(100).checked_div(row.bytes).unwrap_or(0);
        let reclaimable = format!("{} ({share}%)", human(row.reclaimable));
        vec![
            row.kind.to_owned(),
            row.total.to_string(),
            row.active.to_string(),
            human(row.bytes),
            reclaimable,
        ]
    });
    table(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &cells.collect::<Vec<_>>());
}
