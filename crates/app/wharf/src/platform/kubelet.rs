//! The node agent as the API server sees it: logs, exec, attach and port-forward of this machine's pods.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use wharf_api::status::Status;
use wharf_apiserver::{ExecRequest, ExecSession, Kubelet, LogRequest, PodConnection, Reply, TerminalSize};
use wharf_base::{Clock, SystemClock, Timestamp};
use wharf_http::Body;
use wharf_node::{ExecStart, LogOptions, NodeAgent, StreamError};

/// The agent of this machine.
pub(crate) struct LocalKubelet(pub(crate) Arc<NodeAgent>);

fn status(error: StreamError) -> Status {
    match error {
        StreamError::NotFound(text) => Status::new(404, "NotFound", text),
        StreamError::BadRequest(text) => Status::bad_request(text),
        StreamError::Failed(text) => Status::internal(text),
    }
}

/// From when lines are wanted; the later of the two ways to say it does not arise, since the API refuses both at once.
fn since(request: &LogRequest) -> Result<Option<Timestamp>, Status> {
    if let Some(time) = &request.since_time {
        let parsed = time.parse().map_err(|error| Status::bad_request(format!("sinceTime: {error}")))?;
        return Ok(Some(parsed));
    }
    Ok(request.since_seconds.map(|seconds| SystemClock.now().minus(Duration::from_secs(seconds))))
}

impl Kubelet for LocalKubelet {
    fn logs(&self, request: LogRequest) -> Reply<Body> {
        let agent = Arc::clone(&self.0);
        Box::pin(async move {
            let options = LogOptions {
                since: since(&request)?,
                container: request.container,
                follow: request.follow,
                previous: request.previous,
                timestamps: request.timestamps,
                tail_lines: request.tail_lines,
                limit_bytes: request.limit_bytes,
            };
            let log = agent.logs(&request.namespace, &request.pod, options).map_err(status)?;
            Ok(wharf_http::stream(log))
        })
    }

    fn exec(&self, request: ExecRequest) -> Reply<ExecSession> {
        let agent = Arc::clone(&self.0);
        Box::pin(async move {
            let started = agent.exec(ExecStart {
                namespace: request.namespace,
                pod: request.pod,
                container: request.container,
                command: request.command,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                tty: request.tty,
                attach: request.attach,
            });
            let streams = started.await.map_err(status)?;
            let exit = streams.exit;
            Ok(ExecSession {
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                resize: streams.resize.map(resizer),
                exit: Box::pin(async move { exit.await.map_err(|error| error.to_string()) }),
            })
        })
    }

    fn port_forward(&self, namespace: String, pod: String, port: u16) -> Reply<Box<dyn PodConnection>> {
        let agent = Arc::clone(&self.0);
        Box::pin(async move {
            let connection = agent.port_forward(&namespace, &pod, port).await.map_err(status)?;
            Ok(Box::new(connection) as Box<dyn PodConnection>)
        })
    }
}

/// Hands sizes on until either side is done.
fn resizer(terminal: mpsc::Sender<wharf_node::TerminalSize>) -> mpsc::Sender<TerminalSize> {
    let (sender, mut sizes) = mpsc::channel::<TerminalSize>(4);
    tokio::spawn(async move {
        while let Some(TerminalSize { width, height }) = sizes.recv().await {
            if terminal.send(wharf_node::TerminalSize { width, height }).await.is_err() {
                return;
            }
        }
    });
    sender
}
