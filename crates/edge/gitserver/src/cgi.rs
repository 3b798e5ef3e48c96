//! `git http-backend`: what it is told by its environment, and the head of what it answers.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::process::Command;
use wharf_http::Body;

use crate::repository::git;

/// Bytes of the head of an answer at the most.
const MAX_HEAD: usize = 16 << 10;

/// A request as the program is told it.
pub(crate) struct Request<'a> {
    pub(crate) root: &'a std::path::Path,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) method: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) user: Option<&'a str>,
    pub(crate) address: String,
    pub(crate) max_bytes: u64,
}

impl Request<'_> {
    pub(crate) fn command(&self) -> Command {
        let mut command = git();
        // The limit stands before `http-backend`, whose children take it from the environment git makes of it.
        command.arg("-c").arg(format!("receive.maxInputSize={}", self.max_bytes)).arg("http-backend");
        command.env("GIT_PROJECT_ROOT", self.root).env("GIT_HTTP_EXPORT_ALL", "1");
        command.env("PATH_INFO", self.path).env("QUERY_STRING", self.query);
        command.env("REQUEST_METHOD", self.method).env("REMOTE_ADDR", &self.address);
        if let Some(user) = self.user {
            // Its presence is what lets http-backend serve a push.
            command.env("REMOTE_USER", user).env("GIT_COMMITTER_NAME", user);
            command.env("GIT_COMMITTER_EMAIL", format!("{user}@localhost"));
        }
        for (header, variable) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-length", "CONTENT_LENGTH"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
            ("git-protocol", "GIT_PROTOCOL"),
        ] {
            if let Some(value) = self.headers.get(header).and_then(|value| value.to_str().ok()) {
                command.env(variable, value);
            }
        }
        command
    }
}

/// Collects the head of an answer.
#[derive(Default)]
pub(crate) struct Head {
    buffer: Vec<u8>,
}

/// The answer without its body, and the bytes of the body that came with the head.
pub(crate) type Parsed = (http::response::Builder, Vec<u8>);

impl Head {
    /// Takes bytes; gives the head once it is whole.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Parsed>, String> {
        self.buffer.extend_from_slice(bytes);
        let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            return match self.buffer.len() > MAX_HEAD {
                true => Err("git http-backend answered without a head".into()),
                false => Ok(None),
            };
        };
        let rest = self.buffer.split_off(end + 4);
        let mut response = Response::builder().status(StatusCode::OK);
        for line in String::from_utf8_lossy(&self.buffer).lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            if name.eq_ignore_ascii_case("status") {
                let code = value.split(' ').next().and_then(|code| code.parse().ok());
                response = response.status(code.unwrap_or(StatusCode::BAD_GATEWAY));
            } else if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
            {
                response = response.header(name, value);
            }
        }
        Ok(Some((response, rest)))
    }
}

/// A plain answer.
pub(crate) fn plain(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(wharf_http::full(message.into() + "\n"));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
