//! The servers of a registry: the registry itself, its mirrors, and how each is to be trusted.
//!
//! Folders named like registries hold either containerd's `hosts.toml`
//! (<https://github.com/containerd/containerd/blob/main/docs/hosts.md>) or docker's certificates (`*.crt` are
//! authorities, `NAME.cert` with `NAME.key` say who this client is). `_default` is for registries without a folder.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use toml::{Table, Value};
use wharf_http::{
    Issued,
    client::{ClientConfig, Trust},
};
use wharf_image::Error;

use super::{Result, SILENCE};

/// The largest file of these folders.
const MAX_FILE: u64 = 1 << 20;
/// The folders of this machine, the first that knows a registry counts.
const FOLDERS: [&str; 3] = ["/etc/wharf/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"];
/// Other folders than these, between colons.
const VARIABLE: &str = "WHARF_CERTS_D";

/// What a server may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Content by its digest.
    Pull,
    /// What a tag stands for.
    Resolve,
    /// To take content.
    Push,
}

impl Capability {
    const ALL: [Self; 3] = [Self::Pull, Self::Resolve, Self::Push];

    fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Resolve => "resolve",
            Self::Push => "push",
        }
    }
}

/// One server.
pub(super) struct Host {
    /// Where its API begins: `https://mirror.example/v2`.
    pub(super) base: String,
    /// What credentials are stored under.
    pub(super) name: String,
    /// It has the content of a registry of another name.
    pub(super) mirror: bool,
    pub(super) headers: HeaderMap,
    pub(super) http: wharf_http::client::Client,
    capabilities: Vec<Capability>,
}

impl Host {
    pub(super) fn can(&self, able: Capability) -> bool {
        self.capabilities.contains(&able)
    }
}

/// No server of a registry may be asked for something.
pub(super) fn lacks(domain: &str, able: Capability) -> Error {
    let problem = format!("its hosts.toml gives no server the capability '{}'", able.name());
    Error::Remote { host: domain.to_owned(), problem }
}

/// A client that trusts what this machine trusts.
pub(super) fn plain() -> wharf_http::client::Client {
    wharf_http::client::Client::new(config())
}

fn config() -> ClientConfig {
    ClientConfig {
        connect_timeout: std::time::Duration::from_secs(15),
        response_timeout: SILENCE,
        http1_only: true,
        ..ClientConfig::default()
    }
}

/// Folders that say how registries are reached.
#[derive(Debug, Clone)]
pub struct Folders(Vec<PathBuf>);

impl Default for Folders {
    fn default() -> Self {
        match std::env::var_os(VARIABLE) {
            Some(list) => Self(std::env::split_paths(&list).collect()),
            None => Self(FOLDERS.map(PathBuf::from).into()),
        }
    }
}

impl Folders {
    /// These, the first that knows a registry counts.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(folders.into_iter().collect())
    }

    /// The servers of a registry, in the order they are asked; `http` is for those without certificates of their own.
    pub(super) fn hosts(&self, domain: &str, http: &wharf_http::client::Client) -> Result<Vec<Host>> {
        let servers = match self.find(domain) {
            None => vec![Server::of(domain, false)],
            Some(folder) => {
                read(&folder, domain).map_err(|problem| Error::Remote { host: domain.to_owned(), problem })?
            }
        };
        Ok(servers.into_iter().map(|server| server.open(http)).collect())
    }

    /// The folder for a registry: by its name, with `_PORT_` for `:PORT`, or the default one.
    fn find(&self, domain: &str) -> Option<PathBuf> {
        let other = domain.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
        let names: Vec<&str> = other.as_deref().into_iter().chain([domain, "_default"]).collect();
        let mut folders = self.0.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        folders.find(|folder| folder.is_dir())
    }
}

/// One server as a folder tells of it.
#[derive(Debug, Default)]
struct Server {
    base: String,
    name: String,
    mirror: bool,
    capabilities: Vec<Capability>,
    headers: HeaderMap,
    authorities: String,
    identity: Option<Issued>,
    skip_verify: bool,
}

impl Server {
    /// The registry itself. Those of this machine speak plain HTTP, unless there are certificates for them.
    fn of(domain: &str, tls: bool) -> Self {
        let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let scheme = if wharf_image::is_loopback_registry(domain) && !tls { "http" } else { "https" };
        Self {
            base: format!("{scheme}://{host}/v2"),
            name: domain.to_owned(),
            capabilities: Capability::ALL.into(),
            ..Self::default()
        }
    }

    fn open(self, http: &wharf_http::client::Client) -> Host {
        let trust = match (self.skip_verify, self.authorities.is_empty()) {
            (true, _) => Trust::Anything,
            (false, true) => Trust::System,
            (false, false) => Trust::SystemAnd(self.authorities),
        };
        let http = match (&trust, &self.identity) {
            (Trust::System, None) => http.clone(),
            _ => wharf_http::client::Client::new(ClientConfig { trust, identity: self.identity, ..config() }),
        };
        let Self { base, name, mirror, capabilities, headers, .. } = self;
        Host { base, name, mirror, headers, http, capabilities }
    }
}

fn read(folder: &Path, domain: &str) -> std::result::Result<Vec<Server>, String> {
    let file = folder.join("hosts.toml");
    if !file.exists() {
        return certificates(folder, domain).map(|server| vec![server]);
    }
    let at = |problem: String| format!("{}: {problem}", file.display());
    let text = text_of(&file)?;
    servers(&text, domain, &|path| text_of(&folder.join(path))).map_err(at)
}

fn text_of(path: &Path) -> std::result::Result<String, String> {
    let failed = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(failed)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(format!("{} is larger than {MAX_FILE} bytes", path.display())),
        false => Ok(text),
    }
}

/// Docker's form: certificates beside each other.
fn certificates(folder: &Path, domain: &str) -> std::result::Result<Server, String> {
    let failed = |e: std::io::Error| format!("cannot read {}: {e}", folder.display());
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut files: Vec<PathBuf> =
        entries.collect::<std::io::Result<Vec<_>>>().map_err(failed)?.iter().map(|e| e.path()).collect();
    files.sort();
    let ending =
        |end: &'static str| files.iter().filter(move |file| file.extension().is_some_and(|e| e == end));
    let mut authorities = String::new();
    for file in ending("crt") {
        authorities.extend([text_of(file)?.as_str(), "\n"]);
    }
    let mut identity = None;
    for file in ending("cert") {
        let key = file.with_extension("key");
        if !key.exists() {
            return Err(format!("{} has no {} beside it", file.display(), key.display()));
        }
        let both = Issued { certificate: text_of(file)?, key: text_of(&key)? };
        identity.get_or_insert(both);
    }
    let tls = !authorities.is_empty() || identity.is_some();
    Ok(Server { authorities, identity, ..Server::of(domain, tls) })
}

type Reader<'a> = dyn Fn(&str) -> std::result::Result<String, String> + 'a;

/// The servers a `hosts.toml` names, mirrors in the file's order and the registry itself last.
fn servers(text: &str, domain: &str, reader: &Reader<'_>) -> std::result::Result<Vec<Server>, String> {
    let file: Table = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    if let Some(mirrors) = file.get("host") {
        let mirrors = mirrors.as_table().ok_or("'host' is no table")?;
        for (address, about) in mirrors {
            let at = |problem: String| format!("[host.\"{address}\"]: {problem}");
            let about = about.as_table().ok_or_else(|| at("is no table".to_owned()))?;
            let server = Server { mirror: true, ..Server::default() };
            found.push(described(server, Some(address), about, reader).map_err(at)?);
        }
    }
    let address = file.get("server").map(|value| value.as_str().ok_or("'server' is no text")).transpose()?;
    let tls = ["ca", "client", "skip_verify"].iter().any(|name| file.contains_key(*name));
    let own = described(Server::of(domain, tls), address, &file, reader)?;
    let usual = Server::of(domain, true).base;
    for server in found.iter_mut().filter(|server| server.base == own.base || server.base == usual) {
        (server.mirror, server.name) = (false, domain.to_owned());
    }
    // One that stands among the hosts already is not asked twice.
    let doubled = found.iter().any(|server| server.base == own.base);
    found.extend((!doubled).then_some(own));
    Ok(found)
}

/// What a table says of a server.
fn described(
    mut server: Server,
    address: Option<&str>,
    about: &Table,
    reader: &Reader<'_>,
) -> std::result::Result<Server, String> {
    let flag = |name: &str| match about.get(name) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| format!("'{name}' is neither true nor false")),
    };
    if let Some(address) = address {
        let named = address_of(address, flag("override_path")?)?;
        if server.mirror {
            server.name = named.1;
        }
        server.base = named.0;
    }
    server.capabilities = match about.get("capabilities") {
        None => Capability::ALL.into(),
        Some(value) => texts(value, "capabilities")?
            .into_iter()
            .map(|name| {
                let known = Capability::ALL.into_iter().find(|capability| capability.name() == name);
                known.ok_or_else(|| format!("no such capability: '{name}'; there are pull, resolve, push"))
            })
            .collect::<std::result::Result<_, _>>()?,
    };
    if let Some(value) = about.get("ca") {
        for file in texts(value, "ca")? {
            server.authorities.extend([reader(file)?.as_str(), "\n"]);
        }
    }
    server.identity = about.get("client").map(|value| identity(value, reader)).transpose()?;
    server.skip_verify = flag("skip_verify")?;
    if let Some(headers) = about.get("header") {
        for (name, values) in headers.as_table().ok_or("'header' is no table")? {
            for value in texts(values, "header")? {
                let bad = |_| format!("the header '{name}' cannot be sent");
                let name = name.parse::<HeaderName>().map_err(|_| format!("'{name}' is no header"))?;
                server.headers.append(name, HeaderValue::from_str(value).map_err(bad)?);
            }
        }
    }
    Ok(server)
}

/// Where the API begins, and the host.
fn address_of(address: &str, whole: bool) -> std::result::Result<(String, String), String> {
    let bad = || format!("'{address}' is no address like https://mirror.example");
    let full = match address.contains("://") {
        true => address.to_owned(),
        false if wharf_image::is_loopback_registry(address) => format!("http://{address}"),
        false => format!("https://{address}"),
    };
    let uri: Uri = full.parse().map_err(|_| bad())?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(bad)?;
    let authority = uri.authority().filter(|_| uri.query().is_none()).ok_or_else(bad)?;
    if authority.as_str().contains('@') {
        return Err(format!("{}: credentials do not belong here; 'docker login' stores them", bad()));
    }
    let path = uri.path().trim_end_matches('/');
    let version = if whole || path.ends_with("/v2") { "" } else { "/v2" };
    Ok((format!("{scheme}://{authority}{path}{version}"), authority.to_string()))
}

/// A text, or a list of them.
fn texts<'a>(value: &'a Value, name: &str) -> std::result::Result<Vec<&'a str>, String> {
    let wrong = || format!("'{name}' is neither a text nor a list of texts");
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => list.iter().map(|text| text.as_str().ok_or_else(wrong)).collect(),
        _ => Err(wrong()),
    }
}

/// `"both.pem"`, `["both.pem"]`, or `[["certificate", "key"]]`; of several the first.
fn identity(value: &Value, reader: &Reader<'_>) -> std::result::Result<Issued, String> {
    let wrong = || "'client' is neither a file nor pairs of a certificate and its key".to_owned();
    let first = match value {
        Value::Array(list) => list.first().ok_or_else(wrong)?,
        one => one,
    };
    let (certificate, key) = match first {
        Value::String(both) => (both.as_str(), both.as_str()),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(certificate), Value::String(key)] if !key.is_empty() => {
                (certificate.as_str(), key.as_str())
            }
            [Value::String(both), Value::String(_)] | [Value::String(both)] => (both.as_str(), both.as_str()),
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    };
    Ok(Issued { certificate: reader(certificate)?, key: reader(key)? })
}

#[cfg(test)]
mod tests;
