//! Interned strings and label sets.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// A shared string, one pointer wide: a label set holds two per label, so their width is most of a series.
#[derive(Clone, PartialOrd, Ord)]
pub struct Str(Arc<Box<str>>);

impl Str {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Self {
        Self(Arc::new(text.into()))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Self {
        Self(Arc::new(text.into_boxed_str()))
    }
}

impl std::ops::Deref for Str {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Str {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Str {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_str() == other.as_str()
    }
}

impl Eq for Str {}

impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One copy of every string in use.
#[derive(Default)]
pub(crate) struct Interner(HashSet<Str, FastHash>);

impl Interner {
    pub(crate) fn intern(&mut self, text: &str) -> Str {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new = Str::from(text);
        self.0.insert(new.clone());
        new
    }

    /// Forgets strings that only this table holds.
    pub(crate) fn collect(&mut self) {
        self.0.retain(|text| Arc::strong_count(&text.0) > 1);
    }
}

/// A sorted set of labels without empty values; a clone shares it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels(Arc<[(Str, Str)]>);

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

impl Labels {
    /// Sorts the pairs and drops labels with an empty value; of a repeated name the first one stays.
    pub fn new(mut pairs: Vec<(Str, Str)>) -> Self {
        pairs.retain(|(_, value)| !value.is_empty());
        if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            pairs.dedup_by(|b, a| a.0 == b.0);
        }
        Self(pairs.into())
    }

    /// From plain strings.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self::new(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A label's value, "" when there is none.
    pub fn get(&self, name: &str) -> &str {
        self.value(name).map_or("", Str::as_str)
    }

    pub(crate) fn value(&self, name: &str) -> Option<&Str> {
        // Label sets are short: walking beats a binary search.
        self.0.iter().find(|(n, _)| n.as_str() == name).map(|(_, value)| value)
    }

    /// The metric's name, "" when there is none.
    pub fn name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// All pairs in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The shared pairs.
    pub fn pairs(&self) -> &[(Str, Str)] {
        &self.0
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only the labels whose name passes.
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    /// With one label set, or removed when the value is empty.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut pairs: Vec<(Str, Str)> = self.0.iter().filter(|(n, _)| n.as_str() != name).cloned().collect();
        if !value.is_empty() {
            let at = pairs.partition_point(|(n, _)| n.as_str() < name);
            pairs.insert(at, (name.into(), value.into()));
        }
        Self(pairs.into())
    }

    /// A stable hash of names and values.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = Fast::default();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Labels {
    /// With the name among the other labels: `{__name__="m", a="b"}`.
    pub fn as_set(&self) -> String {
        let pairs: Vec<String> = self.iter().map(|(name, value)| pair(name, value)).collect();
        format!("{{{}}}", pairs.join(", "))
    }
}

fn pair(name: &str, value: &str) -> String {
    if is_label_name(name) {
        format!("{name}={}", quote(value))
    } else {
        format!("{}={}", quote(name), quote(value))
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (name, value) in self.0.iter() {
            state.write(name.as_bytes());
            state.write_u8(0xff);
            state.write(value.as_bytes());
            state.write_u8(0xfe);
        }
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if is_metric_name(self.name()) { self.name() } else { "" })?;
        f.write_str("{")?;
        let named = is_metric_name(self.name());
        let rest = self.iter().filter(|(name, _)| !(named && *name == METRIC_NAME));
        for (i, (name, value)) in rest.enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}", pair(name, value))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A double-quoted string with Go's escapes.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A name that needs no quotes as a label: `[a-zA-Z_][a-zA-Z0-9_]*`.
pub fn is_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A name that needs no quotes as a metric's name: a label name with colons.
pub fn is_metric_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_' || b == b':')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
}

/// A quick hash for label sets; inputs are not chosen by an attacker who could gain from collisions,
/// since tables compare whole label sets.
#[derive(Default, Clone, Copy)]
pub struct Fast(u64);

/// Builds [`Fast`] hashers.
pub type FastHash = std::hash::BuildHasherDefault<Fast>;

const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

impl Fast {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(MIX);
    }
}

impl Hasher for Fast {
    fn finish(&self) -> u64 {
        let mut h = self.0;
        h ^= h >> 32;
        h = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
        h ^ (h >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.add(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(word) ^ ((rest.len() as u64) << 56));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }
}
