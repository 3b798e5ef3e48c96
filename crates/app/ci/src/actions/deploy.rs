//! `wharf/deploy`: the manifests of a folder, applied to the cluster with the image just built, and waited for.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_client::Client;

use super::{
    BuiltIn, Call, Outputs, input,
    manifests::{self, Discovery},
    required, rollout,
};
use crate::beneath::inside_workspace;

const MANAGER: &str = "wharf-deploy";
/// Bytes of one manifest file at the most.
const MAX_FILE: u64 = 3 << 20;

pub(super) const ACTION: BuiltIn = BuiltIn {
    name: "wharf/deploy",
    inputs: &[
        required("manifests"),
        input("namespace", "default"),
        input("image", ""),
        input("wait", "true"),
        input("timeout-minutes", "20"),
    ],
    run: |call| run(call),
};

fn run(call: Call<'_>) -> BoxFuture<'_, anyhow::Result<Outputs>> {
    Box::pin(async move {
        let client = call.runner.context.shared.config.client.clone();
        let namespace = call.inputs.get("namespace").to_owned();
        let mut objects = read(&call)?;
        let image = call.inputs.get("image");
        if !image.is_empty() {
            let replaced: usize =
                objects.iter_mut().map(|(_, object)| manifests::set_image(object, image)).sum();
            if replaced == 0 {
                bail!("no container of the manifests runs the image {}", manifests::repository(image));
            }
        }
        ensure_namespace(&client, &namespace).await?;
        let mut discovery = Discovery::new(client.clone());
        let mut applied = Vec::new();
        for (file, object) in &mut objects {
            let kind = discovery.find(object).await?;
            let own = object
                .pointer("/metadata/namespace")
                .and_then(Value::as_str)
                .unwrap_or(&namespace)
                .to_owned();
            if kind.namespaced {
                if own != namespace {
                    bail!("{} names the namespace {own}, not {namespace}", manifests::title(object));
                }
                object["metadata"]["namespace"] = namespace.as_str().into();
            }
            let stored = client.apply_strict(&kind.gvr, MANAGER, object).await;
            let (stored, warnings) = stored.with_context(|| {
                format!("cannot apply {} of {}", manifests::title(object), file.display())
            })?;
            for warning in warnings {
                call.say(&format!("warning: {}: {}: {warning}", file.display(), manifests::title(object)));
            }
            call.say(&format!("applied {}", manifests::title(object)));
            applied.push((kind, stored));
        }
        if call.inputs.flag("wait")? {
            let minutes: f64 =
                call.inputs.get("timeout-minutes").parse().context("'timeout-minutes' is not a number")?;
            let limit = Duration::from_secs_f64((minutes * 60.0).clamp(1.0, 1e6));
            let waiting = rollout::wait(&client, &applied, |line| call.say(line));
            match tokio::time::timeout(limit, waiting).await {
                Ok(done) => done?,
                Err(_) => bail!("it was not rolled out within {minutes} minutes"),
            }
        }
        let ingress = call.runner.context.shared.config.services.ingress.clone();
        let host = applied.iter().find_map(|(kind, object)| {
            (kind.gvr.resource == "ingresses")
                .then(|| object.pointer("/spec/rules/0/host")?.as_str().map(str::to_owned))?
        });
        let mut outputs = vec![("namespace".to_owned(), namespace)];
        outputs.extend(ingress.map(|url| ("url".to_owned(), url)));
        outputs.extend(host.map(|host| ("host".to_owned(), host)));
        Ok(outputs)
    })
}

/// All documents of the folder's files with their files, in the order of the files' names.
fn read(call: &Call<'_>) -> anyhow::Result<Vec<(PathBuf, Value)>> {
    let workspace = &call.runner.workspace;
    let text = call.inputs.get("manifests");
    let folder =
        inside_workspace(text).with_context(|| format!("'manifests: {text}' leads out of the workspace"))?;
    let files = workspace.walk(&folder, 1000).with_context(|| format!("cannot read the folder {text}"))?;
    let mut objects = Vec::new();
    for file in files {
        let name = file.to_string_lossy();
        if !(name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json")) {
            continue;
        }
        let path = folder.join(&file);
        let text = workspace
            .read_text(&path, MAX_FILE)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let documents = wharf_api::codec::yaml_to_values(&text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        for document in documents {
            manifests::check(&document).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            objects.push((path.clone(), document));
        }
    }
    if objects.is_empty() {
        bail!("there are no manifests in {text}");
    }
    Ok(objects)
}

async fn ensure_namespace(client: &Client, name: &str) -> anyhow::Result<()> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    match client.create(&wharf_control::action::NAMESPACES, "", &object).await {
        Err(error) if !error.is_already_exists() => {
            Err(error).with_context(|| format!("cannot make the namespace {name}"))
        }
        _ => Ok(()),
    }
}
