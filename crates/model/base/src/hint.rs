//! Errors that say what to do: a hint travels beside the error and one place prints both.

use std::{error::Error, fmt};

/// An error together with what the reader can do about it.
#[derive(Debug)]
pub struct Hinted {
    error: Box<dyn Error + Send + Sync>,
    hint: String,
}

impl Hinted {
    /// `error` with `hint`, one sentence in the imperative without a full stop.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>, hint: impl Into<String>) -> Self {
        Self { error: error.into(), hint: hint.into() }
    }

    /// The error itself.
    pub fn inner(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.error
    }

    /// What the reader can do.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds a hint to the error of a result.
pub trait HintExt<T> {
    /// Wraps the error with what the reader can do about it.
    fn hint(self, hint: impl FnOnce() -> String) -> Result<T, Hinted>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> HintExt<T> for Result<T, E> {
    fn hint(self, hint: impl FnOnce() -> String) -> Result<T, Hinted> {
        self.map_err(|error| Hinted::new(error, hint()))
    }
}

/// The text people see: the error, its causes, then the hints found on the way, each on a line.
pub fn render_error(error: &(dyn Error + 'static)) -> String {
    let mut text = format!("error: {error}");
    let mut hints = Vec::new();
    let mut said = error.to_string();
    let mut next = Some(error);
    while let Some(current) = next {
        let message = current.to_string();
        if !said.contains(&message) {
            text.push_str(&format!("\n  cause: {message}"));
            said = message;
        }
        if let Some(hinted) = current.downcast_ref::<Hinted>() {
            hints.push(hinted.hint.clone());
        }
        next = current.source();
    }
    for hint in hints {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_error_cause_and_hint_once_each() {
        let result: Result<(), _> = Err(std::io::Error::other("disk full"));
        let error = result.hint(|| "free some space".into()).unwrap_err();
        assert_eq!(render_error(&error), "error: disk full\n  hint: free some space");
    }
}
