//! `wharf image save` and `wharf image load`.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use wharf_base::Hinted;
use wharf_image::Archived;

use super::{Globals, hinted, open};
use crate::commands::completion;

#[derive(clap::Args)]
pub(crate) struct Save {
    /// Names or ids
    #[arg(required = true, add = completion::image())]
    images: Vec<String>,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Save {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let mut images: Vec<Archived> = Vec::new();
        for wanted in &self.images {
            let (name, target) = store.find(wanted).map_err(hinted)?;
            let name = name.filter(|name| name.tag().is_some());
            match images.iter_mut().find(|image| image.target.digest == target.digest) {
                Some(image) => image.names.extend(name),
                None => images.push(Archived { names: name.into_iter().collect(), target }),
            }
        }
        let Some(path) = &self.output else {
            if io::stdout().is_terminal() {
                let hint = "name a file with -o, or redirect the output";
                return Err(Hinted::new("an archive is not for a terminal", hint).into());
            }
            store.save(&images, BufWriter::new(io::stdout().lock())).map_err(hinted)?;
            return Ok(ExitCode::SUCCESS);
        };
        // Under another name until it is whole.
        let part = path.with_extension("part");
        let written = File::create(&part)
            .with_context(|| format!("cannot write {}", part.display()))
            .and_then(|file| {
                let mut out = BufWriter::with_capacity(256 << 10, file);
                store.save(&images, &mut out).map_err(hinted)?;
                out.flush()?;
                std::fs::rename(&part, path).with_context(|| format!("cannot write {}", path.display()))
            });
        if written.is_err() {
            std::fs::remove_file(&part).ok();
        }
        written.map(|()| ExitCode::SUCCESS)
    }
}

#[derive(clap::Args)]
pub(crate) struct Load {
    /// Read from a file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Load {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let images = match &self.input {
            Some(path) => {
                let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
                store.load(file)
            }
            None => store.load(io::stdin().lock()),
        }
        .map_err(hinted)?;
        for image in images {
            match image.names.as_slice() {
                [] => {
                    let digest = image.target.digest;
                    println!("Loaded image ID: {digest} (without a name; the archive has none)");
                    // Without a name it would go with the next collection.
                    store.tag(&[unnamed(digest)?], &image.target).map_err(hinted)?;
                }
                names => names.iter().for_each(|name| println!("Loaded image: {}", name.familiar())),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn unnamed(digest: wharf_base::Digest) -> anyhow::Result<wharf_image::Reference> {
    format!("loaded@{digest}").parse().map_err(hinted)
}
