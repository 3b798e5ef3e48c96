//! From a push to finished jobs: real git, the real API server, real containers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without a harness, which clippy takes for a program"
)]

use std::{
    future::Future,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    pin::Pin,
    process::{Command, ExitCode, Output},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::sync::watch;
use wharf_apiserver::{ApiServer, Identity, Ranges, SigningKey};
use wharf_ci::{
    Ci,
    api::{NAMESPACE, RunSpec, WORKFLOW_RUNS, create_run},
    sandbox::Containers,
    services::Services,
};
use wharf_client::{Client, Gvr};
use wharf_gitserver::{GitServer, Repositories};
use wharf_http::Listener;
use wharf_image::{Compression, ImageConfig, Reference, Store};
use wharf_runtime::ShimRuntime;

const DEADLINE: Duration = Duration::from_secs(60);
/// Names the folder of a platform that is to be killed.
const CHILD: &str = "WHARF_TEST_CHILD";
const CRDS: &str = include_str!("../../wharf/src/crds/ci.yaml");

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
        ("what_is_wrong_is_told_with_its_place", || Box::pin(what_is_wrong_is_told_with_its_place())),
        ("deploy_applies_manifests", || Box::pin(deploy_applies_manifests())),
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

struct Platform {
    folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    client: Client,
    ci: Arc<Ci>,
    url: String,
    stop: watch::Sender<bool>,
}

impl Platform {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let platform = Self::first(folder.path()).await;
        Self { _temporary: Some(folder), ..platform }
    }

    /// A platform on an empty folder.
    async fn first(folder: &Path) -> Self {
        let client = api(folder).await;
        for crd in wharf_api::codec::yaml_to_values(CRDS).unwrap() {
            let crds = Gvr::fixed("apiextensions.k8s.io", "v1", "customresourcedefinitions");
            client.create(&crds, "", &crd).await.unwrap();
        }
        image(folder);
        Self::serve(folder, client).await
    }

    async fn serve(folder: &Path, client: Client) -> Self {
        let data = folder.to_owned();
        let repositories = Repositories::open(data.join("git")).unwrap();
        let listener = Listener::tcp("127.0.0.1:0".parse().unwrap(), None).await.unwrap();
        let url = format!("http://{}/git", listener.address().unwrap());
        let cgroup = cgroup(&data);
        let runtime = Arc::new(ShimRuntime::default());
        let ci = Ci::start(wharf_ci::Config {
            sandboxes: Arc::new(Containers::new(runtime, &data, cgroup, None)),
            data,
            client: client.clone(),
            repositories: repositories.clone(),
            services: Services { ingress: Some("http://127.0.0.1:8080".into()), ..Services::default() },
            git_url: url.clone(),
            jobs_at_once: 3,
        })
        .await
        .unwrap();
        let server = GitServer::new(wharf_gitserver::Config {
            repositories,
            prefix: "/git/".into(),
            create_on_push: true,
            max_push: 64 << 20,
            hook: ci.hook(),
        });
        let (stop, stopping) = watch::channel(false);
        let handler: wharf_http::Handler =
            Arc::new(move |request| Box::pin(Arc::clone(&server).handle(request)));
        tokio::spawn(listener.serve(handler, stopping));
        Self { folder: folder.to_owned(), _temporary: None, client, ci, url, stop }
    }

    /// Commits files and pushes them; gives what the terminal showed.
    async fn push(&self, files: &[(&str, &str)]) -> String {
        let work = self.folder.join("work");
        if !work.exists() {
            std::fs::create_dir(&work).unwrap();
            git(&work, &["init", "-q", "-b", "main"]).await;
        }
        for (name, text) in files {
            let path = work.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        git(&work, &["add", "-A"]).await;
        git(&work, &["commit", "-qm", "a change"]).await;
        let output = git(&work, &["push", &format!("{}/shop.git", self.url), "main"]).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        text
    }

    async fn run(&self, name: &str) -> Value {
        self.client.get(&WORKFLOW_RUNS, NAMESPACE, name).await.unwrap().unwrap()
    }

    /// Waits until a run fits.
    async fn until(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut changes = self.ci.informers()[1].subscribe();
        let wait = async {
            loop {
                let change = changes.recv().await.unwrap();
                if let Some(run) = change.new.filter(|run| run["metadata"]["name"] == name && fits(run)) {
                    return (*run).clone();
                }
            }
        };
        match tokio::time::timeout(DEADLINE, wait).await {
            Ok(run) => run,
            Err(_) => panic!("in vain: {:#}", self.run(name).await["status"]),
        }
    }

    fn log(&self, run: &Value, job: &str) -> String {
        let path = self.ci.logs().path(run["metadata"]["uid"].as_str().unwrap(), job);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// What jobs hold of the image store.
    fn leases(&self) -> Vec<String> {
        Store::open(&self.folder).unwrap().leases().unwrap()
    }

    async fn end(self) {
        self.ci.stop().await;
        assert_eq!(self.leases(), [""; 0]);
        self.stop.send_replace(true);
        let left = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = self.folder.to_string_lossy().into_owned();
        for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
            let group = controller.unwrap().path().join(cgroup(&self.folder));
            assert!(
                !group.exists() || std::fs::remove_dir(&group).is_ok(),
                "{} is not empty",
                group.display()
            );
        }
        assert!(!left.lines().any(|line| line.contains(&folder)), "mounts are left: {left}");
    }
}

fn cgroup(folder: &Path) -> String {
    format!("wharf-test{}", folder.file_name().unwrap().to_string_lossy())
}

async fn api(data: &Path) -> Client {
    let store =
        wharf_state::Embedded::open(&data.join("state.redb"), wharf_state::Options::default()).unwrap();
    let server = ApiServer::open(wharf_apiserver::Config {
        store: Arc::new(store),
        clock: Arc::new(wharf_base::SystemClock),
        signing_key: SigningKey::open(&SigningKey::generate().unwrap()).unwrap(),
        ranges: Ranges::new([10, 96, 0, 0].into(), 16, 30000..=32767),
        authority: String::new(),
        front_proxy: None,
    })
    .await
    .unwrap();
    Client::in_process(Arc::new(move |request| {
        let server = Arc::clone(&server);
        Box::pin(async move {
            let mut request = request.map(wharf_http::full);
            request.extensions_mut().insert(Identity::system());
            server.handle(request).await
        })
    }))
}

/// An image `base/python` of this machine's busybox and, where it is there, python3.
fn image(data: &Path) {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let busybox = Path::new("/usr/bin/busybox");
    assert!(busybox.exists(), "these tests need /usr/bin/busybox: apt-get install -y busybox-static");
    for folder in ["bin", "usr/bin", "etc", "tmp", "proc", "sys", "dev", "root", "github"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "ls", "env", "sleep", "mkdir", "ln", "rm", "test", "printf", "true", "false",
        "grep", "pwd", "uname",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    let sample = std::env::args().any(|argument| argument.contains("sample")) || std::env::args().len() == 1;
    if sample && std::env::var_os(CHILD).is_none() {
        python(root);
    }
    let store = Store::open(data).unwrap();
    let layer = store.add_layer_from(root, Compression::None, None).unwrap();
    let image = store.put_image(ImageConfig::for_host(), &[layer]).unwrap();
    store.tag(&["base/python:latest".parse::<Reference>().unwrap()], &image).unwrap();
}

/// Copies python3, its standard library and the shared objects of both.
fn python(root: &Path) {
    let copy = |from: &Path| {
        let to = root.join(from.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        if !to.exists() {
            std::fs::copy(from, to).unwrap();
        }
    };
    let script = "import sys, sysconfig, glob; print(sys.executable); print(sysconfig.get_path('stdlib')); \
                  print('\\n'.join(glob.glob(sysconfig.get_config_var('DESTSHARED') + '/*.so')))";
    let output = Command::new("/usr/bin/python3").args(["-c", script]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let program = PathBuf::from(lines.next().unwrap()).canonicalize().unwrap();
    let library = PathBuf::from(lines.next().unwrap());
    let mut objects = vec![program.clone()];
    objects.extend(lines.filter(|line| !line.is_empty()).map(PathBuf::from));
    let place = root.join(library.strip_prefix("/").unwrap());
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    let status = Command::new("cp").arg("-a").args([&library, &place]).status().unwrap();
    assert!(status.success());
    for name in ["test", "idlelib", "tkinter", "lib2to3", "dist-packages", "site-packages", "ensurepip"] {
        let _ = std::fs::remove_dir_all(root.join(library.strip_prefix("/").unwrap()).join(name));
    }
    let linked = Command::new("ldd").args(&objects).output().unwrap();
    for word in
        String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let path = Path::new(word.trim_end_matches(':'));
        if path.exists() {
            copy(path);
        }
    }
    copy(&program);
    let link = root.join("usr/bin/python3");
    if !link.exists() {
        symlink(&program, link).unwrap();
    }
}

async fn git(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    command.current_dir(folder).args(["-c", "user.name=A", "-c", "user.email=a@x"]).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

const WORKFLOW: &str = ".github/workflows/ci.yml";

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

async fn deploy_applies_manifests() {
    let platform = Platform::start().await;
    let workflow = r#"
on: push
jobs:
  deploy:
    runs-on: wharf
    container: base/python
    environment: {name: staging, url: "${{ steps.d.outputs.url }}"}
    steps:
      - uses: actions/checkout@v4
      - uses: wharf/deploy@v1
        id: d
        with: {manifests: deploy, namespace: shop-staging, image: "shop:new", wait: WAIT}
"#;
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {selector: {app: shop}, ports: [{port: 80}]}\n";
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  selector: {matchLabels: {app: shop}}\n  template:\n    metadata: {labels: {app: shop}}\n    spec: {containers: [{name: shop, image: 'shop:old'}]}\n";
    let files = [("deploy/10-config.yaml", config), ("deploy/20-deployment.yaml", deployment)];
    let shown =
        platform.push(&[&files[..], &[(WORKFLOW, &workflow.replace("WAIT", "false"))]].concat()).await;
    assert!(shown.contains("run shop-1 succeeded"), "{shown}");
    let found = platform
        .client
        .get(&wharf_client::action::DEPLOYMENTS, "shop-staging", "shop")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(found.pointer("/spec/template/spec/containers/0/image").unwrap(), "shop:new");
    let job = &platform.run("shop-1").await["status"]["jobs"][0];
    assert_eq!(
        (job["environment"].as_str(), job["url"].as_str()),
        (Some("staging"), Some("http://127.0.0.1:8080"))
    );

    // Waiting ends when the status says so; here the test plays the controller.
    let client = platform.client.clone();
    let play = async {
        platform.until("shop-2", |run| run["status"]["jobs"][0]["steps"][1]["status"] == "in_progress").await;
        let deployments = wharf_client::action::DEPLOYMENTS;
        let informer = wharf_client::Informer::start(
            client.clone(),
            deployments.clone(),
            wharf_client::ListParams::namespace("shop-staging"),
        );
        let mut changes = informer.subscribe();
        loop {
            let object = changes.recv().await.unwrap().new.unwrap();
            if object.pointer("/spec/replicas") == Some(&json!(2)) {
                let status = json!({"observedGeneration": object["metadata"]["generation"], "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2});
                client.patch_status(&deployments, "shop-staging", "shop", &status).await.unwrap();
                return;
            }
        }
    };
    let two = deployment.replace("spec:\n  selector", "spec:\n  replicas: 2\n  selector");
    let changed =
        [("deploy/20-deployment.yaml", two.as_str()), (WORKFLOW, &workflow.replace("WAIT", "true"))];
    let (shown, ()) = tokio::join!(platform.push(&changed), play);
    assert!(
        shown.contains("Deployment shop: rolled out") && shown.contains("run shop-2 succeeded"),
        "{shown}"
    );
    let shown = platform.push(&[("deploy/20-deployment.yaml", &two.replace("apps/v1", "apps/v9"))]).await;
    assert!(shown.contains("Deployment shop: the cluster does not serve apps/v9"), "{shown}");

    // Pods that do not come up say why: soon where waiting cannot mend it, else at the end.
    let sick = |reason: &str, message: &str| {
        json!({"phase": "Pending", "containerStatuses": [{"name": "shop", "image": "x", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]})
    };
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    platform.client.create(&Gvr::fixed("", "v1", "serviceaccounts"), "shop-staging", &account).await.unwrap();
    let pods = wharf_client::action::PODS;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop-1", "labels": {"app": "shop"}},
        "spec": {"containers": [{"name": "shop", "image": "shop:new"}]}});
    platform.client.create(&pods, "shop-staging", &pod).await.unwrap();
    for (reason, message, minutes, three, expected) in [
        (
            "ErrImagePull",
            "no such image",
            "0.05",
            "3",
            "Deployment shop was not rolled out within 0.05 minutes: the change has not been taken up yet: the pod \
             shop-1, container shop: ErrImagePull: no such image",
        ),
        (
            "InvalidImageName",
            "it is none",
            "9",
            "4",
            "wharf/deploy: Deployment shop: the pod shop-1, container shop: InvalidImageName: it is none",
        ),
    ] {
        let status = sick(reason, message);
        platform.client.patch_status(&pods, "shop-staging", "shop-1", &status).await.unwrap();
        let waits = workflow.replace("WAIT", &format!("true, timeout-minutes: {minutes}"));
        let more = two.replace("replicas: 2", &format!("replicas: {three}"));
        let shown = platform.push(&[("deploy/20-deployment.yaml", &more), (WORKFLOW, &waits)]).await;
        let pushed: String = shown.replace('\n', " ");
        assert!(pushed.contains(expected), "{expected}\n{shown}");
        assert!(shown.contains("  hint: "), "{shown}");
    }

    // A slip of the pen is named with its file; what is kept and not acted on is told of.
    let balanced = config.replace("spec: {selector", "spec: {type: LoadBalancer, selector");
    let slip = two.replace("replicas: 2", "replicaz: 3");
    let shown = platform
        .push(&[("deploy/10-config.yaml", balanced.as_str()), ("deploy/20-deployment.yaml", &slip)])
        .await;
    for line in
        ["warning: deploy/10-config.yaml: Service shop: ", "cannot apply Deployment shop: ", "spec.replicaz"]
    {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    platform.end().await;
}

const WRONG: &str = "on: push
jobs:
  one:
    runs-on: wharf
    container: base/python
    steps:
      - uses: actions/checkout@v4
";

/// One error each: the file, the line, what, and what to do.
async fn what_is_wrong_is_told_with_its_place() {
    let platform = Platform::start().await;
    let workflow = |steps: &str| format!("{WRONG}{steps}");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
    let composite = "inputs: {to: {required: true}}\nruns:\n  using: composite\n  steps:\n    - run: exit 0\n      shell: sh\n";
    let inner =
        "runs:\n  using: composite\n  steps:\n    - run: echo ${{ fromJSON('{') }}\n      shell: sh\n";
    let deploy = "      - uses: wharf/deploy@v1\n        with: {manifests: deploy}\n";
    let cases: [(&str, String, &[&str]); 17] = [
        // Told before anything runs.
        (
            "labels",
            workflow("").replace("runs-on: wharf", "runs-on: windows-latest"),
            &[
                "failed: .github/workflows/ci.yml:4:14: no runner has the label 'windows-latest'",
                "hint: write 'runs-on: wharf'",
            ],
        ),
        (
            "no image",
            workflow("").replace("    container: base/python\n", ""),
            &[
                "failed: .github/workflows/ci.yml:3:3: the job 'one' names no image",
                "hint: add 'container: IMAGE'",
            ],
        ),
        (
            "an input of a local action",
            workflow("      - uses: ./actions/good\n"),
            &[
                "failed: .github/workflows/ci.yml:8:9: ./actions/good needs the input 'to'",
                "hint: add 'to: VALUE' under 'with'",
            ],
        ),
        (
            "a local action that is none",
            workflow("      - uses: ./actions/bad\n"),
            &["actions/bad/action.yml:4:3: unknown key 'stesp' in 'runs'", "hint: did you mean 'steps'?"],
        ),
        // Told when their turn comes.
        (
            "an image that is not there",
            workflow("").replace("base/python", "base/pyhton"),
            &[
                "Error: .github/workflows/ci.yml:5:16: no image 'base/pyhton:latest' in the store",
                "hint: did you mean 'base/python",
            ],
        ),
        (
            "a local action that is not there",
            workflow("      - uses: ./actions/godo\n"),
            &[
                "Error: .github/workflows/ci.yml:8:9: there is no action.yml in ./actions/godo",
                "hint: did you mean 'actions/good'?",
            ],
        ),
        (
            "a local action without checkout",
            WRONG.replace("actions/checkout@v4", "./actions/inner"),
            &[
                "Error: .github/workflows/ci.yml:7:9: there is no action.yml in ./actions/inner",
                "hint: the workspace is empty: add the step 'uses: actions/checkout@v4'",
            ],
        ),
        (
            "an expression in a local action",
            workflow("      - uses: ./actions/inner\n"),
            &["Error: actions/inner/action.yml:4:7: 'run': "],
        ),
        (
            "a folder of manifests that is not there",
            workflow(&deploy.replace("deploy}", "dploy}")),
            &[
                "Error: .github/workflows/ci.yml:8:9: wharf/deploy: cannot read the folder dploy",
                "hint: did you mean 'deploy'?",
            ],
        ),
        (
            "a folder of manifests that is like no other",
            workflow(&deploy.replace("deploy}", "nope}")),
            &[
                "cannot read the folder nope",
                "hint: there is no 'nope' in the workspace, only actions, case, deploy",
            ],
        ),
        (
            "an artifact that is not there",
            workflow(
                "      - run: touch wheel\n      - uses: actions/upload-artifact@v4\n        with: {name: wheels, path: wheel}\n      - uses: actions/download-artifact@v4\n        with: {name: dist}\n",
            ),
            &["the run has no artifact 'dist'", "hint: the run has: wheels"],
        ),
        (
            "an artifact without files",
            workflow(
                "      - uses: actions/upload-artifact@v4\n        with: {path: dist/*.whl, if-no-files-found: error}\n",
            ),
            &[
                "no files were found at dist/*.whl",
                "hint: there is no 'dist' in the workspace, only actions, case, deploy",
            ],
        ),
        (
            "an artifact that has no name",
            workflow("      - uses: actions/upload-artifact@v4\n        with: {name: a/b, path: case}\n"),
            &["'a/b' cannot be the name of an artifact", "hint: begin with a letter"],
        ),
        (
            "a manifest that is no YAML",
            workflow(deploy),
            &[
                "ci.yml:8:9: wharf/deploy: deploy/b.yaml:3:10: this is not YAML",
                "hint: put a text that holds ': ' into quotes",
            ],
        ),
        (
            "a kind nobody serves",
            workflow(deploy),
            &["deploy/b.yaml:3:1: v1 has no kind Deploymnet", "hint: did you mean"],
        ),
        (
            "a kind of another version",
            workflow(deploy),
            &["deploy/b.yaml:1:1: v1 has no kind Deployment", "hint: Deployment is in apps/v1"],
        ),
        (
            "an unknown field",
            workflow(deploy),
            &[
                "deploy/b.yaml:4:12: cannot apply ConfigMap b: ",
                "metadata.lables",
                "hint: 'kubectl explain configmaps.metadata'",
            ],
        ),
    ];
    for (what, workflow, expected) in cases {
        let second = match what {
            "a manifest that is no YAML" => "kind: A\nmetadata:\n  name: a: b\n",
            "a kind nobody serves" => "# two\napiVersion: v1\nkind: Deploymnet\nmetadata: {name: b}\n",
            "a kind of another version" => "kind: Deployment\napiVersion: v1\nmetadata: {name: b}\n",
            "an unknown field" => "# two\napiVersion: v1\nkind: ConfigMap\nmetadata: {lables: {}, name: b}\n",
            _ => good,
        };
        let shown = platform
            .push(&[
                (WORKFLOW, &workflow),
                ("actions/good/action.yml", composite),
                ("actions/bad/action.yml", &composite.replace("steps", "stesp")),
                ("actions/inner/action.yml", inner),
                ("deploy/a.yaml", good),
                ("deploy/b.yaml", second),
                ("case", what),
            ])
            .await;
        for part in expected {
            assert!(shown.contains(part), "{what}: {part}\n{shown}");
        }
    }
    // Nothing is applied when something is wrong.
    let maps = Gvr::fixed("", "v1", "configmaps");
    assert_eq!(platform.client.get(&maps, "default", "a").await.unwrap(), None);
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
