//! Ways out of containers that others have found, tried on this runtime.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::symlink},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use support::{bundle::Bundle, *};

/// CVE-2024-21626: a descriptor of the runtime or of its caller, or a working directory by way of one.
#[test]
fn no_descriptor_of_a_caller_reaches_the_container() {
    let leaked = fs::File::open("/").unwrap();
    let flags = rustix::io::FdFlags::empty();
    let held = rustix::io::fcntl_dupfd_cloexec(&leaked, 20).unwrap();
    rustix::io::fcntl_setfd(&held, flags).unwrap();
    let bundle = Bundle::new("cd /proc/self/fd; exec ls");
    // 3 is the folder `ls` itself reads.
    assert_eq!(bundle.run(), (0, "0\n1\n2\n3\n".into()));
    for number in 3..32.max(held.as_raw_fd() + 1) {
        let cwd = format!("/proc/self/fd/{number}");
        let (code, said) = Bundle::new("pwd; ls ../../..").set("/process/cwd", json!(cwd)).run();
        assert!(code == 1 && said.contains("working directory"), "{cwd}: {said}");
    }
    let bundle = Bundle::new("while :; do sleep 0.01; done");
    bundle.create();
    bundle.ok(&["start"]);
    assert_eq!(bundle.ok(&["exec", "/bin/sh", "-c", "cd /proc/self/fd; exec ls"]), "0\n1\n2\n3\n");
    let cwd = format!("/proc/self/fd/{}", held.as_raw_fd());
    let mut exec = bundle.command(&["exec", "--cwd", &cwd, &bundle.id, "ls"]);
    assert!(!exec.output().unwrap().status.success());
    // What a caller passes on by purpose arrives, and no more.
    let script =
        "exec \"$0\" --root \"$1\" run --preserve-fds 1 --bundle \"$2\" \"$3\" 3</dev/null 4</etc/passwd";
    let bundle = Bundle::new("cd /proc/self/fd; exec ls");
    bundle.command(&["list"]);
    let output = Command::new("/bin/sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_wharf-oci")])
        .arg(bundle.folder.path().join("state"))
        .arg(bundle.folder.path())
        .arg(&bundle.id)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n2\n3\n4\n", "{output:?}");
}

/// CVE-2019-5736: the runtime's own executable, through `/proc/PID/exe`.
#[test]
fn the_executable_behind_a_container_cannot_be_written() {
    let bundle = Bundle::new("true");
    bundle.create();
    let pod = Pod::new();
    pod.container("main", "true").create().unwrap();
    let waiting = [
        bundle.state()["pid"].as_i64().unwrap(),
        pod.sandbox.status("main").unwrap().pid.unwrap().into(),
        pod.sandbox.pid().into(),
    ];
    for pid in waiting {
        // While it runs nobody can write to it anyway; what counts is the mount it was started from.
        let exe = fs::File::open(format!("/proc/{pid}/exe")).unwrap();
        let flags = rustix::fs::fstatvfs(&exe).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "of {pid}");
    }
    // By a script, whose interpreter the kernel starts without asking the runtime: what runs is the sealed copy.
    let bundle = Bundle::new("").set("/process/args", json!(["/evil"]));
    fs::write(bundle.root().join("evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(bundle.root().join("evil"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let (code, _) = bundle.run();
    assert_ne!(code, 0);
}

/// CVE-2025-31133: hidden paths are covered by what the image calls its null device.
#[test]
fn hidden_paths_are_covered_by_the_machines_null_device() {
    let bundle = Bundle::new("cat /proc/keys /proc/timer_list; stat -c %t:%T /proc/keys; cat /victim");
    fs::write(bundle.root().join("victim"), "untouched\n").unwrap();
    let dev = bundle.root().join("dev");
    // Nothing is mounted at /dev, so that what the image has there stands.
    let mut bundle = bundle;
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    let (code, said) = bundle.run();
    assert!(code == 1 && said.contains("something else there"), "{said}");
    // In a user namespace the machine's node is put there: not through the link.
    let mapped = Bundle::new("true").map_users();
    let mut mapped = mapped;
    mapped.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/victim", mapped.root().join("dev/null")).unwrap();
    fs::write(mapped.root().join("victim"), "untouched\n").unwrap();
    let (code, said) = mapped.run();
    assert!(code == 1 && said.contains("/dev/null"), "{said}");
    // A hidden path may lead over a link of the image, in the image.
    let mut linked = Bundle::new("cat /link/secret; ls -A /link/folder; cat /real/open");
    fs::create_dir_all(linked.root().join("real/folder")).unwrap();
    for name in ["secret", "open", "folder/file"] {
        fs::write(linked.root().join("real").join(name), format!("{name}\n")).unwrap();
    }
    symlink("/real", linked.root().join("link")).unwrap();
    linked.spec["linux"]["maskedPaths"] = json!(["/link/secret", "/link/folder"]);
    assert_eq!(linked.run(), (0, "open\n".to_owned()));
    assert_eq!(fs::read_to_string(mapped.root().join("victim")).unwrap(), "untouched\n");
    // A volume at /dev whose null device is a link to something that tells: the cover is the machine's all the same.
    let shared = tempfile::tempdir().unwrap();
    symlink("/etc/passwd", shared.path().join("null")).unwrap();
    let volume = Bundle::new("/bin/cat /proc/keys /proc/timer_list; stat -c %t:%T /proc/keys");
    let mut volume = volume;
    volume.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    let volume = volume.mount("/dev", "bind", shared.path().to_str().unwrap(), &["rbind"]);
    let output = volume.run();
    assert_eq!(output, (0, "1:3\n".into()));
}

/// CVE-2025-52565: the terminal is put over what the image calls `/dev/console`.
#[test]
fn the_console_leads_nowhere_else() {
    let pod = Pod::new();
    let volume = tempfile::tempdir().unwrap();
    fs::create_dir(volume.path().join("pts")).unwrap();
    symlink("/proc/sysrq-trigger", volume.path().join("console")).unwrap();
    let error = pod
        .container("link", "true")
        .options(|o| {
            o.terminal = true;
            o.mounts = vec![bind(volume.path(), "/dev", &[])];
        })
        .start()
        .unwrap_err();
    assert!(error.to_string().contains("/dev/"), "{error}");
    // Terminals that are only files of the image.
    let fake = pod.container("fake", "true").options(|o| {
        o.terminal = true;
        fs::create_dir_all(volume.path().join("pts2")).unwrap();
        fs::write(volume.path().join("pts2/ptmx"), "").unwrap();
        o.mounts = vec![bind(&volume.path().join("pts2"), "/dev/pts", &[])];
    });
    let error = fake.start().unwrap_err();
    assert!(error.to_string().contains("devpts"), "{error}");
}

/// CVE-2019-16884, CVE-2025-52881: what should be written to the kernel is written to the image's idea of `/proc`.
#[test]
fn settings_are_written_to_the_kernel_whatever_lies_at_proc() {
    let fake = tempfile::tempdir().unwrap();
    let place = fake.path().join("sys/net/ipv4");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("ip_forward"), "fake\n").unwrap();
    fs::create_dir_all(fake.path().join("self/attr")).unwrap();
    let mut bundle = Bundle::new("cat /proc/sys/net/ipv4/ip_forward; while :; do sleep 0.01; done")
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}))
        .set("/process/oomScoreAdj", json!(77));
    bundle.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    bundle.spec["linux"]["maskedPaths"] = json!([]);
    bundle.spec["linux"]["readonlyPaths"] = json!([]);
    let bundle = bundle.mount("/proc", "bind", fake.path().to_str().unwrap(), &["rbind"]);
    let output = bundle.create();
    bundle.ok(&["start"]);
    until("it has said it", || fs::read_to_string(&output).unwrap().contains("fake"));
    let pid = bundle.state()["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "77");
    let seen = Command::new("nsenter")
        .args(["-n", "-t", &pid.to_string(), "cat", "/proc/sys/net/ipv4/ip_forward"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "1\n", "{seen:?}");
    assert_eq!(fs::read_to_string(place.join("ip_forward")).unwrap(), "fake\n");
}

/// CVE-2019-19921: an image whose `/proc` or `/sys` is a link to a volume.
#[test]
fn proc_and_sys_are_no_links() {
    for name in ["proc", "sys"] {
        // Nothing else looks at what lies there.
        let bundle =
            Bundle::new("true").set("/linux/maskedPaths", json!([])).set("/linux/readonlyPaths", json!([]));
        fs::remove_dir(bundle.root().join(name)).unwrap();
        symlink("/tmp", bundle.root().join(name)).unwrap();
        let (code, said) = bundle.run();
        assert!(code == 1 && said.contains(&format!("/{name}")), "{said}");
    }
}

/// CVE-2021-30465: a path in a shared volume is a folder when it is looked at and a link when it is used.
#[test]
fn a_volume_that_changes_meanwhile_leads_nowhere_outside() {
    let pod = Pod::new();
    let (volume, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(volume.path().join("a")).unwrap();
    symlink(victim.path(), volume.path().join("b")).unwrap();
    let source = tempfile::tempdir().unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, b) = (volume.path().join("a"), volume.path().join("b"));
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, exchange).unwrap();
            }
        });
        for round in 0..40 {
            let made = pod.container(&format!("r{round}"), "true").options(|o| {
                o.mounts = vec![
                    bind(volume.path(), "/volume", &[]),
                    bind(source.path(), &format!("/volume/a/made/{round}"), &[]),
                ];
            });
            // It may be refused: what matters is where it goes.
            let _ = made.start();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(victim.path()).unwrap().count(), 0);
}

/// A container that shares the machine's network must not change the machine's settings.
#[test]
fn settings_of_the_machine_stay() {
    let pod = Pod::with(|config| {
        config.network = wharf_runtime::Network::Host;
        config.ipc = wharf_runtime::Share::Host;
    });
    for (name, setting) in [("net", "net.ipv4.ip_forward"), ("ipc", "kernel.shmmax")] {
        let before = fs::read_to_string(format!("/proc/sys/{}", setting.replace('.', "/"))).unwrap();
        let error = pod
            .container(name, "true")
            .options(|o| drop(o.sysctls.insert(setting.into(), before.trim().into())))
            .start()
            .unwrap_err();
        assert!(error.to_string().contains(setting), "{error}");
    }
}

/// Device rules: nodes can be made, and only harmless ones opened.
#[test]
fn devices_of_the_machine_stay_closed() {
    let bundle = Bundle::new(
        "mknod /tmp/disk b 254 0 && echo made; cat /tmp/disk 2>&1 | head -c 60; cat /dev/null && echo null",
    );
    let (_, said) = bundle.run();
    assert!(
        said.starts_with("made\n") && said.contains("not permitted") && said.ends_with("null\n"),
        "{said}"
    );
    let opened = Bundle::new("exec 3</dev/any && echo open; exec 4>/dev/any").set(
        "/linux/resources",
        json!({"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "r"}]}),
    );
    let opened =
        opened.set("/linux/devices", json!([{"path": "/dev/any", "type": "c", "major": 10, "minor": 229}]));
    let (code, said) = opened.run();
    assert!(code != 0 && said.starts_with("open\n") && said.contains("not permitted"), "{said}");
}
