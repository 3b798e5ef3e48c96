//! Why a container could not be made, started or found.

use std::{error::Error as StdError, fmt, io, path::Path};

use wharf_image::{FREE_SPACE, is_full};

/// A result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Classes of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such container, image, network or volume.
    NotFound,
    /// It is in use, or not in a state for this.
    Conflict,
    /// What was asked for is wrong, or not supported.
    Invalid,
    /// The program is not in the container (exit code 127).
    NoProgram,
    /// The program cannot be executed (exit code 126).
    NotExecutable,
    /// This machine refused.
    Host,
}

/// A failure: what, and what to do about it.
#[derive(Debug)]
pub struct Error {
    /// What class of failure this is.
    pub kind: ErrorKind,
    /// What the reader can do.
    pub hint: Option<String>,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of a kind.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, hint: None, what: what.into(), source: None }
    }

    /// There is no such thing.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, what)
    }

    /// In use, or in the wrong state.
    pub fn conflict(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, what)
    }

    /// A mistake in what was asked for.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// The machine refused.
    pub fn host(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Host, what)
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what to do about it, where that is known.
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// Adds what lies below.
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<wharf_image::Error> for Error {
    fn from(error: wharf_image::Error) -> Self {
        let kind = match &error {
            wharf_image::Error::NoImage { .. } => ErrorKind::NotFound,
            wharf_image::Error::Reference { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Host,
        };
        Self::new(kind, error.to_string()).maybe_hint(error.hint())
    }
}

impl From<wharf_runtime::Error> for Error {
    fn from(error: wharf_runtime::Error) -> Self {
        use wharf_runtime::ErrorKind as Kind;
        let kind = match error.kind {
            Kind::Invalid => ErrorKind::Invalid,
            Kind::NotFound => ErrorKind::NotFound,
            Kind::Exists | Kind::State | Kind::ShimGone => ErrorKind::Conflict,
            Kind::NoProgram => ErrorKind::NoProgram,
            Kind::NotExecutable => ErrorKind::NotExecutable,
            Kind::Failed => ErrorKind::Host,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<wharf_network::Error> for Error {
    fn from(error: wharf_network::Error) -> Self {
        Self::host(error.to_string()).caused_by(error)
    }
}

/// Names what was tried on which file.
pub(crate) trait IoContext<T> {
    fn at(self, action: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            let hint = is_full(&error).then(|| FREE_SPACE.to_owned());
            Error::host(format!("cannot {action} {}", path.as_ref().display()))
                .caused_by(error)
                .maybe_hint(hint)
        })
    }
}
