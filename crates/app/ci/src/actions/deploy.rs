//! `wharf/deploy`: the manifests of a folder, applied to the cluster with the image just built, and waited for.

use std::{collections::HashSet, time::Duration};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use wharf_base::{HintExt as _, Hinted};
use wharf_client::Client;

use super::{
    BuiltIn, Call, Input, Outputs, flag, input,
    manifests::{self, Discovery, Manifest},
    required, rollout,
};
use crate::{beneath::within, wrong::Wrong};

const MANAGER: &str = "wharf-deploy";
/// Bytes of one manifest file at the most.
const MAX_FILE: u64 = 3 << 20;

pub(super) const ACTION: BuiltIn = BuiltIn {
    name: "wharf/deploy",
    inputs: &[
        required("manifests"),
        input("namespace", "default"),
        input("image", ""),
        flag("wait", "true"),
        Input { check: Some(|text| limit(text).map(drop)), ..input("timeout-minutes", "20") },
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
                objects.iter_mut().map(|manifest| manifests::set_image(&mut manifest.object, image)).sum();
            if replaced == 0 {
                let message = format!("no container runs the image {}", manifests::repository(image));
                let files = call.inputs.get("manifests");
                let hint = format!("give a container in {files} this image, or take out 'image'");
                return Err(Hinted::new(message, hint).into());
            }
        }
        ensure_namespace(&client, &namespace).await?;
        let mut told = HashSet::new();
        let mut tell = |manifest: &Manifest, warnings: Vec<String>| {
            for warning in warnings {
                let line = format!("warning: {}: {warning}", manifest.place());
                if told.insert(line.clone()) {
                    call.say(&line);
                }
            }
        };
        check(&client, &mut objects, &namespace, &mut tell).await?;
        // Anew: what the objects themselves define is there only now.
        let mut discovery = Discovery::new(client.clone());
        let mut applied = Vec::new();
        for manifest in &mut objects {
            let kind = settle(&mut discovery, manifest, &namespace).await?;
            let stored = client.apply_strict(&kind.gvr, MANAGER, &manifest.object, false).await;
            let (stored, warnings) = stored.map_err(|error| manifest.refused(&kind.gvr.resource, &error))?;
            tell(manifest, warnings);
            call.say(&format!("applied {}", manifest.title()));
            applied.push((kind, stored));
        }
        if call.inputs.flag("wait") {
            let limit = limit(call.inputs.get("timeout-minutes"))?;
            rollout::wait(&client, &applied, limit, |line| call.say(line)).await?;
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

/// How long `timeout-minutes` lets it take.
fn limit(text: &str) -> Result<Duration, Wrong> {
    let minutes = text.parse::<f64>().ok().filter(|minutes| minutes.is_finite() && *minutes > 0.0);
    match minutes {
        Some(minutes) => Ok(Duration::from_secs_f64((minutes * 60.0).clamp(1.0, 1e6))),
        None => Err(Wrong::hinted(
            format!("'{text}' is no number above 0"),
            "write a number of minutes, such as 10",
        )),
    }
}

/// All objects of the folder's files, in the order of the files' names.
fn read(call: &Call<'_>) -> anyhow::Result<Vec<Manifest>> {
    let workspace = &call.runner.workspace;
    let text = call.inputs.get("manifests");
    let folder = within("manifests", text)?;
    let files = workspace
        .walk(&folder, 1000)
        .with_context(|| format!("cannot read the folder {text}"))
        .hint(|| call.runner.path_hint(&folder))?;
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
        objects.extend(manifests::read(&path.to_string_lossy(), &text)?);
    }
    if objects.is_empty() {
        let hint = "put objects into files that end in .yaml, .yml or .json";
        return Err(Hinted::new(format!("there are no manifests in {text}"), hint).into());
    }
    Ok(objects)
}

/// Has the API look at every object before the first is applied, so that a slip in the last leaves nothing half done.
async fn check(
    client: &Client,
    objects: &mut [Manifest],
    namespace: &str,
    tell: &mut (dyn FnMut(&Manifest, Vec<String>) + Send),
) -> anyhow::Result<()> {
    let defines = objects.iter().any(|manifest| manifest.kind() == "CustomResourceDefinition");
    let mut discovery = Discovery::new(client.clone());
    for manifest in objects {
        let kind = match settle(&mut discovery, manifest, namespace).await {
            // It may be of a kind that is defined beside it.
            Err(_) if defines => continue,
            kind => kind?,
        };
        match client.apply_strict(&kind.gvr, MANAGER, &manifest.object, true).await {
            Err(error) if error.is_wrong() => {
                return Err(manifest.refused(&kind.gvr.resource, &error).into());
            }
            Ok((_, warnings)) => tell(manifest, warnings),
            // What it needs may be applied before it.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Finds out where an object goes and puts it into the namespace.
async fn settle(
    discovery: &mut Discovery,
    manifest: &mut Manifest,
    namespace: &str,
) -> anyhow::Result<manifests::Kind> {
    let kind = discovery.find(manifest).await?;
    if kind.namespaced {
        let own = manifest.object.pointer("/metadata/namespace").and_then(Value::as_str);
        if let Some(own) = own.filter(|own| *own != namespace) {
            let message = format!("{} belongs to the namespace {own}", manifest.title());
            let hint = format!("take it out of the manifest, or deploy with 'namespace: {own}'");
            return Err(manifest.problem("metadata.namespace", Wrong::hinted(message, hint)).into());
        }
        manifest.object["metadata"]["namespace"] = namespace.into();
    }
    Ok(kind)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_above_nothing_are_limits() {
        for (text, seconds) in [("10", 600), ("0.001", 1), ("1e9", 1_000_000)] {
            assert_eq!(limit(text).map(|limit| limit.as_secs()), Ok(seconds), "{text}");
        }
        for text in ["nan", "inf", "-inf", "-1", "0", "ten", ""] {
            let wrong = limit(text).unwrap_err();
            assert_eq!(wrong.message, format!("'{text}' is no number above 0"));
            assert!(wrong.hint.is_some());
        }
    }
}
