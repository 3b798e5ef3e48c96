//! Attributes as texts, and the labels all three signals share.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
};

/// Deepest nesting of lists and maps that is written out.
const MAX_DEPTH: usize = 16;

/// Attributes as pairs; what is no text is written as JSON.
pub(super) fn pairs(attributes: &[KeyValue]) -> Vec<(String, String)> {
    attributes.iter().map(|a| (a.key.clone(), text(a.value.as_ref()))).collect()
}

/// A value as text.
pub(super) fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => json(other, 0).to_string(),
    }
}

fn json(value: Option<&Value>, depth: usize) -> serde_json::Value {
    use serde_json::Value as Json;
    if depth > MAX_DEPTH {
        return Json::Null;
    }
    let inner = |value: &Option<AnyValue>| json(value.as_ref().and_then(|v| v.value.as_ref()), depth + 1);
    match value {
        None => Json::Null,
        Some(Value::StringValue(text)) => text.as_str().into(),
        Some(Value::BoolValue(b)) => (*b).into(),
        Some(Value::IntValue(n)) => (*n).into(),
        Some(Value::DoubleValue(n)) => (*n).into(),
        Some(Value::ArrayValue(list)) => {
            list.values.iter().map(|v| json(v.value.as_ref(), depth + 1)).collect::<Vec<_>>().into()
        }
        Some(Value::KvlistValue(map)) => {
            Json::Object(map.values.iter().map(|kv| (kv.key.clone(), inner(&kv.value))).collect())
        }
        Some(Value::BytesValue(bytes)) => {
            bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")).into()
        }
        // Indexes into a table of profiles have no meaning here.
        Some(_) => Json::Null,
    }
}

/// Attributes of what sent an export.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) attributes: Vec<(String, String)>,
}

impl Origin {
    pub(super) fn of(resource: Option<&Resource>) -> Self {
        Self { attributes: resource.map(|r| pairs(&r.attributes)).unwrap_or_default() }
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.attributes.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str())
    }

    /// `service.name`, or what OpenTelemetry says when there is none.
    pub(super) fn service(&self) -> &str {
        match self.get("service.name") {
            "" => "unknown_service",
            name => name,
        }
    }

    /// The labels that metrics, logs and traces share.
    pub(super) fn labels(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("service", self.service()),
            ("namespace", self.get("k8s.namespace.name")),
            ("pod", self.get("k8s.pod.name")),
            ("container", self.get("k8s.container.name")),
            ("node", self.get("k8s.node.name")),
            ("version", self.get("service.version")),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}
