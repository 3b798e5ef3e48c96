//! Where errors and warnings go: to the file the caller named, in the form it asked for, and errors to standard error.

use std::{io::Write, path::PathBuf};

use wharf_base::{Clock, SystemClock};

use crate::error::{Error, ErrorKind};

/// The log of one run of this program.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) path: Option<PathBuf>,
    pub(super) json: bool,
}

impl Log {
    pub(super) fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    pub(super) fn error(&self, error: &Error) {
        let text = text(error);
        self.write("error", &text);
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "wharf-oci: {text}");
    }

    fn write(&self, level: &str, text: &str) {
        let Some(path) = &self.path else { return };
        let time = SystemClock.now().to_nano();
        let line = if self.json {
            serde_json::json!({ "level": level, "msg": text, "time": time }).to_string()
        } else {
            format!("time=\"{time}\" level={level} msg={text:?}")
        };
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        // A log that cannot be written is no reason to leave a container half made.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// The error, with the words callers of runtimes look for.
fn text(error: &Error) -> String {
    match error.kind {
        ErrorKind::NoProgram => format!("{error}: executable file not found in $PATH"),
        _ => error.to_string(),
    }
}
