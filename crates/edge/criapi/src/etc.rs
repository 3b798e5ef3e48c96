//! The files of `/etc` that tell a pod its name and its DNS servers.

use std::net::IpAddr;

use crate::v1::DNSConfig;

/// `/etc/hosts` of a pod with a network of its own. The kubelet mounts another over it.
pub(crate) fn hosts(hostname: &str, ip: Option<IpAddr>) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    if let (Some(ip), false) = (ip, hostname.is_empty()) {
        text.push_str(&format!("{ip}\t{hostname}\n"));
    }
    text
}

/// `/etc/resolv.conf`; the machine's own without a configuration.
pub(crate) fn resolver(config: Option<&DNSConfig>, machine: &str) -> String {
    let Some(config) = config else { return machine.to_owned() };
    let mut text = String::new();
    if !config.searches.is_empty() {
        text.push_str(&format!("search {}\n", config.searches.join(" ")));
    }
    for server in &config.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !config.options.is_empty() {
        text.push_str(&format!("options {}\n", config.options.join(" ")));
    }
    text
}

/// Whether a line could end one of these files' words and begin another.
pub(crate) fn is_one_word(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers() {
        let config = DNSConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["a.svc".to_owned(), "svc".to_owned()],
            options: vec!["ndots:5".to_owned()],
        };
        let text = resolver(Some(&config), "nameserver 1.1.1.1\n");
        assert_eq!(text, "search a.svc svc\nnameserver 10.96.0.10\noptions ndots:5\n");
        assert_eq!(resolver(None, "nameserver 1.1.1.1\n"), "nameserver 1.1.1.1\n");
    }
}
