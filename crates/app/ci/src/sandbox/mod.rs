//! Where jobs run.
//!
//! A job gets a sandbox with an image and a few shared folders, and runs commands in it one after the other. The
//! implementation here is a container of its own ([`Containers`]); jobs as pods would be another.

mod container;
mod relay;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};

pub use container::Containers;

/// Where a job's workspace is in its sandbox.
pub const WORKSPACE: &str = "/github/workspace";

/// A sandbox to be made.
#[derive(Debug, Clone, Default)]
pub struct SandboxSpec {
    /// Unique on the machine.
    pub id: String,
    /// Folder for its own files.
    pub folder: PathBuf,
    /// The image.
    pub image: String,
    /// `K=V`.
    pub env: Vec<String>,
    /// Folders of the machine and where they are inside.
    pub mounts: Vec<(PathBuf, String)>,
}

/// A command to be run.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `K=V`, added to the sandbox's.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: String,
}

/// Why a job is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody, or another job's failure, asked for it.
    Cancelled,
    /// The job took too long.
    TimedOut,
    /// The platform stops; nothing more is to be begun.
    Interrupted,
}

/// Tells when to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Receiver<Option<StopReason>>);

impl Cancel {
    /// A way to stop, and what sees it.
    pub fn new() -> (watch::Sender<Option<StopReason>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// The reason, once there is one.
    pub fn reason(&self) -> Option<StopReason> {
        *self.0.borrow()
    }

    /// Waits until the platform stops, whatever else was asked before.
    pub async fn interrupted(&mut self) -> StopReason {
        if self.0.wait_for(|reason| *reason == Some(StopReason::Interrupted)).await.is_ok() {
            return StopReason::Interrupted;
        }
        std::future::pending().await
    }

    /// Waits for a reason to stop; for ever when none can come any more.
    pub async fn stopped(&mut self) -> StopReason {
        if let Ok(reason) = self.0.wait_for(Option::is_some).await
            && let Some(reason) = *reason
        {
            return reason;
        }
        std::future::pending().await
    }
}

/// A line a command wrote, to either output.
pub type Line = String;

/// Makes sandboxes.
pub trait Sandboxes: Send + Sync {
    /// Makes one.
    fn start(&self, spec: SandboxSpec) -> BoxFuture<'_, anyhow::Result<Arc<dyn JobSandbox>>>;

    /// Ends what is left of one whose maker is gone.
    fn clean_up(&self, id: &str, folder: &Path) -> anyhow::Result<()>;

    /// Looks for an image.
    ///
    /// # Errors
    /// When it is not there, or its name is none.
    fn find_image(&self, image: &str) -> Result<(), wharf_image::Error>;
}

/// A place to run commands in.
pub trait JobSandbox: Send + Sync {
    /// Runs a command to its end and gives its exit code. When told to stop, the command is ended first.
    fn exec(
        &self,
        command: Command,
        lines: mpsc::Sender<Line>,
        cancel: Cancel,
    ) -> BoxFuture<'_, anyhow::Result<i32>>;

    /// Holds all its processes still while the caller works on shared folders.
    fn pause(&self) -> anyhow::Result<()>;

    /// Lets them go on.
    fn resume(&self) -> anyhow::Result<()>;

    /// The `PATH` of its image.
    fn path_variable(&self) -> String;

    /// Ends it with everything in it.
    fn stop(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// Joins sandboxes to a network.
pub trait JobNetwork: Send + Sync {
    /// Wires a network namespace; gives the content of `/etc/resolv.conf` and further lines of `/etc/hosts`.
    fn attach(&self, id: &str, namespace: &Path) -> anyhow::Result<NetworkFiles>;

    /// Undoes it; nothing happens when there is nothing.
    fn detach(&self, id: &str) -> anyhow::Result<()>;
}

/// What a sandbox is told of its network.
#[derive(Debug, Clone, Default)]
pub struct NetworkFiles {
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Further lines of `/etc/hosts`.
    pub hosts: String,
}
