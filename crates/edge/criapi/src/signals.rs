//! Signals by the interface's numbers, which are not the kernel's.

/// Names by number; 0 is the runtime's default.
const NAMES: [&str; 66] = [
    "",
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMAX-14",
    "SIGRTMAX-13",
    "SIGRTMAX-12",
    "SIGRTMAX-11",
    "SIGRTMAX-10",
    "SIGRTMAX-9",
    "SIGRTMAX-8",
    "SIGRTMAX-7",
    "SIGRTMAX-6",
    "SIGRTMAX-5",
    "SIGRTMAX-4",
    "SIGRTMAX-3",
    "SIGRTMAX-2",
    "SIGRTMAX-1",
    "SIGRTMAX",
];

const TERM: i32 = 15;

/// The kernel's number of the signal that stops a container: its own, else its image's, else TERM. Nothing when the interface has
/// no such signal.
pub(crate) fn stop_signal(asked: i32, image: Option<&str>) -> Option<i32> {
    match usize::try_from(asked).ok().and_then(|index| NAMES.get(index))? {
        &"" => Some(image.and_then(wharf_image::signal_number).unwrap_or(TERM)),
        name => number(name),
    }
}

fn number(name: &str) -> Option<i32> {
    // Old names of others, which images do not use.
    let name = match name {
        "SIGCLD" => "SIGCHLD",
        "SIGIOT" => "SIGABRT",
        "SIGPOLL" => "SIGIO",
        other => other,
    };
    wharf_image::signal_number(name)
}

/// The interface's number of a kernel's one; 0 when it has none.
pub(crate) fn to_interface(kernel: i32) -> i32 {
    let found = (1i32..).zip(&NAMES[1..]).find(|(_, name)| number(name) == Some(kernel));
    found.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_number() {
        for index in 1..NAMES.len() as i32 {
            assert!(stop_signal(index, None).is_some(), "{}", NAMES[index as usize]);
        }
        assert_eq!(stop_signal(23, Some("SIGUSR1")), Some(15));
        assert_eq!(stop_signal(0, Some("SIGUSR1")), Some(10));
        assert_eq!(stop_signal(0, None), Some(15));
        assert_eq!((stop_signal(66, None), stop_signal(-1, None)), (None, None));
        assert_eq!((to_interface(15), to_interface(10), to_interface(99)), (23, 29, 0));
    }
}
