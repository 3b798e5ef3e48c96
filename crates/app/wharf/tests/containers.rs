//! Containers without Kubernetes: run, published ports, builds, and images between registries.

#![allow(clippy::unwrap_used)] // a test

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
    assert_eq!(said(platform, &["logs", "web"]), "serving");
    assert_eq!(said(platform, &["exec", "web", "sh", "-c", "echo $WORD"]), "well");
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
    said(platform, &["rm", "web"]);

    // One that ends by itself gives its port back too.
    said(platform, &["run", "-d", "--rm", "-p", &publish, IMAGE, "true"]);
    until("the port is free", || {
        let (code, _, errors) = wharf(platform, &["run", "--rm", "-p", &publish, IMAGE, "true"]);
        if code == 0 { Ok(()) } else { Err(errors) }
    });
}

#[test]
fn containers_run() {
    let mut platform = Platform::start();
    codes_variables_and_volumes(&platform);
    memory_has_a_limit(&platform);
    ports_are_published(&mut platform);
    platform.drain();
}

const DOCKERFILE: &str = r#"
FROM base/test AS tools
RUN echo tool > /tool
FROM base/test AS parts
COPY part /part
RUN tr a-z A-Z < /part > /loud
FROM base/test
COPY --from=tools /tool /tool
COPY --from=parts /loud /loud
COPY last /last
CMD ["sh", "-c", "cat /tool /loud /last"]
"#;

fn build(platform: &Platform, context: &Path) -> Vec<String> {
    let (code, _, told) = wharf(platform, &["build", "-t", "shop/three", context.to_str().unwrap()]);
    assert_eq!(code, 0, "{told}");
    // Steps that were not taken from the cache: "#3 [stage 2/4] COPY …" without "#3 CACHED".
    let cached = |line: &str| {
        let number = line.split(' ').next().unwrap_or_default();
        told.lines().any(|line| line == format!("{number} CACHED"))
    };
    let steps = told.lines().filter(|line| line.contains("] RUN ") || line.contains("] COPY "));
    steps.filter(|line| !cached(line)).map(str::to_owned).collect()
}

fn three_stages_build_once(platform: &Platform) {
    let context = platform.data().join("context");
    fs::create_dir(&context).unwrap();
    for (name, text) in [("Dockerfile", DOCKERFILE), ("part", "part\n"), ("last", "one\n")] {
        fs::write(context.join(name), text).unwrap();
    }
    let built = || said(platform, &["run", "--rm", "shop/three"]);
    assert!(!build(platform, &context).is_empty());
    assert_eq!(built(), "tool\nPART\none");
    assert_eq!(build(platform, &context), [""; 0]);
    fs::write(context.join("last"), "two\n").unwrap();
    let again = build(platform, &context);
    assert!(!again.is_empty() && again.iter().all(|line| line.contains("COPY last /last")), "{again:?}");
    assert_eq!(built(), "tool\nPART\ntwo");
}

/// Each with where and what is told, and what to do about it.
const MISTAKES: [(&str, &str, &str); 24] = [
    ("", "Dockerfile: the file has no instructions", "begin it with FROM"),
    ("# only a note\n", "Dockerfile: the file has no instructions", "begin it with FROM"),
    ("RUN true", "Dockerfile:1: there is no FROM before this instruction", "only ARG"),
    ("FROM base/tset", "Dockerfile:1: no image 'base/tset", "did you mean 'base/test'?"),
    ("FROM base/test AS 1x", "Dockerfile:1: '1x' cannot be the name of a stage", "begin with a letter"),
    ("FROM base/test\nRNU true", "Dockerfile:2: unknown instruction 'RNU'", "did you mean RUN?"),
    ("FROM base/test\n\nthere", "Dockerfile:3: unknown instruction 'THERE'", "continues the one before"),
    ("FROM base/test\nCOPY --form=a b /", "Dockerfile:2: COPY does not know the flag '--form'", "--from?"),
    ("FROM base/test\nUSER --x a", "Dockerfile:2: USER does not know the flag '--x'", "takes no flags"),
    ("FROM base/test\nCOPY a", "Dockerfile:2: COPY requires a source and a target", "COPY SOURCE"),
    ("FROM base/test\nCOPY fiel /", "Dockerfile:2: 'fiel' is not in the build context", "mean 'file'?"),
    ("FROM base/test\nCOPY no/such /", "Dockerfile:2: 'no/such' is not in the build context", "a path below"),
    (
        "FROM base/test AS a\nFROM base/test\nCOPY --from=nostage x /",
        "Dockerfile:3: 'nostage' is no stage",
        "are: a",
    ),
    (
        "FROM base/test AS tools\nFROM base/test\nCOPY --from=tolos x /",
        "Dockerfile:3: 'tolos' is no",
        "'tools'?",
    ),
    (
        "FROM base/test\nRUN touch /was-run\nCOPY --from=b x /\nFROM base/test AS b",
        "Dockerfile:3: the stage 'b' begins only at line 4",
        "move it before",
    ),
    ("FROM base/test\nRUN --mount=type=bnid,target=/a b", "Dockerfile:2: RUN --mount", "did you mean bind?"),
    ("FROM base/test\nRUN <<EOF\ntrue", "Dockerfile:2: the heredoc '<<EOF' does not end", "only 'EOF'"),
    ("FROM base/test\nENV x", "Dockerfile:2: ENV x has no value", "NAME=value"),
    ("FROM base/test\nEXPOSE http", "Dockerfile:2: 'http' is not a port", "FIRST-LAST"),
    ("FROM base/test\nSTOPSIGNAL now", "Dockerfile:2: 'now' is not a signal", "SIGTERM"),
    ("FROM base/test\nRUN echo ${x", "", ""),
    (
        "FROM base/test\nRUN echo last words; exit 3",
        "Dockerfile:2: '/bin/sh -c echo last words; exit 3' ended with exit code 3",
        "",
    ),
    ("FROM base/test\nRUN no-such-program", "ended with exit code 127", "not in the image"),
    (
        "FROM base/test\nCMD [\"a\", b]\nRUN false",
        "Dockerfile:3: '/bin/sh -c false' ended with exit code 1",
        "",
    ),
];

/// Exit code 1, one error with its hint, and no image.
fn refused(platform: &Platform, words: &[&str], expect: &str, hint: &str) -> String {
    let before = said(platform, &["image", "ls", "-q"]);
    let (code, _, told) = wharf(platform, words);
    assert_eq!(code, 1, "{words:?}: {told}");
    let errors: Vec<_> = told.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains(expect), "{words:?}: {expect}: {told}");
    let hinted = hint.is_empty() || told.lines().any(|line| line.contains("hint: ") && line.contains(hint));
    assert!(hinted, "{words:?}: {hint}: {told}");
    assert_eq!(said(platform, &["image", "ls", "-q"]), before);
    told
}

fn mistakes_of_builds_are_told_once(platform: &Platform) {
    let context = platform.data().join("mistakes");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), "").unwrap();
    let folder = context.to_str().unwrap();
    let write = |text: &str| fs::write(context.join("Dockerfile"), text).unwrap();
    let build = ["build", "--progress", "plain", "-t", "mistake", folder];
    for (dockerfile, expect, hint) in MISTAKES {
        write(dockerfile);
        let told = refused(platform, &build, expect, hint);
        assert!(!told.contains("touch /was-run\n"), "a step ran before the file was understood: {told}");
        if dockerfile.contains("last words") {
            assert!(told.contains(" last words\n") && told.contains("   2 | >>> RUN echo last"), "{told}");
        }
        if dockerfile.contains("CMD") {
            assert!(told.contains("warning: Dockerfile:2: CMD is no valid JSON array"), "{told}");
        }
    }
    write("FROM base/test AS tools\nFROM base/test AS app\n");
    let target = |name| [&build[..], &["--target", name]].concat();
    refused(platform, &target("nope"), "Dockerfile: there is no stage 'nope' to build", "are: tools, app");
    refused(platform, &target("tool"), "there is no stage 'tool'", "did you mean 'tools'?");
    write("FROM base/test");
    refused(platform, &target("nope"), "there is no stage 'nope'", "from 0 to 0");
    fs::write(context.join("Dockerfile"), b"FROM base/test\nRUN \xff").unwrap();
    refused(platform, &build, "Dockerfile:2: this is not UTF-8 text", "UTF-8");
    refused(platform, &["build", "/no/such/folder"], "the build context '/no/such/folder'", "such as '.'");
    fs::remove_file(context.join("Dockerfile")).unwrap();
    refused(platform, &build, "cannot read the Dockerfile", "with -f");
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
    let (one, other) = (Platform::start(), Platform::start());
    three_stages_build_once(&one);
    mistakes_of_builds_are_told_once(&one);
    images_travel(&one, &other);
    one.drain();
    other.drain();
}
