//! Frames to bytes and back.

use std::{io, pin::Pin};

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::dictionary::dictionary;

/// Bytes of one frame at the most, both ways.
const MAX_FRAME: usize = 1 << 20;
/// Bytes of a header block at the most, once decompressed.
const MAX_HEADERS: usize = 64 << 10;

/// `CANCEL` (§2.6.3).
pub(super) const CANCEL: u32 = 5;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FLAG_FIN: u8 = 1;

/// One frame, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Open { id: u32, headers: Vec<(String, String)>, last: bool },
    Reply { id: u32 },
    Data { id: u32, last: bool, data: Bytes },
    Reset { id: u32, status: u32 },
    Ping { id: u32 },
    GoAway,
    Other,
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Reads frames; header blocks share one decompression state.
pub(super) struct Decoder {
    inflate: Decompress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl Decoder {
    /// The next frame; `None` at the end of the connection.
    pub(super) async fn next(&mut self, reader: &mut Pin<&mut impl AsyncRead>) -> io::Result<Option<Frame>> {
        let mut head = [0; 8];
        match reader.read_exact(&mut head).await {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let [a, b, c, d, flags, l1, l2, l3] = head;
        let length = u32::from_be_bytes([0, l1, l2, l3]) as usize;
        if length > MAX_FRAME {
            return Err(malformed("the frame is too long"));
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        let last = flags & FLAG_FIN != 0;
        if a & 0x80 == 0 {
            let id = u32::from_be_bytes([a, b, c, d]);
            return Ok(Some(Frame::Data { id, last, data: body.into() }));
        }
        if u16::from_be_bytes([a & 0x7f, b]) != 3 {
            return Err(malformed("not SPDY version 3"));
        }
        self.control(u16::from_be_bytes([c, d]), last, &body).map(Some)
    }

    fn control(&mut self, kind: u16, last: bool, body: &[u8]) -> io::Result<Frame> {
        let first = |at| number(body, at).ok_or_else(|| malformed("the frame is too short"));
        Ok(match kind {
            SYN_STREAM => {
                let block = body.get(10..).ok_or_else(|| malformed("the frame is too short"))?;
                Frame::Open { id: first(0)? & 0x7fff_ffff, headers: self.headers(block)?, last }
            }
            SYN_REPLY => {
                // Its headers are read for the sake of the shared state.
                self.headers(body.get(4..).unwrap_or_default())?;
                Frame::Reply { id: first(0)? & 0x7fff_ffff }
            }
            RST_STREAM => Frame::Reset { id: first(0)? & 0x7fff_ffff, status: first(4)? },
            PING => Frame::Ping { id: first(0)? },
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Vec<(String, String)>> {
        let plain = self.decompress(block)?;
        let count = number(&plain, 0).ok_or_else(|| malformed("the header block is cut off"))?;
        let mut at = 4;
        let mut text = || {
            let length = number(&plain, at)? as usize;
            let bytes = plain.get(at + 4..(at + 4).checked_add(length)?)?;
            at += 4 + length;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let mut headers = Vec::new();
        for _ in 0..count {
            let pair = text().zip(text()).ok_or_else(|| malformed("the header block is cut off"))?;
            headers.push((pair.0.to_ascii_lowercase(), pair.1));
        }
        Ok(headers)
    }

    fn decompress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(1024);
        let start = self.inflate.total_in();
        loop {
            let read = (self.inflate.total_in() - start) as usize;
            let rest = block.get(read..).unwrap_or_default();
            let before = (read, plain.len());
            match self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate
                        .set_dictionary(&dictionary())
                        .map_err(|e| io::Error::other(e.to_string()))?;
                    continue;
                }
                Err(error) => return Err(io::Error::other(error.to_string())),
                Ok(_) => {}
            }
            if plain.len() > MAX_HEADERS {
                return Err(malformed("the header block is too long"));
            }
            let read = (self.inflate.total_in() - start) as usize;
            if plain.len() == plain.capacity() {
                plain.reserve(1024);
            } else if read >= block.len() || (read, plain.len()) == before {
                return Ok(plain);
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// Writes frames; header blocks share one compression state.
pub(super) struct Encoder {
    deflate: Option<Compress>,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::fast(), true);
        let ready = deflate.set_dictionary(&dictionary()).is_ok();
        Self { deflate: ready.then_some(deflate) }
    }
}

impl Encoder {
    pub(super) fn encode(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        match frame {
            Frame::Data { id, last, data } => {
                // An empty part still carries the end.
                let mut parts = data.chunks(MAX_FRAME / 4).peekable();
                if parts.peek().is_none() {
                    head(out, id.to_be_bytes(), u8::from(*last), 0);
                }
                while let Some(part) = parts.next() {
                    let end = u8::from(*last && parts.peek().is_none());
                    head(out, id.to_be_bytes(), end, part.len());
                    out.extend_from_slice(part);
                }
            }
            Frame::Open { id, headers, last } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend_from_slice(&[0; 6]);
                self.headers(headers, &mut body);
                control(out, SYN_STREAM, u8::from(*last), &body);
            }
            Frame::Reply { id } => {
                let mut body = id.to_be_bytes().to_vec();
                self.headers(&[], &mut body);
                control(out, SYN_REPLY, 0, &body);
            }
            Frame::Reset { id, status } => {
                control(out, RST_STREAM, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat());
            }
            Frame::Ping { id } => control(out, PING, 0, &id.to_be_bytes()),
            Frame::GoAway => control(out, GOAWAY, 0, &[0; 8]),
            Frame::Other => {}
        }
    }

    fn headers(&mut self, headers: &[(String, String)], out: &mut Vec<u8>) {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let Some(deflate) = &mut self.deflate else { return };
        let start = deflate.total_in();
        let mut packed = Vec::with_capacity(plain.len() + 64);
        loop {
            let rest = plain.get((deflate.total_in() - start) as usize..).unwrap_or_default();
            let flushed = deflate.compress_vec(rest, &mut packed, FlushCompress::Sync);
            if flushed.is_err() || packed.len() < packed.capacity() {
                break;
            }
            packed.reserve(256);
        }
        out.extend_from_slice(&packed);
    }
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, body: &[u8]) {
    let [c, d] = kind.to_be_bytes();
    head(out, [0x80, 3, c, d], flags, body.len());
    out.extend_from_slice(body);
}

fn head(out: &mut Vec<u8>, first: [u8; 4], flags: u8, length: usize) {
    let [_, l1, l2, l3] = (length as u32).to_be_bytes();
    out.extend_from_slice(&first);
    out.extend_from_slice(&[flags, l1, l2, l3]);
}
