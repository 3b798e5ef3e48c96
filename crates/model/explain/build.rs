//! Collects the descriptions that the sources of k8s-openapi carry, and packs them.
//!
//! They are taken as they are at build time, since a program that calls the crate for them would be megabytes of code.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const CRATE: &str = "k8s-openapi";
/// The release whose kinds are described.
const RELEASE: &str = "v1_36";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let sources = sources()?.join("src").join(RELEASE);
    let mut text = String::new();
    folder(&sources, &mut text)?;
    if text.is_empty() {
        return Err(format!("{} has no descriptions", sources.display()).into());
    }
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptions.zst");
    fs::write(out, zstd::encode_all(text.as_bytes(), 19)?)?;
    Ok(())
}

/// Where cargo has put the sources of the crate.
fn sources() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let manifest = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml");
    let asked = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--filter-platform", &env::var("HOST")?, "--manifest-path"])
        .arg(&manifest)
        .output()?;
    if !asked.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&asked.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let found = packages.iter().find(|package| package["name"] == CRATE);
    let manifest =
        found.and_then(|package| package["manifest_path"].as_str()).ok_or("the crate is not there")?;
    Ok(Path::new(manifest).parent().ok_or("the manifest has no folder")?.to_owned())
}

fn folder(dir: &Path, text: &mut String) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            folder(&path, text)?;
        } else {
            file(&fs::read_to_string(&path)?, text);
        }
    }
    Ok(())
}

/// The schema a type gives of itself: its name, then properties at one depth, each followed by what is said of it.
fn file(source: &str, text: &mut String) {
    let Some((_, schema)) = source.split_once("impl crate::schemars::JsonSchema for ") else { return };
    let Some(name) = schema.lines().find_map(|line| line.trim().strip_suffix(".into()")) else { return };
    text.push_str("T\t");
    text.push_str(name.trim_matches('"').trim_start_matches("io.k8s."));
    let (mut field, mut depth) = (String::new(), 0);
    for line in schema.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if let Some(said) = said(line) {
            if field.is_empty() && depth == 0 {
                text.push('\t');
                text.push_str(&said);
                depth = indent;
            } else if !field.is_empty() {
                text.push_str(&format!("\n{field}\t{said}"));
                field.clear();
            }
        } else if indent == depth + 4 && depth > 0 {
            // Properties stand one step deeper than the description of the type itself.
            field = match line.strip_suffix(": {").or_else(|| line.strip_suffix(": ({")) {
                Some(name) => name.trim_matches('"').to_owned(),
                None => continue,
            };
        }
    }
    text.push('\n');
}

/// The description in a line, on one line and without Rust's escapes.
fn said(line: &str) -> Option<String> {
    let quoted = match line.strip_prefix("\"description\": \"") {
        Some(rest) => rest.strip_suffix("\",")?,
        None => line.split_once("insert(\"description\".into(), \"")?.1.strip_suffix("\".into());")?,
    };
    Some(quoted.replace("\\n", " ").replace("\\\"", "\"").replace("\\\\", "\\").replace('\t', " "))
}
