//! `/networks`.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_base::Digest;
use wharf_engine::{
    Container, Engine, Place,
    networks::{self, BRIDGE, HOST, NONE, NetworkWish, UserNetwork},
};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, created, json_of, merged, no_content},
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
    options: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    config: Option<Vec<Pool>>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Pool {
    subnet: String,
    gateway: String,
    #[serde(rename = "IPRange")]
    range: String,
    #[serde(rename = "AuxiliaryAddresses")]
    auxiliary: Option<BTreeMap<String, String>>,
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
                let (network, warnings) = blocking(move || create(&engine, wanted)).await?;
                keeper.tell_about("network", "create", &network.bridge.id, &about(&network.name));
                Ok(created(&json!({ "Id": network.bridge.id, "Warning": warnings.join(" ") })))
            }
            ("POST", ["prune"]) => {
                let filters = call.query.filters()?;
                filters.check(&["label", "label!"])?;
                blocking(move || {
                    let mut removed = Vec::new();
                    for network in networks::all(engine.data()) {
                        if filters.labels(&network.labels) && engine.members(&network.name)?.is_empty() {
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
                    keeper.tell_about("network", "destroy", &network.bridge.id, &about(&network.name));
                }
                Ok(no_content())
            }
            ("POST", [name, verb @ ("connect" | "disconnect")]) => {
                let wanted: Membership = call.json().await?;
                let (name, connect) = ((*name).to_owned(), *verb == "connect");
                let named = name.clone();
                let (_, container) = self.found(&wanted.container).await?;
                let record = container.record.clone();
                blocking(move || match connect {
                    true => {
                        let endpoint = wanted.endpoint_config.unwrap_or_default().read(&name)?;
                        Ok(engine.join(&name, &container, endpoint)?)
                    }
                    false => Ok(engine.leave(&name, &container)?),
                })
                .await?;
                let network = networks::find(&self.data(), &named);
                let (id, name) =
                    network.map_or((id_of(&named), named), |network| (network.bridge.id, network.name));
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

/// Makes a network; gives it with what of the request has no effect.
fn create(engine: &Engine, wanted: Wanted) -> Result<(UserNetwork, Vec<String>), Failure> {
    if !matches!(wanted.driver.as_str(), "" | "default" | "bridge") {
        return Err(Failure::not_supported(format!(
            "networks of the driver '{}' are not supported",
            wanted.driver
        )));
    }
    let mut warnings = Vec::new();
    let options = wanted.options.unwrap_or_default();
    let mut wish = NetworkWish {
        name: wanted.name,
        labels: wanted.labels.unwrap_or_default(),
        internal: wanted.internal,
        ipv6: wanted.ipv6.then_some((None, None)),
        ..NetworkWish::default()
    };
    for (option, value) in &options {
        match option.as_str() {
            "com.docker.network.driver.mtu" => {
                let wrong = || Failure::bad(format!("{value} is not a size of packets in bytes ({option})"));
                wish.mtu = Some(value.parse().map_err(|_| wrong())?);
            }
            _ => warnings.push(format!("The option {option} has no effect.")),
        }
    }
    wish.options = options;
    if let Some(ipam) = wanted.ipam {
        addresses(ipam, &mut wish, &mut warnings)?;
    }
    Ok((engine.create_network(wish)?, warnings))
}

/// The addresses a network is to have.
fn addresses(ipam: Ipam, wish: &mut NetworkWish, warnings: &mut Vec<String>) -> Result<(), Failure> {
    if !matches!(ipam.driver.as_str(), "" | "default") {
        let driver = ipam.driver;
        return Err(Failure::not_supported(format!("the IPAM driver '{driver}' is not supported")));
    }
    if ipam.options.is_some_and(|options| !options.is_empty()) {
        warnings.push("IPAM.Options have no effect.".to_owned());
    }
    let pools = ipam.config.unwrap_or_default().into_iter().filter(|pool| !pool.subnet.is_empty());
    let (of_ipv6, of_ipv4): (Vec<Pool>, Vec<Pool>) = pools.partition(|pool| pool.subnet.contains(':'));
    if of_ipv4.len() > 1 || of_ipv6.len() > 1 {
        return Err(Failure::not_supported(
            "a network has one subnet, and one of IPv6: give --subnet once for each",
        ));
    }
    if !of_ipv6.is_empty() && wish.ipv6.is_none() {
        return Err(Failure::bad(format!(
            "invalid subnet {}: the network is made without --ipv6",
            of_ipv6[0].subnet
        )));
    }
    for pool in of_ipv4.iter().chain(&of_ipv6) {
        if pool.auxiliary.as_ref().is_some_and(|auxiliary| !auxiliary.is_empty()) {
            warnings.push("AuxiliaryAddresses have no effect.".to_owned());
        }
    }
    if let Some(pool) = of_ipv4.first() {
        wish.subnet = Some(read(&pool.subnet, "subnet")?);
        wish.range = read_some(&pool.range, "IP range")?;
        wish.gateway = read_some(&pool.gateway, "gateway address")?;
    }
    if let Some(pool) = of_ipv6.first() {
        if !pool.range.is_empty() {
            return Err(Failure::not_supported(
                "ranges of IPv6 are not supported: addresses are given in order",
            ));
        }
        wish.ipv6 = Some((Some(read(&pool.subnet, "subnet")?), read_some(&pool.gateway, "gateway address")?));
    }
    Ok(())
}

fn read<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| Failure::bad(format!("invalid {what} {text}: invalid CIDR block or address")))
}

fn read_some<T: std::str::FromStr>(text: &str, what: &str) -> Result<Option<T>, Failure> {
    if text.is_empty() { Ok(None) } else { read(text, what).map(Some) }
}

/// What every network has, with the fields that differ in their places.
fn describe(name: &str, id: &str, more: Value) -> Value {
    let usual = json!({
        "Name": name, "Id": id, "Created": "2026-01-01T00:00:00Z", "Scope": "local", "Driver": BRIDGE, "EnableIPv4": true,
        "EnableIPv6": false, "IPAM": { "Driver": "default", "Options": null, "Config": [] }, "Internal": false,
        "Attachable": false, "Ingress": false, "ConfigFrom": { "Network": "" }, "ConfigOnly": false, "Containers": {},
        "Options": {}, "Labels": {},
    });
    merged([usual, more])
}

fn predefined(engine: &Engine, name: &str) -> Result<Value, Failure> {
    let id = id_of(name);
    if name != BRIDGE {
        let mut containers = serde_json::Map::new();
        for container in engine.all()?.iter().filter(|c| c.is_running() && c.record.spec.network == name) {
            containers.insert(container.id.to_string(), member(container, &id, None));
        }
        let driver = if name == NONE { "null" } else { name };
        return Ok(describe(name, &id, json!({ "Driver": driver, "Containers": containers })));
    }
    let config = engine.bridge().range()?.map(|range| json!({ "Subnet": range, "Gateway": range.gateway() }));
    let ipam =
        json!({ "Driver": "default", "Options": null, "Config": config.into_iter().collect::<Vec<_>>() });
    Ok(describe(name, &id, json!({ "IPAM": ipam, "Containers": members(engine, name, &id)? })))
}

fn members(engine: &Engine, name: &str, id: &str) -> Result<Value, Failure> {
    let running = engine.members(name)?.into_iter().filter(|(container, _)| container.is_running());
    Ok(running
        .map(|(container, place)| (container.id.to_string(), member(&container, id, place.as_ref())))
        .collect::<serde_json::Map<_, _>>()
        .into())
}

fn member(container: &Container, network: &str, place: Option<&Place>) -> Value {
    let address = place.map_or(String::new(), |place| format!("{}/{}", place.address, place.prefix));
    json!({
        "Name": container.name(), "EndpointID": endpoint_id(container, network),
        "MacAddress": place.map_or(String::new(), |place| hardware(place.hardware)), "IPv4Address": address,
        "IPv6Address": place.and_then(|place| place.ipv6).map_or(String::new(), |over| format!("{}/{}", over.address, over.prefix)),
    })
}

/// The id of a container's place in a network.
pub(super) fn endpoint_id(container: &Container, network: &str) -> String {
    Digest::of(format!("{} in {network}", container.id).as_bytes()).hex()
}

/// A hardware address as it is written.
pub(super) fn hardware(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

fn of_user(engine: &Engine, network: &UserNetwork) -> Result<Value, Failure> {
    let bridge = &network.bridge;
    let mut pool = json!({ "Subnet": bridge.subnet, "Gateway": bridge.gateway });
    if let Some(range) = bridge.range {
        pool["IPRange"] = json!(range);
    }
    let mut pools = vec![pool];
    pools.extend(bridge.ipv6.map(|side| json!({ "Subnet": side.subnet, "Gateway": side.gateway })));
    let more = json!({
        "Created": network.created_at.to_nano(), "IPAM": { "Driver": "default", "Options": {}, "Config": pools }, "EnableIPv6": bridge.ipv6.is_some(),
        "Internal": bridge.internal, "Containers": members(engine, &network.name, &bridge.id)?,
        "Options": network.options, "Labels": network.labels,
    });
    Ok(describe(&network.name, &bridge.id, more))
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
