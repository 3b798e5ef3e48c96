//! The image of a container: found in the store or brought there, as its pull policy says.

use std::{sync::Arc, time::Instant};

use wharf_image::{Error, ResolvedImage, Store};

use crate::{
    agent::Shared,
    config::{Failure, PullSecret},
    events::Level,
    model::{Container, Pod},
    step::Reason,
};

/// The image, ready to run.
pub(crate) async fn ensure(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
) -> Result<ResolvedImage, Reason> {
    let (image, policy) = (&container.image, container.image_pull_policy.as_str());
    let note = |level, reason: &str, message: String| {
        shared.events.pod(&pod.metadata, Some(&container.name), level, reason, message);
    };
    if policy != "Always" {
        match resolve(&shared.config.images, image).await {
            Ok(found) => {
                let message = format!("Container image {image:?} already present on machine");
                note(Level::Normal, "Pulled", message);
                return Ok(found);
            }
            Err(Error::NoImage { .. }) if policy == "Never" => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                note(Level::Warning, "ErrImageNeverPull", message.clone());
                return Err(Reason::new("ErrImageNeverPull", message));
            }
            Err(Error::NoImage { .. }) => {}
            Err(error) => return Err(unusable(image, &error)),
        }
    }
    note(Level::Normal, "Pulling", format!("Pulling image {image:?}"));
    let begun = Instant::now();
    let secrets = secrets(shared, pod).await;
    if let Err(failure) = shared.config.puller.pull(image, &secrets).await {
        let message = format!("Failed to pull image {image:?}: {failure}");
        note(Level::Warning, "Failed", message.clone());
        return Err(Reason::new("ErrImagePull", message));
    }
    match resolve(&shared.config.images, image).await {
        Ok(found) => {
            let took = begun.elapsed().as_millis();
            note(Level::Normal, "Pulled", format!("Successfully pulled image {image:?} in {took}ms"));
            Ok(found)
        }
        Err(error) => Err(unusable(image, &error)),
    }
}

fn unusable(image: &str, error: &Error) -> Reason {
    let reason = if matches!(error, Error::Reference { .. }) { "InvalidImageName" } else { "ErrImagePull" };
    Reason::new(reason, format!("image {image:?} cannot be used: {}", Failure::of(error)))
}

/// Layers may have to be unpacked: on a thread that may block.
async fn resolve(store: &Arc<Store>, image: &str) -> Result<ResolvedImage, Error> {
    let (store, image) = (Arc::clone(store), image.to_owned());
    let found = tokio::task::spawn_blocking(move || store.resolve(&image)).await;
    found.unwrap_or_else(|_| Err(Error::Layer("the image could not be read".to_owned())))
}

/// The credentials the pod names. Those that are missing are left out, as upstream: the image may not need them.
async fn secrets(shared: &Shared, pod: &Pod) -> Vec<PullSecret> {
    let mut found = Vec::new();
    for secret in &pod.spec.image_pull_secrets {
        let content =
            shared.objects.content(crate::watches::Kind::Secret, &pod.metadata.namespace, &secret.name).await;
        let mut content = content.ok().flatten().unwrap_or_default();
        let config = content.remove(".dockerconfigjson").or_else(|| content.remove(".dockercfg"));
        match config {
            Some(docker_config) => found.push(PullSecret { name: secret.name.clone(), docker_config }),
            None => {
                let message = format!(
                    "Unable to retrieve image pull secret {}: the pull goes on without it",
                    secret.name
                );
                shared.events.pod(
                    &pod.metadata,
                    None,
                    Level::Warning,
                    "FailedToRetrieveImagePullSecret",
                    message,
                );
            }
        }
    }
    found
}
