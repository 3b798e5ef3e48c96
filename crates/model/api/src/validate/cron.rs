//! The notation of cron schedules: five fields, or a word such as `@daily`.
//!
//! Texts are those of the parser kube-apiserver uses (robfig/cron v3, standard form).

/// The five fields: name, least, most, names of values.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Units of time, the longer of those that start alike first.
const UNITS: [&str; 7] = ["ns", "us", "µs", "ms", "s", "m", "h"];

/// What is wrong with a schedule, if anything.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let schedule = match schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest.trim()),
        None => schedule,
    };
    if schedule.starts_with('@') {
        return word(schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (text, bounds) in fields.into_iter().zip(FIELDS) {
        for range in text.split(',') {
            check_range(range, bounds)?;
        }
    }
    Ok(())
}

fn word(schedule: &str) -> Result<(), String> {
    if let Some(span) = schedule.strip_prefix("@every ") {
        return if is_duration(span) {
            Ok(())
        } else {
            Err(format!("failed to parse duration {schedule}: time: invalid duration \"{span}\""))
        };
    }
    if WORDS.contains(&schedule) { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) }
}

/// Numbers with units, such as `1h30m`.
fn is_duration(span: &str) -> bool {
    let mut rest = span;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        if number == 0 {
            return false;
        }
        rest = rest.get(number..).unwrap_or_default();
        let Some(unit) = UNITS.into_iter().find(|unit| rest.starts_with(*unit)) else {
            return false;
        };
        rest = rest.get(unit.len()..).unwrap_or_default();
    }
    !span.is_empty()
}

/// `*`, `a`, `a-b`, each with an optional `/step`.
fn check_range(range: &str, bounds: (u32, u32, &[&str])) -> Result<(), String> {
    let (least, most, names) = bounds;
    let mut halves = range.split('/');
    let span = halves.next().unwrap_or_default();
    let step = halves.next();
    if halves.next().is_some() {
        return Err(format!("too many slashes: {range}"));
    }
    let mut ends = span.split('-');
    let first = ends.next().unwrap_or_default();
    let last = ends.next();
    if ends.next().is_some() {
        return Err(format!("too many hyphens: {range}"));
    }
    let (start, mut end) = if matches!(first, "*" | "?") {
        (least, most)
    } else {
        let start = number(first, names)?;
        (start, last.map_or(Ok(start), |last| number(last, names))?)
    };
    if let Some(step) = step {
        if last.is_none() {
            end = most;
        }
        if number(step, &[])? == 0 {
            return Err(format!("step of range should be a positive number: {range}"));
        }
    }
    if start < least {
        return Err(format!("beginning of range ({start}) below minimum ({least}): {range}"));
    }
    if end > most {
        return Err(format!("end of range ({end}) above maximum ({most}): {range}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {range}"));
    }
    Ok(())
}

/// A number, or the name of a month or a day.
fn number(text: &str, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_lowercase();
    if let Some(place) = names.iter().position(|name| *name == lower) {
        // Months are counted from one, days from zero.
        let first = u32::from(names.len() == 12);
        return Ok(u32::try_from(place).unwrap_or_default() + first);
    }
    text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax")
    })
}
