//! The Docker Engine API, through the docker CLI.

#![allow(clippy::unwrap_used)] // a test

mod docker;
mod support;

use std::{fs, process::Command};

use docker::{Docker, clients, networks, parity, registries};
use support::{IMAGE, Platform, lossy, until};

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
    let (_, said) = docker.refused(&["run", "--rm", "--gpus", "all", IMAGE, "true"]);
    assert!(said.contains("HostConfig.DeviceRequests is not supported"), "{said}");
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
    assert!(docker.refused(&["rm", "two"]).1.contains("cannot remove a running container"));
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
    assert_eq!(build("made:2").1.matches("Using cache").count(), 2);
    assert_eq!(docker.said(&["run", "--rm", "made:1"]), "content\n7");
    dockerfile(&format!(
        "FROM {IMAGE}\nRUN grep '192.0.2.7.known' /etc/hosts; df -k /dev/shm | grep ' 8192 '\n"
    ));
    docker.said(&["build", "-q", "--add-host", "known:192.0.2.7", "--shm-size", "8m", place]);
    assert!(docker.refused(&["build", "-q", "--ulimit", "nofile=7", place]).1.contains("ulimits"));
    dockerfile(&format!("FROM {IMAGE}\nRNU x\n"));
    let (code, _, errors) = build("bad");
    assert!(code != 0 && errors.contains("Dockerfile:2: unknown instruction 'RNU'"), "{errors}");
    let archive = platform.data().join("made.tar");
    docker.said(&["save", "-o", archive.to_str().unwrap(), "made:1"]);
    docker.said(&["rmi", "made:1", "made:2"]);
    assert_eq!(docker.said(&["images", "-q", "made"]), "");
    assert!(docker.said(&["load", "-i", archive.to_str().unwrap()]).contains("made:1"));
    docker.said(&["tag", "made:1", "again"]);
    assert_eq!(docker.said(&["images", "--format", "{{.Repository}}:{{.Tag}}", "again"]), "again:latest");
    let ids = docker.said(&["images", "--format", "{{.ID}}", "--filter", "reference=made:1"]);
    assert_eq!(docker.said(&["images", "--format", "{{.ID}}", "again"]), ids);
    assert!(docker.said(&["history", "--no-trunc", "again"]).contains("RUN"));
}

/// A shim that is killed takes its container's run with it, and never the container.
fn killed_shims(docker: &Docker, platform: &Platform) {
    for (policy, state) in [("always", "true"), ("no", "false")] {
        for round in 0..15 {
            let name = format!("held-{policy}-{round}");
            let id =
                docker.said(&["run", "-d", "--name", &name, "--restart", policy, IMAGE, "sleep", "1000"]);
            let file = platform.data().join("containers").join(&id).join("shim.json");
            let shim: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            let before = docker.said(&["inspect", "-f", "{{.State.Pid}}", &name]);
            assert!(Command::new("kill").args(["-9", &shim["pid"].to_string()]).status().unwrap().success());
            until("it has ended, and runs again if it is to", || {
                let now = docker.said(&["inspect", "-f", "{{.State.Pid}} {{.State.Running}}", &name]);
                if now.ends_with(state) && !now.starts_with(&before) { Ok(()) } else { Err(now) }
            });
            docker.said(&["rm", "-f", &name]);
        }
    }
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
    // Also of a process beside the first, while that one lives.
    let hog = "python3 -c 'x = bytearray(1 << 28); x[:] = b\"1\" * len(x)'; sleep 1000";
    docker.said(&["run", "-d", "--name", "hungry", "--memory", "32m", IMAGE, "sh", "-c", hog]);
    support::until("it is told of", || {
        let until =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string();
        let filters = ["--filter", "container=hungry", "--filter", "event=oom", "--format", "{{.Action}}"];
        let words = [&["events", "--since", &since, "--until", &until], &filters[..]].concat();
        let told = docker.said(&words);
        if told == "oom" { Ok(()) } else { Err(told) }
    });
    assert_eq!(docker.said(&["inspect", "-f", "{{.State.Status}}", "hungry"]), "running");
    docker.said(&["rm", "-f", "hungry"]);
}

/// Names, limits, devices, filters and files of other containers.
fn what_is_asked_for_is_there(docker: &Docker, platform: &Platform) {
    let in_one = |words: &[&str], script: &str| {
        let (code, out, errors) =
            docker.end(&[&["run", "--rm"], words, &[IMAGE, "sh", "-c", script]].concat(), "");
        assert_eq!(code, 0, "{words:?}: {errors}");
        out.trim().to_owned()
    };
    docker.said(&[
        "run",
        "-d",
        "--name",
        "first",
        "-v",
        "/data",
        IMAGE,
        "sh",
        "-c",
        "echo kept > /data/f; sleep 1000",
    ]);
    until("the file is there", || match docker.end(&["exec", "first", "cat", "/data/f"], "") {
        (0, ..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let own = docker.said(&[
        "exec",
        "first",
        "sh",
        "-c",
        "hostname; readlink /proc/self/ns/net; readlink /proc/self/ns/pid",
    ]);
    let [name, network, processes] = own.lines().collect::<Vec<_>>()[..] else { panic!("{own}") };
    assert_eq!(
        in_one(&["--volumes-from", "first:ro"], "cat /data/f; touch /data/g 2>/dev/null || echo ro"),
        "kept\nro"
    );
    let shared = in_one(
        &["--network", "container:first"],
        "hostname; readlink /proc/self/ns/net; grep -c $(hostname) /etc/hosts",
    );
    assert_eq!(shared, format!("{name}\n{network}\n1"));
    assert_eq!(in_one(&["--pid", "container:first"], "readlink /proc/self/ns/pid"), processes);
    docker.said(&["rm", "-f", "-v", "first"]);
    assert_eq!(docker.said(&["volume", "ls", "-q"]), "", "volumes nobody named go with their containers");

    assert_eq!(
        in_one(
            &["--device", "/dev/kmsg:/dev/mine:r"],
            "stat -c %t:%T /dev/mine; (echo x > /dev/mine) 2>/dev/null || echo read"
        ),
        "1:b\nread"
    );
    assert_eq!(
        in_one(&["--group-add", "tty", "--group-add", "9", "--user", "1000:1000"], "id -G"),
        "1000 5 9"
    );
    assert_eq!(
        in_one(
            &["-h", "box", "--domainname", "example.org"],
            "cat /proc/sys/kernel/domainname; grep -c box.example.org /etc/hosts"
        ),
        "example.org\n1"
    );
    assert_eq!(in_one(&["--dns-option", "ndots:2"], "grep -c ndots:2 /etc/resolv.conf"), "1");
    assert_eq!(in_one(&["--tmpfs", "/t:size=64k"], "grep ' /t ' /proc/mounts | grep -c noexec"), "1");
    assert_eq!(
        in_one(
            &["--user", "1000"],
            "python3 -c 'import socket; socket.socket().bind((\"\", 80)); print(\"open\")'"
        ),
        "open"
    );
    assert_eq!(
        in_one(&["--security-opt", "systempaths=unconfined"], "grep -c ' /proc/' /proc/mounts || true"),
        "0"
    );
    assert_eq!(in_one(&["--ipc", "none"], "ls /dev | grep -c shm || true"), "0");
    let profile = platform.data().join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    assert_eq!(in_one(&["--security-opt", &option], "mkdir /x 2>/dev/null || echo refused"), "refused");
    docker.said(&["run", "--name", "silent", "--log-driver", "none", IMAGE, "echo", "x"]);
    assert!(docker.refused(&["logs", "silent"]).1.contains("does not support reading"));
    docker.said(&["rm", "silent"]);

    docker.said(&["run", "-d", "--name", "grows", "--memory", "64m", IMAGE, "sleep", "1000"]);
    docker.said(&["update", "--memory", "128m", "--memory-swap", "256m", "--pids-limit", "50", "grows"]);
    // It began without a choice of processors: what runs and what comes gets the new one.
    docker.said(&["update", "--cpuset-cpus", "0", "grows"]);
    let on = docker.said(&[
        "exec",
        "grows",
        "grep",
        "-h",
        "Cpus_allowed_list",
        "/proc/1/status",
        "/proc/self/status",
    ]);
    assert_eq!(on, "Cpus_allowed_list:\t0\nCpus_allowed_list:\t0");
    let limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null || \
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max";
    assert_eq!(docker.said(&["exec", "grows", "sh", "-c", limits]), "134217728\n50");
    assert_eq!(docker.said(&["inspect", "-f", "{{.HostConfig.Memory}}", "grows"]), "134217728");
    docker.said(&["rm", "-f", "grows"]);
}

fn health(docker: &Docker, platform: &mut Platform) {
    let check = "test -e /well";
    docker.said(&[
        "run",
        "-d",
        "--name",
        "patient",
        "--health-cmd",
        check,
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        IMAGE,
        "sh",
        "-c",
        "sleep 1000",
    ]);
    let is = |status: &str| {
        until(&format!("it is {status}"), || {
            let now = docker.said(&["inspect", "-f", "{{.State.Health.Status}}", "patient"]);
            if now == status { Ok(()) } else { Err(now) }
        });
        let row = docker.said(&[
            "ps",
            "--filter",
            &format!("health={status}"),
            "--format",
            "{{.Names}} {{.Status}}",
        ]);
        assert!(row.starts_with("patient Up") && row.ends_with(&format!("({status})")), "{row}");
    };
    is("unhealthy");
    docker.said(&["exec", "patient", "touch", "/well"]);
    is("healthy");
    // Nobody checked while the platform was away; it goes on where it was.
    platform.kill();
    platform.restart();
    docker.said(&["exec", "patient", "rm", "/well"]);
    is("unhealthy");
    let last = docker.said(&[
        "inspect",
        "-f",
        "{{(index .State.Health.Log 4).ExitCode}} {{len .State.Health.Log}}",
        "patient",
    ]);
    assert_eq!(last, "1 5");
    docker.said(&["rm", "-f", "patient"]);
}

fn files_as_archives(docker: &Docker, platform: &Platform) {
    let folder = platform.data().join("copied");
    let to = folder.to_str().unwrap();
    docker.said(&[
        "run",
        "-d",
        "--name",
        "tree",
        "-v",
        "kept:/v",
        IMAGE,
        "sh",
        "-c",
        "mkdir /tree; echo a > /tree/a; echo v > /v/v; sleep 1000",
    ]);
    until("the files are there", || match docker.end(&["exec", "tree", "cat", "/v/v"], "") {
        (0, ..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    docker.said(&["cp", "tree:/tree/.", to]);
    assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "a\n");
    let archive = platform.data().join("tree.tar");
    docker.said(&["export", "-o", archive.to_str().unwrap(), "tree"]);
    let output = Command::new("tar").arg("tf").arg(&archive).output().unwrap();
    let names = lossy(&output.stdout);
    assert!(output.status.success(), "{}", lossy(&output.stderr));
    docker.said(&["import", "-c", "CMD [\"cat\", \"/tree/a\"]", archive.to_str().unwrap(), "imported:1"]);
    assert_eq!(docker.end(&["run", "--rm", "imported:1"], "").1, "a\n");
    assert!(names.lines().any(|name| name == "tree/a") && !names.contains("proc/1/"), "{names}");
    docker.said(&["stop", "-t", "0", "tree"]);
    docker.said(&["cp", "tree:/v/v", to]);
    docker.said(&["cp", folder.join("a").to_str().unwrap(), "tree:/v/new"]);
    assert_eq!(docker.end(&["run", "--rm", "-v", "kept:/v", IMAGE, "cat", "/v/new"], "").1, "a\n");
    assert!(
        docker
            .refused(&["cp", "tree:/nosuch", to])
            .1
            .contains("Could not find the file /nosuch in container tree")
    );
    docker.said(&["commit", "-c", "CMD [\"cat\", \"/tree/a\"]", "-c", "ENV A=1", "tree", "changed:1"]);
    assert_eq!(docker.end(&["run", "--rm", "changed:1"], "").1, "a\n");
    docker.said(&["commit", "tree", "whole:1"]);
    assert!(docker.said(&["inspect", "-f", "{{.Config.Cmd}}", "whole:1"]).contains("mkdir /tree"));
    assert!(
        docker.refused(&["commit", "-c", "RUN x", "tree"]).1.contains("run is not a valid change command")
    );
    // SDKs send a configuration that says nothing.
    let output = Command::new("curl")
        .args(["-sf", "-X", "POST", "-H", "Content-Type: application/json", "-d", "{}", "--unix-socket"])
        .arg(platform.data().join("docker.sock"))
        .arg("http://localhost/commit?container=tree&repo=silent&tag=1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", lossy(&output.stderr));
    assert!(docker.said(&["inspect", "-f", "{{.Config.Cmd}}", "silent:1"]).contains("mkdir /tree"));
    // What cannot be changed gets no name.
    docker.refused(&["commit", "-c", "ENV", "tree", "broken:1"]);
    assert_eq!(docker.said(&["images", "-q", "broken"]), "");
    docker.said(&["create", "--name", "fixed", "--read-only", "-v", "kept:/v", IMAGE, "true"]);
    let file = folder.join("a");
    docker.said(&["cp", file.to_str().unwrap(), "fixed:/v/x"]);
    for place in ["fixed:/x", "fixed:/vx"] {
        let (_, said) = docker.refused(&["cp", file.to_str().unwrap(), place]);
        assert!(said.contains("container rootfs is marked read-only"), "{said}");
    }
    docker.said(&["rm", "fixed"]);
    docker.said(&["rm", "-v", "tree"]);
    docker.said(&["volume", "rm", "kept"]);
}

/// Mistakes are told in the words scripts look for, and nothing is left of them.
fn mistakes(docker: &Docker) {
    docker.said(&["run", "-d", "--name", "taken", "-p", "127.0.0.1:0:80", IMAGE, "sleep", "1000"]);
    let port = docker.said(&["port", "taken", "80"]);
    let port = port.rsplit(':').next().unwrap();
    let published = format!("127.0.0.1:{port}:80");
    for (words, said) in [
        (&["--name", "taken"][..], "is already in use by container"),
        (&["--network", "nosuch"], "network nosuch not found"),
        (&["--pid", "container:nosuch"], "No such container: nosuch"),
        (&["-p", &published], "port is already allocated"),
        (&["--stop-signal", "NOPE"], "Invalid signal: NOPE"),
        (&["--memory", "64m", "--memory-swap", "32m"], "Minimum memoryswap limit"),
        (&["--cpus", "4000"], "Range of CPUs"),
        (&["-w", "relative"], "needs to be an absolute path"),
        (&["-v", "/tmp:/"], "destination can't be '/'"),
        (&["--storage-opt", "size=1G"], "StorageOpt"),
    ] {
        let (code, errors) = docker.refused(&[&["run", "--rm"], words, &[IMAGE, "true"]].concat());
        assert!(code == 125 && errors.contains(said), "{words:?}: {code} {errors}");
    }
    let (_, errors) = docker.refused(&["create", "--restart", "always:3", IMAGE]);
    assert!(errors.contains("maximum retry count cannot be used"), "{errors}");
    for (words, code, said) in [
        (&["exec", "-w", "/nosuch", "taken", "pwd"][..], 126, "No such file or directory"),
        (&["exec", "-u", "nosuch", "taken", "id"], 126, "nosuch"),
        (&["ps", "--filter", "status=nosuch"], 1, "status=nosuch"),
        (&["rm", "taken"], 1, "You cannot remove a running container"),
        (&["pause", "nosuch"], 1, "No such container: nosuch"),
    ] {
        let (_, out, errors) = docker.end(words, "");
        assert_eq!(docker.refused(words).0, code, "{words:?}");
        assert!(format!("{out}{errors}").contains(said), "{words:?}: {out}{errors}");
        assert!(!errors.contains("wharf "), "{errors}");
    }
    docker.said(&["pause", "taken"]);
    assert!(
        docker.refused(&["exec", "taken", "true"]).1.contains("is paused, unpause the container before exec")
    );
    docker.said(&["unpause", "taken"]);
    assert_eq!(docker.said(&["ps", "-q", "--no-trunc", "--filter", "name=^/t.*n$"]).len(), 64);
    docker.said(&["rm", "-f", "taken"]);
    assert_eq!(docker.said(&["ps", "-aq"]), "");
}

#[test]
fn forty_commands_are_as_dockers() {
    parity::forty_commands();
}

#[test]
fn compose_and_other_clients_work() {
    let platform = Platform::start();
    let docker = Docker::of(&platform);
    clients::compose(&docker, &platform);
    clients::python(&docker);
    platform.drain();
}

#[test]
fn registries_let_their_users_in() {
    registries::users_over_tls();
    registries::pushed_images_stay();
}

#[test]
fn networks_keep_others_away() {
    let platform = Platform::start();
    let docker = Docker::of(&platform);
    networks::names_and_isolation(&docker);
    networks::no_way_out(&docker);
    networks::over_ipv6(&docker);
    platform.drain();
}

#[test]
fn the_docker_cli_works() {
    let mut platform = Platform::start();
    let docker = Docker::of(&platform);
    codes_and_streams(&docker);
    a_life(&docker);
    what_was_said(&docker);
    files(&docker, &platform);
    images_and_builds(&docker, &platform);
    what_happens_is_told(&docker);
    killed_shims(&docker, &platform);
    restarts(&docker, &mut platform);
    what_is_asked_for_is_there(&docker, &platform);
    files_as_archives(&docker, &platform);
    health(&docker, &mut platform);
    mistakes(&docker);
    platform.drain();
}
