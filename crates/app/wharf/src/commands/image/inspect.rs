//! `wharf image inspect`: everything known about images, in docker's shape.

use std::process::ExitCode;

use serde_json::{Value, json};
use wharf_image::{ImageConfig, Store};

use super::{Globals, hinted, ls::repository, open};
use crate::commands::{completion, containers::complain, formatted::Format, platform::say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, add = completion::image())]
    images: Vec<String>,
    /// Print by a Go template, as docker takes it: '{{.Config.Cmd}}', 'table …', or 'json'
    #[arg(short = 'f', long, value_name = "TEMPLATE")]
    format: Option<Format>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let mut code = ExitCode::SUCCESS;
        let mut found = Vec::new();
        for wanted in &self.images {
            match describe(&store, wanted).map_err(hinted) {
                Ok(value) => found.push(value),
                Err(error) => {
                    complain(&error);
                    code = ExitCode::FAILURE;
                }
            }
        }
        match &self.format {
            Some(format) => say(&format.lines(&[], &found)?),
            None => println!("{}", serde_json::to_string_pretty(&found)?),
        }
        Ok(code)
    }
}

fn describe(store: &Store, wanted: &str) -> wharf_image::Result<Value> {
    let (_, target) = store.find(wanted)?;
    let (digest, manifest) = store.manifest(&target)?;
    let config = ImageConfig::parse(&store.document(&manifest.config.digest)?)?;
    let entries = store.references()?;
    let mine: Vec<_> = entries.iter().filter(|e| e.target.digest == target.digest).collect();
    let tags: Vec<_> =
        mine.iter().filter(|e| e.reference.tag().is_some()).map(|e| e.reference.familiar()).collect();
    let mut digests: Vec<_> = mine.iter().map(|e| format!("{}@{}", repository(e), target.digest)).collect();
    digests.dedup();
    Ok(json!({
        "Id": manifest.config.digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": config.created,
        "Author": config.author,
        "Architecture": config.architecture,
        "Os": config.os,
        "Config": config.config,
        "Size": store.layer_contents(&manifest, &config).iter().sum::<u64>(),
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "History": config.history,
        "Descriptor": target,
        "Manifest": { "Digest": digest, "Config": manifest.config, "Layers": manifest.layers },
    }))
}
