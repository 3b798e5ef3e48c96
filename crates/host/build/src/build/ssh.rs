//! `RUN --mount=type=ssh`: a socket for one step that leads to an ssh agent of this machine.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use crate::{
    error::{IoContext, Result},
    workspace::private_dir,
};

const NAME: &str = "agent";

/// A socket that leads to the agent for as long as this value lives.
pub(crate) struct AgentSocket {
    folder: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AgentSocket {
    /// Listens in `folder`, which is made.
    pub(crate) fn open(folder: &Path, agent: &Path, mode: u32, owner: (u32, u32)) -> Result<Self> {
        private_dir(folder)?;
        let listener = at(folder, |path| UnixListener::bind(path)).at("listen in", folder)?;
        let socket = folder.join(NAME);
        fs::set_permissions(&socket, Permissions::from_mode(mode)).at("set the mode of", &socket)?;
        chown(&socket, Some(owner.0), Some(owner.1)).at("set the owner of", &socket)?;
        let over = Arc::new(AtomicBool::new(false));
        let (done, agent) = (over.clone(), agent.to_owned());
        let thread = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let agent = agent.clone();
                std::thread::spawn(move || drop(relay(client, &agent)));
            }
        });
        Ok(Self { folder: folder.to_owned(), over, thread: Some(thread) })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        if at(&self.folder, |path| UnixStream::connect(path)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// Names of sockets are short; the folder's need not be.
fn at<T>(folder: &Path, act: impl FnOnce(&str) -> io::Result<T>) -> io::Result<T> {
    let dir = File::open(folder)?;
    act(&format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()))
}

fn relay(client: UnixStream, agent: &Path) -> io::Result<()> {
    let agent = UnixStream::connect(agent)?;
    let (to, from) = (agent.try_clone()?, client.try_clone()?);
    let asks = std::thread::spawn(move || copy(from, to));
    copy(agent, client)?;
    let _ = asks.join();
    Ok(())
}

fn copy(mut from: UnixStream, mut to: UnixStream) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else {
            return to.shutdown(std::net::Shutdown::Write);
        };
        to.write_all(piece)?;
    }
}
