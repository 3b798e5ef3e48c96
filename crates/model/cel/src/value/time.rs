//! Moments and spans (cel-spec, "Timestamp", "Duration"): nanoseconds, years 1 to 9999, spans of 64 bits.

use std::fmt;

use jiff::{civil, tz::TimeZone};

use crate::error::EvalError;

const NANOS: i128 = 1_000_000_000;
/// Seconds since 1970 of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// A moment, as nanoseconds since 1970, and the offset from UTC it is written with: one whose clocks can show it.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp {
    nanos: i128,
    offset: i32,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// A span of time in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

impl Timestamp {
    /// A moment by seconds and nanoseconds since 1970, if it is within the years there are.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        let nanos = i128::from(seconds) * NANOS + i128::from(nanos);
        (FIRST..=LAST).contains(&seconds).then_some(Self { nanos, offset: 0 })
    }

    /// RFC 3339: `2009-02-13T23:31:30.5Z`, `...+01:00`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |range: std::ops::Range<usize>| {
            let digits = text.get(range)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
        };
        let sign = |at: usize, signs: &str| text.get(at..=at).filter(|c| signs.contains(*c));
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        for (at, signs) in [(4, "-"), (7, "-"), (10, "Tt"), (13, ":"), (16, ":")] {
            sign(at, signs)?;
        }
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (nanos, zone) = fraction(text.get(19..)?)?;
        let midnight = day_start(year, month, day)?;
        let offset = rfc_offset(zone)?;
        let seconds = midnight + hour * 3600 + minute * 60 + second - offset;
        Some(Self { offset: i32::try_from(offset).ok()?, ..Self::new(seconds, nanos)? })
    }

    /// Seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.nanos.div_euclid(NANOS) as i64
    }

    /// Nanoseconds within the second.
    pub fn nanos(self) -> u32 {
        self.nanos.rem_euclid(NANOS) as u32
    }

    /// The beginning of the year 1, which Go takes for no time at all.
    pub(crate) fn is_zero(self) -> bool {
        self.nanos == i128::from(FIRST) * NANOS
    }

    pub(crate) fn plus(self, span: i128) -> Result<Self, EvalError> {
        let mut moment = Self { nanos: self.nanos + span, ..self };
        if !(FIRST..=LAST).contains(&moment.seconds()) {
            return Err(overflow("timestamp"));
        }
        // East of UTC the last hours of the year 9999 are past the end of the calendar: UTC's clocks show them.
        if moment.shifted(moment.offset.into()).is_err() {
            moment.offset = 0;
        }
        Ok(moment)
    }

    pub(crate) fn since(self, earlier: Self) -> Result<Duration, EvalError> {
        i64::try_from(self.nanos - earlier.nanos).map(Duration).map_err(|_| overflow("duration"))
    }

    /// Date and time on the clocks of a zone: a name (`Europe/Berlin`) or an offset (`-08:00`).
    pub(crate) fn on_clocks(self, zone: &str) -> Result<civil::DateTime, EvalError> {
        let unknown = || EvalError::new(format!("unknown time zone {zone}"));
        let offset = match zone.split_once(':') {
            Some((hours, minutes)) => clock_offset(hours, minutes).ok_or_else(unknown)?,
            None if zone.is_empty() || zone == "UTC" => 0,
            None => {
                // The tables end some hours before the last moment there is.
                let within = self.seconds().min(jiff::Timestamp::MAX.as_second());
                let moment = jiff::Timestamp::from_second(within).map_err(|_| unknown())?;
                TimeZone::get(zone).map_err(|_| unknown())?.to_offset(moment).seconds().into()
            }
        };
        self.shifted(offset)
    }

    /// Date and time at an offset from UTC.
    fn shifted(self, offset: i64) -> Result<civil::DateTime, EvalError> {
        let since = jiff::SignedDuration::new(self.seconds() + offset, self.nanos() as i32);
        EPOCH.to_datetime(civil::Time::midnight()).checked_add(since).map_err(|_| overflow("timestamp"))
    }
}

const EPOCH: civil::Date = civil::date(1970, 1, 1);

/// Seconds since 1970 at the start of a day, if there is such a day.
fn day_start(year: i64, month: i64, day: i64) -> Option<i64> {
    let date = civil::Date::new(year.try_into().ok()?, month.try_into().ok()?, day.try_into().ok()?).ok()?;
    Some(date.duration_since(EPOCH).as_secs())
}

/// `2006-01-02` as the moment the day begins.
pub(crate) fn nanos_of_day_text(text: &str) -> Option<Timestamp> {
    if text.len() != 10 {
        return None;
    }
    Timestamp::parse(&format!("{text}T00:00:00Z"))
}

/// `.5Z` to nanoseconds and what follows them.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let Some(digits) = text.strip_prefix(['.', ',']) else { return Some((0, text)) };
    let len = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = digits.split_at(len);
    let nanos = format!("{digits:0<9}").get(..9)?.parse().ok()?;
    (len > 0).then_some((nanos, rest))
}

fn rfc_offset(zone: &str) -> Option<i64> {
    if zone == "Z" || zone == "z" {
        return Some(0);
    }
    let (hours, minutes) = zone.split_once(':')?;
    let signed = zone.starts_with(['+', '-']) && hours.len() == 3 && minutes.len() == 2;
    let offset = clock_offset(hours, minutes)?;
    (signed && offset.abs() < 24 * 3600).then_some(offset)
}

fn clock_offset(hours: &str, minutes: &str) -> Option<i64> {
    let digits = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<i64>().ok())?
    };
    let (sign, hours) = match hours.strip_prefix('-') {
        Some(hours) => (-1, hours),
        None => (1, hours.strip_prefix('+').unwrap_or(hours)),
    };
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 100 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(clock) = self.shifted(self.offset.into()) else { return Err(fmt::Error) };
        let (date, time) = (clock.date(), clock.time());
        write!(f, "{:04}-{:02}-{:02}T", date.year(), date.month(), date.day())?;
        write!(f, "{:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())?;
        if self.nanos() > 0 {
            let digits = format!("{:09}", self.nanos());
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let minutes = self.offset.abs() / 60;
        let sign = if self.offset < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", NANOS),
    ("m", 60 * NANOS),
    ("h", 3600 * NANOS),
];

impl Duration {
    /// Go's form: `1h30m`, `-1.5s`, `0`.
    pub fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if unsigned == "0" {
            return Some(Self(0));
        }
        let mut total = 0i128;
        let mut rest = unsigned;
        while !rest.is_empty() {
            let (amount, after) = amount(rest)?;
            total = total.checked_add(amount).filter(|total| *total <= 1 << 63)?;
            rest = after;
        }
        let signed = if text.starts_with('-') { -total } else { total };
        i64::try_from(signed).ok().filter(|_| !unsigned.is_empty()).map(Self)
    }

    /// `3 days 2 hours`: what OpenAPI's `format: duration` allows besides.
    pub(crate) fn parse_words(text: &str) -> Option<Self> {
        const WORDS: [(&str, i64); 8] = [
            ("nano", 1),
            ("micro", 1_000),
            ("milli", 1_000_000),
            ("sec", 1_000_000_000),
            ("min", 60_000_000_000),
            ("h", 3_600_000_000_000),
            ("d", 86_400_000_000_000),
            ("w", 604_800_000_000_000),
        ];
        let mut total: Option<i64> = None;
        let mut rest = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let after = after.trim_start();
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            let unit = unit.to_ascii_lowercase();
            let short = UNITS.into_iter().find(|(name, _)| *name == unit).map(|(_, scale)| scale as i64);
            let long = || WORDS.into_iter().find(|(word, _)| unit.starts_with(word)).map(|(_, scale)| scale);
            if let Some(scale) = short.or_else(long) {
                let amount = number.parse::<i64>().ok()?.checked_mul(scale)?;
                total = Some(total.unwrap_or(0).checked_add(amount)?);
            }
            rest = after.trim_start_matches(|c: char| !c.is_ascii_digit());
        }
        total.map(Self)
    }

    /// Seconds with their fraction.
    pub fn as_seconds(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }

    pub(crate) fn plus(self, other: Self) -> Result<Self, EvalError> {
        self.0.checked_add(other.0).map(Self).ok_or_else(|| overflow("duration"))
    }

    pub(crate) fn minus(self, other: Self) -> Result<Self, EvalError> {
        self.0.checked_sub(other.0).map(Self).ok_or_else(|| overflow("duration"))
    }
}

/// `1.5h` to nanoseconds and what follows.
fn amount(text: &str) -> Option<(i128, &str)> {
    let len = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, rest) = text.split_at(len);
    let len = rest.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
    let (unit, rest) = rest.split_at(len);
    let (_, scale) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Beyond eighteen digits a fraction is less than a nanosecond of any unit.
    let fraction = fraction.get(..18.min(fraction.len()))?;
    let part: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    Some((whole * scale + part * scale / 10i128.pow(fraction.len() as u32), rest))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.as_seconds())
    }
}
