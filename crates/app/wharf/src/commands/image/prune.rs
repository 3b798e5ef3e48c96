//! `wharf image prune`: removes what no image needs.

use std::{process::ExitCode, time::Duration};

use wharf_image::GcOptions;

use super::{Globals, hinted, human, ls::parts_of_indexes, open};
use crate::commands::containers;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Remove also content that is younger than this many seconds; pushes and builds under way may need it
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    grace: u64,
    /// Keep images without a tag
    #[arg(long)]
    keep_untagged: bool,
    /// Remove also what this platform's registry has without a tag: what a push of the same tag came after
    #[arg(long)]
    registry: bool,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        if !self.keep_untagged {
            let entries = store.references().map_err(hinted)?;
            let parts = parts_of_indexes(&store, &entries);
            for entry in entries {
                if entry.reference.tag().is_none() && !parts.contains(&entry.target.digest) {
                    store.untag(&entry.reference).map_err(hinted)?;
                    println!("Untagged: {}", entry.reference.familiar());
                }
            }
        }
        if self.registry {
            let entries = store.published().map_err(hinted)?;
            let parts = parts_of_indexes(&store, &entries);
            let untagged = entries.iter().filter(|e| e.reference.tag().is_none());
            for entry in untagged.filter(|e| !parts.contains(&e.target.digest)) {
                if store.forget(&entry.reference).map_err(hinted)?.is_some() {
                    println!("Removed from the registry: {}", entry.reference.familiar());
                }
            }
        }
        let engine = containers::open(globals)?;
        engine.sweep_leases(&store).map_err(containers::hinted)?;
        containers::tidy(&engine);
        let grace = Duration::from_secs(self.grace);
        let done = store.gc(&GcOptions { grace, ..GcOptions::default() }).map_err(hinted)?;
        store.blobs().sweep_partials(grace).map_err(hinted)?;
        println!("Removed {} blobs and {} unpacked layers", done.blobs, done.layers);
        println!("Total reclaimed space: {}", human(done.bytes));
        Ok(ExitCode::SUCCESS)
    }
}
