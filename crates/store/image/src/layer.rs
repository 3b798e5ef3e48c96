//! Layers: tar streams that change a file tree, read, written and unpacked.

mod pack;
mod read;
mod rootdir;
mod unpack;
mod write;

pub use pack::pack_directory;
pub use read::{TarEntry, TarKind, TarReader};
pub use unpack::{Limits, UnpackOptions, Unpacked, unpack_into};
use wharf_base::is_of_machine;
pub use write::TarWriter;

/// The prefix of a layer entry that removes the rest of its name from the layers below.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The layer entry that hides everything its folder has in the layers below.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// How overlayfs marks a folder that hides what lies below; `user.` is the form it has in user namespaces (its option `userxattr`).
const OPAQUE_XATTRS: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];
pub(crate) use rootdir::{read_xattr, read_xattrs};

/// The extended attribute by which overlayfs marks a folder that hides what lies below, for overlays this process mounts.
pub fn opaque_xattr() -> &'static str {
    OPAQUE_XATTRS[usize::from(in_user_namespace())]
}

/// Whether this process is in a user namespace that is not the machine's, where it can make no device.
pub(crate) fn in_user_namespace() -> bool {
    static INSIDE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // Kernels without user namespaces have no such file.
    let read = || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_of_machine(&map));
    *INSIDE.get_or_init(read)
}

/// Why nothing can belong to this user and group, where the user namespace of this process does not know one of them.
pub fn unknown_owner(uid: u32, gid: u32) -> Option<String> {
    let unknown = |(map, id)| wharf_base::unknown(&std::fs::read_to_string(map).ok()?, id);
    [("/proc/self/uid_map", uid), ("/proc/self/gid_map", gid)].into_iter().find_map(unknown)
}

/// The extended attributes that belong to overlayfs itself and never to a layer.
pub(crate) const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
