//! Which resources an API server has now.

use serde::Deserialize;
use wharf_client::{Client, Gvr, Result, action::EVENTS};

/// A resource as discovery tells of it, in the version its group prefers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) resource: Gvr,
    pub(crate) kind: String,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl Found {
    /// Whether it has all of these verbs.
    pub(crate) fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|v| v == verb))
    }

    /// Whether it holds Events, under either of their groups.
    pub(crate) fn is_events(&self) -> bool {
        self.resource.resource == EVENTS.resource && matches!(&*self.resource.group, "" | "events.k8s.io")
    }
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

/// Every resource once, without subresources. Versions come in the order of preference.
///
/// # Errors
/// When any group cannot be asked: what is missing must not be taken for absent.
pub(crate) async fn discover(client: &Client) -> Result<Vec<Found>> {
    let groups: Groups = get(client, "/apis").await?;
    let mut versions = vec![(String::new(), "v1".to_owned())];
    for group in groups.groups {
        versions.extend(group.versions.into_iter().map(|v| (group.name.clone(), v.version)));
    }
    let mut found: Vec<Found> = Vec::new();
    for (group, version) in versions {
        let path = match group.is_empty() {
            true => format!("/api/{version}"),
            false => format!("/apis/{group}/{version}"),
        };
        let resources: Resources = get(client, &path).await?;
        for entry in resources.resources.into_iter().filter(|entry| !entry.name.contains('/')) {
            let same = |f: &Found| f.resource.group == group && f.resource.resource == entry.name;
            if !found.iter().any(same) {
                found.push(Found {
                    resource: Gvr::dynamic(&group, &version, &entry.name),
                    kind: entry.kind,
                    namespaced: entry.namespaced,
                    verbs: entry.verbs,
                });
            }
        }
    }
    Ok(found)
}

async fn get<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    let answer = client.call(http::Method::GET, path, "", None).await?;
    wharf_control::read(&answer)
        .map_err(|error| wharf_client::Error::Transport(format!("discovery of {path}: {error}")))
}
