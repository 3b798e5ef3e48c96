//! Logs, exec, attach and port-forward: requests that end on the pod's node.

use std::{future::Future, pin::Pin, sync::Arc};

use http::{Request, Response};
use serde_json::json;
use wharf_api::{resource::Resource, status::Status};
use wharf_http::{
    Body,
    remote::{
        Refused, command, forward, handshake,
        reader::{self, Framing},
    },
    upgrade,
};

use crate::{ApiServer, Context, admission, respond};

/// A future of the kubelet's.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// What of a container's log is wanted (`v1.PodLogOptions`).
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    /// Pod's namespace.
    pub namespace: String,
    /// Pod's name.
    pub pod: String,
    /// Container; the only one when `None`.
    pub container: Option<String>,
    /// Stay and send what comes.
    pub follow: bool,
    /// The run before this one.
    pub previous: bool,
    /// Begin each line with its time.
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<usize>,
    /// Only lines of the last seconds.
    pub since_seconds: Option<u64>,
    /// Only lines from this time (RFC 3339).
    pub since_time: Option<String>,
    /// No more than these bytes.
    pub limit_bytes: Option<u64>,
}

/// A command to run in a container, or an attachment to its own process when `attach`.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// Pod's namespace.
    pub namespace: String,
    /// Pod's name.
    pub pod: String,
    /// Container; the only one when `None`.
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
    /// To the container's own process.
    pub attach: bool,
}

pub use wharf_http::remote::{Connection as PodConnection, Session as ExecSession, TerminalSize};

/// The node's side of streaming requests.
pub trait Kubelet: Send + Sync + 'static {
    /// The log as a body.
    fn logs(&self, request: LogRequest) -> Reply<Body>;
    /// Starts a command.
    fn exec(&self, request: ExecRequest) -> Reply<ExecSession>;
    /// Connects to a port of a pod.
    fn port_forward(&self, namespace: String, pod: String, port: u16) -> Reply<Box<dyn PodConnection>>;
}

pub(crate) async fn log(
    server: &Arc<ApiServer>,
    context: &Context,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    require_pod(server, context)?;
    let wanted = LogRequest {
        namespace: info.namespace.clone(),
        pod: info.name.clone(),
        container: info.param("container").filter(|c| !c.is_empty()).map(str::to_owned),
        follow: info.flag("follow"),
        previous: info.flag("previous"),
        timestamps: info.flag("timestamps"),
        tail_lines: info.number("tailLines")?,
        since_seconds: info.number("sinceSeconds")?,
        since_time: info.param("sinceTime").map(str::to_owned),
        limit_bytes: info.number("limitBytes")?,
    };
    let accepted = reader::bytes(&request).map_err(refused)?;
    let body = server.kubelet()?.logs(wanted).await?;
    if let Some((response, framing)) = accepted {
        return Ok(as_messages(request, response, body, framing));
    }
    let mut response = respond::response(200, "text/plain", "");
    *response.body_mut() = body;
    Ok(response)
}

/// Sends a body over the WebSocket its request asks for.
pub(crate) fn as_messages(
    mut request: Request<Body>,
    response: Response<Body>,
    body: Body,
    framing: Framing,
) -> Response<Body> {
    let connection = upgrade(&mut request);
    tokio::spawn(async move {
        let served = match connection.await {
            Ok(connection) => reader::serve(connection, body, framing).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a body sent over WebSocket ended early");
        }
    });
    response
}

fn require_pod(server: &ApiServer, context: &Context) -> Result<(), Status> {
    let info = &context.info;
    let pod = server.storage.get("pods", &format!("{}/{}", info.namespace, info.name));
    let pod = pod.ok_or_else(|| Status::not_found("pods", &info.name))?;
    match pod.object()["spec"]["nodeName"].as_str() {
        Some(node) if !node.is_empty() => Ok(()),
        _ => Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name))),
    }
}

/// Runs a command in a container, or joins its own process.
pub(crate) async fn exec(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    require_pod(server, context)?;
    let info = &context.info;
    let wanted = ExecRequest {
        namespace: info.namespace.clone(),
        pod: info.name.clone(),
        container: info.param("container").filter(|c| !c.is_empty()).map(str::to_owned),
        command: info.params("command"),
        stdin: info.flag("stdin"),
        stdout: info.flag("stdout"),
        stderr: info.flag("stderr"),
        tty: info.flag("tty"),
        attach: info.subresource == "attach",
    };
    if !wanted.attach && wanted.command.is_empty() {
        return Err(Status::bad_request("you must specify at least one command for the container"));
    }
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    let mut options = json!({"stdin": wanted.stdin, "stdout": wanted.stdout, "stderr": wanted.stderr,
        "tty": wanted.tty, "container": wanted.container});
    if !wanted.attach {
        options["command"] = json!(wanted.command);
    }
    let kind = if wanted.attach { "PodAttachOptions" } else { "PodExecOptions" };
    admission::connect(server, context, resource, kind, options).await?;
    let kubelet = server.kubelet()?;
    let (response, protocol) =
        handshake(&request, &command::WEBSOCKET_PROTOCOLS, &command::PROTOCOLS).map_err(refused)?;
    let streams = command::Streams {
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        tty: wanted.tty,
    };
    let pod = wanted.pod.clone();
    let session = kubelet.exec(wanted).await?;
    let connection = upgrade(&mut request);
    tokio::spawn(async move {
        let served = match connection.await {
            Ok(connection) => command::serve(connection, protocol, streams, session).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::debug!(pod, %error, "command session ended early");
        }
    });
    Ok(response)
}

/// Forwards connections to ports of a pod.
pub(crate) async fn port_forward(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    require_pod(server, context)?;
    admission::connect(server, context, resource, "PodPortForwardOptions", json!({})).await?;
    let (namespace, pod) = (context.info.namespace.clone(), context.info.name.clone());
    let kubelet = Arc::clone(server.kubelet()?);
    let (response, protocol) =
        handshake(&request, &forward::WEBSOCKET_PROTOCOLS, &forward::SPDY_PROTOCOLS).map_err(refused)?;
    let ports = context.info.params("ports");
    let connection = upgrade(&mut request);
    tokio::spawn(async move {
        let served = match connection.await {
            Ok(connection) => {
                forward::serve(connection, protocol, &target(kubelet, namespace, &pod), &ports).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::debug!(pod, %error, "port-forward ended early");
        }
    });
    Ok(response)
}

fn target(kubelet: Arc<dyn Kubelet>, namespace: String, pod: &str) -> forward::Target {
    let pod = pod.to_owned();
    Arc::new(move |port| {
        let connecting = kubelet.port_forward(namespace.clone(), pod.clone(), port);
        let pod = pod.clone();
        Box::pin(async move {
            connecting
                .await
                .map_err(|status| format!("error forwarding port {port} to pod {pod}: {}", status.message))
        })
    })
}

pub(crate) fn refused(why: Refused) -> Status {
    match why {
        Refused::Protocol(text) => Status::new(403, "Forbidden", text),
        Refused::Malformed(text) => Status::bad_request(text),
    }
}
