//! Cron schedules: five fields (minute, hour, day of month, month, day of week) in UTC.

use std::time::Duration;

use wharf_base::Timestamp;

const DAY: i64 = 86_400;
/// No schedule that fires at all is silent for longer (29 February, around 2100).
const LONGEST_SILENCE_DAYS: i64 = 366 * 9;
const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A schedule; each field is a set of numbers, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both kinds of days are restricted: one of them is enough.
    either_day: bool,
}

impl Schedule {
    /// Reads a schedule; nothing when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields.as_slice() else { return None };
        let weekday_bits = field(weekdays, 0, 7, &DAYS)?;
        let restricted = |field: &str| !field.starts_with(['*', '?']);
        Some(Self {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            // Sunday is 0 and 7.
            weekdays: (weekday_bits | (weekday_bits >> 7)) & 0x7f,
            either_day: restricted(days) && restricted(weekdays),
        })
    }

    /// The first time after `after`; nothing when there is none.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.plus(Duration::from_secs(60)).as_second().div_euclid(60) * 60;
        let first_day = start.div_euclid(DAY);
        for day in first_day..first_day + LONGEST_SILENCE_DAYS {
            if self.on_day(day) {
                let from = if day == first_day { start.rem_euclid(DAY) / 60 } else { 0 };
                if let Some(minute) = (from..DAY / 60).find(|minute| self.at_minute(*minute)) {
                    return Some(Timestamp::from_unix(day * DAY + minute * 60, 0));
                }
            }
        }
        None
    }

    fn at_minute(&self, minute: i64) -> bool {
        has(self.hours, minute / 60) && has(self.minutes, minute % 60)
    }

    fn on_day(&self, day: i64) -> bool {
        let (month, of_month) = month_and_day(day);
        // 1 January 1970 was a Thursday.
        let weekday = has(self.weekdays, (day + 4).rem_euclid(7));
        let monthday = has(self.days, of_month);
        has(self.months, month) && if self.either_day { weekday || monthday } else { weekday && monthday }
    }
}

fn has(bits: u64, number: i64) -> bool {
    (0..64).contains(&number) && bits >> number & 1 == 1
}

/// Reads a list of `*`, numbers, names and ranges, each with an optional step.
fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Option<u64> {
    let mut bits = 0u64;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range {
            "*" | "?" => (least, most),
            _ => match range.split_once('-') {
                Some((first, last)) => (number(first, least, names)?, number(last, least, names)?),
                // A step alone goes on to the end.
                None => {
                    let only = number(range, least, names)?;
                    (only, if step.is_some() { most } else { only })
                }
            },
        };
        if first < least || last > most || first > last {
            return None;
        }
        for value in (first..=last).step_by(step.unwrap_or(1) as usize) {
            bits |= 1 << value;
        }
    }
    Some(bits)
}

fn number(text: &str, least: u32, names: &[&str]) -> Option<u32> {
    let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
    match named {
        Some(at) => u32::try_from(at).ok().map(|at| at + least),
        None => text.parse().ok(),
    }
}

/// (month, day of month) of a day since 1 January 1970, in the Gregorian calendar. Years are counted
/// from March, so that the leap day is the last of a year.
fn month_and_day(day: i64) -> (i64, i64) {
    let from_march = day + 719_468;
    let of_era = from_march.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    (if month < 10 { month + 3 } else { month - 9 }, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, after: &str, expect: &str) {
        let next = Schedule::parse(schedule).unwrap().next(after.parse().unwrap());
        assert_eq!(next.map(|t| t.to_string()).unwrap_or_default(), expect, "{schedule} after {after}");
    }

    #[test]
    fn next_times() {
        check("* * * * *", "2026-01-02T03:04:05Z", "2026-01-02T03:05:00Z");
        check("*/15 * * * *", "2026-01-02T03:45:00Z", "2026-01-02T04:00:00Z");
        check("0 9-17/4 * * mon-fri", "2026-01-02T17:00:00Z", "2026-01-05T09:00:00Z");
        check("30 2 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T02:30:00Z");
        check("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        check("@monthly", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z");
        check("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z");
        check("0 0 31 2 *", "2026-01-01T00:00:00Z", "");
    }

    #[test]
    fn refuses_what_is_no_schedule() {
        for bad in
            ["", "* * * *", "60 * * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "x * * * *", "@every 1h"]
        {
            assert_eq!(Schedule::parse(bad), None, "{bad}");
        }
    }
}
