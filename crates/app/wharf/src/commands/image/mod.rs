//! `wharf image`: images of the platform's store, and their way in and out.

mod archive;
mod df;
mod inspect;
mod ls;
mod names;
mod pack;
mod progress;
mod prune;
mod scan;
mod transfer;

use std::{process::ExitCode, sync::Arc};

use clap::Subcommand;
use wharf_base::Hinted;
use wharf_image::Store;

use super::Globals;

/// Manage images
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List images
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Make a small base image of this machine's own programs
    Pack(pack::Args),
    /// Download an image from a registry
    Pull(transfer::Pull),
    /// Upload an image to a registry
    Push(transfer::Push),
    /// Give an image another name
    Tag(names::Tag),
    /// Remove one or more images
    Rm(names::Rm),
    /// Return low-level information on images
    Inspect(inspect::Args),
    /// Save images to a tar archive that docker, podman and skopeo read
    Save(archive::Save),
    /// Load images from a docker or OCI archive
    Load(archive::Load),
    /// Show what takes how much of the disk
    Df(df::Args),
    /// Remove what no image needs
    Prune(prune::Args),
    /// Find known vulnerabilities and secrets in an image
    Scan(scan::Args),
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Ls(args) => args.run(globals),
            Command::Pack(args) => args.run(globals),
            Command::Pull(args) => args.run(globals),
            Command::Push(args) => args.run(globals),
            Command::Tag(args) => args.run(globals),
            Command::Rm(args) => args.run(globals),
            Command::Inspect(args) => args.run(globals),
            Command::Save(args) => args.run(globals),
            Command::Load(args) => args.run(globals),
            Command::Df(args) => args.run(globals),
            Command::Prune(args) => args.run(globals),
            Command::Scan(args) => args.run(globals),
        }
    }
}

fn open(globals: &Globals) -> anyhow::Result<Arc<Store>> {
    Ok(Arc::new(Store::open(globals.data_dir()?.join("images")).map_err(hinted)?))
}

/// An error of the store with what to do about it.
pub(super) fn hinted(error: wharf_image::Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted::new(error, hint).into(),
        None => error.into(),
    }
}

/// Columns as wide as their content.
fn table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("   ").trim_end());
    };
    line(headings.to_vec());
    rows.iter().for_each(|row| line(row.iter().map(String::as_str).collect()));
}

/// Bytes in the units docker uses.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 100.0 { 0 } else { 1 + usize::from(value < 10.0) };
    format!("{value:.decimals$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_read_as_dockers() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (12_345_678, "12.3MB"), (999_950_000, "1.00GB")]
        {
            assert_eq!(super::human(bytes), text);
        }
    }
}
