//! `wharf backup` and `wharf restore`, as people use them: beside a platform that runs, on one that does not, after a
//! loss of everything, and with kills in between.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Kubectl, Platform, lossy, output_of, text, until};
use wharf_state::{
    backup::{Head, Reader, Record, Writer},
    write_file,
};

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

/// Objects of kinds that nothing changes by itself, by what they are.
fn objects(kubectl: &Kubectl) -> BTreeMap<String, Value> {
    let all = kubectl.list(&["configmaps,secrets,services,serviceaccounts,namespaces", "-A"]);
    let key = |object: &Value| {
        format!(
            "{} {} {}",
            text(object, "/kind"),
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name")
        )
    };
    all.into_iter().map(|object| (key(&object), object)).collect()
}

fn raw(kubectl: &Kubectl, path: &str) -> Value {
    serde_json::from_str(&kubectl.run(&["get", "--raw", path])).unwrap()
}

fn failed(output: &Output, says: &[&str]) {
    let said = lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in says {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
}

/// Everything in a backup: revision, keys, files.
type Content = (u64, BTreeMap<Vec<u8>, Vec<u8>>, BTreeMap<String, Vec<u8>>);

fn content(file: &Path) -> Content {
    let mut reader = Reader::new(File::open(file).unwrap()).unwrap();
    let (mut keys, mut files) = (BTreeMap::new(), BTreeMap::new());
    while let Some(record) = reader.next_record().unwrap() {
        match record {
            Record::Key(key) => drop(keys.insert(key.key.to_vec(), key.value.to_vec())),
            Record::File { name, content } => drop(files.insert(name, content.to_vec())),
        }
    }
    (reader.head().revision, keys, files)
}

#[test]
fn a_platform_that_was_lost_comes_back_as_it_was() {
    let mut platform = Platform::control_plane();
    let kubectl = platform.kubectl();
    let many: Vec<Value> = (0..300).map(|i| config_map(&format!("map-{i}"), &"x".repeat(i * 10))).collect();
    kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": many}).to_string());
    kubectl.run(&["create", "secret", "generic", "hidden", "--from-literal=word=secret"]);
    kubectl.run(&["create", "service", "nodeport", "web", "--tcp=80:80"]);
    let token = kubectl.run(&["create", "token", "default", "--duration=2h"]);
    let config = fs::read_to_string(platform.data().join("kubeconfig")).unwrap();
    let before = objects(&kubectl);
    let safe = tempfile::tempdir().unwrap();
    let file = safe.path().join("state.wharf");

    // Others write while it is taken.
    let (stop, confirmed) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (kubectl, stop, confirmed) = (&kubectl, &stop, &confirmed);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("busy-{writer}-{number}");
                    kubectl.run(&["create", "configmap", &name, "--from-literal=value=1"]);
                    confirmed.lock().unwrap().push(name);
                }
            });
        }
        until("writers write", || match confirmed.lock().unwrap().len() {
            0..4 => Err("a few".to_owned()),
            _ => Ok(()),
        });
        let known = confirmed.lock().unwrap().clone();
        let said = output_of(platform.wharf().arg("backup").arg(&file));
        stop.store(true, Ordering::Relaxed);
        assert!(said.contains("objects as of revision") && said.contains("keep it as secret"), "{said}");
        let (_, keys, files) = content(&file);
        for name in known {
            assert!(
                keys.contains_key(format!("configmaps/default/{name}").as_bytes()),
                "{name} was confirmed"
            );
        }
        assert!(
            files.contains_key("ca.key") && files.contains_key("service-account.key"),
            "{:?}",
            files.keys()
        );
    });
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(safe.path()).unwrap().count(), 1, "a draft is left");
    let last: u64 = raw(&kubectl, "/api/v1/configmaps?limit=1")["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let taken = content(&file);

    platform.kill();
    fs::remove_file(platform.data().join("state.redb")).unwrap();
    fs::remove_dir_all(platform.data().join("pki")).unwrap();
    let said = output_of(platform.wharf().arg("restore").arg(&file));
    assert!(said.contains("the state is now at revision"), "{said}");
    platform.restart();

    let after = objects(&kubectl);
    let lost: Vec<_> = before.iter().filter(|(key, object)| after.get(*key) != Some(*object)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let busy = after.keys().filter(|key| key.contains(" busy-")).count();
    let saved = taken.1.keys().filter(|key| key.starts_with(b"configmaps/default/busy-")).count();
    assert_eq!(busy, saved);
    // Who watches hears that it has to list again; no revision comes twice.
    let list = raw(&kubectl, "/api/v1/configmaps?limit=1");
    let now: u64 = list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(now > last + 1_000_000, "{now} after {last}");
    let watch = format!("/api/v1/configmaps?watch=1&resourceVersion={last}&timeoutSeconds=5");
    let told = lossy(&kubectl.end(&["get", "--raw", &watch], "").stdout);
    assert!(told.contains("\"code\":410"), "{told}");
    // What was given out before is still believed.
    let authority = |config: &str| {
        config.lines().find(|line| line.contains("certificate-authority-data")).map(str::to_owned).unwrap()
    };
    let new = fs::read_to_string(platform.data().join("kubeconfig")).unwrap();
    assert_eq!(authority(&config), authority(&new));
    let who = kubectl.run(&["auth", "whoami", "-o", "json", "--token", token.trim()]);
    assert!(who.contains("system:"), "{who}");
    // What is written from here on goes on from there.
    kubectl.apply_object(&config_map("after", "1"));
    let made = kubectl.get(&["configmap", "after"]);
    assert!(text(&made, "/metadata/resourceVersion").parse::<u64>().unwrap() > now);
}

#[test]
fn at_rest_the_same_is_saved_and_nobody_else_may() {
    let mut platform = Platform::control_plane();
    let kubectl = platform.kubectl();
    kubectl.apply_object(&config_map("a", "1"));
    let refused = kubectl.end(&["get", "--raw", "/wharf/backup", "--as=somebody"], "");
    assert!(lossy(&refused.stderr).contains("Forbidden"), "{}", lossy(&refused.stderr));
    let safe = tempfile::tempdir().unwrap();
    let (running, at_rest) = (safe.path().join("running"), safe.path().join("at-rest"));
    output_of(platform.wharf().arg("backup").arg(&running));
    failed(
        &platform.wharf().arg("restore").arg(&running).output().unwrap(),
        &["another wharf runs on", "stop it"],
    );
    platform.kill();
    output_of(platform.wharf().arg("backup").arg(&at_rest));
    let (running, at_rest) = (content(&running), content(&at_rest));
    assert_eq!(running.2, at_rest.2);
    let map = |content: &Content| content.1[&b"configmaps/default/a"[..]].clone();
    assert_eq!(map(&running), map(&at_rest));
    assert!(running.1.keys().all(|key| at_rest.1.contains_key(key) || key.starts_with(b"events")));

    // Addresses of Services stay in the network they are from.
    let services = platform.data().join("network/services");
    fs::create_dir_all(services.parent().unwrap()).unwrap();
    fs::write(&services, "10.97.0.0/16\n").unwrap();
    let with_network = safe.path().join("with-network");
    output_of(platform.wharf().arg("backup").arg(&with_network));
    let fresh = tempfile::tempdir().unwrap();
    let mut restore = Command::new(env!("CARGO_BIN_EXE_wharf"));
    output_of(restore.arg("--data").arg(fresh.path()).arg("restore").arg(&with_network));
    assert_eq!(fs::read_to_string(fresh.path().join("network/services")).unwrap(), "10.97.0.0/16\n");
    assert!(!fresh.path().join("pki/service-network").exists());
    fs::remove_file(&services).unwrap();

    // A state that is there is not replaced unasked, nor by what is no backup.
    let file = safe.path().join("at-rest");
    failed(
        &platform.wharf().arg("restore").arg(&file).output().unwrap(),
        &["there is a platform's state in", "--force"],
    );
    let whole = fs::read(&file).unwrap();
    let bad = safe.path().join("bad");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    for (bytes, says) in [
        (&changed[..], "damaged at byte"),
        (&whole[..whole.len() - 100], "incomplete"),
        (b"PK\x03\x04", "no backup of wharf"),
    ] {
        fs::write(&bad, bytes).unwrap();
        let output = platform.wharf().args(["restore", "--force"]).arg(&bad).output().unwrap();
        failed(&output, &["cannot restore", says, "nothing was changed"]);
    }
    let again = safe.path().join("again");
    output_of(platform.wharf().arg("backup").arg(&again));
    assert_eq!(content(&again), at_rest);

    // With --force it is, and a damaged one too; what was there is kept.
    let state = platform.data().join("state.redb");
    fs::write(&state, b"scrambled").unwrap();
    failed(
        &platform.wharf().arg("backup").arg(&again).output().unwrap(),
        &["state.redb is damaged", "wharf restore --force"],
    );
    assert_eq!(content(&again), at_rest, "a backup that failed replaced one");
    let said = output_of(platform.wharf().args(["restore", "--force"]).arg(&file));
    let aside = said.lines().find_map(|line| line.strip_prefix("what was there before is in ")).unwrap();
    assert_eq!(fs::read(Path::new(aside).join("state.redb")).unwrap(), b"scrambled");
    assert!(Path::new(aside).join("pki/ca.key").exists());
    platform.restart();
    assert_eq!(text(&kubectl.get(&["configmap", "a"]), "/data/value"), "1");
}

/// A backup with nothing but a mark in every part.
fn marked(path: &Path, mark: &'static str, keys: usize) {
    let mut writer = Writer::new(File::create(path).unwrap(), Head { revision: 5, taken: 1 }).unwrap();
    for number in 0..keys {
        let key = wharf_state::KeyValue {
            key: format!("configmaps/default/{mark}-{number:06}").into(),
            value: mark.into(),
            revision: 3,
        };
        writer.key(&key).unwrap();
    }
    writer.file("ca.key", mark.as_bytes()).unwrap();
    writer.finish().unwrap().sync_all().unwrap();
}

#[test]
fn a_killed_restoration_is_whole_or_has_not_been() {
    const KEYS: usize = 3000;
    let safe = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let wharf = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--data").arg(data.path());
        command
    };
    let [first, second, found] = ["first", "second", "found"].map(|name| safe.path().join(name));
    marked(&first, "first", KEYS);
    marked(&second, "second", KEYS);
    let took = Instant::now();
    output_of(wharf().arg("restore").arg(&first));
    let took = took.elapsed();
    let (mut present, mut switched) = ("first", 0);
    for step in 0..24 {
        let (next, file) = if present == "first" { ("second", &second) } else { ("first", &first) };
        let mut child = wharf()
            .args(["restore", "--force"])
            .arg(file)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // All over the time it takes, and most of them near its end.
        let part = if step % 2 == 0 { step * 5 } else { 80 + step };
        std::thread::sleep(took.saturating_sub(Duration::from_millis(2)) * part / 100);
        child.kill().unwrap();
        child.wait().unwrap();
        output_of(wharf().arg("backup").arg(&found));
        let (_, keys, files) = content(&found);
        let mark = lossy(&files["ca.key"]);
        assert!(mark == present || mark == next, "{mark}");
        assert_eq!(keys.len(), KEYS, "step {step}");
        assert!(keys.values().all(|value| lossy(value) == mark), "step {step}: parts of both");
        assert!(!data.path().join("restore").exists(), "step {step}");
        if mark == next {
            (present, switched) = (next, switched + 1);
        }
    }
    eprintln!("{switched} of 24 went through");
}

#[test]
fn what_is_not_there_is_told() {
    let data = tempfile::tempdir().unwrap();
    let wharf = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        command.arg("--data").arg(data.path()).args(words).output().unwrap()
    };
    let file = data.path().join("backup");
    let file = file.to_str().unwrap();
    failed(&wharf(&["backup", file]), &["there is no state in", "choose the platform's folder with --data"]);
    failed(&wharf(&["restore", file]), &["cannot read", "No such file"]);
    assert!(!Path::new(file).exists());
    // One of a revision near the end of numbers has no room above it.
    let high = data.path().join("high");
    let writer =
        Writer::new(File::create(&high).unwrap(), Head { revision: u64::MAX - 5, taken: 1 }).unwrap();
    writer.finish().unwrap();
    failed(&wharf(&["restore", high.to_str().unwrap()]), &["leaves no room"]);
    assert!(write_file(&high, 1, || Ok(None)).is_err(), "a file that is there was written over");
    let help = lossy(&wharf(&["restore", "--help"]).stdout);
    assert!(help.contains("The platform must not run") && help.contains("--force"), "{help}");
}
