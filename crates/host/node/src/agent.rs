//! The agent as a whole: the pods bound to this node, a worker for each, and the node's own object.

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use wharf_client::{Change, Informer, ListParams, Object, action::PODS};
use wharf_runtime::Cgroup;

use crate::{
    config::{Failure, NodeConfig},
    events::Events,
    machine::{self, Machine},
    model::Pod,
    node,
    watches::Objects,
    worker::{Message, PodHandle, Worker, ops},
};

/// What the workers are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Keep the pods.
    Keep,
    /// Stop, and leave them running.
    Stop,
    /// End and remove them, then stop.
    Drain,
}

/// What all parts of the agent use.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) machine: Machine,
    pub(crate) address: IpAddr,
    pub(crate) events: Events,
    pub(crate) objects: Objects,
    pub(crate) mode: watch::Sender<Mode>,
    pods: Mutex<HashMap<String, Arc<PodHandle>>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<PodHandle>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of all pods.
    fn pods_folder(&self) -> PathBuf {
        self.config.data.join("pods")
    }

    /// The folder of one pod.
    pub(crate) fn pod_folder(&self, uid: &str) -> PathBuf {
        self.pods_folder().join(uid)
    }

    /// All pods with a worker.
    pub(crate) fn handles(&self) -> Vec<Arc<PodHandle>> {
        self.lock().values().cloned().collect()
    }
}

/// The agent of one node. Dropped, it stops at once and leaves the pods running, as if it had been killed.
pub struct NodeAgent {
    pub(crate) shared: Arc<Shared>,
    pods: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    node: JoinHandle<()>,
}

impl NodeAgent {
    /// Starts to register the node and to run its pods; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the folder of pods cannot be made.
    pub fn start(config: NodeConfig) -> Result<Self, Failure> {
        let fine =
            !config.instance.is_empty() && config.instance.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !fine {
            return Err(Failure(format!(
                "the instance id {:?} is not made of letters and digits",
                config.instance
            )));
        }
        let shared = Arc::new(Shared {
            machine: Machine::look(&config.data),
            address: config.address.unwrap_or_else(machine::address),
            events: Events::start(config.client.clone(), &config.name),
            objects: Objects::new(config.client.clone()),
            mode: watch::Sender::new(Mode::Keep),
            pods: Mutex::default(),
            config,
        });
        let folder = shared.pods_folder();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| Failure(format!("cannot make {}: {error}", folder.display())))?;
        let pods = tokio::spawn(keep_pods(Arc::clone(&shared)));
        let node = tokio::spawn(node::keep(Arc::clone(&shared)));
        Ok(Self { shared, pods: tokio::sync::Mutex::new(Some(pods)), node })
    }

    /// Stops the agent. Pods go on running, and the next agent on this folder takes them over.
    pub async fn shutdown(&self) {
        self.end(Mode::Stop).await;
    }

    /// Ends and removes all pods of this node, then stops. Their objects stay in the API.
    pub async fn drain(&self) {
        self.end(Mode::Drain).await;
        let root = format!("wharf-{}", self.shared.config.instance);
        let cleared = spawn_blocking(move || Cgroup::at(&root).and_then(|cgroup| cgroup.remove())).await;
        if let Ok(Err(error)) = cleared {
            tracing::warn!(%error, "the pods' cgroups are not removed");
        }
    }

    async fn end(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
        if let Some(pods) = self.pods.lock().await.take() {
            let _ = pods.await;
        }
        self.node.abort();
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        self.node.abort();
        if let Some(pods) = self.pods.get_mut() {
            pods.abort();
        }
    }
}

/// Keeps a worker for each pod bound to this node.
async fn keep_pods(shared: Arc<Shared>) {
    let params =
        ListParams { fields: format!("spec.nodeName={}", shared.config.name), ..ListParams::default() };
    let informer = Informer::start(shared.config.client.clone(), PODS, params);
    let mut mode = shared.mode.subscribe();
    let mut workers = JoinSet::new();
    tokio::select! {
        () = informer.synced() => {}
        _ = mode.changed() => return,
    }
    clear_orphans(&shared, &informer.list(), &mut workers);
    let mut changes = informer.subscribe();
    while *mode.borrow_and_update() == Mode::Keep {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => follow(&shared, &change, &mut workers),
                None => break,
            },
            Some(ended) = workers.join_next() => forget(&shared, ended.ok()),
            _ = mode.changed() => {}
        }
    }
    while let Some(ended) = workers.join_next().await {
        forget(&shared, ended.ok());
    }
}

fn forget(shared: &Shared, uid: Option<String>) {
    if let Some(uid) = uid {
        shared.lock().remove(&uid);
    }
}

fn uid(object: &Object) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn follow(shared: &Arc<Shared>, change: &Change, workers: &mut JoinSet<String>) {
    // The name may be another pod's by now.
    if let Some(old) = &change.old
        && change.new.as_ref().is_none_or(|new| uid(new) != uid(old))
        && let Some(handle) = shared.lock().get(uid(old))
    {
        let _ = handle.sender.send(Message::Gone);
    }
    let Some(new) = &change.new else { return };
    let known = shared.lock().get(uid(new)).cloned();
    if known.is_some_and(|known| known.sender.send(Message::Pod(Arc::clone(new))).is_ok()) {
        return;
    }
    match Pod::read(new) {
        Ok(pod) => {
            let id = pod.metadata.uid.clone();
            let (handle, work) = Worker::start(Arc::clone(shared), new, pod);
            shared.lock().insert(id.clone(), handle);
            workers.spawn(async move {
                // On the heap: it is the largest future there is.
                Box::pin(work).await;
                id
            });
        }
        Err(error) => tracing::error!(%error, pod = %change.key, "a pod cannot be read and is not run"),
    }
}

/// Removes pods of this machine that the API no longer has.
fn clear_orphans(shared: &Arc<Shared>, pods: &[Object], workers: &mut JoinSet<String>) {
    let folders = fs::read_dir(shared.pods_folder()).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    for folder in folders.unwrap_or_default() {
        let id = folder.file_name().to_string_lossy().into_owned();
        if pods.iter().any(|pod| uid(pod) == id) {
            continue;
        }
        let (shared, path) = (Arc::clone(shared), folder.path());
        workers.spawn_blocking(move || {
            ops::release_runs(&shared, &id, &path);
            let cleared = ops::release(&shared, &id, &path, None)
                .and_then(|()| ops::remove_files(&path).map_err(|error| Failure::of(&error)));
            match cleared {
                Ok(()) => tracing::info!(pod = %id, "removed a pod the API no longer has"),
                Err(failure) => tracing::error!(%failure, pod = %id, "a pod the API no longer has stays"),
            }
            id
        });
    }
}
