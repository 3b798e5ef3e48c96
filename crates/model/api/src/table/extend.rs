//! Extension: admission webhooks and policies, aggregated APIs, fair queueing, device claims, scales.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, Table, column, integer, text, tree};

const WEBHOOKS: &[Column] = &[NAME, integer("Webhooks", "Number of webhooks"), AGE];
const VALIDATING_POLICY: &[Column] = &[
    NAME,
    integer("Validations", "Number of validations"),
    column("ParamKind", "Kind of the policy's parameters"),
    AGE,
];
const MUTATING_POLICY: &[Column] = &[
    NAME,
    integer("Mutations", "Number of mutations"),
    column("ParamKind", "Kind of the policy's parameters"),
    AGE,
];
const POLICY_BINDING: &[Column] = &[
    NAME,
    column("PolicyName", "Policy that is bound"),
    column("ParamRef", "Parameters it is bound with"),
    AGE,
];
const API_SERVICE: &[Column] = &[
    NAME,
    column("Service", "Service that answers, or Local"),
    column("Available", "Whether it can be reached"),
    AGE,
];
const FLOW_SCHEMA: &[Column] = &[
    NAME,
    column("PriorityLevel", "Level the requests belong to"),
    column("MatchingPrecedence", "Order in which schemas are tried"),
    column("DistinguisherMethod", "How flows are told apart"),
    AGE,
    column("MissingPL", "Whether the level does not exist"),
];
const PRIORITY_LEVEL: &[Column] = &[
    NAME,
    column("Type", "Limited or Exempt"),
    column("NominalConcurrencyShares", "Share of the server's concurrency"),
    column("Queues", "Number of queues"),
    column("HandSize", "Queues dealt to a flow"),
    column("QueueLengthLimit", "Requests a queue may hold"),
    AGE,
];
const SCALE: &[Column] =
    &[NAME, integer("Desired", "Replicas wanted"), integer("Available", "Replicas that exist"), AGE];
const NAME_AND_AGE: &[Column] = &[NAME, AGE];
const CLAIM: &[Column] = &[NAME, column("State", "State of the claim"), AGE];
const SLICE: &[Column] = &[
    NAME,
    column("Node", "Node the devices are on"),
    column("Driver", "Driver of the devices"),
    column("Pool", "Pool the devices belong to"),
    AGE,
];

const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW_CONTROL: &str = "flowcontrol.apiserver.k8s.io";
const RESOURCE: &str = "resource.k8s.io";

pub(super) const TABLES: &[Table] = &[
    Table {
        group: ADMISSION,
        resource: "validatingwebhookconfigurations",
        columns: WEBHOOKS,
        cells: webhooks,
    },
    Table { group: ADMISSION, resource: "mutatingwebhookconfigurations", columns: WEBHOOKS, cells: webhooks },
    Table {
        group: ADMISSION,
        resource: "validatingadmissionpolicies",
        columns: VALIDATING_POLICY,
        cells: validating_policy,
    },
    Table {
        group: ADMISSION,
        resource: "mutatingadmissionpolicies",
        columns: MUTATING_POLICY,
        cells: mutating_policy,
    },
    Table {
        group: ADMISSION,
        resource: "validatingadmissionpolicybindings",
        columns: POLICY_BINDING,
        cells: policy_binding,
    },
    Table {
        group: ADMISSION,
        resource: "mutatingadmissionpolicybindings",
        columns: POLICY_BINDING,
        cells: policy_binding,
    },
    Table {
        group: "apiregistration.k8s.io",
        resource: "apiservices",
        columns: API_SERVICE,
        cells: api_service,
    },
    Table { group: FLOW_CONTROL, resource: "flowschemas", columns: FLOW_SCHEMA, cells: flow_schema },
    Table {
        group: FLOW_CONTROL,
        resource: "prioritylevelconfigurations",
        columns: PRIORITY_LEVEL,
        cells: priority_level,
    },
    Table { group: "autoscaling", resource: "scales", columns: SCALE, cells: scale },
    Table { group: RESOURCE, resource: "deviceclasses", columns: NAME_AND_AGE, cells: name_and_age },
    Table { group: RESOURCE, resource: "resourceclaims", columns: CLAIM, cells: claim },
    Table { group: RESOURCE, resource: "resourceclaimtemplates", columns: NAME_AND_AGE, cells: name_and_age },
    Table { group: RESOURCE, resource: "resourceslices", columns: SLICE, cells: slice },
];

fn webhooks(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.list("/webhooks").len()), row.age()]
}

fn validating_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.list("/spec/validations").len()), json!(param_kind(row)), row.age()]
}

fn mutating_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.list("/spec/mutations").len()), json!(param_kind(row)), row.age()]
}

fn param_kind(row: &Row<'_>) -> String {
    match row.at("/spec/paramKind") {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", tree::text(kind, "/apiVersion"), tree::text(kind, "/kind")),
    }
}

fn policy_binding(row: &Row<'_>) -> Vec<Value> {
    let params = row.at("/spec/paramRef");
    let cell = match (tree::text(params, "/name"), tree::text(params, "/namespace")) {
        ("", _) => text::selector(tree::at(params, "/selector"))
            .filter(|selector| !selector.is_empty())
            .unwrap_or_else(|| "<unset>".to_owned()),
        (name, "") => format!("*/{name}"),
        (name, namespace) => format!("{namespace}/{name}"),
    };
    vec![row.name(), row.string("/spec/policyName"), json!(cell), row.age()]
}

fn api_service(row: &Row<'_>) -> Vec<Value> {
    let service = match row.at("/spec/service") {
        Value::Null => "Local".to_owned(),
        service => format!("{}/{}", tree::text(service, "/namespace"), tree::text(service, "/name")),
    };
    vec![row.name(), json!(service), json!(availability(row)), row.age()]
}

fn availability(row: &Row<'_>) -> String {
    let Some(condition) = tree::find(row.list("/status/conditions"), "type", "Available") else {
        return "Unknown".to_owned();
    };
    match (tree::text(condition, "/status"), tree::text(condition, "/reason")) {
        ("True", _) => "True".to_owned(),
        (status, "") => status.to_owned(),
        (status, reason) => format!("{status} ({reason})"),
    }
}

fn flow_schema(row: &Row<'_>) -> Vec<Value> {
    let dangling = match text::condition(row.object, "/status/conditions", "Dangling") {
        "" => "?",
        status => status,
    };
    vec![
        row.name(),
        row.string("/spec/priorityLevelConfiguration/name"),
        row.number("/spec/matchingPrecedence"),
        row.string_or("/spec/distinguisherMethod/type", "<none>"),
        row.age(),
        json!(dangling),
    ]
}

fn priority_level(row: &Row<'_>) -> Vec<Value> {
    let number = |pointer| match row.at(pointer) {
        Value::Null => json!("<none>"),
        number => number.clone(),
    };
    vec![
        row.name(),
        row.string("/spec/type"),
        number("/spec/limited/nominalConcurrencyShares"),
        number("/spec/limited/limitResponse/queuing/queues"),
        number("/spec/limited/limitResponse/queuing/handSize"),
        number("/spec/limited/limitResponse/queuing/queueLengthLimit"),
        row.age(),
    ]
}

fn scale(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.number("/spec/replicas"), row.number("/status/replicas"), row.age()]
}

fn name_and_age(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.age()]
}

fn claim(row: &Row<'_>) -> Vec<Value> {
    let mut states = Vec::new();
    if row.is_deleted() {
        states.push("deleted");
    }
    if tree::has(row.object, "/status/allocation") {
        states.push("allocated");
        if !row.list("/status/reservedFor").is_empty() {
            states.push("reserved");
        }
    } else if !row.is_deleted() {
        states.push("pending");
    }
    vec![row.name(), json!(states.join(",")), row.age()]
}

fn slice(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.string("/spec/nodeName"),
        row.string("/spec/driver"),
        row.string("/spec/pool/name"),
        row.age(),
    ]
}
