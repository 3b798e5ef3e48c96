//! update, and the part all changes of stored objects share.

use std::sync::Arc;

use http::{Request, Response};
use serde_json::Value;
use wharf_api::{
    crd, defaults, meta,
    patch::{Manager, track_update},
    resource::Resource,
    status::{Cause, Status},
    validate::FieldError,
};
use wharf_http::Body;
use wharf_state::{Error, Expect};

use super::{
    BodyKind,
    create::{Creation, create_object, default, entry_of},
    decode_body, finish_if_finalized,
};
use crate::{
    ApiServer, Context,
    admission::{self, Attributes, Operation},
    read_body,
    respond::{self, Accept},
    storage::{Entry, Put, storage_failure},
};

/// A change that others keep overtaking is tried this often.
const TRIES: usize = 16;

pub(super) async fn update(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    let kind = BodyKind::of(request.headers())?;
    let body = read_body(request).await?;
    let object = decode_body(context, resource, kind, &body)?;
    check_name(context, resource, &object)?;
    let options = WriteOptions { dry_run: context.info.dry_run()?, ..WriteOptions::default() };
    let change = |_: &Value| Ok(Change::Updated(object.clone()));
    let entry = write_change(server, context, resource, &options, change).await?;
    Ok(respond::object(200, accept, resource, &entry, server.now()))
}

/// The object must be the one the path names.
pub(super) fn check_name(context: &Context, resource: &Resource, object: &Value) -> Result<(), Status> {
    let info = &context.info;
    let (name, namespace) = (meta::name(object), meta::namespace(object));
    if name != info.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            info.name
        )));
    }
    if resource.namespaced && !namespace.is_empty() && namespace != info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// How a change is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    /// Check all, store nothing.
    pub dry_run: bool,
    /// `status`, or another subresource that decides which parts may change.
    pub subresource: &'static str,
}

/// The object as it should become.
pub(crate) enum Change {
    /// By an update or patch: ownership of changed fields moves to the writer.
    Updated(Value),
    /// By server-side apply: ownership is settled already.
    Applied(Value),
}

/// Reads the addressed object, changes it and writes it back, again if others were faster.
///
/// # Errors
/// What `change`, admission or validation refuse; 404 and 409.
pub(crate) async fn write_change(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    options: &WriteOptions,
    mut change: impl FnMut(&Value) -> Result<Change, Status>,
) -> Result<Arc<Entry>, Status> {
    let (qualified, stored_as) = (resource.qualified(), resource.storage_key());
    let key = ApiServer::key(resource, &context.info);
    let name = context.info.name.clone();
    for _ in 0..TRIES {
        let old_entry =
            server.storage.get(&stored_as, &key).ok_or_else(|| Status::not_found(&qualified, &name))?;
        let old_served = server.served_one(resource, Arc::clone(&old_entry)).await?;
        let old = old_served.object();
        let (mut new, applied) = match change(&old)? {
            Change::Updated(new) => (new, false),
            Change::Applied(new) => (new, true),
        };
        let asked = meta::resource_version(&new).to_owned();
        if !asked.is_empty() && asked != old_entry.revision.to_string() {
            return Err(modified(&qualified, &name));
        }
        keep_identity(&qualified, &mut new, &old)?;
        let warnings = context.warnings.len();
        prepare(server, context, resource, options, &mut new, &old).await?;
        // A binding owns no fields, as upstream.
        if !applied && options.subresource != "binding" {
            record_manager(server, context, resource, options, &mut new, &old);
        }
        let allocated = server.ranges.assign(resource, Some(&old), &mut new)?;
        // An object stored in another version than that of now, or by another key, is written even when nothing else
        // changes.
        let is_current = *old_entry.api_version == resource.stored.api_version();
        if new == old && is_current && !server.stale.contains(&stored_as, &key) {
            return Ok(old_served);
        }
        let attributes = Attributes::new(context, Operation::Update, resource, options.subresource);
        let attributes = attributes.about(&name, Some(&old));
        let charges = admission::quota::charge(server, &attributes, &new)?;
        if options.dry_run {
            return entry_of(&stored_as, &key, &new, old_entry.revision);
        }
        let finished = finish_if_finalized(&new);
        let gone = finished.then(|| new.clone());
        let new = server.stored_form(resource, new).await?;
        let put = Put {
            qualified: stored_as.clone(),
            key: key.clone(),
            object: (!finished).then_some(new),
            expect: Expect::At(old_entry.revision),
        };
        let charged = !charges.is_empty();
        let puts = std::iter::once(put).chain(charges).collect();
        let allocated = allocated.writing();
        let written = server.storage.commit(puts).await;
        allocated.end(match &written {
            Err(Error::Unknown { .. }) => None,
            known => Some(known.is_ok()),
        });
        match written {
            Ok(entries) => {
                if let Some(gone) = gone {
                    server.ranges.freed(resource, &gone);
                    return entry_of(&stored_as, &key, &gone, server.storage.revision());
                }
                let entry = entries.into_iter().next();
                let entry = entry.ok_or_else(|| Status::internal("the stored object cannot be read"))?;
                return server.served_one(resource, entry).await;
            }
            Err(Error::Conflict { write, .. }) => {
                context.warnings.truncate(warnings);
                // A quota that others changed meanwhile is no reason to trouble the client.
                if !asked.is_empty() && (!charged || write == 0) {
                    return Err(modified(&qualified, &name));
                }
            }
            Err(other) => return Err(storage_failure(&other)),
        }
    }
    Err(modified(&qualified, &name))
}

fn modified(qualified: &str, name: &str) -> Status {
    Status::conflict(
        qualified,
        name,
        "the object has been modified; please apply your changes to the latest version and try again",
    )
}

/// Metadata that no client changes is taken from the stored object.
fn keep_identity(qualified: &str, new: &mut Value, old: &Value) -> Result<(), Status> {
    let (uid, old_uid) = (meta::text(new, "uid").to_owned(), meta::text(old, "uid"));
    if !uid.is_empty() && uid != old_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
        return Err(Status::conflict(qualified, meta::name(old), &why));
    }
    let metadata = meta::metadata_mut(new);
    let kept = [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
        "generation",
        "generateName",
        "selfLink",
    ];
    for field in kept {
        match old.pointer(&format!("/metadata/{field}")) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    Ok(())
}

async fn prepare(
    server: &ApiServer,
    context: &mut Context,
    resource: &Arc<Resource>,
    options: &WriteOptions,
    new: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    let gvk = &resource.gvk;
    let (group, version, kind) = (&gvk.group, &gvk.version, &gvk.kind);
    let to_status = matches!(options.subresource, "status" | "approval");
    let to_part = matches!(options.subresource, "ephemeralcontainers" | "resize");
    let has_status = resource.has("status");
    // These change the stored object by themselves, also parts that an update keeps as they are.
    let by_itself = matches!(options.subresource, "binding" | "finalize");
    // These were asked about as what the request says they are.
    let asked = matches!(options.subresource, "binding" | "scale");
    // First: what only a default makes equal is no change, and counts as none.
    default(resource, new);
    let attributes = Attributes::new(context, Operation::Update, resource, options.subresource);
    let attributes = attributes.about(meta::name(old), Some(old));
    if !asked {
        admission::mutate(server, context, &attributes, new).await?;
        default(resource, new);
    }
    match (&resource.custom, to_status) {
        _ if by_itself => {}
        (None, true) => {
            defaults::prepare_for_status_update(group, version, kind, new, old);
            if kind == "CertificateSigningRequest" {
                let now = server.now().to_string();
                defaults::prepare_certificate_request(options.subresource, &now, new, old);
            }
        }
        (None, false) if to_part => {
            defaults::prepare_for_part_update(options.subresource, group, kind, new, old)
        }
        (None, false) => defaults::prepare_for_update(group, version, kind, new, old),
        (Some(_), true) => defaults::prepare_custom_for_status_update(new, old),
        (Some(_), false) => defaults::prepare_custom_for_update(has_status, new, old),
    }
    match &resource.custom {
        None if to_status => Ok(()),
        None if to_part => {
            invalid(resource, new, wharf_api::validate::pod_part(options.subresource, new, old))
        }
        None if matches!(options.subresource, "" | "scale") => {
            invalid(resource, new, wharf_api::validate::update(group, version, kind, new, old))
        }
        // Binding, finalize and the like are checked where they are carried out.
        None => Ok(()),
        Some(custom) => check_custom(resource, custom, new, Some(old)),
    }?;
    if asked { Ok(()) } else { admission::validate(server, context, &attributes, Some(new)).await }
}

fn record_manager(
    server: &ApiServer,
    context: &Context,
    resource: &Resource,
    options: &WriteOptions,
    new: &mut Value,
    old: &Value,
) {
    let (manager, now, api_version) =
        (context.manager(), server.now().to_string(), resource.gvk.api_version());
    let who =
        Manager { name: &manager, api_version: &api_version, subresource: options.subresource, time: &now };
    track_update(old, new, &resource.ty, &who);
}

/// 422 with every field error, or nothing.
pub(super) fn invalid(resource: &Resource, object: &Value, errors: Vec<FieldError>) -> Result<(), Status> {
    let causes = errors
        .into_iter()
        .map(|e| Cause { reason: e.reason.code().to_owned(), field: e.field.clone(), message: e.body() })
        .collect::<Vec<_>>();
    invalid_causes(resource, object, causes)
}

fn invalid_causes(resource: &Resource, object: &Value, causes: Vec<Cause>) -> Result<(), Status> {
    if causes.is_empty() {
        return Ok(());
    }
    let name = match meta::name(object) {
        "" => meta::text(object, "generateName"),
        name => name,
    };
    Err(Status::invalid(&resource.gvk.kind, &resource.gvk.group, name, causes))
}

pub(super) fn check_custom(
    resource: &Resource,
    custom: &crd::Custom,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    const BLOCKING: [&str; 4] =
        ["FieldValueTypeInvalid", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany"];
    let mut causes = crd::validate(object, old, &custom.schema);
    if causes.iter().any(|cause| BLOCKING.contains(&cause.reason.as_str())) {
        if !custom.rules.is_empty() {
            let message = "Invalid value: \"null\": some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            causes.push(Cause {
                reason: "FieldValueInvalid".into(),
                field: "<nil>".into(),
                message: message.into(),
            });
        }
    } else {
        causes.extend(custom.rules.validate(object, old));
    }
    let errors =
        wharf_api::validate::create(&resource.gvk.group, &resource.gvk.version, &resource.gvk.kind, object);
    causes.extend(errors.into_iter().map(|e| Cause {
        reason: e.reason.code().to_owned(),
        field: e.field.clone(),
        message: e.body(),
    }));
    invalid_causes(resource, object, causes)
}

/// Creates when the object is not there, for server-side apply.
pub(super) async fn create_applied(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    object: Value,
    dry_run: bool,
) -> Result<Arc<Entry>, Status> {
    create_object(server, context, resource, object, Creation { dry_run, applied: true }).await
}
