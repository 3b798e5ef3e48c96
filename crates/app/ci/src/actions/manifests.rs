//! Manifests: what they are, where they go, which image they run.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use http::Method;
use serde_json::Value;
use wharf_client::{Client, Gvr};
use wharf_image::Reference;

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `Kind name`, for people.
pub(super) fn title(object: &Value) -> String {
    format!("{} {}", text(object, "/kind"), text(object, "/metadata/name"))
}

/// Whether a document is an object that can be applied.
pub(super) fn check(object: &Value) -> Result<(), String> {
    for pointer in ["/apiVersion", "/kind", "/metadata/name"] {
        if text(object, pointer).is_empty() {
            return Err(format!("a document has no {}", pointer.trim_start_matches('/').replace('/', ".")));
        }
    }
    Ok(())
}

/// Domain and path of an image's name, as Docker completes it.
pub(super) fn repository(image: &str) -> String {
    // A tag beside a digest says nothing the digest does not.
    match image.parse::<Reference>() {
        Ok(reference) => reference.repository(),
        Err(_) => image.to_owned(),
    }
}

/// Gives every container that runs an image of the same repository this one. How many there were.
pub(super) fn set_image(object: &mut Value, image: &str) -> usize {
    let wanted = repository(image);
    let mut count = 0;
    each_pod_spec(object, &mut |spec| {
        for list in ["containers", "initContainers"] {
            for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                let same = container
                    .get("image")
                    .and_then(Value::as_str)
                    .is_some_and(|own| repository(own) == wanted);
                if same {
                    container["image"] = image.into();
                    count += 1;
                }
            }
        }
    });
    count
}

fn each_pod_spec(object: &mut Value, act: &mut dyn FnMut(&mut Value)) {
    for pointer in ["/spec/template/spec", "/spec/jobTemplate/spec/template/spec"] {
        if let Some(spec) = object.pointer_mut(pointer) {
            act(spec);
        }
    }
    if object.get("kind").and_then(Value::as_str) == Some("Pod")
        && let Some(spec) = object.get_mut("spec")
    {
        act(spec);
    }
}

/// Where objects of a kind go.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) gvr: Gvr,
    pub(super) namespaced: bool,
}

/// The kinds the API serves, looked up once each.
pub(super) struct Discovery {
    client: Client,
    known: HashMap<String, Value>,
}

impl Discovery {
    pub(super) fn new(client: Client) -> Self {
        Self { client, known: HashMap::new() }
    }

    /// Where an object goes.
    pub(super) async fn find(&mut self, object: &Value) -> anyhow::Result<Kind> {
        let (version, kind) = (text(object, "/apiVersion").to_owned(), text(object, "/kind").to_owned());
        if !self.known.contains_key(&version) {
            let path =
                if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
            let list = match self.client.call(Method::GET, &path, "", None).await {
                Err(error) if error.is_not_found() => {
                    bail!("{}: the cluster does not serve {version}", title(object))
                }
                other => other.with_context(|| format!("cannot ask what {version} is"))?,
            };
            self.known.insert(version.clone(), list);
        }
        let resources =
            self.known.get(&version).and_then(|list| list.get("resources")).and_then(Value::as_array);
        let found = resources
            .into_iter()
            .flatten()
            .find(|resource| text(resource, "/kind") == kind && !text(resource, "/name").contains('/'));
        let found = found.with_context(|| format!("{}: {version} has no kind {kind}", title(object)))?;
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        Ok(Kind {
            gvr: Gvr::dynamic(group, version, text(found, "/name")),
            namespaced: found.get("namespaced").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_image_goes_where_its_repository_is() {
        let image =
            "localhost:5000/shop@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let mut object = json!({"kind": "Deployment", "spec": {"template": {"spec": {
            "initContainers": [{"image": "localhost:5000/shop:old"}],
            "containers": [{"image": "localhost:5000/shop"}, {"image": "redis"}],
        }}}});
        assert_eq!(set_image(&mut object, image), 2);
        assert_eq!(object.pointer("/spec/template/spec/containers/0/image").unwrap(), image);
        assert_eq!(object.pointer("/spec/template/spec/containers/1/image").unwrap(), "redis");
        assert_eq!(set_image(&mut json!({"kind": "Service", "spec": {}}), image), 0);
        assert_eq!(repository("shop:main"), repository("docker.io/library/shop"));
    }

    #[test]
    fn documents_must_be_objects() {
        assert!(check(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}})).is_ok());
        assert_eq!(
            check(&json!({"apiVersion": "v1", "kind": "Service"})).unwrap_err(),
            "a document has no metadata.name"
        );
    }
}
