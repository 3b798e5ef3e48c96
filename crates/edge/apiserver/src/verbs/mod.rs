//! The verbs on resources and their subresources.

mod body;
mod create;
mod delete;
mod eviction;
mod patch;
mod read;
mod subresource;
mod update;
mod watch;

use std::sync::Arc;

use http::{Request, Response};
use wharf_api::{resource::Resource, status::Status};
use wharf_http::Body;

use crate::{ApiServer, Context};

pub(crate) use body::{BodyKind, decode_body, decode_other};
pub(crate) use create::{Creation, create_object, new_uid};
use delete::finish_if_finalized;
pub(crate) use delete::{DeleteOptions, delete_object};
pub(crate) use subresource::{set_condition, subresource};
pub(crate) use update::{Change, WriteOptions, write_change};

/// Carries out a verb on a resource itself.
pub(crate) async fn dispatch(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    match context.info.verb {
        "get" => read::get(server, context, resource, request.headers()).await,
        "list" => read::list(server, context, resource, request.headers()).await,
        "watch" => watch::watch_as(server, context, resource, request).await,
        "create" => create::create(server, context, resource, request).await,
        "update" => update::update(server, context, resource, request).await,
        "patch" => patch::patch(server, context, resource, request).await,
        "delete" => delete::delete(server, context, resource, request).await,
        "deletecollection" => delete::delete_collection(server, context, resource, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}
