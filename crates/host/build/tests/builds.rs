//! Whole builds with real containers on a small base.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

#[path = "builds/security.rs"]
mod security;
#[path = "builds/sources.rs"]
mod sources;
mod support;

use support::{Lab, owner, ran, read, write};
use wharf_build::{BuildRequest, Context, DockerfileSource, ErrorKind, Secret};

const THREE_STAGES: &str = "\
FROM base/busybox AS tools
RUN mkdir /out && echo tool > /out/tool

FROM base/busybox AS unused
RUN false

FROM base/busybox AS app
COPY lib/ /lib/
RUN cat /lib/part > /built

FROM base/busybox
WORKDIR /srv
ARG VERSION=dev
ENV VERSION=${VERSION} HOME=/srv
COPY --from=tools /out/tool tools/
COPY --from=app /built ./
EXPOSE 8080 53/udp
LABEL a=\"b c\"
USER app
CMD [\"sh\", \"-c\", \"cat built\"]
COPY --chown=app:app main.txt extra/
";

#[test]
fn three_stages_are_built_once_and_then_only_what_changed() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", THREE_STAGES), ("lib/part", "part\n"), ("main.txt", "one")]);
    let first = lab.build(&context).unwrap();
    assert_eq!(first.steps.len(), 10, "{:?}", first.steps);
    let image = lab.images.resolve_descriptor(&first.manifest).unwrap();
    assert_eq!(read(&image, "srv/built").as_deref(), Some("part\n"));
    assert_eq!(read(&image, "srv/tools/tool").as_deref(), Some("tool\n"));
    assert_eq!(owner(&image, "srv/extra/main.txt"), (1000, 1001, 0o644));
    let config = &image.config.config;
    assert_eq!(config.env, ["PATH=/bin", "VERSION=dev", "HOME=/srv"]);
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("app", "/srv"));
    assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "8080/tcp"]);
    assert_eq!(config.labels["a"], "b c");
    assert_eq!(image.layers.len(), 5, "base, WORKDIR and three COPY");
    let history = &image.config.history;
    assert_eq!(history.iter().filter(|h| !h.empty_layer).count(), 4, "the base's own layer has no history");

    let again = lab.build(&context).unwrap();
    assert_eq!(ran(&again), [""; 0]);
    assert_eq!(again.id, first.id);

    write(&context, "main.txt", "two");
    let changed = lab.build(&context).unwrap();
    assert_eq!(ran(&changed), ["[stage-3 5/5] COPY --chown=app:app main.txt extra/"]);

    // Times do not count, content does.
    write(&context, "lib/part", "part\n");
    assert_eq!(ran(&lab.build(&context).unwrap()), [""; 0]);
    // What a changed step leads to counts, not that it ran: the file copied from it is the same.
    write(&context, "lib/other", "");
    let other = lab.build(&context).unwrap();
    assert_eq!(ran(&other), ["[app 2/3] COPY lib/ /lib/", "[app 3/3] RUN cat /lib/part > /built"]);
    assert_eq!(ran(&lab.build_with(&context, |r| r.no_cache = true).unwrap()).len(), 7);
}

#[test]
fn copies_follow_ignore_files_links_and_targets() {
    let lab = Lab::new();
    let dockerfile = "FROM scratch
COPY . /all/
COPY --exclude=*.txt --chmod=u=rwX,go= d /some
COPY a.txt b.t?t /into/
COPY a.txt /name
COPY --parents d/e/f ./d/./e/f /kept/
COPY <<one <<\"two\" /docs/
$x ${HOME:-none}
one
$x
two
ADD archive.tar /unpacked/
";
    let context = lab.context(&[
        ("Dockerfile", dockerfile),
        (".dockerignore", "*\n!a.txt\n!b.txt\n!d\n!archive.tar\n**/secret*\n"),
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("secret", "s"),
        ("other/x", "x"),
        ("d/c.txt", "c"),
        ("d/secret.key", "s"),
        ("d/e/f", "f"),
    ]);
    std::os::unix::fs::symlink("../a.txt", context.join("d/link")).unwrap();
    let tar = std::fs::File::create(context.join("archive.tar")).unwrap();
    wharf_image::pack_directory(&context.join("d"), tar, None).unwrap();
    let image = lab.image(&context);
    for (path, content) in [
        ("all/a.txt", Some("a")),
        ("all/d/c.txt", Some("c")),
        ("all/d/link", Some("a")),
        ("all/secret", None),
        ("all/d/secret.key", None),
        ("all/other/x", None),
        ("all/Dockerfile", None),
        ("some/e/f", Some("f")),
        ("some/c.txt", None),
        ("into/a.txt", Some("a")),
        ("into/b.txt", Some("b")),
        ("name", Some("a")),
        ("kept/d/e/f", Some("f")),
        ("kept/e/f", Some("f")),
        ("docs/one", Some(" none\n")),
        ("docs/two", Some("$x\n")),
        ("unpacked/e/f", Some("f")),
    ] {
        assert_eq!(read(&image, path).as_deref(), content, "{path}");
    }
    assert_eq!(owner(&image, "some/e/f"), (0, 0, 0o600));
    assert_eq!(owner(&image, "some/e"), (0, 0, 0o700));
}

#[test]
fn run_steps_see_arguments_mounts_secrets_and_heredocs() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox
ARG A=1 B
ENV B=env
USER app:app
RUN id -u && id -g && echo $A $B && pwd
USER root
RUN <<EOF
echo heredoc $A > /heredoc
EOF
RUN <<EOF
#!/bin/cat
as it is
EOF
RUN cat <<'EOF' > /quoted
$A
EOF
RUN --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY cat /run/secrets/key && echo $KEY
RUN --mount=type=cache,target=/cache echo x >> /cache/count && wc -l < /cache/count
RUN --mount=type=bind,target=/src --mount=type=tmpfs,target=/scratch ls /src && touch /scratch/x
RUN rm /etc/group && ls /sys/class/net
SHELL [\"/bin/sh\", \"-ec\"]
RUN false; true || true
";
    let context =
        lab.context(&[("Dockerfile", dockerfile), (".dockerignore", "hidden"), ("seen", ""), ("hidden", "")]);
    let secret = |request: &mut BuildRequest| {
        request.secrets.insert("key".into(), Secret::Value(b"s3cret\n".to_vec()));
        request.args.insert("B".into(), "arg".into());
        request.args.insert("NOBODY".into(), "1".into());
    };
    let error = lab.build_with(&context, secret).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed { code: 1 }, "{error}");
    assert_eq!(error.to_string(), "Dockerfile:22: '/bin/sh -ec false; true || true' ended with exit code 1");
    assert_eq!(
        lab.output(),
        [
            "1000",
            "1001",
            "1 env",
            "/",
            "#!/bin/cat",
            "as it is",
            "***",
            "***",
            "1",
            "Dockerfile",
            "seen",
            "lo"
        ]
    );
    let repaired = dockerfile.replace("RUN false; true || true", "RUN ls -a / && ls /etc");
    write(&context, "Dockerfile", &repaired);
    let built = lab.build_with(&context, secret).unwrap();
    // The Dockerfile is a part of the context that one step mounts; that step changes no file, so the one after it stands.
    assert_eq!(ran(&built).len(), 2, "{:?}", ran(&built));
    assert!(built.warnings.iter().any(|warning| warning.contains("NOBODY")), "{:?}", built.warnings);
    let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
    assert_eq!(read(&image, "heredoc").as_deref(), Some("heredoc 1\n"));
    assert_eq!(read(&image, "quoted").as_deref(), Some("$A\n"));
    assert_eq!(read(&image, "etc/group"), None);
    for gone in ["src", "scratch", "cache", "run", "etc/hosts", "etc/resolv.conf"] {
        assert!(!lab.output().iter().any(|line| line == gone), "{gone} is a place of a mount");
        let view = wharf_image::View::overlay(&image.lower_dirs).unwrap();
        assert!(view.find(gone.as_ref(), false).unwrap().node.is_none(), "{gone} is in the image");
    }
}

#[test]
fn mistakes_are_told_with_their_line() {
    let lab = Lab::new();
    for (dockerfile, expect, hint) in [
        ("FROM base/busybos", "Dockerfile:1: no image '", "base/busybox"),
        (
            "FROM base/busybox\nCOPY nothing /",
            "Dockerfile:2: 'nothing' is not in the build context",
            ": it has .dockerignore, Dockerfile, file",
        ),
        (
            "FROM base/busybox\nCOPY fiel /",
            "Dockerfile:2: 'fiel' is not in the build context",
            "did you mean 'file'?",
        ),
        ("FROM base/busybox\nCOPY out /", "Dockerfile:2: 'out' is not in the build context", ".dockerignore"),
        ("FROM base/busybox\nCOPY ../../etc/passwd /", "Dockerfile:2: '../../etc/passwd' is not in", ""),
        ("FROM base/busybox\nCOPY file Dockerfile /x", "Dockerfile:2: COPY has several sources", "/x/"),
        (
            "FROM base/busybox\nCOPY file /bin/sh/x",
            "Dockerfile:2: '/bin/busybox' in the image is not a folder",
            "",
        ),
        ("FROM base/busybox\nCOPY --chown=who file /", "Dockerfile:2: the user 'who' is not in", "number"),
        ("FROM base/busybox\nADD https://a/b /", "Dockerfile:2: cannot fetch 'https://a/b' here", "download"),
        ("FROM base/busybox\nCOPY https://a/b /", "Dockerfile:2: COPY cannot fetch", "ADD"),
        (
            "FROM base/busybox\nRUN --security=insecure true",
            "Dockerfile:2: RUN --security=insecure is not",
            "--allow",
        ),
        ("FROM base/busybox\nRUN --network=host true", "Dockerfile:2: RUN --network=host is not", "--allow"),
        (
            "FROM base/busybox\nRUN --mount=type=ssh,required true",
            "Dockerfile:2: the ssh agent 'default' is required",
            "--ssh default",
        ),
        (
            "FROM base/busybox\nRUN --mount=type=secret,id=k,required true",
            "Dockerfile:2: the secret 'k' is required",
            "--secret",
        ),
        (
            "FROM --platform=linux/s390x base/busybox",
            "Dockerfile:1: the image 'base/busybox' here is for linux/amd64",
            "",
        ),
        ("ARG B\nFROM ${B}", "Dockerfile:2: FROM has no image", "--build-arg"),
        ("FROM base/busybox\nRUN [\"nothing\"]", "Dockerfile:2: ", "install it in a RUN step before"),
        (
            "FROM base/busybox AS build\nFROM build AS other\nCOPY --from=nope /a /b",
            "Dockerfile:3: 'nope' is no stage before this one, and as an image: ",
            "name a stage before it by 'FROM … AS nope', or pull the image; the stages before this one are: build",
        ),
        (
            "FROM base/busybox\nCOPY --from=nope /a /b",
            "Dockerfile:2: 'nope' is no stage before this one",
            "no stage before this one has a name",
        ),
        (
            "FROM base/busybox AS build\nFROM base/busybox\nCOPY --from=biuld /a /b",
            "Dockerfile:3: 'biuld' is no stage",
            "did you mean 'build'?",
        ),
        (
            "FROM base/busybox AS build\nFROM scratch\nCOPY --from=base/bsuybox /a /b",
            "Dockerfile:3: 'base/bsuybox' is no stage",
            "did you mean 'base/busybox",
        ),
        (
            "FROM base/busybox AS build\nFROM biuld",
            "Dockerfile:2: no image",
            "did you mean the stage 'build'?",
        ),
        (
            "FROM base/busybox AS build\nFROM base/busybox\nFROM scratch\nCOPY --from=3 /a /b",
            "Dockerfile:4: there is no stage 3 before this one",
            "stages count from 0; before this one there are: 0 ('build'), 1 (FROM base/busybox)",
        ),
        (
            "FROM base/busybox AS a\nCOPY --from=a /a /b",
            "Dockerfile:2: the stage 'a' cannot take files from itself",
            "name a stage before it",
        ),
        (
            "FROM base/busybox AS a\nFROM scratch\nCOPY --from=a /nothing /b",
            "Dockerfile:3: '/nothing' is not in the stage 'a'",
            "choose what is there: '/' has bin",
        ),
        (
            "FROM base/busybox\nUSER who\nRUN true",
            "Dockerfile:3: cannot find the user",
            "make it in a RUN step",
        ),
        ("FROM base/busybox\nRUN exit 7", "Dockerfile:2: ", "it says why in its output above"),
        (
            "FROM base/busybox\nRUN nope",
            "Dockerfile:2: ",
            "install it in a RUN step before, or correct its name",
        ),
        ("FROM base/busybox\nARG S=NOPE\nSTOPSIGNAL $S", "Dockerfile:3: 'NOPE' is not a signal", "15"),
        ("FROM base/busybox\nWORKDIR $D", "Dockerfile:2: WORKDIR has no path", "--build-arg"),
        ("FROM base/busybox\nVOLUME $D", "Dockerfile:2: VOLUME has an empty path", "--build-arg"),
        ("FROM base/busybox\nCOPY file $D", "Dockerfile:2: COPY has no target", "--build-arg"),
        ("FROM base/busybox\n\nENV a=\"${b?is needed}\"", "Dockerfile:3: b: is needed", ""),
    ] {
        let context =
            lab.context(&[("Dockerfile", dockerfile), ("file", ""), ("out", ""), (".dockerignore", "out")]);
        let error = lab.build(&context).unwrap_err();
        assert!(error.to_string().starts_with(expect), "{dockerfile}: {error}");
        let given = error.hint.unwrap_or_default();
        assert!(given.contains(hint), "{dockerfile}: {given}");
    }
}

#[test]
fn builds_are_reproducible_from_folders_and_streams() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox\nRUN echo x > /file\nCOPY file /copied/\nWORKDIR /w\n";
    let context = lab.context(&[("Dockerfile", dockerfile), ("file", "f")]);
    let at_epoch = |request: &mut BuildRequest| {
        request.source_date_epoch = Some(1_000_000_000);
        request.no_cache = true;
    };
    let first = lab.build_with(&context, at_epoch).unwrap();
    let stream = wharf_image::pack_directory(&context, Vec::new(), None).unwrap();
    let second = lab
        .build_with(&context, |request| {
            at_epoch(request);
            request.context = Context::tar(std::io::Cursor::new(stream));
        })
        .unwrap();
    assert_eq!(first.manifest.digest, second.manifest.digest);
    let image = lab.images.resolve_descriptor(&first.manifest).unwrap();
    assert_eq!(image.config.created.as_deref(), Some("2001-09-09T01:46:40Z"));
}

#[test]
fn working_folders_are_the_users() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox
WORKDIR /roots
USER app
WORKDIR /apps/own
WORKDIR /roots/in
USER 7:app
WORKDIR /numbers
USER 9
WORKDIR /nine
USER nobody-knows
WORKDIR /unknown
";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let image = lab.image(&context);
    for (path, expected) in [
        ("roots", (0, 0, 0o755)),
        ("apps", (1000, 1001, 0o755)),
        ("apps/own", (1000, 1001, 0o755)),
        ("roots/in", (1000, 1001, 0o755)),
        ("numbers", (7, 1001, 0o755)),
        ("nine", (9, 9, 0o755)),
        ("unknown", (0, 0, 0o755)),
    ] {
        assert_eq!(owner(&image, path), expected, "{path}");
    }
    // Another user's folder is another result.
    write(&context, "Dockerfile", &dockerfile.replace("USER app", "USER 5:6"));
    assert_eq!(owner(&lab.image(&context), "apps/own"), (5, 6, 0o755));
}

#[test]
fn triggers_of_a_base_run_in_its_children() {
    let lab = Lab::new();
    let triggers = "FROM base/busybox\nONBUILD COPY file /triggered\nONBUILD RUN cat /triggered > /seen";
    let parent = lab.context(&[("Dockerfile", triggers)]);
    lab.build_with(&parent, |r| r.tags.push("base/onbuild".parse().unwrap())).unwrap();
    let child = lab.context(&[("Dockerfile", "FROM base/onbuild\nRUN cat /seen"), ("file", "yes")]);
    let image = lab.image(&child);
    assert_eq!(lab.output(), ["yes"]);
    assert!(image.config.config.on_build.is_empty());
}

#[test]
fn a_cancelled_build_ends_and_leaves_nothing() {
    let lab = Lab::new();
    let context = lab.context(&[("Dockerfile", "FROM base/busybox\nRUN echo begun && sleep 1000")]);
    let mut request = BuildRequest::new(Context::Folder(context));
    let cancel = request.cancel.clone();
    request.dockerfile = DockerfileSource::InContext("Dockerfile".into());
    let error = lab
        .builder
        .build(request, |progress| {
            if let wharf_build::Progress::Output { .. } = progress {
                cancel.cancel();
            }
        })
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
    let left = std::fs::read_dir(lab.folder.path().join("build-cache/tmp")).unwrap().count();
    assert_eq!(left, 0);
}

/// Whether a process has this word in its command line.
fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|line| line.split(|byte| *byte == 0).any(|part| part == word.as_bytes()))
}

/// Whether it came true in time.
fn until(test: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !test() {
        if std::time::Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    true
}

#[test]
fn a_killed_build_takes_its_steps_with_it() {
    /// How long the step of the child sleeps; known to nobody else.
    const CHILD: &str = "WHARF_TEST_BUILD_SLEEP";
    if let Ok(seconds) = std::env::var(CHILD) {
        let lab = Lab::new();
        let dockerfile =
            format!("FROM base/busybox\nRUN trap '' TERM HUP; sleep {seconds} & sleep {seconds}; true");
        let _ = lab.build(&lab.context(&[("Dockerfile", &dockerfile)]));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let seconds = format!("7{:07}", std::process::id());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_build_takes_its_steps_with_it"])
        .env(CHILD, &seconds)
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = until(|| runs(&seconds));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(begun, "the step runs");
    assert!(until(|| !runs(&seconds)), "the step has ended with its build");
}

#[test]
fn what_a_killed_build_left_is_swept() {
    let lab = Lab::new();
    let left = lab.folder.path().join("build-cache/tmp/0123456789abcdef");
    std::fs::create_dir_all(left.join("context/deep")).unwrap();
    // A build that lives keeps its folder.
    let busy = lab.context(&[("Dockerfile", "FROM base/busybox\nRUN echo x && cat /dev/null")]);
    let mut swept = false;
    let request = BuildRequest::new(Context::Folder(busy));
    let reopened = std::sync::Mutex::new(&mut swept);
    lab.builder
        .build(request, |progress| {
            if let wharf_build::Progress::Output { .. } = progress {
                lab.reopen();
                **reopened.lock().unwrap() = true;
            }
        })
        .unwrap();
    assert!(swept && !left.exists());
}

#[test]
fn builds_at_once_and_after_a_restart_share_the_cache() {
    let lab = Lab::new();
    let context =
        lab.context(&[("Dockerfile", "FROM base/busybox\nRUN echo one > /one\nRUN echo two > /two")]);
    let other = lab.reopen();
    std::thread::scope(|scope| {
        for builder in [&lab.builder, &other] {
            let request = BuildRequest::new(Context::Folder(context.clone()));
            scope.spawn(move || builder.build(request, |_| {}).unwrap());
        }
    });
    assert_eq!(ran(&lab.build(&context).unwrap()), [""; 0]);
    assert!(!lab.builder.kept().unwrap().is_empty());
    assert_eq!(lab.builder.prune(std::time::Duration::ZERO).unwrap(), 2);
    assert_eq!(ran(&lab.build(&context).unwrap()).len(), 2);
}

#[test]
fn packed_programs_run_and_their_digest_is_theirs() {
    let lab = Lab::new();
    let request = wharf_build::PackRequest {
        tags: vec!["base/python".parse().unwrap()],
        programs: ["python3", "sh", "env"].map(str::to_owned).to_vec(),
        applets: false,
    };
    let packed = wharf_build::pack(&lab.images, &request).unwrap();
    assert_eq!(wharf_build::pack(&lab.images, &request).unwrap().manifest.digest, packed.manifest.digest);
    let dockerfile = "FROM base/python
RUN python3 -c 'import ssl, json, hashlib, asyncio, sqlite3, unittest; print(hashlib.sha256(b\"\").hexdigest()[:8])'
RUN /bin/sh -c 'echo $PATH' && /usr/bin/env true 2>/dev/null || echo no true
USER 10001
RUN echo x > /tmp/x && cd / && python3 -c 'import pwd, os; print(os.getuid(), pwd.getpwuid(0).pw_name)'
";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    lab.image(&context);
    assert_eq!(lab.output()[0], "e3b0c442");
    assert_eq!(lab.output().last().map(String::as_str), Some("10001 root"));

    // A program that is named is meant, and not busybox's of that name, wherever it is named.
    let request = wharf_build::PackRequest {
        tags: vec!["base/both".parse().unwrap()],
        programs: ["busybox", "setpriv"].map(str::to_owned).to_vec(),
        applets: true,
    };
    wharf_build::pack(&lab.images, &request).unwrap();
    // Not by busybox's shell, which runs its own.
    let dockerfile = "FROM base/both\nRUN [\"setpriv\", \"--reuid\", \"7\", \"id\", \"-u\"]\n";
    lab.image(&lab.context(&[("Dockerfile", dockerfile)]));
    assert_eq!(lab.output(), ["7"]);
}

#[test]
fn the_sample_application_is_built_and_passes_its_tests() {
    let lab = Lab::new();
    let request = wharf_build::PackRequest {
        tags: vec!["base/python".parse().unwrap()],
        programs: ["python3", "sh"].map(str::to_owned).to_vec(),
        applets: false,
    };
    wharf_build::pack(&lab.images, &request).unwrap();
    let shop = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/shop");
    let tested = lab.build_with(&shop, |r| r.target = Some("test".into()));
    let tested = tested.unwrap_or_else(|error| panic!("{error}\n{}", lab.output().join("\n")));
    assert!(lab.output().iter().any(|line| line == "OK"), "{}", lab.output().join("\n"));
    let built = lab.build_with(&shop, |r| drop(r.args.insert("VERSION".into(), "7".into()))).unwrap();
    assert!(built.steps.len() < tested.steps.len() + 6);
    let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
    assert_eq!(image.config.config.labels["org.opencontainers.image.version"], "7");
    assert!(image.config.config.env.contains(&"SHOP_VERSION=7".to_owned()));
}
