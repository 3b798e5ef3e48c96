//! The answer to a push, in packets: each begins with its length in four hexadecimal digits, `0000` ends the answer.
//!
//! When the client has asked for side bands, the first byte of a packet tells what it is: 1 the report, 2 text for the
//! person. Holding the end back leaves room for more text.

use bytes::{Bytes, BytesMut};

/// Bytes of text in a packet: what the oldest clients take.
const MAX_TEXT: usize = 990;

/// Passes an answer on and holds its end back.
#[derive(Default)]
pub(crate) struct Answer {
    buffer: BytesMut,
    kind: Kind,
    /// The end was seen, and has not been passed on.
    held: bool,
}

#[derive(Default, PartialEq)]
enum Kind {
    #[default]
    Unknown,
    Banded,
    /// Without side bands, or no packets at all.
    Plain,
}

impl Answer {
    /// Takes bytes of the answer, gives those to pass on.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Bytes {
        self.buffer.extend_from_slice(bytes);
        let mut end = 0;
        while self.kind != Kind::Plain {
            let rest = self.buffer.get(end..).unwrap_or_default();
            let Some(head) = rest.get(..4) else { break };
            let length = std::str::from_utf8(head).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
            match (length, rest.get(4)) {
                (Some(0), _) if self.kind == Kind::Banded && rest.len() == 4 => {
                    self.held = true;
                    break;
                }
                (Some(5..), Some(1..=3)) => self.kind = Kind::Banded,
                (Some(5..), None) => break,
                _ => {
                    self.kind = Kind::Plain;
                    break;
                }
            }
            let length = length.unwrap_or(0);
            if rest.len() < length {
                break;
            }
            end += length;
        }
        if self.kind == Kind::Plain {
            self.held = false;
            end = self.buffer.len();
        }
        self.buffer.split_to(end).freeze()
    }

    /// Whether text for the person can be sent now.
    pub(crate) fn takes_text(&self) -> bool {
        self.held
    }

    /// What was held back.
    pub(crate) fn end(self) -> Bytes {
        self.buffer.freeze()
    }
}

/// Text for the person, in packets of band 2.
pub(crate) fn text(text: &str) -> Bytes {
    let mut packets = BytesMut::new();
    for piece in text.as_bytes().chunks(MAX_TEXT) {
        packets.extend_from_slice(format!("{:04x}\x02", piece.len() + 5).as_bytes());
        packets.extend_from_slice(piece);
    }
    packets.freeze()
}

/// A packet of nothing, which keeps the connection from being thought dead.
pub(crate) fn keep_alive() -> Bytes {
    Bytes::from_static(b"0005\x02")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: &[u8] = b"0000";

    fn feed(bytes: &[u8], size: usize) -> (Vec<u8>, bool, Vec<u8>) {
        let mut answer = Answer::default();
        let passed: Vec<u8> = bytes.chunks(size).flat_map(|chunk| answer.push(chunk)).collect();
        (passed, answer.takes_text(), answer.end().to_vec())
    }

    #[test]
    fn holds_back_the_end_of_a_banded_answer_only() {
        let banded = b"0013\x01000eunpack ok\n0009\x02abc\n0000";
        for size in [1, 3, 7, banded.len()] {
            let (passed, text, end) = feed(banded, size);
            assert_eq!((passed.as_slice(), text, end.as_slice()), (&banded[..banded.len() - 4], true, FLUSH));
        }
        let plain = b"000eunpack ok\n0019ok refs/heads/main\n0000";
        for size in [1, 5, plain.len()] {
            let (passed, text, end) = feed(plain, size);
            assert_eq!(([passed, end].concat().as_slice(), text), (&plain[..], false));
        }
        let (passed, text, end) = feed(b"0000", 4);
        assert_eq!(([passed, end].concat().as_slice(), text), (&b"0000"[..], false));
    }

    #[test]
    fn text_goes_in_packets() {
        assert_eq!(text("hi\n"), Bytes::from_static(b"0008\x02hi\n"));
        assert_eq!(text(&"x".repeat(1000)).len(), 1000 + 2 * 5);
    }
}
