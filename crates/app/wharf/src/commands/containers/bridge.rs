//! The bridge network of containers that `wharf run` makes: the platform's own pod network, used without the platform.
//!
//! Nobody watches a container without a platform, so what an ended one had is taken back by a program started at its end
//! ([`super::super::ended`]), or by whoever comes next: every command on containers, or the platform. Its link goes by
//! itself, with the network namespace. The network stays a little longer than its last container: making and removing
//! it takes longer than a short run.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use wharf_base::{ContainerId, Hinted};
use wharf_network::{PodNetwork, PortMapping, Protocol};
use wharf_runtime::{Phase, PodDir};

use super::MAIN;
use crate::platform::{network_folder, open_network};

/// How long the network stays without containers.
const IDLE: Duration = Duration::from_secs(3);

/// `-p`: a port of this machine that leads to one of a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Publish {
    host_ip: Option<Ipv4Addr>,
    host_port: u16,
    container_port: u16,
    protocol: Protocol,
}

impl std::str::FromStr for Publish {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let bad = |why: &str| {
            let hint = "write HOST:CONTAINER, ADDRESS:HOST:CONTAINER, and /udp behind it for UDP";
            anyhow::Error::from(Hinted::new(format!("-p {text}: {why}"), hint))
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(bad(&format!("unknown protocol '{other}'"))),
        };
        let parts: Vec<&str> = ports.split(':').collect();
        let (host_ip, host, container) = match parts[..] {
            [host, container] => (None, host, container),
            [ip, host, container] => {
                (Some(ip.parse().map_err(|_| bad("the address is no IPv4 address"))?), host, container)
            }
            _ => return Err(bad("it needs a port of this machine and one of the container")),
        };
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let port = |text| port(text).ok_or_else(|| bad("ports are numbers from 1 to 65535"));
        Ok(Self { host_ip, host_port: port(host)?, container_port: port(container)?, protocol })
    }
}

/// As `-p` writes it.
impl std::fmt::Display for Publish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(ip) = self.host_ip {
            write!(f, "{ip}:")?;
        }
        write!(f, "{}:{}/{}", self.host_port, self.container_port, self.protocol.lower())
    }
}

impl Publish {
    /// As docker lists it: `0.0.0.0:8080->80/tcp`.
    pub(crate) fn arrow(&self) -> String {
        let ip = self.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED);
        format!("{ip}:{}->{}", self.host_port, self.inside())
    }

    /// The container's side: `80/tcp`.
    fn inside(&self) -> String {
        format!("{}/{}", self.container_port, self.protocol.lower())
    }
}

/// Ports by the container's side, as docker describes them; `any` stands for all addresses of this machine.
pub(crate) fn by_port(ports: &[Publish], any: &str) -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        let ip = port.host_ip.map_or_else(|| any.to_owned(), |ip| ip.to_string());
        let binding = json!({ "HostIp": ip, "HostPort": port.host_port.to_string() });
        found.entry(port.inside()).or_default().push(binding);
    }
    found
}

/// The address a container has now.
pub(crate) fn address(data: &Path, id: &ContainerId) -> anyhow::Result<Option<Ipv4Addr>> {
    let folder = network_folder(data);
    if !PodNetwork::exists(&folder) {
        return Ok(None);
    }
    Ok(PodNetwork::address_of(&folder, id.as_str())?)
}

/// Held while containers join or leave, and while the platform takes the network over.
pub(crate) fn lock(data: &Path) -> anyhow::Result<File> {
    let folder = network_folder(data);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = folder.join("containers.lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path)?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Connects a container, and leads ports to it.
pub(crate) fn attach(
    data: &Path,
    id: &ContainerId,
    namespace: &Path,
    ports: &[Publish],
) -> anyhow::Result<Ipv4Addr> {
    let locked = lock(data)?;
    locked.set_modified(SystemTime::now())?;
    let ended = ended(data)?;
    let namespace = File::open(namespace).context("the container's network namespace cannot be opened")?;
    block_on(async {
        let network = open_network(data).await?;
        for id in ended {
            network.detach(&id).await?;
        }
        let address = network.attach(id.as_str(), &namespace).await?;
        let mapping = |port: &Publish| PortMapping {
            host_ip: port.host_ip,
            host_port: port.host_port,
            container_ip: address,
            container_port: port.container_port,
            protocol: port.protocol,
        };
        let published = network.publish(id.as_str(), ports.iter().map(mapping).collect()).await;
        if let Err(error) = published {
            network.detach(id.as_str()).await?;
            return Err(error.into());
        }
        Ok(address)
    })
}

/// Takes back addresses and ports of containers that have ended; removes the network when nobody needs it any more, nor
/// waits to.
pub(crate) fn release_ended(data: &Path) -> anyhow::Result<()> {
    if is_orphan(data) {
        return Ok(());
    }
    let _lock = lock(data)?;
    let ended = ended(data)?;
    let other_waits = take_wait(data)?.is_none();
    if ended.is_empty() && (other_waits || !is_idle(data)?) {
        return Ok(());
    }
    block_on(async {
        let network = open_network(data).await?;
        for id in ended {
            network.detach(&id).await?;
        }
        if !other_waits && is_idle(data)? {
            network.remove_all().await?;
        }
        Ok(())
    })
}

/// Waits until the network has been without containers for a while, and removes it; unless another waits already.
pub(crate) fn remove_idle(data: &Path) -> anyhow::Result<()> {
    if is_orphan(data) {
        return Ok(());
    }
    let wait = {
        let _lock = lock(data)?;
        take_wait(data)?
    };
    if wait.is_none() {
        return Ok(());
    }
    loop {
        std::thread::sleep(IDLE);
        if is_orphan(data) {
            return remove_orphan(data);
        }
        let locked = lock(data)?;
        if !is_idle(data)? {
            return Ok(());
        }
        let used = locked.metadata()?.modified()?;
        if used.elapsed().is_ok_and(|since| since < IDLE) {
            continue;
        }
        super::remove_empty_group();
        return block_on(async { Ok(open_network(data).await?.remove_all().await?) });
    }
}

/// Whether the folder of the network is not there: none was made, or somebody removed it with the data folder.
pub(crate) fn is_orphan(data: &Path) -> bool {
    !network_folder(data).exists()
}

/// Removes a network that nobody else knows of any more.
pub(crate) fn remove_orphan(data: &Path) -> anyhow::Result<()> {
    block_on(async { Ok(open_network(data).await?.remove_all().await?) })?;
    fs::remove_dir_all(network_folder(data))?;
    // Unless somebody has begun anew.
    let _ = fs::remove_dir(data);
    Ok(())
}

/// Held by the process that waits to remove the network; nothing when another holds it. Asked for under [`lock`].
fn take_wait(data: &Path) -> anyhow::Result<Option<File>> {
    let path = network_folder(data).join("idle.lock");
    let file = File::options().write(true).create(true).truncate(false).open(path)?;
    Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
}

/// The network is there, and neither a container nor the platform uses it.
fn is_idle(data: &Path) -> anyhow::Result<bool> {
    let there = PodNetwork::exists(&network_folder(data));
    Ok(there && PodNetwork::attached(&network_folder(data))?.is_empty() && !platform_runs(data))
}

/// Containers that are attached.
fn attached(data: &Path) -> anyhow::Result<Vec<ContainerId>> {
    let known = PodNetwork::attached(&network_folder(data))?;
    Ok(known.iter().filter_map(|id| id.parse().ok()).collect())
}

fn ended(data: &Path) -> anyhow::Result<Vec<String>> {
    let ended = attached(data)?.into_iter().filter(|id| !lives(data, id));
    Ok(ended.map(|id| id.to_string()).collect())
}

/// Containers that are attached and have not ended.
pub(crate) fn living(data: &Path) -> anyhow::Result<Vec<String>> {
    let living = attached(data)?.into_iter().filter(|id| lives(data, id));
    Ok(living.map(|id| id.to_string()).collect())
}

/// Before its container is made, a pod that has a shim lives.
fn lives(data: &Path, id: &ContainerId) -> bool {
    let dir = PodDir::at(folder(data, id));
    dir.has_shim() && !dir.status(MAIN).is_ok_and(|status| status.phase == Phase::Exited)
}

fn folder(data: &Path, id: &ContainerId) -> PathBuf {
    data.join("containers").join(id.as_str())
}

/// The platform holds this lock as long as it runs; it waits for ours before it opens the network.
fn platform_runs(data: &Path) -> bool {
    let Ok(file) = File::open(data.join("lock")) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// What a container reads as /etc/resolv.conf: this machine's, without servers it cannot reach from its own loopback.
pub(crate) fn resolver(of_machine: &str) -> String {
    let reachable = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default());
        server.is_none_or(|server| !server.starts_with("127.") && !server.contains(':'))
    };
    of_machine.lines().filter(reachable).map(|line| format!("{line}\n")).collect()
}

/// Refuses what has no meaning together.
pub(crate) fn check(network: &str, ports: &[Publish]) -> anyhow::Result<()> {
    match network {
        "bridge" => Ok(()),
        "none" | "host" if ports.is_empty() => Ok(()),
        "none" | "host" => Err(Hinted::new(
            format!("ports (-p) cannot be published with --network {network}"),
            "leave --network out, or -p",
        )
        .into()),
        other => bail!(Hinted::new(
            format!("no such network: {other}"),
            "use --network bridge, --network host or --network none",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_dockers() {
        let read = |text: &str| {
            text.parse::<Publish>().ok().map(|p| (p.host_ip, p.host_port, p.container_port, p.protocol))
        };
        assert_eq!(read("80:8080"), Some((None, 80, 8080, Protocol::Tcp)));
        assert_eq!(read("53:53/udp"), Some((None, 53, 53, Protocol::Udp)));
        assert_eq!(read("127.0.0.1:80:8080/tcp"), Some((Some(Ipv4Addr::LOCALHOST), 80, 8080, Protocol::Tcp)));
        for bad in ["80", "0:80", "80:65536", "a:b", "::1:80:80", "x:80:80", "80:80/icmp", ""] {
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

    #[test]
    fn servers_on_the_loopback_are_left_out() {
        let text = "search a b\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.2\n";
        assert_eq!(resolver(text), "search a b\nnameserver 10.0.0.2\n");
    }
}
