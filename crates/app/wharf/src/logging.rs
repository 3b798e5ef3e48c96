//! What the program says of itself.

use tracing_subscriber::{
    Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

fn level() -> LevelFilter {
    std::env::var("WHARF_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::WARN)
}

/// Begins to log to standard error: warnings and errors, or from the level that WHARF_LOG names (`error`, `warn`, `info`, `debug`, `trace`).
pub(crate) fn start() {
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // Somebody else may log already, in tests.
    let _ = tracing_subscriber::registry().with(lines.with_filter(level())).try_init();
}

/// As [`start`], but to a file: for a command that tells something else on the terminal.
pub(crate) fn start_in(file: std::fs::File) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::sync::Mutex::new(file))
        .with_ansi(false)
        .with_target(false);
    let _ = tracing_subscriber::registry().with(lines.with_filter(level())).try_init();
}
