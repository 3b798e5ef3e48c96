//! Health checks of containers: when one is due, what its result makes of the health, and where that is kept.

use std::{fs, io, time::Duration};

use serde::{Deserialize, Serialize};
use wharf_base::{Clock as _, SystemClock, Timestamp};
use wharf_image::Healthcheck;
use wharf_runtime::{ExecConfig, command};

use crate::{
    MAIN,
    containers::{Container, Engine},
    disk::write_json,
    error::{IoContext as _, Result},
    image,
    spec::{checks, nanos},
};

/// What is taken where nothing is said, as docker does.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
/// No time is shorter.
const LEAST: Duration = Duration::from_millis(1);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;
/// Results that are kept, and bytes of what each said.
const KEPT: usize = 5;
const MAX_OUTPUT: usize = 4096;
const FILE: &str = "health.json";

/// Docker's word for a container's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has succeeded yet, and not too many have failed.
    #[default]
    Starting,
    /// The last check succeeded, or too few have failed since.
    Healthy,
    /// Too many checks failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// As docker writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckResult {
    /// When it began.
    #[serde(with = "nanos")]
    pub start: Timestamp,
    /// When it ended.
    #[serde(with = "nanos")]
    pub end: Timestamp,
    /// Zero is healthy; -1 when it could not be run to its end.
    pub exit_code: i32,
    /// What it said.
    pub output: String,
}

/// A container's health, in the words of the Docker Engine API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Health {
    /// How it is.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last results.
    pub log: Vec<CheckResult>,
}

impl Health {
    /// Takes a result in. Tells whether the status is another now.
    fn after(&mut self, result: CheckResult, check: &Check, running: Duration) -> bool {
        let before = self.status;
        match result.exit_code {
            0 => (self.status, self.failing_streak) = (HealthStatus::Healthy, 0),
            // A container that starts slowly may fail for a while.
            _ if self.status == HealthStatus::Starting && running < check.start_period => {}
            _ => {
                self.failing_streak = self.failing_streak.saturating_add(1);
                if self.failing_streak >= check.retries {
                    self.status = HealthStatus::Unhealthy;
                }
            }
        }
        self.log.push(result);
        let excess = self.log.len().saturating_sub(KEPT);
        self.log.drain(..excess);
        self.status != before
    }
}

/// How a container's health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    /// The container's own way, with what it leaves open taken from the image's; nothing when nothing is checked.
    fn of(own: Option<&Healthcheck>, image: Option<&Healthcheck>, shell: &[String]) -> Option<Self> {
        let (none, given) = (Healthcheck::default(), own.or(image)?);
        let image = image.unwrap_or(&none);
        let test = if given.test.is_empty() { &image.test } else { &given.test };
        if !checks(test) {
            return None;
        }
        let args = match test.split_first()? {
            (kind, words) if kind == "CMD" => words.to_vec(),
            (_, words) => {
                let shell = if shell.is_empty() { &["/bin/sh".to_owned(), "-c".to_owned()] } else { shell };
                [shell, &[words.join(" ")]].concat()
            }
        };
        let time = |own: i64, image: i64, default: Duration| {
            let given = [own, image].into_iter().filter_map(|nanos| u64::try_from(nanos).ok());
            let given = given.filter(|nanos| *nanos > 0).map(Duration::from_nanos).next();
            // Images of others may ask for checks without a pause.
            given.map_or(default, |given| given.max(LEAST))
        };
        let mut retries = [given.retries, image.retries].into_iter().filter_map(|n| u32::try_from(n).ok());
        Some(Self {
            args,
            interval: time(given.interval, image.interval, INTERVAL),
            timeout: time(given.timeout, image.timeout, TIMEOUT),
            start_period: time(given.start_period, image.start_period, Duration::ZERO),
            start_interval: time(given.start_interval, image.start_interval, START_INTERVAL),
            retries: retries.find(|n| *n > 0).unwrap_or(RETRIES),
        })
    }

    /// How long to wait before the next check of a container that has run so long.
    pub fn pause(&self, health: &Health, running: Duration) -> Duration {
        match health.status == HealthStatus::Starting && running < self.start_period {
            true => self.start_interval,
            false => self.interval,
        }
    }
}

impl Engine {
    /// How a container's health is checked; nothing when it is not.
    pub fn check_of(&self, container: &Container) -> Option<Check> {
        let record = &container.record;
        let image = match record.spec.rootfs {
            Some(_) => None,
            None => image::resolve(self.data(), &record.image_id).ok(),
        };
        let (of_image, shell) = image.map(|image| (image.healthcheck, image.shell)).unwrap_or_default();
        Check::of(record.spec.healthcheck.as_ref(), of_image.as_ref(), &shell)
    }

    /// Begins anew: nothing is known of a container's health that has just started.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn reset_health(&self, container: &Container) -> Result<()> {
        write_json(&container.dir.path().join(FILE), &Health::default())
    }

    /// Checks a container that runs, once, and keeps the result. Tells the status when it is another now. Blocks.
    ///
    /// # Errors
    /// When it does not run any more, or the result cannot be kept.
    pub fn check_health(&self, container: &Container, check: &Check) -> Result<Option<HealthStatus>> {
        let sandbox = container.connect(self)?;
        let config = ExecConfig { args: check.args.clone(), ..ExecConfig::default() };
        let start = SystemClock.now();
        let (exit_code, output) = match command(&*sandbox, MAIN, &config, check.timeout, MAX_OUTPUT) {
            Ok(answer) => match answer.code {
                Some(code) => (code, String::from_utf8_lossy(&answer.said).into_owned()),
                None => (-1, format!("Health check exceeded timeout ({:?})", check.timeout)),
            },
            Err(error) => (-1, error.to_string()),
        };
        let end = SystemClock.now();
        let running = container.status.started_at.map(|started| start.since(started)).unwrap_or_default();
        let mut health = container.health()?.unwrap_or_default();
        let changed = health.after(CheckResult { start, end, exit_code, output }, check, running);
        write_json(&container.dir.path().join(FILE), &health)?;
        Ok(changed.then_some(health.status))
    }
}

impl Container {
    /// Its health, where it is checked. One that does not run is unhealthy.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn health(&self) -> Result<Option<Health>> {
        let path = self.dir.path().join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at("read", &path),
        };
        let mut health: Health = serde_json::from_slice(&bytes).unwrap_or_default();
        if !self.is_running() {
            health.status = HealthStatus::Unhealthy;
        }
        Ok(Some(health))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthcheck(test: &[&str], interval: u64, retries: i64) -> Healthcheck {
        Healthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            interval: i64::try_from(interval * 1_000_000_000).unwrap(),
            retries,
            ..Healthcheck::default()
        }
    }

    #[test]
    fn what_a_container_leaves_open_is_its_images() {
        let image = healthcheck(&["CMD-SHELL", "curl -f localhost || exit 1"], 5, 7);
        let of = |own: Option<&Healthcheck>, image| Check::of(own, image, &[]);
        let check = of(None, Some(&image)).unwrap();
        assert_eq!(check.args, ["/bin/sh", "-c", "curl -f localhost || exit 1"]);
        assert_eq!((check.interval.as_secs(), check.timeout, check.retries), (5, TIMEOUT, 7));
        let own = healthcheck(&["CMD", "true", "now"], 0, 1);
        let check = of(Some(&own), Some(&image)).unwrap();
        assert_eq!((check.args.len(), check.interval.as_secs(), check.retries), (2, 5, 1));
        let check = of(Some(&healthcheck(&[], 1, 0)), Some(&image)).unwrap();
        assert_eq!((check.args.len(), check.interval.as_secs(), check.retries), (3, 1, 7));
        assert_eq!(of(Some(&healthcheck(&["NONE"], 1, 0)), Some(&image)), None);
        assert_eq!(of(None, None), None);
        let shell = ["/bin/bash".to_owned(), "-ec".to_owned()];
        assert_eq!(Check::of(None, Some(&image), &shell).unwrap().args[..2], shell);
    }

    #[test]
    fn results_make_the_health() {
        let mut given = healthcheck(&["CMD", "x"], 1, 2);
        given.start_period = 10_000_000_000;
        let check = Check::of(Some(&given), None, &[]).unwrap();
        let mut health = Health::default();
        let mut after = |code, seconds| {
            let now = Timestamp::from_unix(seconds, 0);
            let result = CheckResult { start: now, end: now, exit_code: code, output: String::new() };
            let changed = health.after(result, &check, Duration::from_secs(u64::try_from(seconds).unwrap()));
            let pause = check.pause(&health, Duration::from_secs(1)).as_secs();
            (health.status.word(), health.failing_streak, changed, pause)
        };
        // Failures at the start do not count, a success ends the start.
        assert_eq!(after(1, 1), ("starting", 0, false, 5));
        assert_eq!(after(1, 11), ("starting", 1, false, 5));
        assert_eq!(after(0, 12), ("healthy", 0, true, 1));
        assert_eq!(after(1, 5), ("healthy", 1, false, 1));
        assert_eq!(after(-1, 6), ("unhealthy", 2, true, 1));
        assert_eq!(after(1, 7), ("unhealthy", 3, false, 1));
        assert_eq!(after(0, 8), ("healthy", 0, true, 1));
        assert_eq!(health.log.len(), KEPT);
    }
}
