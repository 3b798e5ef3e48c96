//! Kubernetes' container runtime interface (`runtime.v1`), for a kubelet and crictl.
//!
//! A sandbox is a pod of the runtime: one shim that holds its namespaces and containers and outlives wharf. What the interface adds is
//! kept beside it in `DIR/cri/ID` (`record.rs`), and found again after a restart.
//!
//! This room knows nothing of how a pod's network is wired ([`Network`]), where images come from ([`wharf_node::ImagePuller`]), or of
//! the Kubernetes API.

mod container;
mod cri;
mod describe;
mod etc;
mod exec;
mod grpc;
mod host;
mod images;
mod log;
mod pause;
mod record;
mod resources;
mod sandbox;
mod service;
mod signals;
mod spec;
mod stats;
mod streaming;
mod table;
mod user;
pub mod v1;

pub use cri::{Config, Cri, Network, attached};
pub use grpc::{Code, Failure};
pub use streaming::Streams;

/// Reads a request as one for a sandbox and as one for a container, and looks at what it asks for. For the fuzzer.
pub fn fuzz_request(body: &[u8]) {
    let body = bytes::Bytes::copy_from_slice(body);
    if let Ok(request) = grpc::decode::<v1::RunPodSandboxRequest>(&body) {
        let _ = sandbox::check(&request.config.unwrap_or_default());
    }
    if let Ok(request) = grpc::decode::<v1::CreateContainerRequest>(&body) {
        let config = request.config.unwrap_or_default();
        let security = spec::security(&config);
        let _ = (spec::check(&config), spec::profile(&security));
        let _ = user::resolve(&security, "app:staff", &user::Files::default());
        let asked = config.linux.and_then(|linux| linux.resources).unwrap_or_default();
        let _ = resources::limits(&asked, true);
    }
}
