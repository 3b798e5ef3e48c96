//! A store with a small base image, and builds in it.

pub(crate) mod server;

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use wharf_build::{BuildRequest, BuildResult, Builder, Context, Error, Progress};
use wharf_image::{Compression, ImageConfig, ResolvedImage, Store, View};
use wharf_runtime::ShimRuntime;

/// A data folder of its own.
pub(crate) struct Lab {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) images: Arc<Store>,
    pub(crate) builder: Builder,
    pub(crate) output: Mutex<Vec<String>>,
}

/// Every lab has the same base image, whenever it is made.
const BASE_TIME: i64 = 1_767_225_600;
const APPLETS: [&str; 27] = [
    "sh", "true", "false", "cat", "echo", "ls", "id", "pwd", "env", "sleep", "stat", "touch", "mkdir",
    "grep", "test", "rm", "wc", "printf", "ln", "chmod", "mv", "cp", "find", "sort", "tar", "adduser",
    "addgroup",
];

impl Lab {
    pub(crate) fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make real containers: run them as root");
        let folder = tempfile::tempdir().unwrap();
        let images = Arc::new(Store::open(folder.path().join("images")).unwrap());
        let builder = open(folder.path(), &images);
        let lab = Self { folder, images, builder, output: Mutex::default() };
        lab.make_base();
        lab
    }

    /// Another builder in the same folder, as after a restart.
    pub(crate) fn reopen(&self) -> Builder {
        open(self.folder.path(), &self.images)
    }

    fn make_base(&self) {
        let busybox = Path::new("/usr/bin/busybox");
        let busybox = if busybox.exists() { busybox } else { Path::new("/bin/busybox") };
        assert!(busybox.exists(), "these tests need busybox: apt-get install -y busybox-static");
        let scratch = self.images.scratch().unwrap();
        let root = scratch.upper();
        for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::copy(busybox, root.join("bin/busybox")).unwrap();
        for name in APPLETS {
            symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n")
            .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\napp:x:1001:\n").unwrap();
        let layer = self.images.commit_scratch(scratch, Compression::Gzip, Some(BASE_TIME)).unwrap().unwrap();
        let mut config = ImageConfig::for_host();
        config.created = Some("2026-01-01T00:00:00Z".into());
        config.config.env = vec!["PATH=/bin".into()];
        config.config.cmd = Some(vec!["sh".into()]);
        config.config.on_build = Vec::new();
        let image = self.images.put_image(config, &[layer]).unwrap();
        self.images.tag(&["base/busybox".parse().unwrap()], &image).unwrap();
    }

    /// A context folder of its own with these files.
    pub(crate) fn context(&self, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.folder.path().join(wharf_base::random_hex(6));
        fs::create_dir(&folder).unwrap();
        for (name, content) in files {
            write(&folder, name, content);
        }
        folder
    }

    pub(crate) fn build(&self, context: &Path) -> Result<BuildResult, Error> {
        self.build_with(context, |_| {})
    }

    pub(crate) fn build_with(
        &self,
        context: &Path,
        change: impl FnOnce(&mut BuildRequest),
    ) -> Result<BuildResult, Error> {
        let mut request = BuildRequest::new(Context::Folder(context.to_owned()));
        change(&mut request);
        self.output.lock().unwrap().clear();
        self.builder.build(request, |progress| {
            if let Progress::Output { line, .. } = progress {
                self.output.lock().unwrap().push(line);
            }
        })
    }

    /// Builds one Dockerfile without a context and gives the image.
    pub(crate) fn image(&self, context: &Path) -> ResolvedImage {
        let built =
            self.build(context).unwrap_or_else(|error| panic!("{error}\n{:?}", self.output.lock().unwrap()));
        self.images.resolve_descriptor(&built.manifest).unwrap()
    }

    pub(crate) fn output(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }
}

fn open(folder: &Path, images: &Arc<Store>) -> Builder {
    let runtime = Arc::new(ShimRuntime::new(env!("CARGO_BIN_EXE_wharf-build-shim")));
    Builder::open(images.clone(), folder.join("build-cache"), runtime).unwrap()
}

/// Writes a file of a context, with the folders it is in.
pub(crate) fn write(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The content of a file of an image; `None` when there is none.
pub(crate) fn read(image: &ResolvedImage, path: &str) -> Option<String> {
    let view = View::overlay(&image.lower_dirs).unwrap();
    view.read_file(Path::new(path), 1 << 20).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Owner, group and mode of a file of an image.
pub(crate) fn owner(image: &ResolvedImage, path: &str) -> (u32, u32, u32) {
    let view = View::overlay(&image.lower_dirs).unwrap();
    let stat = view.find(Path::new(path), false).unwrap().node.unwrap_or_else(|| panic!("no {path}")).stat;
    (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777)
}

/// The names of the steps that ran.
pub(crate) fn ran(result: &BuildResult) -> Vec<&str> {
    result.steps.iter().filter(|step| !step.cached).map(|step| step.name.as_str()).collect()
}
