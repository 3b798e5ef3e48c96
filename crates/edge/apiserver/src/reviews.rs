//! Reviews: questions the server answers and does not store.

use std::sync::Arc;

use http::{Request, Response};
use serde_json::{Value, json};
use wharf_api::{resource::Resource, status::Status};
use wharf_http::Body;

use crate::{
    ApiServer, Context, Identity,
    auth::{Attributes, ISSUER},
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
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        "tokenreviews" => token(server, &spec),
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
    let asked = Attributes {
        verb: &verb,
        group: &group,
        resource: &plural,
        subresource: &sub,
        namespace: &namespace,
        name: &name,
        path,
    };
    json!({"allowed": server.authorizer.allows(&server.storage, identity, &asked)})
}

fn token(server: &ApiServer, spec: &Value) -> Value {
    let token = spec["token"].as_str().unwrap_or_default();
    let wanted: Vec<&str> = match spec["audiences"].as_array() {
        Some(list) if !list.is_empty() => list.iter().filter_map(Value::as_str).collect(),
        _ => vec![ISSUER],
    };
    let claims = server.signing_key.check(token, server.now()).filter(|c| server.token_alive(&c.subject));
    match claims {
        None => json!({"authenticated": false, "user": {}, "error": "invalid bearer token"}),
        Some(claims) => {
            let shared: Vec<&String> =
                claims.audiences.iter().filter(|a| wanted.contains(&a.as_str())).collect();
            if shared.is_empty() {
                return json!({"authenticated": false, "user": {}, "error": "token audiences do not match"});
            }
            json!({"authenticated": true, "user": claims.identity().to_json(), "audiences": shared})
        }
    }
}
