//! One stored object: its bytes, encoded once, and what selectors read.
//!
//! Stored form: four bytes little-endian with the offset of the hole, then JSON whose
//! `metadata.resourceVersion` is an empty text at that offset. The revision is known only once the
//! store has committed, and goes into the hole when the entry is made.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::{Map, Value};
use wharf_api::{
    codec::{encode_envelope, encode_message},
    resource::Resource,
    selector::{FieldSelector, LabelSelector, Labels, Selectable, selectable_fields},
};

/// An object as stored and sent.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Revision that wrote it: its `resourceVersion`.
    pub revision: u64,
    /// `namespace/name`.
    pub key: Arc<str>,
    /// JSON as sent to clients.
    pub bytes: Bytes,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The version it is written in.
    pub api_version: Box<str>,
    fields: Vec<(&'static str, String)>,
    protobuf: OnceLock<Bytes>,
    served: Mutex<Option<Served>>,
}

/// An entry in the form a resource serves it in, by the form's id; none when that is the stored one.
type Served = (u64, Option<Arc<Entry>>);

/// The stored form of an object.
pub(crate) fn encode(object: &Value) -> Bytes {
    let mut out = vec![0; 4];
    let mut hole = 0;
    if let Value::Object(object) = object {
        put_object(&mut out, object, |out, name, value| match value {
            Value::Object(metadata) if name == "metadata" => {
                let mut metadata = metadata.clone();
                metadata.insert("resourceVersion".into(), "".into());
                put_object(out, &metadata, |out, name, value| {
                    if name == "resourceVersion" {
                        hole = out.len() - 4 + 1;
                    }
                    put(out, value);
                });
            }
            value => put(out, value),
        });
    }
    out[..4].copy_from_slice(&(hole as u32).to_le_bytes());
    out.into()
}

fn put_object(
    out: &mut Vec<u8>,
    object: &Map<String, Value>,
    mut member: impl FnMut(&mut Vec<u8>, &str, &Value),
) {
    out.push(b'{');
    for (i, (name, value)) in object.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        put(out, &Value::String(name.clone()));
        out.push(b':');
        member(out, name, value);
    }
    out.push(b'}');
}

fn put(out: &mut Vec<u8>, value: &Value) {
    // Writing a value tree to memory cannot fail.
    drop(serde_json::to_writer(out, value));
}

impl Entry {
    /// The entry of stored bytes; `None` when they are not of the stored form.
    pub(crate) fn new(qualified: &str, key: &str, stored: &[u8], revision: u64) -> Option<Self> {
        let (hole, json) = stored.split_first_chunk::<4>()?;
        let (head, tail) = json.split_at_checked(u32::from_le_bytes(*hole) as usize)?;
        let version = revision.to_string();
        let mut bytes = Vec::with_capacity(json.len() + version.len());
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(version.as_bytes());
        bytes.extend_from_slice(tail);
        let object: Value = serde_json::from_slice(&bytes).ok()?;
        let (plural, group) = qualified.split_once('.').unwrap_or((qualified, ""));
        let fields = read_fields(&object, selectable_fields(group, plural));
        Some(Self::made(revision, key.into(), bytes.into(), &object, fields))
    }

    fn made(
        revision: u64,
        key: Arc<str>,
        bytes: Bytes,
        object: &Value,
        fields: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            revision,
            key,
            labels: wharf_api::meta::labels(object),
            api_version: object["apiVersion"].as_str().unwrap_or_default().into(),
            fields,
            bytes,
            protobuf: OnceLock::new(),
            served: Mutex::new(None),
        }
    }

    /// The same object in another form, which `object` is.
    pub(crate) fn in_form(&self, object: &Value) -> Self {
        let bytes = wharf_api::codec::encode_json(object).into();
        Self::made(self.revision, Arc::clone(&self.key), bytes, object, self.fields.clone())
    }

    /// The form made before under `id`, if it is the newest.
    pub(crate) fn served_as(self: &Arc<Self>, id: u64) -> Option<Arc<Self>> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, form) = served.as_ref().filter(|(known, _)| *known == id)?;
        Some(Arc::clone(form.as_ref().unwrap_or(self)))
    }

    /// This entry as `object`, kept for whoever asks for that form next.
    pub(crate) fn serve_as(self: &Arc<Self>, id: u64, object: &Value) -> Arc<Self> {
        let form = self.in_form(object);
        let form = (form.bytes != self.bytes).then(|| Arc::new(form));
        let entry = Arc::clone(form.as_ref().unwrap_or(self));
        *self.served.lock().unwrap_or_else(PoisonError::into_inner) = Some((id, form));
        entry
    }

    /// The same object with another revision: what a deletion sends.
    pub(crate) fn at_revision(&self, revision: u64) -> Self {
        let mut object = self.object();
        wharf_api::meta::metadata_mut(&mut object)
            .insert("resourceVersion".into(), revision.to_string().into());
        let bytes = wharf_api::codec::encode_json(&object).into();
        Self::made(revision, Arc::clone(&self.key), bytes, &object, self.fields.clone())
    }

    /// The object as a tree.
    pub(crate) fn object(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    pub(crate) fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub(crate) fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// The object's protobuf message, made at most once.
    pub(crate) fn message(&self, resource: &Resource) -> &Bytes {
        self.protobuf.get_or_init(|| encode_message(&self.object(), &resource.ty).into())
    }

    /// The object in its protobuf envelope.
    pub(crate) fn enveloped(&self, resource: &Resource) -> Vec<u8> {
        encode_envelope(&resource.gvk.api_version(), &resource.gvk.kind, self.message(resource))
    }

    pub(crate) fn selected(&self, labels: &LabelSelector, fields: &FieldSelector) -> bool {
        labels.matches(&self.labels)
            && (fields.is_everything()
                || fields.matches(|path| match path {
                    "metadata.name" => Some(self.name()),
                    "metadata.namespace" => Some(self.namespace()),
                    path => self.fields.iter().find(|(p, _)| *p == path).map(|(_, v)| v.as_str()),
                }))
    }
}

fn read_fields(object: &Value, fields: &'static [Selectable]) -> Vec<(&'static str, String)> {
    let read = |field: &Selectable| Some((field.path, field.read(object)?));
    fields.iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_fills_the_hole_and_nothing_else() {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"resourceVersion": "", "a": "\"resourceVersion\":\"\""},
            "metadata": {"name": "x", "namespace": "n", "labels": {"l": "v"}, "resourceVersion": "7"}});
        let entry = Entry::new("configmaps", "n/x", &encode(&object), 42).unwrap();
        let mut expect = object;
        expect["metadata"]["resourceVersion"] = "42".into();
        assert_eq!(entry.object(), expect);
        assert_eq!((entry.namespace(), entry.name()), ("n", "x"));
        assert_eq!(entry.labels["l"], "v");
    }
}
