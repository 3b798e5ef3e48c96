//! Archives in the forms of the tools that write them.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

use std::io::Write;

use wharf_base::Digest;
use wharf_image::{
    Archived, Compression, Error, ImageConfig, Reference, Store, TarEntry, TarKind, TarWriter, media_type,
};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn tar(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = TarWriter::new(Vec::new());
    for (name, content) in files {
        let mut entry = TarEntry::new(*name, TarKind::File, 0o644);
        entry.size = content.len() as u64;
        tar.append(&entry, *content).unwrap();
    }
    for (name, target) in links {
        let mut entry = TarEntry::new(*name, TarKind::Symlink, 0o777);
        entry.link = target.as_bytes().to_vec();
        tar.append(&entry, &[][..]).unwrap();
    }
    tar.finish().unwrap()
}

#[test]
fn what_was_saved_loads_with_names_and_digests() {
    let (dir, from) = store();
    std::fs::create_dir(dir.path().join("tree")).unwrap();
    std::fs::write(dir.path().join("tree/file"), "content").unwrap();
    let layer = from.add_layer_from(&dir.path().join("tree"), Compression::Gzip, None).unwrap();
    let target = from.put_image(ImageConfig::for_host(), &[layer]).unwrap();
    let names: Vec<Reference> = ["shop:1", "ghcr.io/a/shop:2"].map(|n| n.parse().unwrap()).into();
    let mut bytes = Vec::new();
    from.save(&[Archived { names: names.clone(), target: target.clone() }], &mut bytes).unwrap();

    let (_dir, to) = store();
    let loaded = to.load(&bytes[..]).unwrap();
    assert_eq!((&loaded[0].names, loaded[0].target.digest), (&names, target.digest));
    let image = to.resolve("ghcr.io/a/shop:2").unwrap();
    assert_eq!(std::fs::read(image.lower_dirs[0].join("file")).unwrap(), b"content");
}

#[test]
fn an_old_docker_archive_with_links_loads() {
    let layer = tar(&[("f", b"x")], &[]);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{0}","{0}"]}}}}"#,
        Digest::of(&layer)
    );
    let manifest = br#"[{"Config":"c.json","RepoTags":["old:1"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
    let archive = tar(
        &[("a/layer.tar", &layer), ("./c.json", config.as_bytes()), ("manifest.json", manifest)],
        &[("b/layer.tar", "../a/layer.tar")],
    );
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&archive).unwrap();
    let (_dir, to) = store();
    to.load(&packed.finish().unwrap()[..]).unwrap();
    let image = to.resolve("old:1").unwrap();
    assert_eq!((image.id, image.layers.len()), (Digest::of(&config), 2));
    assert_eq!(image.layers[0].descriptor.media_type, media_type::OCI_LAYER);
}

#[test]
fn broken_archives_name_nothing() {
    let layer = tar(&[("f", b"x")], &[]);
    let config = r#"{"rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#;
    let manifest =
        |layers: &str| format!(r#"[{{"Config":"c.json","RepoTags":["bad:1"],"Layers":[{layers}]}}]"#);
    let docker = |layers: &str| {
        let manifest = manifest(layers);
        tar(
            &[("l.tar", &layer), ("c.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())],
            &[("ring", "ring")],
        )
    };
    for (archive, said) in [
        (tar(&[("x", b"y")], &[]), "neither an OCI layout"),
        (docker("\"l.tar\""), "instead of sha256:0000"),
        (docker("\"gone.tar\""), "has no file 'gone.tar'"),
        (docker("\"ring\""), "has no file 'ring'"),
        (docker(""), "has 0 layers but its configuration 1"),
        (tar(&[(&format!("blobs/sha256/{}", "0".repeat(64)), b"forged")], &[]), "instead of sha256:0000"),
        (b"not a tar at all".to_vec(), "image archive ends in the middle of a tar header"),
    ] {
        let (_dir, to) = store();
        let error: Error = to.load(&archive[..]).unwrap_err();
        assert!(error.to_string().contains(said), "{error} / {said}");
        assert!(to.references().unwrap().is_empty());
    }
}
