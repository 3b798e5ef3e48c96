//! Puts the shim as a program of its own into release builds.
//!
//! A program pays at every start, and in every process's memory, for each address of its own that it refers to. As the whole platform
//! under another name a shim kept more than two megabytes of them.

#![allow(clippy::print_stdout, reason = "that is how a build script answers")]

use std::{
    env,
    error::Error,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

/// Set while the shim itself is built.
const ITSELF: &str = "WHARF_SHIM_ITSELF";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(shim_inside)");
    println!("cargo::rerun-if-env-changed={ITSELF}");
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    for watched in ["build.rs", "Cargo.toml", "src", "../../model/base", "../../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", folder.join(watched).display());
    }
    // What is built to be tried out stays quick to build: there a shim is the whole program.
    if env::var("PROFILE")? != "release" || env::var_os(ITSELF).is_some() {
        return Ok(());
    }
    let program = build(&folder)?;
    let mut hasher = DefaultHasher::new();
    std::fs::read(&program)?.hash(&mut hasher);
    println!("cargo::rustc-cfg=shim_inside");
    println!("cargo::rustc-env=WHARF_SHIM={}", program.display());
    println!("cargo::rustc-env=WHARF_SHIM_NAME=shim-{:016x}", hasher.finish());
    Ok(())
}

/// Builds the shim of the same sources and the same locked crates. Gives its path.
fn build(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let target = PathBuf::from(env::var("OUT_DIR")?).join("shim");
    let machine = env::var("TARGET")?;
    let status = Command::new(env::var("CARGO")?)
        .args(["build", "--release", "--locked", "--offline", "--bin", "wharf-shim", "--target", &machine])
        .arg("--manifest-path")
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        // Small before all: what is in it is in the memory of every container.
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .env(ITSELF, "1")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()?;
    if !status.success() {
        return Err(format!("the shim could not be built: {status}").into());
    }
    Ok(target.join(machine).join("release/wharf-shim"))
}
