//! The store as several users of one folder meet it.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

use std::{fs, time::Duration};

use wharf_base::Digest;
use wharf_image::{Compression, Error, GcOptions, ImageConfig, Layer, Reference, Store};

fn layer(store: &Store, name: &str, content: &str, compression: Compression) -> Layer {
    let scratch = store.scratch().unwrap();
    fs::write(scratch.upper().join(name), content).unwrap();
    store.commit_scratch(scratch, compression, None).unwrap().unwrap()
}

fn image(store: &Store, name: &str, layers: &[Layer]) -> Digest {
    let target = store.put_image(ImageConfig::for_host(), layers).unwrap();
    store.tag(&[name.parse().unwrap()], &target).unwrap();
    target.digest
}

#[test]
fn an_image_resolves_to_its_folders_top_first_and_unpacks_again_when_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layers: Vec<_> = [Compression::None, Compression::Gzip, Compression::Zstd]
        .into_iter()
        .enumerate()
        .map(|(n, compression)| layer(&store, "file", &n.to_string(), compression))
        .collect();
    let digest = image(&store, "shop:1", &layers);
    let contents = || -> Vec<String> {
        let image = store.resolve("shop:1").unwrap();
        assert_eq!(image.manifest, digest);
        image.lower_dirs.iter().map(|d| fs::read_to_string(d.join("file")).unwrap()).collect()
    };
    assert_eq!(contents(), ["2", "1", "0"]);
    fs::remove_dir_all(dir.path().join("layers")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(contents(), ["2", "1", "0"]);
    let id = store.resolve("shop:1").unwrap().id;
    assert_eq!(store.resolve(&id.short()).unwrap().manifest, digest);
    assert!(matches!(store.resolve("shpo:1"), Err(Error::NoImage { similar: Some(_), .. })));
}

#[test]
fn a_layer_that_was_not_flushed_before_the_machine_stopped_is_unpacked_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let layer = layer(&store, "file", "whole", Compression::Gzip);
    image(&store, "shop", std::slice::from_ref(&layer));
    let place = dir.path().join("layers").join(layer.diff_id.hex());
    fs::write(place.join("boot"), "another boot").unwrap();
    fs::write(place.join("fs/file"), "").unwrap();
    let found = store.resolve("shop").unwrap().lower_dirs.remove(0);
    assert_eq!(fs::read_to_string(found.join("file")).unwrap(), "whole");
    store.settle().unwrap();
    assert_eq!(fs::read_to_string(place.join("boot")).unwrap(), "settled");
}

#[test]
fn a_layer_whose_content_is_not_what_the_configuration_says_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut forged = layer(&store, "file", "x", Compression::Gzip);
    forged.diff_id = Digest::of("something else");
    image(&store, "forged", &[forged]);
    assert!(matches!(store.resolve("forged"), Err(Error::Mismatch { .. })));
    assert_eq!(fs::read_dir(dir.path().join("layers/tmp")).unwrap().count(), 0);
}

#[test]
fn collection_removes_only_what_nothing_reaches() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let shared = layer(&store, "shared", "s", Compression::Gzip);
    let only_b = layer(&store, "b", "b", Compression::Gzip);
    let leased = layer(&store, "leased", "l", Compression::Gzip);
    let kept = layer(&store, "kept", "k", Compression::Gzip);
    image(&store, "a", std::slice::from_ref(&shared));
    image(&store, "b", &[shared.clone(), only_b.clone()]);
    let digest = image(&store, "c", std::slice::from_ref(&leased));
    store.lease("container-1", &[digest]).unwrap();
    for name in ["b", "c"] {
        store.untag(&name.parse().unwrap()).unwrap();
    }
    assert_eq!(store.gc(&GcOptions::default()).unwrap().blobs, 0, "all is within the grace period");
    let now = GcOptions { grace: Duration::ZERO, keep: [kept.descriptor.digest, kept.diff_id].into() };
    let report = store.gc(&now).unwrap();
    // Layer b, with the configuration and the manifest of image b.
    assert_eq!((report.blobs, report.layers), (3, 1));
    for (layer, there) in [(&shared, true), (&leased, true), (&kept, true), (&only_b, false)] {
        assert_eq!(store.blobs().size(&layer.descriptor.digest).is_some(), there);
        assert_eq!(store.is_unpacked(&layer.diff_id), there);
    }
    let target = store.find("a").unwrap().1;
    assert_eq!(store.holders(&target).unwrap(), [""; 0]);
    store.hold("a", "container-2").unwrap();
    store.hold_for_now("a", "container-4").unwrap();
    assert_eq!(store.holders(&target).unwrap(), ["container-2", "container-4"]);
    store.release("container-4").unwrap();
    assert!(store.hold("gone", "container-3").is_err());
    assert_eq!(store.leases().unwrap().len(), 2, "a lease of what is not there");
    store.release("container-1").unwrap();
    assert_eq!(store.gc(&now).unwrap().layers, 1);
    let usage = store.disk_usage().unwrap();
    assert_eq!((usage.references, usage.layers, usage.blobs), (1, 2, 4));
}

#[test]
fn two_stores_on_one_folder_unpack_and_name_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let maker = Store::open(dir.path()).unwrap();
    let layers: Vec<_> = (0..4).map(|n| layer(&maker, "f", &n.to_string(), Compression::Gzip)).collect();
    image(&maker, "base", &layers);
    fs::remove_dir_all(dir.path().join("layers")).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4 {
            let dir = dir.path();
            scope.spawn(move || {
                let store = Store::open(dir).unwrap();
                let image = store.resolve("base").unwrap();
                assert_eq!(fs::read_to_string(image.lower_dirs[0].join("f")).unwrap(), "3");
                let name: Reference = format!("copy:{n}").parse().unwrap();
                let (_, target) = store.find("base").unwrap();
                store.tag(&[name], &target).unwrap();
            });
        }
    });
    assert_eq!(maker.references().unwrap().len(), 5);
    assert_eq!(fs::read_dir(dir.path().join("layers/tmp")).unwrap().count(), 0);
}
