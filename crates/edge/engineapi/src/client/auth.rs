//! How registries want to know who asks: challenges, tokens, and the credentials `docker login` stored.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// What a registry asks for in `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from `realm`.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// The first challenge of a header that this client can meet.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        Some(Self::Bearer {
            realm: parameters.remove("realm").filter(|realm| !realm.is_empty())?,
            service: parameters.remove("service"),
            scope: parameters.remove("scope"),
        })
    }
}

/// `key="value"` pairs between commas; quoted values may have commas.
fn parameters(mut rest: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([',', ' ']).to_ascii_lowercase();
        let value = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, after) = quoted.split_once('"').unwrap_or((quoted, ""));
                rest = after;
                value
            }
            None => {
                let (value, after) = after.split_once(',').unwrap_or((after, ""));
                rest = after;
                value.trim()
            }
        };
        found.insert(key, value.to_owned());
    }
    found
}

/// Who asks.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password or access token.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A refresh token, as some registries hand out at login.
    Identity(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential(hidden)")
    }
}

impl Credential {
    /// The value of an `Authorization` header, for a password.
    pub(super) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            Self::Identity(_) => None,
        }
    }
}

/// The credentials of `config.json` as `docker login` writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entry(hidden)")
    }
}

impl Entry {
    fn credential(&self) -> Option<Credential> {
        if let Some(token) = self.identitytoken.as_ref().filter(|t| !t.is_empty()) {
            return Some(Credential::Identity(token.clone()));
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Some(Credential::Password { user: user.clone(), password: password.clone() });
        }
        let decoded = STANDARD.decode(self.auth.as_ref()?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        Some(Credential::Password { user: user.to_owned(), password })
    }
}

impl DockerConfig {
    /// Reads the file docker uses: in `$DOCKER_CONFIG`, or `~/.docker`. Without one there are no credentials.
    pub fn load() -> Result<Self, String> {
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
        match std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(home) {
            Some(dir) => Self::read(&dir.join("config.json")),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self, String> {
        match std::fs::read(path) {
            Ok(bytes) => {
                Self::parse(&bytes).map_err(|e| format!("cannot read credentials of {}: {e}", path.display()))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(format!("cannot read {}: {e}", path.display())),
        }
    }

    /// Reads the content of such a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The credential for a registry, by its host as references have it.
    pub fn credential(&self, host: &str) -> Option<Credential> {
        let keys = match host {
            "docker.io" => vec!["https://index.docker.io/v1/", "index.docker.io", "docker.io"],
            _ => vec![host],
        };
        for key in &keys {
            let helper = self.cred_helpers.get(*key).or(self.creds_store.as_ref());
            if let Some(found) = helper.and_then(|helper| ask_helper(helper, key)) {
                return Some(found);
            }
        }
        let same = |entry: &str| keys.iter().any(|key| bare(entry) == bare(key));
        self.auths.iter().filter(|(entry, _)| same(entry)).find_map(|(_, entry)| entry.credential())
    }
}

/// The host of a key, without scheme and path.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

/// Asks `docker-credential-NAME`, the program docker keeps secrets with.
fn ask_helper(name: &str, server: &str) -> Option<Credential> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let mut helper = Command::new(format!("docker-credential-{name}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .inspect_err(|error| tracing::warn!(name, %error, "cannot start the credential helper"))
        .ok()?;
    helper.stdin.take()?.write_all(server.as_bytes()).ok()?;
    let output = helper.wait_with_output().ok()?;
    let answer: Answer = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
    Some(match answer.username.as_str() {
        "<token>" => Credential::Identity(answer.secret),
        _ => Credential::Password { user: answer.username, password: answer.secret },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_challenges() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (header, expect) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:a/b:pull,push"),
                ),
            ),
            ("bearer realm=https://x/t , service=y", bearer("https://x/t", Some("y"), None)),
            ("Bearer service=\"y\"", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expect, "{header}");
        }
    }

    #[test]
    fn finds_what_docker_login_stored() {
        let config = DockerConfig::parse(
            br#"{"auths": {"https://index.docker.io/v1/": {"auth": "YTpiOmM="}, "ghcr.io": {"username":"u","password":"p"},
            "https://r.example.com:5000": {"identitytoken": "t"}, "empty.io": {}}, "HttpHeaders": {}}"#,
        )
        .unwrap();
        let password = |user: &str, password: &str| {
            Some(Credential::Password { user: user.into(), password: password.into() })
        };
        assert_eq!(config.credential("docker.io"), password("a", "b:c"));
        assert_eq!(config.credential("ghcr.io"), password("u", "p"));
        assert_eq!(config.credential("r.example.com:5000"), Some(Credential::Identity("t".into())));
        assert_eq!(config.credential("empty.io"), None);
        assert_eq!(config.credential("other.io"), None);
        assert_eq!(password("a", "b:c").unwrap().basic().as_deref(), Some("Basic YTpiOmM="));
    }
}
