//! Storage: volumes, claims, classes, attachments, drivers.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, Row, Table, boolean, column, integer, text, tree, wide};

const VOLUME: &[Column] = &[
    NAME,
    column("Capacity", "Size of the volume"),
    column("Access Modes", "Ways the volume may be mounted"),
    column("Reclaim Policy", "What happens once the claim is gone"),
    column("Status", "Phase of the volume"),
    column("Claim", "Claim that uses the volume"),
    column("StorageClass", "Class of the volume"),
    column("VolumeAttributesClass", "Class of the volume's attributes"),
    column("Reason", "Why the volume is in its phase"),
    AGE,
    wide("VolumeMode", "File system or block device"),
];
const CLAIM: &[Column] = &[
    NAME,
    column("Status", "Phase of the claim"),
    column("Volume", "Volume that is bound"),
    column("Capacity", "Size of the volume"),
    column("Access Modes", "Ways the volume may be mounted"),
    column("StorageClass", "Class of the volume"),
    column("VolumeAttributesClass", "Class of the volume's attributes"),
    AGE,
    wide("VolumeMode", "File system or block device"),
];
const CLASS: &[Column] = &[
    NAME,
    column("Provisioner", "Who makes the volumes"),
    column("ReclaimPolicy", "What happens once the claim is gone"),
    column("VolumeBindingMode", "When volumes are made and bound"),
    column("AllowVolumeExpansion", "Whether volumes may grow"),
    AGE,
];
const ATTRIBUTES_CLASS: &[Column] = &[NAME, column("DriverName", "Driver of the class"), AGE];
const ATTACHMENT: &[Column] = &[
    NAME,
    column("Attacher", "Driver that attaches the volume"),
    column("PV", "Volume"),
    column("Node", "Node the volume is attached to"),
    boolean("Attached", "Whether it is attached"),
    AGE,
];
const DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired", "Whether volumes must be attached first"),
    boolean("PodInfoOnMount", "Whether the driver is told of the pod"),
    boolean("StorageCapacity", "Whether the driver reports its capacity"),
    column("TokenRequests", "Audiences of the tokens the driver is given"),
    boolean("RequiresRepublish", "Whether volumes are published again and again"),
    column("Modes", "Ways of living the volumes support"),
    AGE,
];
const CSI_NODE: &[Column] = &[NAME, integer("Drivers", "Drivers on the node"), AGE];
const CAPACITY: &[Column] = &[
    NAME,
    column("StorageClassName", "Class the capacity is for"),
    column("Capacity", "Space that is left"),
];

pub(super) const TABLES: &[Table] = &[
    Table { group: "", resource: "persistentvolumes", columns: VOLUME, cells: volume },
    Table { group: "", resource: "persistentvolumeclaims", columns: CLAIM, cells: claim },
    Table { group: "storage.k8s.io", resource: "storageclasses", columns: CLASS, cells: class },
    Table {
        group: "storage.k8s.io",
        resource: "volumeattributesclasses",
        columns: ATTRIBUTES_CLASS,
        cells: attributes_class,
    },
    Table { group: "storage.k8s.io", resource: "volumeattachments", columns: ATTACHMENT, cells: attachment },
    Table { group: "storage.k8s.io", resource: "csidrivers", columns: DRIVER, cells: driver },
    Table { group: "storage.k8s.io", resource: "csinodes", columns: CSI_NODE, cells: csi_node },
    Table { group: "storage.k8s.io", resource: "csistoragecapacities", columns: CAPACITY, cells: capacity },
];

/// The annotation that named the class before the field did.
const CLASS_ANNOTATION: &str = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";

fn volume(row: &Row<'_>) -> Vec<Value> {
    let claim = match row.at("/spec/claimRef") {
        Value::Null => String::new(),
        claim => format!("{}/{}", tree::text(claim, "/namespace"), tree::text(claim, "/name")),
    };
    vec![
        row.name(),
        json!(text::quantity(row.at("/spec/capacity/storage"))),
        json!(access_modes(row.list("/spec/accessModes"))),
        row.string("/spec/persistentVolumeReclaimPolicy"),
        phase(row),
        json!(claim),
        storage_class(row),
        row.string_or("/spec/volumeAttributesClassName", "<unset>"),
        row.string("/status/reason"),
        row.age(),
        row.string_or("/spec/volumeMode", "<unset>"),
    ]
}

fn claim(row: &Row<'_>) -> Vec<Value> {
    let (capacity, modes) = match row.text("/spec/volumeName") {
        "" => (String::new(), String::new()),
        _ => (
            text::quantity(row.at("/status/capacity/storage")),
            access_modes(row.list("/status/accessModes")),
        ),
    };
    vec![
        row.name(),
        phase(row),
        row.string("/spec/volumeName"),
        json!(capacity),
        json!(modes),
        storage_class(row),
        row.string_or("/spec/volumeAttributesClassName", "<unset>"),
        row.age(),
        row.string_or("/spec/volumeMode", "<unset>"),
    ]
}

fn phase(row: &Row<'_>) -> Value {
    if row.is_deleted() { json!("Terminating") } else { row.string("/status/phase") }
}

fn storage_class(row: &Row<'_>) -> Value {
    match row.at(CLASS_ANNOTATION) {
        Value::String(class) => json!(class),
        _ => row.string("/spec/storageClassName"),
    }
}

/// The short names of the access modes, each once, in a fixed order.
fn access_modes(modes: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let held: Vec<&str> = SHORT
        .iter()
        .filter(|(mode, _)| modes.iter().any(|given| given.as_str() == Some(*mode)))
        .map(|(_, short)| *short)
        .collect();
    held.join(",")
}

fn class(row: &Row<'_>) -> Vec<Value> {
    let mut name = row.text("/metadata/name").to_owned();
    let is_default = ["storageclass.kubernetes.io", "storageclass.beta.kubernetes.io"]
        .iter()
        .any(|prefix| row.text(&format!("/metadata/annotations/{prefix}~1is-default-class")) == "true");
    if is_default {
        name.push_str(" (default)");
    }
    vec![
        json!(name),
        row.string("/provisioner"),
        row.string_or("/reclaimPolicy", "Delete"),
        row.string_or("/volumeBindingMode", "Immediate"),
        row.truth("/allowVolumeExpansion", false),
        row.age(),
    ]
}

fn attributes_class(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string("/driverName"), row.age()]
}

fn attachment(row: &Row<'_>) -> Vec<Value> {
    vec![
        row.name(),
        row.string("/spec/attacher"),
        row.string("/spec/source/persistentVolumeName"),
        row.string("/spec/nodeName"),
        row.truth("/status/attached", false),
        row.age(),
    ]
}

fn driver(row: &Row<'_>) -> Vec<Value> {
    let tokens = match row.at("/spec/tokenRequests") {
        Value::Array(requests) => {
            let audiences: Vec<&str> =
                requests.iter().map(|request| tree::text(request, "/audience")).collect();
            audiences.join(",")
        }
        _ => "<unset>".to_owned(),
    };
    let modes: Vec<&str> = row.list("/spec/volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
    vec![
        row.name(),
        row.truth("/spec/attachRequired", true),
        row.truth("/spec/podInfoOnMount", false),
        row.truth("/spec/storageCapacity", false),
        json!(tokens),
        row.truth("/spec/requiresRepublish", false),
        json!(text::or_none(modes.join(","))),
        row.age(),
    ]
}

fn csi_node(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(row.list("/spec/drivers").len()), row.age()]
}

fn capacity(row: &Row<'_>) -> Vec<Value> {
    let capacity = match row.at("/capacity") {
        Value::Null => "<unset>".to_owned(),
        capacity => text::quantity(capacity),
    };
    vec![row.name(), row.string("/storageClassName"), json!(capacity)]
}
