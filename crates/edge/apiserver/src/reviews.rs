//! Reviews: questions the server answers and does not store.

use std::sync::Arc;

use http::{Request, Response};
use serde_json::{Value, json};
use wharf_api::{resource::Resource, status::Status};
use wharf_http::Body;

use crate::{
    ApiServer, Context, Identity,
    auth::{Attributes, Decision, ISSUER, node::node_of},
    read_body,
    respond::{self, Accept},
    verbs::{BodyKind, decode_body},
};

pub(crate) async fn answer(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    if context.info.verb != "create" {
        return Err(Status::method_not_allowed());
    }
    let accept = Accept::of(request.headers(), Some(resource))?;
    let kind = BodyKind::of(request.headers())?;
    let body = read_body(request).await?;
    let mut review = decode_body(context, resource, kind, &body)?;
    let spec = review["spec"].clone();
    review["status"] = match resource.plural.as_str() {
        "selfsubjectreviews" => json!({"userInfo": context.identity.to_json()}),
        "selfsubjectaccessreviews" => access(server, &context.identity, &spec),
        "subjectaccessreviews" | "localsubjectaccessreviews" => access(server, &subject(&spec), &spec),
        "selfsubjectrulesreviews" => {
            let namespace = spec["namespace"].as_str().unwrap_or_default();
            let (resources, paths) =
                server.authorizer.rules_json(&server.storage, &context.identity, namespace);
            let mut status =
                json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
            if node_of(&context.identity).is_some() {
                status["incomplete"] = true.into();
                status["evaluationError"] = "node authorizer does not support user rule resolution".into();
            }
            status
        }
        "tokenreviews" => token(server, &spec).await,
        _ => return Err(Status::no_such_path()),
    };
    if review.get("metadata").is_none() {
        review["metadata"] = json!({});
    }
    Ok(respond::plain(201, accept.format, &review))
}

fn subject(spec: &Value) -> Identity {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut identity = Identity::new(text(&spec["user"]), &[]);
    identity.groups = spec["groups"].as_array().into_iter().flatten().map(text).collect();
    identity
}

fn access(server: &ApiServer, identity: &Identity, spec: &Value) -> Value {
    let text = |v: &'static str| move |s: &Value| s[v].as_str().unwrap_or_default().to_owned();
    let resource = &spec["resourceAttributes"];
    let path = spec["nonResourceAttributes"]["path"].as_str();
    let verb = text("verb")(if path.is_some() { &spec["nonResourceAttributes"] } else { resource });
    let [group, name, namespace, plural, sub] =
        ["group", "name", "namespace", "resource", "subresource"].map(|field| text(field)(resource));
    let fields = selected_fields(&resource["fieldSelector"]);
    let asked = Attributes {
        verb: &verb,
        group: &group,
        resource: &plural,
        subresource: &sub,
        namespace: &namespace,
        name: &name,
        fields: &fields,
        path,
    };
    match server.authorizer.decide(&server.storage, identity, &asked) {
        Decision::Allowed(None) => json!({"allowed": true}),
        Decision::Allowed(Some(bound)) => json!({"allowed": true, "reason": bound.reason()}),
        Decision::Denied(why) if why.is_empty() => json!({"allowed": false}),
        Decision::Denied(why) => json!({"allowed": false, "reason": why}),
    }
}

/// A field selector of `resourceAttributes` in its query form. What has no such form selects less, so that leaving it
/// out allows nothing more.
fn selected_fields(selector: &Value) -> String {
    if let Some(raw) = selector["rawSelector"].as_str() {
        return raw.to_owned();
    }
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let parts = requirements.filter_map(|requirement| {
        let (key, value) = (requirement["key"].as_str()?, requirement["values"][0].as_str()?);
        let alone = requirement["values"].as_array().is_some_and(|values| values.len() == 1);
        (alone && requirement["operator"] == "In").then(|| format!("{key}={value}"))
    });
    parts.collect::<Vec<_>>().join(",")
}

async fn token(server: &ApiServer, spec: &Value) -> Value {
    let token = spec["token"].as_str().unwrap_or_default();
    let wanted: Vec<&str> = match spec["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).collect(),
        _ => vec![ISSUER],
    };
    let Some((identity, audiences)) = server.check_token(token).await else {
        return json!({"authenticated": false, "user": {}, "error": "invalid bearer token"});
    };
    let shared: Vec<&String> = audiences.iter().filter(|a| wanted.contains(&a.as_str())).collect();
    if shared.is_empty() {
        return json!({"authenticated": false, "user": {}, "error": "token audiences do not match"});
    }
    json!({"authenticated": true, "user": identity.to_json(), "audiences": shared})
}
