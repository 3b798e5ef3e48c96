//! create.

use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use wharf_api::{
    crd, defaults, meta,
    patch::{Manager, track_update},
    resource::Resource,
    status::Status,
};
use wharf_base::random_suffix;
use wharf_http::Body;
use wharf_state::{Error, Expect};

use super::{
    BodyKind, decode_body,
    update::{check_custom, invalid},
};
use crate::{
    ApiServer, Context,
    admission::{self, Attributes, Operation},
    read_body,
    respond::{self, Accept},
    storage::{Entry, Put, encode, storage_failure},
};

/// Names tried for `generateName` before giving up, as upstream.
const NAME_TRIES: usize = 8;
/// Longest generated prefix, so that the suffix fits into 63 characters.
const MAX_PREFIX: usize = 58;

pub(super) async fn create(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    if !context.info.name.is_empty() && context.info.resource != "namespaces" {
        return Err(Status::method_not_allowed());
    }
    let kind = body_kind(request.headers())?;
    let body = read_body(request).await?;
    let object = decode_body(context, resource, kind, &body)?;
    let dry_run = context.info.dry_run()?;
    let entry =
        create_object(server, context, resource, object, Creation { dry_run, applied: false }).await?;
    Ok(respond::object(201, accept, resource, &entry, server.now()))
}

fn body_kind(headers: &HeaderMap) -> Result<BodyKind, Status> {
    BodyKind::of(headers)
}

/// How an object is created.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Creation {
    /// Everything but the write.
    pub dry_run: bool,
    /// By server-side apply, which has said already who manages which field.
    pub applied: bool,
}

/// Creates a decoded object and gives it as stored (or as it would be, in a dry run).
pub(crate) async fn create_object(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    mut object: Value,
    how: Creation,
) -> Result<Arc<Entry>, Status> {
    place(context, resource, &mut object)?;
    let generated = meta::name(&object).is_empty() && !meta::text(&object, "generateName").is_empty();
    for attempt in 0..NAME_TRIES {
        let mut object = object.clone();
        if generated {
            let prefix: String = meta::text(&object, "generateName").chars().take(MAX_PREFIX).collect();
            meta::metadata_mut(&mut object)
                .insert("name".into(), format!("{prefix}{}", random_suffix(5)).into());
        }
        match try_create(server, context, resource, object, how).await {
            Err(status) if generated && status.reason == "AlreadyExists" && attempt + 1 < NAME_TRIES => {}
            result => return result,
        }
    }
    Err(Status::internal("no free name found"))
}

/// Puts the object into the namespace of the path.
fn place(context: &Context, resource: &Resource, object: &mut Value) -> Result<(), Status> {
    let given = meta::namespace(object).to_owned();
    let asked = &context.info.namespace;
    if !resource.namespaced {
        meta::metadata_mut(object).remove("namespace");
        return Ok(());
    }
    if asked.is_empty() {
        return Err(Status::method_not_allowed());
    }
    if !given.is_empty() && given != *asked {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::metadata_mut(object).insert("namespace".into(), asked.as_str().into());
    Ok(())
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn new_uid() -> String {
    let hex = wharf_base::random_hex(16);
    let variant = ["8", "9", "a", "b"][usize::from(hex.as_bytes()[16]) % 4];
    format!("{}-{}-4{}-{variant}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

async fn try_create(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    mut object: Value,
    how: Creation,
) -> Result<Arc<Entry>, Status> {
    let (qualified, stored_as) = (resource.qualified(), resource.storage_key());
    let gvk = &resource.gvk;
    if !meta::resource_version(&object).is_empty() {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let now = server.now().to_string();
    let metadata = meta::metadata_mut(&mut object);
    for gone in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(gone);
    }
    metadata.insert("uid".into(), new_uid().into());
    metadata.insert("creationTimestamp".into(), now.as_str().into());
    default(resource, &mut object);
    let attributes = Attributes::new(context, Operation::Create, resource, "");
    let attributes = attributes.about(meta::name(&object), None);
    admission::mutate(server, context, &attributes, &mut object).await?;
    match &resource.custom {
        None => defaults::prepare_for_create(&gvk.group, &gvk.version, &gvk.kind, &mut object),
        Some(_) => defaults::prepare_custom_for_create(resource.has("status"), &mut object),
    }
    by_whom(context, resource, &mut object);
    default(resource, &mut object);
    match &resource.custom {
        None => invalid(
            resource,
            &object,
            wharf_api::validate::create(&gvk.group, &gvk.version, &gvk.kind, &object),
        )?,
        Some(custom) => check_custom(resource, custom, &object, None)?,
    }
    admission::validate(server, context, &attributes, Some(&object)).await?;
    let allocated = server.ranges.assign(resource, None, &mut object)?;
    let manager = context.manager();
    let api_version = gvk.api_version();
    let who = Manager { name: &manager, api_version: &api_version, subresource: "", time: &now };
    if !how.applied {
        track_update(&json!({}), &mut object, &resource.ty, &who);
    }
    let name = meta::name(&object).to_owned();
    let key = format!("{}/{name}", if resource.namespaced { meta::namespace(&object) } else { "" });
    // In a dry run, too, what would be too much is refused.
    let charges = admission::quota::charge(server, &attributes, &object)?;
    if how.dry_run {
        if server.storage.get(&stored_as, &key).is_some() {
            return Err(Status::already_exists(&qualified, &name));
        }
        return entry_of(&stored_as, &key, &object, server.storage.revision());
    }
    let object = server.stored_form(resource, object).await?;
    let put = Put { qualified: stored_as, key, object: Some(object.clone()), expect: Expect::Absent };
    let allocated = allocated.writing();
    let written = write(server, &attributes, &object, put, charges).await;
    allocated.end(match &written {
        Err(Failed::Store(Error::Unknown { .. })) => None,
        known => Some(known.is_ok()),
    });
    match written {
        Ok(entry) => server.served_one(resource, entry).await,
        Err(Failed::Refused(status)) => Err(status),
        Err(Failed::Store(Error::Conflict { .. })) => Err(Status::already_exists(&qualified, &name)),
        Err(Failed::Store(error)) => Err(storage_failure(&error)),
    }
}

enum Failed {
    Refused(Status),
    Store(Error),
}

/// A quota that others keep changing is tried this often.
const TRIES: usize = 64;

/// Writes an object together with what quotas count of it, again when others changed a quota meanwhile.
async fn write(
    server: &Arc<ApiServer>,
    attributes: &Attributes<'_>,
    object: &Value,
    put: Put,
    mut charges: Vec<Put>,
) -> Result<Arc<Entry>, Failed> {
    for _ in 0..TRIES {
        let puts = std::iter::once(put.clone()).chain(charges).collect();
        match server.storage.commit(puts).await {
            Ok(entries) => {
                let lost = || Failed::Refused(Status::internal("the stored object cannot be read"));
                return entries.into_iter().next().ok_or_else(lost);
            }
            Err(Error::Conflict { write, .. }) if write > 0 => {
                charges = admission::quota::charge(server, attributes, object).map_err(Failed::Refused)?;
            }
            Err(error) => return Err(Failed::Store(error)),
        }
    }
    let why = "the quotas of its namespace were changed by others each time; try again";
    Err(Failed::Refused(Status::conflict(&attributes.resource.qualified(), meta::name(object), why)))
}

/// Fills in what the client left out.
pub(super) fn default(resource: &Resource, object: &mut Value) {
    let gvk = &resource.gvk;
    match &resource.custom {
        None => defaults::apply(&gvk.group, &gvk.version, &gvk.kind, object),
        Some(custom) => crd::apply_defaults(object, &custom.schema),
    }
}

/// Who asks for a certificate is part of what is asked.
fn by_whom(context: &Context, resource: &Resource, object: &mut Value) {
    if resource.gvk.kind != "CertificateSigningRequest" || resource.custom.is_some() {
        return;
    }
    let who = context.identity.to_json();
    let spec = meta::member_mut(object, "spec");
    for name in ["username", "uid", "groups", "extra"] {
        match who.get(name) {
            Some(value) => spec.insert(name.into(), value.clone()),
            None => spec.remove(name),
        };
    }
}

/// An entry that is not stored.
pub(super) fn entry_of(
    qualified: &str,
    key: &str,
    object: &Value,
    revision: u64,
) -> Result<Arc<Entry>, Status> {
    let entry = Entry::new(qualified, key, &encode(object), revision);
    entry.map(Arc::new).ok_or_else(|| Status::internal("the object cannot be encoded"))
}
