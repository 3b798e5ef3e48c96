//! Layers: tar streams that change a file tree, read, written and unpacked.

mod pack;
mod read;
mod rootdir;
mod unpack;
mod write;

pub use pack::pack_directory;
pub use read::{TarEntry, TarKind, TarReader};
pub use unpack::{Limits, UnpackOptions, Unpacked, unpack_into};
pub use write::TarWriter;

/// The prefix of a layer entry that removes the rest of its name from the layers below.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The layer entry that hides everything its folder has in the layers below.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// How overlayfs marks a folder that hides what lies below.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// The extended attributes that belong to overlayfs itself and never to a layer.
pub(crate) use rootdir::{read_xattr, read_xattrs};
pub(crate) const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
