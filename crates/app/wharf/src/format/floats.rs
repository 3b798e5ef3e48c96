//! Floats in decimal, as Go writes them.

/// The digits of a number that is not negative, without zeros at the end, and the exponent of the first one.
fn digits(value: f64, count: Option<usize>) -> (String, i32) {
    let written = match count {
        Some(count) => format!("{value:.*e}", count.clamp(1, DIGITS) - 1),
        None => format!("{value:e}"),
    };
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let digits = mantissa.replace('.', "");
    let trimmed = digits.trim_end_matches('0');
    (
        if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() },
        exponent.parse().unwrap_or_default(),
    )
}

/// A float has fewer digits than this; what a format wants beyond is zeros. Rust's own formatting ends at 65535.
const DIGITS: usize = 1100;

/// `%f`: with so many digits behind the point.
pub(super) fn fixed(value: f64, precision: usize) -> String {
    let exact = precision.min(DIGITS);
    format!("{value:.exact$}") + &"0".repeat(precision - exact)
}

/// `%e`: one digit, so many behind the point, and the exponent in at least two digits.
pub(super) fn exponent(value: f64, precision: usize) -> String {
    let exact = precision.min(DIGITS);
    let written = format!("{value:.exact$e}");
    let (mantissa, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let mantissa = format!("{mantissa}{}", "0".repeat(precision - exact));
    with_exponent(&mantissa, exponent.parse().unwrap_or_default(), 2)
}

fn with_exponent(mantissa: &str, exponent: i32, width: usize) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:0width$}", exponent.unsigned_abs())
}

/// `%g`: the shorter of the two forms, with so many digits or as few as name the value alone.
pub(super) fn shortest(value: f64, precision: Option<usize>) -> String {
    let precision = precision.map(|precision| precision.max(1));
    let (digits, exponent) = digits(value.abs(), precision);
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let limit = match precision {
        None => 6,
        Some(precision) => {
            let precision = i32::try_from(precision).unwrap_or(i32::MAX);
            if precision > length && length > exponent { length } else { precision }
        }
    };
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if exponent < -4 || exponent >= limit {
        return format!("{sign}{}", with_exponent(&pointed(&digits), exponent, 2));
    }
    format!("{sign}{}", plain(&digits, exponent))
}

/// As `encoding/json` writes it: the exponent form only for very small and very large numbers.
pub(super) fn json(value: f64) -> String {
    let (digits, exponent) = digits(value.abs(), None);
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let text = if value != 0.0 && !(-6..21).contains(&exponent) {
        with_exponent(&pointed(&digits), exponent, 1)
    } else {
        plain(&digits, exponent)
    };
    format!("{sign}{text}")
}

fn pointed(digits: &str) -> String {
    let (first, rest) = digits.split_at_checked(1).unwrap_or((digits, ""));
    if rest.is_empty() { first.to_owned() } else { format!("{first}.{rest}") }
}

/// Digits whose first one has the exponent, without exponent form.
fn plain(digits: &str, exponent: i32) -> String {
    let Ok(exponent) = usize::try_from(exponent) else {
        return format!("0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1));
    };
    match digits.split_at_checked(exponent + 1) {
        Some((whole, "")) => whole.to_owned(),
        Some((whole, part)) => format!("{whole}.{part}"),
        None => format!("{digits}{}", "0".repeat(exponent + 1 - digits.len())),
    }
}
