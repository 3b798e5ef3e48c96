//! The files through which a script tells the runner more than its exit code: `GITHUB_OUTPUT`, `GITHUB_ENV`,
//! `GITHUB_PATH`, `GITHUB_STEP_SUMMARY`, `GITHUB_STATE`.

use std::{io::Write as _, path::PathBuf};

use wharf_workflow::command::parse_entries;

use super::{Runner, set};

/// Where the folder of these files is in the sandbox.
const INSIDE: &str = "/github/files";
/// Bytes of one such file at the most.
const MAX_FILE: u64 = 1 << 20;
const FILES: [(&str, &str); 5] = [
    ("GITHUB_OUTPUT", "output"),
    ("GITHUB_ENV", "env"),
    ("GITHUB_PATH", "path"),
    ("GITHUB_STEP_SUMMARY", "summary"),
    ("GITHUB_STATE", "state"),
];

/// The files of one script.
pub(super) struct CommandFiles {
    number: usize,
}

impl CommandFiles {
    fn name(&self, kind: &str) -> PathBuf {
        format!("{kind}-{}", self.number).into()
    }

    /// Where they are, for the script's environment.
    pub(super) fn env(&self) -> impl Iterator<Item = (String, String)> {
        FILES.iter().map(|(variable, kind)| {
            ((*variable).to_owned(), format!("{INSIDE}/{}", self.name(kind).display()))
        })
    }
}

impl Runner {
    /// Makes empty files.
    pub(super) fn command_files(&mut self) -> std::io::Result<CommandFiles> {
        self.count += 1;
        let files = CommandFiles { number: self.count };
        for (_, kind) in FILES {
            self.files.create_file(&files.name(kind), false)?;
        }
        Ok(files)
    }

    /// Writes a script; gives its place in the sandbox.
    pub(super) fn script(
        &self,
        files: &CommandFiles,
        text: &str,
        extension: &str,
    ) -> std::io::Result<String> {
        let name = format!("script-{}{extension}", files.number);
        self.files.create_file(name.as_ref(), true)?.write_all(text.as_bytes())?;
        Ok(format!("{INSIDE}/{name}"))
    }

    /// Takes over what a script wrote; gives its outputs.
    pub(super) fn read_command_files(
        &mut self,
        files: &CommandFiles,
        step: usize,
    ) -> Result<Vec<(String, String)>, String> {
        let read = |runner: &Self, kind: &str| {
            let text = runner.files.read_text(&files.name(kind), MAX_FILE);
            text.map_err(|error| format!("cannot read what the step wrote to the file for '{kind}': {error}"))
        };
        let entries = |text: &str, variable: &str| {
            parse_entries(text)
                .map_err(|error| format!("what the step wrote to {variable} is not valid: {error}"))
        };
        let outputs = entries(&read(self, "output")?, "GITHUB_OUTPUT")?;
        for (name, value) in entries(&read(self, "env")?, "GITHUB_ENV")? {
            let upper = name.to_ascii_uppercase();
            if upper.starts_with("GITHUB_") || upper.starts_with("RUNNER_") {
                self.log.say(step, &format!("Warning: '{name}' cannot be set through GITHUB_ENV"));
            } else {
                set(&mut self.env, &name, value);
            }
        }
        for line in read(self, "path")?.lines().filter(|line| !line.trim().is_empty()) {
            self.path.insert(0, line.trim().to_owned());
        }
        let summary = read(self, "summary")?;
        if !summary.is_empty() {
            let masked = self.log.mask(&summary);
            let path = self.folder.join("summary.md");
            let written = std::fs::OpenOptions::new().append(true).create(true).open(path);
            written.and_then(|mut file| file.write_all(masked.as_bytes())).map_err(|e| e.to_string())?;
        }
        Ok(outputs)
    }
}
