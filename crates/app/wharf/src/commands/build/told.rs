//! What people are told of a Dockerfile: where an error is, and what checks found.

use std::process::ExitCode;

use wharf_base::Hinted;
use wharf_build::{BuildRequest, Builder, Error, ErrorKind, Place, plain};

use super::Args;
use crate::commands::containers::complain;

/// Tells why a build failed.
pub(super) fn failure(args: &Args, error: Error) -> ExitCode {
    let cancelled = error.kind == ErrorKind::Cancelled;
    // A place of another file, such as .dockerignore, is not one to look for in the Dockerfile.
    let own = error.file.as_deref().is_none_or(|file| !file.ends_with("dockerignore"));
    if let Some(place) = error.place.filter(|_| own && !cancelled) {
        let path = args.file.clone().unwrap_or_else(|| args.context.join("Dockerfile"));
        if let Ok(text) = std::fs::read_to_string(&path) {
            eprint!("{}", excerpt(&path.display().to_string(), &text, place));
        }
    }
    let error = match error.hint.clone() {
        Some(hint) => Hinted::new(error, hint).into(),
        None => anyhow::Error::from(error),
    };
    complain(&error);
    if cancelled { ExitCode::from(130) } else { ExitCode::FAILURE }
}

/// `--check`: what was found, each with its lines.
pub(super) fn check(args: &Args, builder: &Builder, request: BuildRequest) -> ExitCode {
    let report = match builder.check(request) {
        Ok(report) => report,
        Err(error) => return failure(args, error),
    };
    for warning in &report.warnings {
        let rule = warning.rule.map_or(String::new(), |rule| format!(" {rule}"));
        println!(
            "WARNING:{rule}\n{}\n{}",
            plain(&warning.what),
            excerpt(&report.file, &report.text, warning.place)
        );
    }
    match report.warnings.len() {
        0 => {
            println!("Check complete, no warnings found.");
            ExitCode::SUCCESS
        }
        count => {
            println!("Check complete, {count} {} found.", if count == 1 { "warning" } else { "warnings" });
            ExitCode::FAILURE
        }
    }
}

/// The lines of a file about `place`.
fn excerpt(name: &str, text: &str, place: Place) -> String {
    let shown = |number: usize| (place.line.saturating_sub(2)..=place.end + 2).contains(&number);
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut excerpt = format!("{name}:{}\n{}\n", place.line, "-".repeat(20));
    for (number, line) in lines.filter(|(number, _)| shown(*number)).take(40) {
        let mark = if (place.line..=place.end).contains(&number) { ">>>" } else { "   " };
        excerpt.push_str(&format!("{number:4} | {mark} {}\n", plain(line)));
    }
    format!("{excerpt}{}\n", "-".repeat(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_tells_the_terminal_nothing() {
        let shown = excerpt("Dockerfile", "FROM a\nRUN \u{1b}]0;x\u{7}\t#\n", Place { line: 2, end: 2 });
        assert!(shown.contains("   2 | >>> RUN \\u{1b}]0;x\\u{7}\t#\n"), "{shown}");
    }
}
