//! Whole images against a folder of advisories.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use serde_json::json;
use wharf_image::{
    Compression, ImageConfig, Layer, Reference, ResolvedImage, Store, TarEntry, TarKind, TarWriter,
};
use wharf_scan::{Error, Scanner, Severity, cyclonedx};

const STATUS: &str = "Package: libssl3\nStatus: install ok installed\nSource: openssl\nVersion: 3.0.9-1\n\n\
    Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n";

fn layer(store: &Store, files: &[(&str, &str)]) -> Layer {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    store.add_layer_from(dir.path(), Compression::Gzip, None).unwrap()
}

/// A layer that removes a path.
fn whiteout(store: &Store, path: &str) -> Layer {
    use std::io::Write;
    let mut tar = TarWriter::new(Vec::new());
    tar.append(&TarEntry::new(path, TarKind::File, 0o644), &[][..]).unwrap();
    let tar = tar.finish().unwrap();
    let mut blob = store.blobs().writer().unwrap();
    blob.write_all(&tar).unwrap();
    let (digest, size) = blob.commit(None).unwrap();
    let descriptor = wharf_image::Descriptor::new(wharf_image::media_type::OCI_LAYER, digest, size);
    Layer { descriptor, diff_id: digest }
}

fn image(store: &Store, layers: &[Layer]) -> ResolvedImage {
    let target = store.put_image(ImageConfig::for_host(), layers).unwrap();
    let name: Reference = "shop:1".parse().unwrap();
    store.tag(&[name], &target).unwrap();
    store.resolve("shop:1").unwrap()
}

fn advisory(dir: &Path, id: &str, ecosystem: &str, package: &str, fixed: &str, aliases: &[&str]) {
    let value = json!({"id": id, "aliases": aliases, "summary": format!("{package} is broken"),
        "severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"}],
        "affected": [{"package": {"ecosystem": ecosystem, "name": package},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": fixed}]}]}]});
    fs::create_dir_all(dir.join("deep/er")).unwrap();
    fs::write(dir.join(format!("deep/er/{id}.json")), value.to_string()).unwrap();
}

#[test]
fn finds_what_the_image_shows_and_names_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    let osv = dir.path().join("osv");
    advisory(&osv, "DSA-1", "Debian:12", "openssl", "3.0.9-2", &["CVE-1"]);
    advisory(&osv, "DSA-2", "Debian:11", "bash", "9", &[]);
    advisory(&osv, "PYSEC-1", "PyPI", "jinja2", "3.1.3", &["CVE-2"]);
    advisory(&osv, "GHSA-1", "PyPI", "Jinja2", "3.1.3", &["CVE-2"]);
    advisory(&osv, "RUSTSEC-1", "crates.io", "time", "0.2.0", &[]);
    fs::write(osv.join("broken.json"), "{").unwrap();

    let base = layer(
        &store,
        &[("var/lib/dpkg/status", STATUS), ("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n")],
    );
    let lock = "[[package]]\nname = \"time\"\nversion = \"0.1.43\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
    let key = format!("-----BEGIN {}PRIVATE KEY-----\n", "");
    let app = layer(
        &store,
        &[
            ("app/Cargo.lock", lock),
            ("app/x.dist-info/METADATA", "Name: Jinja2\nVersion: 3.1.0\n"),
            ("app/id_rsa", &key),
            ("var/lib/dpkg/status", STATUS),
        ],
    );
    let gone = whiteout(&store, "app/.wh.Cargo.lock");
    let unseen = whiteout(&store, "app/.wh.id_rsa");
    let image = image(&store, &[base.clone(), app.clone(), gone, unseen]);
    let scanner = Scanner::open(&osv).unwrap();
    let report = scanner.scan(&store, &image).unwrap();

    let found: Vec<_> =
        report.findings.iter().map(|f| (f.package.as_str(), f.fixed_in.as_deref(), f.layer)).collect();
    assert_eq!(found, [("Jinja2", Some("3.1.3"), app.diff_id), ("libssl3", Some("3.0.9-2"), base.diff_id)]);
    let both = &report.findings[0];
    assert_eq!((both.severity, both.aliases.len()), (Severity::High, 2), "one finding under three ids");
    assert_eq!(report.at_least(Severity::Critical).count(), 0);
    assert_eq!(report.at_least(Severity::High).count(), 2);
    assert!(report.secrets[0].hidden && report.secrets[0].secret.path == "app/id_rsa");
    assert!(report.notes[0].contains("broken.json"), "{:?}", report.notes);

    let again = scanner.scan(&store, &image).unwrap();
    assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&report).unwrap());
    assert_eq!(fs::read_dir(store.data_dir().join("scan")).unwrap().count(), 4, "each layer is remembered");

    let sbom = cyclonedx(&report);
    assert_eq!(sbom["components"][0]["purl"], "pkg:deb/debian/bash@5.2-1");
    assert_eq!(sbom["vulnerabilities"].as_array().unwrap().len(), 2);
}

#[test]
fn says_when_there_is_no_database() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Scanner::open(&dir.path().join("none")), Err(Error::NoDatabase(_))));
    let error = Scanner::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoAdvisories(_)) && error.hint().unwrap().contains("all.zip"));
}
