//! `wharf image df`: what takes how much of the disk, and what of it could be had back.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    process::ExitCode,
};

use serde_json::json;
use wharf_base::Digest;
use wharf_image::Store;

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
        let folder = |container: &wharf_engine::Container| size(container.dir.path());
        let stopped = all.iter().filter(|container| !container.is_running()).map(folder).sum();
        let mut rows = images(&store)?;
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
            let files = size(&wharf_engine::volumes::files(&data, &volume.name));
            bytes += files;
            match engine.users_of_volume(&volume.name).map_err(containers::hinted)?.is_empty() {
                true => reclaimable += files,
                false => active += 1,
            }
        }
        rows.push(Row { kind: "Local Volumes", total: volumes.len(), active, bytes, reclaimable });
        let cache = size(&data.join("build-cache"));
        let steps = std::fs::read_dir(data.join("build-cache/records")).map_or(0, |steps| steps.count());
        rows.push(Row { kind: "Build Cache", total: steps, active: 0, bytes: cache, reclaimable: cache });
        match self.output {
            Some(Form::Json) => {
                let facts = rows.iter().map(facts).collect::<Vec<_>>();
                say!("{}", serde_json::to_string_pretty(&facts)?);
            }
            Some(Form::Yaml) => rows.iter().for_each(|row| say!("- {}", facts(row))),
            _ => print(&rows),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Blobs and unpacked layers, with what only images have that nothing uses.
fn images(store: &Store) -> anyhow::Result<Vec<Row>> {
    let usage = store.disk_usage().map_err(hinted)?;
    let mut needed: HashMap<Digest, (u64, bool)> = HashMap::new();
    let (mut known, mut active) = (HashSet::new(), HashSet::new());
    for entry in store.references().map_err(hinted)? {
        let Ok((_, manifest)) = store.manifest(&entry.target) else { continue };
        let id = manifest.config.digest;
        // Of containers and of pods.
        let is_used = !store.holders(&entry.target).map_err(hinted)?.is_empty();
        known.insert(id);
        if is_used {
            active.insert(id);
        }
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            let known = needed.entry(blob.digest).or_insert((blob.size, false));
            known.1 |= is_used;
        }
    }
    let kept: u64 = needed.values().filter(|(_, used)| *used).map(|(size, _)| size).sum();
    let image_bytes: u64 = needed.values().map(|(size, _)| size).sum();
    // What no image has is content of builds and pushes, or will go with the next prune.
    let unnamed = usage.blob_bytes.saturating_sub(image_bytes);
    Ok(vec![
        Row {
            kind: "Images",
            total: known.len(),
            active: active.len(),
            bytes: usage.blob_bytes,
            reclaimable: (image_bytes - kept) + unnamed,
        },
        Row {
            kind: "Unpacked Layers",
            total: usize::try_from(usage.layers).unwrap_or(usize::MAX),
            active: usize::try_from(usage.layers).unwrap_or(usize::MAX),
            bytes: usage.layer_bytes,
            reclaimable: 0,
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

/// Bytes of the files in a folder, without following links or other file systems mounted below it.
fn size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(top) = std::fs::symlink_metadata(folder) else { return 0 };
    let (mut open, mut bytes) = (vec![folder.to_owned()], 0);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() && found.dev() == top.dev() => open.push(entry.path()),
                Ok(found) if found.is_file() => bytes += found.len(),
                _ => {}
            }
        }
    }
    bytes
}
