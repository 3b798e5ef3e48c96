//! What extension servers serve, for discovery.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{Service, get};
use crate::ApiServer;

/// How long what a server said is believed.
const FRESH: Duration = Duration::from_secs(10);
/// How long a client of discovery waits for one of them.
const PATIENCE: Duration = Duration::from_secs(3);

/// A group and version of another server with its resources, in the form of aggregated discovery.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub service: Service,
    /// None when the server did not say.
    pub resources: Option<Value>,
}

/// What servers said last, by APIService.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<String, (Instant, Value)>>);

/// Every version that other servers serve, in their order.
pub(crate) async fn remotes(server: &ApiServer) -> Vec<Remote> {
    let services = server.services.all(server);
    let said = services.iter().map(|service| async move {
        let resources = if service.available { resources(server, service).await } else { None };
        Remote { service: service.clone(), resources }
    });
    join_all(said).await
}

async fn resources(server: &ApiServer, service: &Service) -> Option<Value> {
    let known = |map: &HashMap<String, (Instant, Value)>| {
        map.get(&service.name).filter(|(since, _)| since.elapsed() < FRESH).map(|(_, value)| value.clone())
    };
    if let Some(value) = known(&server.discovered.0.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Some(value);
    }
    let path = format!("/apis/{}/{}", service.group, service.version);
    let list = get(server, service, &path, "application/json", PATIENCE).await.ok()?;
    let value = aggregated(&list, service);
    let mut map = server.discovered.0.lock().unwrap_or_else(PoisonError::into_inner);
    map.insert(service.name.clone(), (Instant::now(), value.clone()));
    Some(value)
}

/// A legacy resource list in the form of aggregated discovery.
fn aggregated(list: &Value, service: &Service) -> Value {
    let all: Vec<&Value> = list["resources"].as_array().into_iter().flatten().collect();
    let name = |r: &Value| r["name"].as_str().unwrap_or_default().to_owned();
    let kind = |r: &Value| {
        let or =
            |field: &str, own: &str| r[field].as_str().filter(|t| !t.is_empty()).unwrap_or(own).to_owned();
        json!({"group": or("group", &service.group), "version": or("version", &service.version), "kind": r["kind"]})
    };
    let top = all.iter().filter(|r| !name(r).contains('/'));
    top.map(|r| {
        let mut entry = json!({"resource": r["name"], "responseKind": kind(r), "verbs": r["verbs"],
            "scope": if r["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": r["singularName"]});
        for field in ["shortNames", "categories"] {
            if r[field].is_array() {
                entry[field] = r[field].clone();
            }
        }
        let prefix = format!("{}/", name(r));
        let below = all.iter().filter_map(|s| Some((name(s).strip_prefix(&prefix)?.to_owned(), s)));
        let below: Vec<Value> = below
            .map(|(sub, s)| json!({"subresource": sub, "responseKind": kind(s), "verbs": s["verbs"]}))
            .collect();
        if !below.is_empty() {
            entry["subresources"] = below.into();
        }
        entry
    })
    .collect()
}
