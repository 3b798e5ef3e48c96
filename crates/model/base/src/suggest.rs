//! "Did you mean …?" for misspelt names, and what there is instead.

/// The candidate nearest to `name` by edit distance, if it is near enough to be meant.
pub fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Names for a hint: in order, the first ten, with an ellipsis where there are more. Nothing when there are none.
pub fn some_of<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Option<String> {
    /// Names told at the most.
    const MOST: usize = 10;
    let names: Vec<N> = names.into_iter().collect();
    let mut names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.sort_unstable();
    let more = if names.len() > MOST { ", …" } else { "" };
    names.truncate(MOST);
    (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")))
}

/// Optimal string alignment distance: insert, delete, replace, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_meant_name_only() {
        assert_eq!(closest("ngnix", ["nginx", "redis"]), Some("nginx"));
        assert_eq!(closest("strateg", ["strategy", "selector"]), Some("strategy"));
        assert_eq!(closest("abc", ["xyz"]), None);
    }

    #[test]
    fn some_names_stand_for_many() {
        assert_eq!(some_of([""; 0]), None);
        assert_eq!(some_of(["b", "a"]), Some("a, b".into()));
        let names = |count: usize| (0..count).map(|n| format!("f{n}"));
        assert_eq!(some_of(names(10)), Some("f0, f1, f2, f3, f4, f5, f6, f7, f8, f9".into()));
        assert_eq!(some_of(names(11)), Some("f0, f1, f10, f2, f3, f4, f5, f6, f7, f8, …".into()));
    }
}
