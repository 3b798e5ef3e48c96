//! What can go wrong with images, each with its subject.

use std::{
    io,
    path::{Path, PathBuf},
};

use wharf_base::Digest;

/// A failure in the image store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} '{}'", path.display())]
    Io {
        /// What was tried, in the infinitive.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A text that names no image.
    #[error("'{text}' is not an image reference: {problem}")]
    Reference {
        /// The text.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The store has no image of this name.
    #[error("no image '{name}' in the store")]
    NoImage {
        /// The name as it was asked for.
        name: String,
        /// A name in the store that may be meant.
        similar: Option<String>,
    },
    /// The store has no such blob.
    #[error("blob {0} is not in the store")]
    NoBlob(Digest),
    /// Content is not what its digest promised.
    #[error("{what} has digest {actual} instead of {expected}")]
    Mismatch {
        /// Which content.
        what: String,
        /// The promise.
        expected: Box<Digest>,
        /// The fact.
        actual: Box<Digest>,
    },
    /// One entry of a layer cannot be accepted.
    #[error("layer entry '{entry}' {problem}")]
    Entry {
        /// The entry's path.
        entry: String,
        /// What is wrong, as the rest of the sentence.
        problem: String,
    },
    /// A layer as a whole cannot be accepted.
    #[error("layer {0}")]
    Layer(String),
    /// A manifest, index, configuration or archive cannot be understood.
    #[error("{what} {problem}")]
    Document {
        /// Which document.
        what: String,
        /// What is wrong, as the rest of the sentence.
        problem: String,
    },
    /// An index offers nothing for the machine.
    #[error("index {digest} has no image for {wanted}; it has {available}")]
    Platform {
        /// The index.
        digest: Box<Digest>,
        /// The platform looked for.
        wanted: String,
        /// The platforms offered.
        available: String,
    },
    /// A registry did not do what was asked.
    #[error("registry {host}: {problem}")]
    Remote {
        /// Its address.
        host: String,
        /// What happened.
        problem: String,
    },
    /// A policy refuses an image.
    #[error("not trusted: {problem}")]
    Untrusted {
        /// Which one, and why.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A program or library of this host cannot be packed.
    #[error("cannot pack '{subject}': {problem}")]
    Pack {
        /// The program, library or path.
        subject: String,
        /// Why.
        problem: String,
    },
}

/// What to do about a full disk.
pub const FREE_SPACE: &str = "free space on that disk: `wharf image prune --grace 0` removes what no image needs, `wharf image rm` whole images";

/// Whether there was no space for more.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The result of the image store's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Content is not what its digest promised.
    pub fn mismatch(what: String, expected: Digest, actual: Digest) -> Self {
        Self::Mismatch { what, expected: Box::new(expected), actual: Box::new(actual) }
    }

    /// What the reader can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoImage { similar: Some(name), .. } => Some(format!("did you mean '{name}'?")),
            Self::NoImage { similar: None, .. } => Some(
                "build it with `wharf build -t NAME`, pull it with `wharf image pull`, or pack this machine's own programs with `wharf image pack`; `wharf image ls` lists what is there"
                    .into(),
            ),
            Self::Untrusted { hint, .. } => Some(hint.clone()),
            Self::Reference { .. } => {
                Some("write it as [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST], the name in lower case".into())
            }
            Self::Io { source, .. } if is_full(source) => Some(FREE_SPACE.into()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run as root, or choose a data folder of your own with --data".into())
            }
            _ => None,
        }
    }

    /// Names the folder on a full disk instead of what was to be put there.
    pub(crate) fn full_in(self, folder: &Path) -> Self {
        match self {
            Self::Io { source, .. } if is_full(&source) => {
                Self::Io { action: "write to", path: folder.to_owned(), source }
            }
            other => other,
        }
    }

    pub(crate) fn document(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Document { what: what.into(), problem: problem.into() }
    }
}

/// Adds the subject to an operating system error.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::Io { action, path: path.as_ref().to_owned(), source: e.into() })
    }
}
