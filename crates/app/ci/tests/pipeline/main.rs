//! From a push to finished jobs: real git, the real API server, real containers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without a harness, which clippy takes for a program"
)]

mod deploy;
mod platform;
mod wrong;

use std::{
    future::Future,
    path::Path,
    pin::Pin,
    process::{Command, ExitCode},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use wharf_ci::api::{NAMESPACE, RunSpec, WORKFLOW_RUNS, create_run};
use wharf_client::Gvr;

use self::platform::{DEADLINE, Platform, WORKFLOW, api, git};

/// Names the folder of a platform that is to be killed.
const CHILD: &str = "WHARF_TEST_CHILD";

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

fn main() -> ExitCode {
    if wharf_runtime::shim_entry() {
        return ExitCode::SUCCESS;
    }
    assert!(rustix::process::geteuid().is_root(), "these tests make real containers: run them as root");
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(folder) = std::env::var_os(CHILD) {
        runtime().block_on(child(Path::new(&folder)));
        return ExitCode::SUCCESS;
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let tests: [(&str, Test); 6] = [
        ("a_push_runs_its_workflow", || Box::pin(a_push_runs_its_workflow())),
        ("steps_fail_are_forgiven_and_cancelled", || Box::pin(steps_fail_are_forgiven_and_cancelled())),
        ("a_killed_platform_leaves_nothing_running", || Box::pin(a_killed_platform_leaves_nothing_running())),
        ("what_is_wrong_is_told_with_its_place", || Box::pin(wrong::what_is_wrong_is_told_with_its_place())),
        ("deploy_applies_manifests", || Box::pin(deploy::deploy_applies_manifests())),
        ("the_sample_is_linted_and_tested", || Box::pin(the_sample_is_linted_and_tested())),
    ];
    for (name, test) in tests {
        if name.contains(&wanted) {
            println!("test {name} ...");
            runtime().block_on(test());
            println!("test {name} ok");
        }
    }
    ExitCode::SUCCESS
}

async fn a_push_runs_its_workflow() {
    let platform = Platform::start().await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pipeline-secrets"},
        "data": {"TOKEN": STANDARD.encode("s3cr3t-token")},
    });
    platform.client.create(&Gvr::fixed("", "v1", "secrets"), NAMESPACE, &secret).await.unwrap();
    let workflow = r#"
name: tests
run-name: "Tests of ${{ github.ref_name }} by ${{ github.event.head_commit.author.name }}"
on: {push: {branches: [main]}}
env: {LEVEL: workflow}
jobs:
  make:
    runs-on: wharf
    container: base/python
    outputs: {version: "${{ steps.v.outputs.version }}", many: "${{ steps.v.outputs.many }}"}
    steps:
      - uses: actions/checkout@v4
      - id: v
        name: Version of ${{ github.ref_name }}
        env: {TOKEN: "${{ secrets.TOKEN }}"}
        run: |
          echo "version=1.$GITHUB_RUN_NUMBER" >> $GITHUB_OUTPUT
          printf 'many<<X\none\ntwo\nX\n' >> $GITHUB_OUTPUT
          echo "FROM_STEP=yes" >> $GITHUB_ENV
          mkdir -p tool && printf '#!/bin/sh\necho tool says $1\n' > tool/mytool && busybox chmod +x tool/mytool
          echo "$PWD/tool" >> $GITHUB_PATH
          echo "the token is $TOKEN, level $LEVEL"
          echo "encoded: $(printf 'user:%s' "$TOKEN" | busybox base64)"
          echo "::warning file=a.py,line=3::careful"
          echo "::add-mask::hidden-word"
          echo "now hidden-word is said"
          echo "to stderr" >&2
          ls -a
      - run: mytool "$FROM_STEP ${{ env.FROM_STEP }} ${{ steps.v.outputs.version }}"
      - run: mkdir -p dist && echo wheel > dist/a.whl
      - uses: actions/upload-artifact@v4
        with: {name: wheels, path: dist, if-no-files-found: error}
      - uses: ./actions/greet
        id: greet
        with: {who: world}
      - run: test "${{ steps.greet.outputs.text }}" = "hello world"
      - if: failure()
        run: echo never
  use:
    needs: make
    runs-on: wharf
    container: {image: base/python, env: {IN_CONTAINER: "1"}}
    strategy: {matrix: {n: [1, 2]}}
    steps:
      - uses: actions/download-artifact@v4
        with: {name: wheels, path: in}
      - run: echo "n=${{ matrix.n }} $(cat in/a.whl) ${{ needs.make.outputs.version }} $IN_CONTAINER"
        working-directory: ./
        shell: sh
"#;
    let action = r#"
name: greet
inputs: {who: {required: true}, greeting: {default: hello}}
outputs: {text: {value: "${{ steps.say.outputs.text }}"}}
runs:
  using: composite
  steps:
    - id: say
      shell: sh
      run: echo "text=${{ inputs.greeting }} ${{ inputs.who }}" >> "$GITHUB_OUTPUT"
"#;
    let shown = platform
        .push(&[(WORKFLOW, workflow), ("actions/greet/action.yml", action), ("a.py", "x = 1\n")])
        .await;
    println!("{shown}");
    for line in [
        "remote: run shop-1: .github/workflows/ci.yml",
        "remote: make | the token is ***, level workflow",
        "remote: make | now *** is said",
        "remote: make | encoded: dXNlcjpz***",
        "remote: make | to stderr",
        "remote: make | # Version of main",
        "remote: make | tool says yes yes 1.1",
        "remote: use.0 | n=1 wheel 1.1 1",
        "remote: use.1 | n=2 wheel 1.1 1",
        "remote: run shop-1 succeeded",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(!shown.contains("s3cr3t") && !shown.contains("never"));
    let run = platform.run("shop-1").await;
    let status = &run["status"];
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(
        (status["title"].as_str(), status["workflowName"].as_str()),
        (Some("Tests of main by A"), Some("tests"))
    );
    let make = &status["jobs"][0];
    assert_eq!(
        (make["conclusion"].as_str(), make["outputs"]["many"].as_str()),
        (Some("success"), Some("one\ntwo"))
    );
    assert_eq!(make["annotations"][0]["file"], "a.py");
    let steps: Vec<&str> =
        make["steps"].as_array().unwrap().iter().map(|s| s["conclusion"].as_str().unwrap()).collect();
    assert_eq!(
        steps,
        ["success", "success", "success", "success", "success", "success", "success", "skipped"]
    );
    assert_eq!(make["steps"][1]["name"], "Version of main");
    assert_eq!(status["jobs"][2]["name"], "use (2)");
    assert!(platform.log(&run, "make").contains(" 2 the token is ***"));
    let repository =
        platform.client.get(&wharf_ci::api::REPOSITORIES, NAMESPACE, "shop").await.unwrap().unwrap();
    assert_eq!(repository["spec"]["description"], "");

    // A wrong workflow is a failed run that says why.
    let shown = platform
        .push(&[(
            WORKFLOW,
            &workflow.replace("runs-on: wharf\n    container: {", "runs-onn: wharf\n    container: {"),
        )])
        .await;
    assert!(
        shown.contains("unknown key 'runs-onn' in the job 'use'") && shown.contains("run shop-2 failed"),
        "{shown}"
    );
    // The first push of a branch counts what its commits changed.
    let paths = "on: {push: {paths: [src/**]}}\njobs: {x: {runs-on: wharf, container: base/python, steps: [{run: 'true'}]}}\n";
    let shown = platform.push(&[(WORKFLOW, paths)]).await;
    assert!(!shown.contains("remote: run shop-3"), "{shown}");
    let work = platform.folder.join("work");
    let url = format!("{}/shop.git", platform.url);
    for (branch, file, starts) in [("docs", "docs/a", false), ("code", "src/a", true)] {
        let path = work.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "x").unwrap();
        git(&work, &["add", "-A"]).await;
        git(&work, &["commit", "-qm", branch]).await;
        let output = git(&work, &["push", &url, &format!("HEAD:{branch}")]).await;
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(shown.contains("run shop-3 succeeded"), starts, "{shown}");
    }
    git(&work, &["reset", "-q", "--hard", "HEAD~4"]).await;
    // A branch that no workflow names starts nothing.
    let output = git(&work, &["push", &format!("{}/shop.git", platform.url), "main:other"]).await;
    assert!(output.status.success());
    assert_eq!(platform.client.get(&WORKFLOW_RUNS, NAMESPACE, "shop-4").await.unwrap(), None);
    platform.end().await;
}

async fn steps_fail_are_forgiven_and_cancelled() {
    let platform = Platform::start().await;
    let workflow = r#"
on: push
jobs:
  fails:
    runs-on: wharf
    container: base/python
    steps:
      - run: exit 3
        continue-on-error: true
        id: forgiven
      - run: test "${{ steps.forgiven.outcome }}/${{ steps.forgiven.conclusion }}" = failure/success
      - run: |
          echo before
          false
          echo after
      - run: echo not me
      - if: always()
        run: echo always ${{ job.status }}
      - run: ln -s /etc/passwd out
        if: failure()
      - uses: actions/upload-artifact@v4
        if: always()
        with: {path: out}
      - run: sleep 60
        timeout-minutes: 0.01
        if: always()
  skipped:
    needs: fails
    runs-on: wharf
    container: base/python
    steps: [{run: echo skipped}]
  unknown:
    runs-on: wharf
    container: base/nothing
    steps: [{run: echo x}]
  late:
    runs-on: wharf
    container: base/python
    timeout-minutes: 0.02
    steps: [{run: sleep 60}]
"#;
    let shown = platform.push(&[(WORKFLOW, workflow)]).await;
    let run = platform.run("shop-1").await;
    println!("{shown}");
    assert_eq!(run["status"]["phase"], "Failed");
    assert_eq!(run["status"]["message"], "failed: fails, unknown, late");
    for line in [
        "fails | before",
        "fails | always failure",
        "the script ended with exit code 3",
        "the step took longer than 0.01 minutes",
        "fails | # Run test \"failure/success\" = failure/success",
        "late | Error: the job took longer than its 'timeout-minutes'",
        "ci.yml:34:16: no image 'base/nothing:latest' in the store",
        "a link leads out of the workspace",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(
        !shown.contains("| after") && !shown.contains("| not me") && !shown.contains("root:x"),
        "{shown}"
    );
    let jobs = &run["status"]["jobs"];
    let conclusions: Vec<&str> =
        jobs.as_array().unwrap().iter().map(|job| job["conclusion"].as_str().unwrap()).collect();
    assert_eq!(conclusions, ["failure", "skipped", "failure", "failure"]);

    // Cancelled from outside while it runs.
    let work = platform.folder.join("work");
    let slow = "on: push\njobs:\n  slow:\n    runs-on: wharf\n    container: base/python\n    steps:\n      - run: sleep 600\n      - if: always()\n        run: echo cleaned up ${{ job.status }}\n";
    std::fs::write(work.join(WORKFLOW), slow).unwrap();
    let pushed = platform.push(&[]);
    let cancel = async {
        platform.until("shop-2", |run| run["status"]["jobs"][0]["steps"][0]["status"] == "in_progress").await;
        assert_eq!(platform.leases().len(), 1, "the job holds its image");
        let body = json!({"spec": {"cancel": true}});
        platform
            .client
            .patch(&WORKFLOW_RUNS, NAMESPACE, "shop-2", None, wharf_client::PatchKind::Merge, &body)
            .await
            .unwrap();
    };
    let (shown, ()) = tokio::join!(pushed, cancel);
    assert!(shown.contains("run shop-2 was cancelled") && shown.contains("cleaned up cancelled"), "{shown}");
    assert_eq!(platform.run("shop-2").await["status"]["phase"], "Cancelled");

    // Actions that are not there are told before anything runs, with their lines.
    let wrong = "on: push\njobs:\n  one:\n    runs-on: wharf\n    container: base/python\n    steps:\n      - run: echo begun\n      - uses: actions/setup-node@v4\n      - uses: actions/checkout@v4\n        with: {depth: 1}\n";
    let shown = platform.push(&[(WORKFLOW, wrong)]).await;
    for line in [
        "ci.yml:8:9: there is no action 'actions/setup-node' here",
        "ci.yml:10:16: actions/checkout has no input 'depth'",
        "hint: known are: ref, path, fetch-depth",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(!shown.contains("| begun"), "{shown}");
    platform.end().await;
}

const SLOW: &str = "on: push\njobs:\n  slow:\n    runs-on: wharf\n    container: base/python\n    steps:\n      - run: echo begun && sleep 600\n";

/// In a process of its own: pushes and follows the run until it is killed.
async fn child(folder: &Path) {
    let platform = Platform::first(folder).await;
    platform.push(&[(WORKFLOW, SLOW)]).await;
}

async fn a_killed_platform_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = Command::new("/proc/self/exe")
        .env(CHILD, folder.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = || {
        let runs = std::fs::read_dir(folder.path().join("ci/runs")).into_iter().flatten().flatten();
        let pods = runs.map(|run| run.path().join("slow")).collect::<Vec<_>>();
        pods.into_iter()
            .find(|job| std::fs::read_to_string(job.join("log")).is_ok_and(|log| log.contains("1 begun")))
    };
    let deadline = std::time::Instant::now() + DEADLINE;
    let job = loop {
        assert!(std::time::Instant::now() < deadline, "the job does not begin");
        match begun() {
            Some(job) => break job,
            None => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(wharf_runtime::PodDir::at(job.join("pod")).has_shim(), "the container outlives the platform");

    let client = api(folder.path()).await;
    let platform = Platform::serve(folder.path(), client).await;
    let run = platform.run("shop-1").await;
    assert_eq!(
        (run["status"]["phase"].as_str(), run["status"]["reason"].as_str()),
        (Some("Interrupted"), Some("Interrupted"))
    );
    assert_eq!(run["status"]["jobs"][0]["reason"], "Interrupted");
    assert!(!job.join("pod").exists() && job.join("log").exists());

    let spec: RunSpec = serde_json::from_value(run["spec"].clone()).unwrap();
    let again = create_run(&platform.client, RunSpec { rerun_of: "shop-1".into(), attempt: 2, ..spec })
        .await
        .unwrap();
    assert_eq!(again["metadata"]["name"], "shop-2");
    platform.until("shop-2", |run| run["status"]["jobs"][0]["steps"][0]["status"] == "in_progress").await;
    // A platform that stops in order interrupts its runs by itself.
    platform.ci.stop().await;
    assert_eq!(platform.run("shop-2").await["status"]["phase"], "Interrupted");
    platform.end().await;
}

/// The jobs of `examples/shop` up to the image, as they stand in its workflow.
async fn the_sample_is_linted_and_tested() {
    let platform = Platform::start().await;
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples/shop");
    let work = platform.folder.join("work");
    let status = Command::new("cp").arg("-a").args([&sample, &work]).status().unwrap();
    assert!(status.success());
    git(&work, &["init", "-q", "-b", "main"]).await;
    let workflow = std::fs::read_to_string(work.join(WORKFLOW)).unwrap();
    let (first, _) = workflow.split_once("\n  image:\n").unwrap();
    let shown = platform.push(&[(WORKFLOW, first)]).await;
    println!("{shown}");
    assert!(shown.contains("run shop-1 succeeded"), "{shown}");
    platform.end().await;
}
