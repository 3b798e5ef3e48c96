//! Ports of a machine whose network this is not: containers of people who are not root are in a network namespace the machine does
//! not route to. A relay outside of it binds the ports, and carries what comes to them in.
//!
//! Relay and network talk over a Unix socket: one request and one answer on each connection, as lines of JSON.

mod relay;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::{
    PortMapping, Protocol,
    error::{Error, Result},
    saved::at,
};

pub use relay::{InsideSockets, OutsideRelay, inside_sockets};

/// A relay that says nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest line of either side.
const LINE: u64 = 1 << 20;

/// Ports to be held for somebody, in the place of those it had.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    /// Who: unique among all who use the relay.
    id: String,
    ports: Vec<PortMapping>,
    /// Only as long as the connection is open.
    #[serde(default)]
    leased: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    /// A port is somebody else's, or not to be had.
    Taken {
        port: String,
        by: String,
    },
    Failed(String),
}

/// Has the relay at `socket` hold ports for `id`, in the place of those it had.
pub(crate) async fn publish(socket: &Path, id: &str, ports: &[PortMapping]) -> Result<()> {
    ask(socket, &Request { id: id.to_owned(), ports: ports.to_vec(), leased: false }).await.map(drop)
}

/// Ports that a relay holds until this is dropped, or its process ends in any way.
#[derive(Debug)]
pub struct Lease(UnixStream);

impl Lease {
    /// Returns once the relay has ended, and holds them no more.
    pub async fn lost(&mut self) {
        // It says nothing more than that.
        let _ = self.0.read(&mut [0]).await;
    }
}

/// Has the relay at `socket` carry ports of the machine, for `id`, to the same ports here.
///
/// # Errors
/// When one of them is somebody else's, and when there is no relay.
pub async fn lease(socket: &Path, id: &str, ports: &[SocketAddrV4]) -> Result<Lease> {
    let mapping = |address: &SocketAddrV4| PortMapping {
        host_ip: Some(*address.ip()),
        host_port: address.port(),
        container_ip: if address.ip().is_unspecified() { Ipv4Addr::LOCALHOST } else { *address.ip() },
        container_ip6: None,
        container_port: address.port(),
        protocol: Protocol::Tcp,
    };
    let ports = ports.iter().map(mapping).collect();
    ask(socket, &Request { id: id.to_owned(), ports, leased: true }).await.map(Lease)
}

async fn ask(socket: &Path, request: &Request) -> Result<UnixStream> {
    let late = || Error::Input(format!("{} does not answer", socket.display()));
    tokio::time::timeout(PATIENCE, ask_at_leisure(socket, request)).await.map_err(|_| late())?
}

async fn ask_at_leisure(socket: &Path, request: &Request) -> Result<UnixStream> {
    let mut connection = UnixStream::connect(socket).await.map_err(at(socket))?;
    let mut line = serde_json::to_vec(request).map_err(|error| Error::Input(error.to_string()))?;
    line.push(b'\n');
    connection.write_all(&line).await.map_err(at(socket))?;
    let mut answer = Vec::new();
    let mut reader = BufReader::new((&mut connection).take(LINE));
    reader.read_until(b'\n', &mut answer).await.map_err(at(socket))?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Done) => Ok(connection),
        Ok(Answer::Taken { port, by }) => Err(Error::PortTaken { port, by }),
        Ok(Answer::Failed(why)) => Err(Error::Input(why)),
        Err(error) => Err(at(socket)(error.into())),
    }
}
