//! `actions/checkout`: the commit of the run, from the platform's own repository.

use std::{os::fd::AsRawFd as _, path::PathBuf};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use wharf_base::{HintExt as _, closest, some_of};
use wharf_gitserver::Checkout;

use super::{BuiltIn, Call, Input, Outputs, flag, idle, input};
use crate::{beneath::within, wrong::Wrong};

pub(super) const ACTION: BuiltIn = BuiltIn {
    name: "actions/checkout",
    inputs: &[
        input("ref", ""),
        input("path", ""),
        Input { check: Some(|text| depth(text).map(drop)), ..input("fetch-depth", "1") },
        input("repository", ""),
        Input { check: Some(unsupported), ..input("submodules", "false") },
        Input { check: Some(unsupported), ..input("lfs", "false") },
        flag("clean", "true"),
        idle("token"),
        idle("ssh-key"),
        idle("ssh-known-hosts"),
        idle("ssh-strict"),
        idle("persist-credentials"),
        idle("show-progress"),
        idle("set-safe-directory"),
        idle("fetch-tags"),
        idle("github-server-url"),
    ],
    run: |call| run(call),
};

/// How many commits of history `fetch-depth` asks for; all when 0.
fn depth(text: &str) -> Result<u32, Wrong> {
    text.parse().map_err(|_| {
        Wrong::hinted(format!("'{text}' is no number of commits"), "write how many to fetch, 0 for all")
    })
}

/// What can only be left out.
fn unsupported(text: &str) -> Result<(), Wrong> {
    match text {
        "" | "false" => Ok(()),
        wanted => {
            let hint = "leave it out, and fetch what is needed in a step of its own";
            Err(Wrong::hinted(format!("'{wanted}' is not supported"), hint))
        }
    }
}

/// What may be meant by a reference that a repository does not have.
fn similar(wanted: &str, references: &[(String, String)]) -> String {
    let short = |name: &'_ str| -> String {
        let short = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
        short.unwrap_or(name).to_owned()
    };
    let wanted = short(wanted);
    let known: Vec<String> = references.iter().map(|(name, _)| short(name)).collect();
    match (closest(&wanted, known.iter().map(String::as_str)), some_of(&known)) {
        (Some(meant), _) => format!("did you mean '{meant}'?"),
        (None, Some(known)) => format!("name a branch, a tag or a commit that was pushed; there is {known}"),
        (None, None) => "push something to it first".into(),
    }
}

fn run(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let (inputs, context) = (&call.inputs, &call.runner.context);
        let spec = &context.spec;
        let repository = match inputs.get("repository") {
            "" => context.repository.clone(),
            name => context.shared.config.repositories.get(name)?,
        };
        let (sha, reference) = match inputs.get("ref") {
            "" if repository.name() == spec.repository => (spec.sha.clone(), spec.reference.clone()),
            wanted => {
                let wanted = if wanted.is_empty() { "HEAD" } else { wanted };
                let sha = repository.resolve(wanted).await?;
                let references = repository.references().await?;
                let sha = sha
                    .with_context(|| format!("{} has no '{wanted}'", repository.name()))
                    .hint(|| similar(wanted, &references))?;
                let branch = format!("refs/heads/{wanted}");
                let is_branch = references.iter().any(|(name, _)| *name == branch);
                (sha, if is_branch { branch } else { String::new() })
            }
        };
        let depth = depth(inputs.get("fetch-depth"))?;
        let path = within("path", inputs.get("path"))?;
        // Git works where no program of the job can reach; only then is the result moved into the workspace.
        let draft = call.runner.folder.join("checkout");
        let _ = std::fs::remove_dir_all(&draft);
        repository.checkout(&Checkout { sha: sha.clone(), reference, depth }, &draft).await?;
        let clean = inputs.flag("clean");
        let workspace = std::sync::Arc::clone(&call.runner.workspace);
        tokio::task::spawn_blocking(move || move_into(&workspace, &path, &draft, clean)).await??;
        call.say(&format!("{} at {}", repository.name(), sha.get(..12).unwrap_or(&sha)));
        Ok(vec![("commit".into(), sha), ("ref".into(), spec.reference.clone())])
    })
}

fn move_into(
    workspace: &crate::beneath::Shared,
    path: &std::path::Path,
    draft: &std::path::Path,
    clean: bool,
) -> anyhow::Result<()> {
    let folder = workspace.make_dirs(path)?;
    let place = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let new: Vec<_> = std::fs::read_dir(draft)?.collect::<Result<_, _>>()?;
    for old in std::fs::read_dir(&place)? {
        let old = old?;
        if clean || new.iter().any(|entry| entry.file_name() == old.file_name()) {
            // A link is removed itself, not what it leads to.
            match old.file_type()?.is_dir() {
                true => std::fs::remove_dir_all(old.path())?,
                false => std::fs::remove_file(old.path())?,
            }
        }
    }
    for entry in new {
        std::fs::rename(entry.path(), place.join(entry.file_name()))?;
    }
    std::fs::remove_dir(draft)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_instead_of_a_reference_is_told() {
        let references =
            |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), String::new())).collect::<Vec<_>>();
        let known = references(&["refs/heads/main", "refs/tags/v1.0"]);
        assert_eq!(similar("mian", &known), "did you mean 'main'?");
        assert_eq!(similar("refs/tags/v1.1", &known), "did you mean 'v1.0'?");
        assert!(similar("release", &known).ends_with("there is main, v1.0"));
        assert!(similar("x", &[]).starts_with("push something"));
    }
}
