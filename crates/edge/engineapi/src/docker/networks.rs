//! `/networks`.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_base::Digest;
use wharf_engine::{
    Engine,
    networks::{self, BRIDGE, HOST, NONE, UserNetwork},
};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, created, json_of, no_content},
    blocking,
    create::Endpoint,
    route::Filters,
};

/// The id of a network that is always there: the same on every machine.
pub(super) fn id_of(name: &str) -> String {
    Digest::of(format!("wharf network {name}").as_bytes()).hex()
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Wanted {
    name: String,
    driver: String,
    internal: bool,
    #[serde(rename = "EnableIPv6")]
    ipv6: bool,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPAM")]
    ipam: Option<Ipam>,
    options: Option<BTreeMap<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    config: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Membership {
    container: String,
    endpoint_config: Option<Endpoint>,
}

impl Docker {
    pub(super) async fn networks(&self, method: &Method, rest: &[&str], mut call: Call) -> Reply {
        let (engine, keeper) = (self.engine.clone(), std::sync::Arc::clone(&self.keeper));
        match (method.as_str(), rest) {
            ("GET", []) => {
                let filters = call.query.filters()?;
                filters.check(&["name", "id", "label", "label!", "driver", "type", "scope", "dangling"])?;
                blocking(move || Ok(json_of(&list(&engine, &filters)?))).await
            }
            ("POST", ["create"]) => {
                let wanted: Wanted = call.json().await?;
                let name = wanted.name.clone();
                let made = blocking(move || create(&engine, wanted)).await?;
                if let Ok(network) = networks::find(&self.data(), &name) {
                    keeper.tell_about("network", "create", &network.id, &about(&name));
                }
                Ok(made)
            }
            ("POST", ["prune"]) => {
                let filters = call.query.filters()?;
                filters.check(&["label", "label!"])?;
                blocking(move || {
                    let mut removed = Vec::new();
                    for network in networks::all(engine.data()) {
                        if filters.labels(&network.labels) && engine.members(&network)?.is_empty() {
                            engine.remove_network(&network.name)?;
                            removed.push(network.name);
                        }
                    }
                    Ok(json_of(&json!({ "NetworksDeleted": removed })))
                })
                .await
            }
            ("GET", [name]) => {
                let name = (*name).to_owned();
                blocking(move || Ok(json_of(&inspect(&engine, &name)?))).await
            }
            ("DELETE", [name]) => {
                let name = (*name).to_owned();
                let found = networks::find(&self.data(), &name);
                blocking(move || Ok(engine.remove_network(&name)?)).await?;
                if let Ok(network) = found {
                    keeper.tell_about("network", "destroy", &network.id, &about(&network.name));
                }
                Ok(no_content())
            }
            ("POST", [name, verb @ ("connect" | "disconnect")]) => {
                let wanted: Membership = call.json().await?;
                let (name, connect) = ((*name).to_owned(), *verb == "connect");
                let named = name.clone();
                let (_, container) = self.found(&wanted.container).await?;
                let record = container.record.clone();
                blocking(move || {
                    let aliases = wanted.endpoint_config.map(|endpoint| endpoint.aliases).unwrap_or_default();
                    match (networks::is_predefined(&name), connect) {
                        (true, true) if container.record.spec.network == name => Ok(()),
                        (true, true) => Err(Failure::not_supported(format!(
                            "containers are connected to {name} when they are made"
                        ))),
                        // Its address stays: it has one only.
                        (true, false) => Ok(()),
                        (false, true) => Ok(engine.join(&name, &container, aliases)?),
                        (false, false) => Ok(engine.leave(&name, &container)?),
                    }
                })
                .await?;
                let network = networks::find(&self.data(), &named);
                let (id, name) = network.map_or((id_of(&named), named), |network| (network.id, network.name));
                let told = [about(&name).as_slice(), &[("container", record.id.to_string())]].concat();
                keeper.tell_about("network", if connect { "connect" } else { "disconnect" }, &id, &told);
                Ok(answer::status(StatusCode::OK))
            }
            _ => Err(Failure::not_found(format!("page not found: {method} {}", call.head.uri.path()))),
        }
    }
}

fn about(name: &str) -> [(&'static str, String); 2] {
    [("name", name.to_owned()), ("type", BRIDGE.to_owned())]
}

fn create(engine: &Engine, wanted: Wanted) -> Reply {
    if !matches!(wanted.driver.as_str(), "" | "default" | "bridge") {
        return Err(Failure::not_supported(format!(
            "networks of the driver '{}' are not supported",
            wanted.driver
        )));
    }
    if wanted.internal {
        return Err(Failure::not_supported("networks without a way out (Internal) are not supported yet"));
    }
    let mut warnings = vec![
        "Containers of other networks can be reached too: networks give names, they do not keep others away.",
    ];
    if wanted.ipv6 {
        warnings.push("EnableIPv6 has no effect: addresses are IPv4.");
    }
    if wanted.ipam.and_then(|ipam| ipam.config).is_some_and(|config| !config.is_empty()) {
        warnings.push("IPAM.Config has no effect: addresses are assigned of one range.");
    }
    if wanted.options.is_some_and(|options| !options.is_empty()) {
        warnings.push("Options have no effect.");
    }
    let network = networks::create(engine.data(), &wanted.name, wanted.labels.unwrap_or_default())?;
    Ok(created(&json!({ "Id": network.id, "Warning": warnings.join(" ") })))
}

fn predefined(engine: &Engine, name: &str) -> Result<Value, Failure> {
    let mut containers = serde_json::Map::new();
    for container in engine.all()?.into_iter().filter(|c| c.is_running() && c.record.spec.network == name) {
        let address = engine.bridge().address(&container.id)?;
        containers.insert(container.id.to_string(), member(container.name(), address));
    }
    Ok(describe(&id_of(name), name, "2026-01-01T00:00:00Z", name, &BTreeMap::new(), containers))
}

fn member(name: &str, address: Option<std::net::Ipv4Addr>) -> Value {
    let address = address.map_or(String::new(), |address| format!("{address}/32"));
    json!({ "Name": name, "EndpointID": "", "MacAddress": "", "IPv4Address": address, "IPv6Address": "" })
}

fn describe(
    id: &str,
    name: &str,
    created: &str,
    driver: &str,
    labels: &BTreeMap<String, String>,
    containers: serde_json::Map<String, Value>,
) -> Value {
    let driver = if driver == NONE { "null" } else { driver };
    json!({
        "Name": name, "Id": id, "Created": created, "Scope": "local", "Driver": driver, "EnableIPv4": true, "EnableIPv6": false,
        "IPAM": { "Driver": "default", "Options": null, "Config": [] }, "Internal": false, "Attachable": false, "Ingress": false,
        "ConfigFrom": { "Network": "" }, "ConfigOnly": false, "Containers": containers, "Options": {}, "Labels": labels,
    })
}

fn of_user(engine: &Engine, network: &UserNetwork) -> Result<Value, Failure> {
    let mut containers = serde_json::Map::new();
    for (container, address) in
        engine.members(network)?.into_iter().filter(|(container, _)| container.is_running())
    {
        containers.insert(container.id.to_string(), member(container.name(), address));
    }
    Ok(describe(
        &network.id,
        &network.name,
        &network.created_at.to_nano(),
        BRIDGE,
        &network.labels,
        containers,
    ))
}

fn list(engine: &Engine, filters: &Filters) -> Result<Value, Failure> {
    let mut all = Vec::new();
    for name in [BRIDGE, HOST, NONE] {
        all.push((predefined(engine, name)?, false, BTreeMap::new()));
    }
    for network in networks::all(engine.data()) {
        all.push((of_user(engine, &network)?, true, network.labels));
    }
    all.retain(|(network, custom, labels)| {
        let text = |name: &str| network[name].as_str().unwrap_or_default();
        filters.fits("name", |name| text("Name").contains(name.trim_matches(['^', '$'])))
            && filters.fits("id", |id| text("Id").starts_with(id))
            && filters.fits("driver", |driver| text("Driver") == driver)
            && filters.fits("type", |kind| (kind == "custom") == *custom)
            && filters.fits("scope", |scope| scope == "local")
            && filters.labels(labels)
    });
    Ok(all.into_iter().map(|(network, _, _)| network).collect())
}

fn inspect(engine: &Engine, name: &str) -> Result<Value, Failure> {
    for known in [BRIDGE, HOST, NONE] {
        if name == known || (name.len() >= 4 && id_of(known).starts_with(name)) {
            return predefined(engine, known);
        }
    }
    of_user(engine, &networks::find(engine.data(), name)?)
}
