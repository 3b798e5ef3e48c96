//! wharf is killed on the way of a version: while it is pushed, tested, and rolled out.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{fs, path::Path, process::Child};

use serde_json::{Value, json};
use support::{IMAGE, Kubectl, Load, Platform, Repository, get, lossy, output_of, text, until};

const WORKFLOW: &str = "\
on:
  push:
  workflow_dispatch:
    inputs:
      word: {type: string, default: none}
jobs:
  test:
    runs-on: wharf
    container: base/test:latest
    steps:
      - uses: actions/checkout@v4
      - run: |
          echo begun ${{ inputs.word }}
          [ \"${{ vars.GATE }}\" = open ] || sleep 600
";

/// Ends the push of a terminal that has lost its server; what it printed.
fn ended(child: Child) -> (bool, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), lossy(&output.stdout) + &lossy(&output.stderr))
}

fn runs(kubectl: &Kubectl) -> Vec<Value> {
    kubectl.list(&["workflowruns", "-n", "wharf-ci"])
}

fn run_in(kubectl: &Kubectl, name: &str, phase: &str) {
    until("the run is where it should be", || {
        let run = kubectl.get(&["workflowrun", name, "-n", "wharf-ci"]);
        if text(&run, "/status/phase") == phase { Ok(()) } else { Err(run["status"].to_string()) }
    });
}

#[test]
fn a_push_and_a_run_that_are_killed_can_be_done_again() {
    let mut platform = Platform::start();
    let kubectl = platform.kubectl();
    let repository = Repository::new(platform.data(), WORKFLOW);

    // While the objects of a push come in.
    let noise: Vec<u8> = (0..48_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(repository.folder.join("noise"), noise).unwrap();
    repository.commit("much to push");
    let bare = platform.data().join("git/shop.git");
    let push = repository.push(&platform);
    until("objects come in", || match incoming(&bare) {
        0..1_000_000 => Err(format!("{} bytes", incoming(&bare))),
        _ => Ok(()),
    });
    platform.kill();
    let (pushed, said) = ended(push);
    assert!(!pushed, "{said}");
    platform.restart();

    // Once more. Git may have taken the first one after all: then it has its run, and there is nothing to push.
    let push = repository.push(&platform);
    let log = |platform: &Platform, run: &str| {
        let output = platform.wharf().args(["runs", "logs", run]).output().unwrap();
        lossy(&output.stdout)
    };
    let run = until("the job has begun", || {
        let runs = runs(&kubectl);
        let name = runs.first().map(|run| text(run, "/metadata/name").to_owned()).unwrap_or_default();
        assert!(runs.len() < 2, "one commit, two runs: {runs:?}");
        if log(&platform, &name).contains("begun") { Ok(name) } else { Err(format!("{runs:?}")) }
    });

    // While a job runs.
    platform.kill();
    ended(push);
    platform.restart();
    run_in(&kubectl, &run, "Interrupted");
    let status = kubectl.get(&["workflowrun", &run, "-n", "wharf-ci"])["status"].to_string();
    assert!(status.contains(&format!("wharf runs rerun {run}")), "{status}");
    assert!(log(&platform, &run).contains("begun"), "the log is kept");
    until("the job's container is gone", || match platform.traces().processes() {
        left if left.iter().any(|(_, name)| name.contains("sleep 600")) => Err(format!("{left:?}")),
        _ => Ok(()),
    });
    let fsck = output_of(&mut repository.git(&[
        "--git-dir",
        bare.to_str().unwrap(),
        "fsck",
        "--full",
        "--no-dangling",
    ]));
    assert_eq!(fsck.trim(), "", "the repository is whole");

    // Again, and this time to the end.
    kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "pipeline-variables", "namespace": "wharf-ci"}, "data": {"GATE": "open"}}));
    output_of(platform.wharf().args(["runs", "rerun", &run]));
    let again = until("the second run", || {
        let runs = runs(&kubectl);
        let other = runs.iter().map(|run| text(run, "/metadata/name")).find(|name| *name != run);
        other.map(str::to_owned).ok_or_else(|| format!("{runs:?}"))
    });
    run_in(&kubectl, &again, "Succeeded");

    // Started by hand, with an input.
    let start = ["runs", "start", "shop", "ci.yml", "--input", "word=hello"];
    let third = output_of(platform.wharf().args(start)).trim().to_owned();
    run_in(&kubectl, &third, "Succeeded");
    assert!(log(&platform, &third).contains("begun hello"));
    let wrong = platform.wharf().args(["runs", "start", "shop", "cd.yml"]).output().unwrap();
    assert!(lossy(&wrong.stderr).contains("workflows: ci.yml"), "{wrong:?}");
    platform.drain();
}

/// Bytes of a push that are there already.
fn incoming(bare: &Path) -> u64 {
    fn size(folder: &Path) -> u64 {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let of = |entry: fs::DirEntry| match entry.metadata() {
            Ok(facts) if facts.is_dir() => size(&entry.path()),
            Ok(facts) => facts.len(),
            Err(_) => 0,
        };
        entries.map(of).sum()
    }
    size(&bare.join("objects"))
}

fn rollout(version: &str) -> Value {
    let script =
        format!("mkdir /www; echo {version} > /www/index.html; exec busybox httpd -f -p 8080 -h /www");
    json!({"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"canary": {"stableService": "web", "canaryService": "web-canary", "steps": [
                {"setWeight": 20}, {"pause": {"duration": "3s"}}, {"setWeight": 60}, {"pause": {"duration": "3s"}}]}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "main", "image": IMAGE,
                    "command": ["sh", "-c", script], "ports": [{"containerPort": 8080}],
                    "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
                    "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5}}]}}}})
}

#[test]
fn a_rollout_goes_on_after_each_kill() {
    let mut platform = Platform::start();
    let kubectl = platform.kubectl();
    for name in ["web", "web-canary"] {
        kubectl.apply_object(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}));
    }
    kubectl.apply_object(&rollout("one"));
    let at = kubectl.cluster_address("web");
    until("the first version answers", || get(&at, "web", "/"));
    let state = || kubectl.get(&["rollout.argoproj.io", "web"]);
    until("it is healthy", || match state() {
        rollout if text(&rollout, "/status/phase") == "Healthy" => Ok(()),
        other => Err(other["status"].to_string()),
    });

    let load = Load::start(&[(at, "web")]);
    kubectl.apply_object(&rollout("two"));
    for step in [1, 3] {
        until("the rollout is on its way", || match state()["status"]["currentStepIndex"].as_u64() {
            Some(at) if at >= step => Ok(()),
            other => Err(format!("at step {other:?}, not {step}")),
        });
        platform.kill();
        let answered = load.so_far().answers.iter().map(|(_, count)| count).sum::<usize>();
        until("the Service goes on meanwhile", || {
            let tally = load.so_far();
            let now = tally.answers.iter().map(|(_, count)| count).sum::<usize>();
            if now > answered + 20 || !tally.failures.is_empty() { Ok(()) } else { Err(format!("{tally:?}")) }
        });
        platform.restart();
    }
    until("the new version has everything", || match state() {
        rollout if text(&rollout, "/status/phase") == "Healthy" => Ok(()),
        other => Err(other["status"].to_string()),
    });
    until("only the new version answers", || match load.so_far() {
        tally if tally.of("two") > 200 => Ok(()),
        tally => Err(format!("{tally:?}")),
    });
    let tally = load.stop();
    assert_eq!(tally.failures, [""; 0], "{:?}", tally.answers);
    assert!(tally.of("one") > 0 && tally.of("two") > 0, "{:?}", tally.answers);
    platform.drain();
}
