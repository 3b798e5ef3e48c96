//! The seam at which another runtime (runc, crun) can stand: what a caller may ask of one.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use crate::{
    client::{Ending, Events, Exec},
    config::{ContainerConfig, ExecConfig, SandboxConfig, Size},
    error::Result,
    pod_dir::PodDir,
    status::{Exit, Stats, Status},
};

/// Makes pods and finds them again.
pub trait Runtime: Send + Sync {
    /// Makes the sandbox of a pod in `folder`, which is made where missing.
    fn create(&self, folder: &Path, config: &SandboxConfig) -> Result<Box<dyn Sandbox>>;

    /// Connects to the pod in `folder`, after a restart of the caller. Fails with [`crate::ErrorKind::ShimGone`] when its shim does not live.
    fn open(&self, folder: &Path) -> Result<Box<dyn Sandbox>>;

    /// Puts the pod in `folder` in order when its shim does not live: ends its processes, removes its cgroups, writes the exit status
    /// nobody saw. Gives the names of containers that ended thereby. Does nothing while the shim lives. The folder stays.
    fn clean_up(&self, folder: &Path) -> Result<Vec<String>>;
}

/// Whom a signal is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalTo {
    /// The container's first process.
    First,
    /// Every process of the container.
    All,
}

/// A pod: namespaces its containers share. All calls block for as long as the work takes; those that wait say so.
pub trait Sandbox: Send + Sync {
    /// Its folder, which tells the state without the shim.
    fn dir(&self) -> &PodDir;

    /// The process that holds its namespaces.
    fn pid(&self) -> i32;

    /// The pod's network namespace, to be wired before containers start.
    fn network_namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.pid()))
    }

    /// Sets a container up to the point where only its program has to be started. A failure leaves nothing behind.
    fn create_container(&self, config: &ContainerConfig) -> Result<Status>;

    /// Starts a created container's program.
    fn start(&self, name: &str) -> Result<()>;

    /// Sends a signal by number.
    fn kill(&self, name: &str, signal: i32, to: SignalTo) -> Result<()>;

    /// Starts one more process with these standard streams, the null device where there is none. With a terminal they are not used:
    /// [`Exec::terminal`] is.
    fn exec(&self, name: &str, config: &ExecConfig, stdio: [Option<OwnedFd>; 3]) -> Result<Exec>;

    /// Joins a container's streams: where to write its input, where to read its output and error from now on. With a terminal the
    /// input is the terminal, does not block, and there is no separate error.
    fn attach(&self, name: &str) -> Result<[Option<OwnedFd>; 3]>;

    /// Sets the size of a container's terminal.
    fn resize(&self, name: &str, size: Size) -> Result<()>;

    /// Freezes all processes of a container.
    fn pause(&self, name: &str) -> Result<()>;

    /// Lets them go on.
    fn unpause(&self, name: &str) -> Result<()>;

    /// How a container is.
    fn status(&self, name: &str) -> Result<Status>;

    /// How all containers of the pod are.
    fn list(&self) -> Result<Vec<Status>>;

    /// Waits until a container has ended and its output has been written.
    fn wait(&self, name: &str) -> Result<Exit> {
        self.watch(name)?.wait()
    }

    /// As [`Sandbox::wait`], through a descriptor that can be polled.
    fn watch(&self, name: &str) -> Result<Ending>;

    /// A connection that tells what happens from now on.
    fn events(&self) -> Result<Events>;

    /// What a container uses. Does not trouble the shim.
    fn stats(&self, name: &str) -> Result<Stats>;

    /// Removes a container that does not run, with its files.
    fn delete(&self, name: &str) -> Result<()>;

    /// Ends every container and the pod. Its folder stays for the caller to remove.
    fn shutdown(&self) -> Result<()>;
}
