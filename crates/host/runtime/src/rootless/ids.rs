//! Which users and groups of the machine somebody who is not root may give to others (subuid(5), subgid(5)).

/// So many numbers, from this one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// The ranges of a user, whose name or number lines of `text` may have: `NAME:FIRST:COUNT`.
pub(super) fn ranges(text: &str, name: &str, number: u32) -> Vec<Range> {
    let number = number.to_string();
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let whose = fields.next()?;
        let range = Range { first: fields.next()?.parse().ok()?, count: fields.next()?.parse().ok()? };
        let ours = !whose.is_empty() && (whose == name || whose == number);
        (ours && range.count > 0 && range.first.checked_add(range.count).is_some()).then_some(range)
    };
    text.lines().filter_map(range).collect()
}

/// Lines of a mapping, as `newuidmap` takes them: the person is root inside, and the ranges follow one after another.
pub(super) fn mapping(person: u32, ranges: &[Range]) -> Vec<[u32; 3]> {
    let mut lines = vec![[0, person, 1]];
    let mut next = 1u32;
    for range in ranges {
        let count = range.count.min(u32::MAX - 1 - next);
        if count > 0 {
            lines.push([next, range.first, count]);
            next += count;
        }
    }
    lines
}

/// The name of the user with this number in a text like `/etc/passwd`.
pub(super) fn name_of(passwd: &str, number: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_by_name_and_by_number() {
        let text =
            "ann:100000:65536\n1001:300000:10\nbob:1:x\nann:200000:5\n:7:7\nann:4294967295:2\nann:9:0\nann\n";
        let of =
            |name, number| ranges(text, name, number).iter().map(|r| (r.first, r.count)).collect::<Vec<_>>();
        assert_eq!(of("ann", 1000), [(100_000, 65536), (200_000, 5)]);
        assert_eq!(of("cid", 1001), [(300_000, 10)]);
        assert_eq!(of("bob", 1002), []);
        assert_eq!(of("", 1002), []);
    }

    #[test]
    fn the_person_is_root_and_the_ranges_follow() {
        let ranges = [Range { first: 100_000, count: 65536 }, Range { first: 5, count: u32::MAX - 5 }];
        let lines = mapping(1000, &ranges);
        assert_eq!(lines[..2], [[0, 1000, 1], [1, 100_000, 65536]]);
        assert_eq!(lines[2][..2], [65537, 5]);
        assert!(lines[2][0].checked_add(lines[2][2]).is_some());
        assert_eq!(mapping(7, &[]), [[0, 7, 1]]);
    }

    #[test]
    fn names_are_those_of_numbers() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbroken\n";
        assert_eq!(name_of(passwd, 1000), Some("ann"));
        assert_eq!(name_of(passwd, 1), None);
    }
}
