//! What a build made, outside of the image store: as files in a folder, or in a tar stream.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use wharf_image::{Descriptor, pack_directory};

use crate::{
    Builder,
    copy::{Changes, Placer, Tree},
    error::{IoContext, Result},
    ignore::Ignore,
};

impl Builder {
    /// Copies the files of an image into a folder, beside what is there. They belong to who runs this program.
    pub fn export_folder(&self, image: &Descriptor, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).at("create folder", folder)?;
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.copy_out(image, folder, Some(owner))
    }

    /// Writes the files of images as a tar stream, each below its folder where one is named. With `not_after`, times
    /// are clamped to it.
    pub fn export_tar<W: Write>(
        &self,
        images: &[(Option<String>, &Descriptor)],
        out: W,
        not_after: Option<i64>,
    ) -> Result<W> {
        let temp = self.workspace.temp()?;
        let folder = temp.path().join("rootfs");
        fs::create_dir(&folder).at("create folder", &folder)?;
        for (name, image) in images {
            let place = name.as_ref().map_or_else(|| folder.clone(), |name| folder.join(name));
            fs::create_dir_all(&place).at("create folder", &place)?;
            self.copy_out(image, &place, None)?;
        }
        Ok(pack_directory(&folder, out, not_after)?)
    }

    fn copy_out(&self, image: &Descriptor, folder: &Path, owner: Option<(u32, u32)>) -> Result<()> {
        let layers: Vec<PathBuf> = self.images.resolve_descriptor(image)?.lower_dirs;
        if layers.is_empty() {
            return Ok(());
        }
        let tree = Tree::layers(&layers, "the image".into())?;
        let changes = Changes { owner, mode: None };
        let placer = Placer::new(folder, None, &changes)?;
        for item in tree.find("/", false)? {
            placer.copy(&tree, &item, Path::new(""), &Ignore::default())?;
        }
        placer.finish()
    }
}
