//! The platform's own kinds, as CustomResourceDefinitions applied at every start.

use anyhow::{Context, Result};
use wharf_client::{Client, Gvr};

const CUSTOM_RESOURCE_DEFINITIONS: Gvr =
    Gvr::fixed("apiextensions.k8s.io", "v1", "customresourcedefinitions");

/// The files under `crds/`.
const FILES: [(&str, &str); 3] = [
    ("ci.yaml", include_str!("../crds/ci.yaml")),
    ("rollouts.yaml", include_str!("../crds/rollouts.yaml")),
    ("scalers.yaml", include_str!("../crds/scalers.yaml")),
];

/// Applies all of them.
pub(crate) async fn install(client: &Client) -> Result<()> {
    for (name, text) in FILES {
        for document in wharf_api::codec::yaml_to_values(text).with_context(|| name.to_owned())? {
            client
                .apply(&CUSTOM_RESOURCE_DEFINITIONS, "wharf", &document)
                .await
                .with_context(|| name.to_owned())?;
        }
    }
    Ok(())
}
