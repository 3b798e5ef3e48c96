//! Python's standard library.

use std::path::{Path, PathBuf};

/// Parts of the library no service needs, or that need a screen.
const LEFT_OUT: [&str; 8] =
    ["test", "tests", "idlelib", "tkinter", "turtledemo", "dist-packages", "site-packages", "ensurepip"];

/// A Python installation's own library.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Library {
    pub(super) folder: PathBuf,
    /// `3.11`.
    pub(super) version: String,
}

/// The library of the program at `path`, when that is Python.
pub(super) fn library_of(path: &Path) -> Option<Library> {
    let is_python = path.file_name()?.to_str()?.starts_with("python3");
    let real = path.canonicalize().ok().filter(|_| is_python)?;
    let version =
        real.file_name()?.to_str()?.strip_prefix("python").filter(|v| v.starts_with("3."))?.to_owned();
    let prefix = real.parent()?.parent()?;
    let folder = ["lib", "lib64"].into_iter().map(|lib| prefix.join(lib).join(format!("python{version}")));
    folder.into_iter().find(|folder| folder.join("os.py").exists()).map(|folder| Library { folder, version })
}

impl Library {
    /// Whether a file or folder, relative to the library, belongs into the image.
    pub(super) fn wants(&self, relative: &Path) -> bool {
        let name = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if LEFT_OUT.contains(&name) || name.starts_with("config-") || name == "turtle.py" {
            return false;
        }
        if name.starts_with("_tkinter.")
            || name.starts_with("_test")
            || name.starts_with("_ctypes_test")
            || name.starts_with("_xx")
        {
            return false;
        }
        // Compiled for this version and without optimisation is what the interpreter looks for.
        if let Some(stem) = name.strip_suffix(".pyc") {
            return stem.ends_with(&format!(".cpython-{}", self.version.replace('.', "")));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_what_services_do_not_need() {
        let library = Library { folder: "/l".into(), version: "3.11".into() };
        for (path, expect) in [
            ("os.py", true),
            ("test", false),
            ("unittest", true),
            ("idlelib", false),
            ("config-3.11-x86_64-linux-gnu", false),
            ("__pycache__/os.cpython-311.pyc", true),
            ("__pycache__/os.cpython-311.opt-1.pyc", false),
            ("__pycache__/os.cpython-310.pyc", false),
            ("lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", true),
            ("lib-dynload/_testcapi.cpython-311-x86_64-linux-gnu.so", false),
        ] {
            assert_eq!(library.wants(Path::new(path)), expect, "{path}");
        }
    }
}
