//! Why something of the network failed.

use std::{
    io,
    net::{IpAddr, SocketAddrV4},
    path::PathBuf,
};

use crate::{Ipv4Net, Ipv6Net};

/// A result of this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something of the network failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a link, an address, a route or a rule.
    #[error("cannot {doing}: {source}")]
    Kernel {
        /// What was to be done.
        doing: String,
        /// The kernel's words.
        source: Box<nlink::Error>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Every range for pods is in use on this machine.
    #[error(
        "no free /24 for pods in {0}: every one overlaps with a network of this machine; choose another range"
    )]
    NoFreeRange(Ipv4Net),
    /// A range has no address left.
    #[error("no free address in {0}: all of them are taken")]
    Full(Ipv4Net),
    /// A range of IPv6 has no address left.
    #[error("no free address in {0}: all of them are taken")]
    Full6(Ipv6Net),
    /// Every range for bridge networks is in use on this machine.
    #[error("no free subnet for the network: every one overlaps with a network of this machine; name one")]
    NoFreeSubnet,
    /// Something else on this machine has these addresses.
    // Scripts look for the first words of this and the next: they are docker's.
    #[error(
        "Pool overlaps with other one on this address space: {subnet} is in {by}, which this machine has already; \
         choose another subnet"
    )]
    SubnetTaken {
        /// What was asked for.
        subnet: Ipv4Net,
        /// What is there.
        by: Ipv4Net,
    },
    /// Another container has this address.
    #[error("Address already in use: {0} is another container's; choose another")]
    AddressTaken(IpAddr),
    /// A host port is taken already.
    // Scripts and SDKs look for these words of docker's.
    #[error(
        "Bind for {} failed: port is already allocated by {by}: choose another, or stop what uses it",
        port.trim_end_matches("/tcp")
    )]
    PortTaken {
        /// Address (or 0.0.0.0) and port, with the protocol.
        port: String,
        /// Who has it.
        by: String,
    },
    /// A socket of the DNS server cannot be opened.
    #[error("cannot serve DNS on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddrV4,
        /// What the system said.
        source: io::Error,
    },
    /// Something was asked for that cannot be.
    #[error("{0}")]
    Input(String),
}

/// Names what the kernel was asked to do.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for Result<T, nlink::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Kernel { doing: what(), source: Box::new(source) })
    }
}
