//! Files that change all at once: `NAME -> ..data/NAME`, `..data -> ..TIME`, so that a reader sees the old set or the new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use wharf_base::random_hex;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileContent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) group: Option<u32>,
}

const DATA: &str = "..data";

/// Makes the folder show exactly these files. False when it does already.
pub(super) fn write(folder: &Path, files: &BTreeMap<String, FileContent>) -> io::Result<bool> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let data = folder.join(DATA);
    let before = fs::read_link(&data).ok();
    if before.is_some() && same(&data, files)? {
        return Ok(false);
    }
    let version = PathBuf::from(format!("..{}", random_hex(8)));
    write_version(&folder.join(&version), files)?;
    let draft = folder.join("..data_tmp");
    remove_if_there(&draft)?;
    symlink(&version, &draft)?;
    fs::rename(&draft, &data)?;
    link_names(folder, files)?;
    if let Some(before) = before {
        fs::remove_dir_all(folder.join(before))?;
    }
    Ok(true)
}

fn write_version(target: &Path, files: &BTreeMap<String, FileContent>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(target)?;
    for (path, file) in files {
        let place = target.join(path);
        if let Some(parent) = place.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
        io::Write::write_all(&mut opened, &file.bytes)?;
        if let Some(group) = file.group {
            super::give_to(&place, group)?;
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// The names people see: the first part of each path.
fn link_names(folder: &Path, files: &BTreeMap<String, FileContent>) -> io::Result<()> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let shown = name.to_str().is_some_and(|name| names.contains(name) || name.starts_with(".."));
        if !shown {
            fs::remove_file(entry.path())?;
        }
    }
    for name in names {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn same(data: &Path, files: &BTreeMap<String, FileContent>) -> io::Result<bool> {
    let mut found = 0;
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let known = path.strip_prefix(data).ok().and_then(Path::to_str).and_then(|name| files.get(name));
            let Some(known) = known else { return Ok(false) };
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            if mode != known.mode || fs::read(&path)? != known.bytes {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, FileContent> {
        let file = |text: &str| FileContent { bytes: text.into(), mode: 0o440, group: None };
        list.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn shows_one_set_after_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("volume");
        let read = |name: &str| fs::read_to_string(place.join(name)).ok();
        assert!(write(&place, &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        assert!(!write(&place, &files(&[("a", "1"), ("d/b", "2")])).unwrap());
        let held = fs::File::open(place.join("a")).unwrap();
        assert!(write(&place, &files(&[("a", "3"), ("c", "4")])).unwrap());
        assert_eq!((read("a").as_deref(), read("d/b"), read("c").as_deref()), (Some("3"), None, Some("4")));
        assert_eq!(io::read_to_string(held).unwrap(), "1");
        assert_eq!(fs::metadata(place.join("a")).unwrap().permissions().mode() & 0o777, 0o440);
        // ..data, its version, and the two names.
        assert_eq!(fs::read_dir(&place).unwrap().count(), 4);
        assert!(write(&place, &files(&[])).unwrap());
        assert_eq!(fs::read_dir(&place).unwrap().count(), 2);
    }
}
