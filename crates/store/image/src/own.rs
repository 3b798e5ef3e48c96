//! The registry of this very folder: what is pushed to it and what lies in the store have one name.
//!
//! A registry serves the folder under one or more addresses, say `127.0.0.1:5000`. Its repository `shop`
//! is the image people call `shop` here, so `127.0.0.1:5000/shop:1` and `shop:1` must mean the same. The
//! addresses are kept in a file of the folder, since commands use the store without asking the registry.

use std::{fs, io};

use crate::{
    error::{Error, IoContext, Result},
    fsx,
    reference::Reference,
    store::Store,
};

const FILE: &str = "registry-addresses";

impl Store {
    /// Declares under which `HOST:PORT` names a registry serves this folder.
    pub fn serve_as(&self, addresses: &[String]) -> Result<()> {
        let lines: String = addresses.iter().map(|address| format!("{address}\n")).collect();
        fsx::replace_file(&self.data_dir.join(FILE), lines.as_bytes())
    }

    /// The addresses declared with [`Store::serve_as`].
    pub fn served_as(&self) -> Result<Vec<String>> {
        let path = self.data_dir.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e).at("read", &path),
        }
    }

    /// The name under which the store keeps `reference`: the same, or, when it names this folder's own
    /// registry, its repository alone.
    pub fn local_name(&self, reference: &Reference) -> Result<Reference> {
        let own = reference.domain().contains(':')
            && self.served_as()?.iter().any(|address| same_address(address, reference.domain()));
        if own { reference.within_registry() } else { Ok(reference.clone()) }
    }
}

impl Reference {
    /// Whether the registry is on this machine, where plain HTTP is safe.
    pub fn is_loopback(&self) -> bool {
        is_loopback_registry(self.domain())
    }

    /// What the repository of this reference is called without its registry: `127.0.0.1:5000/shop:1`
    /// becomes `docker.io/library/shop:1`.
    pub fn within_registry(&self) -> Result<Self, Error> {
        let bare: Self = self.path().parse()?;
        Self::from_parts(bare.domain(), bare.path(), self.tag(), self.digest())
    }
}

/// Whether two `HOST:PORT` texts mean the same; all loopback names do.
fn same_address(a: &str, b: &str) -> bool {
    let (Some((host_a, port_a)), Some((host_b, port_b))) = (a.rsplit_once(':'), b.rsplit_once(':')) else {
        return a == b;
    };
    port_a == port_b && (host_a == host_b || (is_loopback(host_a) && is_loopback(host_b)))
}

/// Whether a registry, with or without its port, is on this machine.
pub fn is_loopback_registry(domain: &str) -> bool {
    let port = domain.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    is_loopback(port.map_or(domain, |(host, _)| host))
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use crate::{Descriptor, media_type};

    use super::*;

    #[test]
    fn names_of_the_own_registry_are_local_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.serve_as(&["127.0.0.1:5000".into()]).unwrap();
        for (given, local) in [
            ("127.0.0.1:5000/shop:1", "docker.io/library/shop:1"),
            ("localhost:5000/shop", "docker.io/library/shop:latest"),
            ("[::1]:5000/team/shop:2", "docker.io/team/shop:2"),
            ("127.0.0.1:5000/ghcr.io/acme/x:3", "ghcr.io/acme/x:3"),
            ("127.0.0.1:5001/shop:1", "127.0.0.1:5001/shop:1"),
            ("example.com:5000/shop:1", "example.com:5000/shop:1"),
            ("shop:1", "docker.io/library/shop:1"),
        ] {
            assert_eq!(store.local_name(&given.parse().unwrap()).unwrap().to_string(), local, "{given}");
        }
        let digest = store.blobs().put(b"{}").unwrap();
        let target = Descriptor::new(media_type::OCI_MANIFEST, digest, 2);
        store.tag(&["localhost:5000/shop:1".parse().unwrap()], &target).unwrap();
        assert_eq!(store.references().unwrap()[0].reference.familiar(), "shop:1");
        assert_eq!(store.find("127.0.0.1:5000/shop:1").unwrap().1.digest, digest);
    }
}
