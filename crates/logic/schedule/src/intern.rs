//! Texts as small numbers, so that the hot loop compares integers.

use std::collections::HashMap;

/// A text's number. Numbers are never reused: label keys and values of a cluster are few.
pub(crate) type Id = u32;

/// The number of a text no node has.
pub(crate) const UNKNOWN: Id = Id::MAX;

/// All texts seen so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    ids: HashMap<String, Id>,
    texts: Vec<String>,
}

impl Interner {
    /// The number of a text, which is remembered.
    pub(crate) fn id(&mut self, text: &str) -> Id {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = Id::try_from(self.texts.len()).unwrap_or(UNKNOWN);
        self.ids.insert(text.to_owned(), id);
        self.texts.push(text.to_owned());
        id
    }

    /// The number of a text that was seen before; [`UNKNOWN`] otherwise.
    pub(crate) fn find(&self, text: &str) -> Id {
        self.ids.get(text).copied().unwrap_or(UNKNOWN)
    }

    /// The text of a number.
    pub(crate) fn text(&self, id: Id) -> &str {
        self.texts.get(id as usize).map_or("", String::as_str)
    }
}
