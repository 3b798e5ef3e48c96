//! Why a request failed.

/// A result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The API server refused it.
    #[error("{message}")]
    Api {
        /// HTTP status.
        code: u16,
        /// `Status.reason`: `NotFound`, `Conflict`, `AlreadyExists`, `Invalid`, `Expired`, ….
        reason: String,
        /// The server's words.
        message: String,
    },
    /// No answer came, or one that is not the API's.
    #[error("the API cannot be reached: {0}")]
    Transport(String),
}

impl Error {
    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.has_code(404)
    }

    /// The object changed meanwhile, or exists already.
    pub fn is_conflict(&self) -> bool {
        self.has_code(409)
    }

    /// An object of this name exists already.
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Api { reason, .. } if reason == "AlreadyExists")
    }

    /// The resource version asked for is no longer kept.
    pub fn is_expired(&self) -> bool {
        self.has_code(410)
    }

    /// The object itself is wrong: it cannot be read, or breaks a rule.
    pub fn is_wrong(&self) -> bool {
        self.has_code(400) || self.has_code(422)
    }

    /// The same request may go through later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Api { code, .. } => matches!(code, 409 | 429 | 500..),
        }
    }

    /// What a server answered: a `Status`, or any text when something before it answered.
    pub(crate) fn answered(code: u16, body: &[u8]) -> Self {
        let status: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        let message = match status["kind"].as_str() {
            Some("Status") => text("message"),
            _ => String::from_utf8_lossy(body).trim().to_owned(),
        };
        Self::Api { code, reason: text("reason"), message }
    }

    fn has_code(&self, wanted: u16) -> bool {
        matches!(self, Self::Api { code, .. } if *code == wanted)
    }
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            },
            other => Self::Transport(other.to_string()),
        }
    }
}
