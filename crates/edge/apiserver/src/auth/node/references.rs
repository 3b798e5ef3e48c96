//! Which other objects a pod or a volume names.
//!
//! Source: Kubernetes' core/v1 types; the visitors of its pod and persistent volume utilities.

use serde_json::Value;

use crate::values::items;

/// What a pod refers to in its namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Referred {
    Account,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
}

/// A kind and a name in the pod's namespace.
pub(crate) type Reference = (Referred, String);

/// Where the volumes of a pod name a secret.
const SECRETS_OF_VOLUMES: &[(&str, &str)] = &[
    ("secret", "/secretName"),
    ("azureFile", "/secretName"),
    ("cephfs", "/secretRef/name"),
    ("cinder", "/secretRef/name"),
    ("csi", "/nodePublishSecretRef/name"),
    ("flexVolume", "/secretRef/name"),
    ("iscsi", "/secretRef/name"),
    ("rbd", "/secretRef/name"),
    ("scaleIO", "/secretRef/name"),
    ("storageos", "/secretRef/name"),
];

/// Everything a pod refers to, each once.
pub(crate) fn references(pod: &Value) -> Vec<Reference> {
    let spec = &pod["spec"];
    let mut all = Vec::new();
    let mut name = |kind: Referred, name: &Value| {
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
            all.push((kind, name.to_owned()));
        }
    };
    name(Referred::Account, &spec["serviceAccountName"]);
    for secret in items(&spec["imagePullSecrets"]) {
        name(Referred::Secret, &secret["name"]);
    }
    for container in ["initContainers", "containers", "ephemeralContainers"]
        .map(|l| &spec[l])
        .iter()
        .flat_map(|l| items(l))
    {
        for variable in items(&container["env"]) {
            let from = &variable["valueFrom"];
            name(Referred::Secret, &from["secretKeyRef"]["name"]);
            name(Referred::ConfigMap, &from["configMapKeyRef"]["name"]);
        }
        for from in items(&container["envFrom"]) {
            name(Referred::Secret, &from["secretRef"]["name"]);
            name(Referred::ConfigMap, &from["configMapRef"]["name"]);
        }
    }
    for volume in items(&spec["volumes"]) {
        for (kind, pointer) in SECRETS_OF_VOLUMES {
            name(Referred::Secret, volume[*kind].pointer(pointer).unwrap_or(&Value::Null));
        }
        for source in items(&volume["projected"]["sources"]) {
            name(Referred::Secret, &source["secret"]["name"]);
            name(Referred::ConfigMap, &source["configMap"]["name"]);
        }
        name(Referred::ConfigMap, &volume["configMap"]["name"]);
        name(Referred::Claim, &volume["persistentVolumeClaim"]["claimName"]);
        name(Referred::Claim, &ephemeral_claim(pod, volume));
    }
    for claim in items(&spec["resourceClaims"]) {
        name(Referred::ResourceClaim, &claim["resourceClaimName"]);
    }
    // Claims made from templates are named by the status.
    for claim in items(&pod["status"]["resourceClaimStatuses"]) {
        name(Referred::ResourceClaim, &claim["resourceClaimName"]);
    }
    name(Referred::ResourceClaim, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    all.sort();
    all.dedup();
    all
}

/// The claim a generic ephemeral volume is made of.
pub(crate) fn ephemeral_claim(pod: &Value, volume: &Value) -> Value {
    match (&volume["ephemeral"], volume["name"].as_str()) {
        (Value::Object(_), Some(name)) => format!("{}-{name}", wharf_api::meta::name(pod)).into(),
        _ => Value::Null,
    }
}

/// Keys (`namespace/name`) of the secrets a node needs to mount a volume.
pub(super) fn volume_secrets(volume: &Value) -> Vec<String> {
    const REFERENCES: &[(&str, &str)] = &[
        ("cephfs", "secretRef"),
        ("cinder", "secretRef"),
        ("flexVolume", "secretRef"),
        ("iscsi", "secretRef"),
        ("rbd", "secretRef"),
        ("scaleIO", "secretRef"),
        ("storageos", "secretRef"),
        ("csi", "nodePublishSecretRef"),
        ("csi", "nodeStageSecretRef"),
        ("csi", "nodeExpandSecretRef"),
    ];
    let spec = &volume["spec"];
    let claims = spec["claimRef"]["namespace"].as_str().unwrap_or_default();
    let key = |namespace: &Value, name: &Value| {
        let name = name.as_str().filter(|name| !name.is_empty())?;
        let namespace = namespace.as_str().filter(|namespace| !namespace.is_empty()).unwrap_or(claims);
        Some(format!("{namespace}/{name}"))
    };
    let file = &spec["azureFile"];
    let mut keys: Vec<String> = key(&file["secretNamespace"], &file["secretName"]).into_iter().collect();
    keys.extend(REFERENCES.iter().filter_map(|(kind, field)| {
        let reference = &spec[*kind][*field];
        key(&reference["namespace"], &reference["name"])
    }));
    keys
}
