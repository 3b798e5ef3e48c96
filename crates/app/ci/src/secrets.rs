//! Secrets and variables of a repository: `pipeline-secrets` for all, `REPOSITORY-secrets` for one; ConfigMaps
//! `pipeline-variables` and `REPOSITORY-variables` likewise.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use wharf_client::{Client, Gvr};
use wharf_control::action::CONFIG_MAPS;
use wharf_workflow::expr::Object;

use crate::api::NAMESPACE;

const SECRETS: Gvr = Gvr::fixed("", "v1", "secrets");

/// The `secrets` context.
pub(crate) async fn secrets(client: &Client, repository: &str) -> wharf_client::Result<Object> {
    read(client, &SECRETS, repository, "secrets", |text| {
        STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    })
    .await
}

/// The `vars` context.
pub(crate) async fn variables(client: &Client, repository: &str) -> wharf_client::Result<Object> {
    read(client, &CONFIG_MAPS, repository, "variables", |text| Some(text.to_owned())).await
}

async fn read(
    client: &Client,
    resource: &Gvr,
    repository: &str,
    suffix: &str,
    decode: impl Fn(&str) -> Option<String>,
) -> wharf_client::Result<Object> {
    let mut found = Object::new();
    for owner in ["pipeline", repository] {
        let Some(object) = client.get(resource, NAMESPACE, &format!("{owner}-{suffix}")).await? else {
            continue;
        };
        let data = object.get("data").and_then(Json::as_object).into_iter().flatten();
        for (name, value) in data {
            if let Some(value) = value.as_str().and_then(&decode) {
                found.set(name.clone(), value);
            }
        }
    }
    Ok(found)
}
