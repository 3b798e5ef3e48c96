//! How fast a size may change: stabilization windows and policies (`autoscaling/v2` `behavior`).

use std::time::Duration;

use serde::Deserialize;
use wharf_base::Timestamp;
use wharf_control::meta::null_default;

/// `HorizontalPodAutoscalerBehavior`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Behavior {
    /// Upwards.
    pub scale_up: Option<Rules>,
    /// Downwards.
    pub scale_down: Option<Rules>,
}

/// `HPAScalingRules`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// The past is looked at for so long.
    pub stabilization_window_seconds: Option<i64>,
    /// `Max` (when absent), `Min` or `Disabled`.
    #[serde(deserialize_with = "null_default")]
    pub select_policy: String,
    /// Bounds on the change in a period.
    #[serde(deserialize_with = "null_default")]
    pub policies: Vec<Policy>,
    /// Relative difference that is ignored.
    pub tolerance: Option<wharf_base::Quantity>,
}

/// `HPAScalingPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// `Pods` or `Percent`.
    #[serde(rename = "type")]
    pub kind: String,
    /// How much.
    pub value: i64,
    /// In which time.
    pub period_seconds: i64,
}

/// What is remembered of the past of one target. Lost with the process, as upstream's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    recommendations: Vec<(Timestamp, i64)>,
    ups: Vec<(Timestamp, i64)>,
    downs: Vec<(Timestamp, i64)>,
}

impl History {
    /// Remembers a change of size.
    pub fn changed(&mut self, from: i64, to: i64, now: Timestamp) {
        if to > from {
            self.ups.push((now, to - from));
        } else if to < from {
            self.downs.push((now, from - to));
        }
    }

    /// Forgets what no window reaches any more.
    fn forget(&mut self, behavior: &Behavior, now: Timestamp) {
        let longest = |rules: &Option<Rules>, usual: i64| {
            let rules = rules.as_ref();
            let periods = rules.iter().flat_map(|r| &r.policies).map(|p| p.period_seconds);
            periods
                .max()
                .unwrap_or(0)
                .max(rules.and_then(|r| r.stabilization_window_seconds).unwrap_or(usual))
                .max(15)
        };
        let keep = longest(&behavior.scale_up, 0).max(longest(&behavior.scale_down, 300));
        let oldest = now.minus(seconds(keep));
        for list in [&mut self.recommendations, &mut self.ups, &mut self.downs] {
            list.retain(|(at, _)| *at >= oldest);
        }
    }
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.max(0) as u64)
}

/// What came of the bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// The size to go to.
    pub replicas: i64,
    /// The past held it (`ScaleUpStabilized`, `ScaleDownStabilized`), when it did.
    pub stabilized: Option<&'static str>,
    /// A bound held it (`TooManyReplicas`, `TooFewReplicas`, `ScaleUpLimit`, `ScaleDownLimit`), when it did.
    pub limited: Option<&'static str>,
}

/// Bounds a proposal by past, policies, minimum and maximum.
pub fn bound(
    behavior: &Behavior,
    history: &mut History,
    current: i64,
    proposed: i64,
    (min, max): (i64, i64),
    now: Timestamp,
) -> Bounded {
    history.forget(behavior, now);
    history.recommendations.push((now, proposed));
    let window = |rules: &Option<Rules>, usual: i64| {
        seconds(rules.as_ref().and_then(|r| r.stabilization_window_seconds).unwrap_or(usual))
    };
    let (up, down) = (window(&behavior.scale_up, 0), window(&behavior.scale_down, 300));
    let within = |window: Duration| {
        let oldest = now.minus(window);
        history.recommendations.iter().filter(move |(at, _)| *at >= oldest).map(|(_, n)| *n)
    };
    // Up to the least, down to the most that was recommended in the window.
    let least = within(up).min().unwrap_or(proposed);
    let most = within(down).max().unwrap_or(proposed);
    let steady = if current < least { least } else { current.min(most) };
    let stabilized = match steady.cmp(&proposed) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some("ScaleUpStabilized"),
        std::cmp::Ordering::Greater => Some("ScaleDownStabilized"),
    };
    let (replicas, limited) = limit(behavior, history, current, steady, (min, max), now);
    Bounded { replicas, stabilized, limited }
}

fn limit(
    behavior: &Behavior,
    history: &History,
    current: i64,
    wanted: i64,
    (min, max): (i64, i64),
    now: Timestamp,
) -> (i64, Option<&'static str>) {
    if wanted > current {
        let most = most_up(behavior.scale_up.as_ref(), history, current, now);
        let ceiling = most.max(current).min(max);
        if wanted > ceiling {
            return (ceiling, Some(if ceiling == max { "TooManyReplicas" } else { "ScaleUpLimit" }));
        }
    } else if wanted < current {
        let least = least_down(behavior.scale_down.as_ref(), history, current, now);
        let floor = least.min(current).max(min);
        if wanted < floor {
            return (floor, Some(if floor == min { "TooFewReplicas" } else { "ScaleDownLimit" }));
        }
    }
    match wanted {
        n if n > max => (max, Some("TooManyReplicas")),
        n if n < min => (min, Some("TooFewReplicas")),
        n => (n, None),
    }
}

fn since(list: &[(Timestamp, i64)], period: i64, now: Timestamp) -> i64 {
    let oldest = now.minus(seconds(period));
    list.iter().filter(|(at, _)| *at > oldest).map(|(_, n)| *n).sum()
}

fn most_up(rules: Option<&Rules>, history: &History, current: i64, now: Timestamp) -> i64 {
    let usual = [
        Policy { kind: "Percent".into(), value: 100, period_seconds: 15 },
        Policy { kind: "Pods".into(), value: 4, period_seconds: 15 },
    ];
    let policies = rules.map(|r| r.policies.as_slice()).filter(|p| !p.is_empty()).unwrap_or(&usual);
    let bounds = policies.iter().map(|policy| {
        let start = current - since(&history.ups, policy.period_seconds, now)
            + since(&history.downs, policy.period_seconds, now);
        match policy.kind.as_str() {
            "Pods" => start + policy.value,
            _ => (start as f64 * (1.0 + policy.value as f64 / 100.0)).ceil() as i64,
        }
    });
    match rules.map_or("", |r| r.select_policy.as_str()) {
        "Disabled" => current,
        "Min" => bounds.min().unwrap_or(current),
        _ => bounds.max().unwrap_or(current),
    }
}

fn least_down(rules: Option<&Rules>, history: &History, current: i64, now: Timestamp) -> i64 {
    let usual = [Policy { kind: "Percent".into(), value: 100, period_seconds: 15 }];
    let policies = rules.map(|r| r.policies.as_slice()).filter(|p| !p.is_empty()).unwrap_or(&usual);
    let bounds = policies.iter().map(|policy| {
        let start = current + since(&history.downs, policy.period_seconds, now)
            - since(&history.ups, policy.period_seconds, now);
        match policy.kind.as_str() {
            "Pods" => start - policy.value,
            _ => (start as f64 * (1.0 - policy.value as f64 / 100.0)) as i64,
        }
    });
    match rules.map_or("", |r| r.select_policy.as_str()) {
        "Disabled" => current,
        // Of the changes the smallest, so of the sizes the biggest.
        "Min" => bounds.max().unwrap_or(current),
        _ => bounds.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix(1_700_000_000 + second, 0)
    }

    /// Follows proposals (second, proposal) and gives the sizes.
    fn follow(behavior: &Behavior, start: i64, proposals: &[(i64, i64)]) -> Vec<i64> {
        let mut history = History::default();
        let mut current = start;
        let mut sizes = Vec::new();
        for (second, proposed) in proposals {
            let bounded = bound(behavior, &mut history, current, *proposed, (1, 100), at(*second));
            history.changed(current, bounded.replicas, at(*second));
            current = bounded.replicas;
            sizes.push(current);
        }
        sizes
    }

    fn rules(window: i64, policies: &[(&str, i64, i64)]) -> Option<Rules> {
        let policies = policies.iter().map(|(kind, value, period)| Policy {
            kind: (*kind).into(),
            value: *value,
            period_seconds: *period,
        });
        let policies = policies.collect();
        Some(Rules { stabilization_window_seconds: Some(window), policies, ..Rules::default() })
    }

    #[test]
    fn the_usual_behavior_doubles_up_and_waits_to_go_down() {
        let usual = Behavior::default();
        assert_eq!(follow(&usual, 1, &[(0, 50), (5, 50), (16, 50), (32, 50)]), [5, 5, 10, 20]);
        assert_eq!(follow(&usual, 10, &[(0, 10), (15, 2), (200, 2), (301, 2)]), [10, 10, 10, 2]);
    }

    #[test]
    fn policies_bound_the_change() {
        let behavior =
            Behavior { scale_up: rules(0, &[("Pods", 2, 10)]), scale_down: rules(0, &[("Percent", 50, 30)]) };
        assert_eq!(follow(&behavior, 2, &[(0, 9), (5, 9), (11, 9), (22, 9)]), [4, 4, 6, 8]);
        assert_eq!(follow(&behavior, 8, &[(0, 1), (10, 1), (31, 1), (62, 1)]), [4, 4, 2, 1]);
        let disabled = Rules { select_policy: "Disabled".into(), ..Rules::default() };
        let behavior = Behavior { scale_down: Some(disabled), ..Behavior::default() };
        assert_eq!(follow(&behavior, 8, &[(0, 1), (1000, 1)]), [8, 8]);
    }

    #[test]
    fn bounds_are_named() {
        let mut history = History::default();
        let bounded = bound(&Behavior::default(), &mut history, 90, 500, (1, 100), at(0));
        assert_eq!((bounded.replicas, bounded.limited), (100, Some("TooManyReplicas")));
        let bounded = bound(&Behavior::default(), &mut History::default(), 1, 500, (1, 100), at(0));
        assert_eq!((bounded.replicas, bounded.limited), (5, Some("ScaleUpLimit")));
    }
}
