//! Where the dynamic loader finds libraries: the rules of ld.so, without the environment.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use super::elf::{self, Elf};

const MAX_CACHE: u64 = 64 << 20;

/// Finds libraries as the machine's loader does.
pub(super) struct Loader {
    /// `ld.so.cache`: names to paths, the preferred first.
    cache: HashMap<String, Vec<PathBuf>>,
    defaults: Vec<PathBuf>,
}

impl Loader {
    pub(super) fn of_this_machine() -> Self {
        let path = Path::new("/etc/ld.so.cache");
        let small = fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_CACHE);
        let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        let defaults = [
            format!("/lib/{triple}"),
            format!("/usr/lib/{triple}"),
            "/lib64".into(),
            "/usr/lib64".into(),
            "/lib".into(),
            "/usr/lib".into(),
            "/usr/local/lib".into(),
        ];
        Self { cache: parse_cache(&bytes), defaults: defaults.into_iter().map(PathBuf::from).collect() }
    }

    /// Where the library `name` is, which `elf` at `path` needs. `above` are the search folders of those that needed it.
    pub(super) fn find(&self, name: &str, elf: &Elf, path: &Path, above: &[PathBuf]) -> Option<PathBuf> {
        let fits = |candidate: &PathBuf| matches!(elf::read(candidate), Ok(Some(Ok(found))) if found.machine == elf.machine);
        if name.contains('/') {
            return Some(PathBuf::from(name)).filter(fits);
        }
        let own = if elf.runpath.is_empty() { Self::folders(&elf.rpath, path) } else { Vec::new() };
        let above = if elf.runpath.is_empty() { above } else { &[] };
        let first = own.into_iter().chain(above.iter().cloned()).chain(Self::folders(&elf.runpath, path));
        let first = first.map(|folder| folder.join(name));
        let cached = self.cache.get(name).into_iter().flatten().cloned();
        first.chain(cached).chain(self.defaults.iter().map(|folder| folder.join(name))).find(fits)
    }

    /// Search folders with `$ORIGIN` put in.
    pub(super) fn folders(paths: &[String], of: &Path) -> Vec<PathBuf> {
        let origin =
            of.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)).unwrap_or_default();
        let lib = if cfg!(target_pointer_width = "64") { "lib64" } else { "lib" };
        let put = |path: &String| {
            let mut path = path.clone();
            for (name, value) in [
                ("ORIGIN", origin.to_string_lossy().as_ref()),
                ("LIB", lib),
                ("PLATFORM", std::env::consts::ARCH),
            ] {
                path = path.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
            }
            PathBuf::from(path)
        };
        paths.iter().map(put).collect()
    }
}

fn parse_cache(bytes: &[u8]) -> HashMap<String, Vec<PathBuf>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    let mut found: HashMap<String, Vec<PathBuf>> = HashMap::new();
    // The table may stand behind one of the old form.
    let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else { return found };
    let table = bytes.get(start..).unwrap_or_default();
    let number = |at: usize| table.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let text = |at: u32| {
        let rest = table.get(at as usize..)?;
        std::str::from_utf8(rest.split(|b| *b == 0).next()?).ok().filter(|text| text.len() < 4096)
    };
    let count = number(20).unwrap_or(0) as usize;
    for entry in (0..count).map(|number| 48 + number * 24) {
        let (Some(key), Some(value)) = (number(entry + 4), number(entry + 8)) else { break };
        if let (Some(name), Some(path)) = (text(key), text(value)) {
            found.entry(name.to_owned()).or_default().push(path.into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_c_library_by_the_cache() {
        let loader = Loader::of_this_machine();
        let program = Path::new("/proc/self/exe");
        let elf = elf::read(program).unwrap().unwrap().unwrap();
        assert!(loader.find("libc.so.6", &elf, program, &[]).is_some_and(|path| path.is_file()));
        assert_eq!(loader.find("libnothing.so.1", &elf, program, &[]), None);
    }

    #[test]
    fn puts_the_origin_in() {
        let folders =
            Loader::folders(&["$ORIGIN/../lib".into(), "${ORIGIN}".into()], Path::new("/usr/bin/env"));
        assert!(folders[0].ends_with("../lib") && folders[0].starts_with("/usr/bin"), "{folders:?}");
    }

    #[test]
    fn a_damaged_cache_is_as_none() {
        assert!(parse_cache(b"glibc-ld.so.cache1.1\xff\xff\xff\xff").is_empty());
        assert!(parse_cache(b"").is_empty());
    }
}
