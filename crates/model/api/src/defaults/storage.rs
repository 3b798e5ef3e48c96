//! Conditional defaults of volumes and drivers.

use serde_json::{Map, Value, json};

use super::image;
use super::row::{self, Fixed, Row};
use crate::table::tree;
use Fixed::{Int, Text, Truth};

/// Rows of a volume of a pod.
const VOLUME: &[Row] = &[
    Row("secret.defaultMode", Int(0o644)),
    Row("configMap.defaultMode", Int(0o644)),
    Row("downwardAPI.defaultMode", Int(0o644)),
    Row("downwardAPI.items[].fieldRef.apiVersion", Text("v1")),
    Row("projected.defaultMode", Int(0o644)),
    Row("projected.sources[].serviceAccountToken.expirationSeconds", Int(3600)),
    Row("projected.sources[].downwardAPI.items[].fieldRef.apiVersion", Text("v1")),
    Row("ephemeral.volumeClaimTemplate.spec+.volumeMode", Text("Filesystem")),
];

/// Rows of the sources that pods and persistent volumes share.
const SOURCE: &[Row] = &[
    Row("hostPath.type", Text("")),
    Row("iscsi.iscsiInterface", Text("default")),
    Row("rbd.pool", Text("rbd")),
    Row("rbd.user", Text("admin")),
    Row("rbd.keyring", Text("/etc/ceph/keyring")),
    Row("azureDisk.cachingMode", Text("ReadWrite")),
    Row("azureDisk.fsType", Text("ext4")),
    Row("azureDisk.kind", Text("Shared")),
    Row("azureDisk.readOnly", Truth(false)),
    Row("scaleIO.storageMode", Text("ThinProvisioned")),
    Row("scaleIO.fsType", Text("xfs")),
];

/// Fills in a volume of a pod. A volume without any source is an empty directory.
pub(super) fn volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_none_or(|fields| fields.iter().any(|(key, source)| key != "name" && !source.is_null()));
    if !has_source {
        tree::set(volume, "emptyDir", Value::Object(Map::new()));
    }
    row::apply(VOLUME, volume);
    row::apply(SOURCE, volume);
    if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
        let policy = image::pull_policy(tree::text(image, "/reference"));
        tree::set_empty(image, "pullPolicy", policy);
    }
}

/// Fills in the source of a persistent volume.
pub(super) fn volume_source_of_persistent_volume(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        row::apply(SOURCE, spec);
    }
}

/// A driver's volumes outlive their pods unless it says otherwise.
pub(super) fn csi_driver(object: &mut Value) {
    if tree::list(object, "/spec/volumeLifecycleModes").is_empty()
        && let Some(spec) = object.get_mut("spec")
    {
        tree::set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
}
