//! `leases/<name>`: images in use by something without a name in the index, such as a container.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use wharf_base::Digest;

use crate::{
    error::{Error, IoContext, Result},
    fsx,
};

fn lines(manifests: &[Digest]) -> String {
    manifests.iter().map(|digest| format!("{digest}\n")).collect()
}

#[derive(Debug, Clone)]
pub(crate) struct Leases {
    dir: PathBuf,
}

impl Leases {
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let dir = data_dir.join("leases");
        fsx::create_private_dir(&dir)?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let fine = (1..=128).contains(&name.len())
            && !name.starts_with('.')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if fine {
            Ok(self.dir.join(name))
        } else {
            Err(Error::document(
                format!("lease name '{name}'"),
                "is not made of letters, digits, '-', '_' and '.'",
            ))
        }
    }

    pub(crate) fn set(&self, name: &str, manifests: &[Digest]) -> Result<()> {
        fsx::replace_file(&self.path(name)?, lines(manifests).as_bytes())
    }

    /// Until the machine stops. What is left of it then holds nothing, or what it held.
    pub(crate) fn set_for_now(&self, name: &str, manifests: &[Digest]) -> Result<()> {
        fsx::replace_file_for_now(&self.path(name)?, lines(manifests).as_bytes())
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.at("remove lease", &path),
        }
    }

    /// Every lease with the manifests it holds.
    pub(crate) fn all(&self) -> Result<Vec<(String, Vec<Digest>)>> {
        let mut held = Vec::new();
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)? {
            let path = entry.at("list", &self.dir)?.path();
            match fs::read_to_string(&path) {
                Ok(text) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    held.push((name, text.lines().filter_map(|line| line.parse().ok()).collect()));
                }
                // Released in this moment.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).at("read lease", &path),
            }
        }
        Ok(held)
    }
}
