//! A platform of its own for each story: an API server, a git server and the runner, with an image for the jobs.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::sync::watch;
use wharf_apiserver::{ApiServer, Identity, Ranges, SigningKey};
use wharf_ci::{
    Ci,
    api::{NAMESPACE, WORKFLOW_RUNS},
    sandbox::Containers,
    services::Services,
};
use wharf_client::{Client, Gvr};
use wharf_gitserver::{GitServer, Repositories};
use wharf_http::Listener;
use wharf_image::{Compression, ImageConfig, Reference, Store};
use wharf_runtime::ShimRuntime;

use crate::CHILD;

/// How long anything may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const CRDS: &str = include_str!("../../../wharf/src/crds/ci.yaml");
/// The file of the workflow that is pushed.
pub(crate) const WORKFLOW: &str = ".github/workflows/ci.yml";

pub(crate) struct Platform {
    pub(crate) folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    pub(crate) client: Client,
    pub(crate) ci: Arc<Ci>,
    pub(crate) url: String,
    stop: watch::Sender<bool>,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let platform = Self::first(folder.path()).await;
        Self { _temporary: Some(folder), ..platform }
    }

    /// A platform on an empty folder.
    pub(crate) async fn first(folder: &Path) -> Self {
        let client = api(folder).await;
        for crd in wharf_api::codec::yaml_to_values(CRDS).unwrap() {
            let crds = Gvr::fixed("apiextensions.k8s.io", "v1", "customresourcedefinitions");
            client.create(&crds, "", &crd).await.unwrap();
        }
        image(folder);
        Self::serve(folder, client).await
    }

    pub(crate) async fn serve(folder: &Path, client: Client) -> Self {
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
    pub(crate) async fn push(&self, files: &[(&str, &str)]) -> String {
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

    pub(crate) async fn run(&self, name: &str) -> Value {
        self.client.get(&WORKFLOW_RUNS, NAMESPACE, name).await.unwrap().unwrap()
    }

    /// Waits until a run fits.
    pub(crate) async fn until(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Value {
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

    pub(crate) fn log(&self, run: &Value, job: &str) -> String {
        let path = self.ci.logs().path(run["metadata"]["uid"].as_str().unwrap(), job);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// What jobs hold of the image store.
    pub(crate) fn leases(&self) -> Vec<String> {
        Store::open(&self.folder).unwrap().leases().unwrap()
    }

    pub(crate) async fn end(self) {
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

pub(crate) async fn api(data: &Path) -> Client {
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

pub(crate) async fn git(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("git");
    command.current_dir(folder).args(["-c", "user.name=A", "-c", "user.email=a@x"]).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}
