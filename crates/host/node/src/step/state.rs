//! What the agent knows about one pod. Worked on by the worker, read by [`super::decide`] and by the status.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};
use wharf_base::Timestamp;

use super::resize::{Held, Sized};
use crate::model::Resources;

/// A pod on this machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PodState {
    /// When the agent took it on.
    pub(crate) started: Option<Timestamp>,
    /// Its namespaces.
    pub(crate) sandbox: Sandbox,
    /// Its address.
    pub(crate) ip: Option<IpAddr>,
    /// Why the last attempt at sandbox or volumes failed, and when to try again.
    pub(crate) setup_failure: Option<Retry>,
    /// Its containers by name.
    pub(crate) containers: BTreeMap<String, ContainerState>,
    /// Why the pod as a whole has failed, whatever its containers say.
    pub(crate) failed: Option<Reason>,
    /// Since when it is to end, and the seconds given.
    pub(crate) ending: Option<Ending>,
    /// Everything of it on this machine is gone.
    pub(crate) removed: bool,
    /// Something about the pod as a whole is under way.
    pub(crate) busy: bool,
    /// How far a change of its resources is.
    pub(crate) size: Sized,
    /// Why such a change is not carried out.
    pub(crate) held: Option<Held>,
}

/// The pod's namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Not there.
    #[default]
    Absent,
    /// There, with network.
    Ready,
}

/// A pod on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Since when.
    pub(crate) since: Timestamp,
    /// Seconds given.
    pub(crate) grace: i64,
    /// Why, as events say it.
    pub(crate) why: &'static str,
    /// Whether its object is to be deleted from the API at the end.
    pub(crate) delete: bool,
}

/// One word for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Reason {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// A failure that is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) why: Reason,
    pub(crate) failed: Timestamp,
    pub(crate) at: Timestamp,
}

/// One container.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ContainerState {
    /// How often it was started again: the number of the present run.
    pub(crate) attempt: u32,
    /// The present run.
    pub(crate) run: Run,
    /// How the run before ended.
    pub(crate) last: Option<Termination>,
    /// Why it could not be made, and when to try again.
    pub(crate) failure: Option<Retry>,
    /// How long restarts wait.
    pub(crate) restart: Backoff,
    /// How long pulls wait.
    pub(crate) pull: Backoff,
    /// It is being made or ended.
    pub(crate) busy: bool,
    /// It is to be ended and, where the policy says so, started again.
    pub(crate) condemned: Option<Condemned>,
    /// It is started again whatever the policy says: its definition has changed.
    pub(crate) again: bool,
    /// The resources the present run has, where that is known.
    pub(crate) resources: Option<Resources>,
    /// Digest of its image, once known.
    pub(crate) image_id: String,
}

/// A container to be ended while its pod goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condemned {
    /// Seconds given.
    pub(crate) grace: i64,
    /// Why, for people.
    pub(crate) why: String,
    /// It is started again whatever the policy says.
    pub(crate) again: bool,
}

/// A container's present run.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Run {
    /// Not made.
    #[default]
    Absent,
    /// Its program runs.
    Running(Running),
    /// Its program has ended.
    Ended(Termination),
}

/// A running program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// The container's id.
    pub(crate) id: String,
    /// Since when.
    pub(crate) since: Timestamp,
    /// Its startup probe has succeeded, or there is none.
    pub(crate) started: bool,
    /// Its readiness probe has succeeded, or there is none.
    pub(crate) ready: bool,
}

/// An ended program (`v1.ContainerStateTerminated`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Termination {
    pub(crate) id: String,
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
}

/// A wait that doubles with each use, and is forgotten after a long quiet (the kubelet's: 10 s to 5 min, forgotten after 10 min).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backoff {
    delay_seconds: u64,
    used: Option<Timestamp>,
}

const FIRST: u64 = 10;
const LONGEST: u64 = 300;

impl Backoff {
    fn forgotten(self, at: Timestamp) -> bool {
        self.used.is_none_or(|used| at.since(used) > Duration::from_secs(2 * LONGEST))
    }

    /// When what ended or failed at `event` may be tried again.
    pub(crate) fn until(self, event: Timestamp) -> Timestamp {
        if self.forgotten(event) { event } else { event.plus(Duration::from_secs(self.delay_seconds)) }
    }

    /// Seconds the next attempt waits after its end.
    pub(crate) fn delay(self) -> u64 {
        self.delay_seconds
    }

    /// Counts an attempt that begins now.
    pub(crate) fn count(&mut self, now: Timestamp) {
        let next = if self.forgotten(now) { FIRST } else { (self.delay_seconds * 2).min(LONGEST) };
        *self = Self { delay_seconds: next, used: Some(now) };
    }
}

impl ContainerState {
    pub(crate) fn running(&self) -> Option<&Running> {
        match &self.run {
            Run::Running(running) => Some(running),
            _ => None,
        }
    }

    pub(crate) fn ended(&self) -> Option<&Termination> {
        match &self.run {
            Run::Ended(ended) => Some(ended),
            _ => None,
        }
    }
}

impl PodState {
    pub(crate) fn container(&self, name: &str) -> Option<&ContainerState> {
        self.containers.get(name)
    }
}
