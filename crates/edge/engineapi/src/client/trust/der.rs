//! The little of DER (ITU-T X.690, clause 10) that public keys are written in.
//!
//! Only definite lengths in their shortest form, no tag above 30, nothing left over: two texts of one key do
//! not exist.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const SEQUENCE: u8 = 0x30;

/// What is still to be read.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The content of the next value, which has to be of this type.
    pub(super) fn next(&mut self, tag: u8) -> Option<&'a [u8]> {
        let rest = self.0.strip_prefix(&[tag])?;
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// Nothing, when nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// The one value there is.
    pub(super) fn only(mut self, tag: u8) -> Option<&'a [u8]> {
        let content = self.next(tag)?;
        self.end()?;
        Some(content)
    }
}

/// A length of at most 65535, and what follows it.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match *bytes {
        [short @ 0..=0x7f, ref rest @ ..] => Some((short.into(), rest)),
        [0x81, long @ 0x80..=0xff, ref rest @ ..] => Some((long.into(), rest)),
        [0x82, high @ 1..=0xff, low, ref rest @ ..] => {
            Some((usize::from(high) << 8 | usize::from(low), rest))
        }
        _ => None,
    }
}

/// The magnitude of an INTEGER's content, when it is positive and in its shortest form.
pub(super) fn positive(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => Some(rest),
        [0x01..=0x7f, ..] => Some(content),
        _ => None,
    }
}

/// The bytes of a BIT STRING's content, when it is whole bytes.
pub(super) fn whole_bytes(content: &[u8]) -> Option<&[u8]> {
    content.strip_prefix(&[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lengths_in_their_shortest_form_only() {
        let long = [vec![0x30, 0x81, 0x80], vec![7; 0x80]].concat();
        assert_eq!(Der::new(&long).only(SEQUENCE).map(<[u8]>::len), Some(0x80));
        let longer = [vec![0x30, 0x82, 1, 0], vec![7; 0x100]].concat();
        assert_eq!(Der::new(&longer).only(SEQUENCE).map(<[u8]>::len), Some(0x100));
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 1, 7],
            &[0x30, 0x82, 0, 1, 7],
            &[0x30, 0x83, 0, 0, 1, 7],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 1, 7, 0],
            &[0x31, 1, 7],
        ] {
            assert_eq!(Der::new(bad).only(SEQUENCE), None, "{bad:x?}");
        }
    }

    #[test]
    fn numbers_are_positive_and_short() {
        assert_eq!(positive(&[0, 0x80]), Some(&[0x80][..]));
        assert_eq!(positive(&[0x7f, 0]), Some(&[0x7f, 0][..]));
        for bad in [&[][..], &[0], &[0, 0x7f], &[0x80], &[0xff, 1]] {
            assert_eq!(positive(bad), None, "{bad:x?}");
        }
    }
}
