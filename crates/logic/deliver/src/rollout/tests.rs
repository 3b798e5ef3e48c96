use std::collections::BTreeMap;

use serde_json::{Value, json};
use wharf_control::read;

use super::*;
use crate::{analysis::Phase, sequential::Finding};

/// One Rollout, its ReplicaSets, Services and AnalysisRuns; pods are ready at once unless their image is broken.
struct World {
    objects: BTreeMap<(String, String), Value>,
    serial: u64,
    second: i64,
    verdict: Option<Verdict>,
    events: Vec<String>,
}

fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match value {
                    Value::Null => drop(target.remove(key)),
                    value => merge(target.entry(key.clone()).or_insert(json!({})), value),
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

impl World {
    fn new(strategy: Value) -> Self {
        let mut world = Self::empty();
        world.make(strategy);
        world
    }

    fn empty() -> Self {
        let mut world =
            Self { objects: BTreeMap::new(), serial: 0, second: 0, verdict: None, events: Vec::new() };
        for service in ["stable", "canary", "active", "preview"] {
            world.put(
                "services",
                json!({"metadata": {"name": service}, "spec": {"selector": {"app": "web"}}}),
            );
        }
        world
    }

    fn make(&mut self, strategy: Value) {
        self.put(
            "rollouts",
            json!({"metadata": {"name": "web", "annotations": {}},
                "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": template("v1"),
                    "strategy": strategy}, "status": {}}),
        );
        self.settle();
    }

    fn put(&mut self, resource: &str, mut object: Value) {
        self.serial += 1;
        let name = object["metadata"]["name"].as_str().expect("name").to_owned();
        let metadata = json!({"namespace": "ns", "uid": format!("uid-{name}"), "generation": 1,
            "resourceVersion": self.serial.to_string(), "creationTimestamp": self.now()});
        merge(&mut object["metadata"], &metadata);
        let fresh = self.objects.insert((resource.to_owned(), name.clone()), object).is_none();
        assert!(fresh, "{name} exists");
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix(1_700_000_000 + self.second, 0)
    }

    fn object(&mut self, resource: &str, name: &str) -> &mut Value {
        self.objects.get_mut(&(resource.to_owned(), name.to_owned())).expect(name)
    }

    fn all<T: serde::de::DeserializeOwned>(&self, resource: &str) -> Vec<T> {
        let of = self.objects.iter().filter(|((r, _), _)| r == resource);
        of.map(|(_, object)| read(object).expect("reads")).collect()
    }

    fn rollout(&self) -> Rollout {
        self.all::<Rollout>("rollouts").into_iter().find(|r| r.metadata.name == "web").expect("web")
    }

    fn patch(&mut self, resource: &str, name: &str, body: &Value) {
        self.serial += 1;
        let serial = self.serial;
        let object = self.object(resource, name);
        let before = object["spec"].clone();
        merge(object, body);
        if object["spec"] != before {
            object["metadata"]["generation"] =
                json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        object["metadata"]["resourceVersion"] = json!(serial.to_string());
    }

    /// One decision and its writes; whether there were any.
    fn decide(&mut self) -> bool {
        let rollout = self.rollout();
        let rollouts: Vec<Rollout> = self.all("rollouts");
        let (sets, runs): (Vec<ReplicaSet>, Vec<AnalysisRun>) =
            (self.all("replicasets"), self.all("analysisruns"));
        let templates = [(
            "t".to_owned(),
            read(&json!({"args": [{"name": "hash"}], "metrics": [{"name": "m",
                "provider": {"prometheus": {"query": "x{{args.hash}}"}}}]}))
            .expect("template"),
        )]
        .into();
        let services: Vec<Value> = self.all("services");
        let services = services
            .iter()
            .map(|s| {
                let name = s["metadata"]["name"].as_str().expect("name").to_owned();
                (name, read(&s["spec"]["selector"]).expect("selector"))
            })
            .collect();
        let step = step(
            &View {
                rollout: &rollout,
                rollouts: &rollouts.iter().collect::<Vec<_>>(),
                replica_sets: &sets.iter().collect::<Vec<_>>(),
                analysis_runs: &runs.iter().collect::<Vec<_>>(),
                templates: &templates,
                services: &services,
                verdict: self.verdict.as_ref(),
                failure: None,
            },
            self.now(),
        );
        let mut wrote = false;
        for action in step.actions {
            wrote |= !matches!(action, Action::Event(_));
            match action {
                Action::Create { resource, object, .. } => self.put(&resource.resource, object),
                Action::Delete { resource, name, .. } => {
                    self.objects.remove(&(resource.resource.to_string(), name));
                }
                Action::Patch { resource, name, mut body, .. } => {
                    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                        metadata.remove("uid");
                        metadata.remove("resourceVersion");
                    }
                    self.patch(&resource.resource, &name, &body);
                }
                Action::UpdateStatus { resource, name, patch, .. } => {
                    self.patch(&resource.resource, &name, &json!({"status": patch["status"]}));
                }
                Action::Event(event) => self.events.push(format!("{}: {}", event.reason, event.message)),
                other => panic!("not known here: {other:?}"),
            }
        }
        wrote
    }

    /// Pods come and go at once.
    fn run_pods(&mut self) {
        for ((resource, _), set) in &mut self.objects {
            if resource == "replicasets" {
                let n = set["spec"]["replicas"].as_i64().unwrap_or(0);
                let broken = set.pointer("/spec/template/spec/containers/0/image") == Some(&json!("broken"));
                let ready = if broken { 0 } else { n };
                set["status"] = json!({"replicas": n, "readyReplicas": ready, "availableReplicas": ready,
                    "observedGeneration": set["metadata"]["generation"]});
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            let wrote = self.decide();
            self.run_pods();
            if !wrote {
                // What the pods did may matter.
                if !self.decide() {
                    return;
                }
            }
        }
        panic!("does not settle: {:?}", self.rollout().status);
    }

    fn wait(&mut self, seconds: i64) {
        self.second += seconds;
        self.settle();
    }

    fn deploy(&mut self, image: &str) {
        let body = json!({"spec": {"template": template(image)}});
        self.patch("rollouts", "web", &body);
        self.settle();
    }

    fn end_analysis(&mut self, phase: Phase) {
        let running: Vec<AnalysisRun> = self.all("analysisruns");
        let run = running.iter().find(|r| !r.status.phase.ended()).expect("a run");
        let name = run.metadata.name.clone();
        self.patch("analysisruns", &name, &json!({"status": {"phase": phase, "message": "said so"}}));
        self.settle();
    }

    /// Sizes by image, biggest first.
    fn sizes(&self) -> Vec<(String, i64)> {
        let sets: Vec<ReplicaSet> = self.all("replicasets");
        let image = |s: &ReplicaSet| {
            s.spec
                .template
                .pointer("/spec/containers/0/image")
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned()
        };
        let mut sizes: Vec<_> =
            sets.iter().map(|s| (image(s), s.replicas())).filter(|(_, n)| *n > 0).collect();
        sizes.sort();
        sizes
    }

    /// The canary's weight.
    fn weight(&self) -> i64 {
        self.rollout().status.canary.weights.map_or(-1, |w| w.canary.weight)
    }

    /// The image of the version a Service selects.
    fn behind(&self, service: &str) -> String {
        let services: Vec<Value> = self.all("services");
        let service = services.iter().find(|s| s["metadata"]["name"] == service).expect("service");
        let hash = service["spec"]["selector"][HASH_LABEL].as_str().unwrap_or("").to_owned();
        let sets: Vec<ReplicaSet> = self.all("replicasets");
        let set = sets.iter().find(|s| s.metadata.labels.get(HASH_LABEL) == Some(&hash));
        set.and_then(|s| s.spec.template.pointer("/spec/containers/0/image"))
            .and_then(Value::as_str)
            .unwrap_or("")
            .to_owned()
    }

    fn phase(&self) -> String {
        self.rollout().status.phase
    }
}

fn two(a: (&str, i64), b: (&str, i64)) -> Vec<(String, i64)> {
    vec![(a.0.to_owned(), a.1), (b.0.to_owned(), b.1)]
}

fn canary(steps: Value) -> Value {
    json!({"canary": {"stableService": "stable", "canaryService": "canary", "steps": steps}})
}

fn steps() -> Value {
    json!([{"setWeight": 1}, {"pause": {"duration": "10s"}}, {"setWeight": 50}, {"pause": {}}, {"setWeight": 100}])
}

#[test]
fn a_good_version_comes_in_step_by_step() {
    let mut world = World::new(canary(steps()));
    assert_eq!((world.phase().as_str(), world.sizes()), ("Healthy", vec![("v1".to_owned(), 4)]));
    world.deploy("v2");
    assert_eq!((world.phase().as_str(), world.weight()), ("Paused", 1));
    assert_eq!(world.sizes(), two(("v1", 4), ("v2", 1)));
    assert_eq!((world.behind("canary").as_str(), world.behind("stable").as_str()), ("v2", "v1"));
    world.wait(5);
    assert_eq!(world.weight(), 1);
    world.wait(6);
    assert_eq!((world.phase().as_str(), world.weight()), ("Paused", 50));
    assert_eq!(world.sizes(), two(("v1", 4), ("v2", 2)));
    world.wait(1000);
    assert_eq!(world.weight(), 50, "without a duration it waits for somebody");
    world.patch("rollouts", "web", &json!({"status": {"pauseConditions": null}}));
    world.settle();
    assert_eq!((world.phase().as_str(), world.weight()), ("Healthy", 0));
    assert_eq!(world.sizes(), two(("v1", 4), ("v2", 4)), "the old version stays for a while");
    let weights = world.rollout().status.canary.weights.expect("weights");
    assert_eq!(
        (weights.stable.weight, &weights.stable.pod_template_hash),
        (100, &world.rollout().status.stable_rs)
    );
    assert_eq!((world.behind("canary").as_str(), world.behind("stable").as_str()), ("v2", "v2"));
    world.wait(31);
    assert_eq!(world.sizes(), vec![("v2".to_owned(), 4)]);
}

#[test]
fn a_worse_version_is_taken_back_at_once_and_can_be_retried() {
    let mut world = World::new(canary(steps()));
    world.deploy("v2");
    world.verdict = Some(Verdict::Worse(Finding {
        threshold: None,
        evidence: 300.0,
        canary_rate: 0.25,
        stable_rate: 0.0,
        requests: 40.0,
    }));
    world.settle();
    let status = world.rollout().status;
    assert_eq!((status.phase.as_str(), world.weight()), ("Degraded", 0));
    assert_eq!(
        status.message,
        "RolloutAborted: 25.0 % of its requests fail, 0.0 % of the old version's (40 requests, evidence 300 to 1)"
    );
    assert_eq!(world.behind("canary"), "v1");
    assert_eq!(world.sizes(), two(("v1", 4), ("v2", 1)));
    world.wait(31);
    assert_eq!(world.sizes(), vec![("v1".to_owned(), 4)]);
    world.verdict = None;
    world.patch("rollouts", "web", &json!({"status": {"abort": false}}));
    world.settle();
    assert_eq!((world.phase().as_str(), world.weight()), ("Paused", 1));
}

#[test]
fn the_old_template_goes_back_without_steps() {
    let mut world = World::new(canary(steps()));
    world.deploy("v2");
    world.deploy("v1");
    assert_eq!((world.phase().as_str(), world.weight()), ("Healthy", 0));
    assert_eq!(world.sizes(), vec![("v1".to_owned(), 4)]);
    assert_eq!(world.behind("canary"), "v1");
}

#[test]
fn analysis_decides() {
    let analysis = json!({"templates": [{"templateName": "t"}],
        "args": [{"name": "hash", "valueFrom": {"podTemplateHashValue": "Latest"}}]});
    let strategy =
        canary(json!([{"setWeight": 10}, {"analysis": analysis}, {"setWeight": 60}, {"pause": {}}]));
    for (phase, expect) in [
        (Phase::Successful, ("Paused", 60)),
        (Phase::Failed, ("Degraded", 0)),
        (Phase::Error, ("Degraded", 0)),
        (Phase::Inconclusive, ("Paused", 10)),
    ] {
        let mut world = World::new(strategy.clone());
        world.deploy("v2");
        let run: AnalysisRun = world.all("analysisruns").remove(0);
        let hash = world.rollout().status.current_pod_hash;
        let query = &run.spec.metrics[0].provider.prometheus.as_ref().expect("query").query;
        assert_eq!(*query, format!("x{hash}"));
        assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", 10));
        world.end_analysis(phase);
        assert_eq!((world.phase().as_str(), world.weight()), expect, "{phase:?}");
    }
}

#[test]
fn analysis_beside_the_steps_takes_back() {
    let mut strategy =
        canary(json!([{"setWeight": 10}, {"pause": {"duration": 5}}, {"setWeight": 60}, {"pause": {}}]));
    strategy["canary"]["analysis"] = json!({"startingStep": 2, "templates": [{"templateName": "t"}],
        "args": [{"name": "hash", "value": "h"}]});
    let mut world = World::new(strategy);
    world.deploy("v2");
    assert!(world.all::<AnalysisRun>("analysisruns").is_empty());
    world.wait(6);
    assert_eq!(world.weight(), 60);
    world.end_analysis(Phase::Failed);
    assert_eq!((world.phase().as_str(), world.weight()), ("Degraded", 0));
}

#[test]
fn a_version_that_never_comes_up_is_taken_back_when_asked() {
    let mut world = World::new(canary(steps()));
    world.patch(
        "rollouts",
        "web",
        &json!({"spec": {"progressDeadlineSeconds": 60, "progressDeadlineAbort": true}}),
    );
    world.deploy("broken");
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", 0));
    world.wait(61);
    assert_eq!((world.phase().as_str(), world.weight()), ("Degraded", 0));
    assert!(world.rollout().status.message.contains("no progress for 60 seconds"));
}

#[test]
fn promote_full_skips_everything() {
    let mut world = World::new(canary(steps()));
    world.deploy("v2");
    world.patch("rollouts", "web", &json!({"status": {"promoteFull": true}}));
    world.settle();
    assert_eq!((world.phase().as_str(), world.rollout().status.promote_full), ("Healthy", false));
    assert_eq!(world.behind("stable"), "v2");
}

#[test]
fn blue_green_switches_when_promoted_and_goes_back_when_aborted() {
    let strategy = json!({"blueGreen": {"activeService": "active", "previewService": "preview",
        "autoPromotionEnabled": false, "previewReplicaCount": 1}});
    let mut world = World::new(strategy);
    assert_eq!(world.behind("active"), "v1");
    world.deploy("v2");
    assert_eq!((world.phase().as_str(), world.sizes()), ("Paused", two(("v1", 4), ("v2", 1))));
    assert_eq!((world.behind("active").as_str(), world.behind("preview").as_str()), ("v1", "v2"));
    world.patch("rollouts", "web", &json!({"status": {"pauseConditions": null}}));
    world.settle();
    assert_eq!((world.phase().as_str(), world.behind("active").as_str()), ("Healthy", "v2"));
    world.wait(31);
    assert_eq!(world.sizes(), vec![("v2".to_owned(), 4)]);
    world.deploy("v3");
    world.patch("rollouts", "web", &json!({"status": {"abort": true}}));
    world.settle();
    assert_eq!((world.phase().as_str(), world.behind("preview").as_str()), ("Degraded", "v2"));
}

#[test]
fn blue_green_goes_back_when_the_analysis_after_the_switch_fails() {
    let strategy = json!({"blueGreen": {"activeService": "active",
        "postPromotionAnalysis": {"templates": [{"templateName": "t"}], "args": [{"name": "hash", "value": "h"}]}}});
    let mut world = World::new(strategy);
    world.deploy("v2");
    assert_eq!((world.phase().as_str(), world.behind("active").as_str()), ("Progressing", "v2"));
    world.end_analysis(Phase::Failed);
    assert_eq!((world.phase().as_str(), world.behind("active").as_str()), ("Degraded", "v1"));
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let check = |change: Value, expect: &str| {
        let mut spec = json!({"selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}}, "strategy": {"canary": {}}});
        merge(&mut spec, &change);
        let rollout: Rollout = read(&json!({"spec": spec})).unwrap();
        assert_eq!(rollout.problem().unwrap_or_default(), expect, "{change}");
    };
    let canary = |canary: Value| json!({"strategy": {"canary": canary}});
    check(json!({}), "");
    check(
        json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
        "spec.progressDeadlineSeconds 5 must be greater than spec.minReadySeconds 5",
    );
    check(
        canary(json!({"canaryService": "a", "stableService": "a"})),
        "spec.strategy.canary: canaryService and stableService must differ",
    );
    check(
        canary(json!({"steps": [{"setWeight": 1, "pause": {}}]})),
        "spec.strategy.canary.steps[0]: exactly one of setWeight, pause, analysis, setCanaryScale is required",
    );
    check(canary(json!({"steps": [{"setWeight": 1, "replicaProgressThreshold": {"value": 1}}]})), "");
    check(canary(json!({"antiAffinity": {}, "dynamicStableScale": true})), "");
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let mut world = World::new(canary(json!([{"setWeight": 1}, {"experiment": {}}])));
    let status = world.rollout().status;
    assert_eq!(status.phase, "Degraded");
    assert_eq!(
        status.message,
        "InvalidSpec: spec.strategy.canary.steps[1]: the step \"experiment\" is not supported"
    );
    world.patch("rollouts", "web", &json!({"spec": {"strategy": canary(json!([]))}}));
    world.settle();
    assert_eq!(world.phase(), "Healthy");
    let mut missing = World::new(json!({"blueGreen": {"activeService": "nowhere"}}));
    assert!(missing.rollout().status.message.contains("there is no Service \"nowhere\""));
    missing.put("services", json!({"metadata": {"name": "nowhere"}, "spec": {"selector": {"app": "web"}}}));
    missing.settle();
    assert_eq!(missing.phase(), "Healthy");
}

#[test]
fn a_service_of_an_earlier_rollout_is_left_alone() {
    let other = |name: &str, strategy: Value| json!({"metadata": {"name": name}, "spec": {"strategy": strategy}, "status": {}});
    for strategy in [
        json!({"blueGreen": {"activeService": "active", "previewService": "preview"}}),
        json!({"canary": {"stableService": "preview", "canaryService": "canary", "steps": []}}),
    ] {
        let mut world = World::empty();
        world.put("rollouts", other("a", strategy));
        world.put("rollouts", other("z", json!({"blueGreen": {"activeService": "stable"}})));
        // Of the same second: the name decides.
        world.make(json!({"blueGreen": {"activeService": "stable", "previewService": "preview"}}));
        let status = world.rollout().status;
        assert_eq!(
            (status.phase.as_str(), status.message.as_str()),
            ("Degraded", "InvalidSpec: spec.strategy: Service \"preview\" is managed by Rollout \"a\"")
        );
        assert!(condition::holds(&status.conditions, "InvalidSpec"));
        assert_eq!((world.behind("stable"), world.behind("preview")), (String::new(), String::new()));
        world.objects.remove(&("rollouts".to_owned(), "a".to_owned()));
        world.settle();
        assert_eq!((world.phase().as_str(), world.behind("stable").as_str()), ("Healthy", "v1"));
    }
}

#[test]
fn a_service_must_select_the_pods() {
    let mut world = World::empty();
    world.put("services", json!({"metadata": {"name": "wrong"}, "spec": {"selector": {"app": "api"}}}));
    world.make(json!({"blueGreen": {"activeService": "wrong"}}));
    assert_eq!(
        world.rollout().status.message,
        "InvalidSpec: spec.strategy: Service \"wrong\" has the selector app=api, which does not match the pods' labels"
    );
    // What a Rollout before it left in the selector does not count.
    let mended = json!({"spec": {"selector": {"app": "web", HASH_LABEL: "old"}}});
    world.patch("services", "wrong", &mended);
    world.settle();
    assert_eq!((world.phase().as_str(), world.behind("wrong").as_str()), ("Healthy", "v1"));
}

#[test]
fn a_template_taken_from_a_replica_set_is_that_version() {
    let mut world = World::new(json!({"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}}));
    let first: Vec<ReplicaSet> = world.all("replicasets");
    let first = first[0].metadata.clone();
    // As the API stores it: with defaults.
    let filled = json!({"spec": {"template": {"spec": {"restartPolicy": "Always", "securityContext": {}}}}});
    world.patch("replicasets", &first.name, &filled);
    world.deploy("v2");
    let mut template = world.object("replicasets", &first.name)["spec"]["template"].clone();
    merge(&mut template, &json!({"metadata": {"labels": {HASH_LABEL: null}}}));
    template["metadata"]["creationTimestamp"] = Value::Null;
    world.object("rollouts", "web")["spec"]["template"] = template;
    world.settle();
    assert_eq!(world.rollout().status.current_pod_hash, first.labels[HASH_LABEL]);
    assert_eq!(world.all::<ReplicaSet>("replicasets").len(), 2);
    assert_eq!((world.phase().as_str(), world.sizes()), ("Healthy", vec![("v1".to_owned(), 4)]));
}

#[test]
fn a_skipped_step_leaves_its_analysis_behind() {
    let analysis =
        json!({"analysis": {"templates": [{"templateName": "t"}], "args": [{"name": "hash", "value": "h"}]}});
    let mut world = World::new(json!({"canary": {"steps": [analysis, analysis, {"pause": {}}]}}));
    world.deploy("v2");
    assert_eq!(world.rollout().status.current_step_index, Some(0));
    let skip = json!({"status": {"currentStepIndex": 1, "pauseConditions": null}});
    world.patch("rollouts", "web", &skip);
    world.settle();
    let runs: Vec<AnalysisRun> = world.all("analysisruns");
    assert_eq!(runs.iter().map(|run| run.spec.terminate).collect::<Vec<_>>(), [true, false]);
    let current = world.rollout().status.canary.current_step_analysis_run_status;
    assert_eq!(current.map(|run| run.name), Some(runs[1].metadata.name.clone()));
}
