//! Where an etcd is: `etcd://HOST[:PORT][,HOST[:PORT]…][/PREFIX]`.

use std::{fmt, str::FromStr, time::Duration};

/// Port of etcd's clients.
const PORT: u16 = 2379;
/// Where keys stand unless somebody says otherwise.
const ROOT: &str = "/wharf/";
/// How often history is compacted: what was written is kept for one to two times this long, as kube-apiserver does.
const COMPACTION: Duration = Duration::from_secs(300);

/// One server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// Its port for clients.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// How connections are secured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authority of etcd's certificate in PEM; those of the machine without.
    pub authority: Option<String>,
    /// The certificate and key, in PEM, that etcd knows its client by.
    pub identity: Option<(String, String)>,
}

/// Which etcd, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The servers; one after the other is tried.
    pub endpoints: Vec<Endpoint>,
    /// What all keys begin with; ends with a slash.
    pub prefix: String,
    /// Nothing for connections in plain.
    pub tls: Option<Tls>,
    /// The name by which a platform has the prefix for itself; several stores share it without.
    pub owner: Option<String>,
    /// Time between compactions of the history.
    pub compaction: Duration,
}

/// Why an address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{address}' is no address of an etcd: {what}; it looks like etcd://HOST:{PORT},HOST:{PORT}/PREFIX")]
pub struct AddressError {
    address: String,
    what: String,
}

impl FromStr for Config {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, AddressError> {
        let wrong = |what: String| AddressError { address: address.to_owned(), what };
        let rest = address.strip_prefix("etcd://").ok_or_else(|| wrong("it begins otherwise".to_owned()))?;
        let (servers, path) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains(['?', '#', '@']) {
            return Err(wrong("it has no user, options or fragment".to_owned()));
        }
        let prefix = match path.trim_matches('/') {
            "" => ROOT.to_owned(),
            path => format!("/{path}/"),
        };
        let endpoints = servers.split(',').map(|server| endpoint(server).map_err(wrong));
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, _>>()?,
            prefix,
            tls: None,
            owner: None,
            compaction: COMPACTION,
        })
    }
}

fn endpoint(server: &str) -> Result<Endpoint, String> {
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("a bracket is not closed")?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or(port)) })
        }
        None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err(format!("'{server}' names no host"));
    }
    let port = match port {
        None => PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(format!("'{port}' is no port"))?,
    };
    Ok(Endpoint { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let check = |address: &str, endpoints: &[&str], prefix: &str| {
            let config: Config = address.parse().unwrap();
            let found: Vec<String> = config.endpoints.iter().map(Endpoint::to_string).collect();
            assert_eq!(
                (found, &*config.prefix),
                (endpoints.iter().map(|e| (*e).to_owned()).collect(), prefix)
            );
        };
        check("etcd://localhost", &["localhost:2379"], "/wharf/");
        check("etcd://10.0.0.1:1,b.example:2/", &["10.0.0.1:1", "b.example:2"], "/wharf/");
        check("etcd://[::1]:77,[::2]/teams/a/", &["[::1]:77", "[::2]:2379"], "/teams/a/");
    }

    #[test]
    fn what_is_no_address_is_told() {
        let check = |address: &str, what: &str| {
            let said = address.parse::<Config>().unwrap_err().to_string();
            assert!(said.contains(what) && said.contains("etcd://HOST:2379"), "{said}");
        };
        check("http://localhost:2379", "it begins otherwise");
        check("etcd://", "'' names no host");
        check("etcd://a,,b", "'' names no host");
        check("etcd://a:0", "'0' is no port");
        check("etcd://a:70000", "'70000' is no port");
        check("etcd://[::1", "a bracket is not closed");
        check("etcd://user@host", "no user");
        check("etcd://a/b?c", "no user, options");
        check("etcd://a b", "'a b' names no host");
    }
}
