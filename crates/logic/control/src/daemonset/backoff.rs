//! How soon a pod that failed is replaced: each time the node's next one waits longer.

use std::{collections::HashMap, time::Duration};

use wharf_base::Timestamp;

const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(15 * 60);

/// Uid of the DaemonSet, its generation, and the node.
type Key = (String, i64, String);

/// Remembers replacements.
#[derive(Clone, Debug, Default)]
pub struct Backoffs {
    known: HashMap<Key, (Duration, Timestamp)>,
}

impl Backoffs {
    /// Whether a failed pod may be replaced now, and then takes note of it; otherwise how long to wait.
    pub(super) fn replace(
        &mut self,
        uid: &str,
        generation: i64,
        node: &str,
        now: Timestamp,
    ) -> Option<Duration> {
        self.known.retain(|_, (_, at)| now.since(*at) < LAST * 2);
        let key = (uid.to_owned(), generation, node.to_owned());
        let next = match self.known.get(&key) {
            Some((delay, at)) => {
                let left = at.plus(*delay).since(now);
                if !left.is_zero() {
                    return Some(left);
                }
                (*delay * 2).min(LAST)
            }
            None => FIRST,
        };
        self.known.insert(key, (next, now));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_forgotten() {
        let mut all = Backoffs::default();
        let mut check = |at: i64, wait: Option<u64>| {
            let found = all.replace("u", 1, "n", Timestamp::from_unix(at, 0));
            assert_eq!(found.map(|wait| wait.as_secs()), wait, "at {at}");
        };
        check(0, None);
        check(0, Some(1));
        check(1, None);
        check(2, Some(1));
        check(3, None);
        check(4, Some(3));
        check(3 + 1800, None);
        check(3 + 1800, Some(1));
    }
}
