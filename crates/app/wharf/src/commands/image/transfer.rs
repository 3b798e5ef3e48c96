//! `wharf image pull` and `wharf image push`.

use std::process::ExitCode;

use wharf_engineapi::client::{Client, Progress, Silent};
use wharf_image::Reference;

use super::{
    Globals, hinted, open,
    progress::{Lines, Way},
};
use crate::commands::completion;

#[derive(clap::Args)]
pub(crate) struct Pull {
    /// Names, as [HOST[:PORT]/]NAME[:TAG][@DIGEST]
    #[arg(required = true, add = completion::image())]
    images: Vec<Reference>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// Leave the layers packed: what uses them first unpacks them
    #[arg(long)]
    no_unpack: bool,
}

impl Pull {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let client = match self.no_unpack {
            true => Client::of_user().leaving_packed(),
            false => Client::of_user(),
        };
        runtime()?.block_on(async {
            for image in &self.images {
                let lines = Lines::new(Way::In, self.quiet);
                let progress = lines.as_ref().map_or(&Silent as &dyn Progress, |lines| lines);
                let before = store.lookup(image).ok().map(|d| d.digest);
                let target = client.pull(&store, image, progress).await.map_err(hinted)?;
                if !self.quiet {
                    let newer = match before == Some(target.digest) {
                        true => "Image is up to date for",
                        false => "Downloaded newer image for",
                    };
                    eprintln!("Digest: {}\nStatus: {newer} {}", target.digest, image.familiar());
                }
                println!("{image}");
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

#[derive(clap::Args)]
pub(crate) struct Push {
    /// Names; each says which registry it goes to
    #[arg(required = true, add = completion::image())]
    images: Vec<Reference>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Push {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let client = Client::of_user();
        runtime()?.block_on(async {
            for image in &self.images {
                let lines = Lines::new(Way::Out, self.quiet);
                let progress = lines.as_ref().map_or(&Silent as &dyn Progress, |lines| lines);
                let pushed = client.push(&store, image, progress).await.map_err(hinted)?;
                let name = image.tag().map_or_else(|| image.familiar(), str::to_owned);
                println!("{name}: digest: {} size: {}", pushed.digest, pushed.size);
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
