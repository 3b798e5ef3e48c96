//! `wharf image tag` and `wharf image rm`.

use std::process::ExitCode;

use wharf_base::Hinted;
use wharf_image::{Descriptor, GcOptions, Reference, Store};

use super::{Globals, hinted, open};
use crate::commands::containers::complain;

#[derive(clap::Args)]
pub(crate) struct Tag {
    /// Name or id of the image
    source: String,
    /// The other name
    target: Reference,
}

impl Tag {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let (_, image) = store.find(&self.source).map_err(hinted)?;
        if self.target.digest().is_some() {
            return Err(Hinted::new("a name to give has no digest", "write it as NAME:TAG").into());
        }
        store.tag(&[self.target], &image).map_err(hinted)?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(clap::Args)]
pub(crate) struct Rm {
    /// Names or ids
    #[arg(required = true)]
    images: Vec<String>,
    /// Remove an image by its id even when it has several names
    #[arg(short, long)]
    force: bool,
}

impl Rm {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let mut code = ExitCode::SUCCESS;
        for image in &self.images {
            if let Err(error) = self.remove(&store, image) {
                complain(&error);
                code = ExitCode::FAILURE;
            }
        }
        // What is younger than the grace stays until a later collection: a build may be about to name it.
        store.gc(&GcOptions::default()).map_err(hinted)?;
        Ok(code)
    }

    fn remove(&self, store: &Store, image: &str) -> anyhow::Result<()> {
        let (name, target) = store.find(image).map_err(hinted)?;
        let names = match name {
            Some(name) if name.digest().is_none() => vec![store.local_name(&name).map_err(hinted)?],
            Some(name) => {
                let repository = store.local_name(&name).map_err(hinted)?.repository();
                names_of(store, &target, |n| n.repository() == repository)?
            }
            None => names_of(store, &target, |_| true)?,
        };
        if names.len() > 1 && !self.force {
            let shown: Vec<_> = names.iter().map(Reference::familiar).collect();
            return Err(Hinted::new(
                format!("image '{image}' has several names: {}", shown.join(", ")),
                "name one of them, or remove all with --force",
            )
            .into());
        }
        for name in names {
            store.untag(&name).map_err(hinted)?;
            say!("Untagged: {}", name.familiar());
        }
        Ok(())
    }
}

fn names_of(
    store: &Store,
    target: &Descriptor,
    wanted: impl Fn(&Reference) -> bool,
) -> anyhow::Result<Vec<Reference>> {
    let id = |target: &Descriptor| store.manifest(target).map_or(target.digest, |(_, m)| m.config.digest);
    let wanted_id = id(target);
    let entries = store.references().map_err(hinted)?;
    let same = entries.into_iter().filter(|e| wanted(&e.reference) && id(&e.target) == wanted_id);
    Ok(same.map(|e| e.reference).collect())
}
