//! The OCI command line: what podman, containerd and docker ask of a runtime.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixListener},
    },
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use support::{bundle::Bundle, cgroups_of, until};

#[test]
fn a_container_lives_by_commands() {
    let bundle = Bundle::new("echo ran >/out; exit 3");
    bundle.create();
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.folder.path().to_str().unwrap());
    let pid = state["pid"].as_i64().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    assert!(!bundle.root().join("out").exists(), "the program runs before start");
    assert!(bundle.error(&["create"]).contains("already"));
    assert!(bundle.error(&["delete"]).contains("created"));
    bundle.ok(&["start"]);
    bundle.until_stopped();
    assert_eq!(fs::read_to_string(bundle.root().join("out")).unwrap(), "ran\n");
    assert!(bundle.error(&["start"]).contains("stopped"));
    assert!(bundle.error(&["kill", "TERM"]).contains("not running"));
    bundle.ok(&["delete"]);
    assert!(bundle.error(&["state"]).contains("does not exist"));
    assert!(bundle.error(&["delete"]).contains("does not exist"));
    bundle.ok(&["delete", "--force"]);
}

#[test]
fn what_a_killed_create_leaves_can_be_deleted() {
    let bundle = Bundle::new("true");
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    fs::remove_file(bundle.folder.path().join("state").join(&bundle.id).join("state.json")).unwrap();
    assert!(bundle.error(&["delete"]).contains("does not exist"));
    bundle.ok(&["delete", "--force"]);
    assert!(cgroups_of(&bundle.id).is_empty());
    until("its process has ended", || fs::read_link(format!("/proc/{pid}/cwd")).is_err());
    bundle.create();
}

#[test]
fn run_gives_the_exit_code_and_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = Bundle::new("echo out; echo err >&2; exit 7");
    assert_eq!(bundle.run(), (7, "out\nerr\n".into()));
    assert_eq!(bundle.ok(&["list", "--format=json"]).trim(), "[]");
    assert!(cgroups_of(&bundle.id).is_empty());
    assert!(!mounts().contains(bundle.folder.path().to_str().unwrap()));
    let missing = Bundle::new("").set("/process/args", json!(["no-such-program"]));
    let (code, said) = missing.run();
    assert!(code == 1 && said.contains("executable file not found in $PATH"), "{said}");
    assert!(cgroups_of(&missing.id).is_empty());
}

#[test]
fn signals_reach_the_program_and_a_created_one_can_be_killed() {
    let bundle = Bundle::new("trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.01; done");
    let mut run = bundle.command(&["run", "--bundle"]);
    let mut run = run.arg(bundle.folder.path()).arg(&bundle.id).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().unwrap(), "ready");
    let pid = rustix::process::Pid::from_raw(run.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap(), "got");
    assert_eq!(run.wait().unwrap().code(), Some(5));
    let created = Bundle::new("true");
    created.create();
    created.ok(&["kill", "KILL"]);
    created.until_stopped();
    created.ok(&["delete"]);
    assert!(created.error(&["kill", "NOSUCH"]).contains("does not exist"));
}

#[test]
fn exec_has_its_own_user_folder_environment_and_powers() {
    let bundle = Bundle::new("while :; do sleep 0.01; done");
    bundle.create();
    bundle.ok(&["start"]);
    let exec = |args: &[&str], script: &str| {
        let mut command = bundle.command(&["exec"]);
        let output = command.args(args).arg(&bundle.id).args(["/bin/sh", "-c", script]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let args = ["--user", "1000:5", "-g", "9", "--cwd", "/etc", "-e", "A=b", "--no-new-privs"];
    let (code, said) = exec(&args, "id -u; id -G; pwd; echo $A; grep NoNewPrivs /proc/self/status; exit 4");
    assert_eq!((code, said.as_str()), (4, "1000\n5 9\n/etc\nb\nNoNewPrivs:\t1\n"));
    let caps = "grep CapEff /proc/self/status";
    let before = u64::from_str_radix(exec(&[], caps).1.split_whitespace().nth(1).unwrap(), 16).unwrap();
    let after =
        u64::from_str_radix(exec(&["--cap", "CAP_SYS_TIME"], caps).1.split_whitespace().nth(1).unwrap(), 16);
    assert_eq!(after.unwrap() & !before, 1 << 25);
    // As containerd asks.
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["/bin/sh", "-c", "echo $$ >/pid; echo detached; exec sleep 1000"]);
    process["user"] = json!({"uid": 0, "gid": 0});
    let (file, pid_file) = (bundle.folder.path().join("process.json"), bundle.folder.path().join("pid"));
    fs::write(&file, process.to_string()).unwrap();
    let mut command = bundle.command(&["exec", "--detach", "--process"]);
    command.arg(&file).arg("--pid-file").arg(&pid_file).arg(&bundle.id).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "--format=json"])).unwrap();
    assert!(pids.contains(&pid), "{pids:?}");
    assert!(bundle.error(&["exec", "no-such-program"]).contains("not found"));
    bundle.ok(&["pause"]);
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.error(&["exec", "true"]).contains("paused"));
    bundle.ok(&["resume"]);
    assert_eq!(bundle.status(), "running");
    bundle.ok(&["delete", "--force"]);
    assert!(!Path::new(&format!("/proc/{pid}/cwd")).exists());
}

#[test]
fn hooks_run_in_their_places_and_are_told_the_state() {
    let bundle = Bundle::new("echo program >>/log");
    let log = bundle.root().join("log");
    let hook = |when: &str, log: &str| {
        // A state is one line.
        let script = format!("read -r s; echo \"{when} $(readlink /proc/self/ns/mnt) $s\" >>{log}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"], "timeout": 20}])
    };
    let outside = log.to_str().unwrap();
    let mut hooks = json!({ "startContainer": hook("startContainer", "/log") });
    for when in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        hooks[when] = hook(when, outside);
    }
    let bundle = bundle.set("/hooks", hooks).set("/annotations", json!({"key": "value"}));
    bundle.create();
    let pid = bundle.state()["pid"].clone();
    bundle.ok(&["start"]);
    bundle.until_stopped();
    bundle.ok(&["delete"]);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let order: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let early = ["prestart", "createRuntime", "createContainer", "startContainer"];
    assert_eq!(order[..4], early, "{text}");
    assert!(order.contains(&"program") && order.contains(&"poststart"));
    assert_eq!(order.last(), Some(&"poststop"));
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    for line in lines.iter().filter(|line| **line != "program") {
        let (when, rest) = line.split_once(' ').unwrap();
        let (namespace, state) = rest.split_once(' ').unwrap();
        let state: Value = serde_json::from_str(state).unwrap();
        let inside = matches!(when, "createContainer" | "startContainer");
        assert_eq!(namespace != own.to_str().unwrap(), inside, "{line}");
        assert_eq!(state["id"], bundle.id.as_str());
        assert_eq!(state["annotations"]["key"], "value");
        let status = match when {
            "prestart" | "startContainer" => "created",
            "poststart" => "running",
            "poststop" => "stopped",
            _ => "creating",
        };
        assert_eq!(state["status"], status, "{line}");
        assert!(inside || when == "poststop" || state["pid"] == pid, "{line}");
    }
}

#[test]
fn a_hook_that_fails_or_hangs_ends_the_container() {
    for (when, hook, why) in [
        (
            "prestart",
            json!({"path": "/bin/sh", "args": ["sh", "-c", "echo for a reason >&2; exit 9"]}),
            "for a reason",
        ),
        ("createContainer", json!({"path": "/bin/false"}), "createContainer"),
        (
            "createRuntime",
            json!({"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}),
            "longer than 1 s",
        ),
        ("createRuntime", json!({"path": "bin/true"}), "absolute"),
        ("startContainer", json!({"path": "/bin/false"}), "startContainer"),
        ("poststart", json!({"path": "/bin/false"}), "poststart"),
    ] {
        let bundle = Bundle::new("sleep 1000").set("/hooks", json!({ when: [hook] }));
        let (code, said) = bundle.run();
        assert!(code == 1 && said.contains(why), "{when}: {said}");
        assert!(bundle.error(&["state"]).contains("does not exist"), "{when}");
        assert!(cgroups_of(&bundle.id).is_empty(), "{when}");
    }
}

#[test]
fn namespaces_are_new_shared_or_joined() {
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let kinds = ["cgroup", "ipc", "net", "pid", "uts"];
    let script = "for kind in cgroup ipc net pid uts time; do readlink /proc/self/ns/$kind; done";
    let holder =
        Bundle::new("while :; do sleep 0.01; done").set("/linux/namespaces/-", json!({"type": "time"}));
    let holder = holder.set("/linux/timeOffsets", json!({"boottime": {"secs": 100_000_000}}));
    holder.create();
    holder.ok(&["start"]);
    let pid = holder.state()["pid"].as_i64().unwrap();
    let path = |kind: &str| format!("/proc/{pid}/ns/{kind}");
    let theirs: Vec<String> = kinds
        .iter()
        .chain(&["time"])
        .map(|kind| fs::read_link(path(kind)).unwrap().display().to_string())
        .collect();
    for (kind, theirs) in kinds.iter().zip(&theirs) {
        assert_ne!(own(kind), *theirs, "{kind}");
    }
    let uptime: f64 = holder.ok(&["exec", "cat", "/proc/uptime"]).split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 100_000_000.0, "{uptime}");
    let joined = Bundle::new(script)
        .join("cgroup", &path("cgroup"))
        .join("ipc", &path("ipc"))
        .join("network", &path("net"))
        .join("pid", &path("pid"))
        .join("uts", &path("uts"))
        .join("time", &path("time"));
    let (code, said) = joined.run();
    assert_eq!((code, said.lines().map(str::to_owned).collect::<Vec<_>>()), (0, theirs));
    let shared = Bundle::new(script);
    let shared = kinds
        .iter()
        .fold(shared, |bundle, kind| bundle.without_namespace(if *kind == "net" { "network" } else { kind }));
    let (code, said) = shared.run();
    assert_eq!(code, 0, "{said}");
    for (kind, line) in kinds.iter().zip(said.lines()) {
        assert_eq!(own(kind), line, "{kind}");
    }
    let wrong = Bundle::new("true").join("ipc", &path("uts"));
    assert!(wrong.run().1.contains("not of type"));
}

#[test]
fn users_are_mapped_and_exec_joins_them() {
    let bundle = Bundle::new(
        "id -u; cat /proc/self/uid_map; touch /mine; echo x >/dev/null && echo null; \
         cat /proc/sys/net/ipv4/ip_forward; mkdir /tmp/m && mount -t tmpfs x /tmp/m 2>&1; while :; do sleep 0.01; done",
    )
    .map_users()
    .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
    .set("/process/oomScoreAdj", json!(500));
    let output = bundle.create();
    bundle.ok(&["start"]);
    until("it has said all", || fs::read_to_string(&output).unwrap().contains("mount:"));
    let said = fs::read_to_string(&output).unwrap();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(words[..6], ["0", "0", "100000", "65536", "null", "1"], "{said}");
    let made = fs::metadata(bundle.root().join("mine")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_000, 100_000));
    let pid = bundle.state()["pid"].as_i64().unwrap();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 100_000);
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "500");
    let said = bundle.ok(&["exec", "/bin/sh", "-c", "id -u; cat /proc/self/uid_map"]);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "100000", "65536"]);
    // A second container in the first one's user namespace.
    let path = format!("/proc/{pid}/ns/user");
    let second = Bundle::new("cat /proc/self/uid_map; touch /mine").map_users().join("user", &path);
    let (code, said) = second.run();
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536"]);
    assert_eq!(fs::metadata(second.root().join("mine")).unwrap().uid(), 100_000);
}

#[test]
fn owners_of_an_id_mapped_mount_are_translated() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "x").unwrap();
    std::os::unix::fs::chown(folder.path().join("file"), Some(1000), Some(1000)).unwrap();
    let mappings =
        json!([{"containerID": 1000, "hostID": 2000, "size": 1}, {"containerID": 0, "hostID": 0, "size": 1}]);
    let script = "stat -c %u:%g /data/file; touch /data/new";
    let bundle = Bundle::new(script).mount("/data", "bind", folder.path().to_str().unwrap(), &["rbind"]);
    let last = bundle.spec["mounts"].as_array().unwrap().len() - 1;
    let bundle = bundle
        .set(&format!("/mounts/{last}/uidMappings"), mappings.clone())
        .set(&format!("/mounts/{last}/gidMappings"), mappings);
    assert_eq!(bundle.run(), (0, "2000:2000\n".into()));
    // The container's own mapping, so that its root is root on the volume.
    let mapped = Bundle::new(script).map_users().mount(
        "/data",
        "bind",
        folder.path().to_str().unwrap(),
        &["bind", "idmap"],
    );
    assert_eq!(mapped.run(), (0, "1000:1000\n".into()));
    assert_eq!(fs::metadata(folder.path().join("new")).unwrap().uid(), 0);
}

#[test]
fn the_filter_is_the_specifications() {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["unlink", "unlinkat"], "action": "SCMP_ACT_KILL_PROCESS",
             "args": [{"index": 2, "value": 0x200, "op": "SCMP_CMP_EQ"}]},
            {"names": ["rmdir"], "action": "SCMP_ACT_KILL_PROCESS"},
        ],
    });
    let script = "mkdir /x 2>&1; rmdir /etc; echo $?; grep Seccomp: /proc/self/status";
    let expected = "mkdir: can't create directory '/x': No space left on device\n159\nSeccomp:\t2\n";
    for no_new_privileges in [false, true] {
        let bundle = Bundle::new(script)
            .set("/linux/seccomp", filter.clone())
            .set("/process/noNewPrivileges", json!(no_new_privileges));
        let (_, said) = bundle.run();
        assert!(said.ends_with(expected) || said.replace("Bad system call\n", "") == expected, "{said}");
    }
    let user = Bundle::new(script).set("/linux/seccomp", filter).set("/process/user/uid", json!(1000));
    assert!(user.run().1.contains("No space left"));
    let notify = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    let (_, said) = Bundle::new("true").set("/linux/seccomp", notify).run();
    assert!(said.contains("SCMP_ACT_NOTIFY"), "{said}");
}

#[test]
fn an_agent_decides_about_system_calls() {
    let bundle = Bundle::new("mkdir /x 2>&1; mkdir /y 2>&1; echo over; while :; do sleep 0.01; done");
    let path = bundle.folder.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let bundle = bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "mine",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }),
    );
    let output = bundle.create();
    bundle.ok(&["start"]);
    let (socket, _) = listener.accept().unwrap();
    let mut text = [0; 4096];
    let (filter, length) = receive_with(&socket.into(), &mut text);
    let state: Value = serde_json::from_slice(&text[..length]).unwrap();
    assert_eq!((&state["fds"], &state["metadata"]), (&json!(["seccompFd"]), &json!("mine")));
    assert_eq!((&state["pid"], &state["state"]["id"]), (&bundle.state()["pid"], &json!(bundle.id)));
    for _ in 0..2 {
        support::refuse_one_call(&filter, libc::EDOM);
    }
    until("it has said all", || fs::read_to_string(&output).unwrap().contains("over"));
    let said = fs::read_to_string(&output).unwrap();
    assert_eq!(said.matches("argument out of domain").count(), 2, "{said}");
    // An agent that is not there: the program does not run without it.
    drop(listener);
    let alone = Bundle::new("touch /ran").set("/linux/seccomp", bundle.spec["linux"]["seccomp"].clone());
    let (code, said) = alone.run();
    assert!(code == 1 && said.contains("agent"), "{said}");
    assert!(!alone.root().join("ran").exists());
}

#[test]
fn a_terminal_is_handed_over() {
    let bundle = Bundle::new("stty size; tty; test -c /dev/console && echo console; exit 6")
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 11, "width": 22}));
    assert!(bundle.error(&["create"]).contains("--console-socket"));
    let path = bundle.folder.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    let mut create = bundle.command(&["create", "--bundle"]);
    create.arg(bundle.folder.path()).arg("--console-socket").arg(&path).arg(&bundle.id);
    assert!(create.status().unwrap().success());
    let (socket, _) = listener.accept().unwrap();
    let mut terminal = fs::File::from(receive(&socket.into()));
    bundle.ok(&["start"]);
    let mut said = Vec::new();
    // Its last user's end is an error to whoever reads.
    let _ = terminal.read_to_end(&mut said);
    let said = String::from_utf8(said).unwrap();
    assert_eq!(said.lines().collect::<Vec<_>>(), ["11 22", "/dev/pts/0", "console"], "{said}");
}

fn receive(socket: &OwnedFd) -> OwnedFd {
    receive_with(socket, &mut [0; 64]).0
}

fn receive_with(socket: &OwnedFd, buffer: &mut [u8]) -> (OwnedFd, usize) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [std::io::IoSliceMut::new(buffer)];
    let length = recvmsg(socket, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (fd.unwrap(), length)
}

#[test]
fn mount_options_do_what_they_say() {
    let bundle = Bundle::new(
        "touch /a/x 2>/dev/null || echo a; touch /a/sub/x && echo sub; touch /b/sub/x 2>/dev/null || echo b; \
         cat /copied/file; touch /copied/y && echo copied; stat -c %a /copied/file; \
         ln -s /etc /a/sub/link; ls /c/sub/link/ >/dev/null 2>&1 || echo c; grep ' /shared ' /proc/self/mountinfo",
    );
    let source = bundle.folder.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::create_dir_all(bundle.root().join("copied")).unwrap();
    fs::write(bundle.root().join("copied/file"), "from the image\n").unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "none"]).arg(source.join("sub")).status().unwrap();
    assert!(mounted.success());
    let name = source.to_str().unwrap();
    let bundle = bundle
        .mount("/a", "bind", name, &["rbind", "ro"])
        .mount("/b", "bind", name, &["rbind", "rro"])
        .mount("/c", "bind", name, &["rbind", "rnosymfollow"])
        .mount("/copied", "tmpfs", "tmpfs", &["tmpcopyup", "mode=755"])
        .mount("/shared", "tmpfs", "tmpfs", &["shared"]);
    let (code, said) = bundle.run();
    let _ = Command::new("umount").arg(source.join("sub")).status();
    assert!(said.starts_with("a\nsub\nb\nfrom the image\ncopied\n644\nc\n"), "{code} {said}");
    assert!(said.contains("shared:"), "{said}");
    assert!(!bundle.root().join("copied/y").exists());
}

#[test]
fn the_process_is_scheduled_and_limited_as_asked() {
    let bundle = Bundle::new("uname -m; cat /proc/self/stat; cat /proc/self/oom_score_adj; ulimit -n; grep Cpus_allowed_list /proc/self/status; umask")
        .set("/linux/personality", json!({"domain": "LINUX32"}))
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}))
        .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}))
        .set("/process/oomScoreAdj", json!(300))
        .set("/process/user/umask", json!(0o27))
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]));
    let (code, said) = bundle.run();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(code, 0, "{said}");
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    assert_eq!((lines[0], lines[1].split(' ').nth(18)), (machine, Some("7")), "{said}");
    assert_eq!(lines[2..4], ["300", "64"], "{said}");
    assert_eq!(lines[5], "0027");
    let twice =
        json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    assert!(Bundle::new("true").set("/process/rlimits", twice).run().1.contains("twice"));
}

#[test]
fn limits_are_set_changed_and_the_kernels() {
    let bundle = Bundle::new("while :; do sleep 0.01; done").set(
        "/linux/resources",
        json!({
            "memory": {"limit": 64 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 512, "quota": 40_000, "period": 80_000, "burst": 10_000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 40},
        }),
    );
    bundle.create();
    let read = |v1: &str, v2: &str| {
        let path =
            |name: &str, folder: &str| format!("/sys/fs/cgroup/{folder}/wharf-test/{}/{name}", bundle.id);
        let (folder, _) = v1.split_once('.').unwrap();
        let text =
            fs::read_to_string(path(v1, folder)).or_else(|_| fs::read_to_string(path(v2, ""))).unwrap();
        text.trim().to_owned()
    };
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
    assert_eq!(read("pids.max", "pids.max"), "40");
    assert_eq!(read("cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(read("cpu.cfs_burst_us", "cpu.max.burst"), "10000");
    bundle.ok(&["update", "--memory=33554432", "--pids-limit=50"]);
    assert_eq!(read("memory.limit_in_bytes", "memory.max"), (32 << 20).to_string());
    assert_eq!(read("pids.max", "pids.max"), "50");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let refused = |path: &str, value: Value, why: &str| {
        let (code, said) = Bundle::new("true").set(path, value).run();
        assert!(code == 1 && said.contains(why), "{path}: {said}");
    };
    refused("/process/apparmorProfile", json!("x"), "apparmorProfile");
    refused("/process/selinuxLabel", json!("x"), "selinuxLabel");
    refused("/linux/mountLabel", json!("x"), "mountLabel");
    refused("/linux/intelRdt", json!({"closID": "x"}), "intelRdt");
    refused("/linux/cgroupsPath", json!("a.slice:b:c"), "systemd");
    refused("/linux/rootfsPropagation", json!("sideways"), "sideways");
    refused("/linux/sysctl", json!({"kernel.panic": "1"}), "kernel.panic");
    refused("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "time");
    refused("/process/cwd", json!("tmp"), "absolute");
    refused("/ociVersion", json!("2.0.0"), "version");
    refused("/root/path", json!("missing"), "missing");
    let shared = Bundle::new("true").without_namespace("uts").set("/hostname", json!("mine"));
    assert!(shared.run().1.contains("uts"));
    let shared = Bundle::new("true")
        .without_namespace("network")
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert!(shared.run().1.contains("shares that namespace"));
    let shared = Bundle::new("true").without_namespace("mount");
    assert!(shared.run().1.contains("mount"));
}
