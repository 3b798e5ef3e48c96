#![no_main]
//! Answers of an etcd that has gone mad, in any pieces.

use libfuzzer_sys::fuzz_target;
use wharf_etcd::{Frames, v3};

fuzz_target!(|data: &[u8]| {
    let (kind, data) = data.split_first().unwrap_or((&0, &[]));
    let mut frames = Frames::default();
    for piece in data.chunks(1 + usize::from(*kind) / 4) {
        frames.push(piece);
        let more = match kind % 4 {
            0 => frames.take::<v3::TxnResponse>().map(drop),
            1 => frames.take::<v3::WatchResponse>().map(drop),
            2 => frames.take::<v3::RangeResponse>().map(drop),
            _ => frames.take::<v3::StatusResponse>().map(drop),
        };
        if more.is_err() {
            return;
        }
    }
});
