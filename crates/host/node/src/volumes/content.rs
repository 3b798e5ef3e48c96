//! Volumes whose files come from the API: ConfigMaps, Secrets, the pod itself, and service account tokens.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json};
use wharf_base::{Clock, SystemClock, Timestamp};
use wharf_client::action::SERVICE_ACCOUNTS;

use super::{failed, source, writer::FileContent};
use crate::{
    agent::Shared,
    env::Facts,
    model::{FieldRef, ResourceRef, Volume},
    step::Reason,
    watches::{Kind, ObjectName},
};

/// Tokens by volume and path, until they have to be renewed.
pub(crate) type Tokens = HashMap<(String, String), Token>;

#[derive(Debug, Clone)]
pub(crate) struct Token {
    text: String,
    renew: Timestamp,
}

/// What a volume's files are made of.
pub(crate) struct Projection {
    parts: Vec<Part>,
    mode: u32,
}

enum Part {
    Object { kind: Kind, wanted: Wanted },
    Pod(Vec<DownwardItem>),
    Token(TokenWanted),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Wanted {
    #[serde(alias = "secretName")]
    name: String,
    items: Vec<Item>,
    optional: bool,
    default_mode: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Item {
    key: String,
    path: String,
    mode: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Downward {
    items: Vec<DownwardItem>,
    default_mode: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct DownwardItem {
    path: String,
    field_ref: Option<FieldRef>,
    resource_field_ref: Option<ResourceRef>,
    mode: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TokenWanted {
    audience: String,
    expiration_seconds: Option<u64>,
    path: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Projected {
    sources: Vec<serde_json::Map<String, Value>>,
    default_mode: Option<u32>,
}

const DEFAULT_MODE: u32 = 0o644;

/// How a volume's files are made; nothing when its type has no files from the API.
pub(super) fn projection(volume: &Volume) -> Result<Option<Projection>, Reason> {
    let Some((kind, value)) = volume.source.iter().next() else { return Ok(None) };
    let (parts, mode) = match kind.as_str() {
        "configMap" | "secret" | "downwardAPI" => {
            let (part, mode) = part(volume, kind, value)?;
            (vec![part], mode)
        }
        "projected" => {
            let wanted: Projected = source(volume, value)?;
            let sources = wanted.sources.iter().flatten();
            let parts = sources.map(|(kind, value)| part(volume, kind, value).map(|(part, _)| part));
            (parts.collect::<Result<_, _>>()?, wanted.default_mode)
        }
        _ => return Ok(None),
    };
    Ok(Some(Projection { parts, mode: mode.unwrap_or(DEFAULT_MODE) }))
}

fn part(volume: &Volume, kind: &str, value: &Value) -> Result<(Part, Option<u32>), Reason> {
    let object = |kind| -> Result<_, Reason> {
        let wanted: Wanted = source(volume, value)?;
        let mode = wanted.default_mode;
        Ok((Part::Object { kind, wanted }, mode))
    };
    match kind {
        "configMap" => object(Kind::ConfigMap),
        "secret" => object(Kind::Secret),
        "downwardAPI" => {
            let wanted: Downward = source(volume, value)?;
            Ok((Part::Pod(wanted.items), wanted.default_mode))
        }
        "serviceAccountToken" => Ok((Part::Token(source(volume, value)?), None)),
        other => {
            Err(failed(&volume.name, format_args!("projected source {other} is not supported by this node")))
        }
    }
}

/// The files of a volume, and what they depend on.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) files: BTreeMap<String, FileContent>,
    pub(super) objects: Vec<ObjectName>,
    pub(super) renew: Option<Timestamp>,
}

/// Gathers the files of a volume as they should be now.
pub(super) async fn gather(
    shared: &Shared,
    facts: &Facts<'_>,
    volume: &Volume,
    projection: &Projection,
    tokens: &mut Tokens,
) -> Result<Gathered, Reason> {
    let mut gathered = Gathered::default();
    for part in &projection.parts {
        match part {
            Part::Object { kind, wanted } => {
                let name = (*kind, facts.pod.metadata.namespace.clone(), wanted.name.clone());
                gathered.objects.push(name);
                object_files(shared, facts, volume, *kind, wanted, projection.mode, &mut gathered.files)
                    .await?;
            }
            Part::Pod(items) => {
                for item in items {
                    let text = downward(facts, volume, item)?;
                    let mode = item.mode.unwrap_or(projection.mode);
                    put(&mut gathered.files, volume, &item.path, text.into_bytes(), mode)?;
                }
            }
            Part::Token(wanted) => {
                let token = token(shared, facts, volume, wanted, tokens).await?;
                gathered.renew = gathered.renew.into_iter().chain([token.renew]).min();
                put(&mut gathered.files, volume, &wanted.path, token.text.into_bytes(), projection.mode)?;
            }
        }
    }
    let group = facts.pod.spec.security_context.fs_group.and_then(|group| u32::try_from(group).ok());
    if let Some(group) = group {
        for file in gathered.files.values_mut() {
            file.group = Some(group);
            // The group the volumes belong to must be able to read them.
            file.mode |= 0o440;
        }
    }
    Ok(gathered)
}

async fn object_files(
    shared: &Shared,
    facts: &Facts<'_>,
    volume: &Volume,
    kind: Kind,
    wanted: &Wanted,
    mode: u32,
    files: &mut BTreeMap<String, FileContent>,
) -> Result<(), Reason> {
    let namespace = &facts.pod.metadata.namespace;
    let content = shared.objects.content(kind, namespace, &wanted.name).await;
    let content = match content.map_err(|reason| failed(&volume.name, reason.message))? {
        Some(content) => content,
        None if wanted.optional => return Ok(()),
        None => {
            let why = format!("{} {:?} not found", kind.word(), wanted.name);
            return Err(failed(&volume.name, why));
        }
    };
    if wanted.items.is_empty() {
        return content.into_iter().try_for_each(|(key, bytes)| put(files, volume, &key, bytes, mode));
    }
    for item in &wanted.items {
        match content.get(&item.key) {
            Some(bytes) => put(files, volume, &item.path, bytes.clone(), item.mode.unwrap_or(mode))?,
            None if wanted.optional => {}
            None => {
                let why = format!("references non-existent {} key: {}", kind.word(), item.key);
                return Err(failed(&volume.name, why));
            }
        }
    }
    Ok(())
}

fn downward(facts: &Facts<'_>, volume: &Volume, item: &DownwardItem) -> Result<String, Reason> {
    match (&item.field_ref, &item.resource_field_ref) {
        (Some(field), _) => facts
            .field(&field.field_path)
            .ok_or_else(|| failed(&volume.name, format_args!("unsupported field {:?}", field.field_path))),
        (None, Some(resource)) => {
            facts.resource(resource, None).map_err(|reason| failed(&volume.name, reason.message))
        }
        (None, None) => Err(failed(&volume.name, format_args!("item {:?} names no field", item.path))),
    }
}

fn put(
    files: &mut BTreeMap<String, FileContent>,
    volume: &Volume,
    path: &str,
    bytes: Vec<u8>,
    mode: u32,
) -> Result<(), Reason> {
    let fine = !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !fine {
        return Err(failed(&volume.name, format_args!("{path:?} is not a path below the volume")));
    }
    files.insert(path.to_owned(), FileContent { bytes, mode: mode & 0o777, group: None });
    Ok(())
}

const TOKEN_LIFE: u64 = 3600;

/// A token for the pod's service account, bound to the pod; a new one once four fifths of its life are over.
async fn token(
    shared: &Shared,
    facts: &Facts<'_>,
    volume: &Volume,
    wanted: &TokenWanted,
    tokens: &mut Tokens,
) -> Result<Token, Reason> {
    let now = SystemClock.now();
    let key = (volume.name.clone(), wanted.path.clone());
    if let Some(known) = tokens.get(&key).filter(|known| known.renew > now) {
        return Ok(known.clone());
    }
    let metadata = &facts.pod.metadata;
    let seconds = wanted.expiration_seconds.unwrap_or(TOKEN_LIFE);
    let audiences: Vec<&str> = Some(wanted.audience.as_str()).filter(|a| !a.is_empty()).into_iter().collect();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
        "audiences": audiences, "expirationSeconds": seconds,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata.name, "uid": metadata.uid}}});
    let account = match facts.pod.spec.service_account_name.as_str() {
        "" => "default",
        name => name,
    };
    let client = &shared.config.client;
    let answer = client.post(&SERVICE_ACCOUNTS, &metadata.namespace, account, "token", &request).await;
    let answer =
        answer.map_err(|error| failed(&volume.name, format_args!("failed to fetch token: {error}")))?;
    let text = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
    let expires = answer["status"]["expirationTimestamp"].as_str().and_then(|time| time.parse().ok());
    let life = expires.map_or(Duration::from_secs(seconds), |expires: Timestamp| expires.since(now));
    let token = Token { text, renew: now.plus(life * 4 / 5) };
    tokens.insert(key, token.clone());
    Ok(token)
}
