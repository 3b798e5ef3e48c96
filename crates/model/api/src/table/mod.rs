//! What `kubectl get` prints: the columns and cells of the server-side Table, kind by kind.
//!
//! Adding a kind is adding a row to a family file's `TABLES`. A resource without a row prints its name and the
//! time of its creation. Rows always carry the wide cells; kubectl hides the columns with a priority above zero.
//! Source: Kubernetes API, meta/v1 `Table`; names and texts are those of kube-apiserver 1.36.

mod access;
mod cluster;
mod extend;
mod network;
mod pods;
mod storage;
mod text;
pub(crate) mod tree;
mod workloads;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};
use wharf_base::Timestamp;

/// A column of a Table, as meta/v1 `TableColumnDefinition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub type_: &'static str,
    /// `name` for the column that names the object, else empty.
    pub format: &'static str,
    /// What the column shows, for people.
    pub description: &'static str,
    /// Zero is always shown; above zero only with `-o wide`.
    pub priority: i32,
}

/// The columns of a resource (plural name, such as `pods`).
pub fn columns(group: &str, resource: &str) -> &'static [Column] {
    table(group, resource).columns
}

/// The cells of one object, one for each of [`columns`].
pub fn cells(group: &str, resource: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    (table(group, resource).cells)(&Row { object, now })
}

/// The conditions of one object's row: finished pods are marked `Completed`. Empty for most.
pub fn row_conditions(group: &str, resource: &str, object: &Value) -> Vec<Value> {
    if (group, resource) == ("", "pods") { pods::row_conditions(object) } else { Vec::new() }
}

/// The time since `then` the way kubectl prints it, for columns that definitions add.
pub fn age(then: Timestamp, now: Timestamp) -> String {
    text::human_duration(now.as_millis() - then.as_millis())
}

/// How one resource prints.
struct Table {
    group: &'static str,
    resource: &'static str,
    columns: &'static [Column],
    cells: fn(&Row<'_>) -> Vec<Value>,
}

/// Tables of all families, searched in this order.
static FAMILIES: [&[Table]; 7] = [
    pods::TABLES,
    workloads::TABLES,
    network::TABLES,
    cluster::TABLES,
    storage::TABLES,
    access::TABLES,
    extend::TABLES,
];

/// How a resource without a table of its own prints.
static DEFAULT: Table = Table {
    group: "",
    resource: "",
    columns: &[
        NAME,
        Column {
            name: "Created At",
            type_: "date",
            format: "",
            description: "Time of creation, in UTC",
            priority: 0,
        },
    ],
    cells: default_cells,
};

fn default_cells(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), row.string("/metadata/creationTimestamp")]
}

fn table(group: &str, resource: &str) -> &'static Table {
    FAMILIES
        .iter()
        .flat_map(|family| family.iter())
        .find(|table| table.resource == resource && table.group == group)
        .unwrap_or(&DEFAULT)
}

const NAME: Column = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "Name, unique among its kind in the namespace",
    priority: 0,
};
const AGE: Column = column("Age", "Time since creation");
const CONTAINERS: Column = wide("Containers", "Names of the containers in the template");
const IMAGES: Column = wide("Images", "Images of the containers in the template");
const SELECTOR: Column = wide("Selector", "Labels that choose the pods");

const fn column(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "string", format: "", description, priority: 0 }
}

const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "integer", format: "", description, priority: 0 }
}

const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "boolean", format: "", description, priority: 0 }
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    Column { name, type_: "string", format: "", description, priority: 1 }
}

/// An object about to be printed, and the time it is printed at.
struct Row<'a> {
    object: &'a Value,
    now: Timestamp,
}

impl<'a> Row<'a> {
    fn name(&self) -> Value {
        self.string("/metadata/name")
    }

    fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp")
    }

    fn since(&self, pointer: &str) -> Value {
        text::since(tree::time(self.object, pointer), self.now).into()
    }

    fn at(&self, pointer: &str) -> &'a Value {
        tree::at(self.object, pointer)
    }

    fn text(&self, pointer: &str) -> &'a str {
        tree::text(self.object, pointer)
    }

    fn list(&self, pointer: &str) -> &'a [Value] {
        tree::list(self.object, pointer)
    }

    fn int(&self, pointer: &str) -> i64 {
        tree::int(self.object, pointer)
    }

    fn string(&self, pointer: &str) -> Value {
        json!(self.text(pointer))
    }

    fn string_or(&self, pointer: &str, fallback: &str) -> Value {
        match self.text(pointer) {
            "" => json!(fallback),
            text => json!(text),
        }
    }

    fn number(&self, pointer: &str) -> Value {
        json!(self.int(pointer))
    }

    fn truth(&self, pointer: &str, fallback: bool) -> Value {
        json!(self.at(pointer).as_bool().unwrap_or(fallback))
    }

    fn is_deleted(&self) -> bool {
        tree::has(self.object, "/metadata/deletionTimestamp")
    }
}
