//! Stored objects in the version they are asked for, and back.
//!
//! Built-in kinds are converted by the tables of `wharf_api::convert`. Custom resources are pruned and filled with
//! defaults by the schema of the version served, since their definition may have changed after they were written;
//! their versions are converted by the definition's webhook where it has one.
//! Source: Kubernetes' CustomResourceDefinition versioning; `apiextensions.k8s.io/v1` ConversionReview.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_api::{codec::decode_value, convert, crd, meta, resource::Resource, schema::Gvk, status::Status};

use crate::{ApiServer, callout::Callout, storage::Entry};

/// Seconds a conversion may take.
const TIMEOUT: u64 = 30;

impl ApiServer {
    /// Entries in the form `resource` serves them.
    pub(crate) async fn served(
        &self,
        resource: &Resource,
        mut entries: Vec<Arc<Entry>>,
    ) -> Result<Vec<Arc<Entry>>, Status> {
        let Some(custom) = &resource.custom else {
            if !resource.serves_stored() {
                for entry in &mut entries {
                    let mut object = entry.object();
                    convert::to_served(resource, &mut object);
                    *entry = Arc::new(entry.in_form(&object));
                }
            }
            return Ok(entries);
        };
        let missing: Vec<usize> = (0..entries.len())
            .filter(|&at| match entries[at].served_as(custom.form) {
                Some(form) => {
                    entries[at] = form;
                    false
                }
                None => true,
            })
            .collect();
        let objects = missing.iter().map(|&at| entries[at].object()).collect();
        let converted = self.converted(resource, objects, &resource.gvk).await?;
        for (at, object) in missing.into_iter().zip(converted) {
            entries[at] = entries[at].serve_as(custom.form, &current(resource, custom, object));
        }
        Ok(entries)
    }

    /// One entry in the form `resource` serves it.
    pub(crate) async fn served_one(
        &self,
        resource: &Resource,
        entry: Arc<Entry>,
    ) -> Result<Arc<Entry>, Status> {
        if resource.custom.is_none() && resource.serves_stored() {
            return Ok(entry);
        }
        let mut entries = self.served(resource, vec![entry]).await?;
        entries.pop().ok_or_else(|| Status::internal("a converted object is missing"))
    }

    /// An object of `resource` in the version it is stored in.
    pub(crate) async fn stored_form(&self, resource: &Resource, mut object: Value) -> Result<Value, Status> {
        if resource.custom.is_none() {
            convert::to_stored(resource, &mut object);
            return Ok(object);
        }
        let mut objects = self.converted(resource, vec![object], &resource.stored).await?;
        objects.pop().ok_or_else(|| Status::internal("a converted object is missing"))
    }

    /// An object of one resource as the other resource has it, where both are versions of one.
    pub(crate) async fn translate(
        &self,
        from: &Resource,
        to: &Resource,
        mut object: Value,
    ) -> Result<Value, Status> {
        if from.custom.is_none() {
            convert::to_stored(from, &mut object);
            convert::to_served(to, &mut object);
            return Ok(object);
        }
        let mut objects = self.converted(from, vec![object], &to.gvk).await?;
        objects.pop().ok_or_else(|| Status::internal("a converted object is missing"))
    }

    /// Custom objects in another version of their definition.
    async fn converted(
        &self,
        resource: &Resource,
        mut objects: Vec<Value>,
        to: &Gvk,
    ) -> Result<Vec<Value>, Status> {
        let wanted = to.api_version();
        let others: Vec<usize> =
            (0..objects.len()).filter(|&at| objects[at]["apiVersion"] != wanted).collect();
        if others.is_empty() {
            return Ok(objects);
        }
        let Some(webhook) = resource.custom.as_ref().and_then(|custom| custom.converter.as_ref()) else {
            for at in others {
                objects[at]["apiVersion"] = wanted.as_str().into();
            }
            return Ok(objects);
        };
        let asked: Vec<Value> = others.iter().map(|&at| objects[at].clone()).collect();
        for (at, object) in others.into_iter().zip(self.ask(resource, webhook, asked, &wanted).await?) {
            objects[at] = object;
        }
        Ok(objects)
    }

    async fn ask(
        &self,
        resource: &Resource,
        webhook: &Value,
        objects: Vec<Value>,
        wanted: &str,
    ) -> Result<Vec<Value>, Status> {
        let failed = |why: String| {
            let from = objects.first().map_or("", |object| object["apiVersion"].as_str().unwrap_or_default());
            Status::internal(format!(
                "conversion webhook for {from}, Kind={} failed: {why}",
                resource.gvk.kind
            ))
        };
        let uid = crate::verbs::new_uid();
        let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
        let callout = Callout::of(self, &webhook["clientConfig"]).map_err(&failed)?;
        let answer = callout.post(self, &review, TIMEOUT).await.map_err(&failed)?;
        let response = &answer["response"];
        if response["uid"] != uid {
            return Err(failed("the response has another uid than the request".into()));
        }
        if response["result"]["status"] != "Success" {
            return Err(failed(response["result"]["message"].as_str().unwrap_or_default().to_owned()));
        }
        let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
        if converted.len() != objects.len() {
            let (got, sent) = (converted.len(), objects.len());
            return Err(failed(format!("webhook returned {got} objects, expected {sent}")));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs
            .map(|(at, (before, after))| {
                checked(before, after, wanted).map_err(|e| failed(format!("object {at}: {e}")))
            })
            .collect()
    }
}

/// A webhook converts what it is given and nothing else: of the metadata only labels and annotations may differ.
fn checked(before: &Value, mut after: Value, wanted: &str) -> Result<Value, String> {
    if after["apiVersion"] != wanted {
        return Err(format!("it has the version {}, not {wanted}", after["apiVersion"]));
    }
    if after["kind"] != before["kind"] {
        return Err(format!("it has the kind {}, not {}", after["kind"], before["kind"]));
    }
    for field in ["name", "namespace", "uid"] {
        if meta::text(&after, field) != meta::text(before, field) {
            return Err(format!("its metadata.{field} has changed"));
        }
    }
    let (labels, annotations) = (after["metadata"]["labels"].take(), after["metadata"]["annotations"].take());
    let mut metadata = before["metadata"].clone();
    for (name, value) in [("labels", labels), ("annotations", annotations)] {
        match value {
            Value::Null => drop(metadata.as_object_mut().and_then(|m| m.remove(name))),
            value => metadata[name] = value,
        }
    }
    after["metadata"] = metadata;
    Ok(after)
}

/// A custom object as the schema of now reads it.
fn current(resource: &Resource, custom: &crd::Custom, object: Value) -> Value {
    let mut object = match decode_value(object.clone(), &resource.ty) {
        Ok(decoded) => decoded.object,
        // What was valid once is given out rather than lost.
        Err(_) => object,
    };
    crd::apply_defaults(&mut object, &custom.schema);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_converter_changes_no_identity() {
        let before = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}}});
        let after = json!({"apiVersion": "g/v2", "kind": "K", "spec": 1,
            "metadata": {"name": "a", "uid": "u", "annotations": {"a": "b"}, "resourceVersion": "9"}});
        assert_eq!(
            checked(&before, after.clone(), "g/v2").unwrap(),
            json!({"apiVersion": "g/v2", "kind": "K", "spec": 1,
                "metadata": {"name": "a", "uid": "u", "annotations": {"a": "b"}}})
        );
        let mut other = after;
        other["metadata"]["name"] = "b".into();
        assert_eq!(checked(&before, other, "g/v2").unwrap_err(), "its metadata.name has changed");
    }
}
