use serde_json::json;
use wharf_control::read;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix(1_700_000_000 + second, 0)
}

fn run(metric: serde_json::Value) -> AnalysisRun {
    read(&json!({"metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "1",
        "creationTimestamp": at(0)}, "spec": {"metrics": [metric]}}))
    .expect("reads")
}

fn apply(run: &mut AnalysisRun, action: Option<Action>) {
    let Some(Action::UpdateStatus { patch, .. }) = action else { return };
    let mut status = wharf_control::meta::to_value(&run.status);
    merge(&mut status, &patch["status"]);
    run.status = read(&status).expect("status");
}

fn merge(target: &mut serde_json::Value, patch: &serde_json::Value) {
    match (target, patch) {
        (serde_json::Value::Object(target), serde_json::Value::Object(patch)) => {
            for (key, value) in patch {
                merge(target.entry(key.clone()).or_insert(serde_json::Value::Null), value);
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// Runs a metric against values that come one per measurement; gives the phase and the second it ended at.
fn play(metric: serde_json::Value, values: &[Option<f64>]) -> (Phase, i64, String) {
    let mut run = run(metric);
    let mut values = values.iter();
    for second in 0..1000 {
        let now = at(second);
        let decision = step(&run, now);
        apply(&mut run, decision.write);
        if run.status.phase.ended() {
            return (run.status.phase, second, run.status.message);
        }
        let outcomes: Vec<Outcome> = decision
            .measure
            .iter()
            .map(|metric| Outcome {
                metric: metric.name.clone(),
                started_at: now,
                finished_at: now,
                result: match values.next() {
                    Some(Some(v)) => Ok((Datum::List(vec![Datum::Number(*v)]), format!("[{v}]"))),
                    Some(None) => Ok((Datum::List(vec![]), "[]".into())),
                    None => Err("no answer".into()),
                },
            })
            .collect();
        let write = record(&run, &outcomes, now);
        apply(&mut run, write);
        if run.status.phase.ended() {
            return (run.status.phase, second, run.status.message);
        }
    }
    panic!("does not end: {:?}", run.status);
}

fn metric() -> serde_json::Value {
    json!({"name": "errors", "interval": "5s", "count": 4, "failureLimit": 1, "inconclusiveLimit": 2,
        "successCondition": "len(result) > 0 && result[0] < 0.02",
        "failureCondition": "len(result) > 0 && result[0] >= 0.05",
        "provider": {"prometheus": {"query": "x"}}})
}

#[test]
fn limits_decide() {
    let good = Some(0.0);
    let bad = Some(0.5);
    let cases = [
        (vec![good; 4], Phase::Successful, 15),
        (vec![good, bad, good, good], Phase::Successful, 15),
        (vec![good, bad, bad], Phase::Failed, 10),
        (vec![None, None, Some(0.03)], Phase::Inconclusive, 10),
        (vec![None, None, good, good], Phase::Successful, 15),
        (vec![], Phase::Error, 20),
    ];
    for (values, phase, second) in cases {
        let (found, at, message) = play(metric(), &values);
        assert_eq!((found, at), (phase, second), "{values:?}: {message}");
    }
}

#[test]
fn one_measurement_is_enough_without_an_interval() {
    let metric = json!({"name": "m", "successCondition": "result[0] > 1", "initialDelay": "3s",
        "provider": {"prometheus": {"query": "x"}}});
    assert_eq!(play(metric.clone(), &[Some(2.0)]).0, Phase::Successful);
    let (phase, second, message) = play(metric, &[Some(0.5)]);
    assert_eq!((phase, second), (Phase::Failed, 3));
    assert_eq!(message, "metric \"m\" failed 1 times, at last [0.5]");
}

#[test]
fn what_is_not_supported_is_named() {
    let (phase, _, message) = play(json!({"name": "m", "provider": {"datadog": {}}}), &[]);
    assert_eq!(phase, Phase::Error);
    assert!(message.contains("\"datadog\""), "{message}");
}

#[test]
fn templates_take_arguments() {
    let template = read(&json!({"args": [{"name": "hash"}, {"name": "limit", "value": "0.5"}],
        "metrics": [{"name": "m", "successCondition": "result < {{args.limit}}",
            "provider": {"prometheus": {"query": "rate(x{pod=~\"a-{{ args.hash }}-.+\"}[1m])"}}}]}))
    .expect("reads");
    let templates = [("t".to_owned(), template)];
    let given = [("hash".to_owned(), "abc".to_owned())].into();
    let spec = template::run_spec(&templates, &given).expect("a spec");
    let query = &spec.metrics[0].provider.prometheus.as_ref().expect("prometheus").query;
    assert_eq!(query, "rate(x{pod=~\"a-abc-.+\"}[1m])");
    assert_eq!(spec.metrics[0].success_condition, "result < 0.5");
    let missing = template::run_spec(&templates, &Default::default()).expect_err("no hash");
    assert_eq!(missing, "AnalysisTemplate \"t\": argument \"hash\" has no value");
}
