//! What Rust programs are built from: lock files, and the list `cargo auditable` puts into programs.

use std::io::Read;

use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::Package;
use crate::version::Ecosystem;

const MAX_LIST: u64 = 8 << 20;

/// `Cargo.lock`: only `key = "value"` lines of `[[package]]` tables matter, which cargo writes one a line.
pub(super) fn lock(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let tables = text.split("[[package]]").skip(1);
    let package = |table: &str| {
        let field = |name: &str| {
            let line =
                table.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='))?;
            Some(line.trim().trim_matches('"'))
        };
        // Packages without a source are the project's own.
        let public =
            field("source").is_some_and(|s| s.contains("crates.io-index") || s.contains("index.crates.io"));
        public.then(|| Some(Package::new(Ecosystem::CratesIo, field("name")?, field("version")?)))?
    };
    tables.filter_map(package).collect()
}

/// The content of the section `.dep-v0`.
pub(super) fn auditable(section: &[u8]) -> Vec<Package> {
    #[derive(Deserialize)]
    struct List {
        packages: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        name: String,
        version: String,
        source: String,
        kind: Option<String>,
    }
    let mut json = Vec::new();
    if ZlibDecoder::new(section).take(MAX_LIST).read_to_end(&mut json).is_err() {
        return Vec::new();
    }
    let list: Option<List> = serde_json::from_slice(&json).ok();
    let entries = list.into_iter().flat_map(|list| list.packages);
    // Build dependencies are not in the program.
    entries
        .filter(|e| e.source == "crates.io" && e.kind.as_deref().unwrap_or("runtime") == "runtime")
        .map(|e| Package::new(Ecosystem::CratesIo, &e.name, &e.version))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    #[test]
    fn reads_what_cargo_auditable_writes() {
        let json = br#"{"packages":[{"name":"app","version":"0.1.0","source":"local","root":true},
            {"name":"time","version":"0.1.43","source":"crates.io"},{"name":"cc","version":"1.0.0","source":"crates.io","kind":"build"}]}"#;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(json).unwrap();
        let found = super::auditable(&packed.finish().unwrap());
        assert_eq!(found.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["time"]);
        assert!(super::auditable(b"junk").is_empty());
    }
}
