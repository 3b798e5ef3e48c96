//! The sandboxes and containers there are, and how they are found again.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use wharf_base::Timestamp;
use wharf_runtime::{Exit, Phase, PodDir, Status};

use crate::{
    grpc::{Code, Failure, Result},
    record::{ContainerRecord, SandboxRecord},
    v1::{ContainerState, FilesystemUsage, PodSandboxConfig, PodSandboxMetadata, PodSandboxState},
};

pub(crate) type Living = Arc<dyn wharf_runtime::Sandbox>;

/// The lock, also after a panic of another thread.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In nanoseconds since 1970, as the interface has times.
pub(crate) fn nanos(time: Timestamp) -> i64 {
    time.as_second().saturating_mul(1_000_000_000).saturating_add(i64::from(time.subsec_nanos()))
}

/// A pod's sandbox.
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) record: Mutex<SandboxRecord>,
    /// Its shim; nothing once it is gone.
    pub(crate) living: Mutex<Option<Living>>,
    /// Held by whoever changes what it has: one at a time.
    pub(crate) turn: Mutex<()>,
}

impl Sandbox {
    pub(crate) fn record(&self) -> SandboxRecord {
        locked(&self.record).clone()
    }

    pub(crate) fn config(&self) -> PodSandboxConfig {
        locked(&self.record).config.clone().unwrap_or_default()
    }

    pub(crate) fn dir(&self) -> PodDir {
        PodDir::at(&self.folder)
    }

    pub(crate) fn living(&self) -> Option<Living> {
        locked(&self.living).clone()
    }

    /// Its shim, or why nothing can be done in it.
    pub(crate) fn ready(&self) -> Result<Living> {
        let stopped = locked(&self.record).stopped;
        self.living()
            .filter(|_| !stopped)
            .ok_or_else(|| Failure::state(format_args!("the sandbox {} is not ready", self.id)))
    }

    pub(crate) fn state(&self) -> PodSandboxState {
        if self.ready().is_ok() { PodSandboxState::Ready } else { PodSandboxState::Notready }
    }

    /// Changes the record, in memory once it is on disk.
    pub(crate) fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut record = locked(&self.record);
        let mut new = record.clone();
        change(&mut new);
        crate::record::write(&self.folder.join("sandbox.pb"), &new).map_err(Failure::internal)?;
        *record = new;
        Ok(())
    }
}

/// What a container used when it was last looked at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    /// When, and nanoseconds of processor time.
    pub(crate) cpu: Option<(Instant, u64)>,
    /// When its files were last counted.
    pub(crate) files: Option<(Instant, FilesystemUsage)>,
}

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) record: Mutex<ContainerRecord>,
    /// As the shim has told it.
    pub(crate) status: Mutex<Status>,
    pub(crate) measured: Mutex<Measured>,
}

impl Container {
    pub(crate) fn record(&self) -> ContainerRecord {
        locked(&self.record).clone()
    }

    pub(crate) fn status(&self) -> Status {
        locked(&self.status).clone()
    }

    pub(crate) fn record_path(&self) -> PathBuf {
        self.sandbox.folder.join("records").join(format!("{}.pb", self.id))
    }

    /// Changes the record, in memory once it is on disk.
    pub(crate) fn change(&self, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let mut record = locked(&self.record);
        let mut new = record.clone();
        change(&mut new);
        crate::record::write(&self.record_path(), &new).map_err(Failure::internal)?;
        *record = new;
        Ok(())
    }

    pub(crate) fn state(&self) -> ContainerState {
        match locked(&self.status).phase {
            Phase::Created => ContainerState::Created,
            Phase::Running | Phase::Paused => ContainerState::Running,
            Phase::Exited => ContainerState::Exited,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state() == ContainerState::Exited
    }

    /// Notes its end. False when that was known.
    pub(crate) fn ended(&self, exit: Exit) -> bool {
        let mut status = locked(&self.status);
        let was = status.phase;
        status.phase = Phase::Exited;
        status.pid = None;
        status.exit = Some(exit);
        was != Phase::Exited
    }

    /// Its shim while the container runs, or why nothing can be done in it.
    pub(crate) fn running(&self) -> Result<Living> {
        match self.state() {
            ContainerState::Running => self.sandbox.ready(),
            _ => Err(Failure::state(format_args!("the container {} does not run", self.id))),
        }
    }
}

/// All there are, by their ids.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) sandboxes: BTreeMap<String, Arc<Sandbox>>,
    pub(crate) containers: BTreeMap<String, Arc<Container>>,
    /// Names of sandboxes and containers that are there or being made.
    pub(crate) names: BTreeMap<String, String>,
}

/// The one of this id, or the only one whose id begins with it.
fn find<'a, T>(all: &'a BTreeMap<String, Arc<T>>, what: &str, id: &str) -> Result<&'a Arc<T>> {
    if id.is_empty() {
        return Err(Failure::invalid(format_args!("no {what} is named")));
    }
    let mut found = all.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    match (found.next(), found.next()) {
        (Some((key, one)), second) if second.is_none() || key == id => Ok(one),
        (Some(_), _) => Err(Failure::invalid(format_args!("'{id}' is the start of several ids"))),
        _ => Err(Failure::not_found(what, id)),
    }
}

impl Table {
    pub(crate) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        find(&self.sandboxes, "sandbox", id).cloned()
    }

    pub(crate) fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.containers, "container", id).cloned()
    }

    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.values().filter(|container| container.sandbox.id == sandbox).cloned().collect()
    }

    /// Takes a name for `id`, so that nobody else has it.
    pub(crate) fn reserve(&mut self, name: &str, id: &str) -> Result<()> {
        match self.names.get(name) {
            Some(other) if other != id => {
                Err(Failure::new(Code::AlreadyExists, format_args!("the name {name} is taken by {other}")))
            }
            _ => {
                self.names.insert(name.to_owned(), id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives every name of `id` back.
    pub(crate) fn release(&mut self, id: &str) {
        self.names.retain(|_, owner| owner != id);
    }
}

/// A sandbox' name among all.
pub(crate) fn sandbox_name(metadata: &PodSandboxMetadata) -> String {
    let PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
    format!("{name}_{namespace}_{uid}_{attempt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_cut_off() {
        let all: BTreeMap<String, Arc<u8>> =
            [("ab", 1), ("abc", 2), ("xyz", 3)].map(|(id, n)| (id.to_owned(), Arc::new(n))).into();
        let get = |id: &str| find(&all, "thing", id).map(|n| **n).map_err(|failure| failure.code);
        assert_eq!((get("x"), get("ab"), get("abc")), (Ok(3), Ok(1), Ok(2)));
        assert_eq!(get("a"), Err(Code::InvalidArgument));
        assert_eq!(get("b"), Err(Code::NotFound));
        assert_eq!(get(""), Err(Code::InvalidArgument));
    }

    #[test]
    fn names_belong_to_one() {
        let mut table = Table::default();
        assert!(table.reserve("n", "1").is_ok() && table.reserve("n", "1").is_ok());
        assert_eq!(table.reserve("n", "2").unwrap_err().code, Code::AlreadyExists);
        table.release("1");
        assert!(table.reserve("n", "2").is_ok());
    }
}
