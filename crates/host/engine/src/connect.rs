//! What a container reads of its networks: its addresses and names in `/etc/hosts`, its name servers.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use wharf_network::NAME_SERVER;

use crate::{
    bridge::{Joined, Place},
    containers::{Container, Engine, PORTS},
    error::{IoContext as _, Result},
    networks,
    spec::{Record, Spec},
};

/// Names every container knows.
pub(crate) const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
    ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

impl Engine {
    /// Writes down where a container that starts has been connected.
    pub(crate) fn tell_all(&self, record: &Record, joined: &Joined) -> Result<()> {
        let folder = self.folder(&record.id);
        write_ports(&folder, joined)?;
        let own: String = joined.places.values().map(|place| own_line(record, place)).collect();
        let hosts = folder.join("etc/hosts");
        let text = format!("{LOCAL_HOSTS}{own}{}", extra_hosts(&record.spec, joined.machine));
        fs::write(&hosts, text).at("write", &hosts)?;
        self.write_resolver(record, joined)
    }

    /// Tells a container that runs of the place it has been given, or of the one it has lost. What it wrote itself stays.
    pub(crate) fn tell_place(
        &self,
        container: &Container,
        joined: &Joined,
        new: Option<&Place>,
        old: Option<&Place>,
    ) -> Result<()> {
        let folder = self.folder(&container.id);
        write_ports(&folder, joined)?;
        let hosts = folder.join("etc/hosts");
        let before = fs::read_to_string(&hosts).at("read", &hosts)?;
        let is_old = |line: &&str| {
            let address = line.split_ascii_whitespace().next().and_then(|word| word.parse::<IpAddr>().ok());
            let is = |own: IpAddr| address == Some(own);
            old.is_some_and(|old| {
                is(old.address.into()) || old.ipv6.is_some_and(|over| is(over.address.into()))
            })
        };
        let kept = before.lines().filter(|line| !is_old(line)).map(|line| format!("{line}\n"));
        let text: String = kept.chain(new.map(|place| own_line(&container.record, place))).collect();
        fs::write(&hosts, text).at("write", &hosts)?;
        self.write_resolver(&container.record, joined)
    }

    /// Names of networks people made are known where the platform serves them.
    fn write_resolver(&self, record: &Record, joined: &Joined) -> Result<()> {
        if joined.places.keys().all(|network| networks::is_predefined(network)) {
            return Ok(());
        }
        let resolver = self.folder(&record.id).join("etc/resolv.conf");
        let text = format!("nameserver {NAME_SERVER}\noptions ndots:0\n");
        fs::write(&resolver, resolver_with(&record.spec, text)).at("write", &resolver)
    }
}

fn write_ports(folder: &Path, joined: &Joined) -> Result<()> {
    let file = folder.join(PORTS);
    if joined.ports.is_empty() && !file.exists() {
        return Ok(());
    }
    let text: Vec<String> = joined.ports.iter().map(ToString::to_string).collect();
    fs::write(&file, text.join(" ")).at("write", &file)
}

/// The addresses of the container in a network, with its name.
fn own_line(record: &Record, place: &Place) -> String {
    let name = full_name(record);
    let over_ipv6 = place.ipv6.map(|over| format!("{}\t{name}\n", over.address));
    format!("{}\t{name}\n{}", place.address, over_ipv6.unwrap_or_default())
}

/// The name with its domain, then without.
fn full_name(record: &Record) -> String {
    let name = record.spec.hostname.as_deref().unwrap_or_else(|| record.id.short());
    match &record.spec.domainname {
        Some(domain) => format!("{name}.{domain} {name}"),
        None => name.to_owned(),
    }
}

/// Names it was given. `host-gateway` stands for this machine.
pub(crate) fn extra_hosts(spec: &Spec, machine: Ipv4Addr) -> String {
    let line = |(name, address): &(String, String)| match address.as_str() {
        "host-gateway" => format!("{machine}\t{name}\n"),
        address => format!("{address}\t{name}\n"),
    };
    spec.extra_hosts.iter().map(line).collect()
}

/// The text of `resolv.conf`, with what was asked for in its place.
pub(crate) fn resolver_with(spec: &Spec, text: String) -> String {
    if spec.dns.is_empty() && spec.dns_search.is_empty() && spec.dns_options.is_empty() {
        return text;
    }
    let own = |word: &str| -> String {
        let lines = text.lines().filter(|line| line.starts_with(word));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let mut lines: String = match spec.dns.is_empty() {
        true => own("nameserver"),
        false => spec.dns.iter().map(|server| format!("nameserver {server}\n")).collect(),
    };
    match spec.dns_search.is_empty() {
        true => lines.push_str(&own("search")),
        false => lines.push_str(&format!("search {}\n", spec.dns_search.join(" "))),
    }
    match spec.dns_options.is_empty() {
        true => lines.push_str(&own("options")),
        false => lines.push_str(&format!("options {}\n", spec.dns_options.join(" "))),
    }
    lines
}
