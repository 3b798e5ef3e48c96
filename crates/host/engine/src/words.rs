//! How containers are, in docker's words.

use wharf_base::{Clock as _, SystemClock, Timestamp};
use wharf_runtime::Phase;

use crate::{containers::Container, health::HealthStatus};

/// Docker's word for how a container is.
pub fn state(container: &Container) -> &'static str {
    match container.status.phase {
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Exited => "exited",
    }
}

/// How a container is and since when, as docker lists it.
pub fn status(container: &Container) -> String {
    let now = SystemClock.now();
    let since = |time: Option<Timestamp>| time.map_or("a moment".to_owned(), |time| span(now, time));
    match (container.status.phase, &container.status.exit) {
        (Phase::Created, _) => "Created".to_owned(),
        (Phase::Running, _) => {
            let health = match container.health().ok().flatten().map(|health| health.status) {
                None => "",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(container.status.started_at))
        }
        (Phase::Paused, _) => format!("Up {} (Paused)", since(container.status.started_at)),
        (Phase::Exited, Some(exit)) => format!("Exited ({}) {} ago", exit.code, span(now, exit.finished_at)),
        (Phase::Exited, None) => "Exited".to_owned(),
    }
}

/// A span of time in the words docker uses.
pub fn span(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.since(then).as_secs();
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{} minutes", seconds / 60),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => format!("{} hours", seconds / 3600),
        172_800..1_209_600 => format!("{} days", seconds / 86_400),
        1_209_600..5_184_000 => format!("{} weeks", seconds / 604_800),
        5_184_000..63_072_000 => format!("{} months", seconds / 2_592_000),
        _ => format!("{} years", seconds / 31_536_000),
    }
}
