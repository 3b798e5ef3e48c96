//! Events: `events.k8s.io/v1` names most fields of the core group's differently. Both are one object.

use serde_json::Value;

/// Names in `events.k8s.io/v1` and in the core group.
const NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(super) fn to_core(event: &mut Value) {
    rename(event, |(newer, core)| (newer, core));
}

pub(super) fn from_core(event: &mut Value) {
    rename(event, |(newer, core)| (core, newer));
}

fn rename(
    event: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Value::Object(map) = event else { return };
    for (from, to) in NAMES.iter().copied().map(direction) {
        if let Some(value) = map.remove(from) {
            map.insert(to.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_the_same_in_both_groups() {
        let newer = json!({"regarding": {"kind": "Pod"}, "note": "n", "reason": "r", "reportingController": "c",
            "deprecatedSource": {"component": "s"}, "deprecatedCount": 2, "eventTime": "t"});
        let mut event = newer.clone();
        to_core(&mut event);
        assert_eq!(
            event,
            json!({"involvedObject": {"kind": "Pod"}, "message": "n", "reason": "r", "reportingComponent": "c",
                "source": {"component": "s"}, "count": 2, "eventTime": "t"})
        );
        from_core(&mut event);
        assert_eq!(event, newer);
    }
}
