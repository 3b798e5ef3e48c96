//! The platform's own kinds, as CustomResourceDefinitions applied at every start.

use anyhow::{Context, Result};
use wharf_client::{Client, Gvr};

const CUSTOM_RESOURCE_DEFINITIONS: Gvr =
    Gvr::fixed("apiextensions.k8s.io", "v1", "customresourcedefinitions");

/// The files under `crds/`.
const FILES: [(&str, &str); 3] = [
    ("ci.yaml", include_str!("../crds/ci.yaml")),
    ("rollouts.yaml", include_str!("../crds/rollouts.yaml")),
    ("scalers.yaml", include_str!("../crds/scalers.yaml")),
];

/// Applies all of them.
pub(crate) async fn install(client: &Client) -> Result<()> {
    for (name, text) in FILES {
        for document in documents(text).with_context(|| name.to_owned())? {
            client
                .apply(&CUSTOM_RESOURCE_DEFINITIONS, "wharf", &document)
                .await
                .with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}

/// The definitions of a file, with the schemas of the built-in types they name.
fn documents(text: &str) -> Result<Vec<serde_json::Value>> {
    let mut documents = wharf_api::codec::yaml_to_values(text)?;
    for document in &mut documents {
        wharf_api::crd::inline_builtin(document)
            .map_err(|name| anyhow::anyhow!("there is no built-in type {name:?}"))?;
    }
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn all() -> Vec<Value> {
        FILES.iter().flat_map(|(_, text)| documents(text).expect("definitions")).collect()
    }

    /// What strict decoding and the schema say of an object.
    fn check(text: &str, expect: &[&str]) {
        let [object] = &wharf_api::codec::yaml_to_values(text).expect("YAML")[..] else {
            panic!("one document")
        };
        let all = all();
        let mut resources = all.iter().flat_map(wharf_api::crd::resources);
        let resource = resources.find(|r| r.gvk.kind == object["kind"].as_str().unwrap_or_default());
        let resource = resource.expect("a kind");
        let decoded = wharf_api::codec::decode_value(object.clone(), &resource.ty).expect("an object");
        let schema = &resource.custom.as_ref().expect("a custom resource").schema;
        let causes = wharf_api::crd::validate(&decoded.object, None, schema);
        let causes = causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message));
        assert_eq!(decoded.strict.into_iter().chain(causes).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn the_kind_a_scaled_object_scales_is_shown_when_left_out() {
        let all = all();
        let found = all.iter().find(|d| d["spec"]["names"]["kind"] == "ScaledObject").expect("it is there");
        let version = &found["spec"]["versions"][0];
        assert_eq!(version["additionalPrinterColumns"][0]["jsonPath"], ".spec.scaleTargetRef.kind");
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
        assert_eq!(spec["scaleTargetRef"]["properties"]["kind"]["default"], "Deployment");
    }

    #[test]
    fn they_are_valid() {
        for mut definition in all() {
            wharf_api::defaults::apply(
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                &mut definition,
            );
            let errors = wharf_api::validate::create(
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                &definition,
            );
            assert!(errors.is_empty(), "{}: {errors:?}", definition["metadata"]["name"]);
        }
    }

    /// A list folded in the middle of a word has a space in it.
    #[test]
    fn no_value_of_an_enum_has_a_space() {
        fn look(value: &Value) {
            for allowed in value["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(!allowed.contains(char::is_whitespace), "{allowed:?}");
            }
            match value {
                Value::Object(fields) => fields.values().for_each(look),
                Value::Array(items) => items.iter().for_each(look),
                _ => {}
            }
        }
        all().iter().for_each(look);
    }

    #[test]
    fn what_argo_rollouts_knows_is_accepted() {
        check(include_str!("../../../../../examples/shop/deploy/production/30-rollout.yaml"), &[]);
        check(
            "
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: web}
spec:
  replicas: 5
  restartAt: '2026-01-02T03:04:05Z'
  rollbackWindow: {revisions: 3}
  analysis: {successfulRunHistoryLimit: 10}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}, creationTimestamp: null}
    spec:
      containers:
      - name: web
        image: web:1
        resources: {limits: {cpu: 0.5, memory: 128Mi}, requests: {memory: 4294967296}}
        ports: [{name: http, containerPort: 80, protocol: TCP}]
        readinessProbe: {httpGet: {path: /, port: http}}
  strategy:
    canary:
      canaryService: canary
      stableService: stable
      maxSurge: '25%'
      maxUnavailable: 0
      dynamicStableScale: true
      antiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {}}
      canaryMetadata: {labels: {role: canary}}
      trafficRouting: {managedRoutes: [{name: header}], istio: {virtualService: {name: web, routes: [primary]}}}
      analysis: {templates: [{templateName: ok}], startingStep: 2, dryRun: [{metricName: x}]}
      steps:
      - setCanaryScale: {weight: 25}
      - setHeaderRoute: {name: header, match: [{headerName: agent, headerValue: {exact: x}}]}
      - setWeight: 10
        replicaProgressThreshold: {type: Percent, value: 90}
      - pause: {duration: 10}
      - pause: {}
      - plugin: {name: argoproj-labs/step-exec, config: {command: date}}
      - analysis: {templates: [{templateName: ok, clusterScope: true}], args: [{name: hash, valueFrom: {podTemplateHashValue: Latest}}]}
",
            &[],
        );
        check(
            "
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata: {name: ok}
spec:
  args: [{name: hash}, {name: token, valueFrom: {secretKeyRef: {name: s, key: k}}}]
  metrics:
  - name: errors
    interval: 5m
    count: 10
    failureLimit: '3'
    successCondition: result[0] >= 0.95
    provider: {prometheus: {address: 'http://prometheus:9090', timeout: 40, query: up}}
  - name: page
    provider: {web: {url: 'http://x', jsonPath: '{$.data}'}}
",
            &[],
        );
    }

    #[test]
    fn what_is_wrong_in_a_rollout_is_named() {
        check(
            "
kind: Rollout
spec:
  replicas: three
  selector: {matchLabels: {app: web}}
  templates: {}
  template: {spec: {containers: [{name: web, imagee: web, ports: [{containerPort: http}]}]}}
  strategy:
    canary:
      stableServices: stable
      steps: [{setWeight: 120}, {pauses: {}}, {pause: {duration: [1]}}]
",
            &[
                r#"unknown field "spec.strategy.canary.stableServices""#,
                r#"unknown field "spec.strategy.canary.steps[1].pauses""#,
                r#"unknown field "spec.template.spec.containers[0].imagee""#,
                r#"unknown field "spec.templates""#,
                r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#,
                "spec.strategy.canary.steps[0].setWeight: Invalid value: 120: spec.strategy.canary.steps[0].setWeight in body should be less than or equal to 100",
                r#"spec.strategy.canary.steps[2].pause.duration: Invalid value: "array": spec.strategy.canary.steps[2].pause.duration in body must be of type integer,string: "array""#,
                r#"spec.template.spec.containers[0].ports[0].containerPort: Invalid value: "string": spec.template.spec.containers[0].ports[0].containerPort in body must be of type integer: "string""#,
            ],
        );
    }

    #[test]
    fn what_keda_knows_is_accepted_and_the_rest_is_named() {
        let object = |spec: Value| json!({"kind": "ScaledObject", "spec": spec}).to_string();
        let kafka = json!({"scaleTargetRef": {"name": "web"}, "minReplicaCount": 0, "initialCooldownPeriod": 5,
            "fallback": {"failureThreshold": 3, "replicas": 6, "behavior": "static"},
            "advanced": {"restoreToOriginalReplicaCount": true, "scalingModifiers": {"formula": "a + b"},
                "horizontalPodAutoscalerConfig": {"name": "x", "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300,
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}}},
            "triggers": [{"type": "kafka", "name": "a", "metadata": {"topic": "t", "lagThreshold": "5"},
                "useCachedMetrics": true, "metricType": "AverageValue",
                "authenticationRef": {"name": "x", "kind": "ClusterTriggerAuthentication"}}]});
        check(&object(kafka), &[]);
        let wrong = json!({"scaleTargetRef": {"name": "web"}, "maxReplicas": 3,
            "triggers": [{"type": "promethues", "metadata": {"threshold": 5}}]});
        let known = all();
        let types = known.iter().find(|d| d["metadata"]["name"] == "scaledobjects.keda.sh").expect("it").pointer(
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/triggers/items/properties/type/enum",
        );
        let types = types.and_then(Value::as_array).expect("types").iter().map(Value::to_string);
        let unknown = format!(
            r#"spec.triggers[0].type: Unsupported value: "promethues": supported values: {}"#,
            types.collect::<Vec<_>>().join(", ")
        );
        check(
            &object(wrong),
            &[
                r#"unknown field "spec.maxReplicas""#,
                r#"spec.triggers[0].metadata.threshold: Invalid value: "integer": spec.triggers[0].metadata.threshold in body must be of type string: "integer""#,
                &unknown,
            ],
        );
    }
}
