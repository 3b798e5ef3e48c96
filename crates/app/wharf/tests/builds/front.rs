//! `wharf build` with sources from elsewhere, a network for its steps, outputs and checks.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use super::super::support::{IMAGE, Platform, lossy, output_of};

/// Serves files, and what redirects to them; on all addresses, so that steps reach it too.
fn serve(files: BTreeMap<String, Vec<u8>>, redirects: BTreeMap<String, String>) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (files, redirects) = (Arc::new(files), Arc::new(redirects));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut lines = BufReader::new(&client).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = first.split([' ', '?']).nth(1).unwrap_or_default();
            let (status, more, body) = match (redirects.get(path), files.get(path)) {
                (Some(to), _) => (302, format!("location: {to}\r\n"), &[][..]),
                (None, Some(body)) => (200, String::new(), body.as_slice()),
                (None, None) => (404, String::new(), &[][..]),
            };
            let size = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {size}\r\nconnection: close\r\n{more}\r\n");
            let _ = (&client).write_all(head.as_bytes()).and_then(|()| (&client).write_all(body));
        }
    });
    port
}

/// Every file below a folder, by its path in it.
fn files_of(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let name = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => files_of(&entry.path(), &name, found),
            false => drop(found.insert(name, fs::read(entry.path()).unwrap())),
        }
    }
}

pub(super) fn git(folder: &Path, words: &[&str]) -> String {
    output_of(
        Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", "-C"])
            .arg(folder)
            .args(words),
    )
}

pub(super) struct Front<'a> {
    pub(super) platform: &'a Platform,
    pub(super) folder: std::path::PathBuf,
}

impl Front<'_> {
    pub(super) fn build(&self, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.platform.wharf();
        command.arg("build").args(words).current_dir(&self.folder).env("TOKEN", "hush-hush-42");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    pub(super) fn built(&self, words: &[&str], input: &[u8]) -> Output {
        let output = self.build(words, input);
        assert!(output.status.success(), "{words:?}: {}", lossy(&output.stderr));
        output
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap()
    }
}

#[test]
fn builds_reach_out_and_their_results_get_around() {
    let platform = Platform::start();
    let folder = platform.data().join("front");
    fs::create_dir(&folder).unwrap();
    remote_sources(&Front { platform: &platform, folder: folder.clone() });
    outputs(&Front { platform: &platform, folder: folder.clone() });
    standard_input_checks_and_secrets(&Front { platform: &platform, folder: folder.clone() });
    let other = Platform::control_plane();
    super::attest::attestations(&Front { platform: &platform, folder: folder.clone() }, &other);
    super::attest::several_platforms(&Front { platform: &platform, folder }, &other);
    other.drain();
    platform.drain();
}

fn remote_sources(front: &Front<'_>) {
    front.write("repo/Dockerfile", &format!("FROM {IMAGE}\nCOPY file /from-git\n"));
    front.write("repo/file", "git");
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-qm", "1"], &["update-server-info"]] {
        git(&front.folder.join("repo"), words);
    }
    let mut files = BTreeMap::new();
    files_of(&front.folder.join("repo/.git"), "/r.git", &mut files);
    files.insert("/new/file.txt".into(), b"fetched".to_vec());
    let context = front.folder.join("repo");
    let tar = output_of(
        Command::new("tar")
            .args(["-C", context.to_str().unwrap(), "--exclude=.git", "-cf"])
            .args([front.folder.join("c.tar").to_str().unwrap(), "."]),
    );
    assert_eq!(tar, "");
    files.insert("/c.tar".into(), fs::read(front.folder.join("c.tar")).unwrap());
    let redirects = BTreeMap::from([
        ("/old".to_owned(), "new/file.txt".to_owned()),
        ("/loop".to_owned(), "/loop".to_owned()),
    ]);
    let port = serve(files, redirects);
    let here = format!("http://127.0.0.1:{port}");
    // The step reaches this machine over its gateway, and nothing when it has no network.
    let fetch = "RUN wget -qO /by-step http://$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p')";
    front.write(
        "net/Dockerfile",
        &format!("FROM {IMAGE}\nADD {here}/old /got\n{fetch}:{port}/new/file.txt\n"),
    );
    front.built(&["-q", "-o", "out", "net"], b"");
    assert_eq!((front.read("out/got"), front.read("out/by-step")), ("fetched".into(), "fetched".into()));
    assert!(!front.build(&["-q", "--network", "none", "--no-cache", "net"], b"").status.success());
    front.write("net/Dockerfile", &format!("FROM {IMAGE}\nADD {here}/loop /got\n"));
    let told = lossy(&front.build(&["net"], b"").stderr);
    assert!(told.contains("error: Dockerfile:2: cannot fetch") && told.contains("10 redirects"), "{told}");
    for context in [format!("{here}/r.git"), format!("{here}/c.tar")] {
        front.built(&["-q", "-o", "out", &context], b"");
        assert_eq!(front.read("out/from-git"), "git", "{context}");
        fs::remove_file(front.folder.join("out/from-git")).unwrap();
    }
    super::attest::sources(front, &here);
}

fn outputs(front: &Front<'_>) {
    front.write("o/Dockerfile", &format!("FROM {IMAGE} AS b\nRUN echo made > /made\nFROM scratch\nCOPY --from=b /made /\nCOPY --from=named n /\n"));
    front.write("named/n", "n");
    let base = ["-q", "-t", "front/out", "--build-context", "named=named", "o"];
    let with = |more: &[&str]| front.built(&[more, &base].concat(), b"");
    let id = lossy(&with(&["--iidfile", "id", "--metadata-file", "meta"]).stdout).trim().to_owned();
    assert_eq!(front.read("id"), id);
    let meta: serde_json::Value = serde_json::from_str(&front.read("meta")).unwrap();
    assert_eq!(
        (meta["containerimage.config.digest"].as_str(), meta["image.name"].as_str()),
        (Some(&*id), Some("front/out"))
    );
    let tar = with(&["-o", "-"]).stdout;
    fs::write(front.folder.join("s.tar"), tar).unwrap();
    assert_eq!(output_of(Command::new("tar").arg("-tf").arg(front.folder.join("s.tar"))), "made\nn\n");
    // Another output than the store leaves no name there.
    output_of(front.platform.wharf().args(["image", "rm", "front/out"]));
    with(&["-o", "type=docker,dest=d.tar", "-o", "type=oci,dest=layout,tar=false"]);
    assert!(!output_of(front.platform.wharf().args(["image", "ls"])).contains("front/out"));
    assert!(front.folder.join("layout/blobs/sha256").is_dir());
    output_of(front.platform.wharf().args(["image", "load", "-i"]).arg(front.folder.join("d.tar")));
    assert!(output_of(front.platform.wharf().args(["image", "ls"])).contains("front/out"));
    front.write("l/Dockerfile", "FROM layout\nCOPY --from=layout /n /m\n");
    front.built(&["-q", "-o", "out", "--build-context", "layout=oci-layout://layout", "l"], b"");
    assert_eq!(front.read("out/m"), "n");
    let cache = ["-q", "--cache-to", "type=local,dest=cache,mode=max", "--build-context", "named=named", "o"];
    front.built(&cache, b"");
    assert!(front.folder.join("cache/index.json").is_file());
    // Over another platform's registry, and over the own one, which has the same store.
    let other = Platform::control_plane();
    for registry in [other.address("registry"), front.platform.address("registry")] {
        let cached = format!("type=registry,ref={registry}/front/cache");
        front.built(&["-q", "--cache-to", &cached, "--build-context", "named=named", "o"], b"");
        let told = front.built(&["--cache-from", &cached, "--build-context", "named=named", "o"], b"");
        assert!(!lossy(&told.stderr).contains("no cache is taken"), "{}", lossy(&told.stderr));
    }
    let told =
        front.built(&["--cache-from", "nowhere.invalid/x", "--build-context", "named=named", "o"], b"");
    assert!(
        lossy(&told.stderr).contains("no cache is taken from 'nowhere.invalid/x"),
        "{}",
        lossy(&told.stderr)
    );
    let registry = format!("{}/front/pushed", front.platform.address("registry"));
    front.built(&["-q", "-t", &registry, "--push", "--build-context", "named=named", "o"], b"");
    output_of(front.platform.wharf().args(["image", "pull", &registry]));
}

fn standard_input_checks_and_secrets(front: &Front<'_>) {
    let dockerfile = format!("FROM {IMAGE}\nRUN echo piped > /piped\n");
    front.built(&["-q", "-o", "out", "-"], dockerfile.as_bytes());
    assert_eq!(front.read("out/piped"), "piped\n");
    front.built(&["-q", "-o", "out", "-"], &fs::read(front.folder.join("c.tar")).unwrap());
    assert_eq!(front.read("out/from-git"), "git");
    front.write("c/Dockerfile", &format!("FROM {IMAGE}\nCMD run\n"));
    let checked = front.build(&["--check", "c"], b"");
    let told = lossy(&checked.stdout);
    assert_eq!(checked.status.code(), Some(1));
    assert!(told.contains("WARNING: JSONArgsRecommended\n") && told.contains("   2 | >>> CMD run"), "{told}");
    front.write(
        "c/Dockerfile",
        &format!("FROM {IMAGE}\nRUN --mount=type=secret,id=TOKEN,env=T echo got $T\n"),
    );
    assert!(front.build(&["--check", "c"], b"").status.success());
    let output = front.built(&["--secret", "id=TOKEN", "c"], b"");
    let told = lossy(&output.stderr);
    assert!(told.contains("got ***") && !told.contains("hush-hush-42"), "{told}");
    for (words, expect) in [
        (&["--platform", "linux/what/a/b", "c"][..], "'linux/what/a/b' is no platform"),
        (&["--attest", "type=x", "c"], "has no type that is known"),
        (&["--sbom", "generator=x", "c"], "names a generator"),
        (&["--secret", "id=NONE", "c"], "the environment has no variable of that name"),
        (&["--ssh", "x=/no/such", "c"], "names '/no/such'"),
        (&["--allow", "all", "c"], "use security.insecure, network.host or device"),
        (&["--cache-from", "type=gha", "c"], "the service 'gha', which this builder does not speak to"),
        (&["-o", "type=what", "c"], "which is not known"),
        (&["-f", "-", "-"], "cannot both come from standard input"),
    ] {
        let output = front.build(words, b"");
        let told = lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(expect), "{words:?}: {told}");
    }
}
