//! Packs the sample application into the program: the demo must run where the source tree is not.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// What running the sample from the tree leaves behind.
const LEFT_OUT: [&str; 4] = ["__pycache__", ".deps", "dist", "build"];

fn main() -> io::Result<()> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from).ok_or(io::ErrorKind::NotFound);
    let sample = variable("CARGO_MANIFEST_DIR")?.join("../../../examples/shop");
    let archive = File::create(variable("OUT_DIR")?.join("shop.tar"))?;
    let mut archive = tar::Builder::new(archive);
    add(&mut archive, &sample, Path::new(""))?;
    archive.into_inner()?.sync_all()
}

/// Adds what is in a folder, in order of names and without times, so that equal trees give equal programs.
fn add(archive: &mut tar::Builder<File>, root: &Path, folder: &Path) -> io::Result<()> {
    println!("cargo:rerun-if-changed={}", root.join(folder).display());
    let mut names: Vec<_> = fs::read_dir(root.join(folder))?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    for name in names {
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let path = folder.join(&name);
        let file = root.join(&path);
        let about = fs::symlink_metadata(&file)?;
        if about.is_dir() {
            add(archive, root, &path)?;
            continue;
        }
        println!("cargo:rerun-if-changed={}", file.display());
        let mut header = tar::Header::new_gnu();
        header.set_size(about.len());
        header.set_mode(if about.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 });
        archive.append_data(&mut header, &path, File::open(&file)?)?;
    }
    Ok(())
}
