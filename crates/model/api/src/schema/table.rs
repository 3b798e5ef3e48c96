//! The committed table of built-in types, and its format.
//!
//! One header line `wharf-schema 1 kubernetes VERSION DIGEST` (the digest is that of all that
//! follows), then lines of three sorts, fields separated by single spaces:
//!
//! ```text
//! T api.apps.v1.Deployment            a type, by OpenAPI definition name without `io.k8s.`
//! A                                   objects of the type are replaced as a whole
//! K apps v1 Deployment                its group (`-` for core), version and kind, if it is a resource
//! replicas 1 i32 [ATTRIBUTE…]         a field: JSON name, protobuf numbers joined by `.` (or `-`), kind
//! ```
//!
//! Kinds are scalars (`str bool i32 i64 f64 bytes time microtime quantity intstr raw fields json
//! schemaorbool schemaorarray schemaorstrings`), `@TYPE`, `[KIND` for a list, `{KIND` for a map.
//! Attributes: `!` required, `atomic`, `set`, `keys=a,b`, `merge=KEY` (patch merge key, may be
//! empty), `retain`, `default=JSON` (last on the line). `cargo run -p xtask -- schema` writes it.

use std::sync::OnceLock;

use wharf_base::Digest;

use super::{Field, Gvk, Kind, Merge, Schema, Type, TypeRef};

const TABLE: &str = include_str!("../../schema/v1.36.tbl");

/// Why a schema table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The header is not one of this format and version.
    #[error("the schema table does not start with 'wharf-schema 1 kubernetes VERSION DIGEST'")]
    Header,
    /// The body is not what the header's digest says.
    #[error("the schema table was changed: its digest is {found}, the header says {said}")]
    Digest {
        /// Digest in the header.
        said: String,
        /// Digest of the body.
        found: Digest,
    },
    /// A line that is none of the three sorts.
    #[error("schema table line {line}: {what}")]
    Line {
        /// Line number from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// The schema of every built-in kind.
///
/// # Panics
/// When the table compiled into the program is broken, which the tests of this room exclude.
pub fn builtin() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| match parse_body(TABLE.split_once('\n').unwrap_or_default().1) {
        Ok(schema) => schema,
        Err(error) => panic!("{error}"),
    })
}

/// Reads a whole table and checks its digest.
///
/// # Errors
/// As [`TableError`] says.
pub fn parse(table: &str) -> Result<Schema, TableError> {
    let (header, body) = table.split_once('\n').ok_or(TableError::Header)?;
    let said = match header.split(' ').collect::<Vec<_>>()[..] {
        ["wharf-schema", "1", "kubernetes", _, digest] => digest,
        _ => return Err(TableError::Header),
    };
    let found = Digest::of(body);
    if said != found.to_string() {
        return Err(TableError::Digest { said: said.to_owned(), found });
    }
    parse_body(body)
}

fn parse_body(body: &str) -> Result<Schema, TableError> {
    let mut schema = Schema::default();
    for name in body.lines().filter_map(|l| l.strip_prefix("T ")) {
        let index = schema.by_name.len() as u32;
        schema.by_name.insert(name.to_owned(), index);
    }
    for (number, line) in body.lines().enumerate() {
        row(&mut schema, line).map_err(|what| TableError::Line { line: number + 2, what })?;
    }
    for ty in &mut schema.types {
        ty.fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(schema)
}

fn row(schema: &mut Schema, line: &str) -> Result<(), String> {
    if let Some(name) = line.strip_prefix("T ") {
        schema.types.push(Type { name: name.to_owned(), ..Type::default() });
        return Ok(());
    }
    let index = schema.types.len().checked_sub(1).ok_or("a row before the first type")?;
    if let Some(kind) = line.strip_prefix("K ") {
        let [group, version, kind] = kind.split(' ').collect::<Vec<_>>()[..] else {
            return Err("a kind is 'K GROUP VERSION KIND'".into());
        };
        let gvk = Gvk::new(if group == "-" { "" } else { group }, version, kind);
        schema.by_kind.insert(gvk.clone(), index as u32);
        schema.types[index].kinds.push(gvk);
        return Ok(());
    }
    if line == "A" {
        schema.types[index].atomic = true;
        return Ok(());
    }
    let field = field(schema, line)?;
    schema.types[index].fields.push(field);
    Ok(())
}

fn field(schema: &Schema, line: &str) -> Result<Field, String> {
    let (line, default) = match line.split_once(" default=") {
        Some((line, json)) => (line, Some(serde_json::from_str(json).map_err(|e| e.to_string())?)),
        None => (line, None),
    };
    let mut words = line.split(' ');
    let (Some(name), Some(tags), Some(kind_text)) = (words.next(), words.next(), words.next()) else {
        return Err("a field is 'NAME TAGS KIND [ATTRIBUTE…]'".into());
    };
    let tags = match tags {
        "-" => Vec::new(),
        tags => tags.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| "tags are numbers")?,
    };
    let mut field = Field {
        name: name.to_owned(),
        tags,
        kind: kind(schema, kind_text)?,
        required: false,
        merge: Merge::Normal,
        patch_key: None,
        retain_keys: false,
        default,
        nullable: false,
        optional: false,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("!", _) => field.required = true,
            ("atomic", _) => field.merge = Merge::Atomic,
            ("set", _) => field.merge = Merge::Set,
            ("keys", keys) => field.merge = Merge::Keys(keys.split(',').map(str::to_owned).collect()),
            ("merge", key) => field.patch_key = Some(key.to_owned()),
            ("retain", _) => field.retain_keys = true,
            ("ptr", _) => field.optional = true,
            _ => return Err(format!("unknown attribute '{word}'")),
        }
    }
    Ok(field)
}

fn kind(schema: &Schema, text: &str) -> Result<Kind, String> {
    if let Some(item) = text.strip_prefix('[') {
        return Ok(Kind::List(Box::new(kind(schema, item)?)));
    }
    if let Some(value) = text.strip_prefix('{') {
        return Ok(Kind::Map(Box::new(kind(schema, value)?)));
    }
    if let Some(name) = text.strip_prefix('@') {
        let index = schema.by_name.get(name).ok_or_else(|| format!("unknown type '{name}'"))?;
        return Ok(Kind::Object(TypeRef::Builtin(*index)));
    }
    Ok(match text {
        "str" => Kind::Str,
        "bool" => Kind::Bool,
        "i32" => Kind::I32,
        "i64" => Kind::I64,
        "f64" => Kind::F64,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "quantity" => Kind::Quantity,
        "intstr" => Kind::IntOrString,
        "raw" => Kind::Raw,
        "fields" => Kind::Fields,
        "json" => Kind::Json,
        "schemaorbool" => Kind::SchemaOrBool,
        "schemaorarray" => Kind::SchemaOrArray,
        "schemaorstrings" => Kind::SchemaOrStrings,
        _ => return Err(format!("unknown kind '{text}'")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_table_is_whole() {
        let schema = parse(TABLE).unwrap();
        let pod = schema.of_kind(&Gvk::new("", "v1", "Pod")).unwrap();
        let TypeRef::Builtin(index) = pod else { panic!("built in") };
        assert_eq!(schema.types[index as usize].field("spec").unwrap().tags, [2]);
    }

    #[test]
    fn a_changed_table_is_refused() {
        let changed = TABLE.replacen("replicas", "replicaz", 1);
        assert!(matches!(parse(&changed), Err(TableError::Digest { .. })));
    }
}
