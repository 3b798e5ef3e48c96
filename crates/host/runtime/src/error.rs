//! What can go wrong with a container: which step, on what, and the kernel's answer.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// The result of a container operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed container operation. It crosses the shim's socket unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What class of failure this is.
    pub kind: ErrorKind,
    /// The step that failed, in the words of a person ("mount the root file system").
    pub step: String,
    /// The path, name or value the step was about.
    pub subject: String,
    /// The kernel's error number, when the kernel refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// More about the cause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Classes of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The kernel or the machine refused.
    Failed,
    /// The request or specification is wrong or asks for something not supported.
    Invalid,
    /// There is no such pod or container.
    NotFound,
    /// The name is taken.
    Exists,
    /// The container is not in a state in which this can be done.
    State,
    /// The program is not in the container (exit code 127).
    NoProgram,
    /// The program cannot be executed (exit code 126).
    NotExecutable,
    /// The shim of the pod is gone.
    ShimGone,
}

impl Error {
    pub(crate) fn new(
        kind: ErrorKind,
        step: &str,
        subject: impl fmt::Display,
        detail: impl fmt::Display,
    ) -> Self {
        Self {
            kind,
            step: step.to_owned(),
            subject: subject.to_string(),
            errno: None,
            detail: detail.to_string(),
        }
    }

    pub(crate) fn invalid(step: &str, subject: impl fmt::Display, detail: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, step, subject, detail)
    }

    pub(crate) fn not_found(subject: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, "find container", subject, "no such container in this pod")
    }

    pub(crate) fn state(step: &str, subject: impl fmt::Display, detail: impl fmt::Display) -> Self {
        Self::new(ErrorKind::State, step, subject, detail)
    }

    pub(crate) fn gone(subject: impl fmt::Display) -> Self {
        Self::new(
            ErrorKind::ShimGone,
            "talk to the shim",
            subject,
            "the process that held the container is gone",
        )
    }

    /// The kernel's error as an `io::Error`, when it was the kernel's.
    pub fn io(&self) -> Option<io::Error> {
        self.errno.map(io::Error::from_raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step)?;
        if !self.subject.is_empty() {
            write!(f, " '{}'", self.subject)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        match self.io() {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Names the step and its subject on the way up.
pub(crate) trait Context<T> {
    /// The error says that `step` failed on `subject`.
    fn step(self, step: &str, subject: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn step(self, step: &str, subject: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            let errno = error.raw_os_error();
            let detail = if errno.is_none() { error.to_string() } else { String::new() };
            Error { errno, ..Error::new(ErrorKind::Failed, step, subject, detail) }
        })
    }
}
