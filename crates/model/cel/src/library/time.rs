//! Parts of moments and spans (cel-spec, "Timezones"): without a zone the clocks of UTC count.

use jiff::civil::{DateTime, Weekday};

use super::{Outcome, Row, no_overload};
use crate::value::Value;

pub(super) const ROWS: &[Row] = &[
    ("getFullYear", "timestamp_to_year", "timestamp.() -> int", |a| part(a, |t| t.year().into())),
    ("getFullYear", "timestamp_to_year_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| t.year().into())
    }),
    ("getMonth", "timestamp_to_month", "timestamp.() -> int", |a| part(a, month)),
    ("getMonth", "timestamp_to_month_with_tz", "timestamp.(string) -> int", |a| part(a, month)),
    ("getDayOfYear", "timestamp_to_day_of_year", "timestamp.() -> int", |a| part(a, day_of_year)),
    ("getDayOfYear", "timestamp_to_day_of_year_with_tz", "timestamp.(string) -> int", |a| {
        part(a, day_of_year)
    }),
    ("getDayOfMonth", "timestamp_to_day_of_month", "timestamp.() -> int", |a| {
        part(a, |t| i64::from(t.day()) - 1)
    }),
    ("getDayOfMonth", "timestamp_to_day_of_month_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| i64::from(t.day()) - 1)
    }),
    ("getDate", "timestamp_to_day_of_month_1_based", "timestamp.() -> int", |a| part(a, |t| t.day().into())),
    ("getDate", "timestamp_to_day_of_month_1_based_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| t.day().into())
    }),
    ("getDayOfWeek", "timestamp_to_day_of_week", "timestamp.() -> int", |a| part(a, day_of_week)),
    ("getDayOfWeek", "timestamp_to_day_of_week_with_tz", "timestamp.(string) -> int", |a| {
        part(a, day_of_week)
    }),
    ("getHours", "timestamp_to_hours", "timestamp.() -> int", |a| part(a, |t| t.hour().into())),
    ("getHours", "timestamp_to_hours_with_tz", "timestamp.(string) -> int", |a| part(a, |t| t.hour().into())),
    ("getHours", "duration_to_hours", "duration.() -> int", |a| whole(a, 3_600_000_000_000)),
    ("getMinutes", "timestamp_to_minutes", "timestamp.() -> int", |a| part(a, |t| t.minute().into())),
    ("getMinutes", "timestamp_to_minutes_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| t.minute().into())
    }),
    ("getMinutes", "duration_to_minutes", "duration.() -> int", |a| whole(a, 60_000_000_000)),
    ("getSeconds", "timestamp_to_seconds", "timestamp.() -> int", |a| part(a, |t| t.second().into())),
    ("getSeconds", "timestamp_to_seconds_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| t.second().into())
    }),
    ("getSeconds", "duration_to_seconds", "duration.() -> int", |a| whole(a, 1_000_000_000)),
    ("getMilliseconds", "timestamp_to_milliseconds", "timestamp.() -> int", |a| {
        part(a, |t| t.millisecond().into())
    }),
    ("getMilliseconds", "timestamp_to_milliseconds_with_tz", "timestamp.(string) -> int", |a| {
        part(a, |t| t.millisecond().into())
    }),
    ("getMilliseconds", "duration_to_milliseconds", "duration.() -> int", |a| whole(a, 1_000_000)),
];

fn part<'a>(args: &[Value<'a>], part: fn(DateTime) -> i64) -> Outcome<'a> {
    let (moment, zone) = match args {
        [Value::Timestamp(moment)] => (moment, "UTC"),
        [Value::Timestamp(moment), Value::String(zone)] => (moment, &**zone),
        _ => return no_overload(),
    };
    Ok(Value::Int(part(moment.on_clocks(zone)?)))
}

fn month(t: DateTime) -> i64 {
    i64::from(t.month()) - 1
}

fn day_of_year(t: DateTime) -> i64 {
    i64::from(t.day_of_year()) - 1
}

fn day_of_week(t: DateTime) -> i64 {
    let weekday: Weekday = t.weekday();
    weekday.to_sunday_zero_offset().into()
}

fn whole<'a>(args: &[Value<'a>], unit: i64) -> Outcome<'a> {
    match args {
        [Value::Duration(span)] => Ok(Value::Int(span.0 / unit)),
        _ => no_overload(),
    }
}
