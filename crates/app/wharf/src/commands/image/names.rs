//! `wharf image tag` and `wharf image rm`.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use wharf_base::{Digest, Hinted};
use wharf_build::Builder;
use wharf_engine::leaseholder;
use wharf_image::{Descriptor, GcOptions, Reference, Store};
use wharf_runtime::{PodDir, ShimRuntime};

use super::{Globals, hinted, open};
use crate::commands::{
    completion,
    containers::{self, complain, name_of_pod},
};

#[derive(clap::Args)]
pub(crate) struct Tag {
    /// Name or id of the image
    #[arg(add = completion::image())]
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
    #[arg(required = true, add = completion::image())]
    images: Vec<String>,
    /// Remove all names of an image given by its id, and the name of one in use; its layers stay while they are used
    #[arg(short, long)]
    force: bool,
    /// Remove the names from this platform's registry too, where they have been pushed to it
    #[arg(long)]
    registry: bool,
}

impl Rm {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let store = open(globals)?;
        let mut code = ExitCode::SUCCESS;
        for image in &self.images {
            if let Err(error) = self.remove(globals, &store, image) {
                complain(&error);
                code = ExitCode::FAILURE;
            }
        }
        // What is younger than the grace stays until a later collection: a build may be about to name it.
        let keep = cached(&globals.data_dir()?, &store)?;
        store.gc(&GcOptions { keep, ..GcOptions::default() }).map_err(hinted)?;
        Ok(code)
    }

    fn remove(&self, globals: &Globals, store: &Store, image: &str) -> anyhow::Result<()> {
        let found = store.find(image);
        if found.is_err()
            && self.registry
            && let Ok(name) = image.parse::<Reference>()
        {
            let name = store.local_name(&name).map_err(hinted)?;
            if unpublish(store, &name)? {
                return Ok(());
            }
        }
        let (name, target) = found.map_err(hinted)?;
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
        if !self.force && names_of(store, &target, |name| !names.contains(name))?.is_empty() {
            refuse_used(globals, store, image, &target)?;
        }
        for name in names {
            store.untag(&name).map_err(hinted)?;
            println!("Untagged: {}", name.familiar());
            if self.registry {
                unpublish(store, &name)?;
            } else if store.lookup_published(&name).is_ok() {
                eprintln!("The registry keeps {}: remove it there too with --registry", name.familiar());
            }
        }
        Ok(())
    }
}

/// Takes a name out of the registry, with what it named if nothing else does there. False when it had none.
fn unpublish(store: &Store, name: &Reference) -> anyhow::Result<bool> {
    let Some(digest) = store.unpublish(name).map_err(hinted)? else { return Ok(false) };
    let repository = name.repository();
    let mut others = store.published().map_err(hinted)?;
    others.retain(|entry| entry.target.digest == digest && entry.reference.repository() == repository);
    if others.iter().all(|entry| entry.reference.tag().is_none()) {
        store.unpublish_digest(&repository, &digest).map_err(hinted)?;
    }
    println!("Removed from the registry: {}", name.familiar());
    Ok(true)
}

/// What the next builds take from the cache is not for this command to remove.
fn cached(data: &Path, store: &Arc<Store>) -> anyhow::Result<HashSet<Digest>> {
    let folder = data.join("build-cache");
    if !folder.exists() {
        return Ok(HashSet::new());
    }
    Ok(Builder::open(Arc::clone(store), folder, Arc::new(ShimRuntime::default()))?.kept()?)
}

/// An image without a name left must not be one that containers or pods run on.
fn refuse_used(globals: &Globals, store: &Store, image: &str, target: &Descriptor) -> anyhow::Result<()> {
    let data = globals.data_dir()?;
    let engine = containers::open(globals)?;
    engine.sweep_leases(store).map_err(containers::hinted)?;
    let (mut users, mut remove) = (BTreeSet::new(), Vec::new());
    // What is no image of this machine, such as a signature, nothing runs on.
    for lease in store.holders(target).unwrap_or_default() {
        if let Some(id) = leaseholder(&lease) {
            // One that is being made has no description yet.
            let name = engine.find(id.as_str()).map_or(id.short().to_owned(), |c| c.name().to_owned());
            users.insert(format!("container {name}"));
            remove.push(name);
        } else if let Some(pod) = pod_of(&data, &lease) {
            users.insert(format!("pod {pod}"));
        } else if let Some(job) = lease.strip_prefix("job-") {
            users.insert(format!("job {job}"));
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    let users = Vec::from_iter(users).join(", ");
    let first = match remove.as_slice() {
        [] => "delete them first".to_owned(),
        names => format!("remove them first ('wharf rm -f {}' for the containers)", names.join(" ")),
    };
    let hint =
        format!("{first}, or take only the name away with --force: the layers stay while they are used");
    Err(Hinted::new(format!("conflict: the image '{image}' is used by {users}"), hint).into())
}

/// NAMESPACE/NAME of the pod whose container has this lease, as its folder tells; the name is `pod-UID-CONTAINER`.
fn pod_of(data: &Path, lease: &str) -> Option<String> {
    let uid = lease.strip_prefix("pod-")?.get(..UID_LENGTH)?;
    PodDir::at(data.join("pods").join(uid)).config().ok().map(name_of_pod)
}

const UID_LENGTH: usize = 36;

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
