//! How much there is to go through in a value. What values share counts wherever it is reached, so that the
//! weight tells how long comparing, printing or writing them takes, however little memory they need.

use serde_json::Value as Json;

use super::{Map, Text, Value};

/// Nothing an evaluation makes may weigh more.
pub(crate) const HEAVIEST: u64 = 1 << 24;
/// So many bytes of a text take as long as one value.
const TEXT: usize = 16;

fn of_text(len: usize) -> u64 {
    1 + (len / TEXT) as u64
}

/// What a new value has brought about.
pub(crate) struct Made {
    pub(crate) weight: u64,
    /// Memory, without what was there before.
    pub(crate) bytes: u64,
}

impl Value<'_> {
    /// One, and the weight of everything in it. Data is walked for it, what evaluation made knows its weight.
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::String(text) => of_text(text.len()),
            Self::Bytes(bytes) => of_text(bytes.len()),
            Self::List(list) => list.weight(),
            Self::Map(map) => map.weight(),
            Self::Optional(Some(value)) => value.weight().saturating_add(1),
            Self::Url(url) => of_text(url.len()),
            _ => 1,
        }
    }

    /// The weight of what is no list and no map.
    pub(crate) fn own_weight(&self) -> u64 {
        if matches!(self, Self::List(_) | Self::Map(_) | Self::Optional(_)) { 1 } else { self.weight() }
    }

    /// What making it has brought about; nothing if it is borrowed, or held by somebody else as well.
    pub(crate) fn made(&self) -> Option<Made> {
        let bytes = match self {
            Self::String(_) | Self::Bytes(_) => self.unshared(),
            Self::List(list) => list.unshared()?.iter().map(|v| size_of::<Value<'_>>() + v.unshared()).sum(),
            Self::Map(map) => 2 * size_of::<Value<'_>>() * map.unshared()?,
            _ => return None,
        };
        (bytes > 0).then(|| Made { weight: self.weight(), bytes: bytes as u64 })
    }

    /// The bytes of a text only this value holds.
    fn unshared(&self) -> usize {
        match self {
            Self::String(Text::Shared(text)) if std::sync::Arc::strong_count(text) == 1 => text.len(),
            Self::Bytes(bytes) if std::sync::Arc::strong_count(bytes) == 1 => bytes.len(),
            _ => 0,
        }
    }
}

impl Map<'_> {
    pub(crate) fn weight(&self) -> u64 {
        match self {
            Self::Data(fields, _) | Self::Object(fields, _) => of_json(fields.values(), fields.len()),
            Self::Made(map) => map.weight(),
            Self::Struct(object) => object.weight,
            Self::Known(fields) => {
                sum(fields.iter().map(|(_, value)| value.as_ref().map_or(1, |value| value.weight())))
            }
        }
    }
}

/// One more than all of them together.
pub(super) fn sum(weights: impl Iterator<Item = u64>) -> u64 {
    weights.fold(1, u64::saturating_add)
}

/// The weight of data that has these parts.
pub(super) fn of_json<'j>(parts: impl Iterator<Item = &'j Json>, len: usize) -> u64 {
    let mut weight = 1;
    let mut open = Vec::with_capacity(len);
    open.extend(parts);
    while let Some(json) = open.pop() {
        weight += match json {
            Json::String(text) => of_text(text.len()),
            _ => 1,
        };
        match json {
            Json::Array(items) => open.extend(items),
            Json::Object(fields) => open.extend(fields.values()),
            _ => {}
        }
    }
    weight
}
