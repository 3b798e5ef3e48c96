//! Answers and failures, and connections that leave HTTP.

use std::{
    future::Future,
    io,
    os::fd::{AsFd as _, OwnedFd},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::{io::Interest, net::UnixStream};
use wharf_engine::ErrorKind;
use wharf_http::{Body, LocalSocket, Upgraded, empty, full, upgrade};

/// What a request comes to.
pub(super) type Reply = Result<Response<Body>, Failure>;

/// Why a request failed, as clients are told.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn not_supported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = json_of(&json!({ "message": self.message }));
        *response.status_mut() = self.status;
        response
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The same, with what it was about before it.
    pub(super) fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

/// The error, what lies below it, and what to do about it.
fn whole(error: &(dyn std::error::Error + 'static), hint: Option<&String>) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    match hint {
        Some(hint) => format!("{text} (hint: {hint})"),
        None => text,
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<wharf_engine::Error> for Failure {
    fn from(error: wharf_engine::Error) -> Self {
        let status = match error.kind {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid | ErrorKind::NoProgram | ErrorKind::NotExecutable => StatusCode::BAD_REQUEST,
            ErrorKind::Host => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // What to do with the command line of wharf helps nobody at another client.
        let text = whole(&error, error.hint.as_ref().filter(|hint| !hint.contains("wharf ")));
        // Clients read from these words that the program is not there (127) or cannot run (126).
        let message = match error.kind {
            ErrorKind::NoProgram => format!("{text}: executable file not found in $PATH: unknown"),
            ErrorKind::NotExecutable => format!("{text}: permission denied: unknown"),
            ErrorKind::NotFound => capital(&text),
            _ => text,
        };
        Self::new(status, message)
    }
}

/// "No such container", as clients look for it.
fn capital(text: &str) -> String {
    if let Some((image, rest)) =
        text.strip_prefix("no image '").and_then(|rest| rest.split_once("' in the store"))
    {
        return format!("No such image: {image}{rest}");
    }
    match text.strip_prefix("no such") {
        Some(rest) => format!("No such{rest}"),
        None => text.to_owned(),
    }
}

impl From<wharf_image::Error> for Failure {
    fn from(error: wharf_image::Error) -> Self {
        match &error {
            wharf_image::Error::NoImage { name, .. } => {
                let hint = error.hint().filter(|hint| !hint.contains("wharf "));
                let hint = hint.map_or(String::new(), |hint| format!(" (hint: {hint})"));
                Self::not_found(format!("No such image: {name}{hint}"))
            }
            wharf_image::Error::Reference { .. } => Self::bad(format!("invalid reference format: {error}")),
            _ => Self::internal(whole(&error, error.hint().as_ref())),
        }
    }
}

impl From<wharf_runtime::Error> for Failure {
    fn from(error: wharf_runtime::Error) -> Self {
        wharf_engine::Error::from(error).into()
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::internal(error.to_string())
    }
}

/// One object of the fields of several.
pub(super) fn merged(objects: impl IntoIterator<Item = Value>) -> Value {
    let fields = objects.into_iter().filter_map(|object| match object {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    Value::Object(fields.flatten().collect())
}

/// A JSON document.
pub(super) fn json_of(value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON document for something new.
pub(super) fn created(value: &Value) -> Response<Body> {
    let mut response = json_of(value);
    *response.status_mut() = StatusCode::CREATED;
    response
}

/// Done, with nothing to say.
pub(super) fn no_content() -> Response<Body> {
    status(StatusCode::NO_CONTENT)
}

/// A status alone.
pub(super) fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// A body that goes on, of a type.
pub(super) fn streaming(body: Body, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What every answer says of the server.
pub(super) fn stamp(response: &mut Response<Body>) {
    let headers = response.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(super::API_VERSION));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert(
        header::SERVER,
        HeaderValue::from_static(concat!("wharf/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}

type Pending = Pin<Box<dyn Future<Output = io::Result<Upgraded>> + Send>>;

/// A connection whose client wants to leave HTTP.
pub(super) struct Upgrade {
    pending: Pending,
    socket: Option<Arc<OwnedFd>>,
}

/// Waits until the peer of a socket has read everything: whenever it reads, the socket becomes writable anew.
async fn has_been_read(socket: Arc<OwnedFd>) -> io::Result<()> {
    let socket = UnixStream::from_std(socket.as_fd().try_clone_to_owned()?.into())?;
    let read = || match wharf_runtime::peer_has_read(socket.as_fd())? {
        true => Ok(()),
        false => Err(io::ErrorKind::WouldBlock.into()),
    };
    loop {
        socket.writable().await?;
        match socket.try_io(Interest::WRITABLE, read) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            ended => return ended,
        }
    }
}

/// How long a client may take to read the head of an answer before it is sent more.
const SLOW: Duration = Duration::from_secs(2);

impl Upgrade {
    /// Taken when the client asks for it.
    pub(super) fn take(request: &mut Request<Body>) -> Option<Self> {
        let wanted = request.headers().contains_key(header::UPGRADE);
        let socket = request.extensions().get::<LocalSocket>().and_then(|socket| socket.0.upgrade());
        wanted.then(|| Self { pending: Box::pin(upgrade(request)), socket })
    }

    /// The answer that leaves HTTP.
    pub(super) fn response(terminal: bool) -> Response<Body> {
        let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(terminal)));
        response
    }

    /// The connection, once that answer has been sent, and read where that can be known: docker's SDK for Python
    /// loses what comes together with it.
    pub(super) async fn connection(self) -> io::Result<Upgraded> {
        let connection = self.pending.await?;
        if let Some(socket) = self.socket {
            // A client that never reads gets what there is.
            let _ = tokio::time::timeout(SLOW, has_been_read(socket)).await;
        }
        Ok(connection)
    }
}

/// Output of a terminal is sent as it is, that of others in frames that name the stream.
pub(super) fn content_type(terminal: bool) -> &'static str {
    match terminal {
        true => "application/vnd.docker.raw-stream",
        false => "application/vnd.docker.multiplexed-stream",
    }
}
