//! What the API server asks of a node for `kubectl logs`, `exec`, `attach` and `port-forward`.

mod exec;
mod forward;
mod logs;

pub use exec::{attach, exec};
pub use forward::connect_in;

use std::{fmt, pin::Pin};

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{agent::NodeAgent, worker::PodHandle};

/// Why a stream cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamError {
    /// There is no such pod or container here.
    NotFound(String),
    /// It cannot be asked for as it is now.
    BadRequest(String),
    /// The machine refused.
    Failed(String),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::NotFound(text) | Self::BadRequest(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for StreamError {}

impl StreamError {
    pub(crate) fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

/// A result of this module.
pub(crate) type Result<T> = std::result::Result<T, StreamError>;

/// What of a log is wanted (`v1.PodLogOptions`).
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Container; the only one when absent.
    pub container: Option<String>,
    /// Stay and send what comes, until the container ends.
    pub follow: bool,
    /// The run before this one.
    pub previous: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<usize>,
    /// Only lines from this time.
    pub since: Option<wharf_base::Timestamp>,
    /// No more than these bytes.
    pub limit_bytes: Option<u64>,
}

/// A log as it comes.
pub type LogStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A command to run in a container, or with `attach` its own process to join.
#[derive(Debug, Clone, Default)]
pub struct ExecStart {
    /// Pod's namespace.
    pub namespace: String,
    /// Pod's name.
    pub pod: String,
    /// Container; the only one when absent.
    pub container: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Standard input is sent.
    pub stdin: bool,
    /// Standard output is wanted.
    pub stdout: bool,
    /// Standard error is wanted.
    pub stderr: bool,
    /// On a terminal.
    pub tty: bool,
    /// Join the container's own process.
    pub attach: bool,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The exit code of a process, to come.
pub type ExitCode = Pin<Box<dyn Future<Output = std::result::Result<i32, StreamError>> + Send>>;

/// A process' streams. Dropped, a terminal hangs up and pipes close.
pub struct ExecStreams {
    /// Where standard input goes.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output, or all a terminal shows.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes new sizes of the terminal.
    pub resize: Option<tokio::sync::mpsc::Sender<TerminalSize>>,
    /// Its exit code, once it has ended.
    pub exit: ExitCode,
}

/// Bytes in both directions.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl NodeAgent {
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Result<std::sync::Arc<PodHandle>> {
        // A pod that goes may still be here beside its successor of the same name: the one with a sandbox is meant.
        let named = self.shared.handles().into_iter().filter(|handle| {
            let view = handle.view();
            view.namespace == namespace && view.name == name
        });
        named
            .max_by_key(|handle| handle.view().sandbox.is_some())
            .ok_or_else(|| StreamError::NotFound(format!("pod {namespace}/{name} is not on this node")))
    }
}

/// The container meant: the one named, or the only one.
pub(crate) fn choose(
    view: &crate::worker::View,
    named: Option<&str>,
) -> Result<crate::worker::ContainerView> {
    if let Some(name) = named {
        let found = view.containers.iter().find(|container| container.name == name);
        return found.cloned().ok_or_else(|| {
            StreamError::BadRequest(format!("container {name} is not valid for pod {}", view.name))
        });
    }
    let mut main = view.containers.iter().filter(|container| container.is_main);
    match (main.next(), main.next()) {
        (Some(only), None) => Ok(only.clone()),
        _ => {
            let names: Vec<&str> = view.containers.iter().map(|container| container.name.as_str()).collect();
            Err(StreamError::BadRequest(format!(
                "a container name must be specified for pod {}, choose one of: [{}]",
                view.name,
                names.join(" ")
            )))
        }
    }
}
