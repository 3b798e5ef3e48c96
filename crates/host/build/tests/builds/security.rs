//! What a Dockerfile, a context or a step must not reach, and where secrets must not be found.

use std::{
    fs,
    io::Read,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    sync::Mutex,
};

use wharf_build::{BuildRequest, Context, ErrorKind, Progress, Secret};

use super::support::{Lab, ran, read, write};

/// Every file below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

#[test]
fn links_and_dots_stay_inside_the_context_and_the_image() {
    let lab = Lab::new();
    let outside = lab.context(&[("private", "secret")]);
    let dockerfile = "FROM base/busybox AS evil
RUN ln -s /proc/1/root /root-link && ln -s ../../../../../../../../../../tmp /up && mkdir /etc/app && echo image > /etc/own
FROM base/busybox
COPY link* /links/
COPY --from=evil /up/../etc/own /own
RUN ln -s /etc /to-etc
COPY own /to-etc/placed
";
    let context = lab.context(&[("Dockerfile", dockerfile), ("own", "mine")]);
    symlink(outside.join("private"), context.join("link-file")).unwrap();
    // A link is copied as what it leads to, and what is not in the context is not there.
    let error = lab.build(&context).map(|_| ());
    assert!(error.is_ok(), "{error:?}");
    let image = lab.image(&context);
    assert_eq!(read(&image, "links/link-file"), None);
    assert_eq!(read(&image, "own").as_deref(), Some("image\n"));
    assert_eq!(read(&image, "etc/placed").as_deref(), Some("mine"));
    for line in [
        "COPY link-file /x",
        "COPY link-folder/private /x",
        "COPY ../private /x",
        "RUN --mount=type=bind,source=link-folder,target=/m cat /m/private",
        "COPY --from=evil /root-link/etc/hostname /x",
    ] {
        symlink(&outside, context.join("link-folder")).ok();
        let tail = format!(
            "FROM base/busybox AS evil\nRUN ln -s /proc/1/root /root-link\nFROM base/busybox\n{line}\n"
        );
        write(&context, "Dockerfile", &tail);
        let error = lab.build(&context).unwrap_err();
        assert!(error.to_string().contains("is not in the"), "{line}: {error}");
    }
}

/// CVE-2024-23652: the places of mounts were removed from the machine after a step made links of them.
#[test]
fn removing_the_places_of_mounts_follows_no_links() {
    let lab = Lab::new();
    let outside = lab.context(&[("keep", "")]);
    let target = outside.join("place");
    fs::create_dir(&target).unwrap();
    let away = outside.display();
    let dockerfile = format!(
        "FROM base/busybox\nRUN --mount=type=tmpfs,target=/stub/place mv /stub /moved && ln -s {away} /stub\n"
    );
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let built = lab.build(&context);
    assert!(target.is_dir(), "{built:?}");
    built.unwrap();
}

/// CVE-2024-23651: a part of a cache was opened by its path while another step made a link of it.
#[test]
fn caches_lead_nowhere_else() {
    let lab = Lab::new();
    let outside = lab.context(&[("private", "secret")]);
    let line = "RUN --mount=type=cache,id=c,target=/c";
    let dockerfile = format!(
        "FROM base/busybox\n{line} ln -s {} /c/out && ln -s / /c/root\n{line} cat /c/out/private || ls /c/root/c\n",
        outside.display()
    );
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    lab.build(&context).unwrap();
    assert_eq!(lab.output().iter().filter(|line| line.contains("secret")).count(), 0, "{:?}", lab.output());
    // Only a stage or a context has parts; a cache is mounted as a whole.
    write(
        &context,
        "Dockerfile",
        "FROM base/busybox\nRUN --mount=type=cache,id=c,source=out,target=/c cat /c/private\n",
    );
    let error = lab.build(&context).unwrap_err();
    assert!(error.to_string().contains("source of a cache needs from"), "{error}");
}

#[test]
fn a_cache_begins_with_the_files_of_a_stage() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox AS seed\nRUN mkdir /s && echo seeded > /s/f\nFROM base/busybox\n\
        RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/f && echo more > /c/f\n\
        RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/f\n";
    lab.image(&lab.context(&[("Dockerfile", dockerfile)]));
    assert_eq!(lab.output(), ["seeded", "more"]);
}

#[test]
fn secrets_are_in_no_layer_history_record_or_log() {
    let lab = Lab::new();
    let secret = "correct-horse-battery";
    let dockerfile = "FROM base/busybox
RUN --mount=type=secret,id=key --mount=type=secret,id=key,env=KEY --mount=type=secret,id=key,target=/etc/key \\
    cat /etc/key; echo $KEY; echo x$KEY >&2; wc -c < /run/secrets/key > /size
RUN --mount=type=secret,id=key,env=KEY echo fails with $KEY; exit 9
";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let told = Mutex::new(Vec::new());
    let build = |text: &str| {
        write(&context, "Dockerfile", text);
        let mut request = BuildRequest::new(Context::Folder(context.clone()));
        request.secrets.insert("key".into(), Secret::Value(format!("{secret}\n").into_bytes()));
        let result =
            lab.builder.build(request, |progress| told.lock().unwrap().push(format!("{progress:?}")));
        told.lock().unwrap().push(format!("{result:?}"));
        result
    };
    assert_eq!(build(dockerfile).unwrap_err().kind, ErrorKind::Failed { code: 9 });
    let built =
        build(dockerfile.split("RUN --mount=type=secret,id=key,env=KEY echo fails").next().unwrap()).unwrap();
    let told = told.into_inner().unwrap().join("\n");
    assert!(told.contains("***") && told.contains("x***"), "{told}");
    assert!(!told.contains(secret), "{told}");
    let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
    assert_eq!(read(&image, "size").as_deref(), Some("22\n"));
    assert_eq!(read(&image, "etc/key"), None);
    // Layers are compressed: what they hold is looked at unpacked, beside everything else the store and the cache have.
    let mut looked = 0;
    for path in files(lab.folder.path()) {
        let mut content = Vec::new();
        fs::File::open(&path).unwrap().read_to_end(&mut content).unwrap();
        if content.starts_with(&[0x1f, 0x8b]) {
            let packed = std::mem::take(&mut content);
            wharf_image::Decoder::new(&packed[..]).unwrap().read_to_end(&mut content).unwrap();
        }
        let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{} has the secret", path.display());
        looked += 1;
    }
    assert!(looked > 10, "{looked}");
}

#[test]
fn an_ssh_agent_is_there_for_the_step_alone() {
    let lab = Lab::new();
    let agent = lab.folder.path().join("agent.sock");
    let listener = UnixListener::bind(&agent).unwrap();
    let asked = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut text = [0; 5];
        client.read_exact(&mut text).unwrap();
        std::io::Write::write_all(&mut client, b"agent says hello\n").unwrap();
        text
    });
    let context = lab.context(&[]);
    let program = ["python3", "sh"].map(str::to_owned).to_vec();
    let request = wharf_build::PackRequest {
        tags: vec!["base/python".parse().unwrap()],
        programs: program,
        applets: true,
    };
    wharf_build::pack(&lab.images, &request).unwrap();
    let dockerfile = "FROM base/python
RUN --mount=type=ssh,mode=0666 python3 -c 'import os, socket; p = os.environ[\"SSH_AUTH_SOCK\"]; \
s = socket.socket(socket.AF_UNIX); s.connect(p); s.sendall(b\"hello\"); print(p, s.recv(99).decode().strip(), oct(os.stat(p).st_mode)[-3:])'
RUN --mount=type=ssh,id=other echo \"none:$SSH_AUTH_SOCK\"
";
    write(&context, "Dockerfile", dockerfile);
    let built = lab
        .build_with(&context, |request| drop(request.ssh.insert("default".into(), agent.clone())))
        .unwrap_or_else(|error| panic!("{error}: {:?}", lab.output()));
    assert_eq!(asked.join().unwrap(), *b"hello");
    assert_eq!(lab.output(), ["/run/buildkit/ssh_agent.0 agent says hello 666", "none:"]);
    let image = lab.images.resolve_descriptor(&built.manifest).unwrap();
    let view = wharf_image::View::overlay(&image.lower_dirs).unwrap();
    assert!(view.find("run/buildkit".as_ref(), false).unwrap().node.is_none());
    assert!(!format!("{:?}", image.config).contains("SSH_AUTH_SOCK="));
}

/// The class of CVE-2024-23653: rights that nobody granted.
#[test]
fn only_the_caller_grants_rights() {
    let lab = Lab::new();
    let dockerfile = "FROM base/busybox\nRUN --security=insecure grep CapEff /proc/self/status\nRUN grep CapEff /proc/self/status\n";
    let context = lab.context(&[("Dockerfile", dockerfile)]);
    let error = lab.build(&context).unwrap_err();
    assert!(error.to_string().contains("is not allowed in this build"), "{error}");
    lab.build_with(&context, |request| request.allowed.insecure = true).unwrap();
    let caps: Vec<u64> = lab
        .output()
        .iter()
        .filter(|line| line.starts_with("CapEff"))
        .map(|line| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap())
        .collect();
    assert!(caps.len() == 2 && caps[0] & (1 << 21) != 0 && caps[1] & (1 << 21) == 0, "{caps:x?}");
    // A result made with rights is none for a build without them.
    let granted = "FROM base/busybox\nRUN --security=insecure echo once > /f\n";
    write(&context, "Dockerfile", granted);
    lab.build_with(&context, |request| request.allowed.insecure = true).unwrap();
    write(&context, "Dockerfile", &granted.replace("--security=insecure ", ""));
    assert_eq!(ran(&lab.build(&context).unwrap()), ["[2/2] RUN echo once > /f"]);
}

#[test]
fn builds_that_want_the_same_share_the_work() {
    let lab = Lab::new();
    let script = "echo ran >> /c/count; while [ ! -e /c/go ]; do true; done; echo made > /made";
    let dockerfile = format!("FROM base/busybox\nRUN --mount=type=cache,id=shared,target=/c {script}\n");
    let context = lab.context(&[("Dockerfile", &dockerfile)]);
    let other = lab.reopen();
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let home = lab.folder.path().join("build-cache/mounts");
    std::thread::scope(|scope| {
        let builds = [&lab.builder, &other].map(|builder| {
            let (context, begun) = (context.clone(), &begun);
            scope.spawn(move || {
                let both = |progress| match progress {
                    Progress::Started { name, .. } if name.contains("RUN") => {
                        begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    }
                    _ => {}
                };
                builder.build(BuildRequest::new(Context::Folder(context)), both).unwrap()
            })
        });
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let content = loop {
            assert!(std::time::Instant::now() < deadline, "the step does not run");
            let both = begun.load(std::sync::atomic::Ordering::SeqCst) == 2;
            let content =
                fs::read_dir(&home).unwrap().flatten().map(|entry| entry.path().join("content")).next();
            match content.filter(|content| both && content.join("count").exists()) {
                Some(content) => break content,
                None => std::thread::yield_now(),
            }
        };
        fs::write(content.join("go"), "").unwrap();
        let results = builds.map(|build| build.join().unwrap());
        assert_eq!(results[0].id, results[1].id);
        assert_eq!(fs::read_to_string(content.join("count")).unwrap(), "ran\n");
        let cached = results.iter().filter(|result| result.steps.iter().all(|step| step.cached)).count();
        assert_eq!(cached, 1);
    });
    assert_eq!(fs::read_dir(lab.folder.path().join("build-cache/turns")).unwrap().count(), 0);
}

const DEVICES: &str = r#"
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
devices:
  - name: foo
    containerEdits:
      env: [FOO=injected]
      deviceNodes: [{ path: /dev/own-null, hostPath: /dev/null, permissions: rw }]
      additionalGids: [4711]
  - name: bar
    annotations: { org.mobyproject.buildkit.device.autoallow: "true" }
    containerEdits: { env: [BAR=injected] }
  - name: net
    containerEdits: { netDevices: [{ hostInterfaceName: a, name: b }] }
containerEdits:
  mounts: [{ hostPath: MOUNTED, containerPath: /of-device, options: [rbind, ro] }]
"#;

#[test]
fn devices_are_for_builds_that_may_have_them() {
    let lab = Lab::new();
    let mounted = lab.context(&[("file", "of the machine")]);
    let specs = lab.context(&[("v.yaml", &DEVICES.replace("MOUNTED", mounted.to_str().unwrap()))]);
    let builder = lab.reopen().with_devices(vec![specs]);
    let build = |run: &str, allow: &dyn Fn(&mut wharf_build::AllowedDevices)| {
        let context = lab.context(&[("Dockerfile", &format!("FROM base/busybox\n{run}\n"))]);
        let mut request = BuildRequest::new(Context::Folder(context));
        allow(&mut request.allowed.devices);
        let told = Mutex::new(Vec::new());
        let built = builder.build(request, |progress| {
            if let Progress::Output { line, .. } | Progress::Note { text: line } = progress {
                told.lock().unwrap().push(line);
            }
        });
        (built.map(drop), told.into_inner().unwrap().join("\n"))
    };
    let foo = "RUN --device=vendor1.com/device=foo,required [ $FOO = injected ] && echo x > /dev/own-null \
        && id -G && ls -l /dev/own-null && cat /of-device/file";
    let (error, _) = build(foo, &|_| {});
    let error = error.unwrap_err();
    assert!(error.to_string().contains("device vendor1.com/device=foo, which is not allowed"), "{error}");
    assert!(error.hint.unwrap().contains("--allow device=vendor1.com/device=foo"));
    let (built, told) = build(foo, &|devices| devices.all = true);
    assert!(built.is_ok() && told.contains("4711") && told.contains("of the machine"), "{built:?} {told}");
    assert!(told.lines().any(|line| line.starts_with('c') && line.contains("1,   3")), "{told}");
    // The cache has the result, and allows nothing.
    assert!(build(foo, &|_| {}).0.is_err());
    let name = |name: &str, other: Option<&str>| (name.to_owned(), other.map(str::to_owned));
    assert!(build(foo, &|devices| devices.names.extend([name("vendor1.com/device=foo", None)])).0.is_ok());
    assert!(build(foo, &|devices| devices.names.extend([name("vendor1.com/device=bar", None)])).0.is_err());
    let alias = name("gpu", Some("vendor1.com/device=foo"));
    let (built, _) =
        build("RUN --device=gpu [ $FOO = injected ]", &|devices| devices.names.extend([alias.clone()]));
    assert!(built.is_ok(), "{built:?}");
    // Allowed by its own file.
    assert!(build("RUN --device=vendor1.com/device=bar [ $BAR = injected ]", &|_| {}).0.is_ok());
    let (built, told) = build("RUN --device=vendor1.com/device=none [ -z \"$FOO\" ]", &|_| {});
    assert!(built.is_ok() && told.contains("is not registered"), "{built:?} {told}");
    for (run, expect) in [
        ("RUN --device=vendor1.com/device=fo,required true", "'vendor1.com/device=fo' is not registered"),
        ("RUN --device=vendor1.com/device=net true", "netDevices"),
        ("RUN --device=a,b true", "'b' is not known"),
        ("RUN --device true", "--device needs a value"),
    ] {
        let (error, _) = build(run, &|devices| devices.all = true);
        assert!(error.as_ref().is_err_and(|error| error.to_string().contains(expect)), "{run}: {error:?}");
    }
}
