//! Points in time as Kubernetes writes them, and clocks that can be held still.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time, in nanoseconds since the Unix epoch. Displays as RFC 3339 in UTC with whole
/// seconds, the form of Kubernetes' `metav1.Time`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(jiff::Timestamp);

/// A text that is not an RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an RFC 3339 time such as 2026-01-02T15:04:05Z")]
pub struct TimestampError(String);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    /// From seconds and nanoseconds since the epoch; out-of-range values are clamped.
    pub fn from_unix(seconds: i64, nanos: i32) -> Self {
        Self(jiff::Timestamp::new(seconds, nanos).unwrap_or(if seconds < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        }))
    }

    /// Whole seconds since the epoch.
    pub fn as_second(self) -> i64 {
        self.0.as_second()
    }

    /// Milliseconds since the epoch.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The nanoseconds within the second.
    pub fn subsec_nanos(self) -> i32 {
        self.0.subsec_nanosecond()
    }

    /// RFC 3339 with six decimals, the form of Kubernetes' `metav1.MicroTime`.
    pub fn to_micro(self) -> String {
        format!("{:.6}", self.0)
    }

    /// RFC 3339 with nine decimals, the form of CRI logs.
    pub fn to_nano(self) -> String {
        format!("{:.9}", self.0)
    }

    /// This time without its fraction of a second.
    pub fn truncated(self) -> Self {
        Self::from_unix(self.as_second(), 0)
    }

    /// How long after `earlier` this is; zero when it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or_default()
    }

    /// This time plus `duration`, clamped to the representable range.
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration).unwrap_or(jiff::Timestamp::MAX))
    }

    /// This time minus `duration`, clamped to the representable range.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration).unwrap_or(jiff::Timestamp::MIN))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", jiff::Timestamp::from_second(self.as_second()).unwrap_or(self.0))
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let dated = text.len() >= 20 && text.as_bytes()[10].eq_ignore_ascii_case(&b'T');
        match text.parse() {
            Ok(time) if dated => Ok(Self(time)),
            _ => Err(TimestampError(text.chars().take(60).collect())),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Tells the time. Decisions take a [`Timestamp`]; only the edge holds a clock.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp(jiff::Timestamp::now())
    }
}

/// A clock that stands still, for tests.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timestamp);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_whole_seconds_and_parses_offsets() {
        let t: Timestamp = "2026-01-02T15:04:05.75+01:00".parse().unwrap();
        assert_eq!(t.to_string(), "2026-01-02T14:04:05Z");
        assert_eq!(t.to_micro(), "2026-01-02T14:04:05.750000Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("2026-01-02".parse::<Timestamp>().is_err());
    }
}
