//! `actions/checkout`: the commit of the run, from the platform's own repository.

use std::{os::fd::AsRawFd as _, path::PathBuf};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use wharf_base::HintExt as _;
use wharf_gitserver::Checkout;

use super::{BuiltIn, Call, Outputs, idle, input};
use crate::beneath::inside_workspace;

pub(super) const ACTION: BuiltIn = BuiltIn {
    name: "actions/checkout",
    inputs: &[
        input("ref", ""),
        input("path", ""),
        input("fetch-depth", "1"),
        input("repository", ""),
        input("submodules", "false"),
        input("lfs", "false"),
        input("clean", "true"),
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

fn run(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let (inputs, context) = (&call.inputs, &call.runner.context);
        let spec = &context.spec;
        for name in ["submodules", "lfs"] {
            let wanted = inputs.get(name);
            anyhow::ensure!(wanted.is_empty() || wanted == "false", "'{name}: {wanted}' is not supported");
        }
        let repository = match inputs.get("repository") {
            "" => context.repository.clone(),
            name => context.shared.config.repositories.get(name)?,
        };
        let (sha, reference) = match inputs.get("ref") {
            "" if repository.name() == spec.repository => (spec.sha.clone(), spec.reference.clone()),
            wanted => {
                let wanted = if wanted.is_empty() { "HEAD" } else { wanted };
                let sha = repository.resolve(wanted).await?;
                let sha = sha.with_context(|| format!("{} has no '{wanted}'", repository.name()))?;
                let branch = format!("refs/heads/{wanted}");
                let is_branch = repository.references().await?.iter().any(|(name, _)| *name == branch);
                (sha, if is_branch { branch } else { String::new() })
            }
        };
        let depth = inputs.get("fetch-depth");
        let depth = depth
            .parse()
            .with_context(|| format!("'fetch-depth: {depth}' is not a number"))
            .hint(|| "write how many commits to fetch, 0 for all".into())?;
        let path = inside_workspace(inputs.get("path")).context("'path' leads out of the workspace")?;
        // Git works where no program of the job can reach; only then is the result moved into the workspace.
        let draft = call.runner.folder.join("checkout");
        let _ = std::fs::remove_dir_all(&draft);
        repository.checkout(&Checkout { sha: sha.clone(), reference, depth }, &draft).await?;
        let clean = inputs.flag("clean")?;
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
