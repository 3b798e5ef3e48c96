//! What the program says of itself: warnings and errors, or from the level that WHARF_LOG names (`error`, `warn`, `info`, `debug`, `trace`).

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Begins to log to standard error.
pub(crate) fn start() {
    begin(std::io::stderr);
}

/// Begins to log to a file: for a command that tells something else on the terminal.
pub(crate) fn start_in(file: std::fs::File) {
    begin(std::sync::Mutex::new(file));
}

fn begin(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let level =
        std::env::var("WHARF_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::WARN);
    // It warns of every answer of the kernel that is no success, also of those that were expected.
    let filter = Targets::new().with_default(level).with_target("nlink", LevelFilter::ERROR);
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    // Somebody else may log already, in tests.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
