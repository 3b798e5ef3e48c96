//! A pod as those who stream and measure see it.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wharf_control::meta::Labels;
use wharf_runtime::Sandbox;

use super::Sender;
use crate::{
    model::Pod,
    spec::run_name,
    step::{PodState, Run, resize::Room},
};

/// What is known of a pod outside its worker.
pub(crate) struct PodHandle {
    pub(crate) sender: Sender,
    pub(crate) uid: String,
    view: Mutex<View>,
}

/// A pod at one moment.
#[derive(Clone, Default)]
pub(crate) struct View {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) sandbox: Option<Arc<dyn Sandbox>>,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) host_network: bool,
    pub(crate) containers: Vec<ContainerView>,
    /// What it asks for of the node, unless it has ended.
    pub(crate) asks: Room,
}

/// A container at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ContainerView {
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) running: bool,
    /// It has been made at least once.
    pub(crate) began: bool,
    /// Why it has not, as its status says.
    pub(crate) waits: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) is_main: bool,
}

impl ContainerView {
    /// The runtime's name of its present run.
    pub(crate) fn run(&self) -> String {
        run_name(&self.name, self.attempt)
    }
}

impl PodHandle {
    pub(super) fn new(pod: &Pod, sender: Sender) -> Self {
        let handle = Self { sender, uid: pod.metadata.uid.clone(), view: Mutex::default() };
        handle.show(pod, &PodState::default(), None);
        handle
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&self, pod: &Pod, state: &PodState, sandbox: Option<&Arc<dyn Sandbox>>) {
        let containers = pod.all_containers().map(|container| {
            let known = state.container(&container.name);
            ContainerView {
                name: container.name.clone(),
                attempt: known.map_or(0, |known| known.attempt),
                running: known.is_some_and(|known| known.running().is_some()),
                began: known.is_some_and(|known| known.run != Run::Absent || known.last.is_some()),
                waits: crate::status::waits(pod, state, &container.name).to_owned(),
                tty: container.tty,
                stdin: container.stdin,
                is_main: pod.spec.containers.iter().any(|main| main.name == container.name),
            }
        });
        let mut view = self.lock();
        view.namespace.clone_from(&pod.metadata.namespace);
        view.name.clone_from(&pod.metadata.name);
        view.labels.clone_from(&pod.metadata.labels);
        view.containers = containers.collect();
        view.sandbox = sandbox.cloned();
        view.asks = if state.removed { Room::default() } else { Room::of(pod) };
        view.ip = state.ip;
        view.host_network = pod.spec.host_network;
    }

    /// What it asks for of the node.
    pub(crate) fn asks(&self) -> Room {
        self.lock().asks
    }

    /// The pod as it was last shown.
    pub(crate) fn view(&self) -> View {
        self.lock().clone()
    }
}
