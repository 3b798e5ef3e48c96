//! The files that tell a pod its name, its neighbours and its DNS server.

use std::{collections::BTreeMap, net::IpAddr};

use crate::model::{DnsConfig, Pod};

/// `/etc/hosts` of a pod with a network of its own.
pub(crate) fn hosts(pod: &Pod, ip: Option<IpAddr>, domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-mcastprefix\n",
    );
    if let Some(ip) = ip {
        match pod.fqdn(domain) {
            Some(fqdn) => text.push_str(&format!("{ip}\t{fqdn}\t{}\n", pod.hostname())),
            None => text.push_str(&format!("{ip}\t{}\n", pod.hostname())),
        }
    }
    text + &aliases(pod)
}

/// The entries a pod asks for.
pub(crate) fn aliases(pod: &Pod) -> String {
    let lines =
        pod.spec.host_aliases.iter().map(|alias| format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
    lines.collect()
}

/// `/etc/resolv.conf` of a pod. `machine` is this machine's own.
pub(crate) fn resolver(pod: &Pod, dns: Option<IpAddr>, domain: &str, machine: &str) -> String {
    let own = Resolver::parse(machine);
    let policy = match pod.spec.dns_policy.as_str() {
        // On the machine's network the cluster's DNS is used only when asked for.
        "ClusterFirst" | "" if pod.spec.host_network => "Default",
        "" | "ClusterFirst" | "ClusterFirstWithHostNet" => "ClusterFirst",
        other => other,
    };
    let mut resolver = match (policy, dns) {
        ("None", _) => Resolver::default(),
        ("ClusterFirst", Some(dns)) => {
            let namespace = &pod.metadata.namespace;
            let mut searches =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            searches.extend(own.searches);
            let options = BTreeMap::from([("ndots".to_owned(), Some("5".to_owned()))]);
            Resolver { nameservers: vec![dns.to_string()], searches, options }
        }
        _ => own,
    };
    resolver.add(&pod.spec.dns_config);
    resolver.to_text()
}

#[derive(Debug, Default, PartialEq)]
struct Resolver {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: BTreeMap<String, Option<String>>,
}

/// As many as resolvers read (`MAXNS`).
const MAX_NAMESERVERS: usize = 3;
/// As the kubelet limits them.
const MAX_SEARCHES: usize = 32;

impl Resolver {
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => {
                    found.searches = words.map(str::to_owned).filter(|search| search != ".").collect();
                }
                Some("options") => found.options.extend(words.map(|word| match word.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                })),
                _ => {}
            }
        }
        found
    }

    fn add(&mut self, config: &DnsConfig) {
        self.nameservers.extend(config.nameservers.iter().cloned());
        self.searches.extend(config.searches.iter().cloned());
        self.options.extend(config.options.iter().map(|option| (option.name.clone(), option.value.clone())));
        for list in [&mut self.nameservers, &mut self.searches] {
            let mut seen = std::collections::HashSet::new();
            list.retain(|item| seen.insert(item.clone()));
        }
        self.nameservers.truncate(MAX_NAMESERVERS);
        self.searches.truncate(MAX_SEARCHES);
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        self.nameservers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(name, value)| match value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
            text.push_str(&format!("options {}\n", options.collect::<Vec<_>>().join(" ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MACHINE: &str = "# c\nnameserver 1.1.1.1\nsearch corp.example\noptions timeout:2 edns0\n";

    fn check(spec: Value, dns: Option<&str>, expected: &str) {
        let pod = Pod::read(&json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap();
        let dns = dns.map(|dns| dns.parse().unwrap());
        assert_eq!(resolver(&pod, dns, "cluster.local", MACHINE), expected);
    }

    #[test]
    fn resolvers_by_policy() {
        let cluster = "search n.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        let own = "search corp.example\nnameserver 1.1.1.1\noptions edns0 timeout:2\n";
        check(json!({}), Some("10.96.0.10"), cluster);
        check(json!({}), None, own);
        check(json!({"dnsPolicy": "Default"}), Some("10.96.0.10"), own);
        check(json!({"hostNetwork": true}), Some("10.96.0.10"), own);
        check(
            json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            Some("10.96.0.10"),
            cluster,
        );
        let own_config = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9", "9.9.9.9"],
            "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        check(own_config, Some("10.96.0.10"), "search a.b\nnameserver 9.9.9.9\noptions edns0 ndots:2\n");
    }
}
