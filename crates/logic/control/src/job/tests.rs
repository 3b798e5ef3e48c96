use serde_json::json;

use super::*;
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
        for _ in 0..30 {
            self.world.object(&JOBS, "j")?;
            let (job, pods) = (self.job(), self.world.all::<Pod>(&PODS));
            let pods: Vec<&Pod> = pods.iter().collect();
            let step = step(&View { job: &job, pods: &pods }, at(self.now));
            let wait = step.requeue_after;
            let wrote = self.world.apply(step);
            if !(self.world.run_node(usize::MAX, usize::MAX) | wrote) {
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
