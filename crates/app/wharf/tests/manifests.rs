//! What is said of manifests: mistakes are refused by name, what nothing acts on is told of, versions are converted.

#![allow(clippy::unwrap_used)] // a test

mod support;

use serde_json::json;
use support::{Kubectl, Platform, lossy, until};

const VERSIONS: [&str; 5] = ["1.27", "1.29", "1.31", "1.33", "1.37"];

/// What kubectl prints of a document that is refused.
fn refused(kubectl: &Kubectl, args: &[&str], document: &str) -> String {
    let output = kubectl.end(&[args, &["-f", "-"]].concat(), document);
    assert!(!output.status.success(), "{args:?} took {document}: {}", lossy(&output.stdout));
    lossy(&output.stderr)
}

/// What kubectl warns of in a document that is taken.
fn warned(kubectl: &Kubectl, args: &[&str], document: &str) -> String {
    let output = kubectl.end(&[args, &["-f", "-"]].concat(), document);
    assert!(output.status.success(), "{args:?} refused {document}: {}", lossy(&output.stderr));
    lossy(&output.stderr)
}

fn contains(text: &str, all: &[&str]) {
    for part in all {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

const ROLLOUT: &str = "
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: web}]}}
  strategy: {canary: {trafficRouting: {nginx: {stableIngress: web}}, steps: [{setWeight: 5}]}}
";

fn rollouts(kubectl: &Kubectl) {
    let told = "Warning: spec.strategy.canary.trafficRouting is kept and not acted on: wharf's router splits traffic itself";
    for args in
        [&["apply", "--dry-run=server"][..], &["create", "--dry-run=server"], &["apply", "--server-side"]]
    {
        contains(&warned(kubectl, args, ROLLOUT), &[told]);
    }
    let kept = kubectl.get(&["rollout", "web"]);
    assert_eq!(kept["spec"]["strategy"]["canary"]["trafficRouting"]["nginx"]["stableIngress"], "web");
    kubectl.run(&["delete", "rollout", "web", "--wait"]);
    let misspelt = ROLLOUT.replace("setWeight", "setWeigth");
    let unknown = "spec.strategy.canary.steps[0].setWeigth";
    for args in [&["create"][..], &["apply"]] {
        contains(&refused(kubectl, args, &misspelt), &["unknown field", unknown]);
    }
    let told = format!(".{unknown}: field not declared in schema");
    contains(&refused(kubectl, &["apply", "--server-side"], &misspelt), &[&told]);
    contains(
        &warned(kubectl, &["create", "--validate=warn", "--dry-run=server"], &misspelt),
        &["Warning", unknown],
    );
    let wrong = ROLLOUT.replace("setWeight: 5", "setWeight: five");
    for args in [&["create"][..], &["apply"], &["apply", "--server-side"]] {
        contains(
            &refused(kubectl, args, &wrong),
            &[
                r#"The Rollout "web" is invalid: spec.strategy.canary.steps[0].setWeight: Invalid value: "string""#,
            ],
        );
    }
}

fn scaled_objects(kubectl: &Kubectl) {
    let object = |trigger: serde_json::Value| {
        json!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "so", "namespace": "default"},
            "spec": {"scaleTargetRef": {"name": "web"}, "triggers": [trigger]}})
        .to_string()
    };
    let typo = object(json!({"type": "corn", "metadata": {}}));
    contains(&refused(kubectl, &["apply"], &typo), &[r#"spec.triggers[0].type: Unsupported value: "corn""#]);
    for (trigger, why) in [
        (
            json!({"type": "cron", "metadata": {"timezone": "UTC", "start": "0 8 * * *", "end": "8 o'clock",
            "desiredReplicas": "2"}}),
            "is no cron schedule",
        ),
        (json!({"type": "prometheus", "metadata": {"query": "up"}}), "metadata.threshold is required"),
        (json!({"type": "kafka", "metadata": {"topic": "t"}}), "the trigger type \"kafka\" is not supported"),
    ] {
        warned(kubectl, &["apply"], &object(trigger));
        until("the condition Ready", || {
            let object = kubectl.get(&["scaledobject", "so"]);
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
            let told =
                ready["status"] == "False" && ready["message"].as_str().unwrap_or_default().contains(why);
            if told { Ok(()) } else { Err(object["status"].to_string()) }
        });
        kubectl.list_until("one Event", &["events"], |events| {
            let about = |e: &&serde_json::Value| e["message"].as_str().unwrap_or_default().contains(why);
            events.iter().filter(about).map(|e| e["count"].clone()).eq([json!(1)])
        });
    }
    kubectl.run(&["delete", "scaledobject", "so"]);
}

fn autoscalers_of_both_versions(kubectl: &Kubectl) {
    kubectl.run(&["create", "deployment", "auto", "--image=web", "--replicas=1"]);
    kubectl.run(&["autoscale", "deployment", "auto", "--min=1", "--max=3", "--cpu-percent=50"]);
    let new = kubectl.get(&["hpa", "auto"]);
    assert_eq!(new["apiVersion"], "autoscaling/v2");
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let old = kubectl.get(&["horizontalpodautoscalers.v1.autoscaling", "auto"]);
    assert_eq!(
        (&old["apiVersion"], &old["spec"]["targetCPUUtilizationPercentage"]),
        (&json!("autoscaling/v1"), &json!(50))
    );
    kubectl.run(&[
        "patch",
        "horizontalpodautoscalers.v1.autoscaling",
        "auto",
        "--type=merge",
        "-p",
        r#"{"spec": {"targetCPUUtilizationPercentage": 70}}"#,
    ]);
    let new = kubectl.get(&["hpa", "auto"]);
    assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 70);
    contains(
        &kubectl.run(&["explain", "hpa.spec", "--api-version=autoscaling/v1"]),
        &["targetCPUUtilizationPercentage"],
    );
    contains(&kubectl.run(&["get", "horizontalpodautoscalers.v1.autoscaling"]), &["Deployment/auto", "70%"]);
    kubectl.run(&["delete", "hpa,deployment", "auto"]);
}

fn fields_without_effect(kubectl: &Kubectl) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers":
        [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    for (object, told) in [
        (service, r#"Warning: spec.type "LoadBalancer""#),
        (pod, "Warning: spec.containers[0].ports[0].hostPort"),
    ] {
        contains(&warned(kubectl, &["apply", "--dry-run=server"], &object.to_string()), &[told]);
    }
}

fn wrong_types_of_built_in_kinds(kubectl: &Kubectl) {
    let object = |spec: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}).to_string()
    };
    let wrong = object(json!({"containers": [{"name": "c", "image": "i", "tty": "yes"}]}));
    let go =
        "json: cannot unmarshal string into Go struct field Container.spec.containers[0].tty of type bool";
    contains(&refused(kubectl, &["apply"], &wrong), &[go]);
    let typed = "failed to create typed patch object (default/p; v1, Kind=Pod): .spec.containers[0].tty: expected boolean, got string";
    contains(&refused(kubectl, &["apply", "--server-side"], &wrong), &[typed]);
    let amount =
        object(json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1x"}}}]}));
    for args in [&["apply"][..], &["apply", "--server-side"]] {
        let at = "spec.containers[0].resources.limits.cpu: quantities must match the regular expression";
        contains(&refused(kubectl, args, &amount), &[at]);
    }
}

/// What only defaults make equal is no change, whoever applies it.
fn the_same_again_changes_nothing(kubectl: &Kubectl) {
    let deployment = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "same"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "same"}}, "template": {"metadata": {"labels": {"app": "same"}},
        "spec": {"containers": [{"name": "c", "image": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}}}"#;
    kubectl.apply(deployment);
    let settled = || {
        until("its controller has seen it", || {
            let object = kubectl.get(&["deployment", "same"]);
            let revision = &object["metadata"]["annotations"]["deployment.kubernetes.io/revision"];
            let seen = object["status"]["observedGeneration"] == object["metadata"]["generation"];
            if seen && revision == "1" { Ok(object) } else { Err(object.to_string()) }
        })
    };
    let before = settled();
    assert_eq!(before["metadata"]["generation"], 1);
    kubectl.apply(deployment);
    assert_eq!(settled()["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    let flags = &["apply", "--server-side", "--force-conflicts", "-f", "-"];
    assert!(kubectl.end(flags, deployment).status.success());
    assert_eq!(settled()["metadata"]["generation"], 1);
    kubectl.run(&["delete", "deployment", "same"]);
}

fn broken_definitions(kubectl: &Kubectl) {
    let definition = |size: serde_json::Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "carts.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "carts", "singular": "cart", "kind": "Cart", "listKind": "CartList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                    {"type": "object", "properties": {"size": size}}}}]}})
        .to_string()
    };
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[size]";
    for (size, wrong) in [
        (json!({"type": "foo"}), ".type: Unsupported value: \"foo\""),
        (json!({}), ".type: Required value: must not be empty for specified object fields"),
        (json!({"type": "string", "pattern": "["}), ".pattern: Invalid value: \"[\""),
    ] {
        contains(&refused(kubectl, &["apply"], &definition(size)), &[&format!("{at}{wrong}")]);
    }
}

#[test]
fn manifests_are_taken_at_their_word_or_not_at_all() {
    let platform = Platform::control_plane();
    for version in VERSIONS {
        let kubectl = platform.kubectl_of(version);
        rollouts(&kubectl);
        autoscalers_of_both_versions(&kubectl);
        fields_without_effect(&kubectl);
        wrong_types_of_built_in_kinds(&kubectl);
        broken_definitions(&kubectl);
        the_same_again_changes_nothing(&kubectl);
    }
    scaled_objects(&platform.kubectl());
}
