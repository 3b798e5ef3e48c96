//! A text being made, which has a limit.

use super::MAX_TEXT;

/// Takes text until its room is used up; whoever asks for the text then gets an error.
pub(super) struct Sink {
    text: String,
    room: usize,
    full: bool,
    refused: Option<String>,
}

impl Sink {
    /// A sink for so many bytes.
    pub(super) fn new(room: usize) -> Sink {
        Sink { text: String::new(), room: room.min(MAX_TEXT), full: false, refused: None }
    }

    pub(super) fn push(&mut self, text: &str) {
        self.full |= text.len() > self.room - self.text.len();
        if !self.full {
            self.text.push_str(text);
        }
    }

    pub(super) fn push_char(&mut self, c: char) {
        self.push(c.encode_utf8(&mut [0; 4]));
    }

    pub(super) fn repeat(&mut self, c: char, count: usize) {
        self.full |= count.saturating_mul(c.len_utf8()) > self.room - self.text.len();
        if !self.full {
            self.text.push_str(&String::from(c).repeat(count));
        }
    }

    /// Notes what is asked for and not supported; the text is given up.
    pub(super) fn refuse(&mut self, what: String) {
        self.refused.get_or_insert(what);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    pub(super) fn finish(self) -> Result<String, String> {
        if let Some(what) = self.refused {
            return Err(format!("{what} is not supported"));
        }
        if self.full {
            Err(format!("the text is longer than the {} bytes left for it", self.room))
        } else {
            Ok(self.text)
        }
    }
}
