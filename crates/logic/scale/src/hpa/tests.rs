use std::time::Duration;

use wharf_control::read;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix(1_700_000_000 + second, 0)
}

fn pod(index: usize, ready: bool) -> ScaledPod {
    let status = if ready { "True" } else { "False" };
    ScaledPod::read(&json!({
        "metadata": {"name": format!("p{index}"), "namespace": "n"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
        "status": {"phase": "Running", "startTime": at(-1000),
            "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": at(-990)}]},
    }))
    .expect("a pod")
}

fn usage(values: &[i64]) -> Measured {
    let of = |milli: &i64| Usage {
        containers: [("c".to_owned(), *milli)].into(),
        at: Some(at(0)),
        window: Duration::from_secs(15),
    };
    Measured::Usage(values.iter().enumerate().map(|(i, v)| (format!("p{i}"), of(v))).collect())
}

fn autoscaler(metric: Value) -> Autoscaler {
    read(&json!({"metadata": {"name": "h", "namespace": "n", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 20,
            "metrics": [metric],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}))
    .expect("an autoscaler")
}

fn cpu(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn decide_for(metric: Value, pods: &[ScaledPod], measured: Measured) -> (Option<i64>, Status) {
    let autoscaler = autoscaler(metric);
    let n = pods.len() as i64;
    let view = View { autoscaler: &autoscaler, scale: Ok((n, n)), pods, measured: &[measured] };
    let decision = step(&view, &mut History::default(), at(0));
    let status = decision.actions.iter().find_map(|action| match action {
        Action::UpdateStatus { patch, .. } => read(&patch["status"]).ok(),
        _ => None,
    });
    (decision.replicas, status.unwrap_or_default())
}

#[test]
fn utilization_scales_both_ways_outside_the_tolerance() {
    let pods: Vec<ScaledPod> = (0..3).map(|i| pod(i, true)).collect();
    for (used, expect) in [
        ([60, 60, 60], None),
        ([65, 65, 65], None),
        ([90, 90, 90], Some(5)),
        ([10, 10, 10], Some(1)),
        ([0, 0, 0], Some(1)),
    ] {
        assert_eq!(decide_for(cpu(60), &pods, usage(&used)).0, expect, "{used:?}");
    }
    let (_, status) = decide_for(cpu(60), &pods, usage(&[90, 90, 90]));
    assert_eq!((status.current_replicas, status.desired_replicas), (3, 5));
    assert_eq!(status.current_metrics[0]["resource"]["current"]["averageUtilization"], json!(90));
    assert!(condition::holds(&status.conditions, "ScalingActive"));
}

#[test]
fn missing_and_unready_pods_damp() {
    let pods: Vec<ScaledPod> = (0..4).map(|i| pod(i, true)).collect();
    // Two of four are unknown: going up they count as idle, going down as busy.
    assert_eq!(decide_for(cpu(50), &pods, usage(&[200, 200])).0, Some(8));
    assert_eq!(decide_for(cpu(50), &pods, usage(&[10, 10])).0, None);
}

#[test]
fn pods_without_requests_are_named() {
    let mut pods = vec![pod(0, true)];
    pods[0].requests.insert("c".into(), BTreeMap::new());
    let (replicas, status) = decide_for(cpu(50), &pods, usage(&[10]));
    assert_eq!(replicas, None);
    let active = condition::find(&status.conditions, "ScalingActive").expect("a condition");
    assert_eq!(active.message, "missing request for cpu in container c of Pod p0");
    assert_eq!((active.status.as_str(), active.reason.as_str()), ("False", "FailedGetResourceMetric"));
}

#[test]
fn numbers_from_elsewhere() {
    let pods: Vec<ScaledPod> = (0..2).map(|i| pod(i, true)).collect();
    let average = json!({"type": "External", "external": {"metric": {"name": "q"},
        "target": {"type": "AverageValue", "averageValue": "10"}}});
    assert_eq!(decide_for(average, &pods, Measured::Number(35_000)).0, Some(4));
    let value = json!({"type": "Object", "object": {"metric": {"name": "rps"},
        "describedObject": {"kind": "Ingress", "name": "i", "apiVersion": "networking.k8s.io/v1"},
        "target": {"type": "Value", "value": "100"}}});
    assert_eq!(decide_for(value, &pods, Measured::Number(300_000)).0, Some(6));
    let per_pod = json!({"type": "Pods", "pods": {"metric": {"name": "rps"},
        "target": {"type": "AverageValue", "averageValue": "10"}}});
    assert_eq!(decide_for(per_pod, &pods, usage(&[30_000, 30_000])).0, Some(6));
}

#[test]
fn a_target_at_zero_or_out_of_bounds() {
    let autoscaler = autoscaler(cpu(50));
    let decide = |asked: i64| {
        let view =
            View { autoscaler: &autoscaler, scale: Ok((asked, asked)), pods: &[], measured: &[usage(&[])] };
        step(&view, &mut History::default(), at(0)).replicas
    };
    assert_eq!(decide(0), None);
    assert_eq!(decide(30), Some(20));
}
