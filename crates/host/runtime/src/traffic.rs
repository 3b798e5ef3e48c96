//! What has gone through the interfaces of a network namespace, by `/proc/PID/net/dev` (proc(5)).

use std::fs;

/// Counters of one interface since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The interface's name.
    pub interface: String,
    /// What it has received.
    pub received: Counters,
    /// What it has sent.
    pub sent: Counters,
}

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets there was no room for.
    pub dropped: u64,
}

/// Traffic of the namespace a process is in, without the loopback interface. Nothing when the process has ended.
pub fn traffic(pid: i32) -> Vec<Traffic> {
    read(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

fn read(text: &str) -> Vec<Traffic> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let of = |(name, numbers): (&str, &str)| {
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
        let counters = |from: usize| Counters {
            bytes: at(from),
            packets: at(from + 1),
            errors: at(from + 2),
            dropped: at(from + 3),
        };
        Traffic { interface: name.trim().to_owned(), received: counters(0), sent: counters(8) }
    };
    lines.map(of).filter(|one| one.interface != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive    |  Transmit\n face |bytes    packets errs drop\n    lo:     1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let received = Counters { bytes: 10, packets: 2, errors: 3, dropped: 4 };
        let sent = Counters { bytes: 50, packets: 6, errors: 7, dropped: 8 };
        assert_eq!(read(text), [Traffic { interface: "eth0".to_owned(), received, sent }]);
        assert_eq!(read("eth0:"), [Traffic { interface: "eth0".to_owned(), ..Traffic::default() }]);
    }
}
