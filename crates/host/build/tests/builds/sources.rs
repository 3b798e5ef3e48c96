//! Sources that lie elsewhere: files over HTTP, repositories, contexts by name.

use std::{fs, process::Command, sync::Arc};

use wharf_build::{BuildRequest, Builder, CachePlace, CacheTarget, Context, NamedContext, Secret};

use super::support::{
    Lab, owner, ran, read,
    server::{GitServer, WebServer, fetch, git},
    write,
};

fn fetching(lab: &Lab) -> Builder {
    lab.reopen().with_fetch(Arc::new(fetch))
}

fn build(
    lab: &Lab,
    builder: &Builder,
    dockerfile: &str,
    change: impl FnOnce(&mut BuildRequest),
) -> Result<(wharf_build::BuildResult, wharf_image::ResolvedImage), wharf_build::Error> {
    let context = lab.context(&[("Dockerfile", dockerfile), ("seen", "seen")]);
    let mut request = BuildRequest::new(Context::Folder(context));
    change(&mut request);
    let built = builder.build(request, |_| {})?;
    let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
    Ok((built, image))
}

#[test]
fn files_over_http_are_fetched_when_they_changed() {
    let (lab, web) = (Lab::new(), WebServer::start());
    let builder = fetching(&lab);
    web.put("/d/a%20b.txt", b"one");
    let base = &web.address;
    let dockerfile = format!(
        "FROM base/busybox\nADD --chown=7:8 {base}/d/a%20b.txt?x=1 /into/\nADD {base}/d/a%20b.txt /as\n"
    );
    let (_, image) = build(&lab, &builder, &dockerfile, |_| {}).unwrap();
    assert_eq!(read(&image, "into/a b.txt").as_deref(), Some("one"));
    assert_eq!((owner(&image, "into/a b.txt"), owner(&image, "as")), ((7, 8, 0o600), (0, 0, 0o600)));
    let view = wharf_image::View::overlay(&image.lower_dirs).unwrap();
    assert_eq!(view.find("as".as_ref(), true).unwrap().node.unwrap().stat.st_mtime, 784_111_777);
    assert_eq!(web.statuses(), [200, 200]);
    let (again, _) = build(&lab, &builder, &dockerfile, |_| {}).unwrap();
    assert_eq!((ran(&again), web.statuses()), (vec![], vec![304, 304]));
    web.put("/d/a%20b.txt", b"two");
    let (changed, image) = build(&lab, &builder, &dockerfile, |_| {}).unwrap();
    assert_eq!((ran(&changed).len(), web.statuses()), (2, vec![200, 200]));
    assert_eq!(read(&image, "as").as_deref(), Some("two"));
    // A checksum that is known needs no question at all.
    let sum = wharf_base::Digest::of(b"two");
    let dockerfile = format!("FROM base/busybox\nADD --checksum={sum} {base}/d/a%20b.txt /sum\n");
    for asked in [1, 0] {
        build(&lab, &builder, &dockerfile, |_| {}).unwrap();
        assert_eq!(web.statuses().len(), asked);
    }
    for (line, expect) in [
        (
            format!("ADD --checksum={} {base}/d/a%20b.txt /x", wharf_base::Digest::of(b"")),
            "is not what --checksum says",
        ),
        (format!("ADD --checksum=md5:1 {base}/d/a%20b.txt /x"), "is no checksum"),
        (format!("ADD {base}/none /x"), "the server answered 404"),
        (format!("ADD {base}/ /x/"), "the server answered 404"),
        (format!("ADD {base}/d/a%20b.txt {base}/d/a%20b.txt /x"), "several sources"),
        ("ADD --checksum=sha256:0 seen /x".into(), "--checksum is for one remote source"),
    ] {
        let error = build(&lab, &builder, &format!("FROM base/busybox\n{line}"), |_| {}).unwrap_err();
        assert!(error.to_string().contains(expect), "{line}: {error}");
        assert!(error.to_string().starts_with("Dockerfile:2: "), "{line}: {error}");
    }
}

#[test]
fn credentials_of_a_host_are_its_secrets() {
    let (lab, web) = (Lab::new(), WebServer::start());
    let builder = fetching(&lab);
    web.put("/f", b"f");
    let host = web.address.trim_start_matches("http://");
    let dockerfile = format!("FROM scratch\nADD http://user:pass@{host}/f /f\n");
    build(&lab, &builder, &dockerfile, |request| {
        request.secrets.insert(format!("HTTP_AUTH_TOKEN_{host}"), Secret::Value(b"t0ken\n".to_vec()));
    })
    .unwrap_or_else(|error| panic!("{error}"));
    build(&lab, &builder, &dockerfile, |_| {}).unwrap();
    let given: Vec<_> = web.asked.lock().unwrap().iter().map(|asked| asked.2.clone().unwrap()).collect();
    assert_eq!(given, ["Bearer t0ken", "Basic dXNlcjpwYXNz"]);
}

#[test]
fn archives_are_unpacked_in_every_compression() {
    let (lab, web) = (Lab::new(), WebServer::start());
    let builder = fetching(&lab);
    let context = lab.context(&[("d/e/f", "f")]);
    let tar = context.join("plain");
    wharf_image::pack_directory(&context.join("d"), fs::File::create(&tar).unwrap(), None).unwrap();
    for (tool, name) in [("xz", "plain.xz"), ("bzip2", "plain.bz2"), ("gzip", "plain.gz")] {
        let packed = Command::new(tool).arg("-c").arg(&tar).output().unwrap().stdout;
        assert!(!packed.is_empty(), "{tool}");
        fs::write(context.join(name), &packed).unwrap();
        web.put(&format!("/{name}"), &packed);
    }
    write(&context, "broken.xz", "\u{fd}7zXZ");
    let base = &web.address;
    write(
        &context,
        "Dockerfile",
        &format!(
            "FROM scratch\nADD plain /plain/\nADD plain.xz /xz/\nADD plain.bz2 /bz2/\nADD plain.gz broken.xz /gz/\n\
             ADD --unpack=false plain.gz /kept/\nADD {base}/plain.gz /remote/\nADD --unpack=true {base}/plain.xz /unpacked/\n"
        ),
    );
    let built =
        builder.build(BuildRequest::new(Context::Folder(context)), |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
    for folder in ["plain", "xz", "bz2", "gz", "unpacked"] {
        assert_eq!(read(&image, &format!("{folder}/e/f")).as_deref(), Some("f"), "{folder}");
    }
    for file in ["kept/plain.gz", "remote/plain.gz", "gz/broken.xz"] {
        assert_eq!(owner(&image, file).0, 0, "{file}");
    }
}

#[test]
fn repositories_are_sources_and_contexts() {
    let lab = Lab::new();
    let home = lab.context(&[
        ("work/Dockerfile", "FROM base/busybox\nCOPY . /src/\n"),
        ("work/sub/Dockerfile", "FROM scratch\nCOPY file /in-sub\n"),
        ("work/sub/file", "one"),
        ("work/run.sh", "#!/bin/sh\n"),
    ]);
    let work = home.join("work");
    fs::set_permissions(work.join("run.sh"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("../../../../etc", work.join("out")).unwrap();
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "1"], &["tag", "-am", "v1", "v1"]] {
        git(&work, words);
    }
    let first = git(&work, &["rev-parse", "HEAD"]);
    write(&work, "sub/file", "two");
    git(&work, &["commit", "-qam", "2"]);
    let server = GitServer::start(&home);
    let url = format!("{}/work", server.address);
    let builder = lab.reopen();
    let dockerfile = format!(
        "FROM base/busybox\nADD {url} /main/\nADD {url}#v1:sub /tag/\nADD --keep-git-dir=true --checksum={} {url}#{first} /commit\n",
        &first[..7]
    );
    let (_, image) = build(&lab, &builder, &dockerfile, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    for (path, content) in [
        ("main/sub/file", Some("two")),
        ("main/.git/HEAD", None),
        ("tag/file", Some("one")),
        ("commit/sub/file", Some("one")),
        ("commit/.git/HEAD", Some(&*format!("{first}\n"))),
    ] {
        assert_eq!(read(&image, path).as_deref(), content, "{path}");
    }
    assert_eq!((owner(&image, "main/run.sh").2, owner(&image, "main/sub/file").2), (0o755, 0o644));
    // Nothing changed: the commit tells, without a clone.
    let (again, _) = build(&lab, &builder, &dockerfile, |_| {}).unwrap();
    assert_eq!(ran(&again), [""; 0]);
    for (line, expect) in [
        (format!("ADD {url}#nothing /x"), "has no branch, tag or commit 'nothing'"),
        (format!("ADD {url}#main:none /x"), "'none' is no folder of"),
        // Where a link of the repository leads to is inside of it, too.
        (format!("ADD {url}#main:out /x"), "'out' is no folder of"),
        (format!("ADD --checksum=abcd {url} /x"), "is not what --checksum says"),
        (format!("ADD {url}#--upload-pack=touch /x"), "has a reference that git does not allow"),
        (format!("ADD {}/none /x", server.address), "cannot read the repository"),
    ] {
        let error = build(&lab, &builder, &format!("FROM base/busybox\n{line}"), |_| {}).unwrap_err();
        assert!(error.to_string().contains(expect), "{line}: {error}");
    }
    for (context, path, content) in
        [(url.clone(), "src/sub/file", "two"), (format!("{url}#v1:sub"), "in-sub", "one")]
    {
        let built = builder
            .build(BuildRequest::new(Context::Remote(context)), |_| {})
            .unwrap_or_else(|e| panic!("{e}"));
        let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
        assert_eq!(read(&image, path).as_deref(), Some(content));
    }
}

#[test]
fn contexts_are_archives_and_dockerfiles_at_an_address() {
    let (lab, web) = (Lab::new(), WebServer::start());
    let builder = fetching(&lab);
    let context = lab.context(&[("dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "f")]);
    web.put("/c.tar", &wharf_image::pack_directory(&context, Vec::new(), None).unwrap());
    web.put("/Dockerfile", b"FROM base/busybox\nRUN echo x > /x\n");
    for (path, file) in [("/c.tar", "f"), ("/Dockerfile", "x")] {
        let request = BuildRequest::new(Context::Remote(format!("{}{path}", web.address)));
        let built = builder.build(request, |_| {}).unwrap_or_else(|error| panic!("{error}"));
        let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
        assert!(read(&image, file).is_some(), "{path}");
    }
}

#[test]
fn contexts_by_name_stand_before_stages_and_images() {
    let lab = Lab::new();
    let dockerfile = "FROM alpine AS tools
RUN false
FROM base/busybox
COPY --from=files a b* /
RUN --mount=type=bind,from=files,target=/m cat /m/a > /mounted
COPY --from=tools t /
COPY --from=docker.io/library/other:latest /bin/busybox /other
FROM rootfs
COPY --from=1 /mounted /
";
    let files = lab.context(&[("a", "a"), ("hidden", ""), (".dockerignore", "hidden")]);
    let tools = lab.context(&[("t", "t")]);
    let rootfs = lab.context(&[("bin/r", "r")]);
    let wish = |request: &mut BuildRequest| {
        request.contexts = [
            ("files", NamedContext::Folder(files.clone())),
            ("tools", NamedContext::Folder(tools.clone())),
            ("rootfs", NamedContext::Folder(rootfs.clone())),
            ("other", NamedContext::Image("base/busybox".into())),
        ]
        .map(|(name, context)| (name.to_owned(), context))
        .into();
    };
    let (_, image) = build(&lab, &lab.builder, dockerfile, wish).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(read(&image, "bin/r").as_deref(), Some("r"));
    assert_eq!(read(&image, "mounted").as_deref(), Some("a"));
    let (again, _) = build(&lab, &lab.builder, dockerfile, wish).unwrap();
    assert_eq!(ran(&again), [""; 0]);
    write(&files, "a", "changed");
    let (changed, image) = build(&lab, &lab.builder, dockerfile, wish).unwrap();
    assert_eq!((ran(&changed).is_empty(), read(&image, "mounted").as_deref()), (false, Some("changed")));
    let error = build(&lab, &lab.builder, "FROM scratch\nCOPY --from=files hidden /", wish).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("a pattern of .dockerignore leaves it out"), "{error}");
}

#[test]
fn patterns_may_mean_nothing_and_cross_folders() {
    let lab = Lab::new();
    let context = lab.context(&[
        ("Dockerfile", "FROM scratch\nCOPY package.json yarn.lock* /app/\nCOPY nothing* /none/\nCOPY --parents src/**/*.txt /all/\n"),
        ("package.json", "{}"),
        ("src/a.txt", "a"),
        ("src/x/b.txt", "b"),
        ("src/x/y/c.txt", "c"),
        ("src/x/y/c.md", "c"),
    ]);
    let image = lab.image(&context);
    for (path, content) in [
        ("app/package.json", Some("{}")),
        ("all/src/a.txt", Some("a")),
        ("all/src/x/b.txt", Some("b")),
        ("all/src/x/y/c.txt", Some("c")),
        ("all/src/x/y/c.md", None),
    ] {
        assert_eq!(read(&image, path).as_deref(), content, "{path}");
    }
}

#[test]
fn caches_are_carried_in_folders() {
    let (lab, other) = (Lab::new(), Lab::new());
    let dockerfile = "FROM base/busybox AS tools\nRUN echo tool > /tool && cat /proc/sys/kernel/random/uuid > /once\n\
        FROM base/busybox\nCOPY --from=tools /tool /\nRUN true\nCOPY seen /\n";
    let (all, own) = (lab.folder.path().join("all"), lab.folder.path().join("own"));
    let targets = [(&all, true), (&own, false)];
    let targets = targets
        .map(|(folder, all_stages)| CacheTarget { place: CachePlace::Folder(folder.clone()), all_stages });
    let (made, _) =
        build(&lab, &lab.builder, dockerfile, |request| request.cache_to = targets.to_vec()).unwrap();
    assert!(wharf_image::Index::parse(&fs::read(all.join("index.json")).unwrap()).is_ok());
    // Without the stage the image does not hold, that stage is made anew, and gives another file but the same copy.
    let (partly, _) =
        build(&other, &other.builder, dockerfile, |r| r.cache_from = vec![CachePlace::Folder(own.clone())])
            .unwrap();
    assert_eq!(
        ran(&partly),
        ["[tools 2/2] RUN echo tool > /tool && cat /proc/sys/kernel/random/uuid > /once"]
    );
    let third = Lab::new();
    let missing = third.folder.path().join("missing");
    let (carried, _) = build(&third, &third.builder, dockerfile, |r| {
        r.cache_from = [missing, all.clone()].map(CachePlace::Folder).to_vec()
    })
    .unwrap();
    assert_eq!((ran(&carried), carried.id), (vec![], made.id));
    // A layer that is not what its digest says is made anew.
    for entry in fs::read_dir(all.join("blobs/sha256")).unwrap().flatten() {
        if entry.metadata().unwrap().len() < 600 && !fs::read(entry.path()).unwrap().starts_with(b"{") {
            fs::write(entry.path(), "damaged").unwrap();
        }
    }
    let fourth = Lab::new();
    let (repaired, _) =
        build(&fourth, &fourth.builder, dockerfile, |r| r.cache_from = vec![CachePlace::Folder(all.clone())])
            .unwrap();
    assert!(!ran(&repaired).is_empty());
}

#[test]
fn results_leave_as_folders_and_streams() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox AS b\nRUN mkdir /d && echo x > /d/f && chmod 751 /d && ln -s f /d/l && rm -r /tmp\nFROM scratch\nCOPY --from=b --chown=5:6 /d /d\n";
    let (made, _) = build(&lab, &lab.builder, dockerfile, |_| {}).unwrap();
    let out = lab.folder.path().join("out");
    write(&out, "d/f", "old");
    write(&out, "own", "kept");
    lab.builder.export_folder(&made.manifest, &out).unwrap();
    assert_eq!(fs::read_to_string(out.join("d/l")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(out.join("own")).unwrap(), "kept");
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(out.join("d/f")).unwrap()), 0);
    // What is written goes nowhere else, wherever a link in the folder leads.
    let outside = lab.context(&[]);
    fs::remove_dir_all(out.join("d")).unwrap();
    std::os::unix::fs::symlink(&outside, out.join("d")).unwrap();
    assert!(lab.builder.export_folder(&made.manifest, &out).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let tar = |epoch| lab.builder.export_tar(&[(None, &made.manifest)], Vec::new(), epoch).unwrap();
    assert_eq!(tar(Some(0)), tar(Some(0)));
    let mut entries = wharf_image::TarReader::new(&*Box::leak(tar(Some(0)).into_boxed_slice()));
    let mut told = Vec::new();
    while let Some(entry) = entries.next_entry().unwrap() {
        told.push((entry.name(), entry.uid, entry.mode & 0o7777));
    }
    assert_eq!(
        told.iter().map(|entry| entry.0.trim_end_matches('/')).collect::<Vec<_>>(),
        ["d", "d/f", "d/l"]
    );
    assert_eq!((told[0].1, told[0].2, told[1].1), (5, 0o755, 5));
}

#[test]
fn checks_are_told_and_can_fail_a_build() {
    let lab = Lab::new();
    let dockerfile = "# check=skip=StageNameCasing\nFROM base/busybox AS Final\nCMD run it\nCOPY $HOEM /\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let request = || BuildRequest::new(Context::Folder(context.clone()));
    let report = lab.builder.check(request()).unwrap();
    let found: Vec<_> = report.warnings.iter().map(|w| (w.place.line, w.rule.unwrap())).collect();
    assert_eq!(found, [(3, "JSONArgsRecommended"), (4, "UndefinedVar")]);
    let mut chosen = request();
    chosen.args.insert("BUILDKIT_DOCKERFILE_CHECK".into(), "skip=all".into());
    assert_eq!(lab.builder.check(chosen).unwrap().warnings, []);
    let built = lab.build(&context).unwrap();
    assert!(built.warnings[0].starts_with("Dockerfile:3: JSONArgsRecommended: "), "{:?}", built.warnings);
    write(&context, "Dockerfile", &dockerfile.replace("=StageNameCasing", "=StageNameCasing;error=true"));
    let error = lab.build(&context).unwrap_err();
    let expect =
        "Dockerfile:3: checks that found something fail this build: JSONArgsRecommended, UndefinedVar";
    assert_eq!(error.to_string(), expect);
}

#[test]
fn annotations_are_the_manifests() {
    let lab = Lab::new();
    let wish = |request: &mut BuildRequest| drop(request.annotations.insert("a".into(), "b".into()));
    let (made, _) = build(&lab, &lab.builder, "FROM base/busybox\n", wish).unwrap();
    let manifest = lab.images.manifest(&made.manifest).unwrap().1;
    assert_eq!(manifest.other["annotations"]["a"], "b");
}

/// As BuildKit does: the target is made as any folder, those in it are as their sources, also where they were there.
#[test]
fn folders_are_as_their_sources_but_for_the_target() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox AS s
RUN mkdir -p /p/q && chmod 700 /p && chmod 711 /p/q && chown 3:4 /p /p/q && echo f > /p/q/f
FROM base/busybox
RUN mkdir -p /there/q && chmod 705 /there /there/q
COPY --from=s /p /new/n
COPY --from=s /p /there
COPY --from=s --chmod=750 --chown=8:9 /p /moded
COPY --from=s --chmod=644 /p/q/f /plain/f
COPY --from=s --parents /p/./q/f /kept/
RUN --mount=type=bind,from=s,source=/p,target=/m stat -c %a:%u /m > /mounted
";
    let image = lab.image(&lab.context(&[("Dockerfile", dockerfile)]));
    for (path, expect) in [
        ("new", (0, 0, 0o755)),
        ("new/n", (0, 0, 0o755)),
        ("new/n/q", (3, 4, 0o711)),
        ("there", (0, 0, 0o705)),
        ("there/q", (3, 4, 0o711)),
        ("moded", (8, 9, 0o750)),
        ("moded/q", (8, 9, 0o750)),
        ("plain", (0, 0, 0o755)),
        ("kept", (0, 0, 0o755)),
        ("kept/q", (3, 4, 0o711)),
    ] {
        assert_eq!(owner(&image, path), expect, "{path}");
    }
    assert_eq!(read(&image, "mounted").as_deref(), Some("700:3\n"));
}

#[test]
fn caches_travel_as_images() {
    let (lab, other) = (Lab::new(), Lab::new());
    let dockerfile = "FROM base/busybox\nRUN cat /proc/sys/kernel/random/uuid > /once\nCOPY seen /\n";
    let name: wharf_image::Reference = "cache/of:it".parse().unwrap();
    let target = CacheTarget { place: CachePlace::Image(name.clone()), all_stages: true };
    let (made, _) = build(&lab, &lab.builder, dockerfile, |r| r.cache_to = vec![target]).unwrap();
    let inline: wharf_image::Reference = "with/results".parse().unwrap();
    let wish = |request: &mut BuildRequest| {
        request.cache_inline = true;
        request.tags.push(inline.clone());
    };
    build(&lab, &lab.builder, dockerfile, wish).unwrap();
    for name in [name, inline] {
        let (_, target) = lab.images.find(&name.to_string()).unwrap();
        let mut archive = Vec::new();
        let image = wharf_image::Archived { names: vec![name.clone()], target };
        lab.images.save(std::slice::from_ref(&image), &mut archive).unwrap();
        let there = Lab::new();
        there.images.load(&archive[..]).unwrap();
        let wish = |request: &mut BuildRequest| request.cache_from = vec![CachePlace::Image(name.clone())];
        let (carried, _) = build(&there, &there.builder, dockerfile, wish).unwrap();
        assert_eq!((ran(&carried), carried.id), (vec![], made.id), "{name}");
    }
    let wish = |r: &mut BuildRequest| r.cache_from = vec![CachePlace::Image("base/busybox".parse().unwrap())];
    let (alone, _) = build(&other, &other.builder, dockerfile, wish).unwrap();
    assert!(alone.warnings.is_empty() && ran(&alone).len() == 2);
}

#[test]
fn the_cache_can_be_passed_over_for_one_stage() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox AS a\nRUN echo a > /a\nFROM base/busybox AS b\nRUN echo b > /b\nCOPY --from=a /a /\n";
    build(&lab, &lab.builder, dockerfile, |_| {}).unwrap();
    let wish = |request: &mut BuildRequest| request.no_cache_stages = vec!["A".into(), "c".into()];
    let (again, _) = build(&lab, &lab.builder, dockerfile, wish).unwrap();
    assert_eq!(ran(&again), ["[a 2/2] RUN echo a > /a"]);
    assert_eq!(again.warnings, ["there is no stage 'c' to run without the cache"]);
}
