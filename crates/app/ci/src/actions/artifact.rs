//! `actions/upload-artifact` and `actions/download-artifact`: files handed from job to job of a run.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use wharf_base::Hinted;
use wharf_workflow::filter::Patterns;

use super::{BuiltIn, Call, Input, Outputs, flag, idle, input, one_of};
use crate::{
    beneath::{Shared, within},
    wrong::Wrong,
};

/// Files of an artifact at the most.
const MAX_FILES: usize = 100_000;
/// Bytes of an artifact at the most.
const MAX_BYTES: u64 = 10 << 30;

pub(super) const UPLOAD: BuiltIn = BuiltIn {
    name: "actions/upload-artifact",
    inputs: &[
        Input { check: Some(check_name), ..input("name", "artifact") },
        super::required("path"),
        Input {
            check: Some(|text| one_of(&["warn", "error", "ignore"], text)),
            ..input("if-no-files-found", "warn")
        },
        flag("overwrite", "false"),
        flag("include-hidden-files", "false"),
        idle("retention-days"),
        idle("compression-level"),
    ],
    run: |call| upload(call),
};

pub(super) const DOWNLOAD: BuiltIn = BuiltIn {
    name: "actions/download-artifact",
    inputs: &[
        input("name", ""),
        input("path", ""),
        input("pattern", ""),
        flag("merge-multiple", "false"),
        idle("github-token"),
        idle("repository"),
        idle("run-id"),
    ],
    run: |call| download(call),
};

fn check_name(name: &str) -> Result<(), Wrong> {
    let bad = |c: char| c.is_control() || "\\/\":<>|*?".contains(c);
    if name.is_empty() || name.len() > 200 || name.starts_with('.') || name.contains(bad) {
        let hint = "begin with a letter, and leave out quotes, slashes and the signs : < > | * ?";
        return Err(Wrong::hinted(format!("'{name}' cannot be the name of an artifact"), hint));
    }
    Ok(())
}

/// The artifacts of a run.
fn folder(call: &Call<'_>) -> PathBuf {
    call.runner.context.shared.artifacts_dir().join(&call.runner.context.uid)
}

fn upload(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let name = call.inputs.get("name").to_owned();
        let missing = call.inputs.get("if-no-files-found").to_owned();
        let (overwrite, hidden) = (call.inputs.flag("overwrite"), call.inputs.flag("include-hidden-files"));
        let patterns = call.inputs.lines("path");
        let target = folder(&call);
        let workspace = std::sync::Arc::clone(&call.runner.workspace);
        let work = name.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let (root, files) = select(&workspace, &patterns, hidden)?;
            if files.is_empty() {
                return Ok((0, 0));
            }
            store(&workspace, &root, &files, &target, &work, overwrite)
        });
        let (count, bytes) = stored.await??;
        if count == 0 {
            let text = format!("no files were found at {}", call.inputs.lines("path").join(", "));
            match missing.as_str() {
                "error" => {
                    let path =
                        PathBuf::from(call.inputs.lines("path").into_iter().next().unwrap_or_default());
                    let path: PathBuf = path
                        .components()
                        .take_while(|part| !is_pattern(&part.as_os_str().to_string_lossy()))
                        .collect();
                    return Err(Hinted::new(text, call.runner.path_hint(&path)).into());
                }
                "warn" => call.say(&format!("Warning: {text}; no artifact is kept")),
                _ => {}
            }
            return Ok(Vec::new());
        }
        call.say(&format!("artifact {name}: {count} files, {bytes} bytes"));
        Ok(vec![("artifact-id".into(), name)])
    })
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The files meant, and the folder their names in the artifact are relative to.
fn select(workspace: &Shared, lines: &[String], hidden: bool) -> anyhow::Result<(PathBuf, Vec<PathBuf>)> {
    let mut roots: Vec<PathBuf> = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    for line in lines {
        let (leave_out, text) = line.strip_prefix('!').map_or((false, line.as_str()), |rest| (true, rest));
        let path = within("path", text)?;
        if leave_out {
            let excluded = matching(&path.to_string_lossy())?;
            files.retain(|file| !excluded(file));
            continue;
        }
        let fixed: PathBuf =
            path.components().take_while(|part| !is_pattern(&part.as_os_str().to_string_lossy())).collect();
        if fixed == path && workspace.open_file(&path).is_ok() {
            roots.push(path.parent().unwrap_or(Path::new("")).to_owned());
            files.push(path);
            continue;
        }
        let below = match workspace.walk(&fixed, MAX_FILES) {
            Ok(below) => below,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", fixed.display())),
        };
        let fits = matching(&path.to_string_lossy())?;
        let is_hidden =
            |file: &Path| file.components().any(|part| part.as_os_str().to_string_lossy().starts_with('.'));
        let below = below.into_iter().filter(|file| hidden || !is_hidden(file));
        let found: Vec<PathBuf> =
            below.map(|file| fixed.join(file)).filter(|file| fixed == path || fits(file)).collect();
        roots.push(fixed);
        files.extend(found);
    }
    files.sort();
    files.dedup();
    Ok((common(&roots), files))
}

/// Whether a file, or a folder it is in, fits a pattern.
fn matching(pattern: &str) -> anyhow::Result<impl Fn(&Path) -> bool + use<>> {
    let patterns = Patterns::new(&[pattern.to_owned()], false).map_err(|(_, why)| {
        Hinted::new(why, format!("mend the pattern '{pattern}': '*', '**', '?' and '[…]' stand for names"))
    })?;
    Ok(move |file: &Path| file.ancestors().any(|part| patterns.matches(&part.to_string_lossy())))
}

fn common(roots: &[PathBuf]) -> PathBuf {
    let Some((first, rest)) = roots.split_first() else { return PathBuf::new() };
    rest.iter().fold(first.clone(), |so_far, root| {
        so_far.components().zip(root.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    })
}

fn store(
    workspace: &Shared,
    root: &Path,
    files: &[PathBuf],
    target: &Path,
    name: &str,
    overwrite: bool,
) -> anyhow::Result<(usize, u64)> {
    let place = target.join(name);
    if place.exists() && !overwrite {
        let hint = "choose another name, or set 'overwrite: true'";
        return Err(Hinted::new(format!("the run has an artifact '{name}' already"), hint).into());
    }
    let draft = target.join(format!(".{}", wharf_base::random_hex(8)));
    let stored = (|| {
        let mut bytes = 0;
        for file in files {
            let to = draft.join(file.strip_prefix(root).unwrap_or(file));
            std::fs::create_dir_all(to.parent().unwrap_or(&draft))?;
            let mut from =
                workspace.open_file(file).with_context(|| format!("cannot read {}", file.display()))?;
            let executable = from.metadata()?.permissions().mode() & 0o100 != 0;
            let mut copy = std::fs::File::create(&to)?;
            bytes += io::copy(&mut from, &mut copy)?;
            if bytes > MAX_BYTES {
                let hint = "leave out what no other job needs, or hand it on in several artifacts";
                let message = format!("the artifact is larger than {MAX_BYTES} bytes");
                return Err(Hinted::new(message, hint).into());
            }
            let mode = if executable { 0o755 } else { 0o644 };
            copy.set_permissions(std::fs::Permissions::from_mode(mode))?;
            copy.sync_all()?;
        }
        if place.exists() {
            std::fs::remove_dir_all(&place)?;
        }
        std::fs::rename(&draft, &place)?;
        // Its folders are flushed with the journal of the file system that the last of them is flushed with.
        for folder in place.ancestors().take(2) {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok((files.len(), bytes))
    })();
    if stored.is_err() {
        let _ = std::fs::remove_dir_all(&draft);
    }
    stored
}

fn download(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let source = folder(&call);
        let name = call.inputs.get("name").to_owned();
        let path = within("path", call.inputs.get("path"))?;
        let mut names: Vec<String> = std::fs::read_dir(&source)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        names.sort();
        let merge = !name.is_empty() || call.inputs.flag("merge-multiple");
        if !name.is_empty() {
            if !names.contains(&name) {
                return Err(
                    Hinted::new(format!("the run has no artifact '{name}'"), other(&name, &names)).into()
                );
            }
            names = vec![name];
        } else if !call.inputs.get("pattern").is_empty() {
            let fits = matching(call.inputs.get("pattern"))?;
            names.retain(|name| fits(Path::new(name)));
        }
        let workspace = std::sync::Arc::clone(&call.runner.workspace);
        let (target, wanted) = (path.clone(), names.clone());
        let count = tokio::task::spawn_blocking(move || {
            let mut count = 0;
            for name in &wanted {
                let to = if merge { target.clone() } else { target.join(name) };
                count += fetch(&source.join(name), &workspace, &to)?;
            }
            anyhow::Ok(count)
        });
        let count = count.await??;
        call.say(&format!(
            "{}: {count} files",
            if names.is_empty() { "no artifacts".into() } else { names.join(", ") }
        ));
        Ok(vec![(
            "download-path".into(),
            Path::new(crate::sandbox::WORKSPACE).join(path).display().to_string(),
        )])
    })
}

/// What to download instead of an artifact that is not there.
fn other(name: &str, names: &[String]) -> String {
    match wharf_base::closest(name, names.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean '{meant}'?"),
        None if names.is_empty() => {
            "there is none yet: upload it by actions/upload-artifact in a job that this one 'needs'".into()
        }
        None => format!("the run has: {}", names.join(", ")),
    }
}

/// Copies an artifact, in which nobody else writes, into the workspace.
fn fetch(source: &Path, workspace: &Shared, target: &Path) -> anyhow::Result<usize> {
    let stored = Shared::open(source)?;
    let files = stored.walk(Path::new(""), MAX_FILES)?;
    for file in &files {
        let mut from = stored.open_file(file)?;
        let executable = from.metadata()?.permissions().mode() & 0o100 != 0;
        let to = target.join(file);
        let mut copy = workspace
            .create_file(&to, executable)
            .with_context(|| format!("cannot write {} in the workspace", to.display()))?;
        io::copy(&mut from, &mut copy)?;
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_files_and_their_root() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["dist/a.whl", "dist/sub/b.whl", "dist/.hidden", "build/e2e.json", "build/log.txt"] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let workspace = Shared::open(folder.path()).unwrap();
        let check = |lines: &[&str], expected: &str| {
            let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
            let (root, files) = select(&workspace, &lines, false).unwrap();
            let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            assert_eq!(format!("{}: {}", root.display(), files.join(" ")), expected, "{lines:?}");
        };
        check(&["dist"], "dist: dist/a.whl dist/sub/b.whl");
        check(&["dist/"], "dist: dist/a.whl dist/sub/b.whl");
        check(&["build/e2e.json"], "build: build/e2e.json");
        check(&["dist/**/*.whl"], "dist: dist/a.whl dist/sub/b.whl");
        check(&["dist", "!dist/sub"], "dist: dist/a.whl");
        check(&["dist/*.whl", "build/*.json"], ": build/e2e.json dist/a.whl");
        check(&["nothing", "nothing/*.x"], ": ");
        assert!(select(&workspace, &["../x".into()], false).is_err());
        assert!(check_name("a/b").is_err() && check_name("..").is_err() && check_name("wheels").is_ok());
    }
}
