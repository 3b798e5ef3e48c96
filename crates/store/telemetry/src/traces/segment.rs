//! Sealed spans: a file of blocks in order of trace id.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Head,
    span::{Span, TraceId, decode, encode},
};
use crate::blocks::{BlockFile, BlockWriter, Place, files};

/// Bytes of a block before compression.
const BLOCK_BYTES: usize = 256 << 10;
const LEVEL: i32 = 3;

/// One block: whole traces.
#[derive(Serialize, Deserialize, Clone)]
pub(super) struct BlockIndex {
    first: TraceId,
    last: TraceId,
    pub(super) oldest: i64,
    pub(super) newest: i64,
    pub(super) services: BTreeSet<String>,
    place: Place,
}

/// A sealed file.
pub(super) struct Segment {
    file: BlockFile,
    blocks: Vec<BlockIndex>,
    services: BTreeSet<String>,
    newest: i64,
}

impl Segment {
    /// The files of a folder, oldest first.
    pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
        files(dir, "spans")
    }

    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (file, blocks): (BlockFile, Vec<BlockIndex>) = BlockFile::open(path)?;
        let services = blocks.iter().flat_map(|b| &b.services).cloned().collect();
        let newest = blocks.iter().map(|b| b.newest).max().unwrap_or(0);
        Ok(Self { file, blocks, services, newest })
    }

    pub(super) fn write(dir: &Path, number: u64, head: &Head) -> io::Result<Self> {
        let path = dir.join(format!("{number:012}.spans"));
        let mut writer = BlockWriter::create(&path, LEVEL)?;
        let mut blocks = Vec::new();
        let mut open: Option<(BlockIndex, Vec<u8>)> = None;
        for (id, spans) in head {
            let (index, bytes) = open.get_or_insert_with(|| {
                let index = BlockIndex {
                    first: *id,
                    last: *id,
                    oldest: i64::MAX,
                    newest: i64::MIN,
                    services: BTreeSet::new(),
                    place: Place::default(),
                };
                (index, Vec::new())
            });
            index.last = *id;
            for span in spans {
                index.oldest = index.oldest.min(span.start);
                index.newest = index.newest.max(span.start);
                if !index.services.contains(&span.service) {
                    index.services.insert(span.service.clone());
                }
            }
            bytes.extend(encode(spans.iter().map(AsRef::as_ref)));
            if bytes.len() >= BLOCK_BYTES
                && let Some((mut index, bytes)) = open.take()
            {
                index.place = writer.add(&bytes)?;
                blocks.push(index);
            }
        }
        if let Some((mut index, bytes)) = open {
            index.place = writer.add(&bytes)?;
            blocks.push(index);
        }
        writer.finish(&blocks)?;
        Self::open(&path)
    }

    pub(super) fn number(&self) -> u64 {
        self.file.number()
    }

    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    pub(super) fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn services(&self) -> &BTreeSet<String> {
        &self.services
    }

    pub(super) fn blocks(&self) -> &[BlockIndex] {
        &self.blocks
    }

    pub(super) fn trace(&self, id: TraceId) -> io::Result<Vec<Span>> {
        let mut spans = Vec::new();
        for block in self.blocks.iter().filter(|b| b.first <= id && id <= b.last) {
            self.each(block, |span| {
                if span.trace_id == id {
                    spans.push(span);
                }
            })?;
        }
        Ok(spans)
    }

    pub(super) fn each(&self, block: &BlockIndex, each: impl FnMut(Span)) -> io::Result<()> {
        decode(&self.file.read(block.place)?, each);
        Ok(())
    }
}
