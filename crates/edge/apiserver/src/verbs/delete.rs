//! delete and deletecollection: preconditions, grace, finalizers, propagation.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use http::{Request, Response};
use serde_json::{Value, json};
use wharf_api::{meta, resource::Resource, status::Status};
use wharf_http::Body;
use wharf_state::{Error, Expect};

use super::{
    BodyKind,
    body::{decode_other, meta_type},
    read::Selection,
};
use crate::{
    ApiServer, Context,
    admission::{self, Attributes, Operation},
    read_body,
    respond::{self, Accept},
    storage::{Entry, Put, storage_failure},
};

const TRIES: usize = 16;
/// Objects of a collection that are deleted at the same time.
const AT_ONCE: usize = 64;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const CLEAN_UP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Resources whose deletion is answered with what was deleted, as upstream; others get a Status.
const ANSWERED: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// How to delete.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    grace: Option<i64>,
    uid: Option<String>,
    revision: Option<String>,
    propagation: Option<String>,
    dry_run: bool,
}

impl DeleteOptions {
    async fn of(context: &Context, request: Request<Body>) -> Result<Self, Status> {
        let kind = BodyKind::of(request.headers())?;
        let body = read_body(request).await?;
        let info = &context.info;
        let mut options = Self {
            grace: info.number("gracePeriodSeconds")?,
            propagation: info.param("propagationPolicy").map(str::to_owned),
            dry_run: info.dry_run()?,
            ..Self::default()
        };
        if info.flag("orphanDependents") {
            options.propagation = Some("Orphan".into());
        }
        if !body.is_empty() {
            let object = decode_other(kind, &body, &*meta_type("DeleteOptions")?)?;
            options.read(&object);
        }
        match options.propagation.as_deref() {
            None | Some("Foreground" | "Background" | "Orphan") => Ok(options),
            Some(other) => Err(Status::new(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            )),
        }
    }

    /// From a `metav1.DeleteOptions` inside another object.
    pub(super) fn from_object(object: &Value) -> Self {
        let mut options = Self::default();
        options.read(object);
        options
    }

    fn read(&mut self, object: &Value) {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        self.grace = object["gracePeriodSeconds"].as_i64().or(self.grace);
        self.uid = text(&object["preconditions"]["uid"]);
        self.revision = text(&object["preconditions"]["resourceVersion"]);
        self.propagation = text(&object["propagationPolicy"]).or(self.propagation.take());
        match object["orphanDependents"].as_bool() {
            Some(true) => self.propagation = Some("Orphan".into()),
            Some(false) if self.propagation.is_none() => self.propagation = Some("Background".into()),
            _ => {}
        }
        if object["dryRun"].as_array().is_some_and(|d| !d.is_empty()) {
            self.dry_run = true;
        }
    }

    /// Nothing is to happen.
    pub(super) fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn check(&self, qualified: &str, entry: &Entry, object: &Value) -> Result<(), Status> {
        let uid = meta::text(object, "uid");
        if let Some(wanted) = self.uid.as_deref().filter(|wanted| *wanted != uid) {
            let why =
                format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}");
            return Err(Status::conflict(qualified, entry.name(), &why));
        }
        let revision = entry.revision.to_string();
        if let Some(wanted) = self.revision.as_deref().filter(|wanted| *wanted != revision) {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {revision}"
            );
            return Err(Status::conflict(qualified, entry.name(), &why));
        }
        Ok(())
    }
}

pub(super) async fn delete(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    let options = DeleteOptions::of(context, request).await?;
    let key = ApiServer::key(resource, &context.info);
    match delete_object(server, context, resource, &key, &options).await? {
        Deleted::Gone(object) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {"name": context.info.name, "group": resource.gvk.group, "kind": resource.plural,
                    "uid": meta::text(&object, "uid")}});
            let whole = ANSWERED.contains(&(resource.gvk.group.as_str(), resource.plural.as_str()));
            Ok(respond::plain(200, accept.format, if whole { &object } else { &status }))
        }
        Deleted::Later(entry) => {
            let entry = server.served_one(resource, entry).await?;
            Ok(respond::object(200, accept, resource, &entry, server.now()))
        }
    }
}

/// What became of an object that was to be deleted.
pub(crate) enum Deleted {
    /// It is gone; this was it.
    Gone(Value),
    /// It goes when its finalizers or its grace period are done.
    Later(Arc<Entry>),
}

/// Whether an object whose deletion was asked for has nothing left to wait for.
pub(crate) fn finish_if_finalized(object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let namespace_finalizers = object["kind"] == "Namespace"
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    meta::is_deleting(object)
        && meta::finalizers(object).is_empty()
        && grace.unwrap_or(0) == 0
        && !namespace_finalizers
}

/// Deletes one object, or marks it.
pub(crate) async fn delete_object(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    key: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let (qualified, stored_as) = (resource.qualified(), resource.storage_key());
    let (namespace, name) = key.split_once('/').unwrap_or(("", key));
    for _ in 0..TRIES {
        let entry = server.storage.get(&stored_as, key).ok_or_else(|| Status::not_found(&qualified, name))?;
        let old = entry.object();
        options.check(&qualified, &entry, &old)?;
        let served = server.served_one(resource, Arc::clone(&entry)).await?.object();
        let mut attributes =
            Attributes::new(context, Operation::Delete, resource, "").about(name, Some(&served));
        attributes.namespace = namespace.to_owned();
        attributes.dry_run |= options.dry_run;
        admission::validate(server, context, &attributes, None).await?;
        let mut new = old.clone();
        mark(server, resource, &mut new, options);
        let gone = finish_if_finalized(&new);
        if !gone && new == old {
            return Ok(Deleted::Later(entry));
        }
        if options.dry_run {
            return Ok(Deleted::Gone(served));
        }
        let object = (!gone).then_some(new);
        let put = Put {
            qualified: stored_as.clone(),
            key: key.to_owned(),
            object,
            expect: Expect::At(entry.revision),
        };
        match server.storage.commit(vec![put]).await {
            Ok(entries) => {
                if gone {
                    server.ranges.freed(resource, &old);
                    return Ok(Deleted::Gone(served));
                }
                let entry = entries.into_iter().next();
                return entry
                    .map(Deleted::Later)
                    .ok_or_else(|| Status::internal("the stored object cannot be read"));
            }
            Err(Error::Conflict { .. }) => {}
            Err(other) => return Err(storage_failure(&other)),
        }
    }
    Err(Status::conflict(&qualified, name, "the object is changed too often to be deleted; try again"))
}

/// Sets what a deletion leaves on an object that is not gone at once.
fn mark(server: &ApiServer, resource: &Resource, object: &mut Value, options: &DeleteOptions) {
    let grace = grace_of(resource, object, options);
    let was = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    let deleting = meta::is_deleting(object);
    let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    let set = |finalizers: &mut Vec<String>, name: &str, wanted: bool| {
        finalizers.retain(|f| f != name);
        if wanted {
            finalizers.push(name.to_owned());
        }
    };
    if let Some(policy) = &options.propagation {
        set(&mut finalizers, FOREGROUND, policy == "Foreground");
        set(&mut finalizers, ORPHAN, policy == "Orphan");
    } else if !deleting && orphans(resource) && !finalizers.iter().any(|f| f == FOREGROUND) {
        set(&mut finalizers, ORPHAN, true);
    }
    if !deleting && resource.plural == "customresourcedefinitions" {
        // Its objects go first; the controller that deletes them then takes this away.
        set(&mut finalizers, CLEAN_UP, true);
    }
    let metadata = meta::metadata_mut(object);
    match finalizers.is_empty() {
        true => metadata.remove("finalizers"),
        false => metadata.insert("finalizers".into(), finalizers.into()),
    };
    // A second deletion may only shorten the wait.
    if !deleting || was.is_some_and(|was| grace < was) {
        let due = server.now().plus(Duration::from_secs(grace.unsigned_abs()));
        metadata.insert("deletionTimestamp".into(), due.to_string().into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|_| !deleting) {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    if resource.plural == "namespaces" && resource.gvk.group.is_empty() {
        meta::member_mut(object, "status").insert("phase".into(), "Terminating".into());
    }
}

/// Kinds older than garbage collection leave their dependents alone, unless a client says otherwise.
fn orphans(resource: &Resource) -> bool {
    matches!(
        (resource.gvk.group.as_str(), resource.plural.as_str()),
        ("", "replicationcontrollers") | ("batch", "jobs")
    )
}

/// Seconds an object is given. Only pods on a node need any: their containers stop first.
fn grace_of(resource: &Resource, object: &Value, options: &DeleteOptions) -> i64 {
    if resource.plural != "pods" || !resource.gvk.group.is_empty() {
        return 0;
    }
    let scheduled = object["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let finished = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !scheduled || finished {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    options.grace.unwrap_or(own).max(0)
}

pub(super) async fn delete_collection(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    let selection = Selection::of(&context.info, resource)?;
    let options = DeleteOptions::of(context, request).await?;
    let snapshot = server.storage.cache(&resource.storage_key()).snapshot();
    let namespace = if resource.namespaced { context.info.namespace.as_str() } else { "" };
    let mut selected: Vec<Arc<Entry>> = snapshot.range(namespace, None).cloned().collect();
    if selection.needs_form() {
        selected = server.served(resource, selected).await?;
    }
    selected.retain(|entry| selection.selects(entry));
    // At once, so that the store writes many in one transaction.
    for some in selected.chunks(AT_ONCE) {
        let asking = &*context;
        let deletes = some.iter().map(|entry| {
            let options = &options;
            async move {
                let mut own = Context::asking(asking);
                delete_object(server, &mut own, resource, &entry.key, options).await
            }
        });
        let failed = |result: &Result<Deleted, Status>| {
            result.as_ref().err().is_some_and(|status| status.reason != "NotFound")
        };
        if let Some(Err(status)) = join_all(deletes).await.into_iter().find(failed) {
            return Err(status);
        }
    }
    let meta = respond::ListMeta { revision: server.storage.revision(), next: None, remaining: None };
    let selected = server.served(resource, selected).await?;
    Ok(respond::list(accept, resource, &selected, &meta, server.now(), respond::IncludeObject::Metadata))
}
