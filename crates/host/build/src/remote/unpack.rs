//! Archives by their first bytes: plain tar, or one in gzip, zstd, bzip2 or xz.

use std::io::{BufRead, BufReader, Read};

use wharf_image::Decoder;

/// What `xz -9` needs is half of it.
const MAX_XZ_KIB: u32 = 128 << 10;
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// The decoded content of what `open` opens, when it is a tar archive. Anything else, and what is broken from the start, is none.
pub(crate) fn archive<R: Read + Send + 'static>(
    open: impl Fn() -> std::io::Result<R>,
) -> std::io::Result<Option<Box<dyn Read + Send>>> {
    let mut block = Vec::new();
    if decoded(open()?)?.take(512).read_to_end(&mut block).is_err() || !is_tar(&block) {
        return Ok(None);
    }
    decoded(open()?).map(Some)
}

fn is_tar(block: &[u8]) -> bool {
    block.get(257..262) == Some(b"ustar".as_slice())
}

/// Whether these first bytes are those of an archive or of something compressed.
pub fn is_archive(head: &[u8]) -> bool {
    is_tar(head)
        || head.starts_with(&XZ)
        || head.starts_with(b"BZh")
        || head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

/// The content without its compression.
pub(crate) fn decoded<R: Read + Send + 'static>(input: R) -> std::io::Result<Box<dyn Read + Send>> {
    let mut input = BufReader::with_capacity(128 << 10, input);
    let head = input.fill_buf()?;
    Ok(if head.starts_with(&XZ) {
        // Behind a buffer, since it takes a read of no bytes for the end of a block.
        Box::new(BufReader::new(lzma_rust2::XzReader::new_mem_limit(input, true, MAX_XZ_KIB)))
    } else if head.starts_with(b"BZh") {
        Box::new(bzip2::read::MultiBzDecoder::new(input))
    } else {
        Box::new(Decoder::new(input)?)
    })
}
