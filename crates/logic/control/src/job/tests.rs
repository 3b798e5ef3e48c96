use serde_json::json;

use super::{failures::Failures, policy::Verdict, *};
use crate::{meta::read, world::World};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(1_700_000_000 + seconds, 0)
}

struct Jobs {
    world: World,
    now: i64,
}

impl Jobs {
    fn new(spec: Value) -> Self {
        let mut world = World::new();
        let mut all = json!({"selector": {"matchLabels": {"job": "j"}}, "template":
            {"metadata": {"labels": {"job": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        world.create(&JOBS, json!({"metadata": {"name": "j"}, "spec": all}));
        Self { world, now: 0 }
    }

    fn job(&self) -> Job {
        read(self.world.object(&JOBS, "j").expect("the job")).unwrap()
    }

    /// Steps until nothing is written; returns the wait asked for.
    fn settle(&mut self) -> Option<Duration> {
        self.settle_stopping(usize::MAX)
    }

    /// The same with a node that ends at most so many pods each time.
    fn settle_stopping(&mut self, stops: usize) -> Option<Duration> {
        for _ in 0..30 {
            self.world.object(&JOBS, "j")?;
            let (job, pods) = (self.job(), self.world.all::<Pod>(&PODS));
            let pods: Vec<&Pod> = pods.iter().collect();
            let step = step(&View { job: &job, pods: &pods }, at(self.now));
            let wait = step.requeue_after;
            let wrote = self.world.apply(step);
            if !(self.world.run_node(usize::MAX, stops) | wrote) {
                return wait;
            }
        }
        panic!("does not settle");
    }

    /// Ends every active pod.
    fn end(&mut self, phase: &str, count: usize) {
        let pods = self.world.all::<Pod>(&PODS);
        for pod in pods.iter().filter(|pod| pod.active()).take(count) {
            let state =
                json!([{"name": "c", "state": {"terminated": {"exitCode": 0, "finishedAt": at(self.now)}}}]);
            let status = json!({"status": {"phase": phase, "containerStatuses": state, "conditions": []}});
            self.world.patch(&PODS, &pod.metadata.name, status);
        }
    }

    /// Ends every active pod with an exit code.
    fn fail_with(&mut self, code: i64) {
        let pods = self.world.all::<Pod>(&PODS);
        for pod in pods.iter().filter(|pod| pod.active()) {
            let state = json!([{"name": "c", "state": {"terminated": {"exitCode": code, "finishedAt": at(self.now)}}}]);
            let status = json!({"status": {"phase": "Failed", "containerStatuses": state, "conditions": []}});
            self.world.patch(&PODS, &pod.metadata.name, status);
        }
    }

    /// Ends every active pod with the exit code for its index and what its annotations say of it.
    fn end_by(&mut self, code: fn(i64, Failures) -> i64) {
        for pod in self.world.all::<Pod>(&PODS).iter().filter(|pod| pod.active()) {
            let code = code(pods::index_of(pod).unwrap(), Failures::before(pod));
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            let state = json!([{"name": "c", "state": {"terminated": {"exitCode": code, "finishedAt": at(self.now)}}}]);
            let status = json!({"status": {"phase": phase, "containerStatuses": state, "conditions": []}});
            self.world.patch(&PODS, &pod.metadata.name, status);
        }
    }

    /// Asks for the deletion of every active pod.
    fn delete_pods(&mut self) {
        for pod in self.world.all::<Pod>(&PODS).iter().filter(|pod| pod.active()) {
            let deletion = json!({"metadata": {"deletionTimestamp": at(self.now)}});
            self.world.patch(&PODS, &pod.metadata.name, deletion);
        }
    }

    /// (active, succeeded, failed), and the conditions that hold.
    fn check(&self, counts: (i64, i64, i64), conditions: &[&str]) {
        let status = self.job().status;
        assert_eq!((status.active, status.succeeded, status.failed), counts);
        let holding: Vec<&str> =
            status.conditions.iter().filter(|c| c.is_true()).map(|c| c.kind.as_str()).collect();
        assert_eq!(holding, conditions);
    }
}

#[test]
fn runs_to_completion() {
    let mut jobs = Jobs::new(json!({"completions": 5, "parallelism": 2}));
    jobs.settle();
    jobs.check((2, 0, 0), &[]);
    for done in [2, 4] {
        jobs.end("Succeeded", 2);
        jobs.settle();
        jobs.check(((5 - done).min(2), done, 0), &[]);
    }
    jobs.end("Succeeded", 1);
    jobs.settle();
    jobs.check((0, 5, 0), &["SuccessCriteriaMet", "Complete"]);
    assert!(jobs.world.all::<Pod>(&PODS).iter().all(|pod| pod.metadata.finalizers.is_empty()));
}

#[test]
fn failures_back_off_and_end_it() {
    let mut jobs = Jobs::new(json!({"completions": 1, "parallelism": 1, "backoffLimit": 1}));
    jobs.settle();
    jobs.end("Failed", 1);
    assert_eq!(jobs.settle(), Some(Duration::from_secs(10)));
    jobs.check((0, 0, 1), &[]);
    jobs.now = 10;
    jobs.settle();
    jobs.check((1, 0, 1), &[]);
    jobs.end("Failed", 1);
    jobs.settle();
    jobs.check((0, 0, 2), &["FailureTarget", "Failed"]);
}

#[test]
fn deadline_stops_what_runs() {
    let mut jobs = Jobs::new(json!({"completions": 1, "parallelism": 1, "activeDeadlineSeconds": 60}));
    assert_eq!(jobs.settle(), Some(Duration::from_secs(60)));
    jobs.now = 60;
    jobs.settle();
    let status = jobs.job().status;
    assert_eq!((status.active, condition::holds(&status.conditions, "Failed")), (0, true));
}

#[test]
fn suspended_jobs_run_nothing() {
    let mut jobs = Jobs::new(json!({"completions": 2, "parallelism": 2, "suspend": true}));
    jobs.settle();
    jobs.check((0, 0, 0), &["Suspended"]);
    assert_eq!(jobs.job().status.start_time, None);
    jobs.world.patch(&JOBS, "j", json!({"spec": {"suspend": false}}));
    jobs.settle();
    jobs.check((2, 0, 0), &[]);
}

#[test]
fn indexed_jobs_count_indexes() {
    let mut jobs = Jobs::new(json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
    jobs.settle();
    let names: Vec<String> =
        jobs.world.all::<Pod>(&PODS).iter().map(|pod| pod.metadata.annotations[INDEX].clone()).collect();
    assert_eq!(names, ["0", "1", "2"]);
    jobs.end("Succeeded", 3);
    jobs.settle();
    assert_eq!(jobs.job().status.completed_indexes, "0-2");
    jobs.check((1, 3, 0), &[]);
    jobs.end("Succeeded", 1);
    jobs.settle();
    assert_eq!(jobs.job().status.completed_indexes, "0-3");
    jobs.check((0, 4, 0), &["SuccessCriteriaMet", "Complete"]);
}

#[test]
fn time_to_live_deletes_it() {
    let mut jobs = Jobs::new(json!({"completions": 1, "ttlSecondsAfterFinished": 30}));
    jobs.settle();
    jobs.end("Succeeded", 1);
    assert_eq!(jobs.settle(), Some(Duration::from_secs(30)));
    jobs.now = 30;
    jobs.settle();
    assert!(jobs.world.object(&JOBS, "j").is_none());
}

#[test]
fn a_failure_policy_ignores_counts_or_ends() {
    let policy = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1]}}]});
    let mut jobs = Jobs::new(json!({"backoffLimit": 1, "podFailurePolicy": policy}));
    jobs.settle();
    jobs.fail_with(137);
    jobs.settle();
    jobs.now += 30;
    jobs.settle();
    jobs.check((1, 0, 0), &[]);
    jobs.fail_with(1);
    jobs.settle();
    jobs.now += 60;
    jobs.settle();
    jobs.check((1, 0, 1), &[]);
    jobs.fail_with(42);
    jobs.settle();
    jobs.check((0, 0, 2), &["FailureTarget", "Failed"]);
    let failed = jobs.job().status.conditions.pop().unwrap();
    assert_eq!(failed.reason, "PodFailurePolicy");
    assert!(
        failed.message.contains("failed with exit code 42 matching FailJob rule at index 0"),
        "{failed:?}"
    );
}

#[test]
fn a_success_policy_ends_an_indexed_job_early() {
    let policy =
        json!({"rules": [{"succeededIndexes": "3-4"}, {"succeededIndexes": "0-2", "succeededCount": 2}]});
    let mut jobs = Jobs::new(
        json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed", "successPolicy": policy}),
    );
    jobs.settle();
    jobs.end("Succeeded", 1);
    jobs.settle();
    jobs.check((4, 1, 0), &[]);
    jobs.end("Succeeded", 1);
    jobs.settle();
    jobs.check((0, 2, 0), &["SuccessCriteriaMet", "Complete"]);
    assert_eq!(jobs.job().status.conditions.pop().unwrap().message, "Matched rules at index 1");
}

fn indexed(completions: i64, parallelism: i64, more: Value) -> Value {
    let mut spec = json!({"completions": completions, "parallelism": parallelism, "completionMode": "Indexed", "backoffLimit": i32::MAX});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

/// Runs a Job to its end; (completed indexes, failed indexes, succeeded, failed) and why it ended.
fn check_end(
    spec: Value,
    code: fn(i64, Failures) -> i64,
    expect: (&str, Option<&str>, i64, i64),
    reason: &str,
) {
    let mut jobs = Jobs::new(spec);
    for _ in 0..20 {
        jobs.settle();
        jobs.now += 600;
        jobs.end_by(code);
    }
    let status = jobs.job().status;
    let told = (
        status.completed_indexes.as_str(),
        status.failed_indexes.as_deref(),
        status.succeeded,
        status.failed,
    );
    assert_eq!(told, expect);
    let end = status.conditions.last().unwrap();
    let kind = if matches!(reason, "SuccessPolicy" | "CompletionsReached") { "Complete" } else { "Failed" };
    assert_eq!((end.kind.as_str(), end.reason.as_str()), (kind, reason));
    assert_eq!((status.active, status.terminating), (0, Some(0)));
    assert!(jobs.world.all::<Pod>(&PODS).iter().all(|pod| pod.metadata.finalizers.is_empty()));
}

#[test]
fn indexes_fail_on_their_own() {
    let odd = |index, _| index % 2;
    let on = |action: &str, code: i64| json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [code]}}]});
    let limit = |limit: i64| json!({"backoffLimitPerIndex": limit});
    check_end(indexed(4, 2, limit(1)), odd, ("0,2", Some("1,3"), 2, 4), "FailedIndexes");
    check_end(indexed(4, 2, limit(0)), odd, ("0,2", Some("1,3"), 2, 2), "FailedIndexes");
    check_end(indexed(4, 4, limit(2)), |_, _| 0, ("0-3", Some(""), 4, 0), "CompletionsReached");
    check_end(
        indexed(3, 3, limit(2)),
        |_, failures| i64::from(failures.counted < 2),
        ("0-2", Some(""), 3, 6),
        "CompletionsReached",
    );
    check_end(
        indexed(4, 1, json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0})),
        |_, _| 1,
        ("", Some("0"), 0, 1),
        "MaxFailedIndexesExceeded",
    );
    check_end(
        indexed(2, 2, json!({"backoffLimitPerIndex": 1, "podFailurePolicy": on("FailIndex", 1)})),
        odd,
        ("0", Some("1"), 1, 1),
        "FailedIndexes",
    );
    check_end(
        indexed(2, 2, json!({"backoffLimitPerIndex": 0, "podFailurePolicy": on("Ignore", 42)})),
        |_, failures| if failures.ignored < 3 { 42 } else { 0 },
        ("0,1", Some(""), 2, 0),
        "CompletionsReached",
    );
    check_end(
        indexed(3, 1, json!({"backoffLimitPerIndex": 5, "podFailurePolicy": on("FailJob", 7)})),
        |index, _| index * 7,
        ("0", Some(""), 1, 1),
        "PodFailurePolicy",
    );
    check_end(
        indexed(2, 1, json!({"backoffLimitPerIndex": 9, "backoffLimit": 2})),
        |_, _| 1,
        ("", Some(""), 0, 3),
        "BackoffLimitExceeded",
    );
    check_end(
        indexed(
            3,
            3,
            json!({"backoffLimitPerIndex": 0, "successPolicy": {"rules": [{"succeededCount": 2}]}}),
        ),
        |index, _| i64::from(index == 1),
        ("0,2", Some("1"), 2, 1),
        "FailedIndexes",
    );
    check_end(
        indexed(
            4,
            3,
            json!({"backoffLimitPerIndex": 0, "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}),
        ),
        |index, _| i64::from(index == 1),
        ("0,2", Some("1"), 2, 1),
        "SuccessPolicy",
    );
    check_end(indexed(2, 2, json!({"backoffLimit": 0})), odd, ("0", None, 1, 1), "BackoffLimitExceeded");
}

/// What the pods of the Job say of the failures of their indexes: (index, counted, ignored).
fn told_failures(jobs: &Jobs) -> Vec<(i64, Option<String>, Option<String>)> {
    let text = |pod: &Pod, key: &str| pod.metadata.annotations.get(key).cloned();
    let tell = |pod: &Pod| {
        (pods::index_of(pod).unwrap(), text(pod, failures::COUNTED), text(pod, failures::IGNORED))
    };
    jobs.world.all::<Pod>(&PODS).iter().filter(|pod| pod.active()).map(tell).collect()
}

#[test]
fn pods_tell_how_often_their_index_failed() {
    let ignore = json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [42]}}]});
    let mut jobs = Jobs::new(indexed(2, 2, json!({"backoffLimitPerIndex": 5, "podFailurePolicy": ignore})));
    let text = |number: &str| Some(number.to_owned());
    jobs.settle();
    assert_eq!(told_failures(&jobs), [(0, text("0"), None), (1, text("0"), None)]);
    jobs.end_by(|index, _| if index == 0 { 1 } else { 42 });
    // Each waits by itself, and what failed is counted only when it is replaced.
    assert_eq!(jobs.settle(), Some(Duration::from_secs(10)));
    jobs.check((0, 0, 0), &[]);
    jobs.now += 10;
    jobs.settle();
    assert_eq!(told_failures(&jobs), [(0, text("1"), None), (1, text("0"), text("1"))]);
    jobs.check((2, 0, 1), &[]);
    jobs.end_by(|_, _| 1);
    assert_eq!(jobs.settle(), Some(Duration::from_secs(20)));
    jobs.now += 20;
    jobs.settle();
    assert_eq!(told_failures(&jobs), [(0, text("2"), None), (1, text("1"), text("1"))]);
    jobs.check((2, 0, 3), &[]);
    // Without failures of their own nothing is said.
    let mut jobs = Jobs::new(indexed(1, 1, json!({})));
    jobs.settle();
    assert_eq!(told_failures(&jobs), [(0, None, None)]);
}

#[test]
fn another_index_does_not_wait() {
    let mut jobs = Jobs::new(indexed(3, 1, json!({"backoffLimitPerIndex": 0})));
    jobs.settle();
    jobs.end_by(|_, _| 1);
    jobs.settle();
    assert_eq!(told_failures(&jobs), [(1, Some("0".to_owned()), None)]);
    assert_eq!(jobs.job().status.failed_indexes.as_deref(), Some("0"));
}

/// Pods are deleted: (active, terminating, failed) while they are on their way, and afterwards.
fn check_replaced(more: Value, meanwhile: (i64, i64, i64), afterwards: (i64, i64, i64)) {
    let mut spec = json!({"completions": 1, "parallelism": 1});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let mut jobs = Jobs::new(spec);
    jobs.settle();
    jobs.delete_pods();
    for (stops, expect) in [(0, meanwhile), (1, afterwards)] {
        jobs.settle_stopping(stops);
        jobs.now += 600;
        jobs.settle_stopping(stops);
        let status = jobs.job().status;
        assert_eq!((status.active, status.terminating.unwrap(), status.failed), expect, "{more}");
    }
}

#[test]
fn deleted_pods_are_replaced_at_once_or_when_they_have_ended() {
    let policy = json!({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]});
    check_replaced(json!({}), (1, 1, 1), (1, 0, 1));
    check_replaced(json!({"podReplacementPolicy": "TerminatingOrFailed"}), (1, 1, 1), (1, 0, 1));
    check_replaced(json!({"podReplacementPolicy": "Failed"}), (0, 1, 0), (1, 0, 1));
    check_replaced(json!({"podFailurePolicy": policy}), (0, 1, 0), (1, 0, 1));
    check_replaced(indexed(1, 1, json!({"podReplacementPolicy": "Failed"})), (0, 1, 0), (1, 0, 1));
    check_replaced(indexed(1, 1, json!({"backoffLimitPerIndex": 3})), (1, 1, 1), (1, 0, 1));
}

#[test]
fn what_is_stopped_with_a_failing_job_has_failed() {
    let policy = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]});
    for more in [json!({"backoffLimit": 0}), json!({"podFailurePolicy": policy})] {
        let mut spec = json!({"completions": 3, "parallelism": 3});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut jobs = Jobs::new(spec);
        jobs.settle();
        let first = jobs.world.all::<Pod>(&PODS).remove(0).metadata.name;
        let state = json!([{"name": "c", "state": {"terminated": {"exitCode": 1, "finishedAt": at(0)}}}]);
        jobs.world.patch(&PODS, &first, json!({"status": {"phase": "Failed", "containerStatuses": state}}));
        // It has not failed before the last pod is gone.
        jobs.settle_stopping(0);
        jobs.check((0, 0, 3), &["FailureTarget"]);
        jobs.settle();
        jobs.check((0, 0, 3), &["FailureTarget", "Failed"]);
    }
}

#[test]
fn jobs_of_other_managers_are_left_alone() {
    for (manager, active) in [("example.com/queue", 0), ("kubernetes.io/job-controller", 1)] {
        let mut jobs = Jobs::new(json!({"completions": 1, "managedBy": manager}));
        jobs.settle();
        assert_eq!(jobs.job().status.active, active, "{manager}");
    }
}

/// What a rule makes of a pod whose containers ended so, and which has a condition.
fn check_verdict(rule: Value, expect: Option<&str>) {
    let ended = |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
    let pod: Pod = read(&json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": "Failed",
        "containerStatuses": [ended("good", 0), ended("bad", 3), {"name": "runs", "state": {"running": {}}}],
        "initContainerStatuses": [ended("init", 5)],
        "conditions": [{"type": "Odd", "status": "Unknown"}, {"type": "DisruptionTarget", "status": "True"}]}}))
    .unwrap();
    let mut rule = rule;
    rule["action"] = json!("FailJob");
    let policy: policy::PodFailurePolicy = read(&json!({"rules": [{"action": "Count"}, rule]})).unwrap();
    let told = match policy.judge(&pod) {
        Verdict::FailJob(why) => Some(why),
        _ => None,
    };
    let expect = expect.map(|what| format!("{what} matching FailJob rule at index 1"));
    assert_eq!(told, expect, "{rule}");
}

#[test]
fn rules_fit_exit_codes_and_conditions() {
    let codes = |name: Option<&str>, operator: &str, values: &[i64]| json!({"onExitCodes": {"containerName": name, "operator": operator, "values": values}});
    let condition =
        |kind: &str, status: Value| json!({"onPodConditions": [{"type": kind, "status": status}]});
    let bad = Some("Container bad for pod n/p failed with exit code 3");
    check_verdict(codes(None, "In", &[1, 3]), bad);
    check_verdict(codes(None, "In", &[0, 1]), None);
    check_verdict(codes(None, "NotIn", &[1]), bad);
    check_verdict(codes(None, "NotIn", &[3, 5]), None);
    check_verdict(codes(Some("bad"), "In", &[3]), bad);
    check_verdict(codes(Some("good"), "In", &[3]), None);
    check_verdict(codes(Some("good"), "NotIn", &[3]), None);
    check_verdict(codes(Some("runs"), "NotIn", &[3]), None);
    check_verdict(codes(None, "In", &[5]), Some("Container init for pod n/p failed with exit code 5"));
    check_verdict(codes(None, "", &[5]), None);
    check_verdict(
        condition("DisruptionTarget", json!("True")),
        Some("Pod n/p has condition DisruptionTarget"),
    );
    check_verdict(condition("DisruptionTarget", Value::Null), Some("Pod n/p has condition DisruptionTarget"));
    check_verdict(condition("DisruptionTarget", json!("False")), None);
    check_verdict(condition("Odd", json!("Unknown")), Some("Pod n/p has condition Odd"));
    check_verdict(json!({}), None);
}

#[test]
fn adopted_pods_are_counted_and_released_ones_are_free() {
    let mut jobs = Jobs::new(json!({"completions": 1, "parallelism": 1}));
    let stray = json!({"metadata": {"name": "stray", "labels": {"job": "j"}}, "spec": {}});
    jobs.world.create(&PODS, stray);
    jobs.settle();
    jobs.check((1, 0, 0), &[]);
    let pod = |jobs: &Jobs| read::<Pod>(jobs.world.object(&PODS, "stray").unwrap()).unwrap();
    assert!(pod(&jobs).metadata.has_finalizer(TRACKING) && pod(&jobs).metadata.controller().is_some());
    jobs.world.patch(&PODS, "stray", json!({"metadata": {"labels": {"job": null}}}));
    jobs.settle();
    assert!(!pod(&jobs).metadata.has_finalizer(TRACKING) && pod(&jobs).metadata.controller().is_none());
    jobs.end("Succeeded", 2);
    jobs.settle();
    jobs.check((0, 1, 0), &["SuccessCriteriaMet", "Complete"]);
}

/// Whether an orphan is let go when there is such a Job.
fn check_orphan(job: Value, pod: Value, expect: bool) {
    let mut orphan = json!({"metadata": {"name": "p", "labels": {"job": "j"}, "finalizers": [TRACKING]}});
    for (key, value) in pod.as_object().unwrap() {
        orphan[key] = value.clone();
    }
    let (job, orphan): (Job, Pod) = (read(&job).unwrap(), read(&orphan).unwrap());
    assert_eq!(!orphaned(&orphan, &[&job]).actions.is_empty(), expect, "{job:?} {orphan:?}");
}

#[test]
fn orphans_are_let_go_unless_they_are_adopted() {
    let job = |label: &str, status: Value, deleted: Value| {
        json!({"metadata": {"name": "j", "deletionTimestamp": deleted},
            "spec": {"selector": {"matchLabels": {"job": label}}}, "status": status})
    };
    let over = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": at(0)}]});
    let owner = json!([{"kind": "ReplicaSet", "uid": "u", "controller": true}]);
    check_orphan(job("j", json!({}), Value::Null), json!({}), false);
    check_orphan(job("other", json!({}), Value::Null), json!({}), true);
    check_orphan(job("j", over, Value::Null), json!({}), true);
    check_orphan(job("j", json!({}), json!(at(0))), json!({}), true);
    check_orphan(job("j", json!({}), Value::Null), json!({"status": {"phase": "Failed"}}), true);
    let managed = json!({"metadata": {"name": "p", "finalizers": [TRACKING], "ownerReferences": owner}});
    check_orphan(job("other", json!({}), Value::Null), managed, false);
}

/// A pod is being deleted before it ran, of a Job that waits for the end of its pods: whether it counts.
fn check_never_ran(node: &str, grace: i64, expect: bool) {
    let mut jobs = Jobs::new(json!({"completions": 1, "podReplacementPolicy": "Failed"}));
    let labels = json!({"job": "j"});
    let owner = jobs.job().metadata.controller_ref("batch/v1", "Job");
    let pod = json!({"metadata": {"name": "p", "labels": labels, "finalizers": [TRACKING], "ownerReferences": [owner],
        "deletionTimestamp": at(0), "deletionGracePeriodSeconds": grace},
        "spec": {"nodeName": node}, "status": {"phase": "Pending"}});
    jobs.world.create(&PODS, pod);
    jobs.settle_stopping(0);
    assert_eq!(jobs.job().status.failed, i64::from(expect), "{node:?} {grace}");
}

#[test]
fn pods_that_never_ran_are_not_waited_for() {
    check_never_ran("", 30, true);
    check_never_ran("n", 0, true);
    check_never_ran("n", 30, false);
}
