//! Puts two programs of their own into this crate: the first process of containers that ask for one (`init/`), and, in release builds,
//! the shim.
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
    for watched in ["build.rs", "Cargo.toml", "init", "src", "../../model/base", "../../../Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", folder.join(watched).display());
    }
    let first = init(&folder)?;
    println!("cargo::rustc-env=WHARF_INIT={}", first.display());
    println!("cargo::rustc-env=WHARF_INIT_NAME=init-{:016x}", hash_of(&first)?);
    // What is built to be tried out stays quick to build: there a shim is the whole program.
    if env::var("PROFILE")? != "release" || env::var_os(ITSELF).is_some() {
        return Ok(());
    }
    let program = build(&folder)?;
    println!("cargo::rustc-cfg=shim_inside");
    println!("cargo::rustc-env=WHARF_SHIM={}", program.display());
    println!("cargo::rustc-env=WHARF_SHIM_NAME=shim-{:016x}", hash_of(&program)?);
    Ok(())
}

/// What names a program by its content.
fn hash_of(program: &Path) -> Result<u64, Box<dyn Error>> {
    let mut hasher = DefaultHasher::new();
    std::fs::read(program)?.hash(&mut hasher);
    Ok(hasher.finish())
}

/// Compiles the first process of containers, which knows no library. Gives its path.
fn init(folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let program = PathBuf::from(env::var("OUT_DIR")?).join("init");
    let mut command = Command::new(env::var("RUSTC")?);
    command.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "init"]);
    for option in ["panic=abort", "opt-level=s", "relocation-model=static", "strip=symbols"] {
        command.args(["-C", option]);
    }
    for option in ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none"] {
        command.args(["-C", &format!("link-arg={option}")]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        command.args(["-C", &format!("linker={linker}")]);
    }
    command.args(["--target", &env::var("TARGET")?, "-o"]).arg(&program).arg(folder.join("init/main.rs"));
    let status = command.status()?;
    if !status.success() {
        return Err(format!("the first process of containers could not be built: {status}").into());
    }
    Ok(program)
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
