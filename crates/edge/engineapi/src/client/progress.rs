//! What a pull or push tells while it goes on.

use wharf_base::Digest;

/// Where one blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is there already.
    Exists,
    /// It was taken over from another repository of the registry.
    Mounted,
    /// So many of its bytes have passed.
    Transfer {
        /// Bytes so far.
        done: u64,
        /// All its bytes.
        total: u64,
    },
    /// The connection broke; it goes on from what is there.
    Retry,
    /// A layer is being unpacked.
    Unpack,
    /// It is done.
    Done,
}

/// Is told of every step; called often and from several tasks.
pub trait Progress: Send + Sync {
    /// Blob `digest` got to `step`.
    fn step(&self, digest: &Digest, step: Step);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &Digest, _: Step) {}
}
