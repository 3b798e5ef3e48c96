//! What can go wrong with a build: where in the Dockerfile, what, and what to do.

use std::{error::Error as StdError, fmt, io, path::Path};

use wharf_image::{FREE_SPACE, is_full};

/// The result of build operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Lines of a Dockerfile, the first and the last, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The first line.
    pub line: usize,
    /// The last line.
    pub end: usize,
}

/// Classes of failure that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The Dockerfile or the request is wrong.
    Invalid,
    /// A `RUN` step ended with this exit code.
    Failed {
        /// The program's exit code.
        code: i32,
    },
    /// The caller cancelled the build.
    Cancelled,
    /// This machine, the store or the runtime refused.
    Host,
}

/// A failed build.
#[derive(Debug)]
pub struct Error {
    /// What class of failure this is.
    pub kind: ErrorKind,
    /// The Dockerfile's name, once known.
    pub file: Option<String>,
    /// Where in it, where that is known.
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// What the reader can do about it.
    pub hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A mistake in the Dockerfile or the request.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// A refusal of the machine.
    pub(crate) fn host(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Host, what)
    }

    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, file: None, place: None, what: what.into(), hint: None, source: None }
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "the build was cancelled")
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(plain(&hint.into()).into_owned());
        self
    }

    pub(crate) fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Names the folder on a full disk instead of what was to be put there.
    pub(crate) fn full_in(self, folder: &Path) -> Self {
        let source = self.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        match source.is_some_and(is_full) {
            true => Self { what: format!("cannot write to '{}'", folder.display()), ..self }.hint(FREE_SPACE),
            false => self,
        }
    }

    /// Adds the place, unless a deeper one is known.
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.place.get_or_insert(place);
        self
    }

    /// Adds the file's name, unless it is known.
    pub(crate) fn of(mut self, file: &str) -> Self {
        self.file.get_or_insert_with(|| file.to_owned());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.place) {
            (Some(file), Some(place)) => write!(f, "{file}:{}: ", place.line)?,
            (None, Some(place)) => write!(f, "line {}: ", place.line)?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, None) => {}
        }
        f.write_str(&plain(&self.what))
    }
}

/// A text of a Dockerfile as it may be shown: control characters, which could tell a terminal what to do, by their
/// numbers.
pub fn plain(text: &str) -> std::borrow::Cow<'_, str> {
    let is_bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(is_bad) {
        return text.into();
    }
    text.chars()
        .fold(String::with_capacity(text.len()), |mut shown, c| {
            match is_bad(c) {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
            shown
        })
        .into()
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

impl From<wharf_image::Error> for Error {
    fn from(error: wharf_image::Error) -> Self {
        let hint = error.hint();
        Self::host(error.to_string()).maybe_hint(hint).maybe_caused(error)
    }
}

impl Error {
    /// Keeps what lies below the error whose text is already ours.
    fn maybe_caused(self, error: wharf_image::Error) -> Self {
        match error {
            wharf_image::Error::Io { source, .. } => self.caused_by(source),
            _ => self,
        }
    }
}

impl From<wharf_runtime::Error> for Error {
    fn from(error: wharf_runtime::Error) -> Self {
        let hint = match error.kind {
            wharf_runtime::ErrorKind::NoProgram => {
                "install it in a RUN step before, write its whole path, or choose another base image"
            }
            wharf_runtime::ErrorKind::NotExecutable => {
                "make it executable (COPY --chmod=755, or RUN chmod +x), and build it for this platform"
            }
            _ if error.step.starts_with("find the user") || error.step.starts_with("find the group") => {
                "make it in a RUN step before (RUN adduser -D NAME), or give USER a number"
            }
            _ => return Self::host(error.to_string()),
        };
        Self::host(error.to_string()).hint(hint)
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
            Error::host(format!("cannot {action} '{}'", path.as_ref().display()))
                .caused_by(error)
                .maybe_hint(hint)
        })
    }
}
