//! A container's life seen from outside: exec, terminals, logs, and the deaths of those who hold it.

#![allow(clippy::unwrap_used, unreachable_pub)] // a test

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, kill_process},
};
use support::*;
use wharf_runtime::{
    ErrorKind, Event, Events, ExecConfig, Phase, PodDir, Runtime, SandboxConfig, SignalTo, Size, Stdin,
    WhenIdle, oci,
};

const FOREVER: &str = "while :; do sleep 100; done";

#[test]
fn a_pod_ends_while_exec_runs_in_it() {
    let pod = Pod::new();
    pod.container("main", FOREVER).start().unwrap();
    let mut exec = pod.sandbox.exec("main", &shell(FOREVER), [None, None, None]).unwrap();
    pod.sandbox.shutdown().unwrap();
    assert_eq!(exec.wait().unwrap().signal, Some(libc::SIGKILL));
}

/// A lock of whoever starts a pod does not live as long as the pod.
#[test]
fn a_shim_has_nothing_open_of_who_started_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("held");
    let held = fs::File::create(&path).unwrap();
    fcntl_setfd(&held, FdFlags::empty()).unwrap();
    let pod = Pod::new();
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(pod.folder.path().join("pod/shim.json")).unwrap()).unwrap();
    let open = fs::read_dir(format!("/proc/{}/fd", file["pid"])).unwrap().flatten();
    let open: Vec<_> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(open.len() > 3 && !open.contains(&path), "{open:?}");
}

#[test]
fn exec_runs_beside_the_program() {
    let pod = Pod::new();
    pod.container("main", FOREVER).user("app").start().unwrap();
    let (exit, said) =
        pod.exec("main", &shell("id -u; hostname; echo $EXTRA; grep CapEff /proc/self/status; exit 3"));
    assert_eq!(exit.code, 3);
    assert_eq!(said, "1000\npod\n\nCapEff:\t0000000000000000\n");
    let (_, said) = pod.exec(
        "main",
        &ExecConfig {
            env: vec!["EXTRA=more".into()],
            cwd: Some("/etc".into()),
            user: Some("0".into()),
            ..shell("id -u; echo $EXTRA; pwd; grep Seccomp: /proc/self/status; ls /proc/self/fd")
        },
    );
    assert_eq!(said, "0\nmore\n/etc\nSeccomp:\t2\n0\n1\n2\n3\n");
    let error =
        pod.sandbox.exec("main", &shell("true").with_args(&["nope"]), [None, None, None]).err().unwrap();
    assert_eq!(error.kind, ErrorKind::NoProgram);
    // A new process of the container counts to its cgroup, and dies with it.
    let mut exec = pod.sandbox.exec("main", &shell(FOREVER), [None, None, None]).unwrap();
    assert!(pod.sandbox.stats("main").unwrap().pids >= 3);
    pod.sandbox.kill("main", 9, SignalTo::First).unwrap();
    assert_eq!(exec.wait().unwrap().signal, Some(9));
    assert_eq!(pod.sandbox.wait("main").unwrap().signal, Some(9));
    let error = pod.sandbox.exec("main", &shell("true"), [None, None, None]).err().unwrap();
    assert_eq!(error.kind, ErrorKind::State);
}

trait WithArgs {
    fn with_args(self, args: &[&str]) -> Self;
}

impl WithArgs for ExecConfig {
    fn with_args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        self
    }
}

#[test]
fn a_terminal_has_its_size_and_a_job_control() {
    let pod = Pod::new();
    let (_, said) = pod
        .container("tty", "test -t 0 && test -t 1 && echo terminal; stty size")
        .options(|o| o.terminal = true)
        .run();
    assert!(said.starts_with("terminal\r\n"), "{said:?}");
    pod.container("main", FOREVER).start().unwrap();
    let config = ExecConfig {
        terminal: Some(Size { rows: 33, columns: 77 }),
        ..shell("stty size; read x; stty size; echo got $x")
    };
    let mut exec = pod.sandbox.exec("main", &config, [None, None, None]).unwrap();
    let mut terminal = fs::File::from(exec.terminal().unwrap().try_clone_to_owned().unwrap());
    let mut lines = BufReader::new(terminal.try_clone().unwrap()).lines().map_while(Result::ok);
    assert_eq!(lines.next().unwrap().trim(), "33 77");
    exec.resize(Size { rows: 5, columns: 6 }).unwrap();
    terminal.write_all(b"word\n").unwrap();
    assert_eq!(lines.next().unwrap().trim(), "word");
    assert_eq!(lines.next().unwrap().trim(), "5 6");
    assert_eq!(lines.next().unwrap().trim(), "got word");
    assert_eq!(exec.wait().unwrap().code, 0);
}

#[test]
fn attached_callers_write_and_read() {
    let pod = Pod::new();
    pod.container("cat", "tr a-z A-Z; echo done >&2; exit 4").stdin(Stdin::Once).create().unwrap();
    let [input, output, error] = pod.sandbox.attach("cat").unwrap();
    pod.sandbox.start("cat").unwrap();
    let mut input = fs::File::from(input.unwrap());
    input.write_all(b"hello").unwrap();
    drop(input);
    let (mut said, mut complained) = (String::new(), String::new());
    fs::File::from(output.unwrap()).read_to_string(&mut said).unwrap();
    fs::File::from(error.unwrap()).read_to_string(&mut complained).unwrap();
    assert_eq!((said.as_str(), complained.as_str()), ("HELLO", "done\n"));
    assert_eq!(pod.sandbox.wait("cat").unwrap().code, 4);
}

#[test]
fn a_lot_of_output_arrives_whole_in_log_and_attachment() {
    let pod = Pod::new();
    pod.container("seq", "seq 1 200000").create().unwrap();
    let [_, output, _] = pod.sandbox.attach("seq").unwrap();
    pod.sandbox.start("seq").unwrap();
    let mut attached = String::new();
    fs::File::from(output.unwrap()).read_to_string(&mut attached).unwrap();
    pod.sandbox.wait("seq").unwrap();
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(attached == expected, "{} of {} bytes attached", attached.len(), expected.len());
    let files = wharf_runtime::log_files(&pod.log_path("seq"));
    let lines: usize = files.iter().map(|file| fs::read_to_string(file).unwrap().lines().count()).sum();
    assert_eq!(lines, 200_000);
}

/// The next event, which comes within bounds.
fn next(events: &mut Events) -> Event {
    let mut polled = [PollFd::new(&*events, PollFlags::IN)];
    let deadline = Timespec::try_from(DEADLINE).unwrap();
    assert_eq!(poll(&mut polled, Some(&deadline)), Ok(1), "in vain: an event");
    events.wait().unwrap().expect("the shim lives")
}

#[test]
fn what_the_kernel_denies_a_running_container_is_told() {
    let pod = Pod::new();
    let mut events = pod.sandbox.events().unwrap();
    // What is killed, and what cannot fork, is not the first process, which goes on.
    pod.container(
        "a",
        "tail /dev/zero; tail /dev/zero; echo twice; sh -c 'while sleep 100 & do :; done'; read x",
    )
    .stdin(Stdin::Open)
    .options(|o| {
        let memory = oci::LinuxMemoryBuilder::default().limit(16 << 20).build().unwrap();
        o.resources.set_memory(Some(memory));
        o.resources.set_pids(Some(oci::LinuxPidsBuilder::default().limit(6).build().unwrap()));
    })
    .start()
    .unwrap();
    let (mut kills, mut times) = (0, 0);
    while kills < 2 || times == 0 {
        match next(&mut events) {
            Event::OutOfMemory { name, kills: now } => {
                assert!(name == "a" && now > kills, "{kills} → {now}");
                kills = now;
            }
            Event::ForkRefused { name, times: now } => {
                assert!(name == "a" && now > times, "{times} → {now}");
                times = now;
            }
            Event::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let status = pod.sandbox.status("a").unwrap();
    assert_eq!((status.phase, status.oom_kills, status.forks_refused), (Phase::Running, 2, times));
    assert_eq!(pod.sandbox.dir().status("a").unwrap(), status);
    assert_eq!(pod.sandbox.stats("a").unwrap().forks_refused, times);
    pod.sandbox.kill("a", 9, SignalTo::All).unwrap();
    // Counted for whoever asks only now.
    assert!(pod.sandbox.wait("a").unwrap().oom_killed);
}

#[test]
fn what_ended_a_container_is_told_before_its_end() {
    let pod = Pod::new();
    let mut events = pod.sandbox.events().unwrap();
    pod.container("a", "exec tail /dev/zero")
        .options(|o| {
            let memory = oci::LinuxMemoryBuilder::default().limit(16 << 20).build().unwrap();
            o.resources.set_memory(Some(memory));
        })
        .start()
        .unwrap();
    assert_eq!(next(&mut events), Event::Started { name: "a".into() });
    assert_eq!(next(&mut events), Event::OutOfMemory { name: "a".into(), kills: 1 });
    assert!(matches!(next(&mut events), Event::Exited { exit, .. } if exit.oom_killed));
}

#[test]
fn events_and_states_tell_the_life() {
    let pod = Pod::new();
    let mut events = pod.sandbox.events().unwrap();
    pod.container("a", "exit 9").create().unwrap();
    assert_eq!(pod.sandbox.status("a").unwrap().phase, Phase::Created);
    let error = pod.sandbox.pause("a").unwrap_err();
    assert_eq!(error.kind, ErrorKind::State);
    pod.sandbox.start("a").unwrap();
    assert_eq!(events.wait().unwrap(), Some(Event::Started { name: "a".into() }));
    match events.wait().unwrap() {
        Some(Event::Exited { name, exit }) => assert_eq!((name.as_str(), exit.code), ("a", 9)),
        other => panic!("{other:?}"),
    }
    assert_eq!(pod.sandbox.start("a").unwrap_err().kind, ErrorKind::State);
    let status = pod.sandbox.status("a").unwrap();
    assert_eq!((status.phase, status.pid), (Phase::Exited, None));
    assert_eq!(pod.sandbox.dir().status("a").unwrap(), status);
    pod.sandbox.delete("a").unwrap();
    assert_eq!(pod.sandbox.status("a").unwrap_err().kind, ErrorKind::NotFound);
    assert!(!pod.dir().join("containers/a").exists());
}

#[test]
fn paused_processes_stand_still_and_can_be_killed() {
    let pod = Pod::new();
    pod.container("busy", "while :; do :; done").start().unwrap();
    pod.sandbox.pause("busy").unwrap();
    assert_eq!(pod.sandbox.status("busy").unwrap().phase, Phase::Paused);
    let frozen = cgroups_of(&pod.id).iter().any(|folder| {
        let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
        read("freezer.state").contains("FROZEN") || read("cgroup.events").contains("frozen 1")
    });
    assert!(frozen);
    let used = pod.sandbox.stats("busy").unwrap().cpu_usage_ns;
    pod.sandbox.unpause("busy").unwrap();
    until("it runs again", || pod.sandbox.stats("busy").unwrap().cpu_usage_ns > used);
    pod.sandbox.pause("busy").unwrap();
    pod.sandbox.kill("busy", 9, SignalTo::First).unwrap();
    assert_eq!(pod.sandbox.wait("busy").unwrap().signal, Some(9));
}

#[test]
fn nothing_is_left_after_the_end() {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let pod = Pod::new();
    pod.container("one", FOREVER).start().unwrap();
    assert!(!cgroups_of(&pod.id).is_empty());
    assert!(!mounts().contains(pod.dir().to_str().unwrap()), "a mount shows outside the container");
    let (id, shim) = (pod.id.clone(), pod.sandbox.pid());
    pod.sandbox.shutdown().unwrap();
    assert!(cgroups_of(&id).is_empty());
    assert!(!mounts().contains(pod.dir().to_str().unwrap()));
    assert!(!fs::exists(format!("/proc/{shim}")).unwrap(), "the shim is still there");
}

#[test]
fn a_killed_shim_is_reported_and_cleaned_up() {
    let pod = Pod::new();
    pod.container("main", FOREVER).start().unwrap();
    let first = pod.sandbox.status("main").unwrap().pid.unwrap();
    kill_process(Pid::from_raw(pod.sandbox.pid()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(pod.sandbox.wait("main").unwrap_err().kind, ErrorKind::ShimGone);
    until("the lock is free", || !pod.sandbox.dir().has_shim());
    assert_eq!(runtime().open(&pod.dir()).err().unwrap().kind, ErrorKind::ShimGone);
    assert_eq!(runtime().clean_up(&pod.dir()).unwrap(), ["main"]);
    until("the program has ended", || !fs::exists(format!("/proc/{first}/exe")).unwrap() || is_zombie(first));
    let status = pod.sandbox.dir().status("main").unwrap();
    let exit = status.exit.unwrap();
    assert_eq!((status.phase, exit.code), (Phase::Exited, 255));
    assert!(exit.reason.unwrap().contains("shim"));
    assert!(cgroups_of(&pod.id).is_empty());
    assert_eq!(runtime().clean_up(&pod.dir()).unwrap(), Vec::<String>::new());
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z"))
}

#[test]
fn clean_up_leaves_a_living_pod_alone() {
    let pod = Pod::new();
    pod.container("main", FOREVER).start().unwrap();
    assert_eq!(runtime().clean_up(&pod.dir()).unwrap(), Vec::<String>::new());
    assert_eq!(pod.sandbox.status("main").unwrap().phase, Phase::Running);
}

/// Set for the run of this program that plays the daemon.
const DAEMON: &str = "WHARF_TEST_DAEMON";

#[test]
fn containers_outlive_their_killed_parent() {
    if std::env::var_os(DAEMON).is_some() {
        let pod = Pod::new();
        pod.container("main", "trap 'exit 6' TERM; echo ready; while :; do sleep 0.01; done")
            .start()
            .unwrap();
        until("it listens", || pod.said("main").contains("ready"));
        println!(
            "\npod={} {}",
            pod.folder.path().display(),
            pod.sandbox.status("main").unwrap().pid.unwrap()
        );
        std::io::stdout().flush().unwrap();
        loop {
            std::thread::park();
        }
    }
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "containers_outlive_their_killed_parent", "--nocapture"])
        .env(DAEMON, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(daemon.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("pod=").map(str::to_owned))
        .expect("the daemon tells where the pod is");
    let (folder, pid) = line.split_once(' ').unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let folder = Folder(folder.into());
    let sandbox = runtime().open(&folder.0.join("pod")).unwrap();
    let status = sandbox.status("main").unwrap();
    assert_eq!((status.phase, status.pid.unwrap().to_string().as_str()), (Phase::Running, pid));
    sandbox.kill("main", 15, SignalTo::First).unwrap();
    assert_eq!(sandbox.wait("main").unwrap().code, 6);
    sandbox.shutdown().unwrap();
}

/// A folder removed with the value.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Ok(sandbox) = runtime().open(&self.0.join("pod")) {
            let _ = sandbox.shutdown();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_idle_shim_leaves_when_told_to() {
    let pod = Pod::with(|config| config.when_idle = WhenIdle::Remove);
    pod.container("main", "exit 0").start().unwrap();
    let dir = pod.dir();
    // The value's connection is what keeps the shim now.
    pod.sandbox.wait("main").unwrap();
    assert!(dir.exists());
    drop(pod);
    until("the folder is gone", || !dir.exists());
    let pod = Pod::with(|config| config.when_idle = WhenIdle::Exit);
    pod.container("main", "exit 8").start().unwrap();
    let sandbox = runtime().open(&pod.dir()).unwrap();
    sandbox.wait("main").unwrap();
    assert_eq!(pod.sandbox.dir().status("main").unwrap().exit.unwrap().code, 8);
}

#[test]
fn a_pod_of_one_process_ends_when_nobody_is_connected() {
    let mut pod = Pod::with(|config| config.when_idle = WhenIdle::WithCaller);
    pod.container("main", "sleep 1000").start().unwrap();
    let (dir, pid) = (pod.dir(), pod.sandbox.status("main").unwrap().pid.unwrap());
    let next = tempfile::tempdir().unwrap();
    leave_alone(&mut pod, &next.path().join("next"));
    until("its program has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    until("its shim has ended", || !dir.join("shim.sock").exists());
    assert!(dir.exists(), "what it has written stays");
}

#[test]
fn what_is_to_run_at_the_end_runs_outside() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network");
    let script = format!("readlink /proc/self/ns/net > {0}.new && mv {0}.new {0}", file.display());
    let mut pod = Pod::with(|config| {
        config.when_idle = WhenIdle::Remove;
        config.at_end = ["/bin/sh", "-c", &script].map(str::to_owned).to_vec();
    });
    pod.container("main", "exit 0").start().unwrap();
    pod.sandbox.wait("main").unwrap();
    assert!(!file.exists(), "it ran while the pod was there");
    leave_alone(&mut pod, &folder.path().join("next"));
    until("it has run", || file.exists());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), own.to_str().unwrap());
}

/// Lets go of the pod, whose shim then ends by itself. Another in folder `next` takes its place in the value.
fn leave_alone(pod: &mut Pod, next: &Path) {
    let config = SandboxConfig {
        at_end: Vec::new(),
        id: format!("{}-next", pod.id),
        ..pod.sandbox.dir().config().unwrap()
    };
    pod.sandbox = runtime().create(next, &config).unwrap();
}

#[test]
fn what_is_to_run_at_the_end_can_be_the_program_that_made_the_pod() {
    // Run at the end, this test finds here where to say so.
    if let Some(file) = std::env::args().skip_while(|word| word != "--skip").nth(1) {
        fs::write(file, std::env::current_exe().unwrap().to_str().unwrap()).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("program");
    let name = "what_is_to_run_at_the_end_can_be_the_program_that_made_the_pod";
    let words = ["/proc/self/exe", "--exact", name, "--skip", file.to_str().unwrap()];
    let mut pod = Pod::with(|config| {
        config.when_idle = WhenIdle::Remove;
        config.at_end = words.map(str::to_owned).to_vec();
    });
    pod.container("main", "exit 0").start().unwrap();
    pod.sandbox.wait("main").unwrap();
    leave_alone(&mut pod, &folder.path().join("next"));
    let own = std::env::current_exe().unwrap();
    until("it has run", || fs::read_to_string(&file).is_ok_and(|text| Path::new(&text) == own));
}

#[test]
fn long_folder_names_do_not_matter() {
    let pod = Pod::new();
    let deep = pod.folder.path().join("x".repeat(120)).join("y".repeat(120)).join("pod");
    let config = pod.sandbox.dir().config().unwrap();
    let sandbox = runtime().create(&deep, &config).unwrap();
    assert!(runtime().open(&deep).unwrap().list().unwrap().is_empty());
    sandbox.shutdown().unwrap();
}

#[test]
fn whoever_looks_keeps_no_shim_from_starting() {
    let pod = Pod::new();
    let config = pod.sandbox.dir().config().unwrap();
    let dir = PodDir::at(pod.folder.path().join("watched"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    dir.has_shim();
                }
            });
        }
        for _ in 0..20 {
            let made = runtime().create(dir.path(), &config).and_then(|sandbox| {
                let seen = dir.has_shim();
                sandbox.shutdown().map(|()| seen)
            });
            let after = dir.has_shim();
            if !matches!((&made, after), (Ok(true), false)) {
                stop.store(true, Ordering::Relaxed);
                panic!("while it lives: {made:?}, after: {after}");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn whoever_forks_meanwhile_keeps_no_shim_from_starting() {
    let pod = Pod::new();
    let config = pod.sandbox.dir().config().unwrap();
    let folder = pod.folder.path().join("again");
    fs::create_dir(&folder).unwrap();
    let stop = AtomicBool::new(false);
    let made = std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = Command::new("/bin/true").status();
                }
            });
        }
        let made: Result<(), _> = (0..100).try_for_each(|_| {
            runtime().clean_up(&folder)?;
            runtime().create(&folder, &config)?.shutdown()
        });
        stop.store(true, Ordering::Relaxed);
        made
    });
    made.unwrap();
}

#[test]
fn a_second_shim_is_refused() {
    let pod = Pod::new();
    let config = pod.sandbox.dir().config().unwrap();
    assert_eq!(runtime().create(&pod.dir(), &config).err().unwrap().kind, ErrorKind::Exists);
}
