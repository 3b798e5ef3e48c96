//! Where a finished build goes: store, registry, archive, folder, and the files that tell of it.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use wharf_base::Hinted;
use wharf_build::{BuildResult, Builder, CachePlace, CacheTarget, Image};
use wharf_engineapi::client::{Client, Silent};
use wharf_image::{Archived, Platform, Reference, Store, UnpackOptions, unpack_into};

use super::{Args, options::Output, reference};
use crate::commands::image::hinted;

/// Delivers to every output, then tells of it.
pub(super) fn all(
    args: &Args,
    builder: &Builder,
    outputs: &[Output],
    result: &BuildResult,
    epoch: Option<i64>,
) -> anyhow::Result<ExitCode> {
    let mut tells_id = true;
    for output in outputs {
        match output {
            Output::Image { names, push: true, .. } => push(args, builder.images(), names)?,
            Output::Image { .. } => {}
            Output::Local(folder) => match result.images.as_slice() {
                [image] => builder.export_folder(&image.manifest, folder)?,
                images => images.iter().try_for_each(|image| {
                    builder.export_folder(&image.manifest, &folder.join(folder_of(&image.platform)))
                })?,
            },
            Output::Tar(dest) => {
                write(dest.as_deref(), |out| {
                    let several = result.images.len() > 1;
                    let folder = |image: &Image| several.then(|| folder_of(&image.platform));
                    let images: Vec<_> =
                        result.images.iter().map(|image| (folder(image), &image.manifest)).collect();
                    builder.export_tar(&images, out, epoch)?;
                    Ok(())
                })?;
                tells_id &= dest.is_some();
            }
            Output::Archive { names, dest, folder, .. } => {
                archive(args, builder.images(), names, result, dest.as_deref(), *folder)?;
                tells_id &= dest.is_some();
            }
        }
    }
    if let Some(path) = &args.iidfile {
        fs::write(path, result.id.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.metadata_file {
        let text = serde_json::to_string_pretty(&metadata(args, result))?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if tells_id {
        println!("{}", result.id);
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the files of one platform go when there are several: `linux_arm64`.
fn folder_of(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

/// In the words of docker's `--metadata-file`, and the steps besides.
fn metadata(args: &Args, result: &BuildResult) -> serde_json::Value {
    let step = |step: &wharf_build::StepReport| serde_json::json!({ "name": step.name, "cached": step.cached, "seconds": step.elapsed.as_secs_f64() });
    serde_json::json!({
        "containerimage.digest": result.manifest.digest,
        "containerimage.config.digest": result.id,
        "containerimage.descriptor": result.manifest,
        "image.name": args.tag.join(","),
        "wharf.steps": result.steps.iter().map(step).collect::<Vec<_>>(),
        "wharf.warnings": result.warnings,
    })
}

fn push(args: &Args, images: &Arc<Store>, names: &[String]) -> anyhow::Result<()> {
    let names = args.tag.iter().chain(names).map(|name| reference(name));
    let names = names.collect::<anyhow::Result<Vec<Reference>>>()?;
    if names.is_empty() {
        bail!(Hinted::new(
            "there is no name to push the image to",
            "give one with -t, or name=… of the output"
        ));
    }
    push_all(images, &names)
}

fn push_all(images: &Arc<Store>, names: &[Reference]) -> anyhow::Result<()> {
    let client = Client::of_user();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for name in names {
        runtime.block_on(client.push(images, name, &Silent)).map_err(hinted)?;
    }
    Ok(())
}

/// Pushes caches that go to registries; here they need no name, since the own cache has what they hold.
pub(super) fn caches(images: &Arc<Store>, targets: &[CacheTarget]) -> anyhow::Result<()> {
    for target in targets {
        let CachePlace::Image(name) = &target.place else { continue };
        // The platform's own registry serves this very store.
        if images.local_name(name).map_err(hinted)? != *name {
            continue;
        }
        let pushed = push_all(images, std::slice::from_ref(name));
        images.untag(name).map_err(hinted)?;
        pushed.with_context(|| format!("cannot push the cache to {name}"))?;
    }
    Ok(())
}

fn archive(
    args: &Args,
    images: &Store,
    names: &[String],
    result: &BuildResult,
    dest: Option<&Path>,
    folder: bool,
) -> anyhow::Result<()> {
    let names = args.tag.iter().chain(names).map(|name| reference(name)).collect::<anyhow::Result<_>>()?;
    let image = Archived { names, target: result.manifest.clone() };
    let save = |out: &mut dyn Write| images.save(std::slice::from_ref(&image), out).map_err(hinted);
    let Some(dest) = dest.filter(|_| folder) else { return write(dest, save) };
    fs::create_dir_all(dest).with_context(|| format!("cannot make the folder {}", dest.display()))?;
    let file = dest.with_extension("part");
    let unpacked = write(Some(&file), save).and_then(|()| {
        let options = UnpackOptions { whiteouts: false, ..UnpackOptions::default() };
        unpack_into(File::open(&file)?, dest, &options).map_err(hinted)?;
        Ok(())
    });
    let _ = fs::remove_file(&file);
    unpacked
}

/// Writes to a file, under another name until it is whole, or to standard output.
fn write(dest: Option<&Path>, work: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Some(dest) = dest else {
        let mut out = BufWriter::new(io::stdout().lock());
        work(&mut out)?;
        return Ok(out.flush()?);
    };
    let mut part = dest.as_os_str().to_owned();
    part.push(".writing");
    let part = PathBuf::from(part);
    let written =
        File::create(&part).with_context(|| format!("cannot write {}", part.display())).and_then(|file| {
            let mut out = BufWriter::with_capacity(256 << 10, file);
            work(&mut out)?;
            out.flush()?;
            fs::rename(&part, dest).with_context(|| format!("cannot write {}", dest.display()))
        });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
