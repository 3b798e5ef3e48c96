//! A controller as people write them with kube-rs: a Secret for each ConfigMap with a label, with a finalizer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Config, Resource as _,
    api::{DeleteParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use kube_runtime::{
    Controller,
    controller::Action,
    finalizer::{Event, finalizer},
    watcher,
};

const FINALIZER: &str = "example.com/copied";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
struct Wrong(String);

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

fn wrong(error: impl std::fmt::Display) -> Wrong {
    Wrong(error.to_string())
}

async fn copy(source: &ConfigMap, secrets: &Api<Secret>) -> Result<Action, Wrong> {
    let name = source.metadata.name.clone().unwrap_or_default();
    let owner = source.controller_owner_ref(&());
    let copy = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "stringData": source.data,
        "metadata": {"name": name, "labels": {"copy": "yes"}, "ownerReferences": [owner]}});
    let parameters = PatchParams::apply("copier").force();
    secrets.patch(&name, &parameters, &Patch::Apply(&copy)).await.map_err(wrong)?;
    Ok(Action::await_change())
}

async fn forget(source: &ConfigMap, secrets: &Api<Secret>) -> Result<Action, Wrong> {
    let name = source.metadata.name.clone().unwrap_or_default();
    match secrets.delete(&name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other.map_err(wrong)?),
    }
    Ok(Action::await_change())
}

async fn reconcile(source: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, Wrong> {
    let namespace = source.metadata.namespace.clone().unwrap_or_default();
    let sources: Api<ConfigMap> = Api::namespaced((*client).clone(), &namespace);
    let secrets: Api<Secret> = Api::namespaced((*client).clone(), &namespace);
    finalizer(&sources, FINALIZER, source, |event| async {
        match event {
            Event::Apply(source) => copy(&source, &secrets).await,
            Event::Cleanup(source) => forget(&source, &secrets).await,
        }
    })
    .await
    .map_err(wrong)
}

/// Runs until it is dropped.
pub(crate) async fn run(kubeconfig: PathBuf) -> Result<(), Failure> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let labelled = watcher::Config::default().labels("copied=yes");
    let sources: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    Controller::new(sources, labelled.clone())
        .owns(secrets, watcher::Config::default().labels("copy=yes").streaming_lists())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::new(client))
        .for_each(|done| async {
            if let Err(error) = done {
                eprintln!("the controller says: {error:?}");
            }
        })
        .await;
    Ok(())
}
