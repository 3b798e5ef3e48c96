//! Containers without Kubernetes: run, published ports, builds, and images between registries.

#![allow(clippy::unwrap_used)] // a test

mod builds;
mod support;

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

use support::{IMAGE, Platform, get, lossy, output_of, until};

/// Exit code, standard output and standard error of `wharf WORDS…`.
fn wharf(platform: &Platform, words: &[&str]) -> (i32, String, String) {
    let output = platform.wharf().args(words).stdin(Stdio::null()).output().unwrap();
    (output.status.code().unwrap_or(-1), lossy(&output.stdout), lossy(&output.stderr))
}

fn said(platform: &Platform, words: &[&str]) -> String {
    let (code, out, errors) = wharf(platform, words);
    assert_eq!(code, 0, "wharf {words:?}: {out}{errors}");
    out.trim().to_owned()
}

/// A port of this machine that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn codes_variables_and_volumes(platform: &Platform) {
    let run = |words: &[&str]| wharf(platform, &[&["run", "--rm"], words].concat());
    assert_eq!(run(&[IMAGE, "sh", "-c", "exit 42"]).0, 42);
    assert_eq!(run(&[IMAGE, "no-such-program"]).0, 127);
    assert_eq!(run(&["-e", "WORD=hello", IMAGE, "sh", "-c", "echo $WORD"]).1, "hello\n");
    let shared = platform.data().join("shared");
    fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/shared", shared.display());
    assert_eq!(run(&["-v", &volume, IMAGE, "sh", "-c", "echo kept > /shared/file"]).0, 0);
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "kept\n");
    assert_ne!(run(&["-v", &format!("{volume}:ro"), IMAGE, "touch", "/shared/more"]).0, 0);
    assert_eq!(run(&["nobody/has-this", "true"]).0, 125);
    assert_eq!(said(platform, &["ps", "-a", "-q"]), "");
}

/// What the image has where it declares a volume is in the volume, with its owners; links lead nowhere out of the image.
fn volumes_of_images_are_filled(platform: &Platform) {
    let context = platform.data().join("volumes");
    fs::create_dir(&context).unwrap();
    let text = format!(
        "FROM {IMAGE}
RUN mkdir -p /data/sub && echo seed > /data/sub/f && ln /data/sub/f /data/g && ln -s /etc/outside /data/link \\
    && chmod 4750 /data/sub/f && chown -R 1000:1001 /data && chmod 1770 /data \\
    && ln -s ../../../../../../../../inner /up && mkdir /inner && echo inside > /inner/f \\
    && python3 -c \"import os; os.setxattr('/data/g', 'security.capability', bytes([1, 0, 0, 2] + [4] + [0] * 15))\"
VOLUME /data /up /none
HEALTHCHECK CMD true
"
    );
    fs::write(context.join("Dockerfile"), text).unwrap();
    said(platform, &["build", "-q", "-t", "seeded", context.to_str().unwrap()]);
    let look = "stat -c '%u:%g %a' /data /data/sub /none; cat /data/sub/f /up/f; readlink /data/link; \
                python3 -c \"import os; print(os.listxattr('/data/sub/f'))\"; \
                echo more > /data/sub/f; cat /data/g; ls /data /none";
    // Each container has its own.
    for _ in 0..2 {
        assert_eq!(
            said(platform, &["run", "--rm", "seeded", "sh", "-c", look]),
            "1000:1001 1770\n1000:1001 755\n0:0 755\nseed\ninside\n/etc/outside\n['security.capability']\nmore\n\
             /data:\ng\nlink\nsub\n\n/none:"
        );
    }
    // The platform checks its health.
    let id = said(platform, &["run", "-d", "seeded", "sleep", "1000"]);
    until("its health is known", || {
        let row = said(platform, &["ps"]);
        if row.contains("(health: starting)") || row.contains("healthy)") { Ok(()) } else { Err(row) }
    });
    said(platform, &["rm", "-f", &id]);
    // A folder of this machine takes the place as it is.
    let own = platform.data().join("own-data");
    fs::create_dir(&own).unwrap();
    let volume = format!("{}:/data/", own.display());
    assert_eq!(said(platform, &["run", "--rm", "-v", &volume, "seeded", "ls", "/data"]), "");
}

/// In docker's words and with its exit code; what follows the image is the container's.
fn flags_and_images_are_checked(platform: &Platform) {
    for (words, error, hint) in [
        (&["--unknown-flag", IMAGE][..], "unknown flag: --unknown-flag", "'wharf run --help'"),
        (&["--rmm", IMAGE], "unknown flag: --rmm", "did you mean --rm?"),
        (&["--nmae=x", "--rm", IMAGE], "unknown flag: --nmae", "did you mean --name?"),
        (&["-iXd", IMAGE], "unknown shorthand flag: 'X' in -iXd", "'wharf run --help'"),
        (&["nosuch"], "no image 'nosuch:latest'", "wharf build -t NAME"),
        (&["bas/test"], "no image 'bas/test:latest'", "did you mean 'base/test:latest'?"),
        (&["--rm"], "no image is named", "IMAGE"),
        (&["-e", "=x", IMAGE], "-e =x: the variable has no name", "NAME=VALUE"),
        (&["-m", "abc", IMAGE], "-m abc: this is no memory size", "512m"),
        (&["-m", "1m", IMAGE], "-m 1m: the least possible is 6 MiB", "512m"),
    ] {
        let (code, _, told) = wharf(platform, &[&["run"], words].concat());
        assert!(
            code == 125 && told.contains(&format!("error: {error}")) && told.contains(hint),
            "{words:?}: {told}"
        );
    }
    assert_eq!(said(platform, &["run", "--rm", IMAGE, "echo", "--rm", "--unknown"]), "--rm --unknown");
    assert_eq!(said(platform, &["ps", "-a", "-q"]), "");
}

/// Builds FROM the tests' image a small one of its own content.
fn small_image(platform: &Platform, name: &str) {
    let context = platform.data().join(name);
    fs::create_dir(&context).unwrap();
    let text = format!("FROM {IMAGE}\nRUN mkdir -p /deep/in && echo {name} > /deep/in/it\n");
    fs::write(context.join("Dockerfile"), text).unwrap();
    said(platform, &["build", "-q", "-t", name, context.to_str().unwrap()]);
}

fn images_in_use_stay(platform: &Platform) {
    small_image(platform, "used");
    let refused = |by: &str| {
        let (code, _, told) = wharf(platform, &["image", "rm", "used"]);
        assert!(code == 1 && told.contains("error: conflict: the image 'used' is used by"), "{told}");
        assert!(told.contains(by) && told.contains("hint: "), "{by}: {told}");
    };
    let layers = || fs::read_dir(platform.data().join("images/layers")).unwrap().count();
    let before = layers();
    said(platform, &["run", "-d", "--name", "user", "used", "sleep", "1000"]);
    platform.kubectl().run(&["run", "podder", "--image", "used", "--", "sleep", "1000"]);
    until("the pod uses its image", || match wharf(platform, &["image", "rm", "used"]) {
        (1, _, told) if told.contains("pod default/podder") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    refused("container user");
    let taken = said(platform, &["image", "df", "-o", "json"]);
    let taken: serde_json::Value = serde_json::from_str(&taken).unwrap();
    let of = |kind: &str| taken.as_array().unwrap().iter().find(|row| row["type"] == kind).unwrap().clone();
    assert!(
        of("Images")["active"].as_u64() >= Some(1) && of("Containers")["active"].as_u64() >= Some(1),
        "{taken}"
    );
    assert!(of("Unpacked Layers")["size"].as_u64() > of("Images")["size"].as_u64(), "{taken}");
    assert!(said(platform, &["image", "df"]).contains("RECLAIMABLE"));
    let measured = said(platform, &["stats", "--no-stream"]);
    assert!(measured.contains(" user ") && measured.contains(" default/podder/podder "), "{measured}");
    // Another name may go, and comes back.
    said(platform, &["image", "tag", "used", "used:other"]);
    said(platform, &["image", "rm", "used:other"]);
    said(platform, &["image", "rm", "--force", "used"]);
    said(platform, &["image", "prune", "--grace", "0"]);
    assert_eq!(layers(), before);
    assert_eq!(said(platform, &["exec", "user", "cat", "/deep/in/it"]), "used");
    said(platform, &["rm", "-f", "user"]);
    said(platform, &["image", "prune", "--grace", "0"]);
    let pod = platform.kubectl().run(&["exec", "podder", "--", "cat", "/deep/in/it"]);
    assert_eq!(pod, "used\n");
    platform.kubectl().run(&["delete", "pod", "podder", "--now"]);
    until("the layer is collected", || {
        said(platform, &["image", "prune", "--grace", "0"]);
        if layers() == before - 1 { Ok(()) } else { Err(format!("{} layers", layers())) }
    });
    // One that removes itself holds nothing either.
    small_image(platform, "once");
    said(platform, &["run", "-d", "--rm", "--name", "once", "once", "true"]);
    until("the container removes itself", || match wharf(platform, &["image", "rm", "once"]) {
        (0, ..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn files_are_copied(platform: &Platform) {
    let files = platform.data().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("own"), "own\n").unwrap();
    let at = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap();
    let make = "mkdir -p /d/sub; echo one > /d/sub/f; ln /d/sub/f /d/g; ln -s /etc/outside /d/abs; \
                ln -s ../../../../../../../../tmp /d/up; echo made; exec sleep 1000";
    said(platform, &["run", "-d", "--name", "box", IMAGE, "sh", "-c", make]);
    until("the container is ready", || match said(platform, &["logs", "box"]) {
        log if log == "made" => Ok(()),
        log => Err(log),
    });
    let inside = |script: &str| said(platform, &["exec", "box", "sh", "-c", script]);
    let copy = |words: &[&str]| said(platform, &[&["cp"], words].concat());
    copy(&["box:/d", &at("out")]);
    assert_eq!((read("out/sub/f"), read("out/g")), ("one\n".into(), "one\n".into()));
    assert_eq!(fs::read_link(files.join("out/abs")).unwrap(), Path::new("/etc/outside"));
    copy(&["box:/d/sub/.", &at("out")]);
    assert_eq!(read("out/f"), "one\n");
    // Into a folder, onto a name, and through a link that would lead out of the container.
    copy(&[&at("own"), "box:/d"]);
    copy(&[&at("own"), "box:/d/other"]);
    copy(&[&at("own"), "box:/d/up/escaped"]);
    copy(&[&at("out"), "box:/d/up"]);
    assert_eq!(
        inside("cat /d/own /d/other /tmp/escaped /tmp/out/f; stat -c %u:%g /d/own"),
        "own\nown\nown\none\n0:0"
    );
    assert!(!Path::new("/tmp/escaped").exists());
    // The link is this machine's neither when it is read.
    inside("echo theirs > /etc/outside");
    copy(&["-L", "box:/d/abs", &at("followed")]);
    assert_eq!(read("followed"), "theirs\n");
    // As a stream, out and in.
    let stream = platform.wharf().args(["cp", "box:/d/sub", "-"]).output().unwrap().stdout;
    let mut names = Vec::new();
    for entry in tar::Archive::new(stream.as_slice()).entries().unwrap() {
        names.push(entry.unwrap().path().unwrap().display().to_string());
    }
    assert_eq!(names, ["sub/", "sub/f"]);
    let mut child = platform.wharf().args(["cp", "-", "box:/tmp"]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &stream).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(inside("cat /tmp/sub/f"), "one");
    for (words, error) in [
        (["box:/none", &at("x")], "could not find '/none' in container box"),
        ([&at("none"), "box:/x"], "could not find"),
        ([&at("own"), "box:/none/x"], "there is no folder '/none' in container box"),
        ([&at("own"), "box:/none/"], "the folder 'box:/none/' does not exist"),
        ([&at("out"), "box:/d/own"], "which is no folder"),
        (["box:/d", "box:/e"], "between containers is not supported"),
        ([&at("own"), &at("x")], "no container is named"),
        (["bx:/d", &at("x")], "no such container: bx"),
    ] {
        let (code, _, told) = wharf(platform, &[&["cp"], &words[..]].concat());
        assert!(code == 1 && told.contains(error), "{words:?}: {told}");
    }
    // What has ended can be copied from and to, links as before.
    said(platform, &["kill", "box"]);
    until("the container has ended", || match said(platform, &["ps", "-q"]) {
        running if running.is_empty() => Ok(()),
        running => Err(running),
    });
    copy(&["box:/d/own", &at("late")]);
    assert_eq!(read("late"), "own\n");
    copy(&[&at("own"), "box:/d/up/still"]);
    copy(&["box:/tmp/still", &at("still")]);
    assert_eq!(read("still"), "own\n");
    assert!(!Path::new("/tmp/still").exists());
    said(platform, &["rm", "box"]);
}

fn use_is_measured(platform: &Platform) {
    let spin = ["run", "-d", "--name", "busy", "--memory", "64m", IMAGE, "sh", "-c", "while :; do :; done"];
    said(platform, &spin);
    let stats = |words: &[&str]| -> serde_json::Value {
        serde_json::from_str(&said(platform, &[&["stats", "--no-stream", "-o", "json"], words].concat()))
            .unwrap()
    };
    let found = stats(&[]);
    let busy = &found[0];
    assert_eq!((&busy["name"], &busy["memoryLimit"]), (&"busy".into(), &(64 << 20).into()), "{found}");
    assert!(busy["cpuPercent"].as_f64() > Some(1.0) && busy["pids"].as_u64() >= Some(1), "{found}");
    said(platform, &["kill", "busy"]);
    until("the container has ended", || match stats(&["busy"]) {
        found if found[0]["running"] == false => Ok(()),
        found => Err(found.to_string()),
    });
    assert_eq!(stats(&[]), serde_json::json!([]));
    said(platform, &["rm", "busy"]);
}

fn events_are_told(platform: &Platform) {
    let log = platform.data().join("events");
    let out = fs::File::create(&log).unwrap();
    let mut child = platform.wharf().args(["events", "-o", "json"]).stdout(out).spawn().unwrap();
    let told = |name: &str| -> Vec<(String, i64)> {
        let text = fs::read_to_string(&log).unwrap();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let events = whole.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of = events.filter(|event| event["name"] == name);
        of.map(|event| {
            (event["action"].as_str().unwrap().to_owned(), event["exitCode"].as_i64().unwrap_or(-1))
        })
        .collect()
    };
    let run = |name: &str, words: &[&str]| {
        wharf(platform, &[&["run", "--rm", "--memory", "32m", "--name", name, IMAGE], words].concat());
    };
    until("somebody listens", || {
        run("first", &["true"]);
        if told("first").is_empty() { Err("nothing".to_owned()) } else { Ok(()) }
    });
    run("short", &["sh", "-c", "exit 3"]);
    run("greedy", &["python3", "-c", "all = []\nwhile True: all.append(bytearray(1 << 20))"]);
    for (name, expected) in [
        ("short", &[("create", -1), ("start", -1), ("die", 3), ("destroy", -1)][..]),
        ("greedy", &[("create", -1), ("start", -1), ("oom", -1), ("die", 137), ("destroy", -1)]),
    ] {
        until(name, || {
            let found = told(name);
            let same =
                found.iter().map(|(action, code)| (action.as_str(), *code)).eq(expected.iter().copied());
            if same { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What bash offers for lines as they are typed, in the form LINE|WORDS, where a word ends also at a colon.
const TYPED: &str = r#"
source <(wharf completion bash)
while IFS='|' read -r line words; do
    COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
    eval "COMP_WORDS=($words)"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _wharf wharf "${COMP_WORDS[COMP_CWORD]}"
    echo "$line => ${COMPREPLY[*]}"
done
"#;

fn names_are_completed_and_formatted(platform: &Platform) {
    let bin = platform.data().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_wharf"), bin.join("wharf")).unwrap();
    said(platform, &["image", "tag", IMAGE, "typed:1"]);
    said(platform, &["run", "-d", "--name", "typed-a", "--network", "none", IMAGE, "sleep", "1000"]);
    said(platform, &["run", "--name", "typed-b", "--network", "none", IMAGE, "true"]);
    let data = platform.data().display();
    let lines = format!(
        "wharf sto|wharf sto\nwharf rm typ|wharf rm typ\nwharf stop typ|wharf stop typ\n\
         wharf image rm typ|wharf image rm typ\nwharf image rm typed:|wharf image rm typed :\n\
         wharf run --rm typed:1|wharf run --rm typed : 1\nwharf container-|wharf container-\n\
         wharf --data /nosuch rm typ|wharf --data /nosuch rm typ\nwharf --data {data} rm typ|wharf --data {data} rm typ\n"
    );
    let mut bash = Command::new("bash");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    bash.args(["-c", TYPED]).env("PATH", path).env("WHARF_DATA", platform.data());
    let input = platform.data().join("typed");
    fs::write(&input, lines).unwrap();
    let offered = output_of(bash.stdin(fs::File::open(input).unwrap()));
    let expected = format!(
        "wharf sto => stop\nwharf rm typ => typed-b typed-a\nwharf stop typ => typed-a\n\
         wharf image rm typ => typed:1\nwharf image rm typed: => 1\nwharf run --rm typed:1 => 1\nwharf container- => \n\
         wharf --data /nosuch rm typ => \nwharf --data {data} rm typ => typed-b typed-a\n"
    );
    assert_eq!(offered, expected);
    for (words, expected) in [
        (
            &["ps", "-a", "--format", "{{.Names}} {{.State}} {{upper .Image}}"][..],
            "typed-b exited BASE/TEST\ntyped-a running BASE/TEST",
        ),
        (&["ps", "--format", r"table {{.Names}}\t{{.Networks}}"], "NAMES     NETWORKS\ntyped-a   none"),
        (
            &["inspect", "-f", "{{.State.Status}} {{json .Args}}", "typed-a", "typed-b"],
            "running [\"1000\"]\nexited []",
        ),
        (
            &[
                "image",
                "ls",
                "--format",
                "{{if eq .Repository \"typed\"}}{{.Repository}}:{{.Tag}}{{end}}",
                "typed",
            ],
            "typed:1",
        ),
        (&["image", "inspect", "--format", "{{.Os}}", "typed:1"], "linux"),
        (&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "typed-a"], "typed-a 1"),
        (&["version", "--format", "{{.Client.Version}}"], env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(said(platform, words), expected, "{words:?}");
    }
    let (code, _, errors) = wharf(platform, &["ps", "--format", "{{.Names"]);
    assert!(code == 2 && errors.contains("unclosed action") && errors.contains("hint: write"), "{errors}");
    let (code, _, errors) = wharf(platform, &["ps", "--format", "{{.Name}}"]);
    assert!(code == 1 && errors.contains("Name"), "{errors}");
    said(platform, &["rm", "-f", "typed-a", "typed-b"]);
    said(platform, &["image", "rm", "typed:1"]);
}

fn memory_has_a_limit(platform: &Platform) {
    let hungry = "import time\nall = []\nwhile True: all.append(bytearray(1 << 20))";
    let (code, _, _) =
        wharf(platform, &["run", "--name", "hungry", "--memory", "32m", IMAGE, "python3", "-c", hungry]);
    assert_eq!(code, 137);
    let facts: serde_json::Value = serde_json::from_str(&said(platform, &["inspect", "hungry"])).unwrap();
    assert_eq!(facts[0]["State"]["OOMKilled"], true, "{facts}");
    said(platform, &["rm", "hungry"]);
}

fn ports_are_published(platform: &mut Platform) {
    let port = free_port();
    let publish = format!("{port}:8080");
    let server =
        "mkdir /www; echo $WORD > /www/index.html; echo serving; exec busybox httpd -f -p 8080 -h /www";
    let start = ["run", "-d", "--name", "web", "-p", &publish, "-e", "WORD=well", IMAGE, "sh", "-c", server];
    let id = said(platform, &start);
    let at = format!("127.0.0.1:{port}");
    until("the port answers", || match get(&at, "localhost", "/") {
        Ok(body) if body == "well" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // The port may answer before the shim has read what was said before.
    until("it is logged", || match said(platform, &["logs", "web"]) {
        log if log == "serving" => Ok(()),
        log => Err(log),
    });
    assert_eq!(said(platform, &["exec", "web", "sh", "-c", "echo $WORD"]), "well");
    let listed = said(platform, &["ps"]);
    assert!(listed.contains(&format!(" 0.0.0.0:{port}->8080/tcp ")), "{listed}");
    let facts =
        || -> serde_json::Value { serde_json::from_str(&said(platform, &["inspect", "web"])).unwrap() };
    let found = facts()[0].take();
    let inside =
        |ip: &str| serde_json::json!({ "8080/tcp": [{ "HostIp": ip, "HostPort": port.to_string() }] });
    assert_eq!(found["HostConfig"]["PortBindings"], inside(""), "{found}");
    assert_eq!(found["NetworkSettings"]["Ports"], inside("0.0.0.0"), "{found}");
    let address = found["NetworkSettings"]["IPAddress"].as_str().unwrap();
    assert_eq!(get(&format!("{address}:8080"), "localhost", "/").unwrap(), "well");
    let env = found["Config"]["Env"].as_array().unwrap();
    let paths = env.iter().filter(|setting| setting.as_str().unwrap().starts_with("PATH="));
    assert_eq!(paths.count(), 1, "{found}");
    let images = said(platform, &["image", "ls"]);
    assert!(!images.contains(" years ago"), "{images}");
    // A taken port is refused, and nothing stays of the try.
    let (code, _, errors) = wharf(platform, &["run", "-d", "-p", &publish, IMAGE, "sleep", "100"]);
    assert!(code == 125 && errors.contains(&port.to_string()), "{errors}");
    assert_eq!(said(platform, &["ps", "-q", "--no-trunc"]), id);

    platform.kill();
    assert_eq!(get(&at, "localhost", "/").unwrap(), "well");
    platform.restart();
    assert_eq!(get(&at, "localhost", "/").unwrap(), "well");
    assert_eq!(platform.traces().pod_links().len(), 1);
    said(platform, &["stop", "-t", "1", "web"]);
    assert!(get(&at, "localhost", "/").is_err());
    assert_eq!(platform.traces().pod_links(), [""; 0]);
    let listed = said(platform, &["ps", "-a"]);
    assert!(listed.contains(" web") && !listed.contains("->"), "{listed}");
    let ended: serde_json::Value = serde_json::from_str(&said(platform, &["inspect", "web"])).unwrap();
    assert_eq!(ended[0]["NetworkSettings"]["Ports"], serde_json::json!({}), "{ended}");
    said(platform, &["rm", "web"]);

    // One that ends by itself gives its port, its name and its image back too, and nobody else does anything for it.
    let leases = || fs::read_dir(platform.data().join("images/leases")).unwrap().count();
    let before = leases();
    for words in [&["--rm"][..], &["--name", "stays"]] {
        said(platform, &[&["run", "-d", "-p", &publish], words, &[IMAGE, "true"]].concat());
        until("the port is free", || match platform.traces().rules_with(port) {
            rules if rules.is_empty() => Ok(()),
            rules => Err(rules.join("; ")),
        });
    }
    said(platform, &["rm", "stays"]);
    until("the leases are back", || if leases() == before { Ok(()) } else { Err(leases().to_string()) });
}

/// Who drains the platform is told what goes on.
fn containers_outlive_a_drain(mut platform: Platform) {
    said(&platform, &["run", "-d", "--name", "outlives", IMAGE, "sleep", "1000"]);
    assert!(platform.terminate().unwrap().success());
    let told = platform.logged();
    let line = "containers of 'wharf run' go on: outlives; end them with 'wharf --data ";
    assert!(told.contains(line) && told.contains(" rm -f outlives'"), "{told}");
    said(&platform, &["rm", "-f", "outlives"]);
    until("the network has gone after its last container", || match platform.traces().found() {
        left if left.is_empty() => Ok(()),
        left => Err(left.join("; ")),
    });
}

#[test]
fn containers_run() {
    let mut platform = Platform::start();
    codes_variables_and_volumes(&platform);
    volumes_of_images_are_filled(&platform);
    flags_and_images_are_checked(&platform);
    images_in_use_stay(&platform);
    files_are_copied(&platform);
    use_is_measured(&platform);
    events_are_told(&platform);
    names_are_completed_and_formatted(&platform);
    memory_has_a_limit(&platform);
    ports_are_published(&mut platform);
    containers_outlive_a_drain(platform);
}

fn images_travel(from: &Platform, to: &Platform) {
    let (here, there) = (from.address("registry"), to.address("registry"));
    let name = format!("{there}/shop/three:v1");
    said(from, &["image", "tag", "shop/three", &name]);
    said(from, &["image", "push", &name]);
    assert_eq!(said(to, &["run", "--rm", &name]), "tool\nPART\ntwo");
    let name = format!("{here}/shop/three:latest");
    said(to, &["image", "pull", &name]);
    assert_eq!(said(to, &["run", "--rm", &name]), "tool\nPART\ntwo");

    let skopeo = Command::new("skopeo").arg("--version").output();
    if skopeo.is_err() {
        eprintln!("skopeo is not installed: its copy is not tried");
        return;
    }
    let (source, copy) = (format!("docker://{name}"), format!("docker://{there}/copied:v1"));
    output_of(Command::new("skopeo").args([
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &source,
        &copy,
    ]));
    assert_eq!(said(to, &["run", "--rm", &format!("{there}/copied:v1")]), "tool\nPART\ntwo");
}

#[test]
fn images_are_built_and_travel() {
    let (mut one, other) = (Platform::start(), Platform::start());
    builds::three_stages_build_once(&one);
    builds::mistakes_are_told_once(&one);
    images_travel(&one, &other);
    builds::full_disks_are_told(&one);
    builds::killed_builds_leave_nothing(&mut one);
    one.drain();
    other.drain();
}
