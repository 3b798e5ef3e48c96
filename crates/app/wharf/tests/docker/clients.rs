//! Other clients of the Docker Engine API: Compose, the SDK for Python, testcontainers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::Docker;
use crate::support::{Platform, output_of, until};

/// The image the clients' files name.
const BASE: &str = "base";

fn folder() -> PathBuf {
    let given = std::env::var_os("WHARF_DOCKER_CLIENTS");
    given
        .expect("`cargo xtask test` sets WHARF_DOCKER_CLIENTS, a folder with Compose and Python's clients")
        .into()
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/docker/clients")
}

impl Docker {
    /// A program that finds the platform and Python's clients.
    fn client(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("DOCKER_HOST", &self.0)
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CONFIG", "/nonexistent")
            .env("PYTHONPATH", folder())
            // The reaper's image comes from a registry.
            .env("TESTCONTAINERS_RYUK_DISABLED", "true");
        command
    }
}

pub(crate) fn compose(docker: &Docker, platform: &Platform) {
    output_of(platform.wharf().args(["image", "tag", crate::support::IMAGE, BASE]));
    let project = platform.data().join("project");
    fs::create_dir_all(project.join("web")).unwrap();
    fs::create_dir(project.join("conf")).unwrap();
    fs::copy(files().join("compose.yaml"), project.join("compose.yaml")).unwrap();
    fs::copy(files().join("web.py"), project.join("web/web.py")).unwrap();
    fs::write(project.join("token"), "secret").unwrap();
    let dockerfile = "FROM base\nCOPY web.py /web.py\nEXPOSE 8080\nCMD [\"python3\", \"/web.py\"]\n";
    fs::write(project.join("web/Dockerfile"), dockerfile).unwrap();
    let compose = |words: &[&str]| {
        let mut command = docker.client(folder().join("compose/docker-compose"));
        output_of(command.args(words).current_dir(&project)).trim().to_owned()
    };
    compose(&["up", "-d", "--wait"]);
    let answer = |expected: &str| {
        until("the service answers", || {
            let at = compose(&["port", "web", "8080"]);
            let output =
                Command::new("curl").args(["-s", "--max-time", "5", &format!("http://{at}/")]).output();
            match String::from_utf8_lossy(&output.unwrap().stdout).as_ref() {
                said if said == expected => Ok(()),
                other => Err(other.to_owned()),
            }
        });
    };
    answer("hello 200");
    assert!(compose(&["ps", "--format", "{{.Name}} {{.Health}}"]).contains("shop-store-1 healthy"));
    assert_eq!(compose(&["exec", "-T", "store", "cat", "/run/secrets/token"]), "secret");
    assert_eq!(compose(&["exec", "-T", "store", "cat", "/etc/settings"]), "a=b");
    assert!(compose(&["logs", "--no-color", "store"]).contains("GET / HTTP"));
    assert_eq!(compose(&["run", "--rm", "once"]), "once");
    compose(&["restart", "-t", "0", "web"]);
    compose(&["up", "-d", "--force-recreate", "--wait", "-t", "0"]);
    answer("hello 200");
    compose(&["stop", "-t", "0"]);
    compose(&["start"]);
    answer("hello 200");
    compose(&["down", "-v", "-t", "0"]);
    assert_eq!(docker.said(&["ps", "-aq"]), "");
    assert_eq!(docker.said(&["network", "ls", "-q", "--filter", "type=custom"]), "");
    assert_eq!(docker.said(&["volume", "ls", "-q"]), "");
}

pub(crate) fn python(docker: &Docker) {
    for program in ["sdk.py", "containers.py"] {
        output_of(docker.client("python3").arg(files().join(program)));
    }
    assert_eq!(docker.said(&["ps", "-aq"]), "");
}
