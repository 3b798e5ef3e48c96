//! Signals as images and people write them.

/// The names of the signals from 1 on, without `SIG`.
pub const SIGNAL_NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names of the same.
const ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];
/// The first and the last signal without a meaning of its own.
const REAL_TIME: (i32, i32) = (34, 64);

/// The number of a signal, given by number or name, with or without `SIG`, in any case: `15`, `SIGTERM`, `term`,
/// `RTMIN+3`.
pub fn signal_number(text: &str) -> Option<i32> {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(text) {
        return text.parse().ok().filter(|number| (1..=REAL_TIME.1).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let more = |rest: &str, sign: char| match rest {
        "" => Some(0),
        rest => rest.strip_prefix(sign).filter(|digits| is_number(digits))?.parse().ok(),
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => more(rest, '+').and_then(|more: i32| REAL_TIME.0.checked_add(more)),
        (_, Some(rest)) => more(rest, '-').and_then(|less| REAL_TIME.1.checked_sub(less)),
        _ => None,
    };
    let known = || SIGNAL_NAMES.iter().zip(1..).find(|(known, _)| **known == name).map(|(_, number)| number);
    let alias = || ALIASES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    real_time.filter(|number| (REAL_TIME.0..=REAL_TIME.1).contains(number)).or_else(known).or_else(alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_numbers_and_names() {
        for (text, expected) in [
            ("15", Some(15)),
            ("64", Some(64)),
            ("SIGTERM", Some(15)),
            ("TERM", Some(15)),
            ("sigquit", Some(3)),
            ("SYS", Some(31)),
            ("IOT", Some(6)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN+30", Some(64)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+31", None),
            ("RTMIN3", None),
            ("RTMIN++3", None),
            ("RTMAX-31", None),
            ("0", None),
            ("65", None),
            ("-9", None),
            ("+9", None),
            ("99999999999", None),
            ("NOPE", None),
            ("SIG", None),
            ("SIGSIGTERM", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), expected, "{text}");
        }
    }
}
