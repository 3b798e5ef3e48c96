//! How large images are to their users: what their files hold once unpacked.

use std::fs;

use wharf_base::Digest;

use crate::{
    fsx,
    manifest::{Descriptor, ImageConfig, Manifest},
    store::Store,
};

/// Beside the files of an unpacked layer, which never change.
const FILE: &str = "size";

impl Store {
    /// The bytes in the files of each layer of an image; of one that is not unpacked, those of its blob.
    pub fn layer_contents(&self, manifest: &Manifest, config: &ImageConfig) -> Vec<u64> {
        let known = config.rootfs.diff_ids.iter().map(Some).chain(std::iter::repeat(None));
        let one = |(layer, diff_id): (&Descriptor, Option<&Digest>)| {
            diff_id.and_then(|diff_id| self.unpacked_content(diff_id)).unwrap_or(layer.size)
        };
        manifest.layers.iter().zip(known).map(one).collect()
    }

    fn unpacked_content(&self, diff_id: &Digest) -> Option<u64> {
        if !self.is_unpacked(diff_id) {
            return None;
        }
        let folder = self.layers.join(diff_id.hex());
        let file = folder.join(FILE);
        let known = fs::read_to_string(&file).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        Some(known.unwrap_or_else(|| {
            let bytes =
                fsx::sum_below(&folder.join("fs"), |meta| if meta.is_file() { meta.len() } else { 0 });
            // It is counted again where it cannot be kept.
            let _ = fs::write(&file, format!("{bytes}\n"));
            bytes
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::compress::Compression;

    #[test]
    fn files_are_counted_once_and_links_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let scratch = store.scratch().unwrap();
        fs::create_dir(scratch.upper().join("d")).unwrap();
        fs::write(scratch.upper().join("d/a"), [0; 70_000]).unwrap();
        fs::hard_link(scratch.upper().join("d/a"), scratch.upper().join("b")).unwrap();
        symlink("/etc/passwd", scratch.upper().join("c")).unwrap();
        let layer = store.commit_scratch(scratch, Compression::Gzip, None).unwrap().unwrap();
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "schemaVersion": 2, "config": layer.descriptor, "layers": [layer.descriptor, layer.descriptor]
        }))
        .unwrap();
        let mut config = ImageConfig::parse(
            b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
        )
        .unwrap();
        config.rootfs.diff_ids = vec![layer.diff_id, Digest::of("gone")];
        let expected = [70_000, layer.descriptor.size];
        // Counted, then known.
        for _ in 0..2 {
            assert_eq!(store.layer_contents(&manifest, &config), expected);
        }
    }
}
