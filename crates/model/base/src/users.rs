//! Numbers of users and groups across user namespaces.

/// Whether `map`, what a process reads in its `/proc/self/uid_map`, is that of the machine's own user namespace: every number stands
/// for itself (user_namespaces(7)).
pub fn is_of_machine(map: &str) -> bool {
    ranges(map).eq([(0, 0, u64::from(u32::MAX))])
}

/// The number outside of the user namespace that 0 stands for, by `map` as above.
pub fn root_of(map: &str) -> Option<u32> {
    ranges(map)
        .find_map(|(inside, outside, _)| (inside == 0).then_some(outside))
        .and_then(|n| n.try_into().ok())
}

/// The last number from 0 on that stands for somebody, by `map` as above.
pub fn last_of(map: &str) -> u32 {
    let mut ranges: Vec<_> = ranges(map).collect();
    ranges.sort_unstable();
    let end = ranges.iter().fold(0, |end, (first, _, count)| if *first == end { end + count } else { end });
    u32::try_from(end.saturating_sub(1)).unwrap_or(u32::MAX)
}

/// Why no file or process can be of the user or group `id`, where that is so by `map` as above.
pub fn unknown(map: &str, id: u32) -> Option<String> {
    let known =
        ranges(map).any(|(first, _, count)| (first..first.saturating_add(count)).contains(&id.into()));
    let last = last_of(map);
    let why = || {
        format!(
            "the user namespace knows users and groups up to {last}; /etc/subuid and /etc/subgid give more"
        )
    };
    (!known).then(why)
}

/// The first number inside, the first outside, and how many there are.
fn ranges(map: &str) -> impl Iterator<Item = (u64, u64, u64)> {
    map.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse);
        Some((words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_number_ends_what_hangs_together() {
        assert_eq!(last_of("0 0 4294967295\n"), u32::MAX - 1);
        assert_eq!(last_of("1 100000 65535\n0 1000 1\n"), 65535);
        assert_eq!(last_of("0 1000 1\n5 7 9\n"), 0);
        assert_eq!(last_of("x\n"), 0);
    }

    #[test]
    fn root_is_somebody_outside() {
        assert_eq!(root_of("1 100000 65535\n0 1000 1\n"), Some(1000));
        assert_eq!(root_of("1 100000 65535\n"), None);
        assert_eq!(unknown("0 1000 1\n1 100000 65535\n", 65_535), None);
        let told = unknown("0 1000 1\n1 100000 65535\n", 65_536).unwrap();
        assert!(told.contains("up to 65535;"), "{told}");
    }

    #[test]
    fn only_the_whole_range_is_the_machines() {
        assert!(is_of_machine("         0          0 4294967295\n"));
        for other in ["", "0 1000 1\n1 100000 65536\n", "0 0 65536\n", "0 0 4294967295\n1 1 1\n", "0 0"] {
            assert!(!is_of_machine(other), "{other:?}");
        }
    }
}
