//! Registries with users, certificates and mirrors, by the docker CLI and curl.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::Docker;
use crate::support::{IMAGE, Platform, output_of};

/// `htpasswd -Bbn u secret` of Apache.
const USERS: &str = "# people\nu:$2y$05$Zq1kN0m3Vb7sD9xTgYhJweIe47DavicVC90LxL6EvviDBjYOhyR2y\n";

impl Docker {
    /// The CLI with a folder of its own for what `docker login` stores.
    fn at(&self, config: &std::path::Path, words: &[&str], input: &str) -> (bool, String) {
        use std::io::Write as _;
        let mut command = self.command(words);
        command.env("DOCKER_CONFIG", config);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

/// What was pushed to the platform's own registry stays there when the image is removed or becomes another.
pub(crate) fn pushed_images_stay() {
    let own = Platform::start();
    let docker = Docker::of(&own);
    let name = format!("{}/copy:1", own.address("registry"));
    docker.said(&["tag", IMAGE, &name]);
    docker.said(&["push", "-q", &name]);
    docker.said(&["rmi", &name]);
    let (done, said) = docker.at(own.data(), &["image", "inspect", &name], "");
    assert!(!done && said.contains("o such image"), "{said}");
    docker.said(&["pull", "-q", &name]);
    let id = docker.said(&["image", "inspect", "-f", "{{.Id}}", &name]);
    assert_eq!(docker.said(&["run", "--rm", &name, "echo", "hi"]), "hi");
    // Another image by this name here is not another one there.
    docker.said(&["create", "--name", "changed", &name]);
    docker.said(&["commit", "changed", &name]);
    docker.said(&["rm", "changed"]);
    assert_ne!(docker.said(&["image", "inspect", "-f", "{{.Id}}", &name]), id);
    docker.said(&["pull", "-q", &name]);
    assert_eq!(docker.said(&["image", "inspect", "-f", "{{.Id}}", &name]), id);
    docker.said(&["rmi", "-f", &name]);
    docker.said(&["image", "prune", "-af"]);
    docker.said(&["pull", "-q", &name]);
    let removed = own.wharf().args(["image", "rm", "--registry", &name]).output().unwrap();
    let said = String::from_utf8_lossy(&removed.stdout).into_owned();
    assert!(said.contains("Removed from the registry: copy:1"), "{said}");
    let (done, said) = docker.at(own.data(), &["pull", &name], "");
    assert!(!done, "{said}");
    own.drain();
}

pub(crate) fn users_over_tls() {
    let files = tempfile::tempdir().unwrap();
    let users = files.path().join("htpasswd");
    fs::write(&users, USERS).unwrap();
    let htpasswd = users.to_str().unwrap();
    let own = Platform::start_with(&["--registry-htpasswd", htpasswd, "--registry-listen", "127.0.0.1:0"]);
    let (address, plain) = (own.address("registry_tls"), own.address("registry"));
    let authority = own.data().join("pki/ca.crt");
    let status = |url: &str, who: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--cacert"])
            .arg(&authority);
        if !who.is_empty() {
            curl.args(["-u", who]);
        }
        output_of(curl.arg(url))
    };
    for base in [format!("https://{address}"), format!("http://{plain}")] {
        for (who, expected) in
            [("", "401"), ("u:wrong", "401"), ("nobody:secret", "401"), ("u:secret", "200")]
        {
            assert_eq!(status(&format!("{base}/v2/"), who), expected, "{base} {who}");
        }
    }

    // Another machine's docker: the certificate, then the password, then all of it works.
    let other = Platform::start_with(&["--registry-pull-through"]);
    let docker = Docker::of(&other);
    let config = files.path().join("docker");
    let image = format!("{address}/team/app:1");
    docker.said(&["tag", IMAGE, &image]);
    let login = ["login", "-u", "u", "--password-stdin", &address];
    let folder = other.data().join("certs.d").join(&address);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("hosts.toml"), format!("server = 'https://{address}'\n")).unwrap();
    let (done, said) = docker.at(&config, &login, "secret");
    assert!(!done && said.contains("UnknownIssuer"), "{said}");
    fs::write(
        folder.join("hosts.toml"),
        format!("server = 'https://{address}'\nca = '{}'\n", authority.display()),
    )
    .unwrap();
    let (done, said) = docker.at(&config, &login, "wrong");
    assert!(
        !done
            && said
                .contains("does not let this user in (401 Unauthorized: the user or the password is wrong)"),
        "{said}"
    );
    let (done, said) = docker.at(&config, &["push", &image], "");
    assert!(!done && said.contains("docker login"), "{said}");
    let (done, said) = docker.at(&config, &login, "secret");
    assert!(done && said.contains("Login Succeeded"), "{said}");
    let (done, said) = docker.at(&config, &["push", &image], "");
    assert!(done, "{said}");
    docker.said(&["rmi", &image]);
    let (done, said) = docker.at(&config, &["pull", &image], "");
    assert!(done, "{said}");
    assert_eq!(docker.said(&["run", "--rm", &image, "echo", "hi"]), "hi");

    // A cache of it, with its user: a third docker's mirror.
    let auth = r#"{"auths": {"r.example": {"username": "u", "password": "secret"}}}"#;
    fs::create_dir(other.data().join(".docker")).unwrap();
    fs::write(other.data().join(".docker/config.json"), auth).unwrap();
    let folder = other.data().join("certs.d/r.example");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("hosts.toml"), format!("server = 'http://{plain}'\n")).unwrap();
    docker.said(&["rmi", "-f", &image, IMAGE]);
    let cached = format!("http://{}/v2/team/app/manifests/1", other.address("registry"));
    assert_eq!(status(&cached, ""), "404");
    assert_eq!(status(&format!("{cached}?ns=r.example"), ""), "200");

    // A user who is gone is out at once, also one who was let in before.
    fs::write(&users, "").unwrap();
    assert_eq!(status(&format!("https://{address}/v2/"), "u:secret"), "401");
    other.drain();
    own.drain();
}
