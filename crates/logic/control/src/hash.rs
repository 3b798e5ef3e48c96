//! Deterministic short names for JSON values: FNV-1a over a canonical walk, written in letters and
//! digits that form no words.

use serde_json::Value;

/// Consonants and digits that are not mistaken for each other; no vowels, so no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const LENGTH: usize = 10;

/// A 64-bit FNV-1a hash under way.
#[derive(Clone, Copy)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self::new()
    }
}

impl Fnv {
    /// The hash of nothing.
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Adds a text, and its end.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(&[0xff]);
    }

    /// Adds a JSON value; the order of keys does not count, and a null field is an absent one.
    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.bytes(b"n"),
            Value::Bool(b) => self.bytes(if *b { b"t" } else { b"f" }),
            Value::Number(n) => {
                self.bytes(b"#");
                self.text(&n.to_string());
            }
            Value::String(s) => {
                self.bytes(b"\"");
                self.text(s);
            }
            Value::Array(items) => {
                self.bytes(b"[");
                items.iter().for_each(|item| self.value(item));
                self.bytes(b"]");
            }
            Value::Object(fields) => {
                let mut present: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
                present.sort_by_key(|(key, _)| key.as_str());
                self.bytes(b"{");
                for (key, value) in present {
                    self.text(key);
                    self.value(value);
                }
                self.bytes(b"}");
            }
        }
    }

    /// The hash as ten characters that may stand in a label or a name.
    pub fn name(self) -> String {
        // The low bits of FNV-1a mix less than the high ones: fold them.
        let mut rest = self.0 ^ (self.0 >> 29);
        let mut name = String::with_capacity(LENGTH);
        for _ in 0..LENGTH {
            name.push(char::from(ALPHABET[(rest % 27) as usize]));
            rest /= 27;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn name(value: &Value) -> String {
        let mut hash = Fnv::new();
        hash.value(value);
        hash.name()
    }

    #[test]
    fn order_and_nulls_do_not_count() {
        let one: Value = serde_json::from_str(r#"{"a":1,"b":[true,"x"]}"#).unwrap();
        let other: Value = serde_json::from_str(r#"{"b":[true,"x"],"c":null,"a":1}"#).unwrap();
        assert_eq!(name(&one), name(&other));
        assert_ne!(name(&one), name(&json!({"a": 1, "b": [true, "y"]})));
        assert_ne!(name(&json!(["ab", "c"])), name(&json!(["a", "bc"])));
        assert_eq!(name(&one).len(), LENGTH);
    }
}
