//! `-p`: ports of this machine that lead to one of a container.

use std::{collections::BTreeMap, fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use wharf_network::Protocol;

use crate::error::Error;

/// A port of this machine that leads to one of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Only on this address of the machine.
    pub host_ip: Option<Ipv4Addr>,
    /// The port of the machine; 0 for one that is free.
    pub host_port: u16,
    /// The last of the machine's ports of which a free one is taken, where that is not the first.
    pub host_end: Option<u16>,
    /// The container's.
    pub container_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl FromStr for Publish {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            let hint = "write HOST:CONTAINER, FIRST-LAST:CONTAINER, ADDRESS:HOST:CONTAINER, and /udp behind it for UDP";
            Error::invalid(format!("-p {text}: {why}")).hint(hint)
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(bad(&format!("unknown protocol '{other}'"))),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (host_ip, host, container) = match parts[..] {
            [container] => (None, "0", container),
            [host, container] => (None, host, container),
            [ip, host, container] => {
                (Some(ip.parse().map_err(|_| bad("the address is no IPv4 address"))?), host, container)
            }
            _ => return Err(bad("it needs a port of this machine and one of the container")),
        };
        let number = |text: &str| text.parse().map_err(|_| bad("ports are numbers from 1 to 65535"));
        let (host_port, host_end) = match host.split_once('-') {
            None if host.is_empty() => (0, None),
            None => (number(host)?, None),
            Some((first, last)) => match (number(first)?, number(last)?) {
                (first, last) if first == 0 || last < first => return Err(bad("the range has no ports")),
                (first, last) => (first, Some(last).filter(|last| *last > first)),
            },
        };
        match number(container)? {
            0 => Err(bad("ports are numbers from 1 to 65535")),
            container_port => Ok(Self { host_ip, host_port, host_end, container_port, protocol }),
        }
    }
}

/// As `-p` writes it.
impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip}:")?;
        }
        write!(f, "{}:{}/{}", self.host_text(), self.container_port, self.protocol.lower())
    }
}

impl Serialize for Publish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Publish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Publish {
    /// The machine's side: a port, or the range it is to be of.
    fn host_text(&self) -> String {
        let last = self.host_end.map_or_else(String::new, |last| format!("-{last}"));
        format!("{}{last}", self.host_port)
    }

    /// Whether one of several ports of the machine is left to choose.
    pub(crate) fn is_open(&self) -> bool {
        self.host_port == 0 || self.host_end.is_some()
    }

    /// As docker lists it: `0.0.0.0:8080->80/tcp`.
    pub fn arrow(&self) -> String {
        let ip = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        format!("{ip}:{}->{}", self.host_port, self.inside())
    }

    /// The container's side: `80/tcp`.
    pub fn inside(&self) -> String {
        format!("{}/{}", self.container_port, self.protocol.lower())
    }
}

/// Ports by the container's side, as docker describes them; `any` stands for all addresses of this machine.
pub fn by_port(ports: &[Publish], any: &str) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        let ip = port.host_ip.map_or_else(|| any.to_owned(), |ip| ip.to_string());
        // One that is left to choose has no number.
        let number = Some(port).filter(|port| port.host_port != 0).map(Publish::host_text);
        let binding = json!({ "HostIp": ip, "HostPort": number.unwrap_or_default() });
        found.entry(port.inside()).or_default().push(binding);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_dockers() {
        let read = |text: &str| {
            text.parse::<Publish>().ok().map(|p| (p.host_ip, p.host_port, p.container_port, p.protocol))
        };
        assert_eq!(read("80:8080"), Some((None, 80, 8080, Protocol::Tcp)));
        assert_eq!(read("80"), Some((None, 0, 80, Protocol::Tcp)));
        assert_eq!(read("127.0.0.1::80/udp"), Some((Some(Ipv4Addr::LOCALHOST), 0, 80, Protocol::Udp)));
        assert_eq!(read("53:53/udp"), Some((None, 53, 53, Protocol::Udp)));
        assert_eq!(read("127.0.0.1:80:8080/tcp"), Some((Some(Ipv4Addr::LOCALHOST), 80, 8080, Protocol::Tcp)));
        let range =
            |text: &str| text.parse::<Publish>().ok().map(|p| (p.host_port, p.host_end, p.to_string()));
        assert_eq!(range("80-82:8080"), Some((80, Some(82), "80-82:8080/tcp".to_owned())));
        assert_eq!(range("80-80:8080"), Some((80, None, "80:8080/tcp".to_owned())));
        for bad in [
            "82-80:80",
            "80-:80",
            "-80:80",
            "80-99999:80",
            "0-5:80",
            "80:80-81",
            "80:0",
            "80:65536",
            "a:b",
            "::1:80:80",
            "x:80:80",
            "80:80/icmp",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn ports_are_shown_as_dockers() {
        let ports =
            ["80:8080", "127.0.0.1:53:53/udp", "81:8080"].map(|text| text.parse::<Publish>().unwrap());
        let shown = ports.clone().map(|port| port.arrow());
        assert_eq!(shown, ["0.0.0.0:80->8080/tcp", "127.0.0.1:53->53/udp", "0.0.0.0:81->8080/tcp"]);
        for port in &ports {
            assert_eq!(port.to_string().parse::<Publish>().unwrap(), *port);
        }
        let expected = json!({
            "53/udp": [{ "HostIp": "127.0.0.1", "HostPort": "53" }],
            "8080/tcp": [{ "HostIp": "", "HostPort": "80" }, { "HostIp": "", "HostPort": "81" }],
        });
        assert_eq!(json!(by_port(&ports, "")), expected);
    }
}
