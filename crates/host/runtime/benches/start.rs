//! What a container costs from its description to its end: create, start, exit, delete of `true`, in a pod of its own and in one that is
//! there. Run as root: `cargo bench -p wharf-runtime`. With `strace -c -f` before it, it tells the system calls of each.

#![allow(clippy::unwrap_used, clippy::print_stdout, unused_crate_dependencies)] // a benchmark

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use wharf_runtime::{
    ContainerConfig, Network, RootFs, Runtime, Sandbox, SandboxConfig, Seccomp, ShimRuntime, SpecOptions,
    Stdin,
};

fn main() {
    let rounds = std::env::var("ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).unwrap();
    symlink("busybox", root.join("bin/true")).unwrap();
    let pod = |number: usize| {
        let sandbox = open(&folder.path().join(format!("pod{number}")), number);
        one(&*sandbox, "main", &root);
        sandbox.shutdown().unwrap();
    };
    report("a pod and its container", rounds, pod);
    let sandbox = open(&folder.path().join("shared"), usize::MAX);
    report("a container in a pod that is there", rounds, |number| {
        one(&*sandbox, &format!("c{number}"), &root)
    });
    sandbox.shutdown().unwrap();
}

fn report(what: &str, rounds: usize, work: impl Fn(usize)) {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|number| {
            let begin = Instant::now();
            work(number);
            begin.elapsed()
        })
        .collect();
    times.sort();
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or_default();
    println!("{what}: median {:?}, 10 % {:?}, 90 % {:?}, {rounds} rounds", at(50), at(10), at(90));
}

fn open(folder: &Path, number: usize) -> Box<dyn Sandbox> {
    let runtime = ShimRuntime::new(env!("CARGO_BIN_EXE_wharf-shim"));
    let config = SandboxConfig {
        id: format!("bench-{}-{number}", std::process::id()),
        hostname: Some("pod".into()),
        network: Network::New,
        ipc: Default::default(),
        uts: Default::default(),
        users: None,
        cgroup: None,
        sysctls: Default::default(),
        when_idle: Default::default(),
        at_end: Vec::new(),
        labels: Default::default(),
    };
    runtime.create(folder, &config).unwrap()
}

fn one(sandbox: &dyn Sandbox, name: &str, root: &Path) {
    let spec = SpecOptions {
        args: vec!["/bin/true".into()],
        cgroup: format!("wharf-bench-{}-{name}", std::process::id()),
        ..SpecOptions::default()
    };
    let config = ContainerConfig {
        name: name.into(),
        spec: spec.build().unwrap(),
        root: RootFs { lower: vec![root.to_owned()], volatile: true },
        user: None,
        groups: Vec::new(),
        seccomp: Seccomp::Default,
        stdin: Stdin::Null,
        log: None,
        labels: Default::default(),
    };
    sandbox.create_container(&config).unwrap();
    sandbox.start(name).unwrap();
    assert_eq!(sandbox.wait(name).unwrap().code, 0);
    sandbox.delete(name).unwrap();
}
