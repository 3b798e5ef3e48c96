//! A span, in OpenTelemetry's words, and its form on disk.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::blocks::{put, put_text, take, take_text};

/// Identifies a trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TraceId(pub [u8; 16]);

/// Identifies a span within its trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub [u8; 8]);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TraceId {
    type Err = String;

    /// Reads up to 32 hexadecimal digits; leading zeros may be missing.
    fn from_str(text: &str) -> Result<Self, String> {
        let valid = (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| valid);
        number
            .map(|n| Self(n.to_be_bytes()))
            .ok_or_else(|| format!("{text:?} is no trace id: up to 32 hexadecimal digits are"))
    }
}

/// What kind of work a span stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kind {
    /// Not said.
    #[default]
    Unspecified,
    /// Within a program.
    Internal,
    /// Answers a request.
    Server,
    /// Makes a request.
    Client,
    /// Sends a message.
    Producer,
    /// Handles a message.
    Consumer,
}

/// How the work ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatusCode {
    /// Not said.
    #[default]
    Unset,
    /// Well.
    Ok,
    /// Not well.
    Error,
}

impl Kind {
    /// By OTLP's number.
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Internal,
            2 => Self::Server,
            3 => Self::Client,
            4 => Self::Producer,
            5 => Self::Consumer,
            _ => Self::Unspecified,
        }
    }
}

impl StatusCode {
    /// By OTLP's number.
    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Self::Ok,
            2 => Self::Error,
            _ => Self::Unset,
        }
    }
}

/// Something that happened during a span.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds since the epoch.
    pub at: i64,
    /// Name.
    pub name: String,
    /// Attributes; values that are no texts are JSON.
    pub attributes: Vec<(String, String)>,
}

/// A piece of work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// The span it is a part of; all zeros for the first.
    pub parent: SpanId,
    /// `service.name`.
    pub service: String,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Nanoseconds since the epoch.
    pub start: i64,
    /// Nanoseconds.
    pub duration: u64,
    /// How it ended.
    pub status: StatusCode,
    /// Why, when it did not end well.
    pub status_message: String,
    /// Attributes of the span; values that are no texts are JSON.
    pub attributes: Vec<(String, String)>,
    /// Attributes of what it ran on.
    pub resource: Vec<(String, String)>,
    /// What happened.
    pub events: Vec<Event>,
}

impl Span {
    /// An attribute of the span or of what it ran on.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let both = self.attributes.iter().chain(&self.resource);
        both.into_iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn put_pairs(out: &mut Vec<u8>, pairs: &[(String, String)]) {
    put(out, pairs.len() as u64);
    for (name, value) in pairs {
        put_text(out, name);
        put_text(out, value);
    }
}

fn take_pairs(bytes: &mut &[u8]) -> Option<Vec<(String, String)>> {
    let count = take(bytes)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((take_text(bytes)?.to_owned(), take_text(bytes)?.to_owned()));
    }
    Some(pairs)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*array)
}

/// Spans one after the other.
pub(super) fn encode<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<u8> {
    let mut out = Vec::new();
    for span in spans {
        out.extend_from_slice(&span.trace_id.0);
        out.extend_from_slice(&span.span_id.0);
        out.extend_from_slice(&span.parent.0);
        put(&mut out, span.start as u64);
        put(&mut out, span.duration);
        out.push(span.kind as u8);
        out.push(span.status as u8);
        for text in [&span.service, &span.name, &span.status_message] {
            put_text(&mut out, text);
        }
        put_pairs(&mut out, &span.attributes);
        put_pairs(&mut out, &span.resource);
        put(&mut out, span.events.len() as u64);
        for event in &span.events {
            put(&mut out, event.at as u64);
            put_text(&mut out, &event.name);
            put_pairs(&mut out, &event.attributes);
        }
    }
    out
}

/// Calls `each` with every span; ends early where the bytes are not what was written.
pub(super) fn decode(mut bytes: &[u8], mut each: impl FnMut(Span)) {
    while let Some(span) = decode_one(&mut bytes) {
        each(span);
    }
}

fn decode_one(bytes: &mut &[u8]) -> Option<Span> {
    let mut span = Span {
        trace_id: TraceId(take_array(bytes)?),
        span_id: SpanId(take_array(bytes)?),
        parent: SpanId(take_array(bytes)?),
        start: take(bytes)? as i64,
        duration: take(bytes)?,
        ..Span::default()
    };
    let [kind, status] = take_array::<2>(bytes)?;
    span.kind = Kind::from_number(i32::from(kind));
    span.status = StatusCode::from_number(i32::from(status));
    for text in [&mut span.service, &mut span.name, &mut span.status_message] {
        take_text(bytes)?.clone_into(text);
    }
    span.attributes = take_pairs(bytes)?;
    span.resource = take_pairs(bytes)?;
    for _ in 0..take(bytes)? {
        let (at, name) = (take(bytes)? as i64, take_text(bytes)?.to_owned());
        span.events.push(Event { at, name, attributes: take_pairs(bytes)? });
    }
    Some(span)
}
