//! Those connected to the shim: what they ask and what they are told.

use std::{
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::event::PollFlags;

use super::{Shim, container::Container, exec::Exec};
use crate::{
    config::ExecConfig,
    error::{Error, Result},
    pod_dir::check_name,
    prepare::{self, Shares},
    status::{Event, Exit, Phase},
    wire::{Channel, Request, Response},
};

/// A connection that lets more than this pile up unread is closed.
const MAX_BACKLOG: usize = 1 << 20;

pub(super) struct Connection {
    id: u64,
    channel: Channel,
    subscribed: bool,
    waits_for: Option<String>,
    closed: bool,
}

impl Connection {
    pub(super) fn new(channel: Channel) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, channel, subscribed: false, waits_for: None, closed: false }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    pub(super) fn interest(&self) -> PollFlags {
        if self.channel.has_outgoing() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    }

    pub(super) fn has_outgoing(&self) -> bool {
        self.channel.has_outgoing()
    }

    fn say(&mut self, response: &Response, fds: Vec<OwnedFd>) {
        self.channel.queue(response, fds);
        if self.channel.flush().is_err() || self.channel.backlog() > MAX_BACKLOG {
            self.closed = true;
        }
    }
}

/// What a request comes to: an answer at once, or one that comes by itself later.
enum Answer {
    Now(Response, Vec<OwnedFd>),
    Later,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Now(response, Vec::new())
    }
}

impl Shim {
    /// Serves one connection that is ready.
    pub(super) fn hear(&mut self, index: usize, ready: PollFlags) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if ready.contains(PollFlags::OUT) && connection.channel.flush().is_err() {
            connection.closed = true;
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            connection.closed |= !matches!(connection.channel.fill(), Ok(true));
            self.serve_requests(index);
        }
        if self.connections.get(index).is_some_and(|connection| connection.closed) {
            self.connections.remove(index);
        }
    }

    fn serve_requests(&mut self, index: usize) {
        while let Some(connection) = self.connections.get_mut(index) {
            match connection.channel.next::<Request>() {
                Ok(None) => return,
                Ok(Some((request, fds))) => self.answer(index, request, fds),
                Err(error) => {
                    let error = Error::invalid("read", "a request", error);
                    connection.say(&Response::Error(error), Vec::new());
                    connection.closed = true;
                    return;
                }
            }
        }
    }

    fn answer(&mut self, index: usize, request: Request, fds: Vec<OwnedFd>) {
        let answer =
            self.carry_out(index, request, fds).unwrap_or_else(|error| Response::Error(error).into());
        if let (Answer::Now(response, fds), Some(connection)) = (answer, self.connections.get_mut(index)) {
            connection.say(&response, fds);
        }
    }

    fn carry_out(&mut self, index: usize, request: Request, fds: Vec<OwnedFd>) -> Result<Answer> {
        match request {
            Request::Create { name } => {
                self.create(&name)?;
                return Ok(Response::Status(Box::new(self.container(&name)?.status().clone())).into());
            }
            Request::Start { name } => {
                self.container(&name)?.start()?;
                self.publish(&Event::Started { name });
            }
            Request::Kill { name, signal, all } => self.container(&name)?.kill(signal, all)?,
            Request::Exec { name, config, stdio } => return self.exec(index, &name, &config, stdio, fds),
            Request::Attach { name } => {
                let streams = self.container(&name)?.attach()?;
                let stdio = [streams[0].is_some(), streams[1].is_some(), streams[2].is_some()];
                return Ok(Answer::Now(Response::Streams { stdio }, streams.into_iter().flatten().collect()));
            }
            Request::Resize { name, size } => self.container(&name)?.resize(size)?,
            Request::Freeze { name, frozen } => self.container(&name)?.freeze(frozen)?,
            Request::Status { name } => {
                return Ok(Response::Status(Box::new(self.container(&name)?.status().clone())).into());
            }
            Request::List => {
                let all = self.containers.values().map(|container| container.status().clone()).collect();
                return Ok(Response::List(all).into());
            }
            Request::Wait { name } => return self.wait_for(index, name),
            Request::Subscribe => {
                if let Some(connection) = self.connections.get_mut(index) {
                    connection.subscribed = true;
                }
            }
            Request::Delete { name } => self.delete(&name)?,
            Request::Shutdown => self.end_everything(),
        }
        Ok(Response::Done.into())
    }

    /// Ends all containers, and then this process.
    pub(super) fn end_everything(&mut self) {
        self.end_execs();
        self.containers.values_mut().for_each(Container::destroy);
        self.containers.values_mut().for_each(Container::run_last_hooks);
        self.stopping = true;
    }

    /// Ends what runs beside the containers' own programs. A container's first process is not gone before every process
    /// of its namespace is, and these are children of the shim: waiting for the first alone would never end.
    fn end_execs(&mut self) {
        self.containers.values().for_each(Container::kill_everything);
        for exec in self.execs.iter_mut().filter(|exec| exec.exit.is_none()) {
            let pid = rustix::process::Pid::from_raw(exec.pid);
            if let Ok(Some((_, status))) =
                rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())
            {
                exec.ended(status);
            }
        }
    }

    fn container(&mut self, name: &str) -> Result<&mut Container> {
        self.containers.get_mut(name).ok_or_else(|| Error::not_found(name))
    }

    fn create(&mut self, name: &str) -> Result<()> {
        check_name(name)?;
        if self.containers.contains_key(name) {
            return Err(Error::new(
                crate::ErrorKind::Exists,
                "create container",
                name,
                "the pod has one of this name",
            ));
        }
        let mut config = self.dir.container_config(name)?;
        if let (Some(users), Some(file)) = (&self.config.users, &self.users) {
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            prepare::join_users(name, &mut config.spec, users, path.into())?;
        }
        let filter = prepare::filter(&config.spec, config.seccomp, &mut self.filter)?;
        let shares = Shares::of_pod(&self.config);
        let container = Container::create(config, self.dir.container(name), filter, shares)?;
        self.containers.insert(name.to_owned(), container);
        Ok(())
    }

    fn exec(
        &mut self,
        index: usize,
        name: &str,
        wanted: &ExecConfig,
        given: [bool; 3],
        fds: Vec<OwnedFd>,
    ) -> Result<Answer> {
        let mut fds = fds.into_iter();
        let stdio = given.map(|given| if given { fds.next() } else { None });
        let connection = self.connections.get(index).map_or(u64::MAX, |connection| connection.id);
        let container = self.containers.get_mut(name).ok_or_else(|| Error::not_found(name))?;
        let (launched, terminal) = container.exec(wanted, stdio)?;
        let pid = launched.pid.as_raw_nonzero().get();
        self.execs.push(Exec { pid, connection, exit: None });
        Ok(Answer::Now(Response::Started { pid }, terminal.into_iter().collect()))
    }

    fn wait_for(&mut self, index: usize, name: String) -> Result<Answer> {
        let container = self.containers.get(&name).ok_or_else(|| Error::not_found(&name))?;
        if container.is_over()
            && let Some(exit) = container.status().exit.clone()
        {
            return Ok(Response::Exit(exit).into());
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.waits_for = Some(name);
        }
        Ok(Answer::Later)
    }

    fn delete(&mut self, name: &str) -> Result<()> {
        let container = self.container(name)?;
        if matches!(container.status().phase, Phase::Running | Phase::Paused) {
            return Err(Error::state("remove container", name, "it runs; stop it first"));
        }
        container.destroy();
        container.run_last_hooks();
        container.remove_files()?;
        self.containers.remove(name);
        Ok(())
    }

    /// Tells what has happened; of a container's end once its output has been passed on.
    pub(super) fn settle(&mut self) {
        let mut news = Vec::new();
        for container in self.containers.values_mut() {
            container.watch();
            news.extend(container.take_news());
        }
        news.iter().for_each(|event| self.publish(event));
        let mut ended = Vec::new();
        for (name, container) in &mut self.containers {
            if container.status().phase == Phase::Exited && !container.announced && container.drain() {
                container.announced = true;
                ended.extend(container.status().exit.clone().map(|exit| (name.clone(), exit)));
            }
        }
        for (name, exit) in ended {
            self.tell_waiting(&name, &exit);
            self.publish(&Event::Exited { name, exit });
        }
        self.tell_of_execs();
        self.connections.retain(|connection| !connection.closed);
    }

    fn tell_waiting(&mut self, name: &str, exit: &Exit) {
        for connection in &mut self.connections {
            if connection.waits_for.as_deref() == Some(name) {
                connection.waits_for = None;
                connection.say(&Response::Exit(exit.clone()), Vec::new());
            }
        }
    }

    fn tell_of_execs(&mut self) {
        let (ended, running) =
            std::mem::take(&mut self.execs).into_iter().partition(|exec| exec.exit.is_some());
        self.execs = running;
        let ended: Vec<Exec> = ended;
        for exec in ended {
            let connection = self.connections.iter_mut().find(|connection| connection.id == exec.connection);
            if let (Some(connection), Some(exit)) = (connection, exec.exit) {
                connection.say(&Response::Exit(exit), Vec::new());
            }
        }
    }

    fn publish(&mut self, event: &Event) {
        for connection in self.connections.iter_mut().filter(|connection| connection.subscribed) {
            connection.say(&Response::Event(event.clone()), Vec::new());
        }
    }
}
