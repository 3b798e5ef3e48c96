//! Secrets: plain `stringData` is written, encoded `data` is stored.

use serde_json::{Value, json};

use crate::table::tree;

/// Moves `stringData` into `data`, encoded; it wins over what is there.
pub(super) fn merge_string_data(secret: &mut Value) {
    let Some(Value::Object(plain)) = tree::remove(secret, "stringData") else { return };
    if plain.is_empty() {
        return;
    }
    if let Some(data) = tree::child_mut(secret, "data") {
        for (key, value) in plain {
            data.insert(key, json!(base64(value.as_str().unwrap_or_default().as_bytes())));
        }
    }
}

/// An update without a type keeps the type.
pub(super) fn update(new: &mut Value, old: &Value) {
    merge_string_data(new);
    if let Some(type_) = old.get("type") {
        tree::set_empty(new, "type", type_.clone());
    }
}

/// RFC 4648 base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            let letter = if place <= chunk.len() { ALPHABET[digit as usize] } else { b'=' };
            text.push(char::from(letter));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn pads_to_four() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(super::base64(plain.as_bytes()), encoded);
        }
    }
}
