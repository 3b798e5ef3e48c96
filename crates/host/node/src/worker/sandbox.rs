//! The pod as a whole: found again, set up, kept up to date, and taken away.

use std::{sync::Arc, time::Duration};

use tokio::{task::spawn_blocking, time::sleep};
use wharf_base::{Clock, SystemClock};
use wharf_runtime::{Event, Sandbox};

use super::{
    Message, RETRY, Worker,
    ops::{self, Ready},
    publish,
    recover::{self, Found, Notes},
};
use crate::{
    config::Failure,
    events::Level,
    step::{PodState, Reason, Retry, Run, Sandbox as SandboxState, resize},
    watches::ObjectName,
};

/// How long a volume's content that could not be brought up to date waits.
const REFRESH_AGAIN: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) fn found(&mut self, found: Result<Found, wharf_runtime::Error>) {
        match found {
            Ok(found) => {
                let ending = self.state.ending.take();
                self.state = PodState { ending, ..found.state };
                self.state.started.get_or_insert_with(|| SystemClock.now());
                for run in &found.lost {
                    self.note(None, Level::Warning, "ContainerLost", format!("{run} was lost with its shim"));
                }
                self.trust_api();
                if let Some(sandbox) = found.sandbox {
                    // Its network and volumes are looked at again before anything is started in it.
                    self.adopt(&sandbox);
                    self.state.sandbox = SandboxState::Absent;
                }
            }
            Err(error) => {
                self.state.busy = false;
                self.state.started.get_or_insert_with(|| SystemClock.now());
                self.setup_failed(Reason::new("FailedCreatePodSandBox", error.to_string()));
            }
        }
    }

    /// What the API says of probes passed stands until they are asked again: a restart of the agent takes no pod out of service.
    pub(super) fn trust_api(&mut self) {
        let seen = &self.pod.status;
        let all =
            [&seen.container_statuses, &seen.init_container_statuses, &seen.ephemeral_container_statuses];
        for status in all.into_iter().flatten() {
            let known = status["name"].as_str().and_then(|name| self.state.containers.get_mut(name));
            let Some(known) = known.filter(|known| status["restartCount"] == known.attempt) else { continue };
            if let Run::Running(running) = &mut known.run {
                running.started |= status["started"] == true;
                running.ready |= status["ready"] == true;
            }
        }
    }

    pub(super) fn set_up(&mut self) {
        let living = self.sandbox.clone();
        self.state.busy = true;
        if living.is_none() {
            self.state.size.pod = Some(resize::wanted(&self.pod));
            if !self.pod.spec.host_network {
                self.warn_of_host_ports();
            }
        }
        let (shared, pod, folder) = (Arc::clone(&self.shared), Arc::clone(&self.pod), self.folder.clone());
        let (tokens, sender) = (std::mem::take(&mut self.tokens), self.sender.clone());
        self.tasks.spawn(async move {
            let ready = ops::set_up(shared, pod, folder, living, tokens).await;
            let _ = sender.send(Message::Ready(Box::new(ready)));
        });
    }

    pub(super) fn ready(&mut self, ready: Result<Ready, Reason>) {
        let was_refresh = std::mem::take(&mut self.refreshing);
        if !was_refresh {
            self.state.busy = false;
        }
        match ready {
            Ok(_) if was_refresh && self.state.sandbox == SandboxState::Absent => {}
            Ok(ready) => {
                if self.sandbox.is_none() {
                    self.adopt(&ready.sandbox);
                }
                self.setup_failures = 0;
                self.state.setup_failure = None;
                self.state.sandbox = SandboxState::Ready;
                self.state.ip = ready.ip;
                self.volumes = ready.volumes;
                self.tokens = ready.tokens;
                self.refresh_at = ready.upkeep.renew;
                self.watch_objects(&ready.upkeep.objects);
                self.resume();
            }
            Err(reason) if was_refresh => {
                self.note(None, Level::Warning, &reason.reason, reason.message);
                self.refresh_at = Some(SystemClock.now().plus(REFRESH_AGAIN));
            }
            Err(reason) => self.setup_failed(reason),
        }
        if std::mem::take(&mut self.refresh_wanted) {
            self.refresh();
        }
    }

    pub(super) fn setup_failed(&mut self, why: Reason) {
        let (level, now) = (Level::Warning, SystemClock.now());
        self.note(None, level, &why.reason, why.message.clone());
        // The kubelet's pace for volumes: half a second, doubling to about two minutes.
        let pause = Duration::from_millis(500) * 2u32.pow(self.setup_failures.min(8));
        self.setup_failures += 1;
        self.state.setup_failure = Some(Retry { why, failed: now, at: now.plus(pause) });
    }

    /// Listens to a sandbox from now on.
    pub(super) fn adopt(&mut self, sandbox: &Arc<dyn Sandbox>) {
        self.sandbox = Some(Arc::clone(sandbox));
        let (sandbox, sender) = (Arc::clone(sandbox), self.sender.clone());
        let name = format!("pod-{}", self.pod.metadata.name);
        let listen = move || {
            let pid = sandbox.pid();
            if let Ok(mut events) = sandbox.events() {
                // What ended before the connection stood is asked for.
                for status in sandbox.list().unwrap_or_default() {
                    if let Some(exit) = status.exit {
                        let _ = sender.send(Message::Runtime(Event::Exited { name: status.name, exit }));
                    }
                }
                drop(sandbox);
                while let Ok(Some(event)) = events.wait() {
                    if sender.send(Message::Runtime(event)).is_err() {
                        return;
                    }
                }
            }
            let _ = sender.send(Message::ShimGone(pid));
        };
        if let Err(error) = std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(listen) {
            tracing::error!(%error, "a pod cannot be listened to");
        }
    }

    pub(super) fn shim_gone(&mut self, pid: i32) {
        if self.sandbox.as_ref().is_none_or(|sandbox| sandbox.pid() != pid) || self.state.removed {
            return;
        }
        if self.removing {
            return;
        }
        self.sandbox = None;
        for (_, life) in self.lives.drain() {
            life.over.send_replace(true);
        }
        self.state.busy = true;
        let (shared, pod, folder, sender) =
            (Arc::clone(&self.shared), Arc::clone(&self.pod), self.folder.clone(), self.sender.clone());
        let notes = Notes::of(&self.state);
        self.tasks.spawn(async move {
            let found = spawn_blocking(move || {
                let _ = notes.save(&folder);
                let found = recover::find(&*shared.config.runtime, &pod, &folder);
                let gone = found.as_ref().is_ok_and(|found| found.sandbox.is_none());
                // A shim that only cut the connection keeps everything.
                if gone {
                    let why = "the pod's shim has died; its containers ended with it";
                    shared.events.pod(&pod.metadata, None, Level::Warning, "SandboxChanged", why.to_owned());
                    // The address went with the namespace.
                    if let Err(failure) = shared.config.network.detach(&pod.metadata.uid) {
                        tracing::warn!(%failure, pod = %pod.metadata.name, "a pod's network is not taken back");
                    }
                }
                found
            });
            if let Ok(found) = found.await {
                let _ = sender.send(Message::Found(Box::new(found)));
            }
        });
    }

    pub(super) fn remove(&mut self) {
        self.state.busy = true;
        self.removing = true;
        self.watches.drain(..).for_each(|(_, task)| task.abort());
        self.refresh_at = None;
        let (shared, uid, folder) =
            (Arc::clone(&self.shared), self.pod.metadata.uid.clone(), self.folder.clone());
        let (sandbox, sender) = (self.sandbox.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let released =
                spawn_blocking(move || ops::release(&shared, &uid, &folder, sandbox.as_deref())).await;
            let released = released.unwrap_or_else(|_| Err(Failure("the work was broken off".to_owned())));
            let _ = sender.send(Message::Removed(released));
        });
    }

    pub(super) fn removed(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.state.busy = false;
                self.state.removed = true;
                self.state.sandbox = SandboxState::Absent;
                self.sandbox = None;
            }
            Err(failure) => {
                self.note(None, Level::Warning, "FailedKillPod", format!("error killing pod: {failure}"));
                let sender = self.sender.clone();
                // `busy` holds everything else back meanwhile.
                let (shared, uid, folder) =
                    (Arc::clone(&self.shared), self.pod.metadata.uid.clone(), self.folder.clone());
                self.tasks.spawn(async move {
                    sleep(RETRY).await;
                    let released = spawn_blocking(move || ops::release(&shared, &uid, &folder, None)).await;
                    let released =
                        released.unwrap_or_else(|_| Err(Failure("the work was broken off".to_owned())));
                    let _ = sender.send(Message::Removed(released));
                });
            }
        }
    }

    pub(super) async fn clear_folder(&mut self) {
        ops::release_images(&self.shared, &self.pod);
        let folder = self.folder.clone();
        if let Ok(Err(error)) = spawn_blocking(move || ops::remove_files(&folder)).await {
            tracing::error!(%error, pod = %self.pod.metadata.name, "a pod's folder cannot be removed");
        }
    }

    /// Nothing is left here: says so and deletes the object.
    pub(super) async fn finish(&mut self) {
        self.clear_folder().await;
        self.publisher.last_word(&self.pod, &self.state).await;
        publish::delete(&self.shared, &self.pod).await;
    }

    pub(super) fn watch_objects(&mut self, objects: &[ObjectName]) {
        if !self.watches.is_empty() {
            return;
        }
        for object in objects {
            let watch = self.shared.objects.watch(object);
            let (mut changes, sender) = (watch.subscribe(), self.sender.clone());
            let task = self.tasks.spawn(async move {
                // The content was read just before: what is there already is no change, but looking twice is cheap.
                while changes.recv().await.is_some() {
                    if sender.send(Message::Refresh).is_err() {
                        return;
                    }
                }
            });
            self.watches.push((watch, task));
        }
    }

    /// Brings the files of volumes up to date.
    pub(super) fn refresh(&mut self) {
        let (true, Some(place), false) =
            (self.state.sandbox == SandboxState::Ready && !self.state.busy, self.place(), self.refreshing)
        else {
            self.refresh_wanted = self.refreshing || self.state.busy;
            return;
        };
        if self.pod.spec.volumes.is_empty() || self.state.ending.is_some() {
            return;
        }
        self.refreshing = true;
        let (tokens, sender) = (self.tokens.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let ready = ops::refresh(place, tokens).await;
            let _ = sender.send(Message::Ready(Box::new(ready)));
        });
    }

    fn warn_of_host_ports(&self) {
        let ports = self.pod.all_containers().flat_map(|container| &container.ports);
        for port in ports.filter(|port| port.host_port > 0) {
            let message =
                format!("hostPort {} is not opened: use a Service of type NodePort", port.host_port);
            self.note(None, Level::Warning, "HostPortNotSupported", message);
        }
    }
}
