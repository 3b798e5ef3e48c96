//! The demo's own data folder. It makes it, knows it again, and removes it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use wharf_base::Hinted;

/// A file that says the folder is a demo's, so that nothing of anybody else's is ever removed.
const MARK: &str = "wharf-demo";

/// The folder, and what is in it.
#[derive(Debug, PartialEq)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    /// An earlier demo was ended before it could clean up.
    pub(super) left_over: bool,
}

/// Beside that of a platform.
fn usual() -> PathBuf {
    crate::commands::default_data_dir().with_file_name(MARK)
}

impl Folder {
    /// The folder asked for, or the usual one. Refuses one that holds anything but a demo.
    pub(super) fn choose(asked: Option<&Path>) -> Result<Self> {
        let path = std::path::absolute(asked.map_or_else(usual, Path::to_owned))?;
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries.count(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot use the folder {}", path.display()));
            }
        };
        let left_over = path.join(MARK).exists();
        if entries > 0 && !left_over {
            let error =
                format!("{} holds something already, and the demo removes its folder", path.display());
            return Err(
                Hinted::new(error, "choose an empty folder, or one that is not there, with --data").into()
            );
        }
        Ok(Self { path, left_over })
    }

    pub(super) fn make(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        let made =
            made.and_then(|()| fs::write(self.path.join(MARK), "made by wharf demo, which removes it\n"));
        made.with_context(|| format!("cannot make the folder {}", self.path.display()))
    }

    pub(super) fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.path).with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_demos_folder_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("data");
        let folder = Folder::choose(Some(&path)).unwrap();
        assert!(!folder.left_over);
        folder.make().unwrap();
        assert!(Folder::choose(Some(&path)).unwrap().left_over);
        folder.remove().unwrap();

        fs::write(place.path().join("thesis.txt"), "").unwrap();
        assert!(Folder::choose(Some(place.path())).is_err());
    }
}
