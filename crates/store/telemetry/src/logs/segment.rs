//! Sealed lines: a file of blocks, each a piece of one stream.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Entry,
    head::{Head, encode},
};
use crate::{
    blocks::{BlockFile, BlockWriter, Place, files},
    metrics::Labels,
};

/// Text of a block, before compression.
const BLOCK_BYTES: usize = 512 << 10;
const LEVEL: i32 = 3;

#[derive(Serialize, Deserialize)]
struct StreamIndex {
    labels: BTreeMap<String, String>,
    blocks: Vec<BlockIndex>,
}

/// One block.
#[derive(Serialize, Deserialize, Clone, Copy)]
pub(super) struct BlockIndex {
    pub(super) oldest: i64,
    pub(super) newest: i64,
    pub(super) lines: u32,
    place: Place,
}

/// A sealed file.
pub(super) struct Segment {
    file: BlockFile,
    streams: Vec<(Labels, Vec<BlockIndex>)>,
    oldest: i64,
    newest: i64,
}

impl Segment {
    /// The files of a folder, oldest first.
    pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
        files(dir, "logs")
    }

    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (file, index): (BlockFile, Vec<StreamIndex>) = BlockFile::open(path)?;
        let streams: Vec<_> = index
            .into_iter()
            .map(|s| (Labels::from_pairs(s.labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))), s.blocks))
            .collect();
        let blocks = || streams.iter().flat_map(|(_, blocks)| blocks);
        let oldest = blocks().map(|b| b.oldest).min().unwrap_or(0);
        let newest = blocks().map(|b| b.newest).max().unwrap_or(0);
        Ok(Self { file, streams, oldest, newest })
    }

    /// Seals lines into file `number`: all that the log holds before its segment of that number.
    pub(super) fn write(dir: &Path, number: u64, head: &Head) -> io::Result<Self> {
        let path = dir.join(format!("{number:012}.logs"));
        let mut writer = BlockWriter::create(&path, LEVEL)?;
        let mut index = Vec::new();
        for (labels, entries) in head.sorted() {
            let mut blocks = Vec::new();
            let mut rest = entries.as_slice();
            while !rest.is_empty() {
                let (piece, following) = rest.split_at(piece_length(rest));
                if let (Some(first), Some(last)) = (piece.first(), piece.last()) {
                    let place = writer.add(&encode(piece))?;
                    blocks.push(BlockIndex {
                        oldest: first.at,
                        newest: last.at,
                        lines: piece.len() as u32,
                        place,
                    });
                }
                rest = following;
            }
            let labels = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            index.push(StreamIndex { labels, blocks });
        }
        writer.finish(&index)?;
        Self::open(&path)
    }

    pub(super) fn number(&self) -> u64 {
        self.file.number()
    }

    pub(super) fn oldest(&self) -> i64 {
        self.oldest
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

    pub(super) fn newest_of(&self, labels: &Labels) -> Option<i64> {
        let stream = self.streams.iter().find(|(l, _)| l == labels)?;
        stream.1.iter().map(|b| b.newest).max()
    }

    pub(super) fn labels_between(&self, from: i64, to: i64) -> impl Iterator<Item = &Labels> {
        let overlaps = move |blocks: &[BlockIndex]| blocks.iter().any(|b| b.newest >= from && b.oldest < to);
        self.streams.iter().filter(move |(_, blocks)| overlaps(blocks)).map(|(labels, _)| labels)
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = (&Labels, &[BlockIndex])> {
        self.streams.iter().map(|(labels, blocks)| (labels, blocks.as_slice()))
    }

    pub(super) fn read(&self, block: &BlockIndex) -> io::Result<Vec<u8>> {
        self.file.read(block.place)
    }
}

/// How many lines make up the next block: at least one.
fn piece_length(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let full = entries.iter().position(|entry| {
        bytes += entry.line.len();
        bytes > BLOCK_BYTES
    });
    full.unwrap_or(entries.len()).max(1)
}
