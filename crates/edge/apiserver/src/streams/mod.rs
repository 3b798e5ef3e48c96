//! Logs, exec, attach and port-forward: requests that end on the pod's node.

use std::{future::Future, pin::Pin, sync::Arc};

mod port_forward;
mod remote_command;

use http::{HeaderValue, Request, Response, header};
use tokio::io::{AsyncRead, AsyncWrite};
use wharf_api::status::Status;
use wharf_http::{Body, upgrade, websocket};

use crate::{ApiServer, Context, respond};

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

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A running command's ends.
pub struct ExecSession {
    /// Where standard input goes.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard output.
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes new sizes of the terminal.
    pub resize: Option<tokio::sync::mpsc::Sender<TerminalSize>>,
    /// Exit code, once the command has ended.
    pub exit: Reply<i32>,
}

/// A byte stream to a port of a pod.
pub trait PodConnection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> PodConnection for T {}

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
    _request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    require_pod(server, context)?;
    let request = LogRequest {
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
    let body = server.kubelet()?.logs(request).await?;
    let mut response = respond::response(200, "text/plain", "");
    *response.body_mut() = body;
    Ok(response)
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
    context: &Context,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    require_pod(server, context)?;
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
    let kubelet = server.kubelet()?;
    let (response, protocol) = handshake(&request, &remote_command::PROTOCOLS, &remote_command::PROTOCOLS)?;
    let session = kubelet.exec(wanted.clone()).await?;
    let connection = upgrade(&mut request);
    tokio::spawn(async move {
        let served = match connection.await {
            Ok(connection) => remote_command::serve(connection, protocol, &wanted, session).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::debug!(pod = %wanted.pod, %error, "command session ended early");
        }
    });
    Ok(response)
}

/// Forwards connections to ports of a pod.
pub(crate) async fn port_forward(
    server: &Arc<ApiServer>,
    context: &Context,
    mut request: Request<Body>,
) -> Result<Response<Body>, Status> {
    require_pod(server, context)?;
    let (namespace, pod) = (context.info.namespace.clone(), context.info.name.clone());
    let kubelet = Arc::clone(server.kubelet()?);
    let (response, protocol) =
        handshake(&request, &port_forward::WEBSOCKET_PROTOCOLS, &port_forward::SPDY_PROTOCOLS)?;
    let ports = context.info.params("ports");
    let connection = upgrade(&mut request);
    tokio::spawn(async move {
        let target = port_forward::Target { kubelet, namespace, pod };
        let served = match connection.await {
            Ok(connection) => port_forward::serve(connection, protocol, &target, &ports).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::debug!(pod = %target.pod, %error, "port-forward ended early");
        }
    });
    Ok(response)
}

/// What a connection speaks after its upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Spdy,
    WebSocket(&'static str),
}

/// Chooses among what the client offers and what is spoken here, each in its order, and accepts.
fn handshake(
    request: &Request<Body>,
    websocket: &[&'static str],
    spdy: &[&'static str],
) -> Result<(Response<Body>, Protocol), Status> {
    let headers = request.headers();
    let none = |offered: &[&str], spoken: &[&str]| {
        Status::new(
            403,
            "Forbidden",
            format!("none of the protocols {offered:?} is spoken here, only {spoken:?}"),
        )
    };
    if websocket::is_websocket(headers) {
        let offered = websocket::offered(headers);
        let chosen =
            *websocket.iter().find(|p| offered.contains(*p)).ok_or_else(|| none(&offered, websocket))?;
        let response = websocket::accept(request, Some(chosen));
        let response = response.ok_or_else(|| Status::bad_request("the request has no Sec-WebSocket-Key"))?;
        return Ok((response, Protocol::WebSocket(chosen)));
    }
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !upgrade.eq_ignore_ascii_case("spdy/3.1") {
        return Err(Status::bad_request("unable to upgrade: this needs a WebSocket or SPDY/3.1 connection"));
    }
    let values = headers.get_all("x-stream-protocol-version").iter().filter_map(|v| v.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|v| v.split(',')).map(str::trim).collect();
    let chosen = spdy.iter().find(|p| offered.contains(*p)).ok_or_else(|| none(&offered, spdy))?;
    let mut response = respond::response(101, "text/plain", "");
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(chosen));
    Ok((response, Protocol::Spdy))
}
