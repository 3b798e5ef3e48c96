//! Requests by resource, with objects as JSON values.

use std::{fmt::Write as _, future::Future, path::Path, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{Method, Request, header};
use http_body_util::combinators::UnsyncBoxBody;
use kube::core::WatchEvent;
use serde_json::{Value, json};

use crate::{Error, Gvr, PatchKind, Result};

/// An answer of an API server called in process.
pub type Response = http::Response<UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>>;

/// An API server that is called by function: takes a request with its whole body.
pub type InProcess =
    Arc<dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Response> + Send>> + Send + Sync>;

/// Talks to one API server. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
}

/// Which objects of a resource.
#[derive(Debug, Clone, Default)]
pub struct ListParams {
    /// Namespace; all when empty.
    pub namespace: String,
    /// Label selector; all when empty.
    pub labels: String,
    /// Field selector; all when empty.
    pub fields: String,
}

impl ListParams {
    /// Everything in one namespace.
    pub fn namespace(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..Self::default() }
    }

    fn query(&self) -> String {
        let mut query = String::from("?");
        for (name, value) in [("labelSelector", &self.labels), ("fieldSelector", &self.fields)] {
            if !value.is_empty() {
                let _ = write!(query, "{name}={}&", escape(value));
            }
        }
        query
    }
}

/// Objects as they all were at one revision.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects. Those of a typed list carry no `apiVersion` and `kind` of their own on some servers.
    pub items: Vec<Value>,
    /// The revision.
    pub resource_version: String,
}

impl Client {
    /// A client of an API server in this process. Requests carry no credentials: `server` must know the caller.
    pub fn in_process(server: InProcess) -> Self {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = Arc::clone(&server);
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                Ok::<_, kube::Error>(server(Request::from_parts(parts, body)).await)
            }
        });
        Self { inner: kube::Client::new(service, "default") }
    }

    /// A client of the cluster a kubeconfig file names.
    ///
    /// # Errors
    /// When the file cannot be read or names nothing usable.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self> {
        let unusable = |e: &dyn std::fmt::Display| Error::Transport(format!("{}: {e}", path.display()));
        let file = kube::config::Kubeconfig::read_from(path).map_err(|e| unusable(&e))?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|e| unusable(&e))?;
        Ok(Self { inner: kube::Client::try_from(config)? })
    }

    /// kube-rs' own client, for what is not here.
    pub fn kube(&self) -> &kube::Client {
        &self.inner
    }

    /// One object, `None` when it is not there.
    ///
    /// # Errors
    /// Whatever the server answers but 404.
    pub async fn get(&self, resource: &Gvr, namespace: &str, name: &str) -> Result<Option<Value>> {
        match self.call(Method::GET, &path(resource, namespace, name, None), "", None).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects that fit.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn list(&self, resource: &Gvr, params: &ListParams) -> Result<List> {
        let path = path(resource, &params.namespace, "", None) + &params.query();
        let mut list = self.call(Method::GET, &path, "", None).await?;
        let resource_version =
            list.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or("0");
        let resource_version = resource_version.to_owned();
        let items = match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        };
        Ok(List { items, resource_version })
    }

    /// What changes after `resource_version`. Ends when the server ends it.
    ///
    /// # Errors
    /// Whatever the server answers; 410 when that version is no longer kept.
    pub async fn watch(
        &self,
        resource: &Gvr,
        params: &ListParams,
        resource_version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>>> + Send + use<>> {
        let path = path(resource, &params.namespace, "", None)
            + &params.query()
            + &format!(
                "watch=true&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={resource_version}"
            );
        let request = Request::get(path).body(Vec::new()).map_err(|e| Error::Transport(e.to_string()))?;
        let events = self.inner.request_events::<Value>(request).await?;
        Ok(events.map(|event: Result<_, kube::Error>| event.map_err(Error::from)))
    }

    /// Creates an object; gives it as stored.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn create(&self, resource: &Gvr, namespace: &str, object: &Value) -> Result<Value> {
        self.call(Method::POST, &path(resource, namespace, "", None), "application/json", Some(object)).await
    }

    /// Replaces an object or one of its subresources; gives it as stored.
    ///
    /// # Errors
    /// Whatever the server answers; 409 when it changed since `metadata.resourceVersion`.
    pub async fn update(&self, resource: &Gvr, subresource: Option<&str>, object: &Value) -> Result<Value> {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        let path = path(resource, text("/metadata/namespace"), text("/metadata/name"), subresource);
        self.call(Method::PUT, &path, "application/json", Some(object)).await
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn post(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value> {
        let path = path(resource, namespace, name, Some(subresource));
        self.call(Method::POST, &path, "application/json", Some(body)).await
    }

    /// Patches an object or one of its subresources; gives it as stored.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn patch(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        kind: PatchKind,
        body: &Value,
    ) -> Result<Value> {
        let media_type = match kind {
            PatchKind::Merge => "application/merge-patch+json",
            PatchKind::Json => "application/json-patch+json",
        };
        self.call(Method::PATCH, &path(resource, namespace, name, subresource), media_type, Some(body)).await
    }

    /// Merge-patches the status of an object.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn patch_status(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        status: &Value,
    ) -> Result<Value> {
        let body = json!({"status": status});
        self.patch(resource, namespace, name, Some("status"), PatchKind::Merge, &body).await
    }

    /// Applies an object (server-side apply) as `manager`, taking over fields others manage.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn apply(&self, resource: &Gvr, manager: &str, object: &Value) -> Result<Value> {
        let path = apply_path(resource, manager, object);
        self.call(Method::PATCH, &path, APPLY, Some(object)).await
    }

    /// As [`apply`](Self::apply), but unknown and repeated fields are refused. Gives the server's warnings too. A dry run
    /// stores nothing.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn apply_strict(
        &self,
        resource: &Gvr,
        manager: &str,
        object: &Value,
        dry_run: bool,
    ) -> Result<(Value, Vec<String>)> {
        let mut path = apply_path(resource, manager, object) + "&fieldValidation=Strict";
        if dry_run {
            path += "&dryRun=All";
        }
        self.send(Method::PATCH, &path, APPLY, Some(object)).await
    }

    /// Deletes an object with these `DeleteOptions` (null for none).
    ///
    /// # Errors
    /// Whatever the server answers, 404 included.
    pub async fn delete(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value> {
        let body = (!options.is_null()).then_some(options);
        self.call(Method::DELETE, &path(resource, namespace, name, None), "application/json", body).await
    }

    /// Deletes every object of a resource in a namespace.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn delete_collection(&self, resource: &Gvr, namespace: &str) -> Result<Value> {
        self.call(Method::DELETE, &path(resource, namespace, "", None), "", None).await
    }

    /// Any request whose answer is JSON.
    ///
    /// # Errors
    /// Whatever the server answers.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Option<&Value>,
    ) -> Result<Value> {
        self.send(method, path, media_type, body).await.map(|(answer, _)| answer)
    }

    /// As [`call`](Self::call), with the warnings of the answer.
    async fn send(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: Option<&Value>,
    ) -> Result<(Value, Vec<String>)> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = request.body(body.into()).map_err(|e| Error::Transport(e.to_string()))?;
        let (parts, body) = self.inner.send(request).await?.into_parts();
        let body = body.collect_bytes().await?;
        if parts.status.is_client_error() || parts.status.is_server_error() {
            return Err(Error::answered(parts.status.as_u16(), &body));
        }
        let answer = serde_json::from_slice(&body).map_err(|e| Error::Transport(e.to_string()))?;
        let warnings = parts.headers.get_all(header::WARNING).iter();
        Ok((answer, warnings.filter_map(|value| warning(value.to_str().ok()?)).collect()))
    }
}

const APPLY: &str = "application/apply-patch+yaml";

fn apply_path(resource: &Gvr, manager: &str, object: &Value) -> String {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    path(resource, text("/metadata/namespace"), text("/metadata/name"), None)
        + &format!("?fieldManager={}&force=true", escape(manager))
}

/// The text of a `Warning` header: `299 - "text"`, with backslashes before quotes and backslashes.
fn warning(header: &str) -> Option<String> {
    let quoted = header.splitn(3, ' ').nth(2)?.strip_prefix('"')?;
    let mut text = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some(text),
            '\\' => text.push(characters.next()?),
            other => text.push(other),
        }
    }
}

/// The path of a resource, an object or a subresource. Empty parts are left out.
fn path(resource: &Gvr, namespace: &str, name: &str, subresource: Option<&str>) -> String {
    let mut path = match resource.group.is_empty() {
        true => format!("/api/{}", resource.version),
        false => format!("/apis/{}/{}", resource.group, resource.version),
    };
    if !namespace.is_empty() {
        let _ = write!(path, "/namespaces/{}", escape(namespace));
    }
    let _ = write!(path, "/{}", resource.resource);
    if !name.is_empty() {
        let _ = write!(path, "/{}", escape(name));
    }
    if let Some(subresource) = subresource {
        let _ = write!(path, "/{subresource}");
    }
    path
}

/// Percent-encodes everything but unreserved characters (RFC 3986 §2.3).
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{DEPLOYMENTS, PODS};

    #[test]
    fn paths() {
        assert_eq!(path(&PODS, "", "", None), "/api/v1/pods");
        let pod = serde_json::json!({"metadata": {"name": "b", "namespace": "a"}});
        assert_eq!(apply_path(&PODS, "me", &pod), "/api/v1/namespaces/a/pods/b?fieldManager=me&force=true");
        assert_eq!(path(&PODS, "a", "b", Some("log")), "/api/v1/namespaces/a/pods/b/log");
        assert_eq!(path(&DEPLOYMENTS, "a", "b/c", None), "/apis/apps/v1/namespaces/a/deployments/b%2Fc");
    }

    #[test]
    fn warnings() {
        assert_eq!(warning(r#"299 - "a \"b\" \\c""#).as_deref(), Some(r#"a "b" \c"#));
        assert_eq!(warning("299 - bare"), None);
        assert_eq!(warning(r#"299 - "open"#), None);
    }
}
