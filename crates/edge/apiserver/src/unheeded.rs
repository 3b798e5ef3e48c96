//! Fields that are stored and that nothing acts on, and what is doubtful in pods: whoever writes one is told.
//!
//! A row says where the field is and what happens instead. A path ends in `[]` at each list it goes through.

use serde_json::Value;
use wharf_api::resource::Resource;

/// When a field counts as asked for; empty values (`0`, `""`, `false`, `[]`, `{}`) never do.
enum Asked {
    /// By any value.
    Set,
    /// By this text.
    As(&'static str),
    /// By any text but these.
    Beyond(&'static [&'static str]),
}

use Asked::{As, Beyond, Set};

type Row = (&'static str, Asked, &'static str);

const INVALID: &str = "the Rollout is not followed and has the condition InvalidSpec";
const ANALYSIS_FAILS: &str = "an AnalysisRun of it ends in Error";
const ALL_COUNT: &str = "every metric counts";
const KEPT_TEN: &str = "the newest ten measurements are kept";
const ANTI_AFFINITY: &str = "write it as affinity of the pod template";
const AS_IN_TEMPLATE: &str = "pods have the metadata of the template only";

const ROLLOUT: &[Row] = &[
    ("spec.workloadRef", Set, INVALID),
    ("spec.analysis", Set, "AnalysisRuns go with their Rollout"),
    ("spec.restartAt", Set, "change the template to restart the pods"),
    ("spec.rollbackWindow", Set, "a way back goes through all steps"),
    ("spec.strategy.canary.trafficRouting", Set, "wharf's router splits traffic itself"),
    ("spec.strategy.canary.maxSurge", Set, "each version has the pods its share of the traffic needs"),
    ("spec.strategy.canary.maxUnavailable", Set, "each version has the pods its share of the traffic needs"),
    ("spec.strategy.canary.dynamicStableScale", Set, "the stable version keeps all its pods until the end"),
    ("spec.strategy.canary.minPodsPerReplicaSet", Set, "use the step setCanaryScale"),
    ("spec.strategy.canary.scaleDownDelayRevisionLimit", Set, "only scaleDownDelaySeconds counts"),
    ("spec.strategy.canary.antiAffinity", Set, ANTI_AFFINITY),
    ("spec.strategy.canary.canaryMetadata", Set, AS_IN_TEMPLATE),
    ("spec.strategy.canary.stableMetadata", Set, AS_IN_TEMPLATE),
    ("spec.strategy.canary.pingPong", Set, INVALID),
    ("spec.strategy.canary.steps[].experiment", Set, INVALID),
    ("spec.strategy.canary.steps[].plugin", Set, INVALID),
    ("spec.strategy.canary.steps[].setHeaderRoute", Set, INVALID),
    ("spec.strategy.canary.steps[].setMirrorRoute", Set, INVALID),
    ("spec.strategy.canary.steps[].replicaProgressThreshold", Set, "a step waits for all its pods"),
    ("spec.strategy.canary.steps[].analysis.dryRun", Set, ALL_COUNT),
    ("spec.strategy.canary.steps[].analysis.measurementRetention", Set, KEPT_TEN),
    ("spec.strategy.canary.steps[].analysis.analysisRunMetadata", Set, "the AnalysisRun gets none of it"),
    ("spec.strategy.canary.analysis.dryRun", Set, ALL_COUNT),
    ("spec.strategy.canary.analysis.measurementRetention", Set, KEPT_TEN),
    ("spec.strategy.canary.analysis.analysisRunMetadata", Set, "the AnalysisRun gets none of it"),
    ("spec.strategy.blueGreen.prePromotionAnalysis.dryRun", Set, ALL_COUNT),
    ("spec.strategy.blueGreen.postPromotionAnalysis.dryRun", Set, ALL_COUNT),
    ("spec.strategy.blueGreen.maxUnavailable", Set, "both versions have all their pods until the switch"),
    ("spec.strategy.blueGreen.scaleDownDelayRevisionLimit", Set, "only scaleDownDelaySeconds counts"),
    ("spec.strategy.blueGreen.antiAffinity", Set, ANTI_AFFINITY),
    ("spec.strategy.blueGreen.previewMetadata", Set, AS_IN_TEMPLATE),
    ("spec.strategy.blueGreen.activeMetadata", Set, AS_IN_TEMPLATE),
];

const ANALYSIS: &[Row] = &[
    ("spec.templates", Set, ANALYSIS_FAILS),
    ("spec.dryRun", Set, ALL_COUNT),
    ("spec.measurementRetention", Set, KEPT_TEN),
    ("spec.ttlStrategy", Set, "the AnalysisRun goes with its owner"),
    ("spec.args[].valueFrom", Set, "the argument needs a value from the Rollout"),
    ("spec.metrics[].provider.cloudWatch", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.datadog", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.graphite", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.influxdb", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.job", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.kayenta", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.newRelic", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.plugin", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.skywalking", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.wavefront", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.web", Set, ANALYSIS_FAILS),
    ("spec.metrics[].provider.prometheus.address", Set, "wharf's own metrics are asked"),
    ("spec.metrics[].provider.prometheus.authentication", Set, "wharf's own metrics are asked"),
    ("spec.metrics[].provider.prometheus.headers", Set, "wharf's own metrics are asked"),
    ("spec.metrics[].provider.prometheus.insecure", Set, "wharf's own metrics are asked"),
    ("spec.metrics[].provider.prometheus.timeout", Set, "wharf's own metrics are asked"),
    ("spec.metrics[].provider.prometheus.rangeQuery", Set, "the query is asked for one time, now"),
];

const SCALED_OBJECT: &[Row] = &[
    ("spec.pollingInterval", Set, "triggers are read every second"),
    ("spec.initialCooldownPeriod", Set, "cooldownPeriod counts from the creation too"),
    ("spec.fallback.behavior", Set, "fallback.replicas is used as it is"),
    ("spec.scaleTargetRef.envSourceContainerName", Set, "triggers read nothing from the environment"),
    ("spec.advanced.restoreToOriginalReplicaCount", Set, "the target keeps its size"),
    ("spec.advanced.scalingModifiers", Set, "the biggest size any trigger asks for counts"),
    ("spec.advanced.horizontalPodAutoscalerConfig.name", Set, "no HorizontalPodAutoscaler is made"),
    (
        "spec.triggers[].type",
        Beyond(&["cron", "prometheus", "redis"]),
        "cron, prometheus and redis are supported; the condition Ready is False",
    ),
    ("spec.triggers[].useCachedMetrics", Set, "triggers are read every second"),
    ("spec.triggers[].metadata.serverAddress", Set, "wharf's own metrics are asked"),
    ("spec.triggers[].metadata.ignoreNullValues", As("false"), "no result counts as zero"),
    ("spec.triggers[].metadata.enableTLS", As("true"), "the connection is not encrypted"),
    ("spec.triggers[].metadata.usernameFromEnv", Set, "name a TriggerAuthentication"),
    ("spec.triggers[].metadata.passwordFromEnv", Set, "name a TriggerAuthentication"),
    ("spec.triggers[].metadata.addressFromEnv", Set, "name the server in address"),
];

const TRIGGER_AUTHENTICATION: &[Row] = &[
    ("spec.podIdentity", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.env", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.configMapTargetRef", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.hashiCorpVault", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.azureKeyVault", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.gcpSecretManager", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.awsSecretManager", Set, "only secretTargetRef is read; the trigger fails"),
    ("spec.boundServiceAccountToken", Set, "only secretTargetRef is read; the trigger fails"),
];

const SERVICE: &[Row] = &[
    ("spec.type", As("LoadBalancer"), "no address is given; reach it by its node port or an Ingress"),
    ("spec.loadBalancerIP", Set, "no address is given"),
    ("spec.loadBalancerSourceRanges", Set, "traffic is not filtered"),
];

/// Fields of a pod without the host's network; with it containers have the host's ports as it is.
const OWN_NETWORK: &[Row] = &[(
    "containers[].ports[].hostPort",
    Set,
    "the port is not opened on the node; use a Service of type NodePort",
)];

/// Where a kind has the spec of its pods, as a JSON pointer.
fn pod_spec(resource: &Resource) -> Option<&'static str> {
    let gvk = &resource.gvk;
    match (gvk.group.as_str(), gvk.kind.as_str()) {
        ("argoproj.io", "Rollout") => Some("/spec/template/spec"),
        _ => wharf_api::defaults::pod_spec(&gvk.group, &gvk.version, &gvk.kind),
    }
}

fn rows(group: &str, plural: &str) -> &'static [Row] {
    match (group, plural) {
        ("", "services") => SERVICE,
        ("argoproj.io", "rollouts") => ROLLOUT,
        ("argoproj.io", "analysistemplates" | "clusteranalysistemplates" | "analysisruns") => ANALYSIS,
        ("keda.sh", "scaledobjects") => SCALED_OBJECT,
        ("keda.sh", "triggerauthentications") => TRIGGER_AUTHENTICATION,
        _ => &[],
    }
}

/// One sentence for each field of `object` that nothing acts on, or that is doubtful.
pub(crate) fn sentences(resource: &Resource, object: &Value) -> Vec<String> {
    let (group, plural) = (&resource.gvk.group, &resource.plural);
    let mut found = Vec::new();
    note(rows(group, plural), object, "", &mut found);
    if let Some(pointer) = pod_spec(resource) {
        found.extend(wharf_api::validate::pod_warnings(object, pointer));
        let spec = object.pointer(pointer).unwrap_or(&Value::Null);
        if spec["hostNetwork"] != true {
            note(OWN_NETWORK, spec, &pointer[1..].replace('/', "."), &mut found);
        }
    }
    found
}

fn note(rows: &[Row], object: &Value, at: &str, found: &mut Vec<String>) {
    for (path, asked, why) in rows {
        each(object, path, at.to_owned(), &mut |at, value| {
            if asks(asked, value) {
                let shown = if matches!(asked, Set) { String::new() } else { format!(" {value}") };
                found.push(format!("{at}{shown} is kept and not acted on: {why}"));
            }
        });
    }
}

fn asks(asked: &Asked, value: &Value) -> bool {
    match (asked, value) {
        (As(text), value) => value == text,
        (Beyond(known), Value::String(text)) => !known.contains(&text.as_str()),
        (Beyond(_), _) => false,
        (Set, Value::Null) => false,
        (Set, Value::Bool(set)) => *set,
        (Set, Value::Number(number)) => number.as_f64() != Some(0.0),
        (Set, Value::String(text)) => !text.is_empty(),
        (Set, Value::Array(items)) => !items.is_empty(),
        (Set, Value::Object(fields)) => !fields.is_empty(),
    }
}

/// Calls `found` with every value at `path` and where it is.
fn each(value: &Value, path: &str, at: String, found: &mut impl FnMut(&str, &Value)) {
    let (segment, rest) = path.split_once('.').unwrap_or((path, ""));
    let (name, is_list) = segment.strip_suffix("[]").map_or((segment, false), |name| (name, true));
    let Some(inner) = value.get(name) else { return };
    let dot = if at.is_empty() { "" } else { "." };
    let at = format!("{at}{dot}{name}");
    let mut visit = |value: &Value, at: String| match rest {
        "" => found(&at, value),
        rest => each(value, rest, at, found),
    };
    match inner {
        Value::Array(items) if is_list => {
            items.iter().enumerate().for_each(|(i, item)| visit(item, format!("{at}[{i}]")));
        }
        _ if is_list => {}
        inner => visit(inner, at),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wharf_api::schema::Gvk;

    use super::*;

    fn check(group: &str, plural: &str, object: Value, expect: &[&str]) {
        let known = wharf_api::resource::builtin_resource(group, plural);
        let resource = known.cloned().unwrap_or_else(|| {
            let mut custom = wharf_api::resource::builtin_resource("", "pods").unwrap().clone();
            let kind = if plural == "rollouts" { "Rollout" } else { "" };
            (custom.gvk, custom.plural) = (Gvk::new(group, "v1alpha1", kind), plural.into());
            custom
        });
        assert_eq!(sentences(&resource, &object), expect, "{object}");
    }

    #[test]
    fn a_field_nothing_acts_on_is_named_where_it_is() {
        let canary = json!({"trafficRouting": {"nginx": {}}, "dynamicStableScale": false,
            "steps": [{"setWeight": 5}, {"experiment": {"templates": []}}]});
        check(
            "argoproj.io",
            "rollouts",
            json!({"spec": {"strategy": {"canary": canary}}}),
            &[
                "spec.strategy.canary.trafficRouting is kept and not acted on: wharf's router splits traffic itself",
                "spec.strategy.canary.steps[1].experiment is kept and not acted on: the Rollout is not followed and has the condition InvalidSpec",
            ],
        );
        let port = |host_network: bool| {
            json!({"spec": {"template": {"spec": {"hostNetwork": host_network,
            "containers": [{"ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]}]}}}})
        };
        check("apps", "deployments", port(true), &[]);
        check(
            "apps",
            "deployments",
            port(false),
            &[
                "spec.template.spec.containers[0].ports[1].hostPort is kept and not acted on: the port is not opened on the node; use a Service of type NodePort",
            ],
        );
        check("", "services", json!({"spec": {"type": "NodePort"}}), &[]);
        check(
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer"}}),
            &[
                r#"spec.type "LoadBalancer" is kept and not acted on: no address is given; reach it by its node port or an Ingress"#,
            ],
        );
        check(
            "keda.sh",
            "scaledobjects",
            json!({"spec": {"triggers": [{"type": "cron"}, {"type": "kafka"}]}}),
            &[
                r#"spec.triggers[1].type "kafka" is kept and not acted on: cron, prometheus and redis are supported; the condition Ready is False"#,
            ],
        );
    }
}
