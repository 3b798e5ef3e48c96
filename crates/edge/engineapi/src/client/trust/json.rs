//! JSON read strictly: no key twice, no field that is not known, each fault with its place.
//!
//! Readers that differ in what they overlook can be made to see different documents in the same bytes, so
//! what decides over trust overlooks nothing.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

/// How much of a foreign text an error repeats.
const SHOWN: usize = 120;

/// What is wrong in a document, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// As `transports.docker["registry.example"][0]`; empty for the whole document.
    pub(super) place: String,
    pub(super) problem: String,
    pub(super) hint: String,
}

impl Fault {
    pub(super) fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { place: String::new(), problem: problem.into(), hint: hint.into() }
    }

    pub(super) fn at(self, place: &str) -> Self {
        Self { place: place.to_owned(), ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.as_str() {
            "" => f.write_str(&self.problem),
            place => write!(f, "{place}: {}", self.problem),
        }
    }
}

/// The beginning of a foreign text, without line breaks and other control characters.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// A JSON value. Numbers matter only for whether they are whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Bool,
    Whole,
    Fraction,
    Text(String),
    List(Vec<Node>),
    Object(BTreeMap<String, Node>),
}

impl Node {
    /// Reads a document. `serde_json` bounds how deep it nests.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        serde_json::from_slice(bytes).map_err(|e| {
            Fault::new(format!("is not the JSON expected: {e}"), "correct the file at that place")
        })
    }

    pub(super) fn root(&self) -> At<'_> {
        At { place: String::new(), node: self }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Whole | Self::Fraction => "a number",
            Self::Text(_) => "a string",
            Self::List(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Whole)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Whole)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Node, E> {
        Ok(if number.fract() == 0.0 { Node::Whole } else { Node::Fraction })
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Node, E> {
        Ok(Node::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut object = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("the key '{}' is there twice", shown(&key))));
            }
            object.insert(key, map.next_value()?);
        }
        Ok(Node::Object(object))
    }
}

/// A value and where it stands in its document.
#[derive(Debug, Clone)]
pub(super) struct At<'a> {
    place: String,
    node: &'a Node,
}

impl<'a> At<'a> {
    pub(super) fn fault(&self, problem: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault::new(problem, hint).at(&self.place)
    }

    fn other_kind(&self, wanted: &str) -> Fault {
        self.fault(format!("is {} instead of {wanted}", self.node.kind()), format!("write {wanted} there"))
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn is_null(&self) -> bool {
        *self.node == Node::Null
    }

    pub(super) fn is_whole(&self) -> bool {
        *self.node == Node::Whole
    }

    pub(super) fn text(&self) -> Result<&'a str, Fault> {
        match self.node {
            Node::Text(text) => Ok(text),
            _ => Err(self.other_kind("a string")),
        }
    }

    pub(super) fn list(&self) -> Result<Vec<Self>, Fault> {
        match self.node {
            Node::List(list) => Ok(list
                .iter()
                .enumerate()
                .map(|(n, node)| At { place: format!("{}[{n}]", self.place), node })
                .collect()),
            _ => Err(self.other_kind("an array")),
        }
    }

    /// The members of an object whose keys are free.
    pub(super) fn members(&self) -> Result<impl Iterator<Item = (&'a str, Self)>, Fault> {
        let Node::Object(object) = self.node else { return Err(self.other_kind("an object")) };
        Ok(object.iter().map(|(key, node)| (key.as_str(), At { place: self.member(key), node })))
    }

    /// The members of an object that may have these fields and no others.
    pub(super) fn fields(&self, known: &[&str]) -> Result<Fields<'a>, Fault> {
        let fields = self.open_fields()?;
        if let Some(unknown) = fields.fields.keys().find(|key| !known.contains(key)) {
            let problem = format!("has the unknown field '{}'", shown(unknown));
            return Err(self.fault(
                problem,
                match wharf_base::closest(unknown, known.iter().copied()) {
                    Some(meant) => format!("did you mean '{meant}'?"),
                    None => format!("take it out; what may stand here: {}", known.join(", ")),
                },
            ));
        }
        Ok(fields)
    }

    /// The members of an object that may have fields nobody knows here, as its specification allows.
    pub(super) fn open_fields(&self) -> Result<Fields<'a>, Fault> {
        Ok(Fields { object: self.clone(), fields: self.members()?.collect() })
    }

    /// The `type` of an object, before its other fields are known.
    pub(super) fn kind(&self) -> Result<&'a str, Fault> {
        let kind = self.members()?.find_map(|(key, at)| (key == "type").then_some(at));
        kind.ok_or_else(|| self.fault("has no field 'type'", "add it"))?.text()
    }

    fn member(&self, key: &str) -> String {
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric()) && !key.is_empty();
        match (plain, self.place.as_str()) {
            (true, "") => key.to_owned(),
            (true, place) => format!("{place}.{key}"),
            (false, place) => format!("{place}[\"{}\"]", shown(key)),
        }
    }
}

/// The members of an object with known fields.
pub(super) struct Fields<'a> {
    object: At<'a>,
    fields: BTreeMap<&'a str, At<'a>>,
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, key: &str) -> Option<&At<'a>> {
        self.fields.get(key)
    }

    pub(super) fn need(&self, key: &str) -> Result<&At<'a>, Fault> {
        self.get(key).ok_or_else(|| self.object.fault(format!("has no field '{key}'"), "add it"))
    }

    /// What is wrong with a field.
    pub(super) fn fault(&self, key: &str, problem: impl Into<String>, hint: impl Into<String>) -> Fault {
        self.get(key).unwrap_or(&self.object).fault(problem, hint)
    }

    /// The text of a field that has to be there.
    pub(super) fn text(&self, key: &str) -> Result<&'a str, Fault> {
        self.need(key)?.text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_where() {
        let read = |text: &str| -> Result<String, Fault> {
            let node = Node::parse(text.as_bytes())?;
            let fields = node.root().fields(&["some", "list"])?;
            let first = fields.need("list")?.list()?.remove(0);
            Ok(first.fields(&["type"])?.text("type")?.to_owned())
        };
        assert_eq!(read(r#"{"list": [{"type": "x"}]}"#).as_deref(), Ok("x"));
        for (text, said, hint) in [
            (r#"{"list": 1}"#, "list: is a number instead of an array", "write an array there"),
            (r#"{"lits": []}"#, "has the unknown field 'lits'", "did you mean 'list'?"),
            (
                r#"{"list": [{"more": 1}]}"#,
                "list[0]: has the unknown field 'more'",
                "take it out; what may stand here: type",
            ),
            (r#"{"list": [{}]}"#, "list[0]: has no field 'type'", "add it"),
            (
                r#"{"list": [{"type": null}]}"#,
                "list[0].type: is null instead of a string",
                "write a string there",
            ),
            ("[]", "is an array instead of an object", "write an object there"),
        ] {
            let fault = read(text).unwrap_err();
            assert_eq!((fault.to_string().as_str(), fault.hint.as_str()), (said, hint), "{text}");
        }
    }

    #[test]
    fn refuses_a_key_that_is_there_twice_and_what_follows_a_document() {
        for (bad, said) in [
            (r#"{"a": 1, "a": 1}"#, "'a' is there twice"),
            (r#"[{"b": {"c": 1, "d": 2, "c": 3}}]"#, "'c' is there twice"),
            ("{} {}", "trailing characters"),
            ("{", "EOF"),
        ] {
            let fault = Node::parse(bad.as_bytes()).unwrap_err();
            assert!(fault.problem.contains(said), "{fault}");
        }
        assert!(Node::parse("[".repeat(10_000).as_bytes()).is_err());
    }
}
