//! Manifests: what they are, where they go, which image they run.

use std::{collections::HashMap, sync::Arc};

use anyhow::Context as _;
use http::Method;
use serde_json::Value;
use wharf_base::closest;
use wharf_client::{Client, Gvr};
use wharf_image::Reference;
use wharf_workflow::{Places, Problem};

use crate::wrong::Wrong;

fn text_of<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// `Kind name`, for people.
pub(super) fn title(object: &Value) -> String {
    format!("{} {}", text_of(object, "/kind"), text_of(object, "/metadata/name"))
}

/// One object of a manifest file.
pub(super) struct Manifest {
    pub(super) object: Value,
    file: String,
    places: Arc<Places>,
    /// Its document in the file.
    index: usize,
}

impl Manifest {
    /// Something wrong with one of its values.
    pub(super) fn problem(&self, path: &str, wrong: Wrong) -> Problem {
        wrong.at(&self.file, self.places.find(self.index, path))
    }

    /// `Kind name`, for people.
    pub(super) fn title(&self) -> String {
        title(&self.object)
    }

    pub(super) fn kind(&self) -> &str {
        text_of(&self.object, "/kind")
    }

    /// `FILE: Kind name`, for people.
    pub(super) fn place(&self) -> String {
        format!("{}: {}", self.file, self.title())
    }

    /// The API's refusal of it, at the value it is about.
    pub(super) fn refused(&self, resource: &str, error: &wharf_client::Error) -> Problem {
        let message = format!("cannot apply {}: {error}", self.title());
        match field_of(&error.to_string()) {
            None if error.is_wrong() => {
                let hint = format!("'kubectl explain {resource}' tells what such an object holds");
                self.problem("", Wrong::hinted(message, hint))
            }
            None => self.problem("", message.into()),
            Some(field) => {
                let hint =
                    format!("'kubectl explain {resource}{}' tells what belongs there", explained(field));
                self.problem(field, Wrong::hinted(message, hint))
            }
        }
    }
}

/// The objects of a manifest file, in order.
pub(super) fn read(file: &str, text: &str) -> Result<Vec<Manifest>, Problem> {
    let places = Arc::new(Places::read(file, text)?);
    let documents = wharf_api::codec::yaml_to_values(text).map_err(|error| {
        let hint =
            "write one object of 'apiVersion', 'kind' and 'metadata' in each document, with '---' between";
        Wrong::hinted(error.to_string(), hint).at(file, places.find(0, ""))
    })?;
    let mut manifests = Vec::new();
    for (index, object) in documents.into_iter().enumerate() {
        let manifest = Manifest { object, file: file.to_owned(), places: Arc::clone(&places), index };
        for (path, example) in
            [("apiVersion", "apps/v1"), ("kind", "Deployment"), ("metadata.name", "my-app")]
        {
            if text_of(&manifest.object, &format!("/{}", path.replace('.', "/"))).is_empty() {
                let hint = format!("every object has one, such as '{example}'");
                return Err(manifest.problem(path, Wrong::hinted(format!("the object has no {path}"), hint)));
            }
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

/// The field an API server's message is about: `unknown field "spec.x"`, `… is invalid: spec.x: Required value`,
/// `.spec.x: expected numeric`.
fn field_of(message: &str) -> Option<&str> {
    for quoted in ["unknown field \"", "duplicate field \""] {
        if let Some((_, rest)) = message.split_once(quoted) {
            return rest.split('"').next();
        }
    }
    let rest = match message.split_once(" is invalid: ") {
        Some((_, rest)) => rest.trim_start_matches('['),
        None => message.split(' ').find(|word| word.starts_with('.') && word.ends_with(':'))?,
    };
    let field = rest.split(": ").next()?.trim_end_matches(':').trim_start_matches('.');
    let good = |c: char| c.is_ascii_alphanumeric() || "._-[]/".contains(c);
    (!field.is_empty() && field.chars().all(good)).then_some(field)
}

/// What `kubectl explain` takes to list the fields beside one: `.spec.template`.
fn explained(field: &str) -> String {
    let mut path = String::new();
    let parts: Vec<&str> = field.split('.').collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        path.push('.');
        path.push_str(part.split('[').next().unwrap_or_default());
    }
    path
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
    pub(super) async fn find(&mut self, manifest: &Manifest) -> anyhow::Result<Kind> {
        let object = &manifest.object;
        let (version, kind) = (text_of(object, "/apiVersion"), text_of(object, "/kind"));
        if !self.known.contains_key(version) {
            let list = match self.client.call(Method::GET, &path_of(version), "", None).await {
                Err(error) if error.is_not_found() => {
                    let message = format!("{}: the cluster does not serve {version}", manifest.title());
                    let hint = self.version_hint(version, kind).await;
                    return Err(manifest.problem("apiVersion", Wrong { message, hint, at: None }).into());
                }
                other => other.with_context(|| format!("cannot ask what {version} is"))?,
            };
            self.known.insert(version.to_owned(), list);
        }
        let resources = self.known.get(version).and_then(|list| list.get("resources"));
        let resources = resources.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let whole = || resources.iter().filter(|resource| !text_of(resource, "/name").contains('/'));
        let Some(found) = whole().find(|resource| text_of(resource, "/kind") == kind) else {
            let message = format!("{version} has no kind {kind}");
            let hint = match closest(kind, whole().map(|resource| text_of(resource, "/kind"))) {
                Some(meant) => Some(format!("did you mean '{meant}'?")),
                None => self.version_hint(version, kind).await,
            };
            return Err(manifest.problem("kind", Wrong { message, hint, at: None }).into());
        };
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        Ok(Kind {
            gvr: Gvr::dynamic(group, version, text_of(found, "/name")),
            namespaced: found.get("namespaced").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// In which version the cluster has a kind, or which kind or version may be meant.
    async fn version_hint(&self, version: &str, kind: &str) -> Option<String> {
        let groups = self.client.call(Method::GET, "/apis", "", None).await.ok()?;
        let groups = groups.get("groups").and_then(Value::as_array)?;
        let versions = groups.iter().filter_map(|group| group.get("versions")?.as_array()).flatten();
        let versions: Vec<&str> =
            ["v1"].into_iter().chain(versions.map(|version| text_of(version, "/groupVersion"))).collect();
        let mut kinds: Vec<(String, &str)> = Vec::new();
        for version in &versions {
            let Ok(list) = self.client.call(Method::GET, &path_of(version), "", None).await else { continue };
            let resources = list.get("resources").and_then(Value::as_array).into_iter().flatten();
            kinds.extend(resources.map(|resource| (text_of(resource, "/kind").to_owned(), *version)));
        }
        let meant = closest(kind, kinds.iter().map(|(kind, _)| kind.as_str()));
        if let Some((meant, version)) = meant.and_then(|meant| kinds.iter().find(|(kind, _)| kind == meant)) {
            return Some(match meant == kind {
                true => format!("{kind} is in {version}"),
                false => format!("did you mean '{meant}' of {version}?"),
            });
        }
        let meant = closest(version, versions.iter().copied())?;
        Some(format!("did you mean '{meant}'? 'kubectl api-versions' lists what there is"))
    }
}

/// Where the API lists the kinds of a version.
fn path_of(version: &str) -> String {
    if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") }
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
    fn what_is_wrong_with_a_file_is_told_with_its_place() {
        let problem = |text: &str| match read("a.yaml", text) {
            Err(problem) => problem.to_string(),
            Ok(manifests) => format!("{} objects", manifests.len()),
        };
        for (text, expected) in [
            ("# none\n---\napiVersion: v1\nkind: A\nmetadata: {name: a}\n", "1 objects"),
            (
                "kind: A\napiVersion: v1\n---\n\nkind: B\napiVersion: v1\nmetadata:\n  labels: {}\n",
                "a.yaml:1:1: the object has no metadata.name\n  hint: every object has one, such as 'my-app'",
            ),
            (
                "kind: A\n\tx: 1\n",
                "a.yaml:1:7: this is not YAML: while scanning a plain scalar, found a tab\n  hint: indent with spaces",
            ),
            ("- a\n- b\n", "a.yaml:1:1: the object has no apiVersion"),
        ] {
            let seen = problem(text);
            assert!(seen.starts_with(expected), "{text}: {seen}");
        }
    }

    #[test]
    fn refusals_name_the_field() {
        for (message, field, beside) in [
            (r#"strict decoding error: unknown field "spec.replicaz""#, "spec.replicaz", ".spec"),
            (
                r#"Deployment.apps "web" is invalid: [spec.template.spec.containers[0].image: Required value, x]"#,
                "spec.template.spec.containers[0].image",
                ".spec.template.spec.containers",
            ),
            (
                "failed to create typed patch object (a/b; apps/v1, Kind=C): .spec.replicas: expected numeric",
                "spec.replicas",
                ".spec",
            ),
        ] {
            assert_eq!(field_of(message), Some(field), "{message}");
            assert_eq!(explained(field), beside);
        }
        for message in ["namespaces \"x\" not found", "it is invalid: see \"docs\"", ""] {
            assert_eq!(field_of(message), None, "{message}");
        }
    }
}
