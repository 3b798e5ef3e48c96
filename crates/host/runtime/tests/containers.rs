//! What a program finds in its container.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use support::*;
use wharf_runtime::{ErrorKind, SignalTo, oci};

#[test]
fn exit_codes_and_signals_come_back() {
    let pod = Pod::new();
    assert_eq!(pod.run("ok", "exit 0").0.code, 0);
    assert_eq!(pod.run("seven", "exit 7").0.code, 7);
    pod.container("killed", "while :; do sleep 1; done").start().unwrap();
    pod.sandbox.kill("killed", 9, SignalTo::First).unwrap();
    let exit = pod.sandbox.wait("killed").unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
    pod.container("handled", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done").start().unwrap();
    until("it listens", || pod.said("handled").contains("ready"));
    pod.sandbox.kill("handled", 15, SignalTo::First).unwrap();
    assert_eq!(pod.sandbox.wait("handled").unwrap().code, 5);
}

#[test]
fn programs_that_are_not_there_are_told_from_those_that_cannot_run() {
    let pod = Pod::new();
    let kind = |name: &str, program: &str| {
        let error = pod.container(name, "").options(|o| o.args = vec![program.into()]).start().unwrap_err();
        assert!(error.to_string().contains(program), "{error}");
        error.kind
    };
    assert_eq!(kind("a", "no-such-program"), ErrorKind::NoProgram);
    assert_eq!(kind("b", "/no/such/program"), ErrorKind::NoProgram);
    assert_eq!(kind("c", "/etc/passwd"), ErrorKind::NotExecutable);
    assert_eq!(kind("d", "/proc/self/exe"), ErrorKind::NotExecutable);
    assert_eq!(cgroups_of(&pod.id), Vec::<std::path::PathBuf>::new());
}

#[test]
fn environment_folder_and_user_are_as_asked() {
    let pod = Pod::new();
    let (_, said) = pod
        .container("app", "echo $HOME $COLOR; pwd; id; stat -c %u /dev/stdout; echo reopened >/dev/stdout")
        .user("app")
        .options(|o| {
            o.cwd = "/work/here".into();
            o.env.extend(["COLOR=red".to_owned(), "COLOR=blue".to_owned()]);
        })
        .run();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["/home/app blue", "/work/here"]);
    assert_eq!(lines[2], "uid=1000(app) gid=1001(app) groups=10(wheel),1001(app)");
    assert_eq!(lines[4], "reopened", "{said}");
    let (_, said) = pod.container("numbers", "id -u; id -g").user("4711:4712").run();
    assert_eq!(said, "4711\n4712\n");
    let error = pod.container("nobody", "id").user("nobody").start().unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}

#[test]
fn namespaces_are_its_own() {
    let pod = Pod::new();
    let (_, said) =
        pod.run("own", "hostname; echo $$; cat /proc/net/dev | tail -n +3 | wc -l; cat /proc/self/cgroup");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["pod", "1", "1"], "{said}");
    for line in lines[3..].iter().filter(|line| line.contains(":memory:") || line.contains(":pids:")) {
        assert!(line.ends_with(":/"), "a cgroup outside shows: {line}");
    }
    let (_, said) = pod.run("lo", "cat /sys/class/net/lo/flags");
    assert_eq!(said, "0x9\n", "lo is up");
}

#[test]
fn mounts_are_writable_or_not_as_asked() {
    let pod = Pod::new();
    let shared = pod.folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "from outside").unwrap();
    let script = "cat /data/ro/file /file; touch /data/ro/x 2>/dev/null || echo read-only; echo inside >/data/rw/out; \
                  touch /data/tmp/x && echo tmpfs; echo changed >/etc/passwd; touch /sys/x 2>/dev/null || echo sys";
    let (_, said) = pod
        .container("mounts", script)
        .options(|o| {
            o.mounts = vec![
                bind(&shared, "/data/ro", &["ro"]),
                bind(&shared, "/data/rw", &[]),
                bind(&shared.join("file"), "/file", &["ro"]),
                wharf_runtime::mount("/data/tmp", "tmpfs", "tmpfs", &["nosuid", "size=1m"]).unwrap(),
            ];
        })
        .run();
    assert_eq!(said, "from outsidefrom outsideread-only\ntmpfs\nsys\n");
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "inside\n");
    assert!(
        fs::read_to_string(pod.root.join("etc/passwd")).unwrap().contains("root"),
        "the lower layer was changed"
    );
    let (_, said) = pod.container("ro", "touch /x 2>&1").options(|o| o.readonly_root = true).run();
    assert!(said.contains("Read-only"), "{said}");
}

#[test]
fn what_tells_of_the_machine_is_hidden() {
    let pod = Pod::new();
    let script = "cat /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l; \
                  echo 1 2>/dev/null >/proc/sys/kernel/panic || echo fixed; echo b 2>/dev/null >/proc/sysrq-trigger || echo fixed; \
                  echo 99 2>/dev/null >/sys/fs/cgroup/pids/pids.max || echo fixed; cat /sys/fs/cgroup/pids/pids.current";
    let (_, said) = pod.run("hidden", script);
    assert!(said.starts_with("0\n0\nfixed\nfixed\nfixed\n"), "{said}");
}

fn status_field(text: &str, key: &str) -> String {
    let line =
        text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn privileges_are_the_default_ones() {
    let pod = Pod::new();
    let (_, text) = pod.run("root", "cat /proc/self/status");
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(status_field(&text, set), "00000000a80425fb", "{set}");
    }
    assert_eq!(status_field(&text, "CapInh:"), "0000000000000000");
    assert_eq!(status_field(&text, "Seccomp:"), "2");
    assert_eq!(status_field(&text, "NoNewPrivs:"), "0");
    assert_eq!(status_field(&text, "SigBlk:"), "0000000000000000");
    // busybox' shell ignores SIGQUIT itself.
    assert_eq!(status_field(&text, "SigIgn:"), "0000000000000004");
    let (_, text) = pod
        .container("user", "cat /proc/self/status")
        .user("app")
        .options(|o| o.no_new_privileges = true)
        .run();
    assert_eq!(status_field(&text, "CapEff:"), "0000000000000000");
    assert_eq!(status_field(&text, "CapPrm:"), "0000000000000000");
    assert_eq!(status_field(&text, "NoNewPrivs:"), "1");
    let (_, text) = pod
        .container("fewer", "cat /proc/self/status")
        .options(|o| {
            o.drop_capabilities = vec!["ALL".into()];
            o.add_capabilities = vec!["NET_BIND_SERVICE".into()];
        })
        .run();
    assert_eq!(status_field(&text, "CapEff:"), "0000000000000400");
}

#[test]
fn the_filter_refuses_what_administers_the_machine() {
    let pod = Pod::new();
    let with = |name: &str, capabilities: &[&str], script: &str| {
        let add = capabilities.iter().map(|one| (*one).to_owned()).collect();
        pod.container(name, script).options(move |o| o.add_capabilities = add).run()
    };
    let refused = |said: &str| {
        said.matches("Operation not permitted").count() + said.matches("permission denied").count()
    };
    let make = "mount -t tmpfs none /tmp 2>&1; unshare -m true 2>&1";
    // Network administration opens none of it.
    let (exit, said) = with("filtered", &["NET_ADMIN"], make);
    assert_ne!(exit.code, 0);
    assert_eq!(refused(&said), 2, "{said}");
    // Who may administer the machine may use what that takes, as docker's and containerd's may.
    let (exit, said) = with("admin", &["SYS_ADMIN"], make);
    assert_eq!((exit.code, said.as_str()), (0, ""));
    // Some calls nobody is to have.
    let leave = "mkdir /a; mount -t tmpfs none /a; mkdir /a/b; busybox pivot_root /a /a/b 2>&1";
    let all = |o: &mut wharf_runtime::SpecOptions| o.add_capabilities = vec!["ALL".into()];
    let (exit, said) = with("all", &["ALL"], leave);
    assert_ne!(exit.code, 0);
    assert_eq!(refused(&said), 1, "{said}");
    let mut open = pod.container("open", "mount -t tmpfs none /tmp && echo mounted").options(all);
    open.seccomp = wharf_runtime::Seccomp::Unconfined;
    assert_eq!(open.run().1, "mounted\n");
}

#[test]
fn no_descriptor_of_the_shim_is_left_open() {
    let pod = Pod::new();
    // 3 is the folder `ls` itself reads.
    let (_, said) = pod.run("fds", "cd /proc/self/fd; exec ls");
    assert_eq!(said, "0\n1\n2\n3\n");
    for path in ["/proc/self/fd/3", "/proc/self/fd/7", "/proc/self/fd/8/../../.."] {
        let name = path.replace('/', "-").trim_start_matches('-').replace("..", "up");
        let error = pod.container(&name, "pwd; ls").options(|o| o.cwd = path.into()).run_to_error();
        assert!(error.contains("working directory"), "{path}: {error}");
    }
}

#[test]
fn links_in_the_image_lead_nowhere_outside() {
    let pod = Pod::new();
    let victim = pod.folder.path().join("victim");
    fs::create_dir(&victim).unwrap();
    symlink(&victim, pod.root.join("absolute")).unwrap();
    symlink("../../../../../../../../../../tmp", pod.root.join("relative")).unwrap();
    symlink("/no/where", pod.root.join("dangling")).unwrap();
    let source = pod.folder.path().join("source");
    fs::create_dir(&source).unwrap();
    let start = |name: &str, destination: &str| {
        pod.container(name, "true").options(|o| o.mounts = vec![bind(&source, destination, &[])]).start()
    };
    // Followed within the root, where there is no such folder: refused, or made inside.
    let _ = start("absolute", "/absolute/made");
    start("relative", "/relative/made").unwrap();
    assert!(start("dangling", "/dangling").is_err());
    assert!(start("up", "/tmp/../../made").is_err());
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    assert!(!Path::new("/tmp/made").exists());
    fs::remove_dir(pod.root.join("proc")).unwrap();
    symlink("tmp", pod.root.join("proc")).unwrap();
    let error = start("proc", "/mnt").unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
}

#[test]
fn limits_hold() {
    let pod = Pod::new();
    let (exit, _) = pod
        .container("hungry", "tail /dev/zero")
        .options(|o| {
            let memory = oci::LinuxMemoryBuilder::default().limit(16 << 20).build().unwrap();
            o.resources.set_memory(Some(memory));
        })
        .run();
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.code, 137);
    let (_, said) = pod
        .container("limits", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/memory/memory.limit_in_bytes")
        .options(|o| {
            o.resources.set_pids(Some(oci::LinuxPidsBuilder::default().limit(20).build().unwrap()));
            o.resources.set_cpu(Some(oci::LinuxCpuBuilder::default().quota(50_000).period(100_000u64).build().unwrap()));
            o.resources.set_memory(Some(oci::LinuxMemoryBuilder::default().limit(64 << 20).build().unwrap()));
        })
        .run();
    assert_eq!(said, "20\n50000\n67108864\n");
}

#[test]
fn devices_outside_the_list_stay_closed() {
    let pod = Pod::new();
    let script = "mknod /tmp/mem c 1 1 && echo made; cat /tmp/mem 2>&1 | head -c 100; head -c 4 /dev/zero | wc -c; echo x >/dev/null && echo null";
    let (_, said) = pod.run("devices", script);
    assert!(said.contains("made\n") && said.contains("Operation not permitted"), "{said}");
    assert!(said.ends_with("4\nnull\n"), "{said}");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let pod = Pod::new();
    let refused = |name: &str, change: &dyn Fn(&mut wharf_runtime::SpecOptions)| {
        pod.container(name, "true").options(|o| change(o)).start().unwrap_err().to_string()
    };
    let error =
        refused("fs", &|o| o.mounts = vec![wharf_runtime::mount("/x", "ext4", "/dev/x", &[]).unwrap()]);
    assert!(error.contains("ext4"), "{error}");
    let error = refused("sysctl", &|o| drop(o.sysctls.insert("kernel.panic".into(), "1".into())));
    assert!(error.contains("kernel.panic"), "{error}");
    let error = refused("cap", &|o| o.add_capabilities = vec!["FLY".into()]);
    assert!(error.contains("FLY"), "{error}");
    let error = refused("layer", &|o| o.mounts = vec![bind(Path::new("/no/such/source"), "/x", &[])]);
    assert!(error.contains("/no/such/source"), "{error}");
    assert_eq!(cgroups_of(&pod.id), Vec::<std::path::PathBuf>::new());
    assert!(pod.sandbox.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(pod.dir().join("containers")).unwrap().count(), 0);
}

#[test]
fn users_of_a_pod_are_mapped_with_their_layers() {
    let pod = Pod::new();
    let map = |spec: &mut serde_json::Value| {
        let mappings = serde_json::json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
        spec["linux"]["uidMappings"] = mappings.clone();
        spec["linux"]["gidMappings"] = mappings;
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(serde_json::json!({"type": "user"}));
    };
    let script = "id -u; stat -c %u /etc/passwd; touch /made && stat -c %u /made; cat /sys/class/net/lo/flags; \
                  echo x >/dev/null && echo null; while :; do sleep 0.01; done";
    pod.container("main", script).spec(map).start().unwrap();
    until("it has said all", || pod.said("main").ends_with("null\n"));
    assert_eq!(pod.said("main"), "0\n0\n0\n0x9\nnull\n");
    let pid = pod.sandbox.status("main").unwrap().pid.unwrap();
    assert_eq!(fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 100_000);
    let made = fs::metadata(pod.dir().join("containers/main/upper/made")).unwrap();
    assert_eq!(made.uid(), 100_000);
    let (_, said) = pod.exec("main", &shell("cat /proc/self/uid_map; id -u"));
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "65536", "0"]);
}

#[test]
fn a_filter_and_hooks_of_the_specification_count_in_pods_too() {
    let pod = Pod::new();
    let log = pod.folder.path().join("hooks");
    let hook = |when: &str| {
        let script = format!("read -r state; echo {when} >>{}", log.display());
        serde_json::json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let hooks = serde_json::json!({ "prestart": hook("first"), "poststart": hook("running"), "poststop": hook("last") });
    pod.container("main", "mkdir /x 2>/dev/null || echo refused; mount 2>/dev/null >&2 || true")
        .spec(move |spec| {
            spec["hooks"] = hooks;
            spec["linux"]["seccomp"] = serde_json::json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
            });
        })
        .start()
        .unwrap();
    pod.sandbox.wait("main").unwrap();
    assert_eq!(pod.said("main"), "refused\n");
    assert_eq!(fs::read_to_string(&log).unwrap(), "first\nrunning\n");
    pod.sandbox.delete("main").unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "first\nrunning\nlast\n");
}
