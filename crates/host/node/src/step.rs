//! What to do next for a pod: a pure decision over what was asked for and what is.
//!
//! ```text
//!            sandbox and volumes        each init container in order      containers
//!  Absent ───────────────────▶ Ready ───────────────────────────▶ … ───────────────▶ Running ⇄ back-off
//!     ▲                          │ shim gone                                             │ deleted, deadline, all ended
//!     └──────────────────────────┘                            removed ◀── containers end ┘
//! ```

pub(crate) mod resize;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use wharf_base::Timestamp;

use crate::model::{Container, Pod};
pub(crate) use state::{
    Backoff, Condemned, ContainerState, Ending, PodState, Reason, Retry, Run, Running, Sandbox, Termination,
};

/// One thing to do. The worker does it and reports back; meanwhile the pod or the container is `busy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make volumes and sandbox, and wire the network.
    Setup,
    /// Make a run of a container and start it.
    Start { container: String, attempt: u32 },
    /// End a container's run: hook, signal, wait, kill.
    Stop { container: String, grace: i64, why: String },
    /// End the sandbox and take everything back.
    Remove,
    /// Give these containers, and the pod as a whole, the resources asked for.
    Resize { containers: Vec<String> },
    /// The pod as a whole has failed.
    Fail(Reason),
    /// Delete the object from the API: nothing of the pod is left here.
    Delete,
}

/// What to do, and when to look again if nothing happens before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) actions: Vec<Action>,
    pub(crate) wake: Option<Timestamp>,
}

impl Decision {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |known| known.min(at)));
    }
}

/// Decides for one pod.
pub(crate) fn decide(pod: &Pod, state: &PodState, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if state.busy {
        return decision;
    }
    if state.removed {
        if state.ending.as_ref().is_some_and(|ending| ending.delete) {
            decision.actions.push(Action::Delete);
        }
        return decision;
    }
    if let Some(ending) = &state.ending {
        end(pod, state, ending.grace, ending.since, ending.why, now, &mut decision);
        return decision;
    }
    if state.failed.is_some() || is_over(pod, state) {
        end(pod, state, pod.grace(), now, "the pod has ended", now, &mut decision);
        return decision;
    }
    if let Some(deadline) = deadline(pod, state) {
        if now >= deadline {
            let message = "Pod was active on the node longer than the specified deadline";
            decision.actions.push(Action::Fail(Reason::new("DeadlineExceeded", message)));
            return decision;
        }
        decision.wake_at(deadline);
    }
    condemned(state, &mut decision);
    if state.sandbox == Sandbox::Absent {
        match &state.setup_failure {
            Some(failure) if failure.at > now => decision.wake_at(failure.at),
            _ => decision.actions.push(Action::Setup),
        }
        return decision;
    }
    resize::decide(pod, state, now, &mut decision);
    for container in &pod.spec.ephemeral_containers {
        consider(pod, state, container, now, &mut decision);
    }
    if init(pod, state, now, &mut decision) {
        for container in &pod.spec.containers {
            consider(pod, state, container, now, &mut decision);
        }
    }
    decision
}

fn deadline(pod: &Pod, state: &PodState) -> Option<Timestamp> {
    let seconds = u64::try_from(pod.spec.active_deadline_seconds?).ok()?;
    Some(state.started?.plus(Duration::from_secs(seconds)))
}

/// Ends containers that were condemned by a probe or a hook.
fn condemned(state: &PodState, decision: &mut Decision) {
    for (name, container) in &state.containers {
        if let (Some(condemned), Some(_), false) = (&container.condemned, container.running(), container.busy)
        {
            decision.actions.push(Action::Stop {
                container: name.clone(),
                grace: condemned.grace,
                why: condemned.why.clone(),
            });
        }
    }
}

/// Brings the init containers on, one after the other. True once the others may run.
fn init(pod: &Pod, state: &PodState, now: Timestamp, decision: &mut Decision) -> bool {
    // Once the main containers have begun, plain init containers are over and sidecars are just kept running.
    let begun = has_begun(pod, state);
    for container in &pod.spec.init_containers {
        let known = state.container(&container.name);
        if container.is_sidecar() {
            consider(pod, state, container, now, decision);
            let started = known.and_then(ContainerState::running).is_some_and(|running| running.started);
            if !started && !begun {
                return false;
            }
        } else if !begun {
            let done = known.and_then(ContainerState::ended).is_some_and(|ended| ended.code == 0);
            if !done {
                consider(pod, state, container, now, decision);
                return false;
            }
        }
    }
    true
}

/// Whether any main container has ever run in this sandbox.
pub(crate) fn has_begun(pod: &Pod, state: &PodState) -> bool {
    let begun =
        |name: &str| state.container(name).is_some_and(|known| known.run != Run::Absent || known.busy);
    pod.spec.containers.iter().any(|container| begun(&container.name))
}

/// Starts a container, first or again, unless it runs, is over, or has to wait.
fn consider(pod: &Pod, state: &PodState, container: &Container, now: Timestamp, decision: &mut Decision) {
    let absent = ContainerState::default();
    let known = state.container(&container.name).unwrap_or(&absent);
    if known.busy {
        return;
    }
    if let Some(failure) = known.failure.as_ref() {
        // The first word on a failed pull gives way to "backing off" while it waits.
        let shown = failure.failed.plus(SHOWN);
        if shown > now {
            decision.wake_at(shown);
        }
        if failure.at > now {
            decision.wake_at(failure.at);
            return;
        }
    }
    match &known.run {
        Run::Running(_) => {}
        Run::Absent => decision.actions.push(start(container, known, false)),
        Run::Ended(ended) if restarts(pod, container, known, ended) => {
            let at = if known.again { ended.finished } else { known.restart.until(ended.finished) };
            if at > now {
                decision.wake_at(at);
            } else {
                decision.actions.push(start(container, known, true));
            }
        }
        Run::Ended(_) => {}
    }
}

/// How long the reason of a failure stands before it reads "backing off".
pub(crate) const SHOWN: Duration = Duration::from_secs(2);

fn start(container: &Container, known: &ContainerState, again: bool) -> Action {
    Action::Start { container: container.name.clone(), attempt: known.attempt + u32::from(again) }
}

/// Whether a container that has ended is started again while its pod goes on.
pub(crate) fn restarts(
    pod: &Pod,
    container: &Container,
    known: &ContainerState,
    ended: &Termination,
) -> bool {
    if pod.is_ephemeral(&container.name) {
        return false;
    }
    if container.is_sidecar() || known.again {
        return true;
    }
    match pod.spec.restart_policy.as_str() {
        "Never" => false,
        "OnFailure" => ended.code != 0,
        // An init container that has succeeded is over whatever the policy.
        _ => ended.code != 0 || pod.spec.containers.iter().any(|main| main.name == container.name),
    }
}

/// Whether all that was to run has ended for good.
pub(crate) fn is_over(pod: &Pod, state: &PodState) -> bool {
    let over = |container: &Container| {
        let known = state.container(&container.name);
        known.is_some_and(|known| known.ended().is_some_and(|ended| !restarts(pod, container, known, ended)))
    };
    init_failed(pod, state) || (!pod.spec.containers.is_empty() && pod.spec.containers.iter().all(over))
}

/// Whether an init container has failed for good.
pub(crate) fn init_failed(pod: &Pod, state: &PodState) -> bool {
    pod.spec.init_containers.iter().filter(|container| !container.is_sidecar()).any(|container| {
        let known = state.container(&container.name);
        known.is_some_and(|known| {
            let ended = known.ended();
            ended.is_some_and(|ended| ended.code != 0 && !restarts(pod, container, known, ended))
        })
    })
}

/// Ends what runs, sidecars after the others and in reverse, then removes the pod.
fn end(
    pod: &Pod,
    state: &PodState,
    grace: i64,
    since: Timestamp,
    why: &str,
    now: Timestamp,
    decision: &mut Decision,
) {
    let spent = i64::try_from(now.since(since).as_secs()).unwrap_or(i64::MAX);
    let left = grace.saturating_sub(spent).max(0);
    let is_sidecar = |name: &str| pod.spec.init_containers.iter().any(|c| c.is_sidecar() && c.name == name);
    let alive =
        |name: &String| state.container(name).is_some_and(|known| known.busy || known.running().is_some());
    let (sidecars, others): (Vec<&String>, Vec<&String>) =
        state.containers.keys().filter(|name| alive(name)).partition(|name| is_sidecar(name));
    let last_sidecar = || {
        let order = pod.spec.init_containers.iter().rev().map(|container| &container.name);
        order.filter(|name| sidecars.contains(name)).take(1).collect::<Vec<_>>()
    };
    let next = if others.is_empty() { last_sidecar() } else { others };
    if next.is_empty() {
        decision.actions.push(Action::Remove);
        return;
    }
    for name in next {
        if !state.container(name).is_some_and(|known| known.busy) {
            let why = why.to_owned();
            decision.actions.push(Action::Stop { container: name.clone(), grace: left, why });
        }
    }
}
