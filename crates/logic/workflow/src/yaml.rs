//! YAML as a tree that knows where everything stands.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::{
    expr::{Object, Value},
    problem::{Position, Problem, Problems},
};

/// Bytes of a file at the most, as upstream.
const MAX_FILE: usize = 1 << 20;
/// Values in a file at the most, aliases counted as what they stand for.
const MAX_NODES: usize = 50_000;
/// Nesting at the most.
const MAX_DEPTH: usize = 50;

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) data: Data,
    /// A text on lines of its own (`|`, `>`): columns in it cannot be told.
    pub(crate) block: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) at: Position,
}

impl Node {
    pub(crate) fn kind(&self) -> &'static str {
        match self.data {
            Data::Null => "nothing",
            Data::Bool(_) => "true or false",
            Data::Number(_) => "a number",
            Data::Text(_) => "a text",
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
        }
    }

    /// A single value as a text.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.data {
            Data::Null => Some(String::new()),
            Data::Bool(value) => Some(value.to_string()),
            Data::Number(value) => Some(Value::Number(*value).to_text()),
            Data::Text(text) => Some(text.clone()),
            Data::List(_) | Data::Map(_) => None,
        }
    }

    /// As a value of expressions.
    pub(crate) fn value(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(value) => Value::Number(*value),
            Data::Text(text) => text.into(),
            Data::List(items) => Value::array(items.iter().map(Node::value).collect()),
            Data::Map(entries) => {
                entries.iter().map(|(key, node)| (&key.text, node.value())).collect::<Object>().into()
            }
        }
    }
}

/// The one document of a file.
pub(crate) fn parse(file: &str, text: &str) -> Result<Node, Problems> {
    let fail = |Refusal { at, message, hint }| {
        Problems(vec![Problem { file: file.to_owned(), at, message, hint: Some(hint.to_owned()) }])
    };
    if text.len() > MAX_FILE {
        let message = format!("the file is larger than {MAX_FILE} bytes");
        let hint = "move scripts into files of their own, and run those";
        return Err(fail(Refusal::new(Position { line: 1, column: 1 }, message, hint)));
    }
    let mut events = Vec::new();
    for event in Parser::new_from_str(text) {
        match event {
            Ok(event) => events.push(event),
            Err(error) => return Err(Problems(vec![syntax(file, text, &error)])),
        }
    }
    let mut composer = Composer { events: events.into_iter(), anchors: HashMap::new(), nodes: 0 };
    composer.document().map_err(fail)
}

/// Where and why a text stops being YAML.
pub(crate) fn syntax(file: &str, text: &str, error: &ScanError) -> Problem {
    let at = Position { line: error.marker().line(), column: error.marker().col() + 1 };
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
    let info = error.info();
    let says = |words: &[&str]| words.iter().any(|word| info.contains(word));
    let hint = if line.contains('\t') || says(&[" tab"]) {
        "indent with spaces: YAML allows no tabs there"
    } else if says(&["mapping values"]) {
        "put a text that holds ': ' into quotes, and begin keys of one mapping in the same column"
    } else if says(&["quoted scalar", "unexpected end of stream", "unclosed quote"]) {
        "close the quote; a quote within '…' is written twice"
    } else if says(&["flow", "bracket", "placement of ':'", "',' or"]) {
        "close '[' with ']' and '{' with '}' before the next key; put a text that begins with one of them into quotes"
    } else if says(&["anchor", "alias"]) {
        "put a text that begins with '*' or '&' into quotes"
    } else if says(&["tag"]) {
        "put a text that begins with '!' into quotes"
    } else if says(&["any token", "unexpected character", "reserved", "directive"]) {
        "put a text that begins with '@', '%' or '`' into quotes"
    } else {
        "begin the keys of one mapping in the same column, write 'KEY: VALUE' with a space, and put texts that begin \
         with a special character into quotes"
    };
    let message = format!("this is not YAML: {info}");
    Problem { file: file.to_owned(), at, message, hint: Some(hint.to_owned()) }
}

/// Why a document is not taken.
struct Refusal {
    at: Position,
    message: String,
    hint: &'static str,
}

impl Refusal {
    fn new(at: Position, message: impl Into<String>, hint: &'static str) -> Self {
        Self { at, message: message.into(), hint }
    }
}

struct Composer<'a, I: Iterator<Item = (Event<'a>, Span)>> {
    events: I,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

type Composed<T> = Result<T, Refusal>;

impl<'a, I: Iterator<Item = (Event<'a>, Span)>> Composer<'a, I> {
    fn next(&mut self) -> Option<(Event<'a>, Position)> {
        loop {
            let (event, span) = self.events.next()?;
            if !matches!(event, Event::Comment(..)) {
                return Some((event, Position { line: span.start.line(), column: span.start.col() + 1 }));
            }
        }
    }

    fn document(&mut self) -> Composed<Node> {
        let mut root = None;
        while let Some((event, at)) = self.next() {
            match event {
                Event::DocumentStart(..) if root.is_some() => {
                    let hint = "take out the line '---', and write one file for each";
                    return Err(Refusal::new(at, "the file holds more than one document", hint));
                }
                Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, at, 0)?),
            }
        }
        let hint = "write what the file is for, or remove it from the repository";
        root.ok_or_else(|| Refusal::new(Position { line: 1, column: 1 }, "the file is empty", hint))
    }

    fn node(&mut self, event: Event<'a>, at: Position, depth: usize) -> Composed<Node> {
        self.count(1, at)?;
        if depth > MAX_DEPTH {
            let message = format!("values are nested deeper than {MAX_DEPTH} levels");
            return Err(Refusal::new(at, message, "look for a '[' or '{' that is not closed"));
        }
        let (anchor, tag) = (
            event.anchor_id(),
            event.tag().map(|tag| (tag.core_suffix().map(str::to_owned), tag.original())),
        );
        let node = match event {
            Event::Scalar(text, style, ..) => scalar(&text, style, tag, at)?,
            Event::SequenceStart(..) => self.list(at, depth)?,
            Event::MappingStart(..) => self.map(at, depth)?,
            Event::Alias(id) => {
                let node = self.anchors.get(&id).cloned().ok_or_else(|| {
                    let hint = "write the value itself in place of the alias ('*NAME')";
                    Refusal::new(at, "the alias stands inside what it names", hint)
                })?;
                self.count(size(&node), at)?;
                return Ok(node);
            }
            other => {
                let hint = "write 'KEY: VALUE' there, or '- ITEM' in a list";
                return Err(Refusal::new(at, format!("unexpected YAML: {other:?}"), hint));
            }
        };
        if let Some(id) = anchor {
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, more: usize, at: Position) -> Composed<()> {
        self.nodes += more;
        if self.nodes > MAX_NODES {
            let message = format!("the file holds more than {MAX_NODES} values");
            return Err(Refusal::new(at, message, "use fewer aliases ('*NAME'), or split the file"));
        }
        Ok(())
    }

    fn list(&mut self, at: Position, depth: usize) -> Composed<Node> {
        let mut items = Vec::new();
        while let Some((event, place)) = self.next() {
            if event == Event::SequenceEnd {
                break;
            }
            items.push(self.node(event, place, depth + 1)?);
        }
        Ok(Node { at, data: Data::List(items), block: false })
    }

    fn map(&mut self, at: Position, depth: usize) -> Composed<Node> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        while let Some((event, place)) = self.next() {
            if event == Event::MappingEnd {
                break;
            }
            let key = match event {
                Event::Scalar(text, ..) => Key { text: text.into_owned(), at: place },
                _ => {
                    let hint = "put '{{ … }}' and '[ … ]' into quotes where they are a text";
                    return Err(Refusal::new(place, "a key must be a text", hint));
                }
            };
            if key.text == "<<" {
                let hint = "write the keys out, or give the whole mapping by an alias: 'KEY: *NAME'";
                return Err(Refusal::new(place, "merge keys ('<<') are not supported", hint));
            }
            if entries.iter().any(|(known, _)| known.text == key.text) {
                let message = format!("the key '{}' stands here twice", key.text);
                return Err(Refusal::new(place, message, "keep one of them, with the contents of both"));
            }
            let Some((event, place)) = self.next() else { break };
            entries.push((key, self.node(event, place, depth + 1)?));
        }
        Ok(Node { at, data: Data::Map(entries), block: false })
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.data {
        Data::List(items) => items.iter().map(size).sum(),
        Data::Map(entries) => entries.iter().map(|(_, node)| size(node)).sum(),
        _ => 0usize,
    }
}

fn scalar(
    text: &str,
    style: ScalarStyle,
    tag: Option<(Option<String>, String)>,
    at: Position,
) -> Composed<Node> {
    let data = match tag {
        Some((Some(core), _)) if core == "str" => Data::Text(text.to_owned()),
        Some((Some(core), _)) if matches!(core.as_str(), "int" | "float" | "bool" | "null") => plain(text),
        Some((_, name)) => {
            let hint = "leave the tag out, or put a text that begins with '!' into quotes";
            return Err(Refusal::new(at, format!("the tag '{name}' is not supported"), hint));
        }
        None if style == ScalarStyle::Plain => plain(text),
        None => Data::Text(text.to_owned()),
    };
    Ok(Node { at, data, block: matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) })
}

/// A text without quotes by YAML 1.2's core schema.
fn plain(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        "true" | "True" | "TRUE" => return Data::Bool(true),
        "false" | "False" | "FALSE" => return Data::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Data::Number(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Data::Number(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Data::Number(f64::NAN),
        _ => {}
    }
    let digits = |text: &str, radix: u32| u64::from_str_radix(text, radix).ok().map(|value| value as f64);
    let number = match text.get(..2) {
        Some("0x") => digits(&text[2..], 16),
        Some("0o") => digits(&text[2..], 8),
        _ if is_decimal(text) => text.parse().ok(),
        _ => None,
    };
    number.map_or_else(|| Data::Text(text.to_owned()), Data::Number)
}

fn is_decimal(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    body.bytes().any(|b| b.is_ascii_digit())
        && body.bytes().next().is_some_and(|b| b.is_ascii_digit() || b == b'.')
        && body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
}
