//! `wharf image ls`: lists images.

use std::{collections::HashSet, process::ExitCode};

use serde_json::json;
use wharf_base::{Clock, Digest, SystemClock, Timestamp};
use wharf_image::{ImageConfig, Index, Platform, RefEntry, Store, media_type};

use super::{Globals, hinted, human, open, table};
use crate::commands::{
    formatted::Format,
    platform::{Form, say},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only images of this name (REPOSITORY[:TAG])
    name: Option<String>,
    /// Show also the parts of images for several platforms
    #[arg(short, long)]
    all: bool,
    /// Show only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Another form of output
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    /// Show what this platform's registry has
    #[arg(long)]
    registry: bool,
    /// Print by a Go template, as docker takes it: '{{.Repository}}', 'table …', or 'json'
    #[arg(long, value_name = "TEMPLATE", conflicts_with_all = ["output", "quiet"])]
    format: Option<Format>,
}

/// What `--format` may name, with the headings of a table.
const FIELDS: [(&str, &str); 8] = [
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Platform", "PLATFORM"),
];

struct Row {
    entry: RefEntry,
    id: Digest,
    created: Option<Timestamp>,
    size: u64,
    platform: String,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let entries = if self.registry { store.published() } else { store.references() };
        let mut entries = entries.map_err(hinted)?;
        if !self.all {
            let parts = parts_of_indexes(&store, &entries);
            entries.retain(|e| e.reference.tag().is_some() || !parts.contains(&e.target.digest));
        }
        if let Some(name) = &self.name {
            let wanted: wharf_image::Reference = name.parse().map_err(hinted)?;
            let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
            entries.retain(|e| {
                e.reference.repository() == wanted.repository() && (!tagged || e.reference == wanted)
            });
        }
        let mut rows: Vec<Row> = entries.into_iter().map(|entry| row(&store, entry)).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.created));
        if let Some(format) = &self.format {
            let values: Vec<_> = rows.iter().map(|row| self.fields(row)).collect();
            say(&format.lines(&FIELDS, &values)?);
            return Ok(ExitCode::SUCCESS);
        }
        match self.output {
            Some(Form::Json) => {
                println!("{}", serde_json::to_string_pretty(&rows.iter().map(facts).collect::<Vec<_>>())?)
            }
            // JSON is YAML.
            Some(Form::Yaml) => rows.iter().for_each(|row| println!("- {}", facts(row))),
            _ if self.quiet => rows.iter().for_each(|row| println!("{}", self.id(row))),
            _ => self.print(&rows),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn id(&self, row: &Row) -> String {
        if self.no_trunc { row.id.to_string() } else { row.id.short() }
    }

    /// The values of [`FIELDS`].
    fn fields(&self, row: &Row) -> serde_json::Value {
        json!({
            "ID": self.id(row), "Repository": repository(&row.entry),
            "Tag": row.entry.reference.tag().unwrap_or("<none>"), "Digest": row.entry.target.digest,
            "CreatedSince": created_since(row), "CreatedAt": row.created, "Size": human(row.size),
            "Platform": row.platform,
        })
    }

    fn print(&self, rows: &[Row]) {
        let wide = self.output == Some(Form::Wide);
        let mut headings = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
        if wide {
            headings.extend(["DIGEST", "PLATFORM"]);
        }
        let cells = rows.iter().map(|row| {
            let created = created_since(row);
            let tag = row.entry.reference.tag().unwrap_or("<none>").to_owned();
            let mut cells = vec![repository(&row.entry), tag, self.id(row), created, human(row.size)];
            if wide {
                cells.extend([row.entry.target.digest.to_string(), row.platform.clone()]);
            }
            cells
        });
        table(&headings, &cells.collect::<Vec<_>>());
    }
}

fn created_since(row: &Row) -> String {
    let since = |at| format!("{} ago", wharf_engine::words::span(SystemClock.now(), at));
    row.created.map_or("N/A".to_owned(), since)
}

/// The repository as people write it.
pub(super) fn repository(entry: &RefEntry) -> String {
    let familiar = entry.reference.familiar();
    let name = familiar.split('@').next().unwrap_or_default();
    match entry.reference.tag() {
        Some(tag) => name.strip_suffix(&format!(":{tag}")).unwrap_or(name).to_owned(),
        None => name.to_owned(),
    }
}

/// Manifests that an image for several platforms consists of.
pub(super) fn parts_of_indexes(store: &Store, entries: &[RefEntry]) -> HashSet<Digest> {
    let indexes = entries.iter().filter(|e| media_type::is_index(&e.target.media_type));
    indexes
        .filter_map(|e| Index::parse(&store.document(&e.target.digest).ok()?).ok())
        .flat_map(|index| index.manifests.into_iter().map(|d| d.digest))
        .collect()
}

fn row(store: &Store, entry: RefEntry) -> Row {
    // What is no image of this machine, such as a signature, is listed by its digest.
    let found = store.manifest(&entry.target).ok();
    let config = found
        .as_ref()
        .and_then(|(_, manifest)| ImageConfig::parse(&store.document(&manifest.config.digest).ok()?).ok());
    let time = |text: &String| text.parse::<Timestamp>().ok();
    let created = config.as_ref().and_then(|c| c.created.as_ref()).and_then(time);
    let content = found.as_ref().zip(config.as_ref());
    let content = content.map(|((_, manifest), config)| store.layer_contents(manifest, config).iter().sum());
    let platform = config.map_or(String::new(), |c| {
        Platform { architecture: c.architecture, os: c.os, variant: None }.to_string()
    });
    Row {
        id: found.as_ref().map_or(entry.target.digest, |(_, m)| m.config.digest),
        // Where a digest must not depend on the time, that of the name is all there is.
        created: created
            .filter(|at| *at > Timestamp::from_unix(0, 0))
            .or_else(|| entry.created().and_then(|text| text.parse().ok())),
        size: content.unwrap_or(entry.target.size),
        platform,
        entry,
    }
}

fn facts(row: &Row) -> serde_json::Value {
    json!({
        "repository": repository(&row.entry), "tag": row.entry.reference.tag(), "id": row.id,
        "digest": row.entry.target.digest, "mediaType": row.entry.target.media_type,
        "created": row.created, "size": row.size, "platform": row.platform,
    })
}
