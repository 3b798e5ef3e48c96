//! Connections to ports of a pod, made from inside its network.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsFd,
    path::PathBuf,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::{Duplex, Result, StreamError};
use crate::agent::NodeAgent;

const LIMIT: Duration = Duration::from_secs(10);

impl NodeAgent {
    /// Connects to a port on the pod's own loopback interface.
    ///
    /// # Errors
    /// When the pod has no sandbox or nothing listens.
    pub async fn port_forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Box<dyn Duplex>> {
        let view = self.pod(namespace, pod)?.view();
        let sandbox = view
            .sandbox
            .ok_or_else(|| StreamError::BadRequest(format!("pod {pod} does not run: it has no network")))?;
        let network = (!view.host_network).then(|| sandbox.network_namespace());
        connect_in(network, port).await.map_err(|error| {
            StreamError::Failed(format!("cannot connect to port {port} of pod {pod}: {error}"))
        })
    }
}

/// Connects to a port on the loopback interface of the network namespace at a path, or of the machine.
///
/// # Errors
/// When the namespace is gone or nothing listens.
pub async fn connect_in(network: Option<PathBuf>, port: u16) -> io::Result<Box<dyn Duplex>> {
    let (sender, receiver) = oneshot::channel();
    // Its own thread: one that has entered a namespace must not be used for anything else.
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .stack_size(128 << 10)
        .spawn(move || drop(sender.send(connect(network, port))))?;
    let stream = receiver.await.map_err(io::Error::other)??;
    stream.set_nonblocking(true)?;
    Ok(Box::new(tokio::net::TcpStream::from_std(stream)?))
}

fn connect(network: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    if let Some(path) = network {
        let namespace = File::open(path)?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    let four = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), LIMIT);
    four.or_else(|error| {
        TcpStream::connect_timeout(&SocketAddr::from((Ipv6Addr::LOCALHOST, port)), LIMIT).map_err(|_| error)
    })
}
