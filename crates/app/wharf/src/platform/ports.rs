//! Which TCP ports the platform listens on.

use std::net::SocketAddr;

/// `--ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Ports {
    /// The documented ports.
    #[default]
    Default,
    /// Whatever is free; DIR/endpoints.json tells.
    Auto,
}

impl Ports {
    fn local(self, port: u16) -> SocketAddr {
        let port = match self {
            Self::Default => port,
            Self::Auto => 0,
        };
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The Kubernetes API.
    pub(crate) fn api(self) -> SocketAddr {
        self.local(6443)
    }
}
