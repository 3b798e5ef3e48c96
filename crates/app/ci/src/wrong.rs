//! What is wrong with what people wrote, and what to do about it.

use std::fmt;

use wharf_workflow::{Position, Problem, expr::EvalError};

/// Something wrong whose place the caller knows. Displays with the hint on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Where it is, when that is known more exactly than by those who only know the step.
    pub(crate) at: Option<Position>,
}

impl Wrong {
    pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), at: None }
    }

    /// It happened while this was evaluated.
    pub(crate) fn eval(what: &str, error: &EvalError) -> Self {
        Self { message: format!("{what}: {error}"), hint: error.hint.clone(), at: None }
    }

    /// With words before it that say of what it is.
    pub(crate) fn of(self, what: &str) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// With its place: the more exact one where it has one.
    pub(crate) fn at(self, file: &str, at: Position) -> Problem {
        Problem { file: file.to_owned(), at: self.at.unwrap_or(at), message: self.message, hint: self.hint }
    }
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self { message, hint: None, at: None }
    }
}

impl From<anyhow::Error> for Wrong {
    fn from(error: anyhow::Error) -> Self {
        let text = wharf_base::render_error(error.as_ref());
        text.strip_prefix("error: ").unwrap_or(&text).to_owned().into()
    }
}

impl std::error::Error for Wrong {}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}
