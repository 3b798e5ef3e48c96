//! `wharf/build-push`: an image from the workspace.

use anyhow::{Context as _, anyhow};
use futures_util::future::BoxFuture;
use wharf_base::HintExt as _;

use super::{BuiltIn, Call, Outputs, flag, input};
use crate::{beneath::within, sandbox::JobSandbox, services::BuildOrder, wrong::Wrong};

pub(super) const ACTION: BuiltIn = BuiltIn {
    name: "wharf/build-push",
    inputs: &[
        input("context", "."),
        input("file", ""),
        input("tags", ""),
        input("build-args", ""),
        input("target", ""),
        flag("push", "true"),
    ],
    run: |call| run(call),
};

/// Holds a sandbox still until dropped.
struct Paused<'a>(&'a dyn JobSandbox);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.resume() {
            tracing::warn!(%error, "cannot let a job go on after a build");
        }
    }
}

fn run(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let runner = call.runner;
        let build = runner.context.shared.config.services.build.clone();
        let build = build
            .context("images cannot be built: this platform runs without its builder")
            .hint(|| "run the workflow on a platform that 'wharf up' started".into())?;
        let context = within("context", call.inputs.get("context"))?;
        let file = match call.inputs.get("file") {
            "" => context.join("Dockerfile"),
            file => within("file", file)?,
        };
        // What the builder reads must not change, nor become a link to elsewhere, while it reads.
        runner.sandbox.pause()?;
        let _paused = Paused(&*runner.sandbox);
        let resolve = |path: &std::path::Path| {
            runner
                .workspace
                .resolve(path)
                .with_context(|| format!("cannot use {} of the workspace", path.display()))
                .hint(|| runner.path_hint(path))
        };
        let args = call.inputs.lines("build-args");
        let args = args.iter().map(|arg| arg.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())));
        let order = BuildOrder {
            context: resolve(&context)?,
            dockerfile: resolve(&file)?,
            tags: call
                .inputs
                .lines("tags")
                .iter()
                .flat_map(|line| line.split(','))
                .map(|t| t.trim().to_owned())
                .collect(),
            args: args.collect::<Option<_>>().context("'build-args' must be lines of NAME=VALUE").hint(
                || "write 'build-args: |' and below it for example 'VERSION=${{ github.sha }}'".into(),
            )?,
            target: call.inputs.get("target").to_owned(),
            push: call.inputs.flag("push"),
        };
        // Files are named as the repository has them.
        let root = format!("{}/", runner.workspace.resolve("".as_ref())?.display());
        let built = build.build(order, call.sayer()).await;
        let built = built.map_err(|error| anyhow!(Wrong::from(error).to_string().replace(&root, "")))?;
        call.say(&format!("built {}", built.image));
        Ok(vec![("image".into(), built.image), ("digest".into(), built.digest)])
    })
}
