//! Field numbers out of the `#[prost(…, tag = "N")]` attributes of the crate k8s-pb.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result};

/// One field of a message: its number and, when it is a message of this package set, its type.
pub(crate) struct ProtoField {
    pub tag: u32,
    /// `package.Name` of a message field that is neither repeated nor a map.
    pub message: Option<String>,
}

/// Message name (`api.core.v1.pod`) to field to number; both folded.
pub(crate) type Protos = HashMap<String, HashMap<String, ProtoField>>;

/// The name of a field as both sides spell it: letters and digits, lower case.
pub(crate) fn folded(name: &str) -> String {
    let name = name.trim_start_matches("r#");
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

pub(crate) fn read(src: &str) -> Result<Protos> {
    let mut protos = Protos::new();
    folder(Path::new(src), "", &mut protos)?;
    Ok(protos)
}

fn folder(dir: &Path, package: &str, protos: &mut Protos) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let package = if package.is_empty() { name } else { format!("{package}.{name}") };
            folder(&path, &package, protos)?;
        } else if name == "mod.rs" {
            file(&fs::read_to_string(&path)?, package, protos);
        }
    }
    Ok(())
}

fn file(text: &str, package: &str, protos: &mut Protos) {
    let mut message = String::new();
    let mut attribute = String::new();
    for line in joined(text) {
        let line = line.as_str();
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            message = format!("{package}.{}", folded(&name));
            protos.entry(message.clone()).or_default();
        } else if line.starts_with("#[prost(") {
            attribute = line.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("pub ").and_then(|l| l.split_once(": ")) {
            let tag = attribute
                .split("tag = \"")
                .nth(1)
                .and_then(|t| t.split('"').next())
                .and_then(|t| t.parse().ok());
            if let (Some(tag), Some(fields)) = (tag, protos.get_mut(&message)) {
                fields.insert(folded(name), ProtoField { tag, message: message_type(kind, package) });
            }
            attribute.clear();
        }
    }
}

/// The lines of a file without indentation; a field whose type was wrapped is one line again.
fn joined(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        match lines.last_mut() {
            Some(open) if open.starts_with("pub ") && !open.ends_with([',', '{', ';', '}']) => {
                if open.ends_with(':') {
                    open.push(' ');
                }
                open.push_str(line);
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// `Option<super::super::v1::X>` or `Option<X>` as `package.X`.
fn message_type(kind: &str, package: &str) -> Option<String> {
    let path = kind.trim_end_matches(',').strip_prefix("::core::option::Option<")?.strip_suffix('>')?;
    let path = path.trim_end_matches(',');
    if path.starts_with("::")
        || path.chars().next().is_some_and(char::is_lowercase) && !path.starts_with("super")
    {
        return None;
    }
    let mut parts: Vec<&str> = package.split('.').collect();
    let mut rest = path;
    while let Some(up) = rest.strip_prefix("super::") {
        parts.pop();
        rest = up;
    }
    let mut path: Vec<&str> = rest.split("::").collect();
    let name = folded(path.pop()?);
    parts.extend(path);
    parts.push(&name);
    Some(parts.join("."))
}
