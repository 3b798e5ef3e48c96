//! Nobody grants by a role or a binding what they do not hold.
//!
//! Source: Kubernetes' RBAC escalation check.

use serde_json::Value;
use wharf_api::{meta, resource::Resource, status::Status};

use crate::{ApiServer, Context, auth::Attributes};

/// Nobody grants what they do not hold, unless they may `escalate` or `bind`.
pub(super) fn check(
    server: &ApiServer,
    context: &Context,
    resource: &Resource,
    object: &Value,
) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    let is_binding = resource.plural.ends_with("bindings");
    let (verb, role_resource, role_name) = if is_binding {
        let kind = object["roleRef"]["kind"].as_str().unwrap_or_default();
        let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        ("bind", plural, object["roleRef"]["name"].as_str().unwrap_or_default())
    } else {
        ("escalate", resource.plural.as_str(), meta::name(object))
    };
    let asked = Attributes {
        verb,
        group: &resource.gvk.group,
        resource: role_resource,
        namespace,
        name: role_name,
        ..Attributes::default()
    };
    if server.authorizer.allows(&server.storage, &context.identity, &asked) {
        return Ok(());
    }
    let rules = if is_binding {
        let scope = if role_resource == "roles" { namespace } else { "" };
        let qualified = format!("{role_resource}.{}", resource.gvk.group);
        let role = server.storage.get(&qualified, &format!("{scope}/{role_name}"));
        role.ok_or_else(|| Status::not_found(&qualified, role_name))?.object()["rules"].clone()
    } else {
        object["rules"].clone()
    };
    let rules = rules.as_array().cloned().unwrap_or_default();
    if server.authorizer.escalates(&server.storage, &context.identity, namespace, &rules) {
        let (qualified, name) = (resource.qualified(), meta::name(object));
        return Err(Status::forbidden(format!(
            "{qualified} {name:?} is forbidden: user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held",
            context.identity.user, context.identity.groups
        ))
        .about(&qualified, name));
    }
    Ok(())
}
