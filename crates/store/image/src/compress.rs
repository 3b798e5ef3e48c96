//! How layer blobs are compressed: recognised by their first bytes, chosen when written.

use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::{GzBuilder, bufread::MultiGzDecoder, write::GzEncoder};

use crate::manifest::media_type;

/// The compression of a layer blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Plain tar.
    None,
    /// What every registry and runtime reads.
    #[default]
    Gzip,
    /// Faster and smaller; read by runtimes since about 2022.
    Zstd,
}

/// Fast levels: a layer is written on every build and read rarely.
const GZIP_LEVEL: u32 = 3;
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// The OCI media type of a layer compressed so.
    pub fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => media_type::OCI_LAYER,
            Self::Gzip => media_type::OCI_LAYER_GZIP,
            Self::Zstd => media_type::OCI_LAYER_ZSTD,
        }
    }

    pub(crate) fn encoder<W: Write>(self, out: W) -> io::Result<Encoder<W>> {
        Ok(match self {
            Self::None => Encoder::None(out),
            // No time and no host system in the header, so that equal content gives equal bytes.
            Self::Gzip => Encoder::Gzip(
                GzBuilder::new()
                    .mtime(0)
                    .operating_system(255)
                    .write(out, flate2::Compression::new(GZIP_LEVEL)),
            ),
            Self::Zstd => Encoder::Zstd(zstd::Encoder::new(out, ZSTD_LEVEL)?),
        })
    }
}

pub(crate) enum Encoder<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::None(w) => Ok(w),
            Self::Gzip(e) => e.finish(),
            Self::Zstd(e) => e.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(w) => w.write(bytes),
            Self::Gzip(e) => e.write(bytes),
            Self::Zstd(e) => e.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(w) => w.flush(),
            Self::Gzip(e) => e.flush(),
            Self::Zstd(e) => e.flush(),
        }
    }
}

/// Reads plain, gzip or zstd content, told apart by its first bytes.
pub enum Decoder<R: Read> {
    /// Not compressed, or not recognised.
    Plain(BufReader<R>),
    /// One or several gzip members.
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    /// zstd frames.
    Zstd(Box<zstd::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Looks at the first bytes of `input` and decodes accordingly.
    pub fn new(input: R) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(128 << 10, input);
        let head = input.fill_buf()?;
        Ok(if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            // A frame may ask for a window of gigabytes; 128 MiB is what zstd's own tool accepts.
            decoder.window_log_max(27)?;
            Self::Zstd(Box::new(decoder))
        } else {
            Self::Plain(input)
        })
    }

    /// Which compression was recognised.
    pub fn compression(&self) -> Compression {
        match self {
            Self::Plain(_) => Compression::None,
            Self::Gzip(_) => Compression::Gzip,
            Self::Zstd(_) => Compression::Zstd,
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(r) => r.read(buf),
            Self::Gzip(r) => r.read(buf),
            Self::Zstd(r) => r.read(buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_wrote_and_writes_the_same_bytes_twice() {
        let text = b"wharf ".repeat(1000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let write = || {
                let mut encoder = compression.encoder(Vec::new()).unwrap();
                encoder.write_all(&text).unwrap();
                encoder.finish().unwrap()
            };
            let bytes = write();
            assert_eq!(bytes, write());
            let mut decoder = Decoder::new(&bytes[..]).unwrap();
            assert_eq!(decoder.compression(), compression);
            let mut back = Vec::new();
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!(back, text);
        }
    }
}
