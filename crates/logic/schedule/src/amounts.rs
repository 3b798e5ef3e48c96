//! What pods ask for and nodes offer, in whole numbers: CPU in thousandths, memory and disk in bytes.

use wharf_base::Quantity;

use crate::{
    intern::{Id, Interner},
    model::{Container, PodModel, ResourceList},
};

/// Amounts of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amounts {
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral: i64,
    /// Extended resources and huge pages, sorted by id.
    pub(crate) extended: Vec<(Id, i64)>,
}

/// What a container without a request counts for when nodes are compared (not when they are filtered).
const USUAL_CPU_MILLI: i64 = 100;
const USUAL_MEMORY: i64 = 200 * 1024 * 1024;

impl Amounts {
    /// Reads a resource list; `pods` is counted elsewhere.
    pub(crate) fn read(list: &ResourceList, interner: &mut Interner) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => amounts.cpu_milli = quantity.milli().max(0),
                "memory" => amounts.memory = quantity.units().max(0),
                "ephemeral-storage" => amounts.ephemeral = quantity.units().max(0),
                "pods" => {}
                _ => amounts.extended.push((interner.id(name), quantity.units().max(0))),
            }
        }
        amounts.extended.sort_unstable();
        amounts
    }

    /// The amount of an extended resource.
    pub(crate) fn extended(&self, id: Id) -> i64 {
        self.extended.binary_search_by_key(&id, |(id, _)| *id).map_or(0, |at| self.extended[at].1)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.combine(other, i64::saturating_add);
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        self.combine(other, i64::saturating_sub);
    }

    fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.cpu_milli = with(self.cpu_milli, other.cpu_milli);
        self.memory = with(self.memory, other.memory);
        self.ephemeral = with(self.ephemeral, other.ephemeral);
        for (id, amount) in &other.extended {
            match self.extended.binary_search_by_key(id, |(id, _)| *id) {
                Ok(at) => self.extended[at].1 = with(self.extended[at].1, *amount),
                Err(at) => self.extended.insert(at, (*id, with(0, *amount))),
            }
        }
    }
}

/// What a pod reserves: all containers and sidecars together, or the most demanding moment of the
/// init containers, whichever is more; plus the overhead of the pod.
pub(crate) fn of_pod(pod: &PodModel, interner: &mut Interner) -> Amounts {
    let spec = &pod.spec;
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&Amounts::read(&container.resources.requests, interner));
    }
    let mut sidecars = Amounts::default();
    let mut starting = Amounts::default();
    for container in &spec.init_containers {
        let mut own = Amounts::read(&container.resources.requests, interner);
        if is_sidecar(container) {
            running.add(&own);
            sidecars.add(&own);
            starting.raise_to(&sidecars);
        } else {
            own.add(&sidecars);
            starting.raise_to(&own);
        }
    }
    running.raise_to(&starting);
    let whole = Amounts::read(&spec.resources.requests, interner);
    if spec.resources.requests.contains_key("cpu") {
        running.cpu_milli = whole.cpu_milli;
    }
    if spec.resources.requests.contains_key("memory") {
        running.memory = whole.memory;
    }
    running.add(&Amounts::read(&spec.overhead, interner));
    running
}

/// (CPU in thousandths, memory in bytes) a pod counts for when nodes are compared.
pub(crate) fn weight_of_pod(pod: &PodModel, reserved: &Amounts) -> (i64, i64) {
    let sidecars = pod.spec.init_containers.iter().filter(|container| is_sidecar(container));
    let (mut cpu, mut memory) = (reserved.cpu_milli, reserved.memory);
    for container in pod.spec.containers.iter().chain(sidecars) {
        let asks = |name: &str| container.resources.requests.get(name).is_some_and(|q| *q != Quantity::ZERO);
        cpu = cpu.saturating_add(if asks("cpu") { 0 } else { USUAL_CPU_MILLI });
        memory = memory.saturating_add(if asks("memory") { 0 } else { USUAL_MEMORY });
    }
    (cpu, memory)
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy == "Always"
}
