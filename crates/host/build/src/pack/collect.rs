//! Follows programs to everything they need: links, loaders, libraries, interpreters.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::Read,
    path::{Component, Path, PathBuf},
};

use super::{
    elf::{self, Elf},
    find_program,
    layout::{Entry, Layout},
    loader::Loader,
    python::Library,
};
use crate::error::{Error, IoContext, Result};

const MAX_LINKS: usize = 40;
const MAX_DEPTH: usize = 60;

/// Collects files of this machine.
pub(super) struct Collector {
    layout: Layout,
    loader: Loader,
    /// Files whose needs have been looked at.
    seen: BTreeSet<PathBuf>,
    pub(super) warnings: Vec<String>,
}

const PASSWD: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nstaff:x:50:\nusers:x:100:\nnogroup:x:65534:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n";

impl Collector {
    pub(super) fn new() -> Self {
        Self {
            layout: Layout::default(),
            loader: Loader::of_this_machine(),
            seen: BTreeSet::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn into_layout(self) -> Layout {
        self.layout
    }

    /// Adds a program, file or folder with all it needs.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        self.add_with(path, &[])
    }

    fn add_with(&mut self, path: &Path, above: &[PathBuf]) -> Result<()> {
        let real = self.links(path)?;
        let meta = fs::metadata(&real).at("read", &real)?;
        if meta.is_dir() {
            return self.tree(&real, &|_| true, 0);
        }
        if !meta.is_file() {
            return Err(Error::invalid(format!("cannot pack '{}': it is no plain file", path.display())));
        }
        self.file(&real, above)
    }

    /// Adds the links on the way to `path` and gives where it really is.
    fn links(&mut self, path: &Path) -> Result<PathBuf> {
        let mut todo: Vec<OsString> = parts(path);
        todo.reverse();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let meta = fs::symlink_metadata(&next).at("read", &next)?;
            if !meta.is_symlink() {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::invalid(format!(
                    "cannot pack '{}': it has too many links",
                    path.display()
                )));
            }
            let target = fs::read_link(&next).at("read link", &next)?;
            self.layout.put(&next, Entry::Link(target.clone()))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            todo.extend(parts(&target).into_iter().rev());
        }
        Ok(at)
    }

    fn file(&mut self, real: &Path, above: &[PathBuf]) -> Result<()> {
        if !self.seen.insert(real.to_owned()) {
            return Ok(());
        }
        self.layout.put(real, Entry::File(real.to_owned()))?;
        match elf::read(real).at("read", real)? {
            Some(Ok(elf)) => self.needs(real, &elf, above),
            Some(Err(problem)) => {
                self.warnings.push(format!("{} {problem}: packed without what it may need", real.display()));
                Ok(())
            }
            None => self.script(real),
        }
    }

    /// The loader and the libraries of a program, and theirs.
    fn needs(&mut self, path: &Path, elf: &Elf, above: &[PathBuf]) -> Result<()> {
        if let Some(interpreter) = &elf.interpreter {
            self.add(Path::new(interpreter))?;
        }
        let mut inherited = Loader::folders(&elf.rpath, path);
        inherited.extend(above.iter().cloned());
        for name in &elf.needed {
            let found = self.loader.find(name, elf, path, above).ok_or_else(|| {
                Error::invalid(format!("cannot pack '{}': its library '{name}' is not found", path.display()))
                    .hint("install the library, or see what `ldd` says of the program")
            })?;
            self.add_with(&found, &inherited)?;
            if name.starts_with("libc.so.") {
                self.companions(elf, path)?;
            }
        }
        Ok(())
    }

    /// Libraries the C library loads by itself when it needs them.
    fn companions(&mut self, elf: &Elf, path: &Path) -> Result<()> {
        for name in ["libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2"] {
            if let Some(found) = self.loader.find(name, elf, path, &[]) {
                self.add(&found)?;
            }
        }
        Ok(())
    }

    /// The interpreter a script names in its first line.
    fn script(&mut self, path: &Path) -> Result<()> {
        let mut head = Vec::new();
        fs::File::open(path).at("open", path)?.take(256).read_to_end(&mut head).at("read", path)?;
        let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
        let Some(line) = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix("#!")) else {
            return Ok(());
        };
        let mut words = line.split_whitespace();
        let Some(interpreter) = words.next().filter(|word| word.starts_with('/')) else { return Ok(()) };
        self.interpreter(Path::new(interpreter), path)?;
        if interpreter.ends_with("/env")
            && let Some(program) = words.find(|word| !word.starts_with('-') && !word.contains('='))
        {
            self.interpreter(&find_program(program)?, path)?;
        }
        Ok(())
    }

    fn interpreter(&mut self, path: &Path, script: &Path) -> Result<()> {
        if !path.exists() {
            self.warnings.push(format!(
                "the interpreter {} of {} is not here",
                path.display(),
                script.display()
            ));
            return Ok(());
        }
        self.add(path)?;
        match super::python::library_of(path) {
            Some(library) => self.python(&library),
            None => Ok(()),
        }
    }

    /// Adds a folder's content, as far as it is wanted. Paths asked for are relative to it.
    fn tree(&mut self, folder: &Path, wants: &dyn Fn(&Path) -> bool, depth: usize) -> Result<()> {
        self.branch(folder, folder, wants, depth)
    }

    fn branch(
        &mut self,
        root: &Path,
        folder: &Path,
        wants: &dyn Fn(&Path) -> bool,
        depth: usize,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!("cannot pack '{}': it is too deep", folder.display())));
        }
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(folder).at("read", folder)?.permissions().mode() & 0o7777;
        self.layout.put(folder, Entry::Dir(mode))?;
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).at("list", folder)?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for path in entries {
            if !path.strip_prefix(root).is_ok_and(wants) {
                continue;
            }
            let kind = fs::symlink_metadata(&path).at("read", &path)?.file_type();
            if kind.is_dir() {
                self.branch(root, &path, wants, depth + 1)?;
            } else if kind.is_symlink() {
                self.link(&path)?;
            } else if kind.is_file() {
                self.part(&path)?;
            }
        }
        Ok(())
    }

    /// A link inside a folder: kept, and what it leads to where that is a file.
    fn link(&mut self, path: &Path) -> Result<()> {
        if path.metadata().is_ok_and(|meta| meta.is_file()) {
            return self.links(path).and_then(|real| self.part(&real));
        }
        let target = fs::read_link(path).at("read link", path)?;
        self.layout.put(path, Entry::Link(target)).map(|_| ())
    }

    /// A file inside a folder. One whose libraries are not here is left out: it could not be used here either.
    fn part(&mut self, path: &Path) -> Result<()> {
        if let Some(Ok(elf)) = elf::read(path).at("read", path)? {
            let missing = elf.needed.iter().find(|name| self.loader.find(name, &elf, path, &[]).is_none());
            if let Some(name) = missing {
                self.warnings
                    .push(format!("{} is left out: its library '{name}' is not here", path.display()));
                return Ok(());
            }
            return self.file(path, &[]);
        }
        // Scripts in a library are no programs: what they name as interpreter is not pulled in.
        if self.seen.insert(path.to_owned()) {
            self.layout.put(path, Entry::File(path.to_owned()))?;
        }
        Ok(())
    }

    /// Adds Python's standard library with the libraries of its extensions.
    pub(super) fn python(&mut self, library: &Library) -> Result<()> {
        if self.layout.has(&library.folder.join("os.py")) {
            return Ok(());
        }
        let folder = self.links(&library.folder)?;
        self.tree(&folder, &|relative| library.wants(relative), 0)
    }

    /// A link for each program in busybox.
    pub(super) fn applets(&mut self, busybox: &Path) -> Result<()> {
        let listed = std::process::Command::new(busybox).arg("--list").output().at("run", busybox)?;
        let folder = self.links(Path::new("/bin")).unwrap_or_else(|_| "/bin".into());
        for name in String::from_utf8_lossy(&listed.stdout).lines() {
            let fine = !name.is_empty() && !name.contains('/') && name != "busybox";
            if fine {
                self.layout.put(&folder.join(name), Entry::Link(busybox.to_owned()))?;
            }
        }
        Ok(())
    }

    /// What every program may look for.
    pub(super) fn surroundings(&mut self) -> Result<()> {
        for (path, mode) in [
            ("/tmp", 0o1777),
            ("/var/tmp", 0o1777),
            ("/root", 0o700),
            ("/dev", 0o755),
            ("/proc", 0o755),
            ("/sys", 0o755),
            ("/run", 0o755),
        ] {
            self.layout.put(Path::new(path), Entry::Dir(mode))?;
        }
        for (path, text) in [("/etc/passwd", PASSWD), ("/etc/group", GROUP), ("/etc/nsswitch.conf", NSSWITCH)]
        {
            self.layout.put(Path::new(path), Entry::Data(text.into()))?;
        }
        // `/bin` and `/lib` are links on a machine with a merged `/usr`: `#!/bin/sh` must work here too.
        for path in ["/bin", "/sbin", "/lib", "/lib64"] {
            if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink()) {
                let real = self.links(Path::new(path))?;
                self.layout.put(&real, Entry::Dir(0o755))?;
            }
        }
        let plain = [
            "/etc/ssl/certs/ca-certificates.crt",
            "/etc/ssl/openssl.cnf",
            "/usr/lib/ssl/openssl.cnf",
            "/usr/lib/ssl/cert.pem",
            "/usr/share/zoneinfo/UTC",
            "/usr/share/zoneinfo/Etc/UTC",
        ];
        for path in plain.map(Path::new).into_iter().filter(|path| path.is_file()) {
            let real = self.links(path)?;
            self.layout.put(&real, Entry::File(real.clone()))?;
        }
        if Path::new("/usr/lib/ssl/certs").is_dir() {
            self.links(Path::new("/usr/lib/ssl/certs"))?;
        }
        if self.layout.has(Path::new("/usr/share/zoneinfo/UTC")) {
            let target = PathBuf::from("/usr/share/zoneinfo/UTC");
            self.layout.put(Path::new("/etc/localtime"), Entry::Link(target))?;
        }
        Ok(())
    }
}

fn parts(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}
