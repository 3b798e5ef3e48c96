//! Small base images of this machine's own programs and what they need, so that builds work with no registry at hand.

mod collect;
mod elf;
mod layout;
mod loader;
mod python;

use std::path::{Path, PathBuf};

use wharf_base::Digest;
use wharf_image::{Compression, Descriptor, History, ImageConfig, Reference, Store};

use crate::error::{Error, Result};
use collect::Collector;
use layout::Layout;

/// What to pack.
#[derive(Debug, Clone, Default)]
pub struct PackRequest {
    /// The image's names.
    pub tags: Vec<Reference>,
    /// Programs by name, looked for in PATH, or files and folders by absolute path.
    pub programs: Vec<String>,
    /// Gives busybox a link for each of its programs.
    pub applets: bool,
}

/// What was packed.
#[derive(Debug, Clone)]
pub struct PackReport {
    /// The image's id.
    pub id: Digest,
    /// Its manifest.
    pub manifest: Descriptor,
    /// Files in it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The programs, as they are found in it.
    pub programs: Vec<PathBuf>,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ash", "busybox"];
/// The image is made of files that are older; a time of its own would make each digest another.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Makes an image of programs of this machine. Equal files give an equal digest.
pub fn pack(images: &Store, request: &PackRequest) -> Result<PackReport> {
    if request.programs.is_empty() {
        return Err(Error::invalid("no program is named").hint("write `wharf image pack NAME PROGRAM…`"));
    }
    let mut collector = Collector::new();
    let mut programs = Vec::new();
    for name in &request.programs {
        let path = find_program(name)?;
        collector.add(&path)?;
        if let Some(home) = python::library_of(&path) {
            collector.python(&home)?;
        }
        programs.push(path);
    }
    // After all that were named: of two programs of a name that one is meant.
    let busybox = programs.iter().filter(|path| path.file_name().is_some_and(|name| name == "busybox"));
    for path in busybox.filter(|_| request.applets) {
        collector.applets(path)?;
    }
    collector.surroundings()?;
    let warnings = std::mem::take(&mut collector.warnings);
    let layout: Layout = collector.into_layout();
    let (files, bytes) = layout.size();
    let scratch = images.scratch()?;
    layout.write(&scratch.upper()).map_err(|error| error.full_in(&scratch.upper()))?;
    let layer = images
        .commit_scratch(scratch, Compression::Gzip, None)?
        .ok_or_else(|| Error::host("nothing was packed"))?;
    let manifest = images.put_image(config(request, &programs), &[layer])?;
    if !request.tags.is_empty() {
        images.tag(&request.tags, &manifest)?;
    }
    let id = images.manifest(&manifest)?.1.config.digest;
    Ok(PackReport { id, manifest, files, bytes, programs, warnings })
}

fn config(request: &PackRequest, programs: &[PathBuf]) -> ImageConfig {
    let mut config = ImageConfig::for_host();
    config.created = Some(CREATED.into());
    config.config.env = vec![format!("PATH={PATH}")];
    config.config.working_dir = "/".into();
    let name_of =
        |path: &&PathBuf| path.file_name().is_some_and(|name| SHELLS.iter().any(|shell| name == *shell));
    let main = programs.iter().find(name_of).or(programs.first());
    config.config.cmd = main.map(|path| vec![path.to_string_lossy().into_owned()]);
    if config.config.cmd.as_ref().is_some_and(|cmd| cmd.iter().any(|word| word.ends_with("/busybox"))) {
        config.config.cmd.get_or_insert_default().push("sh".into());
    }
    config.history = vec![History {
        created: Some(CREATED.into()),
        created_by: Some(format!("wharf image pack {}", request.programs.join(" "))),
        ..History::default()
    }];
    config
}

/// The absolute path of a program.
fn find_program(name: &str) -> Result<PathBuf> {
    if name.starts_with('/') {
        let path = PathBuf::from(crate::ignore::clean(name));
        return match path.symlink_metadata() {
            Ok(_) => Ok(path),
            Err(error) => Err(Error::invalid(format!("cannot pack '{name}'")).caused_by(error)),
        };
    }
    if name.contains('/') || name.is_empty() {
        return Err(Error::invalid(format!(
            "cannot pack '{name}': it is neither a name nor an absolute path"
        ))
        .hint("write the path from the root, or COPY the file in a Dockerfile"));
    }
    let search = std::env::var("PATH").unwrap_or_else(|_| PATH.into());
    let is_program = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    // Shims of version managers only start the program proper, from a home folder.
    let folders = search.split(':').filter(|folder| folder.starts_with('/') && !folder.ends_with("/shims"));
    folders.map(|folder| Path::new(folder).join(name)).find(is_program).ok_or_else(|| {
        Error::invalid(format!("the program '{name}' is not on this machine"))
            .hint(format!("install it, or give its absolute path; looked in {search}"))
    })
}
