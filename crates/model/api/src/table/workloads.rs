//! Workloads: deployments, replica sets, stateful and daemon sets, jobs, autoscalers, disruption budgets.

use serde_json::{Value, json};

use super::{
    AGE, CONTAINERS, Column, IMAGES, NAME, Row, SELECTOR, Table, boolean, column, integer, text, tree,
};

const REPLICAS: &[Column] = &[
    NAME,
    integer("Desired", "Pods wanted"),
    integer("Current", "Pods that exist"),
    integer("Ready", "Pods that are ready"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", "Pods that are ready, of those wanted"),
    column("Up-to-date", "Pods made from the current template"),
    column("Available", "Pods that have been ready for long enough"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const STATEFUL_SET: &[Column] =
    &[NAME, column("Ready", "Pods that are ready, of those wanted"), AGE, CONTAINERS, IMAGES];
const DAEMON_SET: &[Column] = &[
    NAME,
    integer("Desired", "Nodes that should run the pod"),
    integer("Current", "Nodes that run the pod and should"),
    integer("Ready", "Nodes whose pod is ready"),
    integer("Up-to-date", "Nodes whose pod is of the current template"),
    integer("Available", "Nodes whose pod has been ready for long enough"),
    column("Node Selector", "Labels of the nodes that should run the pod"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const JOB: &[Column] = &[
    NAME,
    column("Status", "State of the job in one word"),
    column("Completions", "Pods that succeeded, of those wanted"),
    column("Duration", "Time the job has taken"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", "When jobs are started, in cron's notation"),
    column("Timezone", "Time zone of the schedule"),
    boolean("Suspend", "Whether starting jobs is suspended"),
    integer("Active", "Jobs that are running"),
    column("Last Schedule", "Time since a job was last started"),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];
const AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", "What is scaled"),
    column("Targets", "Metrics, as measured and as wanted"),
    column("MinPods", "Fewest replicas"),
    column("MaxPods", "Most replicas"),
    column("Replicas", "Replicas last seen"),
    AGE,
];
const BUDGET: &[Column] = &[
    NAME,
    column("Min Available", "Pods that must stay available"),
    column("Max Unavailable", "Pods that may be unavailable"),
    integer("Allowed Disruptions", "Pods that may be evicted now"),
    AGE,
];
const REVISION: &[Column] =
    &[NAME, column("Controller", "Owner of the revision"), column("Revision", "Number of the revision"), AGE];
const POD_TEMPLATE: &[Column] = &[
    NAME,
    column("Containers", "Names of the containers in the template"),
    column("Images", "Images of the containers in the template"),
    column("Pod Labels", "Labels of the pods to be made"),
];

pub(super) const TABLES: &[Table] = &[
    Table { group: "apps", resource: "deployments", columns: DEPLOYMENT, cells: deployment },
    Table { group: "apps", resource: "replicasets", columns: REPLICAS, cells: replica_set },
    Table { group: "", resource: "replicationcontrollers", columns: REPLICAS, cells: replication_controller },
    Table { group: "apps", resource: "statefulsets", columns: STATEFUL_SET, cells: stateful_set },
    Table { group: "apps", resource: "daemonsets", columns: DAEMON_SET, cells: daemon_set },
    Table { group: "apps", resource: "controllerrevisions", columns: REVISION, cells: revision },
    Table { group: "batch", resource: "jobs", columns: JOB, cells: job },
    Table { group: "batch", resource: "cronjobs", columns: CRON_JOB, cells: cron_job },
    Table {
        group: "autoscaling",
        resource: "horizontalpodautoscalers",
        columns: AUTOSCALER,
        cells: autoscaler,
    },
    Table { group: "policy", resource: "poddisruptionbudgets", columns: BUDGET, cells: budget },
    Table { group: "", resource: "podtemplates", columns: POD_TEMPLATE, cells: pod_template },
];

/// Containers, images and the selector, which end the rows of most workloads.
fn template_cells(row: &Row<'_>, pod_spec: &str, selector: String) -> [Value; 3] {
    let [names, images] = text::containers(row.at(pod_spec));
    [names, images, Value::String(selector)]
}

fn deployment(row: &Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        row.name(),
        json!(format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas"))),
        row.number("/status/updatedReplicas"),
        row.number("/status/availableReplicas"),
        row.age(),
    ];
    let selector = text::selector(row.at("/spec/selector")).unwrap_or_else(|| "<invalid>".to_owned());
    cells.extend(template_cells(row, "/spec/template/spec", selector));
    cells
}

fn replica_cells(row: &Row<'_>, selector: String) -> Vec<Value> {
    let mut cells = vec![
        row.name(),
        row.number("/spec/replicas"),
        row.number("/status/replicas"),
        row.number("/status/readyReplicas"),
        row.age(),
    ];
    cells.extend(template_cells(row, "/spec/template/spec", selector));
    cells
}

fn replica_set(row: &Row<'_>) -> Vec<Value> {
    replica_cells(row, text::selector_or_none(row.at("/spec/selector")))
}

fn replication_controller(row: &Row<'_>) -> Vec<Value> {
    replica_cells(row, text::labels(row.object, "/spec/selector"))
}

fn stateful_set(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = text::containers(row.at("/spec/template/spec"));
    vec![
        row.name(),
        json!(format!("{}/{}", row.int("/status/readyReplicas"), row.int("/spec/replicas"))),
        row.age(),
        names,
        images,
    ]
}

fn daemon_set(row: &Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        row.name(),
        row.number("/status/desiredNumberScheduled"),
        row.number("/status/currentNumberScheduled"),
        row.number("/status/numberReady"),
        row.number("/status/updatedNumberScheduled"),
        row.number("/status/numberAvailable"),
        json!(text::labels(row.object, "/spec/template/spec/nodeSelector")),
        row.age(),
    ];
    let selector = text::selector_or_none(row.at("/spec/selector"));
    cells.extend(template_cells(row, "/spec/template/spec", selector));
    cells
}

fn revision(row: &Row<'_>) -> Vec<Value> {
    let owner = row.list("/metadata/ownerReferences").iter().find(|owner| tree::flag(owner, "/controller"));
    let owner = owner.map_or_else(|| "<none>".to_owned(), owner_name);
    vec![row.name(), json!(owner), row.number("/revision"), row.age()]
}

/// `kind.group/name` of an owner reference.
fn owner_name(owner: &Value) -> String {
    let kind = tree::text(owner, "/kind").to_lowercase();
    let name = tree::text(owner, "/name");
    match tree::text(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{}/{name}", group.to_lowercase()),
        None => format!("{kind}/{name}"),
    }
}

fn job(row: &Row<'_>) -> Vec<Value> {
    let mut cells = vec![
        row.name(),
        json!(job_status(row)),
        json!(job_completions(row)),
        json!(job_duration(row)),
        row.age(),
    ];
    let selector = text::selector_or_none(row.at("/spec/selector"));
    cells.extend(template_cells(row, "/spec/template/spec", selector));
    cells
}

fn job_status(row: &Row<'_>) -> &'static str {
    let is = |type_| text::condition(row.object, "/status/conditions", type_) == "True";
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if row.is_deleted() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn job_completions(row: &Row<'_>) -> String {
    let succeeded = row.int("/status/succeeded");
    let parallelism = row.int("/spec/parallelism");
    match row.at("/spec/completions").as_i64() {
        Some(completions) => format!("{succeeded}/{completions}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

fn job_duration(row: &Row<'_>) -> String {
    match tree::time(row.object, "/status/startTime") {
        None => String::new(),
        start => text::since(start, tree::time(row.object, "/status/completionTime").unwrap_or(row.now)),
    }
}

fn cron_job(row: &Row<'_>) -> Vec<Value> {
    let suspend = match row.at("/spec/suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match row.at("/status/lastScheduleTime") {
        Value::Null => json!("<none>"),
        _ => row.since("/status/lastScheduleTime"),
    };
    let mut cells = vec![
        row.name(),
        row.string("/spec/schedule"),
        row.string_or("/spec/timeZone", "<none>"),
        json!(suspend),
        json!(row.list("/status/active").len()),
        last,
        row.age(),
    ];
    let selector = text::selector_or_none(row.at("/spec/jobTemplate/spec/selector"));
    cells.extend(template_cells(row, "/spec/jobTemplate/spec/template/spec", selector));
    cells
}

fn autoscaler(row: &Row<'_>) -> Vec<Value> {
    let kind = row.text("/spec/scaleTargetRef/kind");
    let name = row.text("/spec/scaleTargetRef/name");
    let fewest =
        row.at("/spec/minReplicas").as_i64().map_or_else(|| "<unset>".to_owned(), |count| count.to_string());
    vec![
        row.name(),
        json!(format!("{kind}/{name}")),
        json!(autoscaler_targets(row)),
        json!(fewest),
        row.number("/spec/maxReplicas"),
        row.number("/status/currentReplicas"),
        row.age(),
    ]
}

/// The metrics of an autoscaler in the shape of `autoscaling/v2`, or the one target of `autoscaling/v1`.
fn autoscaler_targets(row: &Row<'_>) -> String {
    if let Some(target) = row.at("/spec/targetCPUUtilizationPercentage").as_i64() {
        let current = percent(row.at("/status/currentCPUUtilizationPercentage"));
        return format!("cpu: {current}/{target}%");
    }
    let statuses = row.list("/status/currentMetrics");
    let metrics: Vec<String> = row
        .list("/spec/metrics")
        .iter()
        .enumerate()
        .map(|(index, metric)| metric_text(metric, statuses.get(index)))
        .collect();
    text::shortened(&metrics, 2, ", ", "<none>")
}

/// One metric as `current/target`.
fn metric_text(metric: &Value, status: Option<&Value>) -> String {
    let source = match tree::text(metric, "/type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let target = tree::at(metric, &format!("/{source}/target"));
    let current = status.map(|status| tree::at(status, &format!("/{source}/current")));
    match source {
        "resource" | "containerResource" => {
            let name = tree::text(metric, &format!("/{source}/name"));
            format!("{name}: {}", utilization_text(target, current))
        }
        "pods" => average_text(target, current),
        _ if tree::has(target, "/averageValue") => format!("{} (avg)", average_text(target, current)),
        _ => format!("{}/{}", measured(current, "/value"), text::quantity(tree::at(target, "/value"))),
    }
}

fn average_text(target: &Value, current: Option<&Value>) -> String {
    format!("{}/{}", measured(current, "/averageValue"), text::quantity(tree::at(target, "/averageValue")))
}

fn utilization_text(target: &Value, current: Option<&Value>) -> String {
    if tree::has(target, "/averageValue") {
        return average_text(target, current);
    }
    let current =
        current.map_or_else(|| percent(&Value::Null), |c| percent(tree::at(c, "/averageUtilization")));
    let wanted = tree::at(target, "/averageUtilization");
    if wanted.is_null() { format!("{current}/<auto>") } else { format!("{current}/{}", percent(wanted)) }
}

/// A measured quantity, `<unknown>` while there is none.
fn measured(current: Option<&Value>, pointer: &str) -> String {
    match current.map(|current| tree::at(current, pointer)) {
        None | Some(Value::Null) => "<unknown>".to_owned(),
        Some(value) => text::quantity(value),
    }
}

fn percent(value: &Value) -> String {
    value.as_i64().map_or_else(|| "<unknown>".to_owned(), |percent| format!("{percent}%"))
}

fn budget(row: &Row<'_>) -> Vec<Value> {
    let bound = |pointer| match row.at(pointer) {
        Value::Null => "N/A".to_owned(),
        bound => tree::scalar(bound),
    };
    vec![
        row.name(),
        json!(bound("/spec/minAvailable")),
        json!(bound("/spec/maxUnavailable")),
        row.number("/status/disruptionsAllowed"),
        row.age(),
    ]
}

fn pod_template(row: &Row<'_>) -> Vec<Value> {
    let [names, images] = text::containers(row.at("/template/spec"));
    vec![row.name(), names, images, json!(text::labels(row.object, "/template/metadata/labels"))]
}
