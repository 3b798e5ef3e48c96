//! Layers there and back, and layers that mean harm. Making devices and owners needs root.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use wharf_image::{
    Limits, TarEntry, TarKind, TarReader, TarWriter, UnpackOptions, View, pack_directory, unpack_into,
};

fn stream(entries: &[(TarEntry, &[u8])]) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    for (entry, content) in entries {
        let entry = TarEntry { size: content.len() as u64, ..entry.clone() };
        writer.append(&entry, *content).unwrap();
    }
    writer.finish().unwrap()
}

fn file(path: &str) -> TarEntry {
    TarEntry::new(path, TarKind::File, 0o644)
}

fn link(path: &str, target: &str, kind: TarKind) -> TarEntry {
    TarEntry { link: target.into(), ..TarEntry::new(path, kind, 0o777) }
}

/// Unpacks into `outer/root`, so that an escape shows in `outer`.
fn unpack(entries: &[(TarEntry, &[u8])], limits: Limits) -> (tempfile::TempDir, Result<(), String>) {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(outer.path().join("secret"), "s3cret").unwrap();
    let options = UnpackOptions { limits, ..UnpackOptions::default() };
    let result = unpack_into(&stream(entries)[..], &root, &options);
    let names: Vec<_> = fs::read_dir(outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "something escaped: {names:?}");
    assert_eq!(fs::read_to_string(outer.path().join("secret")).unwrap(), "s3cret");
    (outer, result.map(|_| ()).map_err(|e| e.to_string()))
}

fn refused(entries: &[(TarEntry, &[u8])], expect: &str) {
    let (_outer, result) = unpack(entries, Limits { entries: 50, bytes: 1000, depth: 10 });
    let said = result.expect_err(expect);
    assert!(said.contains(expect), "{said}");
}

#[test]
fn hostile_layers_are_refused_by_name() {
    refused(&[(file("../evil"), b"x")], "layer entry '../evil' steps out of the root with '..'");
    refused(&[(file("a/../../evil"), b"x")], "steps out of the root");
    refused(&[(link("h", "../secret", TarKind::HardLink), b"")], "steps out of the root");
    refused(&[(link("h", "/secret", TarKind::HardLink), b"")], "hard link to '/secret'");
    refused(
        &[(link("l", "/..", TarKind::Symlink), b""), (link("h", "l/secret", TarKind::HardLink), b"")],
        "hard link to 'l/secret'",
    );
    refused(&[(link("h", "h", TarKind::HardLink), b"")], "hard link to itself");
    refused(&[(file(&"d/".repeat(11)), b"")], "more than 10 folders deep");
    refused(&[(file(&"n".repeat(256)), b"")], "name longer than 255 bytes");
    refused(&[(file("big"), &[0; 1001])], "larger than 1000 bytes");
    refused(&(0..51).map(|n| (file(&n.to_string()), &b""[..])).collect::<Vec<_>>(), "more than 50 entries");
    refused(&[(file(".wh.."), b"")], "not a whiteout");
    refused(&[(file(".wh.."), b"")], "not a whiteout");
    refused(&[(file(".wh..."), b"")], "not a whiteout");
    refused(&[(file("."), b"")], "names the root itself");
    refused(&[(link("l", "nowhere", TarKind::Symlink), b""), (file("l/x"), b"")], "no usable parent folder");
    let overlay = TarEntry {
        xattrs: vec![("trusted.overlay.redirect".into(), b"/etc".to_vec())],
        ..TarEntry::new("d/", TarKind::Dir, 0o755)
    };
    refused(&[(overlay, b"")], "sets trusted.overlay.redirect");
}

#[test]
fn links_and_absolute_paths_stay_inside() {
    let (outer, result) = unpack(
        &[
            (link("abs", "/", TarKind::Symlink), b""),
            (link("up", "../../..", TarKind::Symlink), b""),
            (file("abs/one"), b"1"),
            (file("up/two"), b"2"),
            (file("/etc/three"), b"3"),
            // A link replaced by a file, and a folder by a link: the later entry wins and nothing follows.
            (link("target", "../secret", TarKind::Symlink), b""),
            (file("target"), b"4"),
        ],
        Limits::default(),
    );
    result.unwrap();
    let root = outer.path().join("root");
    for (path, content) in [("one", "1"), ("two", "2"), ("etc/three", "3"), ("target", "4")] {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), content, "{path}");
    }
    assert!(root.join("target").symlink_metadata().unwrap().is_file());
}

#[test]
fn a_cut_or_damaged_stream_is_refused() {
    let whole = stream(&[(file("a"), &[7; 2000]), (file("b"), b"x")]);
    let dir = tempfile::tempdir().unwrap();
    for cut in [100, 512, 700, 2000, 2600] {
        let cut_off = if cut == 512 { &whole[..512] } else { &whole[..cut] };
        assert!(unpack_into(cut_off, dir.path(), &UnpackOptions::default()).is_err(), "cut at {cut}");
    }
    let mut damaged = whole;
    damaged[3] ^= 1;
    let said = unpack_into(&damaged[..], dir.path(), &UnpackOptions::default()).unwrap_err().to_string();
    assert_eq!(said, "layer has a tar header with a wrong checksum");
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("bin")).unwrap();
    fs::create_dir_all(from.join("opaque")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("bin/tool"), "tool").unwrap();
    std::os::unix::fs::chown(from.join("bin/tool"), Some(1234), Some(3_000_000)).unwrap();
    fs::set_permissions(from.join("bin/tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(from.join("bin/tool"), from.join("bin/same")).unwrap();
    symlink("../else/where", from.join("bin/link")).unwrap();
    fs::write(from.join("naïve 名"), "name").unwrap();
    fs::set_permissions(from.join("opaque"), fs::Permissions::from_mode(0o1777)).unwrap();
    let name = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(from.join("bin/tool"), "user.note", b"a\nb\0", name).unwrap();
    rustix::fs::setxattr(from.join("opaque"), "trusted.overlay.opaque", b"y", name).unwrap();
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    mknodat(CWD, from.join("gone"), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
    mknodat(CWD, from.join("null"), FileType::CharacterDevice, Mode::from(0o666), makedev(1, 3)).unwrap();
    mknodat(CWD, from.join("pipe"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
    // All that a layer keeps of a time is whole seconds.
    for path in ["bin/tool", "bin", "opaque", "naïve 名", "gone", "null", "pipe", "bin/link"] {
        let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, from.join(path), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    let layer = pack_directory(&from, Vec::new(), None).unwrap();
    assert!(layer == pack_directory(&from, Vec::new(), None).unwrap());
    let mut names = Vec::new();
    let mut reader = TarReader::new(&layer[..]);
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(entry.name());
    }
    let expect = [
        "bin/",
        "bin/link",
        "bin/same",
        "bin/tool",
        ".wh.gone",
        "naïve 名",
        "null",
        "opaque/",
        "opaque/.wh..wh..opq",
        "pipe",
    ];
    assert_eq!(names, expect);

    unpack_into(&layer[..], &to, &UnpackOptions::default()).unwrap();
    assert!(pack_directory(&to, Vec::new(), None).unwrap() == layer);
    let tool = to.join("bin/tool").metadata().unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.nlink()), (0o4751, 1234, 3_000_000, 2));
    assert!(to.join("gone").symlink_metadata().unwrap().file_type().is_char_device());
    assert!(to.join("pipe").symlink_metadata().unwrap().file_type().is_fifo());
}

#[test]
fn an_archive_keeps_names_that_a_layer_would_take_for_whiteouts() {
    let dir = tempfile::tempdir().unwrap();
    let options = UnpackOptions { whiteouts: false, owner: Some((7, 8)), ..UnpackOptions::default() };
    unpack_into(&stream(&[(file(".wh.x"), b"kept")])[..], dir.path(), &options).unwrap();
    let meta = dir.path().join(".wh.x").metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.len()), (7, 8, 4));
}

#[test]
fn a_view_answers_as_overlayfs_would() {
    let dir = tempfile::tempdir().unwrap();
    let layer = |name: &str, entries: &[(TarEntry, &[u8])]| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        unpack_into(&stream(entries)[..], &path, &UnpackOptions::default()).unwrap();
        path
    };
    let base = layer(
        "base",
        &[
            (file("usr/bin/tool"), b"old"),
            (link("bin", "usr/bin", TarKind::Symlink), b""),
            (file("etc/passwd"), b"root"),
            (file("var/cache/x"), b"x"),
            (link("loop", "loop", TarKind::Symlink), b""),
            (file("a/below"), b"1"),
        ],
    );
    let middle = layer("middle", &[(file("etc/.wh.passwd"), b""), (file("var/cache/.wh..wh..opq"), b"")]);
    let top = layer(
        "top",
        &[
            (file("usr/bin/tool"), b"new"),
            (file("var/cache/y"), b"y"),
            (link("a", "/etc", TarKind::Symlink), b""),
        ],
    );
    let view = View::overlay(&[&top, &middle, &base]).unwrap();
    let read = |path: &str| view.read_file(Path::new(path), 100).unwrap();
    assert_eq!(read("/bin/tool").as_deref(), Some(&b"new"[..]));
    assert_eq!(read("bin/../../../bin/tool").as_deref(), Some(&b"new"[..]));
    assert_eq!((read("etc/passwd"), read("var/cache/x"), read("a/below")), (None, None, None));
    assert_eq!(read("var/cache/y").as_deref(), Some(&b"y"[..]));
    assert!(view.find(Path::new("loop/x"), true).is_err());
    let missing = view.find(Path::new("/bin/new/../other"), true).unwrap();
    assert!(missing.node.is_none());
    assert_eq!(missing.path, Path::new("usr/bin/other"));
    let root = view.root();
    assert_eq!(view.list(&root).unwrap(), ["a", "bin", "etc", "loop", "usr", "var"]);
    assert_eq!(view.glob(Path::new("*r/*")).unwrap().len(), 2);
}
