//! The person's own terminal while a container has it.

use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use wharf_runtime::Size;

/// Whether standard input and output are a terminal's.
pub(crate) fn is_terminal() -> bool {
    isatty(std::io::stdin()) && isatty(std::io::stdout())
}

/// Standard input in raw mode; as it was again when this goes, on a panic too.
pub(crate) struct Terminal {
    before: Termios,
}

impl Terminal {
    pub(crate) fn raw() -> anyhow::Result<Self> {
        let input = std::io::stdin();
        let before = tcgetattr(input.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input.as_fd(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }

    /// Its size.
    pub(crate) fn size() -> Option<Size> {
        let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
        Some(Size { rows: size.ws_row, columns: size.ws_col })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nothing better to do when even this fails.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Drain, &self.before);
    }
}
