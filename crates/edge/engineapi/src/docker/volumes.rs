//! `/volumes`.

use std::{collections::BTreeMap, path::Path};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_base::random_hex;
use wharf_engine::volumes::{self, Volume};

use super::{
    Call, Docker,
    answer::{Failure, Reply, created, json_of, no_content},
    blocking,
};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Wanted {
    name: String,
    driver: String,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
}

/// The label of volumes nobody has named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

fn describe(data: &Path, volume: &Volume) -> Value {
    json!({
        "Name": volume.name, "Driver": "local", "Mountpoint": volumes::files(data, &volume.name),
        "CreatedAt": volume.created_at.to_nano(), "Labels": volume.labels, "Scope": "local",
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
    })
}

impl Docker {
    pub(super) async fn volumes(&self, method: &Method, rest: &[&str], mut call: Call) -> Reply {
        let (engine, data, keeper) = (self.engine.clone(), self.data(), std::sync::Arc::clone(&self.keeper));
        let driver = || [("driver", "local".to_owned())];
        match (method.as_str(), rest) {
            ("GET", []) => {
                let filters = call.query.filters()?;
                filters.check(&["name", "label", "label!", "driver", "dangling"])?;
                blocking(move || {
                    let mut found = volumes::all(&data);
                    found.retain(|volume| {
                        filters.fits("name", |name| volume.name.contains(name.trim_matches(['^', '$'])))
                            && filters.fits("driver", |driver| driver == "local")
                            && filters.labels(&volume.labels)
                    });
                    if filters.has("dangling") {
                        let wanted = filters.fits("dangling", |value| matches!(value, "true" | "1"));
                        let unused = |volume: &Volume| {
                            engine.users_of_volume(&volume.name).is_ok_and(|u| u.is_empty())
                        };
                        found.retain(|volume| unused(volume) == wanted);
                    }
                    let rows: Vec<Value> = found.iter().map(|volume| describe(&data, volume)).collect();
                    Ok(json_of(&json!({ "Volumes": rows, "Warnings": [] })))
                })
                .await
            }
            ("POST", ["create"]) => {
                let wanted: Wanted = call.json().await?;
                if !matches!(wanted.driver.as_str(), "" | "local") {
                    return Err(Failure::not_found(format!(
                        "volumes of the driver '{}' are not supported",
                        wanted.driver
                    )));
                }
                blocking(move || {
                    let mut labels = wanted.labels.unwrap_or_default();
                    let name = match wanted.name.is_empty() {
                        true => {
                            labels.insert(ANONYMOUS.to_owned(), String::new());
                            random_hex(32)
                        }
                        false => wanted.name,
                    };
                    let new = volumes::get(&data, &name).is_err();
                    let volume =
                        volumes::create(&data, &name, labels, wanted.driver_opts.unwrap_or_default())?;
                    if new {
                        keeper.tell_about("volume", "create", &name, &driver());
                    }
                    Ok(created(&describe(&data, &volume)))
                })
                .await
            }
            ("POST", ["prune"]) => {
                let filters = call.query.filters()?;
                filters.check(&["label", "label!", "all"])?;
                let all = filters.has("all") && filters.fits("all", |value| matches!(value, "true" | "1"));
                blocking(move || {
                    let (mut removed, mut bytes) = (Vec::new(), 0);
                    for volume in volumes::all(&data) {
                        let anonymous = volume.labels.contains_key(ANONYMOUS)
                            || (volume.name.len() == 64
                                && volume.name.bytes().all(|b| b.is_ascii_hexdigit()));
                        let unused = engine.users_of_volume(&volume.name)?.is_empty();
                        if unused && (all || anonymous) && filters.labels(&volume.labels) {
                            bytes += size(&volumes::files(&data, &volume.name));
                            engine.remove_volume(&volume.name)?;
                            removed.push(volume.name);
                        }
                    }
                    Ok(json_of(&json!({ "VolumesDeleted": removed, "SpaceReclaimed": bytes })))
                })
                .await
            }
            ("GET", [name]) => {
                let name = (*name).to_owned();
                blocking(move || Ok(json_of(&describe(&data, &volumes::get(&data, &name)?)))).await
            }
            ("DELETE", [name]) => {
                let (name, force) = ((*name).to_owned(), call.query.flag("force"));
                blocking(move || match engine.remove_volume(&name) {
                    Err(error) if force && error.kind == wharf_engine::ErrorKind::NotFound => Ok(()),
                    Ok(()) => {
                        keeper.tell_about("volume", "destroy", &name, &driver());
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                })
                .await?;
                Ok(no_content())
            }
            _ => Err(Failure::not_found(format!("page not found: {method} {}", call.head.uri.path()))),
        }
    }
}

/// Bytes of all files below a folder.
pub(super) fn size(folder: &Path) -> u64 {
    let mut open = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}
