//! What the program says of itself, on standard error.

use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Begins to log: warnings and errors, or from the level that WHARF_LOG names (`error`, `warn`, `info`, `debug`, `trace`).
pub(crate) fn start() {
    let level =
        std::env::var("WHARF_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::WARN);
    // It warns of every answer of the kernel that is no success, also of those that were expected.
    let filter = Targets::new().with_default(level).with_target("nlink", LevelFilter::ERROR);
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    // Somebody else may log already, in tests.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}
