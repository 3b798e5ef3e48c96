//! Content-addressed blobs, manifests, unpacked layers, names and archives. Registries are the edge's matter.
//!
//! The data folder is itself an OCI image layout: `oci-layout`, `index.json` with one entry per
//! reference, `blobs/sha256/…`. Beside it, `layers/` holds every layer unpacked once, ready to be an
//! overlay lower directory. Several processes may use one folder at the same time.
//!
//! This room knows nothing of containers, Dockerfiles or listeners.

mod archive;
mod blob;
mod cached;
mod compress;
mod error;
mod fsx;
mod gc;
mod layer;
mod lease;
mod manifest;
mod own;
mod partial;
mod reference;
mod refs;
mod signal;
mod size;
mod store;
mod view;

pub use archive::Archived;
pub use blob::{BlobWriter, Blobs};
pub use compress::{Compression, Decoder};
pub use error::{Error, FREE_SPACE, Result, is_full};
pub use gc::{DiskUsage, GcOptions, GcReport, bytes_below};
pub use layer::{
    Limits, TarEntry, TarKind, TarReader, TarWriter, UnpackOptions, Unpacked, opaque_xattr, pack_directory,
    unknown_owner, unpack_into,
};
pub use manifest::{
    ContainerConfig, Descriptor, Empty, Healthcheck, History, ImageConfig, Index, Manifest, Platform, RootFs,
    media_type,
};
pub use own::is_loopback_registry;
pub use partial::{Follower, Mark, Partial};
pub use reference::Reference;
pub use refs::RefEntry;
pub use signal::{SIGNAL_NAMES, signal_number};
pub use store::{Layer, ResolvedImage, Scratch, Store};
pub use view::{Dir, Found, Node, View, glob_match};
