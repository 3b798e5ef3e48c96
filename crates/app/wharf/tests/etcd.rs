//! A platform that keeps its state in an etcd, as kubectl sees it: kills of both, who may use it, and the way out of it.

#![allow(clippy::unwrap_used)] // a test

#[path = "../../../edge/etcd/tests/support/mod.rs"]
mod server;
mod support;

use server::Server;
use support::{Platform, lossy, output_of, text, until};

fn create(kubectl: &support::Kubectl, name: &str) -> Result<(), String> {
    let output = kubectl.end(&["create", "configmap", name, "--from-literal=value=1"], "");
    let said = lossy(&output.stderr);
    if output.status.success() || said.contains("already exists") { Ok(()) } else { Err(said) }
}

#[test]
fn a_platform_lives_in_etcd_and_either_may_be_killed() {
    let mut server = Server::start();
    let address = format!("etcd://{}", server.address());
    server::ready(&server);
    let mut platform = Platform::control_plane_with(&["--store", &address]);
    let kubectl = platform.kubectl();
    assert!(!platform.data().join("state.redb").exists());
    create(&kubectl, "first").unwrap();
    kubectl.run(&["create", "service", "clusterip", "web", "--tcp=80:80"]);
    let service = kubectl.get(&["service", "web"]);
    let revision = text(&service, "/metadata/resourceVersion").to_owned();

    // Whoever else comes is refused, and told by whom.
    let folder = tempfile::tempdir().unwrap();
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_wharf"));
    second.arg("--data").arg(folder.path());
    let second = second.args(["up", "--ports", "auto", "--role", "control-plane", "--store", &address]);
    let output = second.output().unwrap();
    let said = lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    for words in
        ["cannot open the state in etcd at", "keeps its state there under /wharf/", "a prefix of its own"]
    {
        assert!(said.contains(words), "{said}");
    }

    platform.kill();
    let output =
        platform.wharf().args(["up", "--ports", "auto", "--role", "control-plane"]).output().unwrap();
    let said = lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is in an etcd") && said.contains("--store"), "{said}");
    platform.restart();
    assert_eq!(kubectl.get(&["service", "web"]), service);
    let watched = format!("/api/v1/services?watch=1&resourceVersion={revision}&timeoutSeconds=1");
    let told = kubectl.end(&["get", "--raw", &watched], "");
    assert!(!lossy(&told.stderr).contains("panicked"), "{}", lossy(&told.stderr));

    server.kill();
    let refused = create(&kubectl, "while-it-is-gone").unwrap_err();
    assert!(refused.contains("etcd at 127.0.0.1"), "{refused}");
    assert_eq!(kubectl.get(&["service", "web"]), service, "reads need no etcd");
    server.restart();
    until("writes go through again", || create(&kubectl, "second"));
    // Others see it, by the watch that was resumed.
    assert_eq!(text(&kubectl.get(&["configmap", "second"]), "/data/value"), "1");

    // Out of etcd into a file of one's own.
    let file = folder.path().join("state.wharf");
    output_of(platform.wharf().arg("backup").arg(&file));
    let mut own = Platform::control_plane();
    own.kill();
    output_of(own.wharf().args(["restore", "--force"]).arg(&file));
    own.restart();
    assert_eq!(own.kubectl().get(&["service", "web"]), service);
    assert_eq!(text(&own.kubectl().get(&["configmap", "second"]), "/data/value"), "1");
}

#[test]
fn what_is_no_store_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let up = |words: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--data").arg(folder.path()).args(["up", "--ports", "auto", "--role", "control-plane"]);
        let output = command.args(words).output().unwrap();
        assert!(!output.status.success());
        lossy(&output.stderr)
    };
    for (words, says) in [
        (&["--store", "postgres"][..], "it is either 'embedded' or etcd://HOST:2379"),
        (&["--store", "http://localhost"], "it looks like etcd://HOST:2379"),
        (&["--store", "etcd://127.0.0.1:1"], "start etcd, or correct --store"),
        (&["--store", "etcd://127.0.0.1:1", "--etcd-cafile", "/nonexistent"], "cannot read /nonexistent"),
        (&["--etcd-cafile", "/nonexistent"], "--store"),
        (&["--store", "embedded", "--etcd-cafile", "/nonexistent"], "--etcd-cafile goes with"),
    ] {
        let said = up(words);
        assert!(said.contains(says), "{words:?}: {said}");
    }
}
