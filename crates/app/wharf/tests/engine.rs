//! The Docker Engine API, through the docker CLI.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use support::{IMAGE, Platform, lossy, until};

/// The docker CLI against a platform.
struct Docker(String);

impl Docker {
    fn of(platform: &Platform) -> Self {
        Self(format!("unix://{}", platform.data().join("docker.sock").display()))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(words)
            .env("DOCKER_HOST", &self.0)
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", "/nonexistent");
        command
    }

    /// Exit code, standard output and standard error.
    fn end(&self, words: &[&str], input: &str) -> (i32, String, String) {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), lossy(&output.stdout), lossy(&output.stderr))
    }

    /// What it says, when all is well.
    fn said(&self, words: &[&str]) -> String {
        let (code, out, errors) = self.end(words, "");
        assert_eq!(code, 0, "docker {words:?}: {out}{errors}");
        out.trim().to_owned()
    }

    /// What it says when it fails, with its code.
    fn refused(&self, words: &[&str]) -> (i32, String) {
        let (code, out, errors) = self.end(words, "");
        assert_ne!(code, 0, "docker {words:?}: {out}");
        (code, errors)
    }
}

fn codes_and_streams(docker: &Docker) {
    let (code, out, errors) =
        docker.end(&["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 3"], "");
    assert_eq!((code, out.as_str(), errors.as_str()), (3, "out\n", "err\n"));
    let (code, out, _) = docker.end(&["run", "--rm", "-i", IMAGE, "cat"], "typed\n");
    assert_eq!((code, out.as_str()), (0, "typed\n"));
    let (code, said) = docker.refused(&["run", "--rm", IMAGE, "nosuch"]);
    assert!(code == 127 && said.contains("executable file not found"), "{code} {said}");
    let (code, said) = docker.refused(&["run", "--rm", "--pull", "never", "nosuch:1"]);
    assert!(code == 125 && said.contains("No such image"), "{code} {said}");
    let (_, said) = docker.refused(&["run", "--rm", "--device", "/dev/null", IMAGE, "true"]);
    assert!(said.contains("HostConfig.Devices is not supported"), "{said}");
    assert_eq!(docker.said(&["ps", "-aq"]), "");
}

fn a_life(docker: &Docker) {
    let id =
        docker.said(&["run", "-d", "--name", "one", "-e", "X=7", "-l", "part=a", IMAGE, "sleep", "1000"]);
    assert_eq!(docker.said(&["ps", "-q", "--no-trunc", "--filter", "label=part=a"]), id);
    assert_eq!(docker.said(&["ps", "-q", "--filter", "name=two"]), "");
    let (code, out, _) = docker.end(&["exec", "-i", "one", "sh", "-c", "cat; echo $X; exit 5"], "in\n");
    assert_eq!((code, out.as_str()), (5, "in\n7\n"));
    assert_eq!(docker.refused(&["exec", "one", "nosuch"]).0, 127);
    assert!(docker.said(&["top", "one"]).contains("sleep 1000"));
    assert!(
        docker.said(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "one"]).starts_with("one 1")
    );
    docker.said(&["pause", "one"]);
    assert_eq!(docker.said(&["inspect", "-f", "{{.State.Status}}", "one"]), "paused");
    docker.said(&["unpause", "one"]);
    docker.said(&["rename", "one", "two"]);
    docker.said(&["stop", "-t", "0", "two"]);
    assert_eq!(docker.said(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "two"]), "exited 137");
    docker.said(&["start", "two"]);
    assert_eq!(docker.said(&["inspect", "-f", "{{.State.Running}} {{.Name}}", "two"]), "true /two");
    for _ in 0..5 {
        docker.said(&["restart", "-t", "0", "two"]);
    }
    assert!(docker.refused(&["rm", "two"]).1.contains("is running"));
    docker.said(&["kill", "two"]);
    assert_eq!(docker.said(&["wait", "two"]), "137");
    docker.said(&["rm", "two"]);
    assert!(docker.refused(&["inspect", "two"]).1.to_lowercase().contains("no such"), "it is gone");
}

fn what_was_said(docker: &Docker) {
    docker.said(&[
        "run",
        "--name",
        "talker",
        IMAGE,
        "sh",
        "-c",
        "for i in 1 2 3; do echo line $i; done; echo bad >&2",
    ]);
    let (_, out, errors) = docker.end(&["logs", "talker"], "");
    assert_eq!((out.as_str(), errors.as_str()), ("line 1\nline 2\nline 3\n", "bad\n"));
    assert_eq!(docker.end(&["logs", "-f", "--tail", "2", "talker"], "").1, "line 3\n");
    assert!(docker.end(&["logs", "-t", "--tail", "1", "talker"], "").2.contains("Z bad"));
    docker.said(&["rm", "talker"]);
}

fn files(docker: &Docker, platform: &Platform) {
    let here = platform.data().join("here");
    fs::write(&here, "mine\n").unwrap();
    let here = here.to_str().unwrap();
    // Into one that was never started, whose links lead nowhere out of it.
    docker.said(&["create", "--name", "box", IMAGE, "sh", "-c", "cat /etc/given; ln -s / /out; sleep 1000"]);
    docker.said(&["cp", here, "box:/etc/given"]);
    docker.said(&["start", "box"]);
    until("the file is there", || match docker.end(&["logs", "box"], "").1.as_str() {
        "mine\n" => Ok(()),
        other => Err(other.to_owned()),
    });
    docker.said(&["cp", here, "box:/out/tmp/through"]);
    let back = platform.data().join("back");
    docker.said(&["cp", "box:/tmp/through", back.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(back).unwrap(), "mine\n");
    assert!(docker.said(&["diff", "box"]).lines().any(|line| line == "A /etc/given"));
    docker.said(&["commit", "box", "kept:1"]);
    docker.said(&["rm", "-f", "box"]);
    assert_eq!(docker.end(&["run", "--rm", "kept:1", "cat", "/etc/given"], "").1, "mine\n");
    docker.said(&["volume", "create", "--label", "of=test", "data"]);
    docker.said(&["run", "--rm", "-v", "data:/d", IMAGE, "sh", "-c", "echo stays > /d/f"]);
    docker.said(&["create", "--name", "user", "-v", "data:/d:ro", IMAGE, "cat", "/d/f"]);
    assert!(docker.refused(&["volume", "rm", "data"]).1.contains("in use"));
    assert_eq!(docker.said(&["start", "-a", "user"]), "stays");
    docker.said(&["rm", "user"]);
    assert_eq!(docker.said(&["volume", "ls", "-q", "--filter", "label=of=test"]), "data");
    docker.said(&["volume", "rm", "data"]);
}

fn names(docker: &Docker) {
    docker.said(&["network", "create", "shop"]);
    docker.said(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "shop",
        "--network-alias",
        "www",
        IMAGE,
        "sleep",
        "1000",
    ]);
    docker.said(&["run", "-d", "--name", "other", IMAGE, "sleep", "1000"]);
    let address = docker.said(&["inspect", "-f", "{{.NetworkSettings.Networks.shop.IPAddress}}", "web"]);
    let gateway = docker.said(&["inspect", "-f", "{{.NetworkSettings.Networks.shop.Gateway}}", "web"]);
    assert!(gateway.ends_with(".1"), "{gateway}");
    let known = |name: &str| {
        let code = format!("import socket; print(socket.gethostbyname('{name}'))");
        docker.end(&["run", "--rm", "--network", "shop", IMAGE, "python3", "-c", &code], "")
    };
    for name in ["web", "www"] {
        assert_eq!(known(name).1.trim(), address, "{name}");
    }
    assert_ne!(known("other").0, 0, "it is on another network");
    docker.said(&["network", "connect", "--alias", "late", "shop", "other"]);
    assert!(known("late").1.starts_with("10."));
    assert!(docker.refused(&["network", "rm", "shop"]).1.contains("active endpoints"));
    docker.said(&["rm", "-f", "web", "other"]);
    docker.said(&["network", "rm", "shop"]);
}

fn images_and_builds(docker: &Docker, platform: &Platform) {
    let context = platform.data().join("context");
    fs::create_dir(&context).unwrap();
    let dockerfile = |text: &str| fs::write(context.join("Dockerfile"), text).unwrap();
    fs::write(context.join("f"), "content\n").unwrap();
    dockerfile(&format!(
        "FROM {IMAGE}\nARG V=1\nCOPY f /f\nRUN echo $V > /v\nCMD [\"cat\", \"/f\", \"/v\"]\n"
    ));
    let place = context.to_str().unwrap();
    let build = |tag: &str| docker.end(&["build", "-t", tag, "--build-arg", "V=7", place], "");
    let (code, out, errors) = build("made:1");
    assert!(code == 0 && out.contains("Successfully tagged made:1"), "{out}{errors}");
    assert_eq!(build("made:2").1.matches("Using cache").count(), 3);
    assert_eq!(docker.said(&["run", "--rm", "made:1"]), "content\n7");
    dockerfile(&format!("FROM {IMAGE}\nRNU x\n"));
    let (code, _, errors) = build("bad");
    assert!(code != 0 && errors.contains("Dockerfile:2: unknown instruction 'RNU'"), "{errors}");
    let archive = platform.data().join("made.tar");
    docker.said(&["save", "-o", archive.to_str().unwrap(), "made:1"]);
    docker.said(&["rmi", "made:1", "made:2"]);
    assert_eq!(docker.said(&["images", "-q", "made"]), "");
    assert!(docker.said(&["load", "-i", archive.to_str().unwrap()]).contains("made:1"));
    docker.said(&["tag", "made:1", "again"]);
    let ids = docker.said(&["images", "--format", "{{.ID}}", "--filter", "reference=made:1"]);
    assert_eq!(docker.said(&["images", "--format", "{{.ID}}", "again"]), ids);
    assert!(docker.said(&["history", "--no-trunc", "again"]).contains("RUN"));
}

fn restarts(docker: &Docker, platform: &mut Platform) {
    docker.said(&["run", "-d", "--name", "fails", "--restart", "on-failure:2", IMAGE, "sh", "-c", "exit 4"]);
    until("it is given up", || {
        match docker.said(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "fails"]) {
            text if text == "2 exited" => Ok(()),
            text => Err(text),
        }
    });
    docker.said(&["rm", "fails"]);
    docker.said(&["run", "-d", "--name", "stays", "--restart", "always", IMAGE, "sleep", "1000"]);
    let pid = docker.said(&["inspect", "-f", "{{.State.Pid}}", "stays"]);
    platform.kill();
    platform.restart();
    assert_eq!(docker.said(&["inspect", "-f", "{{.State.Pid}}", "stays"]), pid, "it outlives the platform");
    // From its end on it starts again, until it is stopped.
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    until("it runs again", || {
        let now = docker.said(&["inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "stays"]);
        if now != format!("{pid} true") && now.ends_with("true") { Ok(()) } else { Err(now) }
    });
    docker.said(&["stop", "-t", "0", "stays"]);
    assert_eq!(docker.said(&["inspect", "-f", "{{.State.Status}}", "stays"]), "exited");
    docker.said(&["rm", "stays"]);
}

fn what_happens_is_told(docker: &Docker) {
    let since = docker.said(&["info", "--format", "{{.SystemTime}}"]);
    docker.end(&["run", "--rm", "--name", "short", IMAGE, "sh", "-c", "exit 9"], "");
    // The CLI cuts times to the second, and waits for those to come.
    let until = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
    let told = docker.said(&[
        "events",
        "--since",
        &since,
        "--until",
        &until.to_string(),
        "--filter",
        "container=short",
        "--format",
        "{{.Action}} {{.Actor.Attributes.exitCode}}",
    ]);
    let told: Vec<&str> = told.lines().map(|line| line.trim_end_matches(" <no value>").trim()).collect();
    assert_eq!(told, ["create", "start", "die 9", "destroy"]);
}

#[test]
fn the_docker_cli_works() {
    let mut platform = Platform::start();
    let docker = Docker::of(&platform);
    codes_and_streams(&docker);
    a_life(&docker);
    what_was_said(&docker);
    files(&docker, &platform);
    names(&docker);
    images_and_builds(&docker, &platform);
    what_happens_is_told(&docker);
    restarts(&docker, &mut platform);
    platform.drain();
}
