//! Places of mounts, which are not a step's doing.

use std::{
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, statat, unlinkat};
use wharf_image::View;
use wharf_runtime::oci;

use crate::{
    error::{IoContext, Result},
    ignore::clean,
};

/// Places the runtime makes to mount on. They are not the step's doing and do not belong into its layer.
pub(super) struct Stubs {
    /// Places that were not there, the deepest first.
    missing: Vec<PathBuf>,
    /// Folders that were there, with owner and mode, the deepest first: overlayfs copies them up for a stub in them.
    touched: Vec<(PathBuf, (u32, u32, u32))>,
}

impl Stubs {
    pub(super) fn before(view: &View, mounts: &[oci::Mount]) -> Result<Self> {
        let mut stubs = Self { missing: Vec::new(), touched: Vec::new() };
        let given = mounts.iter().map(|mount| mount.destination().to_string_lossy().into_owned());
        for target in ["/proc", "/dev", "/sys"].into_iter().map(str::to_owned).chain(given) {
            let place = view.find(Path::new(&clean(&target)), true)?.path;
            for path in place.ancestors().filter(|path| !path.as_os_str().is_empty()) {
                match view.find(path, false)?.node {
                    None => stubs.missing.push(path.to_owned()),
                    Some(node) if node.dir.is_some() => {
                        let mode = node.stat.st_mode & 0o7777;
                        stubs.touched.push((path.to_owned(), (node.stat.st_uid, node.stat.st_gid, mode)));
                    }
                    Some(_) => {}
                }
            }
        }
        stubs.missing.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
        stubs.missing.dedup();
        stubs.touched.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        Ok(stubs)
    }

    /// Takes away from `upper` what is empty and was made for a mount.
    pub(super) fn remove(&self, upper: &Path) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(upper, flags, Mode::empty()).at("open folder", upper)?;
        let all = self.missing.iter().map(|path| (path, None));
        let all = all.chain(self.touched.iter().map(|(path, was)| (path, Some(*was))));
        for (path, was) in all {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            // The step may have put anything there; only what is plainly a stub goes.
            let Ok(parent) = openat2(&root, parent, flags, Mode::empty(), resolve) else { continue };
            let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let same = was.is_none_or(|was| was == (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777));
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if same && !is_opaque(&parent, name.as_bytes()) => {
                    let _ = unlinkat(&parent, name, AtFlags::REMOVEDIR);
                }
                FileType::RegularFile if was.is_none() && stat.st_size == 0 => {
                    let _ = unlinkat(&parent, name, AtFlags::empty());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_opaque(parent: &OwnedFd, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut value = [0u8; 8];
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .is_ok_and(|dir| rustix::fs::fgetxattr(&dir, wharf_image::opaque_xattr(), &mut value).is_ok())
}
